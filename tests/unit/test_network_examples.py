"""The networks of docs/networks are those of `parity.network.examples`, small and readable."""

from __future__ import annotations

import pytest

from helpers.paths import ROOT
from parity.network import articles
from parity.network.examples import EXAMPLES
from parity.network.network import Network
from parity.network.nodes import Conv

FOLDER = ROOT / "docs" / "networks"


def test_every_file_has_its_network() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(f"{name}.json" for name in EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_file_holds_the_network(name: str) -> None:
    assert articles.get_network(str(FOLDER / f"{name}.json")) == EXAMPLES[name]
    assert Network.from_json(EXAMPLES[name].to_json()) == EXAMPLES[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_file_is_readable(name: str) -> None:
    lines = (FOLDER / f"{name}.json").read_text().splitlines()
    assert 20 < len(lines) < 50
    assert max(map(len, lines)) <= 140
    assert len(EXAMPLES[name].layers) == sum('"node"' in line for line in lines)


@pytest.mark.parametrize(("name", "count"), [("mobilenet_block", 5178), ("squeeze_excitation", 5454)])
def test_the_numbers_of_parameters(name: str, count: int) -> None:
    assert EXAMPLES[name].trainable_count == count


def test_a_cousin_of_a_file_is_narrower_and_its_depthwise_convolution_stays_one() -> None:
    cousin = articles.get_network(f"{FOLDER}/mobilenet_block.json@0.5")
    layer = cousin.layers["depthwise"]
    assert isinstance(layer.node, Conv)
    assert (layer.node.filters, layer.node.groups, layer.input[0]) == (32, 32, 32)
