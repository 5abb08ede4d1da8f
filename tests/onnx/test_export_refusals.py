"""Exports that fail or are wrong, and exports of unsupported input, end in one line and leave no files; unusual networks are exported."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.export_calls import Ended, calls
from helpers.framework_process import FrameworkProcess
from helpers.refusals import NETWORK, Refused, contents, pass_lines, saved_run, the_error
from helpers.scripts import script_main
from parity.backend.registry import FRAMEWORKS
from parity.backend.worker import Worker
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Branches, Conv, Flatten, Linear, ReLU
from parity.onnx import operators
from parity.onnx.exporting import verify_file
from parity.onnx.graph_reader import load
from parity.onnx.runtime import session
from parity.recipe import presets
from parity.recipe.recipe import Experiment, Preprocessing, fitting
from parity.training.run_folder import RunFolder, proportion
from parity.weights import canonical_state
from parity.weights.canonical_state import State, initialise

main = script_main("export_onnx")

# ------------------------------------------------------------------------------------- with a framework, fault by fault


def picture_network(name: str, channels: int) -> Network:
    return Network(name, (channels, 6, 5), (Conv("conv", 4), ReLU("relu"), Flatten("flatten"), Linear("fc", 3)))


GREY = picture_network("grey", 1)
FOUR = replace(picture_network("four", 4), source="a file of more than 4000 bytes " * 99)
VECTOR = Network("vector", (7,), (Linear("fc", 3),))
BARE = Network("bare", (3, 4, 4), (ReLU("relu"), Flatten("flatten")))
WIDE_EPS = Network("wide_eps", (3, 4, 4), (BatchNorm("norm", eps=0.01), Flatten("flatten"), Linear("fc", 3)))
NEAR_EPS = replace(WIDE_EPS, name="near_eps", nodes=(BatchNorm("norm", eps=1.1e-5), *WIDE_EPS.nodes[1:]))
"""A network whose float32 scores do not show the difference between its eps and ONNX's default."""

MONO = Experiment(GREY, replace(presets.get_recipe("quick"), preprocessing=Preprocessing((0.25,), (0.5,))), "shapes10")
LONG = "x" * 300


def prepare(folder: Path) -> None:
    """Write what the calls below export: networks, and faulty files of weights."""
    for network in (GREY, FOUR, VECTOR, BARE, WIDE_EPS, NEAR_EPS):
        (folder / f"{network.name}.json").write_text(network.to_json())
    canonical_state.save(folder / "bare.safetensors", BARE, {})
    Image.new("RGB", (4, 4), "red").save(folder / "red.png")
    state = initialise(GREY, 0)
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("huge", 3e38)):
        canonical_state.save(
            folder / f"{name}.safetensors", GREY, state | {"fc.weight": np.full_like(state["fc.weight"], value)}
        )
    for name, network in (("mono", GREY), ("mono for four", FOUR)):
        canonical_state.save(
            folder / f"{name}.safetensors", network, initialise(network, 0), {"experiment": MONO.to_json()}
        )


@dataclass(frozen=True)
class Case:
    """A call and how it must end; `said` is in its last line, with {} for the framework's name. Code None means that of `FULL_DISK`."""

    arguments: tuple[str, ...]
    code: int | None
    said: str = ""
    fault: str = ""
    command: str = "export"


def onnx(*arguments: str) -> tuple[str, ...]:
    return (*arguments, "--output", "made.onnx")


def static(*arguments: str) -> tuple[str, ...]:
    return (*arguments, "--to", "static", "--output", "made")


FRESH = ("--network", "grey.json")
FULL_DISK = {"paddle": 1, "torch": 2}
"""Paddle's own writer reports no error, so its file is found damaged when it is read; our writer reports that it cannot write."""

