"""`vgg-parity pairs`: compare models of PyTorch's libraries with those of Paddle's (`parity.pairs.library_pairs`)."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from parity.cli.command import PATH, Options, argument, command, failures, option
from parity.cli.compare import surroundings, trained, training
from parity.compare.verdicts import DIFFERENT
from parity.errors import InputError
from parity.files import generated_block
from parity.files.atomic import write_atomically
from parity.modules.layer_kinds import SIDES
from parity.pairs.compare_models import compare_models
from parity.pairs.library_environments import environments_folder, find_interpreter
from parity.pairs.library_pairs import PAIRS, LibraryPair, chosen
from parity.pairs.match_models import ModelsDiffer
from parity.progress import Console, Phases
from parity.report import plain
from parity.report.kept_results import read_pair
from parity.report.pairs_table import TABLES
from parity.training.run_folder import check_writable

ALIKE = ("dtype", "optimizer", "steps", "seed")
"""Fields in which all rows of a table agree."""


@command(
    "pairs",
    "Compare models of PyTorch's libraries with those of Paddle's, by name, or all of them.",
    ("resnet18,vgg16", "bert,swin", "all --report docs/pairs --update docs/pairs.md"),
)
@argument("names", metavar="NAME[,NAME...]|all")
@option("--report", type=PATH, metavar="DIR", help="write the result of each pair as NAME.json")
@option(
    "--update",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="write the tables of all results in --report into FILE, between their marks; repeat the option for more files",
)
@option(
    "--environments",
    type=PATH,
    metavar="DIR",
    help="the environments that scripts/library_environments.py made (default: those in the cache)",
)
@trained
def main(options: Options, console: Console) -> dict[str, Any]:
    """Compare pairs of library models; a difference is a result, not a failure."""
    if options.report:
        check_writable(options.report, "--report")  # before minutes of work
    blocks = {file: _blocks(file) for file in options.update}
    with failures(), Phases(len(chosen(options.names)), "starting the frameworks") as phases:
        results = _compare(options, console, phases)
    rows = _kept(options.report, results) if options.report else results
    for file, marks in blocks.items():
        _update(file, marks, rows)
        console.say(f"{file} is up to date")
    return dict(plain({"verdict": "done", "results": results}))


def _compare(options: Options, console: Console, phases: Phases) -> list[dict[str, Any]]:
    """Return one result per pair; different architectures are a result, too."""
    rows = []
    interpreters = {pair.name: _pythons(pair, options) for pair in chosen(options.names)}  # before minutes of work
    for pair in chosen(options.names):
        pythons = interpreters[pair.name]
        phases.begin(pair.name)
        console.say(pair.name)
        head: dict[str, Any] = {
            "name": pair.name,
            "torch": pair.torch,
            "paddle": pair.paddle,
            "input_shape": list(pair.input_shape),
        }
        head |= {"inputs": dict(pair.inputs), "set": pair.settings()}
        started = time.monotonic()
        try:
            outcome = compare_models(
                torch=pair.torch,
                paddle=pair.paddle,
                input_shape=pair.input_shape or None,
                named_inputs=pair.inputs,
                set_torch=pair.set_torch,
                set_paddle=pair.set_paddle,
                widen=pair.widen,
                say=partial(_tell, phases, pair.name),
                **training(options) | pythons,
            )
            row = outcome.to_json()
            del row["layers"], row["models"], row["tree"]  # hundreds of kilobytes in all, and the table shows the worst
        except ModelsDiffer as error:
            row = {
                "verdict": DIFFERENT,
                "sentence": str(error),
                "differences": [str(error)],
                "stages": {},
                "trajectory": [],
            }
        console.say(f"  {row['sentence']}", row["verdict"])
        row |= {"seconds": round(time.monotonic() - started, 2)}
        rows.append(dict(plain(head | row | _surroundings(options))))
        if options.report:
            write_atomically(options.report / f"{pair.name}.json", json.dumps(rows[-1], indent=1).encode() + b"\n")
    return rows


def _surroundings(options: Options) -> dict[str, Any]:
    """Return the command line, device and machine of a row, without folders of this machine."""
    found = surroundings("pairs", options)
    return found | {"command": without_folders(found["command"])}


def without_folders(command: str) -> str:
    """Return a command line with names in place of absolute paths: that of an interpreter's environment, or the last one."""
    return shlex.join(_name_of_path(word) for word in shlex.split(command))


def _name_of_path(word: str) -> str:
    option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    path = PurePath(value)
    if not path.is_absolute() and path.parts[:1] != ("~",):
        return word
    is_interpreter = path.parent.name in ("bin", "Scripts") and len(path.parts) > 3
    return f"{option}{equals}{path.parts[-3] if is_interpreter else path.name}"


def _pythons(pair: LibraryPair, options: Options) -> dict[str, Path | None]:
    """Return the interpreters of both sides: those of the command line, or else of the pair's environments."""
    folder, found = options.environments, dict[str, Path | None]()
    for side, name in zip(SIDES, pair.environments, strict=True):
        given: Path | None = getattr(options, f"{side}_python")
        found[f"{side}_python"] = given or (find_interpreter(name, folder or environments_folder()) if name else None)
    return found


def _tell(phases: Phases, name: str, line: str) -> None:
    """Show the finished step next to the pair's `name`."""
    phases.rename(f"{name}, {line.partition(':')[0]}")


def _blocks(file: Path) -> list[str]:
    """Return the names of the tables that `file` has marks for; `InputError` where it has none."""
    found = []
    for mark in TABLES:
        with contextlib.suppress(InputError):
            generated_block.around(file, mark)
            found.append(mark)
    if not found:
        generated_block.around(file, next(iter(TABLES)))
    return found


def _update(file: Path, marks: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Write the tables named by `marks` into `file`."""
    for mark in marks:
        generated_block.update(file, mark, TABLES[mark](rows))


def _kept(folder: Path, fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results of this run, and those in `folder` of earlier runs with the same settings, in the order of the pairs."""
    rows = {row["name"]: row for row in fresh}
    for file in (folder / f"{name}.json" for name in PAIRS if name not in rows):
        with contextlib.suppress(InputError):  # no result of a pair
            rows[file.stem] = read_pair(file)
    # Where architectures differ, nothing was run, and no settings are known.
    alike = next(({key: row.get(key) for key in ALIKE} for row in rows.values() if row["stages"]), None)
    found = [rows[name] for name in PAIRS if name in rows]
    return [row for row in found if not row["stages"] or {key: row.get(key) for key in ALIKE} == alike]
