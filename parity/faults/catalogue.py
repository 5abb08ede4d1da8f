"""The faults: realistic mistakes in porting a network and its training, where the suite must find each, and what it should say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from parity import nodes as n
from parity.faults import changes as c
from parity.feed import Given
from parity.recipe import Augmentation, Preprocessing, Schedule
from parity.weights import State


@dataclass(frozen=True)
class Fault:
    """A mistake on one side.

    The suite must find it first in `stage`, in `phase`, at `layer` ("" where it belongs to none), and name a cause that contains `cause`.
    """

    name: str
    area: str
    sentence: str
    change: c.Change
    stage: str
    phase: str
    layer: str = ""
    cause: str = ""
    recipe: str = "article"


def _start(name: str, area: str, sentence: str, change: c.Change, layer: str, cause: str = "") -> Fault:
    return Fault(name, area, sentence, change, "forward", "start", layer, cause)


def _square(transpose: tuple[int, ...]) -> c.Change:
    return c.array("conv2.weight", lambda w: w.transpose(transpose))


def _channels_last(w: np.ndarray) -> np.ndarray:
    return w.reshape(32, 8, 2, 2).transpose(0, 2, 3, 1).reshape(32, 32)


def _deviation(state: State) -> State:
    return {name: np.sqrt(a) if name.endswith(".variance") else a for name, a in state.items()}


CONVERSION = (
    _start("linear_not_transposed", "conversion", "the weight of a square linear layer is not transposed",
           c.array("fc1.weight", np.transpose), "fc1", "transposed"),
    _start("kernel_rotated", "conversion", "kernels are rotated by 180 degrees, as for a true convolution",
           c.array("conv2.weight", lambda w: w[..., ::-1, ::-1]), "conv2", "rotated"),
    _start("kernel_transposed", "conversion", "kernel height and width are exchanged", _square((0, 1, 3, 2)), "conv2", "height and width"),
    _start("kernel_in_out", "conversion", "input and output channels of a square kernel are exchanged", _square((1, 0, 2, 3)), "conv2", "channels exchanged"),
    _start("filters_bgr", "conversion", "the first kernels expect BGR", c.array("conv1.weight", lambda w: w[:, ::-1]), "conv1", "BGR"),
    _start("flatten_order_of_weights", "conversion", "the columns of the first linear weight are ordered channels last",
           c.array("fc1.weight", _channels_last), "fc1", "another order"),
    _start("gamma_beta_exchanged", "conversion", "gamma and beta are exchanged", c.exchanged("bn2.gamma", "bn2.beta"), "bn2", "belongs to bn2.beta"),
    _start("mean_variance_exchanged", "conversion", "running mean and variance are exchanged",
           c.exchanged("bn2.mean", "bn2.variance"), "bn2", "belongs to bn2.variance"),
    _start("variance_as_deviation", "conversion", "running deviations are stored as variances", c.states(_deviation), "bn1", "square root"),
)
WEIGHTS = (
    _start("bias_not_copied", "weights", "a bias stays at zero", c.array("conv3.bias", np.zeros_like), "conv3", "zero"),
    _start("layer_not_copied", "weights", "a layer keeps its own fresh weights",
           c.array("fc2.weight", lambda w: np.random.default_rng(1).normal(size=w.shape)), "fc2"),
    _start("layers_exchanged", "weights", "two layers of one shape are exchanged", c.exchanged("fc1.weight", "fc2.weight"), "fc1", "belongs to fc2.weight"),
    _start("through_float16", "weights", "weights went through a float16 file",
           c.states(lambda s: {k: a.astype(np.float16).astype(a.dtype) for k, a in s.items()}), "conv1", "float16"),
    _start("affine_not_copied", "weights", "the affine part of a batch norm stays at one and zero",
           c.states(lambda s: s | {"bn3.gamma": np.ones_like(s["bn3.gamma"]), "bn3.beta": np.zeros_like(s["bn3.beta"])}), "bn3"),
)
INIT = (
    _start("xavier_for_msra", "init", "convolutions start from Xavier's uniform distribution",
           c.drawn(lambda x: replace(x, init=n.Init("uniform", sqrt(3.0), "in")) if isinstance(x, n.Conv) else x, ("conv1", "conv2")), "conv1"),
    _start("deviation_without_fan", "init", "linear weights start with deviation 0.01",
           c.drawn(lambda x: replace(x, init=n.Init("normal", 0.01)) if isinstance(x, n.Linear) else x, ("fc1",)), "fc1"),
    _start("bias_drawn", "init", "biases are drawn, as PyTorch does by default",
           c.drawn(lambda x: replace(x, bias_init=n.FAN_IN_UNIFORM) if isinstance(x, n.Linear) else x, ("fc3",)), "fc3"),
    _start("variance_starts_at_one", "init", "running variances start at one instead of zero",
           c.drawn(lambda x: replace(x, start_variance=1.0) if isinstance(x, n.BatchNorm) else x, ("bn1", "bn2")), "bn1"),
)


def _layer(name: str, area: str, sentence: str, change: c.Change, phase: str, layer: str, cause: str = "") -> Fault:
    return Fault(name, area, sentence, change, "forward", phase, layer, cause)


LAYERS = (
    _layer("relu_missing", "layers", "an activation is missing", c.without("relu_fc1"), "eval", "relu_fc1", "no such tensor"),
    _layer("leaky_relu", "layers", "a leaky ReLU stands for a ReLU", c.patch("leaky_relu", "relu2"), "eval", "relu2", "slope of 0.01"),
    _layer("capped_relu", "layers", "a ReLU is capped", c.patch("capped_relu", "relu2"), "eval", "relu2"),
    _layer("relu_before_norm", "layers", "activation and batch norm stand in the other order", c.swapped("bn2", "relu2"), "eval", "bn2"),
    _layer("stride_elsewhere", "layers", "a convolution strides where the next one should", c.both(c.node("conv3", stride=1), c.node("pool3", stride=4)), "eval", "conv3", "shapes"),
    _layer("flatten_channels_last", "layers", "maps are flattened channels last", c.patch("flatten_channels_last", "flatten"), "eval", "flatten", "channels last"),
    _layer("output_scaled", "layers", "a layer's output is off by one part in ten million", c.patch("scale_output", "conv4", "1e-7"), "eval", "conv4", "constant factor"),
)
DROPOUT = (
    _layer("upscale_in_train", "dropout", "upscale_in_train instead of downscale_in_infer",
           c.kinds(n.Dropout, kind="upscale_in_train"), "eval", "drop1", "does nothing"),
    _layer("rate_is_keep", "dropout", "the rate is taken as the probability to keep", c.node("drop1", rate=0.7), "eval", "drop1", "by p = 0.3"),
    _layer("dropout_missing", "dropout", "a dropout does nothing", c.patch("identity", "drop2"), "eval", "drop2", "does nothing"),
    _layer("dropout_in_inference", "dropout", "dropout acts in inference", c.patch("always_training", "drop1"), "eval", "drop1", "dropout acts in inference"),
    _layer("whole_channels", "dropout", "whole channels are dropped",
           c.mask(lambda right, u, k: {x: np.broadcast_to(m[..., :1, :1], m.shape) if m.ndim == 4 else m for x, m in right(u, k).items()}), "forward", "drop1"),
    _layer("one_mask_for_all", "dropout", "all images of a batch share one mask",
           c.mask(lambda right, u, k: {x: np.broadcast_to(m[:1], m.shape) for x, m in right(u, k).items()}), "forward", "drop1"),
    Fault("same_mask_every_step", "dropout", "the mask is drawn once", c.mask(lambda right, u, k: right(1, k)), "trajectory", "forward", "drop1"),
)
BATCH_NORM = (
    _layer("eps", "bn", "eps is 1e-3 instead of 1e-5", c.kinds(n.BatchNorm, eps=1e-3), "eval", "bn1", "eps 0.001"),
    _layer("eps_of_one_layer", "bn", "eps of one layer is 1.1e-5", c.node("bn3", eps=1.1e-5), "eval", "bn3", "eps 1.1e-05"),
    _layer("batch_statistics_in_inference", "bn", "a batch norm uses the batch in inference",
           c.patch("always_training", "bn2"), "eval", "bn2", "batch's own statistics"),
    _layer("frozen", "bn", "a batch norm is frozen in training", c.patch("never_training", "bn2"), "forward", "bn2", "running statistics"),
    Fault("momentum_convention", "bn", "0.9 weighs the new value", c.kinds(n.BatchNorm, decay=0.1), "update", "statistics", "bn1", "momentum convention"),
    Fault("unbiased_variance", "bn", "the unbiased variance enters the running one",
          c.kinds(n.BatchNorm, variance="unbiased"), "update", "statistics", "bn1", "n/(n-1)"),
    Fault("decay_of_one_layer", "bn", "one layer decays by 0.99", c.node("bn4", decay=0.99), "update", "statistics", "bn4", "decay 0.99"),
    Fault("statistics_moved_twice", "bn", "a layer runs twice a step", c.patch("forward_twice", "bn3"), "update", "statistics", "bn3", "twice"),
)
POOLING = (
    _layer("average_for_maximum", "pooling", "average instead of maximum",
           c.nodes(lambda x: n.AvgPool("pool4") if x.name == "pool4" else x), "eval", "pool4", "average"),
    _layer("floor_for_ceil", "pooling", "the size of a pooled map is rounded down", c.node("pool1", ceil=False), "eval", "pool1", "shapes"),
    _layer("padding_counts", "pooling", "padding counts in an average", c.patch("count_padding", "pool3"), "eval", "pool3"),
)
LOSS = (
    _layer("summed", "loss", "the cost is summed over the batch", c.field(divisor=lambda count: 1), "loss", "loss", "summed over the batch"),
    _layer("softmax_twice", "loss", "probabilities go into the cross-entropy", c.patch("softmax", "fc3"), "eval", "fc3"),
    Fault("mean_of_a_short_batch", "loss", "a short last batch is averaged by its own size", c.field(divisor=lambda count: count),
          "trajectory", "loss", "loss", "nominal"),
)
_UPDATE = ("update", "update", "conv1")


DECAY = float(np.float32(2e-4))


def _only_kernels_decay(w: np.ndarray, old: np.ndarray, g: np.ndarray) -> np.ndarray | None:
    return None if w.ndim > 1 else old + g - DECAY * w


def _without_correction(before: State, behind: State, given: Given) -> State:
    state = dict(behind)
    for name in [x.removeprefix("optimizer.moment1.") for x in behind if x.startswith("optimizer.moment1.")]:
        moments = [behind[f"optimizer.{slot}.{name}"] for slot in ("moment1", "moment2")]
        state[name] = before[name] - given.rate * moments[0] / (np.sqrt(moments[1]) + 1e-8)
    return state


def _frozen(before: State, behind: State, given: Given) -> State:
    return behind | {name: before[name] for name in behind if name.endswith("conv4.weight")}


OPTIMIZER = (
    Fault("no_decay", "optimizer", "no weight decay", c.settings(weight_decay=0.0), *_UPDATE, "no weight decay"),
    Fault("decoupled_decay", "optimizer", "weight decay does not go through the momentum",
          c.velocity(lambda w, old, g: old + g - DECAY * w, DECAY), *_UPDATE, "decoupled"),
    Fault("only_kernels_decay", "optimizer", "biases and batch norms do not decay", c.velocity(_only_kernels_decay), *_UPDATE, "no weight decay"),
    Fault("nesterov", "optimizer", "Nesterov momentum instead of plain", c.settings(nesterov=True), *_UPDATE, "Nesterov"),
    Fault("dampened", "optimizer", "the gradient enters the velocity times 0.1",
          c.velocity(lambda w, old, g: old + g * (1 - float(np.float32(0.9)))), *_UPDATE, "dampened"),
    Fault("no_momentum", "optimizer", "no momentum, as in release 0.10", c.settings(momentum=0.0), *_UPDATE, "no such tensor"),
    Fault("velocity_not_rescaled", "optimizer", "the velocity is not rescaled when the rate drops",
          c.field(factor=lambda old, new: 1.0), "trajectory", "update", "conv1", "not rescaled"),
    Fault("gradients_kept", "optimizer", "gradients are not cleared", c.patch("keep_gradients"), "trajectory", "gradient", "fc3", "not cleared"),
    Fault("layer_frozen", "optimizer", "a layer is missing from the optimizer", c.after(_frozen), "update", "update", "conv4", "not updated"),
    Fault("rate_not_rounded", "optimizer", "the learning rate is not rounded to float32", c.rates(lambda right, s: round(right(s), 6)), *_UPDATE),
    Fault("adam_eps", "optimizer", "Adam's eps is TensorFlow's 1e-7", c.settings(eps=1e-7), *_UPDATE, "eps 1e-7", "adam"),
    Fault("adam_uncorrected", "optimizer", "Adam without bias correction", c.after(_without_correction), *_UPDATE, "bias correction", "adam"),
    Fault("adam_beta2", "optimizer", "beta2 is 0.99", c.settings(beta2=0.99), "update", "update", "conv1", "", "adam"),
)
SCHEDULE = (
    Fault("one_step_late", "schedule", "the batch at hand does not count in the schedule",
          c.rates(lambda right, s: right(s - 8)), "trajectory", "update", "conv1", "step before"),
    Fault("counted_in_steps", "schedule", "the schedule counts steps instead of samples", c.rates(lambda right, s: right(s // 8)), "trajectory", "update", "conv1"),
    Fault("never_drops", "schedule", "the rate never drops", c.recipes(lambda r: replace(r, schedule=Schedule())), "trajectory", "update", "conv1"),
    Fault("warm_up", "schedule", "the rate warms up", c.rates(lambda right, s: right(s) * min(1.0, s / 16)), *_UPDATE),
    Fault("rate_times_batch", "schedule", "the rate is divided by the batch size once more", c.rates(lambda right, s: right(s) / 8), *_UPDATE),
)


def _unshuffled(check: c.Check, number: int) -> c.Iterator[c.Pixels]:
    data, size = check.dataset, check.recipe.batch_size
    for first in range(0, len(data.train_labels), size):
        yield data.train_images[first : first + size].astype(float), data.train_labels[first : first + size]


def _input(name: str, area: str, sentence: str, change: c.Change, cause: str = "", later: bool = False) -> Fault:
    return Fault(name, area, sentence, change, "trajectory" if later else "forward", "input", "images", cause)


DATA = (
    _input("not_shuffled", "data", "the order is the file's", c.epochs(_unshuffled)),
    _input("another_order", "data", "the order is drawn from another seed", c.epochs(lambda check, e: c.epoch(check, e, seed=9))),
    _input("same_order_every_pass", "data", "every pass has the order of the first", c.epochs(lambda check, e: c.epoch(check, 0)), later=True),
    _input("short_batch_dropped", "data", "the last, smaller batch is dropped",
           c.epochs(lambda check, e: (b for b in c.epoch(check, e) if len(b[1]) == 8)), "shapes", later=True),
    Fault("labels_shifted", "data", "labels count from one", c.batches(lambda b: (b[0], (b[1] + 1) % 10)), "forward", "input", "labels"),
)
AUGMENTATION = (
    _input("no_augmentation", "augmentation", "no augmentation", c.epochs(lambda check, e: c.epoch(check, e, Augmentation()))),
    _input("flipped_upside_down", "augmentation", "images are flipped upside down", c.raw(lambda x: x[:, :, ::-1]), "upside down"),
    _input("flipped_always", "augmentation", "every image is mirrored once more", c.raw(lambda x: x[..., ::-1]), "left to right"),
    _input("crop_exchanged", "augmentation", "rows and columns are exchanged", c.raw(lambda x: x.swapaxes(2, 3)), "height and width"),
    _input("crop_without_flip", "augmentation", "crops, but no flips", c.epochs(lambda check, e: c.epoch(check, e, Augmentation(4, False)))),
)
PREPROCESSING = (
    _input("bgr", "preprocessing", "channels are BGR, as OpenCV reads them", c.pixels(lambda x: x[:, ::-1].copy()), "BGR"),
    _input("not_normalised", "preprocessing", "means and deviations are not applied", c.recipes(lambda r: replace(r, preprocessing=Preprocessing()))),
    _input("deviations_of_pixels", "preprocessing", "the deviations are 0.247, 0.243, 0.262",
           c.recipes(lambda r: replace(r, preprocessing=replace(r.preprocessing, std=(0.247, 0.243, 0.262))))),
    _input("not_scaled", "preprocessing", "pixels are not divided by 255", c.pixels(lambda x: x * 255), "255"),
    _input("divided_by_256", "preprocessing", "pixels are divided by 256", c.pixels(lambda x: x * (255 / 256)), "256"),
    _input("channels_last", "preprocessing", "channels-last pixels are read as channels first",
           c.raw(lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(x.shape))),
)

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for group in (
        CONVERSION, WEIGHTS, INIT, LAYERS, DROPOUT, BATCH_NORM, POOLING, LOSS, OPTIMIZER, SCHEDULE, DATA, AUGMENTATION, PREPROCESSING,
    )
    for fault in group
}
