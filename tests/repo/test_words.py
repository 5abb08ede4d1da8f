"""Documents, docstrings, comments and messages use the words of docs/glossary.md, in short sentences."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import prose
from helpers.paths import ROOT

LONGEST_SENTENCE = 30
LONGEST_LINE = 120
GLOSSARY = ROOT / "docs" / "glossary.md"


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


ENGLISH = [path for path in tracked("*.md") if path.name not in ("README.zh-CN.md", "LICENSE")]
PAGES = [path for path in ENGLISH if path.name != "CHANGELOG.md"]
SOURCES = tracked("parity/*.py", "paddle_impl/*.py", "torch_impl/*.py", "scripts/*.py")


def unwanted_words() -> list[str]:
    """The phrases of the glossary's last column."""
    rows = re.findall(r"^\|.*\|([^|]*)\|$", GLOSSARY.read_text(), re.MULTILINE)
    return [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]


UNWANTED = re.compile(rf"\b({'|'.join(re.escape(phrase) for phrase in unwanted_words())})\b", re.IGNORECASE)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_glossary_lists_words_that_are_not_used() -> None:
    assert len(unwanted_words()) > 30 and UNWANTED.search("The sides stand apart.")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_sentences_and_lines_are_short(page: Path) -> None:
    text = page.read_text()
    long = [
        f"line {number}: {count} words: {sentence}"
        for number, sentence in prose.sentences(text)
        if (count := prose.word_count(sentence)) > LONGEST_SENTENCE
    ]
    wide = [
        f"line {number}: {len(line)} characters"
        for number, line in prose.prose_lines(text)
        if len(re.sub(r"\]\([^)]*\)", "]", line)) > LONGEST_LINE
    ]
    assert not long + wide, "\n".join(long + wide)


@pytest.mark.parametrize("page", [page for page in ENGLISH if page != GLOSSARY], ids=named)
def test_documents_use_the_words_of_the_glossary(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    found = [f"line {text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}" for hit in UNWANTED.finditer(text)]
    assert not found, "\n".join(found)


def test_docstrings_comments_and_messages_use_the_words_of_the_glossary() -> None:
    found = [
        f"{named(path)}:{number}: {hit[0]}"
        for path in SOURCES
        for number, text in prose.source_texts(path)
        for hit in UNWANTED.finditer(text)
    ]
    assert not found, "\n".join(found)


def test_names_of_tests_have_at_most_80_characters() -> None:
    long = list(_long_names(tracked("tests/*.py")))
    assert not long, "\n".join(long)


def _long_names(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE):
            if len(name) > 80:
                yield f"{named(path)}: {name}"
