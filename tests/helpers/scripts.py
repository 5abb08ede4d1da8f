"""Runs the scripts in this process, without the start of an interpreter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable

from parity.cli.scripts import translate


def script_main(name: str) -> Callable[[Iterable[str]], int]:
    """The function that takes the arguments of `scripts/NAME.py` and returns its exit code."""

    def main(words: Iterable[str] = ()) -> int:
        try:
            command, words = translate(name, list(words))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        code: int = importlib.import_module(f"parity.cli.{command}").main(words)
        return code

    return main
