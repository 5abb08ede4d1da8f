"""Causes of a difference in training of our networks: what the candidate's layer, loss or update made of its own input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from parity.arrays import Array
from parity.compare.causes import Hypothesis, explain, tensor_hypotheses
from parity.compare.causes_of_updates import update_hypotheses
from parity.compare.evidence import Evidence
from parity.compare.record import input_of
from parity.network import nodes
from parity.network.windows import over_channels

MOST_BRANCHES = 5
"""Branches whose orders are all tried."""

MOST_CHANNELS = 11
"""The largest size of a response normalisation that is tried."""


SIDES = ("the reference", "the candidate")


def likely_cause(evidence: Evidence, name: str) -> str | None:
    """What the candidate seems to have done to the tensor `name`; None if no hypothesis fits."""
    tensors = evidence.reference.get(name), evidence.other.get(name)
    return explain(*tensors, SIDES, _hypotheses(evidence, name))


def _hypotheses(evidence: Evidence, name: str) -> Iterator[Hypothesis]:
    phase, _, tensor = name.partition("/")
    if phase in ("eval", "forward") and not tensor.endswith(".mask"):
        yield from _of_a_layer(evidence, phase, tensor)
    if name == "loss/loss":
        yield from _losses(evidence)
    if phase == "update":
        yield from update_hypotheses(evidence, tensor)
    if phase == "gradient" and name in evidence.other_before:
        sum_of_both = evidence.reference[name] + evidence.other_before[name]
        yield "the gradient of the step before was not cleared", sum_of_both
    a, b = evidence.reference[name], evidence.other[name]
    others = {} if phase == "loss" else _alike(evidence, name)
    yield from tensor_hypotheses(a, b, SIDES, others, _factors(evidence))


def _alike(evidence: Evidence, name: str) -> dict[str, Array]:
    """The reference's other tensors of the phase that have the shape of the tensor `name`."""
    phase, shape = name.partition("/")[0], evidence.reference[name].shape
    tensors = evidence.reference.items()
    return {n.partition("/")[2]: a for n, a in tensors if n != name and n.startswith(f"{phase}/") and a.shape == shape}


def _factors(evidence: Evidence) -> Iterator[tuple[str, float]]:
    count = len(evidence.step_input.labels)
    yield "the sign is reversed", -1.0
    yield "not divided by 255", 255.0
    yield "divided by 255 twice", 1 / 255
    yield "divided by 256 instead of 255", 255 / 256
    yield f"summed over the batch of {count} instead of averaged (ratio n)", float(count)
    yield f"averaged over the batch of {count} instead of summed (ratio 1/n)", 1 / count
    yield "divided by the batch's own size instead of the nominal one", evidence.step_input.divisor / count
    for rate in sorted({rate for _, rate in evidence.network.dropouts.values()}):
        yield f"ratio 1-p of dropout with p = {rate:g} (downscale_in_infer against upscale_in_train)", 1 - rate
        yield (
            f"ratio 1/(1-p) of dropout with p = {rate:g} (downscale_in_infer against upscale_in_train)",
            1 / (1 - rate),
        )


def _of_a_layer(evidence: Evidence, phase: str, layer: str) -> Iterator[Hypothesis]:
    """What the other side's layer may have made of the other side's own input."""
    x = input_of(evidence.network, layer, evidence.other, phase, evidence.step_input.images)
    if x is None:
        return
    x, node = x.astype(np.float64), evidence.network.layers[layer].node
    b = evidence.other[f"{phase}/{layer}"].astype(np.float64)
    yield f"{layer} does nothing: its output is its input", x
    if isinstance(node, nodes.Flatten) and x.ndim == 4:
        yield "channels last: flattened as height, width, channels", x.transpose(0, 2, 3, 1).reshape(b.shape)
    if isinstance(node, nodes.ReLU):
        yield from _relu(x, b)
    if isinstance(node, nodes.BatchNorm):
        yield from _batch_norm(evidence, node, x, b)
    if isinstance(node, nodes.LRN):
        yield from _lrn(node, x, b)
    if isinstance(node, nodes.Tanh):
        yield "LeCun's scaled tanh, 1.7159 tanh(2x/3)", 1.7159 * np.tanh(2 / 3 * x)
        yield "it is a sigmoid", 1 / (1 + np.exp(-x))
    if isinstance(node, nodes.LogSoftmax):
        yield from _log_softmax(x)
    if isinstance(node, nodes.Branches):
        yield from _branches(evidence, phase, layer)
    if isinstance(node, nodes.Dropout):
        yield from _dropout(evidence, phase, node, x, b)
    if isinstance(node, nodes.MaxPool) and not node.padding:
        yield from _pool(node, x, evidence.network.shapes[layer])
    yield from _exchanged_padding(evidence, layer, x)
    if isinstance(node, nodes.Conv | nodes.Linear) and node.bias:
        bias = _parameter(evidence, f"{layer}.bias")
        if bias is not None:
            yield "the bias is missing", evidence.reference[f"{phase}/{layer}"] - _per_channel(bias, b)


