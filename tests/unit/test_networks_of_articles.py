"""The networks of the articles have the published numbers of parameters and the published layers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest

from parity.errors import InputError
from parity.network import articles
from parity.network.articles.googlenet import BLOCKS
from parity.network.initialisers import XAVIER, Init
from parity.network.network import Network
from parity.network.nodes import (
    LRN,
    Add,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Multiply,
    PadChannels,
    ReLU,
    Sigmoid,
    Tanh,
    walk,
)
from parity.weights.canonical_state import initialise

COUNTS = {
    "tf_vgg16": 22_010_664,
    "tf_vgg16_logits": 22_010_664,
    "slim_vgg16": 138_357_544,
    "vgg_a": 132_863_336,
    "vgg_a_lrn": 132_863_336,
    "vgg_b": 133_047_848,
    "vgg_c": 133_638_952,
    "vgg_d": 138_357_544,
    "vgg_e": 143_667_240,
    "cifar_net": 6 * 76 + 16 * 151 + 401 * 120 + 121 * 84 + 85 * 10,
    "mnist_fc": 6_442,
    "mnist_cnn": 6_422,
    "lenet": 6 * 76 + 16 * 151 + 401 * 120 + 121 * 84 + 85 * 10,
    "alexnet": 60_965_224,
    "googlenet": 6_998_552,
}
NORMED = {"vgg_a_bn": 132_868_840, "vgg_b_bn": 133_053_736, "vgg_d_bn": 138_365_992, "vgg_e_bn": 143_678_248}
"""The numbers that torchvision publishes; `test_model_zoos` counts the parameters of its classes."""


@pytest.mark.parametrize("name", COUNTS)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    network = articles.get_network(name)
    assert network.trainable_count == COUNTS[name]
    assert network.statistics_count == 0
    assert network.source


@pytest.mark.parametrize("name", NORMED)
def test_with_batch_norm_every_filter_has_two_parameters_and_two_statistics_more(name: str) -> None:
    network, plain = articles.get_network(name), articles.get_network(name.removesuffix("_bn"))
    filters = sum(node.filters for node in plain.nodes if isinstance(node, Conv))
    assert network.trainable_count == NORMED[name] == plain.trainable_count + 2 * filters
    assert network.statistics_count == 2 * filters
    assert [node for node in network.nodes if not isinstance(node, BatchNorm)] == list(plain.nodes)
    behind = [b for a, b in itertools.pairwise(network.nodes) if isinstance(a, Conv)]
    assert all(isinstance(node, BatchNorm) for node in behind)


def test_the_vgg16_of_cifar10_is_d_with_batch_norm_and_one_linear_layer() -> None:
    network, whole = articles.get_network("vgg16_bn"), articles.get_network("vgg_d_cifar")
    convolutions = [[node for node in net.nodes if isinstance(node, Conv)] for net in (network, whole)]
    assert [(c.name, c.filters, c.kernel) for c in convolutions[0]] == [
        (c.name, c.filters, c.kernel) for c in convolutions[1]
    ]
    # Many repositories count 14,728,266, because they also have a bias for each of the 4,224 filters.
    assert network.trainable_count == 14_728_266 - 4_224
    assert network.shapes["flatten"] == (512,)


def test_every_network_names_its_source() -> None:
    assert [name for name, network in articles.NETWORKS.items() if not network.source] == []


def test_one_convolution_of_5x5_replaces_two_of_3x3() -> None:
    pairs, single = articles.get_network("vgg_b"), articles.get_network("vgg_b_5x5")
    filters = (3, 64, 128, 256, 512, 512)
    saved = sum(9 * (i * o + o * o) + o - 25 * i * o for i, o in itertools.pairwise(filters))
    assert pairs.trainable_count - single.trainable_count == saved
    assert pairs.shapes["pool5"] == single.shapes["pool5"] == (512, 7, 7)


def test_the_networks_at_32_have_the_convolutions_of_those_at_224() -> None:
    for letter in ("a", "a_lrn", "b", "c", "d", "e", "b_5x5"):
        large, small = (
            [node for node in articles.get_network(name).nodes if isinstance(node, Conv | LRN | MaxPool)]
            for name in (f"vgg_{letter}", f"vgg_{letter}_cifar")
        )
        assert large == small
        assert articles.get_network(f"vgg_{letter}_cifar").classes == 10


# GoogLeNet

WEIGHTS = {
    "3a": (192, 163_328), "3b": (256, 388_096), "4a": (480, 375_552), "4b": (512, 448_512), "4c": (512, 509_440),
    "4d": (512, 604_672), "4e": (528, 867_328), "5a": (832, 1_042_432), "5b": (832, 1_442_816),
}  # fmt: skip
"""The input channels and the number of weights, without biases, of every block."""


@pytest.mark.parametrize("block", WEIGHTS)
def test_every_inception_block_has_the_weights_of_the_table(block: str) -> None:
    network, (channels, weights) = articles.get_network("googlenet"), WEIGHTS[block]
    one, reduce3, three, reduce5, five, proj = BLOCKS[block]
    by_hand = channels * (one + reduce3 + reduce5 + proj) + 9 * reduce3 * three + 25 * reduce5 * five
    own = {n: p for n, p in network.parameters.items() if n.startswith(f"inception_{block}_") and n.endswith(".weight")}
    assert network.inputs[f"inception_{block}_1x1"][0] == channels
    assert sum(math.prod(parameter.shape) for parameter in own.values()) == by_hand == weights
    assert network.shapes[f"inception_{block}"][0] == one + three + five + proj


TABLE = {
    "conv1": (("conv1_7x7",), 112, 2.7, 34), "conv2": (("conv2_reduce", "conv2_3x3"), 56, 112, 360),
    **{block: ((f"inception_{block}_",), side, thousands, millions) for block, side, thousands, millions in (
        ("3a", 28, 159, 128), ("3b", 28, 380, 304), ("4a", 14, 364, 73), ("4b", 14, 437, 88), ("4c", 14, 463, 100),
        ("4d", 14, 580, 119), ("4e", 14, 840, 170), ("5a", 7, 1072, 54), ("5b", 7, 1388, 71),
    )},
    "linear": (("fc",), 1, 1000, 1),
}  # fmt: skip
"""The paper's table 1: the layers of each row, the side of their maps, `params` in K and `ops` in M."""

