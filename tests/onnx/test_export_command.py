"""The command line of `export_onnx.py`, with fresh networks and runs, and files that onnxruntime opens without this project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from helpers.export_calls import watched_calls
from helpers.framework_process import FrameworkProcess
from helpers.paths import ROOT, environment_with_helpers
from helpers.scripts import script_main
from helpers.training_runs import Ended, execute, succeed
from parity import data
from parity.backend.registry import FRAMEWORKS
from parity.backend.worker import Worker
from parity.data.batches import preprocess
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import Add, Conv, GlobalAvgPool, Linear, ReLU
from parity.onnx.runtime import session
from parity.recipe import presets
from parity.recipe.recipe import read_recipe
from parity.training.run_folder import RunFolder, read_checkpoint
from parity.weights.canonical_state import initialise, save

main = script_main("export_onnx")

SMALL = "vgg_mini@0.125"
LIMIT = 200


def installed_files() -> set[str]:
    return {str(path) for path in Path(sysconfig.get_path("platlib")).glob("*")}


def export(*arguments: object) -> Ended:
    return execute([sys.executable, "scripts/export_onnx.py", *map(str, arguments)])


def exported(*arguments: object) -> dict[str, Any]:
    done = export(*arguments, "--json")
    assert done.code == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass(frozen=True)
class Exports:
    """A run, and for each framework what the command printed for several exports of it, and its connections and installations."""

    run: Path
    printed: dict[str, dict[str, str]]
    forbidden: dict[str, list[str]]
    installed: set[str]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, real_cifar10: data.Dataset) -> Exports:
    """The exports, all those of a framework from one process. PyTorch's process first trains the run.

    The run has two epochs, so that the statistics are not those of a fresh network. Exports are written into its parent. CIFAR-10 is in
    the cache by then, so that no process has a reason to touch a network.
    """
    folder, network, installed = tmp_path_factory.mktemp("runs"), articles.get_network(SMALL), installed_files()
    run = folder / "run"
    settings = ["--network", SMALL, "--recipe", "adam", "--data", "cifar10", "--epochs", "2", "--batch-size", "32"]
    settings += ["--train-limit", "96", "--test-limit", str(LIMIT), "--threads", "1", "--output", f"{run}"]
    save(folder / "fresh.safetensors", network, initialise(network, 0))
    flags = ["--softmax", "--preprocess", "--fold-batch-norm", "--opset", "17", "--json"]
    printed, forbidden = {}, {}
    for framework in ("torch", "paddle"):
        wanted = {
            "plain": ["--run", f"{run}", "--output", f"{framework}.onnx", "--json"],
            "flags": ["--run", f"{run}", "--output", f"{framework}-flags.onnx", *flags],
            "static": ["--run", f"{run}", "--output", f"{framework}-static", "--to", "static", "--json"],
        }
        if framework == "torch":
            wanted |= {
                "table": ["--run", f"{run}", "--output", "table.onnx", "--show-optimised"],
                "best": ["--weights", f"{run / 'best.safetensors'}", "--output", "best.onnx", "--json"],
                "fresh": ["--weights", "fresh.safetensors", "--output", "fresh.onnx", "--json"],
            }
        training = [("", "train", settings)] if framework == "torch" else []
        exporting = [("", "export", arguments) for arguments in wanted.values()]
        all_ends, forbidden[framework] = watched_calls(framework, folder, [*training, *exporting])
        assert [end.code for end in all_ends] == [0] * len(all_ends), [end.stderr for end in all_ends]
        ends = all_ends[len(training) :]
        assert [end.left for end in ends] == [[arguments[3]] for arguments in wanted.values()]
        printed[framework] = dict(zip(wanted, (end.stdout for end in ends), strict=True))
    return Exports(run, printed, forbidden, installed_files() - installed)


@pytest.fixture(scope="module")
def run(exports: Exports) -> Path:
    return exports.run


@pytest.fixture(scope="module")
def said(exports: Exports) -> dict[str, dict[str, str]]:
    """Framework -> the output of the command."""
    return exports.printed


@pytest.fixture(scope="module")
def files(run: Path, said: dict[str, dict[str, str]]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The run exported by either framework, and the output of the command."""
    return {name: (run.parent / f"{name}.onnx", json.loads(told["plain"])) for name, told in said.items()}


