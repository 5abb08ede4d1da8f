"""An optimizer as data, read off a framework's own object, so that the optimizers of two frameworks can be compared.

One optimizer has one description, however it is spelled: `fused` and `foreach` are left out, Paddle's `SGD` and `Momentum` and PyTorch's
`SGD` are one kind, and weight decay is the same in a regulariser and in the optimizer.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from parity.short_repr import ShortRepr, few

Setting: TypeAlias = "bool | int | float | str | None"
"""The value of a setting."""

Settings: TypeAlias = "Mapping[str, Setting]"
"""The settings of one parameter by canonical name, see `LABELS`. A setting that has no effect is left out, such as a decay of 0."""

LABELS = {
    "rate": "learning rate",
    "decay": "weight decay added to the gradient (coupled)",
    "decoupled_decay": "decoupled weight decay",
    "l1": "L1 decay added to the gradient",
    "beta1": "beta1",
    "beta2": "beta2",
    "eps": "eps",
    "eps_place": "place of eps",
    "momentum": "momentum",
    "nesterov": "Nesterov momentum",
    "dampening": "dampening",
    "amsgrad": "AMSGrad",
    "maximize": "maximize",
    "rho": "decay of the mean square (rho, alpha)",
    "centered": "centered",
    "rate_decay": "decay of the learning rate",
    "initial_sum": "sum of squares at the beginning",
    "gradient_factor": "factor of the gradient",
    "unclipped": "left out of clipping",
}
"""Canonical setting -> its words. Settings of optimizers that are not known here keep their own names."""

SLOTS = ("velocity", "moment1", "moment2", "moment2_max", "updates", "mean_square", "sum_of_squares", "infinity_norm")
"""Canonical slots of a parameter's state. `updates` is the number of updates so far. Slots not known here keep their own names."""

WHAT_CLIPS = {
    "global norm": "the norm of all gradients",
    "largest number": "the largest number of all gradients",
    "sum": "the sum of the absolute values of all gradients",
    "norm": "the norm of each gradient",
    "value": "each number",
}
"""Kind of clipping -> what it limits."""


@dataclass(frozen=True)
class Clip:
    """How gradients are clipped before they are used.

    Attributes:
        kind: One of `WHAT_CLIPS`, or the name of a class.
        limit: The largest norm or absolute value; None if not known.
        groups: Whether a global norm is that of one group of parameters, and not of all parameters.
    """

    kind: str
    limit: float | None
    groups: bool = False

    def __str__(self) -> str:
        what = WHAT_CLIPS.get(self.kind, self.kind)
        what = "the norm of each group's gradients" if self.groups and self.kind == "global norm" else what
        return what if self.limit is None else f"{what} to {self.limit:.10g}"