K = 1024
"""The K of `params`: it is exact for conv2 (112K are 114,688 weights) and the linear layer (1000K are 1,024,000) without biases."""

MISPRINTED = {"conv1": 9, "4a": 366, "4c": 497, "4d": 590, "4e": 847, "5a": 1018, "5b": 1409}
"""Rows whose `params` do not match their own filters -> the number that matches, in K.

For 4c, 4d, 4e and 5b, the table's own `ops` match our number. The `ops` of 5a match its `params`, and not its filters. conv1's 2.7K and 34M
are those of a pair of 7x1 and 1x7 on three channels, which has 2,688 weights. A kernel of 7x7 has 9,408.
"""


def row(name: str) -> tuple[int, int]:
    """The number of weights and of multiply-adds of a row of the table."""
    network, (starts, *_) = articles.get_network("googlenet"), TABLE[name]
    own = {n: layer for n, layer in network.layers.items() if n.startswith(starts) and not layer.head}
    weights = [p for layer in own.values() for p in layer.node.parameters(layer.input) if p.name.endswith(".weight")]
    return sum(math.prod(p.shape) for p in weights), sum(
        layer.node.multiply_adds(layer.input) for layer in own.values()
    )


@pytest.mark.parametrize("name", TABLE)
def test_the_parameters_of_the_table_are_the_weights_in_units_of_1024(name: str) -> None:
    _, side, thousands, millions = TABLE[name]
    weights, ops = row(name)
    assert ops == weights * side**2
    if name in MISPRINTED:
        assert abs(weights / K - thousands) > 2
        assert weights // K == MISPRINTED[name]
    else:
        assert abs(weights / K - thousands) <= 1, "3b and 4b are off by one K"
    if name not in ("conv1", "5a"):
        assert millions in (ops // 10**6, round(ops / 1e6)), "4a is cut and not rounded"


def test_rows_1_and_9_of_the_table_repeat_a_wrong_number_of_weights() -> None:
    for name, weights in (("conv1", 2 * 7 * 3 * 64), ("5a", 1072 * K)):
        _, side, thousands, millions = TABLE[name]
        assert round(weights / 1000, 1) == 2.7 if name == "conv1" else weights // K == thousands
        assert round(weights * side**2 / 1e6) == millions
    assert row("conv1") == (9_408, 118_013_952)
    assert row("5a") == (1_042_432, 51_079_168)


def test_the_maps_of_googlenet_have_the_sizes_of_the_paper() -> None:
    shapes = articles.get_network("googlenet").shapes
    assert [shapes[name] for name in ("conv1_7x7", "pool1", "conv2_3x3", "pool2", "pool3", "pool4", "avgpool")] == [
        (64, 112, 112), (64, 56, 56), (192, 56, 56), (192, 28, 28), (480, 14, 14), (832, 7, 7), (1024, 1, 1),
    ]  # fmt: skip


def test_auxiliary_heads_are_on_4a_and_4d_and_count_separately() -> None:
    network = articles.get_network("googlenet")
    assert (network.count("aux1"), network.count("aux2")) == (3_188_840, 3_190_888)
    assert network.layers["aux1_pool"].sources == ("inception_4a",)
    assert network.layers["aux2_pool"].sources == ("inception_4d",)
    weight = float(np.float32(0.3))
    assert network.heads == {"aux1_fc2": weight, "aux2_fc2": weight}
    assert network.inference.heads == {} and network.inference.trainable_count == network.trainable_count
    assert set(network.parameters) - set(network.inference.parameters) == {
        name for name in network.parameters if name.startswith("aux")
    }
    assert network.inference.multiply_adds == network.multiply_adds


def test_every_convolution_of_googlenet_is_followed_by_a_relu() -> None:
    layers = articles.get_network("googlenet").layers
    convs = [name for name, layer in layers.items() if isinstance(layer.node, Conv)]
    assert len(convs) == 59
    rectified = {layer.sources for layer in layers.values() if isinstance(layer.node, ReLU)}
    assert {(name,) for name in convs} <= rectified


# Single facts


def test_the_maps_of_tf_vgg16_shrink_as_its_same_pools_do() -> None:
    shapes = articles.get_network("tf_vgg16").shapes
    assert [shapes[f"pool{g}"][1] for g in range(1, 6)] == [12, 6, 3, 2, 1]
    assert articles.get_network("tf_vgg16").output == "relu_fc8"
    assert articles.get_network("tf_vgg16_logits").output == "fc8"


def test_initialisers_are_those_of_the_articles() -> None:
    def inits(name: str, kind: type) -> set[tuple[Init, Init]]:
        return {(n.init, n.bias_init) for n in walk(articles.get_network(name).nodes) if isinstance(n, kind)}

    zero, tenth = Init("constant", 0.0), Init("constant", 0.1)
    assert inits("tf_vgg16", Conv) == {(XAVIER, zero)}
    assert inits("tf_vgg16", Linear) == {(XAVIER, tenth)}
    assert inits("slim_vgg16", Conv) == inits("slim_vgg16", Linear) == {(Init("truncated", 0.01), zero)}
    assert inits("vgg_d", Linear) == {(Init("normal", 0.005), tenth)}


def test_the_normalisation_has_krizhevskys_constants() -> None:
    found = [
        n
        for name in ("alexnet", "vgg_a_lrn", "googlenet")
        for n in articles.get_network(name).nodes
        if isinstance(n, LRN)
    ]
    assert len(found) == 5
    assert {(n.size, n.k, n.alpha, n.beta) for n in found} == {(5, 2.0, float(np.float32(1e-4)), 0.75)}
    assert articles.get_network("vgg_a_lrn").layers["lrn1"].sources == ("relu1_1",)


def test_lenet_has_tanh_and_average_pools() -> None:
    block, full = [Conv, Tanh, AvgPool], [Linear, Tanh]
    nodes = articles.get_network("lenet").nodes
    assert [type(node) for node in nodes] == [*block * 2, Flatten, *full * 2, Linear]
    assert [(n.filters, n.kernel, n.padding) for n in nodes if isinstance(n, Conv)] == [(6, 5, 0), (16, 5, 0)]
    assert [(n.size, n.stride) for n in nodes if isinstance(n, AvgPool)] == [(2, 2)] * 2
    assert [node.units for node in nodes if isinstance(node, Linear)] == [120, 84, 10]


@pytest.mark.parametrize("name", ["alexnet", "alexnet_cifar"])
def test_alexnet_starts_and_drops_as_its_paper_says(name: str) -> None:
    nodes = articles.get_network(name).nodes
    own = {node.name: node for node in nodes if isinstance(node, Conv | Linear)}
    assert {node.init for node in own.values()} == {Init("normal", 0.01)}
    ones = {layer for layer, node in own.items() if node.bias_init == Init("constant", 1.0)}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert {own[layer].bias_init for layer in own.keys() - ones} == {Init("constant", 0.0)}
    assert [(node.rate, node.kind) for node in nodes if isinstance(node, Dropout)] == [(0.5, "downscale_in_infer")] * 2
    follows = {b.name: (type(a), a.name) for a, b in itertools.pairwise(nodes) if isinstance(b, Dropout)}
    assert follows == {"drop6": (ReLU, "relu6"), "drop7": (ReLU, "relu7")}
    pools = [node for node in nodes if isinstance(node, MaxPool)]
    assert [(pool.name, pool.size, pool.stride) for pool in pools] == [(f"pool{n}", 3, 2) for n in (1, 2, 5)]


# Initial numbers


def test_truncated_weights_stay_within_two_deviations_and_are_not_clipped() -> None:
    network = Network("one", (400,), (Linear("fc", 500, init=Init("truncated", 0.01)),))
    draw = initialise(network, 3)["fc.weight"].astype(float) / 0.01
    assert np.abs(draw).max() <= 2.000001
    assert (np.abs(draw) > 1.999).mean() < 1e-3  # clipping would put 4.6% at the bounds
    assert draw.std() == pytest.approx(
        0.8796, rel=0.01
    )  # the deviation of the normal distribution cut at two deviations
    assert abs(draw.mean()) < 0.01
    assert not np.array_equal(draw, initialise(network, 4)["fc.weight"].astype(float) / 0.01)


@pytest.mark.parametrize(
    "node,shape,fans",
    [
        (Linear("x", 500, init=XAVIER), (400,), 900),
        (Conv("x", 50, 3, init=XAVIER), (40, 5, 5), 9 * 90),
        (Conv("x", 64, 5, padding=0, groups=2, init=XAVIER), (60, 5, 5), 25 * (30 + 64)),
    ],
)
def test_xaviers_uniform_fills_its_bound(node: Linear | Conv, shape: tuple[int, ...], fans: int) -> None:
    rest = () if isinstance(node, Linear) else (Flatten("flat"), Linear("fc", 2))
    draw = initialise(Network("one", shape, (node, *rest)), 0)["x.weight"]
    bound = math.sqrt(6 / fans)
    assert bound * 0.999 < np.abs(draw).max() <= np.float32(bound)
    assert draw.var() == pytest.approx(bound**2 / 3, rel=0.05)


# Cousins


@pytest.mark.parametrize("name", articles.NETWORKS)
def test_the_name_of_every_small_cousin_makes_it_again(name: str) -> None:
    network = articles.get_network(name)
    small = articles.small(network)
    assert small.trainable_count < 1.3e6 and small.multiply_adds < 3e7
    assert max(small.input_shape) <= 64
    assert articles.get_network(small.name) == small
    assert [type(node) for node in walk(small.nodes)] == [type(node) for node in walk(network.nodes)]
    assert small.classes == network.classes


def test_an_average_pool_over_a_whole_map_covers_it_in_cousins_of_other_sizes() -> None:
    network = articles.get_network("googlenet@0.25x96")
    pool = network.layers["avgpool"].node
    assert isinstance(pool, AvgPool)
    assert (network.inputs["avgpool"], pool.size) == ((256, 3, 3), 3)
    larger = articles.get_network("vgg_mini@1x64")
    assert larger.layers["pool5"].node == articles.get_network("vgg_mini").layers["pool5"].node
    assert (larger.inputs["avgpool"][1], larger.layers["avgpool"].node.size) == (2, 2)  # type: ignore[attr-defined]
    head = network.layers["aux1_pool"]  # 5x5 on a map of 6 fits unchanged
    assert (head.input[1], head.node) == (6, AvgPool("aux1_pool", 5, 3))


@pytest.mark.parametrize(
    "name", ["vgg_d@0.5x0", "vgg_d@0.5x-3", "vgg_d@0.5x", "vgg_d@0.5xbig", "vgg_d@0.5x64x64", "alexnet@1x4"]
)
def test_a_wrong_size_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError):
        articles.get_network(name)


