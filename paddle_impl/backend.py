"""Paddle's operations for training and models; `parity.backend.protocol` describes the methods."""

from __future__ import annotations

import contextlib
import copy
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.base.layer_helper import LayerHelper
from paddle.jit.dy2static.program_translator import ProgramTranslator, StaticFunction

from paddle_impl import layers, model, optimizer_description, optimizer_steps
from parity.arrays import Array
from parity.errors import InputError
from parity.modules.description import is_below
from parity.network.network import Network
from parity.process_group import ProcessGroup
from parity.recipe import precision
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import OptimizerDescription

Handle = Any
"""What Paddle returns for a hook."""

HALVES = (paddle.bfloat16, paddle.float16)

SLOTS = {"velocity": "velocity", "moment1": "moment1", "moment2": "moment2"}
"""Canonical optimizer slot -> Paddle's name."""


class Backend:
    """Paddle's implementation of `parity.backend.protocol.Backend`."""

    TENSOR: type = Tensor
    MODULE: type = nn.Layer
    OPTIMIZER: type = paddle.optimizer.Optimizer
    PARAMETERS = "parameters"
    """The argument of an optimizer's class that takes the parameters."""

    NAMES = model.NAMES
    TRANSPOSED = model.TRANSPOSED
    # DIFFERS: on the CPU, if one process dies within the wrapper's backward pass, all others call abort(), which no handler can stop.
    OVERLAPPING: tuple[str, ...] = ("gpu",)
    """Devices on which the framework's own wrapper sums gradients during the backward pass; elsewhere they are summed after it."""

    # Tensors

    def from_numpy(self, array: Array, device: str) -> Tensor:
        return paddle.to_tensor(array, place=_place(device))

    def to_numpy(self, tensor: Tensor) -> Array:
        # DIFFERS: the method numpy() already copies.
        tensor = tensor.detach().cpu()
        return (tensor.astype("float32") if tensor.dtype in HALVES else tensor).numpy()

    def write(self, tensor: Tensor, array: Array) -> None:
        with paddle.no_grad():
            paddle.assign(paddle.to_tensor(np.asarray(array, order="C"), tensor.dtype), tensor)

    def assign(self, tensor: Tensor, value: Tensor) -> None:
        with paddle.no_grad():
            paddle.assign(value, tensor)

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        return tensor.astype(dtype)

    def times(self, tensor: Tensor, factor: float) -> Tensor:
        return layers.times(tensor, factor)

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        return paddle.concat(list(tensors))

    # Gradients

    def no_grad(self) -> AbstractContextManager[Any]:
        return paddle.no_grad()

    def needs_gradient(self, tensor: Tensor) -> bool:
        return not tensor.stop_gradient

    def require_gradient(self, tensor: Tensor, required: bool) -> None:
        tensor.stop_gradient = not required

    def on_gradient(self, tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
        def act(gradient: Tensor | None) -> None:
            # DIFFERS: an output without a gradient, such as a batch norm's saved mean, has an undefined one in version 2, None in 3.
            if gradient is not None and gradient._is_initialized():
                hook(gradient)

        tensor.register_hook(act)

    def clear_gradient(self, tensor: Tensor) -> None:
        tensor.clear_gradient(set_to_zero=False)

    def zero_gradient(self, tensor: Tensor) -> None:
        tensor.clear_gradient(set_to_zero=True)

    # Models

    def make_model(self, network: Network, dtype: str) -> nn.Layer:
        return model.Model(network).to(dtype=dtype)

    def layout(self, dtype: str, device: str, amp: str) -> str:
        return "channels_first"  # DIFFERS: layers have no other layout

    def to_device(self, model: nn.Layer, device: str, layout: str) -> nn.Layer:
        # DIFFERS: everything made after `runtime.start` is already on its device.
        return model

    def to_layout(self, tensor: Tensor, layout: str) -> Tensor:
        return tensor

    def compile(self, model: nn.Layer) -> nn.Layer:
        raise InputError("Paddle's networks are not compiled here")

    def cross_entropy(self, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        # DIFFERS: the framework's cross_entropy is at most 64 nats for an image.
        right = paddle.index_sample(logits, target.unsqueeze(1)).squeeze(1)
        if smoothing:
            right = layers.times(right, 1 - smoothing) + layers.times(logits.sum(1), smoothing / logits.shape[1])
        return (paddle.logsumexp(logits, 1) - right).sum()

    # Optimizers

    def make_optimizer(
        self, groups: Sequence[tuple[list[Tensor], float, float]], settings: Optimizer
    ) -> paddle.optimizer.Optimizer:
        param_groups: list[dict[str, Any]] = [
            {"params": parameters, "learning_rate": rate, "weight_decay": decay} for parameters, rate, decay in groups
        ]
        if settings.kind == "adam":
            return paddle.optimizer.Adam(settings.rate, settings.beta1, settings.beta2, settings.eps, param_groups)
        return paddle.optimizer.Momentum(settings.rate, settings.momentum, param_groups, settings.nesterov)

    def set_rate(self, optimizer: paddle.optimizer.Optimizer, rate: float) -> None:
        optimizer.set_lr(rate)

    def make_slots(
        self, optimizer: paddle.optimizer.Optimizer, settings: Optimizer, parameters: Sequence[Tensor]
    ) -> None:
        # DIFFERS: Paddle makes its accumulators in the first step, with these lines, and has no public function for it.
        optimizer.helper = optimizer.helper or LayerHelper(type(optimizer).__name__)
        optimizer._create_accumulators(paddle.static.default_main_program().global_block(), list(parameters))

    def slot(self, optimizer: paddle.optimizer.Optimizer, parameter: Tensor, slot: str) -> Tensor:
        return optimizer._accumulators[SLOTS[slot]][parameter.name]

    def set_updates(
        self, optimizer: paddle.optimizer.Optimizer, settings: Optimizer, parameters: Sequence[Tensor], updates: int
    ) -> None:
        if settings.kind == "adam":
            # DIFFERS: Adam keeps running products of beta for each parameter instead of a count; compute them again, bit for bit.
            for key, beta in (("beta1_pow_acc", settings.beta1), ("beta2_pow_acc", settings.beta2)):
                for tensor in optimizer._accumulators[key].values():
                    factors = np.full(updates + 1, beta, self.to_numpy(tensor).dtype)
                    self.write(tensor, factors.cumprod()[-1:])

    def describe_optimizer(
        self, optimizer: paddle.optimizer.Optimizer, names: Mapping[int, str]
    ) -> OptimizerDescription:
        return optimizer_description.describe_optimizer(optimizer, names)

    def optimizer_state(self, optimizer: paddle.optimizer.Optimizer, parameter: Tensor) -> dict[str, Array]:
        return optimizer_description.optimizer_state(optimizer, parameter)

    def restore_optimizer_state(
        self, optimizer: paddle.optimizer.Optimizer, parameter: Tensor, state: Mapping[str, Array]
    ) -> None:
        optimizer_description.restore_optimizer_state(optimizer, parameter, state)

    def parameters_of(self, optimizer: paddle.optimizer.Optimizer) -> Sequence[Tensor]:
        return optimizer_steps.parameters_of(optimizer)

    def scheduler_of(self, optimizer: paddle.optimizer.Optimizer) -> Any:
        return optimizer_steps.scheduler_of(optimizer)

    def rounded_scalars(self, optimizer: paddle.optimizer.Optimizer) -> AbstractContextManager[None]:
        return optimizer_steps.rounded_scalars(optimizer)

    def watch_clipping(self, record: Callable[[Tensor, Tensor], None]) -> AbstractContextManager[None]:
        return optimizer_steps.watch_clipping(record)

    # Mixed precision

    def autocast(self, amp: str, device: str) -> AbstractContextManager[Any]:
        if amp == "off":
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(dtype=precision.DTYPES[amp])

    def scaler(self, amp: str, device: str) -> paddle.amp.GradScaler:
        settings = (precision.FIRST_SCALE, precision.GROWTH, precision.BACKOFF, precision.INTERVAL)
        return paddle.amp.GradScaler(amp == "fp16", *settings)

    # Several processes

    def join(self, process_group: ProcessGroup, device: str) -> None:
        if device == "gpu" and process_group.local_rank >= paddle.device.cuda.device_count():
            raise InputError(
                f"{process_group.local_size} processes share {paddle.device.cuda.device_count()} GPUs: start fewer"
            )
        # DIFFERS: over gloo, a process that does not answer for 30 s counts as dead; no setting changes that.
        dist.init_parallel_env()

    def leave(self) -> None:
        dist.destroy_process_group()

    def wrap(self, model: nn.Layer) -> nn.Layer:
        return paddle.DataParallel(model)

    def all_reduce(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        dist.broadcast(tensor, 0)

    # Other people's models

    def named_modules(self, model: nn.Layer) -> Iterable[tuple[str, nn.Layer]]:
        return model.named_sublayers(include_self=True)

    def compiled_modules(self, model: nn.Layer) -> dict[str, nn.Layer | None]:
        found: dict[str, nn.Layer | None] = {}
        for path, module in self.named_modules(model):
            if isinstance(module.forward, StaticFunction) and not any(is_below(path, other) for other in found):
                found[path] = module
        return found

    def copy_model(self, model: nn.Layer) -> nn.Layer:
        # DIFFERS: copying a layer with a static `forward` would make the original dynamic.
        static = {
            path: vars(module).pop("forward")
            for path, module in self.named_modules(model)
            if isinstance(vars(module).get("forward"), StaticFunction)
        }
        try:
            copied = copy.deepcopy(model)
        finally:
            for path, module in self.named_modules(model):
                if path in static:
                    module.forward = static[path]
        for path, module in self.named_modules(copied):
            if path in static:
                own = static[path]
                forward = types.MethodType(own.dygraph_function.__func__, module)
                module.forward = type(own)(forward, own._input_spec, **own._kwargs)
        return copied

    def uncompiled(self) -> AbstractContextManager[Any]:
        return _dynamic()

    def own_tensors(self, module: nn.Layer) -> Iterator[tuple[str, Tensor]]:
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

    def has_values(self, tensor: Tensor) -> bool:
        return not tensor.size or bool(tensor._is_initialized())

    def is_trained(self, tensor: Tensor) -> bool:
        return not tensor.stop_gradient

    def own_recipe(self, tensor: Tensor) -> dict[str, str]:
        # DIFFERS: ParamAttr gives a parameter its own rate and regularizer.
        share = getattr(tensor, "optimize_attr", {}).get("learning_rate", 1.0)
        regularizer = getattr(tensor, "regularizer", None)
        said = {} if share == 1 else {"learning_rate": f"{share:g}"}
        return said | ({"regularizer": str(regularizer).replace(",", "")} if regularizer is not None else {})

    def before_forward(self, module: nn.Layer, hook: Callable[[nn.Layer, tuple[Any, ...]], None]) -> Handle:
        return module.register_forward_pre_hook(hook)

    def after_forward(self, module: nn.Layer, hook: Callable[[nn.Layer, tuple[Any, ...], Any], None]) -> Handle:
        return module.register_forward_post_hook(hook)

    def convert(self, model: nn.Layer, dtype: str) -> nn.Layer:
        # DIFFERS: `to` also converts integers and booleans, and fails for the uninitialised buffer of recurrent layers.
        kept = [
            (tensors, name, tensor)
            for module in model.sublayers(include_self=True)
            for tensors in (module._buffers, module._parameters)
            for name, tensor in tensors.items()
            if tensor is not None and not (tensor._is_initialized() and tensor.is_floating_point())
        ]
        for tensors, name, _ in kept:
            tensors[name] = None
        model = model.to(dtype=dtype)
        for tensors, name, tensor in kept:
            tensors[name] = tensor
        return model

    def device_of(self, model: nn.Layer) -> str:
        # DIFFERS: one device computes everything in this process.
        return "cpu" if paddle.get_device() == "cpu" else "gpu"

    def backward(self, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        # DIFFERS: backward from several tensors fails if one depends on another. The gradient of a sum of products is the same.
        products = [(output * gradient).sum() for output, gradient in zip(outputs, gradients, strict=True)]
        sum(products[1:], products[0]).backward()

    def gradients_of(self, loss: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return paddle.grad([loss], list(tensors), allow_unused=True)

    def are_gradients_on(self) -> bool:
        return paddle.is_grad_enabled()

    def count_changes(self, tensor: Tensor) -> int:
        return tensor.inplace_version

    def without_process_wrapper(self, model: nn.Layer) -> nn.Layer:
        return model._layers if isinstance(model, paddle.DataParallel) else model

    def find_rank(self) -> tuple[int, int]:
        return dist.get_rank(), dist.get_world_size()

    def around_steps(
        self,
        optimizer: paddle.optimizer.Optimizer,
        before: Callable[[float], None],
        after: Callable[[], None],
        skipped: Callable[[], None],
    ) -> AbstractContextManager[Any]:
        return _around_steps(optimizer, before, after, skipped)

    def around_backward(self, before: Callable[[Tensor, float], None]) -> AbstractContextManager[Any]:
        return _around_backward(before)

    def get_default_dtype(self) -> str:
        return paddle.get_default_dtype()

    def set_default_dtype(self, dtype: str) -> None:
        paddle.set_default_dtype(dtype)

    def seed(self, number: int) -> None:
        paddle.seed(number)

    def random_state(self) -> bytes:
        # DIFFERS: the text of a state may hold a memory address, which changes with every call.
        return re.sub("0x[0-9a-f]+", "", " ".join(map(str, paddle.get_rng_state()))).encode()

    def kernel_variance(self) -> str:
        return layers._kernel_variance(paddle.get_device() != "cpu")


def _place(device: str) -> paddle.CPUPlace | paddle.CUDAPlace:
    """Paddle's name for our device name."""
    return paddle.CUDAPlace(paddle.distributed.ParallelEnv().device_id) if device == "gpu" else paddle.CPUPlace()


@contextlib.contextmanager
def _dynamic() -> Iterator[None]:
    """A context in which static layers run as dynamic ones."""
    before = ProgramTranslator().enable_to_static
    paddle.jit.enable_to_static(False)
    try:
        yield
    finally:
        paddle.jit.enable_to_static(before)


@contextlib.contextmanager
def _around_steps(
    optimizer: paddle.optimizer.Optimizer,
    before: Callable[[float], None],
    after: Callable[[], None],
    skipped: Callable[[], None],
) -> Iterator[None]:
    # DIFFERS: there are no hooks of an optimizer, and `minimize` does not call `step`.
    originals = {name: getattr(optimizer, name) for name in ("step", "minimize")}
    own = {name: vars(optimizer)[name] for name in originals if name in vars(optimizer)}

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            before(1.0)
            result = original(*given, **named)
            # DIFFERS: a loss scaler calls the optimizer all the same, and says so there.
            found = getattr(optimizer, "_get_auxiliary_var", None)
            (skipped if found and found("found_inf") else after)()
            return result

        return step

    for name, original in originals.items():
        setattr(optimizer, name, wrap(original))
    try:
        yield
    finally:
        for name in originals:
            delattr(optimizer, name)
        for name, value in own.items():
            setattr(optimizer, name, value)


@contextlib.contextmanager
def _around_backward(before: Callable[[Tensor, float], None]) -> Iterator[None]:
    original, scale = Tensor.backward, paddle.amp.GradScaler.scale
    scaled: dict[int, tuple[Tensor, Tensor, paddle.amp.GradScaler | None]] = {}

    def backward(tensor: Tensor, *given: Any, **named: Any) -> Any:
        _, loss, scaler = scaled.pop(id(tensor), (tensor, tensor, None))
        before(loss, float(scaler._scale) if scaler and scaler.is_enable() else 1.0)
        return original(tensor, *given, **named)

    def scale_loss(scaler: paddle.amp.GradScaler, loss: Tensor) -> Tensor:
        result = scale(scaler, loss)
        scaled[id(result)] = result, loss.detach(), scaler
        return result

    Tensor.backward, paddle.amp.GradScaler.scale = backward, scale_loss
    try:
        yield
    finally:
        Tensor.backward, paddle.amp.GradScaler.scale = original, scale
