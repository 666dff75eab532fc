"""Find the faces in an image: MTCNN's cascade, each network called once per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.boxes import Array, paint, proposals, pyramid, square, suppress
from tf_sphereface.alignment.images import check_rgb
from tf_sphereface.alignment.mtcnn import load_networks
from tf_sphereface.utils.checks import check_choice, check_integer, check_number

SMALLEST = 20  # pixels; on smaller faces the networks guess
_NOTHING = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
Selection = Literal["center", "largest", "all"]
SELECTIONS: tuple[str, ...] = get_args(Selection)


@dataclass(frozen=True)
class Face:
    """A face in an image.

    Args:
        box: float64 (4,), x1, y1, x2, y2 in pixels; may reach over the image's edge.
        score: the network's confidence, 0 to 1.
        points: float64 (5, 2), x and y in pixels of the left eye, right eye, nose, left and right
            mouth corner, left and right as seen in the image.
    """

    box: NDArray[np.float64]
    score: float
    points: NDArray[np.float64]

    @property
    def side(self) -> float:
        """The box's longer side, in pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))


class FaceDetector:
    """Finds faces and their five points.

    All sizes of the image lie on one canvas, so that the proposal network runs once; the two others
    take all their candidates at once. A result depends on the image alone. Several threads may use
    an object at a time, which is how to keep all cores busy.

    Args:
        min_face: the smallest face that is looked for, in pixels, at least 20: half of the time
            goes into the smallest size.
        min_score: confidence from which a face counts, 0 to 1.
        max_side: larger images are averaged down to this many pixels first; the points are those of
            the original image.

    Raises:
        ImportError: mtcnn is not installed (the extra `align`).
        ValueError: an argument is out of range.

    Example:

    >>> detector = FaceDetector()
    >>> detector(np.zeros((200, 200, 3), "uint8"))
    []

    Source: the networks and thresholds are those of the package mtcnn 1.0. The points are better
    than its own, because the last network looks twice: *measured here*.
    """

    def __init__(
        self, *, min_face: float = SMALLEST, min_score: float = 0.8, max_side: int = 1600
    ) -> None:
        self.min_face = check_number("min_face", min_face, SMALLEST)
        self.min_score = check_number("min_score", min_score, 0, 1)
        self.max_side = check_integer("max_side", max_side, 100)
        self._networks = load_networks()

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"min_face": self.min_face, "min_score": self.min_score, "max_side": self.max_side}

    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in a uint8 RGB image (height, width, 3), the surest first.

        Raises:
            ValueError: not a uint8 RGB image.
        """
        image = check_rgb(image)
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        if scale < 1.0:
            small = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA))
        factor = np.array([width / image.shape[1], height / image.shape[0]])
        boxes, scores, points = self._detect(image, max(SMALLEST, self.min_face * scale))
        # Pixel centres lie at whole numbers: the corner of the first pixel is at -0.5.
        boxes = (boxes.reshape(-1, 2, 2) + 0.5) * factor - 0.5
        points = (points + 0.5) * factor - 0.5
        return [
            Face(box.ravel(), float(score), five)
            for box, score, five in zip(boxes, scores, points, strict=True)
        ]

    def _detect(self, image: NDArray[np.uint8], min_face: float) -> tuple[Array, Array, Array]:
        """Run the cascade; return boxes (n, 4), scores (n,) and points (n, 5, 2)."""
        boxes, scores = self._candidates(image, min_face)
        if len(boxes):
            boxes = square(boxes[suppress(boxes, scores, 0.7)])
            scores, offsets = self._run(self._networks.refine, image, boxes)
            good = scores > 0.7
            boxes, scores = (boxes + offsets * _sides(boxes))[good], scores[good]
            boxes = square(boxes[suppress(boxes, scores, 0.7)])
        if not len(boxes):
            return _NOTHING
        scores, offsets, _ = self._run(self._networks.output, image, boxes)
        good = scores > self.min_score
        boxes, scores = (boxes + offsets * _sides(boxes))[good], scores[good]
        kept = suppress(boxes, scores, 0.7, of_smaller=True)
        boxes, scores = boxes[kept], scores[kept]
        if not len(boxes):
            return _NOTHING
        # The points so far belong to the box before its offsets: look again, at the moved one.
        squares = square(boxes)
        (where,) = self._run(self._networks.points, image, squares)
        fractions = where.reshape(-1, 2, 5).transpose(0, 2, 1)
        points = squares[:, None, :2] + fractions * _sides(squares)[:, None, :2] - 1.0
        return boxes, scores, points

    def _candidates(self, image: NDArray[np.uint8], min_face: float) -> tuple[Array, Array]:
        """Return the proposal network's boxes and scores, over all sizes of the image."""
        size = (image.shape[0], image.shape[1])
        levels, canvas = pyramid(*size, min_face)
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        if levels:
            outputs = self._networks.propose(paint(image, levels, canvas))
            score_map, offsets = (output.numpy() for output in outputs)
            for level in levels:
                box, score = proposals(score_map, offsets, level, size, threshold=0.6)
                kept = suppress(box, score, 0.5)
                boxes.append(box[kept])
                scores.append(score[kept])
        return np.concatenate(boxes), np.concatenate(scores)

    @staticmethod
    def _run(network: Any, image: NDArray[np.uint8], boxes: Array) -> tuple[Array, ...]:
        """Return the outputs for boxes (n, 4) as float64, the type of all box arithmetic."""
        outputs = network(image, boxes.astype(np.float32))
        return tuple(output.numpy().astype(np.float64) for output in outputs)


def choose(faces: Sequence[Face], size: tuple[int, int], how: Selection = "center") -> list[Face]:
    """Return one of the faces of an image or all, none if there is none.

    Args:
        faces: what a detector found.
        size: (height, width) of the image, in pixels.
        how: `"center"`: the face whose box is nearest the image's centre; `"largest"`: the one
            with the largest box; `"all"`: all of them, the largest first.

    Raises:
        ValueError: `how` is something else.

    Source: the authors take the face nearest the centre.
    """
    check_choice("how", how, SELECTIONS)
    if how == "center":
        middle = (np.array([size[1], size[0]]) - 1) / 2

        def distance(face: Face) -> float:
            return float(np.hypot(*((face.box[:2] + face.box[2:]) / 2 - middle)))

        return sorted(faces, key=distance)[:1]

    def area(face: Face) -> float:
        return float(np.prod(face.box[2:] - face.box[:2]))

    return sorted(faces, key=area, reverse=True)[: None if how == "all" else 1]


def _sides(boxes: Array) -> Array:
    """Return width and height twice (n, 4), one pixel larger, as the networks were trained."""
    return np.tile(boxes[:, 2:] - boxes[:, :2] + 1.0, 2)