CASES: dict[str, Case] = {
    "an exporter that fails": Case(onnx(*FRESH), 1, "failed: {}'s exporter failed: no such operator", "its exporter fails"),
    "a static exporter that fails": Case(static(*FRESH), 1, "failed: {}'s exporter failed: no such", "its exporter fails"),
    "Ctrl-C within an exporter": Case(onnx(*FRESH), 130, "interrupted", "its exporter is interrupted"),
    "an export of other weights": Case(onnx(*FRESH), 1, "failed: {}'s export of grey differs from the network", "it exports other weights"),
    "an export that computes otherwise": Case(onnx(*FRESH), 1, "own graph and {} differ by", "it computes otherwise"),
    "a static one that computes otherwise": Case(static(*FRESH), 1, "failed: the static program and {} differ by", "it computes otherwise"),
    "a file without its epsilon": Case(onnx("--network", "near_eps.json"), 1, "wrong: epsilon is 1e-05 in", "its writer loses an epsilon"),
    "an epsilon near ONNX's own": Case(("--network", "near_eps.json", "--fold-batch-norm", "--softmax", "--output", "near_eps.onnx"), 0),
    "a network of vectors": Case(onnx("--network", "vector.json"), 2, "vector.json takes inputs (7,): only networks that take pictures"),
    "a static network of vectors": Case(static("--network", "vector.json"), 2, "only networks that take pictures"),
    "a recipe of other channels": Case(onnx("--weights", "mono for four.safetensors"), 2, "its preprocessing is for 1 channels"),
    "weights of NaN": Case(onnx("--weights", "nan.safetensors"), 2, "nan.safetensors: fc.weight holds numbers that are not finite:"),
    "infinite weights": Case(static("--weights", "infinite.safetensors"), 2, "fc.weight holds numbers that are not finite"),
    "weights that lead to infinite scores": Case(onnx("--weights", "huge.safetensors"), 2, "grey yields scores that are not finite"),
    "an output of 300 characters": Case((*FRESH, "--output", f"{LONG}.onnx"), 2, f"cannot write {LONG}.onnx: File name too long"),
    "a static output of 300 characters": Case((*FRESH, "--to", "static", "--output", LONG), 2, f"cannot write {LONG}: File name too long"),
    "an output of 300 characters, no .onnx": Case((*FRESH, "--output", LONG), 2, "is not the name of an .onnx file"),
    "a run of 300 characters": Case(onnx("--run", LONG), 2, "is not a run folder"),
    "an export on a full disk": Case(onnx("--network", "four.json"), None, "", "its disk is full"),
    "a static export on a full disk": Case(static("--network", "four.json"), None, "", "its disk is full"),
    "grey pictures": Case((*FRESH, "--output", "grey.onnx"), 0),
    "a recipe of grey pictures, in the graph": Case(("--weights", "mono.safetensors", "--preprocess", "--output", "mono.onnx"), 0),
    "four channels, in the graph": Case(("--network", "four.json", "--preprocess", "--softmax", "--output", "four.onnx"), 0),
    "four channels, static": Case(("--network", "four.json", "--to", "static", "--output", "four"), 0),
    "a network without parameters": Case(("--network", "bare.json", "--output", "bare.onnx"), 0),
    "a static network without parameters": Case(("--network", "bare.json", "--to", "static", "--output", "bare"), 0),
    "a prediction without parameters": Case(("--model", "bare.safetensors", "red.png", "--top", "48", "--json"), 0, command="predict"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Ended]]]:
    """The exits of the calls of `CASES` in a framework, and their folder. All run in one process, for the first test that needs them."""
    known: dict[str, tuple[Path, dict[str, Ended]]] = {}

    def run(framework: str) -> tuple[Path, dict[str, Ended]]:
        if framework not in known:
            folder = tmp_path_factory.mktemp(framework)
            prepare(folder)
            wanted = [(case.fault, case.command, list(case.arguments)) for case in CASES.values()]
            known[framework] = folder, dict(zip(CASES, calls(framework, folder, wanted), strict=True))
        return known[framework]

    return run


Ends = Callable[[str], tuple[Path, dict[str, Ended]]]


@pytest.mark.parametrize("what", CASES)
def test_every_call_ends_as_expected_and_leaves_no_partial_file(what: str, framework: str, ended: Ends) -> None:
    case, found = CASES[what], ended(framework)[1][what]
    assert found.code == (FULL_DISK[framework] if case.code is None else case.code), found.stderr
    if found.code:
        lines = found.stderr.splitlines()
        assert len(lines) == 1 and case.said.format(FRAMEWORKS[framework]) in lines[0], found.stderr
        assert lines[0].startswith({1: "failed: ", 2: "error: ", 130: "interrupted"}[found.code])
        assert found.left == []
    elif case.command == "export":
        assert found.left == [case.arguments[-1]]


def test_the_graph_takes_as_many_channels_as_the_network(framework: str, ended: Ends) -> None:
    folder, _ = ended(framework)
    for name, shape in (
        ("grey", ["N", 1, 6, 5]),
        ("mono", ["N", 6, 5, 1]),
        ("four", ["N", 6, 5, 4]),
        ("bare", ["N", 3, 4, 4]),
    ):
        assert session(folder / f"{name}.onnx").get_inputs()[0].shape == shape
    images = np.arange(2 * 6 * 5, dtype=np.uint8).reshape(2, 6, 5, 1)
    outside = ((images.transpose(0, 3, 1, 2) / 255 - 0.25) / 0.5).astype(np.float32)
    found = [
        session(folder / f"{name}.onnx").run(None, {"image": given})[0]
        for name, given in (("mono", images), ("grey", outside))
    ]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


