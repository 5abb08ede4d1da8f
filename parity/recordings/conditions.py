"""What was not alike to begin with: what makes tensors differ although both programs may be the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from parity.arrays import Array
from parity.compare.relative_error import distance
from parity.modules.layer_kinds import SIDES
from parity.pairs.alignment import Alignment, draw_keys, find_fit, returned
from parity.pairs.model_server import ModelRun
from parity.recipe.optimizer_description import list_differences
from parity.recordings.recorded_pair import RecordedPair
from parity.recordings.recording import RecordingDescription, StepRecord
from parity.short_repr import steps_in_words


def about_programs(pair: RecordedPair) -> Iterator[str]:
    """Yield sentences on dtypes, devices, settings and numbers of processes that differ."""
    one, two = (pair.sides[side].description for side in SIDES)
    steps = [pair.record(side, pair.numbers[0]).description for side in SIDES]
    yield from _differing(pair, "dtype of the model", one.dtype, two.dtype)
    dtypes = [", ".join(step.dtypes) for step in steps]
    yield from _differing(pair, "dtypes inside", *dtypes) if one.layers and two.layers else ()
    yield from _differing(pair, "device", one.device, two.device)
    for name in sorted(one.settings.keys() | two.settings.keys()):
        if name.startswith("TF32") and "gpu" in (one.device, two.device):
            values = [_on(found, name) for found in (one, two)]
            yield from _differing(pair, name, *values)
    yield from _differing(pair, "processes", str(one.ranks), str(two.ranks))
    states: dict[str, list[int]] = {}
    for number, text in about_states(pair).items():
        states.setdefault(text, []).append(number)
    yield from (f"state of the optimizer before {steps_in_words(numbers)}: {text}" for text, numbers in states.items())
    yield from _differing(pair, "forward passes in step 1", *(str(step.batches) for step in steps))
    yield from _differing(pair, "backward passes in step 1", *(str(len(step.losses)) for step in steps))
    if pair.is_of_one:
        framework = one.framework
        yield from _differing(pair, "version", one.versions.get(framework, "?"), two.versions.get(framework, "?"))
    for found, name in ((one, pair.names[0]), (two, pair.names[1])):
        if found.twin:
            yield f"{name} is a one-ULP twin: its weights were moved before the first step; compare it with --twin"


def _on(found: RecordingDescription, name: str) -> str:
    if found.device != "gpu":
        return "off (CPU)"
    return "on" if found.settings.get(name) else "off"


def _differing(pair: RecordedPair, what: str, one: str, two: str) -> Iterator[str]:
    if one != two:
        yield f"{what}: {pair.names[0]} {one}, {pair.names[1]} {two}"


def about_states(pair: RecordedPair) -> dict[int, str]:
    """Return step -> what the optimizers kept before it, if only one of them kept anything."""
    found = {}
    for number in pair.numbers:
        kept = [", ".join(pair.record(side, number).description.slots) or "nothing" for side in SIDES]
        started = all(pair.record(side, number).named("start") for side in SIDES)
        if started and kept[0] != kept[1] and "nothing" in kept:
            found[number] = f"{pair.names[0]} {kept[0]}, {pair.names[1]} {kept[1]}"
    return found


def about_optimizers(pair: RecordedPair) -> dict[int, list[str]]:
    """Return step -> sentences on how the optimizers differ in it."""
    return {number: list_differences(*pair.optimizers(number), pair.names) for number in pair.numbers}


def in_steps(found: dict[int, list[str]]) -> list[str]:
    """Return each sentence of the steps once, with the steps in which it holds, unless it holds in all."""
    places: dict[str, list[int]] = {}
    for number, sentences in found.items():
        for text in sentences:
            places.setdefault(text, []).append(number)
    return [
        text if len(numbers) == len(found) else f"{steps_in_words(numbers)}: {text}" for text, numbers in places.items()
    ]


def inputs(pair: RecordedPair, records: tuple[StepRecord, StepRecord]) -> Iterator[tuple[str, Array, Array]]:
    """Yield the inputs of both models, and what both programs kept, in one order of axes: the name, and both arrays."""
    batches = min(record.description.batches for record in records)
    for prefix in [*(f"input/{batch}" for batch in range(batches)), "kept"]:
        arrays = [{name: record[f"{prefix}/{name}"] for name in record.named(prefix)} for record in records]
        for one, two in returned(arrays[0], arrays[1], "fiub"):
            a, b = arrays[0][one], arrays[1][two]
            if fit := find_fit(a, b):
                a, b = fit.torch(a), fit.paddle(b)
            label = one if prefix in ("input/0", "kept") else f"{one}@{int(prefix.rpartition('/')[2]) + 1}"
            yield label, a, b


def masks(
    pair: RecordedPair, records: tuple[StepRecord, StepRecord], runs: dict[str, ModelRun], aligned: Alignment
) -> Iterator[tuple[str, tuple[str, str], Array, Array]]:
    """Yield the masks of matched dropouts: the name, the layers and both arrays of factors."""
    keys = draw_keys(pair.pairing, runs, aligned)
    other = {stream: number for number, stream in keys[SIDES[1]].items()}
    draws = [record.description.draws for record in records]
    turns: Counter[str] = Counter()
    for number, stream in keys[SIDES[0]].items():
        if stream not in other:
            continue
        one, two = draws[0][number], draws[1][other[stream]]
        path = one["path"] or "(the model itself)"
        turns[path] += 1
        name = f"mask of {path}" + (f"#{turns[path]}" if turns[path] > 1 else "")
        yield name, (one["path"], two["path"]), records[0].mask(one) != 0, records[1].mask(two) != 0


def is_alike(a: Array, b: Array, tolerance: float) -> bool:
    """Whether two arrays are equal up to `tolerance`."""
    return a.shape == b.shape and distance(a, b) <= tolerance
