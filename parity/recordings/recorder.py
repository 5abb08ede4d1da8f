"""`record`: write some steps of anybody's training loop into a folder, while it runs."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import secrets
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.observed_model import ObservedModel, dtype_of
from parity.backend.protocol import Backend, Module, Stepper, Tensor
from parity.backend.registry import FRAMEWORKS, implementation, make_backend
from parity.compare.one_ulp_twin import move_one_ulp
from parity.errors import InputError
from parity.files.atomic import TEMPORARY, write_atomically
from parity.modules.description import is_below
from parity.modules.layer_kinds import KINDS
from parity.modules.recording import Watch
from parity.pairs.compare_models import is_model
from parity.pairs.match_models import ModelDescription
from parity.pairs.replaced_functions import observing
from parity.recipe.optimizer_description import OptimizerDescription
from parity.recordings.recording import (
    DESCRIPTION,
    FORMAT,
    STEP,
    RecordingDescription,
    norms,
    step_name,
)
from parity.recordings.tensor_file import ROOM, TensorWriter
from parity.short_repr import few
from parity.weights.half_precision import HALVES


class RecordedCalls(Watch):
    """A `Watch` whose arrays are already in a file: it holds only their names."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = False  # hooks of the model itself run before its forward pass begins

    def begin_pass(self) -> None:
        """Record the calls that follow. An earlier pass may have ended by an error, within layers."""
        self.recording = True
        self.stack.clear()
        self._open.clear()

    def leave(self, path: str, state: Callable[[], bytes]) -> None:
        """Record that a layer ends. The model itself had begun before the pass did."""
        if self.stack:
            super().leave(path, state)

    def outputs(self, path: str, arrays: Sequence[Any]) -> list[str]:
        """Record a call; return the names of its outputs."""
        inputs = self._open.pop()["given"]
        self.calls.append({"path": path, "inputs": list(inputs), "outputs": list(arrays)})
        return list(arrays)


class RecordedModel(ObservedModel):
    """A model whose layers' tensors go into the file of a step. A tensor that was written and not changed since is not written again."""

    def __init__(self, backend: Backend, model: Module) -> None:
        self.calls = RecordedCalls()
        super().__init__(backend, model, self.calls)
        self.file: TensorWriter | None = None
        self.dtypes: set[str] = set()
        self._written: dict[int, tuple[Tensor, int, str]] = {}
        self._watched: set[int] = set()
        self.scale = 1.0
        """The factor of a loss scaler in the current backward pass."""

    def begin(self, file: TensorWriter) -> None:
        """Begin a step."""
        self.file, self.dtypes = file, set()
        self.watch.begin({}, 0, record=False)

    def begin_pass(self) -> None:
        """Begin a forward pass."""
        self.calls.begin_pass()

    def end_pass(self) -> None:
        """End a forward pass, and let go of its tensors."""
        self.watch.recording = False
        self._written.clear()
        self._watched.clear()

    def take(self, tensor: Tensor) -> str:
        """Write a tensor, and return its name."""
        assert self.file
        changes = self.backend.count_changes(tensor)
        known = self._written.get(id(tensor))
        if known and known[1] == changes:
            return known[2]
        return self.put(f"layer/{len(self.file.header)}", tensor)

    def put(self, name: str, tensor: Tensor) -> str:
        """Write a tensor under a name, and return it."""
        assert self.file
        self._written[id(tensor)] = tensor, self.backend.count_changes(tensor), name
        self.add(name, tensor)
        return name

    def add(self, name: str, tensor: Tensor, scale: float = 1.0) -> None:
        """Write a tensor, divided by `scale`, under a name."""
        assert self.file
        if tensor.is_floating_point():
            self.dtypes.add(dtype_of(tensor))
        array = self.backend.to_numpy(tensor)
        self.file.add(
            name, array if scale == 1 else array / np.float64(scale).astype(np.result_type(array, np.float32))
        )

    def watch_gradient(self, key: str, tensor: Tensor) -> None:
        """Record the gradient of a tensor of the current pass, once: what the model returns may be the output of a layer."""
        if id(tensor) not in self._watched:
            self._watched.add(id(tensor))
            super().watch_gradient(key, tensor)

    def _graded(self, key: str, gradient: Tensor) -> None:
        name = f"backward/{key}"
        if self.file and name not in self.file:
            self.add(name, gradient, self.scale)


