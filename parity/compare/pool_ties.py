"""Where rounding chose: maximum pools that take another element for the largest of a window on either side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.arrays import Array
from parity.network.graph import consumers
from parity.network.network import Network
from parity.network.nodes import GELU, AvgPool, Branches, Dropout, MaxPool, ReLU, Tanh

ELEMENTWISE = ReLU | GELU | Tanh | Dropout
"""Nodes that hand a gradient on element by element: what rounding chose behind them is chosen in front of them, too."""


def find_pool_ties(
    network: Network, layer: str, first: Mapping[str, Array], second: Mapping[str, Array]
) -> Array | None:
    """The elements of `layer`'s output [N,C,H,W] that are the largest of a pool's window on one of two sides only, as booleans.

    The pool is the next layer, or comes behind the end of branches or layers that work element by element.

    `first` and `second` are what the sides recorded of one training step. None where there is no such element, or the outputs were not
    recorded. Where the largest element is another one on either side, the two are no farther from each other than twice what the
    sides stand apart there, and the whole gradient of the window goes to the one or to the other, however small that is: right, as each
    side has rounded. Elements that are equally large on one side count as the largest together; windows in which they are on both
    sides alike do not count, since which of them gets the gradient is then not for rounding to say.
    """
    x, y = first.get(f"forward/{layer}"), second.get(f"forward/{layer}")
    if x is None or y is None or x.shape != y.shape:
        return None
    found = np.zeros(x.shape, bool)
    for name in consumers(network.layers)[layer]:
        node = network.layers[name].node
        if isinstance(node, MaxPool) and not isinstance(node, AvgPool):
            found |= ties_of_pool(node, x, y)
        elif isinstance(node, ELEMENTWISE | Branches):
            behind = find_pool_ties(network, name, first, second)
            if behind is not None:
                start = _place(network, name, layer)
                found |= behind[:, start : start + x.shape[1]]
    return found if found.any() else None


def _place(network: Network, name: str, layer: str) -> int:
    """The channel of the input of the layer `name` at which the output of `layer` begins."""
    sources = network.layers[name].sources
    return sum(network.shapes[source][0] for source in sources[: sources.index(layer)])


def ties_of_pool(pool: MaxPool, x: Array, y: Array) -> Array:
    """The elements of what two sides give one pool, [N,C,H,W] each, that are the largest of a window on one side only, as booleans."""
    (above, _), (left, _) = pool.pads(x.shape[1:])
    _, rows, columns = pool.output(x.shape[1:])
    height, width = ((count - 1) * pool.stride + pool.size for count in (rows, columns))
    # Rounded up, the last window reaches beyond the end; rounded down, the last elements are in none.
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
    differ = (a != b).any(0) & a.any(0) & b.any(0)  # what is not a number is not the largest
    for place, elements in zip(places, (a | b) & differ, strict=True):
        chosen[place] |= elements
    return chosen[:, :, above : above + x.shape[2], left : left + x.shape[3]]