def _relu(x: Array, b: Array) -> Iterator[Hypothesis]:
    negative = x < 0
    if negative.any():
        slope = float(np.mean(b[negative] / x[negative]))
        yield f"negative values keep a slope of {slope:.3g} (leaky ReLU)", np.where(negative, slope * x, x)
    yield "capped at 6 (ReLU6)", np.clip(x, 0, 6)


def _batch_norm(evidence: Evidence, node: nodes.BatchNorm, x: Array, b: Array) -> Iterator[Hypothesis]:
    arrays = [_parameter(evidence, f"{node.name}.{array}") for array in ("gamma", "beta", "mean", "variance")]
    if any(array is None for array in arrays):
        return
    gamma, beta, mean, variance = (_per_channel(array, b) for array in arrays if array is not None)
    axes = (0, *range(2, x.ndim))
    own_mean, own_variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    count = x.size // x.shape[1]
    ways = {
        "by the batch's own statistics": (own_mean, own_variance),
        "by the running statistics": (mean, variance),
        "by the unbiased variance, ratio n/(n-1)": (own_mean, own_variance * count / max(count - 1, 1)),
    }
    for sentence, (centre, spread) in ways.items():
        yield f"it normalises {sentence}", gamma * (x - centre) / np.sqrt(spread + node.eps) + beta
        yield f"it normalises {sentence}, without gamma and beta", (x - centre) / np.sqrt(spread + node.eps)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt(np.sum((b - beta) ** 2, axes) / np.sum((gamma * (x - centre)) ** 2, axes))
            eps = float(np.median(1 / scale**2 - spread.reshape(-1)))
            prediction = gamma * (x - centre) / np.sqrt(spread + eps) + beta
        if np.isfinite(prediction).all():
            yield f"eps {eps:.4g} instead of {node.eps:.4g}", prediction


def _lrn(node: nodes.LRN, x: Array, b: Array) -> Iterator[Hypothesis]:
    total = over_channels(x * x, node.size)
    base = node.k + node.alpha * total
    for times, factor in (("divided", 1 / node.size), ("multiplied", node.size)):
        for again, power in (("", 1), (" twice", 2)):
            other = node.k + node.alpha * factor**power * total
            yield f"alpha is {times} by the size {node.size}{again}", x / other**node.beta
    with np.errstate(all="ignore"):
        k = float(np.nanmedian((x / b) ** (1 / node.beta) - node.alpha * total))
        beta = float(np.nanmedian(np.log(x / b) / np.log(base)))
    if k > 0:
        yield f"k = {k:.4g} instead of {node.k:g}", x / (k + node.alpha * total) ** node.beta
    yield f"beta = {beta:.4g} instead of {node.beta:g}", x / base**beta
    both = f"k = 1 instead of {node.k:g}, and alpha is divided by the size {node.size}"
    yield both, x / (1 + node.alpha / node.size * total) ** node.beta
    for size in range(1, min(2 * x.shape[1], MOST_CHANNELS) + 1):
        if size != node.size:
            yield (
                f"size {size} instead of {node.size}",
                x / (node.k + node.alpha * over_channels(x * x, size)) ** node.beta,
            )
    rows = over_channels((x * x).swapaxes(1, 2), node.size).swapaxes(1, 2)
    yield "it normalises over rows instead of channels", x / (node.k + node.alpha * rows) ** node.beta


def _log_softmax(x: Array) -> Iterator[Hypothesis]:
    powers = np.exp(x - x.max(1, keepdims=True))
    yield "it yields probabilities instead of their logarithms", powers / powers.sum(1, keepdims=True)
    over = np.exp(x - x.max(0)).sum(0)
    yield "it goes over the batch instead of the classes", x - x.max(0) - np.log(over)


def _losses(evidence: Evidence) -> Iterator[Hypothesis]:
    """The loss if auxiliary heads weighed otherwise, or labels were not smoothed."""
    network, labels, smoothing = evidence.network, evidence.step_input.labels, evidence.optimizer.label_smoothing
    scores = [evidence.other.get(f"forward/{name}") for name in (network.output, *network.heads)]
    if any(one is None for one in scores):
        return

    def loss(smoothing: float, *weights: float) -> Array:
        costs = [_cross_entropy(one.astype(np.float64), labels, smoothing) for one in scores if one is not None]
        return np.array([np.dot((1.0, *weights), costs) / evidence.step_input.divisor])

    weights = tuple(network.heads.values())
    if smoothing:
        yield "the labels are not smoothed", loss(0.0, *weights)
    if weights:
        named = " and ".join(f"{weight:g}" for weight in sorted(set(weights)))
        yield "auxiliary heads do not enter the loss", loss(smoothing, *(0 for _ in weights))
        yield f"auxiliary heads weigh 1 instead of {named}", loss(smoothing, *(1 for _ in weights))


