"""`vgg-parity selftest`: count the planted faults that this check finds, and those that other tools' criteria would find."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import parity
from parity import data
from parity.backend.child_process import Record
from parity.backend.registry import NAMES
from parity.backend.worker import Worker
from parity.cli.command import (
    PATH,
    Failed,
    Options,
    choice,
    command,
    option,
)
from parity.cli.options import python_options
from parity.compare.check import Check, Plant
from parity.compare.program import Program, run_in_lockstep
from parity.compare.step_inputs import RunInputs
from parity.compare.verdicts import Divergence
from parity.data import Dataset
from parity.files import generated_block
from parity.pairs.match_models import ModelsDiffer
from parity.pairs.model_worker import ModelWorker
from parity.progress import Console, bar
from parity.selftest import trial
from parity.selftest.catalogue import FAULTS
from parity.selftest.fault import Fault
from parity.selftest.file_edit import WORKERS, FileEdit
from parity.selftest.innocent_changes import INNOCENT
from parity.selftest.of_programs import PROGRAMS, SPELLED
from parity.selftest.of_transformers import ALIKE, TRANSFORMERS
from parity.selftest.other_criteria import CRITERIA, UNCHANGED, RecordedPair
from parity.selftest.subject import subject

OURS = "this suite"
SUMMARY, COUNTS, LIST, PORTS, TRAININGS = (
    "faults-summary",
    "faults",
    "fault list",
    "transformer faults",
    "training faults",
)
"""The words in the marks of the generated blocks."""

NETWORKS, PAIR, TRAINING = "networks", "transformers", "training"
"""What is changed: networks of ours with their training; one of two transformers, or one of two programs that train two models, which are
compared as a user's are."""

ROOT = f"{Path(parity.__file__).parents[1]}/"
"""The folder of this installation, which the error messages of frameworks contain and a page should not."""

Row = dict[str, Any]


@command(
    "selftest",
    "Plant every known fault on either side, make every innocent change, and count what this check and other tools report.",
    (
        "",
        "--update README.md docs/faults.md   (replaces the text between their marks)",
    ),
)
@option(
    "--update",
    type=PATH,
    nargs=2,
    metavar="SUMMARY TABLES",
    help=f"put a summary between <!-- {SUMMARY} --> and <!-- /{SUMMARY} --> of the first file; in the second, put the counts between "
    f"<!-- {COUNTS} --> and <!-- /{COUNTS} -->, the list of all faults between <!-- {LIST} --> and <!-- /{LIST} -->, that of "
    f"transformers between <!-- {PORTS} --> and <!-- /{PORTS} -->, and that of training between <!-- {TRAININGS} --> and "
    f"<!-- /{TRAININGS} -->",
)
@option(
    "--subject",
    type=choice((NETWORKS, PAIR, TRAINING)),
    help="change only this (default: all); minutes for transformers and training",
)
@python_options
def main(options: Options, console: Console) -> Row:
    """Plant everything and print the tables; `Failed` if this check missed a fault or raised a false alarm."""
    subjects = [options.subject] if options.subject else [NETWORKS, PAIR, TRAINING]
    if options.update:
        for mark, file in _places(options, subjects).items():
            generated_block.around(file, mark)  # before hours of work
    result: Row = {}
    blocks: dict[str, str] = {}
    if NETWORKS in subjects:
        faults, alarms = _of_networks(options, console)
        result |= {"faults": faults, "innocent": alarms}
        blocks = {
            SUMMARY: headline(_totals(faults, "caught"), _totals(alarms, "alarms"), len(faults), len(alarms)),
            COUNTS: counts_table(faults, alarms).rstrip(),
            LIST: f"{causes(faults)}\n\n{listing(faults)}",
        }
    if PAIR in subjects:
        result["transformers"] = ports = _of_edits((*TRANSFORMERS, *ALIKE), PAIR, options)
        blocks[PORTS] = edits_listing(ports, "transformers at their layers")
    if TRAINING in subjects:
        result["training"] = trainings = _of_edits((*PROGRAMS, *SPELLED), TRAINING, options)
        blocks[TRAININGS] = edits_listing(trainings, "training by what they are")
    if options.update:
        for mark, file in _places(options, subjects).items():
            generated_block.update(file, mark, blocks[mark])
        for file in options.update:
            console.say(f"{file} is up to date")
    else:
        for line in "\n\n".join(blocks.values()).splitlines():
            console.say(line)
    planted = [row for rows in ("faults", PAIR, TRAINING) for row in result.get(rows, ())]
    wrong = [row["complaint"] for row in planted if row["complaint"]]
    wrong += [row["name"] for row in result.get("innocent", ()) if row["alarms"][OURS]]
    if wrong:
        raise Failed(f"this suite is wrong about {len(wrong)}: {'; '.join(wrong)}", result)
    return result


