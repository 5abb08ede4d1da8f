"""A model of a user that a comparison runs and trains: its calls, its gradients and its updates."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.observed_model import ObservedModel
from parity.backend.protocol import Backend, Module, Stepper, Tensor
from parity.backend.user_program import AVERAGE, UserProgram
from parity.errors import InputError
from parity.modules.description import below
from parity.modules.function_calls import LOSS
from parity.modules.recording import Watch
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import OptimizerDescription
from parity.weights.half_precision import HALVES


@dataclass(frozen=True)
class LossRounding:
    """How far other rounding moves the `value` of a loss, and its `gradients` of the outputs, by their names."""

    value: float
    gradients: Mapping[str, Array]


class WatchedModel(ObservedModel):
    """A `model` of the framework of `backend`, trained with `settings`. Arrays go in and come out as numpy.

    `compute_in` sets its dtype, which is also the framework's default dtype until `close`.
    """

    def __init__(self, backend: Backend, model: Module, settings: Optimizer) -> None:
        super().__init__(backend, model, Watch())
        self.settings = settings
        self.dtype = self._default_dtype = backend.get_default_dtype()
        self.rounds = ""
        self.optimizer: Stepper | None = None
        self.program = UserProgram(backend, None, None)
        self.device = backend.device_of(self.model)
        self._outputs: dict[str, Tensor] = {}
        self._result: Any = None
        self._loss: Tensor | None = None
        self._output_gradients: dict[str, Array] = {}
        self._inputs: list[Tensor] = []
        self._training = [(module, module.training) for _, module in backend.named_modules(self.model)]

    def compute_in(self, dtype: str) -> None:
        """Convert the model to `dtype`. Inputs are rounded to it.

        A model that mostly holds `dtype` already stays as it is if that is bfloat16 or float16: other dtypes inside are its own choice. The
        default dtype is then float32, in which its code makes constants.
        """
        self.dtype = "float32" if dtype in HALVES else dtype
        self.rounds = dtype if dtype in HALVES else ""
        self.backend.set_default_dtype(self.dtype)
        if not self.rounds or self.own_dtype() != dtype:
            self.model = self.backend.convert(self.model, dtype)
        self.program.convert(dtype)
        self.optimizer = None

    def close(self) -> None:
        """Remove the hooks, and restore the modules' modes and the framework's default dtype. Tensors stay as they are."""
        super().close()
        for module, training in self._training:
            module.training = training
        self.backend.set_default_dtype(self._default_dtype)
        self._training, self._inputs, self._outputs = [], [], {}
        self._result = self._loss = None

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite the named tensors, and start a fresh optimizer."""
        tensors = self.tensors()
        for name, array in arrays.items():
            self.backend.write(tensors[name], array)
        self.optimizer = None
        self.program.reset()

    def buffers(self, model: Module | None = None) -> dict[str, Tensor]:
        """Return the floating-point tensors that the model, or another `model` of the framework, holds beside its parameters, by name."""
        held = self._held(self.model if model is None else model)
        return {below(path, name): tensor for path, name, tensor in held if tensor.is_floating_point()}

    def set_buffers(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite such tensors. A plain attribute in another dtype than the array's, which no conversion reaches, gets a new tensor."""
        modules, tensors = dict(self.backend.named_modules(self.model)), self.buffers()
        for name, array in arrays.items():
            path, _, attribute = name.rpartition(".")
            if attribute in vars(modules[path]):
                setattr(modules[path], attribute, self.backend.from_numpy(array, self.device))
            else:
                self.backend.write(tensors[name], array)

    def _held(self, model: Module) -> Iterator[tuple[str, str, Tensor]]:
        """Yield path, name and tensor of the buffers of modules, and of tensors that they hold as plain attributes."""
        for path, module in self.backend.named_modules(model):
            for name, value in {**vars(module), **getattr(module, "_buffers", {})}.items():
                if isinstance(value, self.backend.TENSOR):
                    yield path, name, value

    def change(self, layer: str, attribute: str, value: Any) -> int:
        """Set an attribute of the layer at a path, or of all layers of a class; return the number of layers changed.

        A private attribute may be named without its underscore, like the constructor's argument: `epsilon` for `_epsilon`.
        """
        found = 0
        for path, module in self.backend.named_modules(self.model):
            named = [name for name in (attribute, f"_{attribute}") if hasattr(module, name)]
            if layer in (path, type(module).__name__) and named:
                setattr(module, named[0], value)
                found += 1
        return found

    def run(
        self, inputs: Sequence[Array], train: bool, path: str = "", names: Sequence[str | None] = ()
    ) -> dict[str, Array]:
        """Run the forward pass in training or inference mode; return the outputs by their place in what the model returns.

        `names` are the arguments that the inputs are for: "" for the next one in order (by default, all), None if it is not passed.
        With a `path`, only the layer at that path runs, and `backward` then works in inference mode, too.
        """
        graded = train or path != ""
        # They hold everything that the last run kept for its backward pass.
        self._outputs, self._inputs, self._result, self._loss = {}, [], None, None
        self.backend.set_default_dtype(self.dtype)  # models of several dtypes may be open in one process
        self.model.train() if train else self.model.eval()
        self._inputs = [self._given(x) for x in inputs]
        for tensor in self._inputs:
            self.backend.require_gradient(tensor, graded and tensor.is_floating_point())
        copies = [tensor.clone() for tensor in self._inputs]  # the model may change its inputs in place
        with contextlib.nullcontext() if graded else self.backend.no_grad():
            given = list(zip(copies, names or [""] * len(copies), strict=True))
            named = {name: tensor for tensor, name in given if name}
            if self.functions:
                weights = {f"weight {name}": tensor for name, tensor in self.tensors().items()}
                taken = {f"input {i}": tensor for i, tensor in enumerate(copies)}
                self.functions.begin(self._constants() | weights | taken)
            model = dict(self.backend.named_modules(self.model))[path] if path else self.model
            result = model(*(tensor for tensor, name in given if name == ""), **named)
        self._result, self._outputs = result, dict(self.flatten(result))
        return {name: self.backend.to_numpy(tensor) for name, tensor in self._outputs.items()}

    def _constants(self) -> dict[str, Any]:
        """Return the tensors that modules hold beside their parameters and saved buffers, by their origins in a record of calls."""
        return {f"other {path}.{name}".replace(" .", " "): tensor for path, name, tensor in self._held(self.model)}

    def backward(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Run the backward pass from the `gradients` of the last `run`'s outputs; return the inputs' gradients, by their number."""
        for tensor in self.tensors().values():
            self.backend.clear_gradient(tensor)
        wanted = [name for name in gradients if self.backend.needs_gradient(self._outputs[name])]
        if wanted:
            seeds = [self._like(self._outputs[name], gradients[name]) for name in wanted]
            self.backend.backward([self._outputs[name] for name in wanted], seeds)
        return self._input_gradients()

    def _input_gradients(self) -> dict[str, Array]:
        return {f"{i}": self.backend.to_numpy(t.grad) for i, t in enumerate(self._inputs) if t.grad is not None}

    def compute_loss(
        self,
        targets: Sequence[Array],
        rounding: contextlib.AbstractContextManager[Any] | None = None,
        added: LossRounding | None = None,
    ) -> float:
        """Return the user's loss of the outputs of the last `run`, computed in the context `rounding` if the loss allows it.

        What is `added` is added to it, and to its gradients of the outputs.
        """
        self.backend.set_default_dtype(self.dtype)
        self._output_gradients = {}
        for name, tensor in self._outputs.items():
            if self.backend.needs_gradient(tensor):
                self.backend.on_gradient(tensor, functools.partial(self._note_output_gradient, name))
        given = [self._given(x) for x in targets]
        if self.functions:
            self.functions.know({f"target {i}": tensor for i, tensor in enumerate(given)})
            self.functions.enter(LOSS, [])
        try:
            with rounding or contextlib.nullcontext():
                self._loss = self._call_loss(given)
        except Exception:
            if rounding is None:
                raise
            self._loss = self._call_loss(given)  # a moved number may be no probability any more
        if self.functions:
            self.functions.leave(LOSS, [self._loss])
        for name, gradient in (added.gradients if added else {}).items():
            output = self._outputs[name]
            self._loss = self._loss + ((output - output.detach()) * self._like(output, gradient)).sum()
        return float(self.backend.to_numpy(self._loss).reshape(-1)[0]) + (added.value if added else 0.0)

    def measure_rounding(
        self, targets: Sequence[Array], rounding: contextlib.AbstractContextManager[Any]
    ) -> LossRounding:
        """Return how much else the user's loss of the outputs of the last `run` is in the context `rounding`.

        `InputError` if the loss is another number in each call.
        """
        self.backend.set_default_dtype(self.dtype)
        given = [self._given(x) for x in targets]
        wanted = {n: tensor for n, tensor in self._outputs.items() if self.backend.needs_gradient(tensor)}
        found = []
        for context in (contextlib.nullcontext(), contextlib.nullcontext(), rounding):
            with context:
                loss = self._call_loss(given)
                gradients = self.backend.gradients_of(loss, list(wanted.values()))
            arrays = [None if gradient is None else self.backend.to_numpy(gradient) for gradient in gradients]
            found.append((float(self.backend.to_numpy(loss).reshape(-1)[0]), dict(zip(wanted, arrays, strict=True))))
        self.watch.take_gradients()  # hooks of the outputs have seen these gradients
        (value, own), (again, _), (moved_value, moved) = found
        if value != again:
            raise InputError("the loss keeps a state, so its rounding is not known")
        differences = {n: np.asarray(x - moved[n]) for n, x in own.items() if x is not None and moved[n] is not None}
        return LossRounding(moved_value - value, differences)

    def _call_loss(self, targets: Sequence[Tensor]) -> Tensor:
        # A loss may ask for float32, which is the dtype that its user trains in.
        self.watch.begin_loss(self.dtype == "float64")
        return self.program.compute_loss(self._result, targets, self.model)

    def outputs(self) -> list[Tensor]:
        """Return the outputs of the last `run`."""
        return list(self._outputs.values())

    def backward_loss(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run the backward pass of the loss; return the gradients of the inputs by their number, and of the outputs by their place."""
        assert self._loss is not None
        self.program.clear_gradients(list(self.tensors().values()))
        ones = self._like(self._loss, np.ones(tuple(self._loss.shape)))
        self.backend.backward([self._loss], [ones])
        self._loss = None
        return self._input_gradients(), self._output_gradients

    def describe_optimizer(self) -> OptimizerDescription | None:
        """Return the user's optimizer as data, with the model's own names; None where it is not the user's."""
        if self.program.make_optimizer is None:
            return None
        self._start_program()
        return self.program.describe({id(tensor): name for name, tensor in self.tensors().items()})

    def optimizer_state(self, names: Sequence[str]) -> dict[str, dict[str, Array]]:
        """Return the state of the user's optimizer for the named tensors: name -> canonical slot -> array.

        The slot `AVERAGE` has the average of a weight that the program keeps.
        """
        if not self.program.optimizers:
            return {}
        tensors, averages = self.tensors(), self.program.averages()
        return {
            name: self.program.state_of(tensors[name])
            | ({AVERAGE: self.backend.to_numpy(averages[name])} if name in averages else {})
            for name in names
        }

    def step_gradients(self, names: Sequence[str], used: bool) -> dict[str, Array]:
        """Return the gradients before the last step of the user's program, or as its optimizer has `used` them."""
        tensors, found = self.tensors(), self.program.used if used else self.program.before
        return {n: self.backend.to_numpy(found[id(tensors[n])]) for n in names if id(tensors[n]) in found}

    def update(self, kept: Mapping[str, Array]) -> None:
        """Do one step of the optimizer, after the gradients named in `kept` have been multiplied by its 0/1 arrays."""
        tensors = self.tensors()
        for name, factors in kept.items():
            gradient = tensors[name].grad
            self.backend.assign(gradient, gradient * self._like(gradient, factors))
        if self.program.make_optimizer:
            self.backend.set_default_dtype(self.dtype)
            self._start_program()
            self.program.step({name: tensor for name, tensor in tensors.items() if self.backend.is_trained(tensor)})
            return
        if self.optimizer is None:
            trained = [tensor for tensor in tensors.values() if self.backend.is_trained(tensor)]
            groups = [(trained, 1.0, self.settings.weight_decay)]
            self.optimizer = self.backend.make_optimizer(groups, self.settings) if trained else None
        if self.optimizer is not None:
            self.optimizer.step()

    def _start_program(self) -> None:
        if not self.program.optimizers:
            self.backend.set_default_dtype(self.dtype)
            self.program.start(self.model)

    def _note_output_gradient(self, name: str, gradient: Tensor) -> None:
        self._output_gradients[name] = self.backend.to_numpy(gradient)

    def origins(self) -> dict[str, str]:
        """Return the origins of the outputs of the last `run`, and of the loss if it was computed, while `functions` records."""
        loss = {} if self._loss is None else {LOSS: self._loss}
        return self.functions.origins(self._outputs | loss) if self.functions else {}

    def _given(self, array: Array) -> Tensor:
        """An input of the model."""
        tensor = self.backend.from_numpy(np.array(array), self.device)
        rounded = self.rounds and tensor.is_floating_point()
        return self.backend.cast(tensor, self.rounds) if rounded else tensor

    def _like(self, tensor: Tensor, array: Array) -> Tensor:
        """A tensor of `array` in the dtype of another one of its shape."""
        found = tensor.detach().clone()
        self.backend.write(found, array)
        return found
