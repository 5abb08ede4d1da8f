"""The ceiling of a benchmark: convolutions and linear layers alone do what they do in training, and nothing else runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from parity.backend.registry import make_trainer
from parity.backend.timing import LayersAlone
from parity.network import articles
from parity.network.graph import needing_input_gradients
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, Flatten, Linear, MaxPool, ReLU
from parity.recipe import presets

NETWORK = Network(
    "three",
    (3, 8, 8),
    (
        Conv("frozen", 4, bias=False, frozen=True),
        ReLU("relu"),
        Conv("second", 6),
        BatchNorm("norm"),
        MaxPool("pool"),
        Flatten("flatten"),
        Linear("scores", 10),
    ),
)

CASES = [
    ("paddle", "off", "channels_first"),
    ("torch", "off", "channels_last"),
    ("torch", "bf16", "channels_last"),
]


@pytest.mark.parametrize(("framework", "amp", "layout"), CASES, ids=lambda value: value)
def test_layers_alone_compute_the_gradients_of_training_and_nothing_else(framework: str, amp: str, layout: str) -> None:
    trainer = make_trainer(framework, NETWORK, presets.get_recipe("article").optimizer, 0, amp=amp, layout=layout)
    alone, backend = LayersAlone(trainer, 5), trainer.backend
    before, model, seen, gradients = trainer.state(), alone._model, dict[str, Any](), Counter[str]()

    def note(name: str) -> Any:
        def after(_: Any, inputs: Any, output: Any) -> None:
            gradients[f"{name} forward"] += 1
            seen[name] = tuple(inputs[0].shape), str(inputs[0].dtype).split(".")[-1], backend.needs_gradient(inputs[0])
            if layout == "channels_last" and len(output.shape) == 4:
                assert {inputs[0].stride(1), output.stride(1)} == {1}

        return after

    for name in NETWORK.layers:
        backend.after_forward(getattr(model, name), note(name))
    for name, parameter in NETWORK.parameters.items():
        layer, _, array = name.partition(".")
        if parameter.trainable and layer != "norm":
            tensor = getattr(getattr(model, layer), array)
            backend.on_gradient(tensor, lambda _, name=name: gradients.update([name]))  # type: ignore[misc]
    assert alone.train(2) > 0
    dtype = "bfloat16" if amp == "bf16" else "float32"
    assert seen == {
        "frozen": ((5, 3, 8, 8), dtype, False),
        "second": ((5, 4, 8, 8), dtype, False),
        "scores": ((5, 96), dtype, True),
    }
    passes = {f"{name} forward": 2 for name in seen}
    assert gradients == passes | dict.fromkeys(["second.weight", "second.bias", "scores.weight", "scores.bias"], 2)
    assert all((trainer.state()[name] == array).all() for name, array in before.items())


def test_inputs_need_gradients_behind_trained_layers_only() -> None:
    assert needing_input_gradients(NETWORK.layers) == {"norm", "pool", "flatten", "scores"}
    residual = articles.get_network("resnet20")
    assert set(residual.layers) - needing_input_gradients(residual.layers) == {next(iter(residual.layers))}
