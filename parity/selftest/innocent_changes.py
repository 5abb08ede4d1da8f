"""Innocent changes: the check must report `equal` for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from parity.arrays import Array
from parity.compare.check import Check, make_check
from parity.compare.step_inputs import RunInputs
from parity.data import shapes10
from parity.network import articles
from parity.network.examples import mobilenet_block, squeeze_excitation
from parity.network.network import Network
from parity.network.nodes import Add, Multiply, Node, edited
from parity.recipe.optimizer import Group
from parity.recipe.presets import RECIPES
from parity.recipe.recipe import Preprocessing
from parity.selftest import changes as c
from parity.selftest.catalogue import FAULTS
from parity.selftest.subject import BATCH, BRANCHED, DEPTHWISE, RESIDUAL, recipe, remade
from parity.weights.canonical_state import State, decode, encode


@dataclass(frozen=True)
class Innocent:
    """A change of the check, of both sides alike (`common`), or of one side in a way that must not matter (`one`).

    `threads` is the number of threads of the changed side, with `everywhere` also of the other. `reverse` makes it the reference.
    """

    name: str
    sentence: str
    check: Callable[[Check], Check] = lambda check: check
    common: c.Change | None = None
    one: c.Change | None = None
    threads: int = 1
    everywhere: bool = False
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


def _network(name: str, recipe_name: str = "article") -> Innocent:
    return Innocent(
        f"network_{name.partition('@')[0]}",
        f"network {name}" + (f" by the recipe {recipe_name}" if recipe_name != "article" else ""),
        lambda check: remade(check, network=articles.get_network(name), recipe=recipe(recipe_name)),
    )


def _digits(check: Check) -> Check:
    """A network for digits, on the first channel of cropped pictures."""
    images = np.ascontiguousarray(np.asarray(check.dataset.train_images)[:, :1, 2:30, 2:30])
    grey = replace(recipe("mnist"), preprocessing=Preprocessing((0.1307,), (0.3081,)))
    dataset = replace(check.dataset, train_images=images)
    return remade(check, network=articles.get_network("mnist_cnn"), recipe=grey, dataset=dataset)


def _small_crops(check: Check) -> Check:
    """TensorFlow's VGG, on distorted crops of 24x24."""
    distorted = replace(RECIPES["distorted"], batch_size=BATCH)
    return remade(check, network=articles.get_network("tf_vgg16@0.0625"), recipe=distorted)


def _plain(check: Check) -> Check:
    return make_check(check.network, check.recipe, check.dataset, plain=True, stages=check.stages, steps=check.steps)


def _other_groups(check: Check) -> Check:
    groups = (Group("conv*.weight", 0.5, 4.0), Group("fc*", 2.0, 0.0), Group("*.beta", 8.0, 0.25))
    return remade(check, recipe=replace(check.recipe, optimizer=replace(check.recipe.optimizer, groups=groups)))


def _resumed(step: int) -> Innocent:
    sentence = f"the sides save and load their state before step {step}" if step else "nobody saves and loads the state"
    return Innocent(f"resumed_{step}", sentence, lambda check: replace(check, resumed=step))


def _patched(name: str, sentence: str, *words: str, on: Network | None = None) -> Innocent:
    """Change one side by the patch `name` with `words`, in the network `on`."""
    place = f"_of_{words[0]}" if words else ""
    return Innocent(
        f"{name}{place}",
        f"one side: {sentence}",
        (lambda check: remade(check, network=on)) if on else lambda check: check,
        one=c.patch(name, *words),
    )


def _shapes10(check: Check) -> Check:
    return remade(check, dataset=shapes10.load(None, lambda line: None))


def _on(network: Network, sentence: str) -> Innocent:
    """Check `network` instead."""
    return Innocent(f"network_{network.name}", sentence, lambda check: remade(check, network=network))


def _sum_reversed(run_inputs: RunInputs) -> RunInputs:
    def change(node: Node) -> Node:
        return node.with_parts(node.parts[::-1]) if isinstance(node, Add | Multiply) else node

    return replace(run_inputs, network=replace(run_inputs.network, nodes=edited(run_inputs.network.nodes, change)))


