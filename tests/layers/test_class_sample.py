"""The draw of classes: a permutation, evenly spread, the same everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface.layers.class_permutation import ClassPermutation
from tf_sphereface.layers.class_sample import sample_function

LARGEST = 2**31 - 1


def drawn(classes: int, size: int, labels: list[int], step: int, xla: bool = True) -> np.ndarray:
    """Return a sample, after checking that labels, places and classes belong together."""
    batch = tf.constant(labels, tf.int32)
    draw = sample_function(classes, size, 3, xla)
    chosen, places = (v.numpy() for v in draw(batch, batch, tf.constant(step, tf.int64)))
    assert len(set(chosen.tolist())) == size
    assert chosen.min() >= 0
    assert chosen.max() < classes
    np.testing.assert_array_equal(chosen[places], labels)
    return chosen


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7, 16, 17, 1023, 1024, 10_575])
def test_each_class_has_one_place(classes):
    permutation = ClassPermutation(classes)
    for seed, step in ((0, 0), (0, 1), (2**40 + 1, 2**35)):
        key = permutation.key(seed, step)
        order = permutation.classes(tf.range(classes), key)
        np.testing.assert_array_equal(np.sort(order), np.arange(classes))
        np.testing.assert_array_equal(permutation.places(order, key), np.arange(classes))


def test_the_largest_count_of_classes():
    permutation = ClassPermutation(LARGEST)
    key = permutation.key(0, 5)
    places = tf.constant([0, 1, 46_341, 2**30, LARGEST - 1])
    classes = permutation.classes(places, key)
    np.testing.assert_array_equal(permutation.places(classes, key), places)
    drawn(LARGEST, 300, [0, LARGEST - 1, 5], 1)


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 16, 40, 1100])
def test_pairs_of_classes_are_even(classes):
    """Over keys of seeds and steps, which two classes stand at two places: a chi-square."""
    permutation = ClassPermutation(classes)
    count = 100_000 if classes < 100 else 400_000
    key = [word[:, None] for word in permutation.key(1, tf.range(count, dtype=tf.int64))]
    places = tf.constant([[0, classes - 1]])
    first, second = permutation.classes(tf.broadcast_to(places, (count, 2)), key).numpy().T
    group = max(classes // 40, 1)  # 40 groups or fewer, so that a cell has dozens
    for stride in (1, 7):  # runs of classes, and classes far apart
        names = (np.arange(classes) * stride % classes) // group
        table = np.zeros((names.max() + 1,) * 2)
        np.add.at(table, (names[first], names[second]), 1)
        sizes = np.bincount(names).astype(float)
        pairs = np.outer(sizes, sizes) - np.diag(sizes)  # of different classes
        cells = pairs > 0
        assert table[~cells].sum() == 0
        expected = count * pairs[cells] / (classes * (classes - 1))
        chi = ((table[cells] - expected) ** 2 / expected).sum()
        freedom = cells.sum() - 1
        assert abs(chi - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(("classes", "size", "labels"), [(60, 15, [3, 3, 59]), (37, 30, [0])])
def test_the_rest_is_a_uniform_sample(classes, size, labels):
    """Inclusion of a class, and of two together, has the exact hypergeometric moments."""
    steps, positive = 3000, sorted(set(labels))
    batch, draw = tf.constant(labels, tf.int32), sample_function(classes, size, 3, True)

    @tf.function(jit_compile=True)
    def draw_all(numbers):
        return tf.map_fn(lambda step: draw(batch, batch, step)[0], numbers, tf.int32)

    samples = draw_all(tf.range(steps, dtype=tf.int64)).numpy()
    np.testing.assert_array_equal(samples[7], drawn(classes, size, labels, 7, xla=False))
    inside = np.zeros((steps, classes))
    np.add.at(inside, (np.arange(steps)[:, None], samples), 1)
    assert inside.max() == 1
    assert inside[:, positive].all()
    rest = np.delete(inside, positive, axis=1)
    others, chosen = rest.shape[1], size - len(positive)
    once = chosen / others
    both = once * (chosen - 1) / (others - 1)
    deviation = math.sqrt(steps * once * (1 - once))
    counts = rest.sum(axis=0)
    assert np.abs(counts - steps * once).max() < 5 * deviation
    # The sum of these squares, in units of the variance, is (others - 1) +- sqrt(2 (others - 1))
    spread = (((counts - steps * once) / deviation) ** 2).sum() * (others - 1) / others
    assert abs(spread - (others - 1)) < 5 * math.sqrt(2 * (others - 1))
    pairs = (rest.T @ rest)[np.triu_indices(others, 1)]
    deviation = math.sqrt(steps * both * (1 - both))
    assert np.abs(pairs - steps * both).max() < 5.5 * deviation  # of some 1,600 pairs
    assert abs(np.var(pairs) / deviation**2 - 1) < 0.25


@pytest.mark.parametrize(
    ("classes", "size", "labels"),
    [
        (1, 1, [0, 0]),
        (2, 1, [1]),
        (40, 40, [39, 0, 39]),  # all classes
        (1000, 8, [1, 2, 3, 4, 5, 6, 7, 999]),  # no place for another
        (1000, 8, [5] * 8),
    ],
)
def test_the_batch_is_always_in_it(classes, size, labels):
    for step in range(10):
        with_xla, without = (drawn(classes, size, labels, step, xla) for xla in (True, False))
        np.testing.assert_array_equal(with_xla, without)


def test_the_draw_of_a_seed_and_a_step_stays():
    """A run goes on elsewhere with the same sample: on another device, in another version."""
    assert drawn(2_000_000, 6, [7, 1_999_999], 12).tolist() == [
        229373,
        1056974,
        748275,
        438949,
        1999999,
        7,
    ]
    draw = sample_function(30, 4, 3, False)
    batch = tf.constant([3, 30, -1])  # what is no class has no place, and a loss of NaN
    assert draw(batch, batch, tf.constant(0, tf.int64))[1].numpy()[1:].tolist() == [-1, -1]
