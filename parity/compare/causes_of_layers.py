"""Causes of a difference in the training of our networks: which side does not follow the network, and what it does instead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from parity.arrays import Array
from parity.compare.causes import SAME, Cause, Hypothesis, differing, explain, rearrangements, tensor_hypotheses
from parity.compare.causes_of_gradients import gradient_hypotheses
from parity.compare.causes_of_joins import HARD, of_a_product, of_a_sum, of_branches, of_padded_channels
from parity.compare.causes_of_updates import update_hypotheses
from parity.compare.evidence import Evidence, Record
from parity.compare.expected import RIGHT, expected_tensor, find_wrong_sides
from parity.compare.layer_run import Earlier, Run, mistake
from parity.compare.numpy_layers import (
    average_pool,
    batch_statistics,
    convolve,
    costs_of_images,
    cross_entropy,
    gelu,
    hard_sigmoid,
    layer_output,
    max_pool,
    per_channel,
    sigmoid,
)
from parity.compare.record import inputs_of
from parity.compare.relative_error import distance
from parity.network import nodes
from parity.network.initialisers import float32
from parity.network.windows import over_channels

STAGED = ("eval", "forward")
"""The phases in which layers record outputs."""

MOST_STRIDE = 4
"""The largest stride that is tried if a map has another size."""

MOST_CHANNELS = 11
"""The largest size of a response normalisation that is tried."""


def likely_cause(evidence: Evidence, name: str) -> Cause | None:
    """Return the likely mistake of the wrong side in the tensor `name`.

    Hypotheses are tried if one side does not follow the network and the recipe, and the other does. If none fits, the cause only says
    which side is wrong. None if that is unknown: both sides are wrong or both right, or nothing says what is right.
    """
    wrong_sides = find_wrong_sides(evidence, name)
    if wrong_sides is None or len(wrong_sides) != 1:
        return None
    (wrong,) = wrong_sides
    names = evidence.names[1 - wrong], evidence.names[wrong]
    tensors = evidence.records[1 - wrong].get(name), evidence.records[wrong].get(name)
    it = _place(name)
    cause = explain(*tensors, names, it, _allowed(evidence, wrong, name), _of_another_shape(evidence, wrong, name))
    found = cause or Cause(f"{names[1]}'s {it} does not follow {_law(name)}, {names[0]}'s does", generic=True)
    return replace(found, wrong=evidence.names[wrong])


def _place(name: str) -> str:
    """Return the tensor's name for people; its phase is elsewhere in the sentence."""
    phase, _, tensor = name.partition("/")
    words = {"backward": f"gradient of {tensor}", "gradient": f"gradient of {tensor}", "fresh": f"fresh {tensor}"}
    return "number of wrong images" if name == "loss/wrong" else words.get(phase, tensor)


def _law(name: str) -> str:
    """Return what defines the tensor: initialiser, check, recipe or network."""
    phase = name.partition("/")[0]
    if phase == "fresh":
        return "the initialiser"
    if phase in ("start", "input") or name.endswith(".mask"):
        return "the check"
    return "the recipe" if phase in ("update", "loss") else "the network"


def _allowed(evidence: Evidence, wrong: int, name: str) -> Iterator[Hypothesis]:
    """Yield the hypotheses about the side `wrong`, without those that predict the right tensor."""
    own, other = evidence.records[wrong], evidence.records[1 - wrong]
    expected = expected_tensor(evidence, own, name)
    right = other[name] if expected is None else expected
    apart = distance(right, own[name])
    for hypothesis in _hypotheses(evidence, own, other, name):
        if distance(right, hypothesis.prediction) > RIGHT * apart:
            yield hypothesis


def _of_another_shape(evidence: Evidence, wrong: int, name: str) -> Iterator[Hypothesis]:
    """Yield mistakes that change the shape of an output: nothing is computed, or a window has another stride, padding or rounding."""
    phase, _, layer = name.partition("/")
    own = evidence.records[wrong]
    inputs = inputs_of(evidence.network, layer, own, phase, evidence.step_input.images) if phase in STAGED else None
    if inputs is None or len(inputs) > 1:
        return
    where, arrays = evidence.network.layers[layer], evidence.parameters(own, layer)
    yield mistake("returns its input unchanged", f"computes a {type(where.node).__name__}", inputs[0])
    for does, instead, node in _other_windows(where.node):
        try:
            changed = replace(where, node=node, output=node.output(where.input))
            made = layer_output(changed, inputs, arrays, phase == "forward")
        except ValueError:  # the window does not fit, or the side has another weight
            continue
        yield mistake(does, instead, made)


