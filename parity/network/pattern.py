"""Reads and writes networks in CS231n's notation for layer patterns.

    INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC

`*` repeats a bracket: a number, or a letter whose number is an argument. `?` marks an optional part. Flattening is not written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from parity.errors import InputError
from parity.network.network import Network
from parity.network.nodes import (
    GELU,
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    Linear,
    LogSoftmax,
    MaxPool,
    Node,
    ReLU,
    Shape,
    Tanh,
)

WORDS: dict[str, Callable[[str], Node]] = {
    "CONV": lambda name: Conv(name, 1),
    "BN": BatchNorm,
    "LRN": LRN,
    "RELU": ReLU,
    "GELU": GELU,
    "TANH": Tanh,
    "POOL": MaxPool,
    "AVGPOOL": AvgPool,
    "DROPOUT": Dropout,
    "FC": lambda name: Linear(name, 1),
    "LOGSOFTMAX": LogSoftmax,
}
"""Word -> the function that makes its node: convolutions of 3x3 with padding 1, pools of 2x2, dropout of 0.5."""

INPUT, ARROW = "INPUT", "->"

MOST = 200
"""The most layers of a pattern."""


@dataclass(frozen=True)
class Word:
    """A word of a pattern, and the place where it begins, counted from 1."""

    text: str
    place: int


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

    The first convolutions have `filters`, which double after every pool, up to `most_filters`. Linear layers have `units`, the last one
    `classes`. `InputError` names the place of the mistake in the pattern.
    """
    words = list(_Reader(pattern, repeats, optional).words())
    last = max((i for i, word in enumerate(words) if word.text == "FC"), default=-1)
    counts: dict[str, int] = {}
    nodes: list[Node] = []
    shape = input_shape
    for i, word in enumerate(words):
        counts[word.text] = counts.get(word.text, 0) + 1
        node = WORDS[word.text](f"{word.text.lower()}{counts[word.text]}")
        pools = counts.get("POOL", 0) + counts.get("AVGPOOL", 0)
        if isinstance(node, Conv):
            node = Conv(node.name, min(filters * 2**pools, most_filters))
        if isinstance(node, Linear):
            node = Linear(node.name, classes if i == last else units)
            if len(shape) > 1:
                nodes.append(Flatten("flatten"))
                shape = nodes[-1].output(shape)
        try:
            shape = node.output(shape)
        except InputError as error:
            raise _wrong(word.place, str(error)) from None
        nodes.append(node)
    if not words or len(shape) != 1:
        raise _wrong(len(pattern) + 1, "the pattern must end in class scores: -> FC")
    return Network(name, input_shape, tuple(nodes), source=f"pattern {' '.join(pattern.split())}")


def pattern(network: Network) -> str:
    """The shortest pattern of `network`: its layers in order, with repeated sequences in brackets.

    The notation leaves sizes out, so different networks may share a pattern. Examples are `vgg_c`, which has convolutions of 1x1, and
    `vgg_d`. `InputError` for a network with branches or with a layer that has no word.
    """
    kinds = {type(make("x")): word for word, make in WORDS.items()}
    words = []
    for node in network.nodes:
        if type(node) not in kinds and not isinstance(node, Flatten):
            raise InputError(f"network {network.name}: a pattern has no word for the {type(node).__name__} {node.name}")
        if type(node) in kinds:
            words.append(kinds[type(node)])
    if len(words) > MOST:
        raise InputError(f"network {network.name} has more than {MOST} layers: too many for a pattern")
    return f" {ARROW} ".join([INPUT, *_folded(tuple(words))[1]])


@cache
def _folded(words: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """The shortest way to write `words`: the number of words in it, and its parts."""
    if len(words) == 1:
        return 1, words
    # Among equally short ways, the first has its brackets as far to the left as possible.
    ways = [_joined(_folded(words[:cut]), _folded(words[cut:])) for cut in range(len(words) - 1, 0, -1)]
    for period in range(1, len(words) // 2 + 1):
        times, rest = divmod(len(words), period)
        if not rest and words == words[:period] * times:
            count, parts = _folded(words[:period])
            ways.append((count, (f"[{f' {ARROW} '.join(parts)}]*{times}",)))
    return min(ways, key=lambda way: (way[0], len(way[1]), len("".join(way[1]))))


def _joined(first: tuple[int, tuple[str, ...]], second: tuple[int, tuple[str, ...]]) -> tuple[int, tuple[str, ...]]:
    return first[0] + second[0], (*first[1], *second[1])


def _wrong(place: int, what: str) -> InputError:
    return InputError(f"pattern, character {place}: {what}")


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, text: str, repeats: Mapping[str, int], optional: bool) -> None:
        self.repeats, self.optional = repeats, optional
        self.tokens = [Word(m[0], m.start() + 1) for m in re.finditer(r"->|\w+|\S", text)]
        self.end = Word("", len(text) + 1)

    def words(self) -> Iterator[Word]:
        """The words of the layers, with repeats written out."""
        self._expect(INPUT)
        found: list[Word] = []
        if self._next().text:
            self._expect(ARROW)
            found = self._sequence(0)
        if self._next().text:
            raise self._unexpected("-> or the end")
        yield from found

    def _sequence(self, depth: int) -> list[Word]:
        found = self._item(depth)
        while self._next().text == ARROW:
            self.tokens.pop(0)
            found = found + self._item(depth)
            if len(found) > MOST:
                raise _wrong(found[MOST].place, f"more than {MOST} layers")
        return found

    def _item(self, depth: int) -> list[Word]:
        word = self._next()
        if word.text == "[":
            self.tokens.pop(0)
            if depth > MOST // 4:
                raise _wrong(word.place, "brackets within brackets, too deep")
            found = self._sequence(depth + 1)
            self._expect("]")
            self._expect("*")
            times = self._times()
            if times * len(found) > MOST:
                raise _wrong(word.place, f"more than {MOST} layers")
            found = found * times
        elif word.text in WORDS:
            found = [self.tokens.pop(0)]
        else:
            raise self._unexpected(f"[ or one of {', '.join(WORDS)}")
        if self._next().text == "?":
            self.tokens.pop(0)
            return found if self.optional else []
        return found

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
