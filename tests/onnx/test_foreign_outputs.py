"""ONNX files of others: whether the output holds scores or probabilities is told from graph and values, said, and can be set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from helpers.framework_process import FrameworkProcess
from helpers.refusals import Refused, refusal
from helpers.scripts import script_main
from parity.inference.outputs import PROBABILITIES, SCORES, softmax
from parity.inference.predict import load_predictor
from parity.onnx.last_operator import last_operator

SIZE, CLASSES = (3, 6, 8), 5
RANDOM = np.random.default_rng(0)
WEIGHT, BIAS = RANDOM.normal(0, 0.3, (CLASSES, 144)), RANDOM.normal(0, 1, CLASSES)
PIXELS = RANDOM.integers(0, 256, (4, *SIZE), np.uint8)
LOGITS = (PIXELS / 255).reshape(4, -1) @ WEIGHT.T + BIAS
"""The scores of `PIXELS`, in float64."""
EXACT = 3e-6
"""What float32 may lose of a probability."""


def node(operator: str, *names: str, **attributes: Any) -> NodeProto:
    """The operator that computes the last of `names` from the others."""
    return helper.make_node(operator, names[:-1], names[-1:], **attributes)


def foreign(
    path: Path, nodes: Sequence[NodeProto], outputs: Sequence[str] = ("y",), kind: int = TensorProto.FLOAT
) -> Path:
    """A file without metadata: `nodes` compute `y` from `scores` [N,K], the product of pixels `image` [N,3,6,8] and `WEIGHT`."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    made = helper.make_graph(
        [node("Flatten", "image", "flat"), node("Gemm", "flat", "weight", "bias", "scores", transB=1), *nodes],
        "g",
        [helper.make_tensor_value_info("image", kind, ["N", *SIZE])],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(a.astype(dtype), n) for n, a in (("weight", WEIGHT), ("bias", BIAS))],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def powers() -> list[NodeProto]:
    """The softmax as other operators."""
    return [node("Exp", "scores", "e"), node("ReduceSum", "e", "axis", "sum"), node("Div", "e", "sum", "y")]


AXIS = helper.make_node("Constant", [], ["axis"], value_ints=[1])
SHAPE = helper.make_node("Constant", [], ["shape"], value_ints=[-1, CLASSES, 1, 1])

