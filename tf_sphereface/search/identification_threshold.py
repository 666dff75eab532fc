"""The cosine from which a stranger seldom enough gets a name, for a gallery as it is."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.search.exact_search import ExactSearch

Origin = Literal["strangers", "people", "model", "given"]
CONFIDENCE = 0.9  # of the intervals
_DEVIATIONS = 1.645  # of a normal distribution, to either side of that
RESAMPLES = 400
FEWEST_PEOPLE = 50  # below, two who look alike decide
FEWEST_FALSE = 3  # expected false identifications
ABOVE_NEAREST = 1e-6  # of a threshold at which nobody is named
MOST_PICTURES = 50_000  # past that, some people are drawn


@dataclasses.dataclass(frozen=True)
class IdentificationThreshold:
    """A gallery's threshold and where it comes from; rates are fractions.

    Attributes:
        rate: the wanted share of strangers' pictures that get a name.
        threshold: the cosine from which the nearest person is named: the upper end of
            `threshold_interval`. None: no verdict. A few who look alike decide: of other strangers
            single galleries named up to 2.5 times the rate (docs/results/evaluation.md).
        threshold_interval: of the cosine that has this rate, where people are drawn anew (90 % of
            the bootstrap's draws).
        measured_rate: the share at `threshold` where it was measured; for `"model"` its bound.
        rate_interval: 90 % interval of the share at `threshold`, by Wilson's score (1927): wide, as
            the pictures of a person count as one.
        origin: `"strangers"`: pictures of people who are not enrolled; `"people"`: the enrolled,
            each against the gallery without them; `"model"`: what the model's file states for two
            pictures; `"given"`: by hand.
        pictures: that were measured on.
        people: whom they show.
        gallery_people: enrolled when it was measured.
        gallery_pictures: theirs.
        nearest: of the measured pictures the one nearest to another person: who, whom, cosine.
        reason: why there is no threshold.
        not_strangers: why it is not of the strangers that were given; None if it is, or none were.

    Example:

    >>> threshold = IdentificationThreshold(rate=0.01, threshold=0.4, origin="given")
    >>> IdentificationThreshold.from_dict(threshold.to_dict()) == threshold
    True
    """

    rate: float
    threshold: float | None = None
    threshold_interval: tuple[float, float] | None = None
    measured_rate: float | None = None
    rate_interval: tuple[float, float] | None = None
    origin: Origin | None = None
    pictures: int = 0
    people: int = 0
    gallery_people: int = 0
    gallery_pictures: int = 0
    nearest: tuple[str, str, float] | None = None
    reason: str | None = None
    not_strangers: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> IdentificationThreshold:
        """Read what `to_dict` gave."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fields)


Faces = tuple[list[str], NDArray[np.float32], NDArray[np.int64]]
"""Names (people,), unit vectors (n, d), owners (n,)."""


def find_threshold(
    templates: NDArray[np.float32],
    enrolled: Faces,
    strangers: Faces,
    model: dict[str, Any],
    rate: float,
) -> IdentificationThreshold:
    """Return the threshold for a rate of false identifications.

    Strangers are asked where there are enough; else the enrolled, each against the others; where
    these are too few, the model's own calibration.

    Args:
        templates: (people, d), of the enrolled.
        enrolled: their pictures.
        strangers: pictures of others.
        model: the facts of the model, with `thresholds`: false accept rate -> cosine.
        rate: wanted.
    """
    size: dict[str, Any] = {
        "gallery_people": len(enrolled[0]),
        "gallery_pictures": len(enrolled[1]),
    }
    if not len(templates):
        return IdentificationThreshold(rate, reason="nobody is enrolled", **size)
    sources = [
        lambda: _from_scores(*_nearest_others(templates, _drawn(enrolled)), rate, size),
        lambda: _from_model(model, rate, size),
    ]
    if strangers[0]:
        asked = _nearest_of_strangers(templates, enrolled, _drawn(strangers))
        sources.insert(0, lambda: _from_scores(*asked, rate, size))
    tried: list[IdentificationThreshold] = []
    for source in sources:
        found = source()
        if found.threshold is not None:
            why = tried[0].reason if tried and strangers[0] else None
            return dataclasses.replace(found, not_strangers=why)
        tried.append(found)
    return dataclasses.replace(tried[0], reason="; ".join(str(each.reason) for each in tried))


def _drawn(faces: Faces) -> Faces:
    """Return the pictures, or where there are very many those of some people, drawn at random."""
    names, vectors, owner = faces
    if len(vectors) <= MOST_PICTURES:
        return faces
    most = max(1, MOST_PICTURES // 50)  # of a person, so that there are others
    counts = np.minimum(np.bincount(owner, minlength=len(names)), most)
    order = np.random.default_rng(0).permutation(len(names))
    people = order[np.cumsum(counts[order]) <= MOST_PICTURES]
    by_owner = np.argsort(owner, kind="stable")
    number = np.empty_like(owner)  # of a picture among its person's
    number[by_owner] = np.arange(len(owner)) - np.searchsorted(owner[by_owner], owner[by_owner])
    kept = np.isin(owner, people) & (number < counts[owner])
    return names, vectors[kept], owner[kept]


Scores = tuple[Origin, NDArray[np.float64], NDArray[np.int64], tuple[str, str, float] | None]


def _nearest_of_strangers(
    templates: NDArray[np.float32], enrolled: Faces, strangers: Faces
) -> Scores:
    """Return each stranger picture's highest cosine to anybody in the gallery."""
    names, vectors, owner = strangers
    rows, cosines = ExactSearch(templates)(vectors)
    first = int(np.argmax(cosines[:, 0]))
    nearest = names[owner[first]], enrolled[0][rows[first, 0]], float(cosines[first, 0])
    return "strangers", cosines[:, 0], owner, nearest


def _nearest_others(templates: NDArray[np.float32], enrolled: Faces) -> Scores:
    """Return each enrolled picture's highest cosine to anybody but its own person."""
    names, vectors, owner = enrolled
    if len(names) < 2:
        return "people", np.zeros(0), np.zeros(0, np.int64), None
    rows, cosines = ExactSearch(templates)(vectors, 2)
    other = (rows[:, 0] == owner).astype(np.int64)
    every = np.arange(len(rows))
    scores, whom = cosines[every, other], rows[every, other]
    first = int(np.argmax(scores))
    return "people", scores, owner, (names[owner[first]], names[whom[first]], float(scores[first]))


def _from_scores(
    origin: Origin,
    scores: NDArray[np.float64],
    owner: NDArray[np.int64],
    nearest: tuple[str, str, float] | None,
    rate: float,
    size: dict[str, Any],
) -> IdentificationThreshold:
    """Choose the threshold on pictures of people who should not be named."""
    people = len(np.unique(owner))
    stated: dict[str, Any] = {
        "origin": origin,
        "pictures": len(scores),
        "people": people,
        "nearest": nearest,
    }
    reason = _too_few(origin, len(scores), people, rate)
    if reason:
        return IdentificationThreshold(rate, reason=reason, **stated, **size)
    wanted = rate
    if origin == "people":  # each has been asked against one person fewer than are there
        wanted = 1 - (1 - rate) ** (1 - 1 / size["gallery_people"])
    order = np.argsort(-scores, kind="stable")
    falling, whose = scores[order], np.unique(owner[order], return_inverse=True)[1]
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    cosines = _resampled(falling, whose, wanted)
    low, threshold = (float(value) for value in np.percentile(cosines, tails))
    measured, counts = float(np.mean(scores >= threshold)), np.bincount(whose)
    alone = counts.sum() ** 2 / (counts**2).sum()  # as many pictures of one person each
    return IdentificationThreshold(
        rate,
        threshold=threshold,
        threshold_interval=(low, threshold),
        measured_rate=measured,
        rate_interval=_interval(measured, alone),
        **stated,
        **size,
    )


def _interval(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's interval of a share that was found among so many."""
    square = _DEVIATIONS**2 / count
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return float(middle - half) if share * count >= 1 else 0.0, float(middle + half)


def _too_few(origin: Origin, pictures: int, people: int, rate: float) -> str | None:
    """Say why pictures cannot support a rate; None where they can."""
    least = max(FEWEST_PEOPLE, int(np.ceil(0.5 / rate)))
    needed = max(least, int(np.ceil(FEWEST_FALSE / rate)))
    who = "strangers" if origin == "strangers" else "enrolled people"
    if not people:
        return "one person alone cannot be compared with others"
    if people >= least and pictures >= needed:
        return None
    return (
        f"a rate of {rate:g} needs {needed:,} pictures of {least:,} {who}; there are {pictures:,} "
        f"pictures of {people:,} {who}"
    )


def _resampled(
    falling: NDArray[np.float64], whose: NDArray[np.int64], rate: float
) -> NDArray[np.float64]:
    """Draw the people anew, and return each time's cosine of that rate, (`RESAMPLES`,).

    Pictures of one person are not independent: whole people are drawn, with replacement.
    """
    people = int(whose.max()) + 1
    counts = np.bincount(whose)
    rng = np.random.default_rng(0)
    weights = np.stack(
        [np.bincount(rng.integers(0, people, people), minlength=people) for _ in range(RESAMPLES)]
    )
    cosines = np.empty(RESAMPLES)
    for k, times in enumerate(weights):
        allowed = rate * (times @ counts) * (1 + 1e-12)
        at = int(np.searchsorted(np.cumsum(times[whose]), allowed, side="right"))
        at = int(np.searchsorted(-falling, -falling[min(at, len(falling) - 1)]))  # above a tie
        cosines[k] = (falling[at - 1] + falling[at]) / 2 if at else falling[0] + ABOVE_NEAREST
    return cosines


def _from_model(
    model: dict[str, Any], rate: float, size: dict[str, Any]
) -> IdentificationThreshold:
    """Take the model's threshold for two pictures at a rate that is small enough for a gallery.

    Of T enrolled pictures each is a chance to be wrong: 1 - (1 - FAR)^T at most, as if they were
    independent. Several pictures of a person in the template count as several.
    """
    thresholds = {float(far): cosine for far, cosine in (model.get("thresholds") or {}).items()}
    if not thresholds:
        return IdentificationThreshold(rate, reason="the model states no threshold and rate")
    count = size["gallery_pictures"]
    needed = 1 - (1 - rate) ** (1 / count)
    enough = [far for far in thresholds if far <= needed]
    if not enough:
        return IdentificationThreshold(
            rate,
            reason=f"the model's calibration goes down to a false accept rate of "
            f"{min(thresholds):g}, and {count:,} enrolled pictures need {needed:.2g}",
        )
    return IdentificationThreshold(
        rate,
        threshold=float(thresholds[max(enough)]),
        measured_rate=1 - (1 - max(enough)) ** count,
        origin="model",
        **size,
    )