# Trees of nodes


def conv(name: str, filters: int = 2) -> Conv:
    return Conv(name, filters)


def test_layers_come_after_all_their_inputs() -> None:
    seen = {""}
    for name, layer in articles.get_network("googlenet").layers.items():
        assert set(layer.sources) <= seen
        seen.add(name)


def test_branches_concatenate_their_channels_and_name_their_ends() -> None:
    nodes = (conv("a"), Branches("both", ((conv("b", 3),), (conv("c"), ReLU("d")))), Flatten("f"), Linear("g", 2))
    network = Network("n", (1, 4, 4), nodes)
    assert network.shapes["both"] == network.inputs["both"] == (5, 4, 4)
    assert {name: layer.sources for name, layer in network.layers.items()} == {
        "a": ("",), "b": ("a",), "c": ("a",), "d": ("c",), "both": ("b", "d"), "f": ("both",), "g": ("f",),
    }  # fmt: skip


def head(*nodes: object, name: str = "aux") -> Auxiliary:
    return Auxiliary(name, tuple(nodes))  # type: ignore[arg-type]


SCORES = (Flatten("flat"), Linear("scores", 2))

WRONG = {
    "names that meet across branches": (Branches("x", ((conv("a"),), (conv("a"),))), *SCORES),
    "a name within that is the block's": (Branches("a", ((conv("a"),),)), *SCORES),
    "no branch": (Branches("x", ()), *SCORES),
    "two empty branches": (Branches("x", ((conv("a"),), (), ())), *SCORES),
    "an empty branch and one that is only a head": (
        Branches("x", ((), (head(Flatten("f"), Linear("l", 2)),))),
        *SCORES,
    ),
    "a sum of one": (Add("x", ((conv("a"),),)), *SCORES),
    "a sum of none": (Add("x", ()), *SCORES),
    "a sum of maps with other channels": (Add("x", ((conv("a"), conv("b", 3)), ())), *SCORES),
    "a sum of a map and a vector": (Add("x", ((conv("a"),), (GlobalAvgPool("g"),))), *SCORES),
    "a product of one": (Multiply("x", ((conv("a"),),)), *SCORES),
    "a product of maps of two sizes": (Multiply("x", ((conv("a"),), (conv("b"), MaxPool("p")))), *SCORES),
    "a product of a map and a vector of other channels": (
        Multiply("x", ((conv("a"),), (GlobalAvgPool("g"), Linear("l", 3)))),
        *SCORES,
    ),
    "fewer channels than there are": (conv("a", 3), PadChannels("p", 2), *SCORES),
    "channels beside a vector": (Flatten("f"), PadChannels("p", 99), Linear("l", 2)),
    "a vector that is flattened": (GlobalAvgPool("g"), *SCORES),
    "maps of two sizes": (Branches("x", ((conv("a"),), (MaxPool("p"),))), *SCORES),
    "a map beside a vector": (Branches("x", ((conv("a"),), (Flatten("p"),))), *SCORES),
    "a head of other classes": (head(Flatten("f"), Linear("l", 3)), *SCORES),
    "a head that ends in a map": (head(conv("l")), *SCORES),
    "an empty head": (head(), *SCORES),
    "a head within a head": (
        head(head(Flatten("g"), Linear("m", 2), name="inner"), Flatten("f"), Linear("l", 2)),
        *SCORES,
    ),
    "nothing but a head": (head(Flatten("f"), Linear("l", 2)),),
    "another word for padding": (Conv("c", 2, padding="valid"), *SCORES),
}


