"""A mistake or another spelling in the training of one side, as other lines of its file, and the comparison of both sides with it.

The files are `torch_impl/training.py` and `paddle_impl/training.py`: the same training, once for each framework, of the small transformer
of `parity.selftest.edited_models` and of a small network of convolutions. They are compared as a user's programs are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from parity.arrays import Array
from parity.data.random_streams import stream
from parity.files.atomic import write_atomically
from parity.modules.layer_kinds import SIDES
from parity.pairs.compare_models import run_pair
from parity.pairs.model_server import ModelService
from parity.pairs.outcome import PairOutcome
from parity.pairs.programs import Program
from parity.pairs.session import Pair
from parity.selftest import edited_models
from parity.selftest.edited_models import ROOT, Lines

IMAGES = 6
"""The number of images of a batch."""

STEPS = 4
"""Training steps: the schedule changes the rate after two."""

IGNORED = 0
"""The label of padding. Paddle 3.3 averages over all labels if the ignored one is negative, PyTorch and Paddle 2.6 over the others."""


@dataclass(frozen=True)
class Subject:
    """What is trained: the model's factory by side, and the names of the loss and of the optimizer's factory."""

    model: Mapping[str, str]
    loss: str
    optimizer: str


TRANSFORMER = Subject(
    {side: f"{ROOT}/{side}_impl/transformer.py:Transformer" for side in SIDES}, "token_loss", "Training"
)
NETWORK = Subject({side: f"{side}_impl.training:make_network" for side in SIDES}, "image_loss", "make_momentum")


@dataclass(frozen=True)
class TrainingEdit:
    """A change of the training of one framework: `torch` and `paddle` hold the replaced texts by framework.

    A mistake must be found first in `phase`, in `step`, with a cause that contains `cause`. An innocent change has no phase.
    """

    name: str
    sentence: str
    subject: Subject
    torch: Lines
    paddle: Lines
    phase: str = ""
    cause: str = ""
    step: int = 1

    @property
    def sides(self) -> list[str]:
        """The frameworks that can have this change."""
        return [side for side in SIDES if self.lines(side)]

    def lines(self, side: str) -> Lines:
        """Return the replaced texts of one framework."""
        return self.torch if side == "torch" else self.paddle


def edited(edit: TrainingEdit, side: str) -> str:
    """Return the file of `side` with the lines of `edit`; `ValueError` unless it contains each of the old texts exactly once."""
    file = ROOT / f"{side}_impl" / "training.py"
    text = file.read_text(encoding="utf-8")
    for old, new in edit.lines(side):
        if text.count(old) != 1:
            raise ValueError(f"{edit.name}: {file} contains {old!r} {text.count(old)} times")
        text = text.replace(old, new)
    return text


def compare_edited(edit: TrainingEdit, side: str, workers: Mapping[str, ModelService], folder: Path) -> PairOutcome:
    """Compare both trainings with `edit` in that of `side`; `folder` takes the edited file. `workers` are those of `edited_models`."""
    file = folder / f"training_{edit.name}_{side}.py"
    write_atomically(file, edited(edit, side).encode())
    place = {one: str(file) if one == side else f"{one}_impl.training" for one in SIDES}
    subject = edit.subject
    loss, optimizer = ({one: f"{place[one]}:{name}" for one in SIDES} for name in (subject.loss, subject.optimizer))
    inputs, labels = batch(subject is TRANSFORMER)
    program = Program(loss, optimizer, targets=[[labels]])
    pair = Pair(subject.model["torch"], subject.model["paddle"], inputs, steps=STEPS, program=program)
    return run_pair(pair, workers)


def complaint(edit: TrainingEdit, outcome: PairOutcome) -> str:
    """Return what is wrong with the outcome of `edit`; empty if nothing is."""
    if not edit.phase:
        return "" if outcome.verdict == "equal" else f"{edit.name} changes nothing; it was {outcome.sentence()}"
    first = outcome.first
    if first is None:
        return f"{edit.name} was not caught"
    if (first.phase, first.step) != (edit.phase, edit.step):
        return f"{edit.name} should be found in {edit.phase} of step {edit.step}; it was {outcome.sentence()}"
    if edit.cause not in (first.cause or ""):
        return f"{edit.name} should be explained by {edit.cause!r}; it was {outcome.sentence()}"
    return ""


@cache
def batch(tokens: bool) -> tuple[Sequence[Array], Array]:
    """Return the inputs of the transformer, or images [IMAGES, 1, 28, 28], and labels. Those of padding are `IGNORED`."""
    random = stream(0, "training of a selftest", str(tokens))
    if tokens:
        inputs = edited_models.inputs("right")
        labels = random.integers(1, edited_models.WORDS, inputs[0].shape)
        return inputs, np.where(inputs[1] > 0, labels, IGNORED)
    return [random.standard_normal((IMAGES, 1, 28, 28))], random.integers(0, 10, IMAGES)
