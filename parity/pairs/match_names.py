"""What the names of layers and arrays say about pairs: the same words, abbreviations and known synonyms."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

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


def bijection(torch: Sequence[str], paddle: Sequence[str]) -> dict[str, str] | None:
    """Return path -> path if the names alone say for each of `torch` which of `paddle` it is, and the other way round; else None."""
    if len(torch) != len(paddle):
        return None
    here, there = [words_of(path) for path in torch], [words_of(path) for path in paddle]
    scores = [[similarity(a, b) for b in there] for a in here]
    left, found = {(i, j) for i in range(len(here)) for j in range(len(there))}, dict[str, str]()
    while left:  # a pair that is more alike than any other of both leaves the others less choice
        best = [(i, j) for i, j in sorted(left) if _is_best(scores, left, i, j)]
        if not best:
            return None
        found |= {torch[i]: paddle[j] for i, j in best}
        left = {(i, j) for i, j in left if all(i != one and j != two for one, two in best)}
    return {path: found[path] for path in torch}


def _is_best(scores: Sequence[Sequence[float]], left: Collection[tuple[int, int]], i: int, j: int) -> bool:
    """Whether two names are alike, and more than either is like any other one that is left."""
    others = [scores[a][b] for a, b in left if (a == i) != (b == j)]
    return scores[i][j] > max(others, default=0.0)


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
    words = [[[w for w in words_of(path) if not w.isdigit()] for path in paths] for paths in (here, there)]
    scores = [[similarity(a, b, 2) for b in words[1]] for a in words[0]]
    found = {}
    for i, row in enumerate(scores):
        best = max(range(len(row)), key=row.__getitem__)
        column = [other[best] for other in scores]
        if row[best] and row.count(row[best]) == column.count(row[best]) == 1 and max(column) == row[best]:
            found[here[i]] = there[best]
    return found


def order_of_parts(fused: str, parts: Sequence[str]) -> list[int] | None:
    """Return the order of the parts if the last word of a fused layer's path spells it, as `qkv`, `kv_proj` or `gate_up` do; else None."""
    last = words_of(fused.rpartition(".")[2])
    named = _parts_in(last)
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
