"""Collects the ONNX operators that together form one layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, helper

from parity.arrays import Array


@dataclass
class Steps:
    """The nodes and constants that compute `out` for `layer`; intermediate values and constants are named `LAYER.STEP`."""

    layer: str
    out: str
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)

    def constant(self, name: str, array: Array) -> str:
        """Add a constant; return its full name."""
        whole = f"{self.layer.removesuffix('.')}.{name}"
        self.tensors[whole] = array
        return whole

    def add(self, kind: str, step: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator and return its value's name. The last operator has an empty `step`, and its value is `out`."""
        name = f"{self.layer}.{step}" if step else self.layer
        value = name if step else self.out
        self.nodes.append(helper.make_node(kind, list(inputs), [value], name, **attributes))
        return value
