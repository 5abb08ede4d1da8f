"""Output of commands under all conditions: closed pipes and streams, full disks, terminals without UTF-8, settings of other users."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.paths import ROOT
from helpers.scripts import script_main
from helpers.training_runs import DATA, NETWORK, PATIENCE, Ended, script
from parity.standard_streams import printable
from parity.training.run_folder import RunFolder

INLINE = "module://matplotlib_inline.backend_inline"
"""MPLBACKEND of a Jupyter kernel; the import of matplotlib fails with it if its package is missing."""

SHORT = (*DATA, "--network", NETWORK, "--recipe", "adam", "--epochs", "1", "--batch-size", "32")
LOGS = "docs/runs/vgg_mini-small"


def shell(command: str, *words: object, **environment: str) -> Ended:
    """Run `command` in bash with `words` as its $@. The exit code is that of the first program of a pipe."""
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", "bash", *map(str, words)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def command(name: str, *words: object) -> list[str]:
    return [sys.executable, f"scripts/{name}.py", *map(str, words)]


def refused_code(name: str, *words: object) -> int:
    """The exit code of `scripts/NAME.py` in this process."""
    return script_main(name)(map(str, words))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder 图 片 with three pictures."""
    folder = tmp_path / "图 片"
    folder.mkdir()
    for name in ("一.png", "b.png", "c.png"):
        Image.new("RGB", (32, 32), "red").save(folder / name)
    return folder


LEAVES, READS_NOTHING, CLOSED = "| head -1", "| true", ">&-"
"""Readers of stdout."""


@pytest.mark.parametrize(
    ("words", "reader"),
    [
        ("predict {}", LEAVES),
        ("predict {}", READS_NOTHING),
        ("predict {}", CLOSED),
        (f"compare_runs {LOGS} --out {{}}/runs.png", CLOSED),
        ("describe", LEAVES),
        ("bench --help", READS_NOTHING),
    ],
)
def test_output_that_nobody_reads_is_dropped(words: str, reader: str, pictures: Path) -> None:
    name, *rest = shlex.split(words)
    ended = shell(f'"$@" {reader}', *command(name, *(word.replace("{}", str(pictures)) for word in rest)))
    assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>&1 | true"])
def test_an_error_that_nobody_reads_still_has_its_exit_code(closed: str) -> None:
    for words in (["predict", "nosuch.png"], ["predict", "--nosuch"]):
        ended = shell(f'"$@" {closed}', *command(*words))
        assert (ended.code, ended.stdout, ended.stderr) == (2, "", "")


def test_output_never_goes_to_a_file_that_got_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    out = tmp_path / "runs.png"
    assert shell('"$@" <&- >&- 2>&-', *command("compare_runs", LOGS, "--out", out)).code == 0
    with Image.open(out) as picture:
        picture.verify()
    assert [file.name for file in tmp_path.iterdir()] == ["runs.png"]


@pytest.mark.parametrize("words", [["describe"], ["describe", "--help"]])
def test_a_full_disk_behind_stdout_is_a_failure(words: list[str]) -> None:
    ended = shell('"$@" > /dev/full', *command(*words))
    assert (ended.code, ended.stderr) == (1, "failed: cannot write to stdout: No space left on device\n")