def _other_windows(node: nodes.Node) -> Iterator[tuple[str, str, nodes.Node]]:
    """Yield convolutions or pools with another stride, padding or rounding than `node`, and what each does instead of what."""
    if not isinstance(node, nodes.Conv | nodes.MaxPool):
        return
    for stride in {*range(1, MOST_STRIDE + 1)} - {node.stride}:
        yield f"has stride {stride}", f"has stride {node.stride}", replace(node, stride=stride)
    size = node.kernel if isinstance(node, nodes.Conv) else node.size
    for padding in {*range(size)} - {node.padding}:
        words = f"pads by {node.padding}" if isinstance(node.padding, int) else "pads as SAME says"
        yield f"pads by {padding}", words, replace(node, padding=padding)
    if isinstance(node, nodes.MaxPool):
        ways = {True: "rounds the size of its output up", False: "rounds the size of its output down"}
        yield ways[not node.ceil], ways[node.ceil], replace(node, ceil=not node.ceil)


def _hypotheses(evidence: Evidence, own: Record, other: Record, name: str) -> Iterator[Hypothesis]:
    phase, _, tensor = name.partition("/")
    if phase in STAGED and not tensor.endswith(".mask"):
        yield from _of_a_layer(evidence, own, phase, tensor)
    if name == "loss/loss":
        yield from _losses(evidence, own)
    if name == "loss/wrong":
        right = len(evidence.step_input.labels) - other[name].astype(np.float64)
        yield Hypothesis("{wrong} counts right images, {right} wrong ones", right)
    if name == "input/images":
        yield from _images(own[name], other[name])
    if phase == "update":
        yield from update_hypotheses(evidence, own, tensor)
    if phase in ("backward", "gradient"):
        yield from gradient_hypotheses(evidence, own, other, name)
    others = _alike(other, name) if phase in ("fresh", "start", "update", "gradient") else {}
    yield from tensor_hypotheses(other[name], own[name], others, _factors(evidence, name))


def _alike(record: Record, name: str) -> dict[str, Array]:
    """Return the other tensors of the same phase and shape as the tensor `name`."""
    phase, shape = name.partition("/")[0], record[name].shape
    found = {n: a for n, a in record.items() if n != name and n.startswith(f"{phase}/") and a.shape == shape}
    return {n.partition("/")[2]: array for n, array in found.items()}


def _factors(evidence: Evidence, name: str) -> Iterator[tuple[str, float]]:
    phase, count = name.partition("/")[0], len(evidence.step_input.labels)
    yield "with the sign reversed", -1.0
    if phase == "input":
        yield "not divided by 255", 255.0
        yield "divided by 255 twice", 1 / 255
        yield "divided by 256 instead of 255", 255 / 256
    classes = math.prod(evidence.network.shapes[evidence.network.output])
    if phase == "loss" and classes > 1:
        yield f"divided by the number of classes, {classes}, too", 1 / classes
    divisor = evidence.step_input.divisor
    if name == "loss/cost":
        yield f"averaged over the batch of {count}", 1 / count
    if name == "loss/loss":
        yield (
            f"times {divisor}: it is summed over the batch of {count}, {{right}}'s divided by {divisor}",
            float(divisor),
        )
        yield f"divided by {divisor} once more", 1 / divisor
        if divisor != count:
            yield (
                f"times {divisor}/{count}: it is divided by the batch's own size, {{right}}'s by the nominal one",
                divisor / count,
            )