def _cross_entropy(scores: Array, labels: Array, smoothing: float) -> float:
    """Of class scores [N,K] and labels [N], a share `smoothing` of which is spread over all classes, summed over the images."""
    top = scores.max(1)
    wanted = (1 - smoothing) * scores[np.arange(len(labels)), labels] + smoothing * scores.mean(1)
    return float((top + np.log(np.exp(scores - top[:, None]).sum(1)) - wanted).sum())


def _exchanged_padding(evidence: Evidence, layer: str, x: Array) -> Iterator[Hypothesis]:
    """Where padding is uneven: as much before as should be behind, which is also what as much on both sides comes to with a stride of 2."""
    where = evidence.network.layers[layer]
    node = where.node
    if not isinstance(node, nodes.Conv | nodes.MaxPool) or all(a == b for a, b in node.pads(where.input)):
        return
    _, rows, columns = where.output
    size = node.kernel if isinstance(node, nodes.Conv) else node.size
    fill = 0.0 if isinstance(node, nodes.Conv) else np.nan
    edges = ((0, 0), (0, 0), *(pad[::-1] for pad in node.pads(where.input)))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, edges, constant_values=fill), (size, size), (2, 3))  # type: ignore[call-overload]
    windows = windows[:, :, :: node.stride, :: node.stride][:, :, :rows, :columns]
    sentence = "the odd element of padding stands before instead of behind"
    if not isinstance(node, nodes.Conv):
        yield sentence, (np.nanmean if isinstance(node, nodes.AvgPool) else np.nanmax)(windows, (4, 5))
        return
    weight, bias = (_parameter(evidence, f"{layer}.{name}") for name in ("weight", "bias"))
    if weight is not None and node.groups == 1:
        made = np.einsum("ncyxij,ocij->noyx", windows, weight, optimize=True)
        yield sentence, made if bias is None else made + _per_channel(bias, made)


def _branches(evidence: Evidence, phase: str, layer: str) -> Iterator[Hypothesis]:
    sources = evidence.network.layers[layer].sources
    parts = [evidence.other[f"{phase}/{source}"] for source in sources]
    for order in itertools.permutations(parts) if len(parts) <= MOST_BRANCHES else ():
        yield "its branches stand in another order", np.concatenate(order, axis=1)


def _dropout(evidence: Evidence, phase: str, node: nodes.Dropout, x: Array, b: Array) -> Iterator[Hypothesis]:
    if phase == "eval":
        yield f"inference scales by p = {node.rate:g} instead of 1-p", x * node.rate
        yield f"inference scales by 1-p = {1 - node.rate:g} (downscale_in_infer)", x * (1 - node.rate)
        if node.test_scale != 1 and ((b == 0) & (x != 0)).any():
            yield "dropout acts in inference", np.where(b == 0, 0, x)
        return
    mask = evidence.step_input.masks.get(node.name)
    if mask is not None:
        yield f"training scales the kept by 1/(1-p), p = {node.rate:g} (upscale_in_train)", x * mask / (1 - node.rate)
        yield "training does not scale the kept (downscale_in_infer)", x * mask
        yield "the mask is inverted: what should be kept is dropped", x * ~mask.astype(bool)


def _pool(node: nodes.MaxPool, x: Array, shape: nodes.Shape) -> Iterator[Hypothesis]:
    size, stride = node.size, node.stride
    rows, columns = shape[1:]
    pad = (
        (0, 0),
        (0, 0),
        (0, max(0, (rows - 1) * stride + size - x.shape[2])),
        (0, max(0, (columns - 1) * stride + size - x.shape[3])),
    )
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad, constant_values=np.nan), (size, size), (2, 3))  # type: ignore[call-overload]
    windows = windows[:, :, ::stride, ::stride][:, :, :rows, :columns]
    yield "it takes the maximum", np.nanmax(windows, (4, 5))
    yield "it takes the average", np.nanmean(windows, (4, 5))
    yield "it takes the top left pixel", windows[..., 0, 0]


def _parameter(evidence: Evidence, name: str) -> Array | None:
    """What the other side's parameter was before this step's update."""
    for record, key in ((evidence.other_before, f"update/{name}"), (evidence.other, f"start/{name}")):
        if key in record:
            return record[key].astype(np.float64)
    return None


def _per_channel(array: Array, like: Array) -> Array:
    return array.reshape(1, -1, *[1] * (like.ndim - 2))