@dataclass(frozen=True, repr=False)
class OptimizerDescription(ShortRepr):
    """An optimizer at one moment.

    Attributes:
        kind: The family: sgd, adam, adagrad, rmsprop, adadelta, adamax, nadam, radam, lamb, or the class in lower case. Adam and AdamW
            are one family: their decays have different names. See `kind_of` for optimizers of somebody else. Kinds are joined by +.
        class_name: The class of the optimizer.
        parameters: The settings of each named parameter that it updates.
        clip: The clipping that is part of the optimizer, or None.
    """

    kind: str
    class_name: str
    parameters: Mapping[str, Settings] = field(default_factory=dict)
    clip: Clip | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` makes the description again."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> OptimizerDescription:
        """Return the description that `to_json` wrote."""
        clip = fields["clip"]
        return cls(**{**fields, "clip": None if clip is None else Clip(**clip)})


def join_descriptions(found: Sequence[OptimizerDescription]) -> OptimizerDescription:
    """Return the optimizers of one program as one; kinds and classes that differ are joined."""
    kinds = sorted({description.kind for description in found})
    classes = dict.fromkeys(description.class_name for description in found)
    clip = next((description.clip for description in found if description.clip), None)
    if clip and len(found) > 1:
        clip = dataclasses.replace(clip, groups=clip.kind == "global norm")
    parameters = {name: settings for description in found for name, settings in description.parameters.items()}
    return OptimizerDescription("+".join(kinds), " and ".join(classes), parameters, clip)


FAMILIES = {"AdamW": "adam", "Momentum": "sgd"}
"""Class of an optimizer -> its kind, if that is not the name of the class in lower case."""


OWN = "own "
"""Begins the kind of an optimizer whose step somebody else than the framework wrote. Its name follows in lower case."""

_STEPS = ("step", "_init_group", "_append_optimize_op")
"""Methods that say what a step computes."""


def base_of(optimizer: object, package: str) -> type:
    """Return the nearest class of an optimizer that is one of the `package` of a framework."""
    return next(made for made in type(optimizer).__mro__ if made.__module__.startswith(f"{package}."))


def family_of(made: type) -> str:
    """Return the kind of a framework's class of optimizers."""
    return FAMILIES.get(made.__name__, made.__name__.lower())


def kind_of(optimizer: object, package: str) -> str:
    """Return the kind of an optimizer: that of the framework's class from which it has its step, else its own name behind `OWN`."""
    base, made = base_of(optimizer, package), type(optimizer)
    bodies = [[inspect.unwrap(getattr(one, name, len)) for name in _STEPS] for one in (base, made)]
    return family_of(base) if base.__name__ != "Optimizer" and bodies[0] == bodies[1] else OWN + made.__name__.lower()


def is_own(description: OptimizerDescription) -> bool:
    """Whether somebody else than the framework wrote a step of the optimizer: only its updates tell what it computes."""
    return any(kind.startswith(OWN) for kind in description.kind.split("+"))


def name_settings(pairs: Iterable[tuple[Any, Settings]], names: Mapping[int, str]) -> dict[str, Settings]:
    """Return the settings of each parameter that `names` has by its `id`."""
    return {names[id(parameter)]: settings for parameter, settings in pairs if id(parameter) in names}


def own_settings(optimizer: object) -> dict[str, Setting]:
    """Return the settings that an optimizer of somebody keeps as attributes of its own."""
    return {
        key: value for key, value in vars(optimizer).items() if isinstance(value, float) and not key.startswith("_")
    }


def without_effect(kind: str, settings: Settings) -> set[str]:
    """Return the settings that change nothing: those of a momentum that is 0."""
    return {"nesterov", "dampening"} if kind == "sgd" and not settings.get("momentum") else set()


def plain_setting(value: Any) -> Setting:
    """Return an option of an optimizer as a plain value. A tensor of one number is that number."""
    if hasattr(value, "item") and math.prod(value.shape) == 1:
        number: Setting = value.item()
        return number
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


CLIPPING = "clipping of gradients"
"""Begins the sentence on clippings that differ."""

OTHER_CLASS = "optimizer: "
"""Begins the sentence on optimizers of two classes."""

BOTH = ("PyTorch", "Paddle")
"""How sentences name the two sides."""


def list_differences(one: OptimizerDescription, two: OptimizerDescription, sides: tuple[str, str] = BOTH) -> list[str]:
    """Return in words how the optimizers of two sides differ; empty if they are the same optimizer.

    Numbers are equal if they are equal in float32, in which some kernels hold them. The parameters of both must have the same names.
    """
    return list(_differences(one, two, sides))


def list_unshared(one: OptimizerDescription, two: OptimizerDescription, sides: tuple[str, str] = BOTH) -> list[str]:
    """Return in words which parameters only one side's optimizer updates."""
    rows = ((one, two, sides[0]), (two, one, sides[1]))
    alone = [([name for name in here.parameters if name not in there.parameters], side) for here, there, side in rows]
    return [f"only {side}'s optimizer has the parameters {few(names)}" for names, side in alone if names]


def list_settings(
    one: OptimizerDescription, two: OptimizerDescription, sides: tuple[str, str] = BOTH, at: str | None = None
) -> list[str]:
    """Return in words which settings of shared parameters differ, and where; only those that differ at the parameter `at`, if given."""
    places: dict[tuple[str, Setting, Setting], list[str]] = {}
    shared = [name for name in one.parameters if name in two.parameters]
    for name in shared:
        a, b = one.parameters[name], two.parameters[name]
        # Optimizers of two kinds have settings that the other one cannot have, and somebody's own ones may hold them in two ways.
        for key in (
            dict.fromkeys([*a, *b]) if one.kind == two.kind and not is_own(one) else [key for key in a if key in b]
        ):
            if not is_same_setting(a.get(key), b.get(key)):
                places.setdefault((key, a.get(key), b.get(key)), []).append(name)
    found = []
    for (key, here, there), names in places.items():
        if at is None or at in names:
            where = f"all {len(shared)} parameters" if len(names) == len(shared) > 1 else few(names)
            values = f"{sides[0]} {_text(here, there)}, {sides[1]} {_text(there, here)}"
            found.append(f"{LABELS.get(key, key)}: {values} at {where}")
    return found


def _differences(one: OptimizerDescription, two: OptimizerDescription, sides: tuple[str, str]) -> Iterator[str]:
    if one.kind != two.kind:
        yield f"{OTHER_CLASS}{sides[0]} {one.class_name}, {sides[1]} {two.class_name}"
    if one.clip != two.clip and not (one.clip and two.clip and _is_same_clip(one.clip, two.clip)):
        both = [f"{side} clips {found.clip or 'nothing'}" for side, found in zip(sides, (one, two), strict=True)]
        yield f"{CLIPPING}: {', '.join(both)}"
    yield from list_unshared(one, two, sides)
    yield from list_settings(one, two, sides)


def is_same_setting(one: Setting, two: Setting) -> bool:
    """Return whether two settings are equal; numbers are compared in float32. A setting that is left out is 0 or False."""
    if isinstance(one, str) or isinstance(two, str):
        return one == two
    return bool(np.float32(one or 0) == np.float32(two or 0))


def _is_same_clip(one: Clip, two: Clip) -> bool:
    return (one.kind, one.groups) == (two.kind, two.groups) and is_same_setting(one.limit, two.limit)


def _text(value: Setting, other: Setting) -> str:
    if isinstance(value if value is not None else other, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:.7g}" if isinstance(value, float) else str(value)  # float32 tells no more apart
