"""A network as a Paddle layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paddle import Tensor, nn

from paddle_impl import shared_images
from paddle_impl.layers import LAYERS
from parity.network.network import Network
from parity.network.nodes import Auxiliary, Joined, Nodes
from parity.weights.state_dict_names import BATCH_NORM_NAMES

NAMES = BATCH_NORM_NAMES["paddle"]
"""Canonical array name of a batch norm -> Paddle's name; other layers use the canonical names."""

TRANSPOSED: tuple[type[nn.Layer], ...] = (nn.Linear,)  # DIFFERS: Linear weight is [in, out]
"""Layers whose weight is stored transposed."""


class Model(nn.Layer):
    """`network` as a layer: one sublayer for each layer, with the layer's name. [N,C,H,W] -> logits [N,classes]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name, layer in network.layers.items():
            self.add_sublayer(name, LAYERS[type(layer.node)](layer.node, layer.input))

    def forward(
        self, x: Tensor, masks: Mapping[str, Tensor] | None = None, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """The logits of the images `x`.

        `masks` are the dropout masks by layer (None: Paddle draws them). `watch(layer, output)` is called with every layer's output.
        Auxiliary heads run only in training and only if there is a `watch`.
        """
        return self._through(self.network.nodes, x, masks, watch)

    def _through(
        self, nodes: Nodes, x: Tensor, masks: Mapping[str, Tensor] | None, watch: Callable[[str, Tensor], None] | None
    ) -> Tensor:
        for run in shared_images.split_nodes(self, nodes, masks):
            sizes = shared_images.part_sizes(self, run, x, masks)
            if sizes and not watch:
                x = shared_images.compute_in_threads([shared_images.step(self, node, masks) for node in run], x, sizes)
                continue
            for node in run:
                if isinstance(node, Auxiliary):
                    if watch and self.training:
                        self._through(node.nodes, x, masks, watch)
                    continue
                if isinstance(node, Joined):
                    branches = [self._through(branch, x, masks, watch) for branch in node.branches]
                    x = getattr(self, node.name)(*branches)
                elif sizes and shared_images.gains(self, [node]):
                    x = shared_images.compute_in_threads([shared_images.step(self, node, masks)], x, sizes)
                else:
                    x = shared_images.compute(x, shared_images.step(self, node, masks))
                if watch:
                    watch(node.name, x)
        return x
