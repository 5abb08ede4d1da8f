"""A network is a value: a name, an input shape and a sequence of nodes. Shapes and counts are computed from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from reprlib import repr as short
from typing import Any, cast

from parity.errors import InputError
from parity.files.strict_json import from_fields, parse_json
from parity.network.graph import Layer, build_graph, consumers
from parity.network.initialisers import MSRA, Init
from parity.network.nodes import (
    GELU,
    KINDS,
    Add,
    Auxiliary,
    AvgPool,
    BatchNorm,
    Branches,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Multiply,
    Node,
    Nodes,
    PadChannels,
    Parameter,
    ReLU,
    Shape,
    SiLU,
    edited,
    output_shape,
    walk,
)

RESERVED = frozenset(
    """
    T_destination add_module add_parameter add_sublayer apply astype backward bfloat16 buffers call_super_init
    children clear_gradients compile cpu create_parameter create_tensor create_variable cuda double dump_patches
    eval extra_repr float float16 forward full full_name get_buffer get_extra_state get_parameter get_sublayer
    get_submodule half ipu load_dict load_state_dict modules mtia named_buffers named_children named_modules
    named_parameters named_sublayers network optimizer parameters register_backward_hook register_buffer
    register_forward_hook register_forward_post_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_hook register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_dict set_extra_state set_state_dict set_sublayer set_submodule
    sharded_state_dict share_memory state_dict sublayers to to_empty to_static_state_dict train training type xpu
    zero_grad
    """.split()  # noqa: SIM905 - as a list it takes eighty lines
)
"""Names that no layer may have. A layer is an attribute of a module, and modules of one framework or the other have these attributes.

`optimizer` is reserved because the names of optimizer slots in a checkpoint begin with it.
"""


PASSING = (MaxPool, GlobalAvgPool, PadChannels, Flatten, Linear, Branches, Add)
"""Kinds of nodes that always pass a constant in all elements of a channel on as a constant. A convolution does without padding."""

ACTIVATIONS: dict[str, type[Node]] = {"relu": ReLU, "gelu": GELU, "silu": SiLU}
"""Suffix of a network's name -> the kind of activation that it asks for."""

COUNTED = (Linear, Conv, PadChannels)
"""Kinds of nodes with a field for the number of channels or features that they yield."""

LARGEST = 2**31 - 1
"""The largest size that a network may have anywhere (filters, units, pixels): no tensor can be larger."""


