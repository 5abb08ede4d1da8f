"""Layers that the two sides name, order, fuse or nest differently are matched at the first call, and planted mistakes are found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pair_models import ComparePair
from parity.errors import InputError
from parity.modules import layer_kinds
from parity.pairs import mapping, match_values, state_dict_files
from parity.pairs.map_files import read_map
from parity.pairs.outcome import PairOutcome

TORCH, PADDLE = "match_models_torch.py", "match_models_paddle.py"
SEQUENCE, TOKENS = "2,5,8", "2,4:11"


def compared(compare_pair: ComparePair, torch: str, paddle: str, *shapes: str, **more: Any) -> PairOutcome:
    return compare_pair(f"{TORCH}:{torch}", f"{PADDLE}:{paddle}", *shapes, **more)


EQUAL = {
    "blocks": ("Encoder", "Encoder", ["2,5,12"]),
    "wide blocks": ("Encoder(16, 2, 4)", "Encoder(16, 2, 4)", ["2,5,16"]),
    "transposed": ("Transposed", "Transposed", ["2,5,10"]),
    "interleaved": ("Interleaved", "Interleaved", [SEQUENCE]),
    "interleaved, two heads": ("Interleaved(2)", "Interleaved(2)", [SEQUENCE]),
    "key and value": ("Memory", "Memory", [SEQUENCE, "2,7,8"]),
    "grouped": ("Grouped", "Grouped", [SEQUENCE]),
    "convolutions": ("Maps", "Maps", ["2,6,3,3"]),
    "attention opened": ("Attention", "Projections", [SEQUENCE]),
    "attention opened, unnamed": ("Attention", "Unnamed", [SEQUENCE]),
    "attention of Paddle opened": ("Projections", "Attention", [SEQUENCE]),
    "unnamed": ("Projections", "Unnamed", [SEQUENCE]),
    "fused in Paddle": ("Projections", "Fused", [SEQUENCE]),
    "interleaved in Paddle": ("Projections", "Fused(True)", [SEQUENCE]),
    "key and value in blocks": ("Keyed", "Keyed", ["2,5,6"]),
    "two tokens": ("Classed", "Classed", ["2,4,6"]),
    "parameters of one shape": ("Graded", "Graded", ["2,5,6"]),
    "weight of a container": ("Joint", "Projections", [SEQUENCE]),
    "attention and fused": ("Attention", "Fused", [SEQUENCE]),
    "tables": ("Tables", "Tables", [TOKENS, TOKENS]),
    "unnamed tables": ("Tables", "Tables(unnamed=True)", [TOKENS, TOKENS]),
    "summed": ("Summed", "Summed", [TOKENS]),
    "product": ("Product", "Product", ["4,6"]),
    "steps": ("Steps", "Steps", ["4,6"]),
    "own norms": ("Scaled", "Scaled", ["4,6"]),
    "tokens": ("Tokens", "Tokens", ["2,4,6"]),
    "bare parameters": ("Bare", "Bare", ["4,6"]),
    "unnamed parts": ("Seven", "Seven", ["4,6"]),
    "cells": ("Recurrent", "Recurrent", ["2,4,5"]),
    "cross-attention of three widths": ("Crossed", "Crossed", [SEQUENCE, "2,7,6", "2,7,5"]),
    "cross-attention and fused": ("Crossed(8, 8)", "Crossed(8, 8, True)", [SEQUENCE, "2,7,8"]),
    "biases beside a fused layer": ("Biased", "Biased", [SEQUENCE]),
    "square": ("Square", "Square", ["4,6"]),
}


@pytest.mark.parametrize("case", EQUAL)
def test_a_port_with_other_layers_is_equal_at_the_first_call(compare_pair: ComparePair, case: str) -> None:
    torch, paddle, shapes = EQUAL[case]
    outcome = compared(compare_pair, torch, paddle, *shapes)
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.pairing.confirmed and outcome.differences == []
    for stage in ("eval", "forward", "backward", "update", "trajectory"):
        assert outcome.stages[stage].compared > 0
    for side in ("torch", "paddle"):  # every array has a partner, and every number of it is compared
        named = [where[side] for where in outcome.pairing.arrays.values()]
        assert outcome.pairing.single[side] == [] and outcome.pairing.alone[side] == []
        assert {mapping.name_in(spelling) for spelling in named} >= set(outcome.pairing.shapes[side])


FLAWS = {
    "query and key": ("Encoder", "Encoder(flaw='exchanged')", ["2,5,12"], "blocks.1.proj", "blocks.1.proj:input"),
    "no bias": (
        "Encoder",
        "Encoder(flaw='no bias', at=[2])",
        ["2,5,12"],
        "blocks.2.qkv[key]",
        "blocks.2.qkv[key]:output",
    ),
    "scaled": ("Transposed", "Transposed(flaw='scaled')", ["2,5,10"], "head", "head:input"),
    "interleaved": ("Interleaved", "Interleaved(flaw='exchanged')", [SEQUENCE], "dense", "dense:input"),
    "key and value": ("Memory", "Memory(flaw='exchanged')", [SEQUENCE, "2,5,8"], "out", "out:input"),
    "maps": ("Maps", "Maps(flaw='exchanged')", ["2,6,3,3"], "to_out", "to_out:input"),
    "opened": ("Attention", "Projections(flaw='exchanged')", [SEQUENCE], "attention[out]", "attention[out]:output"),
    "weight of a container": ("Joint", "Projections(flaw='exchanged')", [SEQUENCE], "out", "out:input"),
    "projections": ("Projections", "Projections(flaw='exchanged')", [SEQUENCE], "wo", "wo:input"),
    "word and kind": ("Tables", "Tables(flaw='exchanged')", [TOKENS, TOKENS], "word", "word:output"),
    "steps": ("Steps", "Steps(flaw='scaled')", ["4,6"], "out", "out:input"),
    "own norms": ("Scaled", "Scaled(1e-2)", ["4,6"], "norm", "norm:output"),
    "bare parameters": ("Bare", "Bare(flaw='no scale')", ["4,6"], "", "(output)"),
    "tokens": ("Tokens", "Tokens(flaw='exchanged')", ["2,4,6"], "head", "head:input"),
    "two tokens": ("Classed", "Classed('exchanged')", ["2,4,6"], "head", "head:input"),
    "cells": ("Recurrent", "Recurrent('forward')", ["2,4,5"], "out", "out:input"),
}


@pytest.mark.parametrize("case", FLAWS)
def test_a_planted_flaw_is_found_at_its_layer(compare_pair: ComparePair, case: str) -> None:
    torch, paddle, shapes, layer, tensor = FLAWS[case]
    outcome = compared(compare_pair, torch, paddle, *shapes)
    first = outcome.first
    assert outcome.verdict == "different" and first, outcome.sentence()
    assert (first.phase, first.layer, first.tensor) == ("eval", layer, tensor), outcome.sentence()
    assert not outcome.pairing.confirmed and "the search" not in outcome.sentence()


def test_the_layout_of_a_fused_layer_is_right_behind_a_flaw_of_attention(compare_pair: ComparePair) -> None:
    first = compared(compare_pair, "Interleaved", "Interleaved(flaw='halved')", SEQUENCE).first
    assert first and first.tensor == "dense:input"
    assert "only Paddle calls multiply(0.5)" in first.sentence() and "takes query_key_value" not in first.sentence()


@pytest.mark.parametrize(
    ("torch", "paddle", "shape"),
    [("Held", "Held(True, 0.6)", SEQUENCE), ("Graded", "Graded(0.6)", "2,5,6")],
    ids=["fused in Paddle", "parameters of one shape"],
)
def test_function_calls_decide_what_no_tensor_of_a_layer_does(
    compare_pair: ComparePair, torch: str, paddle: str, shape: str
) -> None:
    outcome = compared(compare_pair, torch, paddle, shape, stages=("eval",))
    assert outcome.first and "only Paddle calls multiply(0.6)" in outcome.first.sentence(), outcome.sentence()
    assert outcome.pairing.notes == []


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("layers", "blocks.1.w1 and blocks.1.w3 are exchanged: with blocks.1.w1 = layers.1.right, "),
        (
            "fused",
            "layers.1.first and layers.1.second are exchanged: with blocks.1.both = layers.1.second + layers.1.first, ",
        ),
    ],
)
def test_one_block_that_takes_layers_in_another_order_than_the_others_is_different(
    compare_pair: ComparePair, flaw: str, said: str
) -> None:
    assert compared(compare_pair, "Gates", "Gates", "2,6", stages=("eval",)).verdict == "equal"
    outcome = compared(compare_pair, "Gates", f"Gates({flaw!r})", "2,6", stages=("eval",))
    assert outcome.first and ".1." in outcome.first.layer
    (note,) = outcome.pairing.notes
    assert note.startswith(said) and "unlike in the other blocks" in note and "--map" in note


def test_parts_exchanged_in_some_blocks_are_named(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Encoder(depth=5)", "Encoder(depth=5, flaw='exchanged', at=[1, 3])", "2,5,12")
    (note,) = outcome.pairing.notes
    assert note.startswith("layers.1.query and layers.1.key, layers.3.query and layers.3.key are exchanged: with ")
    assert outcome.pairing.tried < 50


def test_a_part_of_a_fused_layer_that_one_model_never_calls_is_named(compare_pair: ComparePair) -> None:
    outcome = compare_pair("input_models_torch.py:Mixed", "input_models_paddle.py:Mixed", SEQUENCE)
    assert outcome.first and outcome.first.tensor == "head:input", outcome.sentence()
    assert outcome.first.cause == "only PyTorch calls qkv[value] (Paddle: value)"


def test_parts_of_different_sizes_may_be_held_group_by_group(compare_pair: ComparePair, tmp_path: Path) -> None:
    models = "input_models_torch.py:Groups", "input_models_paddle.py:Groups"
    outcome = compare_pair(*models, SEQUENCE)
    assert outcome.verdict == "equal" and outcome.pairing.confirmed, outcome.sentence()
    assert outcome.pairing.arrays["qkv[k_proj].weight"]["torch"] == "qkv.weight[4:6 in 3]"
    mapping.save(tmp_path / "map.json", outcome.pairing)
    saved = read_map(tmp_path / "map.json")
    assert compare_pair(*models, SEQUENCE, given=saved).verdict == "equal"
    random = np.random.default_rng(0)
    start = {name: random.standard_normal(own) for name, own in outcome.pairing.shapes["torch"].items()}
    there = state_dict_files.converted(start, "torch", "paddle", saved)
    np.testing.assert_array_equal(there["v_proj.bias"], start["qkv.bias"].reshape(3, 8)[:, 6:].ravel())
    back = state_dict_files.converted(there, "paddle", "torch", saved)
    assert {name: a.tobytes() for name, a in back.items()} == {name: a.tobytes() for name, a in start.items()}
    wrong = compare_pair(models[0], f"{models[1]}(1.001)", SEQUENCE)
    assert wrong.first and wrong.first.tensor == "head:input"


def test_layers_that_only_their_shapes_match_are_named(compare_pair: ComparePair) -> None:
    outcome = compare_pair("input_models_torch.py:Halves", "input_models_paddle.py:Halves", SEQUENCE)
    assert outcome.pairing.notes == ["matched by order, and not confirmed by values: kv = qk, q = v"]


def test_padding_outside_a_layer_confirms_its_place(compare_pair: ComparePair) -> None:
    outcome = compare_pair("value_models_torch.py:Bordered", "input_models_paddle.py:Framed", "2,3,7,6")
    assert outcome.verdict == "equal" and outcome.pairing.tried and outcome.pairing.confirmed


def test_an_exchange_against_the_names_is_named_with_the_map_that_allows_it(
    compare_pair: ComparePair, tmp_path: Path
) -> None:
    outcome = compared(compare_pair, "Encoder", "Encoder(flaw='exchanged')", "2,5,12")
    (note,) = outcome.pairing.notes
    said, _, row = note.partition("pass --map with ")
    assert said.startswith(
        "layers.1.query and layers.1.key are exchanged: with blocks.1.qkv = layers.1.key + layers.1.query + layers.1.value, "
        "against the names"
    )
    assert note in outcome.sentence()
    (tmp_path / "map.json").write_text(row)
    allowed = compared(
        compare_pair, "Encoder", "Encoder(flaw='exchanged')", "2,5,12", given=read_map(tmp_path / "map.json")
    )
    assert allowed.verdict == "equal"
    assert allowed.pairing.how.startswith("a map for 3 layers, ")


def test_a_lost_bias_of_a_part_is_the_cause_and_the_other_parts_keep_theirs(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Encoder", "Encoder(flaw='no bias', at=[0])", "2,5,12")
    assert outcome.first and outcome.first.cause == "only PyTorch has blocks.0.qkv.bias[1/3]"
    assert outcome.pairing.single == {"torch": ["blocks.0.qkv.bias[1/3]"], "paddle": []}


def test_names_decide_where_values_cannot(compare_pair: ComparePair) -> None:
    partner = compared(compare_pair, "Summed", "Summed", TOKENS).pairing.partner("torch")
    assert partner == {"w": "word", "t": "type_table", "before": "first_norm", "after": "last_norm", "out": "out"}


def test_values_decide_where_names_say_nothing(compare_pair: ComparePair) -> None:
    tables = compared(compare_pair, "Tables", "Tables(unnamed=True)", TOKENS, TOKENS).pairing
    assert tables.partner("torch") == {"word": "b", "kind": "a", "out": "out"}
    assert tables.notes == [] and tables.sentence().endswith("confirmed by values (2 assignments tried)")
    parts = compared(compare_pair, "Seven", "Seven", "4,6").pairing
    assert parts.how == "names, inner = z + y + x" and parts.tried > 1
    assert compared(compare_pair, "Steps", "Steps", "4,6").pairing.partner("torch")["upper"] == "west"


def test_settings_and_names_say_which_inputs_are_exchanged(compare_pair: ComparePair) -> None:
    def cause(paddle: str) -> str:
        outcome = compared(compare_pair, "Padded", paddle, TOKENS, TOKENS, stages=("eval",))
        assert outcome.pairing.partner("torch")["tok"] == "word"
        return outcome.first.cause or "" if outcome.first else "equal"

    assert cause("Padded") == "equal"
    assert cause("Padded(True)").startswith("the whole numbers that go into tok differ at ")
    assert cause("Padded(padded=False)").startswith(
        "padding idx of Embedding: PyTorch -1, Paddle 0 at seg (Paddle: token_type)"
    )


def test_what_neither_names_nor_values_decide_is_in_the_verdict(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Product", "Product", "4,6")
    assert outcome.verdict == "equal"
    assert outcome.sentence().endswith(
        "neither names nor values decide one = right and two = left: the order of execution does, unless --map says "
        '{"layers": [{"torch": "one", "paddle": "left"}, {"torch": "two", "paddle": "right"}]}'
    )
    assert outcome.to_json()["mapping"]["notes"] == outcome.pairing.notes


def test_an_assignment_that_no_value_confirms_is_in_the_verdict(compare_pair: ComparePair) -> None:
    outcome = (
        compared(compare_pair, "Seven", "Lost", "4,6")
        if False
        else compared(compare_pair, "Steps", "Steps(flaw='scaled')", "4,6")
    )
    assert "not confirmed by values" in outcome.pairing.sentence()


def test_a_layer_without_a_partner_is_named(compare_pair: ComparePair) -> None:
    with pytest.raises(
        InputError, match=r"PyTorch has inner \(Linear \[18, 6\]\) and Paddle has y \(Linear \[6, 6\]\)"
    ):
        compared(compare_pair, "Seven", "Lost", "4,6")


def test_a_map_converts_fused_weights_to_their_parts_and_back(compare_pair: ComparePair, tmp_path: Path) -> None:
    for torch, paddle, shape, row in (
        (
            "Interleaved",
            "Interleaved",
            SEQUENCE,
            {"torch": "query_key_value.weight[1/3 in 4]", "paddle": "key.weight.T"},
        ),
        ("Projections", "Fused", SEQUENCE, {"torch": "wk.weight", "paddle": "qkv.weight.T[:,1/3]"}),
        ("Grouped", "Grouped", SEQUENCE, {"torch": "qkv_proj.weight[8:12]", "paddle": "key.weight.T"}),
        ("Transposed", "Transposed", "2,5,10", {"torch": "c_attn.weight.T[:,1/3]", "paddle": "k_proj.weight.T"}),
    ):
        pairing = compared(compare_pair, torch, paddle, shape, stages=("eval",)).pairing
        assert row in pairing.arrays.values()
        mapping.save(tmp_path / "map.json", pairing)
        saved = read_map(tmp_path / "map.json")
        random = np.random.default_rng(0)
        start = {name: random.standard_normal(own) for name, own in pairing.shapes["torch"].items()}
        there = state_dict_files.converted(start, "torch", "paddle", saved)
        back = state_dict_files.converted(there, "paddle", "torch", saved)
        assert {name: a.tobytes() for name, a in back.items()} == {name: a.tobytes() for name, a in start.items()}
        again = compared(compare_pair, torch, paddle, shape, stages=("eval",), given=saved)
        assert again.verdict == "equal" and again.pairing.arrays == pairing.arrays


JOINED = "query + key + value"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"torch": "query_key_value", "paddle": "query + key"}, "whose outputs are not those of query_key_value"),
        ({"torch": "query_key_value", "paddle": JOINED, "heads": 5}, "in 5 heads"),
        ({"torch": "query_key_value", "paddle": JOINED, "heads": 0}, "query_key_value 0 heads: write 1 or more"),
        ({"torch": "query_key_value + dense", "paddle": JOINED}, "joins several layers on both sides"),
        ({"torch": "query_key_value", "paddle": "query + query + value"}, "names the paddle layer 'query' twice"),
        ({"torch": "query_key_value", "paddle": "query + no + value"}, "the paddle model has no layer 'no'"),
    ],
)
def test_a_map_of_parts_that_do_not_fit_is_refused(compare_pair: ComparePair, row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compared(compare_pair, "Interleaved", "Interleaved", SEQUENCE, given={"layers": [row]})


def test_a_wrong_layout_in_a_map_is_a_difference(compare_pair: ComparePair) -> None:
    given = {"layers": [{"torch": "query_key_value", "paddle": JOINED, "heads": 2}]}
    outcome = compared(compare_pair, "Interleaved", "Interleaved", SEQUENCE, given=given, stages=("eval",))
    assert outcome.verdict == "different" and outcome.first
    assert outcome.first.layer == "dense"


def test_the_number_of_assignments_is_limited(compare_pair: ComparePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_values, "MOST_TRIED", 1)
    outcome = compared(compare_pair, "Projections", "Unnamed", SEQUENCE, stages=("eval",))
    assert (outcome.verdict, outcome.pairing.tried) == ("different", 1)
    assert outcome.pairing.sentence() == "order of execution, not confirmed by values (1 assignment tried)"


def test_fused_layers_are_compared_in_float32(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Interleaved", "Interleaved", SEQUENCE, dtype="float32")
    assert outcome.verdict == "equal", outcome.sentence()
    flawed = compared(compare_pair, "Interleaved", "Interleaved(flaw='exchanged')", SEQUENCE, dtype="float32")
    assert flawed.first and flawed.first.layer == "dense"


def test_layers_around_fused_ones_also_run_alone(compare_pair: ComparePair) -> None:
    rows = compared(compare_pair, "Encoder", "Encoder", "2,5,12", stages=("eval",), isolate=True).isolated
    assert rows and {row["verdict"] for row in rows} == {"equal"}
    assert "blocks.0.proj" in {row["layer"] for row in rows}


def test_the_outcome_of_fused_layers_is_plain_json(compare_pair: ComparePair) -> None:
    found = json.loads(json.dumps(compared(compare_pair, "Memory", "Memory", SEQUENCE, "2,7,8").to_json()))
    assert (found["mapping"]["tried"], found["mapping"]["confirmed"], found["mapping"]["notes"]) == (1, True, [])


def test_padding_outside_a_layer_does_not_keep_values_from_confirming(compare_pair: ComparePair) -> None:
    torch = "torch.nn:Sequential(ZeroPad2d(1), Conv2d(3, 5, 3), Conv2d(in_channels=5, out_channels=4, kernel_size=1))"
    paddle = "paddle.nn:Sequential(Conv2D(3, 5, 3, padding=1), Conv2D(5, 4, 1))"
    outcome = compare_pair(torch, paddle, "2,3,7,6", stages=("eval",))
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.pairing.confirmed, outcome.pairing.sentence()


@pytest.mark.parametrize(("torch", "paddle"), [("Masked", "Masked(False)"), ("Masked(False)", "Masked")])
def test_constants_that_only_one_model_stores_do_not_decide(compare_pair: ComparePair, torch: str, paddle: str) -> None:
    outcome = compared(compare_pair, torch, paddle, "2,4,6")
    assert outcome.verdict == "equal", outcome.sentence()
    side = "PyTorch" if torch == "Masked" else "Paddle"
    said = f"arrays without a gradient that only {side} stores, at mask, table: they keep their values"
    assert [line for line in outcome.explained if line.startswith(said)] and not outcome.differences


def test_a_constant_that_differs_from_what_the_other_model_computes_is_found(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Masked", "Masked(False, -10.0)", "2,4,6")
    assert outcome.first and (outcome.first.phase, outcome.first.tensor) == ("eval", "head:input")
    assert any("only PyTorch stores, at mask, table" in line for line in outcome.explained)


@pytest.mark.parametrize(
    ("torch", "paddle"), [("1, 5, 6", "5, 6"), ("1, 5, 6", "6, 5"), ("5, 6", "1, 5, 6"), ("6, 5", "1, 5, 6")]
)
def test_a_table_with_an_axis_of_size_1_on_one_side_is_matched(
    compare_pair: ComparePair, torch: str, paddle: str, tmp_path: Path
) -> None:
    outcome = compared(compare_pair, f"Placed({torch})", f"Placed({paddle})", "2,4,6")
    assert outcome.verdict == "equal", outcome.sentence()
    where = outcome.pairing.arrays["pos"]
    assert sorted(".reshape(" in where[side] for side in where) == [False, True]
    mapping.save(tmp_path / "map.json", outcome.pairing)
    read = read_map(tmp_path / "map.json")
    again = compared(compare_pair, f"Placed({torch})", f"Placed({paddle})", "2,4,6", given=read)
    assert again.verdict == "equal" and again.pairing.arrays == outcome.pairing.arrays
    other = compared(compare_pair, f"Placed({torch})", f"Placed({paddle}, factor=0.999)", "2,4,6")
    assert other.first and other.first.tensor == "head:input"
    assert other.first.cause and "0.999" in other.first.cause


def test_a_table_of_another_shape_is_matched_by_the_map_that_the_verdict_proposes(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Placed(1, 5, 6)", "Placed(3, 10)", "2,4,6")
    said = next(line for line in outcome.differences if line.startswith("pos has shape [1, 5, 6] in PyTorch"))
    assert outcome.verdict == "different" and "pos has [3, 10] in Paddle" in said
    given = json.loads(said[said.index("{") :])
    assert given["arrays"]["pos"]["paddle"] == "pos.reshape(1,5,6)"
    assert compared(compare_pair, "Placed(1, 5, 6)", "Placed(3, 10)", "2,4,6", given=given).verdict == "equal"


@pytest.mark.parametrize(
    ("spelling", "shape"),
    [
        ("a.reshape(6,5)", (6, 5)),
        ("a.reshape(5,6).T", (6, 5)),
        ("a.reshape(6,5)[1/3]", (2, 5)),
        ("a.reshape(30)", (30,)),
    ],
)
def test_a_spelling_may_give_an_array_another_shape(spelling: str, shape: tuple[int, ...]) -> None:
    array = np.arange(30.0).reshape(1, 5, 6)
    parsed = layer_kinds.parse_spelling(spelling)
    assert str(parsed) == spelling and parsed.shape(array.shape) == shape == parsed.view(array).shape
    for order in ("C", "F"):
        other = np.zeros((1, 5, 6), order=order)  # type: ignore[call-overload]
        parsed.put(other, parsed.view(array))
        assert np.array_equal(parsed.view(other), parsed.view(array)) and other.sum() == parsed.view(array).sum()


def test_a_shape_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"array 'a' of shape \[1, 5, 6\] cannot be brought into \[6, 6\]"):
        layer_kinds.parse_spelling("a.reshape(6,6)").shape([1, 5, 6])


@pytest.mark.parametrize(("torch", "paddle"), [("", "True"), ("True", ""), ("True", "True")])
def test_convolutions_with_a_kernel_of_size_1_are_linears(
    compare_pair: ComparePair, torch: str, paddle: str, tmp_path: Path
) -> None:
    def compare(paddle: str, **more: Any) -> PairOutcome:  # of the images, height, width and channels are equal
        return compared(compare_pair, f"Pointwise({torch})", f"Pointwise({paddle})", "2,3,4,4", **more)

    outcome = compare(paddle, isolate=True)
    assert outcome.verdict == "equal", outcome.sentence()
    assert outcome.pairing.confirmed or outcome.pairing.how == "names"
    assert outcome.stages["eval"].compared == 13  # inputs and outputs of six layers, and the model's output
    mixed = [line for line in outcome.explained if line.startswith("convolutions with a kernel of size 1")]
    assert bool(mixed) == (torch != paddle)
    mapping.save(tmp_path / "map.json", outcome.pairing)
    again = compare(paddle, given=read_map(tmp_path / "map.json"))
    assert again.verdict == "equal" and again.pairing.arrays == outcome.pairing.arrays

    convolutions = paddle or "False"
    other = compare(f"{convolutions}, 0.999")
    assert other.first and other.first.tensor == "squeeze:input", other.sentence()
    assert other.first.cause and "0.999" in other.first.cause
    bare = compare(f"{convolutions}, bias=False")
    assert bare.first and bare.first.tensor == "excite:output"
    assert bare.first.cause == "only PyTorch has excite.bias"


@pytest.mark.parametrize(("low", "error"), [(-50.0, "5.00e-01"), (-100.0, "")])
def test_a_buffer_whose_fresh_values_differ_is_named(compare_pair: ComparePair, low: float, error: str) -> None:
    outcome = compared(compare_pair, "Masked", f"Masked(True, {low})", "2,4,6")
    assert outcome.verdict == "equal"  # the check copies PyTorch's
    said = [line for line in outcome.explained if line.startswith("the fresh values of")]
    wanted = f"the fresh values of mask differ, with a relative error of {error}, and no gradient reaches them"
    assert [line.startswith(wanted) for line in said] == ([True] if error else [])


def test_a_parameter_with_a_recipe_of_its_own_is_named(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Shares", "Shares", "4,6")
    assert outcome.verdict == "equal"
    said = [line for line in outcome.explained if line.startswith("recipe of parameters that Paddle's model sets")]
    assert len(said) == 1
    assert "body.weight (learning_rate 0.1), head.bias (regularizer L2Decay coeff=0.250000)" in said[0]
    for other in (
        compared(compare_pair, "Shares", "Shares(own=False)", "4,6"),
        compared(compare_pair, "Shares", "Shares", "4,6", stages=("eval",)),
    ):
        assert not any("recipe of parameters" in line for line in other.explained)


def test_a_refusal_names_the_arrays_of_a_container(compare_pair: ComparePair) -> None:
    said = r"where PyTorch has the model itself with one \[5, 6\], two \[5, 6\] and Paddle has nothing more"
    with pytest.raises(InputError, match=said):
        compare_pair(f"{TORCH}:Graded", "paddle.nn:Sequential(Linear(6, 3))", "2,5,6")


def test_a_refusal_names_all_layers_that_one_side_lacks(compare_pair: ComparePair) -> None:
    torch = "torch.nn:Sequential(Conv2d(3, 8, 3), BatchNorm2d(8), Conv2d(8, 4, 1))"
    paddle = "paddle.nn:Sequential(Conv2D(3, 8, 3), BatchNorm2D(8), Conv2D(8, 8, 1), BatchNorm2D(8), Conv2D(8, 4, 1))"
    with pytest.raises(InputError) as error:
        compare_pair(torch, paddle, "2,3,7,6")
    assert "after 1 (BatchNorm [8]) = 1 (BatchNorm [8]), where Paddle has 2 (Conv2d [8, 8, 1, 1])" in str(error.value)
    assert "PyTorch has nothing like it; only Paddle has 2 (Conv2d [8, 8, 1, 1]), 3 (BatchNorm [8])" in str(error.value)
    assert "3 and 5 layers" in str(error.value) and "fold" not in str(error.value)


@pytest.mark.parametrize(
    ("torch", "paddle", "said"),
    [("Hidden", "Shares", r"PyTorch 2\.\S+ has a method Module.type"), ("Shares", "Hidden", r"Paddle \S+ has a method Layer.apply")],
)  # fmt: skip
def test_a_layer_that_a_method_of_the_framework_hides_is_named(
    compare_pair: ComparePair, torch: str, paddle: str, said: str
) -> None:
    name = said.rpartition(".")[2]
    with pytest.raises(InputError, match=f"{said}, which hides the layer {name}: give it another name"):
        compared(compare_pair, torch, paddle, "4,6")


@pytest.mark.parametrize(
    ("torch", "paddle", "shape", "layer"),
    [
        ("Summed", "Summed", "2,4", "torch model failed in forward at layer w:"),
        ("Summed", "Summed", "2,4:99", "torch model failed in forward at layer w:"),
        ("Shares", "Summed", "4,6", "paddle model failed in forward at layer type_table:"),
    ],
)
def test_indices_that_a_table_lacks_are_refused_with_its_limit(
    compare_pair: ComparePair, torch: str, paddle: str, shape: str, layer: str
) -> None:
    with pytest.raises(InputError) as error:
        compared(compare_pair, torch, paddle, shape)
    said = str(error.value)
    assert layer in said and "\n" not in said
    assert said.endswith("whole numbers below 11: write this limit behind the shape, as in --input-shape 2,5:11")


@pytest.mark.parametrize(
    ("torch", "paddle", "side"),
    [("Gains", "Gains(1)", "PyTorch"), ("Gains(1)", "Gains", "Paddle"), ("Gains", "Gains", "")],
)
def test_a_lost_array_of_a_class_with_another_name_is_named(
    compare_pair: ComparePair, torch: str, paddle: str, side: str
) -> None:
    outcome = compared(compare_pair, torch, paddle, "4,6")
    assert outcome.differences == ([f"only {side} has gains.1.shift"] if side else [])
    if not side:
        assert outcome.verdict == "equal"
        return
    assert outcome.first and (outcome.first.phase, outcome.first.tensor) == ("eval", "gains.1:output")
    assert outcome.first.cause == f"only {side} has gains.1.shift"


def test_a_refusal_compares_a_layer_with_the_one_of_its_name(compare_pair: ComparePair) -> None:
    said = r"where PyTorch has types \(Embedding \[2, 6\]\) and Paddle has types \(Embedding \[4, 6\]\)"
    with pytest.raises(InputError, match=said):
        compared(compare_pair, "Types", "Types", TOKENS)


def test_a_fused_layer_whose_parts_names_decide_is_matched_by_names(compare_pair: ComparePair) -> None:
    found = compared(compare_pair, "Joined", "Joined", SEQUENCE, stages=("eval",))
    assert found.verdict == "different" and found.pairing.notes == []
    assert re.fullmatch(r"names, qkv = q \+ k \+ v \(\d+ assignments tried\)", found.pairing.sentence())


def test_a_square_that_is_stored_transposed_is_named(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Square", "Square", "4,6", steps=1)
    said = [text for text in outcome.explained if "stores the transpose: matrix = weights" in text]
    assert outcome.verdict == "equal" and len(said) == 1, outcome.explained


def test_a_layer_that_is_never_called_does_not_decide_the_pairs_of_others(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Branches", "Branches", "4,6", steps=1)
    assert outcome.sentence() == "different: only Paddle has spare (Linear [4, 6]), which inference does not call"
    assert outcome.pairing.confirmed and outcome.pairing.partner("torch") == {"a": "q", "b": "p", "out": "out"}


def test_a_flaw_beside_biases_of_a_container_is_found(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Biased", "Biased(1.1)", SEQUENCE, steps=1)
    assert outcome.first and outcome.first.layer == "dense" and outcome.differences == [], outcome.sentence()


@pytest.mark.parametrize(
    "stages",
    [("eval",), ("eval", "forward"), ("eval", "forward", "backward", "update")],
    ids=["eval", "no gradients", "all"],
)
def test_a_mistake_before_a_relu_that_passes_nothing_is_found_with_other_weights(
    compare_pair: ComparePair, stages: tuple[str, ...]
) -> None:
    wrong = compared(compare_pair, "Quiet", "Quiet(1e-3)", "4,8", steps=1, stages=stages)
    assert wrong.first and wrong.first.layer == "norm" and "eps of LayerNorm" in wrong.sentence()
    assert "in another order" in wrong.explained[0]
    assert compared(compare_pair, "Quiet", "Quiet", "4,8", steps=1, stages=stages).sentence().startswith("equal: ")


def test_layers_that_no_output_depends_on_with_any_weights_are_in_the_verdict(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Quiet(-1e4)", "Quiet(1e-3)", "4,8", steps=1)
    assert outcome.verdict == "equal" and "not proved: tensors of norm, inner differ" in outcome.sentence()
    right = compared(compare_pair, "Quiet(-1e4)", "Quiet", "4,8", steps=1)
    assert "not proved" not in right.sentence() and "they prove no backward pass there" in right.explained[-1]


def test_a_harmless_inner_difference_is_not_called_a_layer_without_an_effect(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Doubled", "Doubled(2.0)", "4,6", steps=1, stages=("eval",))
    assert outcome.verdict == "equal"
    assert outcome.explained[0].startswith("inner tensors differ at inner, and no output does: all was compared again")


def test_the_first_outcome_stands_where_other_weights_fail(compare_pair: ComparePair) -> None:
    outcome = compared(compare_pair, "Factored", "Factored", "4,6", steps=1)
    assert outcome.verdict == "equal", outcome.sentence()
    assert any("the comparison with other weights failed: " in text for text in outcome.explained), outcome.explained
