"""The part of a model that is its backbone."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tests.embedder.small import KNOWN, SIZE, make_network
from tf_sphereface.backbones.extraction import in_float32
from tf_sphereface.embedder import load_embedder, save_embedder
from tf_sphereface.embedder.embedder import as_backbone
from tf_sphereface.export import export_onnx, export_tflite


@pytest.mark.parametrize("head", ["angular", "softmax"])
def test_a_face_classifier_gives_its_backbone(tmp_path, network, faces, expected, head):
    classifier = sf.FaceClassifier(network, num_classes=5, head=head)
    assert load_embedder(classifier)(faces) == pytest.approx(expected, abs=1e-5)
    classifier.save(tmp_path / "classifier.keras")
    embedder = load_embedder(tmp_path / "classifier.keras")
    assert embedder(faces) == pytest.approx(expected, abs=1e-5)


def test_a_model_that_ends_in_angular_dense_is_stripped(tmp_path, network, faces, expected, caplog):
    model = keras.Model(network.input, sf.layers.AngularDense(5)(network.output))
    model.save(tmp_path / "model.keras")
    with caplog.at_level(logging.INFO, logger="tf_sphereface"):
        embedder = load_embedder(tmp_path / "model.keras")
    assert "ends in AngularDense" in caplog.text
    assert embedder.embedding_dim == 10
    assert embedder(faces) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        sf.backbones.SphereFaceNet(depth=4, input_shape=(16, 16, 3), embedding_dim=8),
        sf.backbones.MobileFaceNet(embedding_dim=8),
    ],
    ids=["SphereFaceNet", "MobileFaceNet"],
)
def test_our_own_networks_are_backbones(network):
    backbone = as_backbone(network)
    assert backbone.output_shape == (None, 8)
    assert as_backbone(backbone).output_shape == (None, 8)


def test_a_compiled_backbone_is_returned_uncompiled():
    network = make_network()
    network.compile("sgd", loss="mse")
    assert not as_backbone(network).compiled


def classifiers():
    layers = keras.layers
    image = keras.Input((*SIZE, 3))
    x = layers.Flatten()(image)
    compiled = keras.Model(image, layers.Dense(5)(x))
    compiled.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    named = keras.Model(image, layers.Dense(5)(x))
    named.compile(loss="sparse_categorical_crossentropy")
    return {
        "softmax": keras.Model(image, layers.Dense(5, activation="softmax")(x)),
        "Softmax": keras.Model(image, layers.Softmax()(layers.Dense(5)(x))),
        "Activation": keras.Model(image, layers.Activation("softmax")(layers.Dense(5)(x))),
        "sigmoid": keras.Model(image, layers.Dense(5, activation="sigmoid")(x)),
        "compiled": compiled,
        "named": named,
    }


@pytest.mark.parametrize("name", list(classifiers()))
def test_other_classifiers_are_refused(name):
    with pytest.raises(ValueError, match="a classifier that ends in"):
        as_backbone(classifiers()[name])


@pytest.mark.parametrize("name", ["compiled", "named"])
def test_a_classifier_that_was_saved_is_refused(tmp_path, name):
    """Its file is opened uncompiled, so that only the saved configuration tells what it is."""
    classifiers()[name].save(tmp_path / "classifier.keras")
    with pytest.raises(ValueError, match="a classifier that ends in"):
        load_embedder(tmp_path / "classifier.keras")


@pytest.mark.parametrize("inside", ["AngularDense", "FaceClassifier"])
def test_a_head_inside_another_model_is_stripped(network, faces, expected, inside):
    if inside == "AngularDense":
        inner = keras.Model(network.input, sf.layers.AngularDense(5)(network.output))
    else:
        inner = sf.FaceClassifier(network, num_classes=5)
    image = keras.Input((*SIZE, 3))  # how it is fed, the network inside knows
    outer = keras.Model(image, inner(image))
    assert as_backbone(outer).output_shape == (None, 10)
    assert load_embedder(outer)(faces) == pytest.approx(expected, abs=1e-5)


def test_models_of_another_shape_are_refused():
    layers = keras.layers
    image, vector = keras.Input((*SIZE, 3)), keras.Input((4,))
    flat = layers.Flatten()(image)
    cases = [
        (keras.Model([image, vector], flat), "2 inputs and 1 outputs"),
        (keras.Model(image, [flat, flat]), "1 inputs and 2 outputs"),
        (keras.Model(vector, layers.Dense(3)(vector)), r"input shape \(None, 4\)"),
        (keras.Model(image, layers.Conv2D(4, 3)(image)), r"output shape \(None, 14, 10, 4\)"),
    ]
    for model, message in cases:
        with pytest.raises(ValueError, match=message):
            as_backbone(model)
    with pytest.raises(
        ValueError, match=r"`model` must be a keras.Model. Received: model='model.keras'"
    ):
        as_backbone("model.keras")


def with_operations(policy):
    """A network of sums, products and functions of keras.ops between its layers."""
    keras.utils.set_random_seed(3)
    layers, ops = keras.layers, keras.ops
    keras.config.set_dtype_policy(policy)
    image = keras.Input((*SIZE, 3), name=KNOWN)
    x = layers.Conv2D(6, 3, 2, padding="same")(image)
    shared = layers.Conv2D(6, 3, padding="same")
    x = shared(x) + 0.5 * shared(x) - x / 3.0
    x = ops.relu(x * ops.sigmoid(x)) ** 1.0
    inner = keras.Input(x.shape[1:])
    y = layers.TimeDistributed(layers.Dense(6))(inner)
    x = keras.Model(inner, ops.maximum(inner, -y), name="inner")(x)
    x = ops.concatenate([x, ops.cast(ops.flip(x, axis=2), x.dtype)], axis=-1)
    x = keras.Sequential([keras.Input(x.shape[1:]), layers.Conv2D(8, 1), layers.PReLU()])(x)
    pooled = ops.concatenate([ops.mean(x, axis=(1, 2)), ops.max(x, axis=[1, 2])], axis=1)
    pooled = ops.reshape(pooled, (-1, 4, 4))[:, :, ::1] + ops.ones((4, 4), dtype=x.dtype)
    vector = layers.Dense(8)(ops.reshape(pooled, (-1, 16)))
    vector = vector / ops.norm(vector, axis=-1, keepdims=True) + ops.stack([vector, vector])[0]
    keras.config.set_dtype_policy("float32")
    return keras.Model(image, vector)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_operations_between_layers_are_computed_in_float32_too(tmp_path, faces, policy):
    network, plain = with_operations(policy), with_operations("float32")
    network.set_weights(plain.get_weights())
    expected = load_embedder(plain)(faces)
    copy = in_float32(network)
    assert {tensor.dtype for tensor in copy.outputs} == {"float32"}
    assert load_embedder(copy)(faces) == pytest.approx(expected, abs=1e-5)
    half = load_embedder(network)(faces)
    assert np.abs(half - expected).max() > 1e-5  # so the tolerances tell them apart
    save_embedder(network, tmp_path / "x.keras")
    assert load_embedder(tmp_path / "x.keras")(faces) == pytest.approx(expected, abs=1e-5)
    if policy == "mixed_bfloat16":
        export_onnx(network, tmp_path / "x.onnx")
        assert load_embedder(tmp_path / "x.onnx")(faces) == pytest.approx(expected, abs=1e-4)
    else:
        export_tflite(network, tmp_path / "x.tflite")
        assert load_embedder(tmp_path / "x.tflite")(faces) == pytest.approx(expected, abs=1e-4)


def test_a_network_with_operations_is_verified_while_it_trains(tmp_path):
    network = with_operations("mixed_bfloat16")
    model = sf.FaceClassifier(network, 4)
    model.compile("sgd", loss=sf.losses.CosFaceLoss())
    pairs = sf.data.synthetic.verification_set(4, pairs_per_fold=2, folds=2, size=SIZE)
    faces = (pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds)
    best = sf.callbacks.Verification(*faces, best=tmp_path / "best.keras")
    images, labels = np.random.default_rng(0).random((8, *SIZE, 3), "float32"), np.arange(8) % 4
    history = model.fit(images, labels, epochs=2, verbose=0, callbacks=[best]).history
    assert len(history["verification_accuracy"]) == 2
    assert load_embedder(tmp_path / "best.keras").embedding_dim == 8
