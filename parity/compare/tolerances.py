"""Every tolerance of a comparison, each with its reason, as pure functions of observations. Errors are relative L2 errors.

`parity.compare.judge` and `parity.compare.noise_model` observe, and compare each tensor with its tolerance. docs/parity.md explains them.
"""

from __future__ import annotations

import numpy as np

from parity.arrays import Array
from parity.recipe.optimizer import Optimizer

# float64: the proof

HALF_ULP = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""The largest relative error of rounding one number, by dtype."""

ONE_STEP = {"float64": 1e-12, "float32": 1e-12 * 2.0**29} | {
    dtype: 20 * HALF_ULP[dtype] for dtype in ("bfloat16", "float16")
}
"""Tolerance of every tensor of inference and of the first step, by dtype: some thousand roundings. 2**29 is the ratio of the ULPs.

In bfloat16 and float16 it is that of one layer alone: ten roundings of each side. Its sums are kept in float32 and rounded once.
"""

MANY_STEPS = 1e-10
"""Tolerance in float64 of every tensor of the steps after the first, up to step 100; then the step number times `ONE_STEP`."""

TWIN = 10.0
"""Tolerance over the error of the farthest one-ULP twin.

What rounding does to a tensor depends on the model: a small difference of large numbers keeps few digits. The twin shows it.
"""

CALM = 1e-14
"""Below this relative error of the weights, twins have not diverged chaotically.

A gradient was seen with 1,000 times the error of its weights. This value allows for 10,000 times.
"""

INHERITED = 1e-11
"""Cap, in the first step, on the rounding error that a tensor inherits from earlier tensors of its phase if its own twin is nearer."""

ONE_STEP_NOISE = 1e-9
"""Cap on the counted error of a twin in the first step in float64: rounding alone does not cause more in one step.

A twin that is farther has computed something else, for instance because the framework draws its own random numbers.
"""

MOST_ROUNDING = TWIN * TWIN * ONE_STEP_NOISE
"""Largest error in float64 for which the steps are repeated with a twin that records every tensor: no twin excuses more in one step."""

MULTIPLIED = 1e-11
"""Relative error of the farthest twin's weights after which a run that was repeated for its rounding ends.

A deep network multiplies rounding by up to 1e4 within a step. After that, ReLUs pass elements on one side by chance, and on no twin.
"""

MOST_MAGNIFIED = 1000.0
"""Error over tolerance of a tensor of two recordings below which rounding may be the reason, where no twin measures it.

Deep networks were seen to multiply rounding within a step by less than that over what the tolerance allows for.
"""

ZERO_GRADIENT = ONE_STEP
"""Tolerance of a gradient that is zero in exact arithmetic, relative to its layer's largest gradient, by dtype."""

ROUNDING = 1e-6
"""Largest relative error of a pool's inputs in float64 at which a different largest element counts as a max-pool tie."""

SYSTEMATIC = 4.0
"""A magnification by cancelling terms below this counts as 1: random signs cause it, and its product over layers must excuse nothing."""

ALIKE = 10.0
"""Factor on the rounding of cancelling terms: their errors are not all independent, since means enter all terms of a channel.

Seen: a factor of three, in sums of 8,192 terms.
"""

LARGEST = 1e290
"""Largest factor on a tolerance: the tolerance stays finite, and infinity stays above it."""

MOVED = 1e-13
"""Tolerance in float64 of all weights together, relative to how far they have moved from the start; the twin's part is added to it.

A twin sums in the same order as its side, another framework does not. Gradients that are sums of 8,192 terms were seen to differ by 5e-14
to 2e-13 between frameworks, and by 2e-15 between twins. If updates move the weights far, that is more than one ULP of them.
"""

ADAM_SLOPE = 2.0
"""Factor on `adam_amplification`: the slope is taken at one of the two gradients, not between them."""


def calm_tolerance(dtype: str, step: int) -> float:
    """Return the tolerance of a tensor of `step` without magnification and chaos: rounding accumulates with the steps."""
    one = ONE_STEP[dtype]
    return one if step == 1 else max(MANY_STEPS, one * step)


def in_units_of(dtype: str, tolerance: float) -> float:
    """Return a tolerance of float64 with as many roundings of `dtype`: the ratio of the tolerances of one step."""
    return tolerance * (ONE_STEP[dtype] / ONE_STEP["float64"])


