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


def speeds(result: dict[str, Any]) -> bytes:
    """A PNG of what `scripts/bench.py` found: a bar of median images/s a contestant, a whisker from the least to the most."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tables = result["tables"]
    widest = max(len(table["speeds"]) for table in tables.values())
    size = (5.2 * len(tables), 1.6 + 0.55 * widest)
    figure, axes = plt.subplots(1, len(tables), figsize=size, layout="constrained", squeeze=False)
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        rows = table["speeds"]
        medians = [row["images_per_second"] for row in rows.values()]
        whiskers = [[row["images_per_second"] - row["least"] for row in rows.values()]]
        whiskers.append([row["most"] - row["images_per_second"] for row in rows.values()])
        labels = [
            contestant if len(contestant) < 30 else f"{contestant[:12]}…{contestant[-16:]}" for contestant in rows
        ]
        drawn = axis.barh(labels, medians, xerr=whiskers, capsize=4, height=0.6, color="#2f6fde", ecolor="#1d2733")
        axis.bar_label(drawn, [f"{median:.1f}" for median in medians], label_type="center", color="white")
        axis.set(title=f"{result['what']}, {name}", xlabel="images/s, median, least to most", xlim=(0, None))
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
    figure.suptitle(f"{result['network']}, {result['threads']} threads, {result['machine']}", fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png")
    plt.close(figure)
    return picture.getvalue()
