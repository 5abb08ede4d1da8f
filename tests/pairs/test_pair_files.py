"""Damaged files of a pair are refused in one line: maps, kinds of layers, inputs, and the results that `--resume` keeps."""

from __future__ import annotations

import copy
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.scripts import script_main
from parity.errors import InputError
from parity.modules import layer_kinds
from parity.pairs import state_dict_files
from parity.pairs.inputs import drawn, read_inputs, take_inputs
from parity.pairs.map_files import read_map
from parity.pairs.mapping import match, to_json
from parity.pairs.match_models import ModelDescription
from parity.report.kept_results import read_pair, read_results, write_results
from parity.report.pairs_table import table

main = script_main("check_parity")
convert = script_main("convert_weights")

Change = Callable[[dict[str, Any]], object]

PAIR = ("--torch", "a:b", "--paddle", "c:d")


def model(side: str) -> ModelDescription:
    """A linear layer and a batch norm."""
    linear, norm = ("Linear", "BatchNorm1d") if side == "torch" else ("Linear", "BatchNorm1D")
    names = ("running_mean", "running_var") if side == "torch" else ("_mean", "_variance")
    shapes = {"weight": [4, 3] if side == "torch" else [3, 4], "bias": [4]}

    def row(path: str, kind: str, arrays: dict[str, list[int]]) -> dict[str, Any]:
        held = {name: {"shape": shape, "trained": True, "same_as": None} for name, shape in arrays.items()}
        return {"path": path, "classes": [f"{side}.nn.{kind}"], "attributes": {}, "arrays": held, "inside": not path}

    rows = [row("", "Net", {}), row("fc", linear, shapes)]
    return ModelDescription.of(side, [*rows, row("bn", norm, {name: [4] for name in ("weight", "bias", *names)})])


@pytest.fixture
def whole() -> dict[str, Any]:
    """The map of the two models."""
    found: dict[str, Any] = json.loads(to_json(match(model("torch"), model("paddle"))))
    return found


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape) for name, shape in model("torch").shapes().items()}


def test_a_whole_map_converts_to_the_other_side_and_back(whole: dict[str, Any]) -> None:
    there = state_dict_files.converted(arrays(), "torch", "paddle", whole)
    np.testing.assert_array_equal(there["fc.weight"], arrays()["fc.weight"].T)
    back = state_dict_files.converted(there, "paddle", "torch", whole)
    assert {name: array.tobytes() for name, array in back.items()} == {n: a.tobytes() for n, a in arrays().items()}


def row(name: str, **fields: Any) -> Change:
    return lambda found: found["arrays"][name].update(fields)


UNFIT: dict[str, tuple[Change, str]] = {
    "array twice": (row("bn.weight", paddle="bn.bias"), "the array 'bn.bias' is named twice"),
    "array misspelt": (row("bn.weight", paddle="bn.wieght"), "has no row for array 'bn.weight'"),
    "row lost": (lambda found: found["arrays"].pop("bn.mean"), "has no row for array 'bn"),
    "shape broadcast": (
        row("fc.bias", shapes={"torch": [4], "paddle": [4, 4]}),
        "shape [4] in PyTorch and [4, 4] in Paddle",
    ),
    "other shape on both sides": (
        row("fc.bias", shapes={"torch": [1], "paddle": [1]}),
        "array 'fc.bias' has shape [4], not [1]",
    ),
    "not transposed": (row("fc.weight", paddle="fc.weight"), "shape [4, 3] in PyTorch and [3, 4] in Paddle"),
    "one part only": (
        row("fc.bias", torch="fc.bias[0/2]", paddle="fc.bias[0/2]"),
        "only 1 of 2 parts of the array 'fc.bias'",
    ),
    "no shapes": (lambda found: found["arrays"]["fc.bias"].pop("shapes"), "no shapes of fc.bias"),
    "no arrays": (lambda found: found.pop("arrays"), "names no arrays"),
    "parts of a short array": (row("fc.bias", torch="fc.bias[0/3]"), "cannot be divided into 3 equal parts"),
}


