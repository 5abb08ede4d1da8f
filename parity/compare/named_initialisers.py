"""Name the initialiser of an array by the numbers that several seeds gave to it: `kaiming_uniform(a=sqrt 5)`, `normal(std=0.02)`, `0`.

The names are those of torch.nn.init, for both frameworks: Glorot and Bengio 2010 (xavier), He et al. 2015 (kaiming), Saxe et al. 2014
(orthogonal). The names are for people. Whether two initialisations differ is decided by `parity.compare.fresh_weights` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parity.arrays import Array
from parity.compare.fresh_weights import Draws
from parity.compare.tolerances import HALF_ULP, SAME_NUMBER

ERRORS = 4.0
"""A scale is that of a formula if it is within so many standard errors of it."""

UNSEEN = 12.0
"""The largest of n uniform numbers is below (1 - 12/n) of the bound with the probability exp(-12)."""

PENALTY = 8.0
"""Gain in log likelihood that a truncated normal distribution needs over a normal or a uniform one: it has one number more."""

MISFIT = 0.02
"""Largest difference of a distribution function beyond sampling: a mixture of two distributions differs by more."""

SPARSE = 0.02
"""Share of zeros from which an array is called sparse."""

GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "RNN": 1, "RNNCell": 1}
"""Kind of a recurrent layer -> how many times the hidden size its arrays have rows."""


GAINS = {"sqrt 2": math.sqrt(2), "5/3": 5 / 3, "1/sqrt 2": 1 / math.sqrt(2)}
"""Gains of Xavier initialisers: of ReLU, of tanh, and of query, key and value in fairseq."""


class Fan(NamedTuple):
    """What a framework's initialisers call fan_in and fan_out of an array."""

    inputs: int
    outputs: int


def fan_of(side: str, shape: Sequence[int]) -> Fan | None:
    """Return the fans of an array of this stored `shape`, as the initialisers of the framework `side` compute them; None without any.

    PyTorch: `torch.nn.init._calculate_fan_in_and_fan_out`. Paddle: `Initializer._compute_fans`, where a matrix is [in, out].
    """
    if len(shape) < 2:
        return Fan(shape[0], shape[0]) if side == "paddle" and shape else None
    if len(shape) == 2 and side == "paddle":
        return Fan(shape[0], shape[1])
    window = math.prod(shape[2:])
    return Fan(shape[1] * window, shape[0] * window)


@dataclass(frozen=True)
class Place:
    """Where an array stands, as far as an initialiser asks: its own `fan`, and that of the `fused` array of shape `stored` it is a part of.

    A bias has the fan of its layer's weight in `weight`. `hidden` is the hidden size of a recurrent layer.
    """

    fan: Fan | None = None
    fused: Fan | None = None
    stored: tuple[int, ...] = ()
    weight: Fan | None = None
    hidden: int = 0


@dataclass(frozen=True)
class Named:
    """An initialiser: its name, and its `family`.

    The families: constant, fixed, uniform, normal, truncated normal, orthogonal, sparse, discrete, other.
    """

    family: str
    name: str


def name_initialiser(draws: Draws, place: Place) -> Named:
    """Return the initialiser that explains `draws` of an array at `place`."""
    if draws.is_constant:
        return Named("constant", number(float(draws.values[0, 0])))
    if draws.is_fixed:
        return Named("fixed", "fixed numbers")
    rows = _rows(draws)
    if draws.gain is not None:
        return Named("orthogonal", f"orthogonal{_gain(draws.gain)}{rows}")
    if draws.whole_gain is not None:
        return Named("orthogonal", f"part of orthogonal{_gain(draws.whole_gain)}{_over(place)}{rows}")
    found = _of_numbers(draws.random.ravel(), place, HALF_ULP.get(draws.dtype, HALF_ULP["float32"]))
    return Named(found.family, found.name + rows)


def number(value: float, digits: int = 4) -> str:
    """Return a number with few digits: 0, 1, 0.02."""
    return f"{value:.{digits}g}"


def _gain(gain: float) -> str:
    return "" if abs(gain - 1) < SAME_NUMBER else f"(gain={number(gain)})"


def _over(place: Place) -> str:
    return f" over the fused {list(place.stored)}" if place.stored else ""


def _rows(draws: Draws) -> str:
    if not draws.rows:
        return ""
    few = ", ".join(map(str, draws.rows[:3]))
    return f", row {few} constant" if len(draws.rows) == 1 else f", {len(draws.rows)} rows constant ({few}, ...)"