def _places(options: Options, subjects: list[str]) -> dict[str, Path]:
    """The file of every block of the `subjects`, by the word in its marks."""
    summary, tables = options.update
    places = {
        NETWORKS: {SUMMARY: summary, COUNTS: tables, LIST: tables},
        PAIR: {PORTS: tables},
        TRAINING: {TRAININGS: tables},
    }
    return {mark: file for subject in subjects for mark, file in places[subject].items()}


def _of_networks(options: Options, console: Console) -> tuple[list[Row], list[Row]]:
    dataset = data.load_auto(None, console.say)[0]
    with Worker("torch", options.torch_python, 1) as torch, Worker("paddle", options.paddle_python, 1) as paddle:
        pair = {"torch": torch, "paddle": paddle}
        faults = [_fault(fault, pair, dataset) for fault in bar(FAULTS.values(), "faults")]
        changes = [name for name, change in INNOCENT.items() if change.threads == 1]
        return faults, [_innocent(name, pair, dataset) for name in bar(changes, "innocent changes")]


def _of_edits(edits: Sequence[FileEdit], what: str, options: Options) -> list[Row]:
    """Make every change of a file, and compare each changed file with its twin in the other framework."""
    pythons = {"torch": options.torch_python, "paddle": options.paddle_python}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        workers = {
            name: stack.enter_context(ModelWorker(side, pythons[side], threads=1)) for name, side in WORKERS.items()
        }
        return [_edit(edit, workers, Path(folder)) for edit in bar(edits, f"changes of {what}")]


def _edit(edit: FileEdit, workers: Mapping[str, ModelWorker], folder: Path) -> Row:
    found = {side: edit.compare(side, workers, folder) for side in edit.sides}
    last = found[edit.sides[-1]]
    complaints = (edit.complaint(side, one) for side, one in found.items())
    row = {"name": edit.name, "sentence": edit.sentence, "innocent": edit.is_innocent, "sides": edit.sides}
    row["complaint"] = "; ".join(filter(None, complaints))
    if isinstance(last, ModelsDiffer):
        return row | {"found": "not matched", "cause": str(last)}
    return row | {"found": last.first and _where(last.first), "cause": last.first and last.first.cause}


def _fault(fault: Fault, pair: dict[str, Worker], dataset: Dataset) -> Row:
    outcomes = {side: trial.plant(fault, pair, dataset, planted=side) for side in pair}
    first = outcomes["paddle"].first
    check = subject(dataset, fault.recipe, dtype="float32", made=fault.network)
    records = list(_records(check, pair, fault.change(check)))
    run = RecordedPair(records, check.network.output, fault.area)
    return {
        "name": fault.name,
        "area": fault.area,
        "sentence": fault.sentence,
        "found": first and _where(first),
        "cause": first and first.cause,
        "causes": {side: trial.judge_cause(fault, outcome, side) for side, outcome in outcomes.items()},
        "complaint": "; ".join(filter(None, (trial.complaint(fault, o, side) for side, o in outcomes.items()))),
        "caught": {OURS: all(outcome.first for outcome in outcomes.values())}
        | {c.name: c.judge(run) for c in CRITERIA},
    }


def _innocent(name: str, pair: dict[str, Worker], dataset: Dataset) -> Row:
    change = INNOCENT[name]
    outcome = trial.innocent(change, pair, dataset)
    check = change.check(subject(dataset, dtype="float32"))
    records = list(_records(check, pair, change.one and change.one(check), change.common and change.common(check)))
    run = RecordedPair(records, check.network.output, UNCHANGED)
    alarms = {OURS: outcome.first is not None} | {c.name: c.judge(run) for c in CRITERIA}
    return {"name": name, "sentence": change.sentence, "alarms": alarms}


