"""Mixed precision on GPUs, as both sides spell it. No GPU has run it yet: nothing here is measured."""

from __future__ import annotations

from parity.errors import InputError
from parity.recipe.optimizer import Optimizer

PRECISIONS = ("off", "bf16", "fp16")
"""What convolutions and linear layers compute in: the model's own dtype, bfloat16, or float16 with a scaled loss. Weights keep theirs."""

DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
"""The frameworks' names for them."""

GPU_TUNING = "TF32, the fastest of cuDNN's algorithms for each shape (unmeasured)"
"""What both sides set on a GPU for speed, for people. A proof undoes it."""

FIRST_SCALE, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
"""The loss's scale in fp16: its start, and its factors after `INTERVAL` finite updates and after one that is not, which is skipped.

A checkpoint does not hold it: a resumed run starts at the first again.
"""


def check(amp: str, settings: Optimizer) -> None:
    """`InputError` for `fp16` with Muon, whose velocities would hold gradients of losses that were scaled differently."""
    if amp == "fp16" and any(group.muon for group in settings.groups):
        raise InputError("Muon does not know the scaled loss of fp16: use --amp bf16, or another recipe")
