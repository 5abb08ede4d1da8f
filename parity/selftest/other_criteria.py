"""The criteria of other tools on a pair of runs: PaDiff, reprod_log and a plain `allclose`.

They are compared with our own verdict on the same planted faults and innocent changes, and decide no verdict. Each criterion is our
reading of the tool's source at the version that it names. It sees only what that tool sees:

- **The tool's own setting.** PaDiff and the forward check give both models the same input and the same weights. So a fault in the data
  or in the initial weights is absent when they run. `Criterion.areas` lists where a tool looks. A change in any other area counts as not
  noticed, because the records also hold later effects of such a fault. `UNCHANGED` is always looked at.
- **The tool's own arithmetic**, in float32, with its tolerances and its gaps: a NaN on one or both sides, a shape that broadcasts.
- **Stand-ins** for what the tool runs and we do not record. Each is named at its criterion and chosen to favour the tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from parity.arrays import Array

Record = Mapping[str, Array]
"""One side's tensors of one step: PHASE/NAME -> array."""

UNCHANGED = "unchanged"
"""The area of a pair without a change, or of an innocent change without an area: judged on the records only."""

MODEL = frozenset({"layers", "bn", "pooling", "backward"})
CARRIED = frozenset({"weights", "conversion"})
TRAINING = frozenset({"loss", "optimizer", "schedule"})
READING = frozenset({"data", "preprocessing"})
UNSEEN = frozenset({"resumption", "threads"})
AREAS = MODEL | CARRIED | TRAINING | READING | UNSEEN | {"init", "dropout", "augmentation"}
"""Where a change can be. `layers` includes a layer that uses its weights wrongly; `weights` and `conversion` are wrong weights. No tool
looks at `UNSEEN`: resumed runs and unwatched runs."""


@dataclass(frozen=True)
class RecordedPair:
    """The records of both sides, `steps` of (reference, other), of a network whose last layer is `output`; `area` is where the change is.

    A record's names: `start/PARAMETER` (canonical state before step 1), `input/images`, `input/labels`, `input/rate`,
    `eval/LAYER` (inference before the update), `forward/LAYER` (training), `loss/loss`, `gradient/PARAMETER`,
    `update/PARAMETER`. A side may lack some.
    """

    steps: Sequence[tuple[Record, Record]]
    output: str
    area: str = UNCHANGED

    def __post_init__(self) -> None:
        if self.area not in AREAS | {UNCHANGED}:
            raise ValueError(f"unknown area {self.area!r}: {UNCHANGED} or one of {', '.join(sorted(AREAS))}")
        if not self.steps:
            raise ValueError("a run without steps")


@dataclass(frozen=True)
class Criterion:
    """A way to compare: its `name`, the `source` that we read, the `areas` that it looks at, and its verdict on records."""

    name: str
    source: str
    areas: frozenset[str]
    differs: Callable[[RecordedPair], bool]

    def judge(self, run: RecordedPair) -> bool:
        """Whether the tool would call the two sides different."""
        return (run.area == UNCHANGED or run.area in self.areas) and self.differs(run)


# ----------------------------------------------------------------------------------------------------------------- PaDiff

ZERO_MEAN = 1e-6
"""|mean(g)| / mean(|g|) up to which a gradient's mean counts as zero by construction (float32 leaves about 1e-8)."""

Mode = Literal["mean", "strict"]