def _of_a_layer(evidence: Evidence, own: Record, phase: str, layer: str) -> Iterator[Hypothesis]:
    """Yield mistakes of this side's layer, from its own inputs."""
    where = evidence.network.layers[layer]
    inputs = inputs_of(evidence.network, layer, own, phase, evidence.step_input.images)
    if inputs is None:
        return
    joins = isinstance(where.node, nodes.Joined)
    run = Run(
        where,
        phase,
        [part.astype(np.float64) for part in inputs],
        own[f"{phase}/{layer}"].astype(np.float64),
        evidence.parameters(own, layer),
        evidence.step_input.masks.get(layer),
        [list(_before(evidence, own, phase, source)) for source in where.sources] if joins else (),
    )
    if not isinstance(where.node, nodes.Dropout | nodes.Joined):
        yield mistake("returns its input unchanged", f"computes a {type(where.node).__name__}", run.x)
    for kind, hypotheses in OF_KIND.items():
        if isinstance(where.node, kind):
            yield from hypotheses(where.node, run)
    yield from _of_another(evidence, own, run)


def _before(evidence: Evidence, own: Record, phase: str, layer: str) -> Iterator[Earlier]:
    """Yield the tensors from which `layer` is computed, the nearest first, back to the last layer with several inputs."""
    layers = evidence.network.layers
    while layer and len(layers[layer].sources) == 1:
        node, (source,) = layers[layer].node, layers[layer].sources
        inputs = inputs_of(evidence.network, layer, own, phase, evidence.step_input.images)
        if inputs is None:
            return
        yield Earlier(source, inputs[0].astype(np.float64), node)
        layer = source


def _of_another(evidence: Evidence, own: Record, run: Run) -> Iterator[Hypothesis]:
    """Yield the layer computed with the parameters of another layer of its kind."""
    node = run.where.node
    shapes = {name: array.shape for name, array in run.arrays.items()}
    for name, where in evidence.network.layers.items():
        arrays = evidence.parameters(own, name) if type(where.node) is type(node) and name != node.name else {}
        if arrays and {n: a.shape for n, a in arrays.items()} == shapes:
            made = layer_output(run.where, run.parts, arrays, run.training, run.mask)
            yield mistake(f"computes with the parameters of {name}", "with its own", made)


def _images(own: Array, other: Array) -> Iterator[Hypothesis]:
    """Yield images that are moved by a pixel; the new edge may hold anything."""
    for axis, words in ((2, ("down", "up")), (3, ("right", "left"))):
        for step, way in zip((1, -1), words, strict=True):
            edge: list[slice] = [slice(None)] * 4
            edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
            moved = np.roll(other, step, axis).astype(np.float64)
            moved[tuple(edge)] = own[tuple(edge)]
            yield Hypothesis(f"{{wrong}}'s {{it}} are {{right}}'s, moved by 1 pixel {way}", moved)


def _flatten(node: nodes.Flatten, run: Run) -> Iterator[Hypothesis]:
    if run.x.ndim == 4:
        last = run.x.transpose(0, 2, 3, 1).reshape(run.b.shape)
        yield mistake("flattens channels last: as height, width, channels", "flattens as channels, height, width", last)
        columns = run.x.swapaxes(2, 3).reshape(run.b.shape)
        yield mistake("flattens column by column: as channels, width, height", "as channels, height, width", columns)


def _tanh(node: nodes.Tanh, run: Run) -> Iterator[Hypothesis]:
    yield mistake("is LeCun's scaled tanh, 1.7159 tanh(2x/3)", "is the plain tanh", 1.7159 * np.tanh(2 / 3 * run.x))
    yield mistake("is a sigmoid", "is a tanh", sigmoid(run.x))


def _gelu(node: nodes.GELU, run: Run) -> Iterator[Hypothesis]:
    x = run.x
    tanh = x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    yield mistake("is the approximation by tanh", "is the exact one", tanh)
    yield mistake("is x * sigmoid(1.702 x)", "is the exact one", x * sigmoid(1.702 * x))
    yield mistake("is a SiLU, x * sigmoid(x)", "is a GELU", x * sigmoid(x))
    yield mistake("is a ReLU", "is a GELU", np.maximum(x, 0))


def _silu(node: nodes.SiLU, run: Run) -> Iterator[Hypothesis]:
    x, instead = run.x, "is a SiLU, x * sigmoid(x)"
    for formula, slope in HARD.items():
        does = f"is a hardswish, x times a hard sigmoid ({formula})"
        yield mistake(does, instead, x * hard_sigmoid(x, slope))
    yield mistake("is a ReLU", instead, np.maximum(x, 0))
    yield mistake("is a GELU", instead, gelu(x))
    yield mistake("is x * sigmoid(1.702 x)", instead, x * sigmoid(1.702 * x))
    yield mistake("is a sigmoid", instead, sigmoid(x))


