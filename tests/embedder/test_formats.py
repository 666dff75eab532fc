"""The embedder on each format: the same faces give the same embeddings."""

from __future__ import annotations

import os
import sys

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto

import tf_sphereface as sf
from tests.embedder.small import FED, SIZE, add_onnx_metadata, make_network, write_onnx
from tf_sphereface.embedder import (
    Embedder,
    EmbedderMetadata,
    load_embedder,
    save_embedder,
)
from tf_sphereface.embedder.metadata import add_tflite_metadata


def test_a_model_in_memory_takes_its_sizes_from_itself(network, faces, expected):
    metadata = EmbedderMetadata(input_size=(9, 9), template="other", pixel_mean=0.0)
    embedder = Embedder.in_memory(network, metadata)
    assert (embedder.metadata.input_size, embedder.metadata.embedding_dim) == (SIZE, 10)
    assert (embedder.metadata.template, embedder.path) == ("other", None)
    assert embedder.backbone.output_shape == (None, 10)
    mixed = make_network("mixed_bfloat16")
    in_float32 = Embedder.in_memory(mixed, float32=True)
    assert in_float32(faces) == pytest.approx(expected, abs=1e-5)
    assert {layer.compute_dtype for layer in in_float32.backbone.layers} == {"float32"}


def test_a_model_in_memory(network, faces, expected):
    embedder = load_embedder(network, batch_size=4)
    embeddings = embedder(faces)
    assert embeddings.dtype == np.float32
    # One float32 network, two batchings.
    assert embeddings == pytest.approx(expected, abs=1e-5)
    assert (embedder.input_size, embedder.embedding_dim) == (SIZE, 10)
    assert (embedder.format, embedder.path) == ("keras", None)
    assert load_embedder(embedder) is embedder
    assert sf.load_embedder is load_embedder


def test_odd_batches_do_not_trace_again(network, faces):
    embedder = load_embedder(network, batch_size=4)
    for count in (1, 2, 3, 5, 11):
        assert embedder(faces[:count]).shape == (count, 10)
    assert embedder._runner._embed.experimental_get_tracing_count() == 1
    assert embedder(faces[:0]).shape == (0, 10)


@pytest.mark.parametrize("name", ["any", "one", "four"])
def test_tflite_of_any_batch_size(tflite, faces, expected, name):
    embedder = load_embedder(tflite / f"{name}.tflite", batch_size=3, threads=1, **FED)
    # XNNPACK adds up in another order.
    assert embedder(faces) == pytest.approx(expected, abs=1e-4)
    assert embedder(faces[:1]) == pytest.approx(expected[:1], abs=1e-4)
    assert embedder(faces[:0]).shape == (0, 10)
    assert (embedder.format, embedder.input_size, embedder.embedding_dim) == ("tflite", SIZE, 10)


@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_tflite_with_quantized_input_and_output(tflite, faces, expected, name):
    embeddings = load_embedder(tflite / f"{name}.tflite", threads=1, **FED)(faces)
    assert embeddings.dtype == np.float32
    cosine = np.sum(embeddings * expected, axis=1) / (
        np.linalg.norm(embeddings, axis=1) * np.linalg.norm(expected, axis=1)
    )
    # 8 bits on noise images; without scale and zero point the cosine is near 0.
    assert np.min(cosine) > 0.98
    assert np.linalg.norm(embeddings) == pytest.approx(np.linalg.norm(expected), rel=0.05)


@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("channels_first", [False, True])
def test_onnx_of_any_layout_and_batch_size(tmp_path, faces, batch, channels_first):
    weights = write_onnx(tmp_path / "x.onnx", batch, channels_first)
    values = (faces.astype(np.float32) - 127.5) / 128
    ordered = values.transpose(0, 3, 1, 2) if channels_first else values
    embedder = load_embedder(tmp_path / "x.onnx", batch_size=3, threads=1, **FED)
    assert embedder(faces) == pytest.approx(ordered.reshape(11, -1) @ weights, abs=1e-4)
    assert (embedder.format, embedder.input_size, embedder.embedding_dim) == ("onnx", SIZE, 10)


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 or UTF-16")
def test_onnx_under_a_name_that_is_not_utf8(tmp_path, faces):
    write_onnx(tmp_path / "x.onnx", None, False)
    path = (tmp_path / "x.onnx").rename(tmp_path / os.fsdecode(b"caf\xe9.onnx"))
    assert load_embedder(path, **FED)(faces).shape == (11, 10)


