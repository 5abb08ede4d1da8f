"""`vgg-parity export`: export a trained or fresh network to ONNX, or to its framework's own inference format."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from parity import data, machine
from parity.arrays import Array
from parity.backend import model_state
from parity.backend.registry import FRAMEWORKS, implementation, installed, make_backend, make_trainer
from parity.backend.trainer import Trainer
from parity.cli.command import (
    PATH,
    Failed,
    Options,
    choice,
    command,
    natural,
    option,
    positive,
    refuse,
)
from parity.cli.options import NETWORKS, threads_option
from parity.compare.relative_error import Difference
from parity.errors import InputError
from parity.files.atomic import temporary_name, write_atomically
from parity.inference.outputs import softmax
from parity.network import articles
from parity.network.dense import any_size, dense_state
from parity.network.network import Network
from parity.network.pattern import INPUT
from parity.onnx.exporter_error import error_line
from parity.progress import Console, Phases
from parity.recipe import presets
from parity.recipe.recipe import Experiment, Preprocessing, fitting
from parity.training.run_folder import RunFolder, about, proportion, read_checkpoint
from parity.version import __version__
from parity.weights.canonical_state import State, initialise


@dataclass(frozen=True)
class Source:
    """What is exported, and what is known about it. `weights` says where they are from."""

    weights: str
    network: Network
    state: State
    preprocessing: Preprocessing
    experiment: Experiment | None = None
    accuracy: float | None = None


@command(
    "export",
    "Export a network to ONNX.\n\n"
    "Before the file is written, its graph is compared with the network, and its outputs with the framework's.",
    (
        "--model runs/RUN --output vgg.onnx",
        "--framework torch --model best.safetensors --preprocess --softmax --output vgg.onnx",
        "--model vgg16_bn_drop --seed 0 --opset 17 --fold-batch-norm --output fresh.onnx",
        "--framework paddle --model runs/RUN --to static --output inference/",
    ),
)
@option(
    "--model",
    required=True,
    metavar="RUN|FILE|NAME",
    help=f"a run folder (its last checkpoint), a .safetensors file, or fresh weights of a network: {NETWORKS}, NAME@WIDTH or a JSON file",
)
@option("--seed", type=natural, help="seed of fresh weights (default: 0)")
@option(
    "--output", type=PATH, required=True, metavar="FILE", help="the .onnx file to write; with --to static, a new folder"
)
@option(
    "--framework",
    type=choice(tuple(FRAMEWORKS)),
    help="the framework that exports (default: the one that is installed, paddle if both are)",
)
@option(
    "--to",
    type=choice(("onnx", "static")),
    default="onnx",
    help="onnx, or static: the framework's own format, by paddle.jit.save or torch.export (default: onnx)",
)
@option("--opset", type=positive, help="version of the ONNX operators, 17 to 21 (default: 18)")
@option(
    "--dense",
    is_flag=True,
    help="write linear layers as convolutions and average the score map, so that the file takes pictures of any height and width",
)
@option("--softmax", is_flag=True, help="output probabilities instead of logits")
@option("--preprocess", is_flag=True, help="take uint8 [N,H,W,C]; the graph preprocesses as the recipe does")
@option(
    "--fold-batch-norm",
    is_flag=True,
    help="fold each batch norm, and each factor of a dropout, into the layer before it",
)
@option("--show-optimised", is_flag=True, help="also list the operators that ONNX Runtime makes of the file")
@threads_option()
def main(options: Options, console: Console) -> dict[str, Any]:
    """Export. `Failed`, with nothing written, if the export differs from the network."""
    started = time.perf_counter()
    _check_flags(options)
    with Phases(4) as phases:
        return _export(options, console, phases, started)


def _export(options: Options, console: Console, phases: Phases, started: float) -> dict[str, Any]:
    phases.begin("reading the weights")
    source = _dense(_source(options)) if options.dense else _source(options)
    framework = options.framework or installed()
    count = options.threads or machine.cores()
    implementation(framework, "runtime", count).start("cpu", count)
    write = _static if options.to == "static" else _onnx
    result = write(options, source, framework, count, console, phases)
    result |= {
        "framework": framework,
        "network": source.network.name,
        "parameters": source.network.trainable_count,
        "output": str(options.output),
        "seconds": round(time.perf_counter() - started, 2),
    }
    console.say(f"Written: {options.output}, checked against {FRAMEWORKS[framework]} in {result['seconds']:.1f} s")
    return result


def _check_flags(options: Options) -> None:
    from parity.onnx.graph_writer import OPSETS

    if options.opset and options.opset not in OPSETS:
        raise InputError(f"--opset {options.opset} is not one of {OPSETS.start} to {OPSETS.stop - 1}")
    if options.seed is not None and not _is_network(options.model):
        raise InputError("--seed is for fresh weights: give it with the name of a network")
    if options.to == "static":
        of_files = ("opset", "dense", "softmax", "preprocess", "fold_batch_norm", "show_optimised")
        refuse(options, of_files, "is for ONNX files: leave it out with --to static")
        if os.path.lexists(options.output):
            raise InputError(f"{options.output} exists: choose another --output")
    elif os.path.isdir(options.output) or options.output.suffix != ".onnx":  # noqa: PTH112 - never raises
        raise InputError(f"--output {options.output} is not the name of an .onnx file")


def _is_network(model: str) -> bool:
    """Return whether --model names a network, not a run folder or a file of weights."""
    if articles.is_network_file(model) or model.startswith(INPUT):
        return True
    return not (os.path.exists(model) or os.sep in model or Path(model).suffix == ".safetensors")  # noqa: PTH110 - never raises


def _source(options: Options) -> Source:
    if _is_network(options.model):
        network = _network(options.model)
        seed = options.seed or 0
        source = _checked(options.model, network, initialise(network, seed))
        return replace(source, weights=f"with fresh weights (seed {seed})")
    path = Path(options.model)
    experiment, network, state, metadata = read_checkpoint(path)
    if os.path.isdir(path):  # noqa: PTH112 - never raises
        accuracy = RunFolder.open(path).accuracy(metadata)
    else:
        with about(path, "take another copy"):
            accuracy = proportion(metadata["test_accuracy"]) if "test_accuracy" in metadata else None
    is_tested = not (experiment and experiment.hold_out)  # else the accuracy is that of training images
    return _checked(path, network, state, experiment, accuracy if is_tested else None)


def _network(name: str) -> Network:
    try:
        return articles.get_network(name)
    except InputError as error:
        raise InputError(f"{name} is not a run folder or a .safetensors file: {error}") from None


def _checked(
    origin: Path | str,
    network: Network,
    state: State,
    experiment: Experiment | None = None,
    accuracy: float | None = None,
) -> Source:
    """Return the source. `InputError`, which names its `origin`, if it cannot be exported."""
    if len(network.input_shape) != 3:
        raise InputError(
            f"{origin} takes inputs {network.input_shape}: only networks that take pictures (C, H, W) can be exported"
        )
    for name, array in state.items():
        if array.dtype != np.float32:
            raise InputError(f"{origin}: {name} holds {array.dtype}, but an export needs float32 weights")
        if not np.isfinite(array).all():
            raise InputError(f"{origin}: {name} holds numbers that are not finite: the weights have diverged")
    with about(Path(origin), "correct its recipe"):
        preprocessing = fitting(experiment.recipe.preprocessing if experiment else None, network.input_shape[0])
    return Source(f"of {origin}", network, state, preprocessing, experiment, accuracy)


def _dense(source: Source) -> Source:
    """Return the same weights in a network that takes pictures of any size. `InputError` if that is impossible."""
    network = any_size(source.network)
    if source.preprocessing.permutation is not None:
        raise InputError(f"the recipe of {source.network.name} permutes the pixels of one size: leave --dense out")
    whole = replace(source.preprocessing, crop=0)
    return replace(source, network=network, state=dense_state(network, source.state), preprocessing=whole)


def _trainer(framework: str, network: Network, state: State) -> Trainer:
    """Return a trainer for inference: the optimizer does not matter."""
    return make_trainer(framework, network, presets.get_recipe("article").optimizer, state)


def _predict(framework: str, network: Network) -> Callable[[State, Array], Array]:
    """Return the prediction function of `framework`. It raises `InputError` if finite weights lead to scores that are not finite."""

    def predict(state: State, images: Array) -> Array:
        scores = _trainer(framework, network, state).predict(images)
        if not np.isfinite(scores).all():
            raise InputError(f"{network.name} yields scores that are not finite: the weights have diverged")
        return scores

    return predict


def _outputs(framework: str, network: Network) -> Callable[[State, Array], dict[str, Array]]:
    """Return the function of `framework` that computes the output of every layer in inference."""

    def outputs(state: State, images: Array) -> dict[str, Array]:
        record: dict[str, Array] = {}
        _trainer(framework, network, state).predict(images, record)
        return {name.removeprefix("eval/"): array for name, array in record.items()}

    return outputs


Exported = TypeVar("Exported")


def _exported(framework: str, export: Callable[..., Exported], *arguments: Any) -> Exported:
    """Return what `export`, of `framework`, makes. `Failed`, in one line, if it raises any error."""
    try:
        return export(*arguments)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        told = error_line(str(error) or type(error).__name__)
        raise Failed(f"{FRAMEWORKS[framework]}'s exporter failed: {told}") from None


def _onnx(
    options: Options, source: Source, framework: str, threads: int, console: Console, phases: Phases
) -> dict[str, Any]:
    from parity.data.batches import preprocess
    from parity.onnx import sessions
    from parity.onnx.exporting import compared, export, scores
    from parity.onnx.graph_reader import NotTheNetwork, load
    from parity.onnx.graph_writer import DEFAULT_OPSET
    from parity.onnx.runtime import optimised_operators, version

    phases.begin("exporting")
    model = model_state.build(make_backend(framework), source.network, source.state)
    raw = _exported(framework, implementation(framework, "export").to_onnx, model)
    phases.begin("reading the export back")
    try:
        kept = export(
            raw,
            source.network,
            source.state,
            options.fold_batch_norm,
            opset=options.opset or DEFAULT_OPSET,
            softmax=options.softmax,
            preprocessing=source.preprocessing if options.preprocess else None,
            metadata=_metadata(source, framework),
            any_size=options.dense,
        )
    except NotTheNetwork as error:
        raise Failed(
            f"{FRAMEWORKS[framework]}'s export of {source.network.name} differs from the network: {error}"
        ) from None
    phases.begin("comparing with ONNX Runtime")
    predict = _predict(framework, source.network)
    scaled = (lambda state, images: softmax(predict(state, images))) if options.softmax else predict

    def unwritten(pictures: Array) -> Array:
        logits = sessions.run(raw, preprocess(pictures, source.preprocessing), threads)
        return softmax(logits) if options.softmax else logits

    runs = {
        "ONNX Runtime on the exporter's own graph": unwritten,
        "ONNX Runtime": lambda pictures: scores(kept, pictures, source.preprocessing, threads),
    }
    outputs = _outputs(framework, source.network)
    given = (source.state, source.preprocessing, outputs, options.softmax)
    differences = compared(runs, scaled, source.network, *given)
    if options.dense:
        channels, height, width = source.network.input_shape
        other = replace(source.network, input_shape=(channels, height + 33, width + 17))
        runs = {f"ONNX Runtime at {height + 33} by {width + 17}": runs["ONNX Runtime"]}
        differences += compared(runs, scaled, other, *given)
    _must_be_equal(differences, framework)
    write_atomically(options.output, kept)
    made = load(kept)
    kinds = dict(Counter(node.op_type for node in made.graph.node).most_common())
    for line in (_about(source, framework), *_table(source, kinds, len(kept))):
        console.say(line)
    optimised = optimised_operators(kept) if options.show_optimised else {}
    if optimised:
        console.say(f"ONNX Runtime {version()} runs:")
        for line in _rows({kind: f"{count:,}" for kind, count in optimised.items()}):
            console.say(line)
    return {
        "format": "onnx",
        "opset": made.opset_import[0].version,
        "ir_version": made.ir_version,
        "nodes": kinds,
        **({"optimised_operators": optimised} if optimised else {}),
        "bytes": len(kept),
        "sha256": hashlib.sha256(kept).hexdigest(),
        "check": {"error": differences[-1].error, "bound": differences[-1].bound},
        "test_accuracy": source.accuracy,
    }


def _static(
    options: Options, source: Source, framework: str, threads: int, console: Console, phases: Phases
) -> dict[str, Any]:
    from parity.data.batches import preprocess
    from parity.onnx.exporting import compared

    phases.begin("exporting")
    exporter = implementation(framework, "export")
    model = model_state.build(make_backend(framework), source.network, source.state)
    with _new_folder(options.output) as scratch:
        files = _exported(framework, exporter.to_static, model, scratch)

        def run(pictures: Array) -> Array:
            scores: Array = _exported(
                framework, exporter.from_static, scratch, preprocess(pictures, source.preprocessing)
            )
            return scores

        phases.begin("comparing with the static program")
        differences = compared(
            {"the static program": run},
            _predict(framework, source.network),
            source.network,
            source.state,
            source.preprocessing,
            _outputs(framework, source.network),
        )
        _must_be_equal(differences, framework)
        sizes = {path.name: path.stat().st_size for path in files}
    console.say(_about(source, framework))
    for name, size in sizes.items():
        console.say(f"  {name:<24} {size:>12,} bytes")
    return {
        "format": "static",
        "files": sizes,
        "bytes": sum(sizes.values()),
        "check": {"error": differences[-1].error, "bound": differences[-1].bound},
    }


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill. It is renamed to `path` at the end, and removed after an error.

    `InputError` if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = temporary_name(path)
        scratch.mkdir()  # with the mode that the umask leaves
        try:
            yield scratch
            scratch.rename(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def _must_be_equal(differences: list[Difference], framework: str) -> None:
    for difference in differences:
        if not difference.equal:
            raise Failed(
                f"{difference.name} and {FRAMEWORKS[framework]} differ by {difference.error:.2e} "
                f"(tolerance {difference.bound:.2e}): the export is not kept"
            )


def _metadata(source: Source, framework: str) -> dict[str, str]:
    """Return the metadata of the file."""
    versions = implementation(framework, "runtime").versions() | {"vgg-parity": __version__}
    experiment = source.experiment
    known = {
        "network": source.network.to_json(),
        "network_sha256": source.network.digest,
        "framework": framework,
        "versions": json.dumps(versions),
    }
    if experiment:
        known |= {"recipe": json.dumps(asdict(experiment.recipe)), "data": experiment.data}
        if names := experiment.classes or data.CLASSES.get(experiment.data):
            known["classes"] = json.dumps(names)
    return known | ({} if source.accuracy is None else {"test_accuracy": repr(source.accuracy)})


def _about(source: Source, framework: str) -> str:
    """Say in one line what was exported, and by which framework."""
    version = implementation(framework, "runtime").versions()[framework]
    return f"{source.network.name} {source.weights}, exported by {FRAMEWORKS[framework]} {version}:"


def _table(source: Source, kinds: Mapping[str, int], size: int) -> list[str]:
    network = source.network
    rows = {kind: f"{count:,}" for kind, count in kinds.items()}
    rows |= {"parameters": f"{network.trainable_count:,}", "statistics": f"{network.statistics_count:,}"}
    rows |= {"multiply-adds per image": f"{network.multiply_adds:,}", "file": f"{size:,} bytes"}
    return _rows(rows)


def _rows(rows: Mapping[str, str]) -> list[str]:
    """Return lines of two columns."""
    return [f"  {name:<24} {value:>20}" for name, value in rows.items()]
