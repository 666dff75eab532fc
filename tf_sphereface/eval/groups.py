"""False accepts and false rejects of each group of people, at one threshold for all."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.measures.checks import as_labels, check_scores
from tf_sphereface.eval.measures.curve import IMPOSTORS_PER_FALSE_ACCEPT, clopper_pearson
from tf_sphereface.eval.pairs import read_lines
from tf_sphereface.eval.protocol import ProtocolResult, own_threshold
from tf_sphereface.utils.checks import check_number
from tf_sphereface.utils.messages import SphereFaceWarning, and_more

__all__ = [
    "GroupRates",
    "GroupReport",
    "rates_by_group",
    "rates_of_result",
    "read_groups",
]

FEWEST = 30  # pairs of a class in a group, whatever the rate
_EVENTS = IMPOSTORS_PER_FALSE_ACCEPT  # that a group's pairs should have at the rate of all pairs


@dataclasses.dataclass(frozen=True)
class GroupRates:
    """The errors of one group's pairs. Rates are fractions; intervals Clopper and Pearson's, 95 %.

    Attributes:
        name: of the group.
        impostor_pairs: pairs of two people of the group.
        far: share of these that are accepted; None where there are none.
        far_interval: of it.
        genuine_pairs: pairs of one person of the group.
        frr: share of these that are rejected; None where there are none.
        frr_interval: of it.
        few: why a rate is left out of the ratio of the worst to the best group, empty where none
            is: `"far"` or `"frr"` -> the reason.
    """

    name: str
    impostor_pairs: int
    far: float | None
    far_interval: tuple[float, float] | None
    genuine_pairs: int
    frr: float | None
    frr_interval: tuple[float, float] | None
    few: dict[str, str]


@dataclasses.dataclass(frozen=True)
class GroupReport:
    """The errors of all groups at one threshold.

    Attributes:
        threshold: a pair is accepted from this score on.
        origin: where the threshold is from, in words.
        groups: by name; pairs within the group alone.
        between: pairs whose images are of two groups; None where there are none.
        overall: all pairs whose images have a group.
        far_ratio: the highest false accept rate of a group over the lowest, of groups with enough
            pairs; None where there are fewer than two of them, or the lowest is 0.
        frr_ratio: the same of false reject rates.
        left_out: pairs that are not counted: an image of them has no group.
    """

    threshold: float
    origin: str
    groups: list[GroupRates]
    between: GroupRates | None
    overall: GroupRates
    far_ratio: float | None
    frr_ratio: float | None
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


def read_groups(path: str | os.PathLike[str]) -> dict[str, str]:
    r"""Read a list of groups: person or image -> group.

    A line holds a name and its group, separated by a tab, else a semicolon or a comma, else the
    last blank, in double quotes or without; empty lines, those that begin with `#`, and a first
    line whose group is `group` are skipped. A name is
    a person (`Ann_Lee`) or an image (`Ann_Lee/Ann_Lee_0001.jpg`, with or without its suffix), which
    counts before the person; in a `.bin` set, the image's number (of several sets, `lfw/12`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of that form, or a name has two groups; file and line are named.

    Example:

    >>> _ = Path("groups.csv").write_text("person,group\nAnn_Lee,x\nBob,y\n")
    >>> read_groups("groups.csv")
    {'Ann_Lee': 'x', 'Bob': 'y'}
    """
    path = Path(path)
    groups: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "of groups"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        sign = next((sign for sign in "\t;," if sign in line), None)
        parts = next(csv.reader([line], delimiter=sign)) if sign else line.rsplit(None, 1)
        fields = [field.strip().strip('"') for field in parts]
        if len(fields) != 2 or not all(fields):
            raise ValueError(
                f"{path}, line {number}: expected a name, a tab and its group. "
                f"Received: {line[:120]!r}"
            )
        name, group = fields[0].rstrip("/"), fields[1]
        if not groups and group.lower() == "group":
            continue
        if groups.setdefault(name, group) != group:
            raise ValueError(
                f"{path}, line {number}: {name!r} is in group {groups[name]!r} already. "
                f"Received: {group!r}"
            )
    if not groups:
        raise ValueError(f"{path} must hold a name and its group per line. Received: none")
    return groups


def group_of(name: str, groups: Mapping[str, str]) -> str | None:
    """Return the group of an image, by its own name, without suffix, or by a folder above it.

    Example:

    >>> group_of("Ann/Ann_0001.jpg", {"Ann": "x", "Ann/Ann_0001": "y"})
    'y'
    """
    if name in groups:
        return groups[name]
    stem, dot, suffix = name.rpartition(".")
    if dot and "/" not in suffix and stem in groups:
        return groups[stem]
    while "/" in name:
        name = name.rpartition("/")[0]
        if name in groups:
            return groups[name]
    return None


def groups_of_pairs(
    names: Sequence[str], left: ArrayLike, right: ArrayLike, groups: Mapping[str, str]
) -> list[tuple[str | None, str | None]]:
    """Return the groups of each pair's two images, or raise a ValueError where no pair has both.

    `left` and `right` are (pairs,) positions in the images' `names`.
    """
    of = [group_of(name, groups) for name in names]
    sides = zip(np.asarray(left).tolist(), np.asarray(right).tolist(), strict=True)
    found = [(of[a], of[b]) for a, b in sides]
    if all(None in pair for pair in found):
        raise ValueError(
            "no pair has a group for both its images. The list of groups has names such as "
            f"{next(iter(groups), '')!r}, the pairs such as {names[0]!r}"
        )
    return found


def rates_by_group(
    scores: ArrayLike,
    is_same: ArrayLike,
    groups: Sequence[tuple[str | None, str | None]],
    threshold: float,
    origin: str = "given",
) -> GroupReport:
    """Count false accepts and rejects of each group; a `SphereFaceWarning` names small groups.

    A group has too few pairs for its rate where there are fewer than 30, or fewer than would have
    ten errors at the rate of all pairs together.

    Args:
        scores: (n,), the higher the more alike.
        is_same: (n,) bool.
        groups: (n,) the groups of a pair's two images, None where an image has none.
        threshold: a pair is accepted from this score on.
        origin: where it is from, in words.

    Raises:
        ValueError: lengths differ, a score is not finite, or no pair has groups.

    Example:

    >>> with warnings.catch_warnings(action="ignore"):
    ...     report = rates_by_group([0.9, 0.6, 0.1], [1, 0, 0], [("x", "x")] * 3, 0.5)
    >>> report.groups[0].far, report.groups[0].frr
    (0.5, 0.0)
    """
    same = as_labels(is_same)
    values = check_scores(scores, len(same), 1)[0]
    check_number("threshold", threshold, -math.inf)
    if len(groups) != len(same):
        raise ValueError(f"groups must be of all {len(same)} pairs. Received: {len(groups)}")
    known = np.array([None not in pair for pair in groups], bool)
    inside = np.array([a if a and a == b else "" for a, b in groups], object)
    if not known.any():
        raise ValueError("groups must name a group of both images of a pair. Received: none such")
    wrong = np.where(same, values < threshold, values >= threshold)
    overall = _rates("all", same[known], wrong[known], {})
    needed = {"far": _needed(overall.far), "frr": _needed(overall.frr)}
    names = sorted({group for pair in groups if None not in pair for group in pair if group})
    found = [_rates(name, same[inside == name], wrong[inside == name], needed) for name in names]
    apart = known & (inside == "")
    between = _rates("between groups", same[apart], wrong[apart], {}) if apart.any() else None
    _warn_of_few(found)
    return GroupReport(
        threshold=float(threshold),
        origin=origin,
        groups=found,
        between=between,
        overall=overall,
        far_ratio=_ratio([g.far for g in found if "far" not in g.few]),
        frr_ratio=_ratio([g.frr for g in found if "frr" not in g.few]),
        left_out=int(np.sum(~known)),
    )


def rates_of_result(
    result: ProtocolResult,
    groups: Mapping[str, str],
    threshold: float | None = None,
    prefix: str = "",
) -> GroupReport:
    r"""Count the errors of each group in a protocol's headline.

    Args:
        result: what a protocol's `evaluate` returned.
        groups: what `read_groups` returned.
        threshold: for all groups; None takes the model's own, where it has one for vectors of this
            kind, else the mean of the folds' thresholds.
        prefix: put before the images' names, such as `"lfw/"`.

    Raises:
        ValueError: no image of the pairs has a group, or there is no threshold to take.

    Example:

    >>> from tf_sphereface.eval import scores
    >>> text = "0.9 1 1 Ann/1 Ann/2\n0.6 0 1 Ann/1 Eve/1\n"
    >>> text += "0.8 1 2 Eve/1 Eve/2\n0.1 0 2 Ann/2 Eve/2\n"
    >>> _, result = Path("scores.txt").write_text(text), scores.evaluate("scores.txt")
    >>> with warnings.catch_warnings(action="ignore"):  # of groups with few pairs
    ...     report = rates_of_result(result, {"Ann": "x", "Eve": "x"}, threshold=0.5)
    >>> report.overall.far, report.overall.frr
    (0.5, 0.0)
    """
    headline, pairs = result.headline, result.pairs
    names, left, right = pairs.images()
    together = groups_of_pairs([prefix + name for name in names], left, right, groups)
    origin, finite = "given", headline.thresholds[np.isfinite(headline.thresholds)]
    if threshold is None:
        threshold, origin = own_threshold(result), "the model's own"
    if threshold is None and len(finite):
        threshold, origin = float(np.mean(finite)), "the mean of the folds' thresholds"
    if threshold is None:
        raise ValueError("groups need a threshold, and there are no folds that choose one: give it")
    return rates_by_group(headline.scores, headline.is_same, together, threshold, origin)


def _rates(
    name: str, same: NDArray[np.bool_], wrong: NDArray[np.bool_], needed: Mapping[str, int]
) -> GroupRates:
    figures: dict[str, Any] = {}
    few: dict[str, str] = {}
    for rate, kind, chosen in (("far", "impostor", ~same), ("frr", "genuine", same)):
        count, errors = int(np.sum(chosen)), int(np.sum(wrong & chosen))
        figures[f"{kind}_pairs"] = count
        figures[rate] = errors / count if count else None
        figures[f"{rate}_interval"] = clopper_pearson(errors, count) if count else None
        if count < needed.get(rate, 0):
            few[rate] = f"{count:,} {kind} pairs, {needed[rate]:,} are needed"
    return GroupRates(name=name, few=few, **figures)


def _needed(rate: float | None) -> int:
    """Return how many pairs a group needs, so that some ten errors are expected at a rate."""
    return max(FEWEST, math.ceil(_EVENTS / rate)) if rate else FEWEST


def _ratio(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    if len(known) < 2 or min(known) == 0:
        return None
    return max(known) / min(known)


def _warn_of_few(groups: Sequence[GroupRates]) -> None:
    lines = [f"{group.name}: {reason}" for group in groups for reason in group.few.values()]
    if lines:
        text = f"groups with too few pairs for a rate: {and_more(lines, 6, separator='; ')}"
        warnings.warn(text, SphereFaceWarning, stacklevel=3)
