"""The sections about one network: where it parts, its stages, its layers, its trajectory, how it was run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from parity.report import charts
from parity.report.markup import Child, above, details, limit, measured, real, shown, table, tag

STAGES = {
    "eval": "activations in inference",
    "forward": "activations and loss, in inference and in training",
    "backward": "gradients of activations and of parameters",
    "update": "parameters, optimizer slots, running statistics",
    "trajectory": "every later step",
    "onnx": "inference of both frameworks and of runtimes on both exports",
}
FRAMEWORKS = {"torch": "PyTorch", "paddle": "Paddle", "numpy": "NumPy", "python": "Python", "cuda": "CUDA"}


@dataclass(frozen=True)
class Look:
    """How a verdict looks: its style, its sign as an SVG path, and its sentences about one network."""

    style: str
    word: str
    sign: str
    sentence: str


# The outlines differ too (disc, square, octagon): no verdict rests on its colour.
DISC, SQUARE = "M12 1a11 11 0 1 0 0 22a11 11 0 1 0 0 -22z", "M4 1H20Q23 1 23 4V20Q23 23 20 23H4Q1 23 1 20V4Q1 1 4 1z"
OCTAGON = "M7.5 1H16.5L23 7.5V16.5L16.5 23H7.5L1 16.5V7.5z"
LOOKS = {
    "equal": Look("equal", "Equal", f"{DISC}|M6.5 12.5L10.5 16.5L17.5 8.5", "{} is one network on both sides"),
    "chaotic but equal": Look(
        "chaotic",
        "Chaotic but equal",
        f"{SQUARE}|M6 10q3 -4 6 -1t6 -1M6 16q3 -4 6 -1t6 -1",
        "the sides of {} part no faster than rounding alone parts one of them from itself",
    ),
    "different": Look(
        "different", "Different", f"{OCTAGON}|M8 8L16 16M16 8L8 16", "{} is not one network on both sides"
    ),
}


def look(verdict: str) -> Look:
    """How `verdict` looks; a verdict that is not known looks like none of the known."""
    unknown = Look("unknown", verdict, f"{SQUARE}|M12 5V14M12 17V19.5", "{}: a verdict that this report does not know")
    return LOOKS.get(verdict, unknown)


def sign(verdict: str, size: int = 16) -> Element:
    """The verdict's sign. It says nothing to a screen reader: the word stands beside it."""
    outline, mark = look(verdict).sign.split("|")
    shapes = tag("path", d=outline, class_="outline"), tag("path", d=mark, class_="sign")
    return tag("svg", *shapes, width=size, height=size, viewBox="0 0 24 24", aria_hidden="true", class_="icon")


def badge(verdict: str) -> Element:
    """The verdict as sign and word."""
    return tag("span", sign(verdict), " ", verdict, class_=f"badge {look(verdict).style}")


def of(result: dict[str, Any], heading: str) -> list[Element | None]:
    """All sections of one network; `heading` is the tag of their headings."""
    first = result.get("first_divergence")
    parts: list[tuple[str, list[Child]]] = [
        ("Verdict per stage", [_stages(result["stages"])]),
        ("Error per layer at step 1", _layers(result.get("layers") or [], first)),
        ("Trajectory", _trajectory([row for row in result.get("trajectory") or [] if row["error"] is not None])),
        ("Every layer on its own", _isolated(result.get("isolated") or [])),
        ("What their settings say differently", _listed(result.get("differences") or [])),
        ("What was neutralised for the check", _listed(result.get("explained") or [])),
        ("Both models", _drawn(result.get("tree") or "")),
        ("How it was run", _run(result)),
    ]
    sections = [tag("section", tag(heading, title), *inner) for title, inner in parts if inner]
    return [_divergence(result, heading), *sections]


