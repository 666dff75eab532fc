"""Error against the share of pairs left out, lowest quality first: does a quality sort errors?"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.measures.angles import ONE_LENGTH
from tf_sphereface.eval.measures.checks import as_labels
from tf_sphereface.eval.measures.curve import unsupported
from tf_sphereface.eval.protocol import ProtocolResult
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.messages import SphereFaceWarning

__all__ = [
    "DiscardCurve",
    "QualityReport",
    "discard_curve",
    "error_versus_discard",
    "norms_report",
    "quality_report",
]

FMRS = (1e-3, 1e-2, 1e-1)  # the first that the impostor pairs support is taken
LIMIT = 0.5  # share of pairs up to which the area is taken
_STEPS = 96  # points of a curve in a report: 0 to 95 %
_UNIT = 0.02  # a quantized network's unit vectors are this near to length 1

NO_ORDER = "all have one quality: it gives no order"
ONE_LENGTH_SAID = (
    "the embeddings all have one length: the network scales its output (or the stored embeddings "
    "were scaled), and their lengths say nothing of the images"
)


@dataclasses.dataclass(frozen=True, eq=False)
class DiscardCurve:
    """The error of the pairs that are left when those of lowest quality are left out.

    Attributes:
        share: float64 (n,), the share of pairs left out: 0, 1 / n, ... (n - 1) / n.
        error: float64 (n,), the share of wrong pairs among those that are left. Pairs of equal
            quality go in random order: the error is its expectation.
        quality: float64 (n,), the lowest quality among the pairs that are left.
        num_wrong: wrong pairs among all n.
        limit: the area's range is 0 to this share.
        area: under `error` over `share`, as a step function. `area / limit` is a mean error.
        random: the area of a random order, `error[0] * limit`, its expectation.
        random_std: the standard deviation of the area over random orders.
        ideal: the area of the best order, in which all wrong pairs come first.

    Example:

    >>> curve = discard_curve([True, False, False, False], [0.1, 0.7, 0.8, 0.9])
    >>> curve.error[[curve.at(0.0), curve.at(0.25)]].tolist()
    [0.25, 0.0]
    """

    share: NDArray[np.float64]
    error: NDArray[np.float64]
    quality: NDArray[np.float64]
    num_wrong: int
    limit: float
    area: float
    random: float
    random_std: float
    ideal: float

    @property
    def gain(self) -> float | None:
        """How much of the ideal order's advantage is there: 1 ideal, 0 random, below 0 worse.

        None where no order has an advantage: no pair is wrong, or all are.
        """
        span = self.random - self.ideal
        return (self.random - self.area) / span if span > 1e-15 else None

    def at(self, share: float) -> int:
        """Return the place in the arrays of a share of pairs left out, from 0 to below 1."""
        return min(int(share * len(self.share) + 1e-9), len(self.share) - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class QualityReport:
    """What one quality does for the pairs of a protocol.

    Attributes:
        quality: `"norm"` or `"detector_score"`.
        description: what that is, and what is left out, in words.
        spread: lowest, median and highest quality of what is compared.
        meaningless: why there are no curves, else empty.
        fmr: the false match rate that the threshold of `fnmr` keeps to on all impostor pairs.
        threshold: genuine pairs are rejected up to this score.
        fnmr: false non-match rate of the genuine pairs at that threshold, which is not moved; None
            where the impostor pairs are too few for any.
        verification: share of all pairs that are decided wrongly, each by its fold's threshold;
            None without folds.
        images: float64, ascending: the quality of all that is compared.
    """

    quality: str
    description: str
    spread: tuple[float, float, float]
    meaningless: str
    fmr: float | None
    threshold: float | None
    fnmr: DiscardCurve | None
    verification: DiscardCurve | None
    images: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        lowest, median, highest = self.spread
        return {
            "quality": self.quality,
            "description": self.description,
            "lowest": lowest,
            "median": median,
            "highest": highest,
            "meaningless": self.meaningless or None,
            "fmr": self.fmr,
            "threshold": self.threshold,
            "fnmr": self._curve(self.fnmr),
            "verification": self._curve(self.verification),
        }

    def _curve(self, curve: DiscardCurve | None) -> dict[str, Any] | None:
        if curve is None:
            return None
        places = dict.fromkeys(curve.at(step / 100) for step in range(_STEPS))
        lower = np.searchsorted(self.images, curve.quality) / len(self.images)
        return {
            "pairs": len(curve.share),
            "wrong": curve.num_wrong,
            "limit": curve.limit,
            "area": curve.area,
            "random": curve.random,
            "random_std": curve.random_std,
            "ideal": curve.ideal,
            "gain": curve.gain,
            "points": [
                {
                    "share": float(curve.share[at]),
                    "error": float(curve.error[at]),
                    "quality": float(curve.quality[at]),
                    "images": float(lower[at]),
                }
                for at in places
            ],
        }


def discard_curve(wrong: ArrayLike, quality: ArrayLike, limit: float = LIMIT) -> DiscardCurve:
    """Leave pairs out, lowest quality first, and count the error of those that are left.

    Args:
        wrong: (n,) bool, whether a pair is decided wrongly; n at least 1.
        quality: (n,) finite, the higher the better; or (n, 2), that of a pair's two images, of
            which the lower counts.
        limit: the share up to which the area is taken, above 0, at most 1.

    Returns:
        The curve. A `SphereFaceWarning` says where all pairs have one quality: the curve is flat,
        and its area that of a random order.

    Raises:
        ValueError: one of these does not hold.

    Example:

    >>> curve = discard_curve([True, False, False, False], [0.1, 0.7, 0.8, 0.9])
    >>> curve.error.tolist(), curve.area, curve.random, curve.gain
    ([0.25, 0.0, 0.0, 0.0], 0.0625, 0.125, 1.0)

    Source: Grother and Tabassi, "Performance of Biometric Quality Measures", TPAMI 2007; Schlett et
    al., "Considerations on the Evaluation of Biometric Quality Assessment Algorithms", 2023, for
    the lower quality of the two, the step function and the partial area.
    """
    errors = as_labels(wrong, "wrong")
    values = _of_pairs(quality, len(errors))
    if not len(errors):
        raise error("wrong", "have a pair at least", wrong)
    if not 0 < limit <= 1:
        raise error("limit", "be above 0, at most 1", limit)
    count = len(errors)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    _, block, sizes = np.unique(ordered, return_inverse=True, return_counts=True)
    if len(sizes) == 1:
        warnings.warn(f"quality: the pairs {NO_ORDER}", SphereFaceWarning, stacklevel=2)
    shares = np.bincount(block, weights=errors[order]) / sizes  # of wrong pairs in each tie
    expected = shares[block]
    left = count - np.arange(count)
    kept = np.cumsum(expected[::-1])[::-1]  # wrong pairs from a rank on
    weight = _weights(left, limit)
    total = int(np.sum(errors))
    spread = float(np.var(weight)) * total * (count - total) / max(count - 1, 1)
    return DiscardCurve(
        share=np.arange(count) / count,
        error=np.clip(kept / left, 0.0, 1.0),
        quality=ordered,
        num_wrong=total,
        limit=float(limit),
        area=float(expected @ weight),
        random=total / count * limit,
        random_std=float(np.sqrt(spread)),
        ideal=float(np.sum(weight[:total])),
    )


def error_versus_discard(
    scores: ArrayLike,
    is_same: ArrayLike,
    quality: ArrayLike,
    *,
    fmr: float | None = None,
    limit: float = LIMIT,
) -> tuple[DiscardCurve, float, float]:
    """Return the false non-match rate of the genuine pairs that are left, at a fixed threshold.

    The threshold is chosen once, on all impostor pairs: at most a share `fmr` of them scores above
    it. The share left out is of the genuine pairs.

    Args:
        scores: (n,), finite, the higher the more alike.
        is_same: (n,) bool, both classes.
        quality: (n,) or (n, 2), as for `discard_curve`.
        fmr: false match rate; None takes the lowest of 1e-3, 1e-2 and 1e-1 that ten impostor pairs
            decide.
        limit: as for `discard_curve`.

    Returns:
        The curve, the threshold (genuine pairs are rejected up to this score), and the rate.

    Raises:
        ValueError: lengths differ, values are not finite, or the impostor pairs are too few.

    Example:

    >>> scores = np.concatenate([np.linspace(0, 1, 100), [0.8, 0.95]])
    >>> same = np.arange(102) >= 100
    >>> curve, threshold, rate = error_versus_discard(scores, same, scores)
    >>> rate, round(threshold, 3), curve.error.tolist()
    (0.1, 0.899, [0.5, 0.0])
    """
    same = as_labels(is_same)
    values = np.asarray(scores)
    if values.shape != same.shape or not np.isfinite(values).all():
        raise ValueError(
            f"scores must be finite and of all {len(same)} pairs. Received: {values.shape}"
        )
    qualities = _of_pairs(quality, len(same))
    impostor = values[~same]
    if same.all() or not same.any():
        raise ValueError("is_same must hold genuine and impostor pairs. Received: one class alone")
    fits = [rate for rate in (FMRS if fmr is None else (fmr,)) if not _reason(rate, len(impostor))]
    if not fits:
        raise ValueError(f"fmr {_reason(FMRS[-1] if fmr is None else fmr, len(impostor))}")
    allowed = int(fits[0] * len(impostor) + 1e-9)
    threshold = float(np.partition(impostor, len(impostor) - 1 - allowed)[-1 - allowed])
    return discard_curve(values[same] <= threshold, qualities[same], limit), threshold, fits[0]


def quality_report(
    quality: str,
    description: str,
    qualities: ArrayLike,
    pair_qualities: ArrayLike,
    scores: ArrayLike,
    is_same: ArrayLike,
    *,
    correct: ArrayLike | None = None,
    meaningless: str = "",
) -> QualityReport:
    """Draw both curves for one quality.

    Args:
        quality: its name.
        description: what it is, in words.
        qualities: (images,), of all that is compared.
        pair_qualities: (n,) or (n, 2), of the pairs.
        scores: (n,).
        is_same: (n,) bool.
        correct: (n,) bool, whether a pair was decided rightly; None without decisions.
        meaningless: why there is nothing to draw; empty looks whether all qualities are equal.

    Example:

    >>> scores = np.concatenate([np.linspace(0, 1, 100), [0.8, 0.95]])
    >>> same = np.arange(102) >= 100
    >>> report = quality_report("norm", "length", scores, scores, scores, same)
    >>> report.fmr, report.fnmr.error.tolist()
    (0.1, [0.5, 0.0])
    """
    images = np.sort(np.asarray(qualities, np.float64))
    pairs = _of_pairs(pair_qualities, len(np.asarray(is_same)))
    if not meaningless and np.ptp(pairs) == 0:
        meaningless = f"the pairs {NO_ORDER}"
    fnmr = threshold = fmr = verification = None
    if not meaningless:
        same = as_labels(is_same)
        if not _reason(FMRS[-1], int(np.sum(~same))) and np.ptp(pairs[same]) > 0:
            fnmr, threshold, fmr = error_versus_discard(scores, same, pairs)
        if correct is not None:
            verification = discard_curve(~np.asarray(correct), pairs)
    return QualityReport(
        quality=quality,
        description=description,
        spread=(float(images[0]), float(np.median(images)), float(images[-1])),
        meaningless=meaningless,
        fmr=fmr,
        threshold=threshold,
        fnmr=fnmr,
        verification=verification,
        images=images,
    )


def norms_report(result: ProtocolResult) -> QualityReport | None:
    """Return what the lengths of a headline's embeddings do (a pair's: the lower), or None.

    Example:

    >>> from tf_sphereface.eval import lfw, scoring
    >>> images = [f"{name}/{name}_000{k}.jpg" for name in "AB" for k in (1, 2)]
    >>> scoring.write_embeddings("faces.npz", images, [[1, 0], [2, 0], [0, 3], [0, 9]])
    >>> train = lfw.Pairs(images[:1] * 2, images[1:3], np.array([True, False]), np.ones(2, int))
    >>> test = lfw.Pairs(train.right, train.left, train.is_same, train.folds)
    >>> norms_report(lfw.evaluate_view1("faces.npz", None, train, test)).spread  # of lengths
    (1.0, 2.0, 3.0)
    """
    headline, pairs = result.headline, result.pairs
    if result.norms is None or len(headline.scores) != len(pairs):
        return None
    norms = np.array(list(result.norms.values()))
    sides = [[result.norms[name] for name in side] for side in (pairs.left, pairs.right)]
    both = "" if result.headline_key[0] == "none" else " and of its mirror image, concatenated"
    what = "mean over a video's frames" if result.name == "ytf" else "an image's"
    return quality_report(
        "norm",
        f"{what}: length of the embedding{both}, before any scaling; the lower of a pair's two",
        norms,
        np.array(sides).T,
        headline.scores,
        headline.is_same,
        correct=headline.correct,
        meaningless=one_length(norms),
    )


def one_length(norms: ArrayLike) -> str:
    """Say that embeddings of these norms (n,) were scaled to one length; empty if they were not.

    Unit vectors count up to 2 %, as a quantized network gives them.

    Example:

    >>> one_length([1.0, 1.001, 0.999]) == ONE_LENGTH_SAID, one_length([8.0, 21.0])
    (True, '')
    """
    values = np.asarray(norms, np.float64)
    low, high = float(np.min(values)), float(np.max(values))
    sides = np.array([1.0, np.sqrt(2.0)])  # alone, or image and mirror image
    unit = ((low > sides * (1 - _UNIT)) & (high < sides * (1 + _UNIT))).any()
    return ONE_LENGTH_SAID if unit or high - low <= ONE_LENGTH * high else ""


def _weights(left: NDArray[np.int64], limit: float) -> NDArray[np.float64]:
    """Return what a wrong pair of each rank adds to the area: 1 / (pairs left) until it goes.

    A pair of rank r is there while 0 to r pairs are left out; the steps are 1 / n wide, the last
    one within the limit perhaps narrower.
    """
    count = len(left)
    width = np.clip(limit * count - np.arange(count), 0.0, 1.0) / count
    return np.cumsum(width / left)


def _of_pairs(quality: ArrayLike, count: int) -> NDArray[np.float64]:
    """Return the quality of each pair, (n,), the lower of two; or raise a ValueError."""
    values = np.asarray(quality, np.float64)
    if values.shape not in ((count,), (count, 2)):
        raise ValueError(
            f"quality must have the shape ({count},) or ({count}, 2). Received: {values.shape}"
        )
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)]
        raise ValueError(f"quality must be finite. Received: {bad[0]}, {len(bad)} such values")
    return values if values.ndim == 1 else values.min(axis=1)


def _reason(fmr: float, impostors: int) -> str | None:
    if not 0 < fmr < 1:
        return f"must be between 0 and 1. Received: {fmr}"
    return unsupported(fmr, impostors)
