"""Write report.html: one page that loads no other file, runs no script, and shows the most important result first.

The templates in templates/ escape every text. This module has the words and numbers that they show.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from parity.report import charts, initialisers
from parity.report.heat_map import LEVELS, heat_map, phases
from parity.report.text import above, brief, limit, precise, ratio, readable, real, shown
from parity.short_repr import counted

FRAMEWORKS = {"torch": "PyTorch", "paddle": "Paddle", "numpy": "NumPy", "python": "Python", "cuda": "CUDA"}


class Look(NamedTuple):
    """How a verdict looks: its style, its word, and its sentence about one network."""

    style: str
    word: str
    sentence: str


LOOKS = {
    "equal": Look("equal", "Equal", "{}"),
    "chaotic but equal": Look(
        "chaotic",
        "Chaotic but equal",
        "{} diverge no faster than one side from its one-ULP twin",
    ),
    "different": Look("different", "Different", "{}"),
}


def document(results: list[dict[str, Any]], verdict: str) -> bytes:
    """Return the page about one network, or an overview and then a section for each of several."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("parity.report"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        finalize=lambda value: f"{value:.5g}" if isinstance(value, float) else value,  # the positions in charts
    )
    drawings = (charts.trajectory_chart, heat_map, look, phases, shapes_of, tree_rows)
    texts = (about, above, bounds_of, layers_summary, loss_columns, loss_of, ratio, side_names, sides, unmatched)
    functions = (*texts, *drawings, summarize, version_rows)
    environment.globals |= {function.__name__: function for function in functions} | {"levels": list(LEVELS)}
    environment.globals |= {"initialisers": initialisers}
    numbers = {function.__name__: function for function in (brief, limit, precise, shown)}
    environment.filters |= {**numbers, "framework": framework, "base64": base64_of, "breakable": breakable}
    page = environment.get_template("report.html").render(results=results, verdict=verdict)
    return readable(page).encode()


def look(verdict: str) -> Look:
    """Return how `verdict` looks. An unknown verdict has a look of its own."""
    return LOOKS.get(verdict) or Look("unknown", verdict, "{}: unknown verdict")


def about(result: dict[str, Any]) -> str:
    """Return one line on what was compared."""
    facts = [sides(result), result["dtype"], f"recipe {result['recipe']}", str(result.get("data") or "")]
    facts.append(f"{counted(result['steps'], 'step')}, batch size {result['batch_size']}")
    if result.get("seconds") is not None:
        facts.append(f"{result['seconds']:.1f} s")
    return " · ".join(fact for fact in facts if fact)


def summarize(results: list[dict[str, Any]]) -> str:
    """Return which of several networks are different."""
    different = [result["network"] for result in results if result["verdict"] not in ("equal", "chaotic but equal")]
    if different:
        return f"{len(different)} of {len(results)} networks: {', '.join(different)}"
    return f"both sides are equal for each of {len(results)} networks"


def framework(name: str) -> str:
    """Return the name of a component as its makers write it."""
    return FRAMEWORKS.get(name, name)


def sides(result: dict[str, Any]) -> str:
    """Return the sides and their versions: "PyTorch 2.6.0 and Paddle 2.6.2"."""
    return " and ".join(
        f"{framework(lane)} {versions.get(lane, '')}".strip() for lane, versions in result.get("lanes", {}).items()
    )


def side_names(result: dict[str, Any]) -> list[str]:
    """Return the names of reference and candidate."""
    return [framework(lane) for lane in result.get("lanes", {})] or ["reference", "candidate"]


def shapes_of(result: dict[str, Any]) -> dict[str, str]:
    """Return the shape of the first tensor that diverges, with a heading: one if both sides have it, otherwise two."""
    shapes = result["first_divergence"].get("shapes") or []
    texts = ["none" if shape is None else " x ".join(map(str, shape)) or "a single number" for shape in shapes]
    if len(set(texts)) > 1:
        return {f"shape, {name}": text for name, text in zip(side_names(result), texts, strict=False)}
    return {"shape": texts[0]} if any(shape is not None for shape in shapes) else {}


class Branch(NamedTuple):
    """A line of a tree: a container, or a layer with its kind."""

    depth: int
    name: str
    kind: str