def _records(
    check: Check, pair: dict[str, Worker], plant: Plant | None = None, common: Plant | None = None
) -> Iterator[tuple[Record, Record]]:
    """Yield the records of both sides of a float32 run, step by step, with the learning rate, which the other tools log."""
    both = common(check.run_inputs()) if common else check.run_inputs()
    inputs_of: dict[str, RunInputs] = dict.fromkeys(pair, both)
    if plant:
        inputs_of[list(pair)[1]] = plant(both)
    for step in run_in_lockstep({name: Program(worker, inputs_of[name]) for name, worker in pair.items()}, check.steps):
        first, second = (
            record | {"input/rate": np.array([step.inputs[name].rate])} for name, record in step.records.items()
        )
        yield first, second


def _where(first: Divergence) -> str:
    return f"step {first.step}, {first.phase}, {first.tensor}"


def headline(caught: Mapping[str, int], alarms: Mapping[str, int], faults: int, changes: int) -> str:
    """Return the counts in two sentences: planted faults that each criterion has `caught`, and its false `alarms`, by criterion."""
    found, false = ([counts[name] for name in counts if name != OURS] for counts in (caught, alarms))
    return (
        f"This check finds {caught[OURS]} of {faults} planted faults and reports {alarms[OURS]} of {changes} innocent changes.\n"
        f"Means and thresholds, as other tools compare, find {min(found)} to {max(found)} of these faults\n"
        f"and report {min(false)} to {max(false)} of these innocent changes."
    )


def _totals(rows: list[Row], key: str) -> dict[str, int]:
    """How often each criterion reported something, over all `rows`."""
    return {name: sum(row[key][name] for row in rows) for name in rows[0][key]}


def counts_table(faults: list[Row], alarms: list[Row]) -> str:
    """Return the table of all criteria: faults caught in every area, and false alarms."""
    areas = list(dict.fromkeys(row["area"] for row in faults))
    names = list(faults[0]["caught"])
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for area in areas:
        rows = [row for row in faults if row["area"] == area]
        lines.append(_counts(f"{area} ({len(rows)})", rows, "caught"))
    lines.append(_counts(f"**all faults ({len(faults)})**", faults, "caught"))
    lines.append(_counts(f"**false alarms ({len(alarms)} innocent changes)**", alarms, "alarms"))
    return "\n".join(lines) + "\n"


def _counts(title: str, rows: list[Row], key: str) -> str:
    return f"| {title} | {' | '.join(map(str, _totals(rows, key).values()))} |"


def causes(faults: list[Row]) -> str:
    """Return how many causes name the fault, over both sides on which it was planted."""
    kinds = Counter(kind for row in faults for kind in row["causes"].values())
    counts = ", ".join(f"{kind} {kinds[kind]}" for kind in (trial.RIGHT, trial.GENERIC, trial.NONE, trial.WRONG))
    return f"Likely causes of {len(faults)} faults, each planted on either side: {counts}."


def listing(faults: list[Row]) -> str:
    """Return the table of all faults."""
    lines = ["| fault | | found at | likely cause named |", "|---|---|---|---|"]
    for row in faults:
        cause = (row["cause"] or "").replace(ROOT, "")
        lines.append(f"| `{row['name']}` | {row['sentence']} | {row['found'] or '**missed**'} | {cause} |")
    return "\n".join(lines)


def edits_listing(rows: list[Row], what: str) -> str:
    """Return the tables of transformers, or of training: the mistakes, then the innocent changes."""
    faults, alike = ([row for row in rows if row["innocent"] == innocent] for innocent in (False, True))
    right = [sum(not row["complaint"] for row in some) for some in (faults, alike)]
    lines = [
        f"This check finds {right[0]} of {len(faults)} faults of {what},",
        f"and calls {right[1]} of {len(alike)} innocent changes equal.",
        "",
        "| fault | | found at | likely cause named |",
        "|---|---|---|---|",
        *(
            f"| `{row['name']}` | {row['sentence']} | {row['found'] or '**missed**'} | {row['cause'] or ''} |"
            for row in faults
        ),
        "",
        "| innocent change | | made in |",
        "|---|---|---|",
        *(f"| `{row['name']}` | {row['sentence']} | {' and '.join(NAMES[s] for s in row['sides'])} |" for row in alike),
    ]
    return "\n".join(lines)
