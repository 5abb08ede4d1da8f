"""Changes of a side inside its worker, in words that tensors of both frameworks understand. `Worker.patch` applies them by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np

Side = Any
"""A `parity.backend.trainer.Trainer`."""

Tensor = Any


def _wrap(trainer: Side, layer: str, change: Callable[..., Tensor]) -> None:
    """Puts `change(original forward, x, ...)` in the place of a layer's forward, as a method: Paddle's exporter takes no other."""
    module = getattr(trainer.model, layer)
    original = module.forward

    def forward(_: Any, *arguments: Tensor) -> Tensor:
        return change(original, *arguments)

    module.forward = MethodType(forward, module)


def scale_output(trainer: Side, layer: str, error: str) -> None:
    """The layer's output comes out too large by the relative error."""
    _wrap(trainer, layer, lambda forward, *x: forward(*x) * (1 + float(error)))


def identity(trainer: Side, layer: str) -> None:
    """The layer does nothing."""
    _wrap(trainer, layer, lambda forward, x, *mask: x)


def leaky_relu(trainer: Side, layer: str) -> None:
    """The ReLU lets 1% of negative values through."""

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        out = forward(x)
        return out + (x - out) * 0.01

    _wrap(trainer, layer, change)


def capped_relu(trainer: Side, layer: str) -> None:
    """The ReLU stops at 1 (ReLU6 stops at 6, which few activations reach)."""
    _wrap(trainer, layer, lambda forward, x: forward(x).clip(max=1))


def clip(trainer: Side, layer: str) -> None:
    """The layer clips to 0 and 1."""
    _wrap(trainer, layer, lambda forward, x: x.clip(min=0, max=1))


def swish(trainer: Side, layer: str) -> None:
    """The layer is x * sigmoid(x)."""
    sigmoid = _functional(trainer).sigmoid
    _wrap(trainer, layer, lambda forward, x: x * sigmoid(x))


def hard_swish(trainer: Side, layer: str) -> None:
    """The layer is the framework's hardswish."""
    hardswish = _functional(trainer).hardswish
    _wrap(trainer, layer, lambda forward, x: hardswish(x))


def _functional(trainer: Side) -> Any:
    """`torch.nn.functional` or `paddle.nn.functional`."""
    framework = next(base.__module__.partition(".")[0] for base in type(trainer.model).__mro__[1:])
    return importlib.import_module(f"{framework}.nn.functional")


def refuse_export(trainer: Side, layer: str) -> None:
    """The layer computes what it should, and raises an error of two lines where an exporter traces it."""

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        try:
            float(x.sum())  # of a tensor without numbers
        except Exception:
            raise RuntimeError("no export of this layer:\nit needs numbers") from None
        return forward(x)

    _wrap(trainer, layer, change)


def flatten_channels_last(trainer: Side, layer: str) -> None:
    """Flattens (height, width, channels)."""
    _wrap(trainer, layer, lambda forward, x: x.moveaxis(1, -1).flatten(1))


def count_padding(trainer: Side, layer: str) -> None:
    """An average pool divides by the whole window in the padding too."""
    node, (_, height, width) = trainer.model.network.layers[layer].node, trainer.model.network.inputs[layer]
    ones = np.pad(np.ones((height, width)), node.pads((1, height, width)))
    view = np.lib.stride_tricks.sliding_window_view(ones, (node.size, node.size))[:: node.stride, :: node.stride]
    share = trainer._tensor((view.sum((2, 3)) / node.size**2).astype(trainer.dtype))
    _wrap(trainer, layer, lambda forward, x: forward(x) * share)


def softmax(trainer: Side, layer: str) -> None:
    """The last layer yields probabilities, of which cross-entropy takes the softmax again."""

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        powers = forward(x).exp()
        return powers / powers.sum(-1, keepdim=True)

    _wrap(trainer, layer, change)


def over_rows(trainer: Side, layer: str) -> None:
    """What the layer does over the channels is done over the rows."""
    _wrap(trainer, layer, lambda forward, x: forward(x.moveaxis(1, 2)).moveaxis(1, 2))


