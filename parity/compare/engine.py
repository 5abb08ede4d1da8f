"""The comparison engine: a source of tensors in, verdicts and the first divergence out.

Every comparison goes through `run`: training of our networks (`parity.compare.check`), and two models of a user
(`parity.pairs.compare_models`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial

from parity.backend.registry import spoken_name
from parity.compare.causes import Cause, ExplainedDifference, failure_cause
from parity.compare.isolation import isolate
from parity.compare.judge import HARMLESS, Judge, list_places
from parity.compare.noise_model import rounded_differences
from parity.compare.outcome import Outcome
from parity.compare.relative_error import Difference
from parity.compare.relu_kinks import find_crossings
from parity.compare.source import Rounded, Source
from parity.compare.tolerances import MOST_ROUNDING, MULTIPLIED, ONE_STEP, kink_tolerance
from parity.compare.verdicts import EQUAL, STAGES, Verdicts, stage_of
from parity.compare.worst_elements import worst_elements

Silent: Callable[[str], None] = lambda line: None  # noqa: E731
"""Ignores progress lines."""


def run(
    source: Source,
    outcome: Outcome,
    isolated: bool = False,
    say: Callable[[str], None] = Silent,
    more: Iterable[tuple[Difference, str]] = (),
) -> None:
    """Compare the two sides of `source`, and fill in `outcome`.

    Every stage of the first step is compared, and no step follows the one that diverges. `isolated` also compares layer by layer, each on
    the reference's own input. `say` receives one line for each step. `more` are tensors that another comparison, such as the ONNX
    comparison, has judged, with their layers. `NothingCompared` if a requested stage had no tensor.
    """
    started = time.monotonic()
    if not source.by_tensor:
        _one_rounded_step(source, outcome)
    if source.by_tensor or {"update", "trajectory"} & set(outcome.asked):
        _train(source, outcome, say)
    outcome.zero_gradients, outcome.absent = sorted(source.zero_gradients), [*source.absent, *outcome.absent]
    outcome.explained = [*source.explained, *outcome.explained]
    if isolated and not source.failed:
        outcome.isolated = isolate(source, ONE_STEP[outcome.dtype])
    if source.failed:
        outcome.explained.append(
            f"nothing more is compared: {', '.join(map(spoken_name, source.failed))} raised an error"
        )
    for difference, layer in () if source.failed else more:
        stage = stage_of(1, difference.name.partition("/")[0], outcome.asked)
        if stage:
            outcome.verdicts.add(stage, 1, difference, (layer, layer), partial(_known_cause, difference))
    outcome.summaries()  # raises where nothing was compared
    outcome.seconds = time.monotonic() - started


def _train(source: Source, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Run and judge every step, up to the one that diverges.

    A deep network may multiply rounding by more than the calm tolerances allow for. So before a small difference counts, all steps are
    repeated with a one-ULP twin that records every tensor.
    """
    before = list(outcome.explained)
    if not _judge_steps(source, outcome, say, None) and source.start_again():
        say("again, with every tensor of the one-ULP twin")
        outcome.verdicts, outcome.explained, outcome.hidden = Verdicts(), before, []
        outcome.trajectory.clear()
        _judge_steps(source, outcome, say, source.twins[0])


def _judge_steps(source: Source, outcome: Outcome, say: Callable[[str], None], whole: str | None) -> bool:
    """Do `_train` once; the twin `whole` records every tensor from the first step on.

    Such a run ends when rounding has been `MULTIPLIED`. Return False if the sides diverge in a step in which no twin recorded every
    tensor, by so little that rounding may explain it.
    """
    judge, repeated = Judge(source, outcome, whole), whole is not None
    for number in range(1, source.steps + 1):
        if outcome.first:
            break
        whole = judge.whole
        judge.step(source.step(number, whole))
        say(_line(outcome, number))
        if judge.excused and not outcome.first:
            _stop_behind_ties(source, outcome, number)
            break
        if number > 1 and outcome.first and _decided_by_rounding(source, outcome, judge):
            break
        twin = outcome.trajectory[-1]["twin"] if outcome.trajectory else None
        if repeated and number < source.steps and not outcome.first and twin and twin > MULTIPLIED:
            outcome.explained.append(
                f"step {number}: the weights of the one-ULP twin have a relative error of {twin:.0e}, because this network multiplies "
                "rounding; later steps are not compared"
            )
            outcome.absent = [*outcome.absent, *(["trajectory"] if number == 1 else [])]
            break
    if not outcome.first or whole or source.failed or outcome.dtype != "float64":
        return True
    return max((difference.error for difference, _ in judge.diverged), default=math.inf) > MOST_ROUNDING


