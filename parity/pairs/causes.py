"""Why two models diverge: settings that differ, and numpy functions that explain what a model computes between two layers."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.compare.causes import Cause, Hypothesis, explain, tensor_hypotheses
from parity.compare.relative_error import relative_l2
from parity.modules.description import Unit, both_paths
from parity.modules.layer_kinds import SIDES, name_in
from parity.pairs.alignment import Alignment, Call, Compared, find_fit
from parity.pairs.layouts import find_layout
from parity.pairs.match_models import Pairing
from parity.pairs.match_pointwise import with_last_channels
from parity.pairs.model_worker import ModelRun
from parity.pairs.narrow_dtypes import Place, dtypes, words
from parity.pairs.outer_padding import PADDING, padding_of
from parity.short_repr import few

MATCH = 1e-9
"""Largest relative L2 error at which a hypothesis counts as confirmed."""

LIKE_FLOAT32 = (1e-10, 1e-6)
"""Relative errors in this range are as large as float32 rounding."""

LIKE_FLOAT16 = 1e-2
"""The largest such error of a float16 or bfloat16 rounding."""

LIKE_ROUNDING = "the error is as large as float32 rounding: one side computes a part of it in float32, or with a constant of few digits"
"""What an error of that size suggests, if nothing else explains it."""

OF_GRADIENTS = ("padding_idx",)
"""Settings that PyTorch's forward pass ignores: they change gradients only."""

SENTENCE_NAMES = (NAMES[SIDES[0]], NAMES[SIDES[1]])
"""The names of the sides in sentences."""


@dataclass(frozen=True)
class PairEvidence:
    """What is known when two models diverge: the pairing, the start state, and what both sides recorded in their last run.

    `narrow` are the places by side where only that side computes in a dtype narrower than float64. `compiled` are the paths by side of
    the modules that run compiled. `dtype` is that of the comparison.
    """

    pairing: Pairing
    state: Record
    runs: Mapping[str, ModelRun] = field(default_factory=dict)
    narrow: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    compiled: Mapping[str, Sequence[str]] = field(default_factory=dict)
    dtype: str = "float64"


def settings(
    pairing: Pairing,
    alignment: Alignment,
    runs: Mapping[str, ModelRun],
    variance: str,
    training: bool,
    rounds: bool = False,
) -> tuple[list[str], list[str]]:
    """Return sentences on the settings that differ, and on what the check neutralises.

    `rounds`: batch norms round their scalars on both sides.
    """
    pairs = {(a.path, b.path): (a, b) for a, b in [*pairing.pairs, *alignment.unit_pairs()]}
    groups: dict[tuple[str, str, str, str, str], list[str]] = {}
    outside: dict[tuple[str, str, str, str, str], list[str]] = {}
    for a, b in pairs.values():
        for name, one, two in differing(a, b):
            rows = outside if name == "padding" and _padding_of_inputs(a, b, runs) is not None else groups
            rows.setdefault((a.kind, a.note, name, _text(one), _text(two)), []).append(both_paths(a.path, b.path))
    found = [_settings_sentence(*key, places) for key, places in groups.items()]
    found += list(_alone(pairing))
    if training:
        found += list(_draws(runs))
    explained = [
        f"{_settings_sentence(*key, places)}: the input of one model is larger by as much"
        for key, places in outside.items()
    ]
    return found, [*explained, *_explained(pairs.values(), runs, variance, training, rounds)]


def _padding_of_inputs(a: Unit, b: Unit, runs: Mapping[str, ModelRun]) -> str | None:
    """Do `padding_of` for the inputs of the first calls of two layers."""
    inputs = []
    for side, unit in zip(SIDES, (a, b), strict=True):
        keys = [note["inputs"][0] for note in runs[side].calls if note["path"] == unit.holder and note["inputs"]]
        inputs += [runs[side].arrays[keys[0]]] if keys else []
    return padding_of(a, b, inputs[0], inputs[1]) if len(inputs) == 2 else None


