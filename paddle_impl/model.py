"""A network as a Paddle layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paddle import Tensor, nn

from paddle_impl import shared_images
from paddle_impl.layers import LAYERS
from parity.network.network import Network
from parity.network.nodes import Auxiliary, Branches, Nodes

NAMES = {"gamma": "weight", "beta": "bias", "mean": "_mean", "variance": "_variance"}
"""Canonical array name of a batch norm -> Paddle's; other layers use the canonical names."""

TRANSPOSED: tuple[type[nn.Layer], ...] = (nn.Linear,)  # DIFFERS: Linear weight is [in, out]
"""Layers whose weight is stored transposed."""


class Model(nn.Layer):
    """`network` as a layer: one sublayer a layer, under the layer's name. [N,C,H,W] -> logits [N,classes]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name, layer in network.layers.items():
            self.add_sublayer(name, LAYERS[type(layer.node)](layer.node, layer.input))

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Logits of the images `x`.

        `masks` gives the dropout masks by layer (drawn by Paddle otherwise); `watch(layer, output)` sees every layer's output.
        Auxiliary heads run in training, and only where somebody watches.
        """
        return self._through(self.network.nodes, x, masks, watch)

    def _through(
        self, nodes: Nodes, x: Tensor, masks: Mapping[str, Tensor] | None, watch: Callable[[str, Tensor], None] | None
    ) -> Tensor:
        for run in shared_images.runs(self, nodes, masks, one_by_one=watch is not None):
            sizes = shared_images.sizes(self, run, x, masks)
            if sizes:
                x = shared_images.side_by_side([shared_images.step(self, node, masks) for node in run], x, sizes)
            for node in run:
                if isinstance(node, Auxiliary):
                    if watch and self.training:
                        self._through(node.nodes, x, masks, watch)
                    continue
                if isinstance(node, Branches):
                    branches = [self._through(branch, x, masks, watch) for branch in node.branches]
                    x = getattr(self, node.name)(*branches)
                elif not sizes:
                    x = shared_images.computed(x, [shared_images.step(self, node, masks)])
                if watch:
                    watch(node.name, x)
        return x
