"""HTML and SVG as trees of elements, so that no text can become markup; and how numbers are written."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str | None

# What XML forbids (control characters, halves of surrogate pairs), and what turns the direction of reading, so that a
# name could look like another one.
UNREADABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def readable(text: str) -> str:
    """`text` with every character that cannot be shown as its escape: "\\x00"."""
    return UNREADABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def tag(name: str, /, *children: Child, **attributes: Any) -> Element:
    """An element. `class_` and `aria_label` are the attributes class and aria-label; attributes and children that are None are left out."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    element = Element(name, {key: readable(str(value)) for key, value in named.items()})
    for child in children:
        if isinstance(child, str):
            _append_text(element, readable(child))
        elif child is not None:
            element.append(child)
    return element


def _append_text(element: Element, text: str) -> None:
    if len(element):
        element[-1].tail = (element[-1].tail or "") + text
    else:
        element.text = (element.text or "") + text


def html(element: Element) -> str:
    """The element as HTML."""
    return ElementTree.tostring(element, encoding="unicode", method="html")


def scroll(label: str, *children: Child, tall: bool = False) -> Element:
    """A region that scrolls by itself, with the keyboard too, so that the page never scrolls sideways."""
    return tag(
        "div", *children, class_="scroll tall" if tall else "scroll", role="region", aria_label=label, tabindex=0
    )


def table(caption: str, head: list[str], rows: list[list[Child]], tall: bool = False) -> Element:
    """A table in its own scroll region; a row's first cell heads it."""
    body = [_row(row) for row in rows]
    heads = [tag("th", name, scope="col") for name in head]
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *body))
    return scroll(caption, inner, tall=tall)


def _row(cells: list[Child]) -> Element:
    first, *others = cells
    return tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in others))


def details(summary: str, *children: Child, opened: bool = False) -> Element:
    """What unfolds on demand."""
    return tag("details", tag("summary", summary), *children, open="" if opened else None)


def real(value: Any) -> float:
    """A number of a result; report.json's "inf" and "nan" too."""
    return float(value)


def above(error: Any, bound: Any) -> bool:
    """Whether an error breaks its bound, as NaN always does. Never where there is no bound."""
    return bound is not None and not real(error) <= real(bound)


def shown(value: Any) -> str:
    """A measured number: two decimals are plenty."""
    if value is None:
        return "–"
    number = real(value)
    if math.isnan(number):
        return "NaN"
    return "0" if number == 0 else f"{number:.2e}" if math.isfinite(number) else str(number)


def limit(value: Any) -> str:
    """A number that somebody chose, such as a bound or a rate: no trailing zeros."""
    return "–" if value is None else f"{real(value):.3g}"


def measured(error: Any, bound: Any) -> Element:
    """An error, marked in words, sign and colour if it is above its bound."""
    if error is None or not above(error, bound):
        return tag("span", shown(error), class_="number")
    sign = tag("span", "▲", aria_hidden="true")
    return tag("span", shown(error), " ", sign, tag("span", " above its bound", class_="unseen"), class_="number over")
