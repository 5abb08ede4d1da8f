"""Reports of a parity check for people and for CI: report.json, junit.xml and one report.html that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from parity.compare.relative_error import NothingCompared
from parity.files.atomic import write_atomically
from parity.report import junit, page

__all__ = ["write"]


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write report.json, junit.xml and report.html into `folder`, which is made if necessary; each file is replaced in one step.

    `result` is the result of one check, or `{"results": [...], "verdict": ...}` of several networks. report.json is `result` itself,
    with infinities and NaNs as the strings "inf", "-inf" and "nan". `InputError` if the folder cannot be written.
    `NothingCompared` if there is no network, or a network without a stage: then nothing is written.
    """
    results = result.get("results", [result])
    if not results or not all(one.get("stages") for one in results):
        raise NothingCompared("the check compared nothing, so there is no report")
    files = {
        "report.json": json.dumps(plain(result), indent=2, allow_nan=False).encode() + b"\n",
        "junit.xml": junit.document(results),
        "report.html": page.document(results, result["verdict"]),
    }
    for name, data in files.items():
        write_atomically(folder / name, data)


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
