"""SphereFaceNet: the published sizes, padding, initial values, and what Keras does with a model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface.backbones import SphereFaceNet, count_macs, count_parameters

# spec: millions of parameters and GMAC an image at 112x96, to the digits of the table
TABLE = [
    (4, 12.56, 0.164),
    (10, 15.22, 0.759),
    (20, 22.67, 1.750),
    (36, 32.77, 3.335),
    (64, 48.19, 6.110),
]


@pytest.mark.parametrize(("depth", "parameters", "gmacs"), TABLE)
def test_sizes_equal_the_published_table(depth: int, parameters: float, gmacs: float) -> None:
    model = SphereFaceNet(depth)
    assert round(count_parameters(model) / 1e6, 2) == parameters
    assert round(count_macs(model) / 1e9, 3) == gmacs
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == depth


def test_unit_bias_adds_one_bias_a_unit_convolution() -> None:
    plain, biased = SphereFaceNet(10), SphereFaceNet(10, unit_bias=True)
    # depth 10: one unit of 128 channels and two of 256, each of two convolutions
    assert count_parameters(biased) - count_parameters(plain) == 2 * (128 + 2 * 256)
    assert not biased.get_layer("conv3_5").bias.numpy().any()
    assert plain.get_layer("conv3_5").bias is None
    assert plain.get_layer("conv3_1").bias is not None


def test_names_are_those_of_the_caffe_files() -> None:
    names = {layer.name for layer in SphereFaceNet(20).layers}
    expected = {"image", "fc5"}
    for stage, last in zip((1, 2, 3, 4), (3, 5, 9, 3), strict=True):
        expected |= {f"conv{stage}_{i}" for i in range(1, last + 1)}
        expected |= {f"relu{stage}_{i}" for i in range(1, last + 1)}
        expected |= {f"res{stage}_{i}" for i in range(3, last + 1, 2)}
    assert expected <= names
    assert "conv1_4" not in names


def test_only_stock_layers_so_plain_keras_opens_it() -> None:
    for layer in SphereFaceNet(10).layers:
        assert type(layer).__module__.startswith("keras.")


@pytest.mark.parametrize(
    ("size", "last_map"),
    [((112, 96), (7, 6)), ((112, 112), (7, 7)), ((56, 48), (4, 3)), ((35, 17), (3, 2))],
)
def test_any_image_size(size: tuple[int, int], last_map: tuple[int, int]) -> None:
    model = SphereFaceNet(4, input_shape=(*size, 3), embedding_dim=8)
    assert model.get_layer("relu4_1").output.shape[1:3] == last_map
    assert model.output_shape == (None, 8)
    assert model(np.zeros((2, *size, 3), "float32")).shape == (2, 8)


def test_grayscale() -> None:
    assert SphereFaceNet(4, input_shape=(32, 32, 1), embedding_dim=8).input_shape == (
        None,
        32,
        32,
        1,
    )


@pytest.mark.parametrize("depth", [5, 0, "20", None])
def test_unknown_depth(depth: object) -> None:
    with pytest.raises(ValueError, match=r"`depth` must be one of 4, 10, 20, 36, 64. Received"):
        SphereFaceNet(depth)


@pytest.mark.parametrize(
    "shape", [(112, 96), (None, 96, 3), (112, 96, 0), (1, 112, 96, 3), 112, (112.0, 96, 3)]
)
def test_wrong_shape(shape: object) -> None:
    with pytest.raises(ValueError, match="`input_shape` must be three positive integers"):
        SphereFaceNet(4, input_shape=shape)


def test_too_small_image() -> None:
    with pytest.raises(ValueError, match=r"at least 16 pixels.*Received.*15"):
        SphereFaceNet(4, input_shape=(15, 96, 3))


@pytest.mark.parametrize("embedding_dim", [0, -1, 1.5, True])
def test_wrong_embedding_dim(embedding_dim: object) -> None:
    with pytest.raises(ValueError, match="`embedding_dim` must be an integer >= 1"):
        SphereFaceNet(4, embedding_dim=embedding_dim)


def test_padding_is_symmetric() -> None:
    """Stride 2 must read columns 2i-1, 2i, 2i+1; Keras' "same" would read 2i, 2i+1, 2i+2."""
    model = SphereFaceNet(4, input_shape=(32, 32, 1), embedding_dim=4)
    first = keras.Model(model.input, model.get_layer("conv1_1").output)
    kernel = np.zeros((3, 3, 1, 64), "float32")
    kernel[:, :, 0, 0] = np.arange(9).reshape(3, 3)
    model.get_layer("conv1_1").set_weights([kernel, np.zeros(64, "float32")])
    image = np.random.default_rng(0).normal(size=(32, 32)).astype("float32")
    padded = np.pad(image, 1)
    expected = [
        [np.sum(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * kernel[:, :, 0, 0])
         for j in range(16)]
        for i in range(16)
    ]  # fmt: skip
    found = first(image[None, :, :, None])[0, :, :, 0]
    # 9 products of magnitude up to 30 in float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_residual_unit_adds_after_the_second_activation() -> None:
    model = SphereFaceNet(20, input_shape=(16, 16, 3), embedding_dim=4)
    image = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype("float32")
    names = ("relu1_1", "relu1_3", "res1_3")
    before, branch, after = keras.Model(
        model.input, [model.get_layer(name).output for name in names]
    )(image)
    np.testing.assert_allclose(after, before + branch, atol=1e-6)
    assert model.get_layer("pad2_1").input is model.get_layer("res1_3").output


def test_initial_values() -> None:
    keras.utils.set_random_seed(3)
    model = SphereFaceNet(20, input_shape=(48, 48, 3), embedding_dim=64)
    for name in ("conv1_1", "conv2_1", "conv4_1", "fc5"):
        layer = model.get_layer(name)
        kernel = layer.kernel.numpy()
        limit = np.sqrt(3.0 / np.prod(kernel.shape[:-1]))
        assert np.abs(kernel).max() <= limit
        # uniform within +-limit: standard deviation limit / sqrt(3); 1,728 samples at least
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)
        assert not layer.bias.numpy().any()
    unit = model.get_layer("conv3_4").kernel.numpy()
    assert unit.std() == pytest.approx(0.01, rel=0.02)
    assert abs(unit.mean()) < 1e-4
    alpha = model.get_layer("relu3_4").alpha.numpy()
    assert alpha.shape == (1, 1, 256)
    assert (alpha == 0.25).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float32", "float64"])
def test_embedding_keeps_the_precision_of_the_variables(policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = SphereFaceNet(10, input_shape=(16, 16, 3), embedding_dim=8)
        embedding = model(np.ones((1, 16, 16, 3), "float32"))
    finally:
        keras.config.set_dtype_policy(before)
    assert embedding.dtype == ("float64" if policy == "float64" else "float32")
    compute = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}.get(policy, policy)
    assert model.get_layer("conv2_2").compute_dtype == compute


def test_save_load_and_clone(tmp_path) -> None:
    model = SphereFaceNet(10, input_shape=(32, 32, 3), embedding_dim=8, name="small")
    image = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.name == "small"
    np.testing.assert_array_equal(loaded(image), model(image))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(image), model(image))


def test_every_weight_gets_a_gradient() -> None:
    model = SphereFaceNet(20, input_shape=(32, 32, 3), embedding_dim=8)
    image = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(image)))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_variables])
    for gradient, weight in zip(gradients, model.trainable_variables, strict=True):
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 0, weight.path
