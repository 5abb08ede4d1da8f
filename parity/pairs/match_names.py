"""What the names of layers and arrays say about pairs: the same words, abbreviations and known synonyms."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence

SYNONYMS: Sequence[Collection[str]] = (
    ("query", "q", "wq"),
    ("key", "k", "wk"),
    ("value", "v", "wv"),
    ("output", "out", "o", "wo"),
    ("position", "positional", "pos", "wpe"),
    ("token", "tok", "word", "wte"),
    ("class", "cls"),
    ("weight", "gamma", "scale", "g", "w"),
    ("bias", "beta", "shift", "offset", "b"),
    ("norm", "ln", "layernorm", "rmsnorm", "bn"),
    ("embedding", "embed", "embeddings", "emb", "table"),
)
"""Words that are used for one thing. They are compared before abbreviations."""

SAME, SYNONYM, ABBREVIATION = 1.0, 0.9, 0.5
"""How much two equal words, two synonyms, and a word with its abbreviation count."""

PARTS = ("query", "key", "value", "gate", "up")
"""The words of the parts of a fused layer, in the usual order."""


def words_of(path: str) -> list[str]:
    """Split a path into its words in small letters: `blocks.0.selfAttn_qProj` -> blocks, 0, self, attn, q, proj."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", path)
    text = re.sub(r"(?<=[A-Za-z])(?=[0-9])", " ", text)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", text) if word]


def likeness(a: str, b: str, shortest: int = 1) -> float:
    """Return how much two words are alike, between 0 and 1. An abbreviation has at least `shortest` letters."""
    if a == b:
        return SAME
    if a.isdigit() or b.isdigit():
        return 0.0
    if any(a in group and b in group for group in SYNONYMS):
        return SYNONYM
    return ABBREVIATION if min(len(a), len(b)) >= shortest and (a.startswith(b) or b.startswith(a)) else 0.0


def similarity(one: Sequence[str], two: Sequence[str], shortest: int = 1) -> float:
    """Return how much two lists of words are alike: the sum over the words of the best partner in the other list, each used once."""
    pairs = sorted(
        ((likeness(a, b, shortest), i, j) for i, a in enumerate(one) for j, b in enumerate(two)), reverse=True
    )
    used: tuple[set[int], set[int]] = set(), set()
    total = 0.0
    for like, i, j in pairs:
        if like and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            total += like
    return total


def share_of_words(one: str, two: str) -> float:
    """Return which share of the words of two paths is alike, between 0 and 1."""
    words = words_of(one), words_of(two)
    return 2 * similarity(*words) / max(1, len(words[0]) + len(words[1]))


def bijection(torch: Sequence[str], paddle: Sequence[str]) -> dict[str, str] | None:
    """Return path -> path if the names alone say for each of `torch` which of `paddle` it is, and the other way round; else None."""
    if len(torch) != len(paddle):
        return None
    here, there = [words_of(path) for path in torch], [words_of(path) for path in paddle]
    every = set(itertools.product(range(len(here)), range(len(there))))
    chosen = _best_pairs(here, there, every)
    if len(chosen) < len(here):
        chosen = _in_rounds([_without_numbers(words) for words in here], [_without_numbers(words) for words in there])
    return {torch[i]: paddle[j] for i, j in sorted(chosen)} if len(chosen) == len(here) else None


def _in_rounds(here: Sequence[Sequence[str]], there: Sequence[Sequence[str]]) -> set[tuple[int, int]]:
    """Choose pairs in rounds: those of one round leave the others less choice.

    The lists of words have no numbers: blocks that count from 0 and from 1 share numbers by chance.
    """
    left, chosen = set(itertools.product(range(len(here)), range(len(there)))), set[tuple[int, int]]()
    while best := _best_pairs(here, there, left):
        chosen |= best
        left = {(i, j) for i, j in left if all(i != one and j != two for one, two in best)}
    return chosen


