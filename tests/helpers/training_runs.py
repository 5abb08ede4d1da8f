"""Runs of the training scripts, started, killed and resumed as by a user. Each is made once for all tests that use it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pty
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.paths import ROOT
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Experiment, Schedule, changed
from parity.training.run_folder import RunFolder
from parity.weights import canonical_state

NETWORK, TRAIN, TEST, BATCH, EPOCHS = "vgg16_bn_drop@0.125", 150, 200, 32, 2
"""Two epochs of five batches, the last of 22 images, with dropout; `adam` also has augmentation."""

DATA = ("--data", "cifar10", "--train-limit", str(TRAIN), "--test-limit", str(TEST))
SETTINGS = ("--network", NETWORK, "--recipe", "adam", *DATA, "--epochs", str(EPOCHS), "--batch-size", str(BATCH))
TIMES = ("seconds", "test_seconds")
PATIENCE = 120  # seconds, after which a process counts as hanging


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a process."""

    code: int
    stdout: str
    stderr: str


def script(framework: str, *arguments: object) -> list[str]:
    """The command line that trains in `framework` on one thread."""
    return [sys.executable, f"scripts/train_{framework}.py", *map(str, arguments), "--threads", "1"]


def execute(command: list[str], environment: dict[str, str] | None = None) -> Ended:
    """Run `command` from the repository's root, without a terminal."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def succeed(command: list[str]) -> Ended:
    """Do `execute`; the command must succeed."""
    ended = execute(command)
    assert ended.code == 0, ended.stderr
    return ended


def on_a_terminal(command: list[str]) -> Ended:
    """Run `command` with stderr on a terminal of 100 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    written: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(master, 4096):
                written.append(data)
        except OSError:
            return  # the last writer has closed the terminal

    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)
        reader = threading.Thread(target=read)
        reader.start()
        assert process.stdout
        stdout = process.stdout.read()
    reader.join()
    os.close(master)
    return Ended(process.returncode, stdout, b"".join(written).decode())


