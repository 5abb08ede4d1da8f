"""Functions that change the inputs of a side. Faults and innocent changes are written with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.compare.check import Check, Plant
from parity.compare.step_inputs import After, Pixels, RunInputs, StepInput, dithered
from parity.compare.update_rule import Made, Rule, rule_of
from parity.data.batches import Batches
from parity.data.random_streams import masks
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import BatchNorm, Node, edited, walk
from parity.recipe.recipe import Augmentation, Recipe
from parity.selftest import gradient_patches, training_patches, worker_patches
from parity.weights.canonical_state import State, initialise

Change = Callable[[Check], Plant]
"""Makes a plant for a check, whose data or seed it may need."""

PATCHES = (worker_patches, gradient_patches, training_patches)
"""The modules of functions that change a side in its worker: layers, gradients, and the step around them."""


def perturbed(text: str, network: Network) -> Plant:
    """Return the plant of "LAYER:TENSOR:EPS": a relative error EPS in a parameter, or in the layer's `output`.

    `InputError` if there is no such layer or tensor, or EPS is not a positive number.
    """
    layer, _, rest = text.partition(":")
    tensor, _, number = rest.partition(":")
    if layer not in network.shapes:
        raise InputError(f"--perturb: {network.name} has no layer {layer!r}; it has {', '.join(network.shapes)}")
    known = [name.partition(".")[2] for name in network.parameters if name.startswith(f"{layer}.")] + ["output"]
    if tensor not in known:
        raise InputError(f"--perturb: {layer} has no tensor {tensor!r}; it has {', '.join(known)}")
    try:
        error = float(number)
    except ValueError:
        error = -1.0
    if not 0 < error < np.inf:
        raise InputError(
            f"--perturb: {number!r} is not a positive number; write LAYER:TENSOR:EPS, e.g. {layer}:{tensor}:1e-6"
        )
    if tensor == "output":
        return _patched("scale_output", layer, number)
    name = f"{layer}.{tensor}"

    def plant(run_inputs: RunInputs) -> RunInputs:
        values = run_inputs.state[name]
        return replace(
            run_inputs, state=run_inputs.state | {name: values * (1 + error) if values.any() else values + error}
        )

    return plant


def on_run_inputs(plant: Plant) -> Change:
    """Return a change that does not depend on the check."""
    return lambda check: plant


def array(name: str, change: Callable[[Array], Array]) -> Change:
    """Change one array of the starting state."""
    return states(lambda state: state | {name: np.ascontiguousarray(change(state[name]))})


def states(change: Callable[[State], State]) -> Change:
    """Change the starting state."""
    return on_run_inputs(lambda run_inputs: replace(run_inputs, state=change(run_inputs.state)))


def exchanged(one: str, other: str) -> Change:
    """Exchange two arrays of the starting state."""
    return states(lambda state: state | {one: state[other], other: state[one]})


def drawn(change: Callable[[Node], Node], layers: tuple[str, ...]) -> Change:
    """Start some layers from other initialisers."""

    def plant(run_inputs: RunInputs) -> RunInputs:
        right, wrong = (initialise(made, 0) for made in (run_inputs.network, _with_nodes(run_inputs.network, change)))
        drawn_otherwise = [name for name in right if not np.array_equal(right[name], wrong[name])]
        mine = [name for name in drawn_otherwise if name.partition(".")[0] in layers]
        return replace(
            run_inputs, state=run_inputs.state | {name: wrong[name].astype(run_inputs.dtype) for name in mine}
        )

    return on_run_inputs(plant)


def node(name: str, /, **fields: Any) -> Change:
    """Change fields of one node."""
    return nodes(lambda node: replace(node, **fields) if node.name == name else node)


def nodes(change: Callable[[Node], Node | None]) -> Change:
    """Change the network's nodes (None removes one); masks are drawn for the new nodes."""
    return on_run_inputs(lambda run_inputs: _built(run_inputs, _with_nodes(run_inputs.network, change)))


def kinds(kind: type[Node], /, **fields: Any) -> Change:
    """Change fields of all nodes of one kind."""
    return nodes(lambda node: replace(node, **fields) if type(node) is kind else node)


def without(name: str) -> Change:
    """Remove a node."""
    return nodes(lambda node: None if node.name == name else node)


