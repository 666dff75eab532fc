"""The face in an image file, aligned already or in a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.align import cut_out
from tf_sphereface.alignment.detector import Face, FaceDetector, Selection, choose
from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.alignment.images import read_photo
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.optional import require

Alignment = Literal["auto", "always", "never"]


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
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        alignment: Alignment = "auto",
        select: Selection = "center",
    ) -> None:
        self._alignment = check_choice("alignment", alignment, get_args(Alignment))
        self._reader, self._select = FaceReader(input_size), select
        self._detector: FaceDetector | None = None

    def __call__(self, path: Path) -> PhotoFace:
        """Return the face in an image file.

        A ValueError names the file and says what helps: it is refused, broken, has no face, or
        cannot be aligned. ImportError: a package of the extra `align` is needed and missing.
        """
        why = "--align always"
        image = read_photo(path)
        if self._alignment != "always":
            try:
                return PhotoFace(path, image, self._reader.fit(image))
            except ValueError as error:
                why = str(error)
        size = self._reader.template_size
        if self._alignment == "never" or size is None:
            raise ValueError(
                f"{path}: {why}. Both images must be aligned faces. {self._reader.how_to_align}"
            )
        detector = self._get_detector(path, why)
        faces = detector(image)
        chosen = choose(faces, (image.shape[0], image.shape[1]), self._select)
        if not chosen:
            raise ValueError(
                f"{path}: no face was found in it ({image.shape[0]}x{image.shape[1]} pixels; faces "
                f"from {detector.min_face:g} pixels on are looked for)"
            )
        crop = self._reader.fit(cut_out(image, chosen[0].points, size))
        return PhotoFace(path, image, crop, chosen[0], len(faces))

    def _get_detector(self, path: Path, why: str) -> FaceDetector:
        """Return the detector, made on first use."""
        if self._detector is None:
            try:
                require("skimage.transform", extra="align")
                self._detector = FaceDetector()
            except ImportError as error:
                raise ImportError(
                    f"{path}: {why}, so the face in it must be found first, and that needs the "
                    f"extra align: {error}. Or align both images elsewhere, and give the faces "
                    "(see tf_sphereface-align --help)"
                ) from error
        return self._detector
