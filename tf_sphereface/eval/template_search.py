"""IJB's 1:N search, by both computations that circulate: galleries joined, and each apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.identification.rates import rates_at_far
from tf_sphereface.eval.identification.score_blocks import MEMORY, TIE, unit_rows
from tf_sphereface.eval.identification.watch_list import OpenSetResult
from tf_sphereface.eval.ijb_galleries import TemplateOwners
from tf_sphereface.eval.measures.curve import unsupported

RANKS = (1, 5, 10)
FPIRS = (0.01, 0.1)
_JOINED = ""  # no name of a gallery
COMPUTATIONS = {
    "joined": "both galleries joined, so that every probe has a mate; a hit at an FPIR is a mate "
    "that scores above the (FPIR x probes)-th highest of all scores with others, whatever its rank",
    "apart": "each gallery apart, and the mean of both; people of the other gallery are the "
    "impostor probes, of which a share FPIR scores above the threshold with anybody; a hit is a "
    "mate at rank 1 above it",
}


@dataclasses.dataclass(frozen=True)
class JoinedSearch:
    """Search in one gallery that holds everybody.

    Attributes:
        rates: rank -> share of the probes whose mate is within that rank.
        tpir_at_fpir: FPIR -> share of the probes whose mate scores above the threshold, None where
            fewer than ten scores would decide.
        reasons: FPIR -> why its entry is None.
        num_gallery: templates in the gallery.
        num_probes: probes with a mate in it; others are left out.
    """

    rates: dict[int, float]
    tpir_at_fpir: dict[float, float | None]
    reasons: dict[float, str]
    num_gallery: int
    num_probes: int


@dataclasses.dataclass(frozen=True)
class TemplateSearch:
    """The same probes by both computations, see `COMPUTATIONS`.

    Attributes:
        joined: in all galleries at once.
        apart: name of a gallery -> search in it alone; `dir_at_far[1]` is TPIR at FPIR.
        num_probes: all probes, with a mate or without.
    """

    joined: JoinedSearch
    apart: dict[str, OpenSetResult]
    num_probes: int

    @property
    def mean_rates(self) -> dict[int, float]:
        """Rank -> mean over the galleries apart."""
        return {
            rank: float(np.mean([one.rates[rank] for one in self.apart.values()])) for rank in RANKS
        }

    @property
    def mean_tpir_at_fpir(self) -> dict[float, float | None]:
        """FPIR -> mean over the galleries apart, None where one of them cannot state it."""
        means: dict[float, float | None] = {}
        for fpir in FPIRS:
            rates = [one.dir_at_far[1].rates[fpir] for one in self.apart.values()]
            stated = [rate for rate in rates if rate is not None]
            means[fpir] = float(np.mean(stated)) if len(stated) == len(rates) else None
        return means


def search_templates(
    templates: NDArray[np.floating],
    galleries: Mapping[str, TemplateOwners],
    probes: TemplateOwners,
    *,
    memory: int = MEMORY,
) -> TemplateSearch:
    """Search probes in galleries, joined and apart, in one pass over all scores.

    A person's best template counts. A rank is 1 and the number of templates of other people that
    score as high as the mate or higher: a tie counts against the network.

    Args:
        templates: (t, d), none zero.
        galleries: name -> positions in `templates` and whose they are.
        probes: likewise; each gallery holds one of their people at least.
        memory: bytes that a block of scores and what is computed from it may take.
    """
    entries = np.concatenate([gallery.templates for gallery in galleries.values()])
    enrolled = np.concatenate([gallery.subjects for gallery in galleries.values()])
    ends = np.cumsum([len(gallery.templates) for gallery in galleries.values()]).tolist()
    columns = dict(zip(galleries, map(slice, [0, *ends], ends), strict=False))
    codes = np.unique(np.concatenate([enrolled, probes.subjects]), return_inverse=True)[1]
    owner, seeker = codes[: len(entries)], codes[len(entries) :]
    known = np.isin(seeker, owner)
    places = {fpir: math.ceil(fpir * int(known.sum()) * (1 - 1e-9)) for fpir in FPIRS}
    columns[_JOINED] = slice(0, len(entries))
    ranking = {name: _Ranking(len(seeker)) for name in columns}
    highest = np.empty(0)
    vectors = unit_rows(templates[entries], "gallery")
    step = max(1, memory // (32 * len(entries)))
    for top in range(0, len(seeker), step):
        rows = slice(top, top + step)
        scores = unit_rows(templates[probes.templates[rows]], "probes") @ vectors.T
        same = seeker[rows, None] == owner[None]
        for name, part in columns.items():
            ranking[name].add(rows, scores[:, part], same[:, part])
        others = scores[~same & known[rows, None]]
        highest = _highest(np.concatenate([highest, others]), max(places.values()))
    joined = ranking.pop(_JOINED)
    reasons = {
        fpir: reason.replace("impostor pairs", "probes")
        for fpir in FPIRS
        if (reason := unsupported(fpir, int(known.sum())))
    }
    highest = np.concatenate([np.full(max(places.values()), -np.inf), highest])  # of one person
    rates = {
        fpir: None if fpir in reasons else float(np.mean(joined.mate[known] > highest[-place]))
        for fpir, place in places.items()
    }
    return TemplateSearch(
        JoinedSearch(joined.rates(), rates, reasons, len(entries), int(known.sum())),
        {name: one.open_set(len(galleries[name].templates)) for name, one in ranking.items()},
        len(seeker),
    )


class _Ranking:
    """How each probe stands in a gallery: scores of mate and best other, and how many are better.

    The mate's score is -infinity for a probe without one.
    """

    def __init__(self, num_probes: int) -> None:
        self.mate = np.full(num_probes, -np.inf)
        self.other = np.full(num_probes, -np.inf)
        self.better = np.zeros(num_probes, np.int64)

    def add(self, rows: slice, scores: NDArray[np.float64], same: NDArray[np.bool_]) -> None:
        """Take in the scores of some probes with the whole gallery."""
        mate = np.max(scores, axis=1, initial=-np.inf, where=same)
        self.mate[rows] = mate
        self.other[rows] = np.max(scores, axis=1, initial=-np.inf, where=~same)
        self.better[rows] = np.sum((scores >= mate[:, None] - TIE) & ~same, axis=1)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which probes have a mate."""
        return np.asarray(self.mate > -np.inf)

    def rates(self) -> dict[int, float]:
        """Return rank -> share of the probes with a mate that have it within that rank."""
        return {rank: float(np.mean(self.better[self.known] < rank)) for rank in RANKS}

    def open_set(self, num_gallery: int) -> OpenSetResult:
        """Return the result of a search for which probes without a mate are the impostors."""
        known = self.known
        strangers = np.clip(self.other[~known], -1.0, 1.0)
        hits = np.where(self.better[known] < 1, self.mate[known], -np.inf)
        rates = rates_at_far(hits, lambda: [strangers], len(strangers), FPIRS, "impostor probes")
        return OpenSetResult(
            self.rates(), {1: rates}, num_gallery, int(known.sum()), len(strangers)
        )


def _highest(scores: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the highest scores, ascending."""
    if len(scores) > count:
        scores = np.partition(scores, len(scores) - count)[len(scores) - count :]
    return np.sort(scores)
