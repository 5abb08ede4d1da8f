"""Mixed precision and the settings of a GPU, as far as a CPU supports them: PyTorch computes in bf16 and fp16, Paddle in float32."""

from __future__ import annotations

import numpy as np
import pytest

from parity.backend.registry import implementation, make_backend, make_trainer
from parity.backend.trainer import Trainer
from parity.network import articles
from parity.recipe import presets
from parity.recipe.precision import DTYPES, PRECISIONS
from parity.weights.canonical_state import State, initialise

NETWORK = articles.get_network("cifar_net")
SETTINGS = presets.get_recipe("article").optimizer
EPS = {"bf16": 2.0**-8, "fp16": 2.0**-11}
"""Half the distance from 1 to the next number."""

LAYERS = 5
IMAGES = np.random.default_rng(0).standard_normal((16, 3, 32, 32)).astype(np.float32)
LABELS = np.arange(16) % 10


def side(framework: str, amp: str) -> Trainer:
    return make_trainer(framework, NETWORK, SETTINGS, initialise(NETWORK, 0), amp=amp)


def moved(framework: str, amp: str, divisor: float = 16) -> State:
    """The change of the weights by one step."""
    trainer = side(framework, amp)
    before = trainer.state()
    trainer.step(IMAGES, LABELS, {}, 0.1, divisor)  # type: ignore[arg-type]
    after = trainer.state()
    assert {array.dtype for array in after.values()} == {np.dtype(np.float32)}
    return {name: after[name] - before[name] for name in NETWORK.parameters}


def distance(first: State, second: State) -> float:
    """The relative error of all weights together."""
    a, b = (np.concatenate([found[name].ravel() for name in NETWORK.parameters]) for found in (first, second))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.filterwarnings("ignore:amp_guard", "ignore:AmpScaler")
@pytest.mark.parametrize("amp", DTYPES)
def test_a_step_in_mixed_precision_differs_by_its_rounding_and_keeps_float32_weights(framework: str, amp: str) -> None:
    found = distance(moved(framework, amp), moved(framework, "off"))
    # Input, weight and output of every layer are rounded, forward and backward, each by at most EPS.
    assert found <= 6 * LAYERS * EPS[amp]
    assert (found > EPS[amp] / 10) == (framework == "torch")  # Paddle has none on the CPU


@pytest.mark.filterwarnings("ignore:amp_guard", "ignore:AmpScaler")
def test_bf16_rounds_inference_and_keeps_statistics_losses_and_slots_in_float32(framework: str) -> None:
    network, settings = articles.get_network("vgg_mini@0.0625"), presets.get_recipe("adam").optimizer
    trainers = [make_trainer(framework, network, settings, 0, amp=amp) for amp in ("off", "bf16")]
    records: list[dict[str, np.ndarray]] = [{}, {}]
    for trainer, record in zip(trainers, records, strict=True):
        trainer.step(IMAGES, LABELS, {}, 0.001, 16, record)
    plain, half = (trainer.state() for trainer in trainers)
    assert {array.dtype for array in half.values()} == {np.dtype(np.float32)}
    bits = {name: array.view(np.uint32) & 0xFFFF for name, array in half.items()}
    wide = framework == "paddle"  # it has none on the CPU
    assert all(found.any() for name, found in bits.items() if name.endswith((".mean", ".variance", ".weight")))
    assert np.any(records[1]["loss"].view(np.uint32) & 0xFFFF) and records[1]["loss"].dtype == np.float32
    assert np.any(records[1]["forward/conv1_1"].view(np.uint32) & 0xFFFF) == wide
    scores = [trainer.predict(IMAGES) for trainer in trainers]
    assert scores[1].dtype == np.float32 and np.any(scores[1].view(np.uint32) & 0xFFFF) == wide
    statistics = [name for name in network.parameters if name.endswith(".variance")]
    errors = [np.linalg.norm(plain[name] - half[name]) / np.linalg.norm(plain[name]) for name in statistics]
    assert max(errors) <= 2 * len(network.layers) * EPS["bf16"]
    assert (min(errors) > 0) != wide


def test_an_overflowing_step_in_fp16_is_skipped_and_halves_the_scale() -> None:
    trainer = side("torch", "fp16")
    scaler, before = trainer.scaler, trainer.state()
    scale = scaler.get_scale()
    trainer.step(IMAGES, LABELS, {}, 0.1, 1e-6)  # type: ignore[arg-type]
    assert all(np.array_equal(array, before[name]) for name, array in trainer.state().items() if name in before)
    assert scaler.get_scale() == scale / 2
    assert moved("torch", "fp16").keys() == moved("torch", "off").keys()  # and an ordinary one is not


@pytest.mark.filterwarnings("ignore:amp_guard", "ignore:AmpScaler")
@pytest.mark.parametrize("amp", PRECISIONS)
def test_only_fp16_scales_the_loss(framework: str, amp: str) -> None:
    scaler = make_backend(framework).scaler(amp, "cpu")
    enabled = scaler.is_enabled() if framework == "torch" else scaler.is_enable()
    assert enabled == (amp == "fp16" and framework == "torch")  # Paddle has none on the CPU


def test_an_exact_check_undoes_the_settings_for_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    runtime = implementation("torch", "runtime")
    flags = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark)
    try:
        runtime.be_fast("gpu")
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.benchmark
        runtime.be_exact()
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags[:2]
        torch.backends.cudnn.benchmark = flags[2]


def test_the_cpu_has_nothing_to_wait_for_and_its_memory_is_the_process_s(framework: str) -> None:
    runtime = implementation(framework, "runtime")
    runtime.wait("cpu")
    assert runtime.peak_memory("cpu") > 100e6
