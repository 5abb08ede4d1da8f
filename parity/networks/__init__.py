"""The networks of the articles. To add one: a module here that makes a `Network`, and a line in `NETWORKS`."""

from __future__ import annotations

from pathlib import Path

from parity.errors import InputError
from parity.network import Network
from parity.networks.vgg_bn_drop import vgg16_bn_drop
from parity.networks.vgg_mini import vgg_mini

NETWORKS: dict[str, Network] = {network.name: network for network in (vgg16_bn_drop(), vgg_mini())}


def get(name: str) -> Network:
    """The network called `name`; `NAME@WIDTH` is its cousin with WIDTH times the filters and units; `FILE.json` is one of your own.

    `InputError` lists the known names.
    """
    if name.endswith(".json"):
        return read(Path(name))
    base, at, width = name.partition("@")
    if base not in NETWORKS:
        raise InputError(
            f"unknown network {base!r}; known: {', '.join(NETWORKS)}, each also as NAME@WIDTH, e.g. vgg_mini@0.25"
        )
    if not at:
        return NETWORKS[base]
    try:
        return NETWORKS[base].shrink(float(width))
    except ValueError as error:
        reason = str(error) if isinstance(error, InputError) else f"{width!r} is not a number"
        raise InputError(f"network {name!r}: {reason}; write e.g. {base}@0.25") from None


def read(path: Path) -> Network:
    """The network in a file of `Network.to_json`; `InputError` where it cannot be read."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}): give a file that holds a network's JSON") from None
    try:
        return Network.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