def stop(
    command: list[str], folder: Path, number: int, updates: int, delay: float = 0.0
) -> tuple[Ended, dict[str, Any]]:
    """Run `command` on the run `folder`, and send it the signal `number` within an epoch, at least `updates` updates later.

    Return how it ended, and the position of the checkpoint at the signal. `delay` is in seconds.
    """
    goal = position(folder).get("update", 0) + updates
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while True:
            wait_for(process, lambda: (at := position(folder)).get("update", 0) >= goal and at["batch"] > 0)
            time.sleep(delay)
            process.send_signal(signal.SIGSTOP)  # so that it does not continue while we read its position
            at = position(folder)
            if at["batch"] > 0:
                break
            process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, stdout, stderr), at


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds. Fail if the process ends before."""
    start = time.monotonic()
    while not condition():
        if process.poll() is not None or time.monotonic() - start > PATIENCE:
            process.kill()
            raise AssertionError(f"over before it could be stopped: {process.communicate()}")
        time.sleep(0.005)


def position(folder: Path) -> dict[str, Any]:
    """Return the position in the header of the last checkpoint; empty if there is no checkpoint yet."""
    try:
        with (folder / "last.safetensors").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = json.loads(header["__metadata__"]["position"])
    return found


def command_in(stderr: str) -> list[str]:
    """Return the resume command that a stopped run prints."""
    line = stderr.splitlines()[-1]
    words = shlex.split(line.partition("continue with: ")[2])
    assert words[0] == "python", line
    return [sys.executable, *words[1:]]


def metrics(folder: Path, *without: str) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without the keys `without`."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in without} for line in lines]


def bits(folder: Path, checkpoint: str = "last") -> dict[str, bytes]:
    """The dtype, shape and bytes of every array of a checkpoint."""
    _, state, _ = canonical_state.load(folder / f"{checkpoint}.safetensors")
    return {name: f"{array.dtype}{array.shape}".encode() + array.tobytes() for name, array in state.items()}


def same_end(one: Path, other: Path) -> None:
    """Assert that two runs ended equally, bit for bit, in everything but time."""
    first, second = bits(one), bits(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert bits(one, "best") == bits(other, "best")
    assert metrics(one, *TIMES) == metrics(other, *TIMES)


def falling(folder: Path) -> Path:
    """Make a run folder with only a config.json: the article's recipe, with a rate that falls to a half or a quarter at every update.

    So the velocity is rescaled at every update, also at the first update after a resume.
    """
    article = changed(presets.get_recipe("article"), epochs=EPOCHS + 1, batch_size=BATCH)
    recipe = dataclasses.replace(article, schedule=Schedule("discexp", factor=0.5, every=BATCH - 10))
    RunFolder.create(folder, Experiment(articles.get_network(NETWORK), recipe, "cifar10", 3, TRAIN, TEST), {})
    return folder


class Runs:
    """Folders below `root`. Each is filled once, by the first of several test processes that needs it.

    `train(framework, *words)` trains in a process that runs already.
    """

    def __init__(self, root: Path, train: Callable[..., Ended]) -> None:
        self.root, self.train = root, train
        root.mkdir(exist_ok=True)

    def once(self, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
        """Call `make(folder)` at the first call for `name`. Return the folder, and the result of `make` as JSON."""
        folder, result = self.root / name, self.root / f"{name}.json"
        with (self.root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                made = make(folder)
                result.write_text(json.dumps(made, default=dataclasses.asdict))
        return folder, json.loads(result.read_text())

    def whole(self, framework: str) -> tuple[Path, Ended]:
        """An undisturbed run with --json and --tensorboard."""

        def make(folder: Path) -> Ended:
            return execute(script(framework, *SETTINGS, "--out", folder, "--json", "--tensorboard"))

        folder, ended = self.once(f"{framework}-whole", make)
        return folder, Ended(**ended)

    def plain(self, framework: str) -> tuple[Path, Ended]:
        """An undisturbed run without --json, with stderr on a terminal."""
        folder, ended = self.once(
            f"{framework}-plain", lambda folder: on_a_terminal(script(framework, *SETTINGS, "--out", folder))
        )
        return folder, Ended(**ended)

    def killed(self, framework: str) -> tuple[Path, list[dict[str, Any]]]:
        """The same, killed in the middle of two epochs and resumed. Return also the position at each kill."""

        def make(folder: Path) -> list[dict[str, Any]]:
            often = ("--checkpoint-every", 0)
            start = script(framework, *SETTINGS, "--out", folder, *often)
            again = script(framework, "--resume", folder, *often)
            places = [
                stop(command, folder, signal.SIGKILL, updates)[1] for command, updates in ((start, 2), (again, 3))
            ]
            self.train(framework, "--resume", folder, *often)
            return places

        return self.once(f"{framework}-killed", make)

    def falling(self, framework: str) -> Path:
        """An undisturbed run of `falling`, after others in the same process."""
        self.results(framework)
        return self.root / f"{framework}-falling"

    def stopped(self, framework: str) -> tuple[Path, list[Ended]]:
        """A run of `falling`, stopped by Ctrl-C and SIGTERM, and continued each time with the command that it printed."""

        def make(folder: Path) -> list[Ended]:
            command = script(framework, "--resume", falling(folder), "--checkpoint-every", 0)
            ends: list[Ended] = []
            for number in (signal.SIGINT, signal.SIGTERM):
                ends.append(stop(command, folder, number, 2)[0])
                command = command_in(ends[-1].stderr)
            return [*ends, self.train(framework, *command[2:])]

        folder, ends = self.once(f"{framework}-stopped", make)
        return folder, [Ended(**end) for end in ends]

    def results(self, framework: str) -> dict[str, Any]:
        """JSON lines of several calls in one process: another seed, a finished run resumed, a falling rate, tests of checkpoints."""

        def make(folder: Path) -> dict[str, Any]:
            own, other = (self.whole(side)[0] for side in (framework, *({"paddle", "torch"} - {framework})))
            calls = {
                "seed": [*SETTINGS, "--seed", "1", "--output", f"{folder}"],
                "finished": ["--resume", f"{own}"],
                "falling": ["--resume", f"{falling(self.root / f'{framework}-falling')}"],
                "last": ["--eval-only", f"{own}"],
                "best": ["--eval-only", f"{own / 'best.safetensors'}"],
                "other last": ["--eval-only", f"{other}"],
                "other best": ["--eval-only", f"{other / 'best.safetensors'}"],
            }
            before = bits(own)
            ends = {what: self.train(framework, *words, "--json") for what, words in calls.items()}
            assert bits(own) == before
            said = "".join(ended.stderr for ended in ends.values())
            return {what: json.loads(ended.stdout) for what, ended in ends.items()} | {"said": said}

        found: dict[str, Any] = self.once(f"{framework}-results", make)[1]
        return found
