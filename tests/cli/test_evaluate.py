"""Evaluation with views: equal to loops in NumPy by every route, and the single view has the test error of training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import numpy_network
from helpers.framework_process import FrameworkProcess
from helpers.refusals import contents, saved_run, the_error
from helpers.scripts import script_main
from parity.backend.registry import FRAMEWORKS
from parity.cli.evaluate import matched
from parity.data import Dataset, image_files
from parity.data.batches import preprocess
from parity.errors import InputError
from parity.inference import evaluate
from parity.inference.evaluate import Plan
from parity.inference.predict import load_predictor
from parity.network.dense import dense, dense_state
from parity.network.network import Network
from parity.network.nodes import Conv, Flatten, Linear, MaxPool, ReLU
from parity.recipe.optimizer import Optimizer
from parity.recipe.recipe import Augmentation, Experiment, Preprocessing, Recipe
from parity.training.run_folder import read_checkpoint
from parity.weights import canonical_state

main = script_main("evaluate")

CLASSES = tuple(f"class{i}" for i in range(7))
SIDE, SCALES, GRID = 8, (9, 11, 13), 3
NETWORK = Network(
    "for_views", (3, SIDE, SIDE), (Conv("conv", 6), ReLU("relu"), MaxPool("pool"), Flatten("flatten"), Linear("fc", 7))
)
RECIPE = Recipe(
    "jittered",
    Optimizer("momentum", 0.02),
    epochs=1,
    batch_size=8,
    preprocessing=Preprocessing((0.4, 0.5, 0.6), (0.3, 0.2, 0.1), crop=SIDE),
    augmentation=Augmentation(crop=SIDE, flip=True, scale_low=9, scale_high=13),
)
VIEWS = ("--views", "single,flip,crops,dense,dense+crops", "--grid", str(GRID))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of seven classes in different sizes, and a new run on it."""
    folder = tmp_path_factory.mktemp("views")
    random = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 5)):
        for name in CLASSES:
            (folder / "pictures" / part / name).mkdir(parents=True)
            for i in range(count):
                height, width = random.integers(9, 20, 2)
                pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / part / name / f"{i}.png")
    experiment = Experiment(NETWORK, RECIPE, f"folder:{folder / 'pictures'}", classes=CLASSES)
    saved_run(folder / "run", experiment)
    return folder


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def errors(result: dict[str, Any]) -> dict[tuple[str, tuple[int, ...]], tuple[int, int]]:
    """(wrong, wrong among the first five) by set and scales."""
    return {(row["views"], tuple(row["scales"])): (row["wrong"], row["wrong_top5"]) for row in result["rows"]}


def chances(network: Network, state: canonical_state.State, pixels: np.ndarray) -> np.ndarray:
    """Posteriors [K] of one uint8 picture [C,h,w], in NumPy and float64."""
    network = Network("any", pixels.shape, network.nodes)
    x = preprocess(pixels[None], Preprocessing((0.4, 0.5, 0.6), (0.3, 0.2, 0.1)), "float64")
    (scores,) = numpy_network.outputs(network, state, x)[network.nodes[-1].name]
    powers: np.ndarray = np.exp(scores)
    return powers / powers.sum()


