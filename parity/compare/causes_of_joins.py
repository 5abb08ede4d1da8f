"""Hypotheses about the ends of branches, sums and products, and about shortcuts that add channels of zeros."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from parity.arrays import Array
from parity.compare.causes import Hypothesis
from parity.compare.layer_run import Earlier, Run, mistake
from parity.compare.numpy_layers import hard_sigmoid, multiply, with_equal_axes
from parity.network.nodes import SIDES, Add, Branches, Multiply, PadChannels, ReLU, Sigmoid, SiLU

MOST_BRANCHES = 5
"""Most branches whose orders are all tried."""

Join = Callable[[Sequence[Array]], Array]
"""Joins the outputs of branches."""


def of_branches(node: Branches, run: Run) -> Iterator[Hypothesis]:
    """Yield other orders of the branches."""
    for order in itertools.permutations(run.parts) if len(run.parts) <= MOST_BRANCHES else ():
        yield mistake("has its branches in another order", "has them in the network's", np.concatenate(order, axis=1))


def of_a_sum(node: Add, run: Run) -> Iterator[Hypothesis]:
    """Yield sums that lack a branch or take another tensor for one, and other ways to join the branches."""
    total = _sum(run.parts)
    yield from _without_a_branch(run, _sum, "adds it")
    yield mistake("multiplies its branches", "adds them", multiply(run.parts))
    yield mistake("averages its branches", "adds them", total / len(run.parts))
    yield mistake("applies a ReLU to its sum", "applies none", np.maximum(total, 0))
    for place, name in enumerate(_names(run)):
        yield mistake(f"subtracts {name}", "adds it", total - 2 * run.parts[place])
    yield from _of_other_tensors(run, _sum)


def of_a_product(node: Multiply, run: Run) -> Iterator[Hypothesis]:
    """Yield products that lack a factor or take another tensor for one, and other ways to join the branches."""
    yield from _without_a_branch(run, multiply, "multiplies by it")
    yield mistake("adds its branches", "multiplies them", _sum(run.parts))
    for place, name in enumerate(_names(run)):
        for word, factor in (("-", 1 - run.parts[place]), ("+", 1 + run.parts[place])):
            made = multiply(_replaced(run.parts, place, factor))
            yield mistake(f"multiplies by 1 {word} {name}", f"multiplies by {name}", made)
    yield from _of_other_tensors(run, multiply)


def of_padded_channels(node: PadChannels, run: Run) -> Iterator[Hypothesis]:
    """Yield zeros on another side, and channels that are repeated."""
    count = run.x.shape[1]
    for side in SIDES:
        made = np.pad(run.x, ((0, 0), replace(node, side=side).pad(run.where.input), (0, 0), (0, 0)))
        yield mistake(f"pads {side} the channels of its input", f"pads {node.side} them", made)
    number = np.arange(node.channels)
    yield mistake("repeats the channels of its input", "adds channels of zeros", run.x[:, number % count])
    each = "repeats each channel of its input beside it"
    yield mistake(each, "adds channels of zeros", run.x[:, number * count // node.channels])


def _sum(parts: Sequence[Array]) -> Array:
    """Add arrays [N,C,H,W], and [N,C] to whole channels."""
    return reduce(np.add, with_equal_axes(parts))


def _names(run: Run) -> list[str]:
    """Return what each input is, in words."""
    return [f"the output of {name}" if name else "the images" for name in run.where.sources]


def _replaced(parts: Sequence[Array], place: int, *instead: Array) -> list[Array]:
    """Return the parts with those `instead` of the one at `place`."""
    return [*parts[:place], *instead, *parts[place + 1 :]]


def _without_a_branch(run: Run, join: Join, instead: str) -> Iterator[Hypothesis]:
    for place, name in enumerate(_names(run)):
        yield mistake(f"leaves out {name}", instead, join(_replaced(run.parts, place)))


def _of_other_tensors(run: Run, join: Join) -> Iterator[Hypothesis]:
    """Yield the join with another tensor in place of one branch: its ReLU, or what was computed before it."""
    for place, (name, source) in enumerate(zip(_names(run), run.where.sources, strict=True)):
        part = run.parts[place]
        made = join(_replaced(run.parts, place, np.maximum(part, 0)))
        yield mistake(f"takes {name} after a ReLU", "takes it as it is", made)
        for words, tensor in _tensors_before(run.earlier[place], part, source):
            yield mistake(f"takes {words}", f"takes {name}", join(_replaced(run.parts, place, tensor)))


def _tensors_before(earlier: Sequence[Earlier], part: Array, source: str) -> Iterator[tuple[str, Array]]:
    """Yield, in words, the tensors `earlier` on the branch of `part` that fit in its place. `source` computes `part`."""
    for number, before in enumerate(earlier):
        name = f"the output of {before.name}" if before.name else "the images"
        if before.output.shape == part.shape:
            activation = number == 0 and isinstance(before.node, ReLU | SiLU | Sigmoid)
            yield f"{name} (the input of {source})" if activation else name, before.output
            if activation and isinstance(before.node, Sigmoid):
                for formula, slope in HARD.items():
                    yield f"a hard sigmoid ({formula}) of {name}", hard_sigmoid(before.output, slope)
        elif before.output.ndim == 4 and before.output[:, :, ::2, ::2].shape == part.shape:
            yield f"every second pixel of {name}", before.output[:, :, ::2, ::2]


HARD = {"x/6 + 0.5, from 0 to 1": 1 / 6, "0.2x + 0.5, from 0 to 1": 0.2}
"""Hard sigmoids, of PaddlePaddle and PyTorch, and of Keras and ONNX: formula -> slope."""
