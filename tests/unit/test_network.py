"""A network is data: its shapes, counts and cousins, without any framework."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.processes import alone
from helpers.sample_networks import EVERY_KIND, NETWORKS, kinds
from parity.errors import InputError
from parity.network import articles
from parity.network.articles.vgg_bn_drop import vgg16_bn_drop
from parity.network.costs import resized
from parity.network.initialisers import FAN_IN_UNIFORM
from parity.network.network import RESERVED, Network
from parity.network.nodes import (
    FAN_IN_NORMAL,
    GELU,
    MSRA,
    ONES,
    ZEROS,
    Add,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Init,
    Linear,
    MaxPool,
    Multiply,
    Node,
    PadChannels,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
    walk,
)
from parity.weights.canonical_state import initialise


@pytest.mark.parametrize(
    "name,trainable,statistics,arrays,multiply_adds",
    [("vgg16_bn_drop", 15_254_602, 9_472, 88, 313_725_952), ("vgg_mini", 9_231_114, 5_504, 50, 152_769_536)],
)
def test_the_counts_are_the_published_ones(name, trainable, statistics, arrays, multiply_adds) -> None:
    network = articles.get_network(name)
    assert network.trainable_count == trainable
    assert network.statistics_count == statistics
    assert len(network.parameters) == arrays
    assert network.multiply_adds == multiply_adds
    assert network.classes == 10


def _frozen(node: Node) -> bool:
    return isinstance(node, BatchNorm | Conv) and node.frozen


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_counts_are_those_of_the_arrays_that_initialise_makes(network: Network) -> None:
    network = network if network.trainable_count < 3e6 else articles.small(network)
    network = network.inference  # auxiliary heads are counted separately
    sizes = {name: array.size for name, array in initialise(network, 0).items()}
    frozen = {f"{n.name}.{'gamma' if isinstance(n, BatchNorm) else 'weight'}" for n in network.nodes if _frozen(n)}
    statistics = {name for name in sizes if name.endswith((".mean", ".variance"))} | frozen
    assert network.statistics_count == sum(sizes[name] for name in statistics)
    assert network.trainable_count == sum(size for name, size in sizes.items() if name not in statistics)


def test_vgg16_bn_drop_has_the_layers_of_the_articles_program_in_order() -> None:
    expected: list[tuple[str, tuple[int, ...]]] = []
    side = 32
    groups = [(64, (0.3, 0)), (128, (0.4, 0)), (256, (0.4, 0.4, 0)), (512, (0.4, 0.4, 0)), (512, (0.4, 0.4, 0))]
    for g, (filters, rates) in enumerate(groups, start=1):
        for i, rate in enumerate(rates, start=1):
            layers = ["conv", "bn", "relu", "drop"][: 4 if rate else 3]
            expected += [(f"{layer}{g}_{i}", (filters, side, side)) for layer in layers]
        side //= 2
        expected.append((f"pool{g}", (filters, side, side)))
    tail = ["flatten", "drop_fc1", "fc1", "bn_fc1", "relu_fc1", "drop_fc2", "fc2"]
    expected += [(name, (512,)) for name in tail] + [("fc3", (10,))]
    network = articles.get_network("vgg16_bn_drop")
    assert list(network.shapes.items()) == expected
    rates = {node.name: node.rate for node in network.nodes if isinstance(node, Dropout)}
    assert list(rates.values()) == [0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.5]


def test_vgg_mini_has_the_plan_of_the_third_article() -> None:
    network = articles.get_network("vgg_mini")
    block = ["Conv", "BatchNorm", "ReLU"]
    convs = [1, 1, 2, 2, 2]
    expected = [kind for count in convs for kind in [*block * count, "MaxPool"]]
    assert kinds(network.nodes) == [*expected, "AvgPool", "Flatten", "Linear"]
    filters = [node.filters for node in network.nodes if isinstance(node, Conv)]
    assert filters == [64, 128, 256, 256, 512, 512, 512, 512]
    assert [network.shapes[f"pool{g}"] for g in range(1, 6)] == [
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
        (512, 1, 1),
    ]


@pytest.mark.parametrize(
    "name,variance,start,conv_init,fc_init,bias_init",
    [
        ("vgg16_bn_drop", "biased", 0.0, MSRA, FAN_IN_NORMAL, ZEROS),
        ("vgg_mini", "unbiased", 1.0, FAN_IN_UNIFORM, FAN_IN_UNIFORM, FAN_IN_UNIFORM),
    ],
)
def test_initialisers_and_running_statistics_follow_each_article(
    name: str, variance: str, start: float, conv_init: Init, fc_init: Init, bias_init: Init
) -> None:
    network = articles.get_network(name)
    for node in network.nodes:
        if isinstance(node, BatchNorm):
            assert (node.variance, node.start_variance) == (variance, start)
            assert (node.decay, node.eps) == (float(np.float32(0.9)), float(np.float32(1e-5)))
        elif isinstance(node, Conv | Linear):
            assert node.bias, "the articles keep the bias, under batch norm too"
            assert (node.init, node.bias_init) == (conv_init if isinstance(node, Conv) else fc_init, bias_init)
        elif isinstance(node, Dropout):
            assert node.kind == "downscale_in_infer"


def test_parameters_have_the_canonical_layouts_fans_and_starts() -> None:
    parameters = EVERY_KIND.parameters
    assert {name: p.shape for name, p in parameters.items()} == {
        "conv.weight": (8, 2, 3, 3),
        "conv.bias": (8,),
        "norm.gamma": (8,),
        "norm.beta": (8,),
        "norm.mean": (8,),
        "norm.variance": (8,),
        "fc.weight": (5, 8 * 6 * 5),
        "fc.bias": (5,),
    }
    assert [name for name, p in parameters.items() if not p.trainable] == ["norm.mean", "norm.variance"]
    assert parameters["conv.weight"].fan_in == parameters["conv.bias"].fan_in == 2 * 3 * 3
    assert parameters["fc.weight"].fan_in == parameters["fc.bias"].fan_in == 8 * 6 * 5
    assert parameters["norm.gamma"].init == parameters["norm.variance"].init == ONES
    assert parameters["norm.beta"].init == parameters["norm.mean"].init == ZEROS


def test_a_layer_without_bias_owns_no_bias() -> None:
    nodes = (Conv("conv", 2, bias=False), Flatten("flat"), Linear("fc", 3, bias=False))
    assert list(Network("bare", (1, 3, 3), nodes).parameters) == ["conv.weight", "fc.weight"]


def windows(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    """The number of windows: those that fit; with `ceil`, as many as are needed until one reaches the end."""
    padded = size + 2 * padding
    if not ceil:
        return sum(first + kernel <= padded for first in range(0, padded, stride))
    count = 1
    while (count - 1) * stride + kernel < padded:
        count += 1
    return count


@given(
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from([Conv, MaxPool, AvgPool]),
)
def test_shapes_count_the_windows_that_fit(size: int, kernel: int, stride: int, padding: int, kind: type) -> None:
    if size + 2 * padding < kernel:
        node = Conv("x", 2, kernel, stride, padding) if kind is Conv else kind("x", kernel, stride, padding)
        with pytest.raises(InputError, match=r"^x: a window of"):
            node.output((2, size, 99))
        return
    for ceil in (False,) if kind is Conv else (False, True):
        node = Conv("x", 2, kernel, stride, padding) if kind is Conv else kind("x", kernel, stride, padding, ceil)
        try:
            shape = node.output((2, size, 50))
        except InputError:  # windows only in padding are refused; see test_layers.py
            assert kind is not Conv
            assert 2 * padding > kernel or ceil
            ends = [(windows(s, kernel, stride, padding, True) - 1) * stride - padding >= s for s in (size, 50)]
            assert 2 * padding > kernel or any(ends)
            continue
        assert shape == (2, windows(size, kernel, stride, padding, ceil), windows(50, kernel, stride, padding, ceil))


def test_multiply_adds_of_grouped_convolution_and_linear_layer_match_a_hand_count() -> None:
    assert EVERY_KIND.multiply_adds == (9 * 7 * 8) * (3 * 3 * 2) + (8 * 6 * 5) * 5


def test_networks_nodes_and_initialisers_are_frozen() -> None:
    for thing, field in ((EVERY_KIND, "name"), (EVERY_KIND.nodes[0], "filters"), (MSRA, "scale")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, 1)


def test_equal_networks_have_equal_hashes_and_are_one_key() -> None:
    made = vgg16_bn_drop()
    assert made is not articles.get_network("vgg16_bn_drop")
    assert made == articles.get_network("vgg16_bn_drop")
    assert len({made, articles.get_network("vgg16_bn_drop"), articles.get_network("vgg_mini")}) == 2


def test_reading_computed_properties_does_not_change_equality() -> None:
    made = vgg16_bn_drop()
    assert made.digest and made.shapes and made.parameters and made.zero_gradients
    assert made == vgg16_bn_drop()
    assert hash(made) == hash(vgg16_bn_drop())


def test_scalars_that_kernels_keep_in_float32_are_rounded_once_when_the_node_is_made() -> None:
    node = BatchNorm("bn", decay=0.9, eps=1e-5)
    assert node.decay == float(np.float32(0.9)) != 0.9
    assert node.eps == float(np.float32(1e-5)) != 1e-5
    assert dataclasses.replace(node, name="other").decay == node.decay


@pytest.mark.parametrize("rate", [0.3, 0.4, 0.5, 0.7])
def test_dropout_scales_in_training_or_in_inference_and_never_in_both(rate: float) -> None:
    down, up = Dropout("d", rate, "downscale_in_infer"), Dropout("u", rate, "upscale_in_train")
    assert (down.train_scale, down.test_scale) == (1.0, float(np.float32(1 - rate)))
    assert (up.train_scale, up.test_scale) == (float(np.float32(1 / (1 - rate))), 1.0)


@pytest.mark.parametrize("name", articles.NETWORKS)
@pytest.mark.parametrize("width", [0.5, 0.25, 1 / 3, 0.01])
def test_shrinking_scales_filters_and_units_down_to_four_and_keeps_everything_else(name: str, width: float) -> None:
    whole = articles.get_network(name)
    small = whole.shrink(width)
    assert small.name == f"{name}@{width:g}"
    assert (small.input_shape, small.source, small.classes) == (whole.input_shape, whole.source, whole.classes)
    scores = {
        [node.name for node in walk(nodes) if isinstance(node, Conv | Linear)][-1]
        for nodes in (whole.inference.nodes, *(n.nodes for n in walk(whole.nodes) if isinstance(n, Auxiliary)))
    }
    for before, after in zip(walk(whole.nodes), walk(small.nodes), strict=True):
        if before.name in scores or getattr(before, "frozen", False):
            assert after == before, "the class scores stay, and what is frozen"
        elif isinstance(before, Conv | Linear):
            field, groups = ("filters", before.groups) if isinstance(before, Conv) else ("units", 1)
            count = max(min(4, getattr(before, field)), round(getattr(before, field) * width))
            assert after == dataclasses.replace(before, **{field: count + count % groups})
        elif isinstance(before, PadChannels):
            assert after == dataclasses.replace(before, channels=max(4, round(before.channels * width)))
        elif isinstance(before, Dropout):
            assert after == dataclasses.replace(before, rate=before.rate * width)
        elif not before.parts:
            assert after == before


def test_width_one_changes_nothing_but_the_name() -> None:
    whole = articles.get_network("vgg16_bn_drop")
    assert whole.shrink(1).nodes == whole.nodes


def test_a_cousin_of_a_depthwise_block_stays_depthwise() -> None:
    squeeze = (GlobalAvgPool("squeeze"), Linear("reduce", 4), ReLU("relu"), Linear("excite", 16), Sigmoid("gate"))
    nodes = (
        *(Conv("expand", 16, 1, padding=0), Conv("twice", 32, groups=16), Conv("back", 16, groups=8), Conv("fit", 16)),
        *(Multiply("scale", ((), squeeze)), Add("sum", ((), (Conv("depthwise", 16, groups=16),)))),
        *(GlobalAvgPool("pool"), Linear("fc", 10)),
    )
    small = Network("n", (3, 8, 8), nodes).shrink(0.3)
    convs = {node.name: (node.filters, node.groups) for node in walk(small.nodes) if isinstance(node, Conv)}
    # 16 * 0.3 is 5, and a group of the third convolution is the greatest common divisor of 8 and 10 channels.
    assert convs == {"expand": (5, 1), "twice": (10, 5), "back": (6, 2), "fit": (5, 1), "depthwise": (5, 5)}
    assert small.shapes["scale"] == small.shapes["sum"] == (5, 8, 8)


def test_all_layers_that_yield_class_scores_keep_their_number() -> None:
    heads = (Linear("a", 8), Linear("b", 10)), (Linear("c", 10), Tanh("t"))
    network = Network("n", (8, 1, 1), (Flatten("flat"), Add("sum", heads)))
    assert network.shrink(0.5).classes == 10 and network.with_classes(3).classes == 3
    assert {node.name: node.units for node in walk(network.with_classes(3).nodes) if isinstance(node, Linear)} == {
        "a": 8, "b": 3, "c": 3,
    }  # fmt: skip


def test_a_suffix_changes_every_activation_and_nothing_else() -> None:
    silu = articles.get_network("vgg_fast@0.125+silu")
    gelu = articles.get_network("vgg_fast@0.125")
    assert [SiLU(n.name) if isinstance(n, GELU) else n for n in gelu.nodes] == list(silu.nodes)
    assert silu.name == "vgg_fast@0.125+silu" and silu.with_activation("silu") is silu
    assert silu.with_activation("gelu").nodes == gelu.nodes
    inner = Network("n", (3, 8, 8), (Add("s", ((), (Conv("a", 3), ReLU("r")))), GlobalAvgPool("g")))
    assert inner.with_activation("gelu").layers["r"].node == GELU("r")
    with pytest.raises(InputError, match=r"unknown suffix \+swish; known: \+classesK, .*, \+relu, \+gelu, \+silu"):
        articles.get_network("vgg_fast+swish")


def test_the_ends_of_added_branches_stay_alike_in_a_cousin() -> None:
    image = Network(
        "n", (6, 8, 8), (Add("s", ((), (Conv("a", 6), Conv("b", 6, groups=6)))), GlobalAvgPool("g"), Linear("f", 9))
    )
    assert image.shrink(0.5).shapes["s"] == (6, 8, 8), "the image keeps its channels"
    grouped = Add("s", ((Conv("a", 16, groups=4),), (Conv("b", 16), Add("t", ((Conv("c", 16),), (Conv("d", 16),))))))
    network = Network("n", (8, 8, 8), (Conv("in", 8), grouped, GlobalAvgPool("g"), Linear("f", 9)))
    # 16 * 0.3 is 5, and four groups need 8 filters.
    assert network.shrink(0.3).shapes["s"] == network.shrink(0.3).shapes["t"] == (8, 8, 8)


def test_channels_of_zeros_before_the_class_scores_keep_their_number() -> None:
    padded = Network("n", (3, 8, 8), (Conv("a", 8), PadChannels("p", 10), GlobalAvgPool("g")))
    assert padded.shrink(0.5).shapes["p"] == (10, 8, 8) and padded.with_classes(12).classes == 12
    added = Add("s", ((Conv("b", 10),), (PadChannels("p", 10),)))
    both = Network("n", (3, 8, 8), (Conv("a", 8), added, GlobalAvgPool("g")))
    assert both.shrink(0.5).classes == 10 and both.shrink(0.5).shapes["a"] == (4, 8, 8)


def test_a_pool_that_takes_every_second_pixel_still_does_at_another_size() -> None:
    small = articles.get_network("resnet20").shrink(0.25, 2)
    assert resized(small, 32)[0].shapes["block3_1_subsample"] == (8, 8, 8)


def test_one_class_score_of_a_convolution_can_become_several() -> None:
    one = Network("n", (3, 8, 8), (Conv("a", 4), Conv("b", 1, 1, padding=0), GlobalAvgPool("g")))
    scores = one.with_classes(5)
    assert scores.classes == 5 and scores.shapes["a"] == (4, 8, 8)


def test_class_scores_that_no_layer_yields_alone_keep_their_number() -> None:
    joined = Network("n", (4, 1, 1), (Flatten("flat"), Branches("both", ((Linear("a", 5),), (Linear("b", 5),)))))
    with pytest.raises(InputError, match="no layer of its own yields its 10 class scores"):
        joined.with_classes(3)


def test_shrinking_never_makes_a_layer_wider() -> None:
    network = Network("narrow", (1, 4, 4), (Conv("conv", 2), Flatten("flat"), Linear("a", 3), Linear("b", 2)))
    assert network.shrink(0.5).nodes == network.nodes


def test_a_network_without_a_layer_to_narrow_shrinks_to_itself_or_is_refused() -> None:
    network = Network("bare", (3,), (ReLU("relu"),))
    with contextlib.suppress(InputError):
        assert network.shrink(0.5).nodes == network.nodes


@pytest.mark.parametrize("width", [0, -0.5, 1.01, 2, float("nan"), float("inf")])
def test_a_width_that_is_not_above_0_and_at_most_1_is_refused(width: float) -> None:
    with pytest.raises(InputError, match=f"width {width:g} "):
        articles.get_network("vgg_mini").shrink(width)


def test_every_bias_under_a_batch_norm_has_a_gradient_of_zero_and_no_other() -> None:
    convs = {f"conv{g}_{i}.bias" for g, count in enumerate((2, 2, 3, 3, 3), start=1) for i in range(1, count + 1)}
    assert articles.get_network("vgg16_bn_drop").zero_gradients == convs | {"fc1.bias"}
    assert len(articles.get_network("vgg_mini").zero_gradients) == 8
    assert "fc.bias" not in articles.get_network("vgg_mini").zero_gradients


def test_a_missing_bias_or_one_before_a_relu_has_no_zero_gradient() -> None:
    nodes = (Linear("a", 4, bias=False), BatchNorm("n"), Linear("b", 4), ReLU("r"), BatchNorm("m"), Linear("c", 2))
    assert Network("few", (3,), nodes).zero_gradients == frozenset()


def test_dropouts_are_listed_with_the_shape_of_their_mask_and_their_rate() -> None:
    assert EVERY_KIND.dropouts == {"drop": ((8, 6, 5), 0.25)}
    assert articles.get_network("vgg_mini").dropouts == {}
    assert len(articles.get_network("vgg16_bn_drop").dropouts) == 10
    assert articles.get_network("vgg16_bn_drop").dropouts["drop_fc1"] == ((512,), 0.5)


@pytest.mark.parametrize("name", articles.NETWORKS)
def test_a_network_is_found_by_its_name_and_its_cousins_by_name_and_width(name: str) -> None:
    assert articles.get_network(name).name == name
    assert articles.get_network(f"{name}@0.25") == articles.get_network(name).shrink(0.25)


@pytest.mark.parametrize(
    "width,reason", [("0", "0"), ("-1", "-1"), ("2", "2"), ("x", "'x'"), ("", "''"), ("nan", "nan")]
)
def test_a_wrong_width_is_an_input_error_with_a_valid_example(width: str, reason: str) -> None:
    with pytest.raises(InputError, match=r"write e\.g\. vgg_mini@0\.25") as caught:
        articles.get_network(f"vgg_mini@{width}")
    assert reason in str(caught.value)
    assert f"vgg_mini@{width}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "vgg", "VGG_MINI", "@0.5", "vgg_mini 0.5"])
def test_an_unknown_network_is_an_input_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"^unknown network") as caught:
        articles.get_network(name)
    assert all(known in str(caught.value) for known in articles.NETWORKS)


TAKEN = """
import sys
from parity.network import articles
from parity.network.costs import resized
from parity.network.network import RESERVED
from parity.backend.registry import implementation
network = articles.get_network("vgg_mini@0.05")
own = dir(implementation(sys.argv[1], "model").Model(network))
assert "forward" in own and "training" in own and "network" in own
free = {name for name in own if not name.startswith("_")} - set(network.shapes) - RESERVED
assert not free, f"add to parity.network.network.RESERVED: {sorted(free)}"
"""


def test_no_layer_can_have_the_name_of_a_modules_own_attribute(framework: str) -> None:
    alone(TAKEN, framework)


def test_every_reserved_name_is_refused_and_the_same_with_a_number_is_not() -> None:
    for name in sorted(RESERVED):
        with pytest.raises(InputError, match=f"a layer cannot be called {name}, "):
            Network("net", (3,), (Linear(name, 2),))
        assert Network("net", (3,), (Linear(f"{name}1", 2),)).shapes == {f"{name}1": (2,)}
