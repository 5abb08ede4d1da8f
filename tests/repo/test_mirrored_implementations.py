"""The two implementations offer the same names, neither needs the other's framework, and `parity` needs none."""

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
FILES = {framework: sorted(path.name for path in folder.glob("*.py")) for framework, folder in SIDES.items()}
SHARED = sorted(set(FILES["paddle"]) & set(FILES["torch"]))
PROTOCOL = ROOT / "parity" / "backend" / "protocol.py"
SPELLING = {
    "nn.Layer": "Module",
    "nn.Module": "Module",
    "model.Model": "Module",
    "paddle.optimizer.Optimizer": "Stepper",
    "torch.optim.Optimizer": "Stepper",
    "paddle.amp.GradScaler": "Scaler",
    "torch.amp.GradScaler": "Scaler",
}
"""Annotations that name the same thing in either framework, in the words of the protocol."""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def definitions(node: ast.AST, prefix: str = "") -> dict[str, ast.AST]:
    """Every public function, class, method and constant of a module or class by its dotted name, in order."""
    found: dict[str, ast.AST] = {}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            found[prefix + child.name] = child
            if isinstance(child, ast.ClassDef):
                found |= definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            found |= {prefix + ast.unparse(target): child for target in targets}
    return {key: value for key, value in found.items() if not re.search(r"(^|\.)_(?!_init__)", key)}


def signature(node: ast.AST) -> str:
    """The arguments, defaults, annotations and decorators of a function; "" for anything else."""
    if not isinstance(node, ast.FunctionDef):
        return ""
    returns = ast.unparse(node.returns) if node.returns else ""
    text = f"{[ast.unparse(mark) for mark in node.decorator_list]} ({ast.unparse(node.args)}) -> {returns}"
    for spelled, meant in SPELLING.items():
        text = text.replace(spelled, meant)
    return text


def backend_methods(path: Path) -> dict[str, str]:
    """The members of the class `Backend` in a file, in order, and the signatures of its methods."""
    found = definitions(tree(path))
    return {key: signature(node) for key, node in found.items() if key.startswith("Backend.")}


# The same protocol, the same public names


def test_both_sides_implement_the_protocol_and_nothing_else(framework: str) -> None:
    wanted, found = backend_methods(PROTOCOL), backend_methods(SIDES[framework] / "backend.py")
    assert len(wanted) > 20
    assert list(found.items()) == list(wanted.items())


def test_every_method_of_the_protocol_is_described() -> None:
    methods = {key: node for key, node in definitions(tree(PROTOCOL)).items() if isinstance(node, ast.FunctionDef)}
    assert [key for key, node in methods.items() if not ast.get_docstring(node)] == []


def test_files_of_one_side_only_are_known() -> None:
    assert set(FILES["torch"]) == set(SHARED)
    own = {
        "compiled_frames.py",
        "cpu_functions.py",
        "exact_functions.py",
        "exact_graphs.py",
        "half_kernels.py",
        "operator_hooks.py",
        "shared_images.py",
    }
    assert set(FILES["paddle"]) - set(SHARED) == own
    assert len(SHARED) >= 6


@pytest.mark.parametrize("name", SHARED)
def test_both_sides_have_the_same_public_names_and_signatures(name: str) -> None:
    paddle, torch = (
        {key: signature(node) for key, node in definitions(tree(SIDES[side] / name)).items()}
        for side in ("paddle", "torch")
    )
    if name == "backend.py":  # the protocol's, see above
        paddle, torch = (dict.fromkeys(side, "") for side in (paddle, torch))
    assert list(paddle.items()) == list(torch.items())


@pytest.mark.parametrize("name", SHARED)
def test_every_public_name_has_a_docstring_that_is_the_same_on_both_sides(name: str) -> None:
    words = re.compile(r"Paddle(?:Paddle)?('s)?|PyTorch('s)?|sub(?:layer|module)|layer|module|nn\.Layer|nn\.Module")
    texts = []
    for framework in FRAMEWORKS:
        found = definitions(tree(SIDES[framework] / name)).items()
        chosen = {k: node for k, node in found if isinstance(node, ast.FunctionDef | ast.ClassDef) and "__" not in k}
        public = {k: ast.get_docstring(node) or "" for k, node in chosen.items() if not k.startswith("Backend.")}
        assert [key for key, text in public.items() if not text] == []
        assert ast.get_docstring(tree(SIDES[framework] / name))
        texts.append({key: words.sub("_", text) for key, text in public.items()})
    assert texts[0] == texts[1]


# Differences are marked, and code does not mention the other side


@pytest.mark.parametrize("path", [SIDES[side] / name for side in FRAMEWORKS for name in FILES[side]], ids=str)
def test_no_code_of_one_side_mentions_the_other_framework(path: Path) -> None:
    (other,) = {"paddle", "torch"} - {path.parent.name.removesuffix("_impl")}
    lines = path.read_text().splitlines()
    said = [line for line in lines if re.search(rf"\b{other}", line, re.IGNORECASE)]
    assert said == []


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_mark_of_a_difference_says_what_differs(framework: str) -> None:
    lines = [
        line
        for name in FILES[framework]
        for line in (SIDES[framework] / name).read_text().splitlines()
        if "DIFFERS" in line
    ]
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
    found = loaded(f"{framework}_impl.backend")
    assert framework in found
    assert not {other, f"{other}_impl"} & found


BLOCKED = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[2] or name == "torch._dynamo":  # the compiler of torch.compile
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from parity.cli.train import main
sys.exit(main(["--framework", sys.argv[1], *sys.argv[3:]]))
"""


def blocked_run(framework: str, blocked: str, *arguments: object) -> tuple[int, str]:
    ended = execute([sys.executable, "-c", BLOCKED, framework, blocked, *map(str, arguments), "--threads", "1"])
    return ended.code, ended.stderr


TINY = ("--network", "vgg_mini@0.05", *DATA[:2], "--train-limit", 64, "--test-limit", 10, "--batch-size", 32)


def test_each_side_trains_without_the_other_framework_and_without_a_compiler(tmp_path: Path, framework: str) -> None:
    (other,) = set(FRAMEWORKS) - {framework}
    code, stderr = blocked_run(framework, other, *TINY, "--output", tmp_path / "run")
    assert code == 0, stderr
    assert [line["event"] for line in metrics(tmp_path / "run")] == ["batch", "batch", "pass"]


def test_a_missing_framework_is_bad_input_and_the_error_says_how_to_install_it(tmp_path: Path, framework: str) -> None:
    code, stderr = blocked_run(framework, framework, *TINY, "--output", tmp_path / "run")
    assert code == 2
    assert stderr.splitlines()[-1].startswith(f"error: {FRAMEWORKS[framework]} is not installed here: pip install ")
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()
