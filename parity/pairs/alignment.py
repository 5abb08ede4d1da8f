"""Match the calls of layers on both sides, and yield their tensors under one name in the order of computation.

The pairing matches layers with weights. Between two of them, layers without weights are matched by kind, in order. A call without a
partner (a ReLU that the other side writes as a function) is skipped: the input of the next layer shows whether both did the same.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.compare.relative_error import distance, norm
from parity.modules.description import Unit
from parity.modules.layer_kinds import SIDES
from parity.pairs.match_models import Pairing
from parity.pairs.match_pointwise import with_last_channels
from parity.pairs.model_worker import ModelRun

SKIPPED = ("Identity",)
"""Kinds of layers that compute nothing."""

ALIKE = {
    *("ReLU", "ReLU6", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Tanh", "Hardswish", "Hardsigmoid", "Softplus"),
    *("celu", "selu", "hardtanh", "hardshrink", "softshrink", "softsign", "tanhshrink", "logsigmoid", "mish"),
}
"""Kinds of activations. One kind may stand where the other model has another, by mistake or with another name."""

SAME_INPUT = 1e-9
"""Largest relative L2 error at which two arrays count as the same, such as the inputs of two activations of different kinds."""

FAR = 0.5
"""Arrays that are farther from each other in one shape are not brought into one shape."""

NEARER = 0.25
"""Arrays of one shape are compared in another order of axes if that makes their distance smaller by at least this factor."""

MOST_PLACES = 64
"""At most this many places of a smaller tensor in a larger one are tried, and as many orders of axes."""

CENTRING = ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm")
"""Kinds of layers that subtract the mean of their input. No gradient comes back through that mean."""

MOST_NUMBERS = 2**25
"""Above this many numbers in all of these together, fewer are tried."""


@dataclass(frozen=True)
class Call:
    """One call of a leaf: the unit, the index among its own calls, the index among all calls of the run, and the keys of its arrays."""

    unit: Unit
    turn: int
    number: int
    inputs: Sequence[str]
    outputs: Sequence[str]

    @property
    def name(self) -> str:
        """The path, with the number of the call from the second one on."""
        return (self.unit.path or "(the model itself)") + (f"#{self.turn + 1}" if self.turn else "")


@dataclass
class Alignment:
    """Matched calls in the reference's order, and the calls of each side that have no partner."""

    pairs: list[tuple[Call, Call]]
    alone: dict[str, list[Call]] = field(default_factory=dict)

    def unit_pairs(self) -> list[tuple[Unit, Unit]]:
        """Return each pair of units once."""
        found = {(a.unit.path, b.unit.path): (a.unit, b.unit) for a, b in self.pairs}
        return list(found.values())


@dataclass(frozen=True)
class Seen:
    """The `side` whose layers are all recorded, while the other model is compiled. `partner`: Paddle's path of a layer -> PyTorch's."""

    side: str
    partner: Mapping[str, str]


def calls_of(units: Sequence[Unit], notes: Sequence[Mapping[str, Any]]) -> list[Call]:
    """Return the calls of leaves in the order of execution."""
    by_path = {unit.path: unit for unit in units if unit.leaf}
    turns: Counter[str] = Counter()
    found = []
    for number, note in enumerate(notes):
        unit = by_path.get(note["path"])
        if unit is None or unit.kind in SKIPPED:
            continue
        found.append(Call(unit, turns[unit.path], number, note["inputs"], note["outputs"]))
        turns[unit.path] += 1
    return found


def align(pairing: Pairing, torch: Sequence[Call], paddle: Sequence[Call]) -> Alignment:
    """Match the calls of one run of both models."""
    partner = pairing.partner("torch")
    there = {(call.unit.path, call.turn): call for call in paddle}
    anchors: dict[int, Call] = {}
    for call in torch:
        other = there.get((partner.get(call.unit.path, "\0"), call.turn))
        if other is not None:
            anchors[call.number] = other
    segments = _segments(paddle, {call.number for call in anchors.values()})
    pairs: list[tuple[Call, Call]] = []
    for anchor, segment in _segments(torch, set(anchors)).items():
        if anchor is None:
            pairs += _by_kind(segment, segments.get(None, []))
            continue
        first = next(call for call in torch if call.number == anchor)
        other = anchors[anchor]
        pairs += [(first, other), *_by_kind(segment, segments.get(other.number, []))]
    done = {a.number for a, _ in pairs}, {b.number for _, b in pairs}
    alone = [
        [c for c in calls if c.number not in numbers] for calls, numbers in zip((torch, paddle), done, strict=True)
    ]
    return Alignment(sorted(pairs, key=lambda pair: pair[0].number), {"torch": alone[0], "paddle": alone[1]})


