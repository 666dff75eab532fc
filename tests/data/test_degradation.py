"""Poor pictures made of good ones."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface import data
from tf_sphereface.data import degradation, synthetic

SIZE = (56, 48)


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    return synthetic.training_set(8, 8, size=SIZE)


@pytest.mark.parametrize("name", degradation.CHOICES)
def test_each_way_grows_with_its_strength_and_stays_that_face(faces, name):
    face, other, draws = faces[0][0], faces[0][40], np.array([0.5, 0.5, 0.9])
    seen = [degradation.degrade_by(face, name, strength, draws) for strength in (0.0, 0.5, 1.0)]
    away = [np.abs(image.astype(int) - face).mean() for image in seen]
    assert all(image.shape == face.shape and image.dtype == np.uint8 for image in seen)
    if name == "gray":
        assert all((image == image[..., :1]).all() for image in seen)
    else:
        assert away[0] < away[1] < away[2]
    if name == "crop":
        assert away[0] == 0
        assert (seen[2] == degradation.FILL).all(axis=-1).mean() == pytest.approx(0.75, abs=0.03)
    else:
        assert away[2] < np.abs(other.astype(int) - face).mean()


def test_the_shares_of_poor_faces_are_those_that_are_said():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1500, 56, 48, 3), dtype=np.uint8)
    before, draws = images.copy(), rng.uniform(size=(degradation.DRAWS, 1500))
    poor = degradation.degrade(images, draws)
    np.testing.assert_array_equal(images, before)
    changed = (poor != images).any(axis=(1, 2, 3)).mean()
    expected = 1 - np.prod([1 - p for p in degradation.CHOICES.values()])
    assert expected == pytest.approx(0.63, abs=0.01)
    assert changed == pytest.approx(expected, abs=0.05)  # 4 deviations
    with pytest.raises(ValueError, match="`draws` must be of shape"):
        degradation.degrade(images, draws[:2])


@pytest.mark.parametrize("augment", ["quality", "warp"])
def test_batches_are_those_of_the_seed_in_each_type_and_order_of_channels(faces, augment):
    options = {"image_size": SIZE, "batch_size": 16, "augment": augment, "seed": 3}
    first = [images.numpy() for images, _ in data.face_dataset(faces, **options)]
    again = [images.numpy() for images, _ in data.face_dataset(faces, **options)]
    np.testing.assert_array_equal(first, again)
    pixels = [images.numpy() for images, _ in data.face_dataset(faces, dtype="uint8", **options)]
    np.testing.assert_array_equal(data.normalize(np.stack(pixels)), first)
    bgr = [images.numpy() for images, _ in data.face_dataset(faces, channel_order="bgr", **options)]
    np.testing.assert_array_equal(np.stack(bgr)[..., ::-1], first)
    np.testing.assert_array_equal(data.batch_at(faces, 2, **options)[0], first[2])
    options["seed"] = 4
    other = [images.numpy() for images, _ in data.face_dataset(faces, **options)]
    assert (np.stack(first) != np.stack(other)).any()
    options["seed"] = 3
    workers = [data.face_dataset(faces, num_shards=2, shard_index=i, **options) for i in range(2)]
    halves = [next(iter(worker))[0] for worker in workers]
    np.testing.assert_array_equal(np.concatenate(halves), first[0])
