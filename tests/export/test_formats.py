"""Every kind of file of both networks computes what Keras computes, on faces it never saw."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.embedder.small import KNOWN
from tests.export.conftest import known
from tf_sphereface import FaceClassifier
from tf_sphereface.embedder import Embedder, EmbedderMetadata, load_embedder, read_metadata
from tf_sphereface.export import export_onnx, export_tflite, measure_parity
from tf_sphereface.layers import AngularDense

WRITERS = {"tflite": export_tflite, "onnx": export_onnx}
KINDS = [
    ("tflite", "none"),
    ("tflite", "float16"),
    ("tflite", "dynamic"),
    ("tflite", "int8"),
    ("onnx", "none"),
    ("onnx", "float16"),
    ("onnx", "int8"),
]
# Least cosine with Keras over unseen faces. float32 differs by the order of sums, float16 by
# 2 ** -11 a weight, the others by 8 bits a weight and an activation (docs/results/export.md).
LEAST = {"none": 0.999999, "float16": 0.9999, "dynamic": 0.985, "int8": 0.94}
# Bytes of a file over the bytes of its weights in float32.
RATIO = {"none": 1.02, "float16": 0.52, "dynamic": 0.32, "int8": 0.38}


@pytest.fixture(scope="module")
def by_keras(other_faces):
    """A function that returns a network's embeddings of the other faces, computed once."""
    return functools.cache(lambda net: load_embedder(net)(other_faces))


def check_kind(net, file_format, kind, folder, faces, other_faces, expected):
    path = folder / f"{net.name}.{kind}.{file_format}"
    report = WRITERS[file_format](
        net, path, quantize=kind, calibration=faces if kind == "int8" else None
    )
    assert report.path == path
    assert report.size_bytes == path.stat().st_size
    assert report.size_bytes < RATIO[kind] * 4 * net.count_params() + 60_000
    assert report.faces_from == ("calibration" if kind == "int8" else "synthetic")
    assert report.accuracy is None
    assert report.note == "accuracy was not checked"
    assert report.latency_ms > 0

    embedder = load_embedder(path)
    assert embedder.embedding_dim == 64
    many = embedder(other_faces)
    assert many.shape == expected.shape
    assert many.dtype == np.float32
    cosine = (many * expected).sum(1) / np.linalg.norm(many, axis=1)
    cosine /= np.linalg.norm(expected, axis=1)
    assert cosine.min() > LEAST[kind]
    # One face at a time is the same file on another batch size. Dynamic quantisation measures its
    # activations per batch, the others' kernels differ by the order of sums.
    one = np.concatenate([embedder(face[np.newaxis]) for face in other_faces[:3]])
    tolerance = 0.1 if kind == "dynamic" else 2e-3
    scale = np.abs(expected).max()
    np.testing.assert_allclose(one / scale, many[:3] / scale, atol=tolerance)
    if file_format == "tflite":
        assert_codes_for_every_reader(path)
    return report


