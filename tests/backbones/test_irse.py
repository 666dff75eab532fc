"""IR, IR-SE, SFNet: sizes by another way, structure, training. tests/importers has equality."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tf_sphereface.backbones import IRSE, SFNet, count_macs, count_parameters
from tf_sphereface.backbones.irse import UNITS


def parameters(units, se=False, inner_norm=True, affine=False):
    """Count parameters by the layers' shapes."""
    inputs, total = 64, 3 * 9 * 64 + 3 * 64
    for channels, count in zip((64, 128, 256, 512), units, strict=True):
        for _ in range(count):
            total += 9 * inputs * channels + 9 * channels**2  # convolutions
            total += 2 * inputs + (2 * channels if inner_norm else 0) + 2 * channels  # norms
            total += channels + (2 * channels * (channels // 16) if se else 0)  # PReLU
            if inputs != channels:
                total += inputs * channels + 2 * channels
            inputs = channels
    return total + 2 * 512 + 512 * 49 * 512 + 512 + (2 * 512 if affine else 0)


@pytest.mark.parametrize(
    ("depth", "options"),
    [(18, {}), (18, {"se": True}), (18, {"se": True, "inner_norm": False, "affine": True})],
)
def test_sizes(depth, options):
    assert count_parameters(IRSE(depth, **options)) == parameters(UNITS[depth], **options)


def test_the_table_in_the_docstring():
    millions = [f"{parameters(units) / 1e6:.2f}" for units in UNITS.values()]
    assert " | ".join(millions) in IRSE.__doc__


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return IRSE(18, (32, 16, 3), 8, units=(1, 2, 1, 1), se=True)


def test_layers(small):
    norm = small.get_layer("output_layer_4")
    assert not norm.scale
    assert not norm.center
    assert isinstance(small.get_layer("body_0_shortcut_layer"), keras.layers.MaxPooling2D)
    assert not any(layer.name.startswith("body_2_shortcut") for layer in small.layers)
    kernel = small.get_layer("body_4_res_layer_4").kernel.numpy()
    assert abs(kernel.std() / (2 / (9 * 512)) ** 0.5 - 1) < 0.01
    other = small.get_layer("body_1_res_layer_4").kernel.numpy()
    assert np.any(other != small.get_layer("body_2_res_layer_4").kernel.numpy())


def test_it_trains_under_the_classifier_and_is_saved(small, tmp_path):
    model = sf.FaceClassifier(small, num_classes=3)
    model.compile(keras.optimizers.SGD(0.01), loss=sf.losses.ArcFaceLoss())
    images = np.random.default_rng(0).uniform(-1, 1, (8, 32, 16, 3)).astype("float32")
    before = small.get_layer("body_0_se_block_fc1").kernel.numpy()
    history = model.fit(images, np.arange(8) % 3, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert np.any(small.get_layer("body_0_se_block_fc1").kernel.numpy() != before)
    small.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    found, expected = (net(images, training=False).numpy() for net in (loaded, small))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}, {"activation_after_add": False}])
def test_sfnet_trains(options):
    backbone = SFNet(10, (32, 16, 3), 8, **options)
    model = sf.FaceClassifier(backbone, num_classes=3)
    model.compile(keras.optimizers.SGD(0.01), loss=sf.losses.ArcFaceLoss())
    images = np.random.default_rng(0).uniform(-1, 1, (6, 32, 16, 3)).astype("float32")
    history = model.fit(images, np.arange(6) % 3, batch_size=6, verbose=0)
    assert np.isfinite(history.history["loss"][0])


def test_sfnet_has_the_convolutions_of_spherefacenet():
    ours, theirs = SFNet(10), sf.backbones.SphereFaceNet(10, (112, 112, 3))
    assert count_macs(ours) == count_macs(theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 100}, r"`depth` must be one of 18, 34, 50, 101, 152"),
        ({"units": (1, 1, 1, 0)}, "`units` must be four counts"),
        ({"input_shape": (8, 8, 3)}, "`input_shape` must be at least 16"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        IRSE(**options)