def _sigmoid(node: nodes.Sigmoid, run: Run) -> Iterator[Hypothesis]:
    x, instead = run.x, "is a sigmoid"
    for formula, slope in HARD.items():
        yield mistake(f"is a hard sigmoid ({formula})", instead, hard_sigmoid(x, slope))
    yield mistake("is a tanh", instead, np.tanh(x))
    yield mistake("is 1 - sigmoid(x)", instead, 1 - sigmoid(x))
    yield mistake("is a ReLU", instead, np.maximum(x, 0))


def _relu(node: nodes.ReLU, run: Run) -> Iterator[Hypothesis]:
    x, b = run.x, run.b
    negative = x < 0
    if negative.any():
        slope = float(np.mean(b[negative] / x[negative]))
        does = f"lets negative values through with a slope of {slope:.3g} (leaky ReLU)"
        yield mistake(does, "sets them to zero", np.where(negative, slope * x, x))
    if b.max() < x.max():
        cap = float(b.max())
        known = " (ReLU6)" if abs(cap - 6) < 1e-9 else ""
        yield mistake(f"stops at {cap:.6g}{known}", "does not", np.clip(x, 0, cap))
    yield mistake("is a sigmoid times its input (SiLU)", "is a ReLU", x * sigmoid(x))
    yield mistake("is a GELU", "is a ReLU", gelu(x))
    yield mistake("takes the absolute value", "sets negative values to zero", np.abs(x))


def _batch_norm(node: nodes.BatchNorm, run: Run) -> Iterator[Hypothesis]:
    x, b, training = run.x, run.b, run.training
    gamma, beta, mean, variance = (per_channel(run.arrays[name], b) for name in ("gamma", "beta", "mean", "variance"))
    own_mean, own_variance = (per_channel(array, b) for array in batch_statistics(x, "biased"))
    count = x.size // x.shape[1]
    batch, running = "by the batch's own statistics", "by the running statistics"
    ways = {batch: (own_mean, own_variance), running: (mean, variance)}
    right = batch if training else running
    unbiased = "by the unbiased variance of the batch, ratio n/(n-1)"
    ways[unbiased] = (own_mean, own_variance * count / max(count - 1, 1))
    for words, (centre, spread) in ways.items():
        root = np.sqrt(spread + node.eps)
        plain = (x - centre) / root
        does, instead = f"normalises {words}", f"{right if words != unbiased or not training else 'by the biased one'}"
        if words != right:
            yield mistake(does, instead, gamma * plain + beta)
        prefix = "" if words == right else f"{does}, and "
        yield mistake(f"{prefix}leaves gamma and beta out", "applies both", plain)
        yield mistake(f"{prefix}leaves gamma out", "applies it", plain + beta)
        yield mistake(f"{prefix}leaves beta out", "adds it", gamma * plain)
        yield mistake(
            f"{prefix}adds eps after the square root",
            "adds it before",
            gamma * (x - centre) / (np.sqrt(spread) + node.eps) + beta,
        )
        yield mistake(f"{prefix}divides by the variance", "does", gamma * (x - centre) / (spread + node.eps) + beta)
        eps = _eps(node, x, b, gamma, beta, centre, spread)
        if eps is not None and abs(eps - node.eps) > SAME * node.eps:
            one, other = differing(eps, node.eps)
            yield mistake(
                f"{prefix}uses eps {one}", f"uses {other}", gamma * (x - centre) / np.sqrt(spread + eps) + beta
            )


def _eps(
    node: nodes.BatchNorm, x: Array, b: Array, gamma: Array, beta: Array, centre: Array, spread: Array
) -> float | None:
    """Return the eps that explains the variance of the outputs, if there is one."""
    axes = (0, *range(2, x.ndim))
    with np.errstate(all="ignore"):
        squares = np.sum((gamma * (x - centre)) ** 2, axes) / np.sum((b - beta) ** 2, axes)
        eps = float(np.median(squares - spread.reshape(-1)))
    return eps if np.isfinite(eps) and (spread + eps > 0).all() else None