def test_the_bytes_on_disk_are_the_network(framework: str, ended: Ends) -> None:
    folder, _ = ended(framework)
    for network, arguments in ((FOUR, {"preprocessing": fitting(None, 4)}), (NEAR_EPS, {})):
        data = (folder / f"{network.name}.onnx").read_bytes()
        metadata = {entry.key: entry.value for entry in load(data).metadata_props}
        assert Network.from_json(metadata["network"]) == network
        chain = operators.operators(network, initialise(network, 0))
        verify_file(data, network, operators.fold_batch_norms(chain), softmax=True, metadata=metadata, **arguments)


def test_a_network_without_parameters_predicts(framework: str, ended: Ends) -> None:
    answer = json.loads(ended(framework)[1]["a prediction without parameters"].stdout)
    assert {entry["index"] for entry in answer["predictions"][0]["top"][:16]} == set(range(16))  # red is first


# --------------------------------------------------------------------------------------------------- exports of a worker


def after_a_step(worker: Worker, network: Network, exported: bool) -> State:
    """The state after one update of a model that was exported before, or whose export was refused."""
    worker.start(network, presets.get_recipe("article").optimizer, initialise(network, 0), "float32")
    if exported:
        with suppress(InputError):
            worker.export()
    images = np.random.default_rng(0).random((4, *network.input_shape), np.float32)
    worker.step(images, np.arange(4) % 3, {}, 0.1, 4)
    return worker.state()


@pytest.mark.parametrize("eps", [1e-5, WIDE_EPS.nodes[0].eps], ids=["exported", "refused by Paddle 2"])
def test_a_model_trains_after_an_export_as_without_one(eps: float, worker: Worker) -> None:
    network = replace(WIDE_EPS, nodes=(BatchNorm("norm", eps=eps), *WIDE_EPS.nodes[1:]))
    before, after = (after_a_step(worker, network, exported) for exported in (False, True))
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("within", [False, True], ids=["in a chain", "in a branch"])
def test_an_eps_that_the_exporter_refuses_is_bad_input_that_names_the_layer(
    within: bool, workers: dict[str, Worker]
) -> None:
    norm, *rest = WIDE_EPS.nodes
    network = replace(WIDE_EPS, nodes=(Branches("sides", ((norm,), (ReLU("relu"),))), *rest)) if within else WIDE_EPS
    paddle = workers["paddle"]
    paddle.start(network, presets.get_recipe("article").optimizer, initialise(network, 0), "float32")
    if paddle.versions()["paddle"].startswith("2."):
        with pytest.raises(
            InputError, match=r"layer norm has eps 0\.01, but Paddle 2.* exports a batch norm only with eps"
        ):
            paddle.export()
    else:
        assert paddle.export()


def test_a_network_without_parameters_predicts_but_cannot_train(worker: Worker) -> None:
    worker.start(BARE, presets.get_recipe("article").optimizer, {}, "float32")
    images = np.ones((2, *BARE.input_shape), np.float32)
    assert worker.predict(images)["logits"].shape == (2, 48)
    with pytest.raises(InputError, match="network bare has no parameters, so there is nothing to train"):
        worker.step(images, np.zeros(2, np.int64), {}, 0.1, 2)


LEFT_ALONE = """
import logging, sys
from parity.network import articles
from parity.backend.model_state import build
from parity.backend.registry import implementation, make_backend
implementation(sys.argv[1], "runtime", 1).start("cpu", 1)
model = build(make_backend(sys.argv[1]), articles.get_network("vgg_mini@0.05"))
exporter = implementation(sys.argv[1], "export")
logger = logging.getLogger("torch.onnx")
logger.setLevel(logging.INFO)
model.train()
model.bn1_1.eval()
layers = list(model.children())
attributes = [dict(vars(layer)) for layer in [model, *layers]]
exporter.to_onnx(model)
exporter.to_static(model, __import__("pathlib").Path(sys.argv[2]))
assert [dict(vars(layer)) for layer in [model, *layers]] == attributes
assert model.training and not model.bn1_1.training
assert logger.level == logging.INFO
logger.setLevel(logging.NOTSET)
"""


def test_an_export_leaves_the_model_and_the_logging_as_they_were(
    framework: str, process: FrameworkProcess, tmp_path: Path
) -> None:
    process.run(LEFT_ALONE, framework, tmp_path)


