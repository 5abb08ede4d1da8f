"""A classifier as a fully convolutional network, to be applied to whole images of any size (arXiv 1409.1556, section 3.2).

The first linear layer behind a flattened map of HxH becomes a convolution of HxH without padding, every other one a convolution of 1x1;
their class score map [K,h,w] is averaged over space. On an image of the classifier's own size the map is 1x1, and both compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from parity.arrays import Array
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import (
    BatchNorm,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    LogSoftmax,
    MaxPool,
    Node,
    Nodes,
    Shape,
    walk,
)
from parity.network.windows import SAME

AVERAGE = "score_map_average"
"""The layer that averages the score map."""


def dense(network: Network, size: int | None = None) -> Network:
    """`network`, without auxiliary heads, with convolutions for its linear layers, on images of `size` by `size` (None: as they are).

    `NAME+dense` or `NAME+denseSIZE`. Dropouts and batch norms stay where they are, and then act on maps; a log-softmax stands behind the
    average. `InputError` names the layer that cannot be a convolution.
    """
    own = network.inference
    if len(own.input_shape) != 3 or any(isinstance(node, GlobalAvgPool) for node in walk(own.nodes)):
        raise InputError(
            f"network {network.name} takes no image, or averages its maps already: it cannot be made dense"
        )
    made: list[Node] = []
    shape: Shape = own.input_shape
    flattened: Shape | None = None
    for node in own.nodes:
        if isinstance(node, LogSoftmax):
            made.append(GlobalAvgPool(AVERAGE))
        made += _converted(node, shape, flattened)
        if isinstance(node, Flatten) and len(shape) == 3:
            flattened = shape
        elif isinstance(node, Linear):
            flattened = None
        shape = node.output(shape)
    if not any(isinstance(node, GlobalAvgPool) for node in made):
        made.append(GlobalAvgPool(AVERAGE))
    pixels, suffix = (own.input_shape, "") if size is None else ((own.input_shape[0], size, size), str(size))
    return Network(f"{network.name}+dense{suffix}", pixels, tuple(made), own.source)


def _converted(node: Node, shape: Shape, flattened: Shape | None) -> Nodes:
    """What stands for `node`, which takes `shape`; `flattened` is the map whose elements stand side by side in it, None elsewhere."""
    if any(isinstance(inner, Flatten | Linear) for part in node.parts for inner in walk(part)):
        raise InputError(f"{node.name}: linear layers in branches cannot become convolutions")
    if isinstance(node, Flatten):
        return ()
    if isinstance(node, BatchNorm) and flattened and flattened[1:] != (1, 1):
        raise InputError(
            f"{node.name} has statistics for every pixel of a map of {flattened}, and a dense network for every channel"
        )
    if not isinstance(node, Linear):
        return (node,)
    height, width = flattened[1:] if flattened else (1, 1)
    if height != width:
        raise InputError(f"{node.name} takes a map of {height} by {width}, and kernels of convolutions are square")
    return (Conv(node.name, node.units, height, 1, 0, bias=node.bias, init=node.init, bias_init=node.bias_init),)


def dense_state(network: Network, state: Mapping[str, Array]) -> dict[str, Array]:
    """A classifier's canonical `state` as that of its dense form `network`: the same numbers, weights [units,C*H*H] as [units,C,H,H]."""
    return {name: state[name].reshape(parameter.shape) for name, parameter in network.parameters.items()}


def takes_any_size(network: Network) -> bool:
    """Whether the built network computes images of any size large enough for its windows, as every dense one without `SAME` pools does."""
    nodes = list(walk(network.inference.nodes))
    averaged = any(isinstance(node, GlobalAvgPool) for node in nodes)
    return averaged and not any(isinstance(node, Flatten) or _sized(node) for node in nodes)


def any_size(network: Network) -> Network:
    """`network` where it computes images of any size, else its dense form; `InputError` where that does not either."""
    made = network if takes_any_size(network) else dense(network)
    check_any_size(made)
    return made


def check_any_size(network: Network) -> None:
    """`InputError` naming the layer of `network` whose padding depends on the size of the image."""
    for node in walk(network.inference.nodes):
        if _sized(node):
            raise InputError(
                f"{node.name} of network {network.name} pads by what its image's size asks ({SAME}): "
                "it cannot be applied to images of any size"
            )


def _sized(node: Node) -> bool:
    """Whether a node's padding depends on the size of its map; with a stride of 1 it does not."""
    return isinstance(node, Conv | MaxPool) and node.padding == SAME and node.stride > 1
