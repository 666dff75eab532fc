"""A classifier that learns a teacher's embeddings: loss, gradient, weights and files."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tests.embedder.small import make_network
from tf_sphereface import losses
from tf_sphereface.classifier.student import StudentClassifier


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dim", [4, 7])
def test_loss_is_the_blend_and_its_gradient_that_of_the_blend(weight, dim):
    keras.utils.set_random_seed(2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 8)).astype("float32")
    labels, targets = np.array([0, 1, 2, 0, 1, 2]), rng.normal(size=(6, dim)).astype("float32")
    backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model = StudentClassifier(backbone, 3, teacher_dim=dim, distill_weight=weight)
    model.compile(
        keras.optimizers.SGD(1.0), loss=losses.CosFaceLoss(30.0, 0.2), metrics=["accuracy"]
    )
    kernel, bias = (np.array(v) for v in backbone.weights)
    centres = np.array(model.head_layer.kernel)
    matrix = np.eye(4) if model.projection is None else np.array(model.projection.kernel)

    def value(kernel, centres, matrix):
        embedding = x.astype("float64") @ kernel + bias
        cosines = unit(embedding) @ (centres / np.linalg.norm(centres, axis=0))
        logits = 30.0 * (cosines - 0.2 * np.eye(3)[labels])
        margin = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels])
        taught = 1 - np.mean(np.sum(unit(embedding @ matrix) * unit(targets), axis=1))
        return (1 - weight) * margin + weight * taught

    logs = model.train_on_batch(x, (labels, targets), return_dict=True)
    np.testing.assert_allclose(logs["loss"], value(kernel, centres, matrix), rtol=1e-5)
    cosine = np.mean(np.sum(unit((x @ kernel + bias) @ matrix) * unit(targets), axis=1))
    np.testing.assert_allclose(logs["teacher_cosine"], cosine, rtol=1e-4)
    step = 1e-6  # finite differences along each variable's own update, in float64
    new = [np.array(backbone.weights[0]), np.array(model.head_layer.kernel), matrix]
    if model.projection is not None:
        new[2] = np.array(model.projection.kernel)
    for place, before in enumerate((kernel, centres, matrix)):
        moved = before.astype("float64") - new[place]  # the gradient, at a rate of 1
        ahead, behind = [kernel, centres, matrix], [kernel, centres, matrix]
        ahead[place], behind[place] = before + step * moved, before - step * moved
        slope = (value(*ahead) - value(*behind)) / (2 * step)
        np.testing.assert_allclose(slope, np.sum(moved**2), rtol=2e-3, atol=1e-6)


def test_weights_of_images_count_in_both_parts():
    keras.utils.set_random_seed(2)
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(4, 8)).astype("float32"), np.array([0.0, 1.0, 2.0, 3.0])
    y = (np.array([0, 1, 2, 0]), rng.normal(size=(4, 4)).astype("float32"))
    values = []
    for weight in (0.0, 1.0, 0.25):
        keras.utils.set_random_seed(3)
        backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        model = StudentClassifier(backbone, 3, teacher_dim=4, distill_weight=weight)
        model.compile(keras.optimizers.SGD(0.0), loss=losses.CosFaceLoss(30.0, 0.2))
        distances = 1 - np.sum(unit(model.predict(x, verbose=0)) * unit(y[1]), axis=1)
        logs = model.train_on_batch(x, y, sample_weight=weights, return_dict=True)
        values.append(logs["loss"])
    np.testing.assert_allclose(values[1], np.mean(weights * distances), rtol=1e-5)
    np.testing.assert_allclose(values[2], 0.75 * values[0] + 0.25 * values[1], rtol=1e-5)


def test_a_student_is_saved_whole_and_opened_as_its_backbone(tmp_path):
    model = StudentClassifier(make_network(), 3, teacher_dim=5, distill_weight=0.5)
    model.compile("sgd", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4, 16, 12, 3), np.uint8)
    y = (np.array([0, 1, 2, 0]), rng.normal(size=(4, 5)).astype("float32"))
    model.train_on_batch(x, y)
    model.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    opened = sf.load_embedder(tmp_path / "student.keras")
    np.testing.assert_allclose(opened(x), loaded.predict(x, verbose=0), atol=1e-5)
    for a, b in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(model.train_on_batch(x, y), loaded.train_on_batch(x, y), rtol=1e-5)
    with pytest.raises(ValueError, match="got no targets"):
        loaded.train_on_batch(x, y[0])
    assert set(loaded.evaluate(x, y[0], return_dict=True, verbose=0)) == {"loss", "accuracy"}
