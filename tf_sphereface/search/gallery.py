"""A gallery of people: enroll them, and ask who a face is, or whether it is a stranger."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.embedder.embedder import Embedder, load_embedder
from tf_sphereface.search.approximate_search import ApproximateSearch
from tf_sphereface.search.enrollment import Enrollment, embed_folders
from tf_sphereface.search.exact_search import ExactSearch
from tf_sphereface.search.gallery_changes import (
    calibrated,
    checked_faces,
    new_facts,
    spelled,
    templates_of,
    without_repeats,
)
from tf_sphereface.search.gallery_record import (
    CHANGING,
    GalleryChange,
    GalleryRecord,
    GalleryStore,
    MemoryStore,
    changed,
)
from tf_sphereface.search.gallery_stores import Search, create_store, make_search, open_store
from tf_sphereface.search.identification_threshold import IdentificationThreshold
from tf_sphereface.search.model_facts import check_model, facts_of, stored_model
from tf_sphereface.search.photo_faces import dim_of
from tf_sphereface.utils.checks import check_choice, check_number
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning, counted

Answer = tuple[str | None, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class _View:
    """What a question needs, replaced at once: other threads may be asking."""

    record: GalleryRecord
    names: list[str]
    templates: NDArray[np.float32]
    search: ExactSearch | ApproximateSearch
    calibration: IdentificationThreshold


class Gallery:
    """People with their embeddings, and a threshold below which a face is nobody's.

    A person's template is the mean of his or her embeddings at unit length. The threshold is chosen
    anew at each change: a larger gallery needs a higher one. Threads may ask and change one object;
    what another process has written since it was opened is seen by opening it again.

    Example:

    >>> gallery = Gallery.from_embeddings(np.eye(3), ["Ann", "Bob", "Cy"], threshold=0.5)
    >>> name, cosine, runner_up = gallery.identify([[0.1, 2.0, 0.0]])[0]
    >>> name, round(cosine, 3), round(runner_up, 3)
    ('Bob', 0.999, 0.05)
    >>> gallery.identify([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])[1][0] is None
    True
    """

    def __init__(self, store: GalleryStore, record: GalleryRecord, search: Search) -> None:
        self._store = store
        self._kind: Search = check_choice("search", search, get_args(Search))
        self._view = self._view_of(record)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None,
        model: Any = None,
        *,
        embedding_dim: int | None = None,
        rate: float = 0.01,
    ) -> Gallery:
        """Make a gallery of nobody in a new file.

        Args:
            path: the file, or `postgresql://...`; None: in memory, until `save`.
            model: what `load_embedder` takes. None: embeddings come from elsewhere.
            embedding_dim: their length, where there is no model.
            rate: wanted share of strangers' pictures that get a name, in (0, 1).

        Raises:
            FileExistsError: there is such a file.
            ValueError: an argument is out of range, or neither model nor length is given.
        """
        facts, dim = new_facts(rate, model), embedding_dim
        if model is not None:
            dim = dim_of(load_embedder(model))
        if dim is None:
            raise ValueError("Argument `embedding_dim` must be given without a model")
        record = GalleryRecord.empty(dim, facts)
        record = changed(record, calibrated(record, []))
        store = MemoryStore(record) if path is None else create_store(path, record)
        return cls(store, record, "exact")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it into a new file (FileExistsError otherwise); later changes go there."""
        with CHANGING:
            self._store = create_store(path, self._view.record)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, search: Search = "exact") -> Gallery:
        """Open a gallery's file.

        Args:
            path: the file, or `postgresql://user@host/database` (the extra `postgres`).
            search: `"exact"`, or for millions of people by a graph whose `recall` is measured:
                `"usearch"` (the extra `search`), or pgvector's, `"hnsw"`, which the server keeps.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no gallery, is damaged, or of a later version.
        """
        store = open_store(path)
        return cls(store, store.load(), search)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: ArrayLike,
        names: Sequence[str],
        threshold: float | None = None,
        *,
        rate: float = 0.01,
        search: Search = "exact",
    ) -> Gallery:
        """Make a gallery in memory.

        Args:
            embeddings: (n, d), of any length but zero.
            names: (n,) whom each shows; several of one person make one template.
            threshold: the cosine from which the nearest person is named. None: it is chosen for
                `rate` on these people, if they are enough.
            rate: as for `create`.
            search: as for `open`.

        Raises:
            ValueError: shapes do not fit, an embedding is zero or not finite, or a name is empty.
        """
        vectors = np.asarray(embeddings)
        if vectors.ndim != 2:
            raise ValueError(
                f"Argument `embeddings` must have the shape (n, d). Received: {vectors.shape}"
            )
        facts = new_facts(rate, None)
        if threshold is not None:
            facts["given_threshold"] = check_number("threshold", threshold, -1.0, 1.0 + 1e-9)
        record = GalleryRecord.empty(vectors.shape[1], facts)
        gallery = cls(MemoryStore(record), record, search)
        gallery.add(vectors, names)
        return gallery

    def add(
        self,
        embeddings: ArrayLike,
        names: Sequence[str],
        *,
        sources: Sequence[str] | None = None,
        model: Any = None,
        strangers: bool = False,
    ) -> int:
        """Add people, or pictures of people who are there, and choose the threshold anew.

        Args:
            embeddings: (n, d).
            names: (n,).
            sources: (n,) where each is from, such as a path.
            model: that the embeddings are from; another one than the gallery's is refused. None:
                nothing is checked but their length.
            strangers: they are nobody whom the gallery should name; the threshold is chosen so that
                it does not.

        Returns:
            How many were added; a person's pictures that are there already are left out.

        Raises:
            ValueError: what does not fit; the gallery stays as it was.
        """
        if model is not None:
            check_model(self.facts, load_embedder(model))
        faces = checked_faces(self._view.record.dim, embeddings, names, sources, strangers)
        count = 0

        def change(record: GalleryRecord) -> GalleryChange:
            nonlocal count
            new = faces.new_in(record)
            count = len(new.names)
            return calibrated(record, [new])

        self._update(change)
        return count

    def enroll(
        self,
        people: str | os.PathLike[str],
        model: Any = None,
        *,
        strangers: str | os.PathLike[str] | None = None,
        rate: float | None = None,
        strict: bool = False,
        detector: str | os.PathLike[str] | None = None,
        keep_in: str | os.PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> Enrollment:
        """Add the people of a folder that holds a folder of images for each.

        Images of the network's size are aligned faces; in others the face nearest the center is
        taken. A picture that cannot be used is noted and ends nothing. All of it is one change.

        Args:
            people: the folder.
            model: what `load_embedder` takes; None: the file that the gallery was made with.
            strangers: a folder of the same kind, of people who are not enrolled: the threshold is
                chosen on them.
            rate: another wanted rate than before.
            strict: raise ValueError where an image cannot be used, or is passed over.
            detector: an ONNX file of YuNet, to find faces with; None: MTCNN.
            keep_in: a folder for embeddings, with which the same call goes on after it was stopped;
                to be deleted when the gallery is saved.
            progress: called with (images done, images in all).

        Raises:
            ValueError: another model; somebody both enrolled and a stranger; no usable image.
        """
        embedder = stored_model(self.facts) if model is None else load_embedder(model)
        check_model(self.facts, embedder)
        folders = [people] if strangers is None else [people, strangers]
        options: dict[str, Any] = {"detector": detector, "keep_in": keep_in}
        result, embedded = embed_folders(embedder, folders, strict, progress, **options)
        new = [
            checked_faces(self.dim, faces.vectors, faces.names, faces.sources, stranger)
            for faces, stranger in zip(embedded, (False, True), strict=False)
        ]

        def change(record: GalleryRecord) -> GalleryChange:
            fresh = [faces.new_in(record) for faces in new]
            result.added = len(fresh[0].names)
            result.known = len(new[0].names) - result.added
            return calibrated(record, fresh, rate=rate, model=facts_of(embedder), of_files=True)

        self._update(change)
        return result

    def remove(self, names: str | Sequence[str]) -> int:
        """Remove people, or strangers, with all their pictures; return how many pictures.

        Raises:
            ValueError: somebody is not in the gallery (named); nobody is removed then.
        """
        wanted = [spelled(name) for name in ([names] if isinstance(names, str) else names)]
        count = 0

        def change(record: GalleryRecord) -> GalleryChange:
            nonlocal count
            if missing := sorted(set(wanted) - set(record.names)):
                raise ValueError(f"the gallery has nobody of the name {missing[0]!r}")
            count = int(np.isin(np.asarray(record.names)[record.owner], wanted).sum())
            return calibrated(record, [], removed=wanted)

        self._update(change)
        return count

    def identify(self, embeddings: ArrayLike, *, distinct: bool = False) -> list[Answer]:
        """Say whom each embedding shows, or nobody.

        Args:
            embeddings: (n, d), of any length.
            distinct: they are faces of one photograph, so that nobody is in it twice: a name goes
                to the nearest face; others that would have it get the next name at the threshold,
                or none.

        Returns:
            For each (name or None, cosine, runner-up's cosine): the cosine to the person named, or
            to the nearest one, and to the nearest of the others (NaN where there is none). An
            embedding that is zero or not finite: (None, NaN, NaN). Without a threshold everybody
            is None, and a warning says so.

        Raises:
            ValueError: another length than the gallery's.
        """
        view = self._view
        threshold = view.calibration.threshold
        if threshold is None:
            message = f"the gallery has no threshold, so nobody is named: {view.calibration.reason}"
            warnings.warn(message, SphereFaceWarning, stacklevel=2)
            threshold = np.inf
        count = len(np.asarray(embeddings))
        rows, cosines = view.search(embeddings, max(2, count if distinct else 2))
        if not view.names:
            return [(None, np.nan, np.nan)] * count
        chosen = np.zeros(count, np.int64)
        if distinct:
            chosen = without_repeats(rows, cosines, threshold)
        every, place = np.arange(count), np.maximum(chosen, 0)
        first, who = cosines[every, place], rows[every, place]
        others = np.where(place == 0, 1, 0)
        second = cosines[every, others] if len(view.names) > 1 else np.full(count, np.nan)
        with np.errstate(invalid="ignore"):
            named = (chosen >= 0) & (first >= threshold)
        return [
            (view.names[person] if good else None, float(cosine), float(runner_up))
            for person, good, cosine, runner_up in zip(who, named, first, second, strict=True)
        ]

    def nearest(
        self, embeddings: ArrayLike, k: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return positions in `names` and cosines of the nearest people, as `ExactSearch` does."""
        return self._view.search(embeddings, k)

    def recall(self, sample: int = 1000) -> float:
        """Return how often the search finds the nearest template, of a sample of the faces."""
        view = self._view
        if isinstance(view.search, ExactSearch):
            return 1.0
        rows = np.random.default_rng(0).permutation(view.record.people()[1])[:sample]
        return view.search.recall(rows)

    @property
    def names(self) -> list[str]:
        """The enrolled people; row k of `templates` is person k."""
        return list(self._view.names)

    @property
    def templates(self) -> NDArray[np.float32]:
        """Their templates, float32 (people, d), of unit length."""
        return self._view.templates

    @property
    def calibration(self) -> IdentificationThreshold:
        """The threshold, its interval and origin."""
        return self._view.calibration

    @property
    def threshold(self) -> float | None:
        """The cosine from which the nearest person is named; None: no verdict."""
        return self.calibration.threshold

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self._view.record.dim

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the model, the rate and the threshold; plain JSON values."""
        return self._view.record.facts

    def model(self, path: str | os.PathLike[str] | None = None) -> Embedder:
        """Open the model that the gallery was made with; see `model_facts.stored_model`."""
        return stored_model(self.facts, path)

    def info(self) -> dict[str, Any]:
        """Return what `tf_sphereface-search info --json` writes."""
        names, vectors, owner = self._view.record.people()
        strangers = self._view.record.strangers()
        counts = np.bincount(owner, minlength=len(names))
        return {
            "people": len(names),
            "faces": len(vectors),
            "strangers": len(strangers[0]),
            "stranger_names": strangers[0],
            "stranger_faces": len(strangers[1]),
            "embedding_dim": self.dim,
            "threshold": self.threshold,
            "false_identification_rate": self.calibration.rate,
            "calibration": self.calibration.to_dict(),
            "faces_per_person": dict(zip(names, counts.tolist(), strict=True)),
            **{key: value for key, value in self.facts.items() if key != "calibration"},
        }

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<Gallery of {counted(len(self), 'person', 'people')}, threshold {self.threshold}>"

    def _update(self, change: Callable[[GalleryRecord], GalleryChange]) -> None:
        with CHANGING:  # else one thread's view would be without another's people
            self._view = self._view_of(self._store.update(change))

    def _view_of(self, record: GalleryRecord) -> _View:
        names, vectors, owner = record.people()
        templates = templates_of(vectors, owner, names)
        search = make_search(self._kind, self._store, templates, names)
        nobody = {"rate": record.facts["rate"], "reason": "nobody is enrolled"}
        calibration = IdentificationThreshold.from_dict(record.facts.get("calibration") or nobody)
        return _View(record, names, templates, search, calibration)