KINDS: dict[str, tuple[list[NodeProto], str, str]] = {
    "scores": ([node("Identity", "scores", "y")], SCORES, "its last operator is Gemm, and its values do not sum to 1"),
    "softmax": ([node("Softmax", "scores", "y")], PROBABILITIES, "its last operator is Softmax"),
    "softmax, then cast and reshaped": (
        [
            SHAPE,
            node("Softmax", "scores", "p"),
            node("Cast", "p", "c", to=TensorProto.FLOAT),
            node("Reshape", "c", "shape", "y"),
        ],
        PROBABILITIES,
        "its last operator is Softmax",
    ),
    "log-softmax": (
        [node("LogSoftmax", "scores", "y")],
        SCORES,
        "its last operator is LogSoftmax, and its values do not sum to 1",
    ),
    "softmax of other operators": (
        [AXIS, *powers()],
        PROBABILITIES,
        "its values for random pictures sum to 1",
    ),
    "score map": (
        [SHAPE, node("Reshape", "scores", "shape", "y")],
        SCORES,
        "its last operator is Gemm, and its values do not sum to 1",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_the_kind_is_told_said_and_the_probabilities_are_those_of_the_definition(case: str, tmp_path: Path) -> None:
    nodes, kind, why = KINDS[case]
    path = foreign(tmp_path / "a.onnx", nodes)
    model = load_predictor(path)
    assert model.outputs == kind
    what = {SCORES: "scores before the softmax", PROBABILITIES: "probabilities"}[kind]
    assert model.notes[-1] == f"{path}: its output y is taken as {what} ({why})"
    assert np.abs(model.probabilities(PIXELS) - softmax(LOGITS)).max() < EXACT


@pytest.mark.parametrize(("kind", "close"), [(TensorProto.FLOAT16, 4e-3), (TensorProto.DOUBLE, 1e-7)])
def test_files_of_other_dtypes_are_fed_in_theirs(kind: int, close: float, tmp_path: Path) -> None:
    for name, outputs in (("Softmax", PROBABILITIES), ("Identity", SCORES)):
        model = load_predictor(foreign(tmp_path / "a.onnx", [node(name, "scores", "y")], kind=kind))
        assert model.outputs == outputs
        assert np.abs(model.probabilities(PIXELS) - softmax(LOGITS)).max() < close


def test_the_kind_can_be_set(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.onnx", [node("Softmax", "scores", "y")])
    twice = load_predictor(path, outputs=SCORES)
    assert twice.notes[-1] == f"{path}: its output y is taken as scores before the softmax (--outputs says so)"
    assert np.abs(twice.probabilities(PIXELS) - softmax(softmax(LOGITS))).max() < EXACT
    named = foreign(tmp_path / "b.onnx", [node("Sigmoid", "scores", "y")])
    each = load_predictor(named, outputs=SCORES).probabilities(PIXELS)
    assert np.abs(each - softmax(1 / (1 + np.exp(-LOGITS)))).max() < EXACT


def test_the_first_of_several_outputs_counts_and_it_is_said(tmp_path: Path) -> None:
    nodes = [node("Softmax", "scores", "y"), node("Relu", "scores", "side")]
    model = load_predictor(foreign(tmp_path / "a.onnx", nodes, ("y", "side")))
    assert "its output y, the first of 2, is taken as probabilities" in model.notes[-1]
    assert np.abs(model.probabilities(PIXELS) - softmax(LOGITS)).max() < EXACT


def test_the_operator_is_found_behind_copies_and_in_damaged_graphs() -> None:
    def graph(*nodes: NodeProto) -> onnx.ModelProto:
        value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        return helper.make_model(helper.make_graph(nodes, "g", [], [value]))

    copied = node("Softmax", "x", "a"), node("Squeeze", "a", "b"), node("Transpose", "b", "y")
    assert last_operator(graph(*copied)) == "Softmax"
    assert last_operator(graph(node("Softmax", "x", "a"), node("Mul", "a", "a", "y"))) == "Mul"
    assert last_operator(graph()) is None
    assert last_operator(graph(node("Identity", "z", "y"), node("Identity", "y", "z"))) is None


# Refusals


def one(operator: str) -> Callable[[Path], Path]:
    return lambda path: foreign(path, [node(operator, "scores", "y")])


def top(path: Path) -> Path:
    count = helper.make_node("Constant", [], ["k"], value_ints=[3])
    return foreign(path, [count, helper.make_node("TopK", ["scores", "k"], ["y", "at"])])


def single(path: Path) -> Path:
    return foreign(path, [AXIS, node("ReduceSum", "scores", "axis", "y")])


def claimed(path: Path) -> Path:
    return foreign(path, [node("Identity", "scores", "probabilities")], ["probabilities"])


def over_rows(path: Path) -> Path:
    return foreign(path, [node("Softmax", "scores", "y", axis=0)])


def channels_last(path: Path) -> Path:
    model = onnx.load(foreign(path, [node("Softmax", "scores", "y")]))
    for side, dimension in zip((6, 8, 3), model.graph.input[0].type.tensor_type.shape.dim[1:], strict=True):
        dimension.dim_value = side
    onnx.save(model, path)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], str]] = {
    "sigmoid": (
        one("Sigmoid"),
        (),
        "its output y holds neither scores nor probabilities: its last operator Sigmoid yields a probability for each class alone; "
        "pass --outputs scores",
    ),
    "the best few": (top, (), "its last operator TopK yields the values of the best classes"),
    "one value": (single, (), "has one output value for each picture, expected one for each class"),
    "scores said to be probabilities": (one("Identity"), ("--outputs", "probabilities"), "and a row that sums to "),
    "scores named probabilities": (claimed, (), "its output is taken as probabilities, but has values from -"),
    "a softmax over the batch": (over_rows, (), "its output is taken as probabilities, but has values from "),
    "channels last": (
        channels_last,
        (),
        "takes float pictures [6, 8, 3] with channels last, expected [C,H,W]: export it with channels first (tf2onnx: --inputs",
    ),
    "an unknown kind": (one("Identity"), ("--outputs", "logits"), "--outputs: 'logits' is not one of"),
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("case", REFUSED)
def test_outputs_of_another_kind_or_range_are_refused_in_one_line(
    case: str, tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, flags, said = REFUSED[case]
    words = ["--model", make(tmp_path / "a.onnx"), *flags, picture, picture]
    assert said in refusal(script_main("predict"), words, tmp_path, capsys)


def test_nan_fails_in_one_line(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for operator in ("Identity", "Softmax"):
        model = foreign(tmp_path / "a.onnx", [node("Log", "scores", "log"), node(operator, "log", "y")])
        assert script_main("predict")(["--model", str(model), str(picture)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.splitlines()) == (
            "",
            [f"failed: {model} yields scores that are not finite: its weights have diverged"],
        )


def test_the_flag_is_for_onnx_files(tmp_path: Path, predict_refusal: Refused, picture: Path) -> None:
    message = predict_refusal("--model", "run", "--outputs", "scores", picture)
    assert message == "--outputs cannot be given with run: it is for .onnx files"


# The commands


def test_the_command_says_what_is_taken(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = foreign(tmp_path / "a.onnx", [node("Softmax", "scores", "y")])
    assert script_main("predict")(["--model", str(model), str(picture), "--top", "9", "--json"]) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["outputs"] == PROBABILITIES
    assert err.count("is taken as probabilities (its last operator is Softmax)\n") == 1
    found = {entry["index"]: entry["probability"] for entry in answer["predictions"][0]["top"]}
    assert np.abs(np.array([found[i] for i in range(CLASSES)]) - softmax(LOGITS)[0]).max() < EXACT


def class_folders(folder: Path, labels: Sequence[int], names: Sequence[str]) -> str:
    """Write `PIXELS` as pictures of `labels`, and a black picture of every class. Return the name of the data set."""
    for part in ("train", "val"):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 6)).save(folder / part / name / "black.png")
        for i, label in enumerate(labels):
            Image.fromarray(PIXELS[i].transpose(1, 2, 0)).save(folder / part / names[label] / f"{i}.png")
    return f"folder:{folder}"


def test_evaluate_takes_both_kinds_and_refuses_another_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = LOGITS.argmax(axis=1)
    labels[0] = (labels[0] + 1) % CLASSES
    wrong = 1 + CLASSES - 1  # one wrong label, and all black pictures but those of the class with the largest bias
    main, model = script_main("evaluate"), tmp_path / "a.onnx"
    pictures = class_folders(tmp_path / "five", labels, "01234")
    words = ["--model", str(model), "--views", "single", "--json", "--data"]
    for operator, kind, flags in (
        ("Identity", SCORES, []),
        ("Softmax", PROBABILITIES, []),
        ("Softmax", SCORES, ["--outputs", "scores"]),
    ):
        foreign(model, [node(operator, "scores", "y")])
        assert main([*words, pictures, *flags]) == 0
        out, err = capsys.readouterr()
        result = json.loads(out.splitlines()[-1])
        assert (result["outputs"], result["pictures"], result["rows"][0]["wrong"]) == (kind, 9, wrong)
        assert err.count("its output y is taken as ") == 1
    six = class_folders(tmp_path / "six", labels, "012345")
    message = refusal(main, [*words, six], tmp_path, capsys)
    assert message == (
        f"{model} has 5 outputs, but {six} has 6 classes: give the data set of its training with --data, or another model"
    )


# Real exporters

TORCH = """
import sys, warnings
import numpy as np, torch
from torch import nn
warnings.simplefilter("ignore")
folder, pixels = sys.argv[1], torch.from_numpy(np.load(sys.argv[2]) / np.float32(255))
torch.manual_seed(0)
body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)).eval()
with torch.no_grad():
    body[-1].weight *= 20
    np.save(f"{folder}/torch.npy", body(pixels).softmax(1).numpy())
heads = {"scores": nn.Identity(), "softmax": nn.Softmax(1), "log_softmax": nn.LogSoftmax(1)}
for name, head in heads.items():
    for dynamo in (False, True):
        model = nn.Sequential(body, head).eval()
        torch.onnx.export(model, (pixels[:1],), f"{folder}/torch {name} {dynamo}.onnx", dynamo=dynamo, opset_version=18, verbose=False)
"""
PADDLE = """
import sys
import numpy as np, paddle
from paddle import nn
folder, pixels = sys.argv[1], paddle.to_tensor((np.load(sys.argv[2]) / 255).astype("float32"))
paddle.seed(0)
body = nn.Sequential(nn.Conv2D(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5))
body[3].weight.set_value(body[3].weight * 4)
body.eval()
np.save(f"{folder}/paddle.npy", nn.functional.softmax(body(pixels)).numpy())
spec = [paddle.static.InputSpec([None, 3, 6, 8], "float32", "image")]
for name, head in {"scores": nn.Identity(), "softmax": nn.Softmax(), "log_softmax": nn.LogSoftmax()}.items():
    model = nn.Sequential(body, head)
    model.eval()
    paddle.onnx.export(model, f"{folder}/paddle {name} False", input_spec=spec, opset_version=13)
"""


@pytest.mark.parametrize(("framework", "program"), [("torch", TORCH), ("paddle", PADDLE)])
def test_files_of_the_frameworks_own_exporters_give_the_frameworks_probabilities(
    framework: str, program: str, process: FrameworkProcess, tmp_path: Path
) -> None:
    np.save(tmp_path / "pixels.npy", PIXELS)
    process.run(program, tmp_path, tmp_path / "pixels.npy")
    expected = np.load(tmp_path / f"{framework}.npy")
    assert expected.max() > 0.3, "equal probabilities prove nothing"
    files = sorted(tmp_path.glob("*.onnx"))
    assert len(files) == {"torch": 6, "paddle": 3}[framework]
    for path in files:
        model = load_predictor(path)
        _, head, _ = path.stem.split()
        assert model.outputs == (PROBABILITIES if head == "softmax" else SCORES), path
        assert f"its last operator is {'Softmax' if head == 'softmax' else ''}" in model.notes[-1]
        assert np.abs(model.probabilities(PIXELS) - expected).max() < EXACT, path
