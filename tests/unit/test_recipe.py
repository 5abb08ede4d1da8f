"""Recipes: the article's exact learning rate, divisors, schedules, JSON, and refused values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from parity.errors import InputError
from parity.network import articles
from parity.recipe import presets
from parity.recipe.optimizer import Group, Optimizer
from parity.recipe.recipe import Augmentation, Experiment, Preprocessing, Recipe, Schedule, changed, read_recipe

ARTICLE, QUICK, ADAM, RESNET = (presets.get_recipe(name) for name in ("article", "quick", "adam", "resnet"))
IMAGES, EPOCHS, BATCHES_PER_EPOCH = 50_000, 200, 391


def rounded(value: float) -> float:
    return float(np.float32(value))


def counts() -> Iterator[int]:
    """Yield the number of images of every batch of the article's run."""
    for _ in range(EPOCHS):
        yield from [128] * 390
        yield 80


# ------------------------------------------------------------------------------------------------- the article's recipe


def test_the_articles_rate_drops_with_the_last_updates_of_epochs_100_and_200() -> None:
    samples, rates = 0, []
    for count in counts():
        samples += count
        rates.append(ARTICLE.rate(samples, EPOCHS * IMAGES))
    assert samples == EPOCHS * IMAGES
    drops = [update for update in range(2, len(rates) + 1) if rates[update - 1] != rates[update - 2]]
    assert drops == [39_100, 78_200]
    assert 100 * BATCHES_PER_EPOCH == 39_100
    assert rates[39_098] == rounded(0.1)
    assert rates[39_099] == rounded(0.01)
    assert rates[78_198] == rounded(0.01)
    assert rates[78_199] == rounded(0.001)


def test_the_articles_rate_changes_at_five_million_samples_with_the_current_batch() -> None:
    total = EPOCHS * IMAGES
    assert [ARTICLE.rate(samples, total) for samples in (1, 4_999_999)] == [rounded(0.1)] * 2
    assert [ARTICLE.rate(samples, total) for samples in (5_000_000, 9_999_999)] == [rounded(0.01)] * 2


def test_the_article_divides_by_128_even_the_last_batch_of_80_images() -> None:
    assert ARTICLE.loss_divisor(128) == 128
    assert ARTICLE.loss_divisor(80) == 128
    assert [QUICK.loss_divisor(80), ADAM.loss_divisor(80)] == [80, 80]


def test_the_article_is_followed_to_the_letter() -> None:
    optimizer = ARTICLE.optimizer
    assert (optimizer.kind, optimizer.nesterov, optimizer.velocity_holds_rate) == ("momentum", False, True)
    assert (optimizer.rate, optimizer.momentum, optimizer.weight_decay) == (rounded(0.1), rounded(0.9), rounded(2e-4))
    assert (ARTICLE.epochs, ARTICLE.batch_size, ARTICLE.divisor) == (200, 128, "batch_size")
    assert ARTICLE.schedule == Schedule("discexp", factor=0.1, every=5_000_000)
    assert ARTICLE.preprocessing == Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert ARTICLE.augmentation == Augmentation(0, False)