def _renamed(check: Check) -> Check:
    nodes = edited(check.network.nodes, lambda node: replace(node, name=f"my_{node.name}"))
    network = replace(check.network, nodes=nodes)
    assert check.state
    return replace(check, network=network, state={f"my_{name}": array for name, array in check.state.items()})


def _reread(run_inputs: RunInputs) -> RunInputs:
    return replace(run_inputs, network=Network.from_json(run_inputs.network.to_json()))


UPDATE = ("eval", "forward", "backward", "update")
"""The stages of the first step."""


def _through_a_file(state: State) -> State:
    return decode(encode(state, {}), "a file")[0]


def _strided(images: Array) -> Array:
    return np.asfortranarray(images)


def _on_both(name: str) -> Innocent:
    fault = FAULTS[name]
    return Innocent(
        f"both_{name}",
        f"on both sides: {fault.sentence}",
        lambda check: check if fault.network == check.network else remade(check, network=fault.network),
        common=fault.change,
    )


SETTINGS = (
    *(_seed(seed) for seed in (1, 2, 3, 12345, 2**62)),
    *(_batch(size) for size in (4, 5, 2 * BATCH)),
    *(_recipe(name) for name in ("adam", "quick", "best", "adam_with_decay")),
    *(
        _network(name)
        for name in (
            "vgg16_bn_drop@0.0625",
            "vgg_mini@0.0625",
            "lenet",
            "alexnet_cifar@0.125",
            "googlenet_naive@0.125x32",
            "resnet20@0.25",
        )
    ),
    _network("cifar_net", "cifar_net"),
    _network("vgg_fast@0.125", "fast"),
    _network("vgg16_bn@0.0625x32", "best"),
    Innocent("network_mnist_cnn", "network mnist_cnn", _digits),
    Innocent("network_tf_vgg16", "network tf_vgg16@0.0625 by the recipe distorted", _small_crops),
    *(_resumed(step) for step in (0, 2, 3, 6)),
    Innocent("plain", "the inputs are those of training: fresh weights, the recipe as it is", _plain),
    Innocent("other_groups", "the recipe has other groups of parameters", _other_groups),
    Innocent("single_precision", "one step in float32", lambda check: remade(check, dtype="float32", stages=UPDATE)),
    Innocent("three_stages", "no trajectory", lambda check: remade(check, stages=("eval", "forward", "backward"))),
    Innocent("threads_on_both_sides", "both sides compute with two threads", threads=2, everywhere=True),
    _on(BRANCHED, "branches, a head, response normalisation, uneven padding"),
    _on(DEPTHWISE, "a depthwise block, where terms of a gradient cancel"),
    _on(RESIDUAL, "residual blocks, channels of zeros, squeeze and excitation, SiLU"),
    _on(mobilenet_block(), "an inverted residual of docs/networks"),
    _on(squeeze_excitation(), "squeeze and excitation of docs/networks"),
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
    _patched("relu_in_place", "the ReLU overwrites its input", "relu2"),
    _patched("relu_in_place", "the ReLU behind a linear layer's batch norm overwrites its input", "relu_fc1"),
    _patched("relu_as_maximum", "the ReLU is max(x, 0)", "relu2"),
    _patched("relu_by_absolute", "the ReLU is (x + |x|) / 2", "relu3"),
    _patched("select_kept", "dropout is where(mask, x, 0)", "drop2"),
    _patched("flatten_by_reshape", "flatten is a reshape", "flatten"),
    _patched("normalise_otherwise", "batch norm is written out from mean and variance", "bn2", ""),
    _patched("normalise_otherwise", "batch norm of a vector is written out", "bn_fc1", ""),
    _patched("linear_by_product", "a linear layer is a product with a transposed, contiguous weight", "fc2"),
    _patched("by_halves", "a convolution takes half of the images after the other", "conv2"),
    _patched("by_halves", "a pool takes half of the images after the other", "pool1"),
    _patched("pool_by_pairs", "a maximum pool compares rows, then columns", "pool4"),
    _patched("mean_of_means", "a global average is a mean of means", "pool", on=DEPTHWISE),
    Innocent(
        "branches_reversed",
        "one side: sums and products take their branches in the other order",
        lambda check: remade(check, network=RESIDUAL),
        one=c.on_run_inputs(_sum_reversed),
    ),
    _patched("sum_in_place", "a sum overwrites the end of its first branch", "block1_add", on=RESIDUAL),
    _patched("relu_in_place", "the ReLU after a sum overwrites the sum", "block1_relu2", on=RESIDUAL),
    _patched("swish", "SiLU is x * sigmoid(x)", "block4_silu1", on=RESIDUAL),
    _patched("scale_by_view", "factors of channels are reshaped to maps of one pixel", "block4_scale", on=RESIDUAL),
    _patched("sigmoid", "a sigmoid is 1 / (1 + exp(-x))", "block4_gate", on=RESIDUAL),
    _patched("take_top_left", "a shortcut takes every second pixel by an index", "block2_subsample", on=RESIDUAL),
    _patched("pad_by_concatenation", "channels of zeros are concatenated", "block2_pad", on=RESIDUAL),
    _patched("write_cost_out", "the cost is written out from log-softmax and a choice of scores"),
    _patched("gradients_twice", "gradients of another loss are computed before every step, and cleared"),
    _patched("load_twice", "every state is loaded twice"),
    _patched("order_otherwise", "the optimizer gets its groups and parameters in another order"),
    _patched("predict_same_batch", "inference runs on the same batch before every step"),
    _patched("read_state", "the state is read after every step"),
)
# None of these makes the gradient of a bias before a batch norm other than zero: the check requires zero on each side.
BOTH = tuple(
    _on_both(name)
    for name in (
        "flip_without_crop", "crop_mirrors_edges", "crop_one_pixel_off", "flipped_together", "third_pass_as_second",
        "third_pass_not_augmented", "last_batch_filled", "labels_not_shuffled", "standardised_by_image", "biases_tied",
        "means_exchanged", "another_seed", "kaiming_kernels", "no_bias_under_norm", "silu", "reflected_edges",
        "repeated_edges", "circular_edges", "dilated", "bias_not_used", "flatten_columns_first", "norm_shared",
        "mask_inverted", "dropout_stops", "eps_outside_root", "normalised_by_unbiased", "statistics_move_in_inference",
        "variance_without_momentum", "deviation_for_variance", "statistics_stop", "corner_for_maximum", "cost_capped",
        "probability_plus_eps", "labels_smoothed", "right_images_counted", "cost_averaged", "decay_doubled",
        "momentum_of_99", "ascent", "gradients_accumulated", "gradients_divided", "layer_frozen_later", "groups_forgotten",
        "group_names_exchanged", "first_group_alone_drops", "second_drop_missing", "drops_by_half", "velocity_rescaled_inversely",
        "relu_passes_gradient", "relu_gradient_leaks", "dropout_passes_gradient", "norm_fixes_variance",
        "pool_spreads_gradient", "gradient_reversed", "bias_gradient_averaged", "gradient_values_clipped",
        "bias_without_gradient",
        "rate_of_the_start", "pass_begins_anew", "masks_restart", "norm_without_affine",
        "unbiased_by_images", "step_before_backward", "gradients_of_a_layer_kept", "rate_in_velocity",
        "betas_count_as_biases", "clipped_together", "clipped_one_by_one", "schedule_by_pass", "mean_over_classes",
        "linear_not_transposed", "kernel_rotated", "filters_bgr", "layers_exchanged", "through_float16",
        "variance_starts_at_one", "leaky_relu", "relu_before_norm", "flatten_channels_last", "upscale_in_train",
        "rate_is_keep", "whole_channels", "same_mask_every_step", "eps", "momentum_convention",
        "unbiased_variance", "average_for_maximum", "floor_for_ceil", "padding_counts", "summed", "softmax_twice",
        "no_decay", "nesterov", "velocity_not_rescaled", "gradients_kept", "one_step_late", "never_drops",
        "not_shuffled", "another_order", "labels_shifted", "no_augmentation", "flipped_upside_down", "bgr", "not_normalised",
        "shortcut_before_relu", "sum_after_relu", "downsample_not_used", "stride_on_second_conv", "channels_padded_before",
        "last_gamma_zero", "gate_without_sigmoid", "hard_swish", "sum_over_input",
    )
)  # fmt: skip

INNOCENT: dict[str, Innocent] = {change.name: change for change in (*SETTINGS, *SPELLING, *BOTH)}
