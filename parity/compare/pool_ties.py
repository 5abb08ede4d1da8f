"""Max-pool ties: windows whose largest element differs between the sides because of rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.network.graph import consumers
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    AvgPool,
    Branches,
    Dropout,
    Joined,
    MaxPool,
    PadChannels,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
)

ELEMENTWISE = ReLU | GELU | SiLU | Sigmoid | Tanh | Dropout
"""Nodes that pass a gradient on element by element: a tie behind them is also a tie before them."""


def find_pool_ties(
    network: Network, layer: str, first: Mapping[str, Array], second: Mapping[str, Array]
) -> Array | None:
    """Return, as booleans, the elements of `layer`'s output [N,C,H,W] that are the largest of a pool's window on one side only.

    The pool is the next layer, or follows the end of branches or layers that work element by element. `first` and `second` are the
    records of one training step of the sides. None if there is no such element, or the outputs were not recorded.

    If the sides have different largest elements, these differ by at most twice the difference of the sides there. The whole gradient of
    the window goes to one or the other, and each side is right as it has rounded. Elements that are equally large on one side all count
    as the largest. Windows with the same largest elements on both sides do not count: rounding did not decide there.
    """
    x, y = first.get(f"forward/{layer}"), second.get(f"forward/{layer}")
    if x is None or y is None or x.shape != y.shape:
        return None
    found = np.zeros(x.shape, bool)
    for name in consumers(network.layers)[layer]:
        node = network.layers[name].node
        if isinstance(node, MaxPool) and not isinstance(node, AvgPool):
            found |= ties_of_pool(node, x, y)
        elif isinstance(node, ELEMENTWISE | Joined | PadChannels):
            behind = find_pool_ties(network, name, first, second)
            if behind is not None:
                start = _place(network, name, layer)
                behind = behind[:, start : start + x.shape[1]]
                found |= behind if behind.ndim == x.ndim else behind.any((2, 3))  # a vector that scales maps
    return found if found.any() else None


def _place(network: Network, name: str, layer: str) -> int:
    """Return the channel of the output of the layer `name` at which the output of `layer` begins."""
    node, sources = network.layers[name].node, network.layers[name].sources
    if isinstance(node, PadChannels):
        return node.pad(network.inputs[name])[0]
    if not isinstance(node, Branches):
        return 0
    return sum(network.shapes[source][0] for source in sources[: sources.index(layer)])


def ties_of_pool(pool: MaxPool, x: Array, y: Array) -> Array:
    """Return, as booleans, the elements of the inputs `x` and `y` of one pool, [N,C,H,W] each, that are a maximum on one side only."""
    (above, _), (left, _) = pool.pads(x.shape[1:])
    _, rows, columns = pool.output(x.shape[1:])
    height, width = ((count - 1) * pool.stride + pool.size for count in (rows, columns))
    # In ceil mode the last window reaches beyond the end. In floor mode the last elements are in no window.
    below, right = max(0, height - above - x.shape[2]), max(0, width - left - x.shape[3])
    around = ((0, 0), (0, 0), (above, below), (left, right))
    places = [
        (
            ...,
            slice(i, i + (rows - 1) * pool.stride + 1, pool.stride),
            slice(j, j + (columns - 1) * pool.stride + 1, pool.stride),
        )
        for i, j in np.ndindex(pool.size, pool.size)
    ]

    def largest(array: Array) -> Array:
        padded = np.pad(array, around, constant_values=-np.inf)
        windows = np.stack([padded[place] for place in places])
        found: Array = windows == windows.max(0)
        return found

    a, b = largest(x), largest(y)
    chosen = np.pad(np.zeros(x.shape, bool), around)
    differ = (a != b).any(0) & a.any(0) & b.any(0)  # NaN is not the largest
    for place, elements in zip(places, (a | b) & differ, strict=True):
        chosen[place] |= elements
    return chosen[:, :, above : above + x.shape[2], left : left + x.shape[3]]
