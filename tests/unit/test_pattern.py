"""CS231n's patterns describe networks, networks have patterns, and a wrong pattern ends in one line with the place."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.sample_networks import kinds
from parity.errors import InputError
from parity.network import articles, pattern
from parity.network.nodes import Conv, Linear

CS231N = "INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC"


def test_the_courses_pattern_makes_a_network() -> None:
    made = pattern.network(CS231N, N=2, M=3, K=1, filters=16, units=20)
    block = ["Conv", "ReLU", "Conv", "ReLU", "MaxPool"]
    assert kinds(made.nodes) == [*block * 3, "Flatten", "Linear", "ReLU", "Linear"]
    assert [node.filters for node in made.nodes if isinstance(node, Conv)] == [16, 16, 32, 32, 64, 64]
    assert [node.units for node in made.nodes if isinstance(node, Linear)] == [20, 10]
    assert made.shapes["pool3"] == (64, 4, 4)
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


CHAINS = [name for name, network in articles.NETWORKS.items() if not any(node.parts for node in network.nodes)]


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_has_a_pattern_that_describes_its_layers(name: str) -> None:
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
    "INPUT -> [CONV]*201 -> FC": (10, "200 layers"),
    "INPUT -> [[CONV]*199]*999999999 -> FC": (10, "200 layers"),
    "INPUT -> FC -> CONV -> FC": (16, "needs an image"),
    "INPUT -> [POOL]*6 -> FC": (11, "does not fit"),
    "INPUT -> CONV -> LOGSOFTMAX": (18, "needs a vector"),
    "INPUT -> " + "[" * 5000: (10 + 51, "too deep"),
    "INPUT -> CONV é FC": (15, "é"),
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
    text = " -> ".join(["INPUT", *(block * 29)[:199], "FC"])
    assert pattern.network(pattern.pattern(pattern.network(text))).nodes == pattern.network(text).nodes
    longer = pattern.network("INPUT -> [CONV -> RELU]*99 -> FC")
    nodes = (*longer.nodes[:-2], *(Conv(f"more{i}", 4) for i in range(9)), *longer.nodes[-2:])
    with pytest.raises(InputError, match="more than 200 layers"):
        pattern.pattern(replace(longer, nodes=nodes))


def test_a_pattern_is_accepted_as_a_network_name() -> None:
    text = "INPUT -> [CONV -> RELU -> POOL]*2 -> FC"
    assert articles.get_network(text) == pattern.network(text)
    with pytest.raises(InputError, match="character 10"):
        articles.get_network("INPUT -> CONF")
