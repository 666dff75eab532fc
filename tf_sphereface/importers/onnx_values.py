"""Values of an ONNX graph as Keras tensors whose axes may stand in another order.

ONNX networks keep a map as (batch, channel, row, column), Keras' layers want the channel last. So a
value knows which axis of ONNX each axis of its tensor is, and a transposition costs nothing. A map
that was flattened knows what it was, so that a dense layer's kernel is reordered in its place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tf_sphereface.backbones.common import embedding_dtype

BATCH = 1_000_003
"""Stands for the length of the batch in shapes: a prime above any side, so no product hides it."""

LARGEST = 1 << 28
"""Numbers per image in one map; more is refused."""


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A Keras tensor, and what its axes are.

    Attributes:
        tensor: the symbolic tensor; its first axis is the batch.
        axes: for each axis of the tensor, which axis of ONNX' value it is.
        flattened: of a flattened map whose axes stood in another order than ONNX', that map without
            its tensor: (sides of the Keras tensor behind the batch, axes). Features are in its
            order.
    """

    tensor: Any
    axes: tuple[int, ...]
    flattened: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        if self.count > LARGEST:
            raise ValueError(f"it makes {self.count:,} numbers of one image, {self.shape[1:]}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in ONNX' order, `BATCH` first."""
        sides = [BATCH, *self.tensor.shape[1:]]
        return tuple(sides[self.axes.index(axis)] for axis in range(len(sides)))

    @property
    def count(self) -> int:
        """How many numbers an image has here."""
        return math.prod(self.tensor.shape[1:])

    def of(self, tensor: Any) -> Value:
        """Return what an operation made of this value element by element, or channel by channel."""
        return dataclasses.replace(self, tensor=tensor)

    @property
    def order(self) -> np.ndarray | None:
        """For each feature of a flattened map, its place in ONNX' order; None where they agree."""
        if self.flattened is None:
            return None
        sides, axes = self.flattened
        in_onnx = [sides[axes.index(axis) - 1] for axis in range(1, len(axes))]
        places = np.arange(math.prod(sides)).reshape(in_onnx)
        return places.transpose([axis - 1 for axis in axes[1:]]).ravel()


def dtype_at(tensor: Any) -> str | None:
    """Return the dtype for a layer on a tensor: vectors keep float32 under mixed precision."""
    return embedding_dtype() if len(tensor.shape) == 2 else None


def image_axes(rank: int) -> tuple[int, ...]:
    """Return the axes of a tensor that has the channel, ONNX' axis 1, last."""
    return (0, *range(2, rank), 1) if rank > 1 else tuple(range(rank))


def channels_last(value: Value) -> Value:
    """Return a value with its channel last; a vector is as it is."""
    return arranged(value, image_axes(len(value.axes)))


def plain(value: Value) -> Value:
    """Return a value whose axes and features are in ONNX' order."""
    if value.flattened is not None:
        return flattened(plain(unflattened(value)))
    return arranged(value, tuple(range(len(value.axes))))


def arranged(value: Value, axes: Sequence[int]) -> Value:
    """Return a value whose tensor has its axes in this order."""
    axes = tuple(axes)
    if axes == value.axes:
        return value
    order = [value.axes.index(axis) for axis in axes]
    sides = value.tensor.shape
    moved = [place for place in order if place == 0 or sides[place] != 1]
    if moved == sorted(moved):  # nothing but sides of 1 has moved
        layer = keras.layers.Reshape([sides[place] for place in order[1:]])
    else:
        layer = keras.layers.Permute(order[1:])
    return Value(layer(value.tensor), axes)


def transposed(value: Value, order: Sequence[int]) -> Value:
    """Return a value with its ONNX axes in another order: the tensor stays."""
    if sorted(order) != list(range(len(value.axes))) or order[0] != 0:
        raise ValueError(f"it moves the batch axis: {list(order)}")
    axes = tuple(list(order).index(axis) for axis in value.axes)
    return dataclasses.replace(value, axes=axes)


def flattened(value: Value) -> Value:
    """Return (batch, features); their order is that of the tensor, which the value remembers."""
    sides = tuple(value.tensor.shape[1:])
    if len(sides) == 1:
        return value
    dtype = embedding_dtype()
    tensor = keras.layers.Flatten(data_format="channels_last", dtype=dtype)(value.tensor)
    moved = [axis for axis, side in zip(value.axes[1:], sides, strict=True) if side != 1]
    return Value(tensor, (0, 1), None if moved == sorted(moved) else (sides, value.axes))


def unflattened(value: Value) -> Value:
    """Return the map that a value was before it was flattened."""
    if value.flattened is None:
        return value
    sides, axes = value.flattened
    return Value(keras.layers.Reshape(sides)(value.tensor), axes)


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """Return a value of another shape, in ONNX' order, `BATCH` first.

    Raises:
        ValueError: the batch would be mixed with other axes.
    """
    shape = tuple(shape)
    if shape == value.shape:
        return value
    value = unflattened(value)
    groups = _groups(value.shape, shape)
    if shape[:1] != (BATCH,) or groups[0] != ((0,), (0,)):
        shown = ["n" if side == BATCH else side for side in shape]
        raise ValueError(f"it mixes the batch axis with others: {value.shape[1:]} to {shown}")
    if len(shape) == 2:
        return flattened(value)
    group_of = {axis: group for group in groups for axis in group[0]}
    order = list(dict.fromkeys(group_of[axis] for axis in value.axes if axis in group_of))
    before = [axis for group in order for axis in group[0]]
    if [axis for axis in value.axes if axis in group_of] != before:
        ones = [axis for axis in value.axes if axis not in group_of]
        value = arranged(value, before + ones)
    axes = _with_ones([axis for group in order for axis in group[1]], len(shape))
    layer = keras.layers.Reshape([shape[axis] for axis in axes[1:]])
    return Value(layer(value.tensor), axes)


_Groups = list[tuple[tuple[int, ...], tuple[int, ...]]]


def _groups(old: Sequence[int], new: Sequence[int]) -> _Groups:
    """Return which axes of one shape become which of another, sides of 1 left out.

    Each group is (axes of the old shape, axes of the new one), with the same product.
    """
    before = [(axis, side) for axis, side in enumerate(old) if side != 1]
    after = [(axis, side) for axis, side in enumerate(new) if side != 1]
    if math.prod(old) != math.prod(new) or 0 in old:
        raise ValueError(f"it makes {tuple(new[1:])} of {tuple(old[1:])}")
    groups: _Groups = []
    while before:
        left, right = [before.pop(0)], [after.pop(0)]
        while (difference := _product(left) - _product(right)) != 0:
            if difference < 0:
                left.append(before.pop(0))
            else:
                right.append(after.pop(0))
        groups.append((tuple(axis for axis, _ in left), tuple(axis for axis, _ in right)))
    return groups


def _product(sides: list[tuple[int, int]]) -> int:
    return math.prod(side for _, side in sides)


def _with_ones(axes: list[int], rank: int) -> tuple[int, ...]:
    """Return an order of all axes in which those in `axes` stand as they do there."""
    for order in (image_axes(rank), tuple(range(rank))):
        if [axis for axis in order if axis in axes] == axes:
            return order
    return (*axes, *(axis for axis in range(rank) if axis not in axes))


def constant_beside(value: Value, array: np.ndarray) -> tuple[Value, np.ndarray]:
    """Lay out a constant that ONNX broadcasts over a value as its tensor is.

    Returns:
        The value, its tensor perhaps arranged anew, and the constant in that arrangement, of the
        same rank, its first side 1.

    Raises:
        ValueError: the constant does not fit, would make the value larger, or has one number for
            each image of a batch.
    """
    shape, rank = value.shape, len(value.axes)
    while array.ndim > rank and array.shape[0] == 1:
        array = array[0]
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    fits = array.ndim == rank and array.shape[0] == 1
    if not fits or any(a not in (1, b) for a, b in zip(array.shape, shape, strict=True)):
        raise ValueError(f"its constant {array.shape} does not fit {('n', *shape[1:])}")
    varying = [axis for axis in range(rank) if array.shape[axis] != 1]
    if len(varying) == 1 and value.axes[-1] != varying[0]:
        value = arranged(value, [axis for axis in value.axes if axis != varying[0]] + varying)
    array = array.transpose(value.axes)
    order = value.order
    return value, array if order is None or array.shape[-1] == 1 else array[..., order]


def per_channel(array: np.ndarray) -> np.ndarray | None:
    """Return one number, or one per channel, (c,), of what `constant_beside` gave; else None."""
    return array.reshape(-1) if array.size == array.shape[-1] else None
