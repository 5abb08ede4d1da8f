"""The building blocks of a network, as plain data.

Every node is a frozen dataclass with a `name` and all settings for which a framework would use a default. Shapes leave out the batch: an
image is (channels, height, width), a vector is (features,). CONTRIBUTING.md lists the places of a new kind of node. Some kinds hold
other nodes: `Auxiliary`, and the subclasses of `Joined`. `walk` and `edited` go through the tree of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from parity.errors import InputError, within
from parity.network.initialisers import FAN_IN_NORMAL, MSRA, ONES, ZEROS, Init, float32
from parity.network.windows import Pad, Padding, around, count

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """One named array of the canonical state: conv weights OIHW, linear weights [out, in], the rest [channels]."""

    name: str
    shape: Shape
    init: Init
    fan_in: int = 1
    trainable: bool = True
    fan_out: int = 1


@dataclass(frozen=True)
class Node:
    """Base of all nodes: its output has the shape of its input, and it has no parameters."""

    name: str

    def output(self, shape: Shape) -> Shape:
        """Shape of the output for an input of `shape`; `InputError` if the node cannot take it."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """The arrays that this node owns for an input of `shape`."""
        return ()

    def multiply_adds(self, shape: Shape) -> int:
        """Multiply-accumulate operations for one image in inference; convolutions and linear layers only."""
        return 0

    @property
    def parts(self) -> tuple[Nodes, ...]:
        """The sequences of nodes that this node holds."""
        return ()

    def with_parts(self, parts: tuple[Nodes, ...]) -> Node:
        """This node with the sequences `parts` instead of its own."""
        return self


Nodes = tuple[Node, ...]


def walk(nodes: Nodes) -> Iterator[Node]:
    """Every node of the tree; the nodes inside a node come before it."""
    for node in nodes:
        for part in node.parts:
            yield from walk(part)
        yield node


def edited(nodes: Nodes, change: Callable[[Node], Node | None]) -> Nodes:
    """The nodes with `change` applied to each (None: removed); it is applied to the nodes inside a node first."""
    inside = (node.with_parts(tuple(edited(part, change) for part in node.parts)) for node in nodes)
    return tuple(made for made in map(change, inside) if made is not None)


def output_shape(nodes: Nodes, shape: Shape) -> Shape:
    """Shape of the output of the sequence `nodes` for an input of `shape`."""
    for node in nodes:
        shape = node.output(shape)
    return shape


def _image(node: Node, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise InputError(
            f"{node.name} needs an image (channels, height, width) but gets {shape}: move it before the layer that makes the vector"
        )
    return shape


def _vector(node: Node, shape: Shape) -> Shape:
    if len(shape) != 1:
        raise InputError(f"{node.name} needs a vector but gets {shape}: put a Flatten before it")
    return shape


@dataclass(frozen=True)
class Conv(Node):
    """2-D convolution (cross-correlation), square kernel, padded with zeros. Weight [filters, channels / groups, kernel, kernel].

    `padding` is a number of zeros on every side, or "same" (`parity.network.windows.SAME`). If it is `frozen`, its weight is not trained.
    """

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: Padding = 1
    groups: int = 1
    bias: bool = True
    init: Init = MSRA
    bias_init: Init = ZEROS
    frozen: bool = False

    def output(self, shape: Shape) -> Shape:
        """(filters, height, width) of the feature map."""
        channels, *sizes = _image(self, shape)
        if channels % self.groups or self.filters % self.groups:
            raise InputError(
                f"{self.name}: {self.groups} groups do not divide {channels} channels and {self.filters} filters"
            )
        windows = zip(sizes, self.pads(shape), strict=True)
        return (self.filters, *(count(self.name, size, self.kernel, self.stride, pad) for size, pad in windows))

    def pads(self, shape: Shape) -> tuple[Pad, Pad]:
        """The number of zeros (above, below) and (left, right) of an input of `shape`."""
        height, width = (around(self.name, size, self.kernel, self.stride, self.padding) for size in shape[1:])
        return height, width

    @property
    def has_one_filter_a_group(self) -> bool:
        """Whether it has several groups of one filter each, so that its number of filters follows from its input."""
        return self.groups == self.filters > 1

    def is_depthwise(self, shape: Shape) -> bool:
        """Whether each filter reads one channel of an input of `shape`, which has several channels."""
        return self.groups == shape[0] > 1

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """`weight` and, if there is one, `bias`."""
        weight = (self.filters, shape[0] // self.groups, self.kernel, self.kernel)
        return _affine(self, weight, not self.frozen)

    def multiply_adds(self, shape: Shape) -> int:
        """kernel area x input channels of a group x output elements."""
        return math.prod(self.output(shape)) * (shape[0] // self.groups) * self.kernel**2


@dataclass(frozen=True)
class Linear(Node):
    """Fully connected layer on a vector. Weight [units, features]."""

    units: int
    bias: bool = True
    init: Init = FAN_IN_NORMAL
    bias_init: Init = ZEROS

    def output(self, shape: Shape) -> Shape:
        """(units,)."""
        _vector(self, shape)
        return (self.units,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """`weight` and, if there is one, `bias`."""
        return _affine(self, (self.units, *shape))

    def multiply_adds(self, shape: Shape) -> int:
        """features x units."""
        return math.prod(shape) * self.units


def _affine(node: Conv | Linear, weight: Shape, trainable: bool = True) -> tuple[Parameter, ...]:
    inputs, outputs = math.prod(weight[1:]), weight[0] * math.prod(weight[2:])
    first = Parameter(f"{node.name}.weight", weight, node.init, inputs, trainable, outputs)
    bias = Parameter(f"{node.name}.bias", weight[:1], node.bias_init, inputs, True, outputs)
    return (first, bias) if node.bias else (first,)


@dataclass(frozen=True)
class BatchNorm(Node):
    """Batch normalisation over batch and space, per channel (Ioffe and Szegedy 2015).

    Training normalises with the biased variance of the batch and updates the running statistics: running = decay * running +
    (1 - decay) * batch. `variance` says which batch variance enters the running variance: "biased" (sum / n, as in the article's CPU
    kernel) or "unbiased" (sum / (n - 1), as in PyTorch). The running mean starts at 0, the running variance at `start_variance` (0 in
    Paddle v2, 1 elsewhere). All scalars are rounded to float32 (see `float32`). If it is `frozen`, gamma stays 1, and only beta is trained.
    """

    decay: float = 0.9
    eps: float = 1e-5
    variance: str = "unbiased"
    start_variance: float = 1.0
    frozen: bool = False

    def __post_init__(self) -> None:
        if self.variance not in ("biased", "unbiased"):
            raise InputError(f"{self.name!r}: variance must be 'biased' or 'unbiased', not {self.variance!r}")
        for field, high in (("decay", 1), ("eps", math.inf), ("start_variance", math.inf)):
            value = within(f"{self.name!r}: {field}", float32(getattr(self, field)), 0, high)
            object.__setattr__(self, field, value)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """`gamma`, `beta` and the two statistics `mean`, `variance`."""
        start = Init("constant", self.start_variance)
        return (
            Parameter(f"{self.name}.gamma", shape[:1], ONES, trainable=not self.frozen),
            Parameter(f"{self.name}.beta", shape[:1], ZEROS),
            Parameter(f"{self.name}.mean", shape[:1], ZEROS, trainable=False),
            Parameter(f"{self.name}.variance", shape[:1], start, trainable=False),
        )


@dataclass(frozen=True)
class ReLU(Node):
    """max(x, 0); the gradient at 0 is 0."""


@dataclass(frozen=True)
class GELU(Node):
    """x * (1 + erf(x / sqrt(2))) / 2 (Hendrycks and Gimpel 2016), not the approximation by tanh."""


@dataclass(frozen=True)
class SiLU(Node):
    """x / (1 + exp(-x)), also called Swish (Elfwing, Uchibe and Doya 2017, arXiv 1702.03118)."""


@dataclass(frozen=True)
class Sigmoid(Node):
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True)
class Tanh(Node):
    """The hyperbolic tangent."""


@dataclass(frozen=True)
class LogSoftmax(Node):
    """x - log(sum(exp(x))) of a vector: log-probabilities.

    A network may end in it: log-softmax leaves log-probabilities as they are, so the cross-entropy is their negative log-likelihood.
    """

    def output(self, shape: Shape) -> Shape:
        """The shape of the vector."""
        return _vector(self, shape)


@dataclass(frozen=True)
class LRN(Node):
    """Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).

    x / (k + alpha * sum of squares over `size` channels around) ** beta. alpha multiplies the SUM, not the mean. The window of an even
    `size` has one channel more before than after. All scalars are rounded to float32 (see `float32`).
    """

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75

    def __post_init__(self) -> None:
        for field in ("k", "alpha", "beta"):
            value = within(f"{self.name!r}: {field}", float32(getattr(self, field)), 0, math.inf)
            object.__setattr__(self, field, value)
        if not self.k:
            raise InputError(f"{self.name!r}: k must be above 0, because channels of zeros are divided by it")

    def output(self, shape: Shape) -> Shape:
        """The shape of the map."""
        return _image(self, shape)


@dataclass(frozen=True)
class MaxPool(Node):
    """Max pooling with a square window. `ceil` rounds the output size up; `padding` is as in `Conv`, but of minus infinity."""

    size: int = 2
    stride: int = 2
    padding: Padding = 0
    ceil: bool = False

    def output(self, shape: Shape) -> Shape:
        """(channels, height, width) after pooling."""
        channels, *sizes = _image(self, shape)
        if isinstance(self.padding, int) and 2 * self.padding > self.size:
            raise InputError(f"{self.name}: padding {self.padding} is more than half of the window's size {self.size}")
        windows = zip(sizes, self.pads(shape), strict=True)
        return (channels, *(count(self.name, size, self.size, self.stride, pad, self.ceil) for size, pad in windows))

    def pads(self, shape: Shape) -> tuple[Pad, Pad]:
        """The padding (above, below) and (left, right) of an input of `shape`."""
        height, width = (around(self.name, size, self.size, self.stride, self.padding) for size in shape[1:])
        return height, width


@dataclass(frozen=True)
class AvgPool(MaxPool):
    """Average pooling with a square window; padding does not count in the mean."""


@dataclass(frozen=True)
class GlobalAvgPool(Node):
    """The mean of every map, of any size: (channels, height, width) -> (channels,)."""

    def output(self, shape: Shape) -> Shape:
        """(channels,)."""
        return _image(self, shape)[:1]


@dataclass(frozen=True)
class PadChannels(Node):
    """Add channels of zeros: shortcut A of residual networks (He et al. 2015, arXiv 1512.03385, section 3.3).

    The output has `channels` channels. `side` says where the zeros are: "after" the channels of the input, "before" them, or "around"
    them, where an odd number has one more after.
    """

    channels: int
    side: str = "after"

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise InputError(f"{self.name!r}: side must be {', '.join(SIDES[:-1])} or {SIDES[-1]}, not {self.side!r}")

    def output(self, shape: Shape) -> Shape:
        """(channels, height, width)."""
        channels, *sizes = _image(self, shape)
        if channels > self.channels:
            raise InputError(f"{self.name} pads to {self.channels} channels, but its input has {channels} already")
        return (self.channels, *sizes)

    def pad(self, shape: Shape) -> Pad:
        """The number of channels of zeros (before, after) those of an input of `shape`."""
        missing = self.channels - shape[0]
        return {"after": (0, missing), "before": (missing, 0), "around": (missing // 2, missing - missing // 2)}[
            self.side
        ]


SIDES = ("after", "before", "around")
"""The values of `PadChannels.side`."""


@dataclass(frozen=True)
class Dropout(Node):
    """Zeroes each element with probability `rate` in training.

    `kind` is "downscale_in_infer" (Paddle v2: training multiplies by the 0/1 mask, inference by 1 - rate) or
    "upscale_in_train" (training divides the kept elements by 1 - rate, inference does nothing).
    """

    rate: float = 0.5
    kind: str = "upscale_in_train"

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"{self.name!r}: dropout rate {self.rate} must be above 0 and below 1")
        if self.kind not in ("downscale_in_infer", "upscale_in_train"):
            raise InputError(
                f"{self.name!r}: dropout kind must be downscale_in_infer or upscale_in_train, not {self.kind!r}"
            )

    @property
    def train_scale(self) -> float:
        """The factor of the kept elements in training, rounded to float32."""
        return float32(1 / (1 - self.rate)) if self.kind == "upscale_in_train" else 1.0

    @property
    def test_scale(self) -> float:
        """The factor of all elements in inference, rounded to float32."""
        return float32(1 - self.rate) if self.kind == "downscale_in_infer" else 1.0


@dataclass(frozen=True)
class Flatten(Node):
    """(channels, height, width) -> (features,), row-major."""

    def output(self, shape: Shape) -> Shape:
        """(features,)."""
        if len(shape) == 1:
            raise InputError(f"{self.name} gets {shape}, which is flat already: remove it")
        return (math.prod(shape),)


@dataclass(frozen=True)
class Joined(Node):
    """Base of the nodes that join the outputs of several branches: sequences of nodes that all take the input of this node.

    An empty branch is the identity: its output is the input. A node has at most one branch without a layer.
    """

    branches: tuple[Nodes, ...]

    def output(self, shape: Shape) -> Shape:
        """The shape of the joined outputs."""
        return self.joined([output_shape(branch, shape) for branch in self.branches])

    def joined(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of the joined outputs of branches that yield `shapes`; `InputError` if they cannot be joined."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Nodes, ...]:
        """The branches."""
        return self.branches

    def with_parts(self, parts: tuple[Nodes, ...]) -> Node:
        """This node with other branches."""
        return replace(self, branches=parts)


@dataclass(frozen=True)
class Branches(Joined):
    """The outputs of the branches, concatenated over the channels (the Inception block)."""

    def joined(self, shapes: Sequence[Shape]) -> Shape:
        """(sum of the branches' channels, height, width)."""
        if not shapes or len({shape[1:] for shape in shapes}) > 1:
            raise InputError(f"{self.name}: its branches must yield maps of one size, not {list(shapes)}")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


@dataclass(frozen=True)
class Add(Joined):
    """The sum of the outputs of the branches (the residual block: arXiv 1512.03385, section 3.1). They have one shape."""

    def joined(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of every branch's output."""
        if len(shapes) < 2 or len(set(shapes)) > 1:
            raise InputError(
                f"{self.name} adds two or more outputs of one shape, but its branches yield {list(shapes)}"
            )
        return shapes[0]


@dataclass(frozen=True)
class Multiply(Joined):
    """The product of the outputs of the branches, element by element. They have one shape.

    Beside maps (channels, height, width), a branch may yield a vector (channels,), which scales the channels (squeeze and excitation: Hu,
    Shen and Sun 2017, arXiv 1709.01507, section 3).
    """

    def joined(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of the maps, or of all outputs if all are vectors."""
        whole = max(shapes, key=len, default=())
        if len(shapes) < 2 or set(shapes) - {whole, whole[:1]}:
            raise InputError(
                f"{self.name} multiplies two or more outputs of one shape, or maps and vectors with as many channels, but its branches "
                f"yield {list(shapes)}"
            )
        return whole


@dataclass(frozen=True)
class Auxiliary(Node):
    """An auxiliary head on the input of this node, which passes its input on unchanged (Szegedy et al. 2014, section 5).

    In training, `nodes` yield class scores, whose cross-entropy is added to the loss times `weight` (rounded to float32, see `float32`).
    Inference has no auxiliary heads.
    """

    nodes: Nodes
    weight: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", within(f"{self.name!r}: weight", float32(self.weight), 0, math.inf))

    @property
    def parts(self) -> tuple[Nodes, ...]:
        """The head."""
        return (self.nodes,)

    def with_parts(self, parts: tuple[Nodes, ...]) -> Node:
        """This node with another head."""
        return replace(self, nodes=parts[0])


KINDS: dict[str, type[Node]] = {
    kind.__name__: kind
    for kind in (
        *(
            Conv,
            Linear,
            BatchNorm,
            LRN,
            ReLU,
            GELU,
            SiLU,
            Sigmoid,
            Tanh,
            LogSoftmax,
            MaxPool,
            AvgPool,
            GlobalAvgPool,
            PadChannels,
            Dropout,
            Flatten,
        ),
        *(Branches, Add, Multiply, Auxiliary),
    )
}
