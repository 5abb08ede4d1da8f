"""What a framework must say: the protocol that `paddle_impl.backend.Backend` and `torch_impl.backend.Backend` implement.

Everything else is written once over it: `parity.backend.trainer`, `parity.backend.model_state`, `parity.backend.distributed` and
`parity.backend.watched_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from parity.arrays import Array
from parity.network.network import Network
from parity.process_group import ProcessGroup
from parity.recipe.optimizer import Optimizer
from parity.weights.canonical_state import State

Tensor: TypeAlias = Any
"""A framework's tensor."""

Module: TypeAlias = Any
"""A framework's module."""

Stepper: TypeAlias = Any
"""A framework's optimizer: it has `step()`."""

Scaler: TypeAlias = Any
"""A framework's scaler of losses: it has `scale(loss)`, `step(optimizer)` and `update()`."""

Layout: TypeAlias = Any
"""A framework's order of the axes of images in memory."""

Handle: TypeAlias = Any
"""What a framework returns for a hook: it has `remove()`."""


class Backend(Protocol):
    """A framework. It has no state: models, tensors and optimizers are arguments. A device is "cpu" or "gpu"."""

    TENSOR: type
    MODULE: type
    NAMES: Mapping[str, str]
    TRANSPOSED: tuple[type, ...]
    OVERLAPPING: tuple[str, ...]

    # Tensors

    def from_numpy(self, array: Array, device: str) -> Tensor:
        """A tensor of `array` on `device`, in its dtype. It may share the memory of `array`."""

    def to_numpy(self, tensor: Tensor) -> Array:
        """A copy of `tensor`, as it is."""

    def write(self, tensor: Tensor, array: Array) -> None:
        """Overwrites `tensor` with `array` of the same shape, in the tensor's dtype."""

    def assign(self, tensor: Tensor, value: Tensor) -> None:
        """Overwrites `tensor` with `value` of the same shape and dtype."""

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """`tensor` in `dtype`."""

    def times(self, tensor: Tensor, factor: float) -> Tensor:
        """`tensor` * `factor` in the precision of `tensor`."""

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensors one after the other, along their first axis."""

    # Gradients

    def no_grad(self) -> AbstractContextManager[Any]:
        """Within it no graph is made."""

    def needs_gradient(self, tensor: Tensor) -> bool:
        """Whether backward passes compute a gradient of `tensor`."""

    def require_gradient(self, tensor: Tensor, required: bool) -> None:
        """Has backward passes compute a gradient of `tensor`, or not."""

    def on_gradient(self, tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
        """Has the backward pass call `hook` with the gradient of `tensor`."""

    def clear_gradient(self, tensor: Tensor) -> None:
        """Takes the gradient of `tensor` away."""

    def zero_gradient(self, tensor: Tensor) -> None:
        """Sets the gradient of `tensor` to zero."""

    # Models

    def make_model(self, network: Network, dtype: str) -> Module:
        """The module of `network` in `dtype`, float32 or float64, with weights that nobody has set."""

    def layout(self, dtype: str, device: str, amp: str) -> Layout:
        """The order of axes in which training in `dtype` and mixed precision `amp` is fastest on `device`."""

    def to_device(self, model: Module, device: str, layout: Layout) -> Module:
        """`model` on `device`, its kernels in `layout`."""

    def to_layout(self, tensor: Tensor, layout: Layout) -> Tensor:
        """`tensor` in `layout`, where it holds images [N,C,H,W]."""

    def cross_entropy(self, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """The cross-entropy of class scores [N,classes] and labels [N], summed over the images.

        Of labels that are smoothed: a share `smoothing` of each is spread over all classes (Szegedy et al. 2016, section 7).
        """

    # Optimizers

    def make_optimizer(self, groups: Sequence[tuple[list[Tensor], float, float]], settings: Optimizer) -> Stepper:
        """The optimizer for `settings` over `groups`: parameters, factor of the learning rate, and weight decay of each."""

    def set_rate(self, optimizer: Stepper, rate: float) -> None:
        """Sets the learning rate, which the groups' factors multiply."""

    def make_slots(self, optimizer: Stepper, settings: Optimizer, parameters: Sequence[Tensor]) -> None:
        """Makes the slots of all trainable `parameters`, as zeros, where there are none yet."""

    def slot(self, optimizer: Stepper, parameter: Tensor, slot: str) -> Tensor:
        """The optimizer's own tensor of the canonical `slot` of `parameter`; `make_slots` has made it."""

    def set_updates(self, optimizer: Stepper, settings: Optimizer, parameters: Sequence[Tensor], updates: int) -> None:
        """Has the optimizer count `updates` updates so far."""

    # Mixed precision

    def autocast(self, amp: str, device: str) -> AbstractContextManager[Any]:
        """Within it convolutions and linear layers compute as `amp` of `parity.recipe.precision.PRECISIONS` asks, on `device`.

        Commands offer it on GPUs only: a CPU may lack it, and then goes on in the model's dtype.
        """

    def scaler(self, amp: str, device: str) -> Scaler:
        """What scales the loss in fp16, and otherwise hands it on as it is."""

    # Several processes

    def join(self, process_group: ProcessGroup, device: str) -> None:
        """Joins the processes of `process_group`: over gloo on the CPU, over NCCL on GPUs, one for each process.

        `InputError` where a machine has fewer GPUs than processes. The GPU's part has never been run.
        """

    def leave(self) -> None:
        """Leaves the group of processes; all do so at the end of the run."""

    def wrap(self, model: Module) -> Module:
        """The model whose backward pass averages gradients over the processes while it runs, for a device of `OVERLAPPING`."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Sums `tensor` over the processes, in place."""

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrites `tensor` with that of rank 0."""

    # Other people's models

    def named_modules(self, model: Module) -> Iterable[tuple[str, Module]]:
        """Every module of `model` by its path, itself as "" first, in the order of registration."""

    def own_tensors(self, module: Module) -> Iterator[tuple[str, Tensor]]:
        """Parameters and kept buffers of floats of `module` itself."""

    def is_trained(self, tensor: Tensor) -> bool:
        """Whether an optimizer updates `tensor`."""

    def before_forward(self, module: Module, hook: Callable[[Module, tuple[Any, ...]], None]) -> Handle:
        """Has every call of `module` begin with `hook`, which gets the module and its inputs."""

    def after_forward(self, module: Module, hook: Callable[[Module, tuple[Any, ...], Any], None]) -> Handle:
        """Has every call of `module` end with `hook`, which gets the module, its inputs and what it returns."""

    def convert(self, model: Module, dtype: str) -> Module:
        """`model` with parameters and buffers of floats in `dtype`."""

    def device_of(self, model: Module) -> str:
        """The device that computes `model`."""

    def backward(self, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Backward from the `gradients` of `outputs`."""

    def get_default_dtype(self) -> str:
        """The dtype of numbers that the framework makes."""

    def set_default_dtype(self, dtype: str) -> None:
        """Sets the dtype of numbers that the framework makes."""

    def seed(self, number: int) -> None:
        """Has the framework draw its random numbers from the seed `number`."""

    def random_state(self) -> bytes:
        """The state of the framework's random numbers."""

    def kernel_variance(self) -> str:
        """Which variance of a batch enters the running one: "biased" or "unbiased"."""


class TrainerLike(Protocol):
    """What a training loop drives: a `parity.backend.trainer.Trainer`, or what stands for one in another process."""

    process_group: ProcessGroup

    def step(
        self,
        images: Array,
        labels: Array,
        masks: Mapping[str, Array],
        rate: float,
        divisor: int,
    ) -> tuple[float, int]:
        """One update; returns the summed cross-entropy and the number of wrong images."""

    def predict(self, images: Array) -> Array:
        """Logits in inference mode."""

    def scale_velocity(self, factor: float) -> None:
        """Multiplies the momentum buffers."""

    def total(self, *values: float) -> list[float]:
        """Sums of `values` over all processes of the run; of one, the values as they are."""

    def state(self) -> State:
        """The canonical state with optimizer slots."""

    def load(self, state: State, updates: int) -> None:
        """Takes a canonical state over."""