def _segments(calls: Sequence[Call], anchors: set[int]) -> dict[int | None, list[Call]]:
    """Return number of an anchor (None: the beginning) -> the calls between it and the next anchor."""
    found: dict[int | None, list[Call]] = {None: []}
    last: int | None = None
    for call in calls:
        if call.number in anchors:
            last = call.number
            found[last] = []
        else:
            found[last].append(call)
    return found


def _by_kind(torch: Sequence[Call], paddle: Sequence[Call]) -> list[tuple[Call, Call]]:
    """Match the calls of layers without weights that come in the same order on both sides."""
    here, there = ([call for call in calls if not call.unit.owns] for calls in (torch, paddle))
    matcher = difflib.SequenceMatcher(None, [c.unit.kind for c in here], [c.unit.kind for c in there], autojunk=False)
    found: list[tuple[Call, Call]] = []
    for tag, a, a_end, b, b_end in matcher.get_opcodes():
        rows = here[a:a_end], there[b:b_end]
        alike = [[call for call in row if call.unit.kind in ALIKE] for row in rows]
        if tag == "equal":
            found += zip(*rows, strict=True)
        elif len(alike[0]) == len(alike[1]):
            found += zip(*alike, strict=True)
    return found


def without_other_inputs(alignment: Alignment, torch: ModelRun, paddle: ModelRun) -> Alignment:
    """Return `alignment` without the pairs of different kinds whose inputs differ: they are not at the same place."""

    def fits(a: Call, b: Call) -> bool:
        if a.unit.kind == b.unit.kind or a.unit.owns or not (a.inputs and b.inputs):
            return True
        one, two = torch.arrays.get(a.inputs[0]), paddle.arrays.get(b.inputs[0])
        return one is None or two is None or distance(one, _like(one, two)) <= SAME_INPUT

    parted = [pair for pair in alignment.pairs if not fits(*pair)]
    if not parted:
        return alignment
    numbers = {a.number for a, _ in parted}
    pairs = [pair for pair in alignment.pairs if pair[0].number not in numbers]
    alone = {
        side: sorted([*calls, *(pair[i] for pair in parted)], key=lambda call: call.number)
        for i, (side, calls) in enumerate(alignment.alone.items())
    }
    return Alignment(pairs, alone)


@dataclass(frozen=True)
class Compared:
    """One tensor of both sides: its name, its calls (None: the model itself), its arrays, and those of the twins.

    An array is None where that side has no such tensor. `shapes` are the shapes of both sides where they differ and one is a part of the
    other, or holds the same in another shape. `fitted` are the parts that both have.
    """

    name: str
    calls: tuple[Call, Call] | None
    torch: Array | None
    paddle: Array | None
    twins: tuple[Array, ...] = ()
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    fitted: tuple[Array, Array] | None = None

    @property
    def both(self) -> tuple[Array, Array]:
        """The arrays of both sides, where both have the tensor."""
        assert self.torch is not None and self.paddle is not None
        return self.torch, self.paddle


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
"""Activations that a Paddle layer may include, where PyTorch has a separate layer."""


def forward(
    alignment: Alignment, phase: str, torch: ModelRun, paddle: ModelRun, twins: Sequence[ModelRun]
) -> Iterator[Compared]:
    """Yield the inputs and outputs of all matched calls in order, and then the outputs of the models."""
    for a, b in alignment.pairs:
        for what in ("inputs", "outputs"):
            keeps_order = functools.partial(_keeps_order, a, b, torch, paddle) if what == "inputs" else None
            keys = getattr(a, what), getattr(b, what)
            act = (
                ACTIVATIONS.get(b.unit.settings.get("activation") or "", _as_it_is) if what == "outputs" else _as_it_is
            )
            for i, (one, two) in enumerate(zip(*keys, strict=False)):
                arrays = _with_last_channels(
                    a.unit, b.unit, (torch.arrays[one], paddle.arrays[two], *(twin.arrays[one] for twin in twins))
                )
                if all(array.dtype.kind == "f" for array in arrays):
                    name = f"{phase}/{a.name}:{what[:-1]}{i or ''}"
                    moved = tuple(act(array) for array in arrays[2:])
                    yield _fitted(name, (a, b), (act(arrays[0]), arrays[1], *moved), keeps_order=keeps_order)
    yield from outputs(phase, torch.outputs, paddle.outputs, [twin.outputs for twin in twins])


