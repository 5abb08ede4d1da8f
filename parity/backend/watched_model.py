"""A model of a user that a comparison runs and trains: its calls, its gradients and its updates."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.observed_model import ObservedModel
from parity.backend.protocol import Backend, Module, Stepper, Tensor
from parity.modules.recording import Watch
from parity.recipe.optimizer import Optimizer
from parity.weights.half_precision import HALVES


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
        self.device = backend.device_of(self.model)
        self._outputs: dict[str, Tensor] = {}
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
        self.optimizer = None

    def close(self) -> None:
        """Remove the hooks, and restore the modules' modes and the framework's default dtype. Tensors stay as they are."""
        super().close()
        for module, training in self._training:
            module.training = training
        self.backend.set_default_dtype(self._default_dtype)
        self._training, self._inputs, self._outputs = [], [], {}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite the named tensors, and start a fresh optimizer."""
        tensors = self.tensors()
        for name, array in arrays.items():
            self.backend.write(tensors[name], array)
        self.optimizer = None

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
        self._outputs, self._inputs = {}, []  # they hold everything that the last run kept for its backward pass
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
        self._outputs = dict(self.flatten(result))
        return {name: self.backend.to_numpy(tensor) for name, tensor in self._outputs.items()}

    def _constants(self) -> dict[str, Any]:
        """Return the tensors that modules hold beside their parameters and saved buffers, by their origins in a record of calls."""
        found: dict[str, Any] = {}
        for path, module in self.backend.named_modules(self.model):
            held = {**vars(module), **getattr(module, "_buffers", {})}
            named = {name: value for name, value in held.items() if isinstance(value, self.backend.TENSOR)}
            found |= {f"other {path}.{name}".replace(" .", " "): tensor for name, tensor in named.items()}
        return found

    def backward(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Run the backward pass from the `gradients` of the last `run`'s outputs; return the inputs' gradients, by their number."""
        for tensor in self.tensors().values():
            self.backend.clear_gradient(tensor)
        wanted = [name for name in gradients if self.backend.needs_gradient(self._outputs[name])]
        if wanted:
            seeds = [self._like(self._outputs[name], gradients[name]) for name in wanted]
            self.backend.backward([self._outputs[name] for name in wanted], seeds)
        return {f"{i}": self.backend.to_numpy(t.grad) for i, t in enumerate(self._inputs) if t.grad is not None}

    def update(self, kept: Mapping[str, Array]) -> None:
        """Do one step of the optimizer, after the gradients named in `kept` have been multiplied by its 0/1 arrays."""
        tensors = self.tensors()
        for name, factors in kept.items():
            gradient = tensors[name].grad
            self.backend.assign(gradient, gradient * self._like(gradient, factors))
        if self.optimizer is None:
            trained = [tensor for tensor in tensors.values() if self.backend.is_trained(tensor)]
            groups = [(trained, 1.0, self.settings.weight_decay)]
            self.optimizer = self.backend.make_optimizer(groups, self.settings) if trained else None
        if self.optimizer is not None:
            self.optimizer.step()

    def origins(self) -> dict[str, str]:
        """Return the origins of the outputs of the last `run`, while `functions` records."""
        return self.functions.origins(self._outputs) if self.functions else {}

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
