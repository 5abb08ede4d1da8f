"""Markdown tables of compared pairs."""

from __future__ import annotations

from typing import Any

from parity.compare.verdicts import CHAOTIC, DIFFERENT, EQUAL


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    found: dict[str, dict[str, str]] = next((row["lanes"] for row in rows if "lanes" in row), {})
    lanes = ", ".join(f"{side} {versions.get(side, '?')}" for side, versions in found.items())
    lines = [
        f"float64, random weights, {lanes}:",
        "",
        "| pair | input | verdict | tensors | largest inference error | weight error, last step | weight change by then | what differs |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        stages, steps = row["stages"], row["trajectory"]
        count = sum(stage["compared"] for stage in stages.values())
        worst = f"{float(stages['eval']['max_error']):.1e}" if "eval" in stages else ""
        end = steps[-1] if steps and steps[-1]["error"] is not None else None
        last = f"{float(end['error']):.1e} (step {end['step']})" if end else ""
        moved = f"{float(end['moved']):.1e}" if end else ""
        shape = " x ".join(map(str, row["input_shape"]))
        said = "<br>".join(row["differences"]) or (row["sentence"] if row["verdict"] == DIFFERENT else "")
        changed = "<br>" + "<br>".join(f"{side}: `{text}`" for side, text in row["set"]) if row["set"] else ""
        cells = [
            f"`{row['name']}`{changed}",
            shape,
            row["verdict"],
            f"{count:,}" if count else "",
            worst,
            last,
            moved,
            said,
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a short table: all equal pairs in one row, then one row per different pair with the settings that make it equal."""
    named = {row["name"]: row for row in rows}
    lines = ["| pair | verdict | what differs | equal with |", "|---|---|---|---|"]
    for verdict in (EQUAL, CHAOTIC):
        if same := [f"`{name}`" for name, row in named.items() if row["verdict"] == verdict and not row["set"]]:
            lines.append(f"| {', '.join(same)} | {verdict} | | |")
    for name, row in named.items():
        if row["verdict"] != DIFFERENT:
            continue
        # The row of the dropout layers says the same.
        said = [_short(text) for text in row["differences"] if not text.startswith("dropout in training")]
        said = said or [row["sentence"]]
        right, settings = named.get(f"{name}-set-right"), list[str]()
        if right and right["verdict"] != DIFFERENT:
            settings = [f"PyTorch: `{right['torch']}`"] if right["torch"] != row["torch"] else []
            settings += [f"{side}: `{text}`" for side, text in right["set"]]
        cells = [f"`{name}`", DIFFERENT, "; ".join(dict.fromkeys(said)), "; ".join(settings)]
        lines.append(_line(cells))
    return "\n".join(lines)


def _short(text: str) -> str:
    """Return what differs, without the places, which are in the long table."""
    return text.partition(" at ")[0].partition("; ")[0]


TABLES = {"pairs": table, "pairs-summary": summary}
"""Name of a generated block -> its writer, see `parity.files.generated_block`."""