def _lrn(node: nodes.LRN, run: Run) -> Iterator[Hypothesis]:
    x, b = run.x, run.b
    total = over_channels(x * x, node.size)
    base = node.k + node.alpha * total
    for times, factor in (("divides", 1 / node.size), ("multiplies", node.size)):
        for again, power in (("", 1), (" twice", 2)):
            other = node.k + node.alpha * factor**power * total
            yield mistake(f"{times} alpha by the size {node.size}{again}", "takes it as it is", x / other**node.beta)
    with np.errstate(all="ignore"):
        k = float(np.nanmedian((x / b) ** (1 / node.beta) - node.alpha * total))
        beta = float(np.nanmedian(np.log(x / b) / np.log(base)))
        alpha = float(np.nanmedian(((x / b) ** (1 / node.beta) - node.k) / total))
    if k > 0:
        one, other_k = differing(k, node.k)
        yield mistake(f"uses k = {one}", f"uses {other_k}", x / (k + node.alpha * total) ** node.beta)
    one, right = differing(beta, node.beta)
    yield mistake(f"uses beta = {one}", f"uses {right}", x / base**beta)
    if alpha > 0:
        one, right = differing(alpha, node.alpha)
        yield mistake(f"uses alpha = {one}", f"uses {right}", x / (node.k + alpha * total) ** node.beta)
    does = f"uses k = 1 and divides alpha by the size {node.size}"
    yield mistake(
        does, f"uses {node.k:g} and takes alpha as it is", x / (1 + node.alpha / node.size * total) ** node.beta
    )
    for size in range(1, min(2 * x.shape[1], MOST_CHANNELS) + 1):
        if size != node.size:
            prediction = x / (node.k + node.alpha * over_channels(x * x, size)) ** node.beta
            yield mistake(f"uses size {size}", f"uses {node.size}", prediction)
    rows = over_channels((x * x).swapaxes(1, 2), node.size).swapaxes(1, 2)
    yield mistake("normalises over rows", "normalises over channels", x / (node.k + node.alpha * rows) ** node.beta)


def _log_softmax(node: nodes.LogSoftmax, run: Run) -> Iterator[Hypothesis]:
    x = run.x
    below = x - x.max(1, keepdims=True)
    powers = np.exp(below)
    scores = below - np.log(powers.sum(1, keepdims=True))
    yield mistake("yields probabilities", "yields their logarithms", powers / powers.sum(1, keepdims=True))
    over = np.exp(x - x.max(0)).sum(0)
    yield mistake("goes over the batch", "goes over the classes", x - x.max(0) - np.log(over))
    yield mistake("cuts scores off at 64 below the largest", "does not", np.maximum(below, -64.0) + (scores - below))


def _losses(evidence: Evidence, own: Record) -> Iterator[Hypothesis]:
    """Yield the loss with other weights of auxiliary heads, another label smoothing, or clipped scores."""
    network, labels, smoothing = evidence.network, evidence.step_input.labels, evidence.optimizer.label_smoothing
    scores = [own.get(f"forward/{name}") for name in (network.output, *network.heads)]
    if any(one is None for one in scores):
        return

    def loss(smoothing: float, weights: Sequence[float], lowest: float = -np.inf) -> Array:
        cut = [np.maximum(one.astype(float), one.max(1, keepdims=True) + lowest) for one in scores if one is not None]
        costs = [cross_entropy(one, labels, smoothing) for one in cut]
        return np.array([np.dot((1.0, *weights), costs) / evidence.step_input.divisor])

    weights = tuple(network.heads.values())
    costs = [costs_of_images(one.astype(np.float64), labels) for one in scores if one is not None]
    if not smoothing:
        for most in (64.0, 100.0):
            capped = np.dot((1.0, *weights), [np.minimum(one, most).sum() for one in costs])
            does = f"counts at most {most:g} nats an image"
            yield mistake(does, "counts all", np.array([capped / evidence.step_input.divisor]))
        for eps in (1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5):
            added = np.dot((1.0, *weights), [-np.log(np.exp(-one) + eps).sum() for one in costs])
            does = f"adds {eps:g} to the probability of a label before its logarithm"
            yield mistake(does, "does not", np.array([added / evidence.step_input.divisor]))
    for lowest in (-64.0, -100.0):
        does = f"takes no score to be more than {-lowest:g} below the largest"
        yield mistake(does, "takes all as they are", loss(smoothing, weights, lowest))
    if smoothing:
        yield mistake("does not smooth the labels", f"smooths them by {smoothing:g}", loss(0.0, weights))
        classes = math.prod(network.shapes[network.output])
        others = loss(float32(smoothing * classes / (classes - 1)), weights) if classes > 1 else loss(0.0, weights)
        yield mistake("spreads the smoothing among the other classes only", "among all classes", others)
    else:
        yield mistake("smooths the labels by 0.1", "does not smooth them", loss(float32(0.1), weights))
    if weights:
        named = " and ".join(f"{weight:g}" for weight in sorted(set(weights)))
        yield mistake("leaves auxiliary heads out", f"weighs them {named}", loss(smoothing, [0.0] * len(weights)))
        yield mistake("weighs auxiliary heads 1", f"weighs them {named}", loss(smoothing, [1.0] * len(weights)))


