"""Patches inside a worker that leave the outputs of layers right and make their gradients wrong. See `worker_patches`."""

from __future__ import annotations

from collections.abc import Callable

from parity.backend import model_state
from parity.selftest.worker_patches import Side, Tensor, constant, functional_of, normalise, wrap_forward


def _graded(value: Tensor, like: Tensor) -> Tensor:
    """Return `value`, with the gradient of `like`."""
    return like + (value - like).detach()


def pass_gradient(trainer: Side, layer: str) -> None:
    """The layer passes the gradient of its output on unchanged."""
    wrap_forward(trainer, layer, lambda forward, x, *mask: _graded(forward(x, *mask), x))


def leak_gradient(trainer: Side, layer: str) -> None:
    """A ReLU has the gradient of a leaky one."""
    slope = constant(trainer, 0.01)

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        out = forward(x)
        return _graded(out, out + (x - out) * slope)

    wrap_forward(trainer, layer, change)


def scale_gradient(trainer: Side, layer: str, factor: str) -> None:
    """The gradients of the layer's input and parameters are multiplied by `factor`."""

    def change(forward: Callable[..., Tensor], *x: Tensor) -> Tensor:
        out = forward(*x)
        return _graded(out, out * float(factor))

    wrap_forward(trainer, layer, change)


def detach(trainer: Side, layer: str) -> None:
    """Nothing before the layer's output gets a gradient."""
    wrap_forward(trainer, layer, lambda forward, *x: forward(*x).detach())


def fix_statistics(trainer: Side, layer: str, fixed: str) -> None:
    """A batch norm treats the mean, the variance or both of its batch as constants."""
    module = getattr(trainer.model, layer)

    def change(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
        out = forward(x)
        return _graded(out, normalise(trainer, layer, x, fixed)) if module.training else out

    wrap_forward(trainer, layer, change)


def spread_gradient(trainer: Side, layer: str) -> None:
    """A maximum pool of 2x2 gives its gradient to all pixels of a window."""
    avg_pool2d = functional_of(trainer).avg_pool2d
    wrap_forward(trainer, layer, lambda forward, x: _graded(forward(x), avg_pool2d(x, 2, 2) * 4))


def unscale_dropout(trainer: Side, layer: str, factor: str) -> None:
    """A dropout scales its gradient as the other kind does."""

    def change(forward: Callable[..., Tensor], x: Tensor, *mask: Tensor) -> Tensor:
        out = forward(x, *mask)
        return _graded(out, out * float(factor))

    wrap_forward(trainer, layer, change)


def overwrite_input(trainer: Side, layer: str, place: str) -> None:
    """In training, a sum writes its output over its branch number `place`, counted from 0, where no framework notices it.

    Autograd refuses `+=` on a tensor that it needs. It does not see a write to `data` in PyTorch, or by `set_value` in PaddlePaddle.
    """
    module = getattr(trainer.model, layer)

    def change(forward: Callable[..., Tensor], *branches: Tensor) -> Tensor:
        out, branch = forward(*branches), branches[int(place)]
        if module.training and hasattr(branch, "set_value"):
            branch.set_value(out.detach().numpy())
        elif module.training:
            branch.data.copy_(out.data)
        return out

    wrap_forward(trainer, layer, change)


def hook_parameter(trainer: Side, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """The gradient of the parameter is `change` of the right one."""
    model_state.get_tensors(trainer.backend, trainer.model)[name].register_hook(change)


def scale_gradient_of(trainer: Side, name: str, factor: str) -> None:
    """The gradient of the parameter is multiplied by `factor`."""
    hook_parameter(trainer, name, lambda gradient: gradient * float(factor))


def clip_values_of(trainer: Side, name: str, limit: str) -> None:
    """The numbers of the gradient of the parameter are clipped at `limit`."""
    hook_parameter(trainer, name, lambda gradient: gradient.clip(min=-float(limit), max=float(limit)))


def fix_bias(trainer: Side, layer: str) -> None:
    """The bias of a linear layer gets no gradient."""
    module, functional = getattr(trainer.model, layer), functional_of(trainer)
    wrap_forward(trainer, layer, lambda forward, x: functional.linear(x, module.weight, module.bias.detach()))


def freeze(trainer: Side, name: str) -> None:
    """The parameter does not require a gradient."""
    tensor = model_state.get_tensors(trainer.backend, trainer.model)[name]
    trainer.backend.require_gradient(tensor, False)


def raise_in_backward(trainer: Side, name: str) -> None:
    """The backward pass fails at the parameter."""

    def fail(gradient: Tensor) -> Tensor:
        raise RuntimeError(f"no gradient of {name}")

    hook_parameter(trainer, name, fail)
