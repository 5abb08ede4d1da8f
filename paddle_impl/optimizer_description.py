"""Reads Paddle's optimizers as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.base.layer_helper import LayerHelper
from paddle.regularizer import L1Decay, L2Decay

from paddle_impl.optimizer_steps import groups_of, trained
from parity.arrays import Array
from parity.recipe.optimizer_description import (
    Clip,
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

STATE = {
    "sgd": {"velocity": "velocity"},
    "adam": {"moment1": "moment1", "moment2": "moment2", "moment2_max": "moment2_max"},
    "adagrad": {"moment": "sum_of_squares"},
    "rmsprop": {"mean_square": "mean_square", "mean_grad": "moment1", "momentum": "velocity with the learning rate"},
    "adadelta": {"_avg_squared_grad": "mean_square", "_avg_squared_update": "mean_square_update"},
    "adamax": {"moment": "moment1", "inf_norm": "infinity_norm"},
    "nadam": {"moment1": "moment1", "moment2": "moment2"},
    "radam": {"moment1": "moment1", "moment2": "moment2"},
}
"""Kind -> the optimizer's name of a slot -> the canonical one."""

_POWERS = {"beta1_pow_acc": "_beta1", "beta2_pow_acc": "_beta2"}
"""Slot with a power of a beta -> the attribute with this beta."""

_SMALL = 1e-30
"""A power below this number says nothing about its exponent: in float32 it is near the smallest number."""

NAMES = {
    "_beta1": "beta1",
    "_beta2": "beta2",
    "_epsilon": "eps",
    "_rho": "rho",
    "_momentum": "momentum",
    "_use_nesterov": "nesterov",
    "_amsgrad": "amsgrad",
    "_centered": "centered",
    "_momentum_decay": "momentum_decay",
    "initial_accumulator_value": "initial_sum",
    "_rescale_grad": "gradient_factor",
}
"""Attribute of an optimizer -> the canonical setting."""

_IN_GROUPS = {"_use_nesterov": "use_nesterov", "_rescale_grad": "rescale_grad"}
"""Attribute of an optimizer -> its key in a group of parameters, if it is not the attribute's name without the underscore."""

_CLIPS = {"ClipGradByGlobalNorm": "global norm", "ClipGradByNorm": "norm", "ClipGradByValue": "value"}
"""Class of a clip -> its kind."""

EPS_PLACES = {"rmsprop": "inside the square root", "adamax": "added to the infinity norm"}
"""Kind -> where eps is added, if frameworks differ in it."""


def describe_optimizer(optimizer: paddle.optimizer.Optimizer, names: Mapping[int, str]) -> OptimizerDescription:
    """Describe an optimizer of Paddle. `names` has the name of each parameter by its `id`."""
    name, kind, family, groups = type(optimizer).__name__, _kind(optimizer), _family(optimizer), groups_of(optimizer)
    pairs = (
        (parameter, _settings(optimizer, family, group, parameter)) for group in groups for parameter in trained(group)
    )
    parameters = name_settings(pairs, names)
    # DIFFERS: each group is clipped by itself, also by a global norm.
    clip = next((made for group in groups if (made := _clip(optimizer, group, len(groups) > 1))), None)
    return OptimizerDescription(kind, name, parameters, clip)


def optimizer_state(optimizer: paddle.optimizer.Optimizer, parameter: Tensor) -> dict[str, Array]:
    """Return the state of one parameter by canonical slot (`parity.recipe.optimizer_description.SLOTS`); empty before the first step."""
    kind = _kind(optimizer)
    canonical, found = STATE.get(kind, {}), {}
    for key, tensors in _accumulators(optimizer).items():
        master = getattr(optimizer, "_master_weights", {}).get(parameter.name)
        tensor = tensors.get(parameter.name, None if master is None else tensors.get(master.name))
        # DIFFERS: without momentum, the last gradient is kept as a velocity that nothing uses.
        if tensor is None or (key == "velocity" and not optimizer._momentum) or key in _POWERS:
            continue
        array = tensor.detach().cpu()
        half = array.dtype in (paddle.bfloat16, paddle.float16)
        found[canonical.get(key, key)] = (array.astype("float32") if half else array).numpy()
    updates = _updates(optimizer, parameter)
    return found if updates is None else {**found, "updates": np.array(updates)}


def restore_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, parameter: Tensor, state: Mapping[str, Array]
) -> None:
    """Give an SGD, Adam or AdamW the state of one parameter, by canonical slot, in the parameter's layout."""
    # DIFFERS: accumulators are made in the first step, with these lines; there is no public function for it.
    optimizer.helper = optimizer.helper or LayerHelper(type(optimizer).__name__)
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), [parameter])
    canonical = STATE[_kind(optimizer)]
    for key, tensors in _accumulators(optimizer).items():
        if key in _POWERS and "updates" in state:
            array = np.full(1, float(getattr(optimizer, _POWERS[key])) ** (float(state["updates"].item()) + 1))
        elif canonical.get(key) in state:
            array = state[canonical[key]]
        else:
            continue
        tensors[parameter.name].set_value(paddle.to_tensor(array).astype(tensors[parameter.name].dtype))


