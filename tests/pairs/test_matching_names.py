"""Words of names, and spellings of parts of arrays."""

from __future__ import annotations

import numpy as np
import pytest

from parity.errors import InputError
from parity.modules.layer_kinds import check_each_once, parse_spelling
from parity.pairs.match_names import bijection, order_of_parts, pairs_by_words, usual_order, words_of


def test_paths_are_split_into_words() -> None:
    assert words_of("blocks.0.selfAttn_qProj2") == ["blocks", "0", "self", "attn", "q", "proj", "2"]


@pytest.mark.parametrize(
    ("torch", "paddle", "found"),
    [
        (["w", "t"], ["type", "word"], {"w": "word", "t": "type"}),
        (["query", "key"], ["k_proj", "q_proj"], {"query": "q_proj", "key": "k_proj"}),
        (["one", "two"], ["left", "right"], None),
        (
            ["cls_token", "dist_token"],
            ["distillation", "class_token"],
            {"cls_token": "class_token", "dist_token": "distillation"},
        ),
        (["q_a", "q_b"], ["query_c", "query_d"], None),
        (["a", "b"], ["alpha", "angle"], None),
        (["n1", "n2"], ["norm_2", "norm_1"], {"n1": "norm_1", "n2": "norm_2"}),
    ],
)
def test_names_that_say_everything(torch: list[str], paddle: list[str], found: dict[str, str] | None) -> None:
    assert bijection(torch, paddle) == found


def test_names_that_say_something() -> None:
    here = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("wq", "wk", "proj")]
    there = [f"layers.{i}.{name}" for i in (1, 2) for name in ("key", "mixed", "query")]  # numbers begin at one
    assert pairs_by_words(here, there) == {
        "blocks.0.wq": "layers.1.query",
        "blocks.0.wk": "layers.1.key",
        "blocks.1.wq": "layers.2.query",
        "blocks.1.wk": "layers.2.key",
    }
    assert pairs_by_words(["stem.0", "stem.2"], ["net.3", "net.4"]) == {}
    assert pairs_by_words(["query", "key", "last"], ["a", "k", "b"]) == {
        "key": "k"
    }  # by synonyms, not by first letters
    assert pairs_by_words(["attention", "x"], ["a", "b"]) == {}
    here, there = ["h.0.ln_1", "h.0.fc_2", "ln_f"], ["layers.0.norm1", "layers.0.up2", "norm"]
    assert pairs_by_words(here, there) == {"h.0.ln_1": "layers.0.norm1", "ln_f": "norm"}  # by equal numbers and words
    here, there = ["h.0.ln_1", "h.0.ln_2", "x"], ["layers.0.norm1", "layers.0.norm2", "y"]
    assert pairs_by_words(here, there) == {"h.0.ln_1": "layers.0.norm1", "h.0.ln_2": "layers.0.norm2"}
    assert pairs_by_words(["ln_1", "ln_2", "x"], ["norm5", "norm6", "y"]) == {}


def test_numbers_that_agree_by_chance_decide_nothing() -> None:
    here, there = ["stage2.0.branch1.2", "stage2.0.branch2.0"], ["2_1._conv_pw_2.0", "2_1._conv_linear_1.0"]
    assert pairs_by_words(here, there) == {}  # of shufflenet_v2_x1_0
    here, there = ["features.5.block.0", "features.6.block.0"], ["blocks.4.expand.0", "blocks.5.expand.0"]
    assert pairs_by_words(here, there) == {}  # of mobilenet_v3_small, whose blocks count from 0 in Paddle


def test_the_name_of_a_fused_layer_spells_its_parts() -> None:
    parts = ["k_proj", "q_proj", "v_proj"]
    assert order_of_parts("attn.qkv", parts) == order_of_parts("query_key_value", parts) == [1, 0, 2]
    assert order_of_parts("Wkqv", parts) == [0, 1, 2]
    assert order_of_parts("in_proj_weight", parts) == [1, 0, 2]
    assert order_of_parts("gate_up_proj", ["up_proj", "gate_proj"]) == [1, 0]
    assert order_of_parts("c_attn", parts) is None
    assert order_of_parts("kv", parts) is None
    assert usual_order(parts) == [1, 0, 2] and usual_order(["b", "a"]) == [0, 1]


@pytest.mark.parametrize(
    ("spelling", "rows"),
    [
        ("w[1/3]", [2, 3]),
        ("w[1/3 in 2]", [1, 4]),
        ("w[2:5]", [2, 3, 4]),
        ("w.T[:,1/3]", [2, 3]),
        ("w.T[:,1/3 in 2]", [1, 4]),
    ],
)
def test_a_part_of_an_array_is_read_and_written_where_its_spelling_says(spelling: str, rows: list[int]) -> None:
    whole = np.arange(12.0).reshape(6, 2)
    own = whole.T.copy() if ".T" in spelling else whole
    parsed = parse_spelling(spelling)
    assert str(parsed) == spelling
    np.testing.assert_array_equal(parsed.view(own), whole[rows])
    assert parsed.shape(own.shape) == (len(rows), 2)
    written = np.full_like(own, -1)
    parsed.put(written, whole[rows])
    assert (written >= 0).sum() == 2 * len(rows)
    np.testing.assert_array_equal(parsed.view(written), whole[rows])


@pytest.mark.parametrize("spelling", ["w[3:3]", "w[4:2]", "w[0/3 in 0]", "w[3/3]"])
def test_a_spelling_of_no_part_is_refused(spelling: str) -> None:
    with pytest.raises(InputError, match=r"is no part of an array|has no rows"):
        parse_spelling(spelling)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["w[0:2]", "w[3:6]"], "rows 2 to 2 of the array 'w' are not named"),
        (["w[0:4]", "w[3:6]"], "rows 3 to 3 of the array 'w' are named twice"),
        (["w[0/2]", "w[1/2 in 2]"], "the array 'w' is named twice"),
        (["w[0/2]", "w[:,1/2]"], "the array 'w' is named twice"),
        (["w[0/2 in 3]"], "only 1 of 2 parts"),
    ],
)
def test_parts_that_do_not_make_a_whole_are_refused(named: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_each_once(named)


def test_rows_end_where_the_array_ends() -> None:
    check_each_once(["w[0:2]", "w[2:6]"], {"w": [6, 2]})
    with pytest.raises(InputError, match="rows 6 to 7 of the array 'w' are not named"):
        check_each_once(["w[0:2]", "w[2:6]"], {"w": [8, 2]})


def test_parts_that_an_array_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match=r"has no rows 4:8"):
        parse_spelling("w[4:8]").shape([6, 2])
    with pytest.raises(InputError, match=r"3 equal parts in 4 groups"):
        parse_spelling("w[0/3 in 4]").shape([6, 2])