def padiff(name: str, atol: float = 0.0, rtol: float = 1e-7, mode: Mode = "mean") -> Criterion:
    """Return PaDiff's `auto_diff` with these tolerances and nothing else set: no loss, no optimizer, no layer map, one step.

    Source: PaddlePaddle/PaDiff, tag v0.2.0 (fc97153) and 0.3.0 in development (0a86a80, February 2024), which judge
    alike. At 0a86a80:

    - Weights are copied from the first model, Linear transposed, layer by layer in order (weight_init/weights.py);
      running statistics are not. So `weights`, `init` and `conversion` are not looked at, and a different number of
      layers with parameters is a failure.
    - Both get the input they are handed, in the mode they are in, which is training (interfaces/interfaces.py,
      diff_utils.py).
    - Forward starts at the top: if the output of the model agrees, no layer is compared; if not, the verdict is final
      (checker/check_report.py). Shapes are not compared. Only the means of the two tensors are, by
      `numpy.testing.assert_allclose` (utils.py), for which two NaN are equal. The documentation calls this the mean
      of the errors; it is not.
    - Backward is the gradient with respect to the model's input, which has none for an ordinary input: it compares
      nothing.
    - Then every parameter's gradient, by shape and mean (checker/check_params.py). A layer's parameters are paired in
      order and the longer list is cut, so a missing bias is not seen; a gradient on one side only is.
    - Updated weights, optimizers and losses only if they are passed: `loss`, `optimizer` and `schedule` are not
      looked at.
    - Networks with dropout cannot be compared; its documentation (docs/FAQs.md) says to take it out. So `dropout` is
      not looked at.

    Stand-ins: PaDiff differentiates the mean of the output; the records hold the gradient of the recipe's loss.
    Cross-entropy makes the mean of some gradients zero (the last layer's: softmax sums to one), which PaDiff's own
    loss does not, so such means are not compared (`ZERO_MEAN`). The forward pass is the recorded one, whose dropout
    masks are the same on both sides.
    """

    def equal(a: Array, b: Array) -> bool:
        if mode == "mean":
            return bool(np.isclose(a.mean(), b.mean(), rtol=rtol, atol=atol, equal_nan=True))
        return a.shape == b.shape and np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)

    def differs(run: RecordedPair) -> bool:
        reference, other = run.steps[0]
        layers, others = _layers(reference), _layers(other)
        if len(layers) != len(others):
            return True
        name = f"forward/{run.output}"
        if name not in reference or name not in other or not equal(_single(reference, name), _single(other, name)):
            return True
        paired = [pair for ours, theirs in zip(layers, others, strict=True) for pair in zip(ours, theirs, strict=False)]
        return any(gradients_differ(reference, f"gradient/{a}", other, f"gradient/{b}") for a, b in paired)

    def gradients_differ(reference: Record, ours: str, other: Record, theirs: str) -> bool:
        if ours not in reference or theirs not in other:
            return (ours in reference) != (theirs in other)
        a, b = _single(reference, ours), _single(other, theirs)
        if a.shape != b.shape:
            return True
        return not (mode == "mean" and _zero_mean(a) and _zero_mean(b)) and not equal(a, b)

    return Criterion(name, "PaddlePaddle/PaDiff v0.2.0 and 0a86a80", MODEL, differs)


def _layers(record: Record) -> list[list[str]]:
    """Return the trainable parameters of a side, a list for each layer, in the order of construction: weight before bias."""
    layers: dict[str, set[str]] = {}
    for key in record:
        phase, _, name = key.partition("/")
        layer, _, kind = name.rpartition(".")
        if phase in ("start", "gradient") and not name.startswith("optimizer.") and kind not in ("mean", "variance"):
            layers.setdefault(layer, set()).add(name)
    return [sorted(names, key=lambda name: (name.endswith((".bias", ".beta")), name)) for names in layers.values()]


def _zero_mean(gradient: Array) -> bool:
    size = float(np.abs(gradient).mean(dtype=np.float64))
    return size > 0 and abs(float(gradient.mean(dtype=np.float64))) <= ZERO_MEAN * size


# ------------------------------------------------------------------------------------------------------------- reprod_log

LOADER_BATCHES = 5
"""How many batches the workflow's data check logs."""
ROUNDING = 1e-4
"""Relative mean difference up to which two training outputs count as the same: float32 leaves about 1e-6."""


def reprod_log(name: str, source: str, forward: float = 1e-6, threshold: float = 1e-6, losses: int = 2) -> Criterion:
    """Return PaddlePaddle's reproduction workflow: named arrays of both sides, compared by reprod_log's `ReprodDiffHelper`.

    The comparison (WenmuZhou/reprod_log 1.0.1 at 9b15401, compare.py and utils.py; the copy in PaddlePaddle/models is
    the same): the names must be equal; the mean of |a - b| of each array may not exceed `threshold`. This is a mean of
    differences, not a difference of means, but one wrong value in a million counts a millionth. An array that has the
    other's shape reversed is transposed first, other shapes broadcast, and a NaN exceeds nothing, so it passes.

    The logs (PaddlePaddle/models, docs/lwfx/ArticleReproduction_CV.md at 711b1dc; tutorials/mobilenetv3_prod/Step1-5
    at 5cc9ead):

    - `logits` of one batch in inference mode, both sides with the same weights, converted by the porter: so
      `weights`, `conversion` and the inference half of `dropout` are looked at, and `init` is not. The threshold is
      `forward`.
    - The images of five batches of the validation data as read and preprocessed; top-1 and top-5 accuracy of one
      batch.
    - The loss of those logits, then the losses of `losses` training steps (at least two), which stand for gradients,
      optimizer and regularisation: no gradient and no weight is compared. Both models stay in inference mode: no
      dropout, no batch statistics.
    - The learning rate over the schedule.

    Not modelled: the last check, the accuracy of the finished training within 0.15 points, which is all that sees
    `init` and `augmentation`.

    Stand-ins: the images are the training batches, in order (shuffling is credited, which the workflow does not see).
    The losses are those of training mode on successive batches; the workflow repeats one batch. They are left out for
    `dropout`, and where training mode alone differs in step 1 (`ROUNDING`): the workflow never enters it.
    """

    def differs(run: RecordedPair) -> bool:
        if _exceeds(threshold, _reading(run, 0), _reading(run, 1)):
            return True
        if run.area in READING:
            return False  # the other logs come from one made-up batch that both sides share
        logits, first = (f"eval/{run.output}",), run.steps[:1]
        if _exceeds(forward, _logs(first, 0, logits), _logs(first, 1, logits)):
            return True
        names: tuple[str, ...] = () if run.area == "dropout" or _training_only(run) else ("loss/loss",)
        logs = [_logs(run.steps[:losses], side, names) | _logs(run.steps, side, ("input/rate",)) for side in (0, 1)]
        return _exceeds(threshold, *logs)

    return Criterion(name, source, AREAS - UNSEEN - {"init", "augmentation"}, differs)


