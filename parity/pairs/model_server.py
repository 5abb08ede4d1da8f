"""A user's model as a service: one model at a time, in this process, or in a worker process (`parity.pairs.model_worker.ModelWorker`)."""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import random
import re
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import machine
from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.observed_model import dtype_of, tensors_of
from parity.backend.protocol import Backend
from parity.backend.registry import NAMES, implementation, make_backend
from parity.backend.remote import KINDS, Kind, Service, at_caller, fields_kind, serve_service
from parity.backend.user_program import UserProgram
from parity.backend.watched_model import LossRounding, WatchedModel
from parity.errors import InputError, describe_error
from parity.modules.description import layer_in_words
from parity.modules.function_calls import FunctionCalls
from parity.modules.layer_kinds import kind_of
from parity.modules.moved_numbers import MovedNumbers
from parity.modules.recording import EVERYWHERE, Watch
from parity.pairs import factories, replaced_functions
from parity.pairs.fresh_arrays import FreshArray, sample_arrays
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import OptimizerDescription


@dataclass(frozen=True)
class ModelRun:
    """The record of a run: `outputs` by position, and what a `parity.modules.recording.Watch` has recorded.

    `functions` and `layers` are the calls and layers of a `parity.modules.function_calls.FunctionCalls`, if there was one. `origins` are
    those of the outputs. The values that it kept are in `arrays`, by origin.
    """

    outputs: Record
    arrays: Record
    calls: list[dict[str, Any]]
    draws: list[dict[str, Any]]
    random: list[str]
    narrow: list[dict[str, Any]]
    scaled: list[dict[str, Any]]
    functions: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def dropouts(self) -> list[dict[str, Any]]:
        """The dropouts among the draws."""
        return [draw for draw in self.draws if draw["p"] is not None]


