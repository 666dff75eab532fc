"""Detection on 300 real photographs: faces found, points, and the accuracy that they lead to.

`docs/results/practice.md` has the figures of all 2,190.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

from tf_sphereface.alignment.align import align, read_landmarks
from tf_sphereface.alignment.detector import FaceDetector, choose
from tf_sphereface.alignment.images import read_image
from tf_sphereface.embedder import load_embedder
from tf_sphereface.eval.pairs import read_pairs
from tf_sphereface.importers import load_mobilefacenet

pytestmark = pytest.mark.slow

THRESHOLD = 0.28  # cosine; near what every fold of the protocol chooses for this network


class Sample(NamedTuple):
    names: list[str]
    images: list[np.ndarray]
    given: np.ndarray
    found: list[np.ndarray | None]


@pytest.fixture(scope="module")
def sample(real_data) -> Sample:
    """The images of every fourth genuine pair: 300, with somebody else's landmarks and ours."""
    folder = real_data / "lfw_subset"
    pairs = read_pairs(folder / "pairs.txt")
    chosen = np.flatnonzero(pairs.is_same)[::4]
    names = list(dict.fromkeys(name for i in chosen for name in (pairs.left[i], pairs.right[i])))
    names = names[:300]
    images = [read_image(folder / "images" / name) for name in names]
    landmarks = read_landmarks(folder / "landmarks.tsv")
    detector = FaceDetector()

    def find(image: np.ndarray) -> np.ndarray | None:
        faces = choose(detector(image), (image.shape[0], image.shape[1]))
        return faces[0].points if faces else None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(find, images))
    return Sample(names, images, np.array([landmarks[name] for name in names]), found)


def test_faces_are_found_and_points_are_near(sample):
    assert len(sample.names) == 300
    missed = [n for n, points in zip(sample.names, sample.found, strict=True) if points is None]
    assert len(missed) <= 0.005 * 300, missed
    errors = np.array(
        [
            np.inf if points is None else np.hypot(*(points - given).T).mean()
            for points, given in zip(sample.found, sample.given, strict=True)
        ]
    )
    assert np.median(errors) < 2.5  # measured: 1.31
    assert np.mean(errors < 4.0) >= 0.95  # measured: all


def test_detected_points_lead_to_the_accuracy_of_the_given_ones(sample, real_data):
    """All 44,850 pairs of the sample, half of the weight on the 150 genuine ones."""
    checkpoint = real_data / "mobilefacenet" / "mobilefacenet_casia_068.ckpt"
    embedder = load_embedder(load_mobilefacenet(checkpoint))
    people = np.array([name.split("/")[0] for name in sample.names])
    upper = np.triu_indices(len(people), 1)
    is_same = (people[:, None] == people)[upper]
    assert is_same.sum() == 150
    accuracy = []
    for points in (sample.given, sample.found):
        crops = [
            align(image, given if five is None else five)
            for image, five, given in zip(sample.images, points, sample.given, strict=True)
        ]
        vectors = embedder(np.stack(crops)).astype("float64")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        accepted = (vectors @ vectors.T)[upper] >= THRESHOLD
        accuracy.append((accepted[is_same].mean() + (~accepted)[~is_same].mean()) / 2)
    given, found = accuracy
    assert given > 0.975  # or the comparison means nothing
    assert abs(found - given) < 0.005  # half a point
