"""Templates of IJB: sums of image embeddings in every variant, and the cosines of their pairs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.identification.rates import RatesAtFar, rates_at_far
from tf_sphereface.eval.measures.angles import norms_of
from tf_sphereface.eval.measures.curve import FARS, clopper_pearson
from tf_sphereface.eval.scoring.score_pairs import check_embeddings, lengths_of_sides
from tf_sphereface.utils.messages import ProgressCallback
from tf_sphereface.utils.optional import require

MEMORY = 2**27  # bytes of a block of cosines


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the ways in which image embeddings go into a template.

    Attributes:
        flip: the embeddings of image and mirror image are added; else the image's alone.
        norm: embeddings keep their lengths; else each is scaled to unit length first.
        detector_score: each is multiplied by the face detector's score of its image.
    """

    flip: bool
    norm: bool
    detector_score: bool

    @property
    def mode(self) -> str:
        """The name in circulation.

        Example:

        >>> Variant(flip=True, norm=True, detector_score=False).mode
        'N1D0F1'
        """
        return f"N{self.norm:d}D{self.detector_score:d}F{self.flip:d}"


class TemplateSums:
    """Sums of weighted image embeddings by template, in every variant, while the images pass by.

    A medium's mean is each of its images by 1 / their number, so that one sum per template and
    variant is all that has to be kept: 8 x 8 x t x d bytes.

    Args:
        image: int64 (m,), ascending: which image a line puts into a template.
        template: int64 (m,), which template.
        weight: float64 (m,), how much.
        detector_scores: float64 (n,), of the images.
        num_templates: t.
        embedding_dim: d.
        flip: whether mirror images are given.
        names: of the images, for errors.

    Attributes:
        norms: float64 (n,), the length of each image's embedding before any scaling, of image and
            mirror image concatenated where both are given.
    """

    def __init__(
        self,
        image: NDArray[np.int64],
        template: NDArray[np.int64],
        weight: NDArray[np.float64],
        *,
        detector_scores: NDArray[np.float64],
        num_templates: int,
        embedding_dim: int,
        flip: bool,
        names: Sequence[str],
    ) -> None:
        self._image, self._template, self._weight = image, template, weight
        self._scores, self._names = detector_scores, names
        flips = (False, True) if flip else (False,)
        self._sums = {
            Variant(*choice): np.zeros((num_templates, embedding_dim))
            for choice in itertools.product(flips, (False, True), (False, True))
        }
        self._csr = require("scipy.sparse", extra="eval").csr_array
        self._done = 0
        self.norms = np.zeros(len(names))

    def add(self, plain: NDArray[np.floating], mirrored: NDArray[np.floating] | None) -> None:
        """Add the embeddings of the next images, (k, embedding_dim) each."""
        begin = self._done
        self._done += len(plain)
        lines = slice(*np.searchsorted(self._image, [begin, self._done]))
        templates, row = np.unique(self._template[lines], return_inverse=True)
        places = self._image[lines]
        shape = (len(templates), len(plain))
        self.norms[begin : self._done] = lengths_of_sides(plain, mirrored)
        for flip in {variant.flip for variant in self._sums}:
            vectors = np.asarray(plain, np.float64)
            if flip:
                vectors = vectors + np.asarray(mirrored, np.float64)
            check_embeddings(vectors, self._names[begin : self._done], count=False)
            lengths = np.linalg.norm(vectors, axis=1)
            for variant, sums in self._sums.items():
                if variant.flip != flip:
                    continue
                factor = self._weight[lines]
                if not variant.norm:
                    factor = factor / lengths[places - begin]
                if variant.detector_score:
                    factor = factor * self._scores[places]
                sums[templates] += self._csr((factor, (row, places - begin)), shape) @ vectors

    def template_means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over each template's media of the mean over their images, (t,).

        `values` are (n,), of the images.
        """
        weighted = np.bincount(self._template, self._weight * values[self._image])
        return np.asarray(weighted / np.bincount(self._template, self._weight))

    @property
    def variants(self) -> list[Variant]:
        """All variants, the headline first: all of flip, norm and detector score."""
        return sorted(self._sums, key=lambda v: (v.flip, v.norm, v.detector_score), reverse=True)

    def pop(self, variant: Variant, template_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a variant's templates at unit length, float32 (t, d), and forget them.

        Raises:
            ValueError: a template's sum is zero; the first is named.
        """
        sums = self._sums.pop(variant)
        norms, bad = norms_of(sums)
        if len(bad):
            raise ValueError(
                "templates must have a direction. Received: the sum of template "
                f"{template_ids[bad[0]]} is zero or not finite in the variant {variant.mode}, "
                f"{len(bad):,} such templates of {len(sums):,}"
                + (" (are all of its detector scores 0?)" if variant.detector_score else "")
            )
        sums /= norms
        return sums.astype(np.float32)


