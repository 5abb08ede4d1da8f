"""Weights as people save them: in half precision, in wrappers, with prefixes, and files that are something else."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from helpers.processes import alone
from parity.arrays import Array
from parity.backend.worker import Worker
from parity.cli import convert
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import Conv, Flatten, Linear, MaxPool, ReLU
from parity.weights import canonical_state, state_dict_names, v2_tar
from parity.weights.half_precision import round_to_bfloat16, widen_bfloat16

NAME = "vgg_mini@0.03125"
NETWORK = articles.get_network(NAME)
SUFFIX = {"torch": ".pth", "paddle": ".pdparams"}

SAVE = {
    "torch": """
import os, pickle, sys, numpy, torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
folder = sys.argv[1]
with numpy.load(f"{folder}/arrays.npz") as file:
    state = {name: torch.from_numpy(file[name]) for name in file.files}

def save(content, name, **more):
    torch.save(content, f"{folder}/{name}.pth", **more)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)

net = Net()
save(state, "plain")
save(state, "old", _use_new_zipfile_serialization=False)
save(state | {"features.1.num_batches_tracked": torch.tensor(3)}, "counted")
save({name: tensor.bfloat16() for name, tensor in state.items()}, "bfloat16")
save({name: tensor.half() for name, tensor in state.items()}, "float16")
save({"state_dict": state, "epoch": 3}, "state_dict")
save({"model": state, "optimizer": torch.optim.Adam(net.parameters()).state_dict()}, "model")
save({"model_state_dict": state}, "model_state_dict")
save({"net": state, "acc": 88.1, "epoch": 3}, "net")
save({"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "hyper_parameters": {}}, "lightning")
save({f"module.{name}": tensor for name, tensor in state.items()}, "data_parallel")
save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, "compiled")
save({name.replace("features.", "features.module."): tensor for name, tensor in state.items()}, "features")
save({"n_averaged": torch.tensor(7)} | {f"module.{name}": tensor for name, tensor in state.items()}, "averaged")
save({name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, "parameters")
save({name: tensor.double() for name, tensor in state.items()}, "float64")
save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, "float8")
save({name: tensor.half() if "features.1." in name else tensor for name, tensor in state.items()}, "mixed")
save({"model_ema": state, "epoch": 3}, "ema")
save({f"module._orig_mod.model.{name}": tensor for name, tensor in state.items()}, "nested")
torch.save({"epoch": 3, "state_dict": state, "best_acc1": 88.1}, f"{folder}/best.pth.tar")
save(net, "whole")
save({"model": net, "epoch": 3}, "whole_inside")
save({"state_dict": state, "best": numpy.float64(88.1)}, "numpy_number")
save({"fc.weight_g": torch.ones(3, 1), "fc.weight_v": torch.ones(3, 2)}, "weight_norm")
torch.export.save(torch.export.export(net.fc, (torch.ones(1, 2),)), f"{folder}/program.pt2")
os.rename(f"{folder}/program.pt2", f"{folder}/program.pth")
with open(f"{folder}/pickled.pth", "wb") as file:
    pickle.dump(state, file)
save(net, "whole_old", _use_new_zipfile_serialization=False)
save({name: tensor.numpy() for name, tensor in state.items()}, "numpy")
save(torch.optim.Adam(net.parameters()).state_dict(), "optimizer")
save(state | {"classifier.weight": state["classifier.weight"].to_sparse()}, "sparse")
save({"epoch": 3}, "nothing")
save(list(state.values()), "list")
torch.jit.save(torch.jit.trace(net.fc, torch.ones(1, 2)), f"{folder}/script.pth")
""",
    "paddle": """
import sys, numpy, paddle
from paddle import nn
folder = sys.argv[1]
with numpy.load(f"{folder}/arrays.npz") as file:
    state = {name: paddle.to_tensor(file[name]) for name in file.files}
    halves = {name: paddle.to_tensor(bits) for name, bits in numpy.load(f"{folder}/halves.npz").items()}

def save(content, name):
    paddle.save(content, f"{folder}/{name}.pdparams")

save(state, "plain")
save(halves, "bfloat16")
save({name: paddle.to_tensor(tensor.numpy().astype("float16")) for name, tensor in state.items()}, "float16")
save({"state_dict": state, "epoch": 3}, "state_dict")
save({"model": state}, "model")
save({"n_averaged": paddle.to_tensor(3)} | state, "averaged")
save(list(state.values()), "list")
save(state["features.0.weight"], "tensor")
save(state | {"steps": paddle.to_tensor([3])}, "integers")
save({f"_layers.{name}": tensor for name, tensor in state.items()}, "data_parallel")
linear = nn.Linear(2, 3)
adam = paddle.optimizer.Adam(parameters=linear.parameters())
linear(paddle.ones([1, 2])).sum().backward()
adam.step()
save(adam.state_dict(), "optimizer")
save({"epoch": 3}, "nothing")
save({"conv_block_1.conv1.weight": paddle.zeros([4, 3, 3, 3])}, "paddle_clas")
""",
}
"""Programs that save the arrays of arrays.npz, named and laid out as in the framework, in every way that people save them."""

TAKEN = {
    "torch": {
        "plain": [],
        "old": [],
        "counted": [],
        "bfloat16": ["read bfloat16 numbers exactly into float32"],
        "float16": ["read float16 numbers exactly into float32"],
        "state_dict": ["took 'state_dict' of the file and left out 'epoch'"],
        "model": ["took 'model' of the file and left out 'optimizer'"],
        "model_state_dict": ["took 'model_state_dict' of the file"],
        "net": ["took 'net' of the file and left out 'acc', 'epoch'"],
        "lightning": ["took 'state_dict' of the file", "took the prefix 'model.' off the names"],
        "data_parallel": ["took the prefix 'module.' off the names"],
        "compiled": ["took the prefix '_orig_mod.' off the names"],
        "features": ["took the prefix 'module.' off the names"],
        "parameters": [],
        "float64": [],
        "float8": ["read float8_e4m3fn numbers exactly into float32"],
        "mixed": ["read float16 numbers exactly into float32"],
        "ema": ["took 'model_ema' of the file"],
        "nested": ["took the prefix '_orig_mod.' and 'module.' and 'model.' off the names"],
        "averaged": ["an average of several models (n_averaged)", "took the prefix 'module.' off the names"],
    },
    "paddle": {
        "plain": [],
        "bfloat16": ["read bfloat16 numbers exactly into float32"],
        "float16": ["read float16 numbers exactly into float32"],
        "state_dict": ["took 'state_dict' of the file and left out 'epoch'"],
        "model": ["took 'model' of the file"],
        "data_parallel": ["took the prefix '_layers.' off the names"],
        "averaged": ["an average of several models (n_averaged)"],
    },
}
"""File -> what is said beside the line on what was written."""

REFUSED = {
    "torch": {
        "whole": "it holds a pickled object of __main__.Net, not only a state dict",
        "whole_old": "it holds a pickled object of __main__.Net, not only a state dict",
        "whole_inside": "it holds a pickled object of __main__.Net, not only a state dict",
        "numpy_number": "it holds a number of numpy beside the tensors",
        "weight_norm": "it has weights of weight_norm, in two parts",
        "program": "it is a program of torch.export",
        "pickled": "it is a pickle that torch.save did not write: rename it to .pdparams if paddle.save did",
        "numpy": "its values are numpy arrays, not tensors",
        "optimizer": "it is the state of an optimizer, not of a model",
        "sparse": "it holds a sparse tensor, not only dense tensors",
        "nothing": "it holds no tensors under names, but 'epoch' (int)",
        "list": "it holds a list, not a state dict",
        "script": "it is a TorchScript program, not a state dict",
    },
    "paddle": {
        "optimizer": "it is the state of an optimizer (.pdopt), not of a model",
        "nothing": "it holds no tensors under names, but 'epoch' (int)",
        "list": "a pickle of a list that is not flat",
        "tensor": "a pickle of tuple, expected a dict",
        "integers": "its entry steps is not a floating-point array",
        "paddle_clas": "it is PaddleClas' VGG, whose convolutions have no biases",
    },
}


def zipped(member: str) -> bytes:
    """Return a zip archive of one empty file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, b"")
    return buffer.getvalue()


