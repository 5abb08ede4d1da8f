"""A planted fault, as data: what it changes, and where the check must find it."""

from __future__ import annotations

from dataclasses import dataclass

from parity.network.network import Network
from parity.selftest.changes import Change
from parity.selftest.subject import CHAIN


@dataclass(frozen=True)
class Fault:
    """A mistake on one side of `network`.

    The check must find it first in `stage`, in `phase`, at `layer` ("" if it belongs to none), and name a cause that contains `cause`.
    """

    name: str
    area: str
    sentence: str
    change: Change
    stage: str
    phase: str
    layer: str = ""
    cause: str = ""
    recipe: str = "article"
    network: Network = CHAIN


def at_start(name: str, area: str, sentence: str, change: Change, layer: str, cause: str = "") -> Fault:
    """A fault that shows in the starting state."""
    return Fault(name, area, sentence, change, "eval", "start", layer, cause)


def at_layer(name: str, area: str, sentence: str, change: Change, phase: str, layer: str, cause: str = "") -> Fault:
    """A fault that shows in the forward pass of the first step."""
    stage = "eval" if phase == "eval" else "forward"
    return Fault(name, area, sentence, change, stage, phase, layer, cause)