def differing(a: Unit, b: Unit) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings that differ between two layers of one kind: name, PyTorch's value, Paddle's value."""
    for name in a.settings if a.kind == b.kind else ():
        if name == "count_include_pad" and not any(_pads(unit.settings["padding"]) for unit in (a, b)):
            continue
        one, two = a.settings[name], b.settings.get(name)
        if name == "mode" and a.kind == "Dropout" and a.settings.get("p") == b.settings.get("p") == 0:
            continue
        if a.kind == "Hardsigmoid" and name == "slope":  # the check uses 1/6 on both sides, see `_explained`
            continue
        if name != "activation" and not _same(one, two):  # the other side may have a separate activation layer
            yield name, one, two
    for name in a.constants if a.kind == b.kind else ():
        if name in b.constants and not _same(a.constants[name], b.constants[name]):
            yield name, a.constants[name], b.constants[name]


def other_kinds(alignment: Alignment) -> list[str]:
    """Return sentences on activations of different kinds that get the same input."""
    pairs = [(a, b) for a, b in alignment.unit_pairs() if a.kind != b.kind]
    return [_kinds_sentence(a, b) for a, b in pairs if not a.arrays and not b.arrays]


def _kinds_sentence(a: Unit, b: Unit) -> str:
    return f"kind of layer: PyTorch {a.kind}, Paddle {b.kind} at {both_paths(a.path, b.path)}"


def _pads(padding: Any) -> bool:
    return isinstance(padding, str) or bool(np.any(padding))


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, float) and isinstance(two, int | float):
        return math.isclose(one, two, rel_tol=1e-9)
    return bool(one == two)


DOWNSCALES = "downscale_in_infer multiplies by 1 - p in inference"
"""What Paddle's dropout does in its other mode."""


def _settings_sentence(kind: str, note: str, name: str, one: str, two: str, places: Sequence[str]) -> str:
    words = f" ({note})" if note else ""
    return f"{_label(name)} of {kind}: PyTorch {one}, Paddle {two} at {few(places)}{words}"


MOST_PROPOSED = 4
"""At most so many pairs of arrays without a partner are proposed."""

LABELS = {"momentum_of_the_old": "momentum (weight of the old value)"}
"""Settings whose name alone would mislead: the two frameworks' `momentum` are weights of different values."""


def _label(setting: str) -> str:
    return LABELS.get(setting, setting.replace("_", " "))


def _alone(pairing: Pairing) -> Iterator[str]:
    for side, units in pairing.alone.items():
        if units:
            yield f"only {NAMES[side]} has {few([str(unit) for unit in units])}, which inference does not call"
    for side, names in pairing.single.items():
        if names:
            yield f"only {NAMES[side]} has {few(names)}"
    yield from itertools.islice(_other_shapes(pairing), MOST_PROPOSED)
    tied = []
    for a, b in pairing.pairs:
        for name in a.arrays:
            shared = [unit.arrays[name].same_as is not None for unit in (a, b) if name in unit.arrays]
            if len(set(shared)) == 2:
                tied.append(f"{both_paths(a.path, b.path)}.{name} (in {NAMES[SIDES[shared.index(True)]]} only)")
    if tied:
        yield f"shared with another layer: {few(tied)}"


def _other_shapes(pairing: Pairing) -> Iterator[str]:
    """Yield sentences on arrays without a partner that are as large as one of the other side, which may be the same."""
    for torch, paddle in itertools.product(*(pairing.single[side] for side in SIDES)):
        shapes = pairing.shapes[SIDES[0]].get(torch), pairing.shapes[SIDES[1]].get(paddle)
        if shapes[0] and shapes[1] and math.prod(shapes[0]) == math.prod(shapes[1]) > 1:
            same = f"{paddle}.reshape({','.join(map(str, shapes[0]))})"
            row = json.dumps({"arrays": {torch: dict(zip(SIDES, (torch, same), strict=True))}})
            yield (
                f"{torch} has shape {shapes[0]} in PyTorch, and {paddle} has {shapes[1]} in Paddle: if both hold the same numbers in this "
                f"order, say so in a file for --map: {row}"
            )


