"""The audit of a training set: the people and pictures that a test set has too."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.face_reader import FaceReader, Landmarks
from tf_sphereface.alignment.images import decode_image, read_image
from tf_sphereface.data import likeness
from tf_sphereface.data.exclusions import image_names
from tf_sphereface.data.folder_index import FolderIndex, scan_folder
from tf_sphereface.data.options import Size
from tf_sphereface.data.pack.format import is_pack
from tf_sphereface.data.pack.reading import Pack, open_pack
from tf_sphereface.utils.messages import ProgressCallback

_CHUNK = 256
_KINDS = {"identity_cosine": "identities", "image_cosine": "images", "hash_bits": "hashes"}

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

        Returns:
            Identities of the training set, then images (`IDENTITY/FILE`) of other people.
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
    source: FolderIndex | Pack | str | os.PathLike[str],
    *,
    embed: Embed | None = None,
    size: Size | None = None,
    landmarks: Landmarks | None = None,
    progress: ProgressCallback | None = None,
) -> FaceSet:
    """Read, align, hash and embed every image of a set; those that cannot be read are listed.

    Args:
        source: a folder of identity folders, or a packed folder.
        embed: from uint8 RGB (n, height, width, 3) to embeddings (n, d) of any length, such as an
            embedder; None for hashes alone.
        size: (height, width) that `embed` takes; None leaves the images as they are.
        landmarks: to align the images by, as for `FaceReader`; with `size` only.
        progress: called with (done, total) images.

    Returns:
        The set.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image can be used.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> faces = read_face_set(synthetic.write_folder(tempfile.mkdtemp(), 3, 2))
    >>> len(faces.files), faces.hashes.shape
    (6, (6, 32))
    """
    if isinstance(source, str | os.PathLike):
        source = open_pack(source, errors="skip") if is_pack(source) else scan_folder(source)
    names = image_names(source)
    load = _loader(source, names, FaceReader(size, landmarks) if size is not None else None)
    rows: list[int] = []
    hashes, vectors, unread = [], [], {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for begin in range(0, len(names), _CHUNK):
            positions = range(begin, min(begin + _CHUNK, len(names)))
            images = []
            for position, image in zip(positions, pool.map(load, positions), strict=True):
                if isinstance(image, str):
                    unread[names[position]] = image
                else:
                    images.append(image)
                    rows.append(position)
            hashes += [likeness.difference_hash(image) for image in images]
            if embed is not None and images:
                vectors.append(likeness.unit(embed(np.stack(images))))
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


def _loader(
    source: FolderIndex | Pack, names: Sequence[str], reader: FaceReader | None
) -> Callable[[int], np.ndarray | str]:
    """Return a function from a position to its image, or to why there is none."""

    def load(position: int) -> np.ndarray | str:
        try:
            if isinstance(source, Pack):
                content = source.read(np.array([position]))[0]
                image = decode_image(content, names[position])
                return image if reader is None else reader.fit(image)
            if reader is None:
                return read_image(source.paths[position])
            return reader(source.paths[position], names[position])
        except (OSError, ValueError) as error:
            return str(error)

    return load


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

    Returns:
        What was found.

    Raises:
        ValueError: the test set has too few pairs of different people (1,000 at least) for a
            threshold that is not given; the message names the argument.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> def face_set(images, labels):
    ...     hashes = np.stack([likeness.difference_hash(image) for image in images])
    ...     return FaceSet(list("ABC"), [f"{label}.jpg" for label in labels], labels, hashes)
    >>> train = face_set(*synthetic.training_set(3, 1, size=(56, 48)))
    >>> test = face_set(*synthetic.training_set(3, 1, size=(56, 48), first_identity=2))
    >>> overlap = find_overlap(train, test, names=False, hash_bits=5)
    >>> [(match.first, match.second, match.why) for match in overlap.images]
    [('2.jpg', '0.jpg', ('hash',))]
    """
    thresholds: dict[str, likeness.Threshold] = {}

    def alike(
        argument: str, given: float | None, left: Vectors, right: Vectors, labels: Labels
    ) -> dict[tuple[int, int], float]:
        """Return the pairs above a threshold, and their cosines."""
        pairs = len(left) * len(right)
        if given is not None:
            limit = likeness.Threshold(given, math.nan, pairs)
        else:
            try:
                limit = likeness.chance_threshold(right, labels, pairs, expected)
            except ValueError as error:
                option = f"{argument} (--{argument.replace('_', '-')})"
                raise ValueError(f"{error}: {option}") from error
        thresholds[_KINDS[argument]] = limit
        above = likeness.pairs_above(left, right, limit.cosine)
        return {(row, column): cosine for row, column, cosine in above}

    by_name = dict.fromkeys(likeness.same_names(train.people, test.people) if names else ())
    by_centroid: dict[tuple[int, int], float] = {}
    by_embedding: dict[tuple[int, int], float] = {}
    cosines_of_people: dict[tuple[int, int], float] = {}
    suspects: list[tuple[int, int, float]] = []
    again = None
    ours, theirs = train.vectors, test.vectors
    if ours is not None and theirs is not None:
        left = likeness.centroids(ours, train.labels, len(train.people))
        right = likeness.centroids(theirs, test.labels, len(test.people))
        people = np.arange(len(test.people))
        by_centroid = alike("identity_cosine", identity_cosine, left, right, people)
        cosines_of_people = {(i, k): float(left[i] @ right[k]) for i, k in by_name} | by_centroid
        by_embedding = alike("image_cosine", image_cosine, ours, theirs, test.labels)
        again = likeness.share_found(theirs, test.labels, thresholds["identities"].cosine)
        suspects = likeness.impostors_above(theirs, test.labels, thresholds["images"].cosine)
    bits = None if hash_bits is None else 1 - 2 * (hash_bits + 0.5) / likeness.HASH_BITS
    hashes = [likeness.hash_vectors(faces.hashes) for faces in (train, test)]
    by_hash = alike("hash_bits", bits, hashes[0], hashes[1], test.labels)
    identities = [
        Match(
            train.people[pair[0]],
            test.people[pair[1]],
            why=_why(pair, name=by_name, centroid=by_centroid),
            cosine=cosines_of_people.get(pair),
        )
        for pair in {**by_name, **by_centroid}
    ]
    images = [
        Match(
            train.files[row],
            test.files[column],
            why=_why((row, column), embedding=by_embedding, hash=by_hash),
            cosine=None if ours is None or theirs is None else float(ours[row] @ theirs[column]),
            hash_bits=int(likeness.differing_bits(hashes[0][row] @ hashes[1][column])),
        )
        for row, column in {**by_embedding, **by_hash}
    ]
    credible = [image for image in images if not _contradicted(image, thresholds.get("images"))]
    return Overlap(
        identities=sorted(identities, key=_unlikeness),
        images=sorted(credible, key=_unlikeness),
        suspects_in_test=sorted(
            (Match(test.files[i], test.files[k], cosine=cosine) for i, k, cosine in suspects),
            key=_unlikeness,
        ),
        thresholds=thresholds,
        people_found_again=again,
        contradicted=len(images) - len(credible),
    )


def _why(pair: tuple[int, int], **findings: Container[tuple[int, int]]) -> tuple[str, ...]:
    """Return by which comparisons a pair was found."""
    return tuple(name for name, pairs in findings.items() if pair in pairs)


def _contradicted(match: Match, limit: likeness.Threshold | None) -> bool:
    """Tell whether a match by hash alone is less alike than strangers are.

    One picture twice would be far more alike to the network.
    """
    if match.why != ("hash",) or match.cosine is None or limit is None:
        return False
    return match.cosine < (limit.tail_from or limit.cosine)


def _unlikeness(match: Match) -> float:
    """Return what matches are sorted by."""
    return match.hash_bits or 0 if match.cosine is None else -match.cosine
