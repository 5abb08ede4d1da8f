"""The networks of the articles. To add one, write a module here that makes a `Network`, and add a line to `NETWORKS`."""

from __future__ import annotations

import re
from pathlib import Path

from parity.errors import InputError, suggest
from parity.files.strict_json import read_text
from parity.network import pattern
from parity.network.articles.alexnet import alexnet, alexnet_cifar
from parity.network.articles.classics import cifar_net, lenet, mnist_cnn, mnist_fc
from parity.network.articles.googlenet import googlenet, googlenet_naive
from parity.network.articles.resnet import DEPTHS, PLAIN_DEPTHS, resnet, resnet18
from parity.network.articles.tf_vgg16 import tf_vgg16
from parity.network.articles.vgg import KERNELS, NORMED, slim_vgg16, vgg, vgg16_bn, vgg_bn, vgg_cifar
from parity.network.articles.vgg_bn_drop import vgg16_bn_drop
from parity.network.articles.vgg_fast import vgg_fast
from parity.network.articles.vgg_mini import vgg_mini
from parity.network.dense import dense
from parity.network.network import ACTIVATIONS, Network

NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        vgg16_bn_drop(),
        vgg_mini(),
        vgg_fast(),
        vgg16_bn(),
        tf_vgg16(),
        tf_vgg16(relu_on_logits=False),
        slim_vgg16(),
        *(vgg(letter) for letter in KERNELS),
        *(vgg_bn(letter) for letter in NORMED),
        *(vgg_cifar(letter) for letter in KERNELS),
        cifar_net(),
        mnist_fc(),
        mnist_cnn(),
        lenet(),
        alexnet(),
        alexnet_cifar(),
        googlenet(),
        googlenet_naive(),
        *(resnet(depth, shortcut) for shortcut in "AB" for depth in DEPTHS),
        *(resnet(depth, "none") for depth in PLAIN_DEPTHS),
        resnet18(),
    )
}

SMALL_WIDTH, SMALL_SIZE = 0.125, 64
"""The width, and the largest image size, of the networks that `small` makes."""


FILE = re.compile(r".*\.json(?=[@+]|$)", re.DOTALL)
"""The part of a network's name that is the path of a file."""


def is_network_file(name: str) -> bool:
    """Whether `name` is that of a network in a JSON file: `FILE.json`, or `FILE.json@0.5` and so on."""
    return bool(FILE.match(name))


def small(network: Network) -> Network:
    """The cousin of `network` for fast checks: `SMALL_WIDTH` times the filters, and images no larger than `SMALL_SIZE`."""
    return network.shrink(SMALL_WIDTH, SMALL_SIZE if network.input_shape[-1] > SMALL_SIZE else None)


def get_network(name: str) -> Network:
    """The network called `name`, of the file `FILE.json`, or of a pattern that begins with INPUT (`parity.network.pattern`).

    NAME is a known name or a file. `NAME@WIDTH` is a cousin with WIDTH times the filters and units, `NAME@WIDTHxSIZE` is such a cousin for
    images of SIZE by SIZE. The suffix `+classesK` gives it K class scores (`Network.with_classes`), `+bias` gives every convolution a
    bias, `+relu`, `+gelu` or `+silu` another activation, and `+dense` or `+denseSIZE` makes it dense (`parity.network.dense`). `InputError`
    lists the known names.
    """
    if name.startswith(pattern.INPUT):
        return pattern.network(name)
    base = _base_of(name)
    width, *changes = name.removeprefix(base).split("+")
    network = _cousin(base, width)
    for change in changes:
        if change == "bias":
            network = network.with_biases()
            continue
        if change in ACTIVATIONS:
            network = network.with_activation(change)
            continue
        found = re.fullmatch("(classes|dense)([1-9][0-9]{0,5})?", change)
        if not found or change == "classes":
            known = ", ".join(f"+{one}" for one in ("classesK", "dense", "denseSIZE", "bias", *ACTIVATIONS))
            raise InputError(f"network {name!r}: unknown suffix +{change}; known: {known}")
        count = int(found[2]) if found[2] else None
        network = network.with_classes(count or 0) if found[1] == "classes" else dense(network, count)
    return network


def with_width(name: str, width: float) -> str:
    """The name of the cousin of the network `name` with `width` times the filters of NAME. Image size and suffixes stay as they are.

    `InputError` for a network without a name: a pattern that begins with INPUT.
    """
    if name.startswith(pattern.INPUT):
        raise InputError(f"a network that begins with {pattern.INPUT} has no widths: write it into a JSON file")
    base = _base_of(name)
    old, plus, changes = name.removeprefix(base).partition("+")
    _, x, size = old.partition("x")
    return f"{base}@{width:g}{x}{size}{plus}{changes}"


def _base_of(name: str) -> str:
    """The known name, or the file, that the name of a network begins with."""
    file = FILE.match(name)
    return file[0] if file else re.split("[@+]", name)[0]


def _cousin(base: str, width: str) -> Network:
    """The network `base`, a name or a file, changed by `width`: "" or "@WIDTH" or "@WIDTHxSIZE"."""
    if base.endswith(".json"):
        network = read_network(Path(base))
    elif base in NETWORKS:
        network = NETWORKS[base]
    else:
        raise InputError(
            f"unknown network {base!r}{suggest(base, NETWORKS)}; known: {', '.join(NETWORKS)}, each also as NAME@WIDTH, e.g. vgg_mini@0.25"
        )
    if not width:
        return network
    width = width.removeprefix("@")
    times, x, size = width.partition("x") if width[:1].isdigit() else (width, "", "")
    name, example = base + "@" + width, f"write e.g. {base}@0.25"
    try:
        factor, pixels = float(times), int(size) if x else None
    except ValueError:
        raise InputError(f"network {name!r}: {width!r} is not a number; {example}") from None
    if not 0 < factor <= 1:
        raise InputError(f"network {name!r}: width {factor:g} must be above 0 and at most 1; {example}")
    try:
        return network.shrink(factor, pixels)
    except InputError as error:
        raise InputError(f"network {name!r}: {error}") from None


def read_network(path: Path) -> Network:
    """The network in a file that `Network.to_json` wrote; `InputError` if it cannot be read."""
    text = read_text(path, "a network's JSON")
    try:
        return Network.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