class TreeRow(NamedTuple):
    """A pair of layers: the lines of its trees on both sides, none where the layer has no partner (`alone`).

    `guilty`: the first divergence is here. The table opens at the row that `opens`.
    """

    sides: list[list[Branch]]
    alone: bool
    guilty: bool
    opens: bool


def tree_rows(result: dict[str, Any]) -> list[TreeRow]:
    """Return the rows of the layers of both models.

    They open at the first divergence. If there is none although the models differ, they open at the first layer without a partner.
    """
    first = result.get("first_divergence") or {}
    place = [str(first.get(key, "")).partition("#")[0] for key in ("layer", "candidate_layer")]
    before: list[list[str]] = [[], []]
    rows = []
    for row in result["models"]:
        layers = list(row.values())
        branches = [_branches(layer, before[side]) for side, layer in enumerate(layers)]
        before = [layer["path"].split(".") if layer else before[side] for side, layer in enumerate(layers)]
        paths = [layer["path"] if layer else "" for layer in layers]
        guilty = any(path and path == at for path, at in zip(paths, place, strict=True))
        rows.append(TreeRow(branches, None in layers, guilty, guilty))
    alone = next((at for at, row in enumerate(rows) if row.alone), None)
    if alone is not None and not first and result["verdict"] == "different":
        rows[alone] = rows[alone]._replace(opens=True)
    return rows


def _branches(layer: dict[str, Any] | None, before: Sequence[str]) -> list[Branch]:
    """Return the containers that were not open at the layer `before`, and the layer."""
    if layer is None:
        return []
    parts = layer["path"].split(".")
    same = next((i for i, (a, b) in enumerate(zip(parts, before, strict=False)) if a != b), len(before))
    last = len(parts) - 1
    containers = [Branch(depth, parts[depth], "") for depth in range(min(same, last), last)]
    return [*containers, Branch(last, parts[last], layer["kind"])]


def unmatched(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many layers have no partner."""
    alone = sum(None in row.values() for row in rows)
    return f"{alone} of {len(rows)} rows have a layer on one side only." if alone else "Every layer has a partner."


def breakable(name: str) -> Markup:
    """Return `name` with a place for a line break after each dot. It is no character, so that searching and copying work."""
    return Markup("<wbr>").join(escape(part) for part in name.replace(".", ".\n").split("\n"))


def layers_summary(result: dict[str, Any]) -> str:
    """Return how many layers exceed their tolerance, by phase."""
    layers = result["layers"]
    counts = {
        name: sum(above(layer["errors"].get(name), layer["bounds"].get(name)) for layer in layers)
        for name in phases(layers)
    }
    excused = " Rounding explains them." if result["verdict"] == "chaotic but equal" else ""
    if found := ", ".join(f"{name} in {count}" for name, count in counts.items() if count):
        return f"Above tolerance: {found} of {len(layers)} layers.{excused}"
    return f"All {len(layers)} layers are within tolerance."


def bounds_of(layer: dict[str, Any]) -> str:
    """Return the tolerances of one layer: one number if they are equal, otherwise each with its phases."""
    groups: dict[str, list[str]] = {}
    for phase, bound in layer["bounds"].items():
        groups.setdefault(limit(bound), []).append(phase)
    if len(groups) < 2:
        return next(iter(groups), "–")
    return "; ".join(f"{', '.join(phases)}: {bound}" for bound, phases in groups.items())


def loss_columns(steps: list[dict[str, Any]]) -> dict[str, str]:
    """Return the sides that have a loss in any step, each with the heading of its column."""
    return {side: f"loss, {framework(side)}" for step in steps for side in step.get("loss") or {}}


def loss_of(step: dict[str, Any], side: str) -> str:
    """Return the loss of one side at one step."""
    loss = (step.get("loss") or {}).get(side)
    return "–" if loss is None else f"{real(loss):.10g}"


def version_rows(lanes: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return the components with a version, frameworks first, each with its version on each side."""
    found = dict.fromkeys(part for versions in lanes.values() for part in versions)
    parts = sorted(found, key=lambda part: part not in lanes)
    return {part: [str(versions.get(part, "–")) for versions in lanes.values()] for part in parts}


def base64_of(text: str) -> str:
    """Return `text` as base64."""
    return base64.b64encode(text.encode()).decode()