SCALARS = HALF_ULP["float32"]
"""Relative error of one scalar of a layer (eps, slope, 1 / (1 - p)) that a kernel holds in float32 for tensors of every dtype."""

KEPT_SHARE = 16.0
"""Factor on `SCALARS` in updates: the part of an old value that is dropped, 1 - 0.9, has nine times the relative error of 0.9."""


def recorded_tolerance(dtype: str, step: int, phase: str, layers: int, scalars: bool) -> float:
    """Return the tolerance of a tensor of two recordings that no twin measures.

    It is that of rounding alone. A recording cannot change what kernels compute: where one side's kernels hold `scalars` in float32, each
    of the `layers` before a tensor may add their error. In float32 that is much less than the rounding of sums.
    """
    added = SCALARS * max(1, layers) * (KEPT_SHARE if phase in ("update", "start") else 1.0) if scalars else 0.0
    return calm_tolerance(dtype, step) + (added * step if dtype == "float64" else 0.0)


def tensor_tolerance(calm: float, magnification: float, amplified: float, inherited: float) -> float:
    """Return the tolerance of one tensor without chaos.

    A sum of cancelling terms keeps their absolute rounding, so `calm` counts `magnification` times. `amplified` is the rounding of the
    gradients times the slope of Adam's first step. `inherited` is the rounding of magnified gradients that the slots keep.
    """
    return calm * magnification + amplified + inherited


def noise_of_tensor(own: float, phase: float, before: float, step: int, dtype: str = "float64") -> float:
    """Return the rounding error of a tensor by the farthest twin: its `own`, or that of earlier tensors if larger.

    A twin is one random draw and may be near in one tensor by chance. In the first step the largest error in the `phase` so far counts,
    up to `INHERITED`. Later the largest error of the phase in the step `before` counts.
    """
    return max(own, min(phase, in_units_of(dtype, INHERITED)) if step == 1 else before)


def farther_than_twin(error: float | None, twin: float | None) -> float:
    """Return the error of the weights over the twin's error before a step: at least 1, at most `TWIN`.

    The tensors of a step differ as its weights do, so their tolerance grows by this factor. In the first step, whose weights are equal,
    the earlier tensors that are within their calm tolerance take the place of the weights: a twin sums in the same order as its side, and
    another framework does not.
    """
    if error is None or not twin:
        return 1.0
    return min(TWIN, max(1.0, error / twin))


def chaotic_tolerance(calm: float, noise: float) -> float:
    """Return the tolerance of one tensor: `calm`, or `TWIN` times the rounding `noise` if that is larger."""
    return max(calm, TWIN * noise)


def weights_tolerance(dtype: str, step: int, twin: float | None, kept: float, moved: float) -> float:
    """Return the tolerance of all trained weights together after `step`: `TWIN` times the farthest twin's error, plus `MOVED`.

    Without a twin it is the tolerance of any tensor. `kept` is the rounding amplified by Adam's first step and by cancelling terms: it
    stays in the weights. `moved` is how far the weights are from the start, relative to themselves. In float32 a twin may be near by
    chance, so the tolerance has a least value: the first flipped ReLU moves the weights as far as the rounding of many steps.
    """
    if twin is None:
        return calm_tolerance(dtype, step)
    if dtype == "float64":
        return TWIN * twin + kept + MOVED * moved
    return max(TWIN * twin + kept, ONE_STEP[dtype] * step * min(moved, 1.0))


def adam_amplification(settings: Optimizer, rate: float, reference: Array, candidate: Array) -> float:
    """Return the rounding of a gradient after Adam's first step, as the norm of the change of its parameter.

    The step is rate * g / (|g| + eps), with the slope rate * eps / (|g| + eps)^2. A gradient within 1e-8 of zero has its rounding
    multiplied by up to rate / eps = 1e5 (docs/differences.md).
    """
    slope = rate * settings.eps / (np.abs(reference) + settings.eps) ** 2
    return ADAM_SLOPE * float(np.linalg.norm(slope * (candidate - reference)))


def kink_tolerance(tolerance: float, share: float, moved: float) -> float:
    """Return the tolerance of a tensor after a ReLU kink or max-pool tie: the part `share` of the gradients goes another way.

    For a weight it counts in proportion to how far the weight has `moved` from its start; for a gradient `moved` is 1.
    """
    return tolerance + TWIN * share * moved


