"""The process group of a training run: the rank of this process, and its share of every batch.

All processes make the same global batches, in the same order and with the same augmentation, and each uses its share of a batch. The
dropout mask of a sample depends on its index in the global batch, the loss is divided by the global count, and gradients are summed over
the processes. So a network without batch norm learns the same as in one process.

A batch norm normalises the images of each process separately, as the article's eight trainers did. Its running statistics are averaged over
the processes, weighted by images, so that there is one state to test and to save. The article's trainers kept separate ones on GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from parity.errors import InputError

LAUNCHERS = {"paddle": "python -m paddle.distributed.launch", "torch": "torchrun"}
"""Framework -> what starts a script in several processes. Both take `--nproc_per_node`."""

_VARIABLES = {
    "paddle": ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_RANK_IN_NODE", "PADDLE_LOCAL_SIZE"),
    "torch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
}
"""Framework -> the environment variables of its launcher for the fields of `ProcessGroup`, in their order."""


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of `size`, and `local_rank` of the `local_size` on this machine. Rank 0 leads: it prints and writes files."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.size and 0 <= self.local_rank < self.local_size <= self.size):
            raise InputError(f"the launcher's variables make no sense: {self}")

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def shard(self, count: int) -> range:
        """Return the images of this process in a global batch of `count`: contiguous, and equally many for all up to one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def smallest(self, count: int) -> int:
        """Return the smallest number of images that a process gets of a global batch of `count`."""
        return count // self.size

    def command(self, framework: str, script: str) -> str:
        """Return the command that starts `script` as this process was started; in one process if the group spans several machines."""
        several = self.size > 1 and self.local_size == self.size
        return f"{LAUNCHERS[framework]} --nproc_per_node {self.size} {script}" if several else f"python {script}"


SINGLE_PROCESS = ProcessGroup()
"""The group of a run with one process."""


def from_launcher(framework: str, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
    """Return the group and rank that the launcher of `framework` set for this process; `SINGLE_PROCESS` without a launcher.

    `InputError` under the launcher of the other framework, which would start several runs of one process, and for variables that are not
    whole numbers.
    """
    found = {side: [environment.get(name) for name in names] for side, names in _VARIABLES.items()}
    for side, (_, size, *_) in found.items():
        if side != framework and found[framework][1] is None and size not in (None, "1"):
            raise InputError(f"{LAUNCHERS[side]} starts scripts/train_{side}.py: use {LAUNCHERS[framework]}")
    if found[framework][1] is None:
        return SINGLE_PROCESS
    try:
        return ProcessGroup(*(int(value or "") for value in found[framework]))
    except ValueError:
        given = dict(zip(_VARIABLES[framework], found[framework], strict=True))
        raise InputError(f"the launcher's variables are not all whole numbers: {given}") from None


LOST = "another process of this run has ended or does not answer"


def is_loss(process_group: ProcessGroup, error: RuntimeError) -> bool:
    """Return whether `error`, raised by a framework, means that another process of the run is lost. Both use gloo or NCCL."""
    said = str(error).lower()
    return process_group.size > 1 and any(word in said for word in ("gloo", "nccl", "connection"))
