"""The experiments of the articles and of a paper, and ours, each one command of `vgg-parity experiment`.

To add one: write a module here with a `Study`, and add it to `STUDIES`.
"""

from __future__ import annotations

from parity.experiments import ablation, cifar, classics, permutation, residual
from parity.experiments.study import Study
from parity.experiments.timing import TIMING

STUDIES: dict[str, Study] = {
    study.name: study for study in (permutation.STUDY, cifar.STUDY, classics.STUDY, residual.STUDY, ablation.STUDY)
}
"""The experiments that train, by name."""

EXPERIMENTS = {name: study.about for name, study in STUDIES.items()} | {TIMING.name: TIMING.about}
"""All experiments: name -> what it does, and its source."""
