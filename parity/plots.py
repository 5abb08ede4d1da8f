"""Pictures and TensorBoard events of a run, from its metrics.jsonl."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity.errors import InputError
from parity.run import Run
from parity.weights import write_atomically


def curves(run: Run) -> None:
    """Writes curves.png: cost and error of training and test against passes, and the learning rate. Nothing before the first line."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    batches, passes = run.metrics("batch"), run.metrics("pass")
    if not batches:
        return
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, key, title in zip(
        axes, ("cost", "error"), ("cross-entropy (nats)", "classification error"), strict=False
    ):
        axis.plot(
            [b["passes"] for b in batches],
            [b[f"mean_{key}"] for b in batches],
            label="training, mean since the pass began",
            alpha=0.6,
        )
        axis.plot([p["passes"] for p in passes], [p[f"test_{key}"] for p in passes], "o-", label="test")
        axis.set(title=title, xlabel="passes", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    axes[2].plot([b["passes"] for b in batches], [b["rate"] for b in batches], ".-")
    axes[2].set(title="learning rate", xlabel="passes", ylim=(0, None))
    axes[2].grid(alpha=0.3)
    experiment = run.experiment
    final = f", test accuracy {passes[-1]['test_accuracy']:.2%}" if passes else ""
    figure.suptitle(
        f"{experiment.network.name}, recipe {experiment.recipe.name}, {experiment.data}, seed {experiment.seed}{final}"
    )
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    plt.close(figure)
    write_atomically(run.folder / "curves.png", picture.getvalue())


def check_tensorboard() -> None:
    """`InputError` where the package that `tensorboard` needs is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError('--tensorboard needs the package: pip install "vgg-parity[tensorboard]"')


SCALARS = {
    "batch": ("train", ("cost", "error", "rate")),
    "pass": ("test", ("test_cost", "test_error", "test_accuracy")),
}


def tensorboard(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A function that writes a line of metrics.jsonl as TensorBoard scalars into `folder`: `train/cost`, `test/accuracy`, ...

    `InputError` where the package is missing.
    """
    check_tensorboard()
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))

    def write(line: dict[str, Any]) -> None:
        group, keys = SCALARS[line["event"]]
        values = [Summary.Value(tag=f"{group}/{key.removeprefix('test_')}", simple_value=line[key]) for key in keys]
        writer.add_event(Event(step=line["update"], wall_time=time.time(), summary=Summary(value=values)))
        writer.flush()

    return write
