"""`vgg-parity`: its commands, suggested names, the older flags of the scripts, and its output on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from helpers.paths import ROOT
from parity.cli import scripts
from parity.cli.main import COMMANDS, main
from parity.cli.scripts import SCRIPTS, translate
from parity.version import __version__

EXECUTABLE = str(Path(sys.executable).with_name("vgg-parity"))
COMMAND_FILES = {
    "bench_accuracy", "bench_contestants", "bench_growth", "bench_log", "command", "entry", "main", "options", "recordings", "reports",
    "scripts", "train_options",
}  # fmt: skip
"""Files of `parity/cli` that are not commands."""

OTHER_SCRIPTS = {"library_environments", "measure_recording"}
"""Scripts that stand for no command: one makes environments, the other measures what a recording costs."""


def run(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


# The commands


def test_every_file_of_a_command_is_a_command_and_help_lists_them_all() -> None:
    files = {path.stem for path in (ROOT / "parity" / "cli").glob("[a-z]*.py")}
    assert files - COMMAND_FILES == set(COMMANDS)
    assert files >= COMMAND_FILES
    text = run(EXECUTABLE, "--help").stdout
    assert re.findall(r"^  (\w+)  ", text, re.MULTILINE)[-len(COMMANDS) :] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: vgg-parity {command} ")
    assert f"\n  vgg-parity {command}" in text.partition("Examples:")[2]
    assert "--json" in text
    assert max(map(len, text.partition("Examples:")[0].splitlines())) <= 120


@pytest.mark.parametrize("start", [[EXECUTABLE], [sys.executable, "-m", "parity"]], ids=["vgg-parity", "-m parity"])
def test_it_works_from_any_folder(start: list[str], tmp_path: Path) -> None:
    done = run(*start, "describe", "--network", "lenet", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert run(*start, "--version", cwd=tmp_path).stdout == f"vgg-parity, version {__version__}\n"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_script_works_from_another_folder(script: str, tmp_path: Path) -> None:
    done = run(sys.executable, ROOT / "scripts" / f"{script}.py", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: vgg-parity {SCRIPTS[script].command} ")
    files = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert files == {*SCRIPTS, *OTHER_SCRIPTS}


# Near names


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["chek"], "did you mean check"),
        (["check", "--netwrok", "lenet"], "did you mean --network"),
        (["describe", "--network", "vgg_mni"], "did you mean vgg_mini"),
        (["train", "--recipe", "aticle", "--data", "shapes10"], "did you mean article"),
        (["train", "--data", "cifar1"], "did you mean cifar10"),
        (["pairs", "resnet81"], "did you mean resnet18"),
        (["check", "--stages", "forwrad", "--data", "shapes10"], "did you mean forward"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_near_name_is_suggested_in_one_line(words: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert stderr.startswith("error: ") and near in stderr


def test_the_shell_completes_commands_and_flags() -> None:
    for words, expected in (("vgg-parity che", "plain,check\n"), ("vgg-parity check --net", "plain,--network\n")):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_VGG_PARITY_COMPLETE": "bash_complete"}
        done = subprocess.run([EXECUTABLE], env=os.environ | asked, capture_output=True, text=True, check=False)
        assert done.stdout == expected, done.stderr


# The older flags of the scripts


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("train_torch", "--out runs/x --seed 1", "train --framework torch --output runs/x --seed 1"),
        ("train_paddle", "--out=runs/x", "train --framework paddle --output=runs/x"),
        ("train_torch", "--output runs/x", "train --framework torch --output runs/x"),
        ("predict", "a.png --show sheet.png", "predict a.png --output sheet.png"),
        ("describe", "--plot c.png", "describe --output c.png"),
        (
            "describe",
            "--update README.md --verdicts a.json b.json --json",
            "describe --update README.md --verdicts a.json --verdicts b.json --json",
        ),
        ("export_onnx", "--run runs/x --output a.onnx", "export --model runs/x --output a.onnx"),
        ("export_onnx", "--weights=w.safetensors", "export --model=w.safetensors"),
        ("export_onnx", "--network lenet", "export --model lenet"),
        ("compare_runs", "runs/a runs/b --out x.png", "runs runs/a runs/b --output x.png"),
        ("experiment", "cifar --out runs/c", "experiment cifar --output runs/c"),
        ("check_parity", "--network lenet", "check --network lenet"),
        ("check_parity", "--torch a:b --paddle c:d", "compare --torch a:b --paddle c:d"),
        ("check_parity", "--paddle=c:d", "compare --paddle=c:d"),
        ("check_parity", "--pairs resnet18 --json", "pairs resnet18 --json"),
        ("check_parity", "--json --pairs=resnet18", "pairs --json resnet18"),
        ("compare_criteria", "--update a b", "selftest --update a b"),
    ],
)
def test_a_script_takes_its_flags_of_before(script: str, words: str, expected: str) -> None:
    command, translated = translate(script, words.split())
    assert [command, *translated] == expected.split()


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("export_onnx", "--run a --weights b", "--run and --weights exclude each other"),
        ("check_parity", "--pairs all --torch a:b", "--pairs excludes"),
    ],
)
def test_flags_that_contradict_are_one_line_and_2(script: str, words: str, said: str) -> None:
    done = run(sys.executable, f"scripts/{script}.py", *words.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {said}")


def test_flags_that_a_script_renames_are_options_of_its_command() -> None:
    for script in SCRIPTS.values():
        options = {word for param in commands_of(script).params for word in param.opts}
        assert set(script.renamed.values()) <= options
        assert not set(script.renamed) & options or script.command == "export"


def commands_of(script: scripts.Script):  # type: ignore[no-untyped-def]
    import importlib

    return importlib.import_module(f"parity.cli.{script.command}").main


# A terminal


def on_a_terminal(*words: str) -> str:
    """Output of the executable on a terminal of 110 columns, with standard error."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.environ["TERM"] = "xterm"
            os.execv(EXECUTABLE, [EXECUTABLE, *words])
        finally:
            os._exit(127)  # this process must not continue as a second pytest
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    found = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux reports the closed other end like this
            part = b""
        if not part:
            break
        found += part
    os.waitpid(pid, 0)
    os.close(terminal)
    return found.decode()


CHECK = ("check", "--network", "lenet@0.5", "--data", "shapes10", "--stages", "forward,trajectory", "--steps", "3")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_verdicts_are_coloured_and_a_bar_names_the_phases() -> None:
    text = on_a_terminal(*CHECK)
    assert "\x1b[32m\x1b[1mequal\x1b[0m" in text
    assert re.search(r"step 2  33%\|", text)
    assert re.search(r"\d\d:\d\d<", text)


@pytest.mark.usefixtures("at_hand")
def test_only_a_terminal_without_no_color_has_colours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for no_color in ("", "1"):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", no_color)
        with contextlib.redirect_stdout(Terminal()) as terminal:
            assert main([*CHECK, "--perturb", "conv1:weight:1e-3"]) == 1
        shown[no_color] = terminal.getvalue()
    assert "\x1b[31m\x1b[1mdifferent\x1b[0m" in shown[""]
    assert "different" in shown["1"] and "\x1b" not in shown["1"]
    monkeypatch.delenv("NO_COLOR")
    capsys.readouterr()
    assert main(list(CHECK)) == 0
    assert "\x1b" not in "".join(capsys.readouterr())
