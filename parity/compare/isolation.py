"""Layer by layer: each on the reference's own input, so that an error of its own shows and an inherited one does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.backend.child_process import Record
from parity.backend.worker import Worker
from parity.compare.lockstep import run_in_lockstep, start_run
from parity.compare.record import input_of
from parity.compare.relative_error import compare
from parity.compare.step_inputs import RunInputs
from parity.compare.verdicts import DIFFERENT, EQUAL

PHASES = ("input", "eval", "forward", "backward")


def isolate_layers(
    workers: Mapping[str, Worker], inputs_of: Mapping[str, RunInputs], bound: float
) -> list[dict[str, Any]]:
    """A row a layer of the first of `workers`: its errors forward and backward on the first's input, and a verdict.

    Starts both workers afresh.
    """
    (reference, here), (other, there) = list(workers.items())[:2]
    step = next(run_in_lockstep({reference: (here, inputs_of[reference])}, 1, PHASES))
    record, masks = step.records[reference], step.inputs[reference].masks
    for name in (reference, other):
        start_run(workers[name], inputs_of[name])
    network = inputs_of[reference].network
    rows = []
    for layer in network.layers:
        x = input_of(network, layer, record, "forward")
        inference = input_of(network, layer, record, "eval")
        assert x is not None
        # Inference has no auxiliary heads: their layers get what training gives them.
        arguments = (x, x if inference is None else inference, masks.get(layer), record[f"backward/{layer}"])
        if layer not in inputs_of[other].network.shapes:
            rows.append(_row(layer, float("inf"), float("inf"), bound))
            continue
        first, second = here.isolate(layer, *arguments), there.isolate(layer, *arguments)
        zero = {f"gradient/{name}" for name in network.zero_gradients}
        rows.append(_row(layer, *_errors(first, second, zero), bound))
    return rows


def _errors(first: Record, second: Record, zero: set[str]) -> tuple[float, float]:
    """The largest error of what the layer computes forward, statistics included, and backward."""
    pairs = [{n: a for n, a in record.items() if n not in zero} for record in (first, second)]
    if pairs[0].keys() != pairs[1].keys() or any(pairs[0][n].shape != pairs[1][n].shape for n in pairs[0]):
        return float("inf"), float("inf")
    found = {d.name: d.error for d in compare(pairs[0], pairs[1], 0.0)}
    backward = [error for name, error in found.items() if name.startswith(("backward", "gradient"))]
    forward = [error for name, error in found.items() if name.startswith(("eval", "forward", "update"))]
    return max(forward), max(backward)


def _row(layer: str, forward: float, backward: float, bound: float) -> dict[str, Any]:
    verdict = EQUAL if forward <= bound and backward <= bound else DIFFERENT
    return {"layer": layer, "forward": forward, "backward": backward, "bound": bound, "verdict": verdict}
