"""Translates the flags of `scripts/*.py` to those of `vgg-parity`, so that commands older than `vgg-parity` still work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Script:
    """A script: its command, the words before the user's, and its old flags with their present names."""

    command: str
    words: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


SCRIPTS = {
    "bench": Script("bench"),
    "check_parity": Script("check"),
    "compare_criteria": Script("selftest"),
    "compare_runs": Script("runs", renamed={"--out": "--output"}),
    "convert_weights": Script("convert"),
    "describe": Script("describe", renamed={"--plot": "--output"}),
    "evaluate": Script("evaluate"),
    "experiment": Script("experiment", renamed={"--out": "--output"}),
    "export_onnx": Script("export", renamed={"--run": "--model", "--weights": "--model", "--network": "--model"}),
    "predict": Script("predict", renamed={"--show": "--output"}),
    "train_paddle": Script("train", ("--framework", "paddle"), {"--out": "--output"}),
    "train_torch": Script("train", ("--framework", "torch"), {"--out": "--output"}),
}
"""Name of a script, without .py -> its translation."""

SEVERAL = ("--verdicts",)
"""Flags that took several words before, and now take one word and may be repeated."""


def translate(script: str, words: list[str]) -> tuple[str, list[str]]:
    """Return the command of `script`, and `words` translated for it. `ValueError`, one line, if they contradict each other."""
    found = SCRIPTS[script]
    command = found.command
    if script == "check_parity":
        command, words = _check(words)
    given = {flag for flag in found.renamed if any(_is(word, flag) for word in words)}
    if len({found.renamed[flag] for flag in given}) < len(given):
        raise ValueError(f"{' and '.join(sorted(given))} exclude each other")
    return command, [*found.words, *_repeated([_renamed(word, found.renamed) for word in words])]


def _is(word: str, flag: str) -> bool:
    return word == flag or word.startswith(f"{flag}=")


def _renamed(word: str, names: Mapping[str, str]) -> str:
    flag, equals, value = word.partition("=")
    return names.get(flag, flag) + equals + value


def _repeated(words: list[str]) -> list[str]:
    """Repeat a flag before each of its words."""
    made, open_flag = list[str](), ""
    for word in words:
        if word.startswith("-"):
            open_flag = word if word in SEVERAL else ""
        elif open_flag and made[-1] != open_flag:
            made.append(open_flag)
        made.append(word)
    return made


def _check(words: list[str]) -> tuple[str, list[str]]:
    """Translate check_parity.py, now three commands: check (our networks), compare (two models), pairs (networks of libraries)."""
    models = [flag for flag in ("--torch", "--paddle") if any(_is(word, flag) for word in words)]
    for place, word in enumerate(words):
        if not _is(word, "--pairs"):
            continue
        if models:
            raise ValueError("--pairs excludes --torch and --paddle, which are for two models of your own")
        _, equals, value = word.partition("=")
        rest = words[place + 1 :]
        return "pairs", [*words[:place], *([value, *rest] if equals else rest)]
    return ("compare" if models else "check"), words
