"""Reads PyTorch's optimizers as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from parity.arrays import Array
from parity.recipe.optimizer_description import (
    OptimizerDescription,
    Settings,
    base_of,
    family_of,
    kind_of,
    name_settings,
    own_settings,
    plain_setting,
    without_effect,
)
from torch_impl.optimizer_steps import groups_of, trained

STATE = {
    "sgd": {"momentum_buffer": "velocity"},
    "adam": {"exp_avg": "moment1", "exp_avg_sq": "moment2", "max_exp_avg_sq": "moment2_max", "step": "updates"},
    "adagrad": {"sum": "sum_of_squares", "step": "updates"},
    "rmsprop": {"square_avg": "mean_square", "grad_avg": "moment1", "step": "updates"},
    "adadelta": {"square_avg": "mean_square", "acc_delta": "mean_square_update", "step": "updates"},
    "adamax": {"exp_avg": "moment1", "exp_inf": "infinity_norm", "step": "updates"},
    "nadam": {"exp_avg": "moment1", "exp_avg_sq": "moment2", "step": "updates"},
    "radam": {"exp_avg": "moment1", "exp_avg_sq": "moment2", "step": "updates"},
}
"""Kind -> the optimizer's name of a slot -> the canonical one."""

_SPELLINGS = ("fused", "foreach", "capturable", "differentiable")
"""Options of an optimizer that change how, not what it computes."""

NAMES = {
    "momentum": "momentum",
    "nesterov": "nesterov",
    "dampening": "dampening",
    "eps": "eps",
    "amsgrad": "amsgrad",
    "maximize": "maximize",
    "alpha": "rho",
    "rho": "rho",
    "centered": "centered",
    "lr_decay": "rate_decay",
    "momentum_decay": "momentum_decay",
    "initial_accumulator_value": "initial_sum",
}
"""Option of a group -> the canonical setting."""

EPS_PLACES = {"rmsprop": "outside the square root", "adamax": "added to the gradient"}
"""Kind -> where eps is added, if frameworks differ in it."""


def describe_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> OptimizerDescription:
    """Describe an optimizer of PyTorch. `names` has the name of each parameter by its `id`."""
    name, kind, family = type(optimizer).__name__, _kind(optimizer), _family(optimizer)
    base = base_of(optimizer, "torch.optim").__name__
    pairs = (
        (parameter, _known_settings(family, base, group) if family in STATE else _plain_settings(optimizer, group))
        for group in groups_of(optimizer)
        for parameter in trained(group)
    )
    parameters = name_settings(pairs, names)
    return OptimizerDescription(kind, name, parameters)


def optimizer_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Array]:
    """Return the state of one parameter by canonical slot (`parity.recipe.optimizer_description.SLOTS`); empty before the first step."""
    canonical, found = STATE.get(_kind(optimizer), {}), {}
    for key, value in optimizer.state.get(parameter, {}).items():
        if isinstance(value, Tensor) or (isinstance(value, int | float) and key == "step"):
            array = torch.as_tensor(value).detach().cpu()
            array = array.double() if key == "step" else array
            array = array.float() if array.dtype in (torch.bfloat16, torch.float16) else array
            found[canonical.get(key, key)] = array.numpy().copy()
    return found


def restore_optimizer_state(optimizer: torch.optim.Optimizer, parameter: Tensor, state: Mapping[str, Array]) -> None:
    """Give an SGD, Adam or AdamW the state of one parameter, by canonical slot, in the parameter's layout."""
    held = optimizer.state[parameter]
    for key, slot in STATE[_kind(optimizer)].items():
        if slot == "updates" and slot in state:
            group = next(group for group in groups_of(optimizer) if any(p is parameter for p in group["params"]))
            on_device = group.get("fused") or group.get("capturable")
            count = float(state[slot].item())
            held[key] = torch.tensor(count, dtype=torch.float32, device=parameter.device if on_device else "cpu")
        elif slot in state:
            held[key] = torch.zeros_like(parameter, requires_grad=False).copy_(torch.from_numpy(state[slot]))


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return kind_of(optimizer, "torch.optim")


def _family(optimizer: torch.optim.Optimizer) -> str:
    return family_of(base_of(optimizer, "torch.optim"))


def _known_settings(kind: str, name: str, group: Mapping[str, Any]) -> Settings:
    """The settings of a group of one of the optimizers of `KINDS`."""
    settings: dict[str, Any] = {"rate": plain_setting(group["lr"])}
    settings |= {f"beta{i}": plain_setting(beta) for i, beta in enumerate(group.get("betas", ()), 1)}
    settings |= {ours: plain_setting(group[theirs]) for theirs, ours in NAMES.items() if group.get(theirs)}
    if group["weight_decay"]:
        # AdamW has this option since PyTorch 2.7; before, it is a class of its own.
        decoupled = group.get("decoupled_weight_decay", name == "AdamW")
        settings["decoupled_decay" if decoupled else "decay"] = plain_setting(group["weight_decay"])
    settings = {key: value for key, value in settings.items() if key not in without_effect(kind, settings)}
    if kind in EPS_PLACES:
        settings["eps_place"] = EPS_PLACES[kind]
    return settings


def _plain_settings(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Settings:
    """The settings of a group of any other optimizer, by their own names."""
    left_out = ("params", "lr", "initial_lr", *_SPELLINGS)
    found = {key: plain_setting(value) for key, value in group.items() if key not in left_out and not callable(value)}
    found = {NAMES.get(key, key): value for key, value in found.items()}
    rate = own_settings(optimizer) | ({"rate": plain_setting(group["lr"])} if "lr" in group else {})
    if isinstance(betas := group.get("betas"), tuple | list):
        del found["betas"]
        rate |= {f"beta{i}": plain_setting(beta) for i, beta in enumerate(betas, 1)}
    return rate | {key: value for key, value in found.items() if value}