@pytest.mark.parametrize("what", WRONG)
def test_invalid_trees_of_nodes_are_refused_in_one_line(what: str) -> None:
    with pytest.raises(InputError) as caught:
        Network("wrong", (1, 4, 4), WRONG[what])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field,value", [("k", 0.0), ("alpha", -1.0), ("beta", math.nan), ("k", math.inf)])
def test_invalid_scalars_of_a_normalisation_are_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        LRN("lrn", **{field: value})


def test_a_bias_that_a_later_batch_norm_subtracts_has_a_gradient_of_zero() -> None:
    block = Branches("block", ((conv("a"),), (conv("b"), ReLU("r")), (conv("c"), MaxPool("p", 3, 1, padding=1))))
    network = Network("n", (1, 4, 4), (block, BatchNorm("bn"), *SCORES))
    assert network.zero_gradients == {"a.bias", "c.bias"}
    seen = head(Flatten("f"), Linear("l", 2))
    other = dataclasses.replace(network, nodes=(conv("d"), seen, BatchNorm("bn"), *SCORES))
    assert other.zero_gradients == frozenset(), "the head sees it too"


def test_a_bias_is_subtracted_behind_sums_channels_of_zeros_and_means_too() -> None:
    half = Add("sum", ((conv("a"), PadChannels("pad", 3)), (conv("b", 3),)))
    network = Network("n", (1, 4, 4), (half, BatchNorm("bn"), *SCORES))
    assert network.zero_gradients == {"a.bias", "b.bias"}
    mean = Network("n", (1, 4, 4), (conv("a"), GlobalAvgPool("mean"), BatchNorm("bn"), Linear("fc", 2)))
    assert mean.zero_gradients == {"a.bias"}
    bare = Network("n", (1, 4, 4), (conv("a"), Conv("b", 2, 3, padding=0, bias=False), BatchNorm("bn"), *SCORES))
    assert bare.zero_gradients == {"a.bias"}, "a convolution without padding passes a constant on"
    padded = Network("n", (1, 4, 4), (conv("a"), conv("b"), BatchNorm("bn"), *SCORES))
    assert padded.zero_gradients == {"b.bias"}
    gated = Multiply("product", ((conv("a"),), (conv("b"), Sigmoid("s"))))
    assert Network("n", (1, 4, 4), (gated, BatchNorm("bn"), *SCORES)).zero_gradients == frozenset()
    later = Add("later", ((), (conv("b", 2),)))
    both = Network("n", (1, 4, 4), (conv("a"), later, ReLU("r"), BatchNorm("bn"), *SCORES))
    assert both.zero_gradients == frozenset(), "the ReLU is before the batch norm"