def _of_numbers(x: Array, place: Place, rounding: float) -> Named:
    """Name the distribution of independent numbers `x`, which are rounded by the relative error `rounding`."""
    if not np.isfinite(x).all():
        return Named("other", "numbers that are not finite")
    if len(kinds := np.unique(x[:4096])) <= 8 and np.isin(x, kinds).all():
        return Named("discrete", f"random among {', '.join(map(number, kinds))}")
    zeros = float((x == 0).mean())
    if zeros > SPARSE:
        rest = _of_numbers(x[x != 0], Place(), rounding)
        return Named("sparse", f"sparse({zeros:.0%} zeros), else {rest.name}")
    fit = _fit(x)
    if _misfit(np.sort(x), fit.share) > MISFIT + 2 / math.sqrt(len(x)):
        return Named("other", f"no known family (mean {number(fit.mean, 2)}, std {number(fit.std, 3)})")
    return Named(fit.family, {"uniform": _uniform, "normal": _normal}.get(fit.family, _truncated)(fit, place, rounding))


@dataclass(frozen=True)
class Fit:
    """A family fitted to `count` numbers: `scale` is a bound (uniform) or a deviation, `cut` the truncation over it (0: none).

    `share` is the distribution function.
    """

    family: str
    count: int
    mean: float
    std: float
    low: float
    high: float
    scale: float
    cut: float
    share: Callable[[float], float]


def _normal_share(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def truncated_deviation(cut: float) -> float:
    """Return the standard deviation of a normal distribution with deviation 1 that is truncated at -`cut` and `cut`."""
    inside = 2 * _normal_share(cut) - 1
    return math.sqrt(max(1 - 2 * cut * math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi) / inside, 1e-12))


def _cut_of(ratio: float) -> float:
    """Return the truncation with which the bound is `ratio` times the deviation; 0 where no truncation has so small a ratio."""
    low, high = 0.2, 8.0
    if ratio <= low / truncated_deviation(low):
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle / truncated_deviation(middle) < ratio else (low, middle)
    return low


def _fit(x: Array) -> Fit:
    """Return the likeliest family of numbers."""
    count, mean, std, low, high = len(x), float(x.mean()), float(x.std()), float(x.min()), float(x.max())
    symmetric = abs(mean) <= 5 * std / math.sqrt(count)
    centre = 0.0 if symmetric else mean
    spread = math.sqrt(std**2 + (mean - centre) ** 2)
    bound = max(high - centre, centre - low)
    common = (count, centre, std, low, high)
    found = [
        (
            -count * math.log(high - low),
            Fit("uniform", *common, (high - low) / 2, 0.0, lambda v: min(max((v - low) / (high - low), 0.0), 1.0)),
        ),
        (
            -count * (math.log(spread * math.sqrt(2 * math.pi)) + 0.5),
            Fit("normal", *common, spread, 0.0, lambda v: _normal_share((v - centre) / spread)),
        ),
    ]
    cut = _cut_of(bound / spread)
    if cut:
        scale = bound / cut
        edge = _normal_share(-cut)
        inside = 1 - 2 * edge
        likelihood = -count * (math.log(scale * math.sqrt(2 * math.pi) * inside) + spread**2 / (2 * scale**2))
        share = lambda v: min(max((_normal_share((v - centre) / scale) - edge) / inside, 0.0), 1.0)  # noqa: E731
        found.append((likelihood - PENALTY, Fit("truncated normal", *common, scale, cut, share)))
    return max(found, key=lambda one: one[0])[1]


def _misfit(ordered: Array, share: Callable[[float], float]) -> float:
    """Return the largest difference of the distribution functions at 199 quantiles."""
    places = np.linspace(0, len(ordered) - 1, 201).astype(int)[1:-1]
    return max(abs(share(float(ordered[at])) - (int(at) + 0.5) / len(ordered)) for at in places)


Formula = tuple[str, float]
"""The name of an initialiser, and its scale."""


def _named(formulas: Iterator[Formula], low: float, high: float) -> str | None:
    """Return the first formula whose scale is between `low` and `high`."""
    return next((name for name, scale in formulas if low <= scale <= high), None)


def _fans(place: Place) -> Iterator[tuple[Fan, str]]:
    """Yield the fans that an initialiser may have seen, each with the end of its name."""
    if place.fan:
        yield place.fan, ""
    if place.fused:
        yield place.fused, _over(place)


def _uniform_formulas(place: Place) -> Iterator[Formula]:
    if place.hidden:
        yield "uniform(±1/sqrt(hidden_size))", place.hidden**-0.5
    if place.weight:
        yield "uniform(±1/sqrt(fan_in))", place.weight.inputs**-0.5
    for (inputs, outputs), end in _fans(place):
        yield f"kaiming_uniform(a=sqrt 5){end}", inputs**-0.5
        yield f"xavier_uniform{end}", math.sqrt(6 / (inputs + outputs))
        yield f"kaiming_uniform{end}", math.sqrt(6 / inputs)
        yield f"kaiming_uniform(fan_out){end}", math.sqrt(6 / outputs)
        yield f"kaiming_uniform(linear){end}", math.sqrt(3 / inputs)
        yield f"uniform(±1/sqrt(fan_out)){end}", outputs**-0.5
    # Xavier over three fused square matrices has the bound of one with the gain 1/sqrt 2: gains come last.
    for (inputs, outputs), end in _fans(place):
        for name, gain in GAINS.items():
            yield f"xavier_uniform(gain={name}){end}", gain * math.sqrt(6 / (inputs + outputs))


