"""Every kind of node is in every table that needs it; CONTRIBUTING.md lists them."""

from __future__ import annotations

import re

import pytest

from helpers import layer_cases, numpy_network
from helpers.paths import ROOT
from parity.compare import causes_of_layers, numpy_layers
from parity.network import costs, nodes, pattern
from parity.network.nodes import KINDS, Joined, Node, walk
from parity.onnx import operators

LAYERS = [kind for kind in KINDS.values() if kind is not nodes.Auxiliary]
"""All kinds but auxiliary heads, which compute nothing."""


def kinds_of(cases: dict) -> set[type[Node]]:
    return {type(node) for network in cases.values() for node in walk(network.nodes)}


@pytest.mark.parametrize("framework", ["paddle", "torch"])
def test_both_frameworks_have_a_layer_for_every_kind(framework: str) -> None:
    table = (ROOT / f"{framework}_impl" / "layers.py").read_text().partition("\nLAYERS: ")[2]
    assert set(re.findall(r"^    nodes\.(\w+): \w+,$", table, re.MULTILINE)) == {kind.__name__ for kind in LAYERS}


def test_numpy_computes_every_kind() -> None:
    assert set(numpy_layers.LAYERS) == set(LAYERS)
    assert {*numpy_network.NODES, *numpy_network.JOINS} == set(LAYERS)


def test_every_kind_has_onnx_operators() -> None:
    assert {*operators.SPELLED, *operators.SEVERAL} == set(LAYERS)


def test_every_kind_has_a_case() -> None:
    assert kinds_of(layer_cases.CASES) == set(KINDS.values())


def test_every_kind_has_known_costs() -> None:
    nothing_read = {
        nodes.AvgPool,
        nodes.GlobalAvgPool,
        nodes.PadChannels,
        nodes.Dropout,
        nodes.Flatten,
        nodes.Branches,
        nodes.Add,
    }
    assert {*costs.READ_INPUT, *costs.READ_OUTPUT} == set(LAYERS) - nothing_read


def test_every_kind_but_those_without_a_gradient_of_their_own_has_common_mistakes() -> None:
    assert set(LAYERS) - set(causes_of_layers.OF_KIND) <= {nodes.GlobalAvgPool, nodes.AvgPool}


def test_every_kind_that_is_no_branching_has_a_word() -> None:
    words = set(pattern.WORDS.values())
    assert {kind for kind in LAYERS if not issubclass(kind, Joined)} - words == {nodes.Flatten, nodes.PadChannels}


def test_the_places_that_contributing_names_exist() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## A new node")[2]
    places = re.findall(r"`((?:parity|paddle_impl|torch_impl|tests)/[\w/.]+\.py)`", section)
    assert len(places) > 12 and all((ROOT / place).exists() for place in places)
