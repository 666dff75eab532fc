"""The audit of a training set: the people and pictures that a test set has too."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.face_reader import FaceReader, Landmarks
from tf_sphereface.alignment.images import decode_image, read_image
from tf_sphereface.data import likeness
from tf_sphereface.data.exclusions import image_names
from tf_sphereface.data.options import Size
from tf_sphereface.data.pack.reading import Pack
from tf_sphereface.data.recordio.reading import RecordFile
from tf_sphereface.data.stored_faces import StoredFaces, open_stored
from tf_sphereface.utils.messages import ProgressCallback

_CHUNK = 256
_WHY = {"identities": "centroid", "images": "embedding", "hashes": "hash"}
_ARGUMENTS = {"identities": "identity_cosine", "images": "image_cosine", "hashes": "hash_bits"}

Pair = tuple[int, int]
Vectors = NDArray[np.float32]
Labels = NDArray[np.integer]
Embed = Callable[[NDArray[np.uint8]], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class FaceSet:
    """What two sets of faces are compared by.

    Attributes:
        people: names of the identities.
        files: `IDENTITY/FILE` of the images.
        labels: (n,), index into `people`.
        hashes: uint8 (n, 32), as of `likeness.difference_hash`.
        vectors: (n, d) embeddings of unit length; None: people are compared by name, images by
            hash.
        unread: file -> why it could not be read; such a file is in none of the others.
    """

    people: Sequence[str]
    files: Sequence[str]
    labels: Labels
    hashes: NDArray[np.uint8]
    vectors: Vectors | None = None
    unread: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Match:
    """Two people, or two images, that are alike.

    Attributes:
        first: name of the one, of the training set unless both are of the test set.
        second: name of the other.
        why: `"name"` or `"centroid"` of people, `"embedding"` or `"hash"` of images, or both.
        cosine: of the embeddings; None without.
        hash_bits: of images: how many of 256 bits differ.
    """

    first: str
    second: str
    why: tuple[str, ...] = ()
    cosine: float | None = None
    hash_bits: int | None = None


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What `find_overlap` found; each list begins with the most alike.

    Attributes:
        identities: people who are in both sets.
        images: images in both sets, or of one person.
        suspects_in_test: pairs in the test set that look like one person under two names.
        thresholds: of `"identities"`, `"images"` (both with embeddings only) and `"hashes"`.
        people_found_again: with embeddings, the share of the people with several images in the test
            set who are above the threshold when their images are split in halves, and their number.
        contradicted: matches by hash that were left out because the embeddings contradict them.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> faces = read_face_set(synthetic.write_folder("faces", 2, 1))
    >>> list(find_overlap(faces, faces, hash_bits=5).exclusions())
    ['Person_000000', 'Person_000001']
    """

    identities: list[Match]
    images: list[Match]
    suspects_in_test: list[Match]
    thresholds: dict[str, likeness.Threshold]
    people_found_again: tuple[float, int] | None
    contradicted: int

    @property
    def hash_bits_allowed(self) -> int:
        """How many of the 256 bits of two hashes may differ."""
        cosine = self.thresholds["hashes"].cosine
        return int(np.floor((1 - cosine) * likeness.HASH_BITS / 2))

    def exclusions(self) -> dict[str, Match]:
        """Return what training should leave out, and because of which match.

        Identities of the training set come first, then images (`IDENTITY/FILE`) of other people.
        """
        people: dict[str, Match] = {}
        for match in self.identities:
            people.setdefault(match.first, match)
        pictures: dict[str, Match] = {}
        for match in self.images:
            if match.first.split("/")[0] not in people:
                pictures.setdefault(match.first, match)
        return people | pictures


