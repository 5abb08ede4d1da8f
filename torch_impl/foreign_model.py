"""Anybody's module, watched by hooks: what it is made of, what each of its modules computes, its gradients and its updates."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.modules.description import below
from parity.modules.recording import Watch, plain_attributes
from parity.recipe.optimizer import Optimizer
from torch_impl.backend import Backend

to_numpy, optimizer_of = Backend().to_numpy, Backend().make_optimizer

MODULE = nn.Module
"""What a model must be."""


class ForeignModel:
    """A `model` in `dtype`, trained with `settings`; `parity.pairs.model_server` describes the calls. Arrays go in and come out as
    numpy."""

    def __init__(self, model: nn.Module, dtype: str, settings: Optimizer) -> None:
        self.model, self.dtype, self.settings = convert(model, dtype), dtype, settings
        self.optimizer: torch.optim.Optimizer | None = None
        self.watch = Watch()
        self._outputs: dict[str, Tensor] = {}
        self._inputs: list[Tensor] = []
        for path, module in self.model.named_modules():
            module.register_forward_pre_hook(functools.partial(self._before, path))
            module.register_forward_hook(functools.partial(self._after, path))

    def describe(self) -> list[dict[str, Any]]:
        """Every module in the order of registration: path, classes, settings, the arrays it holds itself, whether others are inside."""
        names = self._names()
        return [
            {
                "path": path,
                "classes": [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__[:-1]],
                "attributes": plain_attributes(vars(module)),
                "arrays": {name: self._array(names, path, name, tensor) for name, tensor in own_tensors(module)},
                "inside": any(True for _ in module.children()),
            }
            for path, module in self.model.named_modules()
        ]

    def _array(self, names: Mapping[int, str], path: str, name: str, tensor: Tensor) -> dict[str, Any]:
        first = names[id(tensor)]
        return {
            "shape": list(tensor.shape),
            "trained": isinstance(tensor, nn.Parameter) and tensor.requires_grad,
            "same_as": first if first != below(path, name) else None,
        }

    def _names(self) -> dict[int, str]:
        """The first name of every tensor of floats, by identity."""
        return {id(tensor): name for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Every distinct tensor of floats by its first name."""
        found: dict[str, Tensor] = {}
        known = set()
        for path, module in self.model.named_modules():
            for name, tensor in own_tensors(module):
                if id(tensor) not in known:
                    found[below(path, name)] = tensor
                    known.add(id(tensor))
        return found

    def state(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Copies of the named tensors."""
        tensors = self.tensors()
        return {name: to_numpy(tensors[name]) for name in names}

    def gradients(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Copies of the gradients of those of the named tensors that have one."""
        tensors = self.tensors()
        return {name: to_numpy(tensors[name].grad) for name in names if tensors[name].grad is not None}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Overwrites the named tensors, and starts a fresh optimizer."""
        tensors = self.tensors()
        with torch.no_grad():
            for name, array in arrays.items():
                tensors[name].copy_(torch.from_numpy(np.ascontiguousarray(array)))
        self.optimizer = None

    def run(self, inputs: Sequence[np.ndarray], train: bool, path: str = "") -> dict[str, np.ndarray]:
        """Forward in training or inference mode; returns the outputs by their place in what the model returns.

        With a `path` it is one layer that runs, and its gradients can be had in inference mode, too.
        """
        graded = train or path != ""
        self.model.train(train)
        self._inputs = [torch.from_numpy(np.array(x)) for x in inputs]
        for tensor in self._inputs:
            tensor.requires_grad_(graded and tensor.is_floating_point())
        given = [tensor.clone() for tensor in self._inputs]  # which may be changed in place
        with contextlib.nullcontext() if graded else torch.no_grad():
            result = dict(self.model.named_modules())[path](*given)
        self._outputs = dict(flatten(result))
        return {name: to_numpy(tensor) for name, tensor in self._outputs.items()}

    def backward(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Backward from the `gradients` of the last `run`'s outputs; returns those of the inputs, by their number."""
        tensors = self.tensors()
        for tensor in tensors.values():
            tensor.grad = None
        wanted = [name for name in gradients if self._outputs[name].requires_grad]
        if wanted:
            seeds = [torch.from_numpy(gradients[name]) for name in wanted]
            torch.autograd.backward([self._outputs[name] for name in wanted], seeds)
        return {f"{i}": to_numpy(t.grad) for i, t in enumerate(self._inputs) if t.grad is not None}

    def update(self, zero: Mapping[str, np.ndarray]) -> None:
        """One step of the optimizer, after the gradients of `zero` have been multiplied by its 0/1 arrays."""
        tensors = self.tensors()
        for name, kept in zero.items():
            tensors[name].grad.mul_(torch.from_numpy(kept))
        if self.optimizer is None:
            trained = [t for t in tensors.values() if isinstance(t, nn.Parameter) and t.requires_grad]
            self.optimizer = (
                optimizer_of([(trained, 1.0, self.settings.weight_decay)], self.settings) if trained else None
            )
        if self.optimizer is not None:
            self.optimizer.step()

    def random_state(self) -> bytes:
        """The state of the framework's random numbers."""
        return torch.get_rng_state().numpy().tobytes()

    def _before(self, path: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.watch.enter(path, self.random_state)
        if self.watch.wants(path):
            self.watch.inputs(path, [to_numpy(t) for _, t in flatten(given)])

    def _after(self, path: str, module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        if self.watch.wants(path):
            outputs = [tensor for _, tensor in flatten(result)]
            keys = self.watch.outputs(path, [to_numpy(t) for t in outputs])
            for key, tensor in zip(keys, outputs, strict=True):
                if tensor.requires_grad:
                    tensor.register_hook(functools.partial(self._graded, key))
        self.watch.leave(path, self.random_state)

    def _graded(self, key: str, gradient: Tensor) -> None:
        self.watch.gradient(key, to_numpy(gradient))


def convert(model: nn.Module, dtype: str) -> nn.Module:
    """`model` with parameters and buffers of floats in `dtype`, which numbers made by it from now on have, too."""
    torch.set_default_dtype(getattr(torch, dtype))
    return model.to(getattr(torch, dtype))


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and kept buffers of floats of `module` itself."""
    for name, tensor in module._parameters.items():
        if tensor is not None:
            yield name, tensor
    for name, tensor in module._buffers.items():
        if tensor is not None and tensor.is_floating_point() and name not in module._non_persistent_buffers_set:
            yield name, tensor


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists and dicts, by their places: "0.scores"."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from flatten(one, below(path, str(key)))
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            yield from flatten(one, below(path, str(i)))


def begin_afresh(number: int) -> None:
    """Numbers are made in float32 again, and random ones from the seed `number`."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(number)


def kernel_variance() -> str:
    """Which variance of a batch enters the running one: "biased" or "unbiased"."""
    return "unbiased"


def replacements(
    draw: Callable[[int, float], np.ndarray], variance: Callable[[], str]
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> what stands for them during a check.

    `draw(size, p)` gives the multipliers of a dropout, `variance()` is the convention for running variances. What is rounded to float32
    inside of one framework's functions is rounded for both: `parity.pairs.replaced_functions` says what.
    """
    return {
        F.dropout: functools.partial(_dropout, F.dropout, draw),
        F.dropout1d: functools.partial(_dropout_maps, F.dropout1d, draw),
        F.dropout2d: functools.partial(_dropout_maps, F.dropout2d, draw),
        F.dropout3d: functools.partial(_dropout_maps, F.dropout3d, draw),
        F.batch_norm: functools.partial(_batch_norm, F.batch_norm, variance),
        F.scaled_dot_product_attention: functools.partial(_attention, F.scaled_dot_product_attention),
    }


def _dropout(
    original: Callable[..., Tensor], draw: Callable[[int, float], np.ndarray], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of single numbers."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training, inplace = (call.arguments[word] for word in ("input", "p", "training", "inplace"))
    if not training or not p:
        return original(*given, **named)
    mask = _mask(draw, x, p, range(x.ndim))
    return x.mul_(mask) if inplace else x * mask


def _dropout_maps(
    original: Callable[..., Tensor], draw: Callable[[int, float], np.ndarray], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of whole maps."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training, inplace = (call.arguments[word] for word in ("input", "p", "training", "inplace"))
    if not training or not p:
        return original(*given, **named)
    mask = _mask(draw, x, p, [0, 1])
    return x.mul_(mask) if inplace else x * mask


def _mask(draw: Callable[[int, float], np.ndarray], x: Tensor, p: float, axes: Sequence[int]) -> Tensor:
    """The multipliers of a dropout that draws along `axes`, of the other axes one for all."""
    shape = [size if i in axes else 1 for i, size in enumerate(x.shape)]
    return torch.from_numpy(draw(int(np.prod(shape)), p).reshape(shape)).to(x.dtype)


def _batch_norm(original: Callable[..., Tensor], variance: Callable[[], str], /, *given: Any, **named: Any) -> Tensor:
    """Batch norm with eps rounded to float32, the momentum as one minus a rounded one, and the running variance of the convention."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    asked = call.arguments
    asked["eps"] = float(np.float32(asked["eps"]))
    # DIFFERS: momentum is the weight of the NEW value.
    momentum = asked["momentum"] = 1 - float(np.float32(1 - asked["momentum"]))
    x, kept = asked["input"], asked["running_var"]
    before = kept.clone() if kept is not None and asked["training"] else None
    result = original(*call.args, **call.kwargs)
    if before is not None and variance() == "biased":
        with torch.no_grad():
            axes = [0, *range(2, x.ndim)]
            kept.data.copy_((1 - momentum) * before + momentum * x.detach().var(axes, unbiased=False))
    return result


def _attention(original: Callable[..., Tensor], /, *given: Any, **named: Any) -> Tensor:
    """Attention written out where it drops, so that its dropout is one like all others."""
    call = inspect.signature(_attention_arguments).bind(*given, **named)
    call.apply_defaults()
    query, key, value, mask, p, causal, scale = list(call.arguments.values())[:7]
    if not p:
        return original(*given, **named)
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return F.dropout(scores.softmax(-1), p) @ value


def _attention_arguments(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> None:  # fmt: skip
    """The arguments of the framework's function, which has no signature to read."""


def prepare(model: nn.Module) -> None:
    """What is set in the modules themselves."""
    torch.backends.mha.set_fastpath_enabled(False)  # which would pass the modules by


def change(model: nn.Module, layer: str, attribute: str, value: Any) -> int:
    """Sets an attribute of the layer at a path, or of all layers of a class; returns of how many.

    A private attribute may be named without its underscore, as the argument is that it came from: `epsilon` for `_epsilon`.
    """
    found = 0
    for path, module in model.named_modules():
        named = [name for name in (attribute, f"_{attribute}") if hasattr(module, name)]
        if layer in (path, type(module).__name__) and named:
            setattr(module, named[0], value)
            found += 1
    return found