def test_adam_is_the_third_articles_run() -> None:
    optimizer = ADAM.optimizer
    assert (optimizer.kind, optimizer.rate, optimizer.weight_decay) == ("adam", rounded(1e-3), 0.0)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (rounded(0.9), rounded(0.999), rounded(1e-8))
    assert (ADAM.epochs, ADAM.batch_size, ADAM.divisor, ADAM.schedule.kind) == (10, 128, "count", "constant")
    assert ADAM.preprocessing == Preprocessing((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert ADAM.augmentation == Augmentation(4, True)


IMAGENET = 1_281_167
"""Training images of ILSVRC 2012."""


def test_the_vgg_papers_run_is_370_000_updates_whose_rate_drops_three_times() -> None:
    recipe, total = presets.get_recipe("vgg"), 74 * IMAGENET
    assert (recipe.epochs, recipe.batch_size) == (74, 256) and total / 256 == pytest.approx(370_000, rel=0.001)
    rates = [recipe.rate(samples, total) for samples in (*range(1, total, 9_973), total)]
    drops = [i / len(rates) for i in range(1, len(rates)) if rates[i] != rates[i - 1]]
    assert drops == pytest.approx([0.25, 0.5, 0.75], abs=0.001)
    assert (rates[0], rates[-1]) == (rounded(0.01), rounded(1e-5))
    optimizer = recipe.optimizer
    assert (optimizer.kind, optimizer.nesterov, optimizer.velocity_holds_rate) == ("momentum", False, False)
    assert (optimizer.momentum, optimizer.weight_decay) == (rounded(0.9), rounded(5e-4))
    assert recipe.augmentation == Augmentation(crop=224, flip=True, scale_low=256, scale_high=512)
    assert recipe.preprocessing == Preprocessing((0.485, 0.456, 0.406), (1 / 255,) * 3, crop=224)
    assert recipe.divisor == "count"


def test_the_resnet_papers_rate_drops_at_half_and_three_quarters_of_a_run() -> None:
    total, samples, rates = RESNET.epochs * IMAGES, 0, []
    for _ in range(RESNET.epochs):
        for count in [128] * 390 + [80]:
            samples += count
            rates.append(RESNET.rate(samples, total))
    drops = [update for update in range(1, len(rates)) if rates[update] != rates[update - 1]]
    assert drops == [32_062, 48_093] and len(rates) == 64_124  # the updates before the drops, and all
    assert [*drops, len(rates)] == pytest.approx([32_000, 48_000, 64_000], rel=0.002)
    assert drops[0] == 82 * BATCHES_PER_EPOCH and drops[1] == 123 * BATCHES_PER_EPOCH
    assert list(dict.fromkeys(rates)) == [rounded(0.1), rounded(0.01), rounded(0.001)]


def test_resnet_is_the_papers_recipe() -> None:
    optimizer = RESNET.optimizer
    assert (optimizer.kind, optimizer.nesterov, optimizer.groups) == ("momentum", False, ())
    assert (optimizer.rate, optimizer.momentum, optimizer.weight_decay) == (rounded(0.1), rounded(0.9), rounded(1e-4))
    assert (RESNET.batch_size, RESNET.divisor, RESNET.augmentation) == (128, "count", Augmentation(4, True))
    assert RESNET.augmentation.fill == "zeros"
    for name in ("resnet20", "resnet32", "resnet56_b", "plain20", "plain56@0.25"):
        assert presets.recipe_for(articles.get_network(name)) == RESNET


def test_slim_decays_weights_only() -> None:
    recipe, network = presets.recipe_for(articles.get_network("slim_vgg16")), articles.get_network("slim_vgg16")
    weights, biases = recipe.optimizer.grouped(network)
    assert weights == ([n for n in network.parameters if n.endswith(".weight")], 1.0, rounded(5e-4))
    assert biases == ([n for n in network.parameters if n.endswith(".bias")], 1.0, 0.0)
    assert len(weights[0]) == len(biases[0]) == 16
    assert recipe.name == "slim" and recipe.optimizer.kind == "momentum"


@pytest.mark.parametrize("name,permutation", [("mnist", None), ("mnist_permuted", 0)])
def test_mnist_is_the_third_articles_run(name: str, permutation: int | None) -> None:
    recipe = presets.get_recipe(name)
    optimizer = recipe.optimizer
    assert (optimizer.kind, optimizer.nesterov, optimizer.velocity_holds_rate) == ("momentum", False, False)
    assert (optimizer.rate, optimizer.momentum, optimizer.weight_decay) == (rounded(0.01), 0.5, 0.0)
    assert (recipe.epochs, recipe.batch_size, recipe.divisor, recipe.schedule) == (1, 64, "count", Schedule())
    assert recipe.preprocessing == Preprocessing((0.1307,), (0.3081,), permutation=permutation)
    assert recipe.augmentation == Augmentation()


# ------------------------------------------------------------------------------------------------- rounding


def test_scalars_are_rounded_to_float32_once() -> None:
    optimizer = Optimizer("adam", rate=0.1, momentum=0.9, weight_decay=2e-4, beta1=0.9, beta2=0.999, eps=1e-8)
    for field in ("rate", "momentum", "weight_decay", "beta1", "beta2", "eps"):
        value = getattr(optimizer, field)
        assert value == rounded(value)
    # 1 - 0.999 has an error of 1.3e-5 if 0.999 is rounded first: in float32 Paddle's Adam does that, PyTorch's does not.
    assert optimizer.rate != 0.1 and optimizer.beta2 != 0.999


@pytest.mark.parametrize("recipe", [ARTICLE, QUICK, ADAM, RESNET], ids=lambda recipe: recipe.name)
def test_the_rate_is_the_exact_product_rounded_to_float32_a_single_time(recipe: Recipe) -> None:
    total = recipe.epochs * IMAGES
    base, warmup = Fraction(recipe.optimizer.rate), Fraction(recipe.schedule.warmup)
    for samples in range(128, total, total // 997):
        progress = Fraction(samples, total)
        exact = {
            "constant": base,
            "discexp": base * Fraction(1, 10) ** (samples // 5_000_000),
            "one_cycle": base * (progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)),
            "multi_step": base * Fraction(1, 10) ** ((progress > Fraction(1, 2)) + (progress > Fraction(3, 4))),
        }[recipe.schedule.kind]
        rate = recipe.rate(samples, total)
        assert rate == rounded(rate)
        half = Fraction(float(np.spacing(np.float32(rate)))) / 2
        assert abs(Fraction(rate) - exact) <= half * Fraction(1_000_001, 1_000_000)


# ------------------------------------------------------------------------------------------------- schedules


def test_one_cycle_rises_from_zero_to_the_full_rate_and_ends_at_zero() -> None:
    schedule, total = Schedule("one_cycle", warmup=0.3), 1000
    fractions = [schedule.fraction(samples, total) for samples in range(total + 1)]
    assert fractions[0] == 0.0
    assert fractions[300] == 1.0
    assert fractions[total] == 0.0
    assert all(a < b for a, b in pairwise(fractions[:301]))
    assert all(a > b for a, b in pairwise(fractions[300:]))
    assert fractions[150] == pytest.approx(0.5)
    assert fractions[650] == pytest.approx(0.5)


def test_one_cycle_stays_at_zero_past_the_end() -> None:
    assert Schedule("one_cycle").fraction(1001, 1000) == 0.0


def test_one_cycle_without_warmup_starts_at_the_full_rate() -> None:
    schedule = Schedule("one_cycle", warmup=0.0)
    assert [schedule.fraction(samples, 100) for samples in (0, 25, 100)] == [1.0, 0.75, 0.0]


def test_one_cycle_that_is_all_warmup_ends_at_the_full_rate_or_is_refused() -> None:
    try:
        schedule = Schedule("one_cycle", warmup=1.0)
    except InputError:
        return
    assert schedule.fraction(100, 100) == 1.0


def test_a_constant_schedule_is_constant() -> None:
    assert {Schedule().fraction(samples, 100) for samples in (1, 50, 100)} == {1.0}


def test_discexp_multiplies_by_its_factor_every_so_many_samples() -> None:
    schedule = Schedule("discexp", factor=0.5, every=10)
    assert [schedule.fraction(samples, 99) for samples in (9, 10, 19, 20, 35)] == [1.0, 0.5, 0.5, 0.25, 0.125]


def test_multi_step_multiplies_by_its_factor_after_each_of_its_drops() -> None:
    schedule = Schedule("multi_step", factor=0.5, drops=(0.2, 0.5, 0.75))
    assert [schedule.fraction(samples, 100) for samples in (1, 20, 21, 50, 51, 75, 76, 100)] == [
        *(1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125)
    ]
    assert [schedule.fraction(samples, 8) for samples in (1, 2, 4, 5, 6, 7)] == [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_a_schedule_goes_to_json_and_back() -> None:
    fields = json.loads(json.dumps(dataclasses.asdict(RESNET)))
    assert fields["schedule"]["drops"] == [0.5, 0.75]
    assert read_recipe(fields) == RESNET
    del fields["schedule"]["drops"]  # as in files of older versions, none of which has this kind
    with pytest.raises(InputError, match="multi_step needs drops"):
        read_recipe(fields)
    assert read_recipe(fields | {"schedule": {"kind": "discexp"}}).schedule == Schedule("discexp")


# ------------------------------------------------------------------------------------------------- experiments


@pytest.mark.parametrize("network", [*articles.NETWORKS, "vgg16_bn_drop@0.25"])
@pytest.mark.parametrize("recipe", presets.RECIPES)
def test_an_experiment_of_every_network_and_recipe_goes_to_json_and_back(network: str, recipe: str) -> None:
    experiment = Experiment(articles.get_network(network), presets.get_recipe(recipe), "cifar10", 7, 1000, None)
    text = experiment.to_json()
    back = Experiment.from_json(text)
    assert back == experiment
    assert hash(back) == hash(experiment)
    assert back.to_json() == text
    assert back.recipe.rate(128, 1000) == experiment.recipe.rate(128, 1000)
    assert "\n" not in text


def other(value: Any) -> Any:
    """Return another allowed value of a field of a recipe."""
    if value == ():
        return (Group("*.beta", 2.0),)
    words = {"zeros": "reflect", "momentum": "adam", "count": "batch_size", "constant": "one_cycle"}
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return words.get(value, value + "x")
    if isinstance(value, tuple):
        return tuple(item + 0.5 for item in value)
    return value * 2 if value else 1


PLAIN = Recipe(
    "plain", Optimizer("momentum", rate=0.01, weight_decay=0.001), epochs=2, preprocessing=Preprocessing(crop=1)
)
PARTS = ("optimizer", "schedule", "preprocessing", "augmentation", "lookahead")
FRACTIONS: dict[str, Any] = dict.fromkeys(
    ("momentum", "beta1", "beta2", "warmup", "factor", "contrast_low", "start", "end", "label_smoothing", "keep"), 0.5
) | {"drops": (0.25, 0.5)}
FIELDS = [
    *((part, field.name) for part in PARTS for field in dataclasses.fields(getattr(PLAIN, part))),
    *((None, field.name) for field in dataclasses.fields(Recipe) if field.name not in PARTS),
]


@pytest.mark.parametrize("part,field", FIELDS)
def test_every_field_of_a_recipe_goes_to_json_and_back(part: str | None, field: str) -> None:
    jittered = dataclasses.replace(PLAIN, augmentation=Augmentation(crop=1, scale_low=1, scale_high=2))
    flipped = dataclasses.replace(PLAIN, augmentation=Augmentation(flip=True))
    plain = jittered if field.startswith("scale_") else flipped if field == "alternate" else PLAIN
    held = getattr(plain, part) if part else plain
    new = dataclasses.replace(held, **{field: FRACTIONS.get(field) or other(getattr(held, field))})
    recipe = dataclasses.replace(plain, **{part: new}) if part else new
    assert recipe != plain
    assert read_recipe(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


def test_experiments_and_recipes_are_frozen() -> None:
    experiment = Experiment(articles.get_network("vgg_mini"), ARTICLE, "cifar10")
    for thing, field in ((experiment, "seed"), (ARTICLE, "epochs"), (ARTICLE.optimizer, "rate")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, 1)


def test_a_pass_has_a_last_smaller_batch() -> None:
    experiment = Experiment(articles.get_network("vgg_mini"), ARTICLE, "cifar10")
    assert [experiment.batches(images) for images in (50_000, 128, 129, 1)] == [391, 1, 2, 1]


def test_changed_replaces_what_is_given_and_keeps_the_rest() -> None:
    recipe = changed(ARTICLE, epochs=3, batch_size=None)
    assert (recipe.epochs, recipe.batch_size) == (3, 128)
    assert changed(recipe, epochs=200) == ARTICLE


def test_optimizers_name_their_slots() -> None:
    assert ARTICLE.optimizer.slots == ("velocity",)
    assert ADAM.optimizer.slots == ("moment1", "moment2")
    assert Optimizer("momentum", 0.1, momentum=0.0).slots == ()


# ------------------------------------------------------------------------------------------------- strictness


@pytest.mark.parametrize("name", presets.RECIPES)
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    assert presets.get_recipe(name).name == name


@pytest.mark.parametrize("name", ["", "Article", "sgd"])
def test_an_unknown_recipe_is_an_input_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"^unknown recipe") as caught:
        presets.get_recipe(name)
    assert all(known in str(caught.value) for known in presets.RECIPES)


NAN = float("nan")
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "optimizer": (lambda: Optimizer("sgd", 0.1), "'sgd'"),
    "negative rate": (lambda: Optimizer("momentum", -0.1), "rate"),
    "rate not a number": (lambda: Optimizer("momentum", NAN), "rate"),
    "rate beyond float32": (lambda: Optimizer("momentum", 1e300), "rate"),
    "negative momentum": (lambda: Optimizer("momentum", 0.1, momentum=-0.9), "momentum"),
    "negative weight decay": (lambda: Optimizer("momentum", 0.1, weight_decay=-1e-4), "weight_decay"),
    "beta1 of 1": (lambda: Optimizer("adam", 0.1, beta1=1.0), "beta1"),
    "negative beta2": (lambda: Optimizer("adam", 0.1, beta2=-0.5), "beta2"),
    "negative eps": (lambda: Optimizer("adam", 0.1, eps=-1e-8), "eps"),
    "nesterov without momentum": (lambda: Optimizer("momentum", 0.1, momentum=0.0, nesterov=True), "nesterov"),
    "schedule": (lambda: Schedule("cosine"), "'cosine'"),
    "discexp every 0 samples": (lambda: Schedule("discexp", every=0), "every"),
    "warmup of twice the run": (lambda: Schedule("one_cycle", warmup=2.0), "warmup"),
    "negative warmup": (lambda: Schedule("one_cycle", warmup=-0.1), "warmup"),
    "multi_step without drops": (lambda: Schedule("multi_step"), "drops"),
    "a drop at the end": (lambda: Schedule("multi_step", drops=(0.5, 1.0)), "drops"),
    "a drop at the start": (lambda: Schedule("multi_step", drops=(0.0,)), "drops"),
    "drops in the other order": (lambda: Schedule("multi_step", drops=(0.75, 0.5)), "drops"),
    "a drop twice": (lambda: Schedule("multi_step", drops=(0.5, 0.5)), "drops"),
    "a drop that is not a number": (lambda: Schedule("multi_step", drops=(NAN,)), "drops"),
    "deviation 0": (lambda: Preprocessing(std=(1.0, 0.0, 1.0)), "std"),
    "means and deviations of other lengths": (lambda: Preprocessing(mean=(0.0, 0.0)), "mean"),
    "negative crop": (lambda: Augmentation(crop_padding=-4), "crop"),
    "negative brightness": (lambda: Augmentation(brightness=-1.0), "brightness"),
    "brightness not a number": (lambda: Augmentation(brightness=NAN), "brightness"),
    "contrasts in the other order": (lambda: Augmentation(contrast_low=1.8, contrast_high=0.2), "contrast_high"),
    "negative middle": (lambda: Preprocessing(crop=-1), "crop"),
    "negative permutation": (lambda: Preprocessing(permutation=-1), "permutation"),
    "crops that are tested at another size": (
        lambda: Recipe(
            "r", PLAIN.optimizer, 1, augmentation=Augmentation(crop=24), preprocessing=Preprocessing(crop=20)
        ),
        "tests crop 20",
    ),
    "divisor": (lambda: Recipe("r", PLAIN.optimizer, 1, divisor="sum"), "'sum'"),
    "no epochs": (lambda: Recipe("r", PLAIN.optimizer, 0), "epochs"),
    "negative epochs": (lambda: Recipe("r", PLAIN.optimizer, -3), "epochs"),
    "no batch": (lambda: Recipe("r", PLAIN.optimizer, 1, batch_size=0), "batch size"),
    "negative seed": (lambda: Experiment(articles.get_network("vgg_mini"), PLAIN, "cifar10", -1), "seed"),
    "a seed of 64 bits": (lambda: Experiment(articles.get_network("vgg_mini"), PLAIN, "cifar10", 2**63), "seed"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_that_makes_no_sense_is_an_input_error_that_names_it(wrong: str) -> None:
    make, culprit = WRONG[wrong]
    with pytest.raises(InputError) as caught:
        make()
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)


DOCUMENT = Experiment(articles.get_network("vgg_mini@0.05"), PLAIN, "cifar10").to_json()
DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown field": (lambda d: d.update(dataset="cifar10"), "'dataset'"),
    "data missing": (lambda d: d.pop("data"), "'data'"),
    "network missing": (lambda d: d.pop("network"), "network"),
    "recipe missing": (lambda d: d.pop("recipe"), "recipe"),
    "recipe a list": (lambda d: d.update(recipe=[]), "recipe"),
    "data a number": (lambda d: d.update(data=3), "data"),
    "seed a float": (lambda d: d.update(seed=1.5), "seed"),
    "seed true": (lambda d: d.update(seed=True), "seed"),
    "limit a text": (lambda d: d.update(train_limit="all"), "train_limit"),
    "a damaged network": (lambda d: d["network"]["nodes"][0].update(kernel="3"), "kernel"),
    "unknown field of the recipe": (lambda d: d["recipe"].update(batch=3), "'batch'"),
    "epochs missing": (lambda d: d["recipe"].pop("epochs"), "'epochs'"),
    "epochs a float": (lambda d: d["recipe"].update(epochs=3.0), "epochs"),
    "optimizer null": (lambda d: d["recipe"].update(optimizer=None), "optimizer"),
    "optimizer a number": (lambda d: d["recipe"].update(optimizer=0.1), "optimizer"),
    "schedule a text": (lambda d: d["recipe"].update(schedule="constant"), "schedule"),
    "rate missing": (lambda d: d["recipe"]["optimizer"].pop("rate"), "'rate'"),
    "rate a text": (lambda d: d["recipe"]["optimizer"].update(rate="0.1"), "rate"),
    "nesterov a number": (lambda d: d["recipe"]["optimizer"].update(nesterov=1), "nesterov"),
    "unknown field of the schedule": (lambda d: d["recipe"]["schedule"].update(step=3), "'step'"),
    "a text among drops": (lambda d: d["recipe"]["schedule"].update(drops=["0.5"]), "drops"),
    "drops a number": (lambda d: d["recipe"]["schedule"].update(drops=0.5), "drops"),
    "a text among means": (lambda d: d["recipe"]["preprocessing"].update(mean=[0.1, "0.2", 0.3]), "mean"),
    "mean a number": (lambda d: d["recipe"]["preprocessing"].update(mean=0.5), "mean"),
    "crop a float": (lambda d: d["recipe"]["augmentation"].update(crop_padding=4.0), "crop_padding"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_json_of_an_experiment_is_an_input_error_that_names_the_mistake(damage: str) -> None:
    change, culprit = DAMAGES[damage]
    document = json.loads(DOCUMENT)
    change(document)
    with pytest.raises(InputError) as caught:
        Experiment.from_json(json.dumps(document))
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", "{}"])
def test_garbage_instead_of_an_experiment_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="JSON"):
        Experiment.from_json(text)
