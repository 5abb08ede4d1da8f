"""Class probabilities of pictures, by a run, a safetensors file or an ONNX file. Every route gets the same pixels."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from parity import data, machine
from parity.arrays import Array
from parity.backend.registry import implementation, installed, make_trainer
from parity.data.batches import preprocess
from parity.errors import InputError
from parity.files.strict_json import parse_json
from parity.inference.outputs import AUTO, PROBABILITIES, SCORES, as_probabilities, softmax, tell_kind
from parity.network.dense import any_size, dense_state, takes_any_size
from parity.network.network import Network
from parity.network.nodes import Shape
from parity.onnx.limited_process import TYPES, LimitedProcess, Value, check_batch
from parity.recipe import presets
from parity.recipe.recipe import Preprocessing, Recipe, fitting, read_recipe
from parity.short_repr import ShortRepr
from parity.training.loop import Diverged
from parity.training.run_folder import about, read_checkpoint
from parity.weights.canonical_state import State

SHIPPED = Path(__file__).parent / "models" / "vgg_mini-small.onnx"
"""A small trained network that comes with the project."""

MOST_IMAGES, MOST_PIXELS, MOST_SIDE = 128, 2**20, 4096
"""Limits: images of a batch, pixels of a batch (large pictures make smaller batches), height and width of a network's input."""

UNKNOWN_ORIGIN = "its training data is not named"

Forward = Callable[[Array], Array]
"""uint8 images [n,C,H,W] -> float64 probabilities [n,K]."""

KINDS = {SCORES: "scores before the softmax", PROBABILITIES: "probabilities"}


