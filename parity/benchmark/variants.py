"""Variants of a framework that a benchmark times against each other: mixed precision, memory layout, compiled or not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parity.errors import InputError, suggest
from parity.recipe.precision import DTYPES, LAYOUTS, PRECISIONS, check_device, check_layout

USUAL = "auto"
"""The layout that a framework chooses by the processor."""

CHOICES = {"amp": PRECISIONS, "layout": (USUAL, *LAYOUTS), "compile": ("off", "on")}
"""Flag -> what its list may hold."""


@dataclass(frozen=True)
class Variant:
    """One contestant: `framework` with mixed precision `amp`, memory `layout` (None: its usual one), and compiled or not."""

    framework: str
    amp: str = "off"
    layout: str | None = None
    compiled: bool = False

    @property
    def dtype(self) -> str:
        """The dtype of its convolutions and linear layers."""
        return DTYPES.get(self.amp, "float32")


def choose_variants(frameworks: Sequence[str], device: str, **lists: str) -> dict[str, Variant]:
    """Return all combinations by name. `lists` has the words of each flag in `CHOICES`, joined by commas.

    A name holds the framework, and the words of the flags that list several. `InputError` for a word that is not known, or that a framework
    does not offer on `device`.
    """
    words = {flag: _split(flag, text) for flag, text in lists.items()}
    found = {}
    for framework, amp, layout, compiled in itertools.product(frameworks, *(words[flag] for flag in CHOICES)):
        check_device(amp, framework, device)
        check_layout(None if layout == USUAL else layout, framework)
        if framework == "paddle" and compiled == "on":
            raise InputError("--compile on: only PyTorch compiles here; choose --frameworks torch")
        said = {"amp": "float32" if amp == "off" else amp, "layout": layout, "compile": "compiled" * (compiled == "on")}
        name = " ".join([framework, *(said[flag] for flag in CHOICES if len(words[flag]) > 1 and said[flag])])
        found[name] = Variant(framework, amp, None if layout == USUAL else layout, compiled == "on")
    return found


ALONE = "convolutions and linear layers alone"
"""The contestant without all other work, which a training step in PyTorch cannot beat as long as it uses these layers."""


def find_ceilings(variants: Mapping[str, Variant]) -> dict[str, str]:
    """Return the contestants `ALONE`, one for each precision and layout of PyTorch, with the variant whose process runs them."""
    found: dict[str, str] = {}
    for name, variant in variants.items():
        if variant.framework == "torch":
            words = name.removeprefix("torch").removesuffix("compiled").strip()
            found.setdefault(", ".join(filter(None, [ALONE, words])), name)
    return found


def _split(flag: str, text: str) -> list[str]:
    words = list(dict.fromkeys(text.split(",")))
    if unknown := [word for word in words if word not in CHOICES[flag]]:
        known = CHOICES[flag]
        raise InputError(f"--{flag}: {unknown[0]!r} is not one of {', '.join(known)}{suggest(unknown[0], known)}")
    return words