def safetensors_of(dtype: str) -> bytes:
    """Return a safetensors file of two numbers of one byte."""
    header = json.dumps({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(2)


def random_state(network: Network) -> canonical_state.State:
    random = np.random.default_rng(5)
    return {name: random.standard_normal(p.shape).astype(np.float32) for name, p in network.parameters.items()}


STATE = random_state(NETWORK)

MIXED = f"{list(NETWORK.layers)[1]}."
"""The layer that is features.1 in the files: the one in float16 in the file of mixed numbers."""


def as_float16(array: Array) -> Array:
    return array.astype(np.float16).astype(np.float32)


def as_bfloat16(array: Array) -> Array:
    return widen_bfloat16(round_to_bfloat16(array))


def as_float8(array: Array) -> Array:
    """Round to the nearest float8_e4m3fn: 4 significant bits, steps of 2**-9 at the small end."""
    _, exponent = np.frexp(array)
    step = np.ldexp(np.float32(1), np.maximum(exponent - 4, -9))
    return (np.round(array / step) * step).astype(np.float32)


EXPECTED: dict[str, Callable[[Array], Array]] = {"float16": as_float16, "bfloat16": as_bfloat16}


@pytest.fixture(scope="module", params=list(SAVE))
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    framework = str(request.param)
    folder = tmp_path_factory.mktemp(framework)
    convention = {"torch": "torchvision", "paddle": "paddle.vision"}[framework]
    spelled = state_dict_names.spell(NETWORK, STATE, convention)
    arrays = {name.replace("classifier.0", "classifier"): array for name, array in spelled.items()}
    np.savez(folder / "arrays.npz", **arrays)
    np.savez(folder / "halves.npz", **{name: round_to_bfloat16(array) for name, array in arrays.items()})
    alone(SAVE[framework], str(folder))
    return framework, folder


@pytest.fixture
def run(
    workers: dict[str, Worker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run the command; return its exit code, JSON and messages."""
    monkeypatch.setattr(convert, "Worker", lambda framework: nullcontext(workers[framework]))

    def act(*words: object) -> tuple[int, dict[str, Any], str]:
        code = convert.main([*map(str, words), "--json"])
        stdout, stderr = capsys.readouterr()
        return code, json.loads(stdout) if stdout else {}, stderr

    return act


def test_what_people_save_is_read_to_the_bit_and_what_was_taken_off_is_said(
    saved: tuple[str, Path], run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    framework, folder = saved
    for name, notes in TAKEN[framework].items():
        file = folder / f"{name}{SUFFIX[framework]}"
        code, _, said = run(file, tmp_path / "a.safetensors", "--network", NAME)
        assert code == 0, said
        lines = [line for line in said.splitlines() if line.startswith(f"{file}: ")]
        assert len(lines) == len(notes) and all(note in line for note, line in zip(notes, lines, strict=True)), said
        _, state, _ = canonical_state.load(tmp_path / "a.safetensors")
        change = EXPECTED.get(name, lambda array: array) if name != "float8" else as_float8
        for key, array in STATE.items():
            part = as_float16 if name == "mixed" and key.startswith(MIXED) else change
            assert np.array_equal(state[key], part(array)), (name, key)


def test_a_file_of_something_else_is_named_for_what_it_is(
    saved: tuple[str, Path], run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    framework, folder = saved
    for name, message in REFUSED[framework].items():
        for network in ((), ("--network", NAME)):
            file = folder / f"{name}{SUFFIX[framework]}"
            code, _, said = run(file, tmp_path / "a.safetensors", *network)
            assert code == 2 and message in said, said
            assert "take another copy" not in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.pth", "it is empty: take another copy"),
        (b"<!DOCTYPE html><html>", "a.safetensors", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a.pdparams", "a pointer of Git LFS, not the file itself"),
        (safetensors.numpy.save({"a": np.zeros(2)}), "a.bin", "it is a safetensors file: rename it to .safetensors"),
        (bytes(16) + b"\4\0\0\0\x08\5\x10\3", "a.pdparams", "it is a file of Paddle's inference models"),
        (zipped("a.npy"), "a.pt", "it is a numpy archive (.npz)"),
        (zipped("a/data.pkl"), "a.safetensors", "it is a file of PyTorch: rename it to .pth"),
        (zipped("weights.pth"), "a.pth", "it is a zip archive of other files: unpack it first"),
        (safetensors_of("F8_E4M3"), "a.safetensors", "holds F8_E4M3 numbers: save a state_dict() whose tensors"),
    ],
)
def test_a_file_under_another_suffix_is_named(
    content: bytes, name: str, message: str, run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    code, _, said = run(tmp_path / name, tmp_path / "b.safetensors", "--network", NAME)
    assert code == 2 and message in said and len(said.splitlines()) == 1, said


def test_half_precision_of_safetensors_is_said(
    run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    spelled = state_dict_names.spell(NETWORK, STATE, "torchvision")
    (tmp_path / "a.safetensors").write_bytes(canonical_state.encode(spelled, {"format": "pt"}, "bfloat16"))
    code, _, said = run(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--network", NAME)
    assert code == 0 and "read bfloat16 numbers exactly into float32" in said, said
    _, state, _ = canonical_state.load(tmp_path / "b.safetensors")
    assert all(np.array_equal(state[name], as_bfloat16(array)) for name, array in STATE.items())


@pytest.mark.parametrize("dtype", list(EXPECTED))
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pdparams"])
def test_half_precision_is_written_on_request_rounded_to_the_nearest(
    suffix: str, dtype: str, run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    canonical_state.save(tmp_path / "a.safetensors", NETWORK, STATE)
    code, result, said = run(tmp_path / "a.safetensors", tmp_path / f"b{suffix}", "--dtype", dtype)
    assert (code, result["dtypes"]) == (0, [dtype]), said
    run(tmp_path / "a.safetensors", tmp_path / f"whole{suffix}")
    saved = (tmp_path / f"whole{suffix}").stat().st_size - (tmp_path / f"b{suffix}").stat().st_size
    assert saved == pytest.approx(2 * sum(array.size for array in STATE.values()), rel=0.2)
    code, result, said = run(tmp_path / f"b{suffix}", tmp_path / "c.safetensors", "--network", NAME)
    assert (code, result["dtypes"]) == (0, ["float32"]) and "unverified" not in said
    _, state, _ = canonical_state.load(tmp_path / "c.safetensors")
    assert all(np.array_equal(state[name], EXPECTED[dtype](array)) for name, array in STATE.items())


def test_numbers_beyond_float16_are_refused(
    run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    large = STATE | {"bn1_1.variance": np.full_like(STATE["bn1_1.variance"], 70000)}
    canonical_state.save(tmp_path / "a.safetensors", NETWORK, large)
    code, _, said = run(tmp_path / "a.safetensors", tmp_path / "b.pt", "--dtype", "float16")
    assert code == 2 and "bn1_1.variance holds 7e+04, beyond the range of float16" in said
    assert run(tmp_path / "a.safetensors", tmp_path / "b.tar", "--dtype", "float16")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_tar_holds_float32_and_json_says_so(
    run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    halves = {name: array.astype(np.float16) for name, array in STATE.items()}
    canonical_state.save(tmp_path / "a.safetensors", NETWORK, halves)
    assert run(tmp_path / "a.safetensors", tmp_path / "b.tar")[1]["dtypes"] == ["float32"]
    state = v2_tar.fit(NETWORK, v2_tar.read((tmp_path / "b.tar").read_bytes()))
    assert all(np.array_equal(state[name], as_float16(array)) for name, array in STATE.items())


def test_a_cousin_that_fits_is_proposed_by_name(
    run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    narrow = articles.get_network("vgg_mini@0.16")
    (tmp_path / "a.tar").write_bytes(v2_tar.encode(narrow, random_state(narrow)))
    code, _, said = run(tmp_path / "a.tar", tmp_path / "b.pt")
    assert code == 2 and said == f"error: {tmp_path / 'a.tar'}: it fits vgg_mini@0.16: pass --network vgg_mini@0.16\n"


@pytest.mark.parametrize("name", ["vgg16_bn+bias", "vgg16_bn@0.25+bias"])
def test_the_vgg16_of_kuangliu_with_biases_and_one_linear_layer_is_proposed_and_read(
    name: str, run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    network = articles.get_network(name)
    state = random_state(network)
    arrays = state_dict_names.spell(network, state, "torchvision")
    theirs = {f"module.{key.replace('classifier.0', 'classifier')}": array for key, array in arrays.items()}
    file = tmp_path / "ckpt.safetensors"
    file.write_bytes(canonical_state.encode(theirs, {}))
    code, _, said = run(file, tmp_path / "b.safetensors")
    assert code == 2 and f"it fits {name}: pass --network {name}" in said
    code, _, said = run(file, tmp_path / "b.safetensors", "--network", name)
    assert code == 0, said
    _, found, _ = canonical_state.load(tmp_path / "b.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in state.items())


def three_linear_layers(name: str) -> Network:
    nodes = (Conv("conv", 4), ReLU("relu"), MaxPool("pool"), Flatten("flatten"), Linear("fc1", 8), ReLU("relu1"))
    return Network(name, (3, 14, 14), (*nodes, Linear("fc2", 8), ReLU("relu2"), Linear("fc3", 5)))


@pytest.mark.parametrize("convention", state_dict_names.CONVENTIONS)
@pytest.mark.parametrize("suffix", [".safetensors", "own"])
def test_names_of_other_libraries_go_out_and_come_in(
    convention: str, suffix: str, run: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    network = three_linear_layers("three")
    (tmp_path / "net.json").write_text(network.to_json())
    state = random_state(network)
    canonical_state.save(tmp_path / "a.safetensors", network, state)
    theirs = (
        tmp_path / f"b{SUFFIX['paddle' if convention == 'paddle.vision' else 'torch'] if suffix == 'own' else suffix}"
    )
    assert run(tmp_path / "a.safetensors", theirs, "--names", convention)[0] == 0
    code, _, said = run(theirs, tmp_path / "c.safetensors", "--network", tmp_path / "net.json")
    assert code == 0, said
    _, found, _ = canonical_state.load(tmp_path / "c.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in state.items())


def test_a_kernel_over_the_whole_map_is_a_linear_layer_of_timm() -> None:
    network = three_linear_layers("three")
    spelled = state_dict_names.spell(network, random_state(network), "timm")
    shapes = {name: array.shape for name, array in spelled.items() if name.endswith("weight")}
    assert shapes["pre_logits.fc1.weight"] == (8, 4, 7, 7) and shapes["pre_logits.fc2.weight"] == (8, 8, 1, 1)
    assert shapes["features.0.weight"] == (4, 3, 3, 3) and shapes["head.fc.weight"] == (5, 8)


def test_linear_layers_of_old_torchvision_are_found_by_their_order() -> None:
    network = three_linear_layers("three")
    state = random_state(network)
    new = state_dict_names.spell(network, state, "torchvision")
    numbers = {"classifier.0": "classifier.1", "classifier.2": "classifier.4", "classifier.4": "classifier.6"}
    old = {
        numbers.get(name.rpartition(".")[0], name.rpartition(".")[0]) + f".{name.rpartition('.')[2]}": a
        for name, a in new.items()
    }
    assert set(old) > {"classifier.1.weight", "classifier.6.bias"}
    found = state_dict_names.fit(network, old)
    assert all(np.array_equal(found[name], array) for name, array in state.items())


def test_of_networks_with_equal_shapes_torchvision_s_is_taken_for_its_names(
    run: Callable[..., tuple[int, dict[str, Any], str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {name: three_linear_layers(name) for name in ("slim_vgg16", "vgg_d")}
    monkeypatch.setattr(articles, "NETWORKS", known)
    state = random_state(known["vgg_d"])
    canonical_state.save(tmp_path / "a.safetensors", known["vgg_d"], state)
    run(tmp_path / "a.safetensors", tmp_path / "b.pth", "--names", "torchvision")
    code, result, said = run(tmp_path / "b.pth", tmp_path / "c.safetensors")
    assert (code, result["network"]) == (0, "vgg_d") and "took vgg_d, since the names are torchvision's" in said
    run(tmp_path / "a.safetensors", tmp_path / "d.pth")
    assert run(tmp_path / "d.pth", tmp_path / "e.safetensors")[0] == 2  # our own names say nothing
    seven = known["vgg_d"].with_classes(7)
    tuned = state_dict_names.spell(seven, random_state(seven), "torchvision")
    (tmp_path / "f.safetensors").write_bytes(canonical_state.encode(tuned, {}))
    code, _, said = run(tmp_path / "f.safetensors", tmp_path / "g.safetensors")
    assert code == 2
    assert "it fits vgg_d+classes7 and slim_vgg16+classes7: pass --network vgg_d+classes7" in said


def test_rounding_to_bfloat16_is_that_of_the_definition() -> None:
    numbers = np.array(
        [1.0, 1.00390625, 1.005859375, 1.01171875, -3.14159, 0.0, -0.0, 1e-45, np.inf, -np.inf], np.float32
    )
    wanted = np.array([1.0, 1.0, 1.0078125, 1.015625, -3.140625, 0.0, -0.0, 0.0, np.inf, -np.inf], np.float32)
    assert widen_bfloat16(round_to_bfloat16(numbers)).tobytes() == wanted.tobytes()
    assert np.isnan(widen_bfloat16(round_to_bfloat16(np.array([np.nan], np.float32)))).all()
