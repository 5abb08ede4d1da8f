"""How an evaluation is planned: places of crops, scales, padding, what is counted, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.refusals import saved_run, the_error
from helpers.scripts import script_main
from parity.cli import evaluate as evaluate_command
from parity.cli.evaluate import _plan
from parity.data import image_files
from parity.data.lazy_images import Pictures
from parity.errors import InputError
from parity.inference.evaluate import Plan, Tally, are_doubtful, crops, offsets, ranks
from parity.inference.predict import load_predictor
from parity.network.network import Network
from parity.network.nodes import Conv, Flatten, Linear, MaxPool
from parity.recipe import presets
from parity.recipe.recipe import Experiment, Recipe, with_jitter

main = script_main("evaluate")


def test_top_5_is_that_of_a_stable_sort() -> None:
    random = np.random.default_rng(0)
    posteriors, labels = random.integers(0, 6, (500, 9)) / 6, random.integers(0, 9, 500)
    order = np.argsort(-posteriors, axis=1, kind="stable")
    np.testing.assert_array_equal(
        ranks(posteriors, labels), [list(row).index(k) for row, k in zip(order, labels, strict=True)]
    )


@pytest.mark.parametrize("side,own,count", [(256, 224, 5), (224, 224, 5), (333, 224, 5), (40, 32, 3), (13, 8, 4)])
def test_a_grid_goes_evenly_from_edge_to_edge(side: int, own: int, count: int) -> None:
    places = offsets(side, own, count)
    assert (places[0], places[-1], len(places)) == (0, side - own, count)
    assert max(abs(place - i * (side - own) / (count - 1)) for i, place in enumerate(places)) <= 0.5


def test_one_place_of_a_grid_is_the_middle() -> None:
    assert offsets(256, 224, 1) == [16]


def test_the_paper_s_grid_makes_150_views_of_three_scales() -> None:
    plan = Plan(("crops", "dense+crops"), (3, 224, 224), (256, 384, 512))
    assert [plan.views(*row) for row in plan.rows] == [50, 50, 50, 150, 52, 52, 52, 156]


def test_a_picture_is_in_doubt_if_its_two_best_classes_are_closer_than_the_margin() -> None:
    posteriors = np.array([[0.5, 0.125, 0.375], [0.25, 0.5, 0.25], [0.75, 0.0, 0.25], [0.0, 0.0, 1.0]])
    assert [are_doubtful(posteriors, margin).tolist() for margin in (0.125, 0.25, 0.5, 1.0)] == [
        [False, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
    ]
    assert not are_doubtful(np.ones((2, 1)), 1.0).any(), "one class is no doubt"


def test_views_of_doubtful_pictures_are_counted_besides_the_two_of_all() -> None:
    plan = Plan(("doubtful",), (3, 8, 8), (8, 9), grid=3, padding=1, margin=0.5)
    assert plan.kinds == ("flip", "doubtful")
    assert [plan.views(*row, share=0.25) for row in plan.rows] == [6.5, 6.5, 11]
    with pytest.raises(InputError, match="have no room for 5 by 5 different crops"):
        Plan(("doubtful",), (3, 8, 8), (8,), grid=5, padding=0, margin=0.5)


def test_crops_of_padded_pictures_reflect_their_edges() -> None:
    pixels = [np.random.default_rng(i).integers(0, 256, (3, 8, 8 + i), np.uint8) for i in range(3)]
    plan = Plan(("crops",), (3, 8, 8), (8,), grid=3, padding=2)
    views = list(crops(pixels, plan, plan.pad(8)))
    assert len(views) == 9
    for i, own in enumerate(pixels):
        wide = np.concatenate([own[:, 2:0:-1], own, own[:, -2:-4:-1]], axis=1)
        wide = np.concatenate([wide[:, :, 2:0:-1], wide, wide[:, :, -2:-4:-1]], axis=2)
        np.testing.assert_array_equal(views[0][i], wide[:, :8, :8])
        np.testing.assert_array_equal(views[-1][i], wide[:, -8:, -8:])


def test_a_scale_smaller_than_the_network_s_pictures_is_refused() -> None:
    with pytest.raises(InputError, match="a scale of 7 is smaller"):
        Plan(("dense",), (3, 8, 8), (7, 9))


def test_a_scale_without_room_for_the_grid_is_widened_and_the_others_are_not() -> None:
    plan = Plan(("crops",), (3, 224, 224), (224, 256, 288))
    assert [plan.pad(scale) for scale in plan.scales] == [28, 0, 0]
    assert [Plan(("crops",), (3, 8, 8), (scale,)).pad(scale) for scale in (8, 9, 11, 12)] == [2, 2, 1, 0]
    assert Plan(("crops",), (3, 8, 8), (8,), grid=1).pad(8) == 0


@pytest.mark.parametrize("size,grid", [(8, 5), (8, 7), (32, 5), (28, 3), (224, 5)])
def test_no_two_crops_of_a_plan_are_the_same(size: int, grid: int) -> None:
    for scale in (size, size + 1, size + 3, size + 32):
        plan = Plan(("crops",), (1, size, size), (scale,), grid=grid)
        pixels = np.random.default_rng(0).integers(0, 256, (1, scale, scale + 1), np.uint8)
        views = list(crops([pixels], plan, plan.pad(scale)))
        assert len({view.tobytes() for view in views}) == grid**2 == plan.views("crops", (scale,)) / 2


def test_a_grid_of_more_places_than_there_are_is_refused() -> None:
    for scale, padding, wide in ((8, 0, ""), (10, 0, ""), (8, 1, ", padded by 1 on each side,")):
        with pytest.raises(
            InputError, match=f"pictures of {scale} pixels{wide} have no room for 5 by 5 different crops of 8"
        ):
            Plan(("dense+crops",), (3, 8, 8), (scale,), grid=5, padding=padding)
    with pytest.raises(
        InputError, match="pictures of 8 pixels have no room for 99 by 99 different crops of 8: give a smaller"
    ):
        Plan(("crops",), (3, 8, 8), (8,), grid=99)
    assert Plan(("dense",), (3, 8, 8), (8,), padding=0).kinds == ("dense",), "which has no grid"


def test_a_tally_counts_true_classes_in_rows_and_predicted_ones_in_columns() -> None:
    tally = Tally(np.zeros((7, 7), np.int64))
    posteriors = np.array([[0.4, 0.3, 0.2, 0.1, 0, 0, 0], [0.4, 0.3, 0.2, 0.1, 0, 0, 0], [0, 0, 0, 0, 0.2, 0.8, 0]])
    tally.add(posteriors, np.array([1, 0, 5]))
    tally.add(posteriors[:2], np.array([1, 6]))
    wanted = np.zeros((7, 7))
    wanted[1, 0], wanted[0, 0], wanted[5, 5], wanted[6, 0] = 2, 1, 1, 1
    np.testing.assert_array_equal(tally.confusion, wanted)
    assert (tally.count, tally.wrong, tally.wrong_top) == (5, 3, 1)


SMALL = Network("small", (3, 224, 224), (Conv("conv", 2), MaxPool("pool", 16, 16), Flatten("flat"), Linear("fc", 10)))


@pytest.fixture
def small(tmp_path: Path) -> Any:
    """Save a run of `SMALL` with `recipe`, and return its content."""

    def saved(recipe: Recipe) -> Any:
        saved_run(tmp_path / "run", Experiment(SMALL, recipe, "shapes10"))
        return load_predictor(tmp_path / "run", "onnx")

    return saved


VGG = presets.get_recipe("vgg")


@pytest.mark.parametrize(
    "recipe,scales",
    [
        (VGG, (256, 384, 512)),
        (with_jitter(VGG, (384, 384), 224), (352, 384, 416)),
        (with_jitter(VGG, (256, 256), 224), (224, 256, 288)),
        (with_jitter(VGG, (224, 224), 224), (224, 256)),
        (presets.get_recipe("quick"), (224,)),
    ],
    ids=["jitter", "S=384", "S=256", "S=224", "none"],
)
def test_the_usual_scales_are_the_papers(small: Any, recipe: Recipe, scales: tuple[int, ...]) -> None:
    plan = _plan(("crops", "dense"), small(recipe), 32, evaluate_command.main.parse([]))
    assert plan.scales == scales


def test_a_narrow_strip_is_refused_by_name_before_it_fills_the_memory(
    small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(presets.get_recipe("quick"))
    for name in ("disc", "ring"):
        (tmp_path / "pictures" / "train" / name).mkdir(parents=True)
        (tmp_path / "pictures" / "val" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / "train" / name / "a.png")
    strip = tmp_path / "pictures" / "val" / "ring" / "strip.png"
    Image.new("RGB", (60_000, 2)).save(strip)
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / "val" / "disc" / "a.png")
    flags = (
        "--model",
        tmp_path / "run",
        "--framework",
        "onnx",
        "--data",
        f"folder:{tmp_path / 'pictures'}",
        "--views",
        "crops",
    )
    assert main([*map(str, flags), "--json"]) == 2
    stdout, stderr = capsys.readouterr()
    said = the_error([line for line in stderr.splitlines() if not line.startswith(("Model: ", "Data: "))])
    assert stdout == "" and f"{strip}: 60000x2 pixels rescaled to 6720000x224 are too many" in said
    with pytest.raises(InputError, match="picture 1: 300x1 pixels"):
        Pictures(np.zeros((2, 3, 1, 300), np.uint8), (3, 1, 1)).rescaled(1, 4096)
    assert image_files.rescaled(np.zeros((1, 2, 60), np.uint8), 4).shape == (1, 4, 120)


@pytest.mark.parametrize("margin", ["0", "1.5", "nan", "half"])
def test_a_margin_that_is_no_share_is_refused(margin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--doubtful", margin]) == 2
    said = the_error(capsys.readouterr().err.splitlines())
    assert "--doubtful" in said and "is not a number above 0 and at most 1" in said


def test_scales_beyond_any_network_s_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scales", "256,4097"]) == 2
    assert "4097 is above 4096 pixels" in the_error(capsys.readouterr().err.splitlines())