# The loop that prints is the same for both frameworks.
@pytest.mark.parametrize(
    ("framework", "closed"), [("paddle", "> /dev/full"), ("torch", "2>&1 | head -1"), ("paddle", ">&- 2>&-")]
)
def test_training_goes_on_to_its_end_without_a_reader(framework: str, closed: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = shell(f'"$@" {closed}', *script(framework, *SHORT, "--out", folder), MPLBACKEND=INLINE)
    assert ended.code == (1 if "full" in closed else 0), ended.stderr
    assert len(ended.stdout.splitlines()) == (1 if "head" in closed else 0)
    assert "Traceback" not in ended.stderr
    assert len(RunFolder.open(folder).metrics("pass")) == 1
    assert {"last.safetensors", "best.safetensors", "curves.png"} <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252", "utf-8"])
def test_a_terminal_that_is_not_utf8_is_shown_what_it_lacks_as_escapes(encoding: str, pictures: Path) -> None:
    ended = shell('"$@"', *command("predict", pictures), PYTHONIOENCODING=encoding)
    assert (ended.code, ended.stderr) == (0, "")
    line = next(line for line in ended.stdout.splitlines() if "png" in line and str(pictures.parent) in line)
    shown = "图 片" if encoding == "utf-8" else r"\u56fe \u7247"
    assert f"/{shown}/" in line
    refused = shell('"$@"', *command("predict", pictures / "d.png"), PYTHONIOENCODING=encoding)
    assert refused.code == 2
    assert shown in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_training_into_a_folder_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    folder = tmp_path / "r" / "结果"
    ended = shell('"$@"', *script("paddle", *SHORT, "--out", folder), PYTHONIOENCODING="ascii", MPLBACKEND="nonsense")
    assert (ended.code, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert r"r/\u7ed3\u679c" in ended.stdout
    assert (folder / "last.safetensors").exists()


@pytest.mark.parametrize("backend", [INLINE, "nonsense"])
def test_pictures_are_drawn_whatever_the_users_backend_is(backend: str, pictures: Path, tmp_path: Path) -> None:
    sheet, plot = tmp_path / "sheet.png", tmp_path / "plot.png"
    settings = tmp_path / "matplotlibrc"
    settings.write_text("figure.facecolor: red\nsavefig.dpi: 10\n")
    for words in (
        ["predict", str(pictures), "--show", str(sheet)],
        ["describe", "--network", "vgg_mini", "--plot", str(plot)],
    ):
        ended = shell('"$@"', *command(*words), MPLBACKEND=backend, MATPLOTLIBRC=str(settings))
        assert (ended.code, ended.stderr) == (0, "")
    with Image.open(plot) as picture:
        assert picture.width == 1650
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


HOSTILE = "a\x1b[2J\x07\r\x9b31m\u202e.png"


@pytest.mark.parametrize(
    "words",
    [
        ["predict", HOSTILE],
        ["predict", "--model", HOSTILE, "docs/pictures"],
        ["convert_weights", HOSTILE, "x.safetensors"],
        ["compare_runs", HOSTILE],
        ["evaluate", "--report", f"/dev/null/{HOSTILE}"],
        ["train_torch", "--resume", HOSTILE],
        ["check_parity", "--network", HOSTILE],
        ["describe", f"--{HOSTILE}"],
    ],
    ids=lambda words: words[0],
)
def test_errors_show_control_codes_of_names_as_escapes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused_code(*words) == 2
    stdout, stderr = capsys.readouterr()
    assert stderr.count("\n") == 1
    assert stderr[:-1].isprintable()
    assert r"a\x1b[2J\x07" in stderr
    assert stdout.replace("\n", "").isprintable()


def test_a_name_that_is_no_text_is_shown_and_read(pictures: Path) -> None:
    name = os.fsdecode(b"\xff\x1b.png")
    Image.new("RGB", (32, 32)).save(pictures / name)
    ended = shell('"$@"', *command("predict", pictures))
    assert (ended.code, ended.stderr) == (0, "")
    assert r"/\udcff\x1b.png" in ended.stdout
    assert printable(name) == r"\udcff\x1b.png"


@pytest.mark.parametrize(
    "words",
    [
        ["check_parity", "--network", "vgg_mini"],
        ["check_parity", "--pairs", "none"],
        ["bench", "train"],
        ["evaluate"],
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_code(*words, "--report", "/dev/null/report", "--json") == 2
    said = "error: cannot write /dev/null/report (Not a directory): choose another --report\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.usefixtures("at_hand")
def test_a_result_is_printed_though_its_report_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "junit.xml"
    taken.mkdir()
    words = ("--network", "vgg_mini@0.1", "--stages", "forward", "--data", "shapes10", "--report", tmp_path, "--json")
    assert refused_code("check_parity", *words) == 2
    stdout, stderr = capsys.readouterr()
    assert json.loads(stdout.splitlines()[-1])["verdict"] == "equal"
    assert stderr.splitlines()[-1].startswith(f"error: cannot write {taken}")


NOBODY = """
import os, sys
home, *words = sys.argv[1:]
from parity.cli.train import main
for name in ("VGG_PARITY_CACHE", "XDG_CACHE_HOME", "HOME"):
    os.environ.pop(name, None)
if home:
    os.environ["HOME"] = home
os.setuid(54321)
sys.exit(main(["--framework", "paddle", *words]))
"""
"""Train as a user without an account, who may not be allowed to read the interpreter's folder."""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become a user without an entry")
@pytest.mark.parametrize(
    ("home", "message"),
    [
        (
            "",
            "this user has no home folder for a cache of data sets: set VGG_PARITY_CACHE to a folder, or give --data-dir",
        ),
        ("CLOSED", "cannot use CLOSED/.cache/vgg-parity/"),
    ],
)
@pytest.mark.parametrize("data", ["mnist", "mnist10k"])
def test_a_home_folder_that_is_missing_or_closed_is_one_line(
    home: str, message: str, data: str, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home, message = (text.replace("CLOSED", str(closed)) for text in (home, message))
    ended = shell('"$@"', sys.executable, "-c", NOBODY, home, "--data", data)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("data", [("--data-dir", "~nosuch/x"), ("--data", "folder:~nosuch/x")])
@pytest.mark.parametrize(
    "words",
    [["train_torch"], ["train_paddle"], ["evaluate"], ["check_parity", "--network", "lenet"], ["bench", "train"]],
    ids=lambda words: words[0],
)
def test_a_home_folder_of_nobody_is_refused(
    words: list[str], data: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_code(*words, *data) == 2
    said = "error: ~nosuch/x begins with a home folder that does not exist: give the path without ~\n"
    assert capsys.readouterr() == ("", said)
