"""Small classics: the third article's CIFAR-10 and MNIST nets (2018), and LeNet-5."""

from __future__ import annotations

from parity.network.initialisers import FAN_IN_UNIFORM
from parity.network.network import Network
from parity.network.nodes import AvgPool, Conv, Flatten, Linear, LogSoftmax, MaxPool, Node, ReLU, Tanh


def _conv(name: str, filters: int) -> Conv:
    """A convolution of 5x5 without padding, with PyTorch's initialisers, as all networks of this module have."""
    return Conv(name, filters, 5, padding=0, init=FAN_IN_UNIFORM, bias_init=FAN_IN_UNIFORM)


def _linear(name: str, units: int) -> Linear:
    return Linear(name, units, init=FAN_IN_UNIFORM, bias_init=FAN_IN_UNIFORM)


def _classifier(*units: int) -> list[Node]:
    """Linear layers with a ReLU between them."""
    nodes: list[Node] = [Flatten("flatten")]
    for number, count in enumerate(units, start=1):
        nodes += [_linear(f"fc{number}", count), ReLU(f"relu_fc{number}")]
    return nodes[:-1]


def cifar_net() -> Network:
    """`Net`: conv 6 and 16 of 5x5, each with ReLU and a pool, fc 120, 84, 10; 62,006 parameters."""
    nodes: list[Node] = []
    for number, filters in enumerate((6, 16), start=1):
        nodes += [_conv(f"conv{number}", filters), ReLU(f"relu{number}"), MaxPool(f"pool{number}")]
    nodes += _classifier(120, 84, 10)
    return Network("cifar_net", (3, 32, 32), tuple(nodes), source="third article (2018): Net for CIFAR-10")


def mnist_fc() -> Network:
    """`FC2Layer`: 784-8-8-10 and log-softmax; 6,442 parameters."""
    nodes = (*_classifier(8, 8, 10), LogSoftmax("log_softmax"))
    return Network("mnist_fc", (1, 28, 28), nodes, source="third article (2018): FC2Layer for MNIST")


def mnist_cnn() -> Network:
    """`CNN`: two convolutions of 5x5 with 6 maps, each with ReLU and a pool, fc 50, 10 and log-softmax; 6,422 parameters."""
    nodes: list[Node] = []
    for number in (1, 2):
        nodes += [_conv(f"conv{number}", 6), ReLU(f"relu{number}"), MaxPool(f"pool{number}")]
    nodes += [*_classifier(50, 10), LogSoftmax("log_softmax")]
    return Network("mnist_cnn", (1, 28, 28), tuple(nodes), source="third article (2018): CNN for MNIST")


def lenet() -> Network:
    """LeNet-5 for colour pictures: conv 6, 16 of 5x5 with tanh and average pools, fc 120 (the paper's C5), 84, 10.

    It has no trainable subsampling, partial connections or radial basis outputs, which the paper has and today's versions leave out.
    """
    nodes: list[Node] = []
    for number, filters in enumerate((6, 16), start=1):
        nodes += [_conv(f"conv{number}", filters), Tanh(f"tanh{number}"), AvgPool(f"pool{number}")]
    nodes.append(Flatten("flatten"))
    for number, units in enumerate((120, 84), start=1):
        nodes += [_linear(f"fc{number}", units), Tanh(f"tanh_fc{number}")]
    nodes.append(_linear("fc3", 10))
    return Network("lenet", (3, 32, 32), tuple(nodes), source="LeCun et al. 1998, LeNet-5, on 3x32x32")
