"""Links, pictures and headings of Markdown, as code hosts and the site of docs/ understand them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from helpers.prose import FENCE

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\](?:\([^)]*\))?)*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
"""The target of an inline link or picture. Its text may hold a picture that is a link itself."""
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?", re.MULTILINE)
CODE = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
TAG = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def without_code(text: str) -> str:
    """Return `text` with empty lines for fenced code, and without code in a line."""
    lines, fence = [], ""
    for line in text.splitlines():
        mark = FENCE.match(line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
            lines.append("")
        else:
            lines.append("" if fence else line)
    paragraphs = "\n".join(lines).split("\n\n")
    return "\n\n".join(CODE.sub("", paragraph) for paragraph in paragraphs)


def targets(text: str) -> Iterator[str]:
    """Yield the targets of all links and pictures that lead to no other host."""
    prose = without_code(text)
    hits = [*LINK.findall(prose), *DEFINITION.findall(prose), *TAG.findall(prose)]
    # A picture that is a link has its own target inside the text of the link.
    hits += re.findall(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)", prose)
    yield from (target for target in dict.fromkeys(hits) if not SCHEME.match(target))


def slug(heading: str) -> str:
    """Return the anchor of a heading: lower case, without punctuation, a dash for every space."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"<[^>]*>", "", re.sub(r"[*`]", "", text)).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Return the anchors of a page: those of its headings, and explicit ones.

    Repeated headings get numbers, which differ between code hosts and the site. Only the first has an anchor here.
    """
    found: set[str] = set()
    fence = ""
    for line in text.splitlines():
        mark = FENCE.match(line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
        elif not fence and (heading := HEADING.match(line)):
            found.add(slug(heading[1]))
    return found | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def broken(page: Path, root: Path, files: set[str]) -> Iterator[str]:
    """Yield each link of `page` that leads nowhere, with the reason. `files` are the tracked files, relative to `root`."""
    folders = {parent.as_posix() for file in files for parent in Path(file).parents} - {"."}
    in_docs = page.is_relative_to(root / "docs")
    for target in targets(page.read_text(encoding="utf-8")):
        place, _, anchor = unquote(target).partition("#")
        path = (root / place.lstrip("/") if place.startswith("/") else page.parent / place) if place else page
        try:
            name = path.resolve().relative_to(root.resolve()).as_posix()
        except ValueError:
            yield f"{target}: outside of the repository"
            continue
        if name not in files | folders:
            yield f"{target}: no such file in git"
        elif in_docs and name in folders:
            yield f"{target}: a folder, which the site cannot open; name a file in it"
        elif in_docs and not name.startswith("docs/"):
            yield f"{target}: outside of docs/, where the site cannot follow"
        elif anchor and name.endswith(".md") and anchor not in anchors((root / name).read_text(encoding="utf-8")):
            yield f"{target}: {name} has no heading #{anchor}"
