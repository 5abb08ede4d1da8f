"""`check_parity.py --torch --paddle`, `--pairs`, `convert_weights.py --map`, and what a check leaves as it was."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from helpers.framework_process import FrameworkProcess
from helpers.pair_models import HERE, MODELS, ComparePair
from helpers.paths import ROOT
from helpers.scripts import script_main
from parity.cli import pairs as pairs_command
from parity.errors import InputError
from parity.pairs import state_dict_files
from parity.pairs.library_pairs import PAIRS
from parity.pairs.model_worker import ModelWorker
from parity.report.kept_results import read_pair
from parity.report.pairs_table import summary, table
from parity.weights import canonical_state
from parity.weights.half_precision import round_to_bfloat16, widen_bfloat16
from recorded import record

main = script_main("check_parity")
convert = script_main("convert_weights")


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "check_parity.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)


def own_models(folder: Path) -> Path:
    for name in MODELS.values():
        shutil.copy(HERE / name, folder)
    return folder


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = own_models(tmp_path_factory.mktemp("equal"))
    np.savez(folder / "inputs.npz", first=np.random.default_rng(0).standard_normal((4, 5, 8)))
    models = ("--torch", "pair_models_torch.py:Attention", "--paddle", "pair_models_paddle.py:Attention")
    return run(folder, *models, "--inputs", "inputs.npz", "--steps", 2, "--save-map", "map.json", "--json"), folder


def test_equal_models_end_with_0_one_line_of_json_and_a_map(
    equal: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    ended, folder = equal
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    result = json.loads(line)
    assert (result["verdict"], result["first_divergence"], result["not_run"]) == ("equal", None, [])
    assert result["command"].startswith(f"python {ROOT}/scripts/check_parity.py --torch pair_models_torch.py:Attention")
    found = json.loads((folder / "map.json").read_text())
    assert {"torch": "attention", "paddle": "attention", "kind": "MultiheadAttention"} in found["layers"]
    assert {"torch": "", "paddle": "", "kind": "attention"} in found["layers"]  # the shift, which is the model's own
    assert found["arrays"]["shift"] == {
        "torch": "shift",
        "paddle": "shift",
        "shapes": {"torch": [1, 1, 8], "paddle": [1, 1, 8]},
    }
    assert "explained: dropout: both sides use the same masks, at attention" in ended.stderr


def test_nothing_is_written_beside_the_users_files(equal: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, folder = equal
    assert sorted(path.name for path in folder.iterdir()) == sorted([*MODELS.values(), "inputs.npz", "map.json"])


@pytest.fixture
def converters(pair_workers: dict[str, ModelWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has conversions take the session's workers rather than start their own."""
    monkeypatch.setattr(state_dict_files, "ModelWorker", lambda side: nullcontext(pair_workers[side]))


