"""Kept results of `vgg-parity check` and `pairs`, each verified when it is read.

`check --network all --resume FILE` keeps one result per line, `pairs --report DIR` one file per pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from parity import report
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL, STAGES
from parity.errors import InputError
from parity.files.atomic import write_atomically
from parity.files.strict_json import check_type, parse_json, read_text

Verdict = Literal["equal", "chaotic but equal", "different"]
Number = float | Literal["inf", "-inf", "nan"]


class _Stage(TypedDict):
    verdict: Verdict
    compared: float
    different: float
    max_error: Number
    bound: Number
    smallest_bound_that_passes: Number
    worst: str


class _Element(TypedDict):
    index: Sequence[int]
    reference: Number
    candidate: Number
    difference: Number


class _Details(TypedDict, total=False):
    """What results of earlier versions lack."""

    candidate_layer: str
    where: str
    shapes: Sequence[Sequence[int] | None]
    elements: Sequence[_Element]


class _Divergence(_Details):
    step: float
    phase: str
    layer: str
    tensor: str
    error: Number
    bound: Number
    cause: str | None
    sentence: str


class _Partner(TypedDict, total=False):
    candidate_layer: str


class _Layer(_Partner):
    layer: str
    errors: Mapping[str, Number]
    bounds: Mapping[str, Number]


class _Step(TypedDict):
    step: float
    rate: Number
    error: Number
    bound: Number
    twin: Number | None
    loss: Mapping[str, Number]


class _Alone(TypedDict):
    layer: str
    verdict: Verdict
    forward: Number | None
    backward: Number | None
    bound: Number


class _Result(TypedDict):
    """What `parity.cli.check.describe` returns for one network, with the versions and the given flags."""

    command: str
    network: str
    recipe: str
    data: str
    dtype: str
    steps: int
    batch_size: int
    seed: int
    device: str
    threads: int
    machine: str
    seconds: float
    started: str
    verdict: Verdict
    first_divergence: _Divergence | None
    stages: Mapping[str, _Stage]
    layers: Sequence[_Layer]
    trajectory: Sequence[_Step]
    isolated: Sequence[_Alone] | None
    explained: Sequence[str]
    lanes: Mapping[str, Mapping[str, str]]
    asked: Mapping[str, str | None]


class _PairStage(TypedDict):
    compared: int
    max_error: Number


class _PairStep(TypedDict):
    step: int
    error: Number | None
    moved: Number | None


class _Pair(TypedDict):
    """The fields of one pair that the tables of `vgg-parity pairs` show."""

    name: str
    torch: str
    input_shape: Sequence[int]
    set: Sequence[Sequence[str]]
    verdict: Verdict
    sentence: str
    differences: Sequence[str]
    stages: Mapping[str, _PairStage]
    trajectory: Sequence[_PairStep]


class _Environment(TypedDict, total=False):
    """Fields that not every file of a pair has."""

    lanes: Mapping[str, Mapping[str, str]]
    inputs: Mapping[str, str]
    seconds: float


def read_pair(file: Path) -> dict[str, Any]:
    """Read the result of one pair that `vgg-parity pairs --report` wrote; `InputError` if `file` holds no result of its pair."""
    row = parse_json(read_text(file, "a result"), str(file))
    for fields in (_Pair, _Environment):
        check_type(row, fields, str(file))
    if row["name"] != file.stem or any(len(one) != 2 for one in row["set"]):
        raise InputError(f"{file} holds no result of the pair {file.stem}: remove it")
    return row


def read_results(file: Path) -> list[dict[str, Any]]:
    """Read the results in `file`, none if it does not exist; `InputError` if a line is not a complete result."""
    try:
        lines = read_text(file, "results").splitlines() if file.exists() else []
        return [_result(line, f"line {number}") for number, line in enumerate(lines, start=1)]
    except (InputError, OSError) as error:
        raise InputError(f"cannot continue after {file} ({error}): remove it to start afresh") from None


def _result(line: str, place: str) -> dict[str, Any]:
    result = parse_json(line, place)
    check_type(result, _Result, place)
    stages = result["stages"]
    if not stages or not set(stages) <= set(STAGES):
        raise InputError(
            f"{place} has the stages {', '.join(stages) or 'of no check'}, expected some of {', '.join(STAGES)}"
        )
    verdict = max((stage["verdict"] for stage in stages.values()), key=[EQUAL, CHAOTIC, DIFFERENT].index)
    if result["verdict"] != verdict:
        raise InputError(f"{place} has the verdict {result['verdict']!r}, but its stages are {verdict!r}")
    return result


def write_results(file: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Replace `file` by these results."""
    lines = (json.dumps(one, default=report.plain) + "\n" for one in results)
    write_atomically(file, "".join(lines).encode())
