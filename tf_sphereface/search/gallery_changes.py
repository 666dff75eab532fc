"""Changes of a gallery: what is checked, the templates, and the threshold that follows."""

from __future__ import annotations

import datetime
import logging
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.embedder.embedder import load_embedder
from tf_sphereface.embedder.metadata import library_versions
from tf_sphereface.search.gallery_record import (
    GalleryChange,
    GalleryRecord,
    NewFaces,
    alike_in_two,
    changed,
    sources_with_other_pictures,
)
from tf_sphereface.search.identification_threshold import IdentificationThreshold, find_threshold
from tf_sphereface.search.model_facts import facts_of
from tf_sphereface.utils.checks import check_number
from tf_sphereface.utils.messages import and_more, counted, printable

logger = logging.getLogger("tf_sphereface")


def new_facts(rate: float, model: Any) -> dict[str, Any]:
    """Return the facts of a new gallery."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "rate": check_number("rate", rate, 0.0, 1.0, open_low=True),
        "model": None if model is None else facts_of(load_embedder(model)),
        "template": "mean",
        "created": now,
        "versions": library_versions(),
    }


def calibrated(
    record: GalleryRecord,
    added: Sequence[NewFaces],
    *,
    removed: Sequence[str] = (),
    rate: float | None = None,
    model: dict[str, Any] | None = None,
    of_files: bool = False,
) -> GalleryChange:
    """Return the change, with the threshold that the gallery needs afterwards.

    `model` are new facts of the gallery's model, which may have been calibrated or moved since.
    `of_files`: the sources of faces are files with a picture each. The log says which faces come
    twice.
    """
    _tell_repeats(record, added, of_files)
    after = changed(record, GalleryChange(removed, added))
    enrolled, strangers = after.people(), after.strangers()
    both = sorted(set(enrolled[0]) & set(strangers[0]))
    if both:
        raise ValueError(f"strangers must not be enrolled, or they are none. Received: {both[0]!r}")
    facts = dict(record.facts)
    if rate is not None:
        facts["rate"] = check_number("rate", rate, 0.0, 1.0, open_low=True)
    if model is not None and facts["model"] is not None:
        facts["model"] = model
    given = facts.get("given_threshold")
    if given is not None:
        found = IdentificationThreshold(facts["rate"], threshold=given, origin="given")
    else:
        templates = templates_of(enrolled[1], enrolled[2], enrolled[0])
        known = facts["model"] or {}
        found = find_threshold(templates, enrolled, strangers, known, facts["rate"])
    facts["calibration"] = found.to_dict()
    return GalleryChange(removed, added, facts)


def _tell_repeats(record: GalleryRecord, added: Sequence[NewFaces], of_files: bool) -> None:
    """Log which faces that come are those of another person, or of a file that has changed."""
    pairs = alike_in_two(record, added)
    if pairs:
        shown = and_more([f"{printable(a)} and {printable(b)}" for a, b in pairs], 5)
        logger.warning(
            "one picture is under two names: %s. If they are one person, remove one of them: "
            "the threshold rises, and the answer may be either name",
            shown,
        )
    changed_files = [
        source for new in added if of_files for source in sources_with_other_pictures(record, new)
    ]
    if changed_files:
        logger.warning(
            "%s with other contents than when %s enrolled, such as %s: both count. To take the new "
            "ones alone, remove the person and enroll again",
            counted(len(changed_files), "file"),
            "it was" if len(changed_files) == 1 else "they were",
            printable(changed_files[0]),
        )


def templates_of(
    vectors: NDArray[np.float32], owner: NDArray[np.int64], names: Sequence[str]
) -> NDArray[np.float32]:
    """Return the mean of each person's unit vectors, at unit length."""
    sums = np.zeros((len(names), vectors.shape[1]))
    order = np.argsort(owner, kind="stable")
    people, first = np.unique(owner[order], return_index=True)
    if len(people):
        sums[people] = np.add.reduceat(vectors[order].astype(np.float64), first)
    norms = np.linalg.norm(sums, axis=1)
    if len(norms) and norms.min() < 1e-6:
        name = names[int(np.argmin(norms))]
        raise ValueError(f"the embeddings of {name!r} cancel each other: they are no one person's")
    return np.asarray(sums / norms[:, None], np.float32)


def checked_faces(
    dim: int,
    embeddings: ArrayLike,
    names: Sequence[str],
    sources: Sequence[str] | None,
    strangers: bool,
) -> NewFaces:
    """Return faces to add, or raise ValueError."""
    vectors = np.asarray(embeddings, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(
            f"Argument `embeddings` must have the shape (n, {dim}), as the gallery's are {dim} "
            f"long. Received: {vectors.shape}"
        )
    if len(names) != len(vectors) or (sources is not None and len(sources) != len(vectors)):
        raise ValueError(
            f"Argument `names` must name each of the {len(vectors)} embeddings, and `sources` "
            f"likewise. Received: {len(names)} names"
        )
    norms = np.linalg.norm(np.float64(vectors), axis=1)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise ValueError(
            "Argument `embeddings` must be finite and not zero. "
            f"Received: that of {names[bad[0]]!r} (row {bad[0]}) is not"
        )
    named = [spelled(name) for name in names]
    return NewFaces(named, vectors, [""] * len(named) if sources is None else sources, strangers)


def spelled(name: str) -> str:
    """Return a person's name in one spelling: composed characters, and none that is no UTF-8."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"Argument `names` must hold texts that are not empty. Received: {name!r}")
    return unicodedata.normalize("NFC", printable(name))


def without_repeats(
    rows: NDArray[np.int64], cosines: NDArray[np.float64], threshold: float
) -> NDArray[np.int64]:
    """Return for each face which of its nearest people it shows, -1 for none; nobody twice.

    The surest pair of a face and a person is taken first.
    """
    chosen = np.full(len(rows), -1, np.int64)
    taken: set[int] = set()
    with np.errstate(invalid="ignore"):
        pairs = np.argwhere(cosines >= threshold)
    order = np.argsort(-cosines[tuple(pairs.T)], kind="stable")
    for face, place in pairs[order]:
        if chosen[face] < 0 and rows[face, place] not in taken:
            chosen[face] = place
            taken.add(int(rows[face, place]))
    return chosen