OTHER_CHANCE = "probability of bernoulli in training: "
"""How a sentence begins that names the probabilities of two draws. It says all about what differs there."""


def _draws(runs: Mapping[str, ModelRun]) -> Iterator[str]:
    """Yield sentences on dropouts and other random numbers that only one side draws, or with another probability."""
    for what, drawn in (
        ("dropout in training", {side: runs[side].dropouts for side in SIDES}),
        ("random numbers in training", {side: [d for d in runs[side].draws if d["p"] is None] for side in SIDES}),
    ):
        counts = [Counter((d["size"], d["kind"], d["p"]) for d in drawn[side]) for side in SIDES]
        chances = [sorted(d["chance"] for d in drawn[side] if d.get("chance") is not None) for side in SIDES]
        # The other side may draw uniform numbers, and compare them with the probability itself.
        if counts[0] == counts[1] and (chances[0] == chances[1] or len(chances[0]) != len(chances[1])):
            continue
        if counts[0] == counts[1]:
            yield OTHER_CHANCE + ", ".join(
                f"{NAMES[side]} {few([f'{chance:g}' for chance in both])} at {few(_places(drawn[side]))}"
                for side, both in zip(SIDES, chances, strict=True)
            )
            continue
        said = []
        for side in SIDES:
            places = [f"{d['path'] or '(the model itself)'} ({_drawn(d)})" for d in drawn[side]]
            verb, nothing = ("drops", "drops nothing") if what.startswith("dropout") else ("draws", "draws none")
            said.append(f"{NAMES[side]} {verb} at {few(places)}" if places else f"{NAMES[side]} {nothing}")
        yield f"{what}: {', '.join(said)}"


def _places(draws: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(draw["path"] or "(the model itself)" for draw in draws if draw.get("chance") is not None))


def _drawn(draw: Mapping[str, Any]) -> str:
    if draw["p"] is not None:
        return f"p = {draw['p']:g}"
    chance = draw.get("chance")
    return f"{draw['size']} {draw['kind']}" if chance is None else f"bernoulli({chance:g})"


def _scaled(runs: Mapping[str, ModelRun]) -> str | None:
    """Say where one side alone has dropouts that scale in inference."""
    scaled = {side: [(drop["path"], drop["p"]) for drop in runs[side].scaled] for side in SIDES if side in runs}
    for side, drops in scaled.items():
        if drops and not all(scaled.values()):
            places = [f"{path or '(the model itself)'} (p = {p:g})" for path, p in drops]
            return f"only {NAMES[side]} has dropout of the mode downscale_in_infer, at {few(places)}: {DOWNSCALES}"
    return None