def template_cosines(
    templates: NDArray[np.float32],
    left: NDArray[np.integer],
    right: NDArray[np.integer],
    memory: int = MEMORY,
    progress: ProgressCallback | None = None,
) -> NDArray[np.float32]:
    """Return the cosine of each pair of templates, float32 (pairs,).

    Pairs are taken by their left template. All cosines of some left templates with all right ones
    are one product of matrices, out of which the pairs are picked: IJB's pairs are so dense that
    this is many times faster than one product per pair.

    Args:
        templates: float32 (t, d) of unit length.
        left: (pairs,) position of each pair's first template.
        right: (pairs,) of its second.
        memory: bytes of a block of cosines.
        progress: called with (pairs done, in all).

    Example:

    >>> template_cosines(np.eye(2, dtype=np.float32), np.array([0, 0]), np.array([0, 1])).tolist()
    [1.0, 0.0]
    """
    count = len(templates)
    order = np.argsort(left, kind="stable")
    high = max(1, memory // (4 * count))
    tops = np.arange(0, count + high, high)
    ends = np.searchsorted(left, tops, sorter=order)
    scores = np.empty(len(left), np.float32)
    for begin, end in itertools.pairwise(ends.tolist()):
        if begin == end:
            continue
        pairs = order[begin:end]
        rows, row = _distinct(left[pairs], count)
        columns, column = _distinct(right[pairs], count)
        block = templates[rows] @ templates[columns].T
        scores[pairs] = block[row, column]
        if progress is not None:
            progress(end, len(left))
    return np.clip(scores, -1.0, 1.0, out=scores)


def curve_of(
    scores: NDArray[np.float32], is_same: NDArray[np.bool_], fars: Sequence[float] = FARS
) -> tuple[float, RatesAtFar]:
    """Return AUC and TAR at FAR of millions of pairs, exact for the scores as they are.

    At most a share FAR of the impostor pairs is accepted; a tie counts against the network.

    Args:
        scores: float32 (pairs,), from -1 to 1.
        is_same: bool (pairs,), both classes.
        fars: false accept rates.

    Example:

    >>> scores = np.array([0.9, 0.2, 0.8, 0.1], np.float32)
    >>> curve_of(scores, np.array([True, True, False, False]))[0]
    0.75
    """
    genuine = scores[is_same]
    impostor = np.sort(scores[~is_same])
    total = len(impostor)
    below = np.searchsorted(impostor, genuine, side="left")
    ties = np.searchsorted(impostor, genuine, side="right") - below
    auc = float(np.mean(below + ties / 2)) / total
    top = impostor[-(int(max(fars) * total) + 2) :].astype(np.float64)  # none below is a threshold
    return auc, rates_at_far(genuine.astype(np.float64), lambda: [top], total, fars)


def curve_points(
    scores: NDArray[np.float32], is_same: NDArray[np.bool_], count: int = 120
) -> list[dict[str, Any]]:
    """Return points of the ROC curve, at most `count`, as even as can be in the logarithm of FAR.

    Each has `far`, `tar`, `tar_interval` (exact, 95 %) and the `threshold` that scores are above.
    """
    genuine, impostor = np.sort(scores[is_same]), np.sort(scores[~is_same])
    total = len(impostor)
    places = np.unique(np.geomspace(1, total, count).astype(np.int64)) - 1
    cuts = np.unique(impostor[total - 1 - places])[::-1]
    accepted = total - np.searchsorted(impostor, cuts, side="right")
    passed = len(genuine) - np.searchsorted(genuine, cuts, side="right")
    points = [
        {
            "far": false / total,
            "tar": right / len(genuine),
            "tar_interval": list(clopper_pearson(right, len(genuine))),
            "threshold": cut,
        }
        for false, right, cut in zip(accepted.tolist(), passed.tolist(), cuts.tolist(), strict=True)
    ]
    return [*points, {"far": 1.0, "tar": 1.0, "tar_interval": [1.0, 1.0], "threshold": None}]


def _distinct(
    values: NDArray[np.integer], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct values below `count`, ascending, and each value's place among them."""
    used = np.zeros(count, bool)
    used[values] = True
    return np.flatnonzero(used), (np.cumsum(used) - 1)[values]
