"""Tolerances of every tensor of one step in float32, bfloat16 or float16, derived from what rounding alone does.

A side's tensor is compared with the float64 one. The noise is the change of the same tensor on the same side when
every weight and input moves by one unit in the last place. The tolerance is a small multiple of it. ReLU kinks and max-pool
ties add to it: there the gradient changes by a whole element, however small the rounding is.

TTrace (arXiv 2506.09280) derives tolerances from such perturbations for training in Megatron.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from parity.arrays import Array
from parity.backend.child_process import Record
from parity.compare.one_ulp_twin import move_one_ulp, summed
from parity.compare.program import parameter_of
from parity.compare.record import input_of
from parity.compare.relative_error import Difference, distance, norm
from parity.compare.source import Rounded, Source
from parity.compare.tolerances import HALF_ULP, LONG_SUMS, rounded_tolerance, rounded_zero_tolerance
from parity.network.network import Network
from parity.network.nodes import BatchNorm, GlobalAvgPool
from parity.weights.canonical_state import State

TWINS = {"float32": 3, "bfloat16": 8, "float16": 8}
"""One-ULP twins of every side, by dtype. See `parity.compare.tolerances.FACTOR`."""


def rounded_differences(source: Source) -> Iterator[tuple[Rounded, int, Difference]]:
    """Yield (tensor, side, difference) for every tensor of one step of both sides, against float64 on the reference."""
    own = {tensor.name: tensor for tensor in source.rounded_step(None)}
    noise = {name: [0.0, 0.0] for name in own}
    for seed in range(TWINS[source.dtype]):
        for moved in source.rounded_step(seed):
            if moved.name in own:
                pairs = zip(own[moved.name].sides, moved.sides, strict=True)
                found = moved.zero or [distance(*pair) for pair in pairs]
                noise[moved.name] = list(map(max, noise[moved.name], found))
    crossed = (Crossed(), Crossed())
    for name, tensor in own.items():
        for side, array in enumerate(tensor.sides):
            own_noise = noise[name][side] * relative_size(tensor.exact, array)
            allowed = own_noise, crossed[side].part(tensor, array) * tensor.share, tensor.summed
            if tensor.zero is not None:
                bound = rounded_zero_tolerance(source.dtype, noise[name][side])
                yield tensor, side, Difference(name, tensor.zero[side], bound)
            elif not tensor.copied:
                bound = rounded_tolerance(source.dtype, *allowed)
                yield tensor, side, Difference(name, distance(tensor.exact, array), bound)
            elif side:  # copied, not computed: the same bits on both sides
                yield tensor, side, Difference(name, distance(*tensor.sides), 0.0)


def relative_size(exact: Array | None, own: Array | None) -> float:
    """Return the norm of `own` over that of `exact`, by which noise relative to `own` becomes relative to `exact`, as errors are.

    The two differ much only where rounding is as large as the tensor, as in gradients of deep networks in bfloat16.
    """
    sizes = [0.0 if array is None else norm(array) for array in (own, exact)]
    return sizes[0] / sizes[1] if all(0 < size < math.inf for size in sizes) else 1.0


class Crossed:
    """The part of the gradient in elements that pass only in float64 or only on one side, here or nearer to the loss.

    Rounding has changed their sign, or the largest element of a pool. Call `part` for every tensor in the order of computation.
    """

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._so_far = 0.0
        self._at: dict[str, float] = {}

    def part(self, tensor: Rounded, own: Array | None) -> float:
        """Return the part that reaches `tensor`, which is `own` on the side."""
        layer = tensor.layers[0]
        if tensor.phase == "backward":
            crossed = crossed_part(tensor.exact, own)
            self._parts[layer] = math.hypot(self._parts.get(layer, 0.0), crossed)
            self._so_far = self._at[layer] = math.hypot(self._so_far, crossed)
        if tensor.phase not in ("backward", "gradient", "update"):
            return 0.0
        if tensor.behind is None:
            return self._at.get(layer, self._so_far)
        return math.hypot(*(part for name, part in self._parts.items() if name in tensor.behind))


def crossed_part(exact: Array | None, own: Array | None) -> float:
    """Return the part of a gradient in elements that pass on one of two sides only."""
    if exact is None or own is None or exact.shape != own.shape or not exact.any():
        return 0.0
    crossed = (exact == 0) != (own == 0)
    return norm((own - exact)[crossed]) / norm(exact)


def error_of_mean(numbers: Array) -> Array:
    """Return the error [...] that float32 rounding makes in the mean of `numbers` [..., n], added up one after the other.

    Each partial sum is rounded. It drifts by the mean m of the numbers and wanders by their deviation s. So the mean gets the error
    u * hypot(0.33 sqrt(n) m, 0.41 s), where u is half a unit in the last place (see `parity.compare.one_ulp_twin.summed`). A
    number that equals the one before it, as in a picture of one colour, is rounded to the same side. If all do, errors add up to n / 2.
    """
    count = numbers.shape[-1]
    alike = np.mean((numbers[..., 1:] == numbers[..., :-1]) & (numbers[..., 1:] != 0), axis=-1) if count > 1 else 0.0
    drift = ((1 - alike) * 0.33 * math.sqrt(count) + alike * count / 2) * numbers.mean(-1)
    found: Array = HALF_ULP["float32"] * np.hypot(drift, 0.41 * numbers.std(-1))
    return found


def training_noise(network: Network, record: Mapping[str, Array]) -> dict[str, float]:
    """Return, by record name, the relative rounding error of the sums in batch norms and biases' gradients in a float32 step.

    `record` is that of the step in float64. A batch norm sums the numbers of a channel, and their squares. If the mean cancels, or is
    large compared with the deviation, the rounding of the sums is much of the result. No twin shows it: the sums contain no weight.
    """
    found, forward = dict[str, float](), dict[str, float]()
    for name, layer in network.layers.items():
        forward[name] = max((forward.get(source, 0.0) for source in layer.sources), default=0.0)
        x, y = input_of(network, name, record, "forward"), record.get(f"forward/{name}")
        if isinstance(layer.node, BatchNorm) and x is not None and y is not None:
            channels = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).astype(np.float64)
            deviation = np.sqrt(channels.var(1) + layer.node.eps)
            mean, square = error_of_mean(channels), error_of_mean(channels**2)
            # The error of an earlier batch norm's shift is the same in all numbers of a channel.
            arriving = forward[name] * np.sqrt(np.square(channels).mean(1))
            for array, error in (("mean", np.hypot(mean, arriving)), ("variance", square)):
                size = norm(record.get(f"update/{name}.{array}", np.zeros(0)))
                found[f"update/{name}.{array}"] = (1 - layer.node.decay) * norm(error) / size if size else 0.0
            scale = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1).std(1)
            errors = scale * np.hypot(mean / deviation, square / deviation**2 / 2)
            forward[name] = math.hypot(forward[name], norm(errors) * math.sqrt(channels.shape[1]) / (norm(y) or 1.0))
        found[f"forward/{name}"] = forward[name]
    # Later tensors have the errors of their inputs.
    largest = max(forward.values(), default=0.0)
    behind = ("loss", "backward", "gradient", "update")
    sums = _noise_of_biases(network, record)
    return {
        n: math.hypot(largest, sums.get(parameter_of(n.partition("/")[2]), 0.0))
        for n in record
        if n.partition("/")[0] in behind and not n.endswith((".mean", ".variance"))
    } | found


def _noise_of_biases(network: Network, record: Mapping[str, Array]) -> dict[str, float]:
    """Return, by bias or beta, the relative rounding error of its gradient, a sum over images and pixels. No twin shows it."""
    found = {}
    for name in network.parameters:
        layer, _, kind = name.partition(".")
        coming, gradient = record.get(f"backward/{layer}"), record.get(f"gradient/{name}")
        if kind in ("bias", "beta") and coming is not None and gradient is not None and gradient.any():
            channels = np.moveaxis(coming, 1, 0).reshape(coming.shape[1], -1).astype(np.float64)
            found[name] = norm(error_of_mean(channels) * channels.shape[1]) / norm(gradient)
    return found


def pooled_noise(network: Network, layers: Mapping[str, Array]) -> dict[str, float]:
    """Return, by layer, the relative float32 rounding error of the sums in average pools, there and in all later layers.

    `layers` are the outputs of inference by layer, and the images by "". If numbers cancel, as behind a batch norm, the rounding of their
    sum is much of the result. No twin shows it: the sum contains no weight.
    """
    found: dict[str, float] = {}
    for name, layer in network.inference.layers.items():
        found[name] = max((found.get(source, 0.0) for source in layer.sources), default=0.0)
        x, mean = layers.get(layer.sources[0]), layers.get(name)
        if isinstance(layer.node, GlobalAvgPool) and x is not None and mean is not None:
            maps = x.reshape(*x.shape[:2], -1).astype(np.float64)
            found[name] = math.hypot(found[name], norm(error_of_mean(maps)) / (norm(mean) or 1.0))
    return found


def inference_noise(
    predict: Callable[[State, Mapping[str, Array]], Record],
    own: Record,
    state: State,
    pictures: Mapping[str, Array],
) -> dict[str, float]:
    """Return, by tensor, the noise of `own` for `inference_tolerance`; `predict(state, pictures)` computed `own` in float32 inference.

    The noise is the change of the tensor when every weight and pixel moves by one ULP, and weights of long sums by more (`summed`). It is
    at least the rounding of the result.
    """
    found: dict[str, float] = {}
    for seed in range(TWINS["float32"]):
        for tensor, array in predict(summed(state, seed, LONG_SUMS), move_one_ulp(pictures, seed)).items():
            found[tensor] = max(found.get(tensor, HALF_ULP["float32"]), distance(own[tensor], array))
    return found
