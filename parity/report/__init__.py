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
    """Writes report.json, junit.xml and report.html into `folder`, which is made if need be; each file is replaced as one step.

    `result` is what one check found, or `{"results": [...], "verdict": ...}` of several networks. report.json is `result` itself,
    its infinities and NaNs as the strings "inf", "-inf" and "nan". `InputError` where the folder cannot be written,
    `NothingCompared` where there is no network, or a network without a stage: nothing is written then.
    """
    results = result.get("results", [result])
    if not results or not all(one.get("stages") for one in results):
        raise NothingCompared("the report is of a check that compared nothing")
    files = {
        "report.json": json.dumps(plain(result), indent=2, allow_nan=False).encode() + b"\n",
        "junit.xml": junit.document(results),
        "report.html": page.document(results, result["verdict"]),
    }
    for name, data in files.items():
        write_atomically(folder / name, data)


def plain(value: Any) -> Any:
    """`value` as strict JSON can hold it: numpy's scalars as Python's, what is not finite as a string, paths as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(float(value))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
