"""The ONNX comparison (stage `onnx`): both frameworks, ONNX Runtime on each export, and onnx.reference compute the same inference.

ONNX Runtime runs what the framework's exporter wrote (`raw`) and the file that this project makes of it (`runtime`).

In float32, every tensor is compared with the float64 tensor of the first framework, within the error that rounding explains
(`parity.compare.noise_model`). Each pair of parties may differ by the sum of both errors. In float64, onnx.reference and both frameworks
must agree within the tolerance of the float64 check.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto

from parity.arrays import Array
from parity.backend.child_process import Record, WorkerFailed
from parity.backend.registry import spoken_name
from parity.backend.worker import Worker
from parity.compare.causes import Cause, ExplainedDifference, failure_cause
from parity.compare.check import SideInputs
from parity.compare.engine import Silent
from parity.compare.noise_model import inference_noise, pooled_noise
from parity.compare.numpy_layers import layer_output
from parity.compare.program import Program, reason_of
from parity.compare.record import inputs_of
from parity.compare.relative_error import Difference, distance
from parity.compare.step_inputs import RunInputs
from parity.compare.tolerances import ONE_STEP, inference_tolerance, pair_tolerance
from parity.data import Dataset
from parity.data.batches import preprocess
from parity.errors import InputError
from parity.network.nodes import GlobalAvgPool
from parity.onnx import graph_reader, sessions
from parity.onnx.exporter_error import error_line
from parity.onnx.exporting import export, extremes
from parity.onnx.graph_reader import NotTheNetwork
from parity.recipe.recipe import Preprocessing
from parity.weights.canonical_state import State

BATCHES = (1, 2, 7, 128)

MANY = 96
"""Images with more pixels per side than this skip the largest batch, which would take tens of gigabytes."""

TRAINED_STEPS = 10
"""Updates of a fresh network before the comparison, so that no running statistic keeps its start value."""


def train_weights(worker: Worker, run_inputs: RunInputs, steps: int = TRAINED_STEPS) -> State:
    """The weights and statistics after `steps` updates on `run_inputs`."""
    program = Program(worker, run_inputs)
    program.start()
    for step_input in itertools.islice(run_inputs.steps(), steps):
        program.step(step_input, ())
    return {name: array for name, array in worker.state().items() if name in run_inputs.network.parameters}


def make_images(dataset: Dataset, preprocessing: Preprocessing) -> dict[str, Array]:
    """Preprocessed images by name, float32 [N,C,H,W]: one batch of each size in `BATCHES`, and the `extremes`.

    Images with more than `MANY` pixels per side have no batch of the largest size.
    """
    images = dataset.train_images[:]
    batches = BATCHES if max(images.shape[2:]) <= MANY else BATCHES[:-1]
    found = {f"{count}": np.resize(images, (count, *images.shape[1:])) for count in batches}
    found["extremes"] = extremes(images.shape[1:])
    return {name: preprocess(pixels, preprocessing) for name, pixels in found.items()}


def compare_through_onnx(
    side_inputs: SideInputs, workers: Mapping[str, Worker], explain: Callable[[str], None]
) -> Iterator[Difference]:
    """The comparisons of the stage `onnx`, on the weights of the check or, if it has none, on fresh weights after a few updates.

    `explain` is called with a line about everything that was left out.
    """
    check = side_inputs.check
    state = train_weights(workers[side_inputs.sides[0]], side_inputs.asked("float32")) if check.state is None else None
    yield from compare_exports(
        workers,
        side_inputs.by_side("float32", state),
        make_images(check.dataset, check.recipe.preprocessing),
        explain,
        side_inputs.asked("float32", state),
    )


def compare_exports(
    workers: Mapping[str, Worker],
    inputs_of: Mapping[str, RunInputs],
    pictures: Mapping[str, Array],
    explain: Callable[[str], None] = Silent,
    asked: RunInputs | None = None,
) -> Iterator[Difference]:
    """Every comparison between the first two `workers` on `pictures`; their float32 `inputs_of` hold trained weights.

    Names are `onnx/LAYER.WHAT`; where only scores are compared, LAYER is the last layer. An export that is wrong in no particular layer is
    `onnx/WHAT`. Tensors of layers come first, because they locate a difference; exports that are not the network come last. `asked` is
    what both sides should have (None: what the first side has). Both workers are started anew.
    """
    try:
        yield from _compare_exports(workers, inputs_of, pictures, explain, asked or next(iter(inputs_of.values())))
    except SidesFailed as error:
        yield from _failed(inputs_of, error.failures)


def _compare_exports(
    workers: Mapping[str, Worker],
    inputs_of: Mapping[str, RunInputs],
    pictures: Mapping[str, Array],
    explain: Callable[[str], None],
    asked: RunInputs,
) -> Iterator[Difference]:
    names = list(workers)[:2]
    reference, network = names[0], inputs_of[names[0]].network
    last, few = network.output, pictures["2"]
    with ThreadPoolExecutor(len(names) + 1) as pool:

        def each(act: Callable[[Worker, RunInputs], Any]) -> dict[str, Any]:
            return _attempt(pool.map, {name: partial(act, workers[name], inputs_of[name]) for name in names})

        eager: dict[str, Record] = each(lambda worker, run_inputs: _eager(worker, run_inputs, pictures))
        exports: dict[str, Export] = each(_export)
        models = {name: e.model for name, e in exports.items() if e.model}
        # onnx.reference is slow, and the workers can compute meanwhile.
        neutral = pool.submit(lambda: {n: sessions.reference_layers(model, few) for n, model in models.items()})
        exact: dict[str, Record] = each(lambda worker, run_inputs: _exact(worker, run_inputs, pictures))
        runtime = pool.submit(_runtime, exports, pictures)
        noise = _noise(workers[reference], inputs_of[reference], eager[reference], pictures)
    ran = runtime.result()
    unread = {name: ran.pop(f"raw({name})") for name, e in exports.items() if e.failure and e.raw}
    parties = {name: eager[name] for name in names} | ran
    agrees = dict.fromkeys(names, True)
    for name in names:
        for difference in compare_with_definition(name, asked, exact[name], few):
            agrees[name] &= difference.equal
            yield difference
    for tensor in sorted(noise, key=lambda name: name.startswith("scores/")):  # layers first: they locate a difference
        yield from _float32(
            tensor, last, {p: record.get(tensor) for p, record in parties.items()}, exact[reference], noise
        )
    for name, layers in neutral.result().items():
        for layer, array in layers.items():
            for side in names:
                error = distance(exact[side].get(f"layers/{layer}"), array)
                yield Difference(f"onnx/{layer}.{side}, reference({name}), float64", error, ONE_STEP["float64"])
    for name, exported in exports.items():
        if exported.failure:
            raw = unread.get(name, {}) if exported.failure.unread and agrees[reference] else {}
            yield _failed_export(name, exported.failure, raw, exact[reference], noise, explain)


def _failed_export(
    name: str,
    failure: NotTheNetwork,
    raw: Record,
    exact: Record,
    noise: Mapping[str, float],
    explain: Callable[[str], None],
) -> Difference:
    """The result for an export that could not be verified: different, unless ONNX Runtime computes the network's scores (`raw`) from it.

    `raw` is empty if its scores do not count.
    """
    place = f"{failure.layer}." if failure.layer else ""
    scores = [tensor for tensor in noise if tensor.startswith("scores/")]
    used = [Difference(tensor, distance(exact[tensor], raw.get(tensor)), noise[tensor]) for tensor in scores]
    worst = max(used, key=lambda difference: difference.used)
    if worst.equal:
        explain(f"the export of {name} computes the network's scores, but its graph is not verified: {failure}")
        return Difference(f"onnx/{place}export of {name}, not verified", worst.error, worst.bound)
    cause = Cause(f"the export of {spoken_name(name)} is wrong: {failure}", wrong=spoken_name(name))
    return ExplainedDifference(f"onnx/{place}export of {name}: {failure}", np.inf, 0.0, cause)


def compare_with_definition(name: str, run_inputs: RunInputs, exact: Record, images: Array) -> Iterator[Difference]:
    """Compare every layer of a side's float64 inference on `images` with the layer's definition in numpy on the same input."""
    network, state = run_inputs.network.inference, run_inputs.state
    record = {f"eval/{layer}": array for layer in network.layers if (array := exact.get(f"layers/{layer}")) is not None}
    for layer, where in network.layers.items():
        own = {n.partition(".")[2]: array for n, array in state.items() if n.partition(".")[0] == layer}
        inputs = inputs_of(network, layer, record, "eval", images.astype(np.float64))
        try:
            wanted = None if inputs is None else layer_output(where, inputs, own, False)
        except ValueError:  # the input has another shape, so an earlier layer is wrong
            return
        error = distance(wanted, record.get(f"eval/{layer}"))
        cause = Cause(f"{spoken_name(name)}'s {layer} is not what the network says", spoken_name(name), generic=True)
        yield ExplainedDifference(f"onnx/{layer}.{name}, float64, numpy", error, ONE_STEP["float64"], cause)


def _float32(
    tensor: str, last: str, found: Mapping[str, Array | None], exact: Record, noise: Mapping[str, float]
) -> Iterator[Difference]:
    """Compare one tensor of all parties that have it: each with the float64 tensor, then pairwise. All parties must have scores."""
    kind, _, name = tensor.partition("/")
    layer = name if kind == "layers" else last
    what = "2 images" if kind == "layers" else f"scores of {name}" + ("" if name == "extremes" else " images")
    # An export lacks the layers that do nothing in inference, and a raw export's values have other names.
    present = {party: array for party, array in found.items() if array is not None or kind == "scores"}
    for party, array in present.items():
        name = f"onnx/{layer}.{party}, {what}"
        shape, wanted = None if array is None else list(array.shape), list(exact[tensor].shape)
        if shape == wanted:
            yield Difference(name, distance(exact[tensor], array), noise[tensor])
        else:
            does = "computes nothing" if shape is None else f"computes an array of shape {shape}"
            yield ExplainedDifference(name, np.inf, 0.0, Cause(f"{party} {does}, expected {wanted}"))
    for (one, a), (other, b) in itertools.combinations(present.items(), 2):
        yield Difference(f"onnx/{layer}.{one}, {other}, {what}", distance(a, b), pair_tolerance(noise[tensor]))


def _predictions(worker: Worker, pictures: Mapping[str, Array]) -> Record:
    """Scores by the pictures' name, and every layer's output for the batch of two images."""
    layers = worker.predict(pictures["2"], record=True)  # first: if it fails, its record says at which layer
    found = {f"scores/{kind}": worker.predict(images)["logits"] for kind, images in pictures.items()}
    return found | {f"layers/{name[5:]}": array for name, array in layers.items() if name.startswith("eval/")}


class SidesFailed(Exception):
    """Some sides failed: `failures` holds their errors by side."""

    def __init__(self, failures: dict[str, WorkerFailed | InputError]) -> None:
        super().__init__("; ".join(map(str, failures.values())))
        self.failures = failures


def _attempt(run: Callable[..., Iterable[Any]], acts: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The results of all `acts`, called by `run` (a `map`); `SidesFailed` if some fail."""

    def attempt(act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (WorkerFailed, InputError) as error:
            if not reason_of(error):
                raise
            return error

    found = dict(zip(acts, run(attempt, acts.values()), strict=True))
    failures = {name: answer for name, answer in found.items() if isinstance(answer, WorkerFailed | InputError)}
    if failures:
        raise SidesFailed(failures)
    return found


def _failed(
    inputs_of: Mapping[str, RunInputs], failures: Mapping[str, WorkerFailed | InputError]
) -> Iterator[Difference]:
    """The difference for a side that fails alone, at the first layer that it did not compute. If both sides fail, the error is raised."""
    names = list(inputs_of)
    network = inputs_of[names[0]].network
    if len(failures) == len(names):
        raise next(iter(failures.values()))
    for name, error in failures.items():
        computed = error.record if isinstance(error, WorkerFailed) else {}
        layer = next((layer for layer in network.inference.layers if f"eval/{layer}" not in computed), "")
        place = f"{layer}." if computed and layer else ""
        cause = failure_cause({name: reason_of(error)}, names)
        yield ExplainedDifference(f"onnx/{place}inference of {name}", np.inf, 0.0, cause)


def _eager(worker: Worker, run_inputs: RunInputs, pictures: Mapping[str, Array]) -> Record:
    Program(worker, run_inputs).start()
    return _predictions(worker, pictures)


def _runtime(exports: Mapping[str, Export], pictures: Mapping[str, Array]) -> dict[str, Record]:
    """What ONNX Runtime computes, by party: layers and scores of the file made of each export, and scores of the export itself."""
    found: dict[str, Record] = {}
    for name, exported in exports.items():
        if exported.model:
            layers = sessions.run_layers(exported.model, pictures["2"])
            found[f"runtime({name})"] = {f"layers/{layer}": array for layer, array in layers.items()}
            found[f"runtime({name})"] |= _scores(exported.model, pictures)
        if exported.raw:
            found[f"raw({name})"] = _scores(exported.raw, pictures)
    return found


def _scores(model: ModelProto | bytes, pictures: Mapping[str, Array]) -> Record:
    """The scores that ONNX Runtime computes, without the pictures on which it cannot run the model."""
    found: Record = {}
    with contextlib.suppress(InputError):
        run = sessions.opened(model).run
        for kind, images in pictures.items():
            with contextlib.suppress(InputError):
                found[f"scores/{kind}"] = run(images)
    return found


@dataclass(frozen=True)
class Export:
    """What a framework's exporter wrote (`raw`), and the `model` made of it or the `failure`."""

    raw: bytes = b""
    model: ModelProto | None = None
    failure: NotTheNetwork | None = None


def _export(worker: Worker, run_inputs: RunInputs) -> Export:
    try:
        raw = worker.export()
    except WorkerFailed as error:
        return Export(failure=NotTheNetwork(f"its exporter failed, {error_line(str(error))}"))
    try:
        return Export(raw, graph_reader.load(export(raw, run_inputs.network, run_inputs.state)))
    except NotTheNetwork as error:
        return Export(raw, failure=error)


def _exact(worker: Worker, run_inputs: RunInputs, pictures: Mapping[str, Array]) -> Record:
    """What the side predicts in float64, from the float32 weights and pictures."""
    wide = {kind: images.astype(np.float64) for kind, images in pictures.items()}
    return _eager(worker, replace(run_inputs, dtype="float64"), wide)


def _noise(worker: Worker, run_inputs: RunInputs, own: Record, pictures: Mapping[str, Array]) -> dict[str, float]:
    def predict(state: State, images: Mapping[str, Array]) -> Record:
        return _eager(worker, replace(run_inputs, state=state), images)

    noise, network = inference_noise(predict, own, run_inputs.state, pictures), run_inputs.network
    outputs = {n.removeprefix("layers/"): a for n, a in own.items() if n.startswith("layers/")}
    layers = pooled_noise(network, {"": pictures["2"], **outputs})
    pooled = {f"layers/{layer}": error for layer, error in layers.items()}
    if any(isinstance(layer.node, GlobalAvgPool) for layer in network.layers.values()):
        Program(worker, run_inputs).start()
        for kind, images in pictures.items():  # how much a mean cancels depends on the picture
            record = worker.predict(images, record=True)
            seen = pooled_noise(network, {"": images, **{n.removeprefix("eval/"): a for n, a in record.items()}})
            pooled[f"scores/{kind}"] = seen[network.output]
    return {name: inference_tolerance(error, pooled.get(name, 0.0)) for name, error in noise.items()}
