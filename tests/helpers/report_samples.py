"""Realistic results of checks for `parity.report.write`, made without a framework.

`python tests/helpers/report_samples.py FOLDER` writes the report of each, to be viewed.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

from parity import report

BLOCKS = {1: (64, 2), 2: (128, 2), 3: (256, 3), 4: (512, 3), 5: (512, 3)}
PHASES = ("eval", "forward", "backward", "gradient", "update", "trajectory")
LANES = {
    "torch": {"torch": "2.6.0", "python": "3.11.7", "numpy": "1.26.4", "cuda": "none"},
    "paddle": {"paddle": "2.6.2", "python": "3.11.7", "numpy": "1.26.4", "cuda": "none"},
}
HOSTILE = "<script>alert('x')</script>\"'><img src=//evil.example/x onerror=alert(1)> ${title} $main {0} \x00\x1b[31m\u202e &amp; ]]>"


def layer_names() -> list[str]:
    """The layers of a VGG-16 with batch norm and dropout, in order."""
    names = []
    for block, (_, convs) in BLOCKS.items():
        for conv in range(1, convs + 1):
            kinds = ("conv", "bn", "relu") if conv == convs else ("conv", "bn", "relu", "drop")
            names += [f"{kind}{block}_{conv}" for kind in kinds]
        names.append(f"pool{block}")
    return [*names, "flatten", "drop_fc1", "fc1", "bn_fc1", "relu_fc1", "drop_fc2", "fc2", "fc3"]


def layers(dice: random.Random) -> list[dict[str, Any]]:
    """Rounding errors that grow with depth forward and towards the input backward. Layers without parameters have no gradients."""
    names, made = layer_names(), []
    for index, name in enumerate(names):
        depth = index / len(names)
        kept = PHASES if name.startswith(("conv", "bn", "fc")) else PHASES[:3]
        sizes = {
            "eval": -16 + depth,
            "forward": -16 + 1.1 * depth,
            "backward": -14.3 - depth,
            "gradient": -14.1 - depth,
            "update": -17 + depth,
            "trajectory": -16 + depth,
        }
        errors = {phase: 10 ** (sizes[phase] + dice.uniform(-0.25, 0.25)) for phase in kept}
        bounds = dict.fromkeys(kept, 1e-12)
        made.append({"layer": name, "candidate_layer": name, "errors": errors, "bounds": bounds})
    return made


def stage(error: float, worst: str, compared: int, different: int = 0, bound: float = 1e-12) -> dict[str, Any]:
    return {
        "verdict": "different" if different else "equal", "compared": compared, "different": different, "max_error": error,
        "bound": bound, "smallest_bound_that_passes": error, "worst": worst,
    }  # fmt: skip


def step(
    number: int, error: float, bound: float, twin: float | None, rate: float = 0.1, apart: float = 0.0
) -> dict[str, Any]:
    loss = 2.302585 * math.exp(-number / 60) + 0.1
    sides = {"torch": loss, "paddle": loss + apart}
    return {"step": number, "rate": rate, "error": error, "bound": bound, "twin": twin, "loss": sides}


def equal(network: str = "vgg16_bn_drop", steps: int = 3) -> dict[str, Any]:
    """Some steps in float64, equal."""
    return {
        "command": f"python scripts/check_parity.py --network {network} --steps {steps} --report report",
        "network": network, "recipe": "article", "data": "cifar10", "dtype": "float64", "steps": steps, "batch_size": 8, "seed": 0,
        "threads": 1, "machine": "AMD EPYC 7B13, 2 cores, Python 3.11.7", "started": "2026-11-24T04:00:00", "seconds": 21.5,
        "lanes": LANES,
        "stages": {
            "forward": stage(1.9e-15, "forward/bn_fc1", 122),
            "backward": stage(8.4e-15, "gradient/conv1_1.weight", 121),
            "update": stage(2.2e-16, "update/optimizer.velocity.conv1_2.weight", 134),
            "trajectory": stage(4.1e-14, "gradient/conv1_1.weight", 754, bound=3e-12),
        },
        "verdict": "equal",
        "first_divergence": None,
        "layers": layers(random.Random(0)),
        "trajectory": [step(n, error, n * 1e-12, None) for n, error in ((1, 8.4e-15), (2, 1.7e-14), (3, 4.1e-14))],
        "isolated": None,
    }  # fmt: skip


def different() -> dict[str, Any]:
    """A batch norm with the wrong eps: the sides diverge at bn2_1, in everything after it, and in every gradient."""
    result, dice = equal(steps=60), random.Random(1)
    at = layer_names().index("bn2_1")
    for index, layer in enumerate(result["layers"]):
        for phase in layer["errors"]:
            if index >= at or phase not in ("eval", "forward"):
                layer["errors"][phase] = {"update": 3e-4}.get(phase, 0.03) * 10 ** dice.uniform(-0.2, 0.6)
    sentence = "step 1, forward, layer bn2_1, tensor bn2_1: error 3.02e-02, tolerance 1.00e-12"
    first = {"step": 1, "phase": "forward", "layer": "bn2_1", "tensor": "bn2_1", "error": 0.0302, "bound": 1e-12}
    shape = [8, 128, 16, 16]
    found = {"where": sentence, "shapes": [shape, shape], "elements": elements(shape)}
    return result | {
        "seconds": 148.2, "verdict": "different", "models": models(),
        "first_divergence": first | found | {"cause": "eps 1e-3 instead of 1e-5", "sentence": sentence},
        "stages": {
            "forward": stage(0.0811, "forward/bn5_3", 122, 93),
            "backward": stage(0.1174, "gradient/bn2_1.gamma", 121, 121),
            "update": stage(1.1e-3, "update/bn2_1.variance", 134, 134),
            "trajectory": stage(0.71, "forward/fc3", 22_000, 21_904, 6e-11),
        },
        "trajectory": trajectory(lambda n: 0.03 * 1.05**n, lambda n: 3e-15 * 1.16**n, apart=0.02),
        "isolated": [
            {"layer": name, "forward": 0.0302 if name == "bn2_1" else 1.2e-16, "backward": 0.0411 if name == "bn2_1" else 2.1e-16,
             "bound": 1e-12, "verdict": "different" if name == "bn2_1" else "equal"} for name in layer_names()
        ],
    }  # fmt: skip


def elements(shape: list[int]) -> list[dict[str, Any]]:
    """Eight elements, the one that differs most first."""
    dice, made = random.Random(2), []
    for number in range(8):
        reference, difference = dice.gauss(0, 1), 0.1 / (number + 1)
        index = [dice.randrange(length) for length in shape]
        candidate = reference + difference
        made.append({"index": index, "reference": reference, "candidate": candidate, "difference": difference})
    return made


def models() -> list[dict[str, Any]]:
    """The layers of both models, in containers; each model has one that the other lacks."""
    names = layer_names()
    paths = [f"classifier.{name}" if "fc" in name else name for name in names]
    rows: list[dict[str, Any]] = [
        {side: {"path": path, "kind": name.rstrip("0123456789_")} for side in ("torch", "paddle")}
        for name, path in zip(names, paths, strict=True)
    ]
    rows[3]["torch"] = rows[12]["paddle"] = None
    return rows


def chaotic() -> dict[str, Any]:
    """Sixty steps in float32, above the tolerance and next to the twin."""
    result = equal(steps=60)
    for layer in result["layers"]:
        layer["errors"] = {phase: error * 5e8 for phase, error in layer["errors"].items()}
        layer["bounds"] = {phase: 1e-4 if phase in ("backward", "gradient") else 1e-5 for phase in layer["errors"]}
    sentence = "step 7, forward, layer relu3_1, tensor relu3_1: error 8.80e-03, tolerance 7.00e-03"
    first = {"step": 7, "phase": "forward", "layer": "relu3_1", "tensor": "relu3_1", "error": 8.8e-3, "bound": 7e-3}
    return result | {
        "dtype": "float32", "seconds": 71.0, "verdict": "chaotic but equal",
        "first_divergence": first | {"cause": None, "sentence": sentence},
        "stages": {
            "forward": stage(9.5e-7, "forward/bn_fc1", 122, bound=1e-5),
            "backward": stage(4.1e-6, "gradient/conv1_1.weight", 121, bound=1e-4),
            "update": stage(1.1e-7, "update/conv1_2.weight", 134, bound=1e-5),
            "trajectory": stage(0.11, "forward/fc3", 22_000, 3_120, 0.06) | {"verdict": "chaotic but equal"},
        },
        "trajectory": trajectory(lambda n: saturating(n, 0.12, 14), lambda n: saturating(n, 0.13, 13), 1e-3),
    }  # fmt: skip


def saturating(number: int, most: float, pace: float) -> float:
    """The relative error of two chaotic runs after a number of steps."""
    return most * (1 - math.exp(-((number / pace) ** 3))) + 3e-6


def trajectory(error: Any, twin: Any, bound: float = 1e-12, apart: float = 1e-4) -> list[dict[str, Any]]:
    """Sixty steps with two drops of the learning rate."""
    rates = [0.1] * 30 + [0.01] * 18 + [0.001] * 12
    return [step(n, error(n), n * bound, twin(n), rate, apart * n / 60) for n, rate in enumerate(rates, 1)]


def edges() -> dict[str, Any]:
    """Errors that have no place on a logarithmic scale: 0, infinity, NaN; and layers without tolerances or with several."""
    result = different()
    made = result["layers"][:12]
    made[0]["errors"] = dict.fromkeys(PHASES, 0.0)
    made[8]["errors"] |= {"forward": math.inf, "backward": math.nan}
    made[9]["bounds"]["update"] = 3e-11
    made[10]["bounds"] = {}
    for layer in made[:2]:  # step inputs are compared, too, and must be equal bit for bit
        layer["errors"]["start"], layer["bounds"]["start"] = 0.0, 0.0
    steps = [
        step(1, 0.0, 1e-12, 0.0),
        step(2, math.nan, 2e-12, 1e-16, 0.01, math.nan),
        step(3, math.inf, 3e-12, None, 0.01, math.inf),
    ]
    stages = {"forward": stage(math.nan, "forward/conv2_1", 24, 3, 0.0), "backward": stage(0.0, "backward/conv1_1", 12)}
    return result | {"layers": made, "trajectory": steps, "stages": stages, "isolated": None}


def hostile() -> dict[str, Any]:
    """Markup, scripts, template fields and terminal commands in every field that holds text."""
    return _poisoned(different())


def _poisoned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        tail = HOSTILE if key in ("stages", "lanes", "loss") else ""
        return {name + tail: _poisoned(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_poisoned(item, key) for item in value]
    return value + HOSTILE if isinstance(value, str) and key not in ("verdict", "started") else value


def several() -> dict[str, Any]:
    """Four networks, of which one is different."""
    small = equal("vgg_mini") | {"recipe": "adam", "layers": layers(random.Random(3))[:9]}
    results = [equal("vgg16_bn_drop@0.25"), small, different(), chaotic()]
    return {"results": results, "verdict": "different"}


def fresh(layer: str, array: str, torch: str, paddle: str, families: tuple[str, str], what: str) -> dict[str, Any]:
    """One array of fresh models."""
    names = {"torch": torch, "paddle": paddle}
    sides = {
        side: {
            "family": family,
            "initialiser": names[side],
            "mean": 1e-5,
            "deviation": 0.144,
            "low": -0.25,
            "high": 0.25,
        }
        for side, family in zip(names, families, strict=True)
    }
    error, bound = (math.inf if "constant" in families else 6.87, 4.6) if what else (0.0, 4.6)
    row = {
        "layer": layer, "candidate_layer": layer if what else f"backbone.{layer}", "kind": "Linear", "array": array, "shape": [10, 512],
        "verdict": "different" if what else "equal", "what": what, "error": error, "bound": bound, **sides,
    }  # fmt: skip
    shares = {"torch": [1 / 24] * 24, "paddle": [0.0] * 12 + [1.0] + [0.0] * 11}
    return row | ({"histogram": {"low": -0.25, "high": 0.25, **shares}} if what else {})


def initialised() -> dict[str, Any]:
    """Equal weights compute the same, and fresh weights are not equal."""
    default, families = "kaiming_uniform(a=sqrt 5)", ("uniform", "constant")
    rows = [
        fresh("fc3", "weight", default, "xavier_uniform", ("uniform", "uniform"), "the deviation"),
        fresh("fc3", "bias", "uniform(±1/sqrt(fan_in))", "0", families, "no seed changes the numbers on one side"),
        fresh("fc2", "weight", "normal(std=0.02)", "normal(std=0.02)", ("normal", "normal"), ""),
        fresh("fc2", "bias", "0", "0", ("constant", "constant"), ""),
    ]
    sentence = (
        f"initialisation of Linear fc3: PyTorch {default}, bias uniform(±1/sqrt(fan_in)); Paddle xavier_uniform, bias 0"
    )
    result = equal("net_torch.py:Net and net_paddle.py:Net")
    return result | {
        "verdict": "different", "sentence": f"different: {sentence}",
        "stages": {"init": stage(math.inf, "init/fc3.bias", 4, 2, 4.6)} | result["stages"],
        "initialisation": {"seeds": 32, "first_seed": 0, "level": 2.8e-6, "rows": rows, "differences": [sentence]},
    }  # fmt: skip


SAMPLES = {
    "equal": equal,
    "different": different,
    "chaotic": chaotic,
    "edges": edges,
    "hostile": hostile,
    "several": several,
    "initialised": initialised,
}

if __name__ == "__main__":
    for name, make in SAMPLES.items():
        report.write(Path(sys.argv[1]) / name, make())
