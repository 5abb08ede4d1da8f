"""Changes that harm nothing: the suite must call every one of them equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from parity.arrays import Array
from parity.compare.check import Check
from parity.compare.step_inputs import RunInputs
from parity.data import shapes10
from parity.network import articles
from parity.network.network import Network
from parity.network.nodes import edited
from parity.selftest import changes as c
from parity.selftest.catalogue import FAULTS
from parity.selftest.subject import BATCH, BRANCHED, DEPTHWISE, recipe, remade
from parity.weights.canonical_state import State, decode, encode


@dataclass(frozen=True)
class Innocent:
    """A change of the check, of both sides alike (`common`), or of one side in a way that must not matter (`one`).

    `threads` is the number of threads of the changed side; `reverse` makes it the reference.
    """

    name: str
    sentence: str
    check: Callable[[Check], Check] = lambda check: check
    common: c.Change | None = None
    one: c.Change | None = None
    threads: int = 1
    reverse: bool = False


def _seed(seed: int) -> Innocent:
    return Innocent(f"seed_{seed}", f"seed {seed}", lambda check: remade(check, seed=seed))


def _batch(size: int) -> Innocent:
    return Innocent(
        f"batch_of_{size}",
        f"batches of {size}",
        lambda check: remade(check, recipe=replace(check.recipe, batch_size=size)),
    )


def _recipe(name: str) -> Innocent:
    return Innocent(f"recipe_{name}", f"recipe {name}", lambda check: remade(check, recipe=recipe(name)))


def _network(name: str) -> Innocent:
    return Innocent(
        f"network_{name.partition('@')[0]}",
        f"network {name}",
        lambda check: remade(check, network=articles.get_network(name)),
    )


def _shapes10(check: Check) -> Check:
    return remade(check, dataset=shapes10.load(None, lambda line: None))


def _branched(check: Check) -> Check:
    return remade(check, network=BRANCHED)


def _depthwise(check: Check) -> Check:
    return remade(check, network=DEPTHWISE)


def _renamed(check: Check) -> Check:
    nodes = edited(check.network.nodes, lambda node: replace(node, name=f"my_{node.name}"))
    network = replace(check.network, nodes=nodes)
    assert check.state
    return replace(check, network=network, state={f"my_{name}": array for name, array in check.state.items()})


def _reread(run_inputs: RunInputs) -> RunInputs:
    return replace(run_inputs, network=Network.from_json(run_inputs.network.to_json()))


def _through_a_file(state: State) -> State:
    return decode(encode(state, {}), "a file")[0]


def _strided(images: Array) -> Array:
    return np.asfortranarray(images)


def _on_both(name: str) -> Innocent:
    fault = FAULTS[name]
    return Innocent(f"both_{name}", f"on both sides: {fault.sentence}", lambda check: check, common=fault.change)


SETTINGS = (
    *(_seed(seed) for seed in (1, 2, 3, 12345, 2**62)),
    *(_batch(size) for size in (4, 5, 2 * BATCH)),
    *(_recipe(name) for name in ("adam", "quick")),
    *(_network(name) for name in ("vgg16_bn_drop@0.0625", "vgg_mini@0.0625")),
    Innocent("network_branching", "branches, a head, response normalisation, uneven padding", _branched),
    Innocent("network_depthwise", "a depthwise block, where terms of a gradient cancel", _depthwise),
    Innocent("other_pictures", "pictures of shapes10", _shapes10),
    Innocent("other_names", "every layer has another name", _renamed),
    Innocent("fresh_weights", "both start from fresh weights", lambda check: replace(check, state=None)),
    Innocent("one_stage", "only the update is recorded", lambda check: replace(check, stages=("update",))),
    Innocent("nine_steps", "nine steps", lambda check: remade(check, steps=9)),
    Innocent("other_reference", "the other side is the reference", reverse=True),
    Innocent("more_threads", "one side computes with two threads", threads=2),
)
SPELLING = (
    Innocent("network_through_json", "one side's network went through JSON", one=c.on_run_inputs(_reread)),
    Innocent("weights_through_a_file", "one side's weights went through a file", one=c.states(_through_a_file)),
    Innocent(
        "weights_in_another_order",
        "one side's weights come in another order",
        one=c.states(lambda s: dict(sorted(s.items(), reverse=True))),
    ),
    Innocent(
        "masks_as_numbers",
        "one side gets its masks as numbers",
        one=c.mask(lambda right, u, k: {x: m.astype(np.float64) for x, m in right(u, k).items()}),
    ),
    Innocent("strided_pictures", "one side's pictures lie in another order in memory", one=c.pixels(_strided)),
    Innocent("relu_as_product", "one side's ReLU is x * (x > 0)", one=c.patch("masked_relu", "relu2")),
    Innocent("inference_between", "one side runs inference between its steps", one=c.patch("predict_between")),
    Innocent("state_out_and_in", "one side saves and loads its state before every step", one=c.patch("reload")),
    Innocent("warmed_up", "one side has run other numbers before", one=c.patch("warm_up")),
)
BOTH = tuple(
    _on_both(name)
    for name in (
        "linear_not_transposed", "kernel_rotated", "filters_bgr", "layers_exchanged", "through_float16",
        "variance_starts_at_one", "leaky_relu", "relu_before_norm", "flatten_channels_last", "upscale_in_train",
        "rate_is_keep", "whole_channels", "same_mask_every_step", "eps", "momentum_convention",
        "unbiased_variance", "average_for_maximum", "floor_for_ceil", "padding_counts", "summed", "softmax_twice",
        "no_decay", "nesterov", "velocity_not_rescaled", "gradients_kept", "one_step_late", "never_drops",
        "not_shuffled", "another_order", "labels_shifted", "no_augmentation", "flipped_upside_down", "bgr", "not_normalised",
    )
)  # fmt: skip

INNOCENT: dict[str, Innocent] = {change.name: change for change in (*SETTINGS, *SPELLING, *BOTH)}
