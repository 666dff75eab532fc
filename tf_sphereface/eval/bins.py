"""insightface's `.bin` sets (lfw, cfp_fp, agedb_30 ...): read, write, and their protocol."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.alignment.face_reader import FaceReader, Landmarks, Problems
from tf_sphereface.alignment.images import decode_image
from tf_sphereface.data.recordio.downloads import what_it_is
from tf_sphereface.eval.measures.checks import as_labels, check_protocol
from tf_sphereface.eval.pairs import Pairs, locate, read_pairs
from tf_sphereface.eval.protocol import ProtocolResult, describe, existing_folder, over_folds
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings
from tf_sphereface.eval.scoring.score_pairs import cosines, join_sides, verify_embeddings
from tf_sphereface.eval.scoring.sources import (
    EmbeddingOptions,
    EmbeddingSource,
    ImageSource,
    StoredSource,
    embed_all,
    open_embedder,
)
from tf_sphereface.utils import safe_pickle
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.messages import ProgressCallback

__all__ = [
    "BinResult",
    "BinSet",
    "evaluate",
    "insightface_figures",
    "read_bin",
    "write_bin",
    "write_bin_of_pairs",
]

FOLDS = 10  # or as many as there are pairs, where these are fewer
SIZE = (112, 112)


@dataclasses.dataclass(frozen=True, eq=False)
class BinSet:
    """Encoded images (JPEG or PNG), of which 2 k and 2 k + 1 are pair k, and labels, (pairs,).

    `name` is what the set is called in errors: the path of its file.
    """

    images: list[bytes]
    is_same: NDArray[np.bool_]
    name: str = "a .bin set"

    def pairs(self) -> Pairs:
        """Return the pairs, images named by their number, in ten folds in the file's order."""
        count = len(self.is_same)
        folds = max(min(FOLDS, count), 1)
        sizes = [len(part) for part in np.array_split(np.arange(count), folds)]
        return Pairs(
            [str(2 * k) for k in range(count)],
            [str(2 * k + 1) for k in range(count)],
            self.is_same,
            np.repeat(np.arange(1, folds + 1), sizes),
        )

    def subset(self, count: int) -> BinSet:
        """Return some `count` pairs, evenly spaced in the file's order, each class in its share.

        No class is lost, and a set that has no more pairs than that is returned as it is.

        Example:

        >>> BinSet([b""] * 80, np.array([True, False] * 20)).subset(10).is_same.sum()
        np.int64(5)
        """
        total = len(self.is_same)
        if count >= total:
            return self
        chosen: list[int] = []
        for same in (True, False):
            places = np.flatnonzero(self.is_same == same)
            share = min(max(round(count * len(places) / total), 1), len(places))
            chosen += places[np.arange(share) * len(places) // max(share, 1)].tolist()
        chosen.sort()
        images = [self.images[i] for k in chosen for i in (2 * k, 2 * k + 1)]
        return BinSet(images, self.is_same[chosen], self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class BinResult(ProtocolResult):
    """A `.bin` set's outcome.

    Attributes:
        insightface_accuracy: mean over the folds by insightface's own search of the threshold.
        insightface_std: standard deviation over the folds (n), as it prints it; no standard error.
    """

    insightface_accuracy: float
    insightface_std: float


def read_bin(path: str | os.PathLike[str]) -> BinSet:
    """Read a `.bin` file: a pickle of a list of encoded images and a list of bools.

    It is unpickled by a reader that knows lists, bytes, bools and arrays and nothing else. An image
    may be bytes, a Python 2 `str`, or an array of bytes, (n,) or (n, 1); labels may be bools or 0
    and 1, in a list or an array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such pickle, or asks for anything else (nothing of it is run), or
            images and labels do not fit; the file is named.

    Example:

    >>> write_bin("two.bin", [b"first", b"second", b"third", b"fourth"], [True, False])
    >>> bins = read_bin("two.bin")
    >>> bins.images[1], bins.is_same.tolist()
    (b'second', [True, False])
    """
    data = Path(path).read_bytes()
    other = what_it_is(data[:512])
    if other is not None:
        raise ValueError(f"{path} is no .bin set: it is {other}")
    try:
        content = safe_pickle.loads(data)
        if not isinstance(content, list | tuple) or len(content) != 2:
            raise ValueError("it is not a list of images and a list of labels")
        if not isinstance(content[0], list | tuple | np.ndarray):
            raise ValueError(f"images must be a list. Received: {type(content[0]).__name__}")
        images = [_encoded(number, item) for number, item in enumerate(content[0])]
        same = np.asarray(content[1])
        same = as_labels(same[:, 0] if same.ndim == 2 and same.shape[1] == 1 else same, "labels")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no .bin set: {error}") from error
    if len(images) != 2 * len(same) or not len(same):
        raise ValueError(
            f"{path} must hold two images per label, and a label at least. "
            f"Received: {len(images)} images and {len(same)} labels"
        )
    return BinSet(images, same, str(path))


def write_bin(path: str | os.PathLike[str], images: Sequence[bytes], is_same: ArrayLike) -> None:
    """Write a `.bin` file, whole or not at all, of encoded images, two per pair, and bool (pairs,).

    Raises:
        ValueError: not two images per pair.

    Example:

    >>> write_bin("two.bin", [b"jpeg"] * 20, [True, False] * 5)
    >>> read_bin("two.bin").is_same.sum()
    np.int64(5)
    """
    same = np.asarray(is_same, bool)
    if same.ndim != 1 or len(images) != 2 * len(same):
        raise ValueError(
            f"images must be two per pair. Received: {len(images)} images and {same.shape} labels"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(([bytes(i) for i in images], same.tolist()), protocol=4))


def write_bin_of_pairs(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    pairs: str | os.PathLike[str] | Pairs,
    landmarks: Landmarks | None = None,
    size: tuple[int, int] = SIZE,
) -> int:
    """Make a `.bin` file of a list of pairs.

    A file that has the size already goes in as it is; another is aligned and stored as PNG, which
    loses nothing. The pairs keep their order; a `.bin` set's folds are ten equal parts of it.

    Args:
        path: where; written whole or not at all.
        images: the folder of the images.
        pairs: a list in LFW's format, or what `read_pairs` returned.
        landmarks: as for `lfw.evaluate`; None when the images are aligned.
        size: (height, width) of the faces; insightface's are 112x112.

    Returns:
        How many distinct images there are.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: images cannot be used; all are listed.

    Example:

    >>> from tf_sphereface.data import synthetic
    >>> faces = synthetic.write_folder("faces", 4, 2, pairs_per_fold=2, folds=2)
    >>> images = write_bin_of_pairs("mine.bin", faces, faces / "pairs.txt", size=(112, 96))
    >>> read_bin("mine.bin").is_same.tolist()
    [True, False, True, False]
    """
    root = existing_folder("images", images)
    listed = pairs if isinstance(pairs, Pairs) else read_pairs(pairs)
    names, left, right = locate(listed, root).images()
    reader = FaceReader(size, landmarks)
    problems = Problems()
    encoded: list[bytes] = []
    with reader.pool() as pool:
        for name, face in reader.each(pool, reader, root, names, problems):
            data = (root / name).read_bytes()
            if landmarks is not None or decode_image(data, name).shape[:2] != size:
                data = cv2.imencode(".png", np.ascontiguousarray(face[..., ::-1]))[1].tobytes()
            encoded.append(data)
    problems.raise_if_any(len(names), root, reader.hint)
    both = np.stack([left, right], axis=1).ravel()
    write_bin(path, [encoded[i] for i in both], listed.is_same)
    return len(names)


def evaluate(
    embedder: Any,
    path: str | os.PathLike[str] | BinSet,
    flip: bool = True,
    progress: ProgressCallback | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
) -> BinResult:
    """Run insightface's verification protocol on a `.bin` set.

    The embeddings of image and mirror image are added, and the sum is compared. The ten folds are
    equal parts in the file's order; with fewer pairs than ten, each pair is a fold. The headline's
    thresholds are exact, as everywhere here; what insightface's own coarser search gives is in the
    result too.

    Args:
        embedder: what `load_embedder` takes. Or a `.npz` file of embeddings (`StoredEmbeddings`),
            named by the image's number in the file, `"0"` and on.
        path: the `.bin` file, or what `read_bin` returned.
        flip: whether mirror images are embedded and added.
        progress: called with (images done, images in all).
        cache: as for `lfw.evaluate`.

    Returns:
        The 2x2 table of flip (`"none"`, `"sum"`) and mean subtraction, and insightface's figure.
        112x112 faces are cut to the middle 112x96 for a network that takes those (or a whole
        fraction): the two templates differ by these 8 columns alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no `.bin` set, or its images cannot be used; all are listed.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((112, 96, 3)), keras.layers.Flatten()])
    >>> faces = sf.data.synthetic.write_folder("faces", 4, 2, pairs_per_fold=2, folds=2)
    >>> _ = write_bin_of_pairs("mine.bin", faces, faces / "pairs.txt", size=(112, 96))
    >>> embedder = sf.load_embedder(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> evaluate(embedder, "mine.bin").headline.scores.shape
    (4,)
    """
    bins = path if isinstance(path, BinSet) else read_bin(path)
    pairs = check_set(bins)
    options = EmbeddingOptions(flip, cache=cache, progress=progress)
    model = open_embedder(embedder, options)
    names = [str(k) for k in range(len(bins.images))]
    source: EmbeddingSource
    if isinstance(model, StoredEmbeddings):
        source = StoredSource(model, flip)
    else:
        reader = BinReader(model.input_size, bins)
        source = ImageSource(model, Path(bins.name), reader, options)
    plain, mirrored = embed_all(source, names, progress)
    left, right = np.arange(0, len(names), 2), np.arange(1, len(names), 2)
    scored = verify_embeddings(
        plain, mirrored, left, right, pairs.is_same, pairs.folds, names=names, combine="sum"
    )
    vectors = np.asarray(join_sides(plain, mirrored, "sum"), np.float64)
    accuracy, std = insightface_figures(cosines(vectors, left, right), pairs.is_same, pairs.folds)
    items = f"{len(names):,} images in {pairs.num_folds} folds in the file's order"
    return BinResult(
        table=scored.table,
        norms=scored.norms,
        name="bin",
        protocol=describe(pairs, items, scored.headline_key[0], over_folds(pairs))
        + " By insightface's search (squared distances from 0 by 0.01, the first best): "
        f"{100 * accuracy:.2f} with a standard deviation of {100 * std:.2f}.",
        embedder=model,
        pairs=pairs,
        num_items=len(names),
        insightface_accuracy=accuracy,
        insightface_std=std,
    )


def check_set(bins: BinSet) -> Pairs:
    """Return a set's pairs, or raise a ValueError that names it where its folds lack a class."""
    pairs = bins.pairs()
    try:
        check_protocol(pairs.is_same, pairs.folds, "exact")
    except ValueError as error:
        raise ValueError(f"{bins.name} cannot be evaluated: {error}") from error
    return pairs


def insightface_figures(
    scores: NDArray[np.float64], is_same: NDArray[np.bool_], folds: NDArray[np.int64]
) -> tuple[float, float]:
    """Return mean and standard deviation (n) of the fold accuracies by insightface's search.

    Thresholds are squared distances of unit vectors, 0, 0.01, ... 3.99; below it a pair is called
    one person. Each fold gets the first that is best on the others. All arguments are (pairs,).

    Example:

    >>> scores, same = np.array([0.9, 0.2, 0.8, 0.3]), np.array([True, False, True, False])
    >>> mean, deviation = insightface_figures(scores, same, np.array([1, 1, 2, 2]))
    >>> float(mean), float(deviation)  # the first that is best for 0.9 and 0.2 rejects 0.8
    (0.75, 0.25)
    """
    distances = 2.0 - 2.0 * scores
    grid = np.arange(0, 4, 0.01)
    accuracies = []
    for fold in np.unique(folds):
        tested = folds == fold
        genuine = np.sort(distances[~tested & is_same])
        impostor = np.sort(distances[~tested & ~is_same])
        right = np.searchsorted(genuine, grid) + len(impostor) - np.searchsorted(impostor, grid)
        called = distances[tested] < grid[np.argmax(right)]
        accuracies.append(np.mean(called == is_same[tested]))
    return float(np.mean(accuracies)), float(np.std(accuracies))


class BinReader(FaceReader):
    """Reads faces out of a set; a name is the image's number."""

    def __init__(self, input_size: tuple[int, int], bins: BinSet) -> None:
        super().__init__(input_size)
        self._images = bins.images

    def __call__(self, path: Path, name: str) -> np.ndarray:
        try:
            image = decode_image(self._images[int(name)], name)
        except ValueError as error:
            raise ValueError("cannot be decoded as an image") from error
        return self.fit(self.cut(image))

    def key(self, path: Path, name: str) -> str:
        how = f"{self.input_size} bin".encode()
        return hashlib.sha256(hashlib.sha256(self._images[int(name)]).digest() + how).hexdigest()

    @property
    def hint(self) -> str:
        return "The faces of a .bin set cannot be aligned here: take a network of their size."


class WholeFaces(BinReader):
    """Reads 112x112 faces for a 112x96 network whole, made narrower instead of cut."""

    def fit(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(image, self.input_size[::-1], interpolation=cv2.INTER_AREA))

    def __init__(self, input_size: tuple[int, int], bins: BinSet) -> None:
        super().__init__(input_size, bins)
        self.template_size = None  # so that nothing is cut off


def _encoded(number: int, item: Any) -> bytes:
    """Return an encoded image, which may be bytes, the same as text, or an array of bytes."""
    array = isinstance(item, np.ndarray)
    if array and item.dtype == np.uint8 and item.ndim and item.size == max(item.shape):
        return bytes(item.tobytes())
    if isinstance(item, str) and max(item, default="") <= "\xff":
        return item.encode("latin1")  # a pickle of Python 2, read as latin1 and written again
    if isinstance(item, bytes | bytearray):
        return bytes(item)
    kind = type(item).__name__
    if array:
        kind = f"an array of {item.dtype} {item.shape}"
    raise ValueError(f"image {number} must be bytes, as of a JPEG or PNG file. Received: {kind}")