def test_both_frameworks_export_one_graph_and_say_what_it_holds(files: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    graphs = []
    for framework, (path, said) in files.items():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        graphs.append(model.graph.SerializeToString())
        assert said["framework"] == framework and said["opset"] == 18 and said["bytes"] == path.stat().st_size
        assert said["nodes"]["Conv"] == said["nodes"]["BatchNormalization"] == 8
        assert 0 <= said["check"]["error"] <= said["check"]["bound"] < 1e-3
    assert graphs[0] == graphs[1]


def test_the_metadata_describe_the_file(
    files: dict[str, tuple[Path, dict[str, Any]]], run: Path, framework: str
) -> None:
    path, _ = files[framework]
    told = session(path).get_modelmeta().custom_metadata_map
    network = Network.from_json(told["network"])
    assert network == articles.get_network(SMALL)
    assert told["network_sha256"] == network.digest
    assert told["framework"] == framework and json.loads(told["versions"])[framework]
    assert read_recipe(json.loads(told["recipe"])) == RunFolder.open(run).experiment.recipe
    assert tuple(json.loads(told["classes"])) == data.CLASSES["cifar10"]
    assert float(told["test_accuracy"]) == RunFolder.open(run).metrics("pass")[-1]["test_accuracy"]


def test_the_file_has_the_runs_accuracy_to_the_image(files: dict[str, tuple[Path, dict[str, Any]]], run: Path) -> None:
    experiment = RunFolder.open(run).experiment
    dataset = data.load("cifar10").limit(None, LIMIT)
    images = preprocess(dataset.test_images, experiment.recipe.preprocessing)
    labels = {name: session(path).run(None, {"image": images})[0].argmax(1) for name, (path, _) in files.items()}
    assert np.array_equal(labels["paddle"], labels["torch"])
    assert (labels["torch"] == dataset.test_labels).mean() == RunFolder.open(run).metrics("pass")[-1]["test_accuracy"]


@pytest.mark.slow
def test_all_10000_test_images_get_the_same_label_by_every_route(tmp_path: Path) -> None:
    settings = ("--network", SMALL, "--recipe", "adam", "--data", "cifar10", "--epochs", "1", "--train-limit", "3200")
    succeed([sys.executable, "scripts/train_torch.py", *settings, "--out", str(tmp_path / "run")])
    dataset, how = data.load("cifar10"), presets.get_recipe("adam").preprocessing
    experiment, network, state, _ = read_checkpoint(tmp_path / "run")
    assert experiment and len(dataset.test_labels) == 10_000
    labels = {}
    for framework in FRAMEWORKS:
        path = tmp_path / f"{framework}.onnx"
        exported("--framework", framework, "--run", tmp_path / "run", "--output", path)
        opened = session(path)
        with Worker(framework, threads=1) as worker:
            worker.start(network, experiment.recipe.optimizer, state, "float32")
            parts = [preprocess(dataset.test_images[i : i + 500], how) for i in range(0, 10_000, 500)]
            labels[framework] = np.concatenate([worker.predict(part)["logits"].argmax(1) for part in parts])
            labels[path.name] = np.concatenate([opened.run(None, {"image": part})[0].argmax(1) for part in parts])
    first, *rest = labels.values()
    assert all(np.array_equal(first, other) for other in rest)
    assert (first == dataset.test_labels).mean() == RunFolder.open(tmp_path / "run").metrics("pass")[-1][
        "test_accuracy"
    ]


ALONE = """
import sys, numpy, onnxruntime
assert not {"torch", "paddle", "parity"} & set(sys.modules)
for name in ("torch", "paddle", "parity"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} can be imported here")
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], onnxruntime.InferenceSession(sys.argv[1]).run(None, {"image": images})[0])
"""


def alone(python: list[str], path: str, model: Path, folder: Path) -> None:
    """Run the model where only onnxruntime and numpy can be imported; the scores must equal ours within rounding."""
    images = np.random.default_rng(0).random((5, 3, 32, 32), np.float32)
    np.save(folder / "images.npy", images)
    command = [*python, "-c", ALONE, str(model), str(folder / "images.npy"), str(folder / "scores.npy")]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    here = session(model).run(None, {"image": images})[0]
    np.testing.assert_allclose(np.load(folder / "scores.npy"), here, rtol=1e-5, atol=1e-5)


def test_onnxruntime_alone_opens_the_file(
    files: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path, framework: str
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    site = Path(sysconfig.get_path("platlib"))
    for name in (
        "onnxruntime",
        "numpy",
        "numpy.libs",
        "flatbuffers",
        "google",
        "packaging",
        "coloredlogs",
        "humanfriendly",
    ):
        if (site / name).exists():
            (packages / name).symlink_to(site / name)
    alone([sys.executable, "-S"], str(packages), files[framework][0], tmp_path)


@pytest.mark.slow
def test_the_oldest_onnxruntime_that_pyproject_admits_opens_every_opset(tmp_path: Path, framework: str) -> None:
    oldest = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"onnxruntime>=' in line)
    version = oldest.split(">=")[1].split('"')[0]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={version}.0", "numpy<2"], check=True)
    for opset in range(17, 22):
        path = tmp_path / f"{opset}.onnx"
        exported("--framework", framework, "--network", SMALL, "--opset", opset, "--output", path)
        alone([str(python)], "", path, tmp_path)


def test_an_export_installs_nothing_and_touches_no_network(framework: str, exports: Exports) -> None:
    assert exports.forbidden[framework] == []
    assert exports.installed == set()


def test_the_watch_sees_connections_and_installations() -> None:
    program = """
import socket
from helpers.watch import watch
seen = watch()
try:
    socket.create_connection(("127.0.0.1", 9), 1)
except OSError:
    pass
print(seen)
"""
    done = execute([sys.executable, "-c", program], environment_with_helpers())
    assert "socket.connect" in done.stdout


def test_probabilities_of_uint8_pictures_with_folded_batch_norms(
    framework: str, run: Path, said: dict[str, dict[str, str]]
) -> None:
    told = json.loads(said[framework]["flags"])
    assert "BatchNormalization" not in told["nodes"] and told["nodes"]["Softmax"] == 1 and told["opset"] == 17
    dataset = data.load("cifar10").limit(None, 20)
    opened = session(run.parent / f"{framework}-flags.onnx")
    chances = opened.run(None, {"image": np.ascontiguousarray(dataset.test_images.transpose(0, 2, 3, 1))})[0]
    assert chances.shape == (20, 10)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)


def test_the_frameworks_own_format_is_written_and_computes_the_same(
    framework: str, run: Path, said: dict[str, dict[str, str]]
) -> None:
    told = json.loads(said[framework]["static"])
    names = {path.name for path in (run.parent / f"{framework}-static").iterdir()}
    assert names == set(told["files"])
    assert {"model.pt2"} <= names if framework == "torch" else {"model.pdiparams"} <= names
    assert 0 <= told["check"]["error"] <= told["check"]["bound"]


def test_users_see_what_was_exported_by_which_framework_and_a_table(run: Path, said: dict[str, dict[str, str]]) -> None:
    told = said["torch"]["table"]
    assert told.startswith(f"{SMALL} of {run}, exported by PyTorch {version('torch')}")
    assert told.splitlines()[0].endswith(":")
    assert re.search(r"Conv {30,}8\n", told)
    assert "Written: table.onnx, checked against PyTorch" in told
    assert f"ONNX Runtime {version('onnxruntime')} runs:" in told and re.search(
        r"^  Conv\+Relu +8$", told, re.MULTILINE
    )


def test_fresh_weights_are_named_with_their_seed(framework: str, process: FrameworkProcess, tmp_path: Path) -> None:
    words = ("--framework", framework, "--model", "vgg_mini@0.05", "--to", "static", "--output", tmp_path / "a")
    first = process.execute("export_onnx", *words).stdout.splitlines()[0]
    name, distribution = {"paddle": ("PaddlePaddle", "paddlepaddle"), "torch": ("PyTorch", "torch")}[framework]
    assert first.startswith(f"vgg_mini@0.05 with fresh weights (seed 0), exported by {name} {version(distribution)}")


def test_weights_within_an_epoch_have_no_accuracy_and_those_of_best_do(
    run: Path, said: dict[str, dict[str, str]]
) -> None:
    best = json.loads(said["torch"]["best"])
    assert best["test_accuracy"] == max(line["test_accuracy"] for line in RunFolder.open(run).metrics("pass"))
    assert json.loads(said["torch"]["fresh"])["test_accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output", "a.onnx"), "missing option '--model'"),
        (("--network", "vgg99", "--output", "a.onnx"), "unknown network 'vgg99'"),
        (("--network", SMALL, "--output", "a.onnx", "--opset", "16"), "--opset 16 is not one of 17 to 21"),
        (("--network", SMALL, "--output", "a.txt"), "a.txt is not the name of an .onnx file"),
        (("--network", SMALL, "--output", "tests"), "tests is not the name of an .onnx file"),
        (("--network", SMALL, "--to", "static", "--output", "tests"), "tests exists"),
        (("--network", SMALL, "--to", "static", "--output", "x", "--softmax"), "--softmax is for ONNX files"),
        (("--run", "missing", "--output", "a.onnx"), "missing is not a run folder"),
        (("--run", "tests", "--output", "a.onnx"), "tests"),
        (("--weights", "missing.safetensors", "--output", "a.onnx"), "cannot read missing.safetensors"),
        (("--weights", "README.md", "--output", "a.onnx"), "README.md"),
        (("--weights", "missing.safetensors", "--seed", "1", "--output", "a.onnx"), "--seed is for fresh weights"),
    ],
)
def test_bad_usage_ends_with_2_and_one_line(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    try:
        code = main([*arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not (ROOT / "a.onnx").exists()


def test_checkpoints_that_are_not_float32_are_refused(tmp_path: Path) -> None:
    network = articles.get_network(SMALL)
    save(tmp_path / "wide.safetensors", network, {n: a.astype(np.float64) for n, a in initialise(network, 0).items()})
    done = export("--weights", tmp_path / "wide.safetensors", "--output", tmp_path / "a.onnx")
    assert done.code == 2 and "float64" in done.stderr
    assert read_checkpoint(tmp_path / "wide.safetensors")[1] == network


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("flags", [(), ("--softmax",)], ids=["scores", "probabilities"])
def test_the_rounding_of_a_mean_of_a_map_refuses_no_export(flags: tuple[str, ...], seed: int, tmp_path: Path) -> None:
    """Each mean of 1,024 pixels rounds by more than one ULP of the weights shows."""
    nodes = (Conv("c1", 6, bias=False), ReLU("r"), GlobalAvgPool("gap"), Linear("fc", 10))  # names decide fresh weights
    file = tmp_path / "averaged.json"
    file.write_text(Network("averaged", (3, 32, 32), nodes).to_json())
    output = tmp_path / "averaged.onnx"
    assert (
        main(["--model", str(file), "--framework", "paddle", "--seed", str(seed), "--output", str(output), *flags]) == 0
    )
    assert output.exists()


def test_a_cousin_of_a_networks_file_is_exported_from_any_folder(
    processes: dict[str, FrameworkProcess], tmp_path: Path
) -> None:
    file = tmp_path / "some folder" / "small.json"
    file.parent.mkdir()
    nodes = (Conv("conv", 8), Add("sum", ((), (Conv("other", 8),))), GlobalAvgPool("mean"), Linear("fc", 10))
    file.write_text(Network("small", (3, 8, 8), nodes).to_json())
    output = tmp_path / "small.onnx"
    words = ("--model", f"{file}@0.5+classes5", "--framework", "torch", "--seed", "1", "--output", output)
    processes["torch"].execute("export_onnx", *words, folder=tmp_path)
    (scores,) = onnx.load(str(output)).graph.output
    assert scores.type.tensor_type.shape.dim[1].dim_value == 5
