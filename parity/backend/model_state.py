"""Moves weights and optimizer slots between a framework's tensors and the canonical state (`parity.weights.canonical_state`)."""

from __future__ import annotations

from parity.arrays import Array
from parity.backend.protocol import Backend, Module, Stepper, Tensor
from parity.network.network import Network
from parity.recipe.optimizer import Optimizer
from parity.weights.canonical_state import State, check, copy_transposed, initialise, slot_names


def build(backend: Backend, network: Network, state: State | int = 0, dtype: str = "float32") -> Module:
    """The module of `network` with the weights of a canonical `state`, or with fresh weights if `state` is a seed.

    `dtype` is float32 or float64. `InputError` if the state does not fit.
    """
    state = initialise(network, state) if isinstance(state, int) else state
    check(network, state)
    model = backend.make_model(network, dtype)
    for name, tensor in get_tensors(backend, model).items():
        backend.require_gradient(tensor, network.parameters[name].trainable)
    set_weights(backend, model, state)
    return model


def get_tensors(backend: Backend, model: Module) -> dict[str, Tensor]:
    """The model's parameters and statistics by canonical name, in the network's order."""
    found = {}
    for name in model.network.parameters:
        layer, _, array = name.partition(".")
        found[name] = getattr(getattr(model, layer), backend.NAMES.get(array, array))
    return found


def export_array(backend: Backend, model: Module, name: str, tensor: Tensor) -> Array:
    """A copy in canonical layout of `tensor`, which is shaped like the parameter `name`."""
    array = backend.to_numpy(tensor)
    return copy_transposed(array) if _is_transposed(backend, model, name) else array


def import_array(backend: Backend, model: Module, name: str, tensor: Tensor, array: Array) -> None:
    """Overwrite `tensor`, which is shaped like the parameter `name`, with a canonical `array`."""
    backend.write(tensor, copy_transposed(array) if _is_transposed(backend, model, name) else array)


def _is_transposed(backend: Backend, model: Module, name: str) -> bool:
    layer, _, array = name.partition(".")
    return array == "weight" and isinstance(getattr(model, layer), backend.TRANSPOSED)


def get_weights(backend: Backend, model: Module) -> State:
    """Parameters and statistics as canonical arrays."""
    return {name: export_array(backend, model, name, t) for name, t in get_tensors(backend, model).items()}


def set_weights(backend: Backend, model: Module, state: State) -> None:
    """Overwrite parameters and statistics; `InputError` unless `state` holds exactly their arrays."""
    check(model.network, state)
    for name, tensor in get_tensors(backend, model).items():
        import_array(backend, model, name, tensor, state[name])


def slot_tensors(
    backend: Backend, model: Module, optimizer: Stepper, settings: Optimizer
) -> dict[str, tuple[str, Tensor]]:
    """Canonical slot name -> (parameter name, the optimizer's own tensor). Slots that do not exist yet are made, as zeros."""
    parameters = get_tensors(backend, model)
    backend.make_slots(optimizer, settings, _trainable(model, parameters))
    return {
        slot: (name, backend.slot(optimizer, parameters[name], slot.split(".")[1]))
        for slot, name in slot_names(model.network, settings.slots).items()
    }


def _trainable(model: Module, parameters: dict[str, Tensor]) -> list[Tensor]:
    return [tensor for name, tensor in parameters.items() if model.network.parameters[name].trainable]


def get_slots(backend: Backend, model: Module, optimizer: Stepper, settings: Optimizer) -> State:
    """Optimizer slots as canonical arrays (zeros before the first update)."""
    found = slot_tensors(backend, model, optimizer, settings)
    return {slot: export_array(backend, model, name, tensor) for slot, (name, tensor) in found.items()}


def set_slots(
    backend: Backend, model: Module, optimizer: Stepper, settings: Optimizer, state: State, updates: int
) -> None:
    """Overwrite the optimizer slots with those of `state`, which holds them after `updates` updates."""
    for slot, (name, tensor) in slot_tensors(backend, model, optimizer, settings).items():
        import_array(backend, model, name, tensor, state[slot])
    backend.set_updates(optimizer, settings, _trainable(model, get_tensors(backend, model)), updates)