def _accumulators(optimizer: paddle.optimizer.Optimizer) -> Mapping[str, Mapping[str, Tensor]]:
    """The slots, by the name of their parameter."""
    # DIFFERS: an optimizer with a name puts it before those of its slots.
    name = getattr(optimizer, "_name", None)
    found = getattr(optimizer, "_accumulators", {})
    return {key.removeprefix(f"{name}_") if name else key: tensors for key, tensors in found.items()}


def _kind(optimizer: paddle.optimizer.Optimizer) -> str:
    return kind_of(optimizer, "paddle.optimizer")


def _family(optimizer: paddle.optimizer.Optimizer) -> str:
    return family_of(base_of(optimizer, "paddle.optimizer"))


def _updates(optimizer: paddle.optimizer.Optimizer, parameter: Tensor) -> float | None:
    """The number of updates of a parameter so far."""
    # DIFFERS: powers of the betas are kept instead of a count, and begin with the first power.
    for key, attribute in _POWERS.items():
        tensors = _accumulators(optimizer).get(key, {})
        beta = getattr(optimizer, attribute, None)
        if parameter.name in tensors and isinstance(beta, float) and 0 < beta < 1:
            power = float(tensors[parameter.name].item())
            if power > _SMALL:
                return float(round(math.log(power) / math.log(beta)) - 1)
    return None


def _settings(
    optimizer: paddle.optimizer.Optimizer, kind: str, group: Mapping[str, Any], parameter: Tensor
) -> Settings:
    rate = float(optimizer.get_lr()) * float(getattr(parameter, "optimize_attr", {}).get("learning_rate", 1.0))
    ratio = getattr(optimizer, "_lr_ratio", None)
    settings: dict[str, Any] = {"rate": rate if ratio is None else rate * float(ratio(parameter))}
    if kind not in STATE:
        default = getattr(optimizer, "_default_dict", {})
        found = {key: plain_setting(group.get(key, value)) for key, value in default.items() if key != "grad_clip"}
        settings |= own_settings(optimizer) | {key: value for key, value in found.items() if value}
    for attribute, name in NAMES.items():
        key = _IN_GROUPS.get(attribute, attribute.removeprefix("_"))
        if hasattr(optimizer, attribute) and (value := plain_setting(group.get(key, getattr(optimizer, attribute)))):
            settings[name] = value
    settings |= _decays(optimizer, group, parameter)
    if settings.get("gradient_factor") == 1:
        del settings["gradient_factor"]
    settings = {key: value for key, value in settings.items() if key not in without_effect(kind, settings)}
    if kind in EPS_PLACES:
        settings["eps_place"] = EPS_PLACES[kind]
    if _clip(optimizer, group, False) and getattr(parameter, "need_clip", True) is False:
        settings["unclipped"] = True
    return settings


def _decays(optimizer: paddle.optimizer.Optimizer, group: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """The weight decays of a parameter: its own regulariser, or that of its group, or that of the optimizer."""
    own = getattr(parameter, "regularizer", None)
    # AdamW's decay is decoupled, and a parameter's own regulariser is added to the gradient.
    if base_of(optimizer, "paddle.optimizer").__name__ == "AdamW":
        chosen = getattr(optimizer, "_apply_decay_param_fun", None)
        decay = plain_setting(group.get("weight_decay", optimizer._weight_decay))
        decay = decay if chosen is None or chosen(parameter.name) else 0
        return _regularizer(own) | ({"decoupled_decay": decay} if decay else {})
    if own is not None:
        return _regularizer(own)
    if hasattr(optimizer, "_regularization_coeff"):  # Momentum's own kernel adds an L2 decay
        coefficient = plain_setting(group.get("regularization_coeff", optimizer._regularization_coeff))
        if coefficient:
            return {"decay": coefficient}
    return _regularizer(getattr(optimizer, "regularization", None))


def _regularizer(regularizer: Any) -> dict[str, Any]:
    for kind, name in ((L2Decay, "decay"), (L1Decay, "l1")):
        if isinstance(regularizer, kind):
            return {name: float(regularizer._coeff)} if regularizer._coeff else {}
    return {} if regularizer is None else {"decay": type(regularizer).__name__}


def _clip(optimizer: paddle.optimizer.Optimizer, group: Mapping[str, Any], several: bool) -> Clip | None:
    clip = group.get("grad_clip", getattr(optimizer, "_grad_clip", None))
    if clip is None:
        return None
    limit = getattr(clip, "clip_norm", getattr(clip, "max", None))
    kind = _CLIPS.get(type(clip).__name__, type(clip).__name__)
    return Clip(kind, None if limit is None else float(limit), several and kind == "global norm")