def _divergence(result: dict[str, Any], heading: str) -> Element | None:
    first, different = result.get("first_divergence"), result["verdict"] == "different"
    if not first:
        text = "No first divergence was recorded: the verdicts per stage say what differs."
        return (
            tag("section", tag(heading, "Where they part"), tag("p", text), class_="callout different")
            if different
            else None
        )
    title = "Where they part first" if different else "The first tensor above its bound"
    known = first.get("cause")
    cause = (
        tag("p", "Most likely cause: ", tag("strong", known))
        if known
        else tag("p", "Most likely cause: no known signature fits.")
        if different
        else None
    )
    keys = [key for key in ("step", "phase", "layer", "tensor") if key in first]
    facts: list[tuple[str, Child]] = [(key, tag("code", str(first[key]))) for key in keys]
    facts += [
        ("error", shown(first["error"])),
        ("bound", limit(first["bound"])),
        ("error / bound", _ratio(first["error"], first["bound"])),
    ]
    sentence = tag("p", first["sentence"], class_="lead")
    return tag(
        "section",
        tag(heading, title),
        sentence,
        cause,
        _facts(facts),
        class_=f"callout {look(result['verdict']).style}",
    )


def _ratio(a: Any, b: Any) -> str:
    return limit(real(a) / real(b)) if a is not None and b is not None and real(b) else "–"


def _facts(facts: list[tuple[str, Child]]) -> Element:
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")


def _stages(stages: dict[str, Any]) -> Element:
    head = [
        "stage",
        "verdict",
        "tensors",
        "above bound",
        "worst error",
        "bound",
        "smallest bound that passes",
        "worst tensor",
    ]
    return table("Verdicts per stage", head, [_stage(name, stage) for name, stage in stages.items()])


def _stage(name: str, stage: dict[str, Any]) -> list[Child]:
    about = tag("small", STAGES[name]) if name in STAGES else None
    return [
        tag("span", name, about),
        badge(stage["verdict"]),
        _number(str(stage["compared"])),
        _number(str(stage["different"])),
        measured(stage["max_error"], stage["bound"]),
        _number(limit(stage["bound"])),
        _number(shown(stage["smallest_bound_that_passes"])),
        tag("code", str(stage["worst"]), class_="wrap"),
    ]


def _number(text: str) -> Element:
    return tag("span", text, class_="number")


def _layers(layers: list[dict[str, Any]], first: dict[str, Any] | None) -> list[Child]:
    if not layers:
        return []
    marked = first["layer"] if first and first["step"] == 1 else None
    names = charts.phases(layers)
    rows: list[list[Child]] = [
        [
            layer["layer"],
            *(measured(layer["errors"].get(name), layer["bounds"].get(name)) for name in names),
            _number(_limits(layer["bounds"])),
        ]
        for layer in layers
    ]
    numbers = table("Relative L2 error of each layer", ["layer", *names, "bound"], rows, tall=True)
    return [
        tag("p", _above(layers, names)),
        charts.layers_chart(layers, marked),
        details("The same numbers as a table", numbers),
    ]


def _above(layers: list[dict[str, Any]], names: list[str]) -> str:
    """How many layers are above their bounds, phase by phase."""
    counts = {
        name: sum(
            name in layer["errors"] and above(layer["errors"][name], layer["bounds"].get(name)) for layer in layers
        )
        for name in names
    }
    found = ", ".join(f"{name} in {count}" for name, count in counts.items() if count)
    return (
        f"Above their bounds: {found} of {len(layers)} layers."
        if found
        else f"All {len(layers)} layers are within their bounds."
    )


def _limits(bounds: dict[str, Any]) -> str:
    """The bounds of one layer: a number if they are one, otherwise each with its phases."""
    groups: dict[str, list[str]] = {}
    for phase, bound in bounds.items():
        groups.setdefault(limit(bound), []).append(phase)
    return (
        next(iter(groups), "–")
        if len(groups) < 2
        else "; ".join(f"{', '.join(phases)}: {bound}" for bound, phases in groups.items())
    )