class _RootForward:
    """The `forward` of a model during a recording. A copy of the model, or a file of it, gets the model's own one."""

    def __init__(self, root: Module, own: Callable[..., Any] | None, recorded: Callable[..., Any]) -> None:
        self._root, self._own, self._recorded = root, own, recorded

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Run the model's own `forward`, and record it."""
        return self._recorded(*given, **named)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _choose_forward, (self._root, self._own)


def _choose_forward(root: Module, own: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the `forward` of a copy: that of its class, unless the model had one of its own."""
    return own or types.MethodType(type(root).forward, root)


class Recorder:
    """Records the steps of one model and its optimizer in the context `recording`. Its public methods are for the training program."""

    def __init__(
        self,
        model: Module,
        optimizer: Stepper,
        folder: Path,
        steps: int,
        layers: Sequence[str] | None,
        every: int,
        weights: bool,
        twin: int,
        overwrite: bool,
    ) -> None:
        framework = framework_of(model)
        self.framework, self.backend = framework, make_backend(framework)
        model = self.backend.without_process_wrapper(model)
        self.steps, self.every, self.weights, self.twin = steps, every, weights, twin
        self.optimizer = inner_optimizer(optimizer)
        self._root = model
        rank, ranks = self.backend.find_rank()
        self.folder = folder / f"rank{rank}"
        self.id = secrets.token_hex(8)
        self.number, self.recorded, self.batches = 1, 0, 0
        self.losses: list[float] = []
        self.clips: list[tuple[str, float]] = []
        self.clipped: list[list[str]] = []
        self._file: TensorWriter | None = None
        self.described = OptimizerDescription("", "")
        """The optimizer in its last step."""
        self._slots: Sequence[str] = ()
        self._last = 0
        with contextlib.ExitStack() as undo:
            self.model = RecordedModel(self.backend, model)
            undo.callback(self.model.close)
            modules, dtype = self.model.describe(), self.model.own_dtype()
            if twin and dtype in HALVES:
                raise InputError(f"a twin of a model in {dtype} cannot be recorded: convert it to float32 or float64")
            leaves = dict.fromkeys(unit.holder for unit in ModelDescription.of(framework, modules, kinds=KINDS).units)
            self.model.watch.wanted = set(choose_layers(layers, list(leaves)))
            self._room = ROOM + 400 * sum(len(module["arrays"]) for module in modules)
            description = self._describe(rank, ranks, modules, dtype)
            # An older recording is removed after everything that may be refused.
            self._prepare(overwrite)
            write_atomically(self.folder / DESCRIPTION, description.to_json().encode())
            self._stack = undo.pop_all()

    def _describe(self, rank: int, ranks: int, modules: list[dict[str, Any]], dtype: str) -> RecordingDescription:
        model, runtime = self._root, implementation(self.framework, "runtime")
        return RecordingDescription(
            FORMAT,
            self.id,
            self.framework,
            rank,
            ranks,
            f"{type(model).__module__}.{type(model).__qualname__}",
            dtype,
            self.backend.device_of(model),
            self.backend.get_default_dtype(),
            runtime.versions() | {"python": sys.version.split()[0], "numpy": np.__version__},
            runtime.numeric_settings() | {"running variance": self.backend.kernel_variance()},
            str(runtime.initial_seed()),
            runtime.count_threads(),
            sorted(self.model.watch.wanted),
            self.every,
            self.weights,
            self.twin,
            modules,
        )

    def _prepare(self, overwrite: bool) -> None:
        """Make the folder, without an older recording. `InputError` if it cannot be made, or holds what may not be overwritten."""
        try:
            if self.folder.exists() and any(self.folder.iterdir() if self.folder.is_dir() else [self.folder]):
                own = (self.folder / DESCRIPTION).is_file()
                if not own or not overwrite:
                    hint = (
                        "remove it, choose another folder, or pass overwrite=True" if own else "choose another folder"
                    )
                    raise InputError(f"{self.folder} exists already: {hint}")
                for path in [*self.folder.iterdir()]:
                    if STEP.fullmatch(path.name) or path.name == DESCRIPTION or path.name.endswith(TEMPORARY):
                        path.unlink()
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self.folder}: {error.strerror}") from None

    @contextlib.contextmanager
    def recording(self, dropouts: bool = True) -> Iterator[None]:
        """A context in which steps are recorded. Without `dropouts`, who replaces them calls `note_dropout`."""
        try:
            if self.twin:
                self._move_weights()
            self._stack.enter_context(self._watching_forward())
            callbacks = self._before_step, self._after_step, self._skip_step
            self._stack.enter_context(self.backend.around_steps(self.optimizer, *callbacks))
            self._stack.enter_context(self.backend.around_backward(self._before_backward))
            # What is compiled is left as it is.
            dropped = self.note_dropout if dropouts and not self.model.compiled else None
            self._stack.enter_context(observing(self.framework, dropped, self._clips))
            yield
        finally:
            self._finish()

    def keep(self, **tensors: Any) -> None:
        """Record further tensors of the current step by name, such as its labels: `parity.replay` returns them.

        Call it before the optimizer's step. It does nothing in a step that is not recorded.
        """
        if not self.is_wanted:
            return
        file = self._begun()
        for name, tensor in tensors.items():
            place = f"kept/{name}"
            if place in file:
                raise InputError(f"{name} is kept twice in one step: give each tensor its own name")
            array = self.backend.to_numpy(tensor) if isinstance(tensor, self.backend.TENSOR) else np.asarray(tensor)
            try:
                file.add(place, array)
            except ValueError:
                raise InputError(f"cannot keep {name}: it is of dtype {array.dtype}, not a tensor of numbers") from None

    @property
    def is_wanted(self) -> bool:
        """Whether the current step is one of those to record."""
        return self.recorded < self.steps and (self.number - 1) % self.every == 0

    def _finish(self) -> None:
        """Remove all hooks, and what was written of a step that has not ended."""
        self._stack.close()
        self._discard()

    def _discard(self) -> None:
        """Remove what was written of the current step."""
        if self._file:
            self._file.discard()
            self._file = self.model.file = None

    def _move_weights(self) -> None:
        tensors = {name: t for name, t in self.model.tensors().items() if self.backend.is_trained(t)}
        arrays = {name: self.backend.to_numpy(tensor) for name, tensor in tensors.items()}
        moved = move_one_ulp(arrays, self.twin, self.model.own_dtype())
        for name, tensor in tensors.items():
            self.backend.write(tensor, moved[name])

    @contextlib.contextmanager
    def _watching_forward(self) -> Iterator[None]:
        root = self._root
        original, own = root.forward, vars(root).get("forward")

        def recorded(*given: Any, **named: Any) -> Any:
            if self.recorded == self.steps:
                self._stack.close()  # not in a hook of the optimizer, which is one of several that it calls
            if not (self.is_wanted and self.backend.are_gradients_on()):
                return original(*given, **named)
            with self._one_pass(given, named) as outputs:
                result = original(*given, **named)
                outputs(result)
            return result

        root.forward = _RootForward(root, own, recorded)
        try:
            yield
        finally:
            del root.forward
            if own is not None:
                root.forward = own

    @contextlib.contextmanager
    def _one_pass(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Callable[[Any], None]]:
        """Record a forward pass with these arguments. It yields a function that records what the model returns."""
        self._begun()
        batch, model = self.batches, self.model
        self.batches += 1

        def write(what: str, value: Any) -> None:
            for place, tensor in model.flatten(value):
                key = model.put(f"{what}/{batch}/{place}", tensor)
                if what == "output" and self.backend.needs_gradient(tensor):
                    model.watch_gradient(key, tensor)

        # An outer hook of the root has run already; those of the layers inside follow.
        write("input", {**{str(i): one for i, one in enumerate(given)}, **named})
        model.begin_pass()
        try:
            yield lambda result: write("output", result)
        finally:
            model.end_pass()

    def _begun(self) -> TensorWriter:
        """Return the file of the current step, begun if necessary."""
        if self._file is None:
            self._file = TensorWriter(self.folder / step_name(self.number), self._room)
            self.batches, self.losses, self.clips, self.clipped, self._slots = 0, [], [], [], ()
            self.model.begin(self._file)
            if self._last != self.number - 1 or not self._last:
                self._write_weights("start")
                self._slots = self._write_state()
        return self._file

    def _write_state(self) -> Sequence[str]:
        """Write what the optimizer keeps for each parameter, and return the slots of the first one that has any."""
        slots: Sequence[str] = ()
        for name, tensor in self.model.tensors().items():
            if self.backend.is_trained(tensor) and isinstance(self.optimizer, self.backend.OPTIMIZER):
                state = self.backend.optimizer_state(self.optimizer, tensor)
                if not np.any(state.get("updates", state.get("step", 1))):
                    continue  # PyTorch's Adagrad makes its state before the first step
                slots = slots or sorted(state)
                for slot, array in state.items():
                    self._write(f"state/{slot}/{name}", array)
        return slots

    def _write_weights(self, prefix: str) -> None:
        for name, tensor in self.model.tensors().items():
            self._write(f"{prefix}/{name}", self.backend.to_numpy(tensor))

    def _write(self, name: str, array: Array) -> None:
        assert self._file
        self._file.add(name, array if self.weights else norms(array))

    def _before_backward(self, loss: Tensor, scale: float) -> None:
        self.model.scale = scale
        if self.is_wanted and self._file:
            value = self.backend.to_numpy(loss)
            self.losses.append(float(value.sum()) if value.size else 0.0)

    def _clips(self, kind: str, limit: float, parameters: Sequence[Tensor]) -> None:
        if self.is_wanted and self._file:
            self._write_gradients(1.0)
            self.clips.append((kind, limit))
            chosen = {id(parameter) for parameter in parameters}
            self.clipped.append([name for name, tensor in self.model.tensors().items() if id(tensor) in chosen])

    def note_dropout(self, factors: Array, p: float) -> None:
        """Record the factors of a dropout."""
        if not (self._file and self.model.watch.recording):
            return
        watch, name = self.model.watch, f"mask/{len(self.model.watch.draws)}"
        path = watch.stack[-1] if watch.stack else ""
        draw = {"path": path, "size": factors.size, "kind": "uniform", "p": p, "mask": name}
        watch.draws.append(draw | {"factor": float(factors.max()) if factors.size else 0.0})
        self._file.add(name, np.packbits(factors.ravel() != 0))

    def _write_gradients(self, scale: float) -> None:
        """Write the gradients, once in a step: before they are clipped."""
        if self.clips:
            return
        for name, tensor in self.model.tensors().items():
            if self.backend.is_trained(tensor) and tensor.grad is not None:
                array = self.backend.to_numpy(tensor.grad)
                self._write(f"gradient/{name}", array if scale == 1 else array / np.asarray(scale, array.dtype))

    def _before_step(self, scale: float) -> None:
        if self.is_wanted:
            self._begun()
            self._write_gradients(scale)
            names = {id(tensor): name for name, tensor in self.model.tensors().items()}
            self.described = self.backend.describe_optimizer(self.optimizer, names)

    def _after_step(self) -> None:
        if self.is_wanted:
            self._write_weights("update")
            self._close()
            self.recorded += 1
            self._last = self.number
        self.number += 1

    def _skip_step(self) -> None:
        """Remove what was written of a step that a loss scaler skips. It has changed running statistics: the next step begins with them."""
        if self._file:
            self._discard()
            self._last = 0

    def _close(self) -> None:
        assert self._file
        watch = self.model.watch
        fields = {
            "id": self.id,
            "number": self.number,
            "batches": self.batches,
            "losses": self.losses,
            "calls": watch.calls,
            "draws": watch.draws,
            "dtypes": sorted(self.model.dtypes),
            "optimizer": self.described.to_json(),
            "clips": self.clips,
            "clipped": self.clipped,
            "slots": self._slots,
        }
        used = self._file.close({"format": FORMAT, "step": json.dumps(fields)})
        self._room = max(ROOM, used * 5 // 4)
        self._file = self.model.file = None


@contextlib.contextmanager
def record(
    model: Module,
    optimizer: Stepper,
    path: str | Path,
    steps: int = 3,
    *,
    layers: Sequence[str] | None = None,
    every: int = 1,
    weights: bool = True,
    twin: int = 0,
    overwrite: bool = False,
) -> Iterator[Recorder]:
    """Record some steps of a training loop, in PyTorch or Paddle, for `vgg-parity compare` and `parity.replay`.

    The loop stays as it is, and computes the same numbers. A step ends when the optimizer has stepped; with gradient
    accumulation it has several forward passes. Forward passes without gradients are not recorded. In a process group each rank
    writes its own folder. A step is in the folder as soon as it ends. If the program dies later, the step stays.

    Args:
        model: A `torch.nn.Module` or `paddle.nn.Layer`, also in its wrapper for several processes.
        optimizer: The optimizer of the loop. With several optimizers, the one that updates the model.
        path: The folder to write, such as "torch.run". It is made if necessary.
        steps: How many steps to record. After the last one all hooks are removed, and the loop runs as before.
        layers: Which layers' inputs, outputs and gradients to record: paths, or patterns such as "encoder.*". By default all;
            `()` records none, which costs the least time and space. Weights, gradients, loss, inputs and outputs of the
            model are recorded in any case.
        every: Record one in so many steps: with 10, the steps 1, 11, 21, ...
        weights: False leaves weights, their gradients and updates out, for weights that you may not share. Only four norms of
            each are recorded, which show a difference of size, but not of order. Inputs, outputs and layers are recorded:
            leave layers out with `layers=()`.
        twin: A number from 1 makes this run a one-ULP twin: every weight is moved by its last digit before the first step.
            Comparisons of float32 recordings take their tolerances from it. Different numbers make different twins.
        overwrite: Replace a recording that is in the folder.

    Yields:
        What records. Its method `keep(name=tensor)` records further tensors of a step, such as labels.

    Raises:
        InputError: The model or the optimizer cannot be used, the folder holds something already, no layer has the name, or
            the folder cannot be written.

    Examples:
        ```python
        with parity.record(model, optimizer, "torch.run", steps=3) as recorder:
            for images, labels in batches:
                recorder.keep(labels=labels)
                loss = criterion(model(images), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        ```
    """
    if steps < 1 or every < 1 or twin < 0:
        raise InputError(f"steps and every must be at least 1 and twin at least 0, not {steps}, {every} and {twin}")
    if isinstance(layers, str):
        raise InputError(f"layers is the text {layers!r}: pass a list of paths or patterns, such as [{layers!r}]")
    recorder = Recorder(model, optimizer, Path(path), steps, layers, every, weights, twin, overwrite)
    with recorder.recording():
        yield recorder


def framework_of(model: Any) -> str:
    """Return the framework of a model; `InputError` for anything else."""
    for framework in FRAMEWORKS:
        if not isinstance(model, type) and is_model(framework, model):
            return framework
    raise InputError(f"the model is a {type(model).__name__}: pass a torch.nn.Module or a paddle.nn.Layer")


def inner_optimizer(optimizer: Any) -> Any:
    """Return the framework's optimizer inside of wrappers, such as those of libraries for several devices."""
    for name in ("optimizer", "_inner_opt"):
        while hasattr(vars(optimizer).get(name), "step"):
            optimizer = vars(optimizer)[name]
    if not callable(getattr(optimizer, "step", None)):
        raise InputError(
            f"the optimizer is a {type(optimizer).__name__} without a method step: pass the loop's optimizer"
        )
    return optimizer


def choose_layers(patterns: Sequence[str] | None, paths: Sequence[str]) -> list[str]:
    """Return those of `paths` that a pattern names, or that are inside of a layer that it names; None: all."""
    if patterns is None:
        return list(paths)
    found: list[str] = []
    for pattern in patterns:
        chosen = [path for path in paths if is_below(path, pattern) or fnmatch.fnmatchcase(path, pattern)]
        if not chosen:
            raise InputError(f"no layer {pattern!r} to record; the model has {few(paths)}")
        found += chosen
    return list(dict.fromkeys(found))
