"""The layer in which a step first went wrong: the batch is run again, layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.layers import InputLayer
from numpy.typing import NDArray

from tf_sphereface.utils.first_layers import OUT_OF_RANGE
from tf_sphereface.utils.messages import and_more

BatchOf = Callable[[int], tuple[Any, Any]]
ORDINARY = 1000.0  # outputs below it do not overflow the loss


@dataclasses.dataclass(frozen=True)
class Cause:
    """The place of the first value that was not finite, in words.

    `layer` is the layer's name, None where it is no layer; `rows` are the batch's examples that are
    concerned, where they are not all of it. `advice` is what to do, None for the learning rate.
    """

    text: str
    layer: str | None = None
    rows: tuple[int, ...] = ()
    advice: str | None = None


class Snapshots:
    """Takes the values of a model's weights: tensors that an update does not change.

    All are read by one function, which costs less than an operation for each. The stores of a
    sampled head are left out: a step writes to some rows of them in place; were the old values held
    here, it would have to copy every class first.
    """

    def __init__(self) -> None:
        self._variables: list[Any] = []
        self._read: Callable[[], list[Any]] = list

    def take(self, model: keras.Model) -> list[Any]:
        """Return the values, in the order of `model.weights` without the stores."""
        variables = _noted(model)
        if [id(v) for v in variables] != [id(v) for v in self._variables]:
            self._variables = variables
            self._read = tf.function(
                lambda: [tf.convert_to_tensor(v.value) for v in variables], autograph=False
            )
        return list(self._read())


def lost_centres(model: keras.Model) -> int:
    """Count the class centres in a sampled head's store that are not finite."""
    count_lost = getattr(getattr(model, "head_layer", None), "count_lost", None)
    return 0 if count_lost is None else int(count_lost())


def first_bad_batch(steps: range, batch_of: BatchOf | None, classes: int | None) -> int:
    """Return the first of some steps whose batch is at fault; the last where none is known."""
    if batch_of is None:
        return steps[-1]
    for step in steps[:-1]:
        images, labels = batch_of(step)
        if batch_fault(images, labels, classes) is not None:
            return step
    return steps[-1]


def find_cause(
    model: keras.Model,
    snapshot: list[Any],
    step: int,
    batch_of: BatchOf | None,
    classes: int | None = None,
) -> Cause:
    """Find what was not finite first, in the state before the step: batch, weights, layers.

    The model gets the weights of the snapshot, unless that is empty; what a sampled head has
    stored stays as it is. `step` counts from 0; without `batch_of` weights are looked at, and
    images of ordinary values tried. Labels are to be below `classes`.
    """
    for variable, value in zip(_noted(model), snapshot, strict=bool(snapshot)):
        variable.assign(value)
    images: Any = None
    labels: Any = None
    if batch_of is not None:
        images, labels = batch_of(step)
        fault = batch_fault(images, labels, classes)
        if fault is not None:
            return fault
        images = getattr(model, "scale_pixels", np.asarray)(images)  # as its backbone gets them
    network = getattr(model, "backbone", model)
    layers = [x for x in getattr(network, "layers", []) if not isinstance(x, InputLayer)]
    head = getattr(model, "head_layer", None)
    stores = {id(store) for store in _stores(model)}  # the failed step has written to them
    for layer in [*layers, *([head] if head is not None else [])]:
        if any(_bad(weight.value) for weight in layer.weights if id(weight) not in stores):
            return Cause(f"layer {layer.name!r} had a non-finite weight already", layer.name)
    if batch_of is None:
        return _without_batch(network, layers)
    names, outputs = _outputs(network, layers, head, images)
    told, advice = _out_of_range(images, layers)
    for name, output in zip(names, outputs, strict=False):
        if _bad(output):
            text = f"layer {name!r} is the first whose output on that batch is not finite{told}"
            return Cause(text, name, _rows(output), advice)
    largest = max((float(tf.reduce_max(tf.abs(tf.cast(o, "float32")))) for o in outputs), default=0)
    return Cause(
        "every layer's output on that batch is finite, the loss itself is not "
        f"(largest output {largest:.3g}; labels {int(np.min(labels))} to {int(np.max(labels))})"
        f"{told}",
        advice=advice,
    )


def batch_fault(images: Any, labels: Any, classes: int | None) -> Cause | None:
    """Say which images of a batch are not finite, or which labels are no class; else None."""
    if _bad(images):
        bad = np.flatnonzero(~_finite_rows(images))
        count = len(np.asarray(images))
        numbers = and_more([str(row) for row in bad], 5)
        return Cause(
            f"the batch's images hold a non-finite value (NaN or infinity): {len(bad)} of {count} "
            f"images, number {numbers} of the batch, from 0",
            None,
            _rows(images),
            "Mend these images or leave them out",
        )
    flat = np.asarray(labels).reshape(-1)
    wrong = flat[~np.isfinite(flat) | (flat < 0) | (classes is not None and flat >= classes)]
    if not len(wrong):
        return None
    if _is_one_hot(labels, classes):
        return None
    span = "not negative" if classes is None else f"in [0, {classes})"
    return Cause(
        f"{len(wrong)} of {len(flat)} labels of the batch are no class: they must be {span}, and "
        f"one is {wrong[0]:g}",
        advice="Mend the labels",
    )


def _is_one_hot(labels: Any, classes: int | None) -> bool:
    shape = np.shape(labels)
    return len(shape) == 2 and shape[-1] == classes


def _without_batch(network: Any, layers: list[Any]) -> Cause:
    """Judge by images of ordinary values whether the weights can be to blame."""
    shape: Any = getattr(network, "input_shape", None)
    known = isinstance(shape, tuple) and None not in shape[1:]
    text = "all weights were finite before it (without batch_of no batch can be tried)"
    largest = math.inf
    if known and layers:
        images = np.random.default_rng(0).uniform(-1, 1, (4, *shape[1:])).astype("float32")
        values = [tf.cast(v, "float32") for v in _outputs(network, layers, None, images)[1]]
        largest = max((float(tf.reduce_max(tf.abs(v))) for v in values), default=math.inf)
    if not largest < ORDINARY:  # NaN too
        return Cause(f"{text}; were the images finite and normalised?")
    return Cause(
        f"{text}, and on images of ordinary values, -1 to 1, the network's largest output is "
        f"{largest:.3g}: the step's own images (NaN, infinity, or not normalised) or labels (no "
        "class) are the likely cause",
        advice="Look at them, or pass batch_of, which names them",
    )


def _outputs(
    network: Any, layers: list[Any], head: Any, images: Any
) -> tuple[list[str], list[Any]]:
    """Return the names and outputs of the layers on some images, then the head's."""
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
    return names, outputs


def _out_of_range(images: Any, layers: list[Any]) -> tuple[str, str | None]:
    """Return the range of images that no layer normalises, in words, and what to do about it."""
    values = np.asarray(images)
    low, high = (float(v) for v in (values.min(), values.max()))
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    if max(-low, high) <= OUT_OF_RANGE or any(isinstance(layer, scaling) for layer in layers[:2]):
        return "", None
    return (
        f"; the images' values run from {low:.4g} to {high:.4g}",
        "Normalise the images, (x - 127.5) / 128; if they are meant so, lower the learning rate",
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
    finite = _finite_rows(value)
    return () if not finite.any() else tuple(int(row) for row in np.flatnonzero(~finite))


def _finite_rows(value: Any) -> NDArray[np.bool_]:
    array = np.asarray(tf.cast(tf.convert_to_tensor(value), tf.float32))
    finite: NDArray[np.bool_] = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return finite
