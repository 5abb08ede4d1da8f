"""CS231n's patterns describe networks, networks have patterns, and a wrong pattern ends in one line with the place."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.sample_networks import kinds
from parity.errors import InputError
from parity.network import articles, pattern
from parity.network.articles.resnet import resnet
from parity.network.network import Network
from parity.network.nodes import (
    Add,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Multiply,
    Node,
    Nodes,
    PadChannels,
    ReLU,
    Sigmoid,
    walk,
)

CS231N = "INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC"
RESNET = "INPUT -> CONV -> BN -> RELU -> [RES[CONV -> BN -> RELU -> CONV -> BN] -> RELU]*{} -> GAP -> FC"
MOBILENET = (
    "INPUT -> CONV -> BN -> SILU -> "
    "[RES[CONV -> BN -> SILU -> DWCONV -> BN -> SILU -> SCALE[GAP -> FC -> SILU -> FC -> SIGMOID] -> CONV -> BN] -> POOL]*2 -> "
    "GAP -> FC"
)
SQUEEZE = "SCALE[GAP -> FC -> RELU -> FC -> SIGMOID]"


def outputs(network: Network) -> dict[str, int]:
    """The filters of every convolution and the units of every linear layer, by name."""
    return {
        node.name: node.filters if isinstance(node, Conv) else node.units
        for node in walk(network.nodes)
        if isinstance(node, Conv | Linear)
    }


def shortcuts(network: Network) -> dict[str, list[str]]:
    """The names of the layers of every shortcut, by the name of its sum."""
    return {n.name: [s.name for s in n.branches[1]] for n in walk(network.nodes) if isinstance(n, Add)}


def test_the_courses_pattern_makes_a_network() -> None:
    made = pattern.network(CS231N, N=2, M=3, K=1, filters=16, units=20)
    block = ["Conv", "ReLU", "Conv", "ReLU", "MaxPool"]
    assert kinds(made.nodes) == [*block * 3, "Flatten", "Linear", "ReLU", "Linear"]
    assert [node.filters for node in made.nodes if isinstance(node, Conv)] == [16, 16, 32, 32, 64, 64]
    assert [node.units for node in made.nodes if isinstance(node, Linear)] == [20, 10]
    assert made.shapes["pool3"] == (64, 4, 4)
    assert outputs(pattern.network("INPUT -> CONV -> AVGPOOL -> CONV -> FC")) == {"conv1": 64, "conv2": 128, "fc1": 10}
    assert pattern.pattern(made) == "INPUT -> [[CONV -> RELU]*2 -> POOL]*3 -> FC -> RELU -> FC"


def test_optional_parts_may_be_left_out_and_zero_repeats_add_nothing() -> None:
    made = pattern.network(CS231N, N=1, M=2, K=0, optional=False)
    assert kinds(made.nodes) == ["Conv", "ReLU", "Conv", "ReLU", "Flatten", "Linear"]
    assert kinds(pattern.network("INPUT -> FC").nodes) == ["Flatten", "Linear"]
    whole = "INPUT -> [CONV -> RELU]*2? -> FC"
    assert len(pattern.network(whole).nodes) == 6 and len(pattern.network(whole, optional=False).nodes) == 2


def test_vgg_has_the_pattern_that_the_course_gives() -> None:
    said = "INPUT -> [[CONV -> RELU]*2 -> POOL]*5 -> [FC -> RELU -> DROPOUT]*2 -> FC"
    vgg = articles.get_network("vgg_b")
    assert pattern.pattern(vgg) == said
    made = pattern.network(said, input_shape=(3, 224, 224), classes=1000, units=4096)
    assert made.trainable_count == vgg.trainable_count == 133_047_848
    assert list(made.shapes.values()) == list(vgg.shapes.values())
    assert pattern.pattern(articles.get_network("vgg_e")) == (
        "INPUT -> [[CONV -> RELU]*2 -> POOL]*2 -> [[CONV -> RELU]*4 -> POOL]*3 -> [FC -> RELU -> DROPOUT]*2 -> FC"
    )


def test_sizes_are_left_out() -> None:
    c, d = (articles.get_network(name) for name in ("vgg_c", "vgg_d"))
    assert pattern.pattern(c) == pattern.pattern(d) and c.trainable_count < d.trainable_count


WITH_PATTERN = [
    name for name, network in articles.NETWORKS.items() if not any(isinstance(node, Branches) for node in network.nodes)
]


def test_only_inception_has_no_pattern() -> None:
    assert set(articles.NETWORKS) - set(WITH_PATTERN) == {"googlenet", "googlenet_naive"}


@pytest.mark.parametrize("name", WITH_PATTERN)
def test_every_network_but_inception_has_a_pattern_of_its_layers(name: str) -> None:
    network = articles.get_network(name)
    text = pattern.pattern(network)
    made = pattern.network(text, input_shape=(network.input_shape[0], 256, 256))
    assert pattern.pattern(made) == text
    assert [kind for kind in kinds(made.nodes) if kind != "Flatten"] == [
        kind for kind in kinds(network.nodes) if kind != "Flatten"
    ]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_generated_patterns_are_read_and_written(data: st.DataObject) -> None:
    words = st.sampled_from(["CONV", "RELU", "BN", "TANH", "DROPOUT", "LRN"])
    inner = st.lists(words, min_size=1, max_size=3).map(" -> ".join)
    group = st.tuples(inner, st.integers(1, 4)).map(lambda g: f"[{g[0]}]*{g[1]}")
    text = " -> ".join(["INPUT", *data.draw(st.lists(st.one_of(words, group), max_size=5)), "FC"])
    made = pattern.network(text)
    short = pattern.pattern(made)
    assert len(re.findall("[A-Z]+", short)) <= len(re.findall("[A-Z]+", text))
    again = pattern.network(short)
    assert (again.nodes, again.parameters) == (made.nodes, made.parameters)
    assert pattern.pattern(again) == short


MAP_WORDS = st.sampled_from(["CONV", "DWCONV", "BN", "RELU", "SILU", "SIGMOID", "LRN", "POOL"])


def blocks(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Items that hold `items`: repeats, residual blocks and products. Pools inside them are left out."""
    inside = st.lists(items.filter(lambda item: "POOL" not in item), min_size=1, max_size=4).map(" -> ".join)
    return st.one_of(
        st.tuples(inside, st.integers(1, 3)).map(lambda pair: f"[{pair[0]}]*{pair[1]}"),
        st.tuples(inside, st.integers(1, 3)).map(lambda pair: f"RES[{pair[0]}]*{pair[1]}"),
        inside.map(lambda text: f"RES[{text}]"),
        inside.map(lambda text: f"SCALE[{text}]"),
        inside.map(lambda text: f"SCALE[{text} -> GAP -> FC -> RELU -> FC -> SIGMOID]"),
        st.just("SCALE[FC -> FC -> SIGMOID]"),
    )


