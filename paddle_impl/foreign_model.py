"""Anybody's layer, watched by hooks: what it is made of, what each of its layers computes, its gradients and its updates."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_impl.backend import Backend
from paddle_impl.layers import _kernel_variance
from parity.modules.average_pools import repairs
from parity.modules.description import below
from parity.modules.recording import Watch, plain_attributes
from parity.recipe.optimizer import Optimizer

to_numpy, optimizer_of = Backend().to_numpy, Backend().make_optimizer

MODULE = nn.Layer
"""What a model must be."""


class ForeignModel:
    """A `model` in `dtype`, trained with `settings`; `parity.pairs.model_server` describes the calls. Arrays go in and come out as
    numpy."""

    def __init__(self, model: nn.Layer, dtype: str, settings: Optimizer) -> None:
        self.model, self.dtype, self.settings = convert(model, dtype), dtype, settings
        self.optimizer: paddle.optimizer.Optimizer | None = None
        self.watch = Watch()
        self._outputs: dict[str, Tensor] = {}
        self._inputs: list[Tensor] = []
        for path, module in self.model.named_sublayers(include_self=True):
            module.register_forward_pre_hook(functools.partial(self._before, path))
            module.register_forward_post_hook(functools.partial(self._after, path))

    def describe(self) -> list[dict[str, Any]]:
        """Every layer in the order of registration: path, classes, settings, the arrays it holds itself, whether others are inside."""
        names = self._names()
        return [
            {
                "path": path,
                "classes": [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__[:-1]],
                "attributes": plain_attributes(vars(module)),
                "arrays": {name: self._array(names, path, name, tensor) for name, tensor in own_tensors(module)},
                "inside": any(True for _ in module.children()),
            }
            for path, module in self.model.named_sublayers(include_self=True)
        ]

    def _array(self, names: Mapping[int, str], path: str, name: str, tensor: Tensor) -> dict[str, Any]:
        first = names[id(tensor)]
        return {
            "shape": list(tensor.shape),
            "trained": not tensor.stop_gradient,
            "same_as": first if first != below(path, name) else None,
        }

    def _names(self) -> dict[int, str]:
        """The first name of every tensor of floats, by identity."""
        return {id(tensor): name for name, tensor in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Every distinct tensor of floats by its first name."""
        found: dict[str, Tensor] = {}
        known = set()
        for path, module in self.model.named_sublayers(include_self=True):
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
        with paddle.no_grad():
            for name, array in arrays.items():
                paddle.assign(paddle.to_tensor(np.ascontiguousarray(array)), tensors[name])
        self.optimizer = None

    def run(self, inputs: Sequence[np.ndarray], train: bool, path: str = "") -> dict[str, np.ndarray]:
        """Forward in training or inference mode; returns the outputs by their place in what the model returns.

        With a `path` it is one layer that runs, and its gradients can be had in inference mode, too.
        """
        graded = train or path != ""
        self.model.train() if train else self.model.eval()
        self._inputs = [paddle.to_tensor(np.array(x)) for x in inputs]
        for tensor in self._inputs:
            tensor.stop_gradient = not (graded and tensor.is_floating_point())
        given = [tensor.clone() for tensor in self._inputs]  # which may be changed in place
        with contextlib.nullcontext() if graded else paddle.no_grad():
            result = dict(self.model.named_sublayers(include_self=True))[path](*given)
        self._outputs = dict(flatten(result))
        return {name: to_numpy(tensor) for name, tensor in self._outputs.items()}

    def backward(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Backward from the `gradients` of the last `run`'s outputs; returns those of the inputs, by their number."""
        tensors = self.tensors()
        for tensor in tensors.values():
            tensor.clear_gradient(set_to_zero=False)
        wanted = [name for name in gradients if not self._outputs[name].stop_gradient]
        # DIFFERS: backward from several tensors fails where one comes from another; the gradient of a scalar product is the same.
        products = [(self._outputs[name] * paddle.to_tensor(gradients[name])).sum() for name in wanted]
        if products:
            sum(products[1:], products[0]).backward()
        return {f"{i}": to_numpy(t.grad) for i, t in enumerate(self._inputs) if t.grad is not None}

    def update(self, zero: Mapping[str, np.ndarray]) -> None:
        """One step of the optimizer, after the gradients of `zero` have been multiplied by its 0/1 arrays."""
        tensors = self.tensors()
        for name, kept in zero.items():
            # DIFFERS: `grad` is another view of the gradient at every look, so what is written goes through assign.
            paddle.assign(tensors[name].grad * paddle.to_tensor(kept), tensors[name].grad)
        if self.optimizer is None:
            trained = [t for t in tensors.values() if not t.stop_gradient]
            self.optimizer = (
                optimizer_of([(trained, 1.0, self.settings.weight_decay)], self.settings) if trained else None
            )
        if self.optimizer is not None:
            self.optimizer.step()

    def random_state(self) -> bytes:
        """The state of the framework's random numbers."""
        # DIFFERS: the text of a state may hold an address, which is another at every look.
        return re.sub("0x[0-9a-f]+", "", " ".join(map(str, paddle.get_rng_state()))).encode()

    def _before(self, path: str, module: nn.Layer, given: tuple[Any, ...]) -> None:
        self.watch.enter(path, self.random_state)
        if self.watch.wants(path):
            self.watch.inputs(path, [to_numpy(t) for _, t in flatten(given)])

    def _after(self, path: str, module: nn.Layer, given: tuple[Any, ...], result: Any) -> None:
        if self.watch.wants(path):
            outputs = [tensor for _, tensor in flatten(result)]
            keys = self.watch.outputs(path, [to_numpy(t) for t in outputs])
            for key, tensor in zip(keys, outputs, strict=True):
                if not tensor.stop_gradient:
                    tensor.register_hook(functools.partial(self._graded, key))
        self.watch.leave(path, self.random_state)

    def _graded(self, key: str, gradient: Tensor) -> None:
        self.watch.gradient(key, to_numpy(gradient))


def convert(model: nn.Layer, dtype: str) -> nn.Layer:
    """`model` with parameters and buffers of floats in `dtype`, which numbers made by it from now on have, too."""
    paddle.set_default_dtype(dtype)
    # DIFFERS: recurrent layers have a buffer without memory, which cannot be converted.
    empty = [
        (module, name, tensor)
        for module in model.sublayers(include_self=True)
        for name, tensor in module._buffers.items()
        if tensor is not None and not tensor._is_initialized()
    ]
    for module, name, _ in empty:
        module._buffers[name] = None
    model = model.to(dtype=dtype)
    for module, name, tensor in empty:
        module._buffers[name] = tensor
    return model


def own_tensors(module: nn.Layer) -> Iterator[tuple[str, Tensor]]:
    """Parameters and kept buffers of floats of `module` itself."""
    for name, tensor in module._parameters.items():
        if tensor is not None:
            yield name, tensor
    for name, tensor in module._buffers.items():
        if (
            tensor is not None
            and tensor._is_initialized()
            and tensor.is_floating_point()
            and name not in module._non_persistable_buffer_names_set
        ):
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
    paddle.set_default_dtype("float32")
    paddle.seed(number)


def kernel_variance() -> str:
    """Which variance of a batch enters the running one: "biased" or "unbiased"."""
    return _kernel_variance(paddle.get_device() != "cpu")


def replacements(
    draw: Callable[[int, float], np.ndarray], variance: Callable[[], str]
) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions of the framework -> what stands for them during a check.

    `draw(size, p)` gives the multipliers of a dropout, `variance()` is the convention for running variances. What is rounded to float32
    inside of one framework's functions is rounded for both: `parity.pairs.replaced_functions` says what.
    """
    pools = {name: getattr(F, name) for axes in (1, 2, 3) for name in (f"avg_pool{axes}d", f"adaptive_avg_pool{axes}d")}
    return {
        F.dropout: functools.partial(_dropout, F.dropout, draw),
        F.dropout2d: functools.partial(_dropout_maps, F.dropout2d, draw),
        F.dropout3d: functools.partial(_dropout_maps, F.dropout3d, draw),
        paddle.pow: _exactly(paddle.pow),
    } | {function: functools.partial(_average, function, name) for name, function in pools.items()}


def _dropout(
    original: Callable[..., Tensor], draw: Callable[[int, float], np.ndarray], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of single numbers, or of whole parts along an axis."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training = (call.arguments[word] for word in ("x", "p", "training"))
    if not training or not p:
        return original(*given, **named)
    axis, mode = call.arguments["axis"], call.arguments["mode"]
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    mask = _mask(draw, x, p, axes)
    # DIFFERS: dropout of the kind downscale_in_infer does not scale in training.
    return x * mask if mode == "upscale_in_train" else x * (mask > 0).astype(x.dtype)


def _dropout_maps(
    original: Callable[..., Tensor], draw: Callable[[int, float], np.ndarray], /, *given: Any, **named: Any
) -> Tensor:
    """Dropout of whole maps."""
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x, p, training, form = (call.arguments[word] for word in ("x", "p", "training", "data_format"))
    if not training or not p:
        return original(*given, **named)
    return x * _mask(draw, x, p, [0, 1] if form.startswith("NC") else [0, x.ndim - 1])


def _mask(draw: Callable[[int, float], np.ndarray], x: Tensor, p: float, axes: Sequence[int]) -> Tensor:
    """The multipliers of a dropout that draws along `axes`, of the other axes one for all."""
    shape = [size if i in axes else 1 for i, size in enumerate(x.shape)]
    return paddle.to_tensor(draw(int(np.prod(shape)), p).reshape(shape), dtype=x.dtype)


def _average(original: Callable[..., Tensor], pool: str, /, *given: Any, **named: Any) -> Tensor:
    """An average pool whose gradient has the precision of its dtype."""
    out = original(*given, **named)
    call = inspect.signature(original).bind(*given, **named)
    call.apply_defaults()
    x = call.arguments["x"]
    if x.dtype != paddle.float64:
        return out
    # DIFFERS: the kernel's gradient takes 1 / count in float32, whatever the dtype; `repair` makes it 1 / count again.
    repair = repairs(pool, call.arguments, x.shape, out.shape)
    if repair is None:
        return out
    factor = paddle.to_tensor(repair)
    return out * factor + (out * (1 - factor)).detach()


def prepare(model: nn.Layer) -> None:
    """What is set in the layers themselves."""
    for module in model.sublayers(include_self=True):
        # DIFFERS: the layer calls its kernel by itself, with an eps that is float32 in one version and float64 in another.
        if isinstance(module, nn.GroupNorm):
            module._epsilon = float(np.float32(module._epsilon))
    if not hasattr(Tensor, "_exact"):
        Tensor._exact = True
        for name in ("__add__", "__radd__", "__sub__", "__rsub__", "__pow__", "pow"):
            setattr(Tensor, name, _exactly(getattr(Tensor, name)))


def _exactly(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator whose second operand, a number, has the precision of the first."""

    def operator(x: Tensor, y: Any, *more: Any) -> Tensor:
        # DIFFERS: a number goes through a kernel attribute of float32.
        if isinstance(y, float) and x.dtype == paddle.float64:
            y = paddle.full([], y, x.dtype)
        return original(x, y, *more)

    return operator


def change(model: nn.Layer, layer: str, attribute: str, value: Any) -> int:
    """Sets an attribute of the layer at a path, or of all layers of a class; returns of how many.

    A private attribute may be named without its underscore, as the argument is that it came from: `epsilon` for `_epsilon`.
    """
    found = 0
    for path, module in model.named_sublayers(include_self=True):
        named = [name for name in (attribute, f"_{attribute}") if hasattr(module, name)]
        if layer in (path, type(module).__name__) and named:
            setattr(module, named[0], value)
            found += 1
    return found