def _explained(
    pairs: Iterator[tuple[Unit, Unit]] | Any, runs: Mapping[str, ModelRun], variance: str, training: bool, rounds: bool
) -> Iterator[str]:
    pairs = list(pairs)
    norms = [a for a, _ in pairs if a.kind == "BatchNorm"]
    if norms and training and variance == "biased":
        counts = {
            call["path"]: _count(runs["torch"].arrays[call["inputs"][0]])
            for call in runs["torch"].calls
            if call["inputs"]
        }
        ratios = [n / (n - 1) for a in norms if (n := counts.get(a.path, 0)) > 1]
        span = f"n/(n-1) = {min(ratios):.5g} to {max(ratios):.5g}" if ratios else "n/(n-1)"
        yield (
            f"running variance: PyTorch uses the unbiased batch variance and Paddle the biased one ({span}), at "
            f"{few([a.path for a in norms])}; the check uses Paddle's convention on both sides"
        )
    pointwise = [both_paths(a.path, b.path) for a, b in pairs if a.pointwise != b.pointwise]
    if pointwise:
        yield f"convolutions with a kernel of size 1 are matched with Linears, at {few(pointwise)}"
    rounded: dict[tuple[str, str, float], list[str]] = {}
    for a, _ in pairs:
        for name, value in a.settings.items():
            if (
                name in ("eps", "momentum_of_the_old", "slope", "alpha")
                and isinstance(value, float)
                and float(np.float32(value)) != value
            ):
                rounded.setdefault((a.kind, name, value), []).append(a.path)
    for (kind, name, value), places in rounded.items():
        if kind == "Hardsigmoid":
            yield f"float32 scalars: hard sigmoids round 1/6, and the check uses 1/6 on both sides, at {few(places)}"
        else:
            words = f"{_label(name)} {value:g} of {kind} to {float(np.float32(value))!r}"
            done = "rounds it" if rounds and kind == "BatchNorm" else f"uses {value:g}"
            yield f"float32 scalars: Paddle's kernels round {words}, and the check {done} on both sides, at {few(places)}"
    if runs["torch"].dropouts and training:
        yield f"dropout: both sides use the same masks, at {few([drop['path'] for drop in runs['torch'].dropouts])}"
    if (drawn := [draw["path"] for draw in runs["torch"].draws if draw["p"] is None]) and training:
        yield f"random numbers: both sides use the same ones, at {few(list(dict.fromkeys(drawn)))}"


def _count(x: Array) -> int:
    return x.size // x.shape[1] if x.ndim > 1 else 0


def find_cause(evidence: PairEvidence, phase: str, tensor: str, compared: Compared) -> Cause | None:
    """Return the likely cause of a difference, or None. It does not say which of the two models is wrong."""
    if compared.torch is None or compared.paddle is None:
        return explain(compared.torch, compared.paddle, SENTENCE_NAMES, tensor, ())
    a, b = compared.both
    special: str | None = None
    if not compared.calls and phase in ("eval", "forward") and (layout := find_layout(a, b, MATCH)):
        name = tensor.removeprefix("(output)").removeprefix(".")
        option = f'--output-layout "{name}={layout}"' if name else f'--output-layout "{layout}"'
        return Cause(f"the axes have another order, {layout} for PyTorch|Paddle; if that is intended, pass {option}")
    narrow = _narrow(evidence, a, b)
    if narrow and not (compared.calls and any(_own_settings(*compared.calls))):
        return Cause(narrow)
    if compared.calls:
        special = _of_calls(evidence, phase, tensor, compared, *compared.calls)
    elif phase in ("statistics", "update", "gradient"):
        special = _of_an_array(evidence, phase, tensor, a, b)
    elif phase in ("eval", "forward"):
        special = _behind(evidence, compared)
    what = f"gradient of {tensor}" if phase in ("backward", "gradient") else tensor
    found = Cause(special) if special else _explained_by_tensors(a, b, what)
    own = _kinds_of_own(*compared.calls) if compared.calls else ""
    sizes = _other_sizes_of_calls(evidence, *compared.calls) if compared.calls else ""
    if found and ((own and special in (None, own)) or (sizes and special == sizes)):
        found = replace(found, generic=True)
    if phase == "backward" and compared.calls and not special:
        found = _between_gradients(evidence, compared.calls[0], found)
    return found or _general_cause(evidence, phase, compared)


def _general_cause(evidence: PairEvidence, phase: str, compared: Compared) -> Cause | None:
    """Return what the whole models or the size of the difference suggest."""
    if phase in ("eval", "forward") and (uncalled := _uncalled(evidence)):
        return Cause(uncalled)
    if phase == "forward" and (drawn := next(_draws(evidence.runs), None)):
        return Cause(drawn, generic=not drawn.startswith(OTHER_CHANCE))
    if phase != "start" and (rounded := _like_float32(*compared.both)):
        return Cause(rounded, generic=True)
    if any(evidence.compiled.values()):
        return Cause("unknown, inside a compiled part: compare the models uncompiled to see the layer", generic=True)
    return None


