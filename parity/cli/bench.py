"""`vgg-parity bench`: speed of training and inference in each framework, on the same weights, batches and number of threads."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from parity import machine
from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.backend.worker import Worker
from parity.benchmark.growth import predict
from parity.benchmark.interleaved_timing import Contest, Turn, gigaflops, time_program
from parity.benchmark.other_checkout import name_checkout, time_checkout
from parity.benchmark.variants import CHOICES, Variant, choose_variants, find_ceilings
from parity.cli import bench_accuracy, bench_growth
from parity.cli.bench_accuracy import to_accuracy
from parity.cli.bench_contestants import load_images, start_worker
from parity.cli.bench_growth import measure_growth
from parity.cli.bench_log import describe_conditions, start_log
from parity.cli.command import (
    PATH,
    Options,
    argument,
    attach_result,
    choice,
    command,
    command_line,
    failures,
    option,
    positive,
    refuse,
)
from parity.cli.options import (
    DATA_SETS,
    RECIPES,
    data_dir_option,
    device_option,
    python_options,
    report_option,
    threads_option,
)
from parity.data import fetch
from parity.data.batches import preprocess
from parity.data.folder import PREFIX
from parity.errors import InputError, suggest
from parity.experiments.tables import conditions, counted
from parity.files import generated_block
from parity.files.atomic import write_atomically
from parity.network import articles
from parity.network.network import Network
from parity.progress import Console, bar
from parity.recipe import presets
from parity.recipe.recipe import changed
from parity.report.plots import WHAT, growth, speeds
from parity.training.run_folder import check_writable
from parity.weights.canonical_state import initialise

if TYPE_CHECKING:
    from parity.onnx.runtime_process import RuntimeProcess

NETWORK, RECIPE, BATCH = "vgg16_bn_drop", "article", 128
"""The defaults."""

SUBJECTS = ("train", "infer", "accuracy", "growth")

WARM_UP = 2
"""Steps, or predictions, of every contestant before the first round."""

UNKNOWN = "float32"
"""The dtype whose peak counts for a contestant that does not say its own: another program, or ONNX Runtime."""

SIZES, ROUNDS = "1,128", 5
"""The defaults of --batch-sizes for infer, and of --rounds."""


@command(
    "bench",
    "Time training or inference. Contestants in separate processes take turns, and ratios are taken within a round.\n\n"
    "growth measures time and memory of training and of vgg-parity check as the work grows, and fits slopes.",
    (
        "train",
        "train --network vgg_mini --frameworks torch --rounds 7 --report bench/",
        "train --against 'python scripts/baselines/plain_torch.py --data ~/.cache/vgg-parity/cifar10.safetensors'",
        "train --frameworks paddle --against-checkout ../older",
        "train --frameworks torch --amp off,bf16 --layout channels_first,channels_last --compile off,on",
        "infer --batch-sizes 1,128",
        "accuracy --target 0.6 --epochs 3 --rounds 3",
        "growth --report docs/bench/growth --update docs/performance.md",
        "growth --parts batch,width --network vgg_mini --widths 0.25,0.5,1",
    ),
)
@argument("what", type=choice(SUBJECTS), metavar="|".join(SUBJECTS))
@option(
    "--network",
    metavar="NAME",
    help=f"network to time (default: {NETWORK}; for accuracy {bench_accuracy.NETWORK}; for growth {bench_growth.NETWORK})",
)
@option(
    "--recipe",
    metavar="NAME",
    help=f"{RECIPES}, or a FILE.json (default: {RECIPE}; for accuracy quick)",
)
@option("--target", type=float, default=0.5, help="for accuracy: test accuracy to reach, 0 to 1 (default: 0.5)")
@option("--epochs", type=positive, help="for accuracy: largest number of epochs (default: the recipe's)")
@option("--frameworks", default=None, metavar="LIST", help="some of paddle,torch,onnx (default: all that support it)")
@option(
    "--batch-size",
    type=positive,
    help=f"images per training step (default: {BATCH}; for accuracy the recipe's; for growth {bench_growth.BATCH})",
)
@option(
    "--batch-sizes",
    metavar="LIST",
    help=f"for infer: images per prediction (default: {SIZES}); for growth: per training step "
    f"(default: {bench_growth.LISTS['batch_sizes']})",
)
@option(
    "--parts",
    metavar="LIST",
    help=f"for growth: some of {','.join(bench_growth.PARTS)} (default: all)",
)
@option(
    "--widths",
    metavar="LIST",
    help=f"for growth: widths of the network, in training and in check (default: {bench_growth.LISTS['widths']})",
)
@option(
    "--processes",
    metavar="LIST",
    help=f"for growth: numbers of processes that share the threads (default: {bench_growth.LISTS['processes']})",
)
@option(
    "--check-steps",
    metavar="LIST",
    help=f"for growth: steps of a check (default: {bench_growth.LISTS['check_steps']})",
)
@option(
    "--rounds",
    type=positive,
    help=f"rounds; in a round every contestant has one turn (default: {ROUNDS}; for growth {bench_growth.ROUNDS})",
)
@option("--steps", type=positive, default=3, help="steps, or predictions, per turn (default: 3)")
@option(
    "--against",
    multiple=True,
    metavar="COMMAND",
    help="also time this program, which must print images/s; repeat the option for more",
)
@option(
    "--against-checkout",
    type=PATH,
    multiple=True,
    metavar="DIR",
    help="also time the training of another checkout of this project, such as an older commit; repeat the option for more",
)
@option("--data", default="auto", metavar="NAME", help=f"auto, {DATA_SETS} (default: auto: CIFAR-10 if available)")
@data_dir_option
@threads_option("CPU threads of every contestant")
@device_option(automatic=False)
@option(
    "--amp",
    default="off",
    metavar="LIST",
    help=f"some of {','.join(CHOICES['amp'])}: mixed precision as in vgg-parity train; each is a contestant (default: off)",
)
@option(
    "--layout",
    default="auto",
    metavar="LIST",
    help=f"some of {','.join(CHOICES['layout'])}: memory layout in PyTorch; each is a contestant (default: auto, by the processor)",
)
@option(
    "--compile",
    default="off",
    metavar="LIST",
    help="off, on or both: training by PyTorch as it is, and compiled by torch.compile (default: off)",
)
@report_option("bench.json, bench.md and, except for accuracy, bench.png")
@option(
    "--update",
    type=PATH,
    metavar="PAGE",
    help="for growth, with --report: write the fits into PAGE, between <!-- growth --> and <!-- /growth -->",
)
@python_options
def main(options: Options, console: Console) -> dict[str, Any]:
    """Run a benchmark. Raise `Failed` where a contestant fails."""
    options.rounds = options.rounds or (bench_growth.ROUNDS if options.what == "growth" else ROUNDS)
    _refuse_strangers(options)
    frameworks = _frameworks(options)
    sizes = _sizes(options) if options.what != "growth" else []
    variants = _variants(options, frameworks)
    if options.report:
        check_writable(options.report, "--report")  # before minutes of work
    result = start_log(command_line("bench", options))
    if options.what == "accuracy":
        result |= to_accuracy(options, frameworks)
    elif options.what == "growth":
        result |= measure_growth(options, console, frameworks)
    else:
        result |= _speeds(options, console, frameworks, variants, sizes)
    text = PAGES.get(options.what, markdown)(result)
    for line in text.splitlines():
        console.say(line)
    if options.report:
        with attach_result(result):
            write_atomically(options.report / "bench.json", (json.dumps(result, indent=1) + "\n").encode())
            write_atomically(options.report / "bench.md", text.encode())
            if options.what != "accuracy":
                picture = growth(result, predict) if options.what == "growth" else speeds(result)
                write_atomically(options.report / "bench.png", picture)
        console.say(f"Report: {options.report / 'bench.md'}")
    if options.update:
        folder = Path(os.path.relpath(options.report, options.update.parent)).as_posix()
        generated_block.update(options.update, bench_growth.MARK, bench_growth.block(result, folder))
    return result


PAGES = {"accuracy": bench_accuracy.markdown, "growth": bench_growth.markdown}
"""What has a page of its own -> its writer; `markdown` writes the others."""


def _refuse_strangers(options: Options) -> None:
    """Raise `InputError` for options of growth that another subject has not, and for an --update that cannot be written."""
    if options.what != "growth":
        refuse(options, ("parts", "widths", "processes", "check_steps", "update"), "is for growth: leave it out")
    if options.update:
        if not options.report:
            raise InputError("--update needs --report: the page shows the picture and links the log")
        generated_block.around(options.update, bench_growth.MARK)


def _speeds(
    options: Options, console: Console, frameworks: list[str], variants: dict[str, Variant], sizes: list[int]
) -> dict[str, Any]:
    """Time training or inference. Return images per second of every contestant, and the conditions of the measurement."""
    network = articles.get_network(options.network or NETWORK)
    recipe = changed(presets.get_recipe(options.recipe or RECIPE), batch_size=options.batch_size or BATCH)
    threads = options.threads or machine.cores()
    images, labels = load_images(options, console, network, recipe.batch_size)
    before = machine.load_average()
    console.say(f"{network.name} on {machine.describe()}, {threads} threads each; load average before: {before}")
    with contextlib.ExitStack() as stack, failures():
        workers = {
            name: stack.enter_context(start_worker(options, variant.framework, threads))
            for name, variant in variants.items()
        }
        versions = {name: worker.versions() for name, worker in workers.items()}
        for name, worker in workers.items():
            chosen = variants[name]
            worker.bench(network, recipe, images, labels, chosen.amp, chosen.layout, chosen.compiled)
        first: dict[str, float] = {}
        dtypes = {name: variant.dtype for name, variant in variants.items()}
        optimised: dict[str, int] = {}
        if options.what == "train":
            first |= {name: _first_step(worker, recipe.batch_size) for name, worker in workers.items()}
            ceilings = find_ceilings(variants) if network.multiply_adds else {}
            checkouts = _checkouts(options, variants, threads)
            tables = _train(options, workers, ceilings, checkouts)
            dtypes |= {name: variants[own].dtype for name, own in ceilings.items()}
            dtypes |= {name: variants[name.partition(AT)[0]].dtype for name in checkouts}
            memory = _memory(workers)
        else:
            runtime = None
            if "onnx" in frameworks:
                runtime, optimised = stack.enter_context(_runtime(options, network, threads))
                versions["onnx"] = runtime.versions()
            tables = _infer(options, workers, runtime, sizes, preprocess(images, recipe.preprocessing))
            memory = tables[list(tables)[-1]]["peak_memory_bytes"]
        peaks = {
            dtype: max(
                worker.multiply_peak(dtype)
                for name, worker in workers.items()
                if dtype in (UNKNOWN, variants[name].dtype)
            )
            for dtype in dict.fromkeys([UNKNOWN, *dtypes.values()])
        }
    return {
        "what": options.what,
        "network": network.name,
        "batch_size": recipe.batch_size,
        "threads": threads,
        "device": options.device,
        "amp": options.amp,
        "layout": options.layout,
        "compile": options.compile,
        "versions": versions,
        "optimised_operators": optimised,
        "first_step_seconds": first,
        "matrix_peaks": {dtype: round(peak, 1) for dtype, peak in peaks.items()},
        "peak_memory_bytes": memory,
        "tables": {
            name: _with_arithmetic(table, network, peaks, dtypes, options.what == "train")
            for name, table in tables.items()
        },
    }


def _frameworks(options: Options) -> list[str]:
    known = [*FRAMEWORKS, *(["onnx"] if options.what == "infer" else [])]
    chosen = options.frameworks.split(",") if options.frameworks else known
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(
            f"--frameworks: {unknown[0]!r} is not one of {', '.join(known)} for {options.what}{suggest(unknown[0], known)}"
        )
    if options.against_checkout and options.what != "train":
        raise InputError(f"--against-checkout times training: leave it out of {options.what}")
    commits = [name_checkout(folder) for folder in options.against_checkout]
    if len(commits) > len(set(commits)):
        raise InputError(f"--against-checkout: two folders hold {max(commits, key=commits.count)}: give one of them")
    if options.against and options.what == "infer":
        raise InputError("--against times training: leave it out of infer")
    if len(chosen) > len(set(chosen)):
        raise InputError(f"--frameworks names {max(chosen, key=chosen.count)} twice")
    if options.what == "infer" and "onnx" in chosen and not set(chosen) & set(FRAMEWORKS):
        raise InputError("--frameworks onnx needs paddle or torch as its reference: add one")
    return chosen


def _variants(options: Options, frameworks: list[str]) -> dict[str, Variant]:
    """Return the contestants of the frameworks by name. `InputError` for what a framework, or this benchmark, does not offer."""
    lists = {flag: getattr(options, flag) for flag in CHOICES}
    refused = {"accuracy": tuple(CHOICES), "growth": tuple(CHOICES), "infer": ("compile",)}.get(options.what, ())
    for flag in refused:
        if lists[flag] != CHOICES[flag][0]:
            raise InputError(f"--{flag} is not for {options.what}: leave it out")
    return choose_variants([name for name in frameworks if name in FRAMEWORKS], options.device, **lists)


def _sizes(options: Options) -> list[int]:
    try:
        # Ascending, since memory is the peak so far.
        return sorted({positive(text) for text in (options.batch_sizes or SIZES).split(",")})
    except click.BadParameter:
        raise InputError(f"--batch-sizes {options.batch_sizes!r}: give whole numbers such as 1,128") from None


def _first_step(worker: Worker, count: int) -> float:
    """Return the seconds of the first update, in which a framework compiles, loads and allocates."""
    return round(count / worker.bench_train(1, False), 2)


def _contest(turns: dict[str, Turn], rounds: int, what: str, reference: str) -> dict[str, Any]:
    contest = Contest(turns)
    contest.run(bar(range(rounds), what))
    return {"reference": reference, "speeds": contest.summary(), "ratios": contest.ratios(reference)}


AT = " at "
"""Joins the name of a contestant and that of the checkout that it is of."""


def _checkouts(options: Options, variants: dict[str, Variant], threads: int) -> dict[str, Callable[[str], Turn]]:
    """Return the contestants of other checkouts, each with what makes its turn in a table."""
    given = {
        "network": _from_anywhere(options.network or NETWORK),
        "recipe": _from_anywhere(options.recipe or RECIPE),
        "batch-size": options.batch_size or BATCH,
        "steps": options.steps,
        "threads": threads,
        "device": options.device,
        "data": _from_anywhere(options.data),
        "data-dir": options.data_dir and options.data_dir.absolute(),
        "paddle-python": options.paddle_python and _from_anywhere(options.paddle_python),
        "torch-python": options.torch_python and _from_anywhere(options.torch_python),
    }
    words = [word for flag, value in given.items() if value is not None for word in (f"--{flag}", str(value))]
    return {
        f"{name}{AT}{name_checkout(folder)}": partial(time_checkout, folder, variant, words=words)
        for folder in options.against_checkout
        for name, variant in variants.items()
    }


def _from_anywhere(name: str | Path) -> str:
    """Return `name` so that a process in another folder finds it if it is a file, or a folder of pictures."""
    if str(name).startswith(PREFIX):
        return f"{PREFIX}{fetch.expand(str(name).removeprefix(PREFIX)).absolute()}"
    return str(Path(name).absolute()) if Path(name).is_file() else str(name)


def _train(
    options: Options,
    workers: dict[str, Worker],
    ceilings: dict[str, str],
    checkouts: dict[str, Callable[[str], Turn]],
) -> dict[str, Any]:
    """Time compute only, on one batch that is ready, and end to end, with batches and masks, together with the other programs.

    Both have the `ceilings`, see `find_ceilings`, and the `checkouts`, see `_checkouts`.
    """
    layers: dict[str, Turn] = {
        name: partial(workers[own].bench_layers, options.steps) for name, own in ceilings.items()
    }
    for worker in workers.values():
        worker.bench_train(WARM_UP, True)
    for turn in layers.values():
        turn()
    reference = _reference(workers)
    alone: dict[str, Turn] = {
        name: partial(worker.bench_train, options.steps, False) for name, worker in workers.items()
    }
    whole: dict[str, Turn] = {
        name: partial(worker.bench_train, options.steps, True) for name, worker in workers.items()
    }
    alone |= layers | {name: turn("compute only") for name, turn in checkouts.items()}
    whole |= layers | {name: turn("end to end") for name, turn in checkouts.items()}
    whole |= {_called(line, options.against): time_program(line) for line in options.against}
    return {
        "compute only": _contest(alone, options.rounds, "compute only", reference),
        "end to end": _contest(whole, options.rounds, "end to end", reference),
    }


def _reference(workers: Mapping[str, Worker]) -> str:
    """Return the name of the contestant that is the reference: the first of PyTorch's, or else of all."""
    return next((name for name in workers if name.startswith("torch")), next(iter(workers)))


