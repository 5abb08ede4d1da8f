"""The operators that ONNX Runtime makes of our files: what it can fuse, it fuses."""

from __future__ import annotations

import pytest

from helpers.onnx_graphs import weights_of
from parity.network import articles
from parity.onnx import graph_writer, operators
from parity.onnx.runtime import optimised_operators

REORDERS = ("ReorderInput", "ReorderOutput")
"""ONNX Runtime's changes of memory layout. Processors without its blocked layout have none."""


def optimised(name: str, fold: bool) -> dict[str, int]:
    """The operators that ONNX Runtime makes of the file of the network `name`."""
    net = articles.get_network(name)
    chain = operators.operators(net, weights_of(net))
    made = graph_writer.write(net, operators.fold_batch_norms(chain) if fold else chain)
    return optimised_operators(made.SerializeToString())


@pytest.mark.parametrize(
    ("name", "fold", "expected"),
    [
        (
            "vgg16_bn_drop@0.25",
            True,
            {"Conv+Relu": 13, "MaxPool": 5, "Flatten": 1, "Gemm": 2, "Gemm+Relu": 1},
        ),
        ("vgg16_bn@0.25", False, {"Conv+Relu": 13, "MaxPool": 5, "Flatten": 1, "Gemm": 1}),
    ],
)
def test_nothing_is_left_unfused_in_a_chain(name: str, fold: bool, expected: dict[str, int]) -> None:
    found = optimised(name, fold)
    assert {kind: count for kind, count in found.items() if kind not in REORDERS} == expected
    assert sum(found.get(kind, 0) for kind in REORDERS) <= 1  # the output of the last pool


def test_a_factor_that_is_not_folded_costs_two_changes_of_layout() -> None:
    found = optimised("vgg16_bn_drop@0.25", False)
    assert found["Mul"] == 10 and found["Conv+Relu"] == 13
    assert found.get("ReorderInput", 8) == 8


@pytest.mark.parametrize("name", ["lenet", "vgg_fast@0.25", "resnet20", "vgg_a_lrn_cifar@0.125"])
def test_no_batch_norm_and_no_relu_behind_a_layer_is_left(name: str) -> None:
    found = optimised(name, True)
    # Without the blocked layout, the batch norms of vgg_fast that follow a pool stay what they are.
    assert "BatchNormalization" not in found or not found.keys() & set(REORDERS)
    assert found.get("Relu", 0) <= found.get("Add", 0), "only sums have a ReLU of their own"
    assert not found.keys() & {"Identity", "Dropout", "Transpose", "Reshape", "Cast", "MatMul", "Tanh", "Erf", "Pow"}
