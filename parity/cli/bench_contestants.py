"""What the subjects of `vgg-parity bench` share: the images, the processes, and other commands that they run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from parity import data
from parity.arrays import Array
from parity.backend.launch import launch
from parity.backend.worker import Worker
from parity.cli.command import Failed, Options
from parity.errors import InputError
from parity.network.network import Network
from parity.progress import Console

MOST_IMAGES = 5120
"""The most training images that a benchmark makes its batches of."""


def load_images(options: Options, console: Console, network: Network, batch_size: int) -> tuple[Array, Array]:
    """Return the first training images with their labels, for batches of up to `batch_size` images, in the size of the network's input."""
    auto = options.data == "auto"
    found = (
        data.load_auto(options.data_dir, console.say)[0]
        if auto
        else data.load(options.data, options.data_dir, console.say)
    )
    if len(found.classes) > network.classes:
        raise InputError(f"network {network.name} has fewer classes than {found.name}: choose another --data")
    if batch_size > MOST_IMAGES:
        raise InputError(f"--batch-size is at most {MOST_IMAGES}")
    other = found.train_images.shape[1:] != network.input_shape
    count = min(len(found.train_labels), batch_size if other else MOST_IMAGES)
    few = found.limit(count, 1)
    if other:
        console.say(f"{found.name}: {count} images, resized to {network.input_shape} before the clock starts")
        few = few.fitted(network.input_shape)
    return few.train_images[:], few.train_labels


def python_of(options: Options, framework: str) -> Path | None:
    """Return the interpreter that has `framework`; None for this process's own."""
    python: Path | None = {"paddle": options.paddle_python, "torch": options.torch_python}[framework]
    return python


def start_worker(options: Options, framework: str, threads: int) -> Worker:
    """Return a worker process of `framework`."""
    return Worker(framework, python_of(options, framework), threads, options.device)


def run_program(module: str, words: Sequence[str], python: Path | None = None, logs: Iterable[Path] = ()) -> str:
    """Run `module` in a process to its end. Return what it wrote on stdout and into the files `logs`, which then exist.

    `InputError` or `Failed`, with its last message, if it refuses its input or fails.
    """
    with launch(module, words, python, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = (text.decode(errors="replace") for text in process.communicate())
        except BaseException:
            process.terminate()  # a launcher then ends its processes
            raise
    written = "\n".join(path.read_text(errors="replace") for path in logs if path.is_file())
    if process.returncode:
        lines = [line for line in f"{errors}\n{written}".strip().splitlines() if line.strip()] or ["it printed nothing"]
        own = [line for line in lines if line.startswith(("error: ", "failed: "))]
        last = (own or lines)[-1]
        refused = InputError if process.returncode == 2 or last.startswith("error: ") else Failed
        raise refused(last.removeprefix("error: ").removeprefix("failed: "))
    return f"{output}\n{written}"