def _narrow(evidence: PairEvidence, a: Array, b: Array) -> str | None:
    """Say that one side alone computes in a narrower dtype, if the error is as large as its rounding."""
    said = []
    for side, places in evidence.narrow.items():
        most = LIKE_FLOAT32[1] if dtypes(places) == "float32" else LIKE_FLOAT16
        if places and a.shape == b.shape and LIKE_FLOAT32[0] < relative_l2(a, b) < most:
            said.append(f"only {NAMES[side]} computes in {dtypes(places)}, at {few(words(places))}")
    return " and ".join(said) or None


def _uncalled(evidence: PairEvidence) -> str | None:
    """Say which matched layers only one model calls."""
    if any(evidence.compiled.values()):  # layers inside are not seen
        return None
    # A part of an attention layer, such as attention[query], has no call of its own.
    called = {side: {_whole(note["path"]) for note in run.calls} for side, run in evidence.runs.items()}
    said: list[str] = []
    for i, side in enumerate(SIDES):
        alone = [
            both_paths(pair[0].path, pair[1].path)
            for pair in evidence.pairing.pairs
            if _whole(pair[i].path) in called.get(side, ())
            and _whole(pair[1 - i].path) not in called.get(SIDES[1 - i], ())
        ]
        said += [f"only {NAMES[side]} calls {few(alone)}"] if alone else []
    return " and ".join(said) or None


def _whole(path: str) -> str:
    """Return the path of the layer that holds a part: attention of attention[query]."""
    return path.partition("[")[0]


def _between_gradients(evidence: PairEvidence, one: Call, found: Cause | None) -> Cause | None:
    """Say between which layers the gradient of an output begins to differ; `found` says how."""
    partner = evidence.pairing.partner("torch")
    later = evidence.runs["torch"].calls[one.number + 1 :] if "torch" in evidence.runs else []
    following = next((note["path"] for note in later if note["path"] in partner), "")
    where = f"between {one.name} and {following}" if following else f"behind {one.name}"
    said = found.sentence if found and found.sentence else "the gradients differ"
    return Cause(f"{said}; the backward passes begin to differ {where}", generic=True)


def _explained_by_tensors(a: Array, b: Array, tensor: str) -> Cause | None:
    """Explain one tensor by the other, in both directions."""
    reverse = SENTENCE_NAMES[1], SENTENCE_NAMES[0]
    return explain(a, b, SENTENCE_NAMES, tensor, _hypotheses(a, b)) or explain(b, a, reverse, tensor, _hypotheses(b, a))


def _hypotheses(a: Array, b: Array) -> Iterator[Hypothesis]:
    if a.dtype.kind == "f" == b.dtype.kind:
        yield from tensor_hypotheses(a, b, {})


def _of_calls(evidence: PairEvidence, phase: str, tensor: str, compared: Compared, one: Call, two: Call) -> str | None:
    """Return the cause of a difference in an input or an output of a layer."""
    forward = phase in ("eval", "forward")
    if forward and ":input" in tensor:
        return _between(evidence, one, two, compared)
    rows, around = list(_own_settings(one, two)), None
    if one.inputs and two.inputs:
        x, y = evidence.runs["torch"].arrays[one.inputs[0]], evidence.runs["paddle"].arrays[two.inputs[0]]
        around = padding_of(one.unit, two.unit, x, y)
    if around is not None:
        rows = [row for row in rows if row[0] not in PADDING]
    said = [around] if around else []
    said += [_settings_sentence(one.unit.kind, one.unit.note, *row) for row in rows]
    for side, unit in zip(SIDES, (one.unit, two.unit), strict=True):
        # The output projection of an attention layer holds out_proj.bias.
        holders = {unit.holder} | {
            f"{unit.holder}.{name_in(spelling)}".lstrip(".").rpartition(".")[0] for spelling in unit.spellings.values()
        }
        own = [name for name in evidence.pairing.single[side] if name.rpartition(".")[0] in holders]
        said += [f"only {NAMES[side]} has {few(own)}"] if own else []
    if one.unit.kind != two.unit.kind and not said and not (_is_own(one.unit) and _is_own(two.unit)):
        return _kinds_sentence(one.unit, two.unit)
    if said:
        return "; ".join(said)
    if forward and (found := _whole_numbers(evidence, one, two) or _turned_input(evidence, one, two)):
        return found
    a, b = compared.both
    if not forward or a.shape != b.shape:
        return None
    narrow = _dtype(a, b) if evidence.dtype == "float64" else None
    sizes = _other_sizes_of_calls(evidence, one, two)
    return sizes or narrow or _of_a_layer(evidence, one, compared) or _elsewhere(evidence, one, a)


