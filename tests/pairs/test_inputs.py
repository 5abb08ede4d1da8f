"""Inputs and outputs that the two models take and return in different layouts, dtypes and names."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.pair_models import ComparePair
from parity.errors import InputError
from parity.pairs.inputs import take_inputs
from parity.pairs.layouts import parse_layouts
from parity.pairs.match_outputs import match_outputs
from parity.pairs.outcome import PairOutcome

TORCH, PADDLE = "input_models_torch.py:", "input_models_paddle.py:"


def compare(
    compare_pair: ComparePair, torch: str, paddle: str, *shapes: str, outputs: tuple[str, ...] = (), **named: str
) -> PairOutcome:
    arrays, names, forms = take_inputs(list(shapes) or None, None, 0, {"both": named})
    more = {"names": names, "forms": forms, "output_forms": parse_layouts(outputs)}
    return compare_pair(TORCH + torch, PADDLE + paddle, inputs=arrays, steps=2, **more)


def explained(outcome: PairOutcome, words: str) -> list[str]:
    return [line for line in outcome.explained if words in line]


@pytest.mark.parametrize("settings", ["", "square=True"])
@pytest.mark.parametrize("first", [False, True])
def test_layers_with_channels_last_are_compared_inside(compare_pair: ComparePair, settings: str, first: bool) -> None:
    shape = "4,3,8,8" if first else "4,3,8,8:NCHW|NHWC"
    outcome = compare(
        compare_pair, f"Images({settings})", f"Images({settings or 'square=False'}, first={first})", shape
    )
    assert outcome.verdict == "equal", outcome.sentence()
    assert not explained(outcome, "inner tensors")


def test_a_mistake_between_layers_with_channels_last_is_found(compare_pair: ComparePair) -> None:
    first = compare(compare_pair, "Images", "Images(factor=0.999)", "4,3,8,8:NCHW|NHWC").first
    assert first and (first.phase, first.tensor) == ("eval", "two:input")


def test_outputs_have_another_layout_too(compare_pair: ComparePair) -> None:
    found = compare(
        compare_pair, "Images(maps=True)", "Images(maps=True)", x="4,3,8,8:NCHW|NHWC", outputs=("NCHW|NHWC",)
    )
    assert found.verdict == "equal", found.sentence()
    without = compare(compare_pair, "Images(maps=True)", "Images(maps=True)", x="4,3,8,8:NCHW|NHWC")
    assert without.first and without.first.tensor == "(output)"
    assert 'if that is intended, pass --output-layout "NCHW|NHWC"' in without.first.sentence()


def test_a_layout_that_is_forgotten_is_named(compare_pair: ComparePair) -> None:
    with pytest.raises(InputError, match=r"failed in forward.*: pass --input-shape \"4,3,8,8:NCHW\|NHWC\""):
        compare(compare_pair, "Images", "Images", "4,3,8,8")
    with pytest.raises(InputError, match=r"failed in forward.*: pass --input-shape \"4,3,8,8:NCHW\|NHWC\""):
        compare(compare_pair, "Images", "Images", "4,8,8,3")
    with pytest.raises(InputError, match=r"failed in forward at layer \w+: [^:]*: [^\n]*(?<!NHWC\")$"):
        compare(compare_pair, "Images", "Images", "4,5,8,8")


@pytest.mark.parametrize(("whole", "mask"), [(False, "2,5:bool"), (True, "2,5:bool|int64")])
def test_masks_are_booleans_or_integers(compare_pair: ComparePair, whole: bool, mask: str) -> None:
    outcome = compare(compare_pair, "Masked", f"Masked({whole})", "2,5:10", mask=mask)
    assert outcome.verdict == "equal", outcome.sentence()


@pytest.mark.parametrize(
    ("text", "dtype", "low", "high"),
    [
        ("40:bool", "bool", 0, 1),
        ("400:int32", "int32", 0, 1),
        ("4000:9:uint8", "uint8", 0, 8),
        ("40:float16", "float16", None, None),
    ],
)
def test_an_input_is_drawn_in_its_dtype(text: str, dtype: str, low: int | None, high: int | None) -> None:
    ((array,), _, forms) = take_inputs(text, None, 0)
    assert array.dtype == dtype and not forms
    if low is not None:
        assert (array.min(), array.max()) == (low, high)


def test_the_sides_of_one_input_state_their_own_layouts_and_dtypes() -> None:
    by_name = {"torch": {"x": "4,3,8,6:NCHW", "m": "7:bool"}, "paddle": {"y": "4,8,6,3:NHWC", "m": "7:int64"}}
    arrays, names, forms = take_inputs(None, None, 0, by_name)
    assert [array.shape for array in arrays] == [(4, 3, 8, 6), (7,)] and names["paddle"] == ["y", "m"]
    image, mask = (forms[i].enter("paddle", array) for i, array in enumerate(arrays))
    np.testing.assert_array_equal(image, arrays[0].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(forms[0].leave("paddle", image), arrays[0])
    assert mask.dtype == "int64" and arrays[1].dtype == "bool"


def test_a_layout_alone_is_that_of_an_array() -> None:
    _, _, forms = take_inputs(None, np.zeros((4, 3, 8, 6)), 0, {"both": {"x": "NCHW|NHWC"}})
    assert forms[0].axes == (0, 2, 3, 1)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("4,3,8,8:NCHW|NHWX", "NCHW|NHWX is no order of the same axes"),
        ("4,3,8:NCHW|NHWC", "the layout has 4 axes and the shape has 3"),
        ("2,7:flot32", "is no shape; did you mean float32: write"),
        ("2,7:300:uint8", "asks for numbers below 300, which uint8 does not hold"),
        ("2,7:bool:bool", "is no shape: write"),
    ],
)
def test_shapes_that_cannot_be_drawn_are_refused(shape: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("|", r"\|")):
        take_inputs(shape, None, 0)


def test_a_layout_without_its_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"has a layout and no shape: write x=4,3,8,8:NCHW\|NHWC"):
        take_inputs(["2,3", "4,3,8,8"], None, 0, {"both": {"x": "NCHW|NHWC"}})
    with pytest.raises(InputError, match="has not both sides"):
        parse_layouts(["NCHW"])


def test_a_layout_of_an_unknown_output_is_refused(compare_pair: ComparePair) -> None:
    with pytest.raises(
        InputError, match="no output 'lok' for --output-layout; did you mean loc; known: loc, conf, aux"
    ):
        compare(compare_pair, "Heads", "Heads(1.0)", "4,8", outputs=("lok=NC|CN",))


HOW = "outputs with other names, matched by "


@pytest.mark.parametrize(("factor", "how"), [(1.0, "values"), (0.99, "values and shapes")])
def test_outputs_of_other_names_are_matched_by_values(compare_pair: ComparePair, factor: float, how: str) -> None:
    outcome = compare(compare_pair, "Heads", f"Heads({factor})", "4,8")
    assert f"{HOW}{how}: loc = boxes, conf = scores, aux = help" in outcome.explained
    assert outcome.verdict == ("equal" if factor == 1 else "different"), outcome.sentence()
    assert factor == 1 or (outcome.first and outcome.first.tensor == "(output).loc")


def test_outputs_without_equal_values_or_shapes_keep_their_order() -> None:
    torch = {"a": np.zeros(2), "b": np.ones(3), "c": np.ones(4)}
    found, how = match_outputs(torch, {"d": np.ones(3), "e": np.zeros(5), "c": np.ones(4)}, "float64")
    assert found == {"d": "b", "e": "a"} and how == HOW + "values and order: a = e, b = d"
    assert match_outputs({"": np.zeros(2)}, {"logits": np.ones(2)}, "float64") == ({}, "")
