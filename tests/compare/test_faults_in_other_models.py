"""The catalogue's faults of a model are also found in pairs of modules that are compared as a user's models are."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from helpers.paths import TESTS
from parity.selftest.catalogue import FAULTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ELSEWHERE = {
    "relu_missing": "drop_fc1",
    "average_for_maximum": "flatten",
    "branches_exchanged": "fc",
    "head_missing": None,
}
"""Faults in a layer without a partner: the next layer's input shows them. The weights show a missing head."""

FAILS = {"axis_squeezed": "relu_fc1", "pool_missing": "fc1"}
"""Faults with which the candidate raises an error, and the layer that the error names."""

UNALIKE = {"downsample_missing": "block3_down"}
"""Faults with which the candidate lacks a layer with weights: no layers are matched. The message names the layer."""

EQUAL = ("porting", "branching", "residual")
"""The networks without a fault."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The results for every fault of a model, and for each network without a fault."""
    program = [sys.executable, "-W", "ignore", str(TESTS / "helpers/planted_models.py")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_every_fault_of_a_model_is_found_at_its_layer(found: dict[str, Any]) -> None:
    faults = {name: row for name, row in found.items() if name not in EQUAL}
    compared = {name: row for name, row in faults.items() if name not in {**FAILS, **UNALIKE}}
    assert len(compared) >= 69
    assert {name: row["sentence"] for name, row in compared.items() if row["verdict"] != "different"} == {}
    expected = {name: ELSEWHERE.get(name, FAULTS[name].layer) for name in compared}
    assert {name: row["layer"] for name, row in compared.items()} == expected


@pytest.mark.parametrize(("fault", "layer"), FAILS.items())
def test_a_model_that_raises_an_error_is_refused_with_the_layer(found: dict[str, Any], fault: str, layer: str) -> None:
    assert found[fault]["verdict"] == "error"
    assert f"the paddle model failed in forward at layer {layer}" in found[fault]["sentence"]


@pytest.mark.parametrize(("fault", "layer"), UNALIKE.items())
def test_a_model_without_a_layer_is_refused_with_the_layer(found: dict[str, Any], fault: str, layer: str) -> None:
    assert found[fault]["verdict"] == "error"
    assert "the models have different architectures" in found[fault]["sentence"]
    assert f"where PyTorch has {layer} " in found[fault]["sentence"]


@pytest.mark.parametrize("network", EQUAL)
def test_without_a_fault_the_modules_are_equal(found: dict[str, Any], network: str) -> None:
    assert found[network]["verdict"] == "equal", found[network]["sentence"]
