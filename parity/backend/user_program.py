"""The loss and the optimizer of a user, for one model: what a training step does after the forward pass."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from parity.arrays import Array
from parity.backend.observed_model import tensors_of
from parity.backend.protocol import Backend, Module, Stepper, Tensor
from parity.errors import InputError
from parity.recipe.optimizer_description import OptimizerDescription, join_descriptions

AVERAGE = "average"
"""The name of the average of a weight, among what a program keeps for each parameter."""

CLEARS = ("zero_grad", "clear_grad")
"""The methods of a program that remove gradients, by the names of both frameworks."""

FORMS = "an optimizer, (optimizer, scheduler), or an object with step() that holds its optimizer"
"""What a factory of an optimizer may return."""


class UserProgram:
    """A `loss(outputs, *targets)` and a `make_optimizer(model)`; either is None where the comparison's own is used.

    A loss with an argument named `model` gets the model by it, for a penalty on weights.

    `make_optimizer` returns optimizers and schedulers, alone or in sequences and mappings, or an object whose `step()` does everything that
    follows the backward pass, such as clipping, and that holds its optimizers. Such an object may have `zero_grad()` or `clear_grad()`,
    which is called before each backward pass: it may keep gradients, to accumulate them. Without it, gradients are removed. It may have
    `averages` of the weights: a mapping by the names of the parameters, or a copy of the model.

    `optimizers` is empty until `start`. `before` and `used` are the gradients by the `id` of their parameter, before the last step and as
    the optimizers used them. `used` is empty if no optimizer took a step.
    """

    def __init__(
        self, backend: Backend, loss: Callable[..., Any] | None, make_optimizer: Callable[[Module], Any] | None
    ) -> None:
        self.backend, self.make_optimizer = backend, make_optimizer
        self._given_loss = self._loss = loss
        self._dtype: str | None = None
        self._last_loss: Tensor | None = None
        self._steppers: list[Any] = []
        self._schedulers: list[Any] = []
        self.optimizers: list[Stepper] = []
        self.before: dict[int, Tensor] = {}
        self.used: dict[int, Tensor] = {}
        self._described: dict[int, OptimizerDescription] = {}
        self._names: Mapping[int, str] = {}

    def convert(self, dtype: str) -> None:
        """Compute in `dtype` from now on: a loss may hold tensors, such as the weights of classes."""
        self._dtype = dtype
        self.reset()

    def reset(self) -> None:
        """Start again: the optimizers must be made again, and the loss forgets what it has kept, such as a count of its calls."""
        self.optimizers, self._steppers, self._schedulers = [], [], []
        if isinstance(self._given_loss, self.backend.MODULE):
            copied = self.backend.copy_model(self._given_loss)
            self._loss = self.backend.convert(copied, self._dtype) if self._dtype else copied
        else:
            with contextlib.suppress(Exception):  # what has no copy is used as it is
                self._loss = copy.deepcopy(self._given_loss)

    def start(self, model: Module) -> None:
        """Make fresh optimizers of `model`. `InputError` if the factory returns something else."""
        assert self.make_optimizer
        made = self.make_optimizer(model)
        self.before, self.used, self._described = {}, {}, {}
        parts = [part for part in _parts(made) if hasattr(part, "step")]
        own = self._own(parts)
        self._steppers = own or parts[:1]
        self.optimizers = own or [optimizer for part in parts[:1] for optimizer in self._held_by(part)]
        if not self.optimizers:
            raise InputError(f"the factory of the optimizer makes a {type(made).__name__}: return {FORMS}")
        self._schedulers = [part for part in parts if all(part is not stepper for stepper in self._steppers)]
        if own and not self._schedulers:
            inside = [self.backend.scheduler_of(optimizer) for optimizer in own]
            self._schedulers = list(
                {id(scheduler): scheduler for scheduler in inside if scheduler is not None}.values()
            )
        for number, optimizer in enumerate(self.optimizers):
            optimizer.step = self._noted(number, optimizer)

    def _own(self, parts: Iterable[Any]) -> list[Stepper]:
        """The optimizers of the framework among `parts`, each once."""
        return list({id(part): part for part in parts if isinstance(part, self.backend.OPTIMIZER)}.values())

    def _held_by(self, stepper: Any) -> list[Stepper]:
        """The optimizers that an object with `step()` holds. One of another class is found as its attribute `optimizer`."""
        if held := self._own(_parts(getattr(stepper, "__dict__", {}))):
            return held
        found = getattr(stepper, "optimizer", stepper)
        with contextlib.suppress(AttributeError):
            return [found] if self.backend.parameters_of(found) else []
        return []

    def _noted(self, number: int, optimizer: Stepper) -> Callable[..., Any]:
        step = optimizer.step

        @functools.wraps(step)  # a schedule marks the step that it has seen
        def noted(*given: Any, **named: Any) -> Any:
            """Do the optimizer's own step with its scalars rounded to float32, after its gradients have been noted."""
            self._described[number] = self.backend.describe_optimizer(optimizer, self._names)
            for parameter in self.backend.parameters_of(optimizer):
                if parameter.grad is not None:
                    self._note_used(parameter, parameter.grad)
            with self.backend.rounded_scalars(optimizer):
                return step(*given, **named)

        return noted

    def compute_loss(self, outputs: Any, targets: Sequence[Tensor], model: Module) -> Tensor:
        """Return the loss. `InputError` unless it is one number that depends on the outputs."""
        assert self._loss
        function: Any = self._loss
        named = {"model": model} if _takes_model(getattr(function, "forward", function)) else {}
        loss: Any = function(outputs, *targets, **named)
        kind: type[Any] = self.backend.TENSOR
        if not isinstance(loss, kind):
            raise InputError(f"the loss returns a {type(loss).__name__}, not a tensor")
        if [size for size in loss.shape if size != 1]:
            raise InputError(
                f"the loss returns a tensor of shape {list(loss.shape)}: return one number, such as its mean"
            )
        if not self.backend.needs_gradient(loss):
            raise InputError("the loss does not depend on the outputs: nothing can be trained with it")
        self._last_loss = loss.detach()
        return loss

    def clear_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Remove the gradients of the last step, as the user's program does."""
        for stepper in self._others():
            clear = next((getattr(stepper, name) for name in CLEARS if hasattr(stepper, name)), None)
            if clear:
                clear()
                return
        for parameter in parameters:
            self.backend.clear_gradient(parameter)

    def describe(self, names: Mapping[int, str]) -> OptimizerDescription:
        """Return the optimizers as data, as they were in the last step; `names` has the name of each parameter by its `id`."""
        return join_descriptions(
            [
                self._described.get(number) or self.backend.describe_optimizer(optimizer, names)
                for number, optimizer in enumerate(self.optimizers)
            ]
        )

    def state_of(self, parameter: Tensor) -> dict[str, Array]:
        """Return what the optimizer of a parameter keeps for it, by canonical slot."""
        states = (self.backend.optimizer_state(optimizer, parameter) for optimizer in self.optimizers)
        return next((state for state in states if state), {})

    def step(self, parameters: Mapping[str, Tensor]) -> None:
        """Do what follows a backward pass."""
        self._names, self._described = {id(p): name for name, p in parameters.items()}, {}
        self.before = {id(p): self._copy(p.grad) for p in parameters.values() if p.grad is not None}
        self.used = {}
        with self.backend.watch_clipping(self._note_used):
            for stepper in self._steppers:
                stepper.step()
        for scheduler in self._schedulers:
            # A schedule may depend on the loss, as ReduceLROnPlateau does.
            needed = [p for p in inspect.signature(scheduler.step).parameters.values() if p.default is p.empty]
            if needed and needed[0].kind in _GIVEN:
                scheduler.step(
                    math.nan if self._last_loss is None else float(self.backend.to_numpy(self._last_loss).item())
                )
            else:
                scheduler.step()

    def averages(self) -> Mapping[str, Tensor]:
        """Return the averages of weights that the program keeps, by the names of the parameters; empty if it keeps none."""
        found = next((stepper.averages for stepper in self._others() if hasattr(stepper, "averages")), None)
        if found is None or isinstance(found, Mapping):
            return found or {}
        return tensors_of(self.backend, getattr(found, "module", found))

    def _others(self) -> list[Any]:
        """The objects with `step()` that are no optimizers."""
        return [stepper for stepper in self._steppers if all(stepper is not optimizer for optimizer in self.optimizers)]

    def _note_used(self, parameter: Tensor, gradient: Tensor) -> None:
        self.used[id(parameter)] = self._copy(gradient)

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()


def _takes_model(loss: Callable[..., Any]) -> bool:
    try:
        return "model" in inspect.signature(loss).parameters
    except ValueError:  # a function in C
        return False


_GIVEN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
"""Kinds of parameters that take a positional argument each."""


def _parts(made: Any) -> Iterator[Any]:
    """Yield what is in nested sequences and mappings."""
    if isinstance(made, Mapping):
        made = list(made.values())
    if isinstance(made, tuple | list):
        for part in made:
            yield from _parts(part)
    else:
        yield made
