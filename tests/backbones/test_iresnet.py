"""IResNet: structure and sizes. That it equals PyTorch's is tested in tests/importers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tf_sphereface.backbones import IResNet, count_macs, count_parameters


def sizes(units):
    """Count parameters and multiplications by the layers' shapes, without building anything."""
    side, inputs = 112, 64
    parameters, macs = 3 * 9 * 64 + 3 * 64, 3 * 9 * 64 * 112**2
    for channels, count in zip((64, 128, 256, 512), units, strict=True):
        for unit in range(count):
            first, second = 9 * inputs * channels, 9 * channels**2
            macs += first * side**2
            parameters += first + second + 2 * inputs + 5 * channels
            if not unit:
                side //= 2
                parameters += inputs * channels + 2 * channels
                macs += inputs * channels * side**2
            macs += second * side**2
            inputs = channels
    dense = 512 * 7 * 7 * 512
    return parameters + 2 * 512 + dense + 512 + 512, macs + dense


@pytest.mark.parametrize(
    ("depth", "units", "millions"),
    [(18, (2, 2, 2, 2), 24.03), (50, (3, 4, 14, 3), 43.59)],
)
def test_sizes(depth, units, millions):
    model = IResNet(depth)
    assert (count_parameters(model), count_macs(model)) == sizes(units)
    assert round(count_parameters(model) / 1e6, 2) == millions
    assert model.output_shape == (None, 512)
    assert model.input_shape == (None, 112, 112, 3)


def test_larger_sizes():
    assert round(sizes((3, 13, 30, 3))[0] / 1e6, 2) == 65.16  # as published
    assert sf.backbones.iresnet.UNITS[100] == (3, 13, 30, 3)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return IResNet(18, (32, 16, 3), 8, units=(1, 1, 1, 1))


def test_initial_values_and_layers(small):
    kernel = small.get_layer("layer4_0_conv1").kernel.numpy()
    assert abs(kernel.std() - 0.1) < 1e-3
    assert abs(kernel.mean()) < 1e-3
    features = small.get_layer("features")
    assert not features.scale
    norms = [x for x in small.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-5, 0.9)}
    assert small.get_layer("fc").input.shape == (None, 2 * 1 * 512)


def test_it_trains_under_the_classifier_and_is_saved(small, tmp_path):
    model = sf.FaceClassifier(small, num_classes=3)
    model.compile(keras.optimizers.SGD(0.01), loss=sf.losses.ArcFaceLoss())
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (8, 32, 16, 3)).astype("float32")
    before = small.get_layer("layer1_0_conv1").kernel.numpy()
    history = model.fit(images, np.arange(8) % 3, batch_size=8, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert np.any(small.get_layer("layer1_0_conv1").kernel.numpy() != before)
    small.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    found, expected = (net(images, training=False).numpy() for net in (loaded, small))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, r"`depth` must be one of 18, 34, 50, 100, 200"),
        ({"units": (1, 1, 1, 0)}, "`units` must be four counts"),
        ({"input_shape": (8, 8, 3)}, "`input_shape` must be at least 16"),
        ({"embedding_dim": 0}, "`embedding_dim` must be an integer"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        IResNet(**options)
