"""A network as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from parity.network.network import Network
from parity.network.nodes import Auxiliary, Joined, Nodes
from parity.weights.state_dict_names import BATCH_NORM_NAMES
from torch_impl.layers import LAYERS, Dropout

NAMES = BATCH_NORM_NAMES["torch"]
"""Canonical array name of a batch norm -> PyTorch's name; other layers use the canonical names."""

TRANSPOSED: tuple[type[nn.Module], ...] = ()
"""Layers whose weight is stored transposed."""


class Model(nn.Module):
    """`network` as a module: one submodule for each layer, with the layer's name. [N,C,H,W] -> logits [N,classes]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name, layer in network.layers.items():
            self.add_module(name, LAYERS[type(layer.node)](layer.node, layer.input))

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """The logits of the images `x`.

        `masks` are the dropout masks by layer (None: PyTorch draws them). `watch(layer, output)` is called with every layer's output.
        Auxiliary heads run only in training and only if there is a `watch`.
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
            if isinstance(node, Joined):
                x = layer(*[self._through(branch, x, masks, watch) for branch in node.branches])
            else:
                x = layer(x, masks[node.name]) if masks and isinstance(layer, Dropout) else layer(x)
            if watch:
                watch(node.name, x)
        return x