@settings(deadline=None, max_examples=150)
@given(st.lists(st.recursive(MAP_WORDS, blocks, max_leaves=8), max_size=4), st.booleans())
def test_generated_patterns_with_blocks_are_read_and_written(items: list[str], average: bool) -> None:
    text = " -> ".join(["INPUT", *items, *(["GAP"] if average else []), "FC"])
    try:
        made = pattern.network(text, filters=4)
    except InputError as error:
        assume("more than 400 layers" not in str(error))
        raise
    short = pattern.pattern(made)
    assert len(re.findall("[A-Z]+", short)) <= len(re.findall("[A-Z]+", text))
    again = pattern.network(short, filters=4)
    assert (again.nodes, again.parameters) == (made.nodes, made.parameters)
    assert pattern.pattern(again) == short


# Residual blocks and products


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_residual_networks_have_the_pattern_of_their_blocks(depth: int) -> None:
    text = RESNET.format((depth - 2) // 2)
    for shortcut in ("A", "B"):
        assert pattern.pattern(resnet(depth, shortcut)) == text
    made = pattern.network(text, filters=16)
    assert pattern.pattern(made) == text and kinds(made.nodes) == kinds(resnet(depth).nodes)
    assert pattern.pattern(resnet(depth, "none")) == f"INPUT -> [CONV -> BN -> RELU]*{depth - 1} -> GAP -> FC"


def test_a_block_that_changes_the_channels_has_a_projection_as_shortcut() -> None:
    made = pattern.network("INPUT -> [RES[CONV -> BN -> RELU -> CONV]*2 -> POOL]*2 -> RES[CONV]*2 -> GAP -> FC")
    assert shortcuts(made) == {
        "res1": ["res1_shortcut", "res1_shortcut_bn"],
        "res2": [],
        "res3": ["res3_shortcut", "res3_shortcut_bn"],
        "res4": [],
        "res5": ["res5_shortcut"],
        "res6": [],
    }
    first = next(node for node in walk(made.nodes) if node.name == "res1_shortcut")
    assert first == Conv("res1_shortcut", 64, 1, padding=0, bias=False)
    assert [made.shapes[f"res{i}"] for i in range(1, 7)] == [(64, 32, 32)] * 2 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2


def test_blocks_may_be_nested_repeated_left_out_and_hold_vectors() -> None:
    nested = pattern.network("INPUT -> RES[RES[CONV -> BN] -> RES[CONV]] -> GAP -> FC")
    assert shortcuts(nested) == {
        "res1": ["res1_shortcut", "res1_shortcut_bn"],
        "res2": ["res2_shortcut", "res2_shortcut_bn"],
        "res3": [],
    }
    assert (
        pattern.network("INPUT -> RES[CONV -> BN?]*3? -> FC", optional=False).nodes
        == pattern.network("INPUT -> FC").nodes
    )
    assert pattern.network("INPUT -> RES[CONV -> BN?]*N -> FC", N=2, optional=False) != pattern.network(
        "INPUT -> RES[CONV -> BN?]*N -> FC", N=2
    )
    vectors = pattern.network("INPUT -> FC -> RES[RELU -> FC -> RELU -> FC]*2 -> FC", units=20)
    assert outputs(vectors) == {f"fc{i}": 20 for i in range(1, 6)} | {"fc6": 10}
    assert shortcuts(vectors) == {"res1": [], "res2": []}


def test_squeeze_and_excitation_has_the_units_of_the_paper() -> None:
    made = pattern.network(f"INPUT -> CONV -> {SQUEEZE} -> POOL -> CONV -> {SQUEEZE} -> FC -> RELU -> FC", units=20)
    assert outputs(made) == {
        **{"conv1": 64, "fc1": 4, "fc2": 64},
        **{"conv2": 128, "fc3": 8, "fc4": 128},
        **{"fc5": 20, "fc6": 10},
    }
    scale = made.nodes[1]
    assert isinstance(scale, Multiply) and kinds(scale.branches[0]) == [
        "GlobalAvgPool",
        "Linear",
        "ReLU",
        "Linear",
        "Sigmoid",
    ]
    assert scale.branches[1] == () and made.shapes["scale1"] == (64, 32, 32)


def test_the_last_layer_of_a_product_fits_its_input() -> None:
    made = pattern.network(
        "INPUT -> SCALE[CONV -> RELU -> CONV -> SIGMOID] -> SCALE[CONV -> SCALE[FC] -> FC] -> FC -> SCALE[FC]"
    )
    assert outputs(made) == {"conv1": 64, "conv2": 3, "conv3": 64, "fc1": 64, "fc2": 3, "fc3": 10, "fc4": 10}
    assert [node.name for node in walk(made.nodes) if isinstance(node, Flatten)] == ["flatten", "flatten2", "flatten3"]
    pooled = pattern.network("INPUT -> CONV -> SCALE[POOL -> CONV -> GAP -> FC] -> CONV -> FC")
    assert outputs(pooled) == {"conv1": 64, "conv2": 128, "fc1": 64, "conv3": 64, "fc2": 10}


def test_without_fc_the_last_convolution_yields_the_class_scores() -> None:
    made = pattern.network(
        "INPUT -> CONV -> RELU -> RES[CONV -> RELU -> CONV] -> SCALE[GAP -> FC -> SIGMOID] -> GAP", classes=7
    )
    assert outputs(made) == {"conv1": 64, "conv2": 64, "conv3": 7, "res1_shortcut": 7, "fc1": 7} and made.classes == 7


def test_a_network_like_mobilenet_is_read_and_written() -> None:
    made = pattern.network(MOBILENET, filters=8)
    assert pattern.pattern(made) == MOBILENET
    depthwise = [node for node in walk(made.nodes) if isinstance(node, Conv) and node.groups > 1]
    assert [(node.name, node.filters, node.groups) for node in depthwise] == [("dwconv1", 8, 8), ("dwconv2", 16, 16)]
    assert outputs(made) == {
        **{"conv1": 8},
        **{"conv2": 8, "dwconv1": 8, "fc1": 4, "fc2": 8, "conv3": 8},
        **{"conv4": 16, "dwconv2": 16, "fc3": 4, "fc4": 16, "conv5": 16, "res2_shortcut": 16},
        **{"fc5": 10},
    }
    assert len(made.parameters) == len(set(made.parameters)) and made.shapes["res2"] == (16, 16, 16)


MAIN = (Conv("main", 8), ReLU("relu"))
SHORTCUTS: dict[str, Nodes] = {
    "identity": (),
    "padded": (PadChannels("pad", 8),),
    "pooled": (AvgPool("pool", 1, 1), PadChannels("pad", 8)),
    "projected": (Conv("down", 8, 1, padding=0), BatchNorm("norm")),
    "pooled and projected": (MaxPool("pool", 1, 1), Conv("down", 8, 1, padding=0)),
}


@pytest.mark.parametrize("name", SHORTCUTS)
@pytest.mark.parametrize("first", [False, True], ids=["second", "first"])
def test_shortcuts_are_found_on_either_side_of_a_sum(name: str, first: bool) -> None:
    branches = (SHORTCUTS[name], MAIN) if first else (MAIN, SHORTCUTS[name])
    assert pattern.pattern(ended(Add("sum", branches))) == "INPUT -> RES[CONV -> RELU] -> GAP -> FC"


def ended(*nodes: Node) -> Network:
    return Network("made", (8, 6, 6), (*nodes, GlobalAvgPool("gap"), Linear("fc", 3)))


def test_identities_are_preferred_as_shortcuts() -> None:
    norm, point = (BatchNorm("norm"),), (Conv("point", 8, 1, padding=0),)
    for branches in ((norm, ()), ((), norm)):
        assert pattern.pattern(ended(Add("sum", branches))) == "INPUT -> RES[BN] -> GAP -> FC"
        assert pattern.pattern(ended(Multiply("product", branches))) == "INPUT -> SCALE[BN] -> GAP -> FC"
    assert pattern.pattern(ended(Add("sum", (point, norm)))) == "INPUT -> RES[CONV] -> GAP -> FC"


NO_WORD: dict[str, Node] = {
    "Add sum, which is not the sum of a sequence and a shortcut": Add("sum", (MAIN, (Conv("other", 8), Sigmoid("s")))),
    "Add plain, which is not": Add("plain", (MAIN, (Conv("other", 8),))),
    "Add three, which is not": Add("three", (MAIN, (), (BatchNorm("norm"),))),
    "Multiply product, which is not the product": Multiply("product", (MAIN, (Conv("other", 8, 1, padding=0),))),
    "Multiply three, which is not": Multiply("three", (MAIN, (), (BatchNorm("norm"),))),
    "Branches inside": Add("sum", ((Branches("inside", ((), (Conv("a", 1),))), Conv("b", 8)), ())),
    "Auxiliary head": Auxiliary("head", (GlobalAvgPool("aux_gap"), Linear("aux_fc", 3))),
    "PadChannels pad": PadChannels("pad", 9),
}


@pytest.mark.parametrize("said", NO_WORD)
def test_other_sums_and_products_have_no_word(said: str) -> None:
    with pytest.raises(InputError, match=f"^network made: a pattern has no word for the {said}") as caught:
        pattern.pattern(ended(NO_WORD[said]))
    assert "\n" not in str(caught.value)


def test_a_product_that_only_flattens_has_no_word() -> None:
    product = Multiply("product", ((), (Flatten("flatten"),)))
    network = Network("made", (8, 1, 1), (product, GlobalAvgPool("gap"), Linear("fc", 3)))
    with pytest.raises(InputError, match="no word for the Multiply product"):
        pattern.pattern(network)


def test_the_deepest_pattern_is_written_and_a_deeper_network_has_none() -> None:
    deepest = pattern.network("INPUT -> " + "RES[" * 50 + "RELU" + "]" * 50 + " -> FC")
    assert pattern.network(pattern.pattern(deepest)) == deepest
    deeper = replace(deepest, nodes=(Add("sum", ((deepest.nodes[0],), ())), *deepest.nodes[1:]))
    with pytest.raises(InputError, match="network pattern has blocks within blocks, too deep"):
        pattern.pattern(deeper)


def test_a_network_that_only_flattens_is_its_input() -> None:
    assert pattern.pattern(Network("made", (3, 1, 1), (Flatten("flatten"),))) == "INPUT"


def test_brackets_begin_with_blocks_only_where_that_is_as_short() -> None:
    for text in (
        "INPUT -> [RES[CONV] -> RELU]*2 -> RES[CONV] -> FC",
        "INPUT -> [CONV -> RELU]*2 -> CONV -> FC",
        "INPUT -> RELU -> [RES[CONV] -> RELU]*2 -> FC",
        "INPUT -> [RELU -> RES[CONV]]*2 -> FC",
        "INPUT -> [RES[CONV]*2 -> POOL]*2 -> SCALE[BN]*3 -> FC",
    ):
        assert pattern.pattern(pattern.network(text)) == text


def test_spaces_do_not_matter() -> None:
    assert (
        pattern.network(" INPUT->[CONV->RELU]*2->FC ").nodes
        == pattern.network("INPUT -> [CONV -> RELU] * 2 -> FC").nodes
    )


WRONG = {
    "": (1, "INPUT"),
    "CONV -> FC": (1, "INPUT"),
    "INPUT FC": (7, "->"),
    "INPUT ->": (9, "the end"),
    "INPUT": (6, "-> FC"),
    "INPUT -> CONV": (14, "-> FC"),
    "INPUT -> CONF -> FC": (10, "CONF"),
    "INPUT -> conv -> FC": (10, "conv"),
    "INPUT -> [CONV -> RELU -> FC": (29, "]"),
    "INPUT -> [CONV]2 -> FC": (16, "*"),
    "INPUT -> [CONV]* -> FC": (18, "a number"),
    "INPUT -> [CONV]*n -> FC": (17, "a number"),
    "INPUT -> [CONV]*N -> FC": (17, "the letter N has no number"),
    "INPUT -> [CONV]*-1 -> FC": (17, "a number"),
    "INPUT -> [] -> FC": (11, "]"),
    "INPUT -> CONV] -> FC": (14, "]"),
    "INPUT -> CONV -> FC extra": (21, "extra"),
    "INPUT -> [CONV]*401 -> FC": (10, "400 layers"),
    "INPUT -> [[CONV]*199]*999999999 -> FC": (10, "400 layers"),
    "INPUT -> [CONV]*300 -> RES[[RELU]*100] -> FC": (24, "400 layers"),
    "INPUT -> RES[[RELU]*199]*3 -> FC": (10, "400 layers"),
    "INPUT -> FC -> CONV -> FC": (16, "needs an image"),
    "INPUT -> [POOL]*6 -> FC": (11, "does not fit"),
    "INPUT -> CONV -> LOGSOFTMAX": (18, "needs a vector"),
    "INPUT -> " + "[" * 5000: (10 + 50, "too deep"),
    "INPUT -> CONV é FC": (15, "é"),
    "INPUT -> CONF -> [RES[CONV]": (10, "CONF"),
    "INPUT -> CONV -> RES -> FC": (22, "expected [, found ->"),
    "INPUT -> RES*2 -> FC": (13, "expected [, found *"),
    "INPUT -> RES[] -> FC": (14, "]"),
    "INPUT -> RES[CONV -> FC": (24, "]"),
    "INPUT -> RES[CONV]2 -> FC": (19, "-> or the end"),
    "INPUT -> RES[CONV]*n -> FC": (20, "a number"),
    "INPUT -> RES[CONV] SCALE[CONV] -> FC": (20, "SCALE"),
    "INPUT -> CONV -> RES[[BN]*0] -> FC": (18, "RES has no layers"),
    "INPUT -> CONV -> SCALE[[BN]*0]*0 -> FC": (18, "SCALE has no layers"),
    "INPUT -> CONV -> RES[CONV -> POOL] -> FC": (18, "input, 64x32x32, and what its layers yield, 64x16x16"),
    "INPUT -> CONV -> RES[POOL -> CONV] -> FC": (
        18,
        "yield, 128x16x16: only channels of maps may change, so move pools out",
    ),
    "INPUT -> CONV -> RES[RELU -> RES[POOL]] -> FC": (30, "64x16x16"),
    "INPUT -> CONV -> RES[GAP -> FC] -> FC": (18, "64x32x32, and what its layers yield, 512"),
    "INPUT -> FC -> RES[FC]": (16, "512, and what its layers yield, 10"),
    "INPUT -> CONV -> SCALE[POOL -> CONV] -> FC": (18, "64x32x32, by what its layers yield, 64x16x16"),
    "INPUT -> CONV -> RES[CONV -> [POOL]*6] -> FC": (31, "does not fit"),
    "INPUT -> GAP": (13, "-> FC"),
    "INPUT -> GAP -> FC -> GAP": (23, "needs an image"),
    "INPUT -> FC -> DWCONV -> FC": (16, "needs an image"),
    "INPUT -> " + "RES[" * 5000: (10 + 4 * 50 + 3, "too deep"),
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
def test_a_wrong_pattern_is_one_line_with_the_place(text: str) -> None:
    place, said = WRONG[text]
    with pytest.raises(InputError) as caught:
        pattern.network(text)
    message = str(caught.value)
    assert message.startswith(f"pattern, character {place}: ") and said in message
    assert "\n" not in message and len(message) < 200


@pytest.mark.parametrize("name", ["googlenet", "googlenet_naive"])
def test_a_network_with_branches_has_no_pattern(name: str) -> None:
    with pytest.raises(InputError, match="no word for the Branches"):
        pattern.pattern(articles.get_network(name))


def test_the_longest_pattern_is_written_and_a_longer_network_has_none() -> None:
    block = ["CONV", "RELU", "BN", "TANH", "LRN", "RELU", "RELU"]
    for words in ((block * 57)[:399], random.Random(1).choices(block, k=399)):
        text = " -> ".join(["INPUT", *words, "FC"])
        assert pattern.network(pattern.pattern(pattern.network(text))).nodes == pattern.network(text).nodes
    longer = pattern.network("INPUT -> [CONV -> RELU]*199 -> FC")
    nodes = (*longer.nodes[:-2], Add("sum", ((Conv("more", 64),), ())), *longer.nodes[-2:])
    with pytest.raises(InputError, match="more than 400 layers"):
        pattern.pattern(replace(longer, nodes=nodes))
    nodes = (*longer.nodes[:-2], Conv("more", 64), *longer.nodes[-2:])
    assert pattern.pattern(replace(longer, nodes=nodes)) == "INPUT -> [CONV -> RELU]*199 -> CONV -> FC"


def test_a_pattern_is_accepted_as_a_network_name() -> None:
    text = "INPUT -> [CONV -> RELU -> POOL]*2 -> FC"
    assert articles.get_network(text) == pattern.network(text)
    with pytest.raises(InputError, match="character 10"):
        articles.get_network("INPUT -> CONF")
