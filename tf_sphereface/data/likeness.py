"""Likeness of people by name and embedding, and of pictures by hash: pure functions over arrays."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.checks import check_number

HASH_SIDE = 16
HASH_BITS = HASH_SIDE**2

_BLOCK = 1024  # rows of a matrix product at a time: 1024 x 13,233 float32 are 54 MB
_TAIL = 1e-4  # share of the impostor pairs that the tail is read from
_FEW_IMPOSTORS = 20_000  # pairs of different people, as of 200 images
_ROUGH = ", or several times as many: so few pairs of different people have hardly a tail"
_FEWEST_TAIL = 100
_EQUAL = 0.9999  # the cosine of equal images, float32 sums in another order
_MOST_IMPOSTORS = 15_000  # vectors that the tail is read from, drawn by seed 0 beyond that

Vectors = NDArray[np.float32]


def name_key(name: str) -> str:
    """Return a name without accents, case, separators and the order of its parts.

    Example:

    >>> name_key("José_Ángel-Gutiérrez")
    'angel gutierrez jose'
    """
    plain = unicodedata.normalize("NFKD", name)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    return " ".join(sorted(re.split(r"[\W_]+", plain))).strip()


def same_names(train: Sequence[str], test: Sequence[str]) -> list[tuple[int, int]]:
    """Return (position in `train`, position in `test`) of names with the same `name_key`."""
    places: dict[str, list[int]] = {}
    for position, name in enumerate(test):
        places.setdefault(name_key(name), []).append(position)
    return [
        (position, other)
        for position, name in enumerate(train)
        for other in places.get(name_key(name), ())
    ]


def difference_hash(image: np.ndarray) -> NDArray[np.uint8]:
    """Return a hash of how an image looks, uint8 (32,): it survives scaling and recompression.

    The image, uint8 RGB of any size, is made gray and shrunk to 16 rows of 17; each of the 256 bits
    says whether a pixel is brighter than the one to its left.

    Source: N. Krawetz, "Kind of like that", 2013 (there with 8 rows of 9).
    """
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def hash_vectors(hashes: NDArray[np.uint8]) -> Vectors:
    """Return hashes, uint8 (n, 32), as unit vectors, float32 (n, 256).

    Their inner product is `1 - 2 * (bits that differ) / 256`.
    """
    bits = np.unpackbits(np.asarray(hashes, np.uint8), axis=1).astype(np.float32)
    return (2 * bits - 1) / np.float32(HASH_SIDE)


def differing_bits(cosine: float | NDArray[np.floating]) -> NDArray[np.int64]:
    """Return how many of the 256 bits differ at an inner product of `hash_vectors`."""
    return np.rint((1 - np.asarray(cosine, np.float64)) * HASH_BITS / 2).astype(np.int64)


def unit(vectors: np.ndarray) -> Vectors:
    """Return rows of unit length, float32; a row of zeros stays zero."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def centroids(vectors: Vectors, labels: NDArray[np.integer], count: int) -> Vectors:
    """Return the direction of each identity's mean, (count, d); zero for one without images."""
    sums = np.zeros((count, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    return unit(sums)


def pairs_above(
    left: Vectors, right: Vectors, threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield (row of `left`, row of `right`, cosine) for every cosine above the threshold.

    The rows have unit length. One block of the product is in memory at a time.
    """
    for begin in range(0, len(left), _BLOCK):
        scores = left[begin : begin + _BLOCK] @ right.T
        rows, columns = np.nonzero(scores > threshold)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            yield begin + row, column, float(scores[row, column])


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A cosine above which a pair is reported, and where it comes from.

    It is read from pairs of different people within the test set, the impostors, unless the user
    gave it.
    """

    cosine: float
    expected: float  # pairs of different people that are expected above it by chance
    pairs: int  # pairs that are compared
    impostors: int = 0
    highest: float | None = None  # cosine of an impostor pair
    tail_from: float | None = None
    tail_share: float | None = None  # of the impostors

    def reason(self) -> str:
        """Say in words why it is what it is."""
        if not self.impostors:
            return f"{self.cosine:.4f}, as given"
        return (
            f"{self.cosine:.4f}: of {self.impostors:,} pairs of different people within the test "
            f"set a share of {self.tail_share:.2g} has a cosine above {self.tail_from:.4f} (the "
            f"highest: {self.highest:.4f}); by that tail, of the {self.pairs:,} pairs compared "
            f"{self.expected:g} are above by chance"
            + (_ROUGH if self.impostors < _FEW_IMPOSTORS else "")
        )


def chance_threshold(
    vectors: Vectors, labels: NDArray[np.integer], pairs: int, expected: float = 10.0
) -> Threshold:
    """Find the cosine that a given number of pairs of different people exceed by chance.

    It is read from pairs of different people within the test set. The number of pairs that are
    compared is usually larger than theirs, so the threshold lies beyond what they show: their tail
    is continued as that of a normal distribution, whose squares fall off exponentially. The scale
    is taken from the median of the tail, so that a few pairs that are one person under two names,
    which every large test set has, do not move it. It is 0.9999 at most: equal images are always
    found. Of `pairs` that will be compared with it, `expected` > 0 may exceed it by chance;
    `vectors`, (n, d), have unit length. Fewer than 1,000 pairs of different people are an error.
    """
    check_number("expected", expected, 0, open_low=True)
    if len(vectors) > _MOST_IMPOSTORS:
        drawn = np.random.default_rng(0).choice(len(vectors), _MOST_IMPOSTORS, replace=False)
        vectors, labels = vectors[np.sort(drawn)], labels[np.sort(drawn)]
    counts = np.unique(labels, return_counts=True)[1]
    total = math.comb(len(labels), 2) - sum(math.comb(int(n), 2) for n in counts)
    if total < 1000:
        raise ValueError(
            f"{total:,} pairs of different people in the test set are too few to find a threshold "
            "from (1,000 at least): give it"
        )
    kept = min(total // 10, max(_FEWEST_TAIL, math.ceil(_TAIL * total)))
    top = _highest_impostors(vectors, labels, kept + 1)
    start = float(top[-1])
    scale = (float(_square(np.median(top[:-1]))) - float(_square(start))) / math.log(2)
    beyond = scale * math.log(max(kept / total * pairs / expected, 1.0))
    square = float(_square(start)) + beyond
    cosine = math.copysign(math.sqrt(abs(square)), square)
    return Threshold(
        cosine=min(cosine, _EQUAL),
        expected=expected,
        pairs=pairs,
        impostors=total,
        highest=float(top[0]),
        tail_from=start,
        tail_share=kept / total,
    )


def impostors_above(
    vectors: Vectors, labels: NDArray[np.integer], threshold: float
) -> list[tuple[int, int, float]]:
    """Return pairs of rows with different labels above a threshold: one person under two names?"""
    return [
        (row, column, cosine)
        for row, column, cosine in pairs_above(vectors, vectors, threshold)
        if row < column and labels[row] != labels[column]
    ]


def share_found(
    vectors: Vectors, labels: NDArray[np.integer], threshold: float
) -> tuple[float, int] | None:
    """Tell how many people a threshold between centroids would find again.

    The images of each person who has two or more are split in halves, whose centroids are compared.
    Returns the share of such people whose halves are above it, and their number; None without any.
    """
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order], append=-1)) + 1
    people = [rows for rows in np.split(order, ends) if len(rows) > 1]
    if not people:
        return None
    halves = [unit(np.stack([vectors[rows[k::2]].mean(axis=0) for rows in people])) for k in (0, 1)]
    cosines = np.sum(halves[0] * halves[1], axis=1)
    return float(np.mean(cosines > threshold)), len(people)


def _square(cosine: float | NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the square with the cosine's sign."""
    return np.asarray(np.sign(cosine) * np.square(cosine), np.float64)


def _highest_impostors(
    vectors: Vectors, labels: NDArray[np.integer], count: int
) -> NDArray[np.float64]:
    """Return the highest cosines of rows with different labels, falling."""
    best = np.empty(0, np.float32)
    floor = -np.inf
    for begin in range(0, len(vectors), _BLOCK):
        piece = slice(begin, begin + _BLOCK)
        scores = vectors[piece] @ vectors[begin:].T
        wanted = np.triu(labels[piece, None] != labels[None, begin:], 1) & (scores >= floor)
        best = np.concatenate([best, scores[wanted]])
        if len(best) > count:
            best = np.partition(best, len(best) - count)[-count:]
            floor = float(best.min())
    return np.sort(best)[::-1].astype(np.float64)
