"""Reports of a parity check: report.json, junit.xml for CI, a report.html that needs nothing else, and Markdown to paste."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from parity.compare.relative_error import NothingCompared
from parity.files.atomic import write_atomically
from parity.report import junit, markdown, page

__all__ = ["plain", "write", "write_markdown"]


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write report.json, junit.xml and report.html into `folder`, which is made if necessary; each file is replaced in one step.

    `result` is the result of one check, or `{"results": [...], "verdict": ...}` of several networks. report.json is `result` itself,
    with infinities and NaNs as the strings "inf", "-inf" and "nan". `InputError` if the folder cannot be written.
    `NothingCompared` if there is no network, or a network without a stage: then nothing is written.
    """
    results = _results(result)
    files = {
        "report.json": json.dumps(plain(result), indent=2, allow_nan=False).encode() + b"\n",
        "junit.xml": junit.document(results),
        "report.html": page.document(results, result["verdict"]),
    }
    for name, data in files.items():
        write_atomically(folder / name, data)


def write_markdown(file: Path, result: dict[str, Any]) -> None:
    """Write `result` as Markdown for a pull request into `file`, in one step. Arguments and errors are those of `write`."""
    write_atomically(file, markdown.document(_results(result), result["verdict"]))


def _results(result: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = result.get("results", [result])
    if not results or not all(one.get("stages") for one in results):
        raise NothingCompared("the check compared nothing, so there is no report")
    return results


def plain(value: Any) -> Any:
    """Return `value` as strict JSON can hold it: numpy scalars as Python numbers, infinity and NaN as strings, paths as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(float(value))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
