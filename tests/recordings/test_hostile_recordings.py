"""Damaged, mixed and hostile recordings are refused in one line, and never crash or hang a reader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: F401 - before Paddle, which 2.6 needs
from safetensors.numpy import load_file, save_file

import parity
from helpers import recorded_loop_torch
from parity.cli.main import main
from parity.errors import InputError
from parity.recordings.recording import read_recording
from parity.recordings.tensor_file import TensorWriter

STEP = "rank0/step_000002.safetensors"
DESCRIPTION = "rank0/recording.json"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "torch.run"
    recorded_loop_torch.train(folder)
    recorded_loop_torch.train(folder.with_name("other.run"))
    return folder


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the description in the metadata of a step."""
    arrays = load_file(file)
    raw = file.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    fields = json.loads(header["__metadata__"]["step"])
    change(fields)
    save_file(arrays, file, {"step": json.dumps(fields)})


def describe(folder: Path, **changes: Any) -> None:
    file = folder / DESCRIPTION
    fields = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def set_field(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / STEP, lambda fields: fields.__setitem__(name, value))


def truncate(folder: Path) -> None:
    data = (folder / STEP).read_bytes()
    (folder / STEP).write_bytes(data[: len(data) // 2])


def mix(folder: Path) -> None:
    shutil.copy(folder.with_name("source") / "other.run" / STEP, folder / STEP)


def rename(folder: Path) -> None:
    shutil.copy(folder / STEP, folder / "rank0/step_000003.safetensors")


def lose_tensor(folder: Path) -> None:
    arrays = load_file(folder / STEP)
    raw = (folder / STEP).read_bytes()
    step = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["step"]
    lost = next(name for name in arrays if name.startswith("layer/"))
    save_file({name: array for name, array in arrays.items() if name != lost}, folder / STEP, {"step": step})


def set_in_modules(name: str, part: str, value: Any) -> Callable[[Path], None]:
    """Return what sets a part of a module of the description, such as an attribute `attributes.padding`."""

    def change(folder: Path) -> None:
        modules = json.loads((folder / DESCRIPTION).read_text())["modules"]
        place = next(module for module in modules if module["path"] == name)
        *outer, last = part.split(".")
        for key in outer:
            place = place[key]
        assert last in place
        place[last] = value
        describe(folder, modules=modules)

    return change


def set_in_optimizer(name: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder / STEP, lambda fields: fields["optimizer"].__setitem__(name, value))


def set_tensor(file: str, name: str, array: np.ndarray) -> Callable[[Path], None]:
    """Return what replaces a tensor of a step."""

    def change(folder: Path) -> None:
        raw = (folder / file).read_bytes()
        step = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["step"]
        arrays = load_file(folder / file)
        assert name in arrays
        save_file({**arrays, name: array}, folder / file, {"step": step})

    return change


def set_dtype(folder: Path) -> None:
    """Give a tensor a dtype that numpy does not have."""
    set_tensor(STEP, "update/fc.bias", np.zeros(5, np.uint8))(folder)
    raw = (folder / STEP).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = raw[8:end].rstrip().replace(b'"U8"', b'"F8_E4M3"')
    (folder / STEP).write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])


def huge_header(folder: Path) -> None:
    (folder / STEP).write_bytes((2**62).to_bytes(8, "little") + b"{}")


def add_rank(folder: Path) -> None:
    shutil.copytree(folder / "rank0", folder / "rank1")


def leave_rank(folder: Path) -> None:
    """Leave the second rank of an earlier recording by two processes."""
    shutil.copytree(folder / "rank0", folder / "rank1")
    file = folder / "rank1" / "recording.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rank": 1, "ranks": 2}))


