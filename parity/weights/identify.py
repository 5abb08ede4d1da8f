"""Which network a file's weights belong to."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from parity.arrays import Array
from parity.errors import InputError
from parity.network.network import Network
from parity.weights.canonical_state import State
from parity.weights.state_dict_content import name_variants
from parity.weights.state_dict_names import PADDLE_CLAS, TORCHVISION, WEIGHT_NORM, has_bare_shortcuts

Fit = Callable[[Network, Mapping[str, Array]], State]
"""Makes the canonical state of a network from a file's arrays; `InputError` if they do not fit."""

WIDTHS = tuple(dict.fromkeys([0.5, 0.25, 0.125, 0.0625, 0.75, *(k / 100 for k in range(1, 100))]))
"""The widths of cousins that are proposed, the usual ones first."""

MOST_PROPOSED = 3


def identify(candidates: Sequence[Network], arrays: Mapping[str, Array], fit: Fit) -> tuple[Network, State, list[str]]:
    """Return the only one of the `candidates` that the arrays fit, its canonical state, and lines on what was taken off or chosen.

    Of several that fit, the one that torchvision has is taken if the names are torchvision's. `InputError` if none or several fit; it
    proposes cousins that fit.
    """
    variants = list(name_variants(arrays))
    found = [(network, state, note) for found, note in variants for network, state in _fitting(candidates, found, fit)]
    if not found:
        if any(PADDLE_CLAS.fullmatch(name) for given, _ in variants for name in given):
            raise InputError(
                "it is PaddleClas' VGG, whose convolutions have no biases: no network here is equal to it; "
                "compare it with vgg-parity compare"
            )
        if any(has_bare_shortcuts(given) for given, _ in variants):
            raise InputError(
                "its shortcuts have no weights, as with option A of pytorch_resnet_cifar10, which pads channels on both "
                "sides: no network here is equal to it; compare it with vgg-parity compare"
            )
        if any(WEIGHT_NORM.search(name) for name in arrays):
            raise InputError(
                "it has weights of weight_norm, in two parts: remove it from the layers, and save model.state_dict()"
            )
        if len(candidates) == 1:
            fit(candidates[0], variants[-1][0] if len(variants[-1][0]) == len(arrays) else arrays)  # raises
        if any(name.startswith("features.") for given, _ in variants for name in given):
            candidates = sorted(candidates, key=lambda network: network.name not in TORCHVISION)
        for given, _ in variants:
            if cousins := list(_cousins(candidates, given, fit)):
                raise InputError(f"it fits {' and '.join(cousins[:MOST_PROPOSED])}: pass --network {cousins[0]}")
        names = ", ".join(network.name for network in candidates)
        raise InputError(f"it fits none of the known networks ({names}); pass its network with --network")
    notes = [found[0][2]] if found[0][2] else []
    if len(found) > 1:
        known = [row for row in found if row[0].name in TORCHVISION]
        names = " and ".join(network.name for network, *_ in found)
        if len(known) != 1 or not any(name.startswith("features.") for row, _ in variants for name in row):
            raise InputError(f"it fits several networks, {names}; name its network with --network")
        notes.append(
            f"{names} have the same shapes; took {known[0][0].name}, since the names are torchvision's (or pass --network)"
        )
        found = known
    return found[0][0], found[0][1], notes


def _fitting(candidates: Sequence[Network], arrays: Mapping[str, Array], fit: Fit) -> Iterator[tuple[Network, State]]:
    for network in candidates:
        try:
            yield network, fit(network, arrays)
        except InputError:
            continue


def _cousins(candidates: Sequence[Network], arrays: Mapping[str, Array], fit: Fit) -> Iterator[str]:
    """The names of cousins of `candidates` that the arrays fit: other numbers of classes, fewer filters, a bias in every convolution."""
    sizes = Counter(array.size for name, array in arrays.items() if not name.startswith("optimizer."))
    for network in candidates:
        if added := sizes - _sizes(network):  # the least one is the bias of the class scores
            with contextlib.suppress(InputError):
                cousin = network.with_classes(min(added))
                if _sizes(cousin) == sizes:
                    fit(cousin, arrays)
                    yield cousin.name
    for network, biased in itertools.product(candidates, (False, True)):
        whole = network.with_biases() if biased else network
        if len(whole.parameters) != sizes.total() or (biased and whole == network):
            continue
        for width in (1.0, *WIDTHS):
            try:
                cousin = network if width == 1 else network.shrink(width)
                cousin = cousin.with_biases() if biased else cousin
                if _sizes(cousin) == sizes:
                    fit(cousin, arrays)
                    yield cousin.name
                    break
            except InputError:
                continue


def _sizes(network: Network) -> Counter[int]:
    return Counter(math.prod(parameter.shape) for parameter in network.parameters.values())
