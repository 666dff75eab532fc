"""Nine shifted products are the depthwise convolution, and so is their gradient."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface.classifier import fast_layers, shifted_convolution


@pytest.mark.parametrize("height", range(3, 8))
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
def test_shifted_products_are_the_convolution_at_every_size(stride, padding, height):
    convolve = shifted_convolution.convolution(stride, padding == "same")
    rng = np.random.default_rng(4)
    x = tf.constant(rng.normal(size=(2, height, 10 - height, 3)), "float32")
    kernel = tf.constant(rng.normal(size=(3, 3, 3)), "float32")
    found = []
    for ours in (True, False):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            if ours:
                y = convolve(x, kernel)
            else:
                strides = [1, stride, stride, 1]
                y = tf.nn.depthwise_conv2d(x, kernel[..., None], strides, padding.upper())
            value = tf.reduce_sum(tf.sin(y))
        found.append([y, *tape.gradient(value, [x, kernel])])
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("xla", [True, False])
def test_a_gpu_takes_them_and_a_cpu_the_grouped_convolution(xla):
    image = keras.Input((6, 5, 4))
    network = keras.Model(image, keras.layers.DepthwiseConv2D(3, padding="same")(image))
    on_gpu, on_cpu = (
        fast_layers.for_training(network, fast_layers.Target(device, xla))
        for device in ("GPU", "CPU")
    )
    assert type(on_gpu.layers[1]) is fast_layers.ShiftedConvolution
    assert on_cpu is network
