"""Networks that no file can hold are refused before the training, with what to use instead."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tests.embedder.small import FED, KNOWN, SIZE
from tf_sphereface.backbones.extraction import as_backbone
from tf_sphereface.embedder import save_embedder
from tf_sphereface.export import export_onnx, export_tflite
from tf_sphereface.utils.layer_checks import strangers

layers = keras.layers


def unit_length(vectors):
    return vectors / keras.ops.norm(vectors, axis=1, keepdims=True)


def relu(x):
    """Called like Keras' own, by which a file would replace it without a word."""
    return keras.ops.maximum(x, -0.5)


class Scale(layers.Layer):
    def call(self, inputs):
        return 2.0 * inputs


class Halved(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.5 * keras.ops.sum(x)

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable(package="tests")
class Registered(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Lambda(unit_length)  # made by this class, not by the file

    def call(self, inputs):
        return self.inside(inputs)


@keras.saving.register_keras_serializable(package="tests")
def registered_function(x):
    return 3.0 * x


def network(last, first=None):
    image = keras.Input((*SIZE, 3), name=KNOWN)
    x = image if first is None else first(image)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))
    return keras.Model(image, last(x), name="network")


def nested(layer):
    vector = keras.Input((4,))
    return keras.Model(vector, layer(vector), name="inner")


LAST = {
    "lambda": lambda: layers.Lambda(lambda x: x / 2, name="half"),
    "named": lambda: layers.Lambda(unit_length, name="half"),
    "nested": lambda: nested(layers.Lambda(unit_length, name="half")),
    "sequential": lambda: keras.Sequential([layers.Lambda(unit_length, name="half")]),
    "class": lambda: Scale(name="half"),
    "activation": lambda: layers.Dense(4, activation=unit_length, name="half"),
    "namesake": lambda: layers.Activation(relu, name="half"),
    "regularizer": lambda: layers.Dense(4, kernel_regularizer=Halved(), name="half"),
}


def fit(backbone, **options):
    model = sf.FaceClassifier(backbone, 3)
    model.compile("sgd", loss=sf.losses.CosFaceLoss())
    images, labels = np.zeros((6, *SIZE, 3), "float32"), np.arange(6) % 3
    return model.fit(images, labels, verbose=0, **options)


@pytest.mark.parametrize("kind", list(LAST))
def test_it_is_refused_before_the_first_epoch_and_before_a_file(tmp_path, kind, caplog):
    model, epochs = network(LAST[kind]()), []
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "x.keras")
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    advice = "UnitNormalization" if kind in ("lambda", "named", "nested", "sequential") else ""
    if kind == "class":  # a file of it opens with custom_objects
        fit(model)
        assert "Scale 'half'" in caplog.text
        assert "register_keras_serializable" in caplog.text
    else:
        with pytest.raises(ValueError, match=rf"`backbone` must .*'half'.*{advice}") as trained:
            fit(model, callbacks=[count, checkpoint])
        assert ("register_keras_serializable" in str(trained.value)) is (not advice)
    assert not epochs
    with pytest.raises(ValueError, match=rf"`model` must .*'half'.*{advice}"):
        save_embedder(model, tmp_path / "x.keras")
    if kind != "class":  # of which a copy can be made while it is there
        for write, name in ((export_tflite, "x.tflite"), (export_onnx, "x.onnx")):
            with pytest.raises(ValueError, match=rf"`model` must .*'half'.*{advice}"):
                write(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_best_embedder_is_refused_before_the_first_epoch(tmp_path):
    """Which plain Keras must open, so that a registered class does not help."""
    pairs = sf.data.synthetic.verification_set(4, pairs_per_fold=2, folds=2, size=SIZE)
    faces = (pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds)
    epochs = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: epochs.append(epoch))
    for last in (Registered(name="half"), layers.Activation(registered_function, name="half")):
        model = network(last)
        best = sf.callbacks.Verification(*faces, best=tmp_path / "best.keras")
        with pytest.raises(ValueError, match=r"Keras' own layers.*half"):
            fit(model, callbacks=[count, best])
        assert not epochs
        assert fit(model).history["loss"]  # without the file it can be trained


def test_what_a_file_can_hold_is_let_through(tmp_path):
    for last in (
        layers.UnitNormalization(),
        layers.Activation("gelu"),
        layers.Activation(keras.activations.gelu),
        layers.Activation(tf.nn.relu),  # saved as Keras' own
        layers.Dense(4, kernel_regularizer="l2", kernel_initializer=keras.initializers.HeNormal()),
        layers.Rescaling(2.0),
    ):
        model = network(last)
        assert not list(strangers(model, registered_too=True))
        save_embedder(model, tmp_path / "x.keras")
        assert keras.models.load_model(tmp_path / "x.keras").output_shape == (None, 4)
    first = layers.TimeDistributed(layers.Dense(3))
    assert not list(strangers(network(layers.PReLU(), first)))
    for registered in (Registered(), layers.Lambda(registered_function)):
        assert not list(strangers(network(registered)))
        assert list(strangers(network(registered), registered_too=True))
    hidden = layers.TimeDistributed(layers.Lambda(unit_length, name="hidden"))
    assert [each.text for each in strangers(network(layers.PReLU(), hidden))] == ["Lambda 'hidden'"]


class Network(keras.Model):
    """A backbone as a class, with a residual sum, a batch normalisation and a dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = (layers.Conv2D(4, 3, padding="same") for _ in range(2))
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)
        self.dense = layers.Dense(5)

    def call(self, inputs, training=None):
        x = self.first(inputs)
        x = keras.ops.relu(self.norm(x + 0.5 * self.second(x), training=training))
        return self.dense(self.drop(keras.ops.mean(x, axis=(1, 2)), training=training))


def test_a_subclassed_backbone_is_wrapped_as_the_error_says(tmp_path):
    model = Network(name="net")
    faces = np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3)).astype(np.uint8)
    expected = model((faces.astype("float32") - 127.5) / 128).numpy()
    path = tmp_path / "x.keras"
    for name, use in (
        ("backbone", lambda model: sf.FaceClassifier(model, 3)),
        ("model", sf.load_embedder),
        ("model", as_backbone),
        ("model", lambda model: save_embedder(model, path)),
        ("model", lambda model: export_tflite(model, tmp_path / "x.tflite")),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be a functional model") as caught:
            use(model)
        text = str(caught.value)
        assert "(Network)" in text
        assert f"    {name} = keras.Model(image, {name}.call(image))" in text
    image = keras.Input((*SIZE, 3), name=KNOWN)
    wrapped = keras.Model(image, model.call(image))
    fit(wrapped)
    expected = model((faces.astype("float32") - 127.5) / 128).numpy()  # it shares the weights
    save_embedder(wrapped, path)
    export_onnx(wrapped, tmp_path / "x.onnx")
    called = keras.Model(image, model(image))  # the other way: it trains and exports
    for embedder in (wrapped, path, tmp_path / "x.onnx", called):
        assert sf.load_embedder(embedder)(faces) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match=r"Received: Network 'net'.*network.call\(image\)"):
        save_embedder(called, path)


def test_a_sequential_model_that_is_not_built():
    model = keras.Sequential([layers.Flatten(), layers.Dense(4)])
    for use in (lambda model: sf.FaceClassifier(model, 3), sf.load_embedder):
        with pytest.raises(ValueError, match=r"a Sequential model that is not built.*keras.Input"):
            use(model)
    model.build((None, *SIZE, 3))
    assert sf.load_embedder(model, **FED).embedding_dim == 4
    assert sf.FaceClassifier(model, 3)
