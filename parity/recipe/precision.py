"""Mixed precision and memory layout, with the same names on both sides. GPUs are unmeasured: none has run it yet."""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import repr as short

from parity import machine
from parity.errors import InputError
from parity.recipe.optimizer import Optimizer

PRECISIONS = ("off", "bf16", "fp16")
"""Precision of convolutions and linear layers: the model's dtype, bfloat16, or float16 with a scaled loss. Weights keep their dtype."""

AUTO = "auto"
"""Asks for bf16 where a timed step is at least `GAIN` times as fast as in float32."""

GAIN = 1.3

DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
"""Their names in the frameworks."""

LAYOUTS = ("channels_first", "channels_last")
"""Order of the axes of images in memory: [N,C,H,W] or [N,H,W,C]. Kernels of the two round differently."""

GPU_TUNING = "TF32, the fastest cuDNN algorithm for each shape (unmeasured)"
"""The GPU settings of both sides for speed, as printed. A float64 proof undoes them."""

FIRST_SCALE, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
"""Loss scale of fp16: its first value, its factor after `INTERVAL` finite updates, and its factor after an update that is not finite.

That update is skipped. A checkpoint does not hold the scale: a resumed run starts at the first value again.
"""


@dataclass(frozen=True)
class Arithmetic:
    """What changes the bits of a run besides its experiment: mixed precision `amp`, and memory `layout` (None: `Backend.layout`)."""

    amp: str = "off"
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.amp not in PRECISIONS:
            raise InputError(f"amp must be one of {', '.join(PRECISIONS)}, not {short(self.amp)}")
        if self.layout not in (None, *LAYOUTS):
            raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, not {short(self.layout)}")


FLOAT32 = Arithmetic()
"""That of a run that says nothing else."""


NONE_ON_CPUS = {"paddle": "Paddle has no mixed precision on CPUs: its auto_cast does nothing there"}
"""Framework -> a sentence, where mixed precision computes in the model's dtype on CPUs."""


def find_obstacle(amp: str, framework: str, device: str) -> str:
    """Return why mixed precision `amp` in `framework` is not offered on `device`; "" if it is."""
    if amp == "off" or device != "cpu":
        return ""
    if framework in NONE_ON_CPUS:
        return NONE_ON_CPUS[framework]
    if amp == "fp16":
        return "fp16 needs a GPU"
    return "" if machine.has_bfloat16() else "this CPU has neither AVX512-BF16 nor AMX"


def check_device(amp: str, framework: str, device: str) -> None:
    """Raise `InputError` if the flag --amp asks for what is not offered on `device`."""
    if obstacle := find_obstacle(amp, framework, device):
        raise InputError(
            f"--amp {amp}: {obstacle}; leave --amp out" + ", or choose PyTorch" * (framework in NONE_ON_CPUS)
        )


def check_layout(layout: str | None, framework: str) -> None:
    """Raise `InputError` if the flag --layout asks for what `framework` does not have."""
    if framework == "paddle" and layout not in (None, LAYOUTS[0]):
        raise InputError(f"--layout {layout}: Paddle computes with {LAYOUTS[0]} only; leave --layout out")


def check(amp: str, settings: Optimizer) -> None:
    """Raise `InputError` for `fp16` with Muon, whose velocity would add gradients of differently scaled losses."""
    if amp == "fp16" and any(group.muon for group in settings.groups):
        raise InputError("Muon does not support the scaled loss of fp16: use --amp bf16, or another recipe")