def _logs(steps: Sequence[tuple[Record, Record]], side: int, names: Sequence[str]) -> dict[str, Array]:
    return {f"{n}_{i}": _single(pair[side], n) for i, pair in enumerate(steps) for n in names if n in pair[side]}


def _reading(run: RecordedPair, side: int) -> dict[str, Array]:
    """Return the logs of the data and metric checks."""
    logs = _logs(run.steps[:LOADER_BATCHES], side, ("input/images",))
    record = run.steps[0][side]
    output = f"eval/{run.output}"
    if output in record and "input/labels" in record:
        labels = record["input/labels"].reshape(-1, 1)
        ranked = np.argsort(-record[output], axis=1, kind="stable")
        for k in (1, 5):
            right = (ranked[:, :k] == labels).any(axis=1)
            logs[f"acc_top{k}"] = np.asarray(100 * right.mean(), np.float32)
    return logs


def _training_only(run: RecordedPair) -> bool:
    """Whether the training outputs of step 1 differ by more than rounding; called if the inference outputs agree."""
    reference, other = run.steps[0]
    name = f"forward/{run.output}"
    if name not in reference or name not in other:
        return False
    a, b = _single(reference, name), _single(other, name)
    return not _mean_difference(a, b) <= ROUNDING * float(np.abs(a).mean())


def _exceeds(threshold: float, first: Record, second: Record) -> bool:
    """Return reprod_log's verdict on two logs: different names are an error there; logs without arrays pass."""
    if set(first) != set(second):
        return True
    return any(_mean_difference(array, second[name]) > threshold for name, array in first.items())


def _mean_difference(a: Array, b: Array) -> float:
    if a.shape != b.shape and a.T.shape == b.shape:
        a = a.T
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.abs(a - b).mean())
    except ValueError:  # shapes that do not broadcast: the tool ends with an error
        return float("inf")


# --------------------------------------------------------------------------------------------------------------- allclose


def allclose(name: str, tolerance: float = 1e-5) -> Criterion:
    """Return `numpy.allclose` on the inference output of one batch with the same weights, as most porting scripts do at the end.

    `atol` and `rtol` are `tolerance` (numpy's default `rtol` is 1e-5, too). The other side's weights are converted by
    the porter, so `weights` and `conversion` are looked at; data and initial weights are shared, and nothing is
    trained. A NaN fails, and so does another shape.
    """

    def differs(run: RecordedPair) -> bool:
        reference, other = run.steps[0]
        output = f"eval/{run.output}"
        if output not in reference or output not in other or reference[output].shape != other[output].shape:
            return True
        return not np.allclose(_single(other, output), _single(reference, output), rtol=tolerance, atol=tolerance)

    return Criterion(name, "common practice; numpy.allclose", MODEL | CARRIED | {"dropout"}, differs)


def _single(record: Record, name: str) -> Array:
    """Return the array in float32, as these tools get it."""
    return np.asarray(record[name], np.float32)


GUIDE = "PaddlePaddle/models docs/lwfx/ArticleReproduction_CV.md 711b1dc; WenmuZhou/reprod_log 1.0.1 (9b15401)"
TUTORIAL = "PaddlePaddle/models tutorials/mobilenetv3_prod/Step1-5 5cc9ead; WenmuZhou/reprod_log 1.0.1 (9b15401)"

PADIFF = padiff("PaDiff, defaults")
"""Tolerance 1e-7 relative and 0 absolute on float32 means: about one ULP, so rounding alone exceeds it."""
PADIFF_README = padiff("PaDiff, as in its README", atol=1e-4)
"""As in its README and its tests: an absolute tolerance of 1e-4 on the means."""
PADIFF_STRICT = padiff("PaDiff, strict", atol=1e-4, mode="strict")
"""As in its tutorial (docs/Tutorial.md): element by element."""
REPROD_LOG = reprod_log("reprod_log, guide", GUIDE)
"""The reproduction guide: every threshold at the library's default, and its minimum of two losses."""
REPROD_LOG_TUTORIAL = reprod_log("reprod_log, tutorial", TUTORIAL, forward=1e-5, losses=3)
"""The guide's worked example: 1e-5 for the logits, three losses."""
ALLCLOSE = allclose("allclose 1e-5")

CRITERIA = (PADIFF, PADIFF_README, PADIFF_STRICT, REPROD_LOG, REPROD_LOG_TUTORIAL, ALLCLOSE)
"""In the order of a table."""