# ------------------------------------------------------------------------------------------------ without any framework


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the export in a folder, without any framework; it must refuse its input and change nothing. Return its one line."""
    monkeypatch.chdir(tmp_path)
    for name in FRAMEWORKS:
        monkeypatch.setitem(sys.modules, name, None)

    def call(*arguments: str) -> str:
        before = contents(tmp_path)
        code = main([*arguments, "--output", "made.onnx", "--json"])
        stdout, stderr = capsys.readouterr()
        assert (code, stdout) == (2, "")
        assert contents(tmp_path) == before
        return the_error(stderr.splitlines())

    return call


def run_at(position: str, lines: bytes) -> RunFolder:
    """A run whose last checkpoint has the `position`, with these `lines` of metrics."""
    run = saved_run(Path("run"))
    network, state, metadata = canonical_state.load(run.last)
    canonical_state.save(run.last, network, state, metadata | {"position": position})
    run.metrics_file.write_bytes(lines)
    return run


PASS = pass_lines(0.5)
DAMAGED_RUNS: dict[str, tuple[str, bytes, str]] = {
    "a position that is no JSON": ('{"epoch":', PASS, "run/last.safetensors: position JSON"),
    "a position that is a list": ("[1]", PASS, "run/last.safetensors: position JSON: expected an object"),
    "a position of another type": ('{"epoch": "1"}', PASS, "run/last.safetensors: position: epoch = '1'"),
    "a position with an unknown field": ('{"place": 1}', PASS, "run/last.safetensors: position: unknown field 'place'"),
    "metrics that are no text": ('{"epoch": 1}', b"\xff\xfe\0\n", "run/metrics.jsonl: line 1, metrics JSON"),
    "metrics that are lists": ('{"epoch": 1}', PASS + b"[1]\n", "run/metrics.jsonl: line 2, metrics JSON: expected an object"),
    "metrics nested too deep": ('{"epoch": 1}', b"[" * 100_000 + b"\n", "run/metrics.jsonl: line 1, metrics JSON"),
    "no accuracy": ('{"epoch": 1}', PASS.replace(b"test_accuracy", b"accuracy"), "run/metrics.jsonl: line 1 lacks test_accuracy"),
    "a list of accuracies": ('{"epoch": 1}', pass_lines([1]), "run/metrics.jsonl: line 1: test_accuracy = [1]"),
    "an accuracy in percent": ('{"epoch": 1}', pass_lines(50), "run/metrics.jsonl: line 1: test_accuracy = 50"),
    "an accuracy of NaN": ('{"epoch": 1}', pass_lines(math.nan), "run/metrics.jsonl: line 1: test_accuracy = nan"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED_RUNS)
def test_a_damaged_run_is_refused_by_its_file(damage: str, refused: Refused) -> None:
    position, lines, said = DAMAGED_RUNS[damage]
    run_at(position, lines)
    assert refused("--run", "run").startswith(said)


@pytest.mark.parametrize("accuracy", ["many", "", "nan", "-0.1", "1.1", "1e999", "[0.5]"])
def test_a_file_with_an_invalid_accuracy_is_refused(accuracy: str, refused: Refused) -> None:
    canonical_state.save(Path("a.safetensors"), NETWORK, initialise(NETWORK, 0), {"test_accuracy": accuracy})
    assert refused("--weights", "a.safetensors").startswith(
        f"a.safetensors: test_accuracy = '{accuracy}' is not a number"
    )


@pytest.mark.parametrize(
    ("epoch", "batch", "passes", "said"),
    [
        (1, 0, "0.25", 0.25),
        (1, 0, "0.25 0.75", 0.25),
        (2, 0, "0.25 0.75", 0.75),
        (1, 0, "0", 0.0),
        (1, 3, "0.25", None),
        (0, 3, "", None),
        (0, 0, "0.25", None),
        (-1, 0, "0.25 0.75", None),
        (2, 0, "0.25", None),
    ],
)
def test_a_run_has_the_accuracy_of_the_epoch_that_its_checkpoint_ends(
    epoch: int, batch: int, passes: str, said: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = pass_lines(*map(float, passes.split()))
    run = run_at(json.dumps({"epoch": epoch, "batch": batch}), lines + b'{"event": "batch", "cos')
    assert run.accuracy(canonical_state.load(run.last)[2]) == said


def test_a_checkpoint_without_a_position_has_no_accuracy(tmp_path: Path) -> None:
    assert saved_run(tmp_path / "run").accuracy({}) is None


def test_an_accuracy_is_a_number_from_0_to_1() -> None:
    assert [proportion(value) for value in (0, 1, "0.5", repr(0.1))] == [0.0, 1.0, 0.5, 0.1]
    for value in (10**400, None, {}):
        with pytest.raises(InputError, match="is not a number from 0 to 1"):
            proportion(value)


def test_preprocessing_without_a_recipe_divides_pixels_by_255() -> None:
    for channels in (1, 3, 4):
        assert fitting(None, channels) == Preprocessing((0.0,) * channels, (1.0,) * channels)
    assert fitting(Preprocessing((0.5,), (2.0,)), 1) == Preprocessing((0.5,), (2.0,))
    with pytest.raises(InputError, match="for 1 channels, but its network takes 3"):
        fitting(Preprocessing((0.5,), (2.0,)), 3)
