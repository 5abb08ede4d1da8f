"""Every tolerance of a comparison, each with its reason. Errors are relative L2 errors unless said otherwise."""

from __future__ import annotations

# float64: the proof

ONE_STEP = {"float64": 1e-12, "float32": 1e-12 * 2.0**29}
"""Tolerance of every tensor of inference and of the first step, by dtype: some thousand roundings. 2**29 are the ULPs between the
dtypes."""

MANY_STEPS = 1e-10
"""Tolerance in float64 of every tensor of the steps after the first, up to step 100; then n times `ONE_STEP`.

Where the weights of a one-ULP twin are farther away than `CALM`, the tolerance is ten times what the farthest twin's tensors of that phase
differ by, if that is more; the verdict then says so: chaotic but equal. What a step computes differs as its weights do, so where the
sides' weights were farther from each other before the step than the twin's (ten times at most, see `TWIN`), its tensors are allowed as
many times more.
"""

TWIN = 10.0
"""How much farther the sides may be from each other than a side is from the farthest of its one-ULP twins.

Of a pair of models this holds in every step: what rounding does to a tensor depends on the model (a small difference of large numbers
keeps little of them), and the twin shows it.
"""

CALM = 1e-14
"""Twins whose weights are closer than this have not diverged chaotically: then the tolerances above hold by themselves.

A gradient has been seen to differ by 1,000 times as much as the weights it is of; this allows for 10,000 times.
"""

ZERO_GRADIENT_BOUND = 1e-12
"""How large a gradient that is zero in exact arithmetic may be, relative to its layer's weight gradient, in float64."""

INHERITED = 1e-11
"""Cap, in a pair of models, on the share of the twin's distance that a tensor may inherit from earlier tensors, where its own twin is
nearer."""

# float32: the noise model

FACTOR = 10.0
"""Tolerance over noise: the twins round like the side itself, at other places and fewer."""

SUMS = 3.0
"""Tolerance over the noise of sums: they may be added in another order than one after the other, and the twins are one draw of three."""

HALF_ULP = 2.0**-24
"""The relative error of writing a number down in float32."""

ZERO_GRADIENT_BOUND_FLOAT32 = ZERO_GRADIENT_BOUND * 2.0**29
"""`ZERO_GRADIENT_BOUND` in units of float32."""