def remove_steps(folder: Path) -> None:
    for file in (folder / "rank0").glob("*.safetensors"):
        file.unlink()


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "step_000002.safetensors is damaged"),
    "huge header": (huge_header, "step_000002.safetensors is damaged"),
    "mixed": (mix, "belongs to another recording: do not mix"),
    "renamed": (rename, "holds step 2: do not rename"),
    "lost tensor": (lose_tensor, "is damaged: it has no tensor 'layer/"),
    "no steps": (remove_steps, "holds no whole step"),
    "rank copied": (add_rank, "is that of rank 0: do not rename"),
    "rank missing": (lambda folder: describe(folder, ranks=4), "holds 1 of 4 ranks"),
    "rank left": (leave_rank, r"holds 2 ranks, and .*rank0 is one of 1: remove the folders of an earlier recording"),
    "other format": (lambda folder: describe(folder, format="x" * 10**6), "the format is 'xxxx"),
    "field missing": (lambda folder: describe(folder, modules=None), "missing field 'modules'"),
    "unknown field": (lambda folder: describe(folder, more=1), "unknown field 'more'"),
    "wrong type": (lambda folder: describe(folder, every="1"), "every = '1' is not of type"),
    "modules of numbers": (lambda folder: describe(folder, modules=[1]), "modules = .* is not of type"),
    "no class": (set_in_modules("fc", "classes", []), "the module 'fc' has no class"),
    "unknown framework": (lambda folder: describe(folder, framework="os"), "unknown framework 'os'"),
    "no JSON": (lambda folder: (folder / DESCRIPTION).write_text("{"), "recording.json JSON"),
    "deep JSON": (lambda folder: (folder / DESCRIPTION).write_text("[" * 10**5), "recording.json JSON"),
    "no description": (lambda folder: (folder / DESCRIPTION).unlink(), "cannot read"),
    "optimizer": (set_field("optimizer", {"kind": "sgd"}), "it describes no optimizer"),
    "settings": (set_in_optimizer("parameters", {"w": 3}), "it describes no optimizer"),
    "huge setting": (set_in_optimizer("parameters", {"fc.bias": {"rate": 10**400}}), "it describes no optimizer"),
    "clipping inside": (set_in_optimizer("clip", {"kind": "a", "limit": "x"}), "it describes no optimizer"),
    "clipping without limit": (set_field("clips", [["norm"]]), "it describes no clipping"),
    "clipping to a text": (set_field("clips", [["norm", "x"]]), "it describes no clipping"),
    "start": (
        set_tensor("rank0/step_000001.safetensors", "start/fc.weight", np.zeros(3)),
        r"start/fc\.weight has the shape \[3\], expected \[5, 32\]",
    ),
    "update": (
        set_tensor(STEP, "update/fc.bias", np.zeros((5, 2))),
        r"update/fc\.bias has the shape \[5, 2\], expected \[5\]",
    ),
    "dtype": (set_dtype, "step_000002.safetensors is damaged"),
    "calls": (set_field("calls", [{"path": 1}]), "is not of type"),
    "batches": (set_field("batches", 10**18), "it cannot have 1000000000000000000 forward passes"),
}


