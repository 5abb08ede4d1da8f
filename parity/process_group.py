"""Training on several processes: the rank of this process, its images of a batch, and what the processes share.

All processes make the same global batches, in the same order and with the same augmentation. Each process takes its part of
every batch. The dropout mask of an image depends on its place in the global batch. The loss is divided by the size of the
global batch, and gradients are summed over the processes. So a network without batch norm learns the same as in one process.

A batch norm normalises the images of each process by themselves, as in the article's eight trainers. Its running statistics
are the mean over all processes, so that there is one state to test and to save. The article's trainers kept separate ones on
GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from parity.errors import InputError

LAUNCHERS = {"paddle": "python -m paddle.distributed.launch", "torch": "torchrun"}
"""The command that starts a script as several processes, by framework. Both take `--nproc_per_node`."""

_VARIABLES = {
    "paddle": ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_RANK_IN_NODE", "PADDLE_LOCAL_SIZE"),
    "torch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
}
"""The environment variables that a launcher sets for the fields of `ProcessGroup`, in their order."""


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of `size`, and `local_rank` of the `local_size` on this machine. Rank 0 prints and writes files."""

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
        """Return which images of a global batch of `count` this process takes: contiguous, and almost as many as any other."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def smallest(self, count: int) -> int:
        """Return how many images of a global batch of `count` the process with the fewest takes."""
        return count // self.size

    def command(self, framework: str, script: str) -> str:
        """Return the command that starts `script` again in the same way.

        A run on several machines gets the command for one process.
        """
        several = self.size > 1 and self.local_size == self.size
        return f"{LAUNCHERS[framework]} --nproc_per_node {self.size} {script}" if several else f"python {script}"


SINGLE_PROCESS = ProcessGroup()
"""The process of a run on one process."""


def from_launcher(framework: str, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
    """Return what the environment variables of a launcher say; `SINGLE_PROCESS` without a launcher.

    Raises:
        InputError: The launcher is that of the other framework, or a variable is no number. Under the other launcher, each
            process would start a run of its own.
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
    """Return whether `error`, raised by a framework, means that another process of the run has died.

    Both frameworks communicate through gloo or NCCL, which their messages name.
    """
    message = str(error).lower()
    return process_group.size > 1 and any(word in message for word in ("gloo", "nccl", "connection"))
