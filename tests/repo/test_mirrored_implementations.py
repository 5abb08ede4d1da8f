"""The two implementations are one text in two spellings, neither needs the other's framework, and `parity` needs none."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.training_runs import DATA, execute, metrics
from parity.backend.registry import FRAMEWORKS

SIDES = {framework: ROOT / f"{framework}_impl" for framework in FRAMEWORKS}
FILES = sorted({path.name for folder in SIDES.values() for path in folder.glob("*.py")})
SPELLING = {
    "nn.Layer": "MODULE",
    "nn.Module": "MODULE",
    "paddle.optimizer.Optimizer": "OPTIMIZER",
    "torch.optim.Optimizer": "OPTIMIZER",
    "paddle.CPUPlace | paddle.CUDAPlace": "DEVICE",
    "torch.device": "DEVICE",
    "paddle.amp.GradScaler": "SCALER",
    "torch.amp.GradScaler": "SCALER",
}
"""Annotations that name the same thing in either framework."""


def tree(framework: str, name: str) -> ast.Module:
    return ast.parse((SIDES[framework] / name).read_text())


def definitions(node: ast.AST, prefix: str = "") -> dict[str, ast.AST]:
    """Every function, class, method and module-level constant by its dotted name, in order."""
    found: dict[str, ast.AST] = {}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            found[prefix + child.name] = child
            if isinstance(child, ast.ClassDef):
                found |= definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            found |= {prefix + ast.unparse(target): child for target in targets}
    return found


def private(key: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in key.split("."))


def shared(framework: str, name: str) -> dict[str, ast.AST]:
    """All public definitions, and the private ones that the other side has, too."""
    own, other = (definitions(tree(side, name)) for side in (framework, *({"paddle", "torch"} - {framework})))
    return {key: node for key, node in own.items() if not private(key) or key in other}


def signature(node: ast.AST) -> str:
    """What a caller must know: arguments, defaults, annotations and decorators of a function; "" for anything else."""
    if not isinstance(node, ast.FunctionDef):
        return ""
    returns = ast.unparse(node.returns) if node.returns else ""
    text = f"{[ast.unparse(mark) for mark in node.decorator_list]} ({ast.unparse(node.args)}) -> {returns}"
    for spelled, meant in SPELLING.items():
        text = text.replace(spelled, meant)
    return text


def docstrings(framework: str, name: str) -> dict[str, str]:
    """The docstring of every function and class except for `__init__`; "" where it has none."""
    found = definitions(tree(framework, name)).items()
    chosen = {key: node for key, node in found if isinstance(node, ast.FunctionDef | ast.ClassDef) and "__" not in key}
    return {key: ast.get_docstring(node) or "" for key, node in chosen.items()}


# The same names


def test_both_sides_have_the_same_files() -> None:
    assert len(FILES) >= 6
    for folder in SIDES.values():
        assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == FILES


@pytest.mark.parametrize("name", FILES)
def test_both_sides_have_the_same_names_in_the_same_order(name: str) -> None:
    assert list(shared("paddle", name)) == list(shared("torch", name))


@pytest.mark.parametrize("name", FILES)
def test_both_sides_have_the_same_signatures(name: str) -> None:
    assert {k: signature(n) for k, n in shared("paddle", name).items()} == {
        k: signature(n) for k, n in shared("torch", name).items()
    }


@pytest.mark.parametrize("name", FILES)
def test_every_public_name_has_a_docstring_and_both_sides_say_the_same_to_a_word(name: str) -> None:
    words = re.compile(r"Paddle(?:Paddle)?('s)?|PyTorch('s)?|sub(?:layer|module)|layer|module|nn\.Layer|nn\.Module")
    texts = []
    for framework in FRAMEWORKS:
        found = {"": ast.get_docstring(tree(framework, name)) or ""} | docstrings(framework, name)
        public = {key: text for key, text in found.items() if not private(key)}
        assert [key for key, text in public.items() if not text] == []
        texts.append({key: words.sub("_", text) for key, text in public.items() if key})
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", FILES)
def test_what_only_one_side_has_says_why(framework: str, name: str) -> None:
    texts, common = docstrings(framework, name), shared(framework, name)
    classes = {key for key in texts if key not in common and "." not in key}
    assert {key: texts[key] for key in classes if len(texts[key]) < 20} == {}


# Differences are marked, and there is nothing else of the other side


@pytest.mark.parametrize("path", [folder / name for folder in SIDES.values() for name in FILES], ids=str)
def test_no_code_of_one_side_mentions_the_other_framework(path: Path) -> None:
    (other,) = {"paddle", "torch"} - {path.parent.name.removesuffix("_impl")}
    lines = path.read_text().splitlines()
    said = [line for line in lines if re.search(rf"\b{other}", line, re.IGNORECASE)]
    if path.name == "__init__.py":  # whose docstring names its twin
        said = [line for line in said if f"The twin of `{other}_impl`" not in line]
    assert said == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_mark_of_a_difference_says_what_differs(framework: str) -> None:
    lines = [line for name in FILES for line in (SIDES[framework] / name).read_text().splitlines() if "DIFFERS" in line]
    assert len(lines) >= 2
    assert [line for line in lines if not re.search(r"# DIFFERS: \S+ .{10}", line)] == []


# Imports

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "parity").rglob("*.py")
)
LOOK = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded(module: str) -> set[str]:
    """The top-level packages in a process that imports `module`."""
    done = subprocess.run([sys.executable, "-c", LOOK, module], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_no_module_of_parity_loads_a_framework() -> None:
    program = f"import importlib, json, sys\nfor name in {MODULES}:\n    importlib.import_module(name)\n"
    program += "    assert not {'paddle', 'torch', 'paddle_impl', 'torch_impl'} & set(sys.modules), name\n"
    program += "print('all', len(sys.modules))"
    done = execute([sys.executable, "-c", program])
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("all ")
    assert "parity" in MODULES
    assert "parity.cli.train" in MODULES
    assert len(MODULES) > 20


def test_each_implementation_loads_its_own_framework_and_not_the_other(framework: str) -> None:
    (other,) = set(FRAMEWORKS) - {framework}
    found = loaded(f"{framework}_impl.train")
    assert framework in found
    assert not {other, f"{other}_impl"} & found


BLOCKED = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[2]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from parity.cli.train import main
sys.exit(main(["--framework", sys.argv[1], *sys.argv[3:]]))
"""


def blocked_run(framework: str, blocked: str, *arguments: object) -> tuple[int, str]:
    ended = execute([sys.executable, "-c", BLOCKED, framework, blocked, *map(str, arguments), "--threads", "1"])
    return ended.code, ended.stderr


TINY = ("--network", "vgg_mini@0.05", *DATA[:2], "--train-limit", 64, "--test-limit", 10, "--batch-size", 32)


def test_each_side_trains_and_tests_where_the_other_framework_is_not_installed(tmp_path: Path, framework: str) -> None:
    (other,) = set(FRAMEWORKS) - {framework}
    code, stderr = blocked_run(framework, other, *TINY, "--output", tmp_path / "run")
    assert code == 0, stderr
    assert [line["event"] for line in metrics(tmp_path / "run")] == ["batch", "pass"]


def test_a_framework_that_is_not_installed_is_bad_input_that_says_how_to_get_it(tmp_path: Path, framework: str) -> None:
    code, stderr = blocked_run(framework, framework, *TINY, "--output", tmp_path / "run")
    assert code == 2
    assert stderr.splitlines()[-1].startswith(f"error: {FRAMEWORKS[framework]} is not installed here: pip install ")
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()