@pytest.mark.parametrize(("damage", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_recording_is_refused(
    recorded: Path, tmp_path: Path, damage: Callable[[Path], Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bad.run"
    shutil.copytree(recorded, folder)
    (tmp_path / "source").symlink_to(recorded.parent)
    damage(folder)
    assert main(["compare", str(recorded), str(folder)]) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and len(errors[0]) < 1000, lines
    with pytest.raises(InputError, match=words):
        raise InputError(errors[0])


ODD: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "padding by nothing": (set_in_modules("conv2", "attributes.padding", [None, 1]), "equal", "padding of Conv2d"),
    "padding by a text": (set_in_modules("conv2", "attributes.padding", ["x", 1]), "equal", "padding of Conv2d"),
    "huge loss": (set_field("losses", [10**30]), "different", "step 2, loss"),
}


@pytest.mark.parametrize(("damage", "verdict", "words"), ODD.values(), ids=ODD)
def test_odd_values_are_compared(
    recorded: Path, tmp_path: Path, damage: Callable[[Path], Any], verdict: str, words: str
) -> None:
    shutil.copytree(recorded, tmp_path / "odd.run")
    damage(tmp_path / "odd.run")
    outcome = parity.compare_recordings(recorded, tmp_path / "odd.run")
    assert outcome.verdict == verdict
    assert any(words in text for text in [outcome.sentence(), *outcome.differences]), outcome.differences


@pytest.mark.parametrize("path", ["nowhere", "file", "empty"])
def test_what_is_no_recording_is_refused(
    tmp_path: Path, recorded: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(recorded), str(tmp_path / path)]) == 2
    assert "give the folder that parity.record wrote" in capsys.readouterr().err


def test_recordings_without_a_common_step_are_refused(tmp_path: Path, recorded: Path) -> None:
    shutil.copytree(recorded, tmp_path / "late.run")
    (tmp_path / "late.run/rank0/step_000001.safetensors").unlink()
    shutil.copytree(recorded, tmp_path / "early.run")
    for number in (2, 3):
        (tmp_path / f"early.run/rank0/step_00000{number}.safetensors").unlink()
    with pytest.raises(InputError, match=r"no step is in both recordings: .* has step 1, .* has steps 2, 3"):
        parity.compare_recordings(tmp_path / "early.run", tmp_path / "late.run")


def test_options_for_models_are_refused(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in {
        ("--steps", "3"): "--steps is for models",
        ("--torch", "a:b"): "--torch is for models",
        ("--twin", str(recorded)): "is no twin",
    }.items():
        assert main(["compare", str(recorded), str(recorded), *words]) == 2
        assert expected in capsys.readouterr().err
    assert main(["compare", str(recorded)]) == 2
    assert "1 recording is given: give two" in capsys.readouterr().err
    assert main(["compare", "--torch", "a:b", "--paddle", "c:d", "--twin", "x"]) == 2
    assert "--twin is for recordings" in capsys.readouterr().err


def test_a_tensor_file_with_more_names_than_room_is_whole(tmp_path: Path) -> None:
    arrays = {f"{'name' * 20}{i}": np.arange(i, dtype=np.float32) for i in range(100)}
    arrays |= {"number": np.float64(3), "flags": np.array([[True], [False]]), "whole": np.arange(6).reshape(2, 3).T}
    writer = TensorWriter(tmp_path / "a.safetensors", room=64)
    for name, array in arrays.items():
        writer.add(name, np.asarray(array))
    assert not (tmp_path / "a.safetensors").exists()
    writer.close({"about": "it"})
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(ValueError, match="is written twice"):
        twice = TensorWriter(tmp_path / "b.safetensors")
        twice.add("a", np.zeros(1))
        twice.add("a", np.zeros(1))
    twice.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_complex_numbers_are_two_real_ones(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "a.safetensors")
    writer.add("z", np.array([1 + 2j]))
    writer.close({})
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["z"], [[1.0, 2.0]])


def test_every_file_of_a_recording_is_read_lazily(recorded: Path) -> None:
    (rank,) = read_recording(recorded)
    record = rank.step(1)
    with pytest.raises(KeyError):
        record["layer/x"]
    assert len(record) == len(list(record)) > 30


@pytest.mark.parametrize("size", [2**62, -1])
def test_a_mask_that_does_not_fit_is_refused(recorded: Path, tmp_path: Path, size: int) -> None:
    shutil.copytree(recorded, tmp_path / "bad.run")
    draw = {"path": "", "size": size, "kind": "uniform", "p": 0.5, "mask": "gradient/fc.bias", "factor": 2.0}
    set_field("draws", [draw])(tmp_path / "bad.run")
    record = read_recording(tmp_path / "bad.run")[0].step(2)
    with pytest.raises(InputError, match=r"the mask 'gradient/fc\.bias' is too short"):
        record.mask(record.description.draws[0])
