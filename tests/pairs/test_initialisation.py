"""The stage init: which initialiser each side has, which arrays differ, and no alarm where both are equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import parity
from helpers import init_models_paddle, init_models_torch
from helpers.pair_models import HERE, ComparePair
from parity.errors import InputError
from parity.pairs.compare_models import compare_models
from parity.pairs.model_worker import ModelWorker

TOKENS = "2,5:12"
MASKED = ("3,6:50", "3,6:2")


@pytest.fixture(scope="module")
def sides() -> Iterator[dict[str, ModelWorker]]:
    """A worker of each framework."""
    with ModelWorker("torch", threads=1) as one, ModelWorker("paddle", threads=1) as two:
        yield {"torch": one, "paddle": two}


@pytest.fixture
def compare(sides: dict[str, ModelWorker], compare_pair: ComparePair) -> Any:
    """Compares the fresh weights of two models of `init_models_*.py`."""

    def one(torch: str, paddle: str, *shapes: str, **more: Any) -> Any:
        factories = f"init_models_torch.py:{torch}", f"init_models_paddle.py:{paddle}"
        return compare_pair(*factories, *shapes, **{"workers": sides, "stages": ("init",)} | more)

    return one


def rows(outcome: Any) -> dict[str, Any]:
    return {f"{row['layer']}.{row['array']}": row for row in outcome.initialisation.rows}


def test_the_default_initialisers_of_both_frameworks_differ_and_are_named(compare: Any) -> None:
    outcome = compare("Net", "Net", "4,3,8,8")
    assert outcome.verdict == "different"
    assert outcome.initialisation.differences == [
        "initialisation of Conv2d conv: PyTorch kaiming_uniform(a=sqrt 5), bias uniform(±1/sqrt(fan_in)); Paddle kaiming_normal, bias 0",
        "initialisation of Linear head: PyTorch kaiming_uniform(a=sqrt 5), bias uniform(±1/sqrt(fan_in)); Paddle xavier_uniform, bias 0",
    ]
    assert "initialisation of Linear head" in outcome.sentence()
    found = rows(outcome)
    assert found["bn.variance"]["verdict"] == "equal"
    assert found["bn.variance"]["torch"]["initialiser"] == found["bn.variance"]["paddle"]["initialiser"] == "1"
    head = found["head.weight"]
    assert head["shape"] == [10, 16] and 0.24 < head["torch"]["high"] <= 0.25
    assert sum(head["histogram"]["torch"]) == pytest.approx(1, abs=1e-4)
    assert outcome.to_json()["stages"]["init"]["different"] == 4


def test_fresh_models_need_no_input_where_names_decide(tmp_path: Path) -> None:
    init = {"stages": ["init"], "folder": HERE, "threads": 1, "init_seeds": 16}
    outcome = compare_models("init_models_torch.py:Net", "init_models_paddle.py:Net", **init)
    assert len(outcome.initialisation.differences) == 2
    (tmp_path / "other.py").write_text(
        "import paddle\ndef make():\n    return paddle.nn.Sequential(paddle.nn.Linear(4, 3))\n"
    )
    (tmp_path / "one.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = torch.nn.Linear(4, 3)\n    def forward(self, x):\n        return self.fc(x)\n"
    )
    with pytest.raises(
        InputError, match=r"^names do not decide which layers are pairs, so that the models must run: pass"
    ):
        compare_models("one.py:Net", "other.py:make", **init | {"folder": tmp_path})


def test_a_port_that_sets_the_initialisers_is_equal(compare: Any) -> None:
    outcome = compare("Net", "Net(ported=True)", "4,3,8,8")
    assert outcome.sentence() == "equal: 8 tensors"
    assert rows(outcome)["head.bias"]["torch"]["initialiser"] == "uniform(±1/sqrt(fan_in))"


def test_one_xavier_over_a_fused_layer_is_not_three(compare: Any) -> None:
    outcome = compare("Fused", "Split", "4,6,32")
    assert outcome.initialisation.differences == [
        f"initialisation of Linear {', '.join(f'qkv[{name}] (Paddle: {name})' for name in ('query', 'key', 'value'))}: "
        "PyTorch xavier_uniform over the fused [96, 32]; Paddle xavier_uniform"
    ]
    assert (
        compare("Fused", "Split(gain=0.7071067811865476)", "4,6,32").verdict == "equal"
    )  # the same bound, sqrt(6 / 4d)


def test_padding_tables_and_orthogonal_matrices(compare: Any) -> None:
    outcome = compare("Tables", "Tables", TOKENS)
    assert outcome.verdict == "equal"
    found = rows(outcome)
    assert found["words.weight"]["torch"]["initialiser"] == "normal(std=1), row 3 constant"
    assert found[".places"]["torch"]["initialiser"] == "fixed numbers"
    assert found["mix.weight"]["torch"]["initialiser"] == "orthogonal"


@pytest.mark.parametrize(
    ("fault", "array", "what"),
    [
        ("padding=None", "words.weight", "the rows that hold one number"),
        ("padding=2", "words.weight", "the rows that hold one number"),
        ("shift=1", "places", "the numbers, which no seed changes"),
        ("gain=1.1", "mix.weight", "the gain of the orthogonal matrix"),
        ("orthogonal=False", "mix.weight", "one side is orthogonal"),
    ],
)
def test_a_fault_that_no_sampling_explains(compare: Any, fault: str, array: str, what: str) -> None:
    found = rows(compare("Tables", f"Tables({fault})", TOKENS))
    differing = {name.lstrip("."): row["what"] for name, row in found.items() if row["verdict"] == "different"}
    assert differing == {array: what}


def test_the_small_transformer_initialised_alike_is_equal_and_its_defaults_differ(compare: Any) -> None:
    outcome = compare("gpt", "gpt", *MASKED)
    assert outcome.verdict == "equal", outcome.sentence()
    found = rows(outcome)
    assert found["blocks.0.attention.out.weight"]["torch"]["initialiser"].startswith("normal(std=0.01)")


@pytest.mark.parametrize("fault", init_models_paddle.FAULTS)
def test_a_planted_fault_is_named(compare: Any, fault: str) -> None:
    place, said = init_models_paddle.FAULTS[fault]
    outcome = compare("gpt", f"gpt(fault={fault!r})", *MASKED)
    sentences = outcome.initialisation.differences
    assert any(f"initialisation of {place}" in one and said in one for one in sentences), sentences
    assert outcome.verdict == "different"


def test_it_stands_beside_other_stages(compare: Any, compare_pair: ComparePair) -> None:
    factories = "init_models_torch.py:Net", "init_models_paddle.py:Net"
    outcome = compare_pair(*factories, "4,3,8,8", stages=("init", "eval", "forward"))
    found = {name: stage["verdict"] for name, stage in outcome.summaries().items()}
    assert found == {"init": "different", "eval": "equal", "forward": "equal"}
    assert outcome.first is None and outcome.verdict == "different"
    assert compare_pair(*factories, "4,3,8,8").verdict == "equal"  # by default, both start from the same weights


def test_live_classes_and_functions_are_made_again_and_states_are_restored() -> None:
    before = torch.get_rng_state()
    outcome = parity.compare_models(
        init_models_torch.Net, lambda: init_models_paddle.Net(True), input_shape=(4, 3, 8, 8), stages=["init"]
    )
    assert outcome.verdict == "equal"
    assert torch.equal(torch.get_rng_state(), before)
    again = parity.compare_models(
        init_models_torch.Net, init_models_paddle.Net, input_shape=(4, 3, 8, 8), stages=["init"], init_seeds=12
    )
    assert len(again.initialisation.differences) == 2


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (init_models_torch.Net(), "the torch side is a model, .*: pass its class"),
        (init_models_torch.same, "returns the same model each time"),
        (init_models_torch.Seeded, "makes the same weights for every seed .*seeds PyTorch itself"),
    ],
)
def test_what_makes_no_fresh_models_is_refused(factory: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parity.compare_models(factory, init_models_paddle.Net, input_shape=(4, 3, 8, 8), stages=["init"])


def test_too_few_seeds_are_refused(compare: Any) -> None:
    with pytest.raises(InputError, match="--init-seeds 5 cannot show any difference in 8 arrays: pass 12 or more"):
        compare("Net", "Net", "4,3,8,8", init_seeds=5)
