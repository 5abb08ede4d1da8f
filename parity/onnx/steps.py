"""Several ONNX operators that stand for one layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, helper

from parity.arrays import Array


@dataclass
class Steps:
    """Nodes and constants that make `out` for `layer`; the values on the way are called `LAYER.STEP`, and so are the constants."""

    layer: str
    out: str
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)

    def constant(self, name: str, array: Array) -> str:
        """Adds a constant; returns its whole name."""
        whole = f"{self.layer.removesuffix('.')}.{name}"
        self.tensors[whole] = array
        return whole

    def add(self, kind: str, step: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator, the last of them without a name for its `step`; returns what its value is called."""
        name = f"{self.layer}.{step}" if step else self.layer
        value = name if step else self.out
        self.nodes.append(helper.make_node(kind, list(inputs), [value], name, **attributes))
        return value
