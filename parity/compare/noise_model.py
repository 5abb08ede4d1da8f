"""What rounding alone does in float32: derived bounds for every tensor of one step.

A side's float32 tensor is compared with the float64 one. Its bound is a small multiple of what the same side's tensor
changes by when every weight and pixel moves by one unit in the last place, and of what the kinks add: where rounding moves a
number across zero in front of a ReLU, or makes another pixel the largest of its pool, the gradient changes by a whole
element, however small the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.compare.lockstep import in_order, layer_of, run_in_lockstep
from parity.compare.one_ulp_twin import move_one_ulp, summed
from parity.compare.relative_error import Difference, distance
from parity.compare.step_inputs import RunInputs, make_twin
from parity.compare.tolerances import FACTOR, HALF_ULP, SUMS, ZERO_GRADIENT_BOUND_FLOAT32
from parity.network.graph import consumers
from parity.network.network import Network
from parity.weights.canonical_state import State

TWINS = 3


def float32_step(
    workers: Mapping[str, Worker], inputs_of: Mapping[str, RunInputs], reference: RunInputs, phases: tuple[str, ...]
) -> Iterator[tuple[str, Difference]]:
    """(side, difference) of every tensor that one float32 step records on the first two `workers`, against float64 on the first.

    `inputs_of` are in float32, `reference` is the first side's in float64. Starts all workers afresh.
    """
    names = list(workers)[:2]
    network = reference.network
    exact = next(run_in_lockstep({names[0]: (workers[names[0]], reference)}, 1, phases)).records[names[0]]
    sides = {name: (workers[name], inputs_of[name]) for name in names}
    own = next(run_in_lockstep(sides, 1, phases)).records
    noise: dict[str, dict[str, float]] = {name: {} for name in names}
    for seed in range(TWINS):
        moved = {
            name: (worker, make_twin(run_inputs, seed, inputs=True)) for name, (worker, run_inputs) in sides.items()
        }
        for name, record in next(run_in_lockstep(moved, 1, phases)).records.items():
            for tensor, array in record.items():
                error = distance(own[name].get(tensor), array)
                noise[name][tensor] = max(noise[name].get(tensor, 0.0), error)
    for name in names:
        yield from ((name, d) for d in _differences(network, exact, own, name, names[0], noise[name]))


def inference_noise(
    predict: Callable[[State, Mapping[str, np.ndarray]], Record],
    own: Record,
    state: State,
    pictures: Mapping[str, np.ndarray],
) -> dict[str, float]:
    """By tensor, the bound on the float32 error of `own`, which `predict(state, pictures)` computed in inference.

    `FACTOR` times what moving every weight and pixel by one ULP changes it by, and every weight of a long sum by more (`twin.summed`), or
    the rounding of the result where that is more.
    """
    found: dict[str, float] = {}
    for seed in range(TWINS):
        for tensor, array in predict(summed(state, seed, SUMS / FACTOR), move_one_ulp(pictures, seed)).items():
            found[tensor] = max(found.get(tensor, HALF_ULP), distance(own[tensor], array))
    return {tensor: FACTOR * error for tensor, error in found.items()}


def _differences(
    network: Network, exact: Record, own: Mapping[str, Record], side: str, first: str, noise: Mapping[str, float]
) -> Iterator[Difference]:
    record, added = own[side], kinks(network, exact, own[side])
    for tensor in in_order(network, list({**exact, **record})):
        name = tensor.partition("/")[2]
        if tensor.startswith(("start/", "input/")) or tensor.endswith(".mask"):
            if side != first:  # copied, not computed: the same bits on both sides
                yield Difference(tensor, distance(own[first].get(tensor), record.get(tensor)), 0.0)
        elif tensor.startswith("gradient/") and name in network.zero_gradients:
            weight = record[tensor.removesuffix("bias") + "weight"]
            yield Difference(
                tensor, float(np.linalg.norm(record[tensor]) / np.linalg.norm(weight)), ZERO_GRADIENT_BOUND_FLOAT32
            )
        else:
            bound = FACTOR * max(
                noise.get(tensor, 0.0) + added.get(layer_of(name), 0.0) * _share(tensor, exact), HALF_ULP
            )
            yield Difference(tensor, distance(exact.get(tensor), record.get(tensor)), bound)


def kinks(network: Network, exact: Record, own: Record) -> dict[str, float]:
    """By layer, the part of the gradient that elements carry which only one of the two lets through, here or further up the net.

    Such elements are those whose sign, or whose place as the largest of a pool, rounding has changed.
    """
    following, crossing, behind = consumers(network.layers), dict[str, float](), dict[str, set[str]]()
    for layer in reversed(network.layers):
        a, b = exact.get(f"backward/{layer}"), own.get(f"backward/{layer}")
        if a is not None and b is not None and a.shape == b.shape and a.any():
            crossed = (a == 0) != (b == 0)
            crossing[layer] = float(np.sum((b - a)[crossed] ** 2) / np.sum(a**2))
        behind[layer] = {layer}.union(*(behind[name] for name in following[layer]))
    return {n: float(np.sqrt(sum(part for c, part in crossing.items() if c in behind[n]))) for n in network.layers}


def _share(tensor: str, exact: Record) -> float:
    """How much of a relative error in the gradient arrives in `tensor`: all, none (forward), or a step's part of a weight."""
    phase, _, name = tensor.partition("/")
    if phase in ("backward", "gradient") or name.startswith("optimizer."):
        return 1.0
    before, after = exact.get(f"start/{name}"), exact.get(tensor)
    if phase != "update" or before is None or after is None:
        return 0.0
    return float(np.linalg.norm(after - before) / (np.linalg.norm(after) or 1.0))
