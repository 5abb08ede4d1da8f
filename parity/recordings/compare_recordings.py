"""Compare two recordings: what was not alike to begin with, and then tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.backend.registry import NAMES
from parity.compare import engine
from parity.compare.outcome import Outcome
from parity.compare.tolerances import MOST_MAGNIFIED, ONE_STEP
from parity.compare.verdicts import TRAINING
from parity.errors import InputError
from parity.modules.layer_kinds import KINDS, SIDES, read_kinds
from parity.pairs import causes, mapping, model_tree
from parity.pairs.map_files import read_map
from parity.pairs.outcome import PairOutcome
from parity.recipe.optimizer_description import CLIPPING, LABELS, OTHER_CLASS, is_own
from parity.recordings import conditions
from parity.recordings.recorded_pair import RecordedPair, run_of
from parity.recordings.recording import RankRecording, read_recording
from parity.recordings.recording_source import BY_HAND, RecordingSource
from parity.short_repr import few

WIDTH = ("bfloat16", "float16", "float32", "float64")
"""Dtypes, the one with the fewest digits first."""

BEGAN = "to begin with, "
"""Begins the sentences among the differences of an outcome that are conditions."""

STAGES = tuple(stage for stage in TRAINING if stage != "eval")


@dataclass(repr=False)
class RecordingOutcome(PairOutcome):
    """The result of a comparison of two recordings.

    Attributes:
        conditions: Sentences on what was not alike to begin with.
        optimizers: Sentences on how the optimizers differ. They make the verdict "different". The updates decide on another class
            whose step somebody else than the framework wrote.
    """

    conditions: list[str] = field(default_factory=list)
    optimizers: list[str] = field(default_factory=list)

    def other_differences(self) -> Collection[str]:
        """Names of layers and arrays that only one model has, and settings of the optimizers that differ."""
        return [*super().other_differences(), *self.optimizers]

    def sentence(self) -> str:
        """Return the verdict in one line, with what the matching of layers left open, and what the recordings cannot tell."""
        found = Outcome.sentence(self)
        return "; ".join([found, *self.pairing.notes, *self._untold()])

    def _untold(self) -> Iterator[str]:
        first = self.first
        unexplained = first and first.phase not in ("start", "input") and (first.cause is None or first.generic)
        if first and unexplained and first.error < MOST_MAGNIFIED * first.bound and not self.how["twins"]:
            yield "no twin was given, so rounding that the models multiply counts as a difference (parity.record(..., twin=1), --twin)"
        elif not first and self.dtype != "float64":
            yield f"in {self.dtype}, differences below {ONE_STEP[self.dtype]:.0e} of a tensor do not show"

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as dicts, lists, numbers and texts, for `json.dumps`."""
        return super().to_json() | {"conditions": self.conditions, "optimizers": self.optimizers}


def compare_recordings(
    one: str | Path,
    two: str | Path,
    *,
    twins: Sequence[str | Path] = (),
    map_file: str | Path | None = None,
    save_map: str | Path | None = None,
    kinds_file: str | Path | None = None,
    say: Callable[[str], None] = engine.Silent,
) -> RecordingOutcome:
    """Compare two recordings of `parity.record`: inputs, layers, loss, gradients and updates of every step that both have.

    PyTorch's recording is the reference; of two recordings of one framework, the first is. What was not alike to begin with
    comes first: inputs, initial weights, dropout masks, optimizers, dtypes, TF32. If the first step did not begin alike,
    nothing that was computed is compared: `parity.replay` makes it alike. Each rank is compared with the same rank.

    Tolerances: in float64, rounding, and the scalars that Paddle's kernels hold in float32. In other dtypes, some thousand
    roundings of the dtype, or ten times what a one-ULP twin shows. `docs/recordings.md` says what they cannot show.

    Args:
        one: The folder of a recording.
        two: The folder of the other one.
        twins: Recordings of the reference's program made with `parity.record(..., twin=1)`.
        map_file: A JSON file that says which layers are pairs.
        save_map: Where to write the map that was used.
        kinds_file: A JSON file of further kinds of layers.
        say: A function that is called with each line of progress.

    Returns:
        The verdict and everything that was compared.

    Raises:
        InputError: A recording is damaged, mixed, or holds no whole step; or the layers cannot be matched.

    Examples:
        ```python
        outcome = parity.compare_recordings("torch.run", "paddle.run")
        print(outcome.verdict, outcome.sentence())
        ```
    """
    paths = [Path(one), Path(two)]
    found = [read_recording(path) for path in paths]
    if [ranks[0].description.framework for ranks in found] == ["paddle", "torch"]:
        paths.reverse()
        found.reverse()
    beside = [read_recording(Path(path)) for path in twins]
    for ranks, path in zip(beside, twins, strict=True):
        if not ranks[0].description.twin:
            raise InputError(f"{path} is no twin: record it with parity.record(..., twin=1)")
        if ranks[0].description.modules != found[0][0].description.modules:
            raise InputError(f"{path} is no twin of {paths[0]}, the reference: its model is another one")
    given = read_map(Path(map_file)) if map_file else None
    kinds = read_kinds(Path(kinds_file)) if kinds_file else KINDS
    count = len(found[0]) if len(found[0]) == len(found[1]) else 1
    outcomes = []
    for rank in range(count):
        sides = (found[0][rank], found[1][rank])
        pair = RecordedPair(sides, given, kinds, find_narrowest_dtype(sides))
        outcomes.append(_compare(pair, paths, [ranks[rank] for ranks in beside if rank < len(ranks)], say))
        if save_map and not rank:
            mapping.save(Path(save_map), pair.pairing)
    return _together(outcomes)


