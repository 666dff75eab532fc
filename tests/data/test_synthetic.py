"""Synthetic faces: reproducible, open-set, neither trivial nor hopeless, and quick."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tf_sphereface.data import synthetic
from tf_sphereface.data.synthetic.identity import _SPREAD, TRAITS, draw_identity
from tf_sphereface.data.synthetic.nuisance import MOVING, draw_nuisance, draw_path
from tf_sphereface.data.synthetic.render import render

SMALL = (56, 48)


def fold_accuracy(scores: np.ndarray, is_same: np.ndarray, folds: np.ndarray) -> float:
    """Mean accuracy, each fold's threshold from the others, by trying every midpoint."""
    accuracies = []
    for fold in np.unique(folds):
        train = folds != fold
        ordered = np.sort(scores[train])
        thresholds = 0.5 * (ordered[1:] + ordered[:-1])
        right = [np.mean((scores[train] > t) == is_same[train]) for t in thresholds[::4]]
        best = thresholds[::4][int(np.argmax(right))]
        accuracies.append(np.mean((scores[~train] > best) == is_same[~train]))
    return float(np.mean(accuracies))


def test_shape_dtype_and_range() -> None:
    images = synthetic.faces([0, 1, 2], 5)
    assert images.shape == (3, 112, 96, 3)
    assert images.dtype == np.uint8
    assert images.min() < 40
    assert images.max() > 180


def test_an_image_depends_on_its_own_indices_alone() -> None:
    together = synthetic.faces([7, 3, 7, 2**40], [0, 4, 9, 1], seed=5, size=SMALL)
    backwards = synthetic.faces([2**40, 7, 3, 7], [1, 9, 4, 0], seed=5, size=SMALL)
    np.testing.assert_array_equal(together, backwards[[3, 2, 1, 0]])
    for i, (identity, sample) in enumerate([(7, 0), (3, 4), (7, 9), (2**40, 1)]):
        alone = synthetic.faces(identity, sample, seed=5, size=SMALL)
        np.testing.assert_array_equal(alone[0], together[i])


def test_seed_identity_and_sample_each_matter() -> None:
    base = synthetic.faces(3, 4, seed=0).astype(int)
    for other in (
        synthetic.faces(3, 4, seed=1),
        synthetic.faces(4, 4, seed=0),
        synthetic.faces(3, 5, seed=0),
    ):
        assert np.abs(other.astype(int) - base).mean() > 5.0


def test_a_smaller_size_is_the_average_of_the_larger() -> None:
    large = synthetic.faces([0, 1], [2, 3]).astype(float)
    small = synthetic.faces([0, 1], [2, 3], size=SMALL).astype(float)
    average = large.reshape(2, 56, 2, 48, 2, 3).mean(axis=(2, 4))
    assert np.abs(average - small).max() <= 0.5  # rounding to bytes


def test_golden_colours() -> None:
    """Pins the pictures: whoever changes them changes every figure that was measured on them."""
    images = synthetic.faces(np.arange(6), np.arange(6), seed=0).astype(float)
    # Two grey levels of room: another release of OpenCV may draw an edge differently, while a
    # changed trait or nuisance moves a mean by more.
    np.testing.assert_allclose(images.mean(axis=(1, 2)), GOLDEN_MEANS, atol=2.0)
    centres = images[:, 40:100, 24:72].mean(axis=(1, 2))
    np.testing.assert_allclose(centres, GOLDEN_CENTRES, atol=2.0)


def test_traits_are_what_an_identity_is() -> None:
    person = draw_identity(0, 12)
    assert len(TRAITS) >= 40
    assert all(np.isfinite(getattr(person, name)) for name in TRAITS)
    for colour in (person.skin, person.hair, person.iris):
        assert colour.shape == (3,)
        assert colour.min() >= 0.0
        assert colour.max() <= 255.0