def test_onnx_that_takes_pixels(tmp_path, faces):
    weights = write_onnx(tmp_path / "x.onnx", dtype=TensorProto.UINT8)
    # Sums of 576 products of up to 255: float32 keeps about five digits.
    result = load_embedder(tmp_path / "x.onnx", threads=1, channel_order="rgb")(faces)
    assert result == pytest.approx(faces.reshape(11, -1).astype(np.float32) @ weights, rel=1e-4)


@pytest.mark.parametrize("sides", [(10,), (10, 1, 1), (1, 1, 10), (10, 1), (1, 10)])
@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("told", [True, False])
def test_an_output_with_sides_of_one_is_a_vector(tmp_path, faces, sides, batch, told):
    weights = write_onnx(tmp_path / "x.onnx", batch, sides=sides, told=told)
    embedder = load_embedder(tmp_path / "x.onnx", threads=1, **FED)
    assert embedder.embedding_dim == embedder.metadata.embedding_dim == 10
    values = (faces.astype(np.float32) - 127.5) / 128
    assert embedder(faces) == pytest.approx(values.reshape(11, -1) @ weights, abs=1e-4)


@pytest.mark.parametrize("sides", [(2, 5), (2, 5, 1), (5, 1, 2), (1, 2, 5), (2, 1, 5)])
@pytest.mark.parametrize("told", [True, False])
def test_a_map_of_features_is_no_embedding(tmp_path, sides, told):
    write_onnx(tmp_path / "x.onnx", sides=sides, told=told)
    shape = ", ".join(map(str, sides))
    with pytest.raises(ValueError, match=rf"x.onnx: its output must.*\(n, {shape}\), a map"):
        load_embedder(tmp_path / "x.onnx", threads=1, **FED)


def test_an_output_of_another_batch_is_refused(tmp_path, faces):
    """One vector for all faces would be repeated, or taken for the first face's."""
    write_onnx(tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    mean = onnx.helper.make_node("ReduceMean", ["embedding"], ["mean"], axes=[0], keepdims=1)
    model.graph.node.append(mean)
    model.graph.output[0].name = "mean"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"one embedding per face.*\(1, 10\) for 11 faces"):
        load_embedder(tmp_path / "x.onnx", threads=1, **FED)(faces)


def test_tflite_with_a_pooled_map(tmp_path, faces):
    image = keras.Input((*SIZE, 3))
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(keras.layers.Conv2D(6, 3)(image))
    model = keras.Model(image, pooled)
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (tmp_path / "x.tflite").write_bytes(content)
    embedder = load_embedder(tmp_path / "x.tflite", threads=1, **FED)
    expected = model((faces.astype(np.float32) - 127.5) / 128).numpy().reshape(11, 6)
    assert embedder.embedding_dim == 6
    assert embedder(faces) == pytest.approx(expected, abs=1e-4)


def test_the_metadata_says_how_pixels_are_fed(tmp_path, network, tflite, faces):
    metadata = EmbedderMetadata(
        channel_order="bgr", pixel_mean=(104.0, 117.0, 123.0), pixel_scale=64.0
    )
    values = (faces[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])) / 64
    expected = network.predict(values, verbose=0)
    save_embedder(network, tmp_path / "x.keras", metadata)
    content = add_tflite_metadata((tflite / "any.tflite").read_bytes(), metadata.to_json())
    (tmp_path / "x.tflite").write_bytes(content)
    for name in ("x.keras", "x.tflite"):
        embedder = load_embedder(tmp_path / name, threads=1)
        assert embedder(faces) == pytest.approx(expected, abs=1e-4)
        assert embedder.metadata.channel_order == "bgr"
    weights = write_onnx(tmp_path / "x.onnx")
    add_onnx_metadata(tmp_path / "x.onnx", metadata)
    embeddings = load_embedder(tmp_path / "x.onnx", threads=1)(faces)
    assert embeddings == pytest.approx(values.reshape(11, -1) @ weights, abs=1e-3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, *SIZE, 3), np.float32), "must be uint8.*Received: dtype float32"),
        (np.zeros((2, 12, 16, 3), np.uint8), r"\(n, 16, 12, 3\). Received: \(2, 12, 16, 3\)"),
        (np.zeros((*SIZE, 3), np.uint8), r"Received: \(16, 12, 3\)"),
        (np.zeros((2, *SIZE, 1), np.uint8), r"Received: \(2, 16, 12, 1\)"),
    ],
)
def test_wrong_faces_are_refused(network, images, message):
    with pytest.raises(ValueError, match=message):
        load_embedder(network)(images)
