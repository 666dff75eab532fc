"""A keyed permutation of class indices, of which any place can be computed by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# A round of few indices moves little: number of rounds below so many classes, and above. With them
# every two places hold every two classes equally often.
ROUNDS = ((32, 24), (1024, 12))
MOST_CLASSES_ROUNDS = 8
_MASK = 0xFFFFFFFF


class ClassPermutation:
    """A pseudorandom permutation of `0 .. num_classes - 1`, another one for each key.

    A generalised Feistel network: index x is the pair (x mod a, x div a) with a b >= num_classes,
    both about its root; in turn one half is moved by a hash of the other. What falls past the end
    is sent through again until it falls inside ("cycle walking"), which is rare. It costs the same
    for each place, whatever the number of classes, and is inverted as easily. All arithmetic is
    that of uint32, so that any device draws the same, with XLA and without.

    Args:
        num_classes: from 1 to 2^31 - 1.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, section 5.

    Example:

    >>> permutation = ClassPermutation(5)
    >>> key = permutation.key(0, step=3)
    >>> order = permutation.classes(tf.range(5), key)
    >>> sorted(order.numpy().tolist()), permutation.places(order, key).numpy().tolist()
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = int(num_classes)
        self._low = max(math.isqrt(self.num_classes - 1) + 1, 1)
        self._high = -(-self.num_classes // self._low)
        few = (rounds for limit, rounds in ROUNDS if self.num_classes < limit)
        self.rounds = next(few, MOST_CLASSES_ROUNDS)

    def key(self, seed: int, step: Any) -> list[Any]:
        """Return the key of a step: a uint32 scalar for each round."""
        step = tf.cast(step, tf.int64)
        state = _constant(0x2545F491)
        for word in (
            _constant(seed & _MASK),
            _constant(seed >> 32 & _MASK),
            tf.cast(tf.bitwise.bitwise_and(step, _MASK), tf.uint32),
            tf.cast(tf.bitwise.right_shift(step, tf.constant(32, tf.int64)), tf.uint32),
        ):
            state = _hash(tf.bitwise.bitwise_xor(state, word) * _constant(0x9E3779B1) + 1)
        numbers = (_constant(number * 0x9E3779B9 & _MASK) for number in range(1, self.rounds + 1))
        return [_hash(state + number) for number in numbers]

    def classes(self, places: Any, key: Sequence[Any]) -> Any:
        """Return the classes at some places, int32 of the same shape."""
        return self._walk(places, key, inverse=False)

    def places(self, classes: Any, key: Sequence[Any]) -> Any:
        """Return the places of some classes, int32 of the same shape."""
        return self._walk(classes, key, inverse=True)

    def _walk(self, values: Any, key: Sequence[Any], *, inverse: bool) -> Any:
        turn = self._backward if inverse else self._forward
        values = tf.cast(values, tf.uint32)
        if self._low * self._high == self.num_classes:
            return tf.cast(turn(values, key), tf.int32)
        end = _constant(self.num_classes)

        def walk(x: Any, outside: Any) -> tuple[Any, Any]:
            x = tf.where(outside, turn(x, key), x)
            return x, x >= end

        everywhere = tf.ones_like(values, tf.bool)
        inside, _ = tf.while_loop(
            lambda _, outside: tf.reduce_any(outside), walk, (values, everywhere)
        )
        return tf.cast(inside, tf.int32)

    def _forward(self, values: Any, key: Sequence[Any]) -> Any:
        low, high = self._halves(values)
        for number, word in enumerate(key):
            if number % 2 == 0:
                low = (low + _move(high, word, self._low)) % _constant(self._low)
            else:
                high = (high + _move(low, word, self._high)) % _constant(self._high)
        return high * _constant(self._low) + low

    def _backward(self, values: Any, key: Sequence[Any]) -> Any:
        low, high = self._halves(values)
        for number, word in reversed(list(enumerate(key))):
            if number % 2 == 0:
                back = _constant(self._low) - _move(high, word, self._low)
                low = (low + back) % _constant(self._low)
            else:
                back = _constant(self._high) - _move(low, word, self._high)
                high = (high + back) % _constant(self._high)
        return high * _constant(self._low) + low

    def _halves(self, values: Any) -> tuple[Any, Any]:
        high = values // _constant(self._low)
        return values - high * _constant(self._low), high


def _move(half: Any, word: Any, size: int) -> Any:
    """Return by how much the other half, below `size`, is moved."""
    mixed = tf.bitwise.bitwise_xor(half * _constant(0x9E3779B1), word)
    return _hash(mixed) % _constant(size)


def _hash(x: Any) -> Any:
    """Mix the bits of uint32: each of the result depends on each of x.

    Source: Appleby, MurmurHash3's final mix.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(shift)))
        x = x * _constant(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(16)))


def _constant(value: int) -> Any:
    return tf.constant(value, tf.uint32)
