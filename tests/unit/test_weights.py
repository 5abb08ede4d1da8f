"""Initial weights follow the formulas and their seed, and a state must fit its network exactly."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from parity.errors import InputError
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Init, Linear
from parity.weights.canonical_state import State, check, initialise, slot_names

SMALL = articles.get_network("vgg16_bn_drop@0.03125")
NAMES = ["vgg16_bn_drop", "vgg_mini", "slim_vgg16@0.125x64", "googlenet@0.125x64"]


def digest(state: State) -> str:
    parts = hashlib.sha256()
    for name, array in state.items():
        parts.update(name.encode() + array.astype("<f4").tobytes())
    return parts.hexdigest()


@pytest.fixture(scope="module")
def fresh() -> dict[str, State]:
    return {name: initialise(articles.get_network(name), 1) for name in NAMES}


# ------------------------------------------------------------------------------------------------- initialise


@pytest.mark.parametrize("name", NAMES)
def test_the_state_holds_every_array_in_order_in_float32(fresh: dict[str, State], name: str) -> None:
    parameters = articles.get_network(name).parameters
    assert list(fresh[name]) == list(parameters)
    for array, parameter in zip(fresh[name].values(), parameters.values(), strict=True):
        assert array.shape == parameter.shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous


def test_the_same_seed_gives_the_same_bits() -> None:
    assert digest(initialise(SMALL, 3)) == digest(initialise(SMALL, 3))


# numpy 1 and 2 must draw the same numbers, today and later, so that seeds in old checkpoints keep their meaning.
PINNED = {
    "vgg16_bn_drop@0.03125": "e269ea100f8df2dd9fd1008d22cad80a78595ece7fa97dd649da875a96689442",
    "vgg_mini@0.03125": "0dfc6bcaa73ca44de4a4ae1b5424d68a97b5e0d945894bf72c61468674f8660b",
}


@pytest.mark.parametrize("name", PINNED)
def test_a_seed_means_the_same_weights_under_every_version_of_numpy(name: str) -> None:
    assert digest(initialise(articles.get_network(name), 1)) == PINNED[name]


def test_another_seed_changes_the_numbers_of_every_drawn_array() -> None:
    network = articles.get_network("vgg_mini@0.03125")
    one, two = initialise(network, 1), initialise(network, 2)
    for name, parameter in network.parameters.items():
        same = (one[name] == two[name]).mean()
        assert same == 1 if parameter.init.distribution == "constant" else same < 0.01


def test_an_arrays_numbers_depend_on_its_name_and_not_on_its_neighbours() -> None:
    alone = Network("a", (6,), (Linear("fc", 5),))
    after = Network("b", (6,), (Linear("before", 6), BatchNorm("bn"), Linear("fc", 5)))
    renamed = Network("c", (6,), (Linear("fc2", 5),))
    weight = initialise(alone, 4)["fc.weight"]
    assert np.array_equal(weight, initialise(after, 4)["fc.weight"])
    assert not np.array_equal(weight, initialise(renamed, 4)["fc2.weight"])


def drawn(fresh: dict[str, State], name: str, distribution: str) -> Iterator[tuple[str, np.ndarray, int]]:
    """The name, the float64 numbers and the fan-in of every array with that distribution."""
    for parameter in articles.get_network(name).parameters.values():
        if parameter.init.distribution == distribution:
            fan = math.prod(articles.get_network(name).parameters[parameter.name.split(".")[0] + ".weight"].shape[1:])
            yield parameter.name, fresh[name][parameter.name].astype(np.float64).ravel(), fan


def test_normal_weights_have_the_mean_deviation_and_tails_of_the_articles_formulas(fresh: dict[str, State]) -> None:
    seen = 0
    for name, x, fan in drawn(fresh, "vgg16_bn_drop", "normal"):
        sigma, n = math.sqrt((2 if name.startswith("conv") else 1) / fan), x.size
        assert abs(x.mean()) < 5 * sigma / math.sqrt(n), name
        assert abs(x.std() / sigma - 1) < 5 / math.sqrt(2 * n), name
        within = 0.682689
        assert abs((abs(x) < sigma).mean() - within) < 5 * math.sqrt(within * (1 - within) / n), name
        assert 2.5 * sigma < abs(x).max() < 7 * sigma, name
        seen += 1
    assert seen == 16


def test_uniform_weights_and_biases_fill_their_bounds_evenly(fresh: dict[str, State]) -> None:
    seen = 0
    for name, x, fan in drawn(fresh, "vgg_mini", "uniform"):
        bound, n = 1 / math.sqrt(fan), x.size
        assert abs(x).max() <= np.float32(bound), name
        assert abs(x).max() > bound * (1 - 20 / n), name  # fails with probability e^-20
        assert abs(x.mean()) < 5 * bound / math.sqrt(3 * n), name
        assert abs(x.var() * 3 / bound**2 - 1) < 5 * math.sqrt(0.8 / n), name
        seen += 1
    assert seen == 18


@pytest.mark.parametrize("name,variance", [("vgg16_bn_drop", 0.0), ("vgg_mini", 1.0)])
def test_constants_are_exact(fresh: dict[str, State], name: str, variance: float) -> None:
    expected = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": variance}
    for key, array in fresh[name].items():
        kind = key.partition(".")[2]
        if kind in expected:
            assert (array == expected[kind]).all(), key
    if name == "vgg16_bn_drop":
        assert all((array == 0).all() for key, array in fresh[name].items() if key.endswith(".bias"))


def test_arrays_of_one_shape_are_drawn_independently(fresh: dict[str, State]) -> None:
    names = [f"conv{g}_{i}.weight" for g, i in ((4, 2), (4, 3), (5, 1), (5, 2), (5, 3))]
    matrix = np.stack([fresh["vgg16_bn_drop"][name].ravel() for name in names])
    correlations = np.corrcoef(matrix) - np.eye(len(names))
    assert abs(correlations).max() < 5 / math.sqrt(matrix.shape[1])


def test_a_scale_without_a_fan_is_used_unchanged() -> None:
    network = Network("fixed", (400,), (Linear("fc", 400, init=Init("normal", 0.01), bias_init=Init("constant", 0.5)),))
    state = initialise(network, 0)
    assert abs(state["fc.weight"].std() / 0.01 - 1) < 5 / math.sqrt(2 * 160_000)
    assert (state["fc.bias"] == 0.5).all()


# ------------------------------------------------------------------------------------------------- check


def with_slots(network: Network, slots: tuple[str, ...]) -> State:
    state = initialise(network, 0)
    return state | {slot: state[name] * 2 for slot, name in slot_names(network, slots).items()}


def test_a_state_that_fits_passes_with_and_without_slots() -> None:
    check(SMALL, initialise(SMALL, 0))
    check(SMALL, with_slots(SMALL, ("velocity",)), ("velocity",))
    check(SMALL, with_slots(SMALL, ("moment1", "moment2")), ("moment1", "moment2"))


def test_slots_belong_to_trainable_parameters_only() -> None:
    names = slot_names(SMALL, ("moment1", "moment2"))
    assert len(names) == 2 * sum(parameter.trainable for parameter in SMALL.parameters.values())
    assert names["optimizer.moment2.bn_fc1.gamma"] == "bn_fc1.gamma"
    assert not any(name.endswith((".mean", ".variance")) for name in names)


@pytest.mark.parametrize("name", ["conv1_1.weight", "bn_fc1.variance", "fc3.bias", "optimizer.velocity.fc3.bias"])
def test_a_missing_array_is_named(name: str) -> None:
    state = with_slots(SMALL, ("velocity",))
    del state[name]
    with pytest.raises(InputError, match=rf"^{name} is missing .*{SMALL.name}"):
        check(SMALL, state, ("velocity",))


@pytest.mark.parametrize("name", ["fc4.weight", "bn_fc1.num_batches_tracked", "optimizer.moment1.fc3.bias"])
def test_a_surplus_array_is_named(name: str) -> None:
    state = with_slots(SMALL, ("velocity",)) | {name: np.zeros(3, np.float32)}
    with pytest.raises(InputError, match=rf"^{name} is not a parameter of network {SMALL.name}"):
        check(SMALL, state, ("velocity",))


def test_slots_that_were_not_requested_are_refused() -> None:
    with pytest.raises(InputError, match=r"^optimizer\.velocity\."):
        check(SMALL, with_slots(SMALL, ("velocity",)))


@pytest.mark.parametrize("name", ["fc2.weight", "bn_fc1.mean", "optimizer.velocity.fc3.weight"])
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[None], lambda a: a.ravel()[:1]])
def test_a_misshapen_array_is_named_with_both_shapes(name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    state = with_slots(SMALL, ("velocity",))
    whole = state[name].shape
    state[name] = change(state[name])
    with pytest.raises(InputError) as caught:
        check(SMALL, state, ("velocity",))
    assert str(caught.value) == f"{name} has shape {state[name].shape}, network {SMALL.name} needs {whole}"


@pytest.mark.parametrize("dtype", ["int32", "uint32", "bool"])
def test_arrays_that_are_not_floats_are_refused(dtype: str) -> None:
    state = initialise(SMALL, 0)
    state["fc2.weight"] = state["fc2.weight"].astype(dtype)
    with pytest.raises(InputError, match=r"^fc2\.weight"):
        check(SMALL, state)
