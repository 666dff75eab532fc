"""IJB's 1:N search, by both computations that circulate: galleries joined, and each apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.eval.identification.score_blocks import MEMORY, score_blocks
from tf_sphereface.eval.identification.watch_list import OpenSetResult, open_set
from tf_sphereface.eval.ijb_files import TemplateOwners
from tf_sphereface.eval.measures.curve import unsupported

RANKS = (1, 5, 10)
FPIRS = (0.01, 0.1)
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
) -> TemplateSearch:
    """Search the probes' templates, rows of `templates` (t, d), in the galleries'."""
    searched = templates[probes.templates]
    apart = {
        name: open_set(
            templates[gallery.templates],
            gallery.subjects,
            searched,
            probes.subjects,
            ranks=RANKS,
            fars=FPIRS,
        )
        for name, gallery in galleries.items()
    }
    joined = search_joined(
        templates[np.concatenate([gallery.templates for gallery in galleries.values()])],
        np.concatenate([gallery.subjects for gallery in galleries.values()]),
        searched,
        probes.subjects,
    )
    return TemplateSearch(joined, apart, len(searched))


def search_joined(
    gallery: NDArray[np.floating],
    gallery_labels: ArrayLike,
    probes: NDArray[np.floating],
    probe_labels: ArrayLike,
    *,
    fpirs: Sequence[float] = FPIRS,
    memory: int = MEMORY,
) -> JoinedSearch:
    """Search probes in a gallery that holds everybody, as a circulating script of IJB does.

    Its threshold is the ceil(FPIR x probes)-th highest of all scores of probes with other people.
    Probes without a mate are left out. A tie counts against the network.

    Args:
        gallery: (m, d), of which a person's best counts.
        gallery_labels: (m,) who each shows.
        probes: (n, d).
        probe_labels: (n,).
        fpirs: false positive identification rates.
        memory: bytes that the blocks of scores may take together.

    Raises:
        ValueError: what `open_set` refuses.
    """
    enrolled, searched = np.asarray(gallery_labels), np.asarray(probe_labels)
    known = np.isin(searched, enrolled)
    probes, searched = probes[known], searched[known]
    ranked = open_set(gallery, enrolled, probes, searched, ranks=RANKS, fars=fpirs, memory=memory)
    codes = np.unique(np.concatenate([enrolled, searched]), return_inverse=True)[1]
    owner, seeker = codes[: len(enrolled)], codes[len(enrolled) :]
    places = {fpir: math.ceil(fpir * len(probes) * (1 - 1e-9)) for fpir in fpirs}
    most = max(places.values())
    mate = np.full(len(probes), -np.inf)
    highest = np.empty(0)
    for rows, columns, scores in score_blocks(probes, gallery, memory):
        same = seeker[rows, None] == owner[None, columns]
        mate[rows] = np.maximum(mate[rows], np.max(scores, axis=1, initial=-np.inf, where=same))
        others = scores[~same]
        if len(highest) == most:
            others = others[others > highest.min()]
        highest = np.sort(np.concatenate([highest, others]))[-most:]
    reasons = {
        fpir: reason.replace("impostor pairs", "probes")
        for fpir in fpirs
        if (reason := unsupported(fpir, len(probes)))
    }
    rates = {
        fpir: None if fpir in reasons else float(np.mean(mate > highest[-place]))
        for fpir, place in places.items()
    }
    return JoinedSearch(ranked.rates, rates, reasons, len(gallery), len(probes))
