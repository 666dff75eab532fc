"""The three networks of MTCNN as graph functions, with the weights in the package `mtcnn`.

Zhang, Zhang, Li, Qiao, "Joint face detection and alignment using multi-task cascaded convolutional
networks", IEEE Signal Processing Letters 2016, figure 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_sphereface.utils.optional import require

Weights = list[tf.Tensor]
Graph = Callable[..., tuple[tf.Tensor, ...]]

_IMAGE = tf.TensorSpec((None, None, 3), tf.uint8)
_BOXES = tf.TensorSpec((None, 4), tf.float32)


class Networks(NamedTuple):
    """The graphs of `_propose`, `_refine`, `_output` and `_points`, with their weights."""

    propose: Graph
    refine: Graph
    output: Graph
    points: Graph


def load_networks() -> Networks:
    """Return the networks, read and traced once per process.

    Raises ImportError if mtcnn or a reader of its files is missing, OSError if it lacks a file.
    """
    for module in ("mtcnn", "lz4.frame", "joblib"):  # the files are packed with lz4
        require(module, extra="align")
    return _make_networks()


@functools.cache
def _make_networks() -> Networks:
    onet = _load_weights("onet")
    return Networks(
        _graph(_propose, _load_weights("pnet"), _IMAGE),
        _graph(_refine, _load_weights("rnet"), _IMAGE, _BOXES),
        _graph(_output, onet, _IMAGE, _BOXES),
        _graph(_points, onet, _IMAGE, _BOXES),
    )


def _load_weights(name: str) -> list[tf.Tensor]:
    """Return the arrays of `"pnet"`, `"rnet"` or `"onet"`, in the order of their layers."""
    package = require("mtcnn", extra="align")
    path = Path(package.__file__).parent / "assets" / "weights" / f"{name}.lz4"
    if not path.is_file():
        raise FileNotFoundError(f"the installed mtcnn has no weights at {path}; reinstall it")
    arrays = require("joblib", extra="align").load(path)
    with tf.device("/cpu:0"):
        return [tf.constant(np.asarray(array, np.float32)) for array in arrays]


def _graph(network: Graph, weights: Weights, *inputs: tf.TensorSpec) -> Graph:
    """Return a network with these weights as a graph that runs on the CPU.

    It is traced here, for images of any size: TensorFlow takes the graphs of four networks for one
    that is traced again and again, and warns, where each is traced by its first call.
    """

    @tf.function(input_signature=inputs, autograph=False)
    def graph(*tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.device("/cpu:0"):
            return network(weights, *tensors)

    return graph.get_concrete_function()


def _propose(w: Weights, image: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """P-Net: uint8 (height, width, 3) -> score of each 12x12 window, and box offsets.

    Windows are 2 pixels apart: element `[i, j]` of score (h, w) and offsets (h, w, 4) belongs to
    the window with its corner at `x = 2 j`, `y = 2 i`; offsets of x1, y1, x2, y2 in window sizes.
    """
    x = _normalize(image[tf.newaxis])
    x = _convolution(x, *w[0:3])
    x = tf.nn.max_pool2d(x, 2, 2, "SAME")
    x = _convolution(x, *w[3:6])
    x = _convolution(x, *w[6:9])
    offsets = tf.nn.bias_add(tf.nn.conv2d(x, w[9], 1, "VALID"), w[10])
    classes = tf.nn.bias_add(tf.nn.conv2d(x, w[11], 1, "VALID"), w[12])
    return _face_score(classes)[0], offsets[0]


def _refine(w: Weights, image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """R-Net: image, boxes (n, 4) -> score (n,) and box offsets (n, 4)."""
    x = _convolution(_patches(image, boxes, 24), *w[0:3])
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    x = _convolution(x, *w[3:6])
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    x = _dense(_convolution(x, *w[6:9]), *w[9:12])
    return _face_score(x @ w[14] + w[15]), x @ w[12] + w[13]


def _output(w: Weights, image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """O-Net: image, boxes (n, 4) -> score (n,), box offsets (n, 4), points (n, 10).

    Points are the x of left eye, right eye, nose, left and right mouth corner, then their y, in
    fractions of the box.
    """
    return _output_layers(w, _patches(image, boxes, 48))


def _points(w: Weights, image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Points (n, 10) of O-Net, averaged over each box and its mirror image.

    A horizontal bias of the network changes its sign in the mirror image and cancels.
    """
    patches = _patches(image, boxes, 48)
    both = tf.concat([patches, tf.reverse(patches, [2])], axis=0)
    upright, mirrored = tf.split(_output_layers(w, both)[2], 2)
    swapped = tf.gather(mirrored, [1, 0, 2, 4, 3, 6, 5, 7, 9, 8], axis=1)
    back = tf.concat([1.0 - swapped[:, :5], swapped[:, 5:]], axis=1)
    return ((upright + back) / 2.0,)


def _output_layers(w: Weights, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
    x = _convolution(x, *w[0:3])
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    x = _convolution(x, *w[3:6])
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    x = _convolution(x, *w[6:9])
    x = tf.nn.max_pool2d(x, 2, 2, "SAME")
    x = _dense(_convolution(x, *w[9:12]), *w[12:15])
    return _face_score(x @ w[19] + w[20]), x @ w[15] + w[16], x @ w[17] + w[18]


def _normalize(pixels: tf.Tensor) -> tf.Tensor:
    return (tf.cast(pixels, tf.float32) - 127.5) / 128.0


def _prelu(x: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(x) + tf.reshape(slope, [-1]) * tf.minimum(x, 0.0)


def _convolution(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    return _prelu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "VALID"), bias), slope)


def _dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """Flatten and multiply; the weights have the column-major order of the original framework."""
    flat = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, kernel.shape[0]))
    return _prelu(flat @ kernel + bias, slope)


def _face_score(classes: tf.Tensor) -> tf.Tensor:
    """Return the second probability of a softmax over two classes."""
    return tf.sigmoid(classes[..., 1] - classes[..., 0])


def _patches(image: tf.Tensor, boxes: tf.Tensor, side: int) -> tf.Tensor:
    """Crop boxes (x1, y1, x2, y2 in pixels), resized to `side`; gray outside the image."""
    last = tf.cast(tf.shape(image)[:2] - 1, tf.float32)
    corners = tf.gather(boxes, [1, 0, 3, 2], axis=1) / tf.tile(last, [2])
    pixels = tf.image.crop_and_resize(
        image[tf.newaxis],
        corners,
        tf.zeros(tf.shape(boxes)[:1], tf.int32),
        (side, side),
        extrapolation_value=127.5,
    )
    return _normalize(pixels)
