"""Views of faces, for a teacher: turned, moved, lit otherwise, and blended in pairs.

A student that learns from a teacher needs pictures, not labels, and knows of the teacher's space
what it has seen of it. Warps and blends of the faces that are there show it more: the teacher
embeds each of them as it is (consistent teaching, as in Beyer et al., *Knowledge distillation: A
good teacher is patient and consistent*, CVPR 2022; blends: Zhang et al., *mixup*, ICLR 2018).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import encode_face
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.data.warping import to_pixels, warped_by
from tf_sphereface.utils.checks import check_integer
from tf_sphereface.utils.files import begin_folder, replace_bytes
from tf_sphereface.utils.messages import ProgressCallback

LEAST = 0.5  # share of its own face in a blend
BLOCK = 4096  # faces among which the other one of a blend is drawn
_BEGUN = ".views.json"  # which call fills the folder


def draw_view(
    face: NDArray[np.uint8], other: NDArray[np.uint8] | None, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Warp a face by chance, by the draws of `augment="warp"`; blend it with a view of another.

    Args:
        face: uint8 RGB (height, width, 3).
        other: likewise, of the same size; None for a view of one face.
        rng: the draws come from it.

    Returns:
        uint8 of the same shape; of a blend `LEAST` or more is `face`.

    Example:

    >>> face = np.full((56, 48, 3), 200, np.uint8)
    >>> draw_view(face, None, np.random.default_rng(0)).shape
    (56, 48, 3)
    """
    pixels = warped_by(face, rng)
    if other is not None:
        share = LEAST + (1 - LEAST) * rng.random()
        pixels = share * pixels + (1 - share) * warped_by(other, rng)
    return to_pixels(pixels)


def write_views(
    source: FaceSource,
    out: str | os.PathLike[str],
    *,
    count: int = 8,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> int:
    """Write views of faces as a folder per person: the faces as they are, then drawn ones.

    View 0 is the face itself; views 1, 3, 5, ... are of one face (`draw_view`), 2, 4, 6, ... are
    blends with another. Stopped at any moment, the same call goes on where it was.

    Args:
        source: the faces, which are read at its `image_size`; labels are not needed.
        out: a folder outside of the faces' own; empty, missing, or begun by the same call.
        count: views of each face, 1 or more.
        seed: of the draws, 0 or more.
        progress: called with (done, all) faces.

    Returns:
        The number of pictures.

    Raises:
        ValueError: `out` holds something else, or views of other faces, or lies among the faces; a
            person's name is no name of a folder.
        OSError: there is no room.

    Example:

    >>> from tf_sphereface import data
    >>> faces = data.FaceSource(data.SyntheticFaces(2, 2), image_size=(28, 24))
    >>> write_views(faces, "views", count=3)
    12
    """
    count, seed = check_integer("count", count, 1), check_integer("seed", seed, 0)
    folder, people = _outside(Path(out), source), _people(source.load())
    facts = {"faces": source.fingerprint(), "count": count, "seed": seed}
    begin_folder(folder, _BEGUN, {**facts, "image_size": list(source.image_size)})
    for first, block in _blocks(source):
        for number, face in enumerate(block, first):
            person = folder / people[source.labels[number]]
            person.mkdir(exist_ok=True)
            for view in range(count):
                path = person / f"{number:07d}-{view}.jpg"
                if not path.exists():
                    drawn = _view(face, block, view, np.random.default_rng((seed, number, view)))
                    replace_bytes(path, encode_face(drawn, ".jpg"))
        if progress is not None:
            progress(first + len(block), len(source))
    return count * len(source)


def _view(
    face: NDArray[np.uint8], others: NDArray[np.uint8], view: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a face's view of some number: itself, a blend where that is even, or a warp."""
    if view == 0:
        return face
    return draw_view(face, others[rng.integers(len(others))] if view % 2 == 0 else None, rng)


def _outside(folder: Path, source: FaceSource) -> Path:
    """Return the folder, or refuse one in which the views would be taken for faces to train on."""
    if isinstance(source.source, str | os.PathLike):
        root = Path(source.source)
        if folder.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"target must lie outside of source, {root}. Received: {folder}")
    return folder


def _people(source: FaceSource) -> Sequence[str]:
    """Return the folder names of the people; those of a pack are whatever its file says."""
    if source.names is None:
        return [f"{label:06d}" for label in range(source.num_classes)]
    for name in source.names:
        if name != "." and (name == ".." or Path(name).name != name):  # "." of faces without people
            raise ValueError(f"a person's name must be that of a folder. Received: {name!r}")
    return source.names


def _blocks(source: FaceSource) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the faces in blocks, uint8 (n, height, width, 3), each with the first one's number."""
    first, held = 0, []
    for images, *_ in source.in_order("uint8", channel_order="rgb"):
        held.append(np.asarray(images))
        if sum(map(len, held)) >= BLOCK:
            block = np.concatenate(held)
            yield first, block
            first, held = first + len(block), []
    if held:
        yield first, np.concatenate(held)
