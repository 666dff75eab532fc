"""All cosines between two sets of embeddings, a block in memory at a time, and their quantiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.measures.angles import norms_of

MEMORY = 2**28  # bytes that the blocks of a comparison may take together
TIE = 1e-12  # cosines in float64 that differ by less are equal: 512 products round to 1e-15
COLLECT = 2**20  # scores that are sorted at once
_BITS = 48  # of the integers that scores are ranked as: steps of 7e-15
_LIMIT = 1 + 1e-6  # past 1 a cosine is by rounding alone
_PROBES = 2048  # at once; more make no better use of the processor

Block = tuple[slice, slice, NDArray[np.float64]]


def unit_rows(vectors: NDArray[np.floating], name: str) -> NDArray[np.float64]:
    """Return embeddings, none of them zero or not finite, as float64 of unit length."""
    rows = np.asarray(vectors, np.float64)
    norms, bad = norms_of(rows)
    if len(bad):
        raise ValueError(
            f"{name} must be finite and not zero. Received: row {bad[0]} (counted from 0 in its "
            f"block) is not, {len(bad)} of {len(rows)}"
        )
    return np.asarray(rows / norms)


def score_blocks(
    probes: NDArray[np.floating],
    gallery: NDArray[np.floating],
    memory: int = MEMORY,
    order: NDArray[np.int64] | None = None,
) -> Iterator[Block]:
    """Yield slices of probes and of the gallery, and all cosines between them, in float64.

    Both may be memory maps. `memory` is the bytes of a block and of what is computed from it;
    `order` names the rows of the gallery to take, and the second slice is of it then.
    """
    dim = gallery.shape[1]
    total = len(gallery) if order is None else len(order)
    high = max(1, min(len(probes), _PROBES, memory // (64 * dim)))
    wide = max(1, memory // (8 * (4 * high + 3 * dim)))
    for top in range(0, len(probes), high):
        rows = slice(top, min(top + high, len(probes)))
        left = unit_rows(probes[rows], "probes")
        for begin in range(0, total, wide):
            columns = slice(begin, min(begin + wide, total))
            part = gallery[columns] if order is None else gallery[order[columns]]
            yield rows, columns, left @ unit_rows(part, "gallery").T


def pair_cosines(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    memory: int = MEMORY,
) -> NDArray[np.float64]:
    """Return the cosines of `first[left]` with `second[right]`, float64 (pairs,)."""
    scores = np.empty(len(left))
    step = max(1, memory // (8 * 6 * first.shape[1]))
    for begin in range(0, len(left), step):
        part = slice(begin, begin + step)
        a = unit_rows(first[left[part]], "embeddings")
        b = unit_rows(second[right[part]], "embeddings")
        scores[part] = np.einsum("nd,nd->n", a, b)
    return scores


def highest(
    blocks: Callable[[], Iterable[NDArray[np.float64]]], ranks: Sequence[int]
) -> list[float]:
    """Return the scores of given ranks (0 is the highest) among more than fit into memory.

    `blocks` is called for each pass and gives all scores, flat, from -1 to 1, the same each time.
    A pass counts in 65,536 bins and goes into the one that holds the rank, until what is in it can
    be sorted: two passes mostly. Exact, but to 1e-14 where a score stands there very often.
    """
    bins = [0] * len(ranks)  # which holds the rank, the lowest is 0
    places = list(ranks)  # from its highest score
    sizes = [COLLECT + 1] * len(ranks)
    shift = _BITS
    while shift and max(sizes) > COLLECT:
        shift -= 16
        counts = {outer: np.zeros(2**16, np.int64) for outer in bins}
        for scores in blocks():
            keys = _keys(scores, shift)
            for outer, histogram in counts.items():
                inside = keys[keys >> 16 == outer] & 0xFFFF
                histogram += np.bincount(inside, minlength=2**16)
        for k, outer in enumerate(bins):
            above = np.cumsum(counts[outer][::-1])
            back = int(np.searchsorted(above, places[k], side="right"))
            sizes[k] = int(counts[outer][::-1][back])
            places[k] -= int(above[back]) - sizes[k]
            bins[k] = (outer << 16) + 0xFFFF - back
    few = {inner for inner, size in zip(bins, sizes, strict=True) if size <= COLLECT}
    parts: dict[int, list[NDArray[np.float64]]] = {inner: [] for inner in few}
    for scores in blocks() if few else ():
        keys = _keys(scores, shift)
        for inner, members in parts.items():
            members.append(scores[keys == inner])
    ordered = {inner: np.sort(np.concatenate(members))[::-1] for inner, members in parts.items()}
    edges = {inner: inner * 2 * _LIMIT / 2**_BITS - _LIMIT for inner in bins}
    return [
        float(ordered[inner][place]) if inner in few else edges[inner]
        for inner, place in zip(bins, places, strict=True)
    ]


def _keys(scores: NDArray[np.float64], shift: int) -> NDArray[np.int64]:
    """Return scores as integers in their order, without the last `shift` of 48 bits."""
    keys = ((scores + _LIMIT) * (2**_BITS / (2 * _LIMIT))).astype(np.int64)
    return np.clip(keys, 0, 2**_BITS - 1) >> shift