def _with_last_channels(a: Unit, b: Unit, arrays: Sequence[Array]) -> list[Array]:
    """Return the arrays of PyTorch, Paddle and the twins with the channels of pointwise convolutions on the last axis."""
    return [with_last_channels(b if i == 1 else a, array) for i, array in enumerate(arrays)]


def outputs(phase: str, torch: Record, paddle: Record, twins: Sequence[Record]) -> Iterator[Compared]:
    """Yield the outputs of the models, or their gradients, by name. Integers have no twin: they must be equal.

    An output of one model only has None on the other side.
    """
    matched = returned(torch, paddle, "fiub")
    for one, two in matched:
        a, b = torch[one], paddle[two]
        moved = tuple(twin[one] for twin in twins if one in twin) if a.dtype.kind == "f" else ()
        # A single number may have the shape [] or [1], which Paddle had for it before it had [].
        shapes = (a.shape, b.shape) if a.size == b.size == 1 and a.shape != b.shape else None
        yield Compared(_output(phase, one), None, a, b.reshape(a.shape) if shapes else b, moved, shapes)
    for name in torch.keys() - {one for one, _ in matched}:
        yield Compared(_output(phase, name), None, torch[name], None)
    for name in paddle.keys() - {two for _, two in matched}:
        yield Compared(_output(phase, name), None, None, paddle[name])


def starts_of(record: Record) -> Record:
    """Return the gradients of a model's outputs, with which the backward pass of a user's loss begins, by name of the output."""
    return {name.removeprefix("output/"): array for name, array in record.items() if name.startswith("output/")}


def _output(phase: str, name: str) -> str:
    return f"{phase}/(output){'.' + name if name else ''}"


def has_one_shape(a: Array, b: Array) -> bool:
    """Whether two arrays have one shape, or would have it if neither model had flattened it."""
    return a.shape == b.shape or (a.ndim != b.ndim and _like(a, b).shape == a.shape)


def _like(a: Array, b: Array) -> Array:
    """Reshape `b` like `a` where both hold the same batch and only one model has flattened it."""
    return b.reshape(a.shape) if a.ndim and b.ndim and a.shape[0] == b.shape[0] and a.size == b.size else b


Change = Callable[[Array], Array]
"""Brings an array into another shape."""


@dataclass(frozen=True)
class Fit:
    """How two arrays of different shapes are brought into one shape. `whole`: nothing of either is left out."""

    torch: Change
    paddle: Change
    whole: bool