def test_traits_and_nuisance_have_their_spread() -> None:
    people = [draw_identity(0, i) for i in range(400)]
    samples = [draw_nuisance(0, i, 0) for i in range(400)]
    tables = ((people, TRAITS, _SPREAD), (samples, MOVING, np.ones(len(MOVING))))
    for things, table, spreads in tables:
        for (name, (mean, sd)), spread in zip(table.items(), spreads, strict=True):
            values = np.array([getattr(thing, name) for thing in things])
            # 400 draws: the mean is within 0.2 sd with four standard errors; the soft limit at
            # two standard deviations takes about a sixth of the spread.
            assert abs(values.mean() - mean) < 0.2 * sd, name
            assert 0.7 * sd < values.std() / spread < 1.0 * sd, name


def test_training_set_is_ordered_and_labelled() -> None:
    images, labels = synthetic.training_set(3, 4, first_identity=10, size=SMALL)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(images[5], synthetic.faces(11, 1, size=SMALL)[0])


def test_verification_set_is_open_set_and_folds_are_disjoint() -> None:
    pairs = synthetic.verification_set(
        30, pairs_per_fold=20, folds=10, images_per_identity=5, first_identity=500, size=SMALL
    )
    assert pairs.images.shape == (150, *SMALL, 3)
    assert set(pairs.identities) == set(range(500, 530))
    left, right = pairs.identities[pairs.left], pairs.identities[pairs.right]
    np.testing.assert_array_equal(left == right, pairs.is_same)
    assert np.all(pairs.left != pairs.right)
    people = [set(left[pairs.folds == f]) | set(right[pairs.folds == f]) for f in range(1, 11)]
    for i, one in enumerate(people):
        for other in people[i + 1 :]:
            assert not one & other
    for fold in range(1, 11):
        assert pairs.is_same[pairs.folds == fold].sum() == 10
        assert (pairs.folds == fold).sum() == 20
    unordered = {frozenset(pair) for pair in zip(pairs.left, pairs.right, strict=True)}
    assert len(unordered) == len(pairs.left)


def test_raw_pixels_do_not_tell_people_apart() -> None:
    pairs = synthetic.verification_set(
        60, pairs_per_fold=100, images_per_identity=6, first_identity=9000, size=SMALL
    )
    pixels = (pairs.images.reshape(len(pairs.images), -1) - 127.5) / 128.0
    for vectors in (pixels, pixels - pixels.mean(axis=0)):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = np.sum(unit[pairs.left] * unit[pairs.right], axis=1)
        accuracy = fold_accuracy(scores, pairs.is_same, pairs.folds)
        assert 0.48 < accuracy <= 0.75


def test_identity_is_in_the_picture() -> None:
    """With the nuisance held fixed, a person resembles themselves alone: identity is drawn."""
    nuisance = draw_nuisance(0, 0, 0)
    pictures = np.stack([render(draw_identity(0, i), nuisance) for i in range(20)]).astype(float)
    differences = [
        np.abs(pictures[i] - pictures[j]).mean() for i in range(20) for j in range(i + 1, 20)
    ]
    assert min(differences) > 3.0


def test_videos_move_smoothly_and_identity_stays() -> None:
    for identity in (1, 2, 3):
        # at half size, where the sensor's noise, new in each frame, is half as strong
        frames = synthetic.video(identity, 30, size=SMALL).astype(float)
        steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        samples = synthetic.faces(identity, np.arange(12), size=SMALL).astype(float)
        apart = np.abs(np.diff(samples, axis=0)).mean(axis=(1, 2, 3))
        assert steps.mean() < 0.35 * apart.mean()
        assert steps.max() < 0.7 * apart.mean()
        assert np.abs(frames[-1] - frames[0]).mean() > 1.3 * steps.mean()  # and it does move


def test_a_shorter_video_is_the_beginning_of_a_longer_one() -> None:
    long = synthetic.video(4, 6, seed=2, size=SMALL)
    np.testing.assert_array_equal(synthetic.video(4, 3, seed=2, size=SMALL), long[:3])
    assert np.any(synthetic.video(4, 3, seed=2, size=SMALL, clip=1) != long[:3])


def test_video_nuisance_keeps_the_distribution_of_pictures() -> None:
    paths = [draw_path(0, i, 0, 40) for i in range(150)]
    for name, (mean, sd) in MOVING.items():
        late = np.array([getattr(path[39], name) for path in paths])
        # 150 videos: four standard errors of the mean are a third of a standard deviation
        assert abs(late.mean() - mean) < 0.33 * sd, name
        assert 0.65 * sd < late.std() < 1.1 * sd, name