class ModelService(Service):
    """Holds a `parity.backend.watched_model.WatchedModel`. Meanwhile, functions of the framework are replaced in the whole process."""

    KINDS = (
        *KINDS,
        fields_kind(ModelRun),
        fields_kind(FreshArray),
        fields_kind(LossRounding),
        Kind(OptimizerDescription, OptimizerDescription.to_json, OptimizerDescription.from_json),
    )

    def __init__(self, framework: str, threads: int | None, device: str) -> None:
        super().__init__(framework, threads, device)
        self.variance = "unbiased"
        self.rounds = False
        self._replaced = replaced_functions.Replaced.of(framework)
        self._held = contextlib.ExitStack()
        self._model: WatchedModel
        self._make: Callable[[], Any] | None = None
        self._fresh: weakref.ref[Any] | None = None

    @at_caller
    def open(
        self,
        factory: Any,
        settings: Optimizer,
        seed: int = 0,
        folder: str | None = None,
        changes: Sequence[tuple[str, str, Any]] = (),
    ) -> dict[str, Any]:
        """Make the model of `factory`; return its `modules`, the `versions` of the libraries, the `dtype` of most of its numbers, the
        paths of its `compiled` modules, and the `recipes` of parameters that have one of their own.

        `factory` is a text, see `parity.pairs.factories`. In this process it may also be a model, which is copied, or a function that
        returns one. `folder` (None: the working directory) is the folder of a text's module. `changes` are set in the model: layer (a
        path, or a class for all of its layers), attribute, value. It keeps its own dtype until `compute_in`.
        """
        where = os.path.abspath(folder or os.getcwd())  # noqa: PTH100, PTH109
        return self.open_in(where, factory, settings, seed, changes)

    def open_in(
        self,
        folder: str,
        factory: Any,
        settings: Optimizer,
        seed: int,
        changes: Sequence[tuple[str, str, Any]],
    ) -> dict[str, Any]:
        """Make the model. A factory's module that imports both frameworks decides which of them comes first."""
        self.release()
        text = factories.text_of(factory)
        found = self._load(factory, folder) if isinstance(factory, str) else factory
        runtime = implementation(self.framework, "runtime", self.threads)
        backend = make_backend(self.framework)
        self._replaced.enter()
        self._held.callback(self._replaced.leave)
        if isinstance(factory, str):
            runtime.start(self.device, self.threads)
            backend.set_default_dtype("float32")
            backend.seed(seed)
        with _told(f"the {self.framework} side: {text} cannot be made"):
            model = found if isinstance(found, backend.MODULE) else found()
            # A function may return a model that exists already.
            is_live = model is factory or (not isinstance(factory, str | type) and factory() is model)
        if not isinstance(model, backend.MODULE):
            wanted = f"{backend.MODULE.__module__}.{backend.MODULE.__qualname__}"
            raise InputError(f"the {self.framework} side: {text} makes a {type(model).__name__}, not a {wanted}")
        self._make = None if is_live else found
        if is_live:
            model = self._copied(model, text, backend)
        if isinstance(factory, str) or backend.device_of(model) == "gpu":
            runtime.be_exact()
        with _told(f"the {self.framework} side: {text} cannot be watched"):
            self._model = WatchedModel(backend, model, settings)
        self._held.callback(self._model.close)
        for layer, attribute, value in changes:
            if not self._model.change(layer, attribute, value):
                raise InputError(
                    f"the {self.framework} model has no layer {layer!r} with an attribute {attribute!r} to set"
                )
        modules = self._model.describe()
        self._replaced.replace([layer for _, layer in backend.named_modules(model)], bool(self._model.compiled))
        library = factories.library_version(factory) if isinstance(factory, str) else {}
        versions = library | runtime.versions() | {"python": sys.version.split()[0], "numpy": np.__version__}
        compiled, dtype = list(self._model.compiled), self._model.own_dtype()
        arguments = _arguments_of(self._model.model.forward)
        recipes = {n: said for n, t in self._model.tensors().items() if (said := backend.own_recipe(t))}
        opened = {"modules": modules, "versions": versions, "compiled": compiled, "dtype": dtype}
        return opened | {"arguments": arguments, "recipes": recipes}

    @at_caller
    def take_program(self, loss: Any, optimizer: Any, folder: str | None = None) -> None:
        """Train with this loss and optimizer from now on. Both are texts, functions of this process, or None: see `take_program_in`."""
        where = os.path.abspath(folder or os.getcwd())  # noqa: PTH100, PTH109
        self.take_program_in(where, loss, optimizer)

    def take_program_in(self, folder: str, loss: Any, optimizer: Any) -> None:
        """Load the user's loss and optimizer; None is the comparison's own.

        A loss is a function (outputs, *targets), a module, a class of one, or a text: the text's call returns it. An optimizer is a
        function of the model, see `parity.backend.user_program.UserProgram`, or a text. The class of an optimizer gets the parameters.
        """
        backend = self._model.backend
        found = None if loss is None else self._load_loss(loss, folder)
        make = None if optimizer is None else self._load_optimizer(optimizer, folder, backend)
        self._model.program = UserProgram(backend, found, make)
        self._replaced.replace(compiled=bool(self._model.compiled))  # in the modules of the program, too

    def _load_loss(self, loss: Any, folder: str) -> Any:
        if isinstance(loss, str):
            called = isinstance(factories.parse(loss)[1], ast.Call)
            loaded = self._load(loss, folder)
            with _told(f"the {self.framework} side: the loss {loss} cannot be made"):
                loss = loaded() if called else loaded
        if isinstance(loss, type):
            loss = loss()
        if not callable(loss):
            raise InputError(
                f"the {self.framework} side: the loss is of type {type(loss).__name__}, not a function (outputs, *targets)"
            )
        return loss

    def _load_optimizer(self, optimizer: Any, folder: str, backend: Backend) -> Any:
        given: list[Any] = []
        named: dict[str, Any] = {}
        if isinstance(optimizer, str):
            with _told(f"the {self.framework} side: {optimizer} cannot be imported"):
                optimizer, given, named = factories.load_call(optimizer, folder)
        if isinstance(optimizer, backend.OPTIMIZER):
            raise InputError(
                f"the {self.framework} side: the optimizer is an object already, and the comparison works on copies of the model: pass a "
                "function that makes it, such as lambda model: AdamW(model.parameters())"
            )
        if not callable(optimizer):
            raise InputError(
                f"the {self.framework} side: the optimizer is of type {type(optimizer).__name__}, not a function of the model"
            )
        if isinstance(optimizer, type) and issubclass(optimizer, backend.OPTIMIZER):
            made = optimizer
            return lambda model: made(*given, **named, **{backend.PARAMETERS: model.parameters()})
        return lambda model: optimizer(model, *given, **named)

    @at_caller
    def sample_fresh(
        self, factory: Any, seed: int, spellings: Sequence[str], folder: str | None = None, closely: bool = False
    ) -> dict[str, FreshArray]:
        """Make the model of `factory` with the framework, numpy and Python seeded with `seed`; return numbers of its arrays, by spelling.

        No model is open then. `factory` and `folder` are those of `open`, but it is no model. The model is made as the user makes it: in
        its own dtype, with nothing replaced. For `closely` see `parity.pairs.fresh_arrays.sample_arrays`.
        """
        where = os.path.abspath(folder or os.getcwd())  # noqa: PTH100, PTH109
        return self.sample_fresh_in(where, factory, seed, spellings, closely)

    def sample_fresh_in(
        self, folder: str, factory: Any, seed: int, spellings: Sequence[str], closely: bool
    ) -> dict[str, FreshArray]:
        """Do what `sample_fresh` says, for a factory's module in `folder`."""
        self.release()
        text = factories.text_of(factory)
        make = self._load(factory, folder) if isinstance(factory, str) else factory
        runtime = implementation(self.framework, "runtime", self.threads)
        backend = make_backend(self.framework)
        if isinstance(make, backend.MODULE):
            raise InputError(
                f"the {self.framework} side: {text} is a model, and the stage init makes fresh ones: pass a class, or a function that "
                "returns a new model"
            )
        self._replaced.enter()
        try:
            if isinstance(factory, str):
                runtime.start(self.device, self.threads)
                backend.set_default_dtype("float32")
            dtype = backend.get_default_dtype()
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - user code draws from this state
            backend.seed(seed)
            with _told(f"the {self.framework} side: {text} cannot be made"):
                model = make()
            backend.set_default_dtype(dtype)
            if self._fresh is not None and self._fresh() is model:
                raise InputError(
                    f"the {self.framework} side: {text} returns the same model each time: the stage init needs a function that makes a new "
                    "one"
                )
            self._fresh = weakref.ref(model)
            tensors = tensors_of(backend, model)
            dtypes = {name: dtype_of(tensor) for name, tensor in tensors.items()}
            return sample_arrays(lambda name: backend.to_numpy(tensors[name]), dtypes, spellings, closely)
        finally:
            self._replaced.leave()

    def compute_in(self, dtype: str) -> str:
        """Compute in `dtype` from now on; return a sentence on how, "" if nothing is special.

        A model of bfloat16 or float16 that mostly holds it stays as it is.
        """
        with _told(f"the {self.framework} model cannot be converted to {dtype}"):
            self._model.compute_in(dtype)
        note: str = implementation(self.framework, "replaced_functions").note_rounding(dtype, self._model.device)
        return note

    def buffers(self, leave_out: Sequence[str]) -> Record:
        """Return the floating-point buffers, also plain attributes that no state dict holds, without those in `leave_out`."""
        found = self._model.buffers().items()
        return {name: self._model.backend.to_numpy(tensor) for name, tensor in found if name not in leave_out}

    def make_exact_buffers(self, names: Sequence[str]) -> Record:
        """Make the model once more, in float64; return these buffers of it. A model that cannot be made like that has none."""
        make, backend = self._make, self._model.backend
        watch = Watch()
        watch.begin({}, 0, record=False, widened=[EVERYWHERE])
        if make is None:
            return {}
        try:
            backend.set_default_dtype("float64")
            with self._replaced.watching(watch):
                tensors = self._model.buffers(make())
        except Exception:  # a user's code may mix dtypes
            return {}
        return {name: backend.to_numpy(tensors[name]) for name in names if name in tensors}

    def set_buffers(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite the named buffers."""
        self._model.set_buffers(arrays)

    def release(self) -> None:
        """Release the model. After the last one of a process, every replaced function and setting is restored."""
        self._held.close()

    def _load(self, factory: str, folder: str) -> Any:
        machine.set_threads(self.threads)
        environment = getattr(machine, f"{self.framework}_environment")()
        os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
        with _told(f"the {self.framework} side: {factory} cannot be imported"):
            return factories.load_model(factory, folder)

    def _copied(self, model: Any, text: str, backend: Backend) -> Any:
        compiled = backend.compiled_modules(model)
        for path, module in backend.named_modules(model):
            replaced = isinstance(vars(module).get("forward"), types.FunctionType)
            if replaced and path not in compiled:  # a copy would still run the original
                raise InputError(
                    f"the {self.framework} side: {text} cannot be copied, since forward of {layer_in_words(path)} was "
                    "replaced: pass a function that returns the model"
                )
        try:
            return backend.copy_model(model)
        except Exception as error:  # a user's model may raise anything
            said = f"the {self.framework} side: {text} cannot be copied ({describe_error(error)})"
            raise InputError(f"{said}: pass its class, or a function that returns it") from error

    def kernel_variance(self) -> str:
        """Return which batch variance the framework's kernel uses for the running one: "biased" or "unbiased"."""
        return make_backend(self.framework).kernel_variance()

    def agree(self, variance: str, rounds: bool) -> None:
        """Use this convention for running variances from now on, where the framework allows it. Batch norms round scalars if `rounds`."""
        self.variance, self.rounds = variance, rounds

    @at_caller
    def draw(self, size: int, p: float) -> Array:
        """Return the factors of a dropout of `size` values."""
        return self._model.watch.draw(size, p)

    @at_caller
    def note_scaled(self, p: float) -> None:
        """Record a dropout that scales in inference."""
        self._model.watch.note_scaled(p)

    def tensors(self, names: Sequence[str]) -> Record:
        """Return tensors by the model's own names."""
        return self._model.state(names)

    def gradients(self, names: Sequence[str]) -> Record:
        """Return gradients of the last backward, for the named tensors that have one."""
        return self._model.gradients(names)

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite the named tensors and start a fresh optimizer."""
        self._model.load(arrays)

    def run(
        self,
        inputs: Sequence[Array],
        train: bool,
        wanted: Sequence[str] = (),
        seed: int = 0,
        keys: Mapping[int, str] | None = None,
        randomness: bool = False,
        path: str = "",
        widened: Sequence[str] = (),
        watched: bool = False,
        names: Sequence[str | None] = (),
        functions: Sequence[str] | None = None,
        uncompiled: bool = False,
        targets: Sequence[Array] | None = None,
    ) -> ModelRun:
        """Run forward.

        `names` are those of `parity.pairs.inputs.Names`. `wanted` are the layers to record, `keys` the streams of random numbers.
        `randomness` records who draws random numbers, and where a narrower dtype appears. `widened` are such places, where the model
        computes in its own dtype. `watched`: functions other than dropout draw from the streams, too. `functions` records the functions
        that the model calls, and the values of the tensors of these origins. `uncompiled`: compiled modules run as they were before, with
        the modules inside recorded. With the `targets` of the user's loss, it is computed and recorded, too.
        """
        self._replaced.running = self
        watch = self._model.watch
        watch.wanted = set(wanted)
        watch.begin(keys or {}, seed, bool(wanted), randomness, widened)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._failing("in forward"))
            stack.enter_context(self._replaced.watching(watch if randomness or widened or watched else None))
            calls = stack.enter_context(self._recording(functions))
            stack.enter_context(self._model.uncompiled() if uncompiled else contextlib.nullcontext())
            outputs = self._model.run(inputs, train, path, names)
            if targets is not None:
                with self._in_loss():
                    self._model.compute_loss(targets)
            origins = self._model.origins()
        seen = (watch.take_arrays(), watch.calls, watch.draws, watch.random, watch.narrow, watch.scaled)
        run = ModelRun(outputs, *seen)
        if calls is None:
            return run
        return replace(
            run, arrays=run.arrays | calls.arrays, functions=calls.calls, layers=calls.layers, origins=origins
        )

    @contextlib.contextmanager
    def _recording(self, wanted: Sequence[str] | None) -> Iterator[FunctionCalls | None]:
        """A context in which functions are recorded, and the values of the `wanted` origins; None: nothing is recorded."""
        backend = self._model.backend
        calls = None
        if wanted is not None:
            hooks = backend.needs_gradient, self._model.watch_gradient
            calls = FunctionCalls(backend.TENSOR, backend.to_numpy, backend.has_values, wanted, *hooks)
        self._model.functions = calls
        try:
            with self._replaced.recording(calls):
                yield calls
        finally:
            self._model.functions = None

    def backward(self, gradients: Mapping[str, Array]) -> Record:
        """Run backward from the gradients of the outputs; return those of inputs (`input/I`) and recorded outputs (`backward/KEY`)."""
        with self._failing("in backward"):
            return self._gradients(self._model.backward(gradients))

    def _gradients(self, inputs: Record) -> Record:
        """The gradients of inputs and of recorded outputs, by the names that `backward` returns."""
        found = {f"input/{i}": array for i, array in inputs.items()}
        return found | {f"backward/{key}": array for key, array in self._model.watch.take_gradients().items()}

    def update(self, kept: Mapping[str, Array]) -> None:
        """Take one optimizer step; the 0/1 arrays of `kept` first multiply the gradients that they name."""
        with self._failing("in the optimizer's step"):
            self._model.update(kept)

    def compute_loss(
        self, targets: Sequence[Array], moved: int | None = None, added: LossRounding | None = None
    ) -> float:
        """Return the user's loss of the outputs of the last `run`.

        With a seed `moved`, in a twin, the outputs and every number that the loss computes move by one ULP. What is `added` is the rounding
        of the other side's loss.
        """
        rounding = None
        if moved is not None:
            own, move = implementation(self.framework, "moved_results"), MovedNumbers(moved)
            for tensor in self._model.outputs():
                own.move_numbers(tensor, move)
            rounding = own.moving_results(move)
        with self._in_loss():
            return self._model.compute_loss(targets, rounding, added)

    def measure_rounding(self, targets: Sequence[Array], seed: int) -> LossRounding:
        """Return how far the user's loss of the outputs of the last `run` moves if every number that it computes moves by one ULP."""
        rounding = implementation(self.framework, "moved_results").moving_results(MovedNumbers(seed))
        with self._in_loss():
            return self._model.measure_rounding(targets, rounding)

    @contextlib.contextmanager
    def _in_loss(self) -> Iterator[None]:
        """A context in which a loss draws from the shared streams, and an exception becomes one line."""
        self._replaced.running = self
        with self._failing("in the loss"), self._replaced.watching(self._model.watch):
            yield

    def backward_loss(self) -> Record:
        """Run backward from the user's loss; return what `backward` returns, and the gradients of the outputs (`output/NAME`)."""
        with self._failing("in backward"):
            inputs, outputs = self._model.backward_loss()
        return self._gradients(inputs) | {f"output/{name}": array for name, array in outputs.items()}

    def describe_optimizer(self) -> OptimizerDescription | None:
        """Return the user's optimizer as data, with the model's own names; None where it is not the user's."""
        with self._failing("in the optimizer"):
            return self._model.describe_optimizer()

    def optimizer_state(self, names: Sequence[str]) -> dict[str, Record]:
        """Return the state of the user's optimizer: the model's own name -> canonical slot -> array."""
        return self._model.optimizer_state(names)

    def step_gradients(self, names: Sequence[str], used: bool) -> Record:
        """Return the gradients before the last step of the user's program, or as its optimizer has `used` them."""
        return self._model.step_gradients(names, used)

    def read_arrays(self, path: Path) -> tuple[Record, list[str]]:
        """Read the float arrays of a state dict file of the framework, and what was taken off; half precision becomes float32."""
        found, notes = implementation(self.framework, "state_dict_files").read_arrays(path)
        return {str(name): array for name, array in found.items() if _is_floats(array)}, notes

    def write_arrays(self, path: Path, arrays: Mapping[str, Array], stored: str | None = None) -> None:
        """Write arrays as a state dict file, in dtype `stored` (None: as they are)."""
        implementation(self.framework, "state_dict_files").write_arrays(path, arrays, stored)

    @contextlib.contextmanager
    def _failing(self, where: str) -> Iterator[None]:
        """Turn an exception of the user's model into one line that names the place."""
        stack = self._model.watch.stack
        stack.clear()
        try:
            yield
        except InputError as error:
            raise InputError(f"the {self.framework} side: {error}") from error
        except Exception as error:
            path = self._model.watch.stack[-1] if self._model.watch.stack else ""
            layer = f" at {layer_in_words(path)}" if where == "in forward" else ""
            if layer and (hidden := self._hidden_layer(path)):
                said = f"{hidden} ({describe_error(error)})"
                raise InputError(f"the {self.framework} model failed {where}{layer}: {said}") from error
            hint = self._limit_of_indices(path) if layer else ""
            if self._model.rounds and (kernel := re.search(r"kernel `(\w+)` is not registered", str(error))):
                raise InputError(
                    f"the {self.framework} model failed {where}{layer}: no kernel of `{kernel[1]}` computes in {self._model.rounds} here: "
                    "pass --dtype float64"
                ) from error
            if (
                not hint
                and self._model.dtype == "float64"
                and ("dtype" in str(error).lower() or "data type" in str(error).lower() or "Float" in str(error))
            ):
                hint = " (the check runs in float64: a constant created in forward may be float32)"
            raise InputError(
                f"the {self.framework} model failed {where}{layer}: {describe_error(error)}{hint}"
            ) from error

    def _hidden_layer(self, path: str) -> str:
        """Return which layer inside the one at `path` is hidden by a method of the framework with its name; "" if there is none."""
        modules = dict(self._model.backend.named_modules(self._model.model))
        inside = [own for own in modules if own and own.rpartition(".")[0] == path]
        hidden = [own for own in inside if hasattr(type(modules[path]), own.rpartition(".")[2])]
        if not hidden:
            return ""
        version = implementation(self.framework, "runtime", self.threads).versions()[self.framework]
        method = f"{self._model.backend.MODULE.__name__}.{hidden[0].rpartition('.')[2]}"
        return f"{NAMES[self.framework]} {version} has a method {method}, which hides the layer {hidden[0]}: give it another name"

    def _limit_of_indices(self, path: str) -> str:
        """Return how to give indices to an embedding, "" for another layer."""
        module = dict(self._model.backend.named_modules(self._model.model)).get(path)
        if module is None:
            return ""
        classes = [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__[:-1]]
        if kind_of(self.framework, classes).name != "Embedding":
            return ""
        rows = module.weight.shape[0]
        return (
            f". It takes whole numbers below {rows}: write this limit behind the shape, as in --input-shape 2,5:{rows}"
        )


def _arguments_of(forward: Any) -> list[str]:
    """Return the names of the arguments of `forward` that can be passed by name; none where it does not say."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _is_floats(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {describe_error(error)}") from error


if __name__ == "__main__":
    serve_service(ModelService, *sys.argv[1:])
