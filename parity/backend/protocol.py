"""What a framework must offer: the protocol that `paddle_impl.backend.Backend` and `torch_impl.backend.Backend` implement.

Everything else is written once for all frameworks: `parity.backend.trainer`, `parity.backend.model_state`, `parity.backend.distributed`
and `parity.backend.watched_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from parity.arrays import Array
from parity.network.network import Network
from parity.process_group import ProcessGroup
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import OptimizerDescription
from parity.weights.canonical_state import State

Tensor: TypeAlias = Any
"""A framework's tensor."""

Module: TypeAlias = Any
"""A framework's module."""

Stepper: TypeAlias = Any
"""A framework's optimizer: it has `step()`."""

Scaler: TypeAlias = Any
"""A framework's scaler of losses: it has `scale(loss)`, `step(optimizer)` and `update()`."""

Handle: TypeAlias = Any
"""What a framework returns for a hook: it has `remove()`."""


class Backend(Protocol):
    """A framework, without state: models, tensors and optimizers are arguments. A device is "cpu" or "gpu"."""

    TENSOR: type
    MODULE: type
    OPTIMIZER: type
    PARAMETERS: str
    NAMES: Mapping[str, str]
    TRANSPOSED: tuple[type, ...]
    OVERLAPPING: tuple[str, ...]

    # Tensors

    def from_numpy(self, array: Array, device: str) -> Tensor:
        """A tensor of `array` on `device`, in its dtype. It may share the memory of `array`."""

    def to_numpy(self, tensor: Tensor) -> Array:
        """A copy of `tensor`, in its own dtype (bfloat16 and float16 numbers in float32) and layout of axes."""

    def write(self, tensor: Tensor, array: Array) -> None:
        """Overwrite `tensor` with `array` of the same shape, in the tensor's dtype."""

    def assign(self, tensor: Tensor, value: Tensor) -> None:
        """Overwrite `tensor` with `value` of the same shape and dtype."""

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """`tensor` in `dtype`."""

    def times(self, tensor: Tensor, factor: float) -> Tensor:
        """`tensor` * `factor` in the precision of `tensor`."""

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tensors one after the other, along their first axis."""

    # Gradients

    def no_grad(self) -> AbstractContextManager[Any]:
        """A context in which no autograd graph is built."""

    def needs_gradient(self, tensor: Tensor) -> bool:
        """Whether backward passes compute a gradient of `tensor`."""

    def require_gradient(self, tensor: Tensor, required: bool) -> None:
        """Set whether backward passes compute a gradient of `tensor`."""

    def on_gradient(self, tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
        """Make the backward pass call `hook` with the gradient of `tensor`."""

    def clear_gradient(self, tensor: Tensor) -> None:
        """Remove the gradient of `tensor`."""

    def zero_gradient(self, tensor: Tensor) -> None:
        """Set the gradient of `tensor` to zero."""

    # Models

    def make_model(self, network: Network, dtype: str) -> Module:
        """The module of `network` in `dtype`, float32 or float64, with arbitrary weights."""

    def layout(self, dtype: str, device: str, amp: str) -> str:
        """The memory layout of images, one of `parity.recipe.precision.LAYOUTS`, for `dtype`, `device` and mixed precision `amp`.

        It depends on the kind of processor only, and on no timing: the same command on the same machine gives the same bits.
        """

    def to_device(self, model: Module, device: str, layout: str) -> Module:
        """`model` on `device`, its kernels in `layout`."""

    def to_layout(self, tensor: Tensor, layout: str) -> Tensor:
        """`tensor` in `layout` if it holds images [N,C,H,W], else `tensor` itself."""

    def compile(self, model: Module) -> Module:
        """`model` as the framework's compiler runs it; it keeps its parameters. `InputError` where none is used."""

    def cross_entropy(self, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """The cross-entropy of class scores [N,classes] and labels [N], summed over the images.

        Labels are smoothed: a share `smoothing` of each label is spread over all classes (Szegedy et al. 2016, section 7).
        """

    # Optimizers

    def make_optimizer(self, groups: Sequence[tuple[list[Tensor], float, float]], settings: Optimizer) -> Stepper:
        """The optimizer for `settings` over `groups`, each of which is (parameters, factor of the learning rate, weight decay)."""

    def set_rate(self, optimizer: Stepper, rate: float) -> None:
        """Set the learning rate, which is multiplied by the factor of each group."""

    def make_slots(self, optimizer: Stepper, settings: Optimizer, parameters: Sequence[Tensor]) -> None:
        """Make the slots of all trainable `parameters` that do not exist yet, as zeros."""

    def slot(self, optimizer: Stepper, parameter: Tensor, slot: str) -> Tensor:
        """The optimizer's own tensor for the canonical `slot` of `parameter`; call `make_slots` first."""

    def set_updates(self, optimizer: Stepper, settings: Optimizer, parameters: Sequence[Tensor], updates: int) -> None:
        """Set the number of updates that the optimizer has counted so far."""

    def describe_optimizer(self, optimizer: Stepper, names: Mapping[int, str]) -> OptimizerDescription:
        """Anybody's `optimizer` as data. `names` has the name of each parameter by its `id`."""

    def optimizer_state(self, optimizer: Stepper, parameter: Tensor) -> dict[str, Array]:
        """The state of anybody's `optimizer` for `parameter`, by canonical slot; empty before the first step.

        The slots are those of `parity.recipe.optimizer_description.SLOTS`, and for other optimizers those of the framework.
        """

    def restore_optimizer_state(self, optimizer: Stepper, parameter: Tensor, state: Mapping[str, Array]) -> None:
        """Give an SGD, Adam or AdamW the `state` of a `parameter`, by canonical slot, in the parameter's layout."""

    def parameters_of(self, optimizer: Stepper) -> Sequence[Tensor]:
        """The parameters that anybody's `optimizer` updates."""

    def scheduler_of(self, optimizer: Stepper) -> Any:
        """The schedule that anybody's `optimizer` holds and that must be stepped after it, or None."""

    def rounded_scalars(self, optimizer: Stepper) -> AbstractContextManager[None]:
        """A context in which the scalars of anybody's `optimizer` are rounded to float32, as some kernels hold them."""

    def watch_clipping(self, record: Callable[[Tensor, Tensor], None]) -> AbstractContextManager[None]:
        """A context in which `record` gets each parameter and its gradient, as an optimizer's own clipping makes it."""

    # Mixed precision

    def autocast(self, amp: str, device: str) -> AbstractContextManager[Any]:
        """A context in which convolutions and linear layers compute in the precision `amp` of `parity.recipe.precision.PRECISIONS`.

        Commands offer it only where it is faster (`parity.recipe.precision.find_obstacle`). On a CPU, Paddle computes in the model's dtype.
        """

    def scaler(self, amp: str, device: str) -> Scaler:
        """The loss scaler, which scales the loss in fp16 and otherwise leaves it as it is."""

    # Several processes

    def join(self, process_group: ProcessGroup, device: str) -> None:
        """Join the processes of `process_group`: over gloo on the CPU, over NCCL on GPUs, one GPU for each process.

        `InputError` if a machine has fewer GPUs than processes. This has never been run on GPUs.
        """

    def leave(self) -> None:
        """Leave the process group; all processes do so at the end of the run."""

    def wrap(self, model: Module) -> Module:
        """`model` wrapped so that its backward pass averages gradients over the processes, for a device of `OVERLAPPING`."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum `tensor` over the processes, in place."""

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with that of rank 0."""

    # Other people's models

    def named_modules(self, model: Module) -> Iterable[tuple[str, Module]]:
        """Every module of `model` with its path, in the order of registration; `model` itself is first, with the path ""."""

    def compiled_modules(self, model: Module) -> dict[str, Module | None]:
        """Path of each module that runs compiled as a whole -> the module whose hooks are called there, or None.

        Modules inside are left out: their hooks are not called, or would change what is compiled.
        """

    def copy_model(self, model: Module) -> Module:
        """A copy of `model` that is compiled where it is; `InputError` where a copy cannot be."""

    def uncompiled(self) -> AbstractContextManager[Any]:
        """A context in which compiled modules run as they were before."""

    def own_tensors(self, module: Module) -> Iterator[tuple[str, Tensor]]:
        """Floating-point parameters and persistent buffers of `module` itself, without those of its submodules."""

    def has_values(self, tensor: Tensor) -> bool:
        """Whether the numbers of `tensor` exist: a lazy parameter has none before its first use."""

    def is_trained(self, tensor: Tensor) -> bool:
        """Whether an optimizer updates `tensor`."""

    def own_recipe(self, tensor: Tensor) -> dict[str, str]:
        """What a parameter itself says of its updates, where that is not the default, such as its share of the learning rate."""

    def before_forward(self, module: Module, hook: Callable[[Module, tuple[Any, ...]], None]) -> Handle:
        """Make every call of `module` begin with `hook`, which gets the module and its inputs."""

    def after_forward(self, module: Module, hook: Callable[[Module, tuple[Any, ...], Any], None]) -> Handle:
        """Make every call of `module` end with `hook`, which gets the module, its inputs and what it returns."""

    def convert(self, model: Module, dtype: str) -> Module:
        """`model` with its floating-point parameters and buffers in `dtype`."""

    def device_of(self, model: Module) -> str:
        """The device that computes `model`."""

    def backward(self, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Run the backward pass from `outputs` with their `gradients`."""

    def gradients_of(self, loss: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """The gradients of `loss` of `tensors`, without a backward pass beyond them; None: it does not depend on that one."""

    def are_gradients_on(self) -> bool:
        """Whether operations are recorded for a backward pass now."""

    def count_changes(self, tensor: Tensor) -> int:
        """How often `tensor` was changed in place."""

    def without_process_wrapper(self, model: Module) -> Module:
        """The model inside the wrapper that sums gradients over processes; `model` itself if it has none."""

    def find_rank(self) -> tuple[int, int]:
        """The rank of this process in the process group of anybody's program, and the number of processes."""

    def around_steps(
        self,
        optimizer: Stepper,
        before: Callable[[float], None],
        after: Callable[[], None],
        skipped: Callable[[], None],
    ) -> AbstractContextManager[Any]:
        """A context in which anybody's `optimizer` calls `before` and `after` around each step.

        `before` gets the factor by which the gradients are still scaled. `skipped` is called, and not `after`, where a loss scaler has
        found gradients that are not finite, so that nothing is updated.
        """

    def around_backward(self, before: Callable[[Tensor, float], None]) -> AbstractContextManager[Any]:
        """A context in which `before` gets the tensor from which each backward pass starts, and the factor of a loss scaler on it."""

    def get_default_dtype(self) -> str:
        """The framework's default dtype."""

    def set_default_dtype(self, dtype: str) -> None:
        """Set the framework's default dtype."""

    def seed(self, number: int) -> None:
        """Seed the framework's random number generator with `number`."""

    def random_state(self) -> bytes:
        """The state of the framework's random number generator."""

    def kernel_variance(self) -> str:
        """Which batch variance enters the running variance: "biased" or "unbiased"."""


class TrainerLike(Protocol):
    """What a training loop drives: a `parity.backend.trainer.Trainer` in this or another process."""

    process_group: ProcessGroup

    def step(
        self,
        images: Array,
        labels: Array,
        masks: Mapping[str, Array],
        rate: float,
        divisor: int,
    ) -> tuple[float, int]:
        """Do one update; return the summed cross-entropy and the number of wrong images."""

    def predict(self, images: Array) -> Array:
        """The logits of inference."""

    def scale_velocity(self, factor: float) -> None:
        """Multiply the momentum buffers by `factor`."""

    def total(self, *values: float) -> list[float]:
        """The sums of `values` over all processes of the run; with one process, the values as they are."""

    def state(self) -> State:
        """The canonical state with optimizer slots."""

    def load(self, state: State, updates: int) -> None:
        """Load a canonical state that was reached after `updates` updates."""
