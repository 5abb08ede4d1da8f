"""Reads and writes networks in CS231n's notation for layer patterns, with words for residual blocks.

    INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC
    INPUT -> CONV -> BN -> RELU -> [RES[CONV -> BN -> RELU -> CONV -> BN] -> RELU]*9 -> GAP -> FC
    INPUT -> CONV -> [SCALE[GAP -> FC -> RELU -> FC -> SIGMOID] -> POOL]*2 -> FC

`*` repeats a bracket: a number, or a letter whose number is an argument. `?` marks an optional part. Flattening is not written.
`RES[...]` adds the input of the bracket to its output, `SCALE[...]` multiplies the two. Blocks hold any layers, also other blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Joined,
    Linear,
    LogSoftmax,
    MaxPool,
    Multiply,
    Node,
    Nodes,
    PadChannels,
    ReLU,
    Shape,
    Sigmoid,
    SiLU,
    Tanh,
    walk,
)

WORDS: dict[str, type[Node]] = {
    "CONV": Conv,
    "DWCONV": Conv,
    "BN": BatchNorm,
    "LRN": LRN,
    "RELU": ReLU,
    "GELU": GELU,
    "SILU": SiLU,
    "SIGMOID": Sigmoid,
    "TANH": Tanh,
    "POOL": MaxPool,
    "AVGPOOL": AvgPool,
    "GAP": GlobalAvgPool,
    "DROPOUT": Dropout,
    "FC": Linear,
    "LOGSOFTMAX": LogSoftmax,
}
"""Word -> the kind of its node: convolutions of 3x3 with padding 1, pools of 2x2, dropout of 0.5. `DWCONV` is a depthwise convolution."""

BLOCKS: dict[str, type[Joined]] = {"RES": Add, "SCALE": Multiply}
"""Word before a bracket -> the kind of the node that joins the output of the bracket with its input."""

INPUT, ARROW = "INPUT", "->"

MOST = 400
"""The most layers of a pattern, those inside blocks and the blocks themselves included: `resnet(110)` has 383."""

DEEPEST = 50
"""The most brackets within brackets."""

REDUCTION, FEWEST_UNITS = 16, 4
"""The channels of a map over the units of the first FC in `SCALE` (arXiv 1709.01507, section 3.2), and the fewest units there."""


@dataclass(frozen=True)
class Word:
    """A word of a pattern, the words in the brackets of a block, and the place where it begins, counted from 1."""

    text: str
    inside: tuple[Word, ...] = ()
    place: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        """The number of layers: the word and those inside."""
        return 1 + _size(self.inside)


Words = tuple[Word, ...]


def _size(words: Words) -> int:
    return sum(word.size for word in words)


def network(
    pattern: str,
    name: str = "pattern",
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    filters: int = 64,
    most_filters: int = 512,
    units: int = 512,
    optional: bool = True,
    **repeats: int,
) -> Network:
    """The network that `pattern` describes. `repeats` are the numbers of its letters; `optional` keeps the parts that `?` marks.

    The first convolutions have `filters`, which double after every pool, up to `most_filters`. Depthwise convolutions keep the number of
    channels. Linear layers have `units`, the last one `classes`. Without a linear layer, the last convolution has `classes` filters.

    The shortcut of a residual block is the identity. If the block changes the number of channels, it is a convolution of 1x1 without bias,
    with a batch norm if the block has one. In `SCALE[...]`, the last linear layer has as many units as the input has channels, and the
    others have a sixteenth, at least four. Pools in there do not double the filters after it.

    `InputError` names the place of the mistake in the pattern.
    """
    words = _Reader(pattern, repeats, optional).words()
    nodes, shape = _Builder(filters, most_filters).sequence(words, input_shape, 0, _Sizes(words, classes, units))
    if not words or shape != (classes,):
        raise _wrong(len(pattern) + 1, "the pattern must end in class scores: -> FC")
    return Network(name, input_shape, nodes, source=f"pattern {' '.join(pattern.split())}")


class _Sizes:
    """How many outputs the layers of a whole pattern, or of one `SCALE`, have.

    The last FC, or without an FC the last CONV, yields the result: it has `results` outputs. The other FC have `units`.
    """

    def __init__(self, words: Words, results: int, units: int) -> None:
        found = list(_texts(words))
        self.results, self.units = results, units
        self.last = "FC" if "FC" in found else "CONV"
        self.left = found.count(self.last)

    def outputs(self, text: str, usual: int) -> int:
        """The outputs of the next FC or CONV; `usual` if it does not yield the result. Every word is asked for once, in order."""
        self.left -= text == self.last
        return self.results if text == self.last and not self.left else usual


def _texts(words: Words) -> Iterator[str]:
    """The words in order, without those inside `SCALE`, whose sizes are its own."""
    for word in words:
        yield word.text
        if word.text != "SCALE":
            yield from _texts(word.inside)


class _Builder:
    """Makes the nodes of words, with names that count: conv1, conv2, res1."""

    def __init__(self, filters: int, most_filters: int) -> None:
        self.filters, self.most_filters = filters, most_filters
        self.counts: dict[str, int] = {}

    def sequence(self, words: Words, shape: Shape, pools: int, sizes: _Sizes) -> tuple[Nodes, Shape]:
        """The nodes of `words` for an input of `shape` after `pools` pools, and the shape of their output."""
        nodes: list[Node] = []
        for word in words:
            if word.text == "FC" and len(shape) > 1:
                number = self._count("flatten")
                nodes.append(Flatten(f"flatten{number}" if number > 1 else "flatten"))
                shape = nodes[-1].output(shape)
            name = f"{word.text.lower()}{self._count(word.text)}"
            if word.text in BLOCKS:
                node, shape = self._block(word, name, shape, pools, sizes)
            else:
                node = self._layer(word.text, name, shape, pools, sizes)
                try:
                    shape = node.output(shape)
                except InputError as error:
                    raise _wrong(word.place, str(error)) from None
            nodes.append(node)
            pools += word.text in ("POOL", "AVGPOOL")
        return tuple(nodes), shape

    def _count(self, text: str) -> int:
        self.counts[text] = self.counts.get(text, 0) + 1
        return self.counts[text]

    def _layer(self, text: str, name: str, shape: Shape, pools: int, sizes: _Sizes) -> Node:
        if text == "CONV":
            return Conv(name, sizes.outputs(text, min(self.filters * 2**pools, self.most_filters)))
        if text == "DWCONV":
            return Conv(name, shape[0], groups=shape[0])
        if text == "FC":
            return Linear(name, sizes.outputs(text, sizes.units))
        return WORDS[text](name)

    def _block(self, word: Word, name: str, shape: Shape, pools: int, sizes: _Sizes) -> tuple[Node, Shape]:
        if word.text == "SCALE":
            sizes = _Sizes(word.inside, shape[0], max(FEWEST_UNITS, shape[0] // REDUCTION))
        main, end = self.sequence(word.inside, shape, pools, sizes)
        shortcut: Nodes = ()
        beside = shape
        if word.text == "RES" and len(end) == len(shape) == 3 and end[0] != shape[0]:
            shortcut = (Conv(f"{name}_shortcut", end[0], 1, padding=0, bias=False),)
            if any(isinstance(node, BatchNorm) for node in walk(main)):
                shortcut += (BatchNorm(f"{name}_shortcut_bn"),)
            beside = (end[0], *shape[1:])
        node = BLOCKS[word.text](name, (main, shortcut))
        try:
            return node, node.joined([end, beside])
        except InputError:
            raise _wrong(word.place, _MISFIT[word.text].format(_shown(shape), _shown(end))) from None


_MISFIT = {
    "RES": "RES cannot add its input, {}, and what its layers yield, {}: only channels of maps may change, so move pools out",
    "SCALE": "SCALE cannot multiply its input, {}, by what its layers yield, {}: end them in GAP -> FC, or move pools out",
}
"""Block -> the message for an input and an output whose shapes do not fit."""


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape))


def pattern(network: Network) -> str:
    """The shortest pattern of `network`: its layers in order, with repeated sequences in brackets.

    The notation leaves sizes and shortcuts out, so different networks may share a pattern. Examples are `vgg_c`, which has convolutions of
    1x1, and `vgg_d`. A sum of two branches is `RES[...]` if one is a shortcut: it has at most convolutions of 1x1, batch norms, pools and
    added channels. A product of a sequence and its input is `SCALE[...]`. `InputError` for a network with other branches or with a layer
    that has no word.
    """
    words = _words(network.nodes, network)
    if _size(words) > MOST:
        raise InputError(f"network {network.name} has more than {MOST} layers: too many for a pattern")
    text = f" {ARROW} ".join([INPUT, *_folded(words)[1]])
    if max(accumulate((letter == "[") - (letter == "]") for letter in text)) > DEEPEST:
        raise InputError(f"network {network.name} has blocks within blocks, too deep for a pattern")
    return text


_KINDS = {kind: word for word, kind in (WORDS | BLOCKS).items() if word != "DWCONV"}


def _words(nodes: Nodes, network: Network) -> Words:
    """The words of `nodes`, which belong to `network`."""
    words: list[Word] = []
    for node in nodes:
        if isinstance(node, Flatten):
            continue
        text, inside = _KINDS.get(type(node)), Words()
        if isinstance(node, Joined):
            inside = _words(_main(node), network)
            text = text if inside else None
        if text is None:
            reason = _NEEDED.get(type(node), "")
            raise InputError(
                f"network {network.name}: a pattern has no word for the {type(node).__name__} {node.name}{reason}"
            )
        if isinstance(node, Conv) and node.is_depthwise(network.inputs[node.name]):
            text = "DWCONV"
        words.append(Word(text, inside))
    return tuple(words)


_NEEDED: dict[type[Node], str] = {
    Add: ", which is not the sum of a sequence and a shortcut",
    Multiply: ", which is not the product of a sequence and its input",
}


def _main(node: Joined) -> Nodes:
    """The branch of `node` that a block holds in its brackets; empty if `node` is no block."""
    if not isinstance(node, Add | Multiply) or len(node.branches) != 2:
        return ()
    first, second = node.branches
    # The identity is the shortcut wherever there is one. If both branches may be the shortcut, the second is, as the reader writes it.
    for main, shortcut in sorted([(first, second), (second, first)], key=lambda pair: len(pair[1])):
        if not shortcut or (isinstance(node, Add) and all(map(_fits_shortcut, shortcut))):
            return main
    return ()


def _fits_shortcut(node: Node) -> bool:
    """Whether the shortcut of a residual block may hold `node`."""
    return isinstance(node, BatchNorm | MaxPool | PadChannels) or (isinstance(node, Conv) and node.kernel == 1)


def _folded(words: Words) -> tuple[int, list[str]]:
    """The shortest way to write `words`: the number of words in it, and its parts."""
    leaves = {word: _leaf(word) for word in words}
    length = len(words)
    # `cost` and `part` are the costs of words[first:end], written in any way and as one part. Fewer words are cheaper, then fewer parts,
    # then brackets that begin with their block: [RES[...] -> RELU]*2 rather than [RELU -> RES[...]]*2.
    per_word, per_part, late_block = 2**40, 2**20, 1
    cost = np.zeros((length + 1, length + 1), np.int64)
    part = np.full_like(cost, 2 * MOST * per_word)
    last_part, period = np.zeros_like(cost), np.zeros_like(cost)
    for first in reversed(range(length)):
        part[first, first + 1] = leaves[words[first]][0] * per_word + per_part
        for end, size in enumerate(_periods(words[first:]), start=first + 1):
            if size < end - first:
                is_late = not words[first].inside and any(word.inside for word in words[first : first + size])
                once = cost[first, first + size] // per_word
                part[first, end] = once * per_word + per_part + is_late * late_block
                period[first, end] = size
            # Among equally cheap ways, the first has its brackets as far to the left as possible.
            ways = (cost[first, first:end] + part[first:end, end])[::-1]
            last_part[first, end] = end - 1 - ways.argmin()
            cost[first, end] = ways.min()

    def parts(first: int, end: int) -> list[str]:
        found: list[str] = []
        while end > first:
            start = int(last_part[first, end])
            size = int(period[start, end])
            if size:
                found.append(_repeated(parts(start, start + size), (end - start) // size))
            else:
                found.append(leaves[words[start]][1])
            end = start
        return found[::-1]

    return int(cost[0, length] // per_word), parts(0, length)


def _repeated(parts: Sequence[str], times: int) -> str:
    """The sequence `parts` with its number of repeats. A block has brackets of its own."""
    text = f" {ARROW} ".join(parts)
    return f"{text}*{times}" if len(parts) == 1 and text.endswith("]") else f"[{text}]*{times}"


def _leaf(word: Word) -> tuple[int, str]:
    """A word as it is written, with its brackets, and the number of words in it."""
    if not word.inside:
        return 1, word.text
    count, parts = _folded(word.inside)
    return 1 + count, f"{word.text}[{f' {ARROW} '.join(parts)}]"


def _periods(words: Words) -> Iterator[int]:
    """For every beginning of `words`: the length of the shortest sequence that it repeats, which is its own if it repeats none."""
    # The prefix function of Knuth, Morris and Pratt: the longest border of every beginning.
    borders: list[int] = []
    for count, word in enumerate(words):
        border = borders[-1] if borders else 0
        while border and word != words[border]:
            border = borders[border - 1]
        borders.append(border + 1 if count and word == words[border] else 0)
        size = count + 1 - borders[-1]
        yield count + 1 if (count + 1) % size else size


def _wrong(place: int, what: str) -> InputError:
    return InputError(f"pattern, character {place}: {what}")


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, text: str, repeats: Mapping[str, int], optional: bool) -> None:
        self.repeats, self.optional = repeats, optional
        self.tokens = [Word(m[0], place=m.start() + 1) for m in re.finditer(r"->|\w+|\S", text)]
        self.end = Word("", place=len(text) + 1)

    def words(self) -> Words:
        """The words of the layers, with repeats written out."""
        self._expect(INPUT)
        found = Words()
        if self._next().text:
            self._expect(ARROW)
            found = self._sequence(0)
        if self._next().text:
            raise self._unexpected("-> or the end")
        return found

    def _sequence(self, depth: int) -> Words:
        found = self._item(depth)
        while self._next().text == ARROW:
            self.tokens.pop(0)
            place = self._next().place
            found = found + self._item(depth)
            self._check_size(_size(found), place)
        return found

    def _item(self, depth: int) -> Words:
        first = self._next()
        if first.text in WORDS:
            found: Words = (self.tokens.pop(0),)
        elif first.text == "[":
            found = self._repeated(self._bracket(depth), first.place)
        elif first.text in BLOCKS:
            self.tokens.pop(0)
            inside = self._bracket(depth)
            if not inside:
                raise _wrong(first.place, f"{first.text} has no layers in its brackets")
            found = (Word(first.text, inside, first.place),)
            if self._next().text == "*":
                found = self._repeated(found, first.place)
        else:
            raise self._unexpected(f"[ or one of {', '.join([*WORDS, *BLOCKS])}")
        if self._next().text == "?":
            self.tokens.pop(0)
            return found if self.optional else ()
        return found

    def _bracket(self, depth: int) -> Words:
        place = self._next().place
        self._expect("[")
        if depth >= DEEPEST:
            raise _wrong(place, "brackets within brackets, too deep")
        found = self._sequence(depth + 1)
        self._expect("]")
        return found

    def _repeated(self, words: Words, place: int) -> Words:
        """`words` as often as `*` says, which comes next."""
        self._expect("*")
        times = self._times()
        self._check_size(times * _size(words), place)
        return words * times

    def _check_size(self, size: int, place: int) -> None:
        if size > MOST:
            raise _wrong(place, f"more than {MOST} layers")

    def _times(self) -> int:
        word = self._next()
        if re.fullmatch("[0-9]{1,9}", word.text):
            self.tokens.pop(0)
            return int(word.text)
        if not re.fullmatch("[A-Z]", word.text):
            raise self._unexpected("a number or a letter")
        if self.repeats.get(word.text, -1) < 0:
            raise _wrong(word.place, f"the letter {word.text} has no number")
        self.tokens.pop(0)
        return self.repeats[word.text]

    def _next(self) -> Word:
        return self.tokens[0] if self.tokens else self.end

    def _expect(self, text: str) -> None:
        if self._next().text != text:
            raise self._unexpected(text)
        self.tokens.pop(0)

    def _unexpected(self, wanted: str) -> InputError:
        word = self._next()
        return _wrong(word.place, f"expected {wanted}, found {word.text[:30] or 'the end'}")
