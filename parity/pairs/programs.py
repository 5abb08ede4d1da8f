"""The training of a pair by the user: losses, optimizers, and batches with the inputs of the loss."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity.arrays import Array
from parity.errors import InputError, describe_error, suggest
from parity.modules.layer_kinds import SIDES
from parity.pairs import factories
from parity.pairs.inputs import Names, as_array, check_dtype, drawn, read_inputs
from parity.recipe.optimizer import Optimizer
from parity.recipe.optimizer_description import OptimizerDescription

LOSS_INPUTS = ("target", "targets", "label", "labels", "y")
"""Arrays of a batch with these names are inputs of the loss, unless the names are given."""

FOR_A_BATCH = "FILE.npz, MODULE:FACTORY, or mappings of names to arrays"

Batch = Mapping[str, Array]


@dataclass(frozen=True)
class Program:
    """How a user trains a pair: `loss` and `optimizer` by side (none: the comparison's own), and the batches of the steps.

    `inputs` are those of the models by step, and `targets` those of the losses. Steps go through them in turn.
    """

    loss: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Sequence[Array]] = ()
    targets: Sequence[Sequence[Array]] = ()

    def inputs_of(self, step: int, default: Sequence[Array]) -> Sequence[Array]:
        """Return the inputs of the models in `step`, from 1; those of step 0 are those of step 1."""
        return self.inputs[max(step - 1, 0) % len(self.inputs)] if self.inputs else default

    def targets_of(self, step: int) -> Sequence[Array]:
        """Return the inputs of the losses in `step`, from 1."""
        return self.targets[max(step - 1, 0) % len(self.targets)] if self.targets else ()


def check_sides(loss: Mapping[str, Any], optimizer: Mapping[str, Any], models: Mapping[str, Any]) -> None:
    """`InputError` unless both sides have a loss and an optimizer of the user, or neither has, in a process that can make them."""
    for what, found in (("loss", loss), ("optimizer", optimizer)):
        given = [side for side in SIDES if found.get(side) is not None]
        if len(given) == 1:
            (other,) = set(SIDES) - set(given)
            raise InputError(
                f"--{given[0]}-{what} is given without --{other}-{what}: pass both, so that the sides train alike"
            )
        for side in given:
            if isinstance(found[side], str):
                factories.parse(found[side])
            elif isinstance(models[side], str):
                raise InputError(
                    f"the {side} {what} is an object of this process, and the {side} model a text, which gets a process of its own: pass "
                    f"the {what} as MODULE:FACTORY, too"
                )


def take_batches(batches: Any, steps: int, folder: str) -> list[Batch]:
    """Return the first batches, at most one a step: name -> array. `InputError` where they cannot be used.

    A .npz file holds arrays whose first axis is the step: [steps, batch, ...]. A text MODULE:FACTORY, or a function, returns an iterable
    of mappings; so does an iterable itself.
    """
    if batches is None:
        return []
    if isinstance(batches, str | Path) and str(batches).endswith(".npz"):
        arrays = read_inputs(Path(batches))
        counts = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(counts) != 1 or not min(counts):
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise InputError(
                f"{batches}: the first axis of every array is the step, such as [steps, batch, 3, 32, 32], and they differ in it: {shapes}"
            )
        return [{name: array[i] for name, array in arrays.items()} for i in range(min(steps, *counts))]
    if isinstance(batches, str):
        batches = factories.load_model(batches, folder)
    found: list[Batch] = []
    for number, batch in enumerate(_drawn_batches(batches, steps)):
        if not isinstance(batch, Mapping):
            raise InputError(f"batch {number} is of type {type(batch).__name__}: it should map names to arrays")
        found.append({str(name): check_dtype(as_array(x), f"batch {number}: {name}") for name, x in batch.items()})
    if not found:
        raise InputError(f"there are no batches: pass {FOR_A_BATCH}")
    if odd := [number for number, batch in enumerate(found) if batch.keys() != found[0].keys()]:
        raise InputError(f"batch {odd[0]} has the arrays {', '.join(found[odd[0]])}, and batch 0 {', '.join(found[0])}")
    return found


def _drawn_batches(batches: Any, steps: int) -> Iterator[Any]:
    """Yield what a user's batches hold. `InputError` where their code fails."""
    try:
        made = batches() if callable(batches) else batches
        if not isinstance(made, Iterable):
            raise InputError(f"the batches are of type {type(made).__name__}: pass {FOR_A_BATCH}")
        yield from itertools.islice(made, steps)
    except InputError:
        raise
    except Exception as problem:
        raise InputError(f"the batches cannot be made: {describe_error(problem)}") from problem


def split_batches(
    batches: Sequence[Batch], loss_inputs: Sequence[str] | Mapping[str, Any], has_loss: bool, seed: int
) -> tuple[list[str], list[list[Array]], list[list[Array]]]:
    """Return the names of the models' inputs, and by step the models' inputs and the loss's.

    `loss_inputs` names arrays of the batches, or maps names to shapes or arrays. Without it, those of `LOSS_INPUTS` are taken.
    """
    extra = dict(loss_inputs) if isinstance(loss_inputs, Mapping) else {}
    known = list(batches[0]) if batches else []
    asked = [name for name in loss_inputs if name not in extra or extra[name] is None]
    if unknown := [name for name in asked if name not in known]:
        where = (
            f"the batches have {', '.join(known)}"
            if known
            else "there are no batches: write NAME=SHAPE, such as labels=8:10"
        )
        raise InputError(f"no array {unknown[0]!r} for --loss-input{suggest(unknown[0], known)}; {where}")
    if loss_inputs and not has_loss:
        raise InputError("--loss-input needs losses that take it: pass --torch-loss and --paddle-loss")
    chosen = asked or ([name for name in LOSS_INPUTS if name in known] if has_loss and not extra else [])
    fixed = [_taken(what, seed, name) for name, what in extra.items() if what is not None]
    names = [name for name in known if name not in chosen]
    if batches and not names:
        raise InputError(
            f"every array of the batches goes to the loss: {', '.join(chosen)}; name its inputs with --loss-input"
        )
    inputs = [[batch[name] for name in names] for batch in batches]
    targets = [[*(batch[name] for name in chosen), *fixed] for batch in batches] or ([fixed] if fixed else [])
    return names, inputs, targets


def _taken(what: Any, seed: int, name: str) -> Array:
    if isinstance(what, str):
        return drawn(what, seed, f"of the loss: {name}")
    return check_dtype(as_array(what), f"loss input {name}")


def find_names(names: Sequence[str], arguments: Mapping[str, Sequence[str]]) -> Names:
    """Return the arguments that the arrays of a batch are for: by name where `forward` has an argument of that name, else in order.

    `InputError` for an array that no model knows by name, where both know another one so.
    """
    known = [name for name in names if all(name in arguments[side] for side in SIDES)]
    if unknown := [name for name in names if known and not any(name in arguments[side] for side in SIDES)]:
        named = "" if unknown[0] in LOSS_INPUTS else f" and --loss-input {unknown[0]}"
        raise InputError(
            f"the batches have {unknown[0]!r}, and no model has an argument of that name. If it is for the loss, pass --torch-loss"
            f"{', ' if named else ' and '}--paddle-loss{named}; else leave it out"
        )
    return {side: [name if name in arguments[side] else "" for name in names] for side in SIDES}


def settings_like(description: OptimizerDescription, otherwise: Optimizer) -> Optimizer:
    """Return our settings nearest to an optimizer: tolerances depend on them. Adam amplifies rounding, and momentum keeps it."""
    first: Mapping[str, Any] = next(iter(description.parameters.values()), {})
    rate = float(first.get("rate", otherwise.rate))
    if {"adam", "nadam", "radam"} & set(description.kind.split("+")):
        return Optimizer(
            "adam", rate, beta1=first.get("beta1", 0.9), beta2=first.get("beta2", 0.999), eps=first.get("eps", 1e-8)
        )
    momentum = float(first.get("momentum", 0.0))
    return Optimizer("momentum", rate, momentum if 0 <= momentum <= 1 else 0.9)
