"""A network as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from parity.network.network import Network
from parity.network.nodes import Auxiliary, Branches, Nodes
from parity.weights.canonical_state import State, check, initialise, transposed
from torch_impl.layers import LAYERS, Dropout

NAMES = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
"""Canonical array name of a batch norm -> PyTorch's; other layers use the canonical names."""

TRANSPOSED: tuple[type[nn.Module], ...] = ()
"""Layers whose weight is stored transposed."""


class Model(nn.Module):
    """`network` as a module: one submodule a layer, under the layer's name. [N,C,H,W] -> logits [N,classes]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name, layer in network.layers.items():
            self.add_module(name, LAYERS[type(layer.node)](layer.node, layer.input))

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Logits of the images `x`.

        `masks` gives the dropout masks by layer (drawn by PyTorch otherwise); `watch(layer, output)` sees every layer's output.
        Auxiliary heads run in training, and only where somebody watches.
        """
        return self._through(self.network.nodes, x, masks, watch)

    def _through(
        self, nodes: Nodes, x: Tensor, masks: Mapping[str, Tensor] | None, watch: Callable[[str, Tensor], None] | None
    ) -> Tensor:
        for node in nodes:
            if isinstance(node, Auxiliary):
                if watch and self.training:
                    self._through(node.nodes, x, masks, watch)
                continue
            layer = getattr(self, node.name)
            if isinstance(node, Branches):
                x = layer(*[self._through(branch, x, masks, watch) for branch in node.branches])
            else:
                x = layer(x, masks[node.name]) if masks and isinstance(layer, Dropout) else layer(x)
            if watch:
                watch(node.name, x)
        return x


def build(network: Network, state: State | int = 0, dtype: str = "float32") -> Model:
    """The module of `network` with the weights of a canonical `state`, or fresh ones from a seed.

    `dtype` is float32 or float64. `InputError` if the state does not fit.
    """
    state = initialise(network, state) if isinstance(state, int) else state
    check(network, state)
    model = Model(network).to(getattr(torch, dtype))
    for name, tensor in tensors(model).items():
        tensor.requires_grad_(network.parameters[name].trainable)
    set_weights(model, state)
    return model


def tensors(model: Model) -> dict[str, Tensor]:
    """The model's parameters and statistics by canonical name, in the network's order."""
    found = {}
    for name in model.network.parameters:
        layer, _, array = name.partition(".")
        found[name] = getattr(getattr(model, layer), NAMES.get(array, array))
    return found


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy of `tensor`, as it is."""
    return tensor.detach().cpu().numpy().copy()


def export_array(model: Model, name: str, tensor: Tensor) -> np.ndarray:
    """A copy in canonical layout of `tensor`, which is shaped like the parameter `name`."""
    array = to_numpy(tensor)
    return transposed(array) if _is_transposed(model, name) else array


def import_array(model: Model, name: str, tensor: Tensor, array: np.ndarray) -> None:
    """Overwrites `tensor`, which is shaped like the parameter `name`, with a canonical `array`."""
    array = transposed(array) if _is_transposed(model, name) else np.ascontiguousarray(array)
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(array))


def _is_transposed(model: Model, name: str) -> bool:
    layer, _, array = name.partition(".")
    return array == "weight" and isinstance(getattr(model, layer), TRANSPOSED)


def get_weights(model: Model) -> State:
    """Parameters and statistics as canonical arrays."""
    return {name: export_array(model, name, tensor) for name, tensor in tensors(model).items()}


def set_weights(model: Model, state: State) -> None:
    """Overwrites parameters and statistics; `InputError` unless `state` holds exactly them."""
    check(model.network, state)
    for name, tensor in tensors(model).items():
        import_array(model, name, tensor, state[name])
