"""Names in state dicts: those of our own models, and those of VGG and ResNet in torchvision, paddle.vision and timm."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import Flatten, Linear
from parity.weights.canonical_state import State, check

SPELLED = {"gamma": "weight", "beta": "bias"}
"""Canonical array name of a batch norm -> the name in state dicts; a framework's `read_file` gives all other arrays canonical names."""

BATCH_NORM_NAMES = {
    "torch": {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"},
    "paddle": {"gamma": "weight", "beta": "bias", "mean": "_mean", "variance": "_variance"},
}
"""Framework -> canonical array name of a batch norm -> the framework's name."""

CONVENTIONS = ("torchvision", "paddle.vision", "timm")
"""What `spell` can write."""

TIMM = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
"""timm's linear layers; the first two are convolutions there, over the whole map and over one pixel."""

BLOCK = re.compile(r"block([1-9][0-9]*)_([1-9][0-9]*)_(conv1|bn1|conv2|bn2|down|down_bn)")
"""A layer with weights in a block of our residual networks: group, number in the group, layer (`parity.network.articles.resnet`)."""

SHORTCUT = re.compile(r"layer[1-9]\.0\.(downsample|shortcut)\.")
"""The weights of a shortcut: `downsample` in torchvision, paddle.vision and timm, `shortcut` in many CIFAR-10 repositories."""

PADDLE_CLAS = re.compile(r"_?conv_block_?1\._?conv_?1\.weight")
"""The first kernel of the VGG of PaddleClas."""

WEIGHT_NORM = re.compile(r"\.weight_[gv]$|\.parametrizations\.weight\.original[01]$")
"""The two parts of a weight with weight_norm, in PyTorch's older and newer form; the older one is Paddle's, too."""

TORCHVISION = tuple(f"vgg_{letter}{norm}" for letter in "abde" for norm in ("", "_bn"))
"""Our networks that torchvision and paddle.vision have, too: their vgg11, vgg13, vgg16 and vgg19."""

RESERVED = "__metadata__"
"""The name that no array may have in the safetensors format, which messages between processes use, too."""

MOST_SHARED = 4
"""The arrays of a file may be so many times as large as the file: tied weights share their numbers."""


def layer_spellings(network: Network, names: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """The names that a state dict may use for each layer, by convention. `names` are those of the state dict that is read.

    `own` are the layers' own names. `torchvision` counts the layers in `features` and, behind the Flatten, in `classifier`, as
    torchvision.models.vgg.VGG and paddle.vision.models.VGG do. A lone linear layer may be `classifier` itself, and older files count the
    linear layers otherwise. `timm` calls them `pre_logits.fc1`, `pre_logits.fc2` and `head.fc`, as timm.models.vgg.VGG does. In a residual
    network, all three libraries use the names of `_residual_spelling`.
    """
    nodes = list(network.layers)
    own = {name: name for name in nodes}
    if residual := _residual_spelling(network, names):
        return {"own": own, "torchvision": residual, "timm": residual}
    end = next((i for i, layer in enumerate(network.layers.values()) if isinstance(layer.node, Flatten)), len(nodes))
    features = {name: f"features.{i}" for i, name in enumerate(nodes[:end])}
    classifier = {name: f"classifier.{i}" for i, name in enumerate(nodes[end + 1 :])}
    linear = [name for name in nodes[end + 1 :] if isinstance(network.layers[name].node, Linear)]
    numbers = sorted({int(found[1]) for name in names if (found := re.fullmatch(r"classifier\.(\d+)\.weight", name))})
    if len(numbers) == len(linear):
        classifier |= {name: f"classifier.{number}" for name, number in zip(linear, numbers, strict=True)}
    elif len(linear) == 1 and "classifier.weight" in names:
        classifier[linear[0]] = "classifier"
    spellings = {"own": own, "torchvision": features | classifier}
    if len(linear) == len(TIMM):
        spellings["timm"] = features | classifier | dict(zip(linear, TIMM, strict=True))
    return spellings


def _residual_spelling(network: Network, names: Collection[str]) -> dict[str, str]:
    """The name in a state dict of each layer with weights of a residual network; {} if `network` is none or its shortcuts have no weights.

    They are `layer1.0.conv1`, `layer2.0.downsample.0`, `fc`, and so on. Where `names` use `shortcut` and `linear`, as in many CIFAR-10
    repositories, these replace `downsample` and `fc`. Names and shapes do not tell a shortcut without weights from no shortcut.
    """
    shortcut = next((found[1] for name in names if (found := SHORTCUT.match(name))), "downsample")
    parts = {"down": f"{shortcut}.0", "down_bn": f"{shortcut}.1"}
    spelled = {"conv1": "conv1", "bn1": "bn1", "fc": "linear" if "linear.weight" in names else "fc"}
    layers = list(dict.fromkeys(name.partition(".")[0] for name in network.parameters))
    for name in layers:
        if found := BLOCK.fullmatch(name):
            spelled[name] = f"layer{found[1]}.{int(found[2]) - 1}.{parts.get(found[3], found[3])}"
    is_residual = any(name.endswith("_down") for name in layers) and all(name in spelled for name in layers)
    return spelled if is_residual else {}


def has_bare_shortcuts(names: Collection[str]) -> bool:
    """Say whether `names` are those of a residual network whose shortcuts have no weights."""
    return "layer2.0.conv1.weight" in names and not any(SHORTCUT.match(name) for name in names)


def check_content(content: Mapping[Any, Any], size: int) -> None:
    """Raise `InputError` if an array of a state dict's file of `size` bytes has a reserved name, or if all are far larger than the file."""
    if RESERVED in content:
        raise InputError(f"an array in it is called {RESERVED}, which safetensors reserves: rename it")
    if sum(getattr(value, "nbytes", 0) for value in content.values()) > MOST_SHARED * size:
        raise InputError("its arrays share their numbers, and together they are far larger than the file")


def to_canonical(content: Mapping[str, Any], size: int, names: Mapping[str, str], transposed: bool) -> State:
    """The arrays in a state dict's file of `size` bytes, with running statistics as `mean` and `variance`, linear weights [out, in].

    `names` are the framework's names for batch norm arrays; `transposed` says whether it keeps linear weights [in, out]. `InputError`
    unless `content` holds only named floating-point arrays, which together are no larger than the file.
    """
    statistics = {names[key]: key for key in ("mean", "variance")}
    found: State = {}
    for name, array in content.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise InputError(f"its entry {name} is not a floating-point array: save only a model's state_dict()")
        layer, dot, spelled = str(name).rpartition(".")
        key = layer + dot + statistics.get(spelled, spelled)
        if key in found:
            raise InputError(f"{key} is in it twice")
        found[key] = array.T if array.ndim == 2 and transposed else array
    if (
        sum(array.nbytes for array in found.values()) > 4 * size
    ):  # bfloat16, float16 and float8 numbers have been widened
        raise InputError("its arrays share their numbers, and together they are larger than the file")
    return {name: np.asarray(array, order="C") for name, array in found.items()}


def from_any_framework(arrays: Mapping[str, Array]) -> State:
    """`arrays` of a file that does not say which framework wrote it, in canonical layout. `_mean` is a name of Paddle's only."""
    statistics = {names[key]: key for names in BATCH_NORM_NAMES.values() for key in ("mean", "variance")}
    of_paddle = any(name.endswith("._mean") for name in arrays)
    found: State = {}
    for name, array in arrays.items():
        layer, dot, spelled = name.rpartition(".")
        found[layer + dot + statistics.get(spelled, spelled)] = array.T if of_paddle and array.ndim == 2 else array
    return found


def fit(network: Network, arrays: Mapping[str, Array]) -> State:
    """The canonical state of the `arrays` of a state dict; `InputError` unless their names and shapes are those of `network`."""
    spellings = [
        {_spelled(name, layer): name for name in network.parameters}
        for layer in layer_spellings(network, arrays.keys()).values()
    ]
    known = max(spellings, key=lambda spelling: len(spelling.keys() & arrays.keys()))
    if missing := [name for name in known if name not in arrays]:
        raise InputError(f"{missing[0]} is missing ({len(missing)} in all): it is not of network {network.name}")
    if extra := [name for name in arrays if name not in known]:
        raise InputError(f"{extra[0]} is not a parameter of network {network.name} ({len(extra)} such arrays in all)")
    state = {name: _shaped(arrays[spelled], network.parameters[name].shape) for spelled, name in known.items()}
    check(network, state)
    return state


def fit_either_way(network: Network, arrays: Mapping[str, Array]) -> State:
    """What `fit` returns for `arrays` whose linear weights are all [out, in] as PyTorch keeps them, or all [in, out] as Paddle does.

    Where both fit, all matrices are square, and they are taken as PyTorch's.
    """
    try:
        return fit(network, arrays)
    except InputError:
        turned = {name: array.T if array.ndim == 2 else array for name, array in arrays.items()}
        with contextlib.suppress(InputError):
            return fit(network, turned)
        raise


def spell(network: Network, state: Mapping[str, Array], convention: str) -> State:
    """The weights `state` by the names and in the layout of `convention`: torchvision, paddle.vision or timm.

    `InputError` for a network that the convention cannot name. A residual network needs weights in its shortcuts. Any other needs one
    Flatten, and for timm three linear layers behind it.
    """
    framework = "paddle" if convention == "paddle.vision" else "torch"
    spellings, is_residual = layer_spellings(network), bool(_residual_spelling(network, ()))
    flat = [name for name, layer in network.layers.items() if isinstance(layer.node, Flatten)]
    layers = spellings.get("torchvision" if framework == "paddle" else convention)
    if layers is None or (len(flat) != 1 and not is_residual):
        raise InputError(f"network {network.name} has no names in {convention}: leave out --names")
    found: State = {}
    for name, array in state.items():
        owner, _, key = name.partition(".")
        spelled = BATCH_NORM_NAMES[framework].get(key, key)
        found[f"{layers[owner]}.{spelled}"] = array.T if framework == "paddle" and array.ndim == 2 else array
    if convention == "timm" and not is_residual:
        for name, area in zip(TIMM, (network.inputs[flat[0]][1:], (1, 1)), strict=False):
            matrix = found[f"{name}.weight"]
            found[f"{name}.weight"] = matrix.reshape(len(matrix), -1, *area)
    return found


def _shaped(array: Array, shape: tuple[int, ...]) -> Array:
    """A linear weight that is kept as the kernel of a convolution over the whole map, as a matrix."""
    is_kernel = len(shape) == 2 and array.ndim == 4 and array.size == math.prod(shape) and len(array) == shape[0]
    return array.reshape(shape) if is_kernel else array


def _spelled(name: str, layer: Mapping[str, str]) -> str:
    owner, _, array = name.partition(".")
    return f"{layer[owner]}.{SPELLED.get(array, array)}"
