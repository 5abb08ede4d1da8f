"""What the report of two models shows: the worst elements, the layers of both models side by side, and every stage of a layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.pair_models import ComparePair
from parity import report
from parity.report.heat_map import guilty_place, heat_map


def named(text: str) -> tuple[str, str]:
    return f"value_models_torch.py:{text}", f"value_models_paddle.py:{text}"


def test_the_worst_elements_are_those_of_the_first_tensor_that_diverges(
    compare_pair: ComparePair, tmp_path: Path
) -> None:
    models = (named("Activated('ReLU6')")[0], named("Activated('ReLU')")[1])
    result = compare_pair(*models, "4,6").to_json()
    first = result["first_divergence"]
    assert (first["tensor"], first["shapes"]) == ("act:output", [[4, 40], [4, 40]])
    values = [(one["reference"], one["candidate"], one["difference"]) for one in first["elements"]]
    assert len(values) > 1
    assert all(a == 6 and b > 6 and d == b - a for a, b, d in values)  # ReLU6 cuts what ReLU passes
    assert [d for *_, d in values] == sorted((d for *_, d in values), reverse=True)
    assert all(0 <= i < 4 and 0 <= j < 40 for i, j in (one["index"] for one in first["elements"]))
    kinds = [[side and side["kind"] for side in row.values()] for row in result["models"]]
    assert kinds == [["Linear", "Linear"], ["ReLU6", "ReLU"], ["Linear", "Linear"]]
    report.write(tmp_path, result)
    assert guilty_place(result) == ("act", "eval")


def test_the_elements_of_a_tensor_that_was_set_aside_are_kept(compare_pair: ComparePair) -> None:
    # The input of the second layer counts only once the outputs differ, too. PyTorch multiplies by 3 before that layer.
    first = compare_pair(named("Moved")[0], named("Moved(2.0)")[1], "4,6").to_json()["first_divergence"]
    assert first["tensor"] == "b:input"
    assert len(first["elements"]) > 1
    assert all(abs(one["reference"] / one["candidate"] - 3) < 1e-9 for one in first["elements"])


def test_every_stage_of_a_layer_and_the_names_on_both_sides_are_kept(compare_pair: ComparePair) -> None:
    outcome = compare_pair("Renamed", "Renamed", "4,3,6,6")
    result = outcome.to_json()
    assert result["verdict"] == "equal"
    pairs = [[side["path"] for side in row.values()] for row in result["models"] if None not in row.values()]
    assert [paddle for _, paddle in pairs] == ["_conv_a", "_conv_b", "classifier"]
    assert {row["layer"]: row["candidate_layer"] for row in result["layers"]} == dict(pairs) | {"(model)": "(model)"}
    found = heat_map(result)
    assert found.columns == ["eval", "forward", "backward", "update", "trajectory"]
    for row in found.rows[:-1]:
        assert None not in row.cells


def test_a_layer_of_one_model_has_a_row_of_its_own(compare_pair: ComparePair) -> None:
    rows = compare_pair("Auxiliary", "Auxiliary", "4,6").to_json()["models"]
    alone = [row for row in rows if None in row.values()]
    assert alone and all(row["paddle"] is None for row in alone)
    assert len(rows) == len(alone) + 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_buffer_of_integers_has_elements(compare_pair: ComparePair, dtype: str) -> None:
    models = (named("Indexed")[0], named("Indexed(2)")[1])
    first = compare_pair(*models, "3,4,6", dtype=dtype, steps=1).to_json()["first_divergence"]
    assert {one["index"][0] for one in first["elements"]} == {3}  # the only row that another number selects
