"""Your own recipe: `--recipe FILE.json`, the JSON of a recipe or the config.json of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from helpers.framework_process import FrameworkProcess
from helpers.paths import ROOT
from parity.errors import InputError
from parity.network import articles
from parity.recipe import presets
from parity.recipe.optimizer import Group
from parity.recipe.recipe import Experiment, Lookahead

OWN = replace(
    presets.get_recipe("fast"), name="$\\own$", batch_size=16, epochs=1, lookahead=Lookahead(every=2, keep=0.5)
)


def test_a_recipe_is_read_from_its_json_and_from_the_config_of_a_run_that_took_it(
    process: FrameworkProcess, tmp_path: Path
) -> None:
    file, run = tmp_path / "own.json", tmp_path / "run"
    file.write_text(json.dumps(asdict(OWN)))
    assert presets.get_recipe(str(file)) == OWN
    size = ("--network", "vgg_fast@0.125", "--data", "shapes10", "--train-limit", 32, "--test-limit", 8)
    process.train("--recipe", file, *size, "--out", run)
    config = (run / "config.json").read_text()
    trained = Experiment.from_json(json.dumps(json.loads(config)["experiment"]))
    assert trained == Experiment(articles.get_network("vgg_fast@0.125"), OWN, "shapes10", 0, 32, 8)
    assert presets.get_recipe(str(run / "config.json")) == OWN


@pytest.mark.parametrize(
    "log", sorted((ROOT / "docs" / "tuning").glob("*/config.json")), ids=lambda log: log.parent.name
)
def test_every_trial_that_is_told_of_can_be_trained_again(log: Path) -> None:
    assert presets.get_recipe(str(log)).epochs in (3, 4)


def damaged(change: Callable[[dict[str, Any]], Any]) -> str:
    fields = asdict(OWN)
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "recipe JSON: Expecting value"),
        ("[]", "expected an object, not list"),
        ("[" * 100_000, "recipe JSON"),
        ('{"experiment": 3}', "recipe JSON: expected an object"),
        ('{"experiment": {}}', "recipe JSON: expected an object"),
        (damaged(lambda fields: fields.pop("epochs")), "recipe: missing field 'epochs'"),
        (damaged(lambda fields: fields.update(rate=1)), "recipe: unknown field 'rate'"),
        (damaged(lambda fields: fields.update(name="two\nlines")), "name and source must be printable"),
        (damaged(lambda fields: fields.update(epochs=10**400)), "epochs must be at least 1"),
        (damaged(lambda fields: fields.update(batch_size=2**63)), "batch size must be at least 1"),
        (
            damaged(lambda fields: fields["augmentation"].update(crop_padding=10**400)),
            "augmentation crop_padding must be",
        ),
        (damaged(lambda fields: fields["augmentation"].update(crop_padding=10**12)), "augmentation crop_padding"),
        (damaged(lambda fields: fields["augmentation"].update(brightness=1e308)), "augmentation brightness"),
        (damaged(lambda fields: fields["augmentation"].update(contrast_high=1e308)), "augmentation contrast_high"),
        (damaged(lambda fields: fields["preprocessing"].update(mean=[float("nan")] * 3)), "mean must be numbers"),
        (damaged(lambda fields: fields["preprocessing"].update(mean=[], std=[])), "as many values of std"),
        (damaged(lambda fields: fields["schedule"].update(every=10**400)), "schedule every must be"),
        (damaged(lambda fields: fields["schedule"].update(factor=10)), "schedule factor"),
    ],
)
def test_a_file_that_holds_no_recipe_is_refused_in_one_line_that_names_it(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        presets.get_recipe(str(file))
    assert str(caught.value).startswith(f"{file}: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name in ("none.json", "folder.json", "bytes.json"):
        with pytest.raises(InputError, match=f"cannot read .*{name}.*[.:] [Gg]ive a file that holds a recipe's JSON"):
            presets.get_recipe(str(tmp_path / name))


def test_what_muon_cannot_train_is_refused_before_a_run_is_begun(
    processes: dict[str, FrameworkProcess], tmp_path: Path
) -> None:
    file = tmp_path / "own.json"
    groups = (Group("*.weight", weight_decay=0.0, muon=3),)
    file.write_text(json.dumps(asdict(replace(OWN, optimizer=replace(OWN.optimizer, groups=groups)))))
    size = ("--network", "vgg_fast@0.125", "--data", "shapes10", "--train-limit", 16)
    for command, words in (("train_torch", [*size, "--out", tmp_path / "run"]), ("check_parity", size[:4])):
        ended = processes["torch"].execute(command, "--recipe", file, *words, code=2)
        assert ended.stderr.strip().splitlines()[-1].endswith("not fc.weight")
    assert not (tmp_path / "run").exists()


def test_a_name_from_a_file_does_not_choose_another_folder(
    processes: dict[str, FrameworkProcess], tmp_path: Path
) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(asdict(replace(OWN, name="../../elsewhere"))))
    size = ("--network", "vgg_fast@0.125", "--data", "shapes10", "--train-limit", 16, "--test-limit", 8)
    processes["torch"].train("--recipe", file, *size, folder=tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("vgg_fast@0.125-..-..-elsewhere")
