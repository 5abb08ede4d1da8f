"""report.html: one page that loads nothing, runs nothing, and says first what matters most."""

from __future__ import annotations

import base64
from importlib.resources import files
from string import Template
from typing import Any
from xml.etree.ElementTree import Element

from parity.report import sections
from parity.report.markup import Child, html, table, tag
from parity.report.sections import badge, look, sign

ICON_COLOURS = {"equal": "#1a7f37", "chaotic": "#9a6700", "different": "#c62828"}


def document(results: list[dict[str, Any]], verdict: str) -> bytes:
    """The page about one network, or an overview and then a section for each of several."""
    if len(results) == 1:
        head, body = _head(verdict, _sentence(results[0]), _facts(results[0])), sections.of(results[0], "h2")
    else:
        head = _head(verdict, _summary(results), sections.sides(results[0]))
        body = [_overview(results), *(_network(result, index) for index, result in enumerate(results))]
    main = tag("main", head, *body, id="main", tabindex=-1)
    title = f"{look(verdict).word}: {', '.join(result['network'] for result in results)}"
    template = Template(files("parity.report").joinpath("template.html").read_text("utf-8"))
    page = template.substitute(title=html(tag("title", title)), icon=html(_icon(verdict)), main=html(main))
    return page.encode()


def _head(verdict: str, sentence: str, facts: str) -> Element:
    title = tag("h1", tag("span", look(verdict).word, class_="word"), ": ", sentence)
    inner = tag("div", tag("p", "Parity check", class_="over-title"), title, tag("p", facts, class_="about"))
    return tag("header", sign(verdict, 56), inner, class_=f"verdict {look(verdict).style}")


def _sentence(result: dict[str, Any]) -> str:
    return look(result["verdict"]).sentence.format(result["network"])


def _facts(result: dict[str, Any]) -> str:
    facts = [sections.sides(result), result["dtype"], f"recipe {result['recipe']}", str(result.get("data") or "")]
    facts.append(f"{result['steps']} steps of {result['batch_size']} images")
    if result.get("seconds") is not None:
        facts.append(f"{result['seconds']:.1f} s")
    return " · ".join(fact for fact in facts if fact)


def _summary(results: list[dict[str, Any]]) -> str:
    different = [result for result in results if result["verdict"] not in ("equal", "chaotic but equal")]
    if different:
        return f"{len(different)} of {len(results)} networks: {', '.join(result['network'] for result in different)}"
    return f"each of {len(results)} networks is one network on both sides"


def _overview(results: list[dict[str, Any]]) -> Element:
    head = ["network", "verdict", "recipe", "precision", "tensors", "where it parts first"]
    rows = [_overview_row(result, index) for index, result in enumerate(results)]
    return tag("section", tag("h2", "Networks"), table("Verdict of each network", head, rows))


def _overview_row(result: dict[str, Any], index: int) -> list[Child]:
    first = result.get("first_divergence")
    link = tag("a", result["network"], href=f"#network-{index}")
    compared = sum(stage["compared"] for stage in result["stages"].values())
    number = tag("span", str(compared), class_="number")
    return [
        link,
        badge(result["verdict"]),
        result["recipe"],
        result["dtype"],
        number,
        tag("span", first["sentence"] if first else "–", class_="wrap"),
    ]


def _network(result: dict[str, Any], index: int) -> Element:
    title = tag("h2", result["network"], " ", badge(result["verdict"]))
    facts = tag("p", _facts(result), class_="about")
    return tag("article", title, facts, *sections.of(result, "h3"), id=f"network-{index}", class_="network")


def _icon(verdict: str) -> Element:
    """The tab's icon, inline so that no browser asks a server for one."""
    outline, mark = look(verdict).sign.split("|")
    shapes = (
        tag("path", d=outline, fill=ICON_COLOURS.get(look(verdict).style, "#57606a")),
        tag("path", d=mark, fill="none", stroke="#fff", stroke_width="2.4"),
    )
    picture = html(tag("svg", *shapes, xmlns="http://www.w3.org/2000/svg", viewBox="0 0 24 24"))
    return tag("link", rel="icon", href="data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode())
