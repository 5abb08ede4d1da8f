"""The sentences of documents, and the words of source files."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^ *(```|~~~)")
NO_PROSE = re.compile(r"^\s*(\||#|<!--|!\[|:::|---$)")
"""Tables, headings, comments, pictures, directives of the site, rules."""
LIST_ITEM = re.compile(r"^\s*([-*+]|\d+\.) ")
END = re.compile(r"(?<=[.!?:;])[)\"*]*\s+(?=[A-Z`\"*(\[0-9])")


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of Markdown that are neither code nor tables; an empty line ends a paragraph."""
    fenced = indented = False
    blank = True
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            starts_code = line.startswith("    ") and (blank or indented) and not LIST_ITEM.match(line)
            indented = starts_code or (indented and not line.strip())
            if indented or NO_PROSE.match(line):
                yield number, ""
            else:
                yield number, line
        blank = not line.strip()


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences of Markdown with the line where their paragraph begins; a link counts by its text, code as one word."""
    paragraph: list[str] = []
    start = 0
    for number, line in [*prose_lines(text), (0, "")]:
        if paragraph and (not line.strip() or LIST_ITEM.match(line)):
            joined = re.sub(r"`[^`]*`", "`code`", " ".join(paragraph))
            joined = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", joined)
            yield from ((start, sentence) for sentence in END.split(joined) if sentence.strip())
            paragraph = []
        if line.strip():
            start = start if paragraph else number
            paragraph.append(LIST_ITEM.sub("", line.strip()))


def word_count(sentence: str) -> int:
    """The words of a sentence; a number is one."""
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def source_texts(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings, other texts and comments of a Python file, with their lines."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
