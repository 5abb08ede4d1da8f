"""`vgg-parity describe`: report what networks cost, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from parity.cli.command import (
    PATH,
    Options,
    check_png,
    command,
    option,
    positive,
)
from parity.errors import InputError
from parity.files import generated_block
from parity.files.atomic import write_atomically
from parity.network import articles
from parity.network.costs import Cost, condensed, costs, kernel_table, resized, totals
from parity.network.network import Network
from parity.network.nodes import Shape
from parity.network.pattern import pattern
from parity.progress import Console
from parity.report import networks_table, plots

DEFAULT = "vgg16_bn_drop"
MARK = "networks"


@dataclass(frozen=True)
class Description:
    """A network under the name that the user gave, the cost of each layer, and how it differs from the network of that name."""

    called: str
    network: Network
    layers: list[Cost]
    changes: list[str]

    @cached_property
    def pattern(self) -> str | None:
        """The layers in CS231n's notation; None if that notation cannot express them."""
        try:
            return pattern(self.network)
        except InputError:
            return None

    def to_json(self) -> dict[str, Any]:
        """Return what --json prints of it."""
        return {
            "network": self.called,
            "source": self.network.source,
            "pattern": self.pattern,
            "input_shape": self.network.input_shape,
            "classes": self.network.classes,
            "changes": self.changes,
            "layers": [asdict(layer) for layer in self.layers],
            "totals": totals(self.layers),
        }


@command(
    "describe",
    "Show what networks cost for one image: shape, parameters, multiply-adds, memory, receptive field and stride of every layer.",
    (
        "",
        "--network vgg_a,vgg_c,vgg_d,vgg_e --output costs.png   (side by side)",
        "--network googlenet --training   (with the auxiliary heads)",
        "--network vgg_mini --input-size 64 --json",
        '--network "INPUT -> [[CONV -> RELU]*2 -> POOL]*2 -> FC"',
        "--kernels",
        "--update docs/networks.md --verdicts docs/proofs/full-paddle26.json   (replaces the table between its marks)",
    ),
)
@option(
    "--network",
    metavar="NAME[,NAME...]",
    help=f"one or more of {', '.join(articles.NETWORKS)}, NAME@WIDTH, a JSON file or a pattern (default: {DEFAULT})",
)
@option(
    "--input-size",
    type=positive,
    metavar="N",
    help="take images of N by N pixels, and list the layers that change with them",
)
@option("--training", is_flag=True, help="also count auxiliary heads, which inference does not compute")
@option(
    "--output", type=PATH, metavar="FILE.png", help="also draw the size of the feature maps and the costs per layer"
)
@option(
    "--kernels",
    is_flag=True,
    help="print the fourth article's table instead: the cost of one convolution by the size of its kernel",
)
@option(
    "--update",
    type=PATH,
    metavar="FILE",
    help=f"only write a table of all networks, between <!-- {MARK} --> and <!-- /{MARK} --> of FILE",
)
@option(
    "--verdicts",
    type=PATH,
    multiple=True,
    metavar="FILE.json",
    help="with --update: add a column of verdicts from the output of vgg-parity check --network all --json; repeat the option for more",
)
def main(options: Options, console: Console) -> dict[str, Any]:
    """Describe networks."""
    if options.kernels:
        return _kernels(options, console)
    if options.update:
        return _update(options, console)
    if options.verdicts:
        raise InputError("--verdicts is for --update: name the file that holds the table")
    if options.output:
        check_png(options.output)
    names = [name.strip() for name in (DEFAULT if options.network is None else options.network).split(",")]
    found = [_describe(name, options) for name in names]
    if options.output:
        write_atomically(options.output, plots.layers([(_title(one), condensed(one.layers)) for one in found]))
    for one in found:
        for line in _lines(one):
            console.say(line)
    if len(found) > 1:
        for line in _summary(found):
            console.say(line)
    if options.output:
        console.say(f"Picture: {options.output}")
    result = {"training": options.training, "networks": [one.to_json() for one in found]}
    return result | {"plot": str(options.output) if options.output else None}


def _title(one: Description) -> str:
    total, shape = totals(one.layers), _shape(one.network.input_shape)
    return f"{one.called}, {shape}: {total['parameters']:,} parameters, {total['multiply_adds']:,} multiply-adds"