def _normal_formulas(place: Place) -> Iterator[Formula]:
    for (inputs, outputs), end in _fans(place):
        yield f"kaiming_normal{end}", math.sqrt(2 / inputs)
        yield f"kaiming_normal(fan_out){end}", math.sqrt(2 / outputs)
        yield f"xavier_normal{end}", math.sqrt(2 / (inputs + outputs))
        yield f"kaiming_normal(linear){end}", inputs**-0.5
        yield f"kaiming_normal(a=sqrt 5){end}", math.sqrt(1 / (3 * inputs))
        yield f"normal(std=1/sqrt(fan_out)){end}", outputs**-0.5
    for (inputs, outputs), end in _fans(place):
        for name, gain in GAINS.items():
            yield f"xavier_normal(gain={name}){end}", gain * math.sqrt(2 / (inputs + outputs))


def _round(low: float, high: float, digits: int = 2) -> str | None:
    """Return the number of fewest digits, up to `digits`, between `low` and `high`."""
    middle = (low + high) / 2
    return next((number(v) for n in range(1, digits + 1) if low <= (v := float(f"{middle:.{n}g}")) <= high), None)


def _uniform(fit: Fit, place: Place, rounding: float) -> str:
    unseen = min(UNSEEN / fit.count, 0.5)
    bound = max(-fit.low, fit.high)
    if abs(fit.low + fit.high) <= 2 * unseen * fit.scale:
        low, high = bound * (1 - 4 * rounding), bound / (1 - unseen) * (1 + 4 * rounding)
        found = _named(_uniform_formulas(place), low, high)
        return found or f"uniform(±{_round(low, high, 3) or number(bound)})"
    margin = 2 * unseen * fit.scale
    ends = [_round(fit.low - margin, fit.low + margin, 3), _round(fit.high - margin, fit.high + margin, 3)]
    ends = ["0" if abs(v) <= margin else text for v, text in zip((fit.low, fit.high), ends, strict=True)]
    return f"uniform({ends[0] or number(fit.low)}, {ends[1] or number(fit.high)})"


def _mean(fit: Fit, std: str) -> str:
    """Return the arguments of a normal distribution."""
    error = ERRORS * fit.std / math.sqrt(fit.count)
    mean = _round(fit.mean - error, fit.mean + error) or number(fit.mean, 3)
    return f"std={std}" if fit.mean == 0 else f"mean={mean}, std={std}"


def _normal(fit: Fit, place: Place, rounding: float) -> str:
    error = ERRORS / math.sqrt(2 * fit.count) + 4 * rounding
    low, high = fit.scale * (1 - error), fit.scale * (1 + error)
    formula = _named(_normal_formulas(place), low, high) if fit.mean == 0 else None
    plain = _round(low, high, 1)
    if plain and formula:
        return f"{formula} or normal({_mean(fit, plain)})"
    return formula or f"normal({_mean(fit, plain or _round(low, high) or number(fit.scale, 3))})"


def _truncated(fit: Fit, place: Place, rounding: float) -> str:
    cut = round(fit.cut)
    if not (1 <= cut <= 3 and abs(fit.cut - cut) < (0.2 if fit.count > 1000 else 0.5)):
        return f"trunc_normal(std={number(fit.scale, 3)}, ±{number(fit.cut, 2)} std)"
    # The density at the edge says how far the farthest number is from it.
    edge = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi) / (2 * _normal_share(cut) - 1)
    scale = fit.cut * fit.scale / cut
    low = scale * (1 - 4 * rounding)
    high = scale * (1 + min(UNSEEN / (edge * fit.count * cut), 0.2)) * (1 + 4 * rounding)
    error = ERRORS / math.sqrt(2 * fit.count)
    formula = None
    for ends, what in (((low, high), "trunc_"), ((fit.std * (1 - error), fit.std * (1 + error)), "truncated ")):
        formula = formula or (f"{what}{name}" if (name := _named(_normal_formulas(place), *ends)) else None)
    plain = _round(low, high, 2)
    if plain and formula and len(plain.strip("0.").replace(".", "")) == 1:
        formula = None
    return f"{formula}, ±{cut} std" if formula else f"trunc_normal({_mean(fit, plain or number(scale, 3))}, ±{cut} std)"