# float32, bfloat16, float16: the noise model

FACTOR = {"float32": 10.0, "bfloat16": 2.0, "float16": 2.0}
"""Tolerance over noise, by dtype: twins round as the side itself does.

In float32 they do so at other and fewer places: long sums are rounded, too. In bfloat16 and float16 a side rounds the result of each
operator once, and so does its twin, independently of it. So the twin's distance from the side holds the error of the side twice, as
squares, beside what one ULP of every weight and input does: of a tensor of many numbers it is at least 1.4 times the error. Of a tensor of
one number, the farthest of eight twins is nearer than half the error in less than one of 100,000 cases.
"""

SUMS = 3.0
"""Tolerance over the noise of sums: another order of addition rounds differently, and three twins are few draws."""


def inference_tolerance(noise: float, pooled: float = 0.0) -> float:
    """Return the tolerance of a float32 tensor of inference against the float64 one.

    `noise` is its change when weights and pixels move; weights of long sums move by `LONG_SUMS` of the sum's rounding. `pooled` is the
    rounding of sums in average pools.
    """
    return FACTOR["float32"] * noise + SUMS * pooled


LONG_SUMS = SUMS / FACTOR["float32"]
"""Share of a long sum's rounding by which a twin moves the weights: the tolerance is then `SUMS` times that rounding."""


def pair_tolerance(tolerance: float) -> float:
    """Return the tolerance between two float32 tensors, each of which may differ by `tolerance` from the float64 one."""
    return 2 * tolerance


def rounded_tolerance(dtype: str, noise: float, crossed: float = 0.0, sums: float = 0.0) -> float:
    """Return the tolerance of a tensor of a training step in `dtype` against the float64 one.

    `noise` is its change on the same side when every weight and input moves by one ULP. `crossed` is the part of the gradient in elements
    that pass only in `dtype` or only in float64. `sums` is the rounding of sums in batch norms.
    """
    return FACTOR[dtype] * max(noise + crossed, HALF_ULP[dtype]) + SUMS * sums


def rounded_zero_tolerance(dtype: str, noise: float) -> float:
    """Return the tolerance, in `dtype`, of the size of a gradient that is zero in exact arithmetic; `noise` is the size on twins."""
    return ZERO_GRADIENT[dtype] if dtype == "float32" else FACTOR[dtype] * max(noise, HALF_ULP[dtype])


# Fresh weights: the stage init

FRESH_SEEDS = 32
"""Fresh models of each side. A bias of ten numbers is then 320 numbers a side, and 5% of a scale show in 2,000 numbers a seed."""

FRESH_NUMBERS = 2048
"""Numbers of an array that one seed contributes: all of a small one, and else those at fixed random places.

With 32 seeds, the scale of a normal array is known to 0.3% (one standard deviation), so 3% show. Arrays need no more memory than that.
"""

FALSE_ALARM = 1e-4
"""Probability at most that the stage init calls any array of two equal initialisations different, in one comparison.

It is divided by the number of arrays and of their statistics (Bonferroni), which also holds if they depend on each other.
"""

SAME_NUMBER = 1e-3
"""Below this difference, relative to the deviation of the numbers, two statistics count as equal.

Some are no random numbers: the norm of an orthogonal matrix is the same for each seed, up to rounding, which no seed changes.
"""

GRAM = 20.0
"""Tolerance, in half ULPs, of a Gram matrix that is a multiple of the identity: float32 decompositions of 4,096 rows were seen at 10."""


def constant_tolerance(dtype: str) -> float:
    """Return the tolerance, relative, of two numbers that no seed changes: each side rounds them to its dtype."""
    return 4 * HALF_ULP.get(dtype, HALF_ULP["float32"])


def fixed_tolerance(dtype: str) -> float:
    """Return the tolerance of a table that no seed changes, such as sines of positions: that of one step in its dtype, float32 or narrower.

    Libraries compute such tables in float32 or float64, also for models of another dtype.
    """
    return ONE_STEP.get(dtype if dtype != "float64" else "float32", ONE_STEP["float32"])


def statistic_level(tests: int) -> float:
    """Return the significance level of each of `tests` tests, so that all together give a false alarm with `FALSE_ALARM` at most."""
    return FALSE_ALARM / max(tests, 1)
