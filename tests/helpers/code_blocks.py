"""Run the code blocks of a page in order, and compare what its commands print with what the page shows.

| block | what happens |
|---|---|
| ```` ```python title="FILE" ```` | the block is written to FILE |
| ```` ```diff title="FILE" ```` | the lines with `-` in FILE are replaced by the lines with `+` |
| ```` ```python ```` | the block runs as a program and must succeed |
| ```` ```bash ```` | its commands run and must succeed |
| ```` ```console ```` | its `$ command` lines run; each must print the lines below it |

In expected output, a line `...` stands for any lines. Numbers that depend on the machine, on versions or on time are not compared.
Other languages, such as `json`, are for readers only.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.paths import ROOT

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?$')

VARYING = (
    (re.compile(r"\b\d+\.\d+\.\d+(\+\w+)?\b"), "VERSION"),
    (re.compile(r"\b\d+\.\d+e[+-]\d+\b"), "NUMBER"),
    (re.compile(r"\b\d+\.\d+ ?s\b"), "SECONDS"),
    (re.compile(r", \d+ warnings?\b"), ""),
    (re.compile(r"^(For speed: channels) (first|last)"), r"\1 LAYOUT"),  # by the kind of processor
    # Rounding decides which tensor of an equal stage has the largest error.
    (re.compile(r"(equal +\d+ tensors, worst .*, at )\S+"), r"\1TENSOR"),
)
"""What is not compared -> what stands for it."""

COMMANDS = {"vgg-parity": ("-m", "parity"), "pytest": ("-m", "pytest"), "python": ()}
"""Programs that run with the interpreter of the tests, wherever PATH leads."""


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its fence, its language, its title (empty: none) and its text."""

    line: int
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, its line in the page, and the lines that it must print (None: any)."""

    line: int
    text: str
    expected: list[str] | None


def read_blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page that name their language."""
    lines = page.splitlines()
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and (fence := FENCE.match(line)):
            start = number
        elif start is not None and line == "```" and fence:
            yield Block(start, fence[1], fence[2] or "", "\n".join(lines[start : number - 1]) + "\n")
            start = None


def read_commands(block: Block) -> list[Command]:
    """Return the commands of a `bash` or `console` block; a line that ends in a backslash goes on in the next."""
    found: list[Command] = []
    lines = iter(enumerate(block.text.splitlines(), block.line + 1))
    for number, line in lines:
        if block.language == "console" and not line.startswith("$ "):
            found[-1].expected.append(line)  # type: ignore[union-attr]
            continue
        text = line.removeprefix("$ ")
        while text.endswith("\\"):
            text = f"{text[:-1].rstrip()} {next(lines)[1].strip()}"
        text = re.sub(r"\s+#\s.*$", "", text).strip()
        if text and not text.startswith("#"):
            found.append(Command(number, text, [] if block.language == "console" else None))
    return found


def normalise(line: str) -> str:
    """Return `line` without the numbers that depend on the machine, on versions or on time."""
    for pattern, word in VARYING:
        line = pattern.sub(word, line)
    return line.rstrip()


def matches(expected: list[str], printed: list[str]) -> bool:
    """Whether `printed` is what the page shows, where a line `...` stands for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(normalise(line)) + r"\n" for line in expected
    )
    return re.fullmatch(pattern, "".join(f"{normalise(line)}\n" for line in printed)) is not None


class PageRun:
    """The blocks of `page`, run in `folder`.

    `replacements` maps a command to a shorter one that runs in its place; it must succeed, and its output is not compared. `skips` maps a
    command to the reason why it does not run. `problems` is the result: one text per command or file that is not as the page says.
    """

    def __init__(
        self,
        page: Path,
        folder: Path,
        replacements: Mapping[str, str] | None = None,
        skips: Mapping[str, str] | None = None,
    ) -> None:
        self.page, self.folder = page, folder
        self.replacements, self.skips = dict(replacements or {}), dict(skips or {})
        self.problems: list[str] = []
        self.environment = self._environment()
        unused = {**self.replacements, **self.skips}
        for block in read_blocks(page.read_text(encoding="utf-8")):
            for command in self._run(block):
                unused.pop(command.text, None)
        self.problems += [f"{page.name} has no command {text!r}: remove its replacement or skip" for text in unused]
        self.problems += [f"the skip of {text!r} has no reason" for text, why in self.skips.items() if not why]

    def _run(self, block: Block) -> list[Command]:
        """Run one block; return its commands."""
        if block.language in ("bash", "console"):
            commands = read_commands(block)
            for command in commands:
                if command.text not in self.skips:
                    self._execute(command)
            return commands
        if block.title and block.language == "diff":
            self._edit(block)
        elif block.title:
            (self.folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self._execute(Command(block.line, f"python -c {shlex.quote(block.text)}", None))
        return []

    def _execute(self, command: Command) -> None:
        text = self.replacements.get(command.text, command.text)
        expected = command.expected if text == command.text else None
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed = done.stdout.splitlines()
        lines = printed
        if expected is None:
            fits = done.returncode == 0
        else:
            # A command whose output is shown may report a difference, which is exit code 1.
            fits = done.returncode in (0, 1) and matches(expected, printed)
            both = [normalise(line) for line in expected], [normalise(line) for line in printed]
            lines = list(difflib.unified_diff(*both, "page", "printed", lineterm="", n=1))
        if not fits:
            self._report(command.line, "\n".join([f"{text!r} ended with {done.returncode}", *lines]))

    def _edit(self, block: Block) -> None:
        lines = block.text.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        file = self.folder / block.title
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if text.count(old) == 1:
            file.write_text(text.replace(old, new), encoding="utf-8")
        else:
            self._report(block.line, f"{block.title} has the lines to replace {text.count(old)} times")

    def _report(self, line: int, text: str) -> None:
        self.problems.append(f"{self.page.name}, line {line}: {text}")

    def _environment(self) -> dict[str, str]:
        """The environment of this process, in which `COMMANDS` run with its interpreter and this repository."""
        programs = self.folder / ".programs"
        programs.mkdir()
        for name, words in COMMANDS.items():
            file = programs / name
            file.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n')
            file.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        path = os.pathsep.join([str(programs), kept["PATH"]])
        modules = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
        return kept | {"PATH": path, "PYTHONPATH": modules, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
