"""A mistake or another spelling in the training of one side, and the comparison of both sides with it.

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
from parity.modules.layer_kinds import SIDES
from parity.pairs.compare_models import run_pair
from parity.pairs.match_models import ModelsDiffer
from parity.pairs.model_server import ModelService
from parity.pairs.outcome import PairOutcome
from parity.pairs.programs import Program
from parity.pairs.session import Pair
from parity.selftest import edited_models
from parity.selftest.file_edit import ROOT, FileEdit

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


TRANSFORMER = Subject(edited_models.TRANSFORMER, "token_loss", "Training")
NETWORK = Subject({side: f"{side}_impl.training:make_network" for side in SIDES}, "image_loss", "make_momentum")


@dataclass(frozen=True)
class TrainingEdit(FileEdit):
    """A change of the training of one framework.

    A mistake must be found first in `phase`, in `step`, with a cause that contains `cause`. An innocent change has no phase.
    """

    subject: Subject
    phase: str = ""
    cause: str = ""
    step: int = 1

    @property
    def is_innocent(self) -> bool:
        """Whether the change must not change the verdict."""
        return not self.phase

    def file(self, side: str) -> Path:
        """Return the file of the training of one framework."""
        return ROOT / f"{side}_impl" / "training.py"

    def compare(self, side: str, workers: Mapping[str, ModelService], folder: Path) -> PairOutcome:
        """Compare both trainings with the change in that of `side`, see `FileEdit.compare`."""
        place = {one: f"{one}_impl.training" for one in SIDES} | {side: str(self.write(side, folder))}
        model, names = self.subject.model, (self.subject.loss, self.subject.optimizer)
        loss, optimizer = ({one: f"{place[one]}:{name}" for one in SIDES} for name in names)
        inputs, labels = batch(self.subject is TRANSFORMER)
        program = Program(loss, optimizer, targets=[[labels]])
        return run_pair(Pair(model["torch"], model["paddle"], inputs, steps=STEPS, program=program), workers)

    def complaint(self, side: str, found: PairOutcome | ModelsDiffer) -> str:
        """Return what is wrong with what was `found` with the change on `side`; empty if nothing is."""
        if isinstance(found, ModelsDiffer):
            return f"{self.name} should not be refused: {found}"
        if self.is_innocent:
            return "" if found.verdict == "equal" else f"{self.name} changes nothing; it was {found.sentence()}"
        first = found.first
        if first is None:
            return f"{self.name} was not caught"
        if (first.phase, first.step) != (self.phase, self.step):
            return f"{self.name} should be found in {self.phase} of step {self.step}; it was {found.sentence()}"
        if self.cause not in (first.cause or ""):
            return f"{self.name} should be explained by {self.cause!r}; it was {found.sentence()}"
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
