"""The face in an image file, aligned already or in a photograph."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.align import cut_out
from tf_sphereface.alignment.detector import SMALLEST, Detector, Face, Selection, choose
from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.alignment.images import read_photo
from tf_sphereface.alignment.yunet import make_detector
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.optional import require

Alignment = Literal["auto", "always", "never"]


class NoFace(ValueError):
    """A photograph in which no face was found."""


@dataclass
class PhotoFace:
    """The face in an image: the whole image and the crop for the network, both uint8 RGB.

    `face` is None if the image is an aligned face; `count` is the number of faces in a photograph.
    """

    path: Path
    image: NDArray[np.uint8]
    crop: NDArray[np.uint8]
    face: Face | None = None
    count: int = 0


class PhotoReader:
    """Reads aligned faces as they are, and finds the face in any other image.

    By `alignment`, images of `input_size` (height, width) are aligned faces (`"auto"`), none is
    (`"always"`), or all must be (`"never"`). `select` is that of `choose`, without `"all"`.
    `detector` is an ONNX file of YuNet; None: MTCNN, made when a face is looked for.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        alignment: Alignment = "auto",
        select: Selection = "center",
        *,
        detector: str | os.PathLike[str] | None = None,
        min_face: float = SMALLEST,
    ) -> None:
        self._alignment = check_choice("alignment", alignment, get_args(Alignment))
        self._reader, self._select = FaceReader(input_size), select
        self._path, self._min_face = detector, min_face
        self._detector: Detector | None = None
        self._lock = threading.Lock()
        if detector is not None:
            self._detector = make_detector(detector, min_face=min_face)  # its errors come now

    def __call__(self, path: Path) -> PhotoFace:
        """Return the face in an image file.

        A ValueError names the file and says what helps: it is refused, broken, has no face, or
        cannot be aligned. ImportError: a package of the extra `align` is needed and missing.
        """
        faces = self.find_all(read_photo(path), path)
        found = [photo.face for photo in faces if photo.face is not None]
        if not found:
            return faces[0]
        height, width = faces[0].image.shape[:2]
        (chosen,) = choose(found, (height, width), self._select)
        return next(photo for photo in faces if photo.face is chosen)

    def find_all(self, image: NDArray[np.uint8], path: Path) -> list[PhotoFace]:
        """Return every face of an image that was read from `path`, the largest first.

        Errors are those of a call.
        """
        why = "--align always"
        if self._alignment != "always":
            try:
                return [PhotoFace(path, image, self._reader.fit(image))]
            except ValueError as error:
                why = str(error)
        size = self._reader.template_size
        if self._alignment == "never" or size is None:
            raise ValueError(
                f"{path}: {why}. Images must be aligned faces. {self._reader.how_to_align}"
            )
        detector = self._get_detector(path, why)
        shape = (image.shape[0], image.shape[1])
        faces = [f for f in detector(image) if f.side >= self._min_face]
        if not faces:
            least = max(detector.min_face, SMALLEST * max(1.0, max(shape) / detector.max_side))
            raise NoFace(
                f"{path}: no face was found in it ({shape[0]}x{shape[1]} pixels; faces "
                f"from {least:.0f} pixels on are looked for)"
            )
        return [
            PhotoFace(
                path, image, self._reader.fit(cut_out(image, face.points, size)), face, len(faces)
            )
            for face in choose(faces, shape, "all")
        ]

    def _get_detector(self, path: Path, why: str) -> Detector:
        """Return the detector, made on first use."""
        with self._lock:
            if self._detector is None:
                try:
                    require("skimage.transform", extra="align")
                    self._detector = make_detector(min_face=self._min_face)
                except ImportError as error:
                    raise ImportError(
                        f"{path}: {why}, so the face in it must be found first, and that needs the "
                        f"extra align: {error}. Or align the images elsewhere, and give the faces "
                        "(see tf_sphereface-align --help)"
                    ) from error
            return self._detector