def _kinds_of_own(one: Call, two: Call) -> str:
    """Say that two layers have different kinds, of which one is a class of the user: its functions show what differs; else ""."""
    own = _is_own(one.unit) or _is_own(two.unit)
    return _kinds_sentence(one.unit, two.unit) if own and one.unit.kind != two.unit.kind else ""


def _is_own(unit: Unit) -> bool:
    """Whether a layer's class is neither the framework's nor one of the table of kinds."""
    name = unit.classes[0]
    return not name.startswith(f"{unit.side}.") and unit.kind == name.rpartition(".")[2].lower()


def _whole_numbers(evidence: PairEvidence, one: Call, two: Call) -> str | None:
    """Say where the integers or booleans that a layer gets differ, such as the indices of an embedding."""
    for key, other in zip(one.inputs, two.inputs, strict=False):
        x, y = evidence.runs["torch"].arrays[key], evidence.runs["paddle"].arrays[other]
        if x.dtype.kind not in "iub" or y.dtype.kind not in "iub":
            continue
        if way := find_fit(x, y):
            x, y = way.torch(x), way.paddle(y)
        elif x.size == y.size:
            y = y.reshape(x.shape)
        else:
            with contextlib.suppress(ValueError):  # positions may lack the axis of the batch
                x, y = np.broadcast_arrays(x, y)
        if x.shape == y.shape and (differ := x != y).any():
            return f"the whole numbers that go into {one.name} {describe_places(x, y, differ)}"
    return None


def _turned_input(evidence: PairEvidence, one: Call, two: Call) -> str | None:
    """Say that a layer gets the same input on both sides, with axes in another order: it does not treat all axes alike."""
    for key, other in zip(one.inputs[:1], two.inputs[:1], strict=False):
        x, y = evidence.runs["torch"].arrays[key], evidence.runs["paddle"].arrays[other]
        if x.shape != y.shape and sorted(x.shape) == sorted(y.shape) and (way := find_fit(x, y)):
            if relative_l2(way.torch(x), way.paddle(y)) > MATCH:
                return None
            first = one.unit.settings.get("batch_first")
            both = f", and batch first is {first} on both sides" if first is not None else ""
            return f"the input of {one.name} has its axes in another order: {list(x.shape)} in PyTorch, {list(y.shape)} in Paddle{both}"
    return None


def _other_sizes_of_calls(evidence: PairEvidence, one: Call, two: Call) -> str:
    """Do `other_sizes` for the inputs of two calls in the last run; "" where one has none."""
    if not one.inputs or not two.inputs:
        return ""
    return other_sizes(
        one, two, evidence.runs["torch"].arrays[one.inputs[0]], evidence.runs["paddle"].arrays[two.inputs[0]]
    )


