"""Does three float64 updates of small networks in one or several processes: `distributed_step.py FRAMEWORK FILE [RUN]`.

Rank 0 writes FILE: gradients, loss and state of every step, as `CASE/STEP/TENSOR`. A single process computes what several processes must
yield, and then trains the run folder RUN to its end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from parity.backend.registry import implementation, make_backend, make_trainer
from parity.backend.trainer import Trainer
from parity.cli import train
from parity.data.random_streams import masks, stream
from parity.files import atomic
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Conv, Dropout, Flatten, Linear, MaxPool, ReLU
from parity.process_group import SINGLE_PROCESS, ProcessGroup, from_launcher
from parity.recipe.optimizer import Optimizer
from parity.weights import canonical_state
from parity.weights.canonical_state import State, initialise

PLAIN = Network(
    "plain",
    (3, 8, 8),
    (
        Conv("conv", 4),
        ReLU("relu1"),
        MaxPool("pool", 2, 2),
        Dropout("drop1", 0.3),
        Flatten("flat"),
        Linear("fc1", 6),
        ReLU("relu2"),
        Dropout("drop2", 0.5, "upscale_in_train"),
        Linear("fc2", 5),
    ),
)
NORMED = Network(
    "normed",
    (3, 8, 8),
    (
        Conv("conv", 4),
        BatchNorm("norm1"),
        ReLU("relu1"),
        Dropout("drop", 0.3),
        Flatten("flat"),
        Linear("fc1", 6),
        BatchNorm("norm2", variance="biased", start_variance=0.0),
        Linear("fc2", 5),
    ),
)
NETWORKS = {network.name: network for network in (PLAIN, NORMED)}
BATCHES, DIVISOR, SEED = (8, 7, 5), 8, 3
"""Global batches: full, odd and short. The summed loss of each is divided by the size of a full batch, as in the article."""
OPTIMIZER = Optimizer("momentum", rate=0.1, momentum=0.9, weight_decay=2e-4)
OVERLAPS = {"behind": (), "overlapped": ("cpu",)}
"""Gradients are summed after the backward pass, or by the framework's wrapper during it."""


def batch(network: Network, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Images float64 [N,C,H,W] and labels of a global batch."""
    random = stream(SEED, "batch", step)
    return random.standard_normal((BATCHES[step], *network.input_shape)), random.integers(0, 5, BATCHES[step])


def part(side: Trainer, network: Network, step: int, own: range, rate: float) -> tuple[State, float]:
    """Do one update with the images `own` of a global batch; return the gradients and the summed loss."""
    images, labels = batch(network, step)
    record: State = {}
    dropped = masks(SEED, step + 1, own, network.dropouts)
    kept = slice(own.start, own.stop)
    cost, _ = side.step(images[kept], labels[kept], dropped, rate, DIVISOR, record)
    return {name: array for name, array in record.items() if name.startswith("gradient/")}, cost


def start(framework: str, network: Network, process_group: ProcessGroup) -> Trainer:
    """A trainer with fresh weights in `process_group`."""
    return make_trainer(framework, network, OPTIMIZER, initialise(network, SEED), "float64", "cpu", process_group)


def together(framework: str, network: Network, process_group: ProcessGroup) -> State:
    """The results of all steps, with one shard of the batch for each process."""
    side, found = start(framework, network, process_group), {}
    for step, count in enumerate(BATCHES):
        gradients, cost = part(side, network, step, process_group.shard(count), OPTIMIZER.rate)
        found |= named(step, gradients, side.state(), side.total(cost)[0])
    return found


def alone(framework: str, network: Network) -> State:
    """The results of all steps, each with the whole global batch at once."""
    side, found = start(framework, network, SINGLE_PROCESS), {}
    for step, count in enumerate(BATCHES):
        gradients, cost = part(side, network, step, range(count), OPTIMIZER.rate)
        found |= named(step, gradients, side.state(), cost)
    return found


def by_shards(framework: str, network: Network, size: int) -> State:
    """The results of all steps where each of `size` shards is normalised by its own images, combined in numpy."""
    state, found = start(framework, network, SINGLE_PROCESS).state(), {}
    for step, count in enumerate(BATCHES):
        parts = []
        for rank in range(size):
            side, own = start(framework, network, SINGLE_PROCESS), ProcessGroup(rank, size, rank, size).shard(count)
            side.load(state, step)
            parts.append((*part(side, network, step, own, 0.0), side.state(), len(own) / count))
        gradients = {name: sum(each[0][name] for each in parts) for name in parts[0][0]}
        for name, parameter in network.parameters.items():
            if not parameter.trainable:
                state[name] = sum(share * after[name] for *_, after, share in parts)
                continue
            gradient = 0.0 if name in network.zero_gradients else gradients[f"gradient/{name}"]
            velocity = f"optimizer.velocity.{name}"
            step_of = gradient + OPTIMIZER.weight_decay * state[name]
            state[velocity] = OPTIMIZER.momentum * state[velocity] + step_of
            state[name] = state[name] - OPTIMIZER.rate * state[velocity]
        found |= named(step, gradients, state, sum(cost for _, cost, *_ in parts))
    return found


def named(step: int, gradients: State, state: State, cost: float) -> State:
    """The results of a step as `STEP/TENSOR`, without the gradients that are zero but for rounding."""
    return {f"{step}/{name}": array for name, array in (gradients | state).items()} | {f"{step}/cost": np.array([cost])}


def main(framework: str, path: str, run: str = "") -> None:
    """Compute all cases with the processes of this group, and train `run`."""
    process_group = from_launcher(framework)
    implementation(framework, "runtime", 1).start("cpu", 1)
    cases = {}
    if process_group.size == 1:
        cases = {"plain": alone(framework, PLAIN), "normed": by_shards(framework, NORMED, 2)}
    else:
        backend = make_backend(framework)
        backend.join(process_group, "cpu")
        for overlap, type(backend).OVERLAPPING in OVERLAPS.items():
            for name, network in NETWORKS.items():
                cases[f"{name}-{overlap}"] = together(framework, network, process_group)
        backend.leave()
    if process_group.leads:
        found = {f"{case}/{name}": array for case, arrays in cases.items() for name, array in arrays.items()}
        atomic.write_atomically(Path(path), canonical_state.encode(found, {}))
    if run:
        assert train.main(["--framework", framework, "--resume", run, "--threads", "1"]) == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
