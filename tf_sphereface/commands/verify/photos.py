"""The faces that `tf_sphereface-verify` compares, and the picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.align import align
from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.alignment.images import read_image, read_photo, write_face
from tf_sphereface.commands.console import CommandError

if TYPE_CHECKING:
    from tf_sphereface.alignment.detector import Face, FaceDetector

_HEIGHT = 336  # of each image in the picture, in pixels
_BAR = 64


@dataclass
class Compared:
    """One of the two faces.

    Args:
        path: the image file.
        image: uint8 RGB, as it is.
        crop: uint8 RGB, as the network takes it.
        face: the face that was found in it; None if the image is an aligned face.
        count: how many faces were found.
    """

    path: Path
    image: NDArray[np.uint8]
    crop: NDArray[np.uint8]
    face: Face | None = None
    count: int = 0

    def describe(self) -> dict[str, Any]:
        """Return what `--json` says about it."""
        found = self.face
        return {
            "aligned_here": found is not None,
            "faces_found": self.count if found is not None else None,
            "box": None if found is None else found.box.round(2).tolist(),
            "score": None if found is None else round(found.score, 4),
            "points": None if found is None else found.points.round(2).tolist(),
        }


class PhotoReader:
    """Reads aligned faces as they are, and finds the face in any other image.

    Args:
        reader: knows the network's size.
        how: `"auto"`: images of the network's size are aligned faces; `"always"`: none is;
            `"never"`: all must be.
        select: which face of several, as for `detect.choose`.
    """

    def __init__(self, reader: FaceReader, how: str = "auto", select: str = "center") -> None:
        self._reader, self._how, self._select = reader, how, select
        self._detector: FaceDetector | None = None

    def __call__(self, path: Path) -> Compared:
        """Return the face in an image file.

        Raises:
            CommandError: the image has no face, or is not aligned and cannot be aligned here; the
                message names it and says what helps.
            ValueError: the file is refused, broken or no image; the message names it.
            OSError: the file cannot be read.
        """
        why = "--align always"
        image = _read(path)
        if self._how != "always":
            try:
                return Compared(path, image, self._reader.fit(image))
            except ValueError as error:
                why = str(error)
        size = self._reader.template_size
        if self._how == "never" or size is None:
            raise CommandError(
                f"{path}: {why}. Both images must be aligned faces: see tf_sphereface-align"
            )
        detector = self._get_detector(path, why)
        from tf_sphereface.alignment.detector import choose

        faces = detector(image)
        chosen = choose(faces, (image.shape[0], image.shape[1]), self._select)
        if not chosen:
            raise CommandError(
                f"{path}: no face was found in it ({image.shape[0]}x{image.shape[1]} pixels; faces "
                f"from {detector.min_face:g} pixels on are looked for)"
            )
        crop = self._reader.fit(align(image, chosen[0].points, size, antialias=True))
        return Compared(path, image, crop, chosen[0], len(faces))

    def _get_detector(self, path: Path, why: str) -> FaceDetector:
        """Return the detector, made on first use."""
        if self._detector is None:
            from tf_sphereface.alignment.detector import FaceDetector
            from tf_sphereface.utils.optional import require

            try:
                require("skimage.transform", extra="align")
                self._detector = FaceDetector()
            except ImportError as error:
                raise CommandError(
                    f"{path}: {why}, so the face in it must be found first, and that needs the "
                    f"extra align: {error}. Or align both images elsewhere, and give the faces "
                    "(see tf_sphereface-align --help)"
                ) from error
        return self._detector


def write_picture(path: Path, faces: Sequence[Compared], lines: Sequence[str]) -> None:
    """Write the images with what was found in them, the crops beside them, and the verdict below.

    Args:
        path: an image file.
        faces: the two.
        lines: two lines of text; the picture's font has plain letters alone.
    """
    rows = []
    for face in faces:
        photo = _scaled(_marked(face), _HEIGHT)
        rows.append(np.concatenate([photo, _scaled(face.crop, _HEIGHT)], axis=1))
    width = max(720, *(row.shape[1] for row in rows))
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows]
    bar = np.zeros((_BAR, width, 3), np.uint8)
    for number, line in enumerate(lines):
        place = (8, 24 + 28 * number)
        text = line.replace("°", " deg")
        cv2.putText(bar, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, 16)
    write_face(path, np.concatenate([*padded, bar]))


def _read(path: Path) -> NDArray[np.uint8]:
    """Return a photograph, or an aligned face, which needs no Pillow."""
    try:
        return read_photo(path)
    except ImportError:
        return np.asarray(read_image(path), np.uint8)


def _marked(face: Compared) -> NDArray[np.uint8]:
    """Return the image with the box and the points drawn into it."""
    image = face.image.copy()
    if face.face is not None:
        width = max(1, round(max(image.shape[:2]) / 300))
        x1, y1, x2, y2 = (round(float(value)) for value in face.face.box)
        cv2.rectangle(image, (x1, y1), (x2, y2), (0, 255, 0), width)
        for x, y in face.face.points:
            cv2.circle(image, (round(float(x)), round(float(y))), 2 * width, (255, 64, 64), -1)
    return image


def _scaled(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Return the image at this height."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    smaller = height < image.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
