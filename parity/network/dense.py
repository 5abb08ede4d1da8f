"""Turns a classifier into a fully convolutional network, which takes whole images of any size (arXiv 1409.1556, section 3.2).

The first linear layer after a flattened map of HxH becomes a convolution of HxH without padding, every other linear layer a convolution
of 1x1. The class score map [K,h,w] is averaged over space. On an image of the classifier's own size the map is 1x1, and both networks
compute the same.
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
    """The dense form of `network`, `NAME+dense`, or `NAME+denseSIZE` for images of `size` by `size`.

    Linear layers become convolutions, and auxiliary heads are left out. Dropouts and batch norms stay in their places and act on maps; a
    log-softmax comes after the average. `InputError` names the layer that cannot become a convolution.
    """
    own = network.inference
    if takes_any_size(own):
        raise InputError(
            f"network {network.name} already takes images of any size that its windows fit: leave out +dense"
        )
    if len(own.input_shape) != 3 or any(isinstance(node, GlobalAvgPool) for node in own.nodes):
        raise InputError(f"network {network.name} takes no image or already averages its maps: it cannot be made dense")
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
    """The nodes that replace `node`, which takes `shape`; `flattened` is the shape of the map that was flattened into it, or None."""
    if any(isinstance(inner, Flatten | Linear) for part in node.parts for inner in walk(part)):
        raise InputError(f"{node.name}: linear layers in branches cannot become convolutions")
    if isinstance(node, Flatten):
        return ()
    if isinstance(node, BatchNorm) and flattened and flattened[1:] != (1, 1):
        raise InputError(
            f"{node.name} has statistics for every element of a map of {flattened}, but a dense network only for every channel"
        )
    if not isinstance(node, Linear):
        return (node,)
    height, width = flattened[1:] if flattened else (1, 1)
    if height != width:
        raise InputError(f"{node.name} takes a map of {height} by {width}, but kernels of convolutions are square")
    return (Conv(node.name, node.units, height, 1, 0, bias=node.bias, init=node.init, bias_init=node.bias_init),)


def dense_state(network: Network, state: Mapping[str, Array]) -> dict[str, Array]:
    """A classifier's canonical `state` for its dense form `network`: weights [units,C*H*H] are reshaped to [units,C,H,H]."""
    return {name: state[name].reshape(parameter.shape) for name, parameter in network.parameters.items()}


def takes_any_size(network: Network) -> bool:
    """Whether `network` takes images of any size that its windows fit, as every dense form without `SAME` pools does."""
    own = network.inference.nodes
    averaged = any(isinstance(node, GlobalAvgPool) for node in own)
    return averaged and not any(isinstance(node, Flatten) or _sized(node) for node in walk(own))


def any_size(network: Network) -> Network:
    """`network` if it takes images of any size, else its dense form; `InputError` if that does not, either."""
    made = network if takes_any_size(network) else dense(network)
    check_any_size(made)
    return made


def check_any_size(network: Network) -> None:
    """Raise `InputError` if the padding of a layer of `network` depends on the size of the image; it names the layer."""
    for node in walk(network.inference.nodes):
        if _sized(node):
            raise InputError(
                f"{node.name} of network {network.name} has a padding that depends on the image's size ({SAME}): "
                "the network cannot take images of any size"
            )


def _sized(node: Node) -> bool:
    """Whether the padding of `node` depends on the size of its map; with a stride of 1 it never does."""
    return isinstance(node, Conv | MaxPool) and node.padding == SAME and node.stride > 1
