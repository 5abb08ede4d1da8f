"""`vgg-parity compare A.run B.run`: compare two recordings of training loops."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from parity import machine
from parity.cli.command import Failed, Options, command_line, failures
from parity.cli.reports import check_reports, write_reports
from parity.compare.verdicts import DIFFERENT
from parity.errors import InputError
from parity.progress import Console, Phases
from parity.recordings.compare_recordings import RecordingOutcome, compare_recordings
from parity.report import plain

USED = {"recordings", "twin", "map", "save_map", "kinds", "report", "markdown", "json", "words"}
"""The options that a comparison of recordings takes."""


def compare(options: Options) -> tuple[RecordingOutcome, dict[str, Any]]:
    """Compare the two recordings of `options`; return the outcome, and the result for the reports."""
    check_reports(options)
    started = datetime.now().isoformat(timespec="seconds")
    with failures(), Phases(1) as phases:
        phases.begin("reading")
        outcome = compare_recordings(
            *_paths(options),
            twins=options.twin,
            map_file=options.map,
            save_map=options.save_map,
            kinds_file=options.kinds,
            say=phases.begin,
        )
        result = outcome.to_json()
    result |= {
        "command": command_line("compare", options),
        "machine": machine.describe(),
        "started": started,
        "device": outcome.how["device"],
        "threads": outcome.how["threads"],
    }
    return outcome, result


def finish(outcome: RecordingOutcome, result: dict[str, Any], options: Options, console: Console) -> dict[str, Any]:
    """Write the reports; return what `--json` prints. `Failed` if the recordings differ."""
    shown = dict(plain(result))
    write_reports(options, result, shown, console)
    if outcome.verdict == DIFFERENT:
        raise Failed(f"the recordings are {outcome.sentence()}", shown)
    return shown


def _paths(options: Options) -> tuple[Path, Path]:
    if len(options.recordings) != 2:
        count = len(options.recordings)
        raise InputError(
            f"{count} recording{'s are' if count > 1 else ' is'} given: give two, such as torch.run paddle.run"
        )
    one, two = options.recordings
    return one, two
