"""Faults of a run that saves its state and continues from it."""

from __future__ import annotations

from collections.abc import Iterator

from parity.compare.check import Check
from parity.compare.default_inputs import RESUMED
from parity.compare.step_inputs import Pixels
from parity.selftest import changes as c
from parity.selftest.fault import Fault
from parity.selftest.subject import BATCH

SAMPLES = 2 * BATCH + BATCH // 2
"""Images before the resumption: an epoch of one and a half batches, and one batch of the next epoch."""


def _again(check: Check, number: int) -> Iterator[Pixels]:
    """Return epoch 1, which the resumed run begins anew."""
    batches = list(c.epoch(check, number))
    return iter([*batches[:1], *batches] if number == 1 else batches)


def _at(
    name: str, sentence: str, change: c.Change, phase: str, layer: str, cause: str = "", recipe: str = "article"
) -> Fault:
    return Fault(name, "resumption", sentence, change, "trajectory", phase, layer, cause, recipe)


_UPDATE, _LOADED = ("update", "conv1"), ("loaded", "conv1")

RESUMPTION = (
    _at("velocity_lost", "a resumed run starts its velocity from zero",
        c.patch("lose_slot", "velocity"), *_LOADED, "loses optimizer.velocity.conv1.weight"),
    _at("velocities_exchanged", "a resumed run exchanges the velocities of two layers",
        c.patch("exchange_loaded", "optimizer.velocity.fc1.weight", "optimizer.velocity.fc2.weight"), "loaded", "fc1",
        "loads optimizer.velocity.fc2.weight into optimizer.velocity.fc1.weight"),
    _at("moment2_lost", "a resumed run starts Adam's second moment from zero",
        c.patch("lose_slot", "moment2"), *_LOADED, "loses optimizer.moment2.conv1.weight", "adam"),
    _at("moments_exchanged", "a resumed run exchanges the two moments of a layer",
        c.patch("exchange_loaded", "optimizer.moment1.fc1.weight", "optimizer.moment2.fc1.weight"), "loaded", "fc1",
        "loads optimizer.moment2.fc1.weight into optimizer.moment1.fc1.weight", "adam"),
    _at("counter_restarts", "a resumed run counts Adam's updates from zero",
        c.patch("restart_counter"), *_UPDATE, "counts 1 update", "adam"),
    _at("counter_too_far", "a resumed run counts one update of Adam too many",
        c.patch("count_too_far"), *_UPDATE, "counts 5 updates", "adam"),
    _at("statistics_lost", "a resumed run starts its running statistics anew",
        c.patch("lose_statistics"), "loaded", "bn1", "bn1.mean"),
    _at("variance_lost", "a resumed run does not restore one running variance",
        c.patch("lose_array", "bn3.variance"), "loaded", "bn3", "bn3.variance"),
    _at("bias_lost", "a resumed run does not restore one bias",
        c.patch("lose_array", "fc2.bias"), "loaded", "fc2", "fc2.bias"),
    _at("earlier_weights", "a resumed run goes on from the state before the last update",
        c.patch("load_earlier"), "loaded", "conv1", "does not restore conv1.weight"),
    _at("state_through_float32", "a resumed run's state went through float32",
        c.patch("load_through", "float32"), "loaded", "conv1", "rounds conv1.weight to float32"),
    _at("rate_of_the_start", "a resumed run starts its schedule anew",
        c.rates(lambda right, s: right(s if s <= SAMPLES else s - SAMPLES)), *_UPDATE,
        "uses the learning rate 0.1 instead of 0.01"),
    _at("pass_begins_anew", "a resumed run begins its epoch anew", c.epochs(_again), "input", "images"),
    _at("masks_restart", "a resumed run draws the masks of the start",
        c.mask(lambda right, u, k: right(u if u < RESUMED else u - RESUMED + 1, k)), "forward", "drop1"),
)  # fmt: skip
