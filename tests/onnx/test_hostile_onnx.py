"""Small ONNX files that would take all memory or run forever, or that answer with nonsense, end in one line within the limits."""

from __future__ import annotations

import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from helpers.endless_onnx import loop_body
from helpers.predict_files import NETWORK, metadata, onnx_file, run
from helpers.refusals import Refused
from parity.errors import InputError
from parity.inference.predict import load_predictor
from parity.network.network import Network
from parity.network.nodes import Conv, GlobalAvgPool
from parity.onnx import limited_process
from parity.onnx.limited_process import LimitedProcess

MOST_RESIDENT = 3_500_000  # KB


def constant(name: str, array: object) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(array), name))


def graph(
    path: Path, nodes: Sequence[NodeProto], output: str = "logits", batch: object = "N", kind: int = TensorProto.FLOAT
) -> Path:
    """A graph that takes pictures `image` [N,3,6,8], flattens them to `flat` [N,144] and computes `output` by `nodes`."""
    made = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), *nodes],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 6, 8])],
        [helper.make_tensor_value_info(output, kind, None)],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def loop(trips: int, of: str = "") -> list[NodeProto]:
    """A loop of `trips` iterations: for every row of pictures, or only if any number of `flat` is above 0."""
    body = loop_body()
    number = [  # of trips, times the largest of `of`, at most 1
        helper.make_node("ReduceMax", [of], ["max"], keepdims=0),
        helper.make_node("Sign", ["max"], ["sign"]),
        helper.make_node("Cast", ["sign"], ["factor"], to=TensorProto.INT64),
    ]
    if of == "rows":
        number = [
            helper.make_node("Shape", ["flat"], ["shape"]),
            constant("zero", np.int64(0)),
            helper.make_node("Gather", ["shape", "zero"], ["factor"]),
        ]
    return [
        *(number if of else [constant("factor", np.int64(1))]),
        constant("trips", np.int64(trips)),
        helper.make_node("Mul", ["trips", "factor"], ["product"]),
        constant("true", True),
        helper.make_node("Loop", ["product", "true", "flat"], ["logits"], body=body),
    ]


def large(operator: str) -> list[NodeProto]:
    """A tensor of 8 TB, expanded from a few numbers."""
    sizes = {"Tile": [1, 2**36], "Expand": [2**36, 1, 144], "ConstantOfShape": [2**36]}[operator]
    given = ["sizes"] if operator == "ConstantOfShape" else ["flat", "sizes"]
    return [
        constant("sizes", np.array(sizes, np.int64)),
        helper.make_node(operator, given, ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["flat", "sum"], ["logits"]),
    ]


def grown(doublings: int) -> list[NodeProto]:
    """A tensor that is really filled, and doubles in size with every operator."""
    names = ["flat", *(f"x{number}" for number in range(doublings)), "logits"]
    return [helper.make_node("Concat", [a, a], [b], axis=1) for a, b in itertools.pairwise(names)]