def _stop_behind_ties(source: Source, outcome: Outcome, number: int) -> None:
    """Stop after this step: a max-pool tie has made the weights of the sides differ.

    In the first step the layers' derivatives are not compared yet, so each layer is compared in isolation.
    """
    outcome.explained.append(f"steps after step {number} are not compared")
    if number > 1:
        return
    outcome.absent = [*outcome.absent, "trajectory"]
    for row in isolate(source, ONE_STEP[outcome.dtype]):
        stage = stage_of(1, "backward", outcome.asked) or stage_of(1, "update", outcome.asked)
        if stage and row["verdict"] != EQUAL:
            error = Difference(f"backward/{row['layer']}", max(row["forward"], row["backward"]), row["bound"])
            outcome.verdicts.add(stage, 1, error, (row["layer"], row["candidate_layer"]))


def _one_rounded_step(source: Source, outcome: Outcome) -> None:
    """Judge every tensor of one step in the source's dtype, on both sides, against the float64 one."""
    if not any(stage in outcome.asked for stage, phases in STAGES.items() if phases and stage != "onnx"):
        return
    held: list[tuple[Difference, Callable[[], None]]] = []
    for tensor, side, difference in rounded_differences(source):
        stage = stage_of(1, tensor.phase, outcome.asked)
        if not stage:
            continue
        cause = partial(_rounded_cause, source, outcome, tensor, outcome.sides[side])
        worst = partial(worst_elements, *tensor.sides)
        add = partial(outcome.verdicts.add, stage, 1, difference, tensor.layers, cause, worst=worst)
        if tensor.inner and not difference.equal and not source.incomplete:
            held.append((difference, add))  # a tensor that decides shows whether it matters
            continue
        if not difference.equal:  # tolerances are wide: a flaw of an early stage may show only in a gradient
            for _, add_held in held:
                add_held()
            held.clear()
        add()
    places = [f"{d.name.partition('/')[2]} (error {d.error:.1e})" for d, _ in held]
    if places and not outcome.first:
        outcome.explained.append(list_places(HARMLESS, places))


def _known_cause(difference: Difference) -> Cause | None:
    """Return the cause that came with a difference."""
    return difference.cause if isinstance(difference, ExplainedDifference) else None


def _rounded_cause(source: Source, outcome: Outcome, tensor: Rounded, side: str) -> Cause:
    """Return why a side is far from float64: it raised an error, losses or settings of the layer differ, or the cause is unknown."""
    if side in source.failed:
        return failure_cause(source.failed, source.sides)
    if found := source.cause_of_rounded(tensor):
        return found
    if known := outcome.differences_at(tensor.layers[0]):
        return Cause(known)
    reference = spoken_name(outcome.sides[0])
    return Cause(
        f"{spoken_name(side)} in {outcome.dtype} is farther from {reference} in float64 than rounding explains",
        generic=True,
    )


def _decided_by_rounding(source: Source, outcome: Outcome, judge: Judge) -> bool:
    """Whether ReLU kinks explain all differences of this step. If so, the divergence becomes an explanation.

    Only trained weights are excused; see `parity.compare.tolerances.kink_tolerance`.
    """
    if any(moved is None for _, moved in judge.diverged):
        return False
    found = find_crossings(source, outcome.trajectory)
    allowed = [kink_tolerance(d.bound, found.share, moved) for d, moved in judge.diverged if moved is not None]
    if any(d.error > bound for (d, _), bound in zip(judge.diverged, allowed, strict=True)):
        return False
    outcome.verdicts.first = outcome.verdicts.largest = None
    outcome.verdicts.stages["trajectory"].excuse()
    outcome.explained += [f"{text}; later steps are not compared" for text in found.sentences]
    return True


def _line(outcome: Outcome, number: int) -> str:
    """Describe a step in one line."""
    row = outcome.trajectory[-1] if outcome.trajectory else {}
    if row.get("error") is None:
        return f"step {number}"
    twin = "" if row["twin"] is None else f", twin {row['twin']:.1e}"
    return f"step {number}: relative error of the weights {row['error']:.1e}{twin}, change since the start {row['moved']:.1e}"