def naive(network: Network, state: canonical_state.State, path: Path) -> dict[tuple[str, tuple[int, ...]], np.ndarray]:
    """Posteriors of one picture by set and scales, view by view."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    width, height = picture.size
    wide = dense(network)

    def scaled(smallest: int) -> np.ndarray:
        least = min(width, height)
        size = (int(width * smallest / least + 0.5), int(height * smallest / least + 0.5))
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).transpose(2, 0, 1)

    def middle(pixels: np.ndarray) -> np.ndarray:
        top, left = (pixels.shape[1] - SIDE) // 2, (pixels.shape[2] - SIDE) // 2
        return pixels[:, top : top + SIDE, left : left + SIDE]

    once = middle(scaled(11))
    found = {("single", ()): chances(network, state, once)}
    found["flip", ()] = np.mean([chances(network, state, view) for view in (once, once[..., ::-1])], axis=0)
    for scale in SCALES:
        pixels = scaled(scale)
        # Pictures of 9 have no room for three different crops of 8, so an eighth of 8 is added on each side.
        room = np.pad(pixels, ((0, 0), (1, 1), (1, 1)), "reflect") if scale == 9 else pixels
        views = []
        for i in range(GRID):
            for j in range(GRID):
                top = round(i * (room.shape[1] - SIDE) / (GRID - 1) + 1e-9)
                left = round(j * (room.shape[2] - SIDE) / (GRID - 1) + 1e-9)
                crop = room[:, top : top + SIDE, left : left + SIDE]
                views += [crop, crop[..., ::-1]]
        found["crops", (scale,)] = np.mean([chances(network, state, view) for view in views], axis=0)
        both = [chances(wide, state_of(wide, state), view) for view in (pixels, pixels[..., ::-1])]
        found["dense", (scale,)] = np.mean(both, axis=0)
    for name in ("crops", "dense"):
        found[name, SCALES] = np.mean([found[name, (scale,)] for scale in SCALES], axis=0)
    for scales in (*((scale,) for scale in SCALES), SCALES):
        found["dense+crops", scales] = (found["dense", scales] + found["crops", scales]) / 2
    return found


def state_of(network: Network, state: canonical_state.State) -> canonical_state.State:
    return {name: array.astype(np.float64) for name, array in dense_state(network, state).items()}


@pytest.fixture(scope="module")
def wanted(place: Path) -> dict[tuple[str, tuple[int, ...]], tuple[int, int]]:
    """Numbers of wrong pictures by set and scales, counted by sorting the results of the loops."""
    _, network, state, _ = read_checkpoint(place / "run")
    state = {name: array.astype(np.float64) for name, array in state.items()}
    found: dict[tuple[str, tuple[int, ...]], list[tuple[bool, bool]]] = {}
    for path in sorted((place / "pictures" / "val").rglob("*.png")):
        true = CLASSES.index(path.parent.name)
        for row, posteriors in naive(network, state, path).items():
            best = sorted(range(7), key=lambda c: -posteriors[c])
            found.setdefault(row, []).append((true != best[0], true not in best[:5]))
    return {row: (sum(a for a, _ in told), sum(b for _, b in told)) for row, told in found.items()}


# The whole


def test_posteriors_of_all_views_are_those_of_a_plain_loop(place: Path) -> None:
    _, network, state, _ = read_checkpoint(place / "run")
    model = load_predictor(place / "run", "onnx")
    plan = Plan(tuple(evaluate.SETS), model.size, SCALES, GRID)
    paths = sorted((place / "pictures" / "val").rglob("*.png"))[::4]
    found = evaluate._posteriors(model, evaluate.started(model, plan), plan, looked_at(paths))
    state = {name: array.astype(np.float64) for name, array in state.items()}
    for i, path in enumerate(paths):
        for (name, scales), posteriors in naive(network, state, path).items():
            if name in evaluate.MEMBERS or len(scales) > 1:
                continue
            np.testing.assert_allclose(found[name, sum(scales)][i], posteriors, rtol=1e-4)


def test_errors_of_all_views_are_those_of_a_plain_loop(
    place: Path, wanted: dict[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert errors(evaluated(capsys, "--model", place / "run", "--framework", "onnx", *VIEWS)) == wanted
    assert len(set(wanted.values())) > 3, "views that all err alike would show nothing"


def looked_at(paths: list[Path]) -> list[evaluate.Look]:
    whole = [image_files.whole(path, 3) for path in paths]
    return [
        (image_files.middle(image_files.rescaled(p, 11), SIDE, SIDE), {s: image_files.rescaled(p, s) for s in SCALES})
        for p in whole
    ]


def test_only_doubtful_pictures_get_crops(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_predictor(place / "run", "onnx")
    looks = looked_at(sorted((place / "pictures" / "val").rglob("*.png")))
    plan = Plan(("flip", "crops"), model.size, SCALES, GRID)
    forwards = evaluate.started(model, plan)
    known = evaluate._posteriors(model, forwards, plan, looks)
    *_, second, first = np.sort(known["flip", 0], axis=1).T
    gaps = np.sort(first - second)
    margin = float(gaps[16] + gaps[17]) / 2
    doubtful = first - second < margin
    assert doubtful.sum() == 17 and len(doubtful) == 35
    seen: list[int] = []

    def counted(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return forwards["crops"](images)

    for sets in (("doubtful",), ("crops", "doubtful")):
        plan = Plan(sets, model.size, SCALES, GRID, margin=margin)
        found = evaluate._posteriors(model, {"crops": counted}, plan, looks)
        for scale in SCALES:
            wanted = np.where(doubtful[:, None], known["crops", scale], known["flip", 0])
            np.testing.assert_allclose(found["doubtful", scale], wanted, rtol=1e-5)
    one = 35 * 2 + 17 * 3 * 2 * GRID**2
    assert sum(seen) == one + 35 * (2 + 3 * 2 * GRID**2), "no crop is computed that is not needed"
    call = ("--model", place / "run", "--framework", "onnx", "--grid", GRID, "--views", "flip", "--doubtful", margin)
    *_, own = evaluated(capsys, *call, "--report", tmp_path)["rows"]
    scales = ", ".join(map(str, SCALES))
    assert f"![confusion matrix, doubtful {margin:g} at {scales}]" in (tmp_path / "evaluation.md").read_text()
    assert (own["views"], own["scales"]) == (f"doubtful {margin:g}", list(SCALES))
    assert own["views_per_picture"] == pytest.approx(one / 35, abs=1e-3)


@pytest.fixture(scope="module")
def by_framework(place: Path, processes: dict[str, FrameworkProcess]) -> Callable[[str], dict[str, Any]]:
    """Results of one process of a framework for the run, and for two runs that it trains itself, with the flags of the scripts."""
    found: dict[str, dict[str, Any]] = {}
    ten = Network("ten", NETWORK.input_shape, NETWORK.nodes).with_classes(10)
    small = Network("small24", (3, 24, 24), (Conv("conv", 6), MaxPool("pool", 4, 4), Flatten("flat"), Linear("fc", 10)))
    for network in (ten, small):
        (place / f"{network.name[:3]}.json").write_text(network.to_json())

    def run(framework: str) -> dict[str, Any]:
        if framework not in found:
            out, cut, file = (f"{place / framework}{end}" for end in ("", "-cut", ".onnx"))
            train = f"train_{framework}"
            few, own = ("--epochs", "1", "--batch-size", "8"), ("--framework", framework)
            pictures = ("--data", f"folder:{place / 'pictures'}", "--scale-jitter", "9,13")
            shapes = ("--data", "shapes10", "--train-limit", "40", "--test-limit", "60")
            calls = {
                "views": ("evaluate", "--model", f"{place / 'run'}", *own, *VIEWS),
                "trained": (
                    train,
                    "--network",
                    f"{place / 'ten.json'}",
                    "--recipe",
                    "quick",
                    *pictures,
                    *few,
                    "--out",
                    out,
                ),
                "single": ("evaluate", "--model", out, *own, "--views", "single"),
                "only": (train, "--eval-only", out),
                "again": (train, "--resume", out),
                "export": ("export_onnx", "--run", out, *own, "--dense", "--output", file),
                "file": ("evaluate", "--model", file, *VIEWS),
                "run": ("evaluate", "--model", out, *own, *VIEWS),
                "cut": (
                    train,
                    "--network",
                    f"{place / 'sma.json'}",
                    "--recipe",
                    "distorted",
                    *shapes,
                    *few,
                    "--out",
                    cut,
                ),
                "cut views": ("evaluate", "--model", cut, *own, "--limit", "60", "--views", "single,dense,crops"),
            }
            ends = {
                what: processes[framework].execute(*words, "--json", "--threads", "1") for what, words in calls.items()
            }
            said = {what: json.loads(ended.stdout) for what, ended in ends.items()}
            lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
            found[framework] = said | {"metrics": [json.loads(line) for line in lines]}
        return found[framework]

    return run


@pytest.mark.slow
def test_either_framework_errs_as_the_plain_loop_does(
    by_framework: Callable[[str], dict[str, Any]], framework: str, wanted: dict[Any, Any]
) -> None:
    assert errors(by_framework(framework)["views"]) == wanted


def test_the_error_of_a_single_view_is_that_of_training_s_own_test(
    by_framework: Callable[[str], dict[str, Any]], framework: str
) -> None:
    said = by_framework(framework)
    assert said["trained"]["test_images"] == said["single"]["pictures"] == 35
    assert 1 - said["single"]["rows"][0]["top1_error"] == pytest.approx(said["trained"]["test_accuracy"])
    assert said["only"]["test_accuracy"] == said["again"]["test_accuracy"] == said["trained"]["test_accuracy"]
    assert 1 - said["cut views"]["rows"][0]["top1_error"] == pytest.approx(said["cut"]["test_accuracy"])


def test_a_network_gets_as_many_scores_as_a_folder_has_classes(
    by_framework: Callable[[str], dict[str, Any]], framework: str
) -> None:
    said = by_framework(framework)
    assert said["trained"]["network"] == "ten+classes10+classes7"
    assert (said["single"]["classes"], said["single"]["network"]) == (7, "ten+classes10+classes7")


def test_a_dense_export_errs_as_the_run_that_it_is_of(
    by_framework: Callable[[str], dict[str, Any]], framework: str
) -> None:
    said = by_framework(framework)
    assert errors(said["file"]) == errors(said["run"])
    assert [row["scales"] for row in said["file"]["rows"] if row["views"] == "dense"] == [[9], [11], [13], [9, 11, 13]]


def test_larger_pictures_in_memory_are_evaluated_whole_and_in_a_grid(
    by_framework: Callable[[str], dict[str, Any]], framework: str
) -> None:
    said = by_framework(framework)["cut views"]
    assert [(row["views"], row["scales"]) for row in said["rows"]] == [("single", []), ("dense", [32]), ("crops", [32])]
    assert said["rows"][-1]["padding"] == [0], "crops of 24 have room in pictures of 32"


def test_both_frameworks_train_on_the_same_jittered_crops(by_framework: Callable[[str], dict[str, Any]]) -> None:
    streams = {by_framework(name)["metrics"][-1]["stream"] for name in FRAMEWORKS}
    assert len(streams) == 1 and streams != {""}


def test_the_model_that_comes_with_the_project_errs_less_by_two_views(capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(capsys, "--limit", "1000", "--views", "single,flip")
    single, flip = (row["wrong"] for row in result["rows"])
    assert abs(single - 170) <= 2, "17.02% on all pictures; rounding may turn a picture or two"
    assert flip < single - 10


def test_a_report_holds_the_table_and_a_picture(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    result = evaluated(capsys, "--model", place / "run", "--framework", "onnx", *VIEWS, "--report", report)
    assert json.loads((report / "evaluation.json").read_text()) == result
    text = (report / "evaluation.md").read_text()
    assert all(f"{row['top1_error']:.2%}" in text for row in result["rows"])
    with Image.open(report / "confusion.png") as picture:
        assert min(picture.size) > 400


@pytest.mark.parametrize("split,count", [("test", 35), ("train", 21), ("all", 56)])
def test_a_split_says_which_pictures(place: Path, capsys: pytest.CaptureFixture[str], split: str, count: int) -> None:
    result = evaluated(capsys, "--model", place / "run", "--framework", "onnx", "--views", "single", "--split", split)
    assert result["pictures"] == count


def test_classes_meet_by_name_and_those_of_a_model_without_names_by_number(place: Path) -> None:
    model, empty, none = load_predictor(place / "run", "onnx"), np.zeros((0, 3, 8, 8), np.uint8), np.zeros(0, np.int64)
    some = Dataset("some", ("class5", "class1"), empty, none, empty, none)
    assert matched(model, some).tolist() == [5, 1]
    seven = Dataset("seven", tuple("abcdefg"), empty, none, empty, none)
    assert matched(replace(model, named=False), seven).tolist() == list(range(7))
    with pytest.raises(InputError, match="class 'a' that"):
        matched(model, seven)


RUN = ("--model", "run", "--framework", "paddle")


@pytest.mark.parametrize(
    "flags,said",
    [
        (("--views", "single,many"), "'many' is none of single"),
        ((*RUN, "--views", "dense", "--scales", "7"), "a scale of 7 is smaller"),
        ((*RUN, "--limit", "36"), "is more than the 35 pictures"),
        (("--device", "gpu"), "computes on the CPU"),
        ((*RUN, "--report", "run/config.json"), "cannot write run/config.json"),
        ((*RUN, "--data", "folder:missing"), "cannot read"),
        ((*RUN, "--data", "shapes10"), "class 'disc' that run does not have"),
        (("--views", "dense"), "takes pictures of one size"),
        (("--framework", "torch"), "onnxruntime computes ONNX files"),
        (("--model", "nothing"), "nothing"),
        ((*RUN, "--views", "crops", "--padding", "9"), "cannot be reflected"),
        (("--scales", "a,b"), "--scales"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(place)
    for name in FRAMEWORKS:
        monkeypatch.setitem(sys.modules, name, None)
    before = contents(place)
    try:
        code = main([*flags, "--json"])
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    stdout, stderr = capfd.readouterr()
    assert (code, stdout) == (2, "")
    assert said in the_error([line for line in stderr.splitlines() if not line.startswith(("Model: ", "Data: "))])
    assert contents(place) == before
