"""`train --amp` and `--layout`: what computes in bfloat16 on a CPU, what stays float32, and that a resumed run takes what was chosen."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.refusals import Refused, refusal, saved_run
from helpers.scripts import script_main
from helpers.training_runs import metrics, same_end, stop, succeed
from parity import data, machine
from parity.backend import distributed
from parity.backend.registry import make_backend
from parity.cli import train as train_command
from parity.cli.command import Options
from parity.cli.train import main as train
from parity.errors import InputError
from parity.process_group import ProcessGroup
from parity.progress import Console
from parity.recipe.precision import Arithmetic
from parity.training.run_folder import Position
from parity.weights.canonical_state import initialise

SMALL = ("--network", "vgg16_bn_drop@0.0625", "--data", "shapes10", "--train-limit", "80", "--test-limit", "40")
BF16 = (*SMALL, "--recipe", "adam", "--batch-size", "16", "--epochs", "2", "--amp", "bf16")
ONE = (*SMALL, "--recipe", "adam", "--batch-size", "40", "--epochs", "1", "--threads", "1")

pytestmark = pytest.mark.filterwarnings("ignore:amp_guard", "ignore:AmpScaler")


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def lacking_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda: False)


def capable_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda: True)


# What is refused


def test_what_a_cpu_does_not_offer_is_refused_in_one_line(
    training_refusal: Refused, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking_cpu(monkeypatch)
    message = training_refusal("--amp", "bf16", "--device", "cpu", "--out", "new")
    assert (
        message
        == {
            "paddle": "--amp bf16: Paddle has no mixed precision on CPUs: its auto_cast does nothing there; leave --amp out, "
            "or choose PyTorch",
            "torch": "--amp bf16: this CPU has neither AVX512-BF16 nor AMX; leave --amp out",
        }[framework]
    )
    capable_cpu(monkeypatch)
    message = training_refusal("--amp", "fp16", "--device", "cpu", "--out", "new")
    assert message.startswith("--amp fp16: " + {"paddle": "Paddle has no", "torch": "fp16 needs a GPU; "}[framework])
    assert training_refusal("--amp", "auto", "--eval-only", "run").startswith("--amp auto times training")


def test_paddle_has_one_layout(frameworkless_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--layout", "channels_last", "--out", "new")
    said = refusal(script_main("train_paddle"), words, frameworkless_folder, capsys)
    assert said == "--layout channels_last: Paddle computes with channels_first only; leave --layout out"


def test_a_run_in_bf16_is_resumed_only_where_bf16_is_offered(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_run(tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps(config(tmp_path / "run") | {"amp": "bf16"}))
    lacking_cpu(monkeypatch)
    assert train(["--framework", framework, "--resume", f"{tmp_path / 'run'}"]) == 2
    reason = {"paddle": "Paddle has no mixed precision on CPUs", "torch": "this CPU has neither"}[framework]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'run'} is trained with --amp bf16, and {reason}")
    file.write_text(json.dumps(config(tmp_path / "run") | {"amp": ["bf16"]}))
    assert train(["--framework", framework, "--resume", f"{tmp_path / 'run'}"]) == 2
    assert f"{file}: amp must be one of off, bf16, fp16, not ['bf16']; mend it" in capsys.readouterr().err


@pytest.mark.parametrize("values", [{"amp": "auto"}, {"layout": "NCHW"}, {"layout": 3}])
def test_an_arithmetic_that_does_not_exist_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(values))} must be one of"):
        Arithmetic(**values)


@pytest.mark.parametrize(
    ("flags", "found"),
    [("fpu avx2", False), ("fpu avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx512f amx_int8", False)],
)
def test_the_instructions_are_read_from_the_system(flags: str, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: f"vendor_id\t: GenuineIntel\nflags\t\t: {flags}\n")
    assert machine.has_bfloat16() == found and machine.is_intel()


# Training in bf16


PROGRAM = """
import sys
from parity import machine
machine.has_bfloat16 = lambda: True  # PyTorch computes in bfloat16 on every CPU, fast only with the instructions
from parity.cli.train import main
sys.exit(main(["--framework", "torch", *sys.argv[1:], "--threads", "1"]))
"""


def capable(*words: object) -> list[str]:
    """The command that trains in PyTorch on a CPU with bfloat16."""
    return [sys.executable, "-c", PROGRAM, *map(str, words)]


@pytest.fixture(scope="module")
def bf16_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bf16") / "whole"
    return folder, succeed(capable(*BF16, "--output", folder)).stdout


def test_a_killed_run_in_bf16_ends_as_an_undisturbed_one_bit_for_bit(bf16_run: tuple[Path, str]) -> None:
    whole, said = bf16_run
    assert "Mixed precision: bf16; weights, running statistics, losses and optimizer are in float32\n" in said
    killed = whole.with_name("killed")
    stop(capable(*BF16, "--output", killed, "--checkpoint-every", 0), killed, signal.SIGKILL, 2)
    again = succeed(capable("--resume", killed)).stdout  # without --amp
    assert "Mixed precision: bf16, as this run began\n" in again
    same_end(whole, killed)
    assert config(whole)["amp"] == config(killed)["amp"] == "bf16"


def test_evaluation_in_bf16_gives_the_accuracy_of_the_log(
    bf16_run: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capable_cpu(monkeypatch)
    folder, _ = bf16_run
    last = metrics(folder)[-1]
    words = ["--framework", "torch", "--eval-only", f"{folder}", "--threads", "1", "--json"]
    found = []
    for amp in ("bf16", "off"):
        assert train([*words, "--amp", amp]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert (found[0]["test_accuracy"], found[0]["test_cost"]) == (last["test_accuracy"], last["test_cost"])
    assert found[1]["test_cost"] != last["test_cost"]


def test_every_process_takes_the_precision_and_the_layout_of_rank_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, sent = saved_run(tmp_path / "run"), list[bytes]()
    run.arithmetic = Arithmetic("bf16", "channels_first")
    job = train_command._Job(run, data.load("shapes10"), initialise(run.experiment.network, 0), Position(), None, "cpu")
    monkeypatch.setattr(train_command, "_begin", lambda *_: job)
    monkeypatch.setattr(train_command, "_start", lambda *_: (None, "cpu"))
    monkeypatch.setattr(distributed, "from_first", lambda backend, data, device: sent.append(data) or sent[0])
    options, console = Options(resume=None, data_dir=None), Console(silent=True)
    train_command._prepare("torch", options, ProcessGroup(0, 2), console)
    followed = train_command._prepare("torch", options, ProcessGroup(1, 2), console)
    assert (followed.run.arithmetic, followed.run.experiment) == (run.arithmetic, run.experiment)


# What is chosen


def timed(seconds: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_steps(trainers: Mapping[str, Any], *_: object) -> dict[str, float]:
        assert seconds, "a resumed run is not timed"
        assert {name: trainer.amp for name, trainer in trainers.items()} == {"off": "off", "bf16": "bf16"}
        return seconds

    monkeypatch.setattr(train_command, "time_steps", time_steps)


@pytest.mark.parametrize(("seconds", "amp", "how"), [(0.5, "bf16", "at least"), (0.8, "off", "less than")])
def test_auto_takes_bf16_where_a_step_is_fast_enough_and_a_resumed_run_keeps_it(
    seconds: float,
    amp: str,
    how: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capable_cpu(monkeypatch)
    timed({"off": 1.0, "bf16": seconds}, monkeypatch)
    assert train(["--framework", "torch", *ONE, "--amp", "auto", "--output", f"{tmp_path / 'run'}"]) == 0
    assert (
        f"Mixed precision: {amp} (--amp auto): a step of 40 images takes {seconds} s in bf16 and 1 s in float32, "
        f"{1 / seconds:.2f} times as fast, {how} 1.3\n"
    ) in capsys.readouterr().out
    assert config(tmp_path / "run")["amp"] == amp
    timed(None, monkeypatch)
    assert train(["--framework", "torch", "--resume", f"{tmp_path / 'run'}", "--threads", "1"]) == 0
    assert ("Mixed precision: bf16, as this run began" in capsys.readouterr().out) == (amp == "bf16")


def test_auto_stays_in_float32_without_timing_where_bf16_is_not_offered(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking_cpu(monkeypatch)
    timed(None, monkeypatch)
    assert train(["--framework", framework, *ONE, "--amp", "auto", "--output", f"{tmp_path / 'run'}"]) == 0
    reason = {"paddle": "Paddle has no mixed", "torch": "this CPU has neither"}[framework]
    assert f"Mixed precision: off (--amp auto): {reason}" in capsys.readouterr().out
    assert config(tmp_path / "run")["amp"] == "off"


def test_a_run_stays_in_float32_unless_asked_and_names_the_flag_where_it_helps(
    framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(None, monkeypatch)
    capable_cpu(monkeypatch)
    assert train(["--framework", framework, *ONE, "--output", f"{tmp_path / 'able'}"]) == 0
    said = "Mixed precision: off; this CPU multiplies in bfloat16: --amp auto uses it"
    assert (said in capsys.readouterr().out) == (framework == "torch")
    lacking_cpu(monkeypatch)
    assert train(["--framework", framework, *ONE, "--output", f"{tmp_path / 'lacking'}"]) == 0
    assert "Mixed precision" not in capsys.readouterr().out
    assert config(tmp_path / "able")["amp"] == config(tmp_path / "lacking")["amp"] == "off"
    same_end(tmp_path / "able", tmp_path / "lacking")


def test_the_layout_follows_the_processor_not_a_clock_and_a_resumed_run_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    backend = type(make_backend("torch"))
    to_layout = backend.to_layout
    monkeypatch.setattr(backend, "to_layout", lambda self, x, layout: used.append(layout) or to_layout(self, x, layout))
    for intel, layout in ((True, "channels_first"), (False, "channels_last")):
        monkeypatch.setattr(machine, "is_intel", lambda intel=intel: intel)
        assert make_backend("torch").layout("float64", "cpu", "off") == "channels_first"
        assert make_backend("torch").layout("float32", "cpu", "bf16") == "channels_last"
        folder = tmp_path / layout
        used.clear()
        assert train(["--framework", "torch", *ONE, "--output", f"{folder}"]) == 0
        assert f"For speed: {layout.replace('_', ' ')}, " in capsys.readouterr().out
        assert config(folder)["layout"] == layout and set(used) == {layout}
    longer = ["--framework", "torch", "--resume", f"{tmp_path / 'channels_first'}", "--epochs", "2", "--threads", "1"]
    used.clear()
    assert train(longer) == 0
    assert set(used) == {"channels_first"}, "the processor is not Intel's any more"
    assert train(["--framework", "torch", *ONE, "--layout", "channels_first", "--output", f"{tmp_path / 'asked'}"]) == 0
    assert config(tmp_path / "asked")["layout"] == "channels_first"
