"""Training on several processes: which one this is, which images of a batch are its own, and what the processes share.

All processes make the same global batches, in the same order and with the same augmentation, and each takes its part of them. A sample's
dropout mask depends on its place in the global batch, the loss is divided by the global count, and gradients are summed over the
processes: so a network without batch norm learns what it would in one process. A batch norm normalises each process's own images, as
those of the article's eight trainers did. Its running statistics are the mean over all images of what the processes made of them, so
that there is one state to test and to keep; the article's trainers kept their own on GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from parity.errors import InputError

LAUNCHERS = {"paddle": "python -m paddle.distributed.launch", "torch": "torchrun"}
"""What starts a script as several processes, by framework; both take `--nproc_per_node`."""

_VARIABLES = {
    "paddle": ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_RANK_IN_NODE", "PADDLE_LOCAL_SIZE"),
    "torch": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
}
"""The environment variables in which a launcher says the fields of `ProcessGroup`, in their order."""


@dataclass(frozen=True)
class ProcessGroup:
    """Process `rank` of `size`, and `local_rank` of the `local_size` on this machine. Process 0 leads: it prints and writes files."""

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
        """The images of a global batch of `count` that are this process's own: contiguous, as many as the others' or one more or less."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def smallest(self, count: int) -> int:
        """Images of a global batch of `count` that the process with the fewest takes."""
        return count // self.size

    def command(self, framework: str, script: str) -> str:
        """What starts `script` again as it was started; on one process where this one runs on several machines."""
        several = self.size > 1 and self.local_size == self.size
        return f"{LAUNCHERS[framework]} --nproc_per_node {self.size} {script}" if several else f"python {script}"


SINGLE_PROCESS = ProcessGroup()
"""The one process of a run that has no others."""


def from_launcher(framework: str, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
    """The process that the launcher of `framework` says this is; `SINGLE_PROCESS` without one.

    `InputError` under the other framework's launcher, which would start several runs of one process, and for variables that are no numbers.
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
        said = dict(zip(_VARIABLES[framework], found[framework], strict=True))
        raise InputError(f"the launcher's variables are not all whole numbers: {said}") from None


LOST = "another process of this run has ended or does not answer"


def is_loss(process_group: ProcessGroup, error: RuntimeError) -> bool:
    """Whether `error`, raised by a framework, tells that another process of the run is gone: both speak through gloo or NCCL."""
    said = str(error).lower()
    return process_group.size > 1 and any(word in said for word in ("gloo", "nccl", "connection"))
