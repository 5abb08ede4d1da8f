"""What `import parity` offers: the names, no framework before the first call that needs one, and one example for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import parity
from helpers.paths import ROOT
from parity import api
from parity.network.articles import get_network
from parity.weights import canonical_state

NAMES = [
    "Network",
    "assert_models_equal",
    "assert_parity",
    "build",
    "compare_models",
    "compare_recordings",
    "get_network",
    "load",
    "record",
    "replay",
]


def test_it_offers_these_names_and_the_version() -> None:
    assert sorted(api.__all__) == NAMES
    assert sorted(parity.__all__) == sorted([*NAMES, "__version__"])
    assert set(parity.__all__) <= set(dir(parity))
    assert all(getattr(parity, name) is getattr(api, name) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        parity.nothing  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_every_function_has_an_example(name: str) -> None:
    text = getattr(api, name).__doc__ or ""
    assert any(line.startswith("        ") and f"{name}(" in line for line in text.splitlines()), text


def test_importing_it_loads_neither_a_framework_nor_numpy() -> None:
    program = "import sys, parity; print(sorted({'numpy', 'torch', 'paddle', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_load_takes_a_string_or_a_path(tmp_path: Path) -> None:
    network = get_network("lenet")
    path = tmp_path / "lenet.safetensors"
    canonical_state.save(path, network, canonical_state.initialise(network, 3))
    for name in (path, str(path)):
        found, state, metadata = parity.load(name)
        assert found == network
        assert state.keys() == network.parameters.keys()
        assert "network" in metadata


BUILD = """
import sys, parity
framework = sys.argv[1]
network, state, _ = parity.load(sys.argv[2])
model = parity.build("lenet", framework, state)
other = parity.build(network, framework, 3)
print(type(model).__module__)
print(all((a.detach().numpy() == b.detach().numpy()).all() for a, b in zip(model.parameters(), other.parameters())))
"""


def test_build_makes_a_model_of_a_name_and_of_a_state(framework: str, tmp_path: Path) -> None:
    network = get_network("lenet")
    path = tmp_path / "lenet.safetensors"
    canonical_state.save(path, network, canonical_state.initialise(network, 3))
    command = [sys.executable, "-c", BUILD, framework, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{framework}_impl.model", "True"], done.stderr
