"""Values that must stay out of 16 bits: labels, norms, logits, the loss, the masters' weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tf_sphereface as sf

CLASSES = 100_000
# float16 has no 2,049 and nothing past 65,504; bfloat16 has no 257.
LABELS = np.array([257, 2_049, 65_519, 70_001, 99_998, 99_999])
POLICIES = ["mixed_float16", "mixed_bfloat16"]


def build(path, **settings):
    """Return a compiled model of 100,000 classes, and its head; each image is its embedding."""
    inputs = keras.Input((8,))
    backbone = keras.Model(inputs, keras.layers.Identity()(inputs))
    loss = sf.losses.ASoftmaxLoss(margin=4, annealing=5.0)
    if path == "stock":
        head = sf.layers.AngularDense(CLASSES)
        model = keras.Model(inputs, head(backbone.output))
    else:
        model = sf.FaceClassifier(backbone, CLASSES, **settings)
        head = model.head_layer
    return model, head, loss


def centres_of(head):
    """Return the class centres, a row each."""
    kernel = np.array(head.kernel)
    return kernel if kernel.shape[0] == CLASSES else kernel.T


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("path", ["stock", "classifier", "sampled"])
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_labels_do_not_pass_through_16_bits(policy, path, dtype):
    """One update moves the right class centre towards the embedding, and the others away."""
    keras.config.set_dtype_policy(policy)
    model, head, loss = build(path, **({"sample_rate": 0.1} if path == "sampled" else {}))
    model.compile(keras.optimizers.SGD(100.0), loss=loss, metrics=["accuracy"])
    x = np.eye(len(LABELS), 8, dtype="float32")  # orthogonal: each moves its own class centre most
    before = centres_of(head)
    model.fit(x, LABELS.astype(dtype), batch_size=len(LABELS), verbose=0)
    moved = centres_of(head) - before
    for row, label in zip(x, LABELS, strict=True):
        towards = moved @ row
        assert np.argmax(towards) == label
        assert towards[label] > 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_accuracy_is_of_the_exact_class(policy):
    keras.config.set_dtype_policy(policy)
    model, head, loss = build("classifier")
    centres = np.random.default_rng(0).normal(size=(8, CLASSES)).astype("float32")
    head.kernel.assign(centres)
    model.compile("sgd", loss=loss, metrics=["accuracy"])
    # float16 images: the class centres are the images, both rounded alike.
    x = centres[:, LABELS].T.astype("float16").astype("float32")
    right = model.evaluate(x, LABELS, verbose=0, return_dict=True)
    wrong = model.evaluate(x, LABELS - 1, verbose=0, return_dict=True)
    assert right["accuracy"] == 1.0
    assert wrong["accuracy"] == 0.0
