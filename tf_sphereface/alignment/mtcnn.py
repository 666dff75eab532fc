"""The three networks of MTCNN as graph functions, with the weights in the package `mtcnn`.

Zhang, Zhang, Li, Qiao, "Joint face detection and alignment using multi-task cascaded convolutional
networks", IEEE Signal Processing Letters 2016, figure 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.utils.optional import require

Weights = Sequence[NDArray[np.float32]]
Graph = Callable[..., tuple[tf.Tensor, ...]]

_IMAGE = tf.TensorSpec((None, None, 3), tf.uint8)
_BOXES = tf.TensorSpec((None, 4), tf.float32)


class Networks(NamedTuple):
    """The graphs; see the functions that make them."""

    propose: Graph
    refine: Graph
    output: Graph
    points: Graph


def load_networks() -> Networks:
    """Return the networks; they are read and traced once a process.

    Raises:
        ImportError: mtcnn, or what reads its files, is not installed (the extra `align`).
        OSError: the installed mtcnn lacks a file.
    """
    for module in ("mtcnn", "lz4.frame", "joblib"):  # lz4 is what the files are packed with
        require(module, extra="align")
    return _make_networks()


@functools.cache
def _make_networks() -> Networks:
    onet = load_weights("onet")
    return Networks(
        make_proposal_network(load_weights("pnet")),
        make_refine_network(load_weights("rnet")),
        make_output_network(onet),
        make_point_network(onet),
    )


def load_weights(name: str) -> list[NDArray[np.float32]]:
    """Return the arrays of `"pnet"`, `"rnet"` or `"onet"`, in the order of their layers.

    Raises:
        ImportError: mtcnn is not installed (the extra `align`).
        OSError: the installed mtcnn has no such file.
    """
    package = require("mtcnn", extra="align")
    path = Path(package.__file__).parent / "assets" / "weights" / f"{name}.lz4"
    if not path.is_file():
        raise FileNotFoundError(f"the installed mtcnn has no weights at {path}; reinstall it")
    arrays = require("joblib", extra="align").load(path)
    return [np.asarray(array, np.float32) for array in arrays]


def make_proposal_network(weights: Weights) -> Graph:
    """Return P-Net: uint8 (height, width, 3) -> score of each 12x12 window, and box offsets.

    Windows lie 2 pixels apart: element `[i, j]` of score (h, w) and offsets (h, w, 4) belongs to
    the window whose corner is at `x = 2 j`, `y = 2 i`; offsets of x1, y1, x2, y2 in window sizes.
    """
    w = _constants(weights)

    @tf.function(input_signature=[_IMAGE], autograph=False)
    def proposals(image: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.device("/cpu:0"):
            x = _normalize(image[tf.newaxis])
            x = _convolution(x, *w[0:3])
            x = tf.nn.max_pool2d(x, 2, 2, "SAME")
            x = _convolution(x, *w[3:6])
            x = _convolution(x, *w[6:9])
            offsets = tf.nn.bias_add(tf.nn.conv2d(x, w[9], 1, "VALID"), w[10])
            classes = tf.nn.bias_add(tf.nn.conv2d(x, w[11], 1, "VALID"), w[12])
            return _face_score(classes)[0], offsets[0]

    return proposals


def make_refine_network(weights: Weights) -> Graph:
    """Return R-Net: image, boxes (n, 4) -> score (n,) and box offsets (n, 4)."""
    w = _constants(weights)

    @tf.function(input_signature=[_IMAGE, _BOXES], autograph=False)
    def refine(image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.device("/cpu:0"):
            x = _convolution(_patches(image, boxes, 24), *w[0:3])
            x = tf.nn.max_pool2d(x, 3, 2, "SAME")
            x = _convolution(x, *w[3:6])
            x = tf.nn.max_pool2d(x, 3, 2, "VALID")
            x = _dense(_convolution(x, *w[6:9]), *w[9:12])
            return _face_score(x @ w[14] + w[15]), x @ w[12] + w[13]

    return refine


def make_output_network(weights: Weights) -> Graph:
    """Return O-Net: image, boxes (n, 4) -> score (n,), box offsets (n, 4), points (n, 10).

    Points are the x of left eye, right eye, nose, left and right mouth corner, then their y, in
    fractions of the box.
    """
    w = _constants(weights)

    @tf.function(input_signature=[_IMAGE, _BOXES], autograph=False)
    def output(image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.device("/cpu:0"):
            return _output_layers(_patches(image, boxes, 48), w)

    return output


def make_point_network(weights: Weights) -> Graph:
    """Return O-Net on boxes and their mirror images: image, boxes (n, 4) -> points (n, 10).

    The mean of both: what one of them errs to the left, the other errs to the right.
    """
    w = _constants(weights)

    @tf.function(input_signature=[_IMAGE, _BOXES], autograph=False)
    def points(image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.device("/cpu:0"):
            patches = _patches(image, boxes, 48)
            both = tf.concat([patches, tf.reverse(patches, [2])], axis=0)
            upright, mirrored = tf.split(_output_layers(both, w)[2], 2)
            swapped = tf.gather(mirrored, [1, 0, 2, 4, 3, 6, 5, 7, 9, 8], axis=1)
            back = tf.concat([1.0 - swapped[:, :5], swapped[:, 5:]], axis=1)
            return ((upright + back) / 2.0,)

    return points


def _output_layers(x: tf.Tensor, w: list[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    x = _convolution(x, *w[0:3])
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    x = _convolution(x, *w[3:6])
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    x = _convolution(x, *w[6:9])
    x = tf.nn.max_pool2d(x, 2, 2, "SAME")
    x = _dense(_convolution(x, *w[9:12]), *w[12:15])
    return _face_score(x @ w[19] + w[20]), x @ w[15] + w[16], x @ w[17] + w[18]


def _constants(weights: Weights) -> list[tf.Tensor]:
    with tf.device("/cpu:0"):
        return [tf.constant(array) for array in weights]


def _normalize(pixels: tf.Tensor) -> tf.Tensor:
    return (tf.cast(pixels, tf.float32) - 127.5) / 128.0


def _prelu(x: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(x) + tf.reshape(slope, [-1]) * tf.minimum(x, 0.0)


def _convolution(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    return _prelu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "VALID"), bias), slope)


def _dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, slope: tf.Tensor) -> tf.Tensor:
    """Flatten and multiply; the weights count columns first, as their first framework did."""
    flat = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, kernel.shape[0]))
    return _prelu(flat @ kernel + bias, slope)


def _face_score(classes: tf.Tensor) -> tf.Tensor:
    """The second probability of a softmax over two."""
    return tf.sigmoid(classes[..., 1] - classes[..., 0])


def _patches(image: tf.Tensor, boxes: tf.Tensor, side: int) -> tf.Tensor:
    """Cut boxes (x1, y1, x2, y2 in pixels) out and bring them to `side`; grey outside the image."""
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