def other_sizes(one: Call, two: Call, x: Array, y: Array) -> str:
    """Say that the inputs `x` and `y` of two layers have other sizes of axes, which padding inside does not make up for; else ""."""
    if x.ndim != y.ndim or x.ndim < 3 or x.size == y.size or x.shape[:2] != y.shape[:2]:
        return ""
    if padding_of(one.unit, two.unit, x, y) is not None:
        return ""
    return f"the input of {one.name} has shape {list(x.shape)} in PyTorch, {list(y.shape)} in Paddle"


def describe_places(torch: Array, paddle: Array, differ: Array, form: str = "") -> str:
    """Say at how many places two arrays differ, and show the first one; `differ` are booleans, and `form` the format of a number."""
    places = np.argwhere(differ)
    first = tuple(int(i) for i in places[0])
    numbers = f"{torch[first]:{form}} in {NAMES['torch']}, {paddle[first]:{form}} in {NAMES['paddle']} at {list(first)}"
    return f"differ at {len(places)} of {torch.size} places: {numbers}"


def _of_an_array(evidence: PairEvidence, phase: str, tensor: str, a: Array, b: Array) -> str | None:
    """Return the cause of a difference in a running statistic, an update or a gradient."""
    if phase == "gradient" and (tied := [text for text in _alone(evidence.pairing) if f"{tensor} (in" in text]):
        return tied[0]
    if not a.size or not b.size:
        return f"no gradient in {NAMES[SIDES[bool(a.size)]]}: it is not used there, or not trained"
    for one, two in evidence.pairing.pairs:
        if tensor.rpartition(".")[0] in _names((one, two)):
            places = [both_paths(one.path, two.path)]
            rows = [
                _settings_sentence(one.kind, one.note, n, _text(x), _text(y), places)
                for n, x, y in differing(one, two)
                if phase == "statistics" or n in OF_GRADIENTS
            ]
            return "; ".join(rows) or None
    return None


def _names(pair: tuple[Unit, Unit]) -> set[str]:
    return {f"{pair[0].path}.{name}".lstrip(".").rpartition(".")[0] for name in pair[0].arrays}


def _own_settings(one: Call, two: Call) -> Iterator[tuple[str, str, str, list[str]]]:
    for name, x, y in differing(one.unit, two.unit):
        yield name, _text(x), _text(y), [both_paths(one.unit.path, two.unit.path)]


def _dtype(a: Array, b: Array) -> str | None:
    for side, array in zip(SIDES, (a, b), strict=True):
        if array.dtype == np.float32:
            return f"{NAMES[side]} computes it in float32 although the model is in float64: a constant made in forward may be float32"
    return None


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _erf(x: Array) -> Array:
    y: Array = np.vectorize(math.erf, otypes=[np.float64])(x)
    return y


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "{}": lambda x: x,
    "relu({})": _relu,
    "relu6({})": lambda x: np.clip(x, 0, 6),
    "leaky_relu({}, 0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "tanh({})": np.tanh,
    "sigmoid({})": lambda x: 1 / (1 + np.exp(-x)),
    "silu({})": lambda x: x / (1 + np.exp(-x)),
    "gelu({})": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2 if x.size < 100_000 else np.full_like(x, np.nan),
    "hardswish({})": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid({})": lambda x: np.clip(x + 3, 0, 6) / 6,
    "the mean of {} over its maps": lambda x: x.mean(tuple(range(2, x.ndim))) if x.ndim > 2 else x * np.nan,
}
"""Wording -> function, for what a model may compute between two layers."""


def _between(evidence: PairEvidence, one: Call, two: Call, compared: Compared) -> str | None:
    """Say what the input of a layer is on each side, in terms of earlier outputs; None where its shapes say more."""
    if compared.both[0].size != compared.both[1].size:
        return None
    said = [
        _made_of(evidence.runs[side], call, array)
        for side, call, array in zip(SIDES, (one, two), compared.both, strict=True)
    ]
    if not any(said) or said[0] == said[1]:
        return None
    if None in said and any(call.number == 0 and what for call, what in zip((one, two), said, strict=True)):
        return None  # the input of the first call is that of the model by assumption: functions may run before it
    texts = [f"{what or 'something else'} in {NAMES[side]}" for side, what in zip(SIDES, said, strict=True)]
    scaled = (
        _scaled(evidence.runs)
        if compared.name.startswith("eval") and any("* " in (text or "") for text in said)
        else None
    )
    if scaled:
        return scaled
    return f"the input of {one.name} is {' and '.join(texts)}"


