"""Sizes, and comparisons of batches, that the tests of data share."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

SIZE = (56, 48)
PEOPLE, PICTURES = 5, 8


def batches(dataset: tf.data.Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def assert_equal(
    one: list[tuple[np.ndarray, np.ndarray]], other: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    assert len(one) == len(other)
    for (images, labels), (others, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)


def plain(**options: object) -> dict[str, object]:
    return {"image_size": SIZE, "batch_size": 8, "seed": 3, **options}