def _called(line: str, lines: list[str]) -> str:
    """Return a program's name in the tables: the name of its script, unless two programs share it."""
    scripts = {one: next((Path(word).name for word in shlex.split(one) if word.endswith(".py")), one) for one in lines}
    return line if list(scripts.values()).count(scripts[line]) > 1 else scripts[line]


@contextlib.contextmanager
def _runtime(options: Options, network: Network, threads: int) -> Iterator[tuple[RuntimeProcess, dict[str, int]]]:
    """Return ONNX Runtime with `network` and the weights of the frameworks, and how many operators of each type it runs.

    The file is that of `vgg-parity export --fold-batch-norm`.
    """
    from parity.onnx import graph_writer, operators
    from parity.onnx.runtime import optimised_operators
    from parity.onnx.runtime_process import RuntimeProcess

    chain = operators.fold_batch_norms(operators.operators(network, initialise(network, 0)))
    model = graph_writer.write(network, chain)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(model.SerializeToString())
        del model, chain
        with RuntimeProcess(path, threads, options.device) as process:
            yield process, optimised_operators(path, options.device)


def _infer(
    options: Options, workers: dict[str, Worker], runtime: RuntimeProcess | None, sizes: list[int], images: Array
) -> dict[str, Any]:
    """Return by batch size: speeds on the preprocessed `images`, and the peak memory of every contestant until then."""
    tables = {}
    for size in sizes:
        turns: dict[str, Turn] = {
            name: partial(worker.bench_infer, options.steps, size) for name, worker in workers.items()
        }
        if runtime:
            turns["onnx"] = partial(runtime.infer, np.resize(images, (size, *images.shape[1:])), options.steps)
        for turn in turns.values():
            turn()
        what = f"{size} image{'s' if size > 1 else ''} at a time"
        found = _contest(turns, options.rounds, what, _reference(workers))
        memory = _memory({**workers, "onnx": runtime} if runtime else workers)
        tables[what] = found | {"peak_memory_bytes": memory}
    return tables


