"""Negatives that may be the same person are left out of a step's loss."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import losses
from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.classifier.heads import without_conflicts
from tf_sphereface.training.recipes import Recipe

DIM, CLASSES, THRESHOLD = 4, 6, 0.3


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return (
        generator.normal(size=(8, 5)).astype("float32"),
        generator.integers(0, CLASSES, 8).astype("int32"),
    )


def classifier(loss, threshold=THRESHOLD, **options):
    keras.utils.set_random_seed(1)
    backbone = keras.Sequential([keras.Input((5,)), keras.layers.Dense(DIM, use_bias=False)])
    compiled = {name: options.pop(name) for name in ("jit_compile",) if name in options}
    model = FaceClassifier(backbone, CLASSES, conflict_cosine=threshold, **options)
    model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"], **compiled)
    return model


@pytest.mark.parametrize(
    "loss",
    [
        losses.ASoftmaxLoss(margin=2, annealing=0.0, step=0),
        losses.CosFaceLoss(scale=8),
        losses.ArcFaceLoss(scale=8),
        losses.CurricularFaceLoss(scale=8),
        losses.SphereFaceRLoss(scale=8, margin=1.5),
        losses.SphereFaceRLoss(scale=8, margin=1.5, detach=False),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_the_loss_is_that_of_the_classes_that_are_left(batch, loss):
    """Row by row, with the columns of the conflicts taken out."""
    model = classifier(loss)
    outputs = model.head_layer(model(batch[0])).numpy()
    assert np.any(outputs[:, :-1] / -outputs[:, -1:] > THRESHOLD)
    found = loss.per_example(
        tf.constant(batch[1]), without_conflicts(tf.constant(outputs), batch[1], THRESHOLD)
    )
    for row, label, value in zip(outputs, batch[1], found.numpy(), strict=True):
        kept = row[:-1] <= THRESHOLD * -row[-1]
        kept[label] = True
        fewer = np.append(row[:-1][kept], row[-1])[None]
        place = np.flatnonzero(kept).tolist().index(label)
        alone = loss.per_example(tf.constant([place]), tf.constant(fewer))
        assert value == pytest.approx(float(alone[0]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_center_of_a_conflict_is_not_pushed_away(jit_compile):
    """One image, whose negative lies where the image does, and a second negative across."""
    model = classifier(losses.CosFaceLoss(scale=4), jit_compile=jit_compile)
    embedding = model(np.ones((1, 5), "float32")).numpy()[0]
    kernel = np.zeros((DIM, CLASSES), "float32")
    kernel[:, 0] = embedding + np.array([0.1, -0.1, 0.1, 0])
    kernel[:, 1] = embedding
    kernel[:, 2:] = -embedding[:, None] + np.eye(DIM)
    model.head_layer.kernel.assign(kernel)
    logs = model.fit(np.ones((1, 5)), np.array([0]), verbose=0, shuffle=False).history
    moved = np.abs(model.head_layer.kernel.numpy() - kernel).max(axis=0)
    assert moved[1] == 0
    assert moved[0] > 0
    assert moved[2:].min() > 0
    assert logs["accuracy"] == [0.0]  # the metric counts all classes: the conflict is nearer


def test_a_sampled_head_leaves_them_out_too(batch):
    whole, sampled = (
        classifier(losses.CosFaceLoss(scale=4), sample_rate=rate) for rate in (1.0, 1.0 - 1e-9)
    )
    start = np.random.default_rng(2).normal(size=(DIM, CLASSES)).astype("float32")
    whole.head_layer.kernel.assign(start)
    sampled.head_layer.centres.assign(start.T)
    figures = [
        model.fit(*batch, batch_size=8, verbose=0, shuffle=False).history["loss"][0]
        for model in (whole, sampled)
    ]
    plain = classifier(losses.CosFaceLoss(scale=4), None)
    plain.head_layer.kernel.assign(start)
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert plain.evaluate(*batch, verbose=0)[0] > figures[0] + 1e-3


def test_it_is_kept_in_a_file(tmp_path):
    model = classifier(losses.CosFaceLoss(scale=4))
    model.save(tmp_path / "a.keras")
    assert keras.models.load_model(tmp_path / "a.keras").conflict_cosine == THRESHOLD


@pytest.mark.parametrize(
    "options", [{"head": "softmax"}, {"gradient": "caffe"}, {"threshold": 1.5}, {"threshold": -0.1}]
)
def test_what_cannot_be_meant_is_refused(options):
    with pytest.raises(ValueError, match=r"conflict_cosine.*Received"):
        classifier(None, **options)


def test_label_smoothing_gives_every_class_a_share():
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1"):
        classifier(losses.CosFaceLoss(label_smoothing=0.1))
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1"):
        Recipe(loss="cosface", conflict_cosine=0.4, label_smoothing=0.1)
