"""Classes and their probabilities, from images, with the trained scale."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.classifier import class_predictions

CLASSES = 5


def images(count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    return (rng.normal(size=(CLASSES, 8))[labels] + rng.normal(size=(count, 8))).astype(
        "float32"
    ), labels


def classifier(head="angular", **options) -> FaceClassifier:
    backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    return FaceClassifier(backbone, CLASSES, head=head, **options)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cosines(model: FaceClassifier, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines to the centres, and norms, in float64."""
    vectors = model.predict(x, verbose=0).astype("float64")
    centres = np.asarray(model.head_layer.kernel.value if model.sample_rate == 1 else None)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / norms @ (centres / np.linalg.norm(centres, axis=0)), norms


@pytest.mark.parametrize(
    ("head", "loss", "options"),
    [
        ("angular", losses.ASoftmaxLoss(2), {}),
        ("angular", losses.CosFaceLoss(scale=20.0), {"sample_rate": 1.0}),
        ("angular", losses.CosFaceLoss(scale=20.0), {"sample_rate": 0.9999}),
        ("sphereface2", losses.SphereFace2Loss(), {}),
        ("softmax", None, {}),
    ],
)
def test_classes_are_those_of_the_accuracy(head, loss, options, monkeypatch):
    monkeypatch.setattr(class_predictions, "_LARGEST_TABLE", 7 * CLASSES)  # rows at a time: 7
    model = classifier(head, **options)
    model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    x, y = images()
    model.fit(x, y, batch_size=CLASSES, epochs=2, verbose=0)
    classes = model.predict_classes(x, verbose=0)
    assert classes.shape == y.shape
    assert classes.dtype == np.int32
    accuracy = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert np.mean(classes == y) == pytest.approx(accuracy)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    np.testing.assert_array_equal(model.predict_classes(dataset, verbose=0), classes)
    none = model.predict_classes(x[:0], verbose=0)
    assert (none.shape, none.dtype) == ((0,), np.int32)
    assert model.predict_probabilities(x[:0]).shape == (0, CLASSES)
    probabilities = model.predict_probabilities(x, batch_size=4, verbose=0)
    assert probabilities.shape == (len(x), CLASSES)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), classes)


def test_probabilities_have_the_scale_of_the_loss_and_no_margin():
    x, _ = images()
    for loss, scale in (
        (losses.CosFaceLoss(scale=20.0, margin=0.4), 20.0),
        (losses.ArcFaceLoss(scale=7.0), 7.0),
        (losses.ASoftmaxLoss(4), None),
    ):
        model = classifier()
        model.compile(loss=loss)
        cosine, norms = cosines(model, x)
        right = softmax(cosine * (norms if scale is None else scale))
        found = model.predict_probabilities(x, verbose=0)
        np.testing.assert_allclose(found, right, atol=1e-5)  # float32


def test_probabilities_of_binary_decisions():
    model = classifier("sphereface2")
    model.compile(loss=losses.SphereFace2Loss(scale=10.0, power=2.0))
    model.head_layer.bias.assign(-1.5)
    x, _ = images()
    cosine, _ = cosines(model, x)
    logits = 10.0 * (2 * ((cosine + 1) / 2) ** 2 - 1) - 1.5
    found = model.predict_probabilities(x, verbose=0)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)  # float32


def test_without_a_loss_there_are_classes_and_no_probabilities():
    x, _ = images()
    model = classifier()
    assert model.predict_classes(x, verbose=0).shape == (len(x),)
    with pytest.raises(ValueError, match="not compiled"):
        model.predict_probabilities(x, verbose=0)
    logits = classifier("softmax").predict_probabilities(x, verbose=0)
    np.testing.assert_allclose(logits.sum(axis=1), 1.0, rtol=1e-5)
