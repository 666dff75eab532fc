"""Names of the faces in one photograph, as plain values for JSON."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_sphereface.alignment.photo_reader import PhotoFace
from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.search.gallery import Answer, Gallery
from tf_sphereface.search.photo_faces import vectors_of


def name_faces(
    faces: Sequence[PhotoFace], gallery: Gallery, embedder: Embedder
) -> list[dict[str, Any]]:
    """Say who the faces of one photograph are; nobody is in it twice.

    Args:
        faces: of one photograph, one or more.
        gallery: of the people. Without a threshold every name is None; the caller has to say so.
        embedder: the gallery's model.

    Returns:
        For each face its name (None: unknown), cosine, angle in degrees, box in pixels (None: the
        image is an aligned face), runner_up_cosine, margin over it in degrees, the nearest person
        and the detector's score. Numbers that are not finite are None.
    """
    gallery = copy.copy(gallery)  # its state now, for all that is asked below
    vectors = vectors_of(embedder, np.stack([face.crop for face in faces]))
    named: list[Answer]
    places, cosines = gallery.nearest(vectors, 2)
    if gallery.threshold is None:  # `identify` would warn, and filters of warnings are no thread's
        cosines = np.pad(cosines, ((0, 0), (0, 2)), constant_values=np.nan)
        named = [(None, float(first), float(second)) for first, second, *_ in cosines]
    else:
        named = gallery.identify(vectors, distinct=True)
    names = gallery.names
    values = []
    for face, place, (name, cosine, runner_up) in zip(faces, places, named, strict=True):
        nearest = names[place[0]] if len(place) and place[0] >= 0 else None
        values.append(
            {
                "name": name,
                "cosine": _number(cosine),
                "angle": _number(float(degrees(cosine))),
                "box": None if face.face is None else face.face.box.round(2).tolist(),
                "runner_up_cosine": _number(runner_up),
                "margin": _number(float(degrees(runner_up)) - float(degrees(cosine))),
                "nearest": nearest,
                "score": None if face.face is None else round(face.face.score, 4),
            }
        )
    return values


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