ONLY_LISTED = ("array misspelt", "row lost", "other shape on both sides")
"""What an older map, without `models`, cannot tell."""


@pytest.mark.parametrize(
    ("name", "listed"),
    [*((name, True) for name in UNFIT), *((name, False) for name in UNFIT if name not in ONLY_LISTED)],
)
def test_a_map_that_does_not_fit_the_models_converts_nothing(whole: dict[str, Any], name: str, listed: bool) -> None:
    change, said = UNFIT[name]
    if not listed:
        del whole["models"]
    change(whole)
    with pytest.raises(InputError) as caught:
        state_dict_files.converted(arrays(), "torch", "paddle", whole)  # type: ignore[arg-type]
    assert said in str(caught.value)


@pytest.mark.parametrize("side", ["torch", "paddle"])
@pytest.mark.parametrize("wrong", ["fc.wieght", "fc.bias", "fc.weight[0/2]"])
def test_a_check_refuses_a_map_of_unknown_arrays(side: str, wrong: str) -> None:
    given = {"arrays": {"fc.weight": {"torch": "fc.weight", "paddle": "fc.weight.T"} | {side: wrong}}}
    with pytest.raises(InputError, match="the map"):
        match(model("torch"), model("paddle"), given)


def test_a_check_names_the_array_that_a_misspelt_row_may_mean() -> None:
    given = {"arrays": {"fc.wieght": {"torch": "fc.weight", "paddle": "fc.weight.T"}}}
    with pytest.raises(InputError, match=r"'fc\.wieght', which no matched layer has: do you mean 'fc\.weight'"):
        match(model("torch"), model("paddle"), given)


MAPS = {
    "a number": b"3",
    "a list": b"[]",
    "nothing": b"",
    "deep": b'{"layers":' + b"[" * 100_000,
    "not UTF-8": b'{"how": "\xff"}',
    "UTF-16": '{"how": "x"}'.encode("utf-16"),
    "twice": b'{"layers": [], "layers": []}',
    "unknown": b'{"layer": []}',
    "layers null": b'{"layers": null}',
    "layer number": b'{"layers": [{"torch": 3, "paddle": "a"}]}',
    "layer without a side": b'{"layers": [{"torch": "a"}]}',
    "arrays list": b'{"arrays": [1]}',
    "array null": b'{"arrays": {"a": null}}',
    "shape NaN": b'{"arrays": {"a": {"torch": "a", "paddle": "a", "shapes": {"torch": [NaN], "paddle": [1]}}}}',
    "shape true": b'{"arrays": {"a": {"torch": "a", "paddle": "a", "shapes": {"torch": [true], "paddle": [1]}}}}',
    "shape text": b'{"arrays": {"a": {"torch": "a", "paddle": "a", "shapes": {"torch": "4", "paddle": [1]}}}}',
    "5000 digits": b'{"arrays": {"a": {"torch": "a", "paddle": "a", "shapes": {"torch": [' + b"9" * 5000 + b"]}}}}",
    **{
        f"spelling {spelling}": json.dumps({"arrays": {"a": {"torch": spelling, "paddle": "a"}}}).encode()
        for spelling in (3, "", "weight[1/0]", "weight[3/3]", "a\nb", None, ["a"])
    },
}


@pytest.mark.parametrize("name", MAPS)
def test_both_commands_refuse_a_file_that_is_no_map_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(MAPS[name])
    with pytest.raises(InputError, match=r"map\.json is no map of layers"):
        read_map(path)
    assert main([*PAIR, "--input-shape", "4", "--map", str(path)]) == 2
    assert convert([str(tmp_path / "a.pt"), str(tmp_path / "b.pdparams"), "--map", str(path)]) == 2
    assert [line[:7] for line in capsys.readouterr().err.splitlines()] == ["error: "] * 2
    assert list(tmp_path.iterdir()) == [path]