def _trajectory(steps: list[dict[str, Any]]) -> list[Child]:
    if not steps:
        return []
    sides = list(dict.fromkeys(side for step in steps for side in step.get("loss") or {}))
    twins = any(step.get("twin") is not None for step in steps)
    columns: dict[str, Callable[[dict[str, Any]], Child]] = {
        "rate": lambda step: _number(limit(step["rate"])),
        "error": lambda step: measured(step["error"], step["bound"]),
        "bound": lambda step: _number(limit(step["bound"])),
    }
    if twins:
        columns["twin"] = lambda step: _number(shown(step.get("twin")))
        columns["error / twin"] = lambda step: _number(_ratio(step["error"], step.get("twin")))
    rows = [
        [str(step["step"]), *(column(step) for column in columns.values()), *_losses(step, sides)] for step in steps
    ]
    head = ["step", *columns, *(f"loss, {FRAMEWORKS.get(side, side)}" for side in sides)]
    numbers = details(
        "The same numbers as a table", table("Distance of the sides after each step", head, rows, tall=True)
    )
    return [tag("p", _last_step(steps[-1])), charts.trajectory_chart(steps), numbers]


def _losses(step: dict[str, Any], sides: list[str]) -> list[Child]:
    losses = step.get("loss") or {}
    return [_number(f"{real(losses[side]):.10g}" if losses.get(side) is not None else "–") for side in sides]


def _last_step(step: dict[str, Any]) -> str:
    said = f"At step {step['step']} the sides are {shown(step['error'])} apart; the bound is {limit(step['bound'])}."
    if step.get("twin") is None:
        return said
    times = _ratio(step["error"], step["twin"])
    return f"{said} That is {times} times as far as one side is from its own twin, whose start was moved by one ULP."


def _isolated(layers: list[dict[str, Any]]) -> list[Child]:
    if not layers:
        return []
    different = [layer["layer"] for layer in layers if layer["verdict"] != "equal"]
    said = (
        f"{len(different)} of {len(layers)} layers differ: {', '.join(different)}."
        if different
        else f"All {len(layers)} layers are equal."
    )
    rows: list[list[Child]] = [
        [
            layer["layer"],
            badge(layer["verdict"]),
            *(measured(layer.get(key), layer["bound"]) for key in ("forward", "backward")),
            _number(limit(layer["bound"])),
        ]
        for layer in layers
    ]
    numbers = table("Each layer on its own", ["layer", "verdict", "forward", "backward", "bound"], rows, tall=True)
    given = "Both sides were given the same input and the same gradient at every layer, so that no layer inherits an error. "
    return [tag("p", given, said), details("All layers on their own", numbers, opened=bool(different))]


def _listed(lines: list[str]) -> list[Child]:
    return [tag("ul", *(tag("li", line) for line in lines))] if lines else []


def _drawn(tree: str) -> list[Child]:
    return [tag("pre", tree)] if tree else []


def _run(result: dict[str, Any]) -> list[Child]:
    names = {
        "recipe": "recipe",
        "data": "data",
        "dtype": "precision",
        "steps": "steps",
        "batch_size": "images per step",
        "seed": "seed",
    }
    names |= {"device": "device", "threads": "threads per side", "machine": "machine", "started": "started"}
    facts: list[tuple[str, Child]] = [
        (said, str(result[key])) for key, said in names.items() if result.get(key) is not None
    ]
    if result.get("device", "cpu") != "cpu":  # `runtime.be_exact`, which every check calls
        facts.append(("on a GPU", "TF32 is off, algorithms are deterministic"))
    if result.get("seconds") is not None:
        facts.append(("took", f"{result['seconds']:.1f} s"))
    command = (
        [tag("p", "To run it again:"), tag("pre", tag("code", result["command"]))] if result.get("command") else []
    )
    return [*command, _facts(facts), _versions(result["lanes"]) if result.get("lanes") else None]


def _versions(lanes: dict[str, dict[str, Any]]) -> Element:
    found = dict.fromkeys(part for versions in lanes.values() for part in versions)
    parts = sorted(found, key=lambda part: part not in lanes)  # the frameworks first
    rows: list[list[Child]] = [
        [FRAMEWORKS.get(part, part), *(str(versions.get(part, "–")) for versions in lanes.values())] for part in parts
    ]
    return table("Versions on each side", ["version of", *(FRAMEWORKS.get(lane, lane) for lane in lanes)], rows)


def sides(result: dict[str, Any]) -> str:
    """The sides and their versions: "PyTorch 2.6.0 and Paddle 2.6.2"."""
    return " and ".join(
        f"{FRAMEWORKS.get(lane, lane)} {versions.get(lane, '')}".strip()
        for lane, versions in result.get("lanes", {}).items()
    )
