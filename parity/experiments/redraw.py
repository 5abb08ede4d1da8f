"""The table and pictures of an experiment again, from its result.json, without training.

`python -m parity.experiments.redraw docs/experiments/*/` writes the pictures of each folder, and the table between the marks of README.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity import data
from parity.backend.registry import FRAMEWORKS
from parity.data import Dataset
from parity.errors import InputError, suggest
from parity.experiments import EXPERIMENTS, STUDIES, cifar, timing
from parity.experiments.study import Report
from parity.experiments.tables import conditions, grouped
from parity.files import generated_block
from parity.files.atomic import write_atomically
from parity.files.strict_json import parse_json, read_text
from parity.standard_streams import printable

MARK = "result"
"""The word in the marks around the table, see `parity.files.generated_block`."""


def measured(result: dict[str, Any]) -> str:
    """Return the conditions of the measurement `result` as Markdown."""
    versions: dict[str, set[str]] = {}
    rows = result.get("rows") or [{"framework": name, "versions": own} for name, own in result["versions"].items()]
    for one in rows:
        versions.setdefault(one["framework"], set()).add(
            (one["versions"] or {}).get(one["framework"], "of unknown version")
        )
    study = STUDIES.get(result["experiment"])
    facts = {
        "Machine": ", ".join(dict.fromkeys(str(one.get("machine") or result["machine"]) for one in rows)),
        "Threads": " and ".join(dict.fromkeys(str(one.get("threads") or result["threads"]) for one in rows)),
        "Load average before": str(result.get("load_before", "")),
        "Versions": ", ".join(f"{FRAMEWORKS[name]} {' and '.join(sorted(found))}" for name, found in versions.items()),
        f"Against {study.against if study else 'the article'}": "; ".join(result["against_the_article"])
        or "nothing is shortened",
    }
    return "\n".join(conditions(facts, result["command"]))


def remake(result: dict[str, Any], load: Callable[[str], Dataset]) -> Report:
    """Return the report of the log `result` of an experiment; `load` returns a data set by its name."""
    if result["experiment"] == timing.TIMING.name:
        return timing.report(timing.TIMING, result["seconds"], result["batch_size"])
    study, rows = STUDIES[result["experiment"]], result["rows"]
    name = rows[0]["data"].partition(",")[0]  # "mnist10k, split 0"
    seeds = range(result["seeds"])
    if study is cifar.STUDY:
        classes = dict(zip(grouped(rows), result["classes"].values(), strict=True))
        images = result["pictures"]
        return cifar.make_report(rows, load(name), classes, images["true"], images["predicted"])
    datasets = {seed: study.split(load(name), seed) for seed in seeds[:1]}
    judged = not any(line.startswith("Not judged") for line in result.get("verdicts", []))
    return study.report(rows, dict.fromkeys(seeds, datasets[0]), judged)


def read(folder: Path) -> dict[str, Any]:
    """Return the log in `folder`, in the words of today. `InputError`, naming the file, if it is missing, damaged or something else."""
    path = folder / "result.json"
    text = read_text(path, "the log of an experiment")
    try:
        result = parse_json(text, "experiment")
        if result["experiment"] not in EXPERIMENTS:
            raise InputError(f"unknown experiment {result['experiment']!r}{suggest(result['experiment'], EXPERIMENTS)}")
        result["against_the_article"] = [_reworded(line, result) for line in result["against_the_article"]]
    except (InputError, KeyError, TypeError, AttributeError) as error:
        said = str(error) if isinstance(error, InputError) else f"not the log of an experiment ({error!r})"
        raise InputError(f"{path}: {said}; give the folder of a finished vgg-parity experiment") from None
    return result


def main(folders: list[str]) -> None:
    """Redraw the logs in `folders`. All are read, and all pages found to have marks, before anything is written."""
    if not folders:
        raise InputError("name the folders of experiments, for example docs/experiments/cifar")
    results = {folder: read(folder) for folder in map(Path, folders)}
    for folder in results:
        generated_block.around(folder / "README.md", MARK)
    for folder, result in results.items():
        found = remake(result, data.load)
        for name, picture in found.pictures.items():
            write_atomically(folder / name, picture)
        generated_block.update(folder / "README.md", MARK, f"{found.text}\n\n{measured(result)}")


def _reworded(line: str, result: dict[str, Any]) -> str:
    """Return `line` of a log of November 2026 in the words of today."""
    names = ", ".join(dict.fromkeys(one["entry"] for one in result.get("rows", [])))
    line = f"all runs{line.removeprefix(names)}" if names and line.startswith(f"{names}:") else line
    return re.sub(r"\b1 pass\b", "1 epoch", line).replace("passes", "epochs")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
