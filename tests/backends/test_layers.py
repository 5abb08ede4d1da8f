"""Every node and every optimizer of both frameworks computes what numpy does in float64: values, gradients, statistics, slots."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from helpers import numpy_network as reference
from helpers.compared import compare
from helpers.layer_cases import BATCH, CASES, CLASSES, DIVISOR, MAP, batch, copying, network, weights
from helpers.numpy_network import slopes
from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import AvgPool, BatchNorm, Conv, Dropout, Flatten, Linear, MaxPool, ReLU, float32
from parity.recipe import muon
from parity.recipe.optimizer import Group, Optimizer
from parity.weights.canonical_state import State, initialise

BOUND = 1e-12
PHASES = ("forward", "loss", "backward", "gradient", "update")
PLAIN = Optimizer("momentum", rate=0.125)


@cache
def expected(case: str) -> tuple[Record, Record]:
    """The results of numpy for a case: one training step up to the gradients, and inference."""
    net = CASES[case]
    state, (images, labels, masks) = weights(net), batch(net)
    values = reference.outputs(net, state, images, masks)

    def loss(state: State, changed: str, replaced: tuple[str, np.ndarray] | None = None) -> np.ndarray:
        found = reference.outputs(net, state, images, masks, replaced, values, changed)
        return np.asarray(reference.total_loss(net, found, labels, DIVISOR))

    record = {"loss": np.asarray(reference.total_loss(net, values, labels, DIVISOR))}
    record |= {f"forward/{layer}": value for layer, value in values.items()}
    for layer, value in values.items():
        record[f"backward/{layer}"] = slopes(lambda moved, layer=layer: loss(state, layer, (layer, moved)), value)
    for name, parameter in net.parameters.items():
        if parameter.trainable:
            layer = name.partition(".")[0]
            record[f"gradient/{name}"] = slopes(
                lambda moved, name=name, layer=layer: loss(state | {name: moved}, layer), state[name]
            )
    return record, {f"eval/{layer}": value for layer, value in reference.outputs(net, state, images).items()}


def assert_equal(record: Record, wanted: Record, *phases: str) -> None:
    """Assert that every tensor of the `phases` (all, if none is named) exists and is equal."""
    chosen = [{n: a for n, a in r.items() if not phases or n.partition("/")[0] in phases} for r in (wanted, record)]
    assert [str(difference) for difference in compare(*chosen, BOUND) if not difference.equal] == []


@pytest.mark.parametrize("case", CASES)
def test_training_computes_and_differentiates_what_numpy_does(case: str, worker: Worker) -> None:
    net = CASES[case]
    worker.start(net, PLAIN, weights(net), "float64")
    record, cost, wrong = worker.step(*batch(net), PLAIN.rate, DIVISOR, PHASES)
    wanted, labels = expected(case)[0], batch(net)[1]
    assert_equal(record, wanted, "forward", "loss", "backward", "gradient")
    assert cost == pytest.approx(reference.loss(wanted["forward/scores"], labels, 1), rel=BOUND), "without the heads"
    assert wrong == (wanted["forward/scores"].argmax(axis=1) != labels).sum()


@pytest.mark.parametrize("case", CASES)
def test_inference_computes_what_numpy_does(case: str, worker: Worker) -> None:
    net = CASES[case]
    worker.start(net, PLAIN, weights(net), "float64")
    found = worker.predict(batch(net)[0], record=True)
    wanted = expected(case)[1]
    assert_equal(found, wanted | {"logits": wanted["eval/scores"]})


@pytest.mark.parametrize("case", CASES)
def test_the_cases_contain_what_they_are_meant_to_test(case: str) -> None:
    record, inference = expected(case)
    for name, array in (record | inference).items():
        assert np.isfinite(array).all(), name
        assert array.any(), f"{name} is zero: nothing is compared"
    assert set(record) - set(inference) >= {f"forward/{head}" for head in CASES[case].heads}
    shapes = {f"forward/{layer}": (BATCH, *shape) for layer, shape in CASES[case].shapes.items()}
    assert {name: record[name].shape for name in shapes} == shapes


# Single nodes


def test_relu_has_a_zero_gradient_at_zero_and_below(worker: Worker) -> None:
    net = network((2, 3, 3), ReLU("relu"))
    images, labels, _ = batch(net)
    images[:, :, 0] = 0.0
    images[:, 1, 1] = -1.0
    worker.start(net, PLAIN, copying(net), "float64")
    record, _, _ = worker.step(images, labels, {}, PLAIN.rate, DIVISOR, PHASES)
    np.testing.assert_array_equal(record["forward/entry"], images)
    assert record["backward/relu"].all()
    np.testing.assert_array_equal(record["backward/entry"], record["backward/relu"] * (images > 0))


def test_a_max_pool_takes_the_first_of_equal_pixels(worker: Worker) -> None:
    net = network((2, 4, 6), MaxPool("pool"))
    worker.start(net, PLAIN, copying(net), "float64")
    record, _, _ = worker.step(np.ones((BATCH, 2, 4, 6)), np.zeros(BATCH, np.int64), {}, 0.0, DIVISOR, PHASES)
    wanted = np.zeros((BATCH, 2, 4, 6))
    wanted[:, :, ::2, ::2] = record["backward/pool"]
    np.testing.assert_array_equal(record["backward/entry"], wanted)


def test_max_pools_and_average_pools_ignore_padding(worker: Worker) -> None:
    for kind, ceil in ((MaxPool, False), (MaxPool, True), (AvgPool, False), (AvgPool, True)):
        net = network((2, 4, 4), kind("pool", 3, 2, padding=1, ceil=ceil))
        worker.start(net, PLAIN, copying(net), "float64")
        found = worker.predict(np.full((BATCH, *net.input_shape), -5.0), record=True)["eval/pool"]
        np.testing.assert_allclose(found, np.full((BATCH, *net.shapes["pool"]), -5.0), rtol=BOUND)


@pytest.mark.parametrize("kind", [MaxPool, AvgPool])
@pytest.mark.parametrize("pool", [(1, 3, 0), (2, 4, 1), (1, 2, 0)])
def test_a_window_that_holds_only_padding_is_refused(kind: type[MaxPool], pool: tuple[int, ...]) -> None:
    # Paddle yields -FLT_MAX (or 0 / 0) for such a window, PyTorch drops it: no setting makes them agree.
    size, stride, padding = pool
    width = 2 * stride - padding if size + padding > 1 else 2 * stride
    assert kind("pool", size, stride, padding, ceil=False).output((2, width, width))
    with pytest.raises(InputError, match=r"^pool: .*padding"):
        kind("pool", size, stride, padding, ceil=True).output((2, width, width))


@pytest.mark.parametrize("kind", [MaxPool, AvgPool])
def test_a_pool_padded_by_more_than_half_its_window_is_refused(kind: type[MaxPool]) -> None:
    assert kind("pool", 4, 4, padding=2).output((2, 8, 8)) == (2, 3, 3)
    with pytest.raises(InputError, match=r"^pool: padding 2 is more than half"):
        kind("pool", 3, 3, padding=2).output((2, 8, 8))


@pytest.mark.parametrize("kind", ["downscale_in_infer", "upscale_in_train"])
def test_dropout_without_a_mask_draws_one_of_its_rate(kind: str, worker: Worker) -> None:
    net = network((50, 20, 20), Dropout("drop", 0.3, kind))
    worker.start(net, PLAIN, copying(net), "float64")
    images, labels, _ = batch(net)
    seen = [worker.step(images, labels, {}, 0.0, DIVISOR, ("forward",))[0]["forward/drop"] for _ in range(2)]
    scale = float(np.float32(1 / 0.7)) if kind == "upscale_in_train" else 1.0
    for found in seen:
        assert (found == 0).mean() == pytest.approx(0.3, abs=0.01)  # 60,000 draws: five standard deviations
        np.testing.assert_allclose(found, np.where(found == 0, 0, images * scale), rtol=BOUND)
    assert ((seen[0] == 0) != (seen[1] == 0)).mean() > 0.3


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("variance", ["biased", "unbiased"])
@pytest.mark.parametrize("shape", [MAP, (8, 1, 1)], ids=["maps", "vectors"])
def test_running_statistics_move_from_their_start_to_those_of_the_batch(
    shape: tuple[int, ...], variance: str, start: float, worker: Worker
) -> None:
    norm = BatchNorm("norm", decay=0.7, variance=variance, start_variance=start)
    net = network(shape, *([Flatten("flat")] if shape == (8, 1, 1) else []), norm)
    state = {name: array for name, array in initialise(net, 0).items() if name.startswith("norm.")}
    worker.start(net, Optimizer("momentum", 0.1, weight_decay=0.5), weights(net) | state, "float64")
    mean, spread, decay = np.zeros(shape[0]), np.full(shape[0], start), float(np.float32(0.7))
    for seed in range(3):
        images, labels, _ = batch(net, seed)
        record, _, _ = worker.step(images, labels, {}, 0.1, DIVISOR, ("forward", "update"))
        new_mean, new_spread = reference.batch_statistics(record["forward/entry"], variance)
        mean, spread = decay * mean + (1 - decay) * new_mean, decay * spread + (1 - decay) * new_spread
        assert_equal({n: record[f"update/norm.{n}"] for n in ("mean", "variance")}, {"mean": mean, "variance": spread})
    worker.predict(images)
    assert_equal({"mean": worker.state()["norm.mean"]}, {"mean": mean})


def test_a_loss_of_many_nats_counts_in_full(worker: Worker) -> None:
    net = Network("sure", (CLASSES,), (Linear("scores", CLASSES, bias=False),))
    worker.start(net, PLAIN, {"scores.weight": 200 * np.eye(CLASSES)}, "float64")
    images, labels = np.eye(CLASSES), np.array([0, 1, 0])
    record, cost, wrong = worker.step(images, labels, {}, PLAIN.rate, DIVISOR, ("loss",))
    assert (cost, wrong) == (pytest.approx(200.0, rel=BOUND), 1)
    assert record["loss"].item() == pytest.approx(200 / DIVISOR, rel=BOUND)


def test_layers_before_the_first_parameter_have_outputs_and_no_gradients(worker: Worker) -> None:
    net = Network("late", (2, 2, 2), (ReLU("relu"), Flatten("flat"), Linear("scores", CLASSES)))
    worker.start(net, PLAIN, weights(net), "float64")
    record, _, _ = worker.step(*batch(net), PLAIN.rate, DIVISOR, PHASES)
    assert {name for name in record if name.startswith("forward/")} == {f"forward/{layer}" for layer in net.shapes}
    assert {name for name in record if name.startswith("backward/")} == {"backward/scores"}


# Optimizers

TRAINED = network((3, 4, 4), Conv("conv", 4), BatchNorm("norm"), ReLU("relu"), Conv("tall", 6, 1))
GROUPS = (Group("*.beta", 4.0, 0.3), Group("conv.*", 0.5, 0.0))
OPTIMIZERS = {
    "plain": Optimizer("momentum", 0.1, momentum=0.0),
    "momentum": Optimizer("momentum", 0.1, momentum=0.9),
    "momentum, decay": Optimizer("momentum", 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": Optimizer("momentum", 0.1, momentum=0.9, nesterov=True),
    "nesterov, decay": Optimizer("momentum", 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": Optimizer("adam", 0.1),
    "adam, decay": Optimizer("adam", 0.1, weight_decay=0.01, beta1=0.8, beta2=0.95, eps=1e-3),
    "nesterov, groups": Optimizer("momentum", 0.1, 0.8, True, 0.01, groups=GROUPS, label_smoothing=0.2),
    "adam, groups": Optimizer("adam", 0.1, weight_decay=0.01, groups=GROUPS),
    "muon": Optimizer("momentum", 0.1, 0.8, True, 0.01, groups=(Group("conv.weight", 0.5, 0.0, 3, 0.6),)),
    "muon, taller": Optimizer("momentum", 0.1, 0.8, groups=(Group("tall.weight", 2.0, 0.0, 5, 0.9),)),
}
RATES = (0.1, 0.3, 0.3, 0.05)


def orthogonal(gradient: np.ndarray, steps: int) -> np.ndarray:
    """Muon's step: its polynomial changes only the singular values."""
    u, s, v = np.linalg.svd(gradient.reshape(len(gradient), -1), full_matrices=False)
    s /= np.linalg.norm(s) + muon.EPS
    a, b, c = muon.COEFFICIENTS
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return (u * s @ v).reshape(gradient.shape)