def _conv(node: nodes.Conv, run: Run) -> Iterator[Hypothesis]:
    """Yield other paddings of a convolution with the same output shape."""
    x, weight, bias = run.x, run.arrays["weight"], run.arrays.get("bias", np.zeros(node.filters))
    pads = node.pads(run.where.input)
    if any(before != behind for before, behind in pads):
        other = [(behind, before) for before, behind in pads]
        made = convolve(node, x, weight, other)
        yield mistake(
            "puts the extra row and column of padding before the image",
            "puts them after",
            made + per_channel(bias, made),
        )
    if any(before or behind for before, behind in pads):
        for mode, words in (
            ("reflect", "mirrors the edge to pad"),
            ("edge", "repeats the edge to pad"),
            ("wrap", "pads by the opposite edge"),
        ):
            around = np.pad(x, ((0, 0), (0, 0), *pads), mode=mode)  # type: ignore[call-overload]
            made = convolve(node, around, weight, [(0, 0), (0, 0)])
            yield mistake(words, "pads by zeros", made + per_channel(bias, made))
    if node.kernel > 1:
        wide = np.zeros((*weight.shape[:2], 2 * node.kernel - 1, 2 * node.kernel - 1))
        wide[..., ::2, ::2] = weight
        room = node.kernel - 1  # the wider kernel needs it on both sides together to keep the shape
        more = [(before + room // 2, behind + room - room // 2) for before, behind in pads]
        made = convolve(replace(node, kernel=2 * node.kernel - 1), x, wide, more)
        yield mistake("has a dilation 2", "has none", made + per_channel(bias, made))


def _affine(node: nodes.Conv | nodes.Linear, run: Run) -> Iterator[Hypothesis]:
    """Yield other uses of a layer's weight, bias or input."""
    x, arrays = run.x, run.arrays

    def made(x: Array = x, **changed: Array) -> Array:
        return layer_output(run.where, [x], {**arrays, **changed}, run.training)

    if node.bias:
        yield mistake("leaves the bias out", "adds it", made(bias=np.zeros_like(arrays["bias"])))
        yield mistake("adds the bias twice", "adds it once", made(bias=2 * arrays["bias"]))
    for words, weight in rearrangements(arrays["weight"]):
        if weight.shape == arrays["weight"].shape:
            yield mistake(f"uses its weight {words}", "uses it unchanged", made(weight=np.ascontiguousarray(weight)))
    for words, moved in rearrangements(x):
        if moved.shape == x.shape:
            yield mistake(f"uses its input {words}", "uses it unchanged", made(np.ascontiguousarray(moved)))


def _dropout(node: nodes.Dropout, run: Run) -> Iterator[Hypothesis]:
    x, b, mask = run.x, run.b, run.mask
    p, keeps = f"p = {node.rate:g}", f"1-p = {1 - node.rate:g}"
    if not run.training:
        right = "does not scale" if node.test_scale == 1 else f"scales by {keeps} (downscale_in_infer)"
        if node.test_scale != 1:
            yield mistake("returns its input unchanged in inference (upscale_in_train, or no dropout)", right, x)
        yield mistake(f"scales by {p} in inference", right, x * node.rate)
        yield mistake(f"scales by {keeps} in inference (downscale_in_infer)", right, x * (1 - node.rate))
        yield mistake(f"scales by 1/(1-p) in inference, {p}", right, x / (1 - node.rate))
        if ((b == 0) & (x != 0)).any():
            for words, scale in (
                ("drops in inference", 1.0),
                ("drops in inference and scales the rest", 1 / (1 - node.rate)),
            ):
                yield mistake(words, "drops nothing", np.where(b == 0, 0, x * scale))
        return
    if mask is None:
        return
    scale = node.train_scale
    right = f"scales the kept by {'1' if scale == 1 else '1/(1-p)'}"
    yield mistake(f"scales the kept by 1/(1-p), {p} (upscale_in_train)", right, x * mask / (1 - node.rate))
    yield mistake("does not scale the kept (downscale_in_infer)", right, x * mask)
    yield mistake("keeps what should be dropped: the mask is inverted", "drops it", x * ~mask.astype(bool) * scale)
    yield mistake("scales what it should drop, too: it drops nothing", "drops", x * scale)
    images = mask[:1] if len(mask) else mask
    yield mistake("gives all images the mask of the first", "gives each its own", x * images * scale)
    if (b == 0).any() and (b != 0).any():
        kept = np.where((b == 0) & (x != 0), 0.0, x) * scale
        sentence = "{wrong}'s {it} drops by another mask, {right}'s by the mask of the check"
        yield Hypothesis(sentence, kept, generic=True)


def _pool(node: nodes.MaxPool, run: Run) -> Iterator[Hypothesis]:
    x = run.x
    pads, average = node.pads(x.shape[1:]), isinstance(node, nodes.AvgPool)
    right = "takes the average" if average else "takes the maximum"
    with np.errstate(invalid="ignore"):
        yield mistake("takes the maximum", right, max_pool(node, x, pads))
        yield mistake("takes the average", right, average_pool(node, x, pads))
        if any(before or behind for before, behind in pads):
            around = np.pad(x, ((0, 0), (0, 0), *pads))
            bare = [(0, 0), (0, 0)]
            kind = average_pool if average else max_pool
            does = "counts padding in its averages" if average else "treats padding as zeros"
            yield mistake(does, "ignores padding", kind(node, around, bare))
        if any(before != behind for before, behind in pads):
            other = [(behind, before) for before, behind in pads]
            kind = average_pool if average else max_pool
            yield mistake(
                "puts the extra row and column of padding before the image", "puts them after", kind(node, x, other)
            )
        for size in {2, 3} - {node.size, *range(1 + min(x.shape[2:]), 4)}:
            wide = replace(node, size=size, padding=(size - 1) // 2)
            if wide.output(run.where.input) == run.where.output:
                kind = average_pool if average else max_pool
                made = kind(wide, x, wide.pads(x.shape[1:]))
                yield mistake(f"has a window of {size}x{size}", f"has one of {node.size}x{node.size}", made)
        corner = nodes.MaxPool(node.name, 1, node.stride)
        yield mistake("takes the top left pixel", right, max_pool(corner, x, [(0, 0), (0, 0)]))


OF_KIND: dict[type[nodes.Node], Callable[..., Iterator[Hypothesis]]] = {
    nodes.Flatten: _flatten,
    nodes.ReLU: _relu,
    nodes.BatchNorm: _batch_norm,
    nodes.LRN: _lrn,
    nodes.Tanh: _tanh,
    nodes.GELU: _gelu,
    nodes.SiLU: _silu,
    nodes.Sigmoid: _sigmoid,
    nodes.LogSoftmax: _log_softmax,
    nodes.Branches: of_branches,
    nodes.Add: of_a_sum,
    nodes.Multiply: of_a_product,
    nodes.PadChannels: of_padded_channels,
    nodes.Dropout: _dropout,
    nodes.MaxPool: _pool,
    nodes.Conv: lambda node, run: itertools.chain(_conv(node, run), _affine(node, run)),
    nodes.Linear: _affine,
}
"""Common mistakes of each kind of layer: (node, run) -> hypotheses."""