def _describe(name: str, options: Options) -> Description:
    network = articles.get_network(name)
    changes: list[str] = []
    if not options.training:
        network = (
            network.inference
        )  # auxiliary heads may not fit an image of this size, and inference does not use them
    if options.input_size:
        network, changes = resized(network, options.input_size)
    return Description(name, network, costs(network, options.training), changes)


def _update(options: Options, console: Console) -> dict[str, Any]:
    """Write the table of all networks into a document."""
    for name in ("network", "input_size", "training", "output"):
        _alone(options, name, "--update")
    generated_block.around(options.update, MARK)
    logs = [networks_table.read(path) for path in options.verdicts]
    every = list(articles.NETWORKS.values())
    generated_block.update(options.update, MARK, networks_table.table(every, logs, options.update.parent))
    console.say(f"{options.update} is up to date")
    return {
        "updated": str(options.update),
        "networks": list(articles.NETWORKS),
        "verdicts": [str(log.path) for log in logs],
    }


def _alone(options: Options, name: str, flag: str) -> None:
    if getattr(options, name):
        raise InputError(f"{flag} prints another table: leave out --{name.replace('_', '-')}")


def _kernels(options: Options, console: Console) -> dict[str, Any]:
    for name in ("network", "input_size", "training", "output", "update", "verdicts"):
        _alone(options, name, "--kernels")
    rows = kernel_table()
    console.say("One convolution of 96 filters, stride 4, padding 1, on an image of 3x224x224, by its kernel:")
    head = ("kernel", "output", "weights", "with biases", "multiply-adds", "operations")
    counts = ("weights", "parameters", "multiply_adds", "operations")
    cells = [
        (f"{row['kernel']}x{row['kernel']}", _shape(row["output"]), *(f"{row[field]:,}" for field in counts))
        for row in rows
    ]
    for line in aligned(head, cells, 2):
        console.say(line)
    return {"kernels": rows}


HEAD = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds",
    "activation_bytes": "activations, bytes",
    "kept_bytes": "kept, bytes",
    "receptive_field": "receptive field",
}
"""Fields of a `Cost`, and of the totals, that are columns -> the column's heading."""


def _lines(one: Description) -> list[str]:
    """Return the table of a network's layers, its totals, and notes on them."""
    network, total = one.network, totals(one.layers)
    cells = [
        (layer.layer, layer.kind, _shape(layer.output), *_numbers(asdict(layer)), f"{layer.stride:,}")
        for layer in one.layers
    ]
    sums = ("total", "", "", *_numbers(total | {"receptive_field": None}), "")
    rows = aligned(("layer", "kind", "output", *HEAD.values(), "stride"), [*cells, sums], 3)
    lines = [f"{one.called}, {_shape(network.input_shape)}: {network.source or 'no source given'}"]
    lines += [f"Pattern, without sizes: {one.pattern}"] if one.pattern else []
    lines += [f"Changed: {change}" for change in one.changes]
    lines += [*rows[:-1], "-" * max(map(len, rows)), rows[-1]]
    if total["statistics"]:
        lines.append(f"Not trained: {total['statistics']:,} more numbers (running statistics and frozen parameters)")
    if heads := [layer for layer in one.layers if layer.head]:
        of_heads = totals(heads)
        named = ", ".join(dict.fromkeys(layer.head for layer in heads))
        lines.append(
            f"The auxiliary heads ({named}) have {of_heads['parameters']:,} of these parameters and "
            f"{of_heads['multiply_adds']:,} of the multiply-adds"
        )
    return [
        *lines,
        "Counts are for one image. Activations are the float32 outputs; kept is what training stores for the backward pass.",
        "",
    ]


def _summary(found: Sequence[Description]) -> list[str]:
    """Return the totals of several networks side by side."""
    cells = []
    for one in found:
        total = totals(one.layers)
        cells.append((one.called, _shape(one.network.input_shape), f"{total['layers']:,}", *_numbers(total)))
    return aligned(("network", "input", "layers", *HEAD.values()), cells, 2)


def _numbers(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple("" if values[field] is None else f"{values[field]:,}" for field in HEAD)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """Return the lines of a table: its first `words` columns aligned to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if i < words else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