def test_write_folder(tmp_path: Path) -> None:
    seen = []
    root = synthetic.write_folder(
        tmp_path / "faces", 8, 4, seed=3, first_identity=20, pairs_per_fold=4, folds=2,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[-1] == (32, 32)
    files = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*"))
    assert len(files) == 32
    assert files[0] == "Person_000020/Person_000020_0001.jpg"
    decoded = cv2.imread(str(root / files[5]))[..., ::-1].astype(float)
    original = synthetic.faces(21, 1, seed=3)[0].astype(float)
    assert np.abs(decoded - original).mean() < 6.0  # JPEG, and RGB, not BGR
    lines = (root / "pairs.txt").read_text().splitlines()
    assert lines[0] == "2\t2"
    fields = [line.split("\t") for line in lines[1:]]
    assert [len(field) for field in fields] == [3, 3, 4, 4] * 2
    for field in fields:
        names, numbers = ([field[0]] * 2, field[1:]) if len(field) == 3 else (
            [field[0], field[2]], [field[1], field[3]])  # fmt: skip
        for name, number in zip(names, numbers, strict=True):
            assert (root / name / f"{name}_{int(number):04d}.jpg").is_file()


def test_written_pairs_are_those_of_the_verification_set(tmp_path: Path) -> None:
    from tf_sphereface.eval.pairs import read_pairs

    root = synthetic.write_folder(tmp_path, 12, 4, pairs_per_fold=6, folds=3, size=SMALL)
    written = read_pairs(root / "pairs.txt")
    pairs = synthetic.verification_set(
        12, pairs_per_fold=6, folds=3, images_per_identity=4, size=SMALL
    )
    np.testing.assert_array_equal(written.is_same, pairs.is_same)
    np.testing.assert_array_equal(written.folds, pairs.folds)
    names = [f"Person_{i // 4:06d}/Person_{i // 4:06d}_{i % 4 + 1:04d}.jpg" for i in range(48)]
    assert written.left == [names[i] for i in pairs.left]
    assert written.right == [names[i] for i in pairs.right]


def test_rendering_is_quick() -> None:
    """At least 150 a second: a loaded CI machine gives a third of what an idle core gives."""
    draws = [(draw_identity(0, i), draw_nuisance(0, i, 0)) for i in range(30)]
    best = 0.0
    for _ in range(5):
        start = time.process_time()
        for person, nuisance in draws:
            render(person, nuisance)
        best = max(best, len(draws) / (time.process_time() - start))
    assert best > 150.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthetic.faces([-1], 0), "`identities` must be integers >= 0"),
        (lambda: synthetic.faces([0.5], 0), "`identities` must be integers"),
        (lambda: synthetic.faces([1, 2], [1, 2, 3]), "broadcast"),
        (lambda: synthetic.faces([[1, 2]], 0), "one-dimensional"),
        (lambda: synthetic.faces(0, 0, seed=-1), "`seed` must be"),
        (lambda: synthetic.faces(0, 0, size=(0, 96)), "`size` must be"),
        (lambda: synthetic.training_set(0, 1), "`num_identities` must be"),
        (lambda: synthetic.verification_set(20, pairs_per_fold=3), "`pairs_per_fold` must be even"),
        (
            lambda: synthetic.verification_set(10, pairs_per_fold=2),
            "`pairs_per_fold` must be at most 0: .* 10 identities",
        ),
        (lambda: synthetic.video(0, 0), "`frames` must be"),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "Received" in str(error.value)


GOLDEN_MEANS = [
    [85.4, 77.8, 54.9],
    [152.1, 133.2, 106.1],
    [140.4, 133.4, 110.1],
    [122.2, 91.2, 67.1],
    [115.2, 94.0, 83.9],
    [142.0, 111.4, 86.8],
]
GOLDEN_CENTRES = [
    [109.5, 91.0, 71.8],
    [184.0, 140.2, 128.5],
    [173.7, 135.0, 110.7],
    [135.8, 77.6, 51.3],
    [156.0, 122.1, 99.6],
    [192.7, 121.8, 84.5],
]
