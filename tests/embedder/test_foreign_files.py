"""Files of others: what their inputs tell, and weights that lie behind the flatbuffer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.embedder.small import FED, make_network
from tf_sphereface.embedder import EmbedderMetadata, describe_file, load_embedder
from tf_sphereface.embedder.metadata import _schema
from tf_sphereface.embedder.model_hashes import network_sha256
from tf_sphereface.utils.messages import SphereFaceWarning


def int8_of(network: keras.Model, images: np.ndarray, kind: tf.DType) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: [[image[None]] for image in images]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = kind
    return bytes(converter.convert())


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
@pytest.mark.parametrize("kind", [tf.int8, tf.uint8])
@pytest.mark.parametrize("whole", [255.0, 1.0, None])
def test_the_scale_of_an_integer_input_tells_the_range_of_the_pixels(tmp_path, faces, kind, whole):
    """`whole` is what white is to the network; None: it takes -1 to 1, as is guessed."""
    scaling = {255.0: (1 / 128, -127.5 / 128), 1.0: (255 / 128, -127.5 / 128), None: (1.0, 0.0)}
    body = make_network()
    image = keras.Input(body.input_shape[1:])
    rescaling = keras.layers.Rescaling(*scaling[whole])
    network = keras.Model(image, body(rescaling(image)))
    pixels = np.concatenate([faces, np.full_like(faces[:1], 255), np.zeros_like(faces[:1])])
    given = (pixels - 127.5) / 128 if whole is None else pixels * (whole / 255)
    path = tmp_path / "other.tflite"
    path.write_bytes(int8_of(network, given.astype("float32"), kind))
    with pytest.warns(SphereFaceWarning, match="a guess"):
        opened = load_embedder(path)
    assert ("pixel_scale" in opened.metadata.assumed) is (whole is None)
    right = network(given[: len(faces)].astype("float32")).numpy()
    found = opened(faces)
    cosines = (
        np.sum(right * found, 1) / np.linalg.norm(right, axis=1) / np.linalg.norm(found, axis=1)
    )
    assert cosines.min() > 0.98


def test_a_keras_network_of_integers_takes_the_pixels(faces):
    image = keras.Input((*faces.shape[1:3], 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 128, offset=-127.5 / 128)(image)
    network = keras.Model(image, make_network()(x))
    opened = load_embedder(network, channel_order="rgb")
    assert (opened.metadata.pixel_mean, opened.metadata.pixel_scale) == (0.0, 1.0)
    np.testing.assert_allclose(opened(faces), network(faces).numpy(), atol=1e-5)


def outside(content: bytes) -> bytes:
    """Move the largest buffer behind the flatbuffer, as Google's quantizer writes weights."""
    import flatbuffers

    schema = _schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    largest = max(model.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    data, largest.data = bytes(largest.data), None

    def packed(offset: int) -> bytes:
        largest.offset, largest.size = offset, len(data)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    begin = packed(1 << 30)
    begin += bytes(-len(begin) % 64)
    whole = packed(len(begin))
    return whole + bytes(len(begin) - len(whole)) + data


def test_weights_behind_the_flatbuffer_are_part_of_the_model(tmp_path, faces):
    network = make_network()
    plain = bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())
    moved = outside(plain)
    one, other = tmp_path / "one.tflite", tmp_path / "other.tflite"
    one.write_bytes(moved)
    tail = np.frombuffer(moved[-4096:], np.float32)
    other.write_bytes(moved[:-4096] + (-tail).tobytes())
    expected = network((faces - 127.5).astype("float32") / 128).numpy()
    np.testing.assert_allclose(load_embedder(one, **FED)(faces), expected, atol=1e-4)
    assert network_sha256(one) != network_sha256(other)
    before = network_sha256(one)
    describe_file(one, **FED)
    np.testing.assert_allclose(load_embedder(one)(faces), expected, atol=1e-4)
    assert network_sha256(one) == before


def test_a_file_of_hdf5_is_told_what_to_do(tmp_path):
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"keras\.models\.load_model, and save a \.keras"):
        load_embedder(tmp_path / "m.h5")


def test_a_stored_guess_is_called_one(tmp_path):
    from tf_sphereface.embedder import save_embedder

    metadata = EmbedderMetadata(assumed=["channel_order"])
    save_embedder(make_network(name="x"), tmp_path / "m.keras", metadata)
    with pytest.warns(SphereFaceWarning, match="has metadata with RGB, a guess"):
        load_embedder(tmp_path / "m.keras")