def find_narrowest_dtype(sides: Sequence[RankRecording]) -> str:
    """Return the dtype with the fewest digits among those of both recordings."""
    dtypes = {side.description.dtype for side in sides}
    dtypes |= {dtype for side in sides for dtype in side.step(side.numbers[0]).description.dtypes}
    found = [dtype for dtype in WIDTH if dtype in dtypes]
    if not found:
        raise InputError(f"{sides[0].path} and {sides[1].path} hold no floating-point numbers that could be compared")
    return found[0]


def _compare(
    pair: RecordedPair, paths: Sequence[Path], twins: Sequence[RankRecording], say: Callable[[str], None]
) -> RecordingOutcome:
    source = RecordingSource(pair, twins)
    descriptions = [pair.sides[side].description for side in SIDES]
    first = [pair.record(side, pair.numbers[0]) for side in SIDES]
    optimizers = conditions.in_steps(source.optimizer_differences)
    began = list(conditions.about_programs(pair))
    runs = {side: pair.run(side, record)[0] for side, record in zip(SIDES, first, strict=True)}
    aligned = pair.align(runs)
    settings, _ = causes.settings(pair.pairing, aligned, runs, "unbiased", True)
    optimizer, other = pair.optimizers(pair.numbers[0])
    undecided = [OTHER_CLASS] if optimizer.kind != other.kind and (is_own(optimizer) or is_own(other)) else []
    if any(record.description.clips and not record.description.clipped for record in first):
        undecided.append(LABELS["unclipped"])  # recordings of version 0.2.0 do not say which parameters a loop clips
    outputs = next(iter(run_of(first[0]).outputs.values()), None)
    outcome = RecordingOutcome(
        source.sides,
        pair.dtype,
        STAGES,
        differences=[
            *(BEGAN + text for text in [*began, *optimizers]),
            *map(pair.in_words, [*settings, *causes.other_kinds(aligned)]),
        ],
        factories={
            side: f"{path} ({NAMES[d.framework]} {d.versions.get(d.framework, '?')})"
            for side, path, d in zip(SIDES, paths, descriptions, strict=True)
        },
        lanes={side: dict(d.versions) for side, d in zip(SIDES, descriptions, strict=True)},
        pairing=pair.pairing,
        how={
            "recipe": "recorded",
            "optimizer": {
                "kind": optimizer.kind,
                "rate": source.optimizer.rate,
                **{
                    name: value
                    for name, value in next(iter(optimizer.parameters.values()), {}).items()
                    if name in ("momentum", "nesterov")
                },
            },
            "data": f"recorded: {pair.sides[SIDES[0]].path.parent.name}, {pair.sides[SIDES[1]].path.parent.name}",
            "steps": len(pair.numbers),
            "batch_size": len(outputs) if outputs is not None and outputs.ndim else 1,
            "seed": descriptions[0].seed,
            "device": descriptions[0].device,
            "threads": descriptions[0].threads,
            "twins": len(source.twins) if pair.dtype != "float64" else 1,
        },
        conditions=[*began, *optimizers],
        optimizers=[text for text in optimizers if not any(said in text for said in undecided)],
    )
    engine.run(source, outcome, False, say)
    _settle_clipping(outcome, source)
    called = {a.partition("#")[0]: b.partition("#")[0] for a, b in outcome.verdicts.partners.items()}
    outcome.models = model_tree.side_by_side(pair.models, {**called, **pair.pairing.partner(SIDES[0])})
    if outcome.first and outcome.first.layer and not source.not_alike:
        outcome.tree = model_tree.draw(pair.models, pair.pairing, outcome.first)
    values = [f"{kind} differ: {few(names)}" for kind, names in source.not_alike.items()]
    outcome.conditions[:0] = values
    outcome.differences[:0] = [BEGAN + text for text in values]
    return outcome


def _settle_clipping(outcome: RecordingOutcome, source: RecordingSource) -> None:
    """Leave a clipping of one optimizer out of the verdict, if the other program does the same by its own code."""
    ways = [source.clips_alone.get(number, "") for number in source.pair.numbers]
    said = [text for text in outcome.optimizers if CLIPPING in text]
    if outcome.first or not said or not all(ways):
        return
    if BY_HAND in ways:
        outcome.optimizers = [text for text in outcome.optimizers if text not in said]
        outcome.conditions = [text for text in outcome.conditions if text not in said]
        outcome.differences = [text for text in outcome.differences if text.removeprefix(BEGAN) not in said]
        outcome.explained.append(
            f"{said[0]}; the other program clips by its own code, so gradients are compared after it"
        )
        return
    hint = "; no gradient reaches the limit in these steps, so a clipping by own code would not show"
    outcome.optimizers = [text + hint if text in said else text for text in outcome.optimizers]
    outcome.conditions = [text + hint if text in said else text for text in outcome.conditions]
    outcome.differences = [t + hint if t.removeprefix(BEGAN) in said else t for t in outcome.differences]


def _together(outcomes: Sequence[RecordingOutcome]) -> RecordingOutcome:
    """Return the outcome of the first rank that differs, or else of rank 0, with a sentence on the others."""
    chosen = next((i for i, outcome in enumerate(outcomes) if outcome.first), 0)
    if len(outcomes) > 1:
        rest = [f"rank {i}: {outcome.sentence()}" for i, outcome in enumerate(outcomes) if i != chosen]
        outcomes[chosen].explained.insert(0, f"this is rank {chosen}; {'; '.join(rest)}")
    return outcomes[chosen]
