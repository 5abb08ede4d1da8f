"""Run folders: one process wins, no file of the user is deleted, and a damaged folder is refused before the first step."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers.framework_process import FrameworkProcess
from helpers.paths import ROOT
from helpers.refusals import BATCH_LINE, EXPERIMENT, Refused, saved_run
from helpers.training_runs import position, same_end, script, wait_for
from parity.cli import runs
from parity.cli.train import main as train
from parity.cli.train_options import command_to_resume
from parity.experiments.tables import table
from parity.files import atomic
from parity.process_group import ProcessGroup
from parity.training.run_folder import Position, RunFolder
from parity.weights import canonical_state

CREATE = """
import sys
from pathlib import Path
from parity.errors import InputError
from parity.recipe.recipe import Experiment
from parity.training.run_folder import RunFolder
experiment = Experiment.from_json(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    try:
        run = RunFolder.create(Path(sys.argv[1]) / str(number), experiment, {"by": sys.argv[4]})
        print(number, "won", flush=True)
    except InputError as error:
        print(number, "lost", flush=True)
"""


def test_of_ten_starts_at_once_one_makes_the_run(tmp_path: Path) -> None:
    starts, folders = 10, 60
    command = [sys.executable, "-c", CREATE, str(tmp_path), str(folders), EXPERIMENT.to_json()]
    processes = [
        subprocess.Popen([*command, str(i)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(starts)
    ]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [line.split() for process in processes for line in process.communicate(timeout=120)[0].splitlines()]
    assert Counter(number for number, what in lines if what == "won") == {str(number): 1 for number in range(folders)}
    assert len(lines) == starts * folders
    for number in range(folders):
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["config.json"]
        assert RunFolder.open(tmp_path / str(number)).experiment == EXPERIMENT


@pytest.mark.parametrize(
    ("framework", "starts"),
    [
        ("paddle", 3),
        pytest.param("paddle", 10, marks=pytest.mark.slow),
        pytest.param("torch", 10, marks=pytest.mark.slow),
    ],
)
def test_only_one_of_several_commands_with_the_same_output_folder_trains(
    framework: str, starts: int, tmp_path: Path
) -> None:
    command = script(framework, "--data", "shapes10", "--network", "cifar_net", "--epochs", 1, "--train-limit", 16)
    command += ["--test-limit", "8", "--out", str(tmp_path / "run")]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(starts)
    ]
    ends = [(process.communicate(timeout=250)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in ends) == [0, *[2] * (starts - 1)]
    for stderr, code in ends:
        assert code == 0 or stderr.count("\n") == 1, stderr
        assert code == 0 or str(tmp_path / "run") in stderr
    assert len(RunFolder.open(tmp_path / "run").metrics("pass")) == 1


def test_runs_without_a_folder_of_their_own_get_different_ones(tmp_path: Path) -> None:
    runs = [RunFolder.create_new(tmp_path / "runs", "name", EXPERIMENT, {}) for _ in range(3)]
    assert [run.folder.name for run in runs] == ["name", "name-2", "name-3"]


def test_a_run_whose_checkpoint_is_gone_is_refused_and_stays_as_it_is(training_refusal: Refused) -> None:
    shutil.copytree(ROOT / "docs" / "runs" / "vgg_mini-small", "run")
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    message = training_refusal("--resume", "run")
    assert message.startswith("run has metrics.jsonl, but no last.safetensors")
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_run_that_ends_before_its_first_minute_has_a_checkpoint_to_continue_from(
    process: FrameworkProcess, tmp_path: Path
) -> None:
    recipe = EXPERIMENT.recipe
    recipe = dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, rate=1e9))
    experiment = dataclasses.replace(EXPERIMENT, recipe=recipe, train_limit=80, test_limit=8)
    RunFolder.create(tmp_path / "run", experiment, {})
    for _ in range(2):
        ended = process.train("--resume", tmp_path / "run", code=1)
        assert "the loss became" in ended.stderr
        assert position(tmp_path / "run")["update"] == 0


DAMAGED_LINES: dict[str, dict[str, Any]] = {
    "a field with another name": {"rate": None, "ratf": 0.1},
    "a text for a number": {"cost": "2.5"},
    "no finite number": {"mean_cost": float("nan")},
    "infinity": {"mean_error": float("inf")},
    "a number of 400 digits": {"samples": 10**400},
    "a negative number": {"seconds": -1.0},
    "a truth value": {"passes": True},
    "another event": {"event": "epoch"},
    "a list as event": {"event": ["batch"]},
}


@pytest.mark.parametrize("damage", DAMAGED_LINES)
def test_a_damaged_line_of_metrics_is_refused_before_the_first_step(damage: str, training_refusal: Refused) -> None:
    run = saved_run(Path("run"))
    run.save(canonical_state.load(run.last)[1], Position(lines=1))
    line = {key: value for key, value in (BATCH_LINE | DAMAGED_LINES[damage]).items() if value is not None}
    run.metrics_file.write_text(json.dumps(line) + "\n")
    before = run.metrics_file.read_bytes()
    message = training_refusal("--resume", "run")
    assert message.startswith("run/metrics.jsonl: line 1")
    assert next(key for key in DAMAGED_LINES[damage]) in message
    assert run.metrics_file.read_bytes() == before


def test_resuming_removes_only_unfinished_files_of_its_own(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run")
    users = [".backup.tar.gz", ".last.safetensors.bak", ".last.safetensors.0a1b2c3d", "notes.txt"]
    own = [
        f".{name}.0123456789abcdef{atomic.TEMPORARY}"
        for name in ("last.safetensors", "params_pass_3.tar", "curves.png")
    ]
    for name in (*users, *own):
        (run.folder / name).write_text(name)
    run.restore(16)
    names = {path.name for path in run.folder.iterdir()}
    assert names == {*users, "config.json", "metrics.jsonl", "last.safetensors", "best.safetensors"}


def test_the_command_that_continues_a_run_survives_a_folder_that_begins_with_a_dash(framework: str) -> None:
    options = train.parse(["--framework", framework, "--output=-run"])
    words = shlex.split(command_to_resume(framework, options, RunFolder(options.output, EXPERIMENT), ProcessGroup()))
    assert train.parse(words[4:]).resume == Path("-run")


def test_a_table_shows_every_name_as_it_is() -> None:
    assert table(("a", "b"), [("x|y<b>\n[z](u)", "1 ± 2%")])[2] == r"| x\|y\<b\> \[z\](u) | 1 ± 2% |"


@pytest.mark.parametrize("value", ["Infinity", "1" + "0" * 400, "NaN", "true", "-1", '"5"'])
def test_compare_runs_refuses_what_is_no_number(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "docs" / "runs" / "vgg_mini-small", tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    *lines, last = file.read_text().splitlines()
    seconds = json.dumps(json.loads(last)["test_cost"])
    file.write_text("\n".join([*lines, last.replace(f'"test_cost": {seconds}', f'"test_cost": {value}')]) + "\n")
    assert runs.main([str(tmp_path / "run"), "--output", str(tmp_path / "x.png")]) == 2
    assert "test_cost = " in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_run_killed_before_its_first_minute_ends_with_the_same_bits(
    framework: str, process: FrameworkProcess, tmp_path: Path
) -> None:
    settings = ["--data", "shapes10", "--network", "vgg16_bn_drop@0.03125", "--recipe", "adam", "--epochs", 1]
    settings += ["--batch-size", 4, "--train-limit", 200, "--test-limit", 20]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    process.train(*settings, "--out", whole)
    start, log = script(framework, *settings, "--out", folder), folder / "metrics.jsonl"
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.DEVNULL, text=True) as killed:
        wait_for(killed, lambda: log.exists() and log.read_bytes().endswith(b"\n"))
        killed.kill()
    assert len(RunFolder.open(folder).metrics("batch")) == 1
    assert position(folder)["update"] == 0
    process.train("--resume", folder)
    same_end(whole, folder)
