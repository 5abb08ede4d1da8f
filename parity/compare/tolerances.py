"""Every tolerance of a comparison, each with its reason, as pure functions of what was observed. Errors are relative L2 errors.

`parity.compare.judge` and `parity.compare.noise_model` say what was observed, and hold each tensor against what these functions allow.
"""

from __future__ import annotations

import numpy as np

from parity.arrays import Array
from parity.recipe.optimizer import Optimizer

# float64: the proof

ONE_STEP = {"float64": 1e-12, "float32": 1e-12 * 2.0**29}
"""Tolerance of every tensor of inference and of the first step, by dtype: some thousand roundings. 2**29 are the ULPs between the
dtypes."""

MANY_STEPS = 1e-10
"""Tolerance in float64 of every tensor of the steps after the first, up to step 100; then n times `ONE_STEP`."""

TWIN = 10.0
"""How much farther the sides may be from each other than a side is from the farthest of its one-ULP twins.

What rounding does to a tensor depends on the model: a small difference of large numbers keeps little of them. The twin shows it.
"""

CALM = 1e-14
"""Twins whose weights are closer than this have not diverged chaotically.

A gradient has been seen to differ by 1,000 times as much as the weights it is of; this allows for 10,000 times.
"""

INHERITED = 1e-11
"""Cap, in the first step, on the rounding error that a tensor inherits from earlier tensors of its phase where its own twin is nearer."""

ONE_STEP_NOISE = 1e-9
"""Cap, in the first step in float64, on what counts of a twin's distance: rounding does not make more of a tensor in one step.

A twin that is farther has computed something else: by a framework that draws numbers of its own, for one.
"""

ZERO_GRADIENT = {"float64": 1e-12, "float32": 1e-12 * 2.0**29}
"""How large a gradient that is zero in exact arithmetic may be, relative to its layer's largest gradient, by dtype."""

ROUNDING = 1e-6
"""Largest relative error of a pool's inputs in float64 at which rounding may have chosen another largest element."""

SYSTEMATIC = 4.0
"""A magnification by terms that cancel below this counts as none: random signs make it, and its product over layers must excuse nothing."""

ALIKE = 10.0
"""How many times more terms that cancel may keep: their errors are not all independent, since means enter all terms of a channel.

Seen: three times, of sums of 8,192 terms.
"""

LARGEST = 1e290
"""Most that a tolerance is multiplied by: it stays finite, and what is not finite stays above it."""

MOVED = 1e-13
"""Tolerance in float64 of all weights together, relative to how far they have moved from the start; `TWIN` is added to it.

A twin sums in the same order as its side, another framework does not: gradients of the two have been seen to differ by 5e-14 to 2e-13 where
they are sums of 8,192 terms, those of twins by 2e-15. Where updates move the weights far, that is more than one ULP of them.
"""

ADAM_SLOPE = 2.0
"""Factor on `adam_amplification`, since the slope is taken at one of the two gradients and not between them."""


def calm_tolerance(dtype: str, step: int) -> float:
    """The tolerance of a tensor of `step` that is neither magnified nor chaotic: rounding accumulates with the steps."""
    one = ONE_STEP[dtype]
    return one if step == 1 else max(MANY_STEPS, one * step)


def tensor_tolerance(calm: float, magnification: float, amplified: float, inherited: float) -> float:
    """The tolerance of one tensor where chaos plays no part.

    Where terms cancel, what is left keeps their absolute rounding: `calm` counts `magnification` times. `amplified` is what Adam's first
    step makes of the gradients' rounding, `inherited` what an optimizer's slots keep of magnified gradients.
    """
    return calm * magnification + amplified + inherited


def noise_of_tensor(own: float, phase: float, before: float, step: int) -> float:
    """What rounding may have made of a tensor, by the farthest twin: as much as of its `own`, or of what came before it.

    A twin is one draw, and may have been lucky with one tensor. Within the first step that counts up to `INHERITED` of the largest noise
    in the `phase` so far; later, as much as the step `before` made of any tensor of the phase.
    """
    return max(own, min(phase, INHERITED) if step == 1 else before)