def _memory(processes: Mapping[str, Worker | RuntimeProcess]) -> dict[str, int]:
    """Return their peak memory so far, in bytes."""
    return {name: process.memory() for name, process in processes.items()}


def _with_arithmetic(
    table: dict[str, Any], network: Network, peaks: dict[str, float], dtypes: dict[str, str], training: bool
) -> dict[str, Any]:
    """Add dtypes, GFLOP/s, and their share of the best matrix multiplication measured here in the same dtype."""
    for name, row in table["speeds"].items():
        row["dtype"] = dtypes.get(name, UNKNOWN)
        row["gigaflops"] = round(gigaflops(network, row["images_per_second"], training), 1)
        row["share_of_peak"] = round(row["gigaflops"] / peaks[row["dtype"]], 3)
    return table


def markdown(result: dict[str, Any]) -> str:
    """Return the result as Markdown: a table for each contest, and the conditions of the measurement."""
    lines = [f"# {WHAT[result['what']]} speed of {result['network']}", ""]
    for name, table in result["tables"].items():
        head, memory = f"{result['what']}, {name}", table.get("peak_memory_bytes", {})
        lines += [
            f"| {head} | images/s, median (min to max) | GFLOP/s | share of matrix peak | ratio to {table['reference']} (95% interval) |"
            + " peak memory so far |" * bool(memory),
            "|---|---:|---:|---:|---:|" + "---:|" * bool(memory),
        ]
        for contestant, row in table["speeds"].items():
            ratio = table["ratios"].get(contestant)
            against = f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "1"
            speed = f"{row['images_per_second']:.1f} ({row['least']:.1f} to {row['most']:.1f})"
            lines.append(
                f"| {contestant} | {speed} | {row['gigaflops']:.0f} | {row['share_of_peak']:.0%} | {against} |"
                + (f" {memory[contestant] / 1e9:.2f} GB |" if memory else "")
            )
        lines.append("")
    rounds = len(next(iter(next(iter(result["tables"].values()))["speeds"].values()))["rounds"])
    optimised = result.get("optimised_operators", {})  # older logs lack it
    memory = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in result["peak_memory_bytes"].items())
    first = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["first_step_seconds"].items())
    peaks = ", ".join(f"{peak:.0f} GFLOP/s in {dtype}" for dtype, peak in result.get("matrix_peaks", {}).items())
    batch = f", batches of {counted(result['batch_size'], 'image')}" if result["what"] == "train" else ""
    facts = {
        "Network": result["network"] + batch,
        "First training step, with compilation and allocation": first,
        **describe_conditions(result, rounds),
        "Matrix peak": peaks,
        "Operators that ONNX Runtime runs": ", ".join(f"{name} {count}" for name, count in optimised.items()),
        "Peak memory of the processes": memory,
        "Mixed precision": "" if result.get("amp", "off") == "off" else result["amp"],
        "Memory layout": "" if result.get("layout", "auto") == "auto" else result["layout"],
        "Compiled": "" if result.get("compile", "off") == "off" else result["compile"],
    }
    return "\n".join([*lines, *conditions(facts, result["command"])]) + "\n"