def _made_of(run: ModelRun, call: Call | None, array: Array) -> str | None:
    last = call.number if call else len(run.calls)
    for note in reversed(run.calls[max(0, last - 12) : last]):
        for key in note["outputs"]:
            if text := _function_of(run.arrays[key], array):
                return text.format(f"the output of {note['path'] or 'the model'}")
    for note in run.calls[:1]:
        for key in note["inputs"]:
            if text := _function_of(run.arrays[key], array):
                return text.format("the model's input")
    return None


def _function_of(x: Array, y: Array) -> str | None:
    if x.dtype.kind != "f" or y.size > x.size:
        return None
    for text, function in FUNCTIONS.items():
        with np.errstate(all="ignore"):
            made = function(x)
        if made.size == y.size and relative_l2(made.reshape(y.shape), y) <= MATCH:
            return text
    if x.size == y.size > 1 and x.any():
        ratio = float(np.vdot(x, y)) / float(np.vdot(x, x))
        if relative_l2(x.reshape(y.shape) * ratio, y) <= MATCH:
            return f"{ratio:.10g} * {{}}"
    return None


def _behind(evidence: PairEvidence, compared: Compared) -> str | None:
    """Say what each model returns, in terms of the outputs of its last layers; nothing where a model shows no layers."""
    if not all(evidence.runs[side].calls for side in SIDES):
        return None
    said = [_made_of(evidence.runs[s], None, x) for s, x in zip(SIDES, compared.both, strict=True)]
    if not any(said) or said[0] == said[1]:
        return None
    texts = [f"{NAMES[side]} returns {what or 'something else'}" for side, what in zip(SIDES, said, strict=True)]
    return " and ".join(texts)


def _of_a_layer(evidence: PairEvidence, one: Call, compared: Compared) -> str | None:
    """Say what one side's layer may have computed from the same input."""
    path, kind = one.unit.path, one.unit.kind
    x = evidence.runs["torch"].arrays[one.inputs[0]] if one.inputs else None
    weight = evidence.state.get(f"{path}.weight".lstrip("."))
    bias = evidence.state.get(f"{path}.bias".lstrip("."), np.float64(0))
    if x is None:
        return None
    x = with_last_channels(one.unit, x)
    if kind == "Linear" and weight is not None and (x.shape[-1],) * 2 == weight.shape:
        for side, made in zip(SIDES, compared.both, strict=True):
            if relative_l2(made, x @ weight + bias) <= MATCH:
                return f"the square weight is transposed in {NAMES[side]}"
    for side, made in zip(SIDES, compared.both, strict=True):
        if made.shape == x.shape and relative_l2(x, made) <= MATCH:
            return f"it does nothing in {NAMES[side]}: its output is its input"
    return None


def _elsewhere(evidence: PairEvidence, one: Call, a: Array) -> str | None:
    """Find another Paddle layer whose output equals this PyTorch layer's output."""
    run = evidence.runs["paddle"]
    for note in run.calls:
        for key in note["outputs"]:
            other = run.arrays[key]
            if other.shape == a.shape and other.dtype.kind == "f" and relative_l2(a, other) <= MATCH:
                return f"Paddle's {note['path']} computes what PyTorch's {one.name} computes"
    return None


def _like_float32(a: Array, b: Array) -> str | None:
    if LIKE_FLOAT32[0] < relative_l2(a, b) < LIKE_FLOAT32[1]:
        return LIKE_ROUNDING
    return None


def _text(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
