"""One process at a time trains a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.framework_process import FrameworkProcess
from helpers.paths import ROOT
from parity.errors import InputError
from parity.network import articles
from parity.recipe import presets
from parity.recipe.recipe import Experiment, changed
from parity.training.run_folder import RunFolder
from parity.training.run_lock import lock_run

HOLDER = """
import sys
from pathlib import Path
from parity.training.run_lock import lock_run
held = lock_run(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def begun(folder: Path) -> RunFolder:
    recipe = changed(presets.get_recipe("quick"), batch_size=8)
    return RunFolder.create(folder, Experiment(articles.get_network("cifar_net"), recipe, "shapes10", 0, 16, 8), {})


def test_a_run_that_is_being_trained_is_not_resumed_by_another_process(
    process: FrameworkProcess, tmp_path: Path
) -> None:
    run = begun(tmp_path / "run")
    ended = process.train("--resume", run.folder, code=2)
    assert ended.stderr.strip() == f"error: {run.folder} is being trained by another process: wait for it, or stop it"
    assert [path.name for path in run.folder.iterdir()] == ["config.json"]
    del run
    process.train("--resume", tmp_path / "run")


def test_a_lock_is_shared_within_a_process_and_ends_with_the_one_that_holds_it(tmp_path: Path) -> None:
    config = begun(tmp_path / "run").folder / "config.json"
    first = lock_run(config)
    assert lock_run(config) is first
    del first
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, config], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        for _ in range(2):
            with pytest.raises(InputError, match="is being trained by another process"):
                RunFolder.open(config.parent).restore(16)
        other.kill()
        other.wait()
        assert lock_run(config)
