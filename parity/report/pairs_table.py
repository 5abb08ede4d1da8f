"""Markdown tables of compared pairs."""

from __future__ import annotations

import re
from typing import Any

from parity.backend.registry import NAMES
from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL
from parity.modules.layer_kinds import SIDES
from parity.report.text import markdown_row

RIGHT = "-set-right"
"""The name of a pair that repeats a different one, with what makes it equal, ends so."""


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "float64, random weights:",
        "",
        "| pair | versions | input | verdict | tensors | largest inference error | weight error, last step "
        "| weight change by then | minutes | lines | what differs |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        stages, steps = row["stages"], row["trajectory"]
        count = sum(stage["compared"] for stage in stages.values())
        worst = f"{float(stages['eval']['max_error']):.1e}" if "eval" in stages else ""
        end = steps[-1] if steps and steps[-1]["error"] is not None else None
        last = f"{float(end['error']):.1e} (step {end['step']})" if end else ""
        moved = f"{float(end['moved']):.1e}" if end else ""
        said = "<br>".join(_causes(row))
        changed = "<br>" + "<br>".join(f"{side}: `{text}`" for side, text in row["set"]) if row["set"] else ""
        cells = [
            f"`{row['name']}`{changed}",
            "<br>".join(_versions(found) for found in row.get("lanes", {}).values()),
            _inputs(row),
            row["verdict"],
            f"{count:,}" if count else "",
            worst,
            last,
            moved,
            f"{row['seconds'] / 60:.1f}" if "seconds" in row else "",
            str(len(row["set"])),
            said,
        ]
        lines.append(markdown_row(cells))
    return "\n".join(lines)


def _versions(found: dict[str, str]) -> str:
    """Return the versions of a side's framework and of its library."""
    return ", ".join(f"{name} {version}" for name, version in found.items() if name not in ("cuda", "python", "numpy"))


def _inputs(row: dict[str, Any]) -> str:
    """Return the inputs as 4 x 3 x 64 x 64, or each by the name of its argument; integers as 2 x 9 below 12."""
    named = {name: " below ".join(text.split(":")).replace(",", " x ") for name, text in row.get("inputs", {}).items()}
    shape = [" x ".join(map(str, row["input_shape"]))] if row["input_shape"] else []
    return "<br>".join(shape + [f"{name}: {text}" for name, text in named.items()])


def _causes(row: dict[str, Any]) -> list[str]:
    """Return what differs: the settings, and the cause of the first divergence where they do not say it; or else the sentence."""
    first = row.get("first_divergence") or {}
    cause = first.get("cause") if row["verdict"] == DIFFERENT else None
    found = [*row["differences"]]
    if cause and not any(text.partition(" at ")[0] in cause for text in found):
        found.append(cause)
    return found or ([row["sentence"]] if row["verdict"] == DIFFERENT else [])


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a short table: all equal pairs in one row, then one row per different pair with the settings that make it equal."""
    named = {row["name"]: row for row in rows}
    lines = ["| pair | verdict | what differs | equal with |", "|---|---|---|---|"]
    for verdict in (EQUAL, CHAOTIC):
        if same := [
            f"`{name}`" for name, row in named.items() if row["verdict"] == verdict and not name.endswith(RIGHT)
        ]:
            lines.append(f"| {', '.join(same)} | {verdict} | | |")
    for name, row in named.items():
        if row["verdict"] != DIFFERENT:
            continue
        causes = _causes(row)
        settings_of_dropout = any(" of Dropout: " in text for text in causes)  # they say the same as a row on training
        said = [_short(text) for text in causes if not (settings_of_dropout and text.startswith("dropout in training"))]
        right, settings = named.get(f"{name}{RIGHT}"), list[str]()
        if right and right["verdict"] != DIFFERENT:
            settings = [f"{NAMES[side]}: `{right[side]}`" for side in SIDES if right[side] != row[side]]
            settings += [f"{side}: `{text}`" for side, text in right["set"]]
            settings += [f"inputs {_inputs(right)}"] if _inputs(right) != _inputs(row) else []
        cells = [f"`{name}`", DIFFERENT, "; ".join(dict.fromkeys(said)), "; ".join(settings)]
        lines.append(markdown_row(cells))
    return "\n".join(lines)


def _short(text: str) -> str:
    """Return what differs, without the places, which are in the long table."""
    return re.sub(r",? at .*?(?= and only |$)", "", text.partition("; ")[0])


TABLES = {"pairs": table, "pairs-summary": summary}
"""Name of a generated block -> its writer, see `parity.files.generated_block`."""