def swapped(one: str, other: str) -> Change:
    """Exchange two nodes."""

    def plant(run_inputs: RunInputs) -> RunInputs:
        by_name = {node.name: node for node in walk(run_inputs.network.nodes)}
        change = {one: by_name[other], other: by_name[one]}
        return _built(run_inputs, _with_nodes(run_inputs.network, lambda node: change.get(node.name, node)))

    return on_run_inputs(plant)


def _with_nodes(network: Network, change: Callable[[Node], Node | None]) -> Network:
    return replace(network, nodes=edited(network.nodes, change))


def _built(run_inputs: RunInputs, network: Network) -> RunInputs:
    kept = {name: value for name, value in run_inputs.state.items() if name in network.parameters}
    same = network.dropouts == run_inputs.network.dropouts
    draw = run_inputs.masks if same else lambda update, count: masks(0, update, range(count), network.dropouts)
    return replace(run_inputs, network=network, state=kept, masks=draw)


def both(*changes: Change) -> Change:
    """Apply changes one after the other."""

    def made(check: Check) -> Plant:
        def plant(run_inputs: RunInputs) -> RunInputs:
            for change in changes:
                run_inputs = change(check)(run_inputs)
            return run_inputs

        return plant

    return made


def patch(name: str, *words: str) -> Change:
    """Change the trainer itself, in its worker, by the function `name` of one of `PATCHES`."""
    return on_run_inputs(_patched(name, *words))


def _patched(name: str, *words: str) -> Plant:
    (module,) = [module for module in PATCHES if getattr(vars(module).get(name), "__module__", "") == module.__name__]
    call = (f"{module.__name__}:{name}", *words)
    return lambda run_inputs: replace(run_inputs, patches=(*run_inputs.patches, call))


def settings(**fields: Any) -> Change:
    """Change settings of the optimizer."""
    return on_run_inputs(lambda run_inputs: replace(run_inputs, optimizer=replace(run_inputs.optimizer, **fields)))


def field(**fields: Any) -> Change:
    """Change fields of the run inputs."""
    return on_run_inputs(lambda run_inputs: replace(run_inputs, **fields))


def rates(change: Callable[[Callable[[int], float], int], float]) -> Change:
    """Make the learning rate `change(the right function, samples)`."""
    return on_run_inputs(lambda run_inputs: replace(run_inputs, rate=lambda samples: change(run_inputs.rate, samples)))


def mask(
    change: Callable[[Callable[[int, int], Mapping[str, Array]], int, int], Mapping[str, Array]],
) -> Change:
    """Make the masks of an update `change(the right function, update, count)`."""
    return on_run_inputs(
        lambda run_inputs: replace(run_inputs, masks=lambda update, count: change(run_inputs.masks, update, count))
    )


def pixels(change: Callable[[Array], Array]) -> Change:
    """Change the preprocessed images."""
    return on_run_inputs(
        lambda run_inputs: replace(run_inputs, pixels=lambda images: change(run_inputs.pixels(images)))
    )


def raw(change: Callable[[Array], Array]) -> Change:
    """Change the images before preprocessing."""
    return on_run_inputs(
        lambda run_inputs: replace(run_inputs, pixels=lambda images: run_inputs.pixels(change(images)))
    )


def batches(change: Callable[[Pixels], Pixels]) -> Change:
    """Change every batch."""

    def plant(run_inputs: RunInputs) -> RunInputs:
        def epoch(number: int) -> Iterator[Pixels]:
            return (change(batch) for batch in run_inputs.epoch(number))

        return replace(run_inputs, epoch=epoch)

    return on_run_inputs(plant)


def epochs(change: Callable[[Check, int], Iterator[Pixels]]) -> Change:
    """Change the batches of an epoch."""
    return lambda check: lambda run_inputs: replace(run_inputs, epoch=lambda number: change(check, number))


def epoch(
    check: Check, number: int, augmentation: Augmentation | None = None, seed: int | None = None
) -> Iterator[Pixels]:
    """Return an epoch of the check's batches with another augmentation or seed."""
    data, recipe = check.dataset, check.recipe
    chosen = recipe.augmentation if augmentation is None else augmentation
    start = check.seed if seed is None else seed
    return dithered(Batches(data.train_images, data.train_labels, recipe.batch_size, chosen, start), start, number)


