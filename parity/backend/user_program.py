"""The loss and the optimizer of a user, for one model: what a training step does after the forward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parity.backend.observed_model import tensors_of
from parity.backend.protocol import Backend, Module, Stepper, Tensor
from parity.errors import InputError
from parity.recipe.optimizer_description import OptimizerDescription

AVERAGE = "average"
"""The name of the average of a weight, among what a program keeps for each parameter."""

CLEARS = ("zero_grad", "clear_grad")
"""The methods of a program that remove gradients, by the names of both frameworks."""

FORMS = "an optimizer, (optimizer, scheduler), or an object with step() and the attribute optimizer"
"""What a factory of an optimizer may return."""


class UserProgram:
    """A `loss(outputs, *targets)` and a `make_optimizer(model)`; either is None where the comparison's own is used.

    `make_optimizer` returns an optimizer, a pair (optimizer, scheduler), or an object whose `step()` does everything that follows the
    backward pass, such as clipping, and whose `optimizer` is the optimizer. Such an object may have `zero_grad()` or `clear_grad()`, which
    is called before each backward pass: it may keep gradients, to accumulate them. Without it, they are removed. It may have `averages`
    of the weights: a mapping by the names of the parameters, or a copy of the model.

    `described` is the optimizer as it was in its last step, None if the program's last step did not call it.

    `before` and `used` are the gradients by the `id` of their parameter, before the last step and as the optimizer used them. `used` is
    empty if the optimizer took no step.
    """

    def __init__(
        self, backend: Backend, loss: Callable[..., Any] | None, make_optimizer: Callable[[Module], Any] | None
    ) -> None:
        self.backend, self.make_optimizer = backend, make_optimizer
        self._given_loss = loss
        self._loss = loss
        self._made: Any = None
        self._schedulers: list[Any] = []
        self.optimizer: Stepper | None = None
        self.before: dict[int, Tensor] = {}
        self.used: dict[int, Tensor] = {}
        self.described: OptimizerDescription | None = None
        self._names: Mapping[int, str] = {}

    def convert(self, dtype: str) -> None:
        """Compute in `dtype` from now on: a loss may hold tensors, such as the weights of classes."""
        if isinstance(self._given_loss, self.backend.MODULE):
            self._loss = self.backend.convert(self.backend.copy_model(self._given_loss), dtype)
        self.optimizer = None

    def start(self, model: Module) -> None:
        """Make a fresh optimizer of `model`. `InputError` if the factory returns something else."""
        assert self.make_optimizer
        made = self.make_optimizer(model)
        self._schedulers, self.before, self.used, self.described = [], {}, {}, None
        if isinstance(made, tuple | list) and len(made) == 2:
            made, scheduler = made
            self._schedulers = [scheduler]
        if not hasattr(made, "step"):
            raise InputError(f"the factory of the optimizer makes a {type(made).__name__}: return {FORMS}")
        is_own = isinstance(made, self.backend.OPTIMIZER)
        self.optimizer = made if is_own else getattr(made, "optimizer", made)
        self._made = made
        if is_own and not self._schedulers and (inside := self.backend.scheduler_of(made)) is not None:
            self._schedulers = [inside]
        step = self.optimizer.step

        @functools.wraps(step)  # a schedule marks the step that it has seen
        def noted(*given: Any, **named: Any) -> Any:
            return self._step_optimizer(step, *given, **named)

        self.optimizer.step = noted

    def compute_loss(self, outputs: Any, targets: Sequence[Tensor]) -> Tensor:
        """Return the loss. `InputError` unless it is one number that depends on the outputs."""
        assert self._loss
        loss: Any = self._loss(outputs, *targets)
        kind: type[Any] = self.backend.TENSOR
        if not isinstance(loss, kind):
            raise InputError(f"the loss returns a {type(loss).__name__}, not a tensor")
        if [size for size in loss.shape if size != 1]:
            raise InputError(
                f"the loss returns a tensor of shape {list(loss.shape)}: return one number, such as its mean"
            )
        if not self.backend.needs_gradient(loss):
            raise InputError("the loss does not depend on the outputs: nothing can be trained with it")
        return loss

    def clear_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Remove the gradients of the last step, as the user's program does."""
        clear = next((getattr(self._made, name) for name in CLEARS if hasattr(self._made, name)), None)
        if clear and self._made is not self.optimizer:
            clear()
            return
        for parameter in parameters:
            self.backend.clear_gradient(parameter)

    def describe(self, names: Mapping[int, str]) -> OptimizerDescription:
        """Return the optimizer as data, as it was in its last step; `names` has the name of each parameter by its `id`."""
        return self.described or self.backend.describe_optimizer(self.optimizer, names)

    def step(self, parameters: Mapping[str, Tensor]) -> None:
        """Do what follows a backward pass."""
        self._names, self.described = {id(p): name for name, p in parameters.items()}, None
        self.before = {id(p): self._copy(p.grad) for p in parameters.values() if p.grad is not None}
        self.used = {}
        with self.backend.watch_clipping(self._note_used):
            self._made.step()
        for scheduler in self._schedulers:
            scheduler.step()

    def averages(self) -> Mapping[str, Tensor]:
        """Return the averages of weights that the program keeps, by the names of the parameters; empty if it keeps none."""
        found = getattr(self._made, "averages", None)
        if found is None or isinstance(found, Mapping):
            return found or {}
        return tensors_of(self.backend, getattr(found, "module", found))

    def _step_optimizer(self, step: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Do the optimizer's own step with its scalars rounded to float32, after its gradients have been noted."""
        assert self.optimizer is not None
        self.described = self.backend.describe_optimizer(self.optimizer, self._names)
        for parameter in self.backend.parameters_of(self.optimizer):
            if parameter.grad is not None:
                self._note_used(parameter, parameter.grad)
        with self.backend.rounded_scalars(self.optimizer):
            return step(*given, **named)

    def _note_used(self, parameter: Tensor, gradient: Tensor) -> None:
        self.used[id(parameter)] = self._copy(gradient)

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()