SIDES = {"torch": ["T"], "paddle": ["P"]}
KINDS: dict[str, Any] = {
    "an object": {},
    "a number in the list": [1],
    "no classes": [{"name": "a"}],
    "one side": [{"name": "a", "classes": {"torch": ["T"]}}],
    "name number": [{"name": 3, "classes": SIDES}],
    "classes text": [{"name": "a", "classes": {"torch": "T", "paddle": "P"}}],
    "no class": [{"name": "a", "classes": {"torch": ["T"], "paddle": []}}],
    "class of another kind": [{"name": "a", "classes": {"torch": ["Linear"], "paddle": ["P"]}}],
    "class of two kinds": [{"name": n, "classes": SIDES} for n in "ab"],
    "name twice": [{"name": "a", "classes": {"torch": [n], "paddle": [n]}} for n in "TP"],
    "classes numbers": [{"name": "a", "classes": {"torch": [1], "paddle": [2]}}],
    "arrays list": [{"name": "a", "classes": SIDES, "arrays": []}],
    "array number": [{"name": "a", "classes": SIDES, "arrays": {"w": {"torch": 1, "paddle": "w"}}}],
    "array part": [{"name": "a", "classes": SIDES, "arrays": {"w": {"torch": "w[1/0]", "paddle": "w"}}}],
    "array twice": [{"name": "a", "classes": SIDES, "arrays": {n: {"torch": "w", "paddle": n} for n in "vw"}}],
    "array beside all": [{"name": "a", "classes": SIDES, "arrays": {n: {"torch": n, "paddle": n} for n in "*v"}}],
    "settings null": [{"name": "a", "classes": SIDES, "settings": None}],
    "setting empty": [{"name": "a", "classes": SIDES, "settings": {"s": {"torch": "", "paddle": "s"}}}],
    "setting nested": [{"name": "a", "classes": SIDES, "settings": {"s": {"torch": {}, "paddle": "s"}}}],
    "whole text": [{"name": "a", "classes": SIDES, "whole": "yes"}],
    "unknown": [{"name": "a", "classes": SIDES, "array": {}}],
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "kinds.json"
    path.write_text(json.dumps(KINDS[name]))
    assert main([*PAIR, "--input-shape", "4", "--kinds", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path} holds no kinds of layers (" in line


def test_kinds_of_a_file_are_only_in_the_returned_table(tmp_path: Path) -> None:
    path, before = tmp_path / "kinds.json", dict(layer_kinds.KINDS)
    linear = {"name": "Linear", "classes": {"torch": ["Linear", "my.Linear"], "paddle": ["Linear"]}}
    path.write_text(json.dumps([{"name": "a", "classes": SIDES, "note": "ours"}, linear]))
    kinds = layer_kinds.read_kinds(path)
    assert set(kinds) == {*before, "a"}
    assert before == layer_kinds.KINDS
    for side, name in (("torch", "T"), ("paddle", "P")):
        assert layer_kinds.kind_of(side, [name], kinds).note == "ours"
        assert layer_kinds.kind_of(side, [name]).name == name.lower()
    assert layer_kinds.kind_of("torch", ["torch.nn.Linear"], kinds).arrays == {}


@pytest.mark.parametrize("row", ["weight=weight,weight", "weight:weight", "a:b,c weight", "a:b,c a:d,e"])
def test_a_row_of_the_table_that_is_misspelled_is_an_error(row: str) -> None:
    with pytest.raises(ValueError, match=r"is not NAME:PADDLE,TORCH"):
        layer_kinds._kind("Own", "Own", "Own", row)
    with pytest.raises(ValueError, match=r"is not NAME:PADDLE,TORCH"):
        layer_kinds._kind("Own", "Own", "Own", "", row)


def test_every_class_of_the_table_is_of_one_kind() -> None:
    layer_kinds._check_classes(layer_kinds.KINDS)


@pytest.mark.parametrize("spelling", ["=" + "[" * 100_000, "=NaN", "1-mode"])
def test_a_setting_is_read_whatever_its_attribute_is(spelling: str) -> None:
    layer_kinds.setting(spelling, {"mode": "zeros"})


def npz(path: Path, **held: Any) -> bytes:
    np.savez(path, **held)
    return path.read_bytes()


def damaged(path: Path, name: str) -> None:
    data = bytearray(npz(path, x=np.arange(600.0), y=np.ones(3)))
    place = data.index(b"PK\x01\x02")
    if name == "truncated":
        del data[len(data) // 2 :]
    elif name == "empty":
        data.clear()
    elif name == "bad CRC":
        data[2000] ^= 1
    elif name == "encrypted":
        data[6] |= 1
        data[place + 8] |= 1
    elif name == "unknown compression":
        data[8] = data[place + 10] = 77
    elif name == "npy":
        np.save(path.with_suffix(".npy"), np.ones(3))
        data[:] = path.with_suffix(".npy").read_bytes()
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["truncated", "empty", "bad CRC", "encrypted", "unknown compression", "npy"])
def test_damaged_inputs_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "x.npz"
    damaged(path, name)
    assert main([*PAIR, "--inputs", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot read {path}: " in line and "save the inputs with numpy.savez" in line


MEMBERS = {
    "text": b"hello",
    "huge shape": b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}",
    "huge number": b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9" * 40 + b",)}",
    "negative shape": b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
    "no header": b"{'descr': ",
    "deep header": b"(" * 5000,
    "pickle": b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "more bytes": b"{'descr': '<f8', 'fortran_order': False, 'shape': ()}",
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_that_is_no_array_is_refused(tmp_path: Path, name: str) -> None:
    header = MEMBERS[name]
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", header if name == "text" else data)
    with warnings.catch_warnings(), pytest.raises(InputError, match="cannot read"):
        warnings.simplefilter("ignore")
        read_inputs(tmp_path / "x.npz")


def test_unusable_archives_of_inputs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for members in ((), ("x.npy", "x.npy"), ("x.npy", "x")):
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")
            np.save(tmp_path / "x.npy", np.ones(3))
            for name in members:
                archive.write(tmp_path / "x.npy", name)
        with pytest.raises(InputError, match=r"no arrays|two arrays"):
            read_inputs(path)
    with pytest.raises(InputError, match="cannot read"):
        read_inputs(tmp_path)
    data = bytearray(npz(path, x=np.ones(3)))
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = (2**31 + 2**20).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="take more than 2 GiB"):
        read_inputs(path)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint64", "complex64", "U3", "M8[s]", "longdouble", "i4,f4"])
def test_dtypes_that_the_frameworks_do_not_share_are_refused(tmp_path: Path, dtype: str) -> None:
    npz(tmp_path / "x.npz", x=np.zeros(3, dtype))
    with pytest.raises(InputError, match=r"array x has dtype .*: convert it to one of"):
        read_inputs(tmp_path / "x.npz")
    with pytest.raises(InputError, match="input 0 has dtype"):
        take_inputs(None, [np.zeros(3, dtype)], 0)


@pytest.mark.parametrize("dtype", [">f8", ">i8", "float16", "bool", "uint8", "int32"])
def test_other_dtypes_are_read_in_the_byte_order_of_the_machine(tmp_path: Path, dtype: str) -> None:
    npz(tmp_path / "x.npz", b=np.arange(3).astype(dtype), a=np.ones((), dtype))
    first, second = read_inputs(tmp_path / "x.npz").values()
    assert first.dtype.isnative and first.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(first, np.arange(3).astype(dtype))
    assert second.shape == ()


@pytest.mark.parametrize("shape", ["99999999999,9", "1" + ",1" * 99, "9" * 5000, "2:" + "9" * 30, "2:x", "-1"])
def test_shapes_that_no_input_can_have_are_refused(shape: str) -> None:
    with pytest.raises(InputError, match=r"is no shape|is too large"):
        drawn(shape, 0, 0)


STAGE = {"verdict": "equal", "compared": 3, "different": 0, "max_error": 0.0, "bound": 1e-10}
RESULT: dict[str, Any] = {
    **dict.fromkeys(("command", "network", "recipe", "data", "dtype", "device", "machine", "started"), "x"),
    **dict.fromkeys(("steps", "batch_size", "seed", "threads", "seconds"), 1),
    "verdict": "equal",
    "first_divergence": None,
    "stages": {"forward": STAGE | {"smallest_bound_that_passes": 0.0, "worst": "forward/a"}},
    "layers": [{"layer": "a", "errors": {"forward": 0.0}, "bounds": {"forward": float("inf")}}],
    "trajectory": [{"step": 1, "rate": 0.1, "error": "nan", "bound": 1e-9, "twin": None, "loss": {"torch": 1.0}}],
    "isolated": None,
    "explained": [],
    "lanes": {"torch": {"torch": "2"}},
    "asked": {"twins": None},
}

ELEMENT = {"index": [0, 1], "reference": "nan", "candidate": 1.0, "difference": "nan"}
FIRST = {
    **dict.fromkeys(("phase", "layer", "tensor", "sentence"), "x"),
    **{"step": 1, "error": "inf", "bound": 0.0, "cause": None, "shapes": [[2, 2], None], "elements": [ELEMENT]},
}

DAMAGE: dict[str, Change] = {
    "verdict": lambda one: one.update(verdict="eqval"),
    "verdict that its stages deny": lambda one: one["stages"]["forward"].update(verdict="different"),
    "stage verdict": lambda one: one["stages"]["forward"].update(verdict="eqval"),
    "no stages": lambda one: one["stages"].clear(),
    "unknown stage": lambda one: one["stages"].update(forwerd=one["stages"].pop("forward")),
    "divergence": lambda one: one.update(first_divergence={"sentence": "x"}),
    "worst elements": lambda one: one.update(first_divergence=FIRST | {"elements": [{"index": "x"}]}),
    "shapes": lambda one: one.update(first_divergence=FIRST | {"shapes": [[1], "x"]}),
    "layers": lambda one: one.update(layers={}),
    "error of a layer": lambda one: one["layers"][0]["errors"].update(forward="x"),
    "step": lambda one: one["trajectory"][0].update(step=10**400),
    "twin": lambda one: one["trajectory"][0].update(twin=[]),
    "explained": lambda one: one.update(explained="x"),
    **{f"without {name}": lambda one, name=name: one.pop(name) for name in RESULT},
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_kept_result_is_refused_and_not_changed(tmp_path: Path, name: str) -> None:
    path, result = tmp_path / "kept.jsonl", copy.deepcopy(RESULT)
    write_results(path, [RESULT | {"first_divergence": FIRST}])
    assert read_results(path) == [RESULT | {"first_divergence": FIRST}]
    write_results(path, [RESULT])
    assert read_results(path) == [RESULT]
    DAMAGE[name](result)
    path.write_text(path.read_text() + json.dumps(result) + "\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"cannot continue after .*line 2.*: remove it to start afresh"):
        read_results(path)
    assert path.read_bytes() == before


def test_a_pair_result_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path, step = tmp_path / "vgg.json", {"step": 1, "error": 0.0, "moved": 1e-5}
    row = {"name": "vgg", "torch": "a:b", "input_shape": [1], "set": [["Paddle", "a.b=1"]], "verdict": "equal"}
    row |= {"sentence": "", "differences": [], "stages": {"eval": STAGE}, "trajectory": [step], "lanes": {}}
    path.write_text(json.dumps(row))
    assert read_pair(path) == row
    endless = row | {"trajectory": [{"step": 1, "error": "inf", "moved": "nan"}]}
    assert "| inf (step 1) | nan |" in table([endless | {"stages": {}}])
    changes: list[dict[str, Any]] = [{"name": "other"}, {"verdict": "eqval"}, {"set": [["a"]]}, {"lanes": []}]
    changes += [{"trajectory": [{"step": 1}]}, {"stages": {"eval": {"compared": 3}}}, {"input_shape": "1"}]
    for change in changes:
        path.write_text(json.dumps(row | change))
        with pytest.raises(InputError, match=r"vgg\.json"):
            read_pair(path)


def test_an_array_with_an_axis_of_size_one_more_says_how_to_map_it() -> None:
    with pytest.raises(InputError, match=r"the other side \[4\]: write fc\.bias\.reshape\(4\) in a map"):
        layer_kinds.write("fc.bias", {}, np.zeros(4), [1, 4])