def assert_codes_for_every_reader(path):
    """The old one-byte field holds each operator's code, or 127 for what does not fit into it."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    codes = [(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    assert codes
    assert codes == [(code, min(code, 127)) for code, _ in codes]


@pytest.mark.parametrize(("file_format", "kind"), KINDS)
def test_spherefacenet(small_net, faces, other_faces, by_keras, tmp_path, file_format, kind):
    expected = by_keras(small_net)
    check_kind(small_net, file_format, kind, tmp_path, faces, other_faces, expected)


# Its int8 files are in test_accuracy_lfw_subset.py, judged by their accuracy.
@pytest.mark.slow
@pytest.mark.parametrize(("file_format", "kind"), [x for x in KINDS if x[1] != "int8"])
def test_mobilefacenet(mobile_net, faces, other_faces, by_keras, tmp_path, file_format, kind):
    expected = by_keras(mobile_net)
    check_kind(mobile_net, file_format, kind, tmp_path, faces, other_faces, expected)


@pytest.mark.parametrize("file_format", ["tflite", "onnx"])
def test_metadata_comes_back_and_stands_beside(tiny_net, faces, tmp_path, file_format):
    metadata = EmbedderMetadata(
        channel_order="bgr",
        pixel_mean=(100.0, 110.0, 120.0),
        loss="a-softmax",
        margin=4.0,
        threshold=0.3,
        threshold_far=1e-3,
        extra={"note": "ours"},
    )
    path = tmp_path / f"m.int8.{file_format}"
    WRITERS[file_format](tiny_net, path, "int8", calibration=faces, metadata=metadata)
    stored = read_metadata(path)
    for field in ("channel_order", "pixel_mean", "loss", "margin", "threshold", "threshold_far"):
        assert getattr(stored, field) == getattr(metadata, field)
    assert stored.input_size == (56, 48)
    assert stored.embedding_dim == 16
    assert stored.extra["note"] == "ours"
    assert stored.extra["export"]["quantize"] == "int8"
    assert stored.extra["export"]["cosine_min"] > 0.9
    assert "keras" in stored.versions
    assert len(stored.versions) > 5
    sidecar = tmp_path / f"m.int8.{file_format}.json"
    assert EmbedderMetadata.from_json(sidecar.read_text()) == stored
    # The BGR order and the means count: fed in another way, Keras answers otherwise.
    assert measure_parity(Embedder.in_memory(tiny_net, stored), path, faces).cosine_mean > 0.99
    assert measure_parity(tiny_net, path, faces).cosine_mean < 0.98


def test_tensor_names_and_free_batch(tiny_net, tmp_path):
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    export_tflite(tiny_net, tmp_path / "m.tflite")
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["embedding"]}
    }
    assert interpreter.get_input_details()[0]["shape_signature"].tolist() == [-1, 56, 48, 3]
    export_onnx(tiny_net, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    (image,), (embedding,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", ["batch", 56, 48, 3])
    assert (embedding.name, embedding.shape) == ("embedding", ["batch", 16])


def test_a_flatten_needs_no_shape_at_run_time(tiny_net, tmp_path):
    """Keras' own Flatten reads the batch size from the input: four operators for nothing."""
    import onnx

    export_onnx(tiny_net, tmp_path / "m.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert not operators & {"Shape", "Gather", "Concat", "Cast"}


def test_no_sum_of_an_int8_onnx_file_overflows(tiny_net, faces, tmp_path):
    """Processors without VNNI add two products of uint8 and int8 in 16 bits, and saturate."""
    import onnx
    from onnx import numpy_helper

    export_onnx(tiny_net, tmp_path / "m.onnx", "int8", calibration=faces)
    model = onnx.load(tmp_path / "m.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [v for k, v in stored.items() if v.dtype == np.int8 and k.endswith("_quantized")]
    assert len(weights) == 2  # a convolution and the embedding
    for values in weights:
        worst = 2 * 255 * int(np.abs(values.astype(np.int32)).max())
        assert worst <= np.iinfo(np.int16).max
    largest = max(int(np.abs(values.astype(np.int32)).max()) for values in weights)
    assert largest in (63, 64)  # and all of the range is used


def test_heads_are_left_out(tiny_net, faces, tmp_path):
    """A FaceClassifier and a model that ends in AngularDense give their backbone's embedding."""
    path = tmp_path / "m.tflite"
    stacked = keras.Model(tiny_net.input, AngularDense(5)(tiny_net.output))
    for model in (FaceClassifier(tiny_net, num_classes=5), stacked):
        export_tflite(model, path)
        assert measure_parity(tiny_net, path, faces).cosine_min > 0.99999
        path.unlink()


def test_a_mixed_precision_network_is_exported_in_float32(faces, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    image = keras.Input((56, 48, 3), name=KNOWN)
    x = keras.layers.Conv2D(8, 3, strides=4)(image)
    x = keras.layers.PReLU(shared_axes=[1, 2])(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(16, dtype="float32")(x))
    keras.config.set_dtype_policy("float32")
    for file_format, write in WRITERS.items():
        path = tmp_path / f"m.{file_format}"
        write(model, path)
        # The reference computes in bfloat16 here: 8 bits of mantissa.
        assert measure_parity(model, path, faces).cosine_min > 0.999
        assert path.stat().st_size > 4 * model.count_params()


def test_a_changed_weight_changes_the_next_file(faces, tmp_path):
    """The float32 conversion is kept for the other kinds, but only while the weights are."""
    image = keras.Input((56, 48, 3), name=KNOWN)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(image))
    dense = keras.layers.Dense(16)
    model = keras.Model(image, dense(x))
    export_tflite(model, tmp_path / "a.tflite")
    dense.kernel.assign(keras.random.normal(dense.kernel.shape, seed=5))
    export_tflite(model, tmp_path / "b.tflite", "float16")
    assert measure_parity(model, tmp_path / "b.tflite", faces).cosine_min > 0.999


def test_any_input_size_takes_the_metadata_s(faces, tmp_path):
    image = keras.Input((None, None, 3), name=KNOWN)
    x = keras.layers.Conv2D(16, 3, strides=4)(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "m.tflite"
    export_tflite(model, path, metadata=EmbedderMetadata(input_size=(56, 48)))
    assert load_embedder(path)(faces).shape == (len(faces), 16)


@pytest.mark.parametrize("kind", ["none", "float16", "int8"])
def test_slopes_for_each_pixel_stay_in_float(tmp_path, faces, kind):
    """As of Keras' default PReLU: most of the weights, which no quantiser takes."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((*faces.shape[1:3], 3))
    x = layers.PReLU()(layers.Conv2D(32, 3)(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, strides=2)(x))
    network = known(keras.Model(image, layers.Dense(8)(x)))
    for name, write in WRITERS.items():
        assert write(network, tmp_path / f"m.{name}", kind, faces).cosine_min > 0.98


def test_an_exact_gelu_becomes_an_error_function(tmp_path, faces):
    keras.utils.set_random_seed(0)
    image = keras.Input((*faces.shape[1:3], 3))
    x = keras.layers.Conv2D(8, 3, strides=4, activation="gelu")(image)
    network = known(keras.Model(image, keras.layers.Dense(8)(keras.layers.Flatten()(x))))
    assert export_onnx(network, tmp_path / "m.onnx").cosine_min > 0.999999
