"""Write a result as Markdown for a pull request: short, and readable without the other files of a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from parity.compare.verdicts import INIT
from parity.report import initialisers
from parity.report.heat_map import guilty_place, phases, used, worst_phase
from parity.report.page import framework, look, side_names, summarize, version_rows
from parity.report.text import above, limit, markdown_row, readable, shown
from parity.short_repr import counted

MOST_ROWS = 10
"""Rows of a table of layers. The rest is counted."""

MOST_NETWORKS = 40
"""Networks in the overview of several."""

MOST_DETAILS = 3
"""Different networks that are shown one by one."""

MOST_LINES = 5
"""Settings that differ, and explanations."""

LONGEST, LONG = 120, 400
"""Characters of a cell, and of a sentence."""


def document(results: list[dict[str, Any]], verdict: str) -> bytes:
    """Return the Markdown about one network or pair; of several, an overview, and then those that are different."""
    if len(results) == 1:
        lines = [f"### {look(verdict).word}: {_code(results[0]['network'])}", "", *_about(results[0])]
    else:
        lines = [f"### {look(verdict).word}: {_text(summarize(results))}", "", *_overview(results)]
        different = [result for result in results if result["verdict"] == "different"]
        for result in different[:MOST_DETAILS]:
            lines += ["", f"#### Different: {_code(result['network'])}", "", *_about(result)]
        if len(different) > MOST_DETAILS:
            lines += ["", f"{len(different) - MOST_DETAILS} more different networks are not shown."]
    return (readable("\n".join(lines)) + "\n").encode()


def _overview(results: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        [_code(one["network"]), one["verdict"], _text((one.get("first_divergence") or {}).get("sentence", "–"))]
        for one in results
    ]
    return _table(["network", "verdict", "first divergence"], rows, MOST_NETWORKS, "networks")


def _about(result: dict[str, Any]) -> list[str]:
    """Return the lines about one network or pair."""
    lines = []
    first = result.get("first_divergence")
    if first:
        named = "First divergence" if result["verdict"] == "different" else "First tensor above its tolerance"
        lines += [f"**{named}:** {_text(first.get('where', first['sentence']), LONG)}", ""]
        if first.get("cause"):
            lines += [f"**Likely cause:** {_text(first['cause'], LONG)}", ""]
    elif result.get("sentence"):
        lines += [_text(result["sentence"], LONG), ""]
    lines += [*_stages(result), "", *_layers(result)]
    if result.get("initialisation"):
        lines += ["", *_initialisation(result)]
    if result.get("models"):
        lines += ["", *_map(result)]
    for title, found in (("Settings that differ", result.get("differences")), ("Explained", result.get("explained"))):
        if found:
            more = [f"- {len(found) - MOST_LINES} more are left out."] if len(found) > MOST_LINES else []
            lines += ["", f"{title}:", "", *(f"- {_text(line, LONG)}" for line in found[:MOST_LINES]), *more]
    lines += ["", _versions(result)]
    if result.get("command"):
        fence = "`" * max(3, 1 + _longest_run(result["command"]))
        lines += ["", f"{fence}console", " ".join(result["command"].split("\n")), fence]
    return lines


def _versions(result: dict[str, Any]) -> str:
    """Return dtype, steps and versions in one line; a version that is not the same on both sides is given for each."""
    parts = [f"{result['dtype']}, {counted(result['steps'], 'step')}"]
    for part, versions in version_rows(result.get("lanes", {})).items():
        known = dict.fromkeys(version for version in versions if version != "–")
        parts.append(f"{framework(part)} {' and '.join(known)}")
    return _text("; ".join(parts), LONG)


def _stages(result: dict[str, Any]) -> list[str]:
    rows = [
        [
            _text(name),
            stage["verdict"],
            str(stage["compared"]),
            *(["", ""] if name == INIT else [_marked(stage["max_error"], stage["bound"]), limit(stage["bound"])]),
            _code(stage["worst"]),
        ]
        for name, stage in result["stages"].items()
    ]
    rows += [[name, "not run", "", "", "", ""] for name in result.get("not_run", [])]
    return _table(
        ["stage", "verdict", "tensors", "worst error", "tolerance", "worst tensor"], rows, MOST_ROWS, "stages"
    )


def _layers(result: dict[str, Any]) -> list[str]:
    """Return the layers from the first divergence on; where all are equal, those that use most of their tolerance."""
    layers = result.get("layers") or []
    names = phases(layers)
    place = guilty_place(result)
    worst = [(layer, phase) for layer in layers if (phase := worst_phase(layer, names))]
    start = next((at for at, (layer, _) in enumerate(worst) if place and layer["layer"] == place[0]), None)
    if start is None:
        worst.sort(key=lambda one: -used(one[0]["errors"][one[1]], one[0]["bounds"].get(one[1])))
        title = "The layers nearest to their tolerance, or farthest beyond it"
    else:
        phase = str((result.get("first_divergence") or {}).get("phase"))
        worst = (
            worst[start::-1] if phase in ("backward", "gradient") else worst[start:]
        )  # backward runs from the last layer
        title = "The layers from the first divergence on"
    if not worst:
        return []
    rows = [
        [
            _code(layer["layer"]),
            phase,
            _marked(layer["errors"][phase], layer["bounds"].get(phase)),
            limit(layer["bounds"].get(phase)),
        ]
        for layer, phase in worst
    ]
    return [f"{title}:", "", *_table(["layer", "worst phase", "worst error", "tolerance"], rows, MOST_ROWS, "layers")]


def _initialisation(result: dict[str, Any]) -> list[str]:
    """Return the arrays of fresh models whose initialisation differs."""
    found = result["initialisation"]
    rows = [
        [_code(initialisers.place_of(row)), *(_text(row[side]["initialiser"]) for side in ("torch", "paddle"))]
        for row in initialisers.differing(found["rows"])
    ]
    count = f"{len(rows) or 'none'} of {len(found['rows'])} arrays"
    lines = [f"Initialisation, over {found['seeds']} seeds: {count} differ beyond sampling."]
    return lines + (["", *_table(["array", *side_names(result)], rows, MOST_ROWS, "arrays")] if rows else [])


def _map(result: dict[str, Any]) -> list[str]:
    """Return the pairs of layers whose names differ, and the layers without a partner; the others are counted."""
    reference, candidate = side_names(result)
    rows = [list(row.values()) for row in result["models"]]
    named = [row for row in rows if not (row[0] and row[1] and row[0]["path"] == row[1]["path"])]
    guilty = str((result.get("first_divergence") or {}).get("layer", "")).partition("#")[0]
    start = next((at for at, row in enumerate(named) if row[0] and row[0]["path"] == guilty), 0)
    cells = [[_layer(side) for side in row] for row in named[start:] + named[:start]]
    same = len(rows) - len(named)
    mapping = result.get("mapping", {})
    how = f", by {_text(mapping['how'])}" if "how" in mapping else ""
    lines = [f"Map of layers{how}: {same} of {len(rows)} have one name on both sides."]
    lines += [line for note in mapping.get("notes", []) for line in ("", _text(note, LONG))]
    return lines + (["", *_table([reference, candidate], cells, MOST_ROWS, "layers")] if named else [])


def _layer(side: dict[str, Any] | None) -> str:
    return f"{_code(side['path'])} {_text(side['kind'])}" if side else "–"


def _marked(error: Any, bound: Any) -> str:
    """Return an error, in bold if it exceeds its tolerance."""
    return f"**{shown(error)}**" if above(error, bound) else shown(error)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int, what: str) -> list[str]:
    """Return a table of at most `most` rows, and a line that says how many of `what` are left out."""
    lines = [markdown_row(head), markdown_row(["---"] * len(head)), *map(markdown_row, rows[:most])]
    return lines + (["", f"{len(rows) - most} more {what} are left out."] if len(rows) > most else [])


def _short(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _text(text: str, longest: int = LONGEST) -> str:
    """Return `text` on one line, with everything escaped that Markdown or HTML would read."""
    escaped = re.sub(r"([\\`*\[\]~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", _short(text, longest))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str, longest: int = LONGEST) -> str:
    """Return `text` as code."""
    line = _short(text, longest)
    fence = "`" * (1 + _longest_run(line))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def _longest_run(text: str) -> int:
    """Return the length of the longest run of backticks."""
    return max((len(run) for run in re.findall("`+", text)), default=0)
