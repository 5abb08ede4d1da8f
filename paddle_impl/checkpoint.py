"""Optimizer slots, and the files of state dicts: between Paddle's parameters and the canonical state of
`parity.weights.canonical_state`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.base.layer_helper import LayerHelper

from paddle_impl.model import NAMES, TRANSPOSED, Model, export_array, import_array, tensors, to_numpy
from parity.files import pickles
from parity.files.atomic import write_atomically
from parity.files.digest import check_digest, make_trailer
from parity.recipe.optimizer import Optimizer
from parity.weights import state_dict_names
from parity.weights.canonical_state import State, slot_names

SLOTS = {"velocity": "velocity", "moment1": "moment1", "moment2": "moment2"}
"""Canonical optimizer slot -> Paddle's."""


def slots(model: Model, optimizer: paddle.optimizer.Optimizer, settings: Optimizer) -> dict[str, tuple[str, Tensor]]:
    """Canonical slot name -> (parameter name, the optimizer's own tensor); made, as zeros, where there is none yet."""
    parameters, found = tensors(model), {}
    trainable = [parameters[name] for name in slot_names(model.network, ["slot"]).values()]
    # Paddle makes its accumulators in the first step, by these lines, and has no public name for them.
    optimizer.helper = optimizer.helper or LayerHelper(type(optimizer).__name__)
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), trainable)
    for slot, name in slot_names(model.network, settings.slots).items():
        found[slot] = (name, optimizer._accumulators[SLOTS[slot.split(".")[1]]][parameters[name].name])
    return found


def get_slots(model: Model, optimizer: paddle.optimizer.Optimizer, settings: Optimizer) -> State:
    """Optimizer slots as canonical arrays (zeros before the first update)."""
    found = slots(model, optimizer, settings)
    return {slot: export_array(model, name, tensor) for slot, (name, tensor) in found.items()}


def set_slots(
    model: Model, optimizer: paddle.optimizer.Optimizer, settings: Optimizer, state: State, updates: int
) -> None:
    """Overwrites the optimizer slots with what they were after `updates` updates."""
    for slot, (name, tensor) in slots(model, optimizer, settings).items():
        import_array(model, name, tensor, state[slot])
    if settings.kind == "adam":
        # DIFFERS: Adam counts by running products of beta, one a parameter; they are multiplied out again, bit for bit.
        for key, beta in (("beta1_pow_acc", settings.beta1), ("beta2_pow_acc", settings.beta2)):
            for tensor in optimizer._accumulators[key].values():
                factors = np.full(updates + 1, beta, to_numpy(tensor).dtype)
                paddle.assign(paddle.to_tensor(factors.cumprod()[-1:]), tensor)


def read_arrays(path: Path) -> State:
    """The arrays in a state dict's file, by the names and in the layout that they have there. No code in the file is run.

    `InputError` unless it is a readable file of named things, and, where it carries their digest, this is theirs.
    """
    # DIFFERS: the framework's own load runs what a pickle asks for, so its files are read without it.
    content, stored = pickles.read_with_digest(path.read_bytes())
    content.pop("StructuredToParameterName@@", None)
    state_dict_names.check_content(content, path.stat().st_size)
    check_digest(stored, content)
    return content


def read_file(path: Path) -> State:
    """The arrays of a state dict's file, by the names in it and in canonical layout; running statistics are `mean` and `variance`.

    A batch norm's `weight` and `bias` keep these names: nothing in a file says what they belong to. No code in the file is run.
    `InputError` unless it holds named arrays of floats and nothing else.
    """
    return state_dict_names.canonical(read_arrays(path), path.stat().st_size, NAMES, nn.Linear in TRANSPOSED)


def write_file(path: Path, model: Model) -> None:
    """Writes the model's state dict atomically, for everyone who has a model of the same names to load."""
    _write(path, model.state_dict())


def write_arrays(path: Path, arrays: State) -> None:
    """Writes named arrays as the file of a state dict, atomically."""
    _write(path, {name: paddle.to_tensor(np.asarray(array, order="C")) for name, array in arrays.items()})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    buffer = io.BytesIO()
    paddle.save(dict(tensors), buffer)
    buffer.write(make_trailer({name: to_numpy(tensor) for name, tensor in tensors.items()}))
    write_atomically(path, buffer.getbuffer())
