"""GELU in ONNX, as five operators: ONNX's own Gelu needs opset 20, and exporters write these five."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from parity.arrays import Array
from parity.onnx.operators import Operator
from parity.onnx.steps import Steps

ROOT_NAME = ".root"  # the end of its name in files that `write` makes
ROOT = np.array(math.sqrt(2), np.float32)
ONE, HALF = np.array(1, np.float32), np.array(0.5, np.float32)


def read(
    node: NodeProto, makers: Mapping[str, NodeProto], constants: Mapping[str, Array]
) -> tuple[str, Operator] | None:
    """The name of x and the operator, if the Mul `node` ends x * (erf(x / sqrt(2)) + 1) * 0.5 in any order; otherwise None."""

    def with_scalar(value: str, kind: str, scalar: Array) -> str | None:
        """The other input of the operator that yields `value`, if that is a `kind` with the constant `scalar`; otherwise None."""
        maker = makers.get(value)
        if maker is None or maker.op_type != kind:
            return None
        orders = (maker.input, maker.input[::-1]) if kind != "Div" else (maker.input,)
        return next((x for x, other in orders if _is(constants.get(other), scalar)), None)

    def shifted(value: str, x: str) -> bool:
        """Whether `value` is erf(x / sqrt(2)) + 1."""
        erf = makers.get(with_scalar(value, "Add", ONE) or "")
        return erf is not None and erf.op_type == "Erf" and with_scalar(erf.input[0], "Div", ROOT) == x

    for a, b in (node.input, node.input[::-1]):
        inner = makers.get(a)
        if _is(constants.get(b), HALF) and inner is not None and inner.op_type == "Mul":
            pairs = [tuple(inner.input), tuple(inner.input[::-1])]
        else:
            pairs = [(half, b) for half in [with_scalar(a, "Mul", HALF)] if half]
            pairs += [(b, half) for half in [with_scalar(a, "Mul", HALF)] if half]
        if found := next((x for x, sums in pairs if shifted(sums, x)), None):
            return found, Operator("", "Gelu")
    return None


def _is(found: Array | None, scalar: Array) -> bool:
    """Whether `found` is the scalar. With more than one dimension it would broadcast a vector to an image."""
    return (
        found is not None
        and found.dtype == scalar.dtype
        and found.ndim <= 1
        and np.array_equal(found.reshape(-1), scalar.reshape(-1))
    )


def write(steps: Steps, value: str) -> None:
    """Add the operators that compute the GELU of `value`."""
    root, one, half = (steps.constant(name, array) for name, array in (("root", ROOT), ("one", ONE), ("half", HALF)))
    erf = steps.add("Erf", "erf", steps.add("Div", "scaled", value, root))
    steps.add("Mul", "", steps.add("Mul", "product", value, steps.add("Add", "shifted", erf, one)), half)