def test_an_empty_branch_is_the_identity_of_the_layer_before() -> None:
    network = Network("n", (2, 4, 4), (conv("a"), Add("sum", ((), (conv("b"),))), *SCORES))
    assert network.layers["sum"].sources == ("a", "b")
    first = Network("n", (2, 4, 4), (Add("sum", ((), (conv("b"),))), *SCORES))
    assert first.layers["sum"].sources == ("", "b")
    seen = head(Flatten("f"), Linear("l", 2))
    headed = Network("n", (2, 4, 4), (conv("a"), Add("sum", ((seen,), (conv("b"),))), *SCORES))
    assert headed.layers["sum"].sources == ("a", "b") and headed.layers["f"].sources == ("a",)


@pytest.mark.parametrize("name,parameters", [
    # Table 6 of the paper, in millions: 0.27, 0.46 and 0.85.
    ("resnet20", 269_722), ("resnet32", 464_154), ("resnet56", 853_018), ("plain20", 269_722), ("plain56", 853_018),
    ("resnet18", 11_689_512),
])  # fmt: skip
def test_residual_networks_have_as_many_parameters_as_in_the_paper(name: str, parameters: int) -> None:
    network = articles.get_network(name)
    assert network.trainable_count == parameters
    weighted = [node for node in walk(network.nodes) if isinstance(node, Conv | Linear) and "down" not in node.name]
    assert len(weighted) == int(re.sub("[a-z]", "", name))


def test_shortcut_b_adds_two_convolutions_of_1x1() -> None:
    a, b = (articles.get_network(name) for name in ("resnet20", "resnet20_b"))
    assert b.trainable_count - a.trainable_count == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_dropout_in_a_head_has_a_mask() -> None:
    assert articles.get_network("googlenet").dropouts["aux1_drop"] == ((1024,), 0.7)
    assert [node.rate for node in walk(articles.get_network("googlenet").nodes) if isinstance(node, Dropout)] == [
        0.7,
        0.7,
        0.4,
    ]