def find_fit(a: Array, b: Array, backward: bool = False) -> Fit | None:
    """Return how to bring two arrays of different shapes nearest to each other in one shape; None if there is no way.

    One may have another order of axes, lack an axis that is broadcast later (a gradient: summed), or be the other with padding around it.
    """
    if a.shape == b.shape or min(a.size, b.size) < 2:
        return None
    most = max(2, min(MOST_PLACES, MOST_NUMBERS // max(a.size, b.size)))
    nearest, error = None, FAR
    for fit in itertools.chain(_reordered(a, b, most), _broadcast(a, b, backward), _cropped(a, b, most)):
        found = distance(fit.torch(a), fit.paddle(b))
        if found < error:
            nearest, error = fit, found
        if error <= SAME_INPUT:
            break
    return nearest


def find_turn(a: Array, b: Array) -> Fit | None:
    """Return the order of axes in which `b` is nearest to `a`, of the same shape; None if it is near as it is, or in no order."""
    if a.shape != b.shape or a.ndim < 3 or len(set(a.shape)) == a.ndim:
        return None
    error = distance(a, b)
    if error <= SAME_INPUT:
        return None
    most = max(2, min(MOST_PLACES, MOST_NUMBERS // a.size))
    turns = list(itertools.islice(_turned(a, b), most))
    found = [distance(a, turn.paddle(b)) for turn in turns]
    nearest = min(range(len(turns)), key=found.__getitem__)
    return turns[nearest] if found[nearest] < min(FAR, NEARER * error) else None


def _keeps_order(a: Call, b: Call, torch: ModelRun, paddle: ModelRun) -> bool:
    """Whether the outputs of two calls are near to each other in some order of axes.

    If the inputs have two orders, then that is intended. After a transpose that was forgotten, the outputs are far from each other.
    """
    for keys in zip(a.outputs, b.outputs, strict=False):
        one, two = torch.arrays[keys[0]], _like(torch.arrays[keys[0]], paddle.arrays[keys[1]])
        if one.shape == two.shape and not distance(one, two) < FAR and not find_turn(one, two):
            return False
    return True


def _turned(a: Array, b: Array) -> Iterator[Fit]:
    orders = (order for order in itertools.permutations(range(b.ndim)) if b.transpose(order).shape == a.shape)
    for order in orders:
        yield Fit(_as_it_is, functools.partial(np.transpose, axes=order), True)


def _reordered(a: Array, b: Array, most: int) -> Iterator[Fit]:
    if a.size == b.size:
        yield Fit(_as_it_is, lambda x: x.reshape(a.shape), True)
        if a.ndim == b.ndim:
            yield from itertools.islice(_turned(a, b), most)


def _broadcast(a: Array, b: Array, backward: bool) -> Iterator[Fit]:
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return
    if shape not in (a.shape, b.shape):
        return
    if not backward:
        widen = functools.partial(np.broadcast_to, shape=shape)
        yield Fit(widen, widen, True)
        return
    smaller = b.shape if a.shape == shape else a.shape
    full = (1,) * (len(shape) - len(smaller)) + smaller
    axes = tuple(i for i, (size, other) in enumerate(zip(shape, full, strict=True)) if size != other)

    def summed(x: Array) -> Array:
        return x if x.shape == smaller else x.sum(axes, keepdims=True).reshape(smaller)

    yield Fit(summed, summed, True)


def _cropped(a: Array, b: Array, most: int) -> Iterator[Fit]:
    if a.ndim != b.ndim or a.shape[:1] != b.shape[:1] or a.size == b.size:
        return
    ranges = [range(abs(one - two) + 1) for one, two in zip(a.shape, b.shape, strict=True)]
    sizes = [min(one, two) for one, two in zip(a.shape, b.shape, strict=True)]
    middle = tuple(len(r) // 2 for r in ranges)
    for starts in itertools.islice(itertools.chain([middle], itertools.product(*ranges)), most):
        crop = functools.partial(_crop, starts=starts, sizes=sizes)
        yield Fit(crop, crop, False)


def _middle(a: Array, b: Array) -> Fit | None:
    """Return how to leave out the ends of axes from the third one on, which only one model has padded; None if other axes differ."""
    if a.ndim != b.ndim or a.shape == b.shape or a.shape[:2] != b.shape[:2]:
        return None
    starts = [abs(one - two) // 2 for one, two in zip(a.shape, b.shape, strict=True)]
    crop = functools.partial(_crop, starts=starts, sizes=[min(sizes) for sizes in zip(a.shape, b.shape, strict=True)])
    return Fit(crop, crop, False)


def _of_any_batch(a: Array, b: Array, backward: bool) -> Fit | None:
    """Return how to give both arrays the first axis that only one has, or that has size 1 in one; None if other axes differ."""
    small, large = sorted((a.shape, b.shape), key=lambda shape: (len(shape), math.prod(shape)))
    alone = len(small) > 1 and small in (large[1:], (1, *large[1:])) and small != large
    return next(_broadcast(a, b, backward), None) if alone else None


def _crop(array: Array, starts: Sequence[int], sizes: Sequence[int]) -> Array:
    """Return the part of `sizes` that begins at `starts`, along the axes that are longer."""
    rows = zip(array.shape, starts, sizes, strict=True)
    return array[tuple(slice(start, start + size) if longer > size else slice(None) for longer, start, size in rows)]


def _fitted(
    name: str,
    calls: tuple[Call, Call],
    arrays: Sequence[Array],
    backward: bool = False,
    keeps_order: Callable[[], bool] | None = None,
) -> Compared:
    """Return a tensor inside from the `arrays` of PyTorch, Paddle and the twins, in one shape where there is a way.

    Arrays of one shape are compared in the order of axes in which they are nearest to each other. If `keeps_order` is given, they are so
    only if it returns True.
    """
    one, other, *twins = arrays
    other = _like(one, other) if one.ndim != other.ndim else other
    fit = find_fit(one, other, backward)
    if fit is None and (turn := find_turn(one, other)) and (keeps_order is None or keeps_order()):
        fit = turn
    fit = fit or _middle(one, other) or _of_any_batch(one, other, backward)
    other = other if fit else _like(one, other)
    if fit is None:
        return Compared(name, calls, one, other, tuple(twins))
    shapes = one.shape, other.shape
    changed = fit.torch(one), fit.paddle(other)
    if not fit.whole:
        return Compared(name, calls, one, other, tuple(twins), shapes, changed)
    return Compared(name, calls, *changed, tuple(fit.torch(twin) for twin in twins if twin.shape == one.shape), shapes)


def _as_it_is(x: Array) -> Array:
    return x


def returned(torch: Mapping[str, Array], paddle: Mapping[str, Array], kinds: str = "f") -> list[tuple[str, str]]:
    """Match the outputs of both models whose dtype is of numpy's `kinds`: by name, or else by position.

    If only some names are the same, the others match in order, if there are as many on both sides.
    """
    here, there = ([n for n, a in outputs.items() if a.dtype.kind in kinds] for outputs in (torch, paddle))
    same = set(here) & set(there)
    other = [[name for name in names if name not in same] for names in (here, there)]
    renamed = dict(zip(*other, strict=False)) if not same or len(other[0]) == len(other[1]) else {}
    return [(name, name if name in same else renamed[name]) for name in here if name in same or name in renamed]


def backward(alignment: Alignment, torch: Record, paddle: Record, twins: Sequence[Record]) -> Iterator[Compared]:
    """Yield the gradients of the outputs of all matched calls, from the last to the first, except layers that include an activation."""
    for a, b in reversed(alignment.pairs):
        if b.unit.settings.get("activation"):
            continue
        for i, (one, two) in enumerate(zip(a.outputs, b.outputs, strict=False)):
            arrays = torch.get(f"backward/{one}"), paddle.get(f"backward/{two}")
            if arrays[0] is not None and arrays[1] is not None:
                name = f"backward/{a.name}:output{i or ''}"
                moved = tuple(twin[f"backward/{one}"] for twin in twins if f"backward/{one}" in twin)
                own = _with_last_channels(a.unit, b.unit, (arrays[0], arrays[1], *moved))
                yield _fitted(name, (a, b), own, backward=True)


def seen_calls(alignment: Alignment, seen: Seen | None) -> list[tuple[Call | None, Call | None]]:
    """Return the matched calls, and None beside those without a partner of the side that is `seen`, in the order of this side."""
    if seen is None:
        return list(alignment.pairs)
    place, alone = SIDES.index(seen.side), alignment.alone.get(seen.side, [])
    single: list[tuple[Call | None, Call | None]] = [(None, call) if place else (call, None) for call in alone]
    return sorted([*alignment.pairs, *single], key=lambda pair: one.number if (one := pair[place]) else 0)


def output_gradients(
    alignment: Alignment, torch: Record, paddle: Record, seen: Seen | None = None
) -> dict[str, tuple[float, float]]:
    """Return PyTorch's path of a layer -> the largest norm of the gradient of its outputs, on both sides.

    A layer that is `seen` on one side only has the norm of that side twice.
    """
    found: dict[str, tuple[float, float]] = {}
    for a, b in seen_calls(alignment, seen):
        for keys in itertools.zip_longest(a.outputs if a else (), b.outputs if b else ()):
            if a and b and None in keys:
                continue
            arrays = [side.get(f"backward/{key}") for side, key in zip((torch, paddle), keys, strict=True)]
            sizes = [0.0 if array is None or not np.isfinite(array).all() else norm(array) for array in arrays]
            one, two = sizes if a and b else [max(sizes)] * 2
            path = _path_of(a, b, seen)
            before = found.get(path, (0.0, 0.0))
            found[path] = max(before[0], one), max(before[1], two)
    return found


def _path_of(a: Call | None, b: Call | None, seen: Seen | None) -> str:
    """Return PyTorch's path of the layer of a pair of calls, of which one may be None."""
    if a:
        return a.unit.path
    assert b and seen
    return seen.partner.get(b.unit.path, b.unit.path)


@dataclass(frozen=True)
class Cancelled:
    """The size of the terms of the gradient of a call's outputs, or of the model's input, which is zero but for rounding; and its own."""

    path: str
    terms: float
    left: float


def cancelled_gradients(
    alignment: Alignment,
    runs: Mapping[str, ModelRun],
    backs: Mapping[str, Record],
    limit: float,
    seen: Seen | None = None,
) -> dict[str, Cancelled]:
    """Return the gradients of outputs and inputs that are zero but for rounding, by name of the tensor.

    If only the batch's mean of a batch norm's output is used, the gradient before the norm is zero in exact arithmetic. Its terms are
    the gradient behind the norm times the norm's slope. If at most `limit` times their size is left on both sides, that is rounding. So
    is every gradient before it that is as small. The terms are those of PyTorch's run, or of the side that is `seen`.
    """
    found, behind, terms = dict[str, Cancelled](), 0.0, 0.0
    side = seen.side if seen else SIDES[0]
    back, arrays, place = backs[side], runs[side].arrays, SIDES.index(side)
    names: list[tuple[str, Call | None, str, list[tuple[Record, str]]]] = []
    for a, b in reversed(seen_calls(alignment, seen)):
        call, path = (a, b)[place], _path_of(a, b, seen)
        assert call
        outputs = list(itertools.zip_longest(a.outputs if a else (), b.outputs if b else ()))
        for i, keys in enumerate(outputs):
            if a and b and None in keys:
                continue
            own = [(backs[s], f"backward/{key}") for s, key in zip(SIDES, keys, strict=True) if key is not None]
            names.append((f"backward/{(a or call).name}:output{i or ''}", call, path, own))
    names += [(n, None, "", [(backs[s], n) for s in SIDES]) for n in backs[SIDES[0]] if n.startswith("input/")]
    for name, call, path, own in names:
        if any(key not in record for record, key in own):
            continue
        left = max(norm(record[key]) for record, key in own)
        if left <= limit * behind:
            terms = max(terms, behind)
        if 0 < left <= limit * terms:
            found[name] = Cancelled(path, terms, left)
        behind = 0.0
        if call and call.unit.kind in CENTRING and call.inputs:
            x, y = arrays[call.inputs[0]], arrays[call.outputs[0]]
            gradient = next(record[key] for record, key in own if record is back)
            behind = norm(gradient) * float(np.std(y)) / (float(np.std(x)) or np.inf)
    return found


def draw_keys(pairing: Pairing, runs: Mapping[str, ModelRun], alignment: Alignment) -> dict[str, dict[int, str]]:
    """Return by side the number of a draw -> the name of its random stream; two matched draws share a stream.

    Two draws match if they follow the same matched layer and have the same size and kind. Any other one has its own stream.
    """
    partner = {b.unit.path: a.unit.path for a, b in alignment.pairs} | pairing.partner("paddle")
    places: dict[str, list[tuple[str, tuple[int, str]]]] = {}
    for side, run in runs.items():
        names = [draw["path"] if side == "torch" else partner.get(draw["path"], draw["path"]) for draw in run.draws]
        places[side] = [(name, (draw["size"], draw["kind"])) for name, draw in zip(names, run.draws, strict=True)]
    found: dict[str, dict[int, str]] = {"torch": {}, "paddle": {}}
    here, there = ([what for _, what in places[side]] for side in ("torch", "paddle"))
    if Counter(places["torch"]) == Counter(places["paddle"]):
        for side, drops in places.items():
            turns: Counter[tuple[str, tuple[int, str]]] = Counter()
            for number, place in enumerate(drops):
                found[side][number] = f"{place[0]} {turns[place]}"
                turns[place] += 1
        return found
    matcher = difflib.SequenceMatcher(None, here, there, autojunk=False)
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            found["torch"][block.a + i] = found["paddle"][block.b + i] = f"pair {block.a + i}"
    for side, drops in places.items():
        found[side] |= {n: f"{side} {n}" for n in range(len(drops)) if n not in found[side]}
    return found
