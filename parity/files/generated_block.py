"""Generated blocks: text that a command writes between two marks of a document."""

from __future__ import annotations

import re
from pathlib import Path

from parity.errors import InputError
from parity.files.atomic import write_atomically


def around(file: Path, word: str) -> tuple[str, str]:
    """Return the text of `file` up to the mark `<!-- word -->` and from the mark `<!-- /word -->` on, both included.

    `InputError` if a mark is missing.
    """
    try:
        found = re.match(rf"(.*<!-- {word} -->\n)(?:.*\n)?(<!-- /{word} -->.*)", file.read_text(), re.DOTALL)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error}): give a text file") from None
    if not found:
        raise InputError(f"{file} has no <!-- {word} --> and <!-- /{word} -->: add both marks where the tables belong")
    return found[1], found[2]


def update(file: Path, word: str, text: str) -> None:
    """Write `text` between the marks."""
    before, behind = around(file, word)
    write_atomically(file, f"{before}\n{text}\n\n{behind}".encode())