def read_face_set(
    source: StoredFaces | str | os.PathLike[str],
    *,
    embed: Embed | None = None,
    size: Size | None = None,
    landmarks: Landmarks | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> FaceSet:
    """Read, align, hash and embed every image of a set; those that cannot be read are listed.

    Args:
        source: a folder of identity folders, a packed folder, or a RecordIO file.
        embed: from uint8 RGB (n, height, width, 3) to embeddings (n, d) of any length, such as an
            embedder; None for hashes alone.
        size: (height, width) that `embed` takes; None leaves the images as they are.
        landmarks: to align the images by, as for `FaceReader`; with `size` only.
        strict: raise where images of a folder are passed over, rather than warn, and where a pack
            or RecordIO file is damaged.
        progress: called with (done, total) images.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image can be used; with `strict`, images are passed over or lost.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> faces = read_face_set(synthetic.write_folder(tempfile.mkdtemp(), 3, 2))
    >>> len(faces.files), faces.hashes.shape
    (6, (6, 32))
    """
    source, unread = open_stored(source, strict)
    names = image_names(source)
    reader = FaceReader(size, landmarks) if size is not None else None
    load = functools.partial(_load, source, names, reader)
    rows: list[int] = []
    hashes, vectors = [], []
    with ThreadPoolExecutor(max_workers=4) as pool:
        for begin in range(0, len(names), _CHUNK):
            positions = range(begin, min(begin + _CHUNK, len(names)))
            images = {}
            for position, image in zip(positions, pool.map(load, positions), strict=True):
                if isinstance(image, str):
                    unread[names[position]] = image
                else:
                    images[position] = image
            if embed is not None and images:
                found = np.asarray(embed(np.stack(list(images.values()))))
                usable = np.isfinite(found).all(axis=1) & found.any(axis=1)
                for position in np.array(list(images))[~usable].tolist():
                    unread[names[position]] = "its embedding is zero or not finite"
                    del images[position]
                vectors.append(likeness.unit(found[usable]))
            hashes += [likeness.difference_hash(image) for image in images.values()]
            rows += images
            if progress is not None:
                progress(positions.stop, len(names))
    if not rows:
        name, why = next(iter(unread.items()))
        raise ValueError(
            f"none of the {len(names):,} images in {source.root} can be used, such as {name}: {why}"
        )
    return FaceSet(
        people=source.names,
        files=[names[row] for row in rows],
        labels=np.asarray(source.labels, np.int64)[rows],
        hashes=np.stack(hashes),
        vectors=np.concatenate(vectors) if vectors else None,
        unread=unread,
    )


def _load(
    source: StoredFaces,
    names: Sequence[str],
    reader: FaceReader | None,
    position: int,
) -> np.ndarray | str:
    """Return the image at a position, or why there is none."""
    try:
        if isinstance(source, Pack | RecordFile):
            content = source.read(np.array([position]))[0]
            image = decode_image(content, names[position])
            return image if reader is None else reader.fit(image)
        if reader is None:
            return read_image(source.paths[position])
        return reader(source.paths[position], names[position])
    except (OSError, ValueError) as error:
        return str(error)


def find_overlap(
    train: FaceSet,
    test: FaceSet,
    *,
    names: bool = True,
    expected: float = 10.0,
    identity_cosine: float | None = None,
    image_cosine: float | None = None,
    hash_bits: int | None = None,
) -> Overlap:
    """Find the people and the images that a training set and a test set have in common.

    People are compared by name and, where both sets have embeddings, by the directions of their
    means; images by hash and by embedding. Each threshold is read from pairs of different people
    within the test set (`likeness.chance_threshold`) unless it is given. A match by hash alone
    whose embeddings are less alike than the likest strangers is left out.

    Args:
        train: the training set.
        test: the test set.
        names: whether equal names mean one person; not so where both sets are numbered.
        expected: pairs of different people that each threshold may let through by chance, > 0.
        identity_cosine: the threshold between people's mean directions.
        image_cosine: the threshold between images.
        hash_bits: how many of 256 bits may differ.

    Raises:
        ValueError: the test set has too few pairs of different people (1,000 at least) for a
            threshold that is not given; the message names the argument.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> faces = read_face_set(synthetic.write_folder(tempfile.mkdtemp(), 3, 2))
    >>> overlap = find_overlap(faces, faces, hash_bits=5)
    >>> len(overlap.identities), len(overlap.images), overlap.images[0].why
    (3, 6, ('hash',))
    """
    thresholds: dict[str, likeness.Threshold] = {}
    same_names = likeness.same_names(train.people, test.people) if names else ()
    people: dict[Pair, list[str]] = {pair: ["name"] for pair in same_names}
    pictures: dict[Pair, list[str]] = {}

    def note(
        kind: str, given: float | None, left: Vectors, right: Vectors, labels: Labels
    ) -> dict[Pair, float]:
        """Note which pairs are above a threshold; return their cosines."""
        limit = _threshold(kind, given, right, labels, len(left) * len(right), expected)
        thresholds[kind] = limit
        pairs = people if kind == "identities" else pictures
        cosines: dict[Pair, float] = {}
        for row, column, cosine in likeness.pairs_above(left, right, limit.cosine):
            cosines[row, column] = cosine
            pairs.setdefault((row, column), []).append(_WHY[kind])
        return cosines

    cosines: dict[Pair, float] = {}
    suspects: list[tuple[int, int, float]] = []
    again = None
    if train.vectors is not None and test.vectors is not None:
        left = likeness.centroids(train.vectors, train.labels, len(train.people))
        right = likeness.centroids(test.vectors, test.labels, len(test.people))
        cosines = {(row, column): float(left[row] @ right[column]) for row, column in people}
        cosines |= note("identities", identity_cosine, left, right, np.arange(len(right)))
        note("images", image_cosine, train.vectors, test.vectors, test.labels)
        again = likeness.share_found(test.vectors, test.labels, thresholds["identities"].cosine)
        suspects = likeness.impostors_above(test.vectors, test.labels, thresholds["images"].cosine)
    bits = None if hash_bits is None else 1 - 2 * (hash_bits + 0.5) / likeness.HASH_BITS
    hashes = [likeness.hash_vectors(faces.hashes) for faces in (train, test)]
    note("hashes", bits, hashes[0], hashes[1], test.labels)
    images = _picture_matches(train, test, hashes, pictures)
    credible = [image for image in images if not _contradicted(image, thresholds.get("images"))]
    return Overlap(
        identities=_sorted(
            Match(train.people[row], test.people[column], tuple(why), cosines.get((row, column)))
            for (row, column), why in people.items()
        ),
        images=_sorted(credible),
        suspects_in_test=_sorted(
            Match(test.files[row], test.files[column], cosine=cosine)
            for row, column, cosine in suspects
        ),
        thresholds=thresholds,
        people_found_again=again,
        contradicted=len(images) - len(credible),
    )


def _threshold(
    kind: str, given: float | None, right: Vectors, labels: Labels, pairs: int, expected: float
) -> likeness.Threshold:
    """Return the given threshold, or the one that `right` shows."""
    if given is not None:
        return likeness.Threshold(given, math.nan, pairs)
    try:
        return likeness.chance_threshold(right, labels, pairs, expected)
    except ValueError as error:
        argument = _ARGUMENTS[kind]
        raise ValueError(f"{error}: {argument} (--{argument.replace('_', '-')})") from error


def _picture_matches(
    train: FaceSet, test: FaceSet, hashes: Sequence[Vectors], pairs: Mapping[Pair, Sequence[str]]
) -> list[Match]:
    """Return each pair of images with its cosine, where there is one, and the bits that differ."""
    matches = []
    for (row, column), why in pairs.items():
        cosine = None
        if train.vectors is not None and test.vectors is not None:
            cosine = float(train.vectors[row] @ test.vectors[column])
        bits = int(likeness.differing_bits(hashes[0][row] @ hashes[1][column]))
        matches.append(Match(train.files[row], test.files[column], tuple(why), cosine, bits))
    return matches


def _contradicted(match: Match, limit: likeness.Threshold | None) -> bool:
    """Tell whether the embeddings of a match by hash alone are less alike than strangers'."""
    if match.why != ("hash",) or match.cosine is None or limit is None:
        return False
    return match.cosine < (limit.tail_from or limit.cosine)


def _sorted(matches: Iterable[Match]) -> list[Match]:
    """Return the matches, the most alike first."""
    return sorted(matches, key=lambda m: (m.hash_bits or 0) if m.cosine is None else -m.cosine)