def updated(settings: Optimizer, state: State, gradient: Record, rate: float, count: int) -> State:
    """`state` and its slots after update number `count`, by the formulas of the papers."""
    after = dict(state)
    for name, raw in gradient.items():
        w, slot = state[name], {key: state[f"optimizer.{key}.{name}"] for key in settings.slots}
        group = settings.group(name)
        g = raw + float32(settings.weight_decay * group.weight_decay) * w
        if group.muon:
            new = {"velocity": group.momentum * slot["velocity"] + g}
            step = orthogonal(g + group.momentum * new["velocity"], group.muon)
            w = w * np.sqrt(len(w)) / np.linalg.norm(w)
        elif settings.kind == "momentum":
            velocity = settings.momentum * slot.get("velocity", 0) + g
            step = g + settings.momentum * velocity if settings.nesterov else velocity
            new = dict.fromkeys(slot, velocity)
        else:
            b1, b2 = settings.beta1, settings.beta2
            new = {"moment1": b1 * slot["moment1"] + (1 - b1) * g, "moment2": b2 * slot["moment2"] + (1 - b2) * g**2}
            step = new["moment1"] / (1 - b1**count) / (np.sqrt(new["moment2"] / (1 - b2**count)) + settings.eps)
        after[name] = w - rate * group.rate * step
        after |= {f"optimizer.{key}.{name}": array for key, array in new.items()}
    return after


