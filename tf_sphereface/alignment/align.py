"""Alignment of a face: similarity transform of five landmarks to a template, bilinear warp."""

from __future__ import annotations

import os
import re

import cv2
import numpy as np

from tf_sphereface.alignment.images import check_rgb
from tf_sphereface.alignment.plausibility import check_face, count_hint
from tf_sphereface.alignment.template import ORDER, TEMPLATES
from tf_sphereface.utils.files import text_encoding
from tf_sphereface.utils.optional import require


def align(
    image: np.ndarray,
    points: np.ndarray,
    size: tuple[int, int] = (112, 96),
    *,
    antialias: bool = False,
) -> np.ndarray:
    """Cut an aligned face out of an image: uint8 RGB, `size` and 3 channels.

    Rotation, scale and shift are those that bring the five points closest to the template in the
    least-squares sense; there is no shear and no mirror. Pixels are interpolated bilinearly, and
    what lies outside the image is black.

    Args:
        image: uint8 RGB, (height, width, 3), any size.
        points: (5, 2), x and y in pixels of the image: left eye, right eye, nose, left mouth
            corner, right mouth corner; left and right as seen in the image.
        size: (height, width) of the crop, one of `TEMPLATES`: 112x96 or 112x112.
        antialias: first average the pixels of a face that is at least three times as large as the
            crop: bilinear interpolation alone would leave most of them out. The commands do;
            smaller faces, such as those of LFW, are the same either way, to the bit.

    Raises:
        ValueError: not a uint8 RGB image, points of another shape, not finite, or that cannot be
            those of a face in the image (see `plausibility.check_face`), or a size without a
            template.
        ImportError: scikit-image is missing (the extra `align`).

    Example:

    >>> image = np.zeros((250, 250, 3), "uint8")
    >>> points = [[107, 108], [145, 107], [127, 140], [108, 156], [143, 156]]
    >>> align(image, points).shape
    (112, 96, 3)

    Source: the template is that of the authors' released code.
    """
    image = check_rgb(image)
    similarity(points, size)  # its errors come first
    reason = check_face(points, image.shape)
    if reason is not None:
        raise ValueError(
            f"Argument `points` must be those of a face: {reason}. {ORDER}. "
            f"Received: {np.asarray(points).tolist()}"
        )
    return cut_out(image, points, size, antialias=antialias)


def cut_out(
    image: np.ndarray, points: np.ndarray, size: tuple[int, int], *, antialias: bool = True
) -> np.ndarray:
    """Return what `align` does, whatever the points: for those that were detected or checked."""
    matrix = similarity(points, size)
    if antialias:
        image, matrix = _reduce(image, matrix)
    height, width = size
    # OpenCV's default outside the image is a constant: black.
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR))


def _reduce(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the image down by a whole factor, if the transform shrinks it to a third or less."""
    factor = int(1.0 / np.hypot(matrix[0, 0], matrix[1, 0]) + 1e-6)
    factor = min(factor, min(image.shape[:2]))
    if factor < 3:
        return image, matrix
    height, width = (round(side / factor) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    across, down = image.shape[1] / width, image.shape[0] / height
    # Pixel centres lie at whole numbers: x = (x' + 1/2) across - 1/2.
    back = np.array([[across, 0.0, (across - 1) / 2], [0.0, down, (down - 1) / 2], [0.0, 0.0, 1.0]])
    return np.asarray(small), matrix @ back


def similarity(points: np.ndarray, size: tuple[int, int] = (112, 96)) -> np.ndarray:
    """Return the transform from an image to the aligned crop, float64 (2, 3); see `align`.

    `matrix @ (x, y, 1)` is the place in the crop. Source: Umeyama, "Least-squares estimation of
    transformation parameters between two point patterns", PAMI 1991, equations 40 to 43.
    """
    template = TEMPLATES[template_size(size)]
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(
            "Argument `points` must be five finite x, y pairs, shape (5, 2). "
            f"Received: shape {points.shape}, {points.tolist()}"
        )
    transform = require("skimage.transform", extra="align").SimilarityTransform
    estimate = transform.from_estimate(points, template)
    if not estimate or not np.isfinite(estimate.params).all():
        raise ValueError(
            f"Argument `points` must not all be in one place. Received: {points.tolist()}"
        )
    return np.asarray(estimate.params[:2])


def template_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of a template, as integers, or raise `ValueError`."""
    key = (int(size[0]), int(size[1]))
    if key not in TEMPLATES:
        known = ", ".join(f"({height}, {width})" for height, width in TEMPLATES)
        raise ValueError(
            f"Argument `size` must be (height, width) of a template: {known}. Received: size={size}"
        )
    return key


def read_landmarks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    r"""Return the points of a landmark file, `{path as written: float64 (5, 2)}`, in its order.

    Whether they can be faces is not asked here, but where they are used.

    Args:
        path: a text file of lines `NAME/NAME_0001.jpg<TAB>x1<TAB>y1 ... x5<TAB>y5`, the points in
            the order of `align`; commas or blanks may stand for the tabs, as in CelebA's lists.
            Empty lines and lines that begin with `#` are skipped, and, before the first image, a
            line that is a count or names the columns.

    Raises:
        ValueError: a line with another number of fields, a number that is none, or a path twice;
            the message names the file and the line.
        OSError: the file cannot be read.

    Example:

    >>> from pathlib import Path
    >>> line = "Ann/Ann_0001.jpg\t38\t52\t74\t52\t56\t72\t40\t92\t71\t92\n"
    >>> _ = Path("landmarks.tsv").write_text(line)
    >>> read_landmarks("landmarks.tsv")["Ann/Ann_0001.jpg"][0].tolist()  # the left eye
    [38.0, 52.0]
    """
    landmarks: dict[str, np.ndarray] = {}
    with open(path, encoding=text_encoding(path), errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, *fields = _fields(line.rstrip("\r\n"))
            if not landmarks and _is_heading(line):
                continue
            where, shown = f"{os.fspath(path)}, line {number}", repr(name[:80])
            try:
                points = np.array([float(field) for field in fields])
            except ValueError as error:
                raise ValueError(f"{where}: expected numbers after the path ({error})") from error
            if points.size != 10:
                raise ValueError(
                    f"{where}: expected a path and 10 numbers, separated by tabs"
                    f"{', and no JSON' if name[0] in '{[' else ''}. "
                    f"Received: {len(fields)} fields after {shown}" + count_hint(len(fields))
                )
            if name in landmarks:
                raise ValueError(f"{where}: {shown} is listed twice")
            landmarks[name] = points.reshape(5, 2)
    return landmarks


def _fields(line: str) -> list[str]:
    """Return a line's path and numbers, which tabs, else commas, else blanks set apart."""
    if "\t" in line:
        return line.split("\t")
    if line.lstrip()[:1] in ("{", "["):  # JSON
        return [line]
    for parts in (line.rsplit(",", 10), line.rsplit(None, 10)):
        if len(parts) == 11:
            return [part.strip() for part in parts]
    return [line]


def _is_heading(line: str) -> bool:
    """Tell whether a line before the first image is a count of them, or names ten columns."""
    words = re.split(r"[\s,]+", line.strip())
    if len(words) == 1:
        return words[0].isdigit()
    return len(words) >= 10 and words[0][0] not in "{[" and not any(map(_is_number, words))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