@dataclass(frozen=True)
class Network:
    """A network as data: a frozen, comparable and hashable value.

    It maps an image of `input_shape` to class scores (logits). Both frameworks build the same modules from it.

    Attributes:
        name: The name of the network.
        input_shape: The shape of one input: (channels, height, width).
        nodes: The layers, in order: a tuple of `parity.network.nodes.Node`.
        source: Where the network was published.

    Raises:
        InputError: A name is not unique, not a Python identifier, or an attribute of a framework's modules; shapes do not fit; or the
            last layer yields no vector.

    Examples:
        ```python
        from parity.network.nodes import Conv, Flatten, Linear, ReLU

        nodes = (Conv("conv1", 8, 3), ReLU("relu1"), Flatten("flat"), Linear("fc", 10))
        network = parity.Network("mine", (3, 32, 32), nodes)
        same = parity.Network.from_json(network.to_json())
        ```
    """

    name: str
    input_shape: Shape
    nodes: Nodes
    source: str = ""

    def __repr__(self) -> str:
        shape, count = "x".join(map(str, self.input_shape)), len(list(walk(self.nodes)))
        return f"<Network {self.name}: {shape} to {self.classes} classes, {count} nodes, {self.trainable_count:,} trainable parameters>"

    def __post_init__(self) -> None:
        names = [node.name for node in walk(self.nodes)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names or not all(name.isidentifier() for name in names):
            raise InputError(
                f"network {self.name!r}: layer names must be unique identifiers, at least one (wrong: {twice or names})"
            )
        if taken := [name for name in names if name in RESERVED or name.startswith("_")]:
            raise InputError(
                f"network {self.name!r}: a layer cannot be called {taken[0]}, because modules of a framework use that name "
                "themselves: choose another name"
            )
        if not (self.name + self.source).isprintable():
            raise InputError(f"network {self.name!r}: name and source must be printable text")
        if not self.input_shape or not all(1 <= side <= LARGEST for side in self.input_shape):
            raise InputError(
                f"network {self.name!r}: input_shape = {short(self.input_shape)} must have sizes from 1 to 2**31 - 1"
            )
        for node in walk(self.nodes):
            for field in dataclasses.fields(node):
                value = getattr(node, field.name)
                if type(value) is int and not (field.name != "padding") <= value <= LARGEST:
                    wrong = "large" if value > 0 else "small"
                    raise InputError(f"network {self.name!r}: {node.name}.{field.name} = {short(value)} is too {wrong}")
        if "" not in self._ends or len(self.shapes[self.output]) != 1:
            raise InputError(f"network {self.name!r}: the last layer {names[-1]} must yield a vector of class scores")
        for node in walk(self.nodes):
            if isinstance(node, Auxiliary) and self.shapes.get(self._ends.get(node.name, "")) != (self.classes,):
                raise InputError(f"network {self.name!r}: {node.name} must yield {self.classes} class scores too")

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """Every layer with its inputs, by name, in an order in which they can be computed. Auxiliary heads are included."""
        return {layer.node.name: layer for layer in build_graph(self.nodes, self.input_shape)}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Output shape of every layer for one image, by name, in order."""
        return {name: layer.output for name, layer in self.layers.items()}

    @cached_property
    def inputs(self) -> dict[str, Shape]:
        """Input shape of every layer for one image, by name, in order."""
        return {name: layer.input for name, layer in self.layers.items()}

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Every array of the canonical state, by name, in order: trainable parameters and running statistics."""
        return {p.name: p for layer in self.layers.values() for p in layer.node.parameters(layer.input)}

    @cached_property
    def dropouts(self) -> dict[str, tuple[Shape, float]]:
        """Mask shape (one image) and rate of every dropout layer."""
        nodes = [layer.node for layer in self.layers.values()]
        return {n.name: (self.inputs[n.name], n.rate) for n in nodes if isinstance(n, Dropout)}

    @cached_property
    def zero_gradients(self) -> frozenset[str]:
        """Names of parameters whose training gradient is zero in exact arithmetic.

        They are biases that a following batch norm subtracts again, also behind pools, concatenations and sums. A
        framework computes rounding noise for them, and Adam would amplify it to full steps. So training sets these
        gradients to 0 on both sides. Weight decay still acts on them.
        """
        following, cancelled = consumers(self.layers), dict[str, bool]()
        for name in reversed(self.layers):
            nodes = [self.layers[other].node for other in following[name]]
            cancelled[name] = bool(nodes) and all(
                isinstance(node, BatchNorm) or (self._passes(node) and cancelled[node.name]) for node in nodes
            )
        own = [layer.node for layer in self.layers.values()]
        return frozenset(f"{n.name}.bias" for n in own if isinstance(n, Conv | Linear) and n.bias and cancelled[n.name])

    def _passes(self, node: Node) -> bool:
        """Whether `node` passes a constant in all elements of a channel on as a constant, which does not depend on the image."""
        if isinstance(node, Conv):
            return not any(map(any, node.pads(self.inputs[node.name])))
        return isinstance(node, PASSING)

    @cached_property
    def _ends(self) -> dict[str, str]:
        """The last layer of the main path ("") and of every auxiliary head, by the head's name."""
        return {layer.head: name for name, layer in self.layers.items()}

    @property
    def output(self) -> str:
        """The layer that yields the class scores."""
        return self._ends[""]

    @cached_property
    def heads(self) -> dict[str, float]:
        """For each auxiliary head: the layer that yields its class scores, and the weight of its cross-entropy in the loss."""
        found = [node for node in walk(self.nodes) if isinstance(node, Auxiliary)]
        return {self._ends[node.name]: node.weight for node in found}

    @property
    def inference(self) -> Network:
        """The network that inference computes: the same without its auxiliary heads."""
        return replace(self, nodes=edited(self.nodes, lambda node: None if isinstance(node, Auxiliary) else node))

    @property
    def classes(self) -> int:
        """Number of scores that the last layer yields."""
        return self.shapes[self.output][0]

    def count(self, head: str = "", trainable: bool = True) -> int:
        """Return the number of scalars of the parameters.

        Args:
            head: The name of an auxiliary head. Empty for the main path.
            trainable: Count trainable scalars, or the others: running statistics and frozen parameters.
        """
        own = [p for layer in self.layers.values() if layer.head == head for p in layer.node.parameters(layer.input)]
        return sum(math.prod(p.shape) for p in own if p.trainable == trainable)

    @property
    def trainable_count(self) -> int:
        """Number of trainable scalars, without auxiliary heads."""
        return self.count()

    @property
    def statistics_count(self) -> int:
        """Number of scalars of running statistics and frozen parameters, without auxiliary heads."""
        return self.count(trainable=False)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and linear layers, for one image in inference."""
        return sum(layer.node.multiply_adds(layer.input) for layer in self.layers.values() if not layer.head)

    def shrink(self, width: float, size: int | None = None) -> Network:
        """Return a smaller cousin with the name `NAME@WIDTH` or `NAME@WIDTHxSIZE`.

        Class scores and frozen layers keep their size. A layer keeps at least four filters or units. A depthwise convolution stays
        one, and a convolution in groups has fewer groups if the channels require it. An average pool that covered its whole map still
        does. So does any pool that is too large for its new map.

        Args:
            width: The factor for filters, units and dropout rates, above 0 and at most 1.
            size: Height and width of the new input, in pixels. None keeps the input shape.

        Returns:
            The smaller network.

        Raises:
            InputError: The width or the size is not possible.

        Examples:
            ```python
            small = parity.get_network("vgg_mini").shrink(0.25)
            ```
        """
        if not 0 < width <= 1:
            raise InputError(f"width {width:g} must be above 0 and at most 1")

        def narrow(node: Node, old: Shape, new: Shape) -> Node:
            return _narrow(node, 1 if node.name in self._scoring else width, old, new)

        nodes, _ = _rebuilt(self.nodes, self.input_shape, self.input_shape, narrow)
        if size is None:
            return replace(self, name=f"{self.name}@{width:g}", nodes=nodes)
        if size < 1 or len(self.input_shape) != 3:
            raise InputError(f"network {self.name} cannot take an image of {size} by {size} pixels")
        whole, shape = replace(self, nodes=nodes), (self.input_shape[0], size, size)
        return Network(
            f"{self.name}@{width:g}x{size}", shape, _rebuilt(nodes, whole.input_shape, shape, _fit_pool)[0], self.source
        )

    def with_classes(self, count: int) -> Network:
        """Return the network with `count` class scores, also in its auxiliary heads, named `NAME+classesCOUNT`.

        Raises:
            InputError: The class scores do not come from a linear layer or a convolution with as many units.
        """
        if count == self.classes:
            return self

        def change(node: Node) -> Node:
            if node.name not in self._scoring:
                return node
            return _with_count(node, count)

        made = replace(self, name=f"{self.name}+classes{count}", nodes=edited(self.nodes, change))
        if made.classes != count:
            raise InputError(
                f"network {self.name}: no layer of its own yields its {self.classes} class scores, so their number is fixed"
            )
        return made

    def with_biases(self) -> Network:
        """Return the network with a bias in every convolution, named `NAME+bias`, as many CIFAR-10 repositories write a VGG."""

        def change(node: Node) -> Node:
            return replace(node, bias=True) if isinstance(node, Conv) else node

        nodes = edited(self.nodes, change)
        return self if nodes == self.nodes else replace(self, name=f"{self.name}+bias", nodes=nodes)

    def with_activation(self, kind: str) -> Network:
        """Return the network with another activation, named `NAME+relu`, `NAME+gelu` or `NAME+silu`; layers keep their names.

        Args:
            kind: The kind of activation, in lower case, that replaces every ReLU, GELU and SiLU: one of `ACTIVATIONS`.

        Raises:
            InputError: There is no such kind.
        """
        if kind not in ACTIVATIONS:
            raise InputError(f"activation {kind!r} is none of {', '.join(ACTIVATIONS)}")

        def change(node: Node) -> Node:
            return ACTIVATIONS[kind](node.name) if isinstance(node, tuple(ACTIVATIONS.values())) else node

        nodes = edited(self.nodes, change)
        return self if nodes == self.nodes else replace(self, name=f"{self.name}+{kind}", nodes=nodes)

    @cached_property
    def _scoring(self) -> frozenset[str]:
        """The layers that yield the class scores of the main path and of every auxiliary head: several if paths join after them."""
        found, reached = set[str](), list(self._ends.values())
        for name in reached:
            layer = self.layers[name]
            counted = isinstance(layer.node, COUNTED)
            if counted:
                found.add(name)
            if not counted or (isinstance(layer.node, Conv) and layer.node.has_one_filter_a_group):
                reached += [source for source in layer.sources if source and source not in reached]
        return frozenset(found)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the JSON, in hexadecimal. Equal networks have equal digests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the whole network as one line of JSON with sorted keys."""
        document = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return json.dumps(document, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Network:
        """Return the network of a text that `to_json` wrote.

        Raises:
            InputError: The text is no network. The message names what is missing, unknown or of a wrong type.
        """
        document = parse_json(text, "network")
        nodes = document.get("nodes")
        if not isinstance(nodes, list):
            raise InputError("network JSON: 'nodes' must be a list")
        try:
            return from_fields(Network, document | {"nodes": tuple(_node(node) for node in nodes)}, "network")
        except RecursionError:
            raise InputError("network JSON: nodes are nested too deeply") from None


def _with_count(node: Node, count: int) -> Node:
    """`node`, one of the kinds `COUNTED`, with `count` channels or features. A convolution of one filter a group stays one."""
    if isinstance(node, Linear):
        return replace(node, units=count)
    if isinstance(node, PadChannels):
        return replace(node, channels=count)
    conv = cast(Conv, node)
    return replace(conv, filters=count, groups=count if conv.has_one_filter_a_group else conv.groups)


def _rebuilt(nodes: Nodes, old: Shape, new: Shape, change: Callable[[Node, Shape, Shape], Node]) -> tuple[Nodes, Shape]:
    """The `nodes`, made for inputs of shape `old`, for inputs of shape `new`; and the shape that they yield.

    `change(node, old, new)` makes each node for its own input. It is applied to the nodes inside a node first.
    """
    made: list[Node] = []
    for node in nodes:
        parts = tuple(_rebuilt(part, old, new, change)[0] for part in node.parts)
        made.append(change(node.with_parts(parts), old, new))
        old, new = node.output(old), made[-1].output(new)
    return tuple(made), new


def _with_equal_branches(node: Node, shape: Shape) -> Node:
    """The sum or product `node` for an input of `shape`, whose branches yield the same number of channels, if that is possible.

    A branch whose number of channels comes from before it, such as the identity, decides, otherwise the first one.
    """
    counts = [output_shape(part, shape)[0] for part in node.parts]
    fixed = [count for part, count in zip(node.parts, counts, strict=True) if _resized(part, count) is None]
    wanted = (fixed or counts)[0]
    parts = zip(node.parts, counts, strict=True)
    return node.with_parts(tuple(part if count == wanted else _resized(part, wanted) or part for part, count in parts))


def _resized(nodes: Nodes, count: int) -> Nodes | None:
    """`nodes` that yield `count` channels or features; None if their number comes from before them, or from a concatenation."""
    for place, node in reversed(list(enumerate(nodes))):
        made, decides = node, False
        if isinstance(node, COUNTED):
            made = _with_count(node, count)
            decides = not (isinstance(node, Conv) and node.has_one_filter_a_group)
        elif isinstance(node, Add | Multiply):
            parts = [_resized(part, count) for part in node.parts]
            made = node.with_parts(tuple(part or old for old, part in zip(node.parts, parts, strict=True)))
            decides = None not in parts
        elif isinstance(node, Branches | Flatten):
            return None
        nodes = (*nodes[:place], made, *nodes[place + 1 :])
        if decides:
            return nodes
    return None


def _narrow(node: Node, width: float, old: Shape, new: Shape) -> Node:
    """`node`, made for an input of shape `old`, with `width` times the filters for an input of shape `new`."""

    def scaled(count: int, multiple: int = 1) -> int:
        return -(-max(min(4, count), round(count * width)) // multiple) * multiple

    if isinstance(node, Add | Multiply):
        return _with_equal_branches(node, new)
    if isinstance(node, Conv):
        if node.is_depthwise(old):
            return replace(node, filters=node.filters // node.groups * new[0], groups=new[0])
        groups = math.gcd(node.groups, new[0], *([node.filters] if width == 1 or node.frozen else []))
        return replace(node, groups=groups, filters=node.filters if node.frozen else scaled(node.filters, groups))
    if isinstance(node, PadChannels):
        return replace(node, channels=max(scaled(node.channels), new[0]))
    if isinstance(node, Dropout):
        return replace(node, rate=node.rate * width)
    return replace(node, units=scaled(node.units)) if isinstance(node, Linear) else node


def _fit_pool(node: Node, old: Shape, new: Shape) -> Node:
    """`node`, made for an input of shape `old`, with another window if it is a pool that must cover another map, see `Network.shrink`."""
    if not isinstance(node, MaxPool):
        return node
    pad = node.padding if isinstance(node.padding, int) else node.size
    # A pool of size 1 and stride 2 takes every second pixel.
    overall = isinstance(node, AvgPool) and node.size >= min(old[1:]) and (node.size > 1 or node.stride == 1)
    fits = not overall and node.size <= min(new[1:]) + 2 * pad
    return node if fits else replace(node, size=min(new[1:]), padding=0)


def _plain(value: Any) -> Any:
    """The value of a field of a network or node, as plain JSON values."""
    if isinstance(value, Node):
        return {"node": type(value).__name__} | {
            f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dataclasses.asdict(value) if isinstance(value, Init) else value


def _node(document: Any) -> Node:
    kind = document.get("node") if isinstance(document, dict) else document
    if not isinstance(document, dict) or not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"network JSON: unknown node {short(kind)}; known: {', '.join(KINDS)}")
    what = f"node {short(document.get('name'))}"

    def read(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(_node(item) if isinstance(item, dict) else read(key, item) for item in value)
        return from_fields(Init, value, f"{what}: {key}") if isinstance(value, dict) else value

    fields = {key: read(key, value) for key, value in document.items() if key != "node"}
    return from_fields(KINDS[kind], fields, what)


def img_conv_group(
    input: Nodes,
    conv_num_filter: Sequence[int],
    pool_size: int,
    num_channels: int | None = None,
    conv_padding: int | Sequence[int] = 1,
    conv_filter_size: int | Sequence[int] = 3,
    conv_act: str | Sequence[str] = "relu",
    conv_with_batchnorm: bool | Sequence[bool] = False,
    conv_batchnorm_drop_rate: float | Sequence[float] = 0.0,
    pool_stride: int = 1,
    pool_type: str = "max",
    param_attr: Init = MSRA,
    batch_norm: BatchNorm | None = None,
    dropout_kind: str = "downscale_in_infer",
) -> Nodes:
    """Append a group of convolutions and a pooling layer to the nodes `input`, and return all of them.

    The arguments and their defaults are those of PaddlePaddle v2 (v0.11 `trainer_config_helpers/networks.py`); a sequence holds one value
    for each convolution. With batch norm, a convolution is linear and its activation moves after the batch norm: conv -> batch norm ->
    activation -> dropout. As in v2, a drop rate below 1e-5 means no dropout, and pooling rounds up. `num_channels` is ignored, since shapes
    are computed. `batch_norm` is a template for the batch norms (by default v2's: decay 0.9, eps 1e-5, biased variance, start value 0).
    """
    del num_channels
    settings = (conv_padding, conv_filter_size, conv_act, conv_with_batchnorm, conv_batchnorm_drop_rate)
    columns = [_per_conv(setting, len(conv_num_filter)) for setting in settings]
    template = batch_norm or BatchNorm("template", variance="biased", start_variance=0.0)
    group = 1 + sum(isinstance(node, MaxPool) for node in input)
    nodes: list[Node] = list(input)
    for i, (filters, padding, size, act, norm, rate) in enumerate(zip(conv_num_filter, *columns, strict=True), start=1):
        suffix = f"{group}_{i}"
        nodes.append(Conv(f"conv{suffix}", filters, size, padding=padding, init=param_attr))
        if norm:
            nodes.append(replace(template, name=f"bn{suffix}"))
        if act not in ("linear", "relu"):
            raise InputError(f"img_conv_group: conv_act must be linear or relu, not {act!r}")
        if act == "relu":
            nodes.append(ReLU(f"relu{suffix}"))
        if norm and not abs(rate) < 1e-5:  # `not`: NaN goes on to Dropout, which refuses it
            nodes.append(Dropout(f"drop{suffix}", rate, dropout_kind))
    if pool_type not in ("max", "avg"):
        raise InputError(f"img_conv_group: pool_type must be max or avg, not {pool_type!r}")
    pool = MaxPool if pool_type == "max" else AvgPool
    return (*nodes, pool(f"pool{group}", pool_size, pool_stride, ceil=True))


def _per_conv(value: Any, count: int) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * count
    if len(values) != count:
        raise InputError(f"img_conv_group: {len(values)} values for {count} convolutions")
    return values