def cancelled(gradient: Record) -> Record:
    """The gradients by parameter. That of the bias before the batch norm is set to zero, its exact value."""
    found = {name.removeprefix("gradient/"): g for name, g in gradient.items()}
    return found | {"conv.bias": np.zeros_like(found["conv.bias"])}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_follow_the_formula_for_every_trainable_parameter(optimizer: str, worker: Worker) -> None:
    settings = OPTIMIZERS[optimizer]
    worker.start(TRAINED, settings, weights(TRAINED), "float64")
    state = worker.state()
    assert not any(array.any() for name, array in state.items() if name.startswith("optimizer."))
    for count, rate in enumerate(RATES, start=1):
        record, _, _ = worker.step(*batch(TRAINED, count), rate, DIVISOR, ("gradient", "update"))
        gradient = cancelled({name: g for name, g in record.items() if name.startswith("gradient/")})
        assert set(gradient) == {name for name, p in TRAINED.parameters.items() if p.trainable}
        wanted = updated(settings, state, gradient, rate, count)
        state = worker.state()
        still = {name for name, p in TRAINED.parameters.items() if not p.trainable}
        assert_equal(*({n: a for n, a in s.items() if n not in still} for s in (state, wanted)))


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_a_bias_that_a_batch_norm_cancels_moves_by_weight_decay_only(kind: str, decay: float, worker: Worker) -> None:
    settings = Optimizer(kind, 0.1, momentum=0.0, weight_decay=decay)
    worker.start(TRAINED, settings, weights(TRAINED), "float64")
    before, decay = worker.state()["conv.bias"], settings.weight_decay
    worker.step(*batch(TRAINED), 0.1, DIVISOR)
    after = worker.state()["conv.bias"]
    if not decay:
        np.testing.assert_array_equal(after, before)
    elif kind == "momentum":
        np.testing.assert_allclose(after, before - 0.1 * decay * before, rtol=BOUND)
    else:
        step = decay * before / (np.abs(decay * before) + settings.eps)
        np.testing.assert_allclose(after, before - 0.1 * step, rtol=BOUND)