def processor_seconds() -> float:
    """The processor time of all children that have ended. A busy machine does not lengthen it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    # A loop needs the limit. On a busy machine, to fill memory takes more than 3 s.
    monkeypatch.setattr(limited_process, "SECONDS", 3 if "loop" in request.node.name else 12)
    started, before = processor_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    yield
    assert processor_seconds() - started < 15
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after == before or after < MOST_RESIDENT, "`before` is the largest child of other tests in this process"


Make = Callable[[Path], object]

HOSTILE: dict[str, tuple[Make, str]] = {
    "a loop": (lambda path: graph(path, loop(2**62)), "a.onnx takes more than 3 s to run"),
    "Tile": (lambda path: graph(path, large("Tile")), "onnxruntime"),
    "Expand": (lambda path: graph(path, large("Expand")), "onnxruntime"),
    "ConstantOfShape": (lambda path: graph(path, large("ConstantOfShape")), "onnxruntime"),
    "memory that is filled": (lambda path: graph(path, grown(25)), "onnxruntime"),
    "a million classes": (
        lambda path: graph(path, grown(12)),
        "output logits has scores for more than 100,000 classes",
    ),
    "a fixed batch": (
        lambda path: onnx_file(path, metadata(), batch=4_000_000),
        "a.onnx takes only batches of 4000000 pictures, more than 268,435,456 bytes",
    ),
    "a smaller fixed batch": (lambda path: onnx_file(path, metadata(), batch=400_000), "onnxruntime cannot run it"),
    "a loop for pictures that are not black": (
        lambda path: graph(path, loop(2**62, "flat")),
        "a.onnx takes more than 3 s to run",
    ),
    "fewer rows": (
        lambda path: graph(path, [helper.make_node("ReduceMean", ["flat"], ["logits"], axes=[0])]),
        "its output logits has 1 rows for 2 pictures",
    ),
    "more rows": (
        lambda path: graph(path, [helper.make_node("Concat", ["flat", "flat"], ["logits"], axis=0)]),
        "its output logits has 2 rows for 1 pictures",
    ),
    "a probability of -5": (
        lambda path: graph(
            path,
            [constant("five", np.float32(5)), helper.make_node("Sub", ["flat", "five"], ["probabilities"])],
            "probabilities",
        ),
        "its output is taken as probabilities, but has values from -5 to -4.024, and a row that sums to -644.2",
    ),
    "whole numbers": (
        lambda path: graph(
            path, [helper.make_node("Cast", ["flat"], ["logits"], to=TensorProto.INT64)], kind=TensorProto.INT64
        ),
        "output logits is not a row of scores for each picture",
    ),
    "text": (
        lambda path: graph(
            path, [helper.make_node("Cast", ["flat"], ["logits"], to=TensorProto.STRING)], kind=TensorProto.STRING
        ),
        "output logits is not a row of scores for each picture",
    ),
}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(kind: str, predict_folder: Path, predict_refusal: Refused) -> None:
    make, said = HOSTILE[kind]
    make(Path("a.onnx"))
    picture = predict_folder / "pictures" / "colour.png"
    message = predict_refusal("--model", "a.onnx", picture, picture)
    assert "a.onnx" in message
    assert said in message, message


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "/dev/zero", "none"])
def test_weights_in_external_files_are_not_read(location: str, predict_folder: Path, predict_refusal: Refused) -> None:
    made = onnx.load(onnx_file(Path("a.onnx"), metadata()))
    Path("b").mkdir()
    Path("secret").write_bytes(b"\1" * 10_000)
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * 4 * 3 * 3 * 3))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    Path("b/a.onnx").write_bytes(made.SerializeToString())
    assert "is not an ONNX file that onnxruntime can load" in predict_refusal(
        "--model", "b/a.onnx", predict_folder / "pictures" / "colour.png"
    )


@pytest.mark.usefixtures("short")
def test_declared_weights_that_are_missing_take_no_memory(predict_folder: Path, predict_refusal: Refused) -> None:
    made = onnx.load(onnx_file(Path("a.onnx"), metadata()))
    for dims in ([2**31, 2**20], [2**62, 4], [2**34]):
        made.graph.initializer[0].dims[:] = dims
        Path("a.onnx").write_bytes(made.SerializeToString())
        assert "can load" in predict_refusal("--model", "a.onnx", predict_folder / "pictures" / "colour.png")


def test_a_network_of_any_size_in_the_metadata_takes_the_pictures_size(
    predict_folder: Path, predict_refusal: Refused
) -> None:
    nodes = (Conv("conv", 10), GlobalAvgPool("pool"))
    huge = replace(Network("any", (3, 8, 8), nodes), input_shape=(3, 10**6, 10**6))
    told = metadata(network=huge.to_json(), network_sha256=huge.digest)
    onnx_file(Path("a.onnx"), told, size=(3, "H", "W"))
    message = predict_refusal("--model", "a.onnx", predict_folder / "pictures" / "colour.png")
    assert "takes inputs of (3, 1000000, 1000000)" in message


@pytest.mark.parametrize("accuracy", ["-5", "nan", "1e400", "inf", "2"])
def test_an_invalid_accuracy_is_not_printed(accuracy: str, tmp_path: Path) -> None:
    assert (
        load_predictor(onnx_file(tmp_path / "a.onnx", metadata(test_accuracy=accuracy))).origin == "trained on cifar10"
    )


def test_a_graph_without_outputs_is_refused(predict_folder: Path, predict_refusal: Refused) -> None:
    model = onnx.load(onnx_file(Path("a.onnx"), metadata()))
    del model.graph.output[:]
    onnx.save(model, "a.onnx")
    said = predict_refusal("--model", "a.onnx", predict_folder / "pictures" / "colour.png")
    assert said == "a.onnx has no output: take another copy"


def test_a_process_that_dies_is_reported_and_one_ends_with_its_model(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "a.onnx", metadata())
    model = LimitedProcess(path, 1)
    images = np.zeros((2, *NETWORK.input_shape), np.float32)
    assert model.run(images, None).shape == (2, 10)
    process = model._process._process
    process.kill()
    process.wait()
    with pytest.raises(InputError, match=r"a\.onnx crashes onnxruntime \(SIGKILL\)"):
        model.run(images, None)
    other = LimitedProcess(path, 1)
    process = other._process._process
    del other
    assert process.poll() is not None


def test_a_slow_model_gets_the_time_that_its_pictures_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first picture shows the time for one, so that many pictures may take longer than the limit of the first call."""
    images = np.zeros((24, *NETWORK.input_shape), np.float32)

    def seconds(model: LimitedProcess, count: int) -> float:
        started = time.monotonic()
        assert model.run(images[:count], None).shape == (count, 144)
        return time.monotonic() - started

    sample = seconds(LimitedProcess(graph(tmp_path / "a.onnx", loop(100_000, "rows")), 1), 1)
    monkeypatch.setattr(limited_process, "SECONDS", 1)
    model = LimitedProcess(graph(tmp_path / "a.onnx", loop(int(100_000 * 0.1 / sample), "rows")), 1)
    seconds(model, 1)
    assert seconds(model, 24) > 1


def test_the_json_of_a_graph_that_answers_is_complete(
    predict_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph(tmp_path / "a.onnx", [helper.make_node("Identity", ["flat"], ["logits"])], batch=3)
    picture = predict_folder / "pictures" / "colour.png"
    assert run("--model", tmp_path / "a.onnx", *[picture] * 5, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 5