@dataclass(frozen=True, repr=False)
class Predictor(ShortRepr):
    """A loaded model: it maps pictures of `size` (C, H, W) to one probability for each of `classes`, which are `named` or numbered.

    `route` is the runtime: paddle, torch or onnxruntime. `network` is the name of the network (None: the file does not name it). `origin`
    tells people what it was trained on. Each of `notes` is a line about something that the file leaves open and that was assumed. `data`
    and `recipe` are data set and recipe of the training (None: the file does not hold them). `outputs` says what the model itself yields,
    `SCORES` or `PROBABILITIES`. `hold_out` is that of its `Experiment`.

    `start` loads the framework. That takes seconds, so pictures are read before. `start_dense` does the same for pictures of any size
    (`parity.network.dense`), and raises `InputError` if that is impossible.
    """

    path: Path
    route: str
    network: str | None
    size: Shape
    classes: tuple[str, ...]
    origin: str
    notes: tuple[str, ...]
    named: bool
    data: str | None
    recipe: Recipe | None
    batch: int
    outputs: str
    start: Callable[[], Forward]
    start_dense: Callable[[], Forward]
    hold_out: int = 0

    def probabilities(self, images: Array, forward: Forward | None = None) -> Array:
        """Return probabilities float64 [N,K] of uint8 images [N,C,H,W], RGB. Raises `Diverged` if they are not finite.

        `forward` comes from `start` or `start_dense` (None: call `start` now). Pictures larger than `size` are computed in smaller batches.
        """
        forward = forward or self.start()
        larger = math.ceil(math.prod(images.shape[2:]) / math.prod(self.size[1:]))
        batch = max(1, self.batch // larger)
        found: Array = np.concatenate(
            [forward(images[first : first + batch]) for first in range(0, len(images), batch)]
        )
        if not np.isfinite(found).all():
            raise Diverged(f"{self.path} yields scores that are not finite: its weights have diverged")
        return found


ONNX = "onnx"
"""What can compute a checkpoint besides the frameworks: onnxruntime."""


def load_predictor(
    path: Path,
    framework: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    outputs: str = AUTO,
) -> Predictor:
    """Load the model in `path`: a run folder, a .safetensors file or a .onnx file. `InputError`, which names the file, if it is not one.

    `framework` (None: the installed one, paddle if both are) computes a checkpoint on the `device`; `ONNX` computes it with onnxruntime. An
    ONNX file is computed by onnxruntime in a process with limits (`parity.onnx.limited_process`). `threads` are CPU threads (None: all
    cores). `outputs` says what an ONNX file yields: `SCORES` or `PROBABILITIES`; `AUTO` decides by its metadata, graph and values.
    """
    suffix = path.suffix.lower()
    threads = threads or machine.cores()
    if suffix == ".onnx":
        if framework not in (None, ONNX):
            raise InputError(f"--framework cannot be given with {path}: onnxruntime computes ONNX files")
        return _onnx(path, threads, outputs)
    if outputs != AUTO:
        raise InputError(f"--outputs cannot be given with {path}: it is for .onnx files")
    if os.path.isfile(path) and suffix != ".safetensors":  # noqa: PTH113 - never raises
        raise InputError(
            f"{path} is not a model: give a run folder, a .safetensors file or a .onnx file (vgg-parity convert makes one of weights)"
        )
    return _checkpoint(path, framework, device, threads)


def _checkpoint(path: Path, framework: str | None, device: str, threads: int) -> Predictor:
    experiment, network, state, _ = read_checkpoint(path)
    size = network.input_shape
    _check_size(path, size)
    preprocessing = experiment.recipe.preprocessing if experiment else None
    names = (experiment.classes or data.CLASSES.get(experiment.data)) if experiment else None
    notes = _notes(path, preprocessing, names)
    pixels = _fitting(path, preprocessing, size)
    classes = _classes(path, names, network.classes)
    origin = f"trained on {experiment.data}" if experiment else UNKNOWN_ORIGIN

    chosen = framework or installed()

    def started(network: Network, state: State, pixels: Preprocessing) -> Forward:
        if chosen == ONNX:
            return _through_onnx(path, network, state, pixels, threads)
        place = implementation(chosen, "runtime", threads).start(device, threads)
        trainer = make_trainer(chosen, network, presets.get_recipe("quick").optimizer, state, device=place)
        return lambda images: softmax(trainer.predict(preprocess(images, pixels)))

    def started_dense() -> Forward:
        made = any_size(network)
        if pixels.permutation is not None:
            raise InputError(f"{path} takes permuted pixels: it cannot take pictures of another size")
        return started(made, dense_state(made, state), replace(pixels, crop=0))

    return Predictor(
        path,
        "onnxruntime" if chosen == ONNX else chosen,
        network.name,
        size,
        classes,
        origin,
        notes,
        names is not None,
        experiment.data if experiment else None,
        experiment.recipe if experiment else None,
        _batch(size),
        SCORES,
        lambda: started(network, state, pixels),
        started_dense,
        experiment.hold_out if experiment else 0,
    )


def _through_onnx(path: Path, network: Network, state: State, pixels: Preprocessing, threads: int) -> Forward:
    """Return a function that computes a checkpoint with ONNX Runtime. The graph is written without a framework."""
    from parity.onnx import graph_writer, operators, sessions

    single = {name: array.astype(np.float32) for name, array in state.items()}
    model = graph_writer.write(network, operators.operators(network, single), any_size=takes_any_size(network))
    opened = sessions.opened(model, threads)
    return lambda images: softmax(opened.run(preprocess(images, pixels)))


def _onnx(path: Path, threads: int, outputs: str) -> Predictor:
    """Load an ONNX file as its metadata describes it. A file without our metadata needs an unambiguous input and output."""
    session = LimitedProcess(path, threads)
    told = session.metadata
    with about(path, "take another copy"):
        network = Network.from_json(told["network"]) if "network" in told else None
        recipe = read_recipe(parse_json(told["recipe"], "recipe")) if "recipe" in told else None
        names = _names(told)
    size, batch, whole = _input(path, session.inputs, network)
    # The hash of the text, not of the network: newer versions may write more fields to its JSON.
    proof = sha256(told.get("network", "").encode()).hexdigest()
    if network and (network.input_shape != size or proof != told.get("network_sha256", proof)):
        raise InputError(f"{path}: its graph does not belong to the network {network.name} in its metadata")
    preprocessing = Preprocessing() if whole else recipe.preprocessing if recipe else None
    values = _forward(session, size, None if whole else _fitting(path, preprocessing, size), batch)
    count = values(np.zeros((1, *size), np.uint8)).shape[1]
    if network and names is None and count != network.classes:
        raise InputError(f"{path} has {count} outputs, but its network {network.name} has {network.classes} classes")
    if not network and count == 1:
        raise InputError(
            f"{path} has one output value for each picture, expected one for each class: give another model"
        )

    def sample() -> Array:
        noise = np.random.default_rng(0).integers(0, 256, (2, 1, *size), np.uint8)
        return np.concatenate([values(picture) for picture in noise])

    kind, note = _kind(session, outputs, network, sample)

    def probabilities(values: Forward) -> Forward:
        return lambda images: as_probabilities(path, values(images), kind)

    def started_dense() -> Forward:
        if all(isinstance(side, int) for side in session.inputs[0].shape[1:]):
            raise InputError(f"{path} takes pictures of one size: export it with --dense for other sizes")
        pixels = None if whole else replace(_fitting(path, preprocessing, size), crop=0)
        return probabilities(_forward(session, size, pixels, batch))

    return Predictor(
        path,
        "onnxruntime",
        network.name if network else None,
        size,
        _classes(path, names, count),
        _origin(told),
        _notes(path, preprocessing, names) + note,
        names is not None,
        told.get("data"),
        recipe,
        batch or _batch(size),
        kind,
        lambda: probabilities(values),
        started_dense,
    )


def _input(path: Path, inputs: list[Value], network: Network | None) -> tuple[Shape, int | None, bool]:
    """Return the size (C, H, W) of the input, its fixed batch size (None: any), and whether it takes uint8 pictures [N,H,W,C].

    If the file takes any height and width, the size is that of its `network`.
    """
    fits = len(inputs) == 1 and inputs[0].type in TYPES and len(inputs[0].shape) == 4
    if fits and network and takes_any_size(network) and "H" in inputs[0].shape:
        _check_size(path, network.input_shape)
        return network.input_shape, None, inputs[0].type == "tensor(uint8)"
    if not fits or not all(isinstance(side, int) for side in inputs[0].shape[1:]):
        found = ", ".join(f"{given.name} {given.type} {given.shape}" for given in inputs) or "nothing"
        raise InputError(
            f"{path} takes {found}, expected one input, float [N,C,H,W] or uint8 [N,H,W,C], with fixed C, H and W"
        )
    batch, *rest = inputs[0].shape
    whole = inputs[0].type == "tensor(uint8)"
    size = (rest[2], *rest[:2]) if whole else tuple(rest)
    if not whole and rest[2] in (1, 3) and rest[0] not in (1, 3):
        raise InputError(
            f"{path} takes float pictures {rest} with channels last, expected [C,H,W]: export it with channels first "
            f"(tf2onnx: --inputs-as-nchw {inputs[0].name})"
        )
    _check_size(path, size)
    if not isinstance(batch, int):
        return size, None, whole
    check_batch(path, batch, size)
    return size, batch, whole


def _forward(session: LimitedProcess, size: Shape, preprocessing: Preprocessing | None, batch: int | None) -> Forward:
    """Return a function that computes the values of the first output for images with `session`.

    If `preprocessing` is None, images are passed as they are, channels last. A fixed `batch` is filled up.
    """

    def forward(images: Array) -> Array:
        fed = preprocess(images, preprocessing) if preprocessing else np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        return session.run(fed, batch, math.prod(images.shape[2:]) / math.prod(size[1:]))

    return forward


def _kind(
    session: LimitedProcess, outputs: str, network: Network | None, sample: Callable[[], Array]
) -> tuple[str, tuple[str, ...]]:
    """Return what the first output holds, `SCORES` or `PROBABILITIES`, with a note if the metadata do not say it.

    `outputs` is what the user says, and `sample` returns values for some pictures. `InputError` if the output holds neither.
    """
    path, name = session.path, session.outputs[0].name
    ours = {"logits": SCORES, "probabilities": PROBABILITIES}
    if outputs == AUTO and network and name in ours:
        return ours[name], ()
    number = f", the first of {len(session.outputs)}," if len(session.outputs) > 1 else ""
    what = f"{path}: its output {name}{number}"
    kind, why = outputs, "--outputs says so"
    if outputs == AUTO:
        try:
            kind, why = tell_kind(name, session.last_operator(), sample)
        except InputError as error:
            raise InputError(
                f"{what} holds neither scores nor probabilities: {error}; pass --outputs scores to apply a softmax to them"
            ) from None
    return kind, (f"{what} is taken as {KINDS[kind]} ({why})",)


def _names(told: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the class names in an ONNX file's metadata, or None."""
    if "classes" not in told:
        return None
    try:
        names = json.loads(told["classes"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"classes JSON: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("classes JSON: expected a list of names")
    return tuple(names)


def _origin(told: Mapping[str, str]) -> str:
    """Describe data set and accuracy in an ONNX file's metadata."""
    try:
        value = float(told["test_accuracy"])
    except (KeyError, ValueError):
        value = math.nan
    accuracy = f", test accuracy {value:.2%}" if 0 <= value <= 1 else ""
    return f"trained on {told['data']}{accuracy}" if "data" in told else UNKNOWN_ORIGIN


def _classes(path: Path, names: tuple[str, ...] | None, count: int) -> tuple[str, ...]:
    if names is not None and len(names) != count:
        raise InputError(
            f"{path} has {count} scores, but names {len(names)} classes ({', '.join(names[:3])}, ...): take another copy"
        )
    return names or tuple(map(str, range(count)))


def _notes(path: Path, preprocessing: Preprocessing | None, names: tuple[str, ...] | None) -> tuple[str, ...]:
    notes = []
    if preprocessing is None:
        notes.append(f"{path} does not say how its pictures are preprocessed: pixel / 255 is used")
    if names is None:
        notes.append(f"{path} does not name its classes: they are numbered")
    return tuple(notes)


def _fitting(path: Path, preprocessing: Preprocessing | None, size: Shape) -> Preprocessing:
    with about(path, "take another copy"):
        return fitting(preprocessing, size[0])


def _check_size(path: Path, size: Shape) -> None:
    if len(size) != 3 or size[0] not in (1, 3) or not all(1 <= side <= MOST_SIDE for side in size[1:]):
        raise InputError(
            f"{path} takes inputs of {size}: pictures have 1 or 3 channels and at most {MOST_SIDE} pixels a side"
        )


def _batch(size: Shape) -> int:
    return max(1, min(MOST_IMAGES, MOST_PIXELS // (size[1] * size[2])))