def recipes(change: Callable[[Recipe], Recipe]) -> Change:
    """Make the side follow another recipe throughout."""

    def made(check: Check) -> Plant:
        other = replace(check, recipe=change(check.recipe)).run_inputs()
        return lambda run_inputs: replace(other, dtype=run_inputs.dtype, state=run_inputs.state)

    return made


def after(change: After) -> Change:
    """Change the state after every update to that of a wrong optimizer."""
    return on_run_inputs(lambda run_inputs: replace(run_inputs, after=change))


def velocity(change: Callable[[Array, Array, Array, float], Array | None], decoupled: bool = False) -> Change:
    """Change the momentum update.

    `change(weight before, velocity before x momentum, gradient with decay, decay)` returns the velocity of a wrong optimizer, or None if
    it makes the right one. `decoupled`: the decay acts on the weight only.
    """

    def plant(run_inputs: RunInputs) -> RunInputs:
        settings = run_inputs.optimizer

        def follow(before: State, behind: State, step_input: StepInput) -> State:
            state = dict(behind)
            for slot in [name for name in behind if name.startswith("optimizer.velocity.")]:
                name = slot.removeprefix("optimizer.velocity.")
                rule = rule_of(settings, name, step_input.rate, step_input.factor)
                old = rule.momentum * before[slot] * rule.factor
                wrong = change(before[name], old, behind[slot] - old, rule.weight_decay)
                if wrong is not None:
                    kept = 1 - rule.rate * rule.weight_decay * decoupled
                    state |= {slot: wrong, name: kept * before[name] - rule.rate * wrong}
            return state

        return replace(run_inputs, after=follow)

    return on_run_inputs(plant)


def statistics(change: Callable[[str, Array, Array, float], Array]) -> Change:
    """Move running statistics to `change(mean or variance, statistic before, the batch's, decay)`."""

    def plant(run_inputs: RunInputs) -> RunInputs:
        decays = {n.name: n.decay for n in walk(run_inputs.network.nodes) if isinstance(n, BatchNorm)}

        def follow(before: State, behind: State, step_input: StepInput) -> State:
            state = dict(behind)
            for name in [name for name in behind if name.endswith((".mean", ".variance")) and name in before]:
                layer, _, kind = name.partition(".")
                if layer in decays:
                    old, decay = before[name], decays[layer]
                    state[name] = change(kind, old, (behind[name] - decay * old) / (1 - decay), decay)
            return state

        return replace(run_inputs, after=follow)

    return on_run_inputs(plant)


def since(first: int, change: Change) -> Change:
    """Delay `change`: batches, masks, learning rates and states are right before step `first`."""

    def made(check: Check) -> Plant:
        def plant(right: RunInputs) -> RunInputs:
            wrong = change(check)(right)

            def masks_of(update: int, count: int) -> Mapping[str, Array]:
                return (wrong if update >= first else right).masks(update, count)

            def after(before: State, behind: State, step_input: StepInput) -> State:
                assert wrong.after
                return wrong.after(before, behind, step_input) if step_input.number >= first else behind

            return replace(wrong, masks=masks_of, after=after if wrong.after else None)

        return plant

    return made


def updates(change: Callable[[Rule, Array, Array, Mapping[str, Array], int], Made]) -> Change:
    """Update every parameter by `change(right rule, weight, gradient without decay, slots before, step)`."""

    def plant(run_inputs: RunInputs) -> RunInputs:
        settings = run_inputs.optimizer

        def follow(before: State, behind: State, step_input: StepInput) -> State:
            state = dict(behind)
            for name in [name for name in before if f"optimizer.{settings.slots[0]}.{name}" in before]:
                rule = rule_of(settings, name, step_input.rate, step_input.factor)
                old = {slot: before[f"optimizer.{slot}.{name}"] for slot in settings.slots}
                first, made = old[settings.slots[0]], behind[f"optimizer.{settings.slots[0]}.{name}"]
                share = 1 - settings.beta1 if settings.kind == "adam" else 1.0
                kept = settings.beta1 if settings.kind == "adam" else rule.momentum
                gradient = (made - kept * first) / share - rule.weight_decay * before[name]
                weight, slots = change(rule, before[name], gradient, old, step_input.number)
                state |= {name: weight} | {f"optimizer.{slot}.{name}": array for slot, array in slots.items()}
            return state

        return replace(run_inputs, after=follow)

    return on_run_inputs(plant)