def _best_pairs(
    here: Sequence[Sequence[str]], there: Sequence[Sequence[str]], left: Collection[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Return the pairs of `left` whose lists of words are alike, and more than either is like any other one of `left`."""
    scores = {(i, j): similarity(here[i], there[j]) for i, j in left}
    rows, columns = _two_best(scores, 0), _two_best(scores, 1)
    return {
        (i, j)
        for (i, j), score in scores.items()
        if score and rows[i][0] == columns[j][0] == score and rows[i][1] < score and columns[j][1] < score
    }


def _two_best(scores: Mapping[tuple[int, int], float], side: int) -> dict[int, list[float]]:
    """Return the two highest scores of each name of a side, from the highest to the lowest; -1 where there is no second one."""
    found: dict[int, list[float]] = {}
    for pair, score in scores.items():
        found[pair[side]] = sorted([*found.get(pair[side], [-1.0, -1.0]), score], reverse=True)[:2]
    return found


def _without_numbers(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.isdigit()]


def pairs_by_words(torch: Sequence[str], paddle: Sequence[str]) -> dict[str, str]:
    """Return path -> path for those of `torch` and `paddle` that their words decide: all of them, or some.

    Numbers in paths, such as those of blocks, are compared by their order, since they may begin anywhere.
    """
    if (whole := bijection(torch, paddle)) is not None:
        return whole
    sides = [_by_numbers(torch), _by_numbers(paddle)]
    if [len(group) for _, group in sides[0]] != [len(group) for _, group in sides[1]]:
        return {}
    found: dict[str, str] = {}
    for (one, here), (two, there) in zip(*sides, strict=True):
        if len(here) > 1 or one == two:
            found |= _unique_pairs(here, there)
    return found


def _by_numbers(paths: Sequence[str]) -> list[tuple[tuple[int, ...], list[str]]]:
    """Return the paths in groups with the same numbers, in the order of the numbers."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for path in paths:
        numbers = tuple(int(word) for word in words_of(path) if word.isdigit())
        groups.setdefault(numbers, []).append(path)
    return sorted(groups.items())


def _unique_pairs(here: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    """Return the pairs of which each is more like the other than like any other path, by words without numbers.

    One letter is no abbreviation here: it may be one by chance, as long as not all paths have a partner.
    """
    words = [[_without_numbers(words_of(path)) for path in paths] for paths in (here, there)]
    scores = [[similarity(a, b, 2) for b in words[1]] for a in words[0]]
    found = {}
    for i, row in enumerate(scores):
        best = max(range(len(row)), key=row.__getitem__)
        column = [other[best] for other in scores]
        if row[best] and row.count(row[best]) == column.count(row[best]) == 1 and max(column) == row[best]:
            found[here[i]] = there[best]
    return found


def order_of_parts(fused: str, parts: Sequence[str]) -> list[int] | None:
    """Return the order of the parts if the last word of a fused layer's path spells it, as `qkv`, `kv_proj` or `gate_up` do; else None.

    `in_proj` means query, key and value, as in PyTorch's attention layer.
    """
    last = words_of(fused.rpartition(".")[2])
    named = list(PARTS[:3]) if last[:2] == ["in", "proj"] else _parts_in(last)
    own = [_parts_in(words_of(part.rpartition(".")[2])) for part in parts]
    if len(named) != len(parts) or any(len(one) != 1 for one in own):
        return None
    single = [one[0] for one in own]
    return [single.index(word) for word in named] if sorted(single) == sorted(named) else None


def usual_order(parts: Sequence[str]) -> list[int]:
    """Return the order query, key, value (or gate, up) if the parts have these names; else the order given."""
    own = [_parts_in(words_of(part.rpartition(".")[2])) for part in parts]
    if any(len(one) != 1 for one in own):
        return list(range(len(parts)))
    return sorted(range(len(parts)), key=lambda i: PARTS.index(own[i][0]))


def _parts_in(words: Sequence[str]) -> list[str]:
    """Return the words of `PARTS` that `words` name: qkv is query, key and value."""
    found = []
    for word in words:
        whole = next((part for part in PARTS if likeness(word, part) >= SYNONYM), None)
        if whole:
            found.append(whole)
        elif re.fullmatch(r"w?[qkv]{2,3}", word):
            found += [part for letter in word.lstrip("w") for part in PARTS if part[0] == letter]
    return found
