"""Detectors of faces: what all of them share, and MTCNN's cascade."""

from __future__ import annotations

import abc
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
MARGIN = 0.5  # of the longer side, around a picture in which nothing was found
_GRAY = (127, 127, 127)
_NOTHING = np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))
Found = tuple[Array, Array, Array]
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


class Detector(abc.ABC):
    """What finds faces and their five points; write `detect` for a kind of your own.

    Large images are averaged down first. Where nothing is found, the image is looked at once more
    with a gray margin of half its longer side around it: networks that have learnt from whole
    photographs miss faces that fill the picture. A result depends on the image alone. Several
    threads may use an object at a time, which is how to keep all cores busy.

    Args:
        min_face: the smallest face that is looked for, in pixels, at least 20.
        min_score: confidence from which a face counts, 0 to 1.
        max_side: larger images are averaged down to this many pixels first; the points are those of
            the original image.

    Example:

    >>> class Middle(Detector):
    ...     def detect(self, image, min_face):
    ...         box, points = np.array([[20.0, 20, 80, 80]]), np.full((1, 5, 2), 50.0)
    ...         return box, np.array([0.9]), points
    >>> detector = Middle(min_face=20, min_score=0.5, max_side=100)
    >>> detector(np.zeros((200, 200, 3), np.uint8))[0].box.tolist()  # of the image as it was
    [40.5, 40.5, 160.5, 160.5]
    """

    def __init__(self, min_face: float, min_score: float, max_side: int) -> None:
        self.min_face = check_number("min_face", min_face, SMALLEST)
        self.min_score = check_number("min_score", min_score, 0, 1)
        self.max_side = check_integer("max_side", max_side, 100)

    def get_config(self) -> dict[str, Any]:
        """Return what a result depends on beside the image."""
        return {"min_face": self.min_face, "min_score": self.min_score, "max_side": self.max_side}

    def __call__(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in a uint8 RGB image (height, width, 3), the surest first.

        Raises:
            ValueError: not a uint8 RGB image.
        """
        image = check_rgb(image)
        faces = self._look(image)
        if faces:
            return faces
        height, width = image.shape[:2]
        edge = max(1, round(MARGIN * max(height, width)))
        around = (edge, edge, edge, edge, cv2.BORDER_CONSTANT)
        framed = np.asarray(cv2.copyMakeBorder(image, *around, value=_GRAY), np.uint8)
        shifted = [
            Face(face.box - edge, face.score, face.points - edge) for face in self._look(framed)
        ]
        last = np.array([width - 1, height - 1])
        return [  # half a face at the edge is none: its other points would be guesses
            face for face in shifted if (face.points >= 0).all() and (face.points <= last).all()
        ]

    def _look(self, image: NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an image as it is, averaged down where it is large."""
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        if scale < 1.0:
            small = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA))
        factor = np.array([width / image.shape[1], height / image.shape[0]])
        boxes, scores, points = self.detect(image, max(SMALLEST, self.min_face * scale))
        # Pixel centres lie at whole numbers: the corner of the first pixel is at -0.5.
        boxes = (boxes.reshape(-1, 2, 2) + 0.5) * factor - 0.5
        points = (points + 0.5) * factor - 0.5
        return [
            Face(box.ravel(), float(score), five)
            for box, score, five in zip(boxes, scores, points, strict=True)
        ]

    @abc.abstractmethod
    def detect(self, image: NDArray[np.uint8], min_face: float) -> Found:
        """Return boxes (n, 4), x1, y1, x2, y2, scores (n,) and points (n, 5, 2), best first.

        Calling the detector calls this once or twice. `image` is uint8 RGB (height, width, 3), at
        most `max_side` pixels long, and what is returned is in its pixels. Faces smaller than
        `min_face` pixels of it may be left out.
        """


class FaceDetector(Detector):
    """Finds faces and their five points by MTCNN; see `Detector`.

    All sizes of the image lie on one canvas, so that the proposal network runs once; the two others
    take all their candidates at once.

    Args:
        min_face: as of `Detector`; half of the time goes into the smallest size.
        min_score: as of `Detector`.
        max_side: as of `Detector`.

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
        super().__init__(min_face, min_score, max_side)
        self._networks = load_networks()

    def detect(self, image: NDArray[np.uint8], min_face: float) -> Found:
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

    Example:

    >>> boxes = [np.array([0.0, 0, 60, 60]), np.array([100.0, 0, 140, 40])]
    >>> faces = [Face(box, 0.9, np.zeros((5, 2))) for box in boxes]
    >>> [choose(faces, (240, 240), how)[0].side for how in ("center", "largest")]
    [40.0, 60.0]

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
