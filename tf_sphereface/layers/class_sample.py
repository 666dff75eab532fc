"""The classes of a step: those of its batch, and a random sample of the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_sphereface.layers.class_permutation import ClassPermutation

Draw = Callable[[Any, Any, Any], tuple[Any, Any]]


@functools.cache
def sample_function(num_classes: int, size: int, seed: int, xla: bool) -> Draw:
    """Return the function that draws the sample of a step.

    It takes the labels of the global batch, int32 `(n,)`, those of this replica, int32 `(batch,)`,
    and the step, an int64 scalar. It returns the sampled classes, int32 `(size,)`, none twice; and
    the place in them of each of this replica's labels, int32 `(batch,)`, -1 for a label that is no
    class. The global batch must not have more classes than `size`.

    The sample is the first `size` places of a keyed permutation of all classes; the last of them
    give way to classes of the batch that are not among them. So the other classes are a uniform
    sample of those that the batch does not have, and the cost is that of the sample.

    Example:

    >>> draw = sample_function(1000, 4, seed=0, xla=False)
    >>> batch, step = tf.constant([7, 500, 7]), tf.constant(0, tf.int64)
    >>> classes, places = draw(batch, batch[1:2], step)
    >>> int(classes[int(places[0])]), 7 in classes.numpy()
    (500, True)
    """
    permutation = ClassPermutation(num_classes)

    @tf.function(jit_compile=xla, autograph=False)
    def draw(everyone: Any, labels: Any, step: Any) -> tuple[Any, Any]:
        key = permutation.key(seed, step)
        count = tf.size(everyone)
        asked = tf.clip_by_value(tf.concat([everyone, labels], 0), 0, num_classes - 1)
        asked = permutation.places(asked, key)
        ranks = tf.sort(asked[:count])
        first = tf.concat([tf.ones_like(ranks[:1], tf.bool), ranks[1:] != ranks[:-1]], 0)[:count]
        places = _places_in_sample(ranks, first, size)
        classes = permutation.classes(tf.concat([tf.range(size), ranks], 0), key)
        chosen = tf.tensor_scatter_nd_update(classes[:size], places[:, None], classes[size:])
        own = tf.gather(places, tf.searchsorted(ranks, asked[count:]))
        valid = tf.logical_and(labels >= 0, labels < num_classes)
        return chosen, tf.where(valid, own, -1)

    return draw


def _places_in_sample(ranks: Any, first: Any, size: int) -> Any:
    """Return the places in the sample of classes by their ranks in the permutation, ascending.

    A class whose rank is below `size` has that place. The k-th of the others takes the k-th place
    from the end that none of the batch has. `first` is False where a rank is that before it.
    """
    missing = tf.logical_and(first, ranks >= size)
    number = tf.cumsum(tf.cast(missing, tf.int32))  # from 1 on
    window = tf.minimum(tf.size(ranks), size)  # as many places from the end are enough
    from_end = size - 1 - ranks
    inside = tf.logical_and(from_end >= 0, from_end < window)
    marks = tf.where(inside, from_end, window)[:, None]  # a place of its own for all others
    taken = tf.scatter_nd(marks, tf.ones_like(ranks), [window + 1])[:window] > 0
    free = tf.cumsum(tf.cast(tf.logical_not(taken), tf.int32))
    return tf.where(ranks < size, ranks, size - 1 - tf.searchsorted(free, number))
