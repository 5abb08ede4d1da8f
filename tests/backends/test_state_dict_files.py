"""Files of state dicts that would hang a reader or fill its memory are refused; files that the frameworks write are read."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.conversion_samples import SUFFIXES
from helpers.endless_pickles import ENDLESS
from parity.backend.worker import Worker
from parity.errors import InputError

Write = Callable[[Path], object]


def zipped(path: Path, content: bytes) -> None:
    """A .pt file around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            file.writestr(f"archive/{name}", data)


def by_torch(value: object, **options: Any) -> Write:
    return lambda path: torch.save(value, path, **options)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", [name for name in ENDLESS if "lists" not in name])
@pytest.mark.parametrize("form", ["a zip", "a file of before zips"])
def test_a_pt_file_that_would_take_forever_is_refused_at_once(
    what: str, form: str, tmp_path: Path, workers: dict[str, Worker]
) -> None:
    content = b"\x80\x02" + ENDLESS[what]
    if form == "a zip":
        zipped(tmp_path / "a.pt", content)
    else:
        (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a pickle|numpy arrays"):
        workers["torch"].read_file(tmp_path / "a.pt")


@pytest.mark.timeout(60)
def test_a_zip_after_another_file_does_not_evade_the_check(tmp_path: Path, workers: dict[str, Worker]) -> None:
    zipped(tmp_path / "a.pt", b"\x80\x02}.")
    harmless = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(b"\x80\x02" + ENDLESS["a key"] + harmless)
    with pytest.raises(InputError, match="a pickle"):
        workers["torch"].read_file(tmp_path / "a.pt")


def test_an_array_of_the_name_that_safetensors_reserves_is_refused(
    framework: str, tmp_path: Path, workers: dict[str, Worker]
) -> None:
    path = tmp_path / f"a{SUFFIXES[framework]}"
    if framework == "paddle":
        path.write_bytes(pickle.dumps({"__metadata__": np.ones(3)}, 4))
    else:
        by_torch({"__metadata__": torch.ones(3)})(path)
    with pytest.raises(
        InputError, match="an array in it is called __metadata__, which safetensors reserves: rename it"
    ):
        workers[framework].read_file(path)


def test_arrays_far_larger_together_than_their_file_are_refused(
    framework: str, tmp_path: Path, workers: dict[str, Worker]
) -> None:
    path = tmp_path / f"a{SUFFIXES[framework]}"
    if framework == "paddle":
        one = np.ones(10**5)
        path.write_bytes(pickle.dumps({f"{i}": one for i in range(1000)}, 4))
    else:
        by_torch({"a": torch.ones(1).expand(10**12)})(path)
    with pytest.raises(InputError, match="far larger than the file"):
        workers[framework].read_file(path)


torch.manual_seed(0)
MODEL = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
WRITTEN: dict[str, Write] = {
    "a state dict": by_torch(MODEL),
    "of before zips": by_torch(MODEL, _use_new_zipfile_serialization=False),
    "parameters": by_torch({"0.weight": torch.nn.Parameter(torch.ones(4, 3))}),
    "float16": by_torch({"0.weight": torch.ones(4, 3).half()}),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_what_torch_saves_is_read(what: str, tmp_path: Path, workers: dict[str, Worker]) -> None:
    WRITTEN[what](tmp_path / "a.pt")
    assert workers["torch"].read_file(tmp_path / "a.pt")[0]["0.weight"].shape == (4, 3)


def test_a_checkpoint_in_place_of_a_state_dict_is_refused_and_its_value_named(
    tmp_path: Path, workers: dict[str, Worker]
) -> None:
    by_torch({"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}})(
        tmp_path / "a.pt"
    )
    with pytest.raises(
        InputError,
        match=r"^it holds no tensors under names, but 'optimizer' \(dict\): .*save only model.state_dict\(\)",
    ):
        workers["torch"].read_file(tmp_path / "a.pt")
