"""`convert_weights.py`: every direction bit for bit, and files that the frameworks load themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from helpers.conversion_samples import NAME, NETWORK, SUFFIXES, bits, special
from helpers.paths import ROOT
from helpers.processes import alone
from helpers.refusals import saved_run
from parity.backend.worker import Worker
from parity.cli import convert as convert_command
from parity.network import articles
from parity.weights import canonical_state, v2_tar
from parity.weights.canonical_state import slot_names

SLOTS = slot_names(NETWORK, ["velocity"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: dict[str, Worker]) -> Path:
    """A folder for the files. The workers of the session replace those that the command starts."""
    monkeypatch.setattr(convert_command, "Worker", lambda framework: nullcontext(workers[framework]))
    return tmp_path


@pytest.fixture
def convert(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, object]]:
    """Run the command on names in the folder. It must succeed. Return its JSON, with its messages as `said`."""

    def run(source: str, destination: str, *flags: str) -> dict[str, object]:
        code = convert_command.main([str(folder / source), str(folder / destination), *flags, "--json"])
        stdout, stderr = capsys.readouterr()
        assert code == 0, stderr
        result: dict[str, object] = json.loads(stdout)
        return result | {"said": stderr}

    return run


# ------------------------------------------------------------------------------------------------------------ directions

CIRCLE = [".tar", ".safetensors", ".pdparams", ".pt", ".tar", ".pt", ".pdparams", ".safetensors", ".pt", ".safetensors"]
CIRCLE += [".tar", ".pdparams", ".tar"]
"""Cover every ordered pair of formats once."""


def test_every_direction_keeps_every_bit(folder: Path, convert: Callable[..., dict[str, object]]) -> None:
    assert len(set(pairwise(CIRCLE))) == 12 == len(CIRCLE) - 1
    first = v2_tar.encode(NETWORK, special())
    (folder / "0.tar").write_bytes(first)
    for i, (source, destination) in enumerate(pairwise(CIRCLE)):
        result = convert(f"{i}{source}", f"{i + 1}{destination}", "--network", NAME)
        assert (result["network"], result["arrays"], result["left_out"]) == (NAME, len(NETWORK.parameters), 0)
        if destination == ".safetensors":
            network, state, _ = canonical_state.load(folder / f"{i + 1}.safetensors")
            assert network == NETWORK
            assert bits(state) == bits(special())
        elif destination == ".tar":
            assert (folder / f"{i + 1}.tar").read_bytes() == first


@pytest.mark.parametrize("suffix", [".pdparams", ".pt"])
def test_float64_goes_through_a_framework_s_file_and_back(
    folder: Path, convert: Callable[..., dict[str, object]], suffix: str
) -> None:
    canonical_state.save(folder / "a.safetensors", NETWORK, special("float64"))
    convert("a.safetensors", f"b{suffix}")
    assert convert(f"b{suffix}", "c.safetensors", "--network", NAME)["dtypes"] == ["float64"]
    assert bits(canonical_state.load(folder / "c.safetensors")[1]) == bits(special("float64"))


def test_slots_and_metadata_are_kept_where_the_format_allows_or_reported_as_left_out(
    folder: Path, convert: Callable[..., dict[str, object]]
) -> None:
    run = saved_run(folder / "run")
    convert("run", "a.safetensors")
    kept, original = canonical_state.load(folder / "a.safetensors"), canonical_state.load(run.last)
    assert (kept[0], bits(kept[1]), kept[2]) == (original[0], bits(original[1]), original[2])
    assert "position" in kept[2] and "optimizer.velocity.fc3.bias" in kept[1]
    result = convert("a.safetensors", "b.tar")
    assert result["left_out"] == len(SLOTS)
    assert f"Left out {len(SLOTS)} arrays of the optimizer" in str(result["said"])


def test_an_existing_file_is_replaced(folder: Path, convert: Callable[..., dict[str, object]]) -> None:
    canonical_state.save(folder / "a.safetensors", NETWORK, special())
    (folder / "b.tar").write_text("old")
    convert("a.safetensors", "b.tar")
    assert (folder / "b.tar").read_bytes() == v2_tar.encode(NETWORK, special())
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "b.tar"]


def test_without_network_the_known_one_that_fits_is_taken(
    folder: Path, convert: Callable[..., dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: articles.get_network(name) for name in ("vgg_mini@0.03125", NAME)}
    monkeypatch.setattr(articles, "NETWORKS", known)
    (folder / "a.tar").write_bytes(v2_tar.encode(NETWORK, special()))
    assert convert("a.tar", "a.pt")["network"] == NAME
    assert convert("a.pt", "a.pdparams")["network"] == NAME


def test_the_script_says_in_one_line_what_it_wrote(folder: Path) -> None:
    (folder / "a.tar").write_bytes(v2_tar.encode(NETWORK, special()))
    command = [
        sys.executable,
        "scripts/convert_weights.py",
        str(folder / "a.tar"),
        str(folder / "a.pt"),
        "--network",
        NAME,
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    numbers = sum(array.size for array in special().values())
    assert ended.stdout == f"Wrote {folder / 'a.pt'}: {NAME}, 88 arrays of {numbers:,} numbers, float32\n"


LOADED = {
    "paddle": """
import sys, numpy, paddle
from paddle_impl.backend import Backend
from parity.backend.model_state import build, get_weights
from parity.network import articles
model = build(Backend(), articles.get_network(sys.argv[1]), 9)
missing, unexpected = model.set_state_dict(paddle.load(sys.argv[2]))
assert not missing and not unexpected, (missing, unexpected)
numpy.savez(sys.argv[3], **get_weights(Backend(), model))
""",
    "torch": """
import sys, numpy, torch
from torch_impl.backend import Backend
from parity.backend.model_state import build, get_weights
from parity.network import articles
model = build(Backend(), articles.get_network(sys.argv[1]), 9)
model.load_state_dict(torch.load(sys.argv[2], weights_only=True))
numpy.savez(sys.argv[3], **get_weights(Backend(), model))
""",
}
"""Code of the framework that loads a file into its model."""


def test_the_framework_itself_loads_the_file(
    folder: Path, convert: Callable[..., dict[str, object]], framework: str
) -> None:
    canonical_state.save(folder / "a.safetensors", NETWORK, special())
    file = f"b{SUFFIXES[framework]}"
    convert("a.safetensors", file)
    alone(LOADED[framework], NAME, folder / file, folder / "c.npz")
    assert bits(dict(np.load(folder / "c.npz"))) == bits(special())
