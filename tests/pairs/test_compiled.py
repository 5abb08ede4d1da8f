"""Models that their framework has compiled are compared as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers import input_models_torch
from helpers.pair_models import ComparePair
from parity.backend.registry import make_backend
from parity.compare.verdicts import Divergence
from parity.errors import InputError, describe_error
from parity.pairs.compare_models import describe_uncompiled
from parity.pairs.narrow_dtypes import as_compiled
from parity.pairs.outcome import PairOutcome

TORCH, PADDLE = "input_models_torch.py:", "input_models_paddle.py:"


def compare(compare_pair: ComparePair, torch: str, paddle: str) -> PairOutcome:
    return compare_pair(TORCH + torch, PADDLE + paddle, "6,8")


@pytest.mark.parametrize(
    ("torch", "paddle", "said"),
    [
        ("compiled()", "Dropped", "compiled in PyTorch, at the model itself: tensors inside are not compared there"),
        ("compiled('part')", "Dropped", "compiled in PyTorch, at block: tensors inside are not compared there"),
        ("compiled('method')", "Dropped", "compiled in PyTorch, at the model itself: tensors inside are not"),
        (
            "Dropped",
            "static('part')",
            "compiled in Paddle, at block: tensors inside are not compared there, and training",
        ),
        ("Dropped", "static()", "compiled in Paddle, at the model itself: tensors inside are not compared there, and"),
        ("Dropped", "static('full')", "compiled in Paddle, at the model itself: tensors inside are not compared"),
        (
            "compiled()",
            "static()",
            "compiled in Paddle, at the model itself: tensors inside are not compared there, and",
        ),
    ],
)
def test_a_compiled_model_is_equal(compare_pair: ComparePair, torch: str, paddle: str, said: str) -> None:
    outcome = compare(compare_pair, torch, paddle)
    assert outcome.verdict == "equal", outcome.sentence()
    assert any(line.startswith(said) for line in outcome.explained), outcome.explained
    assert all(outcome.stages[stage].compared > 0 for stage in outcome.asked)


BLOCK = "uncompiled, head:input is the first tensor that differs: "


@pytest.mark.parametrize(
    ("torch", "paddle", "cause"),
    [
        ("input_models_torch.py:compiled()", "input_models_paddle.py:Dropped(1.001)", BLOCK),
        ("input_models_torch.py:Dropped", "input_models_paddle.py:static('full', 1.001)", BLOCK),
        (
            "value_models_torch.py:Activated('ReLU')",
            "value_models_paddle.py:static('Activated', kind='GELU')",
            "uncompiled, act:output is the first tensor that differs: kind of layer: PyTorch ReLU, Paddle GELU at act",
        ),
    ],
)
def test_a_mistake_in_a_compiled_model_is_named_by_uncompiled_models(
    compare_pair: ComparePair, torch: str, paddle: str, cause: str
) -> None:
    outcome = compare_pair(torch, paddle, "6,6" if "value" in torch else "6,8")
    first = outcome.first
    assert first and (first.phase, first.tensor) == ("eval", "(output)")
    assert first.cause and first.cause.startswith(cause), first.cause
    assert outcome.tree.count("<-- first divergence") == 2


ISLANDS = [
    ("Islands", "static('Islands')"),
    ("Islands", "static('Islands', full_graph=False)"),
    ("Islands", "static('Islands', 'norm')"),
    ("compiled('Islands')", "Islands"),
    ("Tabled", "static('Tabled')"),
]


def compare_islands(compare_pair: ComparePair, torch: str, paddle: str, shape: str = "3,4,6") -> PairOutcome:
    return compare_pair(f"value_models_torch.py:{torch}", f"value_models_paddle.py:{paddle}", shape, steps=2)


@pytest.mark.parametrize(("torch", "paddle"), ISLANDS)
def test_float32_inside_compiled_models_is_named_and_equal(compare_pair: ComparePair, torch: str, paddle: str) -> None:
    outcome = compare_islands(compare_pair, torch, paddle)
    assert outcome.verdict == "equal", outcome.sentence()
    place = "the model itself after first" if "Tabled" in torch else "norm, the model itself after key, last"
    inside = f"float32 inside both models, at {place}: the check computes in float64"
    assert outcome.explained[0].startswith(inside), outcome.explained


@pytest.mark.parametrize("stored", [0, 500])
def test_a_float32_buffer_of_a_compiled_model_may_be_made_elsewhere(compare_pair: ComparePair, stored: int) -> None:
    models = "compiled('Tables', is_buffer=True)", f"static('Tables', stored={stored})"
    outcome = compare_islands(compare_pair, *models, "3,4,5")
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize(
    ("torch", "paddle", "tensor"),
    [
        ("Islands", "static('Islands', times=1.000001)", "(output)"),
        ("compiled('Islands')", "Islands(times=1.000001)", "(output)"),
        ("Islands('')", "static('Islands', 'norm')", "norm:output"),
    ],
)
def test_a_small_error_beside_float32_in_a_compiled_model_is_found(
    compare_pair: ComparePair, torch: str, paddle: str, tensor: str
) -> None:
    outcome = compare_islands(compare_pair, torch, paddle)
    assert outcome.first and (outcome.first.phase, outcome.first.tensor) == ("eval", tensor), outcome.sentence()


def test_a_compiled_layer_is_one_place() -> None:
    inside, behind = {"path": "a.b", "after": "a.b"}, {"path": "", "after": "a.c"}
    for place in (inside, behind):
        place["place"] = f"{place['path']} after {place['after']}"
    assert as_compiled([inside, behind], [], ["a"]) == ["a.b after a.b", " after a.c", "a after a", " after a"]
    assert as_compiled([behind], [inside], ["a"]) == [" after a.c", " after a"]
    assert as_compiled([inside], [{**inside, "path": "a.c"}], ["a"]) == ["a.b after a.b"]


def test_a_copy_of_a_compiled_model_is_compiled() -> None:
    backend = make_backend("torch")
    for how in ("whole", "part"):
        model = input_models_torch.compiled(how)
        paths = backend.compiled_modules(model).keys()
        assert paths == ({""} if how == "whole" else {"block"})
        assert backend.compiled_modules(backend.copy_model(model)).keys() == paths
        assert backend.compiled_modules(model).keys() == paths
    with pytest.raises(InputError, match=r"a copy is not compiled by Module\.compile"):
        backend.copy_model(input_models_torch.compiled("method"))


@pytest.mark.parametrize("how", ["whole", "part", "full"])
def test_a_copy_of_a_static_layer_is_static_and_the_original_stays_so(how: str) -> None:
    assert torch  # before Paddle
    from helpers import input_models_paddle

    backend, model = make_backend("paddle"), input_models_paddle.static(how)
    path = "block" if how == "part" else ""
    copied = backend.copy_model(model)
    for one in (model, copied):
        ((own, layer),) = backend.compiled_modules(one).items()
        assert own == path and layer is not None and layer.forward.dygraph_function.__self__ is layer
    assert type(copied.block.forward) is type(model.block.forward)
    assert type(copied.forward) is type(model.forward)


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        ("Cancelling", "static('Cancelling'{})"),
        ("compiled('Cancelling')", "Cancelling({})"),
        ("compiled('Cancelling')", "static('Cancelling'{})"),
    ],
)
def test_a_gradient_that_a_norm_cancels_inside_a_compiled_model_is_rounding(
    compare_pair: ComparePair, torch: str, paddle: str
) -> None:
    outcome = compare_islands(compare_pair, torch, paddle.format(""), "4,3,6,6")
    assert outcome.verdict == "equal", outcome.sentence()
    leak = ", leak=1e-9" if "static" in paddle else "1e-9"
    first = compare_islands(compare_pair, torch, paddle.format(leak), "4,3,6,6").first
    assert first and (first.phase, first.tensor) == ("backward", "(model):input/0"), first


@pytest.mark.parametrize("paddle", ["Counted({})", "static('Counted', {})", "static('Counted', full_graph=False, {})"])
def test_integers_and_numbers_in_python_make_floats_of_the_default_dtype(
    compare_pair: ComparePair, paddle: str
) -> None:
    outcome = compare_islands(compare_pair, "Counted", paddle.format(""), "5,8")
    assert outcome.verdict == "equal", outcome.sentence()
    outcome = compare_islands(compare_pair, "Counted", paddle.format("times=1.0000001"), "5,8")
    assert outcome.verdict == "different", outcome.sentence()


def test_the_compiler_is_the_cause_where_uncompiled_models_are_equal() -> None:
    first = Divergence(1, "eval", "", "", "(output)", 1e-3, 1e-12, "unknown", generic=True)
    said = "uncompiled, the models are equal: the compiler changes what one of them computes"
    assert describe_uncompiled(first, None) == replace(first, cause=said, generic=False)
    known = replace(first, cause="Paddle's (output) is PyTorch's times 2", generic=False)
    assert describe_uncompiled(known, None) == replace(known, calls=said)
    assert describe_uncompiled(known, replace(known, tensor="head:output")) == known


def test_code_compiled_for_inference_is_not_used_in_training(compare_pair: ComparePair) -> None:
    outcome = compare_islands(compare_pair, "Shared", "static('Shared', full_graph=False)", "5,8")
    assert outcome.verdict == "equal", outcome.sentence()
    outcome = compare_islands(compare_pair, "Shared", "static('Shared', full_graph=False, times=1.000001)", "5,8")
    assert outcome.first and (outcome.first.phase, outcome.first.tensor) == ("eval", "(output)"), outcome.sentence()


def test_the_variables_of_a_function_with_many_branches_are_listed_at_once() -> None:
    assert torch  # before Paddle
    from paddle.jit.sot.opcode_translator.executor import opcode_executor
    from paddle.jit.sot.opcode_translator.instruction_utils import get_instructions, opcode_analysis

    from paddle_impl.compiled_frames import INPUTS, read_variables, sound_frames

    for branches in (6, 60):
        lines = [f"    if a > {i}:\n        v{i} = b\n    for v{i} in a:\n        del v{i}" for i in range(branches)]
        scope: dict[str, Any] = {}
        exec("\n".join(["def function(a, b, c, d):", "    a = a + c", *lines, "    return v0, d"]), scope)
        instructions = get_instructions(scope["function"].__code__)
        after = next(i for i, one in enumerate(instructions) if one.opname == "STORE_FAST") + 1
        assert list(read_variables(instructions, 0)) == ["a", "c", "b", "v0", "d"]
        assert list(read_variables(instructions, after)) == ["a", "b", "v0", "d"]
        if branches == 6 and (slow := getattr(opcode_analysis, INPUTS, None)):
            for start in range(0, len(instructions), 5):
                assert set(read_variables(instructions, start)) == set(slow(instructions, start))
    if hasattr(opcode_executor, INPUTS):
        with sound_frames():
            assert getattr(opcode_executor, INPUTS) is read_variables
        assert getattr(opcode_executor, INPUTS) is getattr(opcode_analysis, INPUTS)


def test_the_reason_why_a_graph_cannot_be_made_is_told() -> None:
    class StaticError(Exception):
        pass

    text = 'In transformed code:\n\n\n    File "a.py", line 7, in forward\n\n    paddle.jit.StaticError: a condition changes.\n'
    assert describe_error(StaticError(text)) == "StaticError: a condition changes."
    assert describe_error(TypeError("TypeError: it is an integer")) == "TypeError: it is an integer"