def farther_than_twin(error: float | None, twin: float | None) -> float:
    """How many times farther than the twin's the sides' weights were from each other before a step: at least 1, at most `TWIN`.

    What a step computes differs as its weights do, so its tensors are allowed as many times more.
    """
    if error is None or not twin:
        return 1.0
    return min(TWIN, max(1.0, error / twin))


def chaotic_tolerance(calm: float, noise: float) -> float:
    """The tolerance of one tensor: `calm`, or `TWIN` times what rounding does, where that is more."""
    return max(calm, TWIN * noise)


def weights_tolerance(dtype: str, step: int, twin: float | None, kept: float, moved: float) -> float:
    """The tolerance of all trained weights together after `step`: `TWIN` times the distance of the farthest twin, and `MOVED`.

    Without a twin it is that of any tensor. `kept` is what Adam's first step and gradients whose terms cancel have made of rounding: it
    stays. `moved` is how far the weights are from the start, relative to themselves. In float32 a twin may be lucky: the first ReLU that
    rounding flips moves the weights as far as many steps of rounding do, of the way they go.
    """
    if twin is None:
        return calm_tolerance(dtype, step)
    if dtype == "float64":
        return TWIN * twin + kept + MOVED * moved
    return max(TWIN * twin + kept, ONE_STEP[dtype] * step * min(moved, 1.0))


def adam_amplification(settings: Optimizer, rate: float, reference: Array, candidate: Array) -> float:
    """What Adam's first step may make of the rounding of a gradient, as the norm of the change of its parameter.

    The step is rate * g / (|g| + eps), of slope rate * eps / (|g| + eps)^2: a gradient within 1e-8 of zero has its rounding multiplied
    by up to rate / eps = 1e5 (docs/differences.md).
    """
    slope = rate * settings.eps / (np.abs(reference) + settings.eps) ** 2
    return ADAM_SLOPE * float(np.linalg.norm(slope * (candidate - reference)))


def kink_tolerance(tolerance: float, share: float, moved: float) -> float:
    """The tolerance of a tensor behind a kink or a pool where rounding has decided: a part `share` of the gradients goes another way.

    It counts for as much of a weight as it has `moved` from its start, relative to itself; for all of a gradient.
    """
    return tolerance + TWIN * share * moved


# float32: the noise model

FACTOR = 10.0
"""Tolerance over noise: the twins round like the side itself, at other places and fewer."""

SUMS = 3.0
"""Tolerance over the noise of sums: they may be added in another order than one after the other, and the twins are one draw of three."""

HALF_ULP = 2.0**-24
"""The relative error of writing a number down in float32."""


def inference_tolerance(noise: float, pooled: float = 0.0) -> float:
    """The tolerance of a float32 tensor of inference against the float64 one.

    `noise` is what moving weights and pixels does to it, of which every weight of a long sum is moved by `LONG_SUMS` of what the sum's
    rounding comes to. `pooled` is what the sums of average pools make of rounding.
    """
    return FACTOR * noise + SUMS * pooled


LONG_SUMS = SUMS / FACTOR
"""Share of a long sum's own rounding that a twin's weights are moved by, so that its tolerance is `SUMS` times it."""


def pair_tolerance(tolerance: float) -> float:
    """The tolerance of two float32 tensors against each other, each of which may differ by `tolerance` from the float64 one."""
    return 2 * tolerance


def float32_tolerance(noise: float, crossed: float = 0.0, sums: float = 0.0) -> float:
    """The tolerance of a float32 tensor of a training step against the float64 one.

    `noise` is what moving every weight and input by one ULP does to the tensor on the same side. `crossed` is the part of the gradient
    that elements carry which only one of the two lets through. `sums` is what the sums of batch norms make of rounding.
    """
    return FACTOR * max(noise + crossed, HALF_ULP) + SUMS * sums