def test_rescaled_velocity_follows_paddle_v2_whose_velocity_holds_the_rate(worker: Worker) -> None:
    settings = Optimizer("momentum", 0.1, momentum=0.9, weight_decay=0.01, velocity_holds_rate=True)
    worker.start(TRAINED, settings, weights(TRAINED), "float64")
    state, previous = worker.state(), RATES[0]
    velocity = {name: np.zeros(p.shape) for name, p in TRAINED.parameters.items() if p.trainable}
    for count, rate in enumerate(RATES, start=1):
        if rate != previous:
            worker.scale_velocity(previous / rate)
        record, _, _ = worker.step(*batch(TRAINED, count), rate, DIVISOR, ("gradient",))
        for name, g in cancelled(record).items():
            velocity[name] = settings.momentum * velocity[name] - rate * (g + settings.weight_decay * state[name])
            state[name] = state[name] + velocity[name]
        found = worker.state()
        assert_equal({n: found[n] for n in velocity}, {n: state[n] for n in velocity})
        previous = rate


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["nesterov, decay", "adam, decay"])
def test_training_continues_from_a_loaded_state_bit_for_bit(optimizer: str, dtype: str, worker: Worker) -> None:
    settings = OPTIMIZERS[optimizer]
    start = {name: array.astype(dtype) for name, array in weights(TRAINED).items()}
    worker.start(TRAINED, settings, start, dtype)
    states = []
    for count, rate in enumerate(RATES, start=1):
        worker.step(*batch(TRAINED, count), rate, DIVISOR)
        states.append(worker.state())
    worker.start(TRAINED, settings, start, dtype)
    worker.load(states[1], updates=2)
    for count, rate in enumerate(RATES[2:], start=3):
        worker.step(*batch(TRAINED, count), rate, DIVISOR)
    found = worker.state()
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in states[-1].items()}


@pytest.mark.parametrize("optimizer", ["nesterov, decay", "adam, decay"])
def test_training_continues_from_a_state_of_the_other_framework(
    optimizer: str, framework: str, workers: dict[str, Worker]
) -> None:
    settings = OPTIMIZERS[optimizer]
    (other,) = set(workers) - {framework}
    workers[framework].start(TRAINED, settings, weights(TRAINED), "float64")
    for count in (1, 2):
        workers[framework].step(*batch(TRAINED, count), 0.1, DIVISOR)
    workers[other].start(TRAINED, settings, weights(TRAINED), "float64")
    workers[other].load(workers[framework].state(), updates=2)
    for worker in workers.values():
        worker.step(*batch(TRAINED, 3), 0.1, DIVISOR)
    assert_equal(workers[other].state(), workers[framework].state())
