"""The flags of `scripts/*.py` in the words of `vgg-parity`, so that commands of before there was one executable go on to work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Script:
    """What a script stands for: a command, words before those of the user, and its old flags with their present names."""

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
"""By the script's name, without .py."""

SEVERAL = ("--verdicts",)
"""Flags that used to take several words, and now take one and may be given again."""


def translate(script: str, words: list[str]) -> tuple[str, list[str]]:
    """The command that `script` stands for, and `words` as that command takes them. `ValueError`, one line, where they contradict."""
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
    """A flag before each of its several words."""
    made, open_flag = list[str](), ""
    for word in words:
        if word.startswith("-"):
            open_flag = word if word in SEVERAL else ""
        elif open_flag and made[-1] != open_flag:
            made.append(open_flag)
        made.append(word)
    return made


def _check(words: list[str]) -> tuple[str, list[str]]:
    """check_parity.py was three commands: check for networks of ours, compare for two models, pairs for those of libraries."""
    models = [flag for flag in ("--torch", "--paddle") if any(_is(word, flag) for word in words)]
    for place, word in enumerate(words):
        if not _is(word, "--pairs"):
            continue
        if models:
            raise ValueError("--pairs stands alone: --torch and --paddle are for two models of your own")
        _, equals, value = word.partition("=")
        rest = words[place + 1 :]
        return "pairs", [*words[:place], *([value, *rest] if equals else rest)]
    return ("compare" if models else "check"), words
