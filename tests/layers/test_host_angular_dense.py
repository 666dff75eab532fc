"""The head whose centres are in the host's memory or in files, beside the device's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.layers.test_sampled_angular_dense import BATCH, CLASSES, WIDTH, batches, centres
from tf_sphereface import FaceClassifier
from tf_sphereface.layers import sampled_angular_dense
from tf_sphereface.losses import ASoftmaxLoss, CosFaceLoss
from tf_sphereface.optimizers import SphereFaceSGD
from tf_sphereface.utils.messages import SphereFaceWarning

OPTIMIZERS = {
    "sgd": lambda: SphereFaceSGD(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.01),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),  # whose slots do not start at 0
    "plain": lambda: keras.optimizers.SGD(0.1),
}


def classifier(place, optimizer: str = "sgd", rate: float = 0.5, **options) -> FaceClassifier:
    keras.utils.set_random_seed(4)
    network = keras.Sequential([keras.Input((10,)), keras.layers.Dense(WIDTH)])
    model = FaceClassifier(network, CLASSES, sample_rate=rate, centers=place)
    loss = CosFaceLoss(scale=16.0)
    model.compile(OPTIMIZERS[optimizer](), loss=loss, metrics=["accuracy"], **options)
    return model


def fitted(model: FaceClassifier, seed: int = 0) -> dict[str, list[float]]:
    return model.fit(batches(seed), epochs=2, verbose=0, shuffle=False).history


@pytest.fixture(autouse=True)
def blocks(monkeypatch) -> None:
    monkeypatch.setattr(sampled_angular_dense, "BLOCK", 7)  # classes that are drawn together
    monkeypatch.setattr("tf_sphereface.layers.host_angular_dense.BLOCK", 7)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_the_centres_place_changes_no_result(optimizer, tmp_path):
    device = classifier("device", optimizer)
    expected = fitted(device)
    for place in ("host", tmp_path / "centers"):
        model = classifier(place, optimizer)
        assert fitted(model) == expected
        np.testing.assert_array_equal(centres(model), centres(device))


def test_the_centres_place_changes_no_evaluation(tmp_path):
    """By blocks of classes."""
    images, labels = next(iter(batches()))
    device = classifier("device")
    expected = device.evaluate(images, labels, verbose=0, return_dict=True)
    for place in ("host", tmp_path / "centers"):
        model = classifier(place)
        found = model.evaluate(images, labels, verbose=0, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-6)
        np.testing.assert_array_equal(
            model.predict_classes(images, verbose=0), device.predict_classes(images, verbose=0)
        )


@pytest.mark.parametrize(("policy", "jit_compile"), [("float32", True), ("mixed_float16", False)])
def test_xla_and_16_bits_change_no_more_than_on_the_device(policy, jit_compile):
    keras.config.set_dtype_policy(policy)
    models = [classifier(place, jit_compile=jit_compile) for place in ("device", "host")]
    losses = [fitted(model)["loss"] for model in models]
    np.testing.assert_allclose(*losses, rtol=1e-5 if policy == "float32" else 1e-3)
    np.testing.assert_allclose(*map(centres, models), atol=1e-5 if policy == "float32" else 1e-3)


def test_a_sample_of_all_is_the_full_head():
    full, host = classifier("device", rate=1.0), classifier("host", rate=1.0)
    host.head_layer.assign_centres(centres(full).T)
    expected, found = fitted(full), fitted(host)
    assert set(found) == set(expected)  # no `sampled_`: all are seen, each in its own column
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    np.testing.assert_allclose(centres(host), centres(full), atol=1e-5)  # products transposed


@pytest.mark.parametrize("place", ["host", "folder"])
def test_a_saved_model_goes_on_wherever_it_was_saved(place, tmp_path):
    model = classifier(tmp_path / "centers" if place == "folder" else place)
    fitted(model)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.centers == "host"  # the folder stays the saved model's own
    device = classifier("device")
    device.load_weights(tmp_path / "m.weights.h5")
    expected = fitted(model, 1)
    for other in (loaded, device):
        assert fitted(other, 1) == expected
        np.testing.assert_array_equal(centres(other), centres(model))
    bare = keras.models.load_model(tmp_path / "m.keras", compile=False)
    assert bare.predict(np.ones((2, 10), np.float32), verbose=0).shape == (2, WIDTH)
    model.export(tmp_path / "served")


def test_what_cannot_work_says_so(two_replicas):
    network = keras.Sequential([keras.Input((10,)), keras.layers.Dense(WIDTH)])
    for options, message in (
        ({"head": "softmax"}, 'centers="host" or a folder, need head="angular"'),
        ({"centers_per_class": 2}, 'needs centers="device"'),
    ):
        with pytest.raises(ValueError, match=message):
            FaceClassifier(network, CLASSES, centers="host", **options)
    with pytest.raises(ValueError, match="`centers` must be"):
        FaceClassifier(network, CLASSES, centers=5)
    with two_replicas.scope(), pytest.raises(ValueError, match=r"is for one device; .*2 replicas"):
        classifier("host")
    for place in ("host", "device"):
        model = FaceClassifier(network, CLASSES, sample_rate=0.5, centers=place)
        with pytest.raises(ValueError, match=r"cannot be trained by Adafactor, which keeps"):
            model.compile(keras.optimizers.Adafactor(0.1), loss=CosFaceLoss())
    model = classifier("host")
    model.head_layer.assign_centres(np.full((CLASSES, WIDTH), np.nan))
    images, labels = next(iter(batches()))
    assert not np.isfinite(
        model.fit(images, labels, batch_size=BATCH, verbose=0).history["loss"][0]
    )
    assert model.head_layer.count_lost() == CLASSES


@pytest.mark.parametrize("place", ["device", "host", "files"])
def test_the_centres_state_begins_anew_with_another_optimizer(place, tmp_path):
    """Adam's moments are no velocity: the network's own begin anew too."""
    model = classifier(tmp_path / "centers" if place == "files" else place, "adamw")
    fitted(model)
    kept = model.optimizer
    before = centres(model)
    model.compile(kept, loss=CosFaceLoss(scale=16.0))
    fitted(model)
    assert np.abs(centres(model) - before).max() > 1e-3  # the same one goes on
    before = centres(model)
    model.compile(keras.optimizers.SGD(1e-9, momentum=0.9), loss=CosFaceLoss(scale=16.0))
    fitted(model)
    assert np.abs(centres(model) - before).max() < 1e-5


@pytest.mark.parametrize("place", ["device", "host"])
def test_weights_of_another_optimizer_bring_no_state_of_theirs(place, tmp_path):
    trained = classifier(place, "sgd")
    fitted(trained)
    trained.save_weights(tmp_path / "m.weights.h5")
    model = classifier(place, "adamw")
    with pytest.warns(SphereFaceWarning, match="was saved with another optimizer"):
        model.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(centres(model), centres(trained))
    head = model.head_layer
    slots = [head.center_table.whole(1)] if place == "host" else [head._slots[0][0].numpy()]
    assert not np.any(slots)


def test_weights_that_are_set_are_not_the_centres():
    """As where EarlyStopping restores the best: the body's of one epoch, the centres of another."""
    image = keras.Input((6,))
    backbone = keras.Model(image, keras.layers.Dense(4)(image))
    model = FaceClassifier(backbone, 8, sample_rate=0.5, centers="host")
    with pytest.warns(SphereFaceWarning, match="are no weights: those of the model stay"):
        model.set_weights(model.get_weights())


def test_a_step_of_its_own_is_said_to_be_left_out():
    image = keras.Input((6,))
    model = FaceClassifier(keras.Model(image, keras.layers.Dense(4)(image)), 8)
    with pytest.warns(SphereFaceWarning, match="own `step` is left out"):
        model.compile("sgd", loss=ASoftmaxLoss(step=5000))
