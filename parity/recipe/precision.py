"""Mixed precision on GPUs, with the same names on both sides. Unmeasured: no GPU has run it yet."""

from __future__ import annotations

from parity.errors import InputError
from parity.recipe.optimizer import Optimizer

PRECISIONS = ("off", "bf16", "fp16")
"""Precision of convolutions and linear layers: the model's dtype, bfloat16, or float16 with a scaled loss. Weights keep their dtype."""

DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
"""Their names in the frameworks."""

GPU_TUNING = "TF32, the fastest cuDNN algorithm for each shape (unmeasured)"
"""The GPU settings of both sides for speed, as printed. A float64 proof undoes them."""

FIRST_SCALE, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
"""Loss scale of fp16: its first value, its factor after `INTERVAL` finite updates, and its factor after an update that is not finite.

That update is skipped. A checkpoint does not hold the scale: a resumed run starts at the first value again.
"""


def check(amp: str, settings: Optimizer) -> None:
    """Raise `InputError` for `fp16` with Muon, whose velocity would add gradients of differently scaled losses."""
    if amp == "fp16" and any(group.muon for group in settings.groups):
        raise InputError("Muon does not support the scaled loss of fp16: use --amp bf16, or another recipe")
