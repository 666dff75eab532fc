"""FaceClassifier.export: a SavedModel and an ONNX file that embed as `predict` does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.embedder.small import FED
from tf_sphereface import FaceClassifier, load_embedder, losses
from tf_sphereface.classifier import serving

SHAPE = (12, 10, 3)


def classifier(dtype: str = "float32", sides: bool = True) -> FaceClassifier:
    layers = keras.layers
    image = keras.Input(SHAPE if sides else (None, None, 3), dtype=dtype)
    hidden = layers.Rescaling(1 / 128, -127.5 / 128)(image) if dtype == "uint8" else image
    hidden = layers.RandomFlip("horizontal")(hidden)
    hidden = layers.BatchNormalization()(layers.Conv2D(4, 3)(hidden))
    hidden = layers.PReLU(shared_axes=[1, 2])(hidden)
    vectors = layers.Dense(5)(layers.GlobalAveragePooling2D()(hidden))
    model = FaceClassifier(keras.Model(image, vectors), 3)
    model.compile("sgd", loss=losses.CosFaceLoss())
    return model


def embed(path, x: np.ndarray) -> np.ndarray:
    served = tf.saved_model.load(path)  # a function of it alone does not keep the weights
    return served.serve(x).numpy()


def faces(dtype: str = "float32", count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (count, *SHAPE), dtype="uint8")
    return pixels if dtype == "uint8" else ((pixels - 127.5) / 128).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_saved_model_embeds_as_predict_does(dtype, tmp_path):
    model, x = classifier(dtype), faces(dtype)
    model.fit(x, np.arange(6) % 3, verbose=0)
    right = model.predict(x, verbose=0)
    model.export(tmp_path / "face" / "1")
    loaded = tf.saved_model.load(tmp_path / "face" / "1")
    signature = loaded.signatures["serving_default"]
    np.testing.assert_allclose(loaded.serve(x), right, atol=1e-5)  # float32
    assert list(signature.structured_input_signature[1]) == ["image"]
    assert signature.structured_input_signature[1]["image"].shape == (None, *SHAPE)
    np.testing.assert_allclose(signature(image=tf.constant(x))["embedding"], right, atol=1e-5)
    assert [entry.name for entry in (tmp_path / "face").iterdir()] == ["1"]


def test_an_onnx_file_embeds_as_predict_does(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    model, x = classifier(), faces()
    model.fit(x, np.arange(6) % 3, verbose=0)
    model.export(tmp_path / "m.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(["embedding"], {"image": x})
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-5)  # float32
    assert load_embedder(tmp_path / "m.onnx", **FED).embedding_dim == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_a_saved_model_is_replaced_and_nothing_else(tmp_path):
    first, second, x = classifier(sides=False), classifier(sides=False), faces()
    for model in (first, second):
        model.export(tmp_path / "served")
    right = second.predict(x, verbose=0)
    served = embed(tmp_path / "served", x)
    np.testing.assert_allclose(served, right, atol=1e-5)  # float32
    (tmp_path / "served" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        first.export(tmp_path / "served")
    with pytest.raises(ValueError, match="new folder"):
        first.export(tmp_path / "served" / "notes.txt")
    np.testing.assert_array_equal(embed(tmp_path / "served", x), served)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.tflite", {}, "export_tflite"),
        ("m", {"format": "litert"}, "export_tflite"),
        ("m.onnx", {}, 'must be "onnx"'),
        ("m", {"format": "torch"}, "`format` must be one of"),
        (".", {"format": "onnx"}, "must be a file"),
    ],
)
def test_other_formats_are_refused(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        classifier().export(tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_served_as_it_is_and_as_onnx_in_float32(policy, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    keras.config.set_dtype_policy(policy)
    model, x = classifier(), faces()
    model.export(tmp_path / "served")
    embeddings = embed(tmp_path / "served", x)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, model.predict(x, verbose=0), atol=0.05)  # 16 bits
    model.export(tmp_path / "m.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(["embedding"], {"image": x})
    keras.config.set_dtype_policy("float32")
    full = classifier()
    full.backbone.set_weights(model.backbone.get_weights())
    np.testing.assert_allclose(found, full.predict(x, verbose=0), atol=1e-5)  # float32
    assert model.backbone.layers[-1].compute_dtype != "float32"  # the model is as it was


@pytest.mark.parametrize("fault", ["wrong", "not finite"])
def test_a_file_that_embeds_otherwise_does_not_appear(fault, tmp_path, monkeypatch):
    model = classifier()
    if fault == "wrong":
        wrong = lambda path: lambda images: np.ones((len(images), 5), "float32")  # noqa: E731
        monkeypatch.setattr(serving, "_saved_model", wrong)
    else:
        model.backbone.layers[-1].bias.assign([np.nan] * 5)
    with pytest.raises(ValueError, match="was not written"):
        model.export(tmp_path / "served")
    assert not list(tmp_path.iterdir())
