"""Passes over datasets of faces: the epoch that each one is, and which have begun of late."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_sphereface.data.options import BatchOptions
from tf_sphereface.utils.exit_guard import guarded

_numbers = itertools.count(1)
_begun: collections.deque[tuple[int, Pass]] = collections.deque(maxlen=64)


class Pass(NamedTuple):
    """A pass over a dataset: how its batches are made, what it drops, and whose faces they are.

    `people` are the names by label, None where nothing is known of them.
    """

    options: BatchOptions
    dropped: int
    people: Sequence[str] | None


def begun_passes(
    first: int, options: BatchOptions, dropped: int, people: Sequence[str] | None
) -> tf.data.Dataset:
    """Return a dataset of one element, the epoch that a pass over it begins with, int64.

    That is `first` for the first pass, then one more for each further pass; with `repeat` it is
    always `first`. A pass begins when its first batch is asked for, through whatever stands behind
    (`take`, `repeat`, a strategy). `dropped` images are in none of the pass's batches; `people` are
    the names by label.
    """
    epochs = itertools.repeat(first) if options.repeat else itertools.count(first)

    def begin() -> np.int64:
        _begun.append((next(_numbers), Pass(options, dropped, people)))
        return np.int64(next(epochs))

    @tf.autograph.experimental.do_not_convert
    def epoch(_: tf.Tensor) -> tf.Tensor:
        value = tf.numpy_function(
            lambda: guarded(begin, at_the_end=lambda: np.int64(first)), [], tf.int64
        )
        return tf.ensure_shape(value, [])

    return tf.data.Dataset.range(1).map(epoch)


def last_begun() -> int:
    """Return the number of the pass that began last, over all datasets; 0 before the first."""
    return _begun[-1][0] if _begun else 0


def begun_since(number: int) -> list[Pass]:
    """Return the passes that began after pass `number`."""
    return [begun for one, begun in list(_begun) if one > number]