@pytest.mark.usefixtures("converters")
def test_a_checkpoint_goes_to_the_other_side_by_the_map_and_back(
    equal: tuple[subprocess.CompletedProcess[str], Path], pair_workers: dict[str, ModelWorker], tmp_path: Path
) -> None:
    _, folder = equal
    save = "import torch, pair_models_torch as m; torch.manual_seed(3); torch.save(m.Attention().state_dict(), {!r})"
    load = "import paddle, pair_models_paddle as m; x = m.Attention(); print(x.set_state_dict(paddle.load({!r})))"
    there, back = tmp_path / "a.pdparams", tmp_path / "b.pt"
    subprocess.run([sys.executable, "-c", save.format(str(tmp_path / "a.pt"))], cwd=HERE, check=True)
    assert convert([str(tmp_path / "a.pt"), str(there), "--map", str(folder / "map.json")]) == 0
    done = subprocess.run(
        [sys.executable, "-c", load.format(str(there))], cwd=HERE, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "([], [])"  # neither missing nor unexpected keys
    assert convert([str(there), str(back), "--map", str(folder / "map.json")]) == 0
    first, last = (pair_workers["torch"].read_arrays(path)[0] for path in (tmp_path / "a.pt", back))
    assert sorted(first) == sorted(last)
    for name, array in first.items():
        assert array.dtype == last[name].dtype == np.float32
        np.testing.assert_array_equal(array, last[name])
    middle, _ = pair_workers["paddle"].read_arrays(there)
    np.testing.assert_array_equal(middle["attention.k_proj.weight"], first["attention.in_proj_weight"][8:16].T)


@pytest.mark.usefixtures("converters")
def test_a_map_takes_half_precision_and_prefixes_and_writes_half_precision(
    equal: tuple[subprocess.CompletedProcess[str], Path],
    pair_workers: dict[str, ModelWorker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, random = equal[1], np.random.default_rng(3)
    _, zeros = read_map_and_zeros(folder)
    arrays = {name: random.standard_normal(array.shape).astype(np.float32) for name, array in zeros.items()}
    prefixed = {f"module.{name}": array for name, array in arrays.items()}
    pair_workers["torch"].write_arrays(tmp_path / "a.pt", prefixed, "bfloat16")
    there, back = tmp_path / "a.pdparams", tmp_path / "b.pt"
    assert (
        convert([*map(str, (tmp_path / "a.pt", there)), "--map", str(folder / "map.json"), "--dtype", "bfloat16"]) == 0
    )
    said = capsys.readouterr().err
    assert "read bfloat16 numbers exactly into float32" in said and "took the prefix 'module.' off the names" in said
    assert convert([*map(str, (there, back)), "--map", str(folder / "map.json")]) == 0
    last, _ = pair_workers["torch"].read_arrays(back)
    assert last.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(last[name], widen_bfloat16(round_to_bfloat16(array)))


@pytest.mark.usefixtures("converters")
def test_a_map_converts_safetensors_files_of_either_side(
    equal: tuple[subprocess.CompletedProcess[str], Path], pair_workers: dict[str, ModelWorker], tmp_path: Path
) -> None:
    folder, random = equal[1], np.random.default_rng(3)
    _, zeros = read_map_and_zeros(folder)
    arrays = {name: random.standard_normal(array.shape).astype(np.float32) for name, array in zeros.items()}
    (tmp_path / "a.safetensors").write_bytes(canonical_state.encode(arrays, {}))
    by_map = ["--map", str(folder / "map.json")]
    files = ("a.safetensors", "b.pdparams", "c.safetensors", "d.pdparams")
    for source, destination in itertools.pairwise(files):
        assert convert([str(tmp_path / source), str(tmp_path / destination), *by_map]) == 0
    first, last = (pair_workers["paddle"].read_arrays(tmp_path / name)[0] for name in files[1::2])
    assert first.keys() == last.keys() and all(np.array_equal(first[name], last[name]) for name in first)
    found, _ = canonical_state.decode((tmp_path / "c.safetensors").read_bytes(), "c")
    assert found.keys() == arrays.keys() and all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert convert([str(tmp_path / "a.safetensors"), str(tmp_path / "e.safetensors"), *by_map]) == 2


def read_map_and_zeros(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The map in `folder`, and zeros for every array of the PyTorch model that it is of."""
    found = json.loads((folder / "map.json").read_text())
    arrays = {row["torch"].partition("[")[0]: np.zeros(row["shapes"]["torch"]) for row in found["arrays"].values()}
    return found, arrays


@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: {n: a for n, a in arrays.items() if n != "shift"}, "shift is missing from the weights"),
        (lambda arrays: arrays | {"more": np.zeros(3)}, "more is not in the map"),
        (lambda arrays: arrays | {"shift": np.zeros((1, 1, 9))}, "shift has shape [1, 1, 9], the map needs [1, 1, 8]"),
    ],
)
def test_weights_of_another_model_are_refused_and_nothing_is_written(
    equal: tuple[subprocess.CompletedProcess[str], Path],
    pair_workers: dict[str, ModelWorker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: object,
    said: str,
) -> None:
    _, arrays = read_map_and_zeros(equal[1])
    assert callable(change)
    pair_workers["torch"].write_arrays(tmp_path / "a.pt", change(arrays))
    code = convert([str(tmp_path / "a.pt"), str(tmp_path / "b.pdparams"), "--map", str(equal[1] / "map.json")])
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "b.pdparams").exists()


@pytest.mark.usefixtures("converters")
@pytest.mark.parametrize(
    ("array", "change", "said"),
    [
        ("shift", {"paddle": "attention.out_proj.bias"}, "the map gives"),
        ("attention.query.bias", {"paddle": "attention.k_proj.bias"}, "'attention.k_proj.bias' is named twice"),
        ("shift", {"shapes": {"torch": [1, 1, 8], "paddle": [4, 4, 8]}}, "both must be equal"),
    ],
)
def test_a_wrong_map_converts_nothing(
    equal: tuple[subprocess.CompletedProcess[str], Path],
    pair_workers: dict[str, ModelWorker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    array: str,
    change: dict[str, object],
    said: str,
) -> None:
    found, arrays = read_map_and_zeros(equal[1])
    pair_workers["torch"].write_arrays(tmp_path / "a.pt", arrays)
    found["arrays"][array].update(change)
    (tmp_path / "map.json").write_text(json.dumps(found))
    (tmp_path / "b.pdparams").write_bytes(b"before")
    code = convert([str(tmp_path / "a.pt"), str(tmp_path / "b.pdparams"), "--map", str(tmp_path / "map.json")])
    assert code == 2
    stderr = capsys.readouterr().err
    assert said in stderr
    assert stderr.startswith(f"error: {tmp_path / 'map.json'}: ")
    assert stderr.endswith("; write it again with vgg-parity compare --save-map\n")
    assert (tmp_path / "b.pdparams").read_bytes() == b"before"


def test_different_models_end_with_1_the_place_and_both_trees(tmp_path: Path) -> None:
    models = ("--torch", "pair_models_torch.py:Net", "--paddle", "pair_models_paddle.py:Net(eps=1e-3)")
    ended = run(own_models(tmp_path), *models, "--input-shape", "4,3,12,12", "--json", "--report", "out")
    assert ended.returncode == 1
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["first_divergence"]["layer"] == "bn2"
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result
    assert "failed: the models are different at step 1, eval, layer bn2" in ended.stderr
    assert "eps of BatchNorm: PyTorch 1e-05, Paddle 0.001 at bn2" in ended.stderr
    assert ended.stderr.count("<-- first divergence") == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("↑ first divergence") == 2
    assert "eps of BatchNorm: PyTorch 1e-05, Paddle 0.001 at bn2" in page
    suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()[0]
    assert [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None][:2] == [
        "eval",
        "forward",
    ]
    again = run(tmp_path, *models, "--input-shape", "4,3,12,12", "--set-paddle", "bn2.epsilon=1e-5", "--steps", 2)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--torch", "a:b"), "missing option '--paddle'"),
        (("--input-shape", "4,3"), "no such option '--input-shape'"),
        (("--torch", "a:b", "--paddle", "c:d"), "one of --inputs FILE.npz and --input-shape"),
        (("--torch", "a:b", "--paddle", "c:d", "--input-shape", "4,x"), "'4,x' is no shape"),
        (("--torch", "a:b", "--paddle", "c:d", "--inputs", "no.npz"), "cannot read no.npz"),
        (("--torch", "ab", "--paddle", "c:d", "--input-shape", "4"), "'ab' is not MODULE:FACTORY"),
        (("--torch", "a:b(c)", "--paddle", "c:d", "--input-shape", "4"), "with plain values"),
        (
            ("--torch", "a:b", "--paddle", "c:d", "--input-shape", "4", "--map", "no.json"),
            "cannot read no.json: no such file",
        ),
        (("--torch", "a:b", "--paddle", "c:d", "--input-shape", "4", "--stages", "onnx"), "unknown stage 'onnx'"),
        (
            ("--torch", "a:b", "--paddle", "c:d", "--input-shape", "4", "--set-torch", "eps=1"),
            "is not LAYER.ATTRIBUTE=VALUE",
        ),
        (
            ("--torch", "a:b", "--paddle", "c:d", "--input-shape", "4", "--paddle-optimizer", "e:f", "--rate", "0.5"),
            "--rate has no effect beside --paddle-optimizer",
        ),
        (("--pairs", "lenet"), "unknown pair 'lenet'"),
        (("--pairs", "all", "--torch", "a:b"), "--pairs excludes"),
    ],
)
def test_bad_usage_is_one_line_and_2(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(arguments)) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: ")
    assert said in line
    assert "\n" not in line


CALLER = """
import hashlib, json, random, sys
import numpy, torch, paddle
from parity.pairs.compare_models import compare_models

def seen():
    return [
        hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(), torch.get_default_dtype().__repr__(), torch.is_grad_enabled(),
        [x.current_seed() for x in paddle.get_rng_state()], paddle.get_default_dtype(), paddle.is_grad_enabled(),
        hash(str(numpy.random.get_state())), hash(random.getstate()), torch.nn.functional.dropout.__module__,
        paddle.nn.functional.dropout.__module__, sys.path == path,
    ]

path = list(sys.path)
before = seen()
outcome = compare_models(torch="pair_models_torch.py:Net", paddle="pair_models_paddle.py:Net", input_shape=(4, 3, 12, 12), steps=2)
print(json.dumps([outcome.verdict, seen(), before]))
"""


def test_the_caller_and_its_files_are_as_they_were(tmp_path: Path) -> None:
    own_models(tmp_path)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    done = subprocess.run([sys.executable, "-c", CALLER], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdict, after, before = json.loads(done.stdout.splitlines()[-1])
    assert verdict == "equal"
    assert after == before
    assert before[1] == "torch.float32"
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == files


DETERMINISTIC = """
import torch
from torch_impl.replaced_functions import prepared_process

def settings():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

before = settings()
for changed in ((True, False), (True, True)):
    with prepared_process():
        torch.use_deterministic_algorithms(changed[0], warn_only=changed[1])
        assert settings() == changed
    assert settings() == before
"""


def test_a_models_demand_for_deterministic_algorithms_ends_with_it(processes: dict[str, FrameworkProcess]) -> None:
    processes["torch"].run(DETERMINISTIC)


# Pairs of library models

EXPECTED = {
    "alexnet": "mode of Dropout: PyTorch upscale_in_train, Paddle downscale_in_infer at classifier.0 (Paddle: _drop1)",
    "squeezenet1_1": "padding of Conv2d: PyTorch 0, Paddle 1 at features.0 (Paddle: _conv)",
    "inception_v3": "eps of BatchNorm: PyTorch 0.001, Paddle 1e-05",
    "googlenet": "they diverge after conv1.conv",
}
"""Different pair -> the beginning of its first cause."""


def of_the_zoo(compare_pair: ComparePair, name: str, shape: str = "", **more: object) -> tuple[str, str]:
    from parity.pairs.compare_models import change

    pair = PAIRS[name]
    changes = {"torch": [change(text) for text in pair.set_torch], "paddle": [change(text) for text in pair.set_paddle]}
    try:
        found = compare_pair(
            pair.torch, pair.paddle, shape or ",".join(map(str, pair.input_shape)), changes=changes, **more
        )
    except InputError as error:
        return "different", str(error)
    return found.verdict, found.first.cause or "" if found.first else ""


def test_resnet18_is_equal_in_both_libraries(compare_pair: ComparePair) -> None:
    assert of_the_zoo(compare_pair, "resnet18", "4,3,32,32", steps=2) == ("equal", "")


def test_squeezenet_is_equal_once_the_known_differences_are_set(compare_pair: ComparePair) -> None:
    verdict, cause = of_the_zoo(compare_pair, "squeezenet1_1", stages=("eval",))
    assert (verdict, cause) == ("different", EXPECTED["squeezenet1_1"])
    assert of_the_zoo(compare_pair, "squeezenet1_1-set-right", "2,3,64,64", steps=2) == ("equal", "")


UNRECORDED = [
    name for name, pair in PAIRS.items() if name not in record.PAIRS.split(",") and not any(pair.environments)
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", UNRECORDED)
def test_every_unrecorded_pair_is_equal_or_has_its_known_difference(compare_pair: ComparePair, name: str) -> None:
    verdict, cause = of_the_zoo(compare_pair, name, steps=2)
    if name in EXPECTED:
        assert verdict == "different"
        assert EXPECTED[name] in cause
    else:
        assert verdict in ("equal", "chaotic but equal"), cause


def test_the_table_has_one_row_per_pair_and_one_sentence_per_difference() -> None:
    stage = {"compared": 12, "max_error": 2e-16}
    equal = {
        "name": "one",
        "verdict": "equal",
        "input_shape": [4, 6],
        "set": [],
        "stages": {"eval": stage},
        "differences": [],
    }
    equal["trajectory"] = [{"step": 10, "error": 1e-16, "moved": 3e-4}]
    equal["lanes"] = {
        "torch": {"timm": "1.0", "torch": "2.9", "python": "3.11"},
        "paddle": {"paddle": "2.6", "numpy": "1"},
    }
    equal |= {"inputs": {"mask": "2,9:2"}, "seconds": 90.0}
    other = {
        "name": "two",
        "verdict": "different",
        "input_shape": [4],
        "set": [["Paddle", "a.b=1"]],
        "stages": {},
        "trajectory": [],
        "first_divergence": {"cause": "times 0.9"},
    }
    lines = table([equal, other | {"differences": ["eps here", "padding there"], "sentence": ""}]).splitlines()
    assert lines[-2] == (
        "| `one` | timm 1.0, torch 2.9<br>paddle 2.6 | 4 x 6<br>mask: 2 x 9 below 2 | equal | 12 | 2.0e-16 | 1.0e-16 (step 10) | 3.0e-04 | "
        "1.5 | 0 |  |"
    )
    assert lines[-1] == (
        "| `two`<br>Paddle: `a.b=1` |  | 4 | different |  |  |  |  |  | 1 | eps here<br>padding there<br>times 0.9 |"
    )


def test_the_summary_groups_equal_pairs_and_says_what_makes_others_equal() -> None:
    base: dict[str, object] = {
        "verdict": "equal",
        "set": [],
        "torch": "t",
        "paddle": "p",
        "differences": [],
        "input_shape": [4],
    }
    dropouts = ["mode of Dropout: PyTorch up, Paddle down at drop, drop2", "dropout in training: PyTorch drops at drop"]
    rows = [
        base | {"name": "a"},
        base
        | {
            "name": "b",
            "verdict": "different",
            "differences": ["eps of BatchNorm: PyTorch 1, Paddle 2 at x", *dropouts],
        },
        base | {"name": "c", "verdict": "different", "differences": ["other architectures; 5 layers"]},
        base | {"name": "f", "verdict": "different", "differences": ["only A has b.bias", dropouts[1]]},
        base | {"name": "d", "verdict": "chaotic but equal"},
        base | {"name": "b-set-right", "set": [["PyTorch", "x.eps=2"]], "torch": "t(k=1)", "paddle": "p(k=1)"},
        base | {"name": "e", "verdict": "different", "first_divergence": {"cause": "only A, at x, y and only B, at z"}},
        base | {"name": "e-set-right", "verdict": "chaotic but equal", "input_shape": [2, 3]},
    ]
    assert summary(rows).splitlines()[2:] == [
        "| `a` | equal | | |",
        "| `d` | chaotic but equal | | |",
        "| `b` | different | eps of BatchNorm: PyTorch 1, Paddle 2; mode of Dropout: PyTorch up, Paddle down | PyTorch: `t(k=1)`; "
        "Paddle: `p(k=1)`; PyTorch: `x.eps=2` |",
        "| `c` | different | other architectures |  |",
        "| `f` | different | only A has b.bias; dropout in training: PyTorch drops |  |",
        "| `e` | different | only A and only B | inputs 2 x 3 |",
    ]


@pytest.mark.parametrize("marks", [["pairs"], ["pairs-summary"], ["pairs", "pairs-summary"]])
def test_a_page_gets_every_table_that_it_has_marks_for(tmp_path: Path, marks: list[str]) -> None:
    page, results = tmp_path / "page.md", ROOT / "docs" / "pairs"
    page.write_text("".join(f"<!-- {mark} -->\n<!-- /{mark} -->\n" for mark in marks))
    assert pairs_command._blocks(page) == marks
    pairs_command._update(page, marks, pairs_command._kept(results, [read_pair(results / "vgg11.json")]))
    text, documented = page.read_text(), (ROOT / "docs" / "pairs.md").read_text()
    assert text.count("| `googlenet` | ") == len(marks)
    for block in re.findall(r"<!-- pairs.*?<!-- /pairs[-a-z]* -->", text, re.DOTALL):
        assert block in documented


def test_a_result_of_other_architectures_keeps_all_rows() -> None:
    results = ROOT / "docs" / "pairs"
    kept = [pairs_command._kept(results, [read_pair(results / f"{name}.json")]) for name in ("googlenet", "vgg11")]
    assert kept[0] == kept[1] and len(kept[0]) == len(PAIRS)


def test_a_result_names_no_folder_of_the_machine_that_made_it() -> None:
    made = "vgg-parity pairs bert --environments /made/here/env --report=/home/me/rows --paddle-python '~/my env/bin/python' --steps 2"
    kept = "vgg-parity pairs bert --environments env --report=rows --paddle-python 'my env' --steps 2"
    assert pairs_command.without_folders(made) == kept
    for file in (ROOT / "docs" / "pairs").glob("*.json"):
        row = read_pair(file)
        assert not re.search(r"(^|[\s=])[/~]", row.get("command", "")), file.name


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(InputError, match="has no <!-- pairs -->"):
        pairs_command._blocks(tmp_path / "page.md")