def over_batch(trainer: Side, layer: str) -> None:
    """What the layer does over the classes is done over the images."""
    _wrap(trainer, layer, lambda forward, x: forward(x.moveaxis(0, 1)).moveaxis(0, 1))


def scaled_tanh(trainer: Side, layer: str) -> None:
    """1.7159 tanh(2x/3) of LeCun et al. 1998."""
    _wrap(trainer, layer, lambda forward, x: forward(x * (2 / 3)) * 1.7159)


def sigmoid(trainer: Side, layer: str) -> None:
    """The layer is a sigmoid."""
    _wrap(trainer, layer, lambda forward, x: 1 / (1 + (-x).exp()))


def head_in_inference(trainer: Side, seen: str, layer: str) -> None:
    """`layer` adds, in inference, 0.3 times the scores of the auxiliary head on the output of `seen`."""
    (head,) = [node for node in trainer.model.network.nodes if type(node).__name__ == "Auxiliary"]
    kept: list[Tensor] = []

    def keep(forward: Callable[..., Tensor], *x: Tensor) -> Tensor:
        kept[:] = [forward(*x)]
        return kept[0]

    def add(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        out = forward(x)
        return (
            out
            if trainer.model.training
            else out + trainer.model._through(head.nodes, kept[0], None, None) * head.weight
        )

    _wrap(trainer, seen, keep)
    _wrap(trainer, layer, add)


def always_training(trainer: Side, layer: str) -> None:
    """The layer acts in inference as in training: eval() was forgotten."""
    _set_mode(trainer, layer, True)


def never_training(trainer: Side, layer: str) -> None:
    """The layer acts in training as in inference: it is frozen."""
    _set_mode(trainer, layer, False)


def _set_mode(trainer: Side, layer: str, training: bool) -> None:
    module = getattr(trainer.model, layer)

    def change(forward: Callable[..., Tensor], *x: Tensor) -> Tensor:
        module.training = training
        return forward(*x)

    _wrap(trainer, layer, change)


def forward_twice(trainer: Side, layer: str) -> None:
    """The layer runs twice in training: a batch norm moves its statistics twice."""
    module = getattr(trainer.model, layer)

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        if module.training:
            forward(x)
        return forward(x)

    _wrap(trainer, layer, change)


def keep_gradients(trainer: Side) -> None:
    """Gradients are not cleared before the next step."""
    if not callable(getattr(trainer, "_clear", None)):
        raise AttributeError("the trainer clears its gradients by another method")  # else nothing would be planted
    setattr(trainer, "_clear", lambda: None)  # noqa: B010


def masked_relu(trainer: Side, layer: str) -> None:
    """The same function in another spelling: x * (x > 0)."""
    _wrap(trainer, layer, lambda forward, x: x * (x > 0).astype(x.dtype) if hasattr(x, "astype") else x * (x > 0))


def predict_between(trainer: Side) -> None:
    """Runs inference in the middle of training, before every step."""
    step, network = trainer.step, trainer.model.network

    def between(*arguments: Any, **named: Any) -> Any:
        trainer.predict(np.zeros((2, *network.input_shape)))
        return step(*arguments, **named)

    trainer.step = between


def reload(trainer: Side) -> None:
    """Takes the side's own state out and in again before every step, as a resumed run does."""
    step, updates = trainer.step, [0]

    def between(*arguments: Any, **named: Any) -> Any:
        trainer.load(trainer.state(), updates[0])
        updates[0] += 1
        return step(*arguments, **named)

    trainer.step = between


def warm_up(trainer: Side) -> None:
    """Warms the kernels up with a step on other numbers, then goes back to the start."""
    start = trainer.state()
    network = trainer.model.network
    masks = {name: np.ones((2, *shape), bool) for name, (shape, _) in network.dropouts.items()}
    images = np.random.default_rng(0).random((2, *network.input_shape))
    trainer.step(images, np.zeros(2, np.int64), masks, 0.1, 2)
    trainer.load(start, 0)
