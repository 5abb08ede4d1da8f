"""Run the check on a planted fault or an innocent change, between two workers."""

from __future__ import annotations

from parity.backend.registry import spoken_name
from parity.backend.worker import Worker
from parity.compare.check import CheckOutcome, run_check
from parity.compare.verdicts import stage_of
from parity.data import Dataset
from parity.onnx.comparison import compare_through_onnx
from parity.selftest.fault import Fault
from parity.selftest.innocent_changes import Innocent
from parity.selftest.subject import subject

RIGHT, GENERIC, NONE, WRONG = "right", "generic", "none", "wrong"
"""Kinds of causes: it names the fault, only describes the difference, is missing, or names another mistake or the other side."""


def plant(
    fault: Fault, pair: dict[str, Worker], dataset: Dataset, dtype: str = "float64", planted: str = "paddle"
) -> CheckOutcome:
    """Return the outcome with `fault` on the side `planted` of the `pair`."""
    check = subject(dataset, fault.recipe, dtype=dtype, made=fault.network)
    return run_check(check, pair, fault.change(check), onnx=compare_through_onnx, planted=planted)


def judge_cause(fault: Fault, outcome: CheckOutcome, planted: str) -> str:
    """Return the kind of the cause with `fault` on the side `planted`: `RIGHT`, `GENERIC`, `NONE` or `WRONG`."""
    first = outcome.first
    if first is None or first.cause is None:
        return NONE
    if first.wrong not in ("", spoken_name(planted)):
        return WRONG
    if first.generic:
        return GENERIC
    return RIGHT if first.wrong and fault.cause and fault.cause in first.cause else WRONG


def complaint(fault: Fault, outcome: CheckOutcome, planted: str) -> str:
    """Return what is wrong with how the check found `fault` on the side `planted`.

    Empty if the stage and layer are right, and the cause is right where one can be named, and never wrong.
    """
    first = outcome.first
    if first is None:
        return f"{fault.name} was not caught"
    stage = stage_of(first.step, "update" if first.phase == "statistics" else first.phase, outcome.asked)
    if (stage, first.phase, first.layer) != (fault.stage, fault.phase, fault.layer):
        return f"{fault.name} should be found in {fault.stage}, {fault.phase}, at {fault.layer}; it was at {first.sentence()}"
    kind = judge_cause(fault, outcome, planted)
    if kind == WRONG or fault.cause not in (first.cause or ""):
        return f"{fault.name} should be explained by {fault.cause!r}; it was {first.sentence()}"
    return ""


def innocent(change: Innocent, pair: dict[str, Worker], dataset: Dataset, dtype: str = "float64") -> CheckOutcome:
    """Return the outcome with `change`; a change of one side is made on the second side of the `pair`."""
    check = change.check(subject(dataset, dtype=dtype))
    if change.reverse:
        pair = dict(reversed(pair.items()))
    return run_check(
        check, pair, change.one and change.one(check), change.common and change.common(check), onnx=compare_through_onnx
    )
