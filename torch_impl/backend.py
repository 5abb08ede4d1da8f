"""PyTorch's operations for training and models; `parity.backend.protocol` describes the methods."""

from __future__ import annotations

import contextlib
import copy
import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from parity import machine
from parity.arrays import Array
from parity.errors import InputError
from parity.modules.description import is_below
from parity.network.network import Network
from parity.process_group import ProcessGroup
from parity.recipe import precision
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import OptimizerDescription
from torch_impl import layers, model, optimizer_description, optimizer_steps

Handle = Any
"""What PyTorch returns for a hook."""

HALVES = (torch.bfloat16, torch.float16)

_MEMORY_FORMATS = dict(zip(precision.LAYOUTS, (torch.contiguous_format, torch.channels_last), strict=True))

SLOTS = {"velocity": "momentum_buffer", "moment1": "exp_avg", "moment2": "exp_avg_sq"}
"""Canonical optimizer slot -> PyTorch's name."""


class Backend:
    """PyTorch's implementation of `parity.backend.protocol.Backend`."""

    TENSOR: type = Tensor
    MODULE: type = nn.Module
    OPTIMIZER: type = torch.optim.Optimizer
    PARAMETERS = "params"
    """The argument of an optimizer's class that takes the parameters."""

    NAMES = model.NAMES
    TRANSPOSED = model.TRANSPOSED
    OVERLAPPING: tuple[str, ...] = ("cpu", "gpu")
    """Devices on which the framework's own wrapper sums gradients during the backward pass; elsewhere they are summed after it."""

    # Tensors

    def from_numpy(self, array: Array, device: str) -> Tensor:
        return torch.from_numpy(array).to(_place(device))

    def to_numpy(self, tensor: Tensor) -> Array:
        tensor = (tensor.to_dense() if tensor.is_sparse else tensor).detach().cpu()
        return (tensor.float() if tensor.dtype in HALVES else tensor).numpy().copy()

    def write(self, tensor: Tensor, array: Array) -> None:
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.asarray(array, order="C")))

    def assign(self, tensor: Tensor, value: Tensor) -> None:
        with torch.no_grad():
            tensor.copy_(value)

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        return tensor.to(getattr(torch, dtype))

    def times(self, tensor: Tensor, factor: float) -> Tensor:
        return layers.times(tensor, factor)

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    # Gradients

    def no_grad(self) -> AbstractContextManager[Any]:
        return torch.no_grad()

    def needs_gradient(self, tensor: Tensor) -> bool:
        return tensor.requires_grad

    def require_gradient(self, tensor: Tensor, required: bool) -> None:
        tensor.requires_grad_(required)

    def on_gradient(self, tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
        tensor.register_hook(hook)

    def clear_gradient(self, tensor: Tensor) -> None:
        tensor.grad = None

    def zero_gradient(self, tensor: Tensor) -> None:
        tensor.grad.zero_()

    # Models

    def make_model(self, network: Network, dtype: str) -> nn.Module:
        return model.Model(network).to(getattr(torch, dtype))

    def layout(self, dtype: str, device: str, amp: str) -> str:
        # DIFFERS: convolutions in bfloat16, and in float32 on AMD's CPUs, are faster with channels last; in float32 on Intel's they are
        # slower (docs/performance.md). Mixed precision on a GPU is unmeasured.
        last = dtype == "float32" and (amp != "off" or (device == "cpu" and not machine.is_intel()))
        return "channels_last" if last else "channels_first"

    def to_device(self, model: nn.Module, device: str, layout: str) -> nn.Module:
        return model.to(_place(device), memory_format=_MEMORY_FORMATS[layout])

    def to_layout(self, tensor: Tensor, layout: str) -> Tensor:
        return tensor.contiguous(memory_format=_MEMORY_FORMATS[layout]) if tensor.ndim == 4 else tensor

    def compile(self, model: nn.Module) -> nn.Module:
        return torch.compile(model)

    def cross_entropy(self, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)

    # Optimizers

    def make_optimizer(
        self, groups: Sequence[tuple[list[Tensor], float, float]], settings: Optimizer
    ) -> torch.optim.Optimizer:
        param_groups: list[dict[str, Any]] = [
            {"params": parameters, "factor": rate, "weight_decay": decay} for parameters, rate, decay in groups
        ]
        if settings.kind == "adam":
            adam = _without_compiler(torch.optim.Adam)
            return adam(param_groups, settings.rate, (settings.beta1, settings.beta2), settings.eps)
        sgd = _without_compiler(torch.optim.SGD)
        return sgd(param_groups, settings.rate, settings.momentum, nesterov=settings.nesterov)

    def set_rate(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def make_slots(self, optimizer: torch.optim.Optimizer, settings: Optimizer, parameters: Sequence[Tensor]) -> None:
        for parameter in parameters:
            held = optimizer.state[parameter]
            if settings.kind == "adam":
                held.setdefault("step", torch.tensor(0.0))
            for slot in settings.slots:
                if held.get(SLOTS[slot]) is None:
                    held[SLOTS[slot]] = torch.zeros_like(parameter)

    def slot(self, optimizer: torch.optim.Optimizer, parameter: Tensor, slot: str) -> Tensor:
        return optimizer.state[parameter][SLOTS[slot]]

    def set_updates(
        self, optimizer: torch.optim.Optimizer, settings: Optimizer, parameters: Sequence[Tensor], updates: int
    ) -> None:
        if settings.kind == "adam":
            for parameter in parameters:
                optimizer.state[parameter]["step"] = torch.tensor(float(updates))

    def describe_optimizer(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> OptimizerDescription:
        return optimizer_description.describe_optimizer(optimizer, names)

    def optimizer_state(self, optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Array]:
        return optimizer_description.optimizer_state(optimizer, parameter)

    def restore_optimizer_state(
        self, optimizer: torch.optim.Optimizer, parameter: Tensor, state: Mapping[str, Array]
    ) -> None:
        optimizer_description.restore_optimizer_state(optimizer, parameter, state)

    def parameters_of(self, optimizer: torch.optim.Optimizer) -> Sequence[Tensor]:
        return optimizer_steps.parameters_of(optimizer)

    def scheduler_of(self, optimizer: torch.optim.Optimizer) -> Any:
        return optimizer_steps.scheduler_of(optimizer)

    def rounded_scalars(self, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        return optimizer_steps.rounded_scalars(optimizer)

    def watch_clipping(self, record: Callable[[Tensor, Tensor], None]) -> AbstractContextManager[None]:
        return optimizer_steps.watch_clipping(record)

    # Mixed precision

    def autocast(self, amp: str, device: str) -> AbstractContextManager[Any]:
        if amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(_place(device).type, getattr(torch, precision.DTYPES[amp]))

    def scaler(self, amp: str, device: str) -> torch.amp.GradScaler:
        settings = (precision.FIRST_SCALE, precision.GROWTH, precision.BACKOFF, precision.INTERVAL)
        return torch.amp.GradScaler(_place(device).type, *settings, enabled=amp == "fp16")

    # Several processes

    def join(self, process_group: ProcessGroup, device: str) -> None:
        if device == "gpu":
            if process_group.local_rank >= torch.cuda.device_count():
                raise InputError(
                    f"{process_group.local_size} processes share {torch.cuda.device_count()} GPUs: start fewer"
                )
            torch.cuda.set_device(process_group.local_rank)
        dist.init_process_group("nccl" if device == "gpu" else "gloo")

    def leave(self) -> None:
        # DDP's reducer keeps the group's threads alive after this call. A thread that still holds a tensor when the interpreter ends
        # aborts it ("terminate called without an active exception", seen once under load).
        time.sleep(0.1)
        dist.destroy_process_group()

    def wrap(self, model: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions deprecate what older ones need
            # Do not broadcast rank 0's running statistics: `parity.backend.distributed.average_statistics` averages them.
            return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def all_reduce(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        dist.broadcast(tensor, 0)

    # Other people's models

    def named_modules(self, model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
        for path, module in model.named_modules():
            if not _wraps(module):
                yield _without_wrapper(path), module

    def compiled_modules(self, model: nn.Module) -> dict[str, nn.Module | None]:
        found: dict[str, nn.Module | None] = {}
        for path, module in model.named_modules():
            own = _without_wrapper(path)
            compiled = _wraps(module) or module._compiled_call_impl is not None
            if compiled and not any(is_below(own, other) for other in found):
                found[own] = module if _wraps(module) else None
        return found

    def copy_model(self, model: nn.Module) -> nn.Module:
        if any(module is None for module in self.compiled_modules(model).values()):
            raise InputError("a copy is not compiled by Module.compile")
        return copy.deepcopy(model)

    def uncompiled(self) -> AbstractContextManager[Any]:
        return torch.compiler.set_stance("force_eager")

    def own_tensors(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in module._parameters.items():
            if tensor is not None:
                yield name, tensor
        for name, tensor in module._buffers.items():
            if tensor is not None and tensor.is_floating_point() and name not in module._non_persistent_buffers_set:
                yield name, tensor

    def has_values(self, tensor: Tensor) -> bool:
        return not (is_lazy(tensor) or tensor.is_meta)

    def is_trained(self, tensor: Tensor) -> bool:
        return isinstance(tensor, nn.Parameter) and tensor.requires_grad

    def own_recipe(self, tensor: Tensor) -> dict[str, str]:
        return {}  # groups of parameters of the optimizer say it

    def before_forward(self, module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...]], None]) -> Handle:
        return module.register_forward_pre_hook(hook)

    def after_forward(self, module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> Handle:
        return module.register_forward_hook(hook)

    def convert(self, model: nn.Module, dtype: str) -> nn.Module:
        return model.to(getattr(torch, dtype))

    def device_of(self, model: nn.Module) -> str:
        return "gpu" if any(parameter.is_cuda for parameter in model.parameters()) else "cpu"

    def backward(self, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        torch.autograd.backward(list(outputs), list(gradients))

    def gradients_of(self, loss: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return torch.autograd.grad(loss, list(tensors), allow_unused=True)

    def are_gradients_on(self) -> bool:
        return torch.is_grad_enabled()

    def count_changes(self, tensor: Tensor) -> int:
        return 0 if tensor.is_inference() else tensor._version

    def without_process_wrapper(self, model: nn.Module) -> nn.Module:
        return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model

    def find_rank(self) -> tuple[int, int]:
        if not (dist.is_available() and dist.is_initialized()):
            return 0, 1
        return dist.get_rank(), dist.get_world_size()

    def around_steps(
        self,
        optimizer: torch.optim.Optimizer,
        before: Callable[[float], None],
        after: Callable[[], None],
        skipped: Callable[[], None],
    ) -> AbstractContextManager[Any]:
        return _around_steps(optimizer, before, after, skipped)

    def around_backward(self, before: Callable[[Tensor, float], None]) -> AbstractContextManager[Any]:
        return _around_backward(before)

    def get_default_dtype(self) -> str:
        return str(torch.get_default_dtype()).removeprefix("torch.")

    def set_default_dtype(self, dtype: str) -> None:
        torch.set_default_dtype(getattr(torch, dtype))

    def seed(self, number: int) -> None:
        torch.manual_seed(number)

    def random_state(self) -> bytes:
        return torch.get_rng_state().numpy().tobytes()

    def kernel_variance(self) -> str:
        return "unbiased"


def _wraps(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` returned. The class is imported only by those who compile."""
    return "_orig_mod" in module._modules


def _without_wrapper(path: str) -> str:
    """The path of a module without the wrappers that `torch.compile` puts around modules."""
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def _without_compiler(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The class of an optimizer whose methods do not import the compiler of `torch.compile`: that takes as long as importing PyTorch."""
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in ("add_param_group", "zero_grad")}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    own = {**methods, "step": step, "__module__": optimizer.__module__}
    return type(optimizer.__name__, (optimizer,), own)


def _place(device: str) -> torch.device:
    """PyTorch's name for our device name."""
    return torch.device("cuda" if device == "gpu" else "cpu")


@contextlib.contextmanager
def _around_steps(
    optimizer: torch.optim.Optimizer,
    before: Callable[[float], None],
    after: Callable[[], None],
    skipped: Callable[[], None],
) -> Iterator[None]:
    original, steps = torch.amp.GradScaler.step, 0

    def start(*_: Any) -> None:
        scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer divides by it
        before(1.0 if scale is None else float(scale))

    def end(*_: Any) -> None:
        nonlocal steps
        steps += 1
        # A fused optimizer is called all the same.
        (skipped if getattr(optimizer, "found_inf", None) else after)()

    def scaled_step(scaler: torch.amp.GradScaler, stepping: Any, *given: Any, **named: Any) -> Any:
        earlier = steps
        result = original(scaler, stepping, *given, **named)
        if stepping is optimizer and steps == earlier:
            skipped()
        return result

    hooks = (optimizer.register_step_pre_hook(start), optimizer.register_step_post_hook(end))
    torch.amp.GradScaler.step = scaled_step
    try:
        yield
    finally:
        torch.amp.GradScaler.step = original
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _around_backward(before: Callable[[Tensor, float], None]) -> Iterator[None]:
    original, scale = Tensor.backward, torch.amp.GradScaler.scale
    scaled: dict[int, tuple[Tensor, Tensor, torch.amp.GradScaler | None]] = {}

    def backward(tensor: Tensor, *given: Any, **named: Any) -> Any:
        _, loss, scaler = scaled.pop(id(tensor), (tensor, tensor, None))
        before(loss, scaler.get_scale() if scaler and scaler.is_enabled() else 1.0)
        return original(tensor, *given, **named)

    def scale_loss(scaler: torch.amp.GradScaler, outputs: Any) -> Any:
        result = scale(scaler, outputs)
        if isinstance(outputs, Tensor):
            scaled[id(result)] = result, outputs.detach(), scaler
        return result

    Tensor.backward, torch.amp.GradScaler.scale = backward, scale_loss
    try:
        yield
    finally:
        Tensor.backward, torch.amp.GradScaler.scale = original, scale
