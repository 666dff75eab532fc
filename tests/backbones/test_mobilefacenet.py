"""MobileFaceNet: structure and sizes. That it equals PyTorch's is tested in tests/importers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tf_sphereface.backbones import MobileFaceNet, count_macs, count_parameters


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return MobileFaceNet()


def test_size(model: keras.Model) -> None:
    # counted by hand from the released tensors: all but running statistics and batch counters
    assert count_parameters(model) == 999_552
    assert round(count_macs(model) / 1e9, 3) == 0.189


def test_structure(model: keras.Model) -> None:
    assert sum(isinstance(layer, keras.layers.Add) for layer in model.layers) == 4 + 6 + 2
    assert sum("expand_conv" in layer.name for layer in model.layers) == 15
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    for layer in model.layers:
        assert type(layer).__module__.startswith("keras.")
        if isinstance(layer, convolutions):
            assert not layer.use_bias
            assert model.get_layer(layer.name.removesuffix("conv") + "bn").epsilon == 1e-5
    linear = {f"block{i}_project" for i in range(15)} | {"linear7", "linear1"}
    names = {layer.name for layer in model.layers}
    assert not any(f"{name}_prelu" in names for name in linear)


@pytest.mark.parametrize(
    ("size", "kernel"), [((112, 112), (7, 7)), ((64, 64), (4, 4)), ((33, 17), (3, 2))]
)
def test_last_depthwise_kernel_takes_the_size_of_the_map(size, kernel) -> None:
    model = MobileFaceNet(input_shape=(*size, 3), embedding_dim=16)
    assert model.get_layer("linear7_conv").kernel_size == kernel
    assert model(np.zeros((1, *size, 3), "float32")).shape == (1, 16)


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least 16 pixels"):
        MobileFaceNet(input_shape=(8, 8, 3))
    with pytest.raises(ValueError, match="three positive integers"):
        MobileFaceNet(input_shape=(112, 96))
    with pytest.raises(ValueError, match="`embedding_dim`"):
        MobileFaceNet(embedding_dim=0)


def test_macs_need_a_fixed_size() -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    with pytest.raises(ValueError, match="fixed image size"):
        count_macs(model)


def test_macs_of_a_model_inside_a_model(model: keras.Model) -> None:
    image = keras.Input((112, 96, 3))
    outer = keras.Model(image, keras.layers.Dense(10)(model(image)))
    assert count_macs(outer) == count_macs(model) + 128 * 10


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_embedding_is_float32_under_mixed_precision(policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = MobileFaceNet(input_shape=(32, 32, 3), embedding_dim=8)
        embedding = model(np.ones((1, 32, 32, 3), "float32"))
    finally:
        keras.config.set_dtype_policy(before)
    assert embedding.dtype == "float32"


def test_save_and_load(tmp_path) -> None:
    model = MobileFaceNet(input_shape=(32, 32, 3), embedding_dim=8, synchronized_bn=True)
    image = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(image), model(image))
    assert loaded.get_layer("conv1_bn").synchronized


def test_insightfaces_widths(tmp_path):
    """`mbf` is published with 0.45 GFLOPs; a grouped convolution by two ends in stock layers."""
    model = MobileFaceNet((112, 112, 3), 512, width=2)
    assert (count_parameters(model), count_macs(model)) == (2_059_520, 437_520_896)
    path = tmp_path / "x.keras"
    small = MobileFaceNet((16, 16, 3), 8, width=2)
    small.save(path)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    found = keras.models.load_model(path)(images, training=False)
    np.testing.assert_array_equal(found, small(images, training=False))
    with pytest.raises(ValueError, match="`blocks` must be four counts"):
        MobileFaceNet(blocks=(1, 4, 6))
