"""The layer in which a step first went wrong: the batch is run again, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.layers import InputLayer

BatchOf = Callable[[int], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Cause:
    """The place of the first value that was not finite, in words.

    `layer` is the layer's name, None where it is no layer; `rows` are the batch's examples that are
    concerned, where they are not all of it.
    """

    text: str
    layer: str | None = None
    rows: tuple[int, ...] = ()


def take_snapshot(model: keras.Model) -> list[Any]:
    """Return the values of the weights: tensors that an update does not change.

    The stores of a sampled head are left out. A step writes to some rows of them in place; were
    the old values held here, it would have to copy every class first.
    """
    return [tf.convert_to_tensor(variable.value) for variable in _noted(model)]


def lost_centres(model: keras.Model) -> int:
    """Count the class centres in a sampled head's store that are not finite."""
    stores = _stores(model)
    if not stores:
        return 0
    finite = tf.math.is_finite(tf.convert_to_tensor(stores[0].value))
    return int(np.sum(~np.asarray(finite).all(axis=1)))


def find_cause(
    model: keras.Model, snapshot: list[Any], step: int, batch_of: BatchOf | None
) -> Cause:
    """Find the first layer with a non-finite weight or output, in the state before the step.

    The model gets the weights of the snapshot, unless that is empty; what a sampled head has
    stored stays as it is. `step` counts from 0; without `batch_of` only weights are looked at.
    """
    for variable, value in zip(_noted(model), snapshot, strict=bool(snapshot)):
        variable.assign(value)
    network = getattr(model, "backbone", model)
    layers = [x for x in getattr(network, "layers", []) if not isinstance(x, InputLayer)]
    head = getattr(model, "head_layer", None)
    stores = {id(store) for store in _stores(model)}  # the failed step has written to them
    for layer in [*layers, *([head] if head is not None else [])]:
        if any(_bad(weight.value) for weight in layer.weights if id(weight) not in stores):
            return Cause(f"layer {layer.name!r} had a non-finite weight already", layer.name)
    if batch_of is None:
        return Cause("all weights were finite before it (without batch_of no batch can be tried)")
    images, labels = batch_of(step)
    if _bad(images):
        return Cause("the batch's images hold a non-finite value", None, _rows(images))
    names = [layer.name for layer in layers]
    outputs = []
    if layers and getattr(network, "inputs", None):
        probe = keras.Model(single(network.inputs), [layer.output for layer in layers])
        with keras.StatelessScope():  # moving averages and dropout's state stay as they are
            outputs = keras.tree.flatten(probe(images, training=True))
    if head is not None and outputs:
        with keras.StatelessScope():
            compute = getattr(head, "sampled", head)
            outputs.append(compute(keras.ops.cast(outputs[-1], "float32")))
        names.append(head.name)
    for name, output in zip(names, outputs, strict=False):
        if _bad(output):
            text = f"layer {name!r} is the first whose output on that batch is not finite"
            return Cause(text, name, _rows(output))
    largest = max((float(tf.reduce_max(tf.abs(tf.cast(o, "float32")))) for o in outputs), default=0)
    return Cause(
        "every layer's output on that batch is finite, the loss itself is not "
        f"(largest output {largest:.3g}; labels {int(np.min(labels))} to {int(np.max(labels))})"
    )


def single(inputs: Any) -> Any:
    """Return the one input, or all where there are several: Keras wants the structure it gets."""
    flat = keras.tree.flatten(inputs)
    return flat[0] if len(flat) == 1 else flat


def _stores(model: keras.Model) -> list[Any]:
    """Return the weights in which a sampled head keeps every class, the centres first."""
    return list(getattr(getattr(model, "head_layer", None), "stores", ()))


def _noted(model: keras.Model) -> list[Any]:
    """Return the weights that a snapshot holds."""
    stores = {id(store) for store in _stores(model)}
    return [variable for variable in model.weights if id(variable) not in stores]


def _bad(value: Any) -> bool:
    tensor = tf.convert_to_tensor(value)
    return tensor.dtype.is_floating and not bool(
        tf.reduce_all(tf.math.is_finite(tf.cast(tensor, tf.float32)))
    )


def _rows(value: Any) -> tuple[int, ...]:
    """Return the examples that are not finite, or nothing where all are."""
    array = np.asarray(tf.cast(tf.convert_to_tensor(value), tf.float32))
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    return () if len(bad) == len(array) else tuple(int(row) for row in bad)
