"""All cosines between two sets of embeddings, a block in memory at a time, and their quantiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.measures.angles import norms_of

MEMORY = 2**28  # bytes that the blocks of a comparison may take together
TIE = 1e-12  # cosines in float64 that differ by less are equal: 512 products round to 1e-15
COLLECT = 2**20  # scores that are sorted at once
_BINS = 2**16
_PROBES = 2048  # at once; more make no better use of the processor

Block = tuple[slice, slice, NDArray[np.float64]]


def unit_rows(vectors: NDArray[np.floating], name: str) -> NDArray[np.float64]:
    """Return embeddings as float64 of unit length.

    Raises:
        ValueError: one of them is zero or not finite.
    """
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
    """Yield the cosines of all probes with all of the gallery, block by block, in float64.

    Args:
        probes: (n, d); may be a memory map.
        gallery: (m, d); may be a memory map, of which a block is read at a time.
        memory: bytes that the blocks may take together. What is computed from a block needs about
            as much again, for which room is left.
        order: which rows of the gallery to take, in this order; None takes all.

    Yields:
        Slice of the probes, slice of the gallery (of `order`), and cosines of these.
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


@dataclasses.dataclass
class _Search:
    """Looks for the score of one rank: a chain of bins, each within the last."""

    rank: int  # from 0, the highest, within the innermost bin
    chain: list[tuple[float, float, int]] = dataclasses.field(default_factory=list)
    low: float = -1.0 - 1e-6
    high: float = 1.0 + 1e-6
    count: int = 0
    value: float | None = None

    def inside(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores in the innermost bin."""
        for low, scale, index in self.chain:
            scores = scores[_bins(scores, low, scale) == index]
        return scores

    def narrow(self, counts: NDArray[np.int64]) -> None:
        """Go into the bin that holds the rank, counted from the highest."""
        above = np.cumsum(counts[::-1])
        back = int(np.searchsorted(above, self.rank, side="right"))
        index = len(counts) - 1 - back
        self.rank -= int(above[back] - counts[index])
        self.count = int(counts[index])
        width = (self.high - self.low) / _BINS
        self.chain.append((self.low, 1 / width, index))
        self.low, self.high = self.low + index * width, self.low + (index + 1) * width


def _bins(scores: NDArray[np.float64], low: float, scale: float) -> NDArray[np.int64]:
    return np.clip(((scores - low) * scale).astype(np.int64), 0, _BINS - 1)


def highest(
    blocks: Callable[[], Iterable[NDArray[np.float64]]], ranks: Sequence[int]
) -> list[float]:
    """Return the scores of given ranks among more scores than fit into memory, exactly.

    Each pass counts scores in 65,536 bins and goes into the bin that holds the rank, until what is
    in it can be sorted: two passes mostly.

    Args:
        blocks: called for each pass; gives all scores, flat, from -1 to 1, the same each time.
        ranks: from 0, the highest score.

    Returns:
        The scores, in the order of `ranks`.

    Example:

    >>> highest(lambda: [np.array([0.5, 0.1]), np.array([0.9])], [0, 2])
    [0.9, 0.1]
    """
    searches = [_Search(rank) for rank in ranks]
    total = np.zeros(_BINS, np.int64)
    scale = _BINS / (2 * (1 + 1e-6))
    for scores in blocks():
        total += np.bincount(_bins(scores, -1.0 - 1e-6, scale), minlength=_BINS)
    for search in searches:
        search.narrow(total)
    while any(search.value is None for search in searches):
        _pass(blocks, [search for search in searches if search.value is None])
    return [search.value for search in searches if search.value is not None]


def _pass(blocks: Callable[[], Iterable[NDArray[np.float64]]], searches: list[_Search]) -> None:
    """Sort what is left of each search, or narrow it once more."""
    collected: list[list[NDArray[np.float64]]] = [[] for _ in searches]
    counts = [np.zeros(_BINS, np.int64) for _ in searches]
    for scores in blocks():
        for search, parts, histogram in zip(searches, collected, counts, strict=True):
            part = search.inside(scores)
            if search.count <= COLLECT:
                parts.append(part)
            else:
                scale = _BINS / (search.high - search.low)
                histogram += np.bincount(_bins(part, search.low, scale), minlength=_BINS)
    for search, parts, histogram in zip(searches, collected, counts, strict=True):
        if search.count <= COLLECT:
            search.value = float(np.sort(np.concatenate(parts))[::-1][search.rank])
        elif search.high - search.low < TIE:  # one score, very often
            search.value = search.low
        else:
            search.narrow(histogram)
