from __future__ import annotations

import json
import logging
import warnings
import zipfile

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tf_sphereface as sf
from tf_sphereface._tflite_metadata import add_tflite_metadata, read_tflite_metadata
from tf_sphereface.embedder import (
    EmbedderMetadata,
    as_backbone,
    in_float32,
    load_embedder,
    read_metadata,
    save_embedder,
)

SIZE = (16, 12)


def make_network(policy="float32", size=SIZE):
    keras.utils.set_random_seed(7)
    layers = keras.layers
    image = keras.Input((*size, 3), name="image", dtype="float32")
    x = layers.ZeroPadding2D(1, dtype=policy)(image)
    x = layers.Conv2D(8, 3, strides=2, dtype=policy)(x)
    x = layers.PReLU(shared_axes=[1, 2], dtype=policy)(x)
    x = layers.Flatten(dtype=policy)(x)
    return keras.Model(image, layers.Dense(10, dtype=policy)(x), name="network")


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(0).integers(0, 256, (11, *SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(network, faces):
    """The embeddings, computed by the network alone from (x - 127.5) / 128."""
    return network.predict((faces.astype(np.float32) - 127.5) / 128, verbose=0)


@pytest.fixture(scope="module")
def tflite(network, faces, tmp_path_factory):
    """name -> a TensorFlow Lite file of the network."""
    root = tmp_path_factory.mktemp("tflite")

    def convert(batch, quantized=None):
        image = keras.Input((*SIZE, 3), batch_size=batch, name="image")
        model = keras.Model(image, network(image))
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if quantized is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            values = (faces.astype(np.float32) - 127.5) / 128
            converter.representative_dataset = lambda: ([x[None]] for x in values)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = quantized
        with warnings.catch_warnings():
            # The old converter asks for statistics of the inputs that it then measures itself.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)
            return converter.convert()

    files = {
        "any": convert(None),
        "one": convert(1),
        "four": convert(4),
        "int8": convert(1, tf.int8),
        "uint8": convert(1, tf.uint8),
    }
    for name, content in files.items():
        (root / f"{name}.tflite").write_bytes(content)
    return root


def write_onnx(path, batch="n", channels_first=False, dtype=TensorProto.FLOAT, dim=10):
    """A file whose embedding is a random projection of the pixels, in this layout and type."""
    count = SIZE[0] * SIZE[1] * 3
    weights = np.random.default_rng(1).normal(0, 0.1, (count, dim)).astype(np.float32)
    shape = [batch, 3, *SIZE] if channels_first else [batch, *SIZE, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, dim])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return weights


def add_onnx_metadata(path, metadata):
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "tf_sphereface", metadata.to_json()
    onnx.save(model, path)


# The embedder on each format


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
    embedder = load_embedder(tflite / f"{name}.tflite", batch_size=3, threads=1)
    # XNNPACK adds up in another order.
    assert embedder(faces) == pytest.approx(expected, abs=1e-4)
    assert embedder(faces[:1]) == pytest.approx(expected[:1], abs=1e-4)
    assert embedder(faces[:0]).shape == (0, 10)
    assert (embedder.format, embedder.input_size, embedder.embedding_dim) == ("tflite", SIZE, 10)


@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_tflite_with_quantized_input_and_output(tflite, faces, expected, name):
    embeddings = load_embedder(tflite / f"{name}.tflite", threads=1)(faces)
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
    embedder = load_embedder(tmp_path / "x.onnx", batch_size=3, threads=1)
    assert embedder(faces) == pytest.approx(ordered.reshape(11, -1) @ weights, abs=1e-4)
    assert (embedder.format, embedder.input_size, embedder.embedding_dim) == ("onnx", SIZE, 10)


def test_onnx_that_takes_pixels(tmp_path, faces):
    weights = write_onnx(tmp_path / "x.onnx", dtype=TensorProto.UINT8)
    # Sums of 576 products of up to 255: float32 keeps about five digits.
    result = load_embedder(tmp_path / "x.onnx", threads=1)(faces)
    assert result == pytest.approx(faces.reshape(11, -1).astype(np.float32) @ weights, rel=1e-4)


def test_an_onnx_output_of_unknown_length_is_measured(tmp_path):
    write_onnx(tmp_path / "x.onnx", dim=10)
    model = onnx.load(tmp_path / "x.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "d"
    onnx.save(model, tmp_path / "x.onnx")
    assert load_embedder(tmp_path / "x.onnx", threads=1).embedding_dim == 10


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


def test_a_file_without_metadata_takes_the_defaults_and_says_so(tmp_path, network, faces, caplog):
    network.save(tmp_path / "plain.keras")
    with caplog.at_level(logging.INFO, logger="tf_sphereface"):
        embedder = load_embedder(tmp_path / "plain.keras")
    assert "carries no metadata" in caplog.text
    metadata = embedder.metadata
    assert (metadata.channel_order, metadata.pixel_mean, metadata.pixel_scale) == (
        "rgb",
        127.5,
        128.0,
    )
    assert (metadata.input_size, metadata.embedding_dim) == (SIZE, 10)


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


# Files


def test_wrong_files_are_named(tmp_path):
    for suffix in ("keras", "tflite", "onnx"):
        with pytest.raises(FileNotFoundError, match=f"none.{suffix}"):
            load_embedder(tmp_path / f"none.{suffix}")
        path = tmp_path / f"wrong.{suffix}"
        path.write_bytes(b"this is no model at all")
        with pytest.raises(ValueError, match=f"wrong.{suffix} is not a"):
            load_embedder(path)
    (tmp_path / "x.h5").touch()
    with pytest.raises(ValueError, match=r"must end in .keras, .tflite, .onnx. Received: .*x.h5"):
        load_embedder(tmp_path / "x.h5")


def test_broken_files_are_named(tmp_path, tflite, network):
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("a.txt", "nothing")
    with pytest.raises(ValueError, match=r"empty.keras cannot be loaded by Keras"):
        load_embedder(tmp_path / "empty.keras")
    save_embedder(network, tmp_path / "x.keras")
    with zipfile.ZipFile(tmp_path / "x.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"{broken" if name == "tf_sphereface.json" else content)
    with pytest.raises(ValueError, match=r"x.keras: its metadata cannot be read"):
        load_embedder(tmp_path / "x.keras")


def test_batch_size_must_be_positive(network):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        load_embedder(network, batch_size=0)


def test_plain_keras_opens_what_is_saved(tmp_path, network, faces, expected):
    path = tmp_path / "embedder.keras"
    save_embedder(network, path, EmbedderMetadata(threshold=0.25, extra={"note": "x"}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["embedder.keras"]
    with zipfile.ZipFile(path) as archive:
        classes = set()
        collect(json.loads(archive.read("config.json")), classes)
    assert all(module.startswith("keras") for module in classes)
    loaded = keras.models.load_model(path)
    values = (faces.astype(np.float32) - 127.5) / 128
    assert loaded.predict(values, verbose=0) == pytest.approx(expected, abs=1e-6)
    metadata = read_metadata(path)
    assert (metadata.threshold, metadata.embedding_dim, metadata.input_size) == (0.25, 10, SIZE)
    assert metadata.extra == {"note": "x"}
    assert metadata.versions["keras"] == keras.__version__
    assert load_embedder(path)(faces) == pytest.approx(expected, abs=1e-5)


def collect(value, found):
    """Add the module of every class in a Keras configuration."""
    if isinstance(value, dict):
        if value.get("class_name") and value.get("module"):
            found.add(value["module"])
        for entry in value.values():
            collect(entry, found)
    elif isinstance(value, list):
        for entry in value:
            collect(entry, found)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_mixed_precision_network_is_saved_in_float32(tmp_path, faces, expected, policy):
    mixed = make_network(policy)
    save_embedder(mixed, tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    assert load_embedder(tmp_path / "x.keras")(faces) == pytest.approx(expected, abs=1e-5)
    assert load_embedder(mixed)(faces).dtype == np.float32
    network = make_network()
    assert in_float32(network) is network


def test_layers_that_plain_keras_lacks_are_refused(tmp_path):
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    image = keras.Input((*SIZE, 3))
    model = keras.Model(image, Own()(keras.layers.Flatten()(image)))
    with pytest.raises(ValueError, match=r"Keras' own layers.*Received: Own"):
        save_embedder(model, tmp_path / "x.keras")
    with pytest.raises(ValueError, match=r"must end in .keras"):
        save_embedder(make_network(), tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


# Which part of a model is the backbone


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
    image = keras.Input((*SIZE, 3))
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
        (keras.Sequential([layers.Flatten()]), "0 inputs"),
    ]
    for model, message in cases:
        with pytest.raises(ValueError, match=message):
            as_backbone(model)
    with pytest.raises(ValueError, match=r"must be a keras.Model. Received: str"):
        as_backbone("model.keras")


# Metadata

TEXT = st.none() | st.text(max_size=20)
METADATA = st.builds(
    EmbedderMetadata,
    input_size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    embedding_dim=st.none() | st.integers(1, 2048),
    channel_order=st.sampled_from(["rgb", "bgr"]),
    pixel_mean=st.floats(0, 255) | st.tuples(*[st.floats(0, 255)] * 3),
    pixel_scale=st.floats(0.5, 255),
    template=TEXT,
    normalized=st.booleans(),
    flip=st.sampled_from(["none", "concat", "sum"]),
    architecture=TEXT,
    margin=st.none() | st.floats(1, 4),
    threshold=st.none() | st.floats(-1, 1),
    versions=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    extra=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)


@settings(deadline=None)
@given(METADATA)
def test_metadata_survives_json(metadata):
    assert EmbedderMetadata.from_json(metadata.to_json()) == metadata


def test_metadata_survives_each_format(tmp_path, network, tflite):
    metadata = EmbedderMetadata(
        input_size=SIZE, embedding_dim=10, threshold=0.3, training_data="Gesichter, ×2"
    )
    save_embedder(network, tmp_path / "x.keras", metadata)
    content = (tflite / "any.tflite").read_bytes()
    (tmp_path / "x.tflite").write_bytes(add_tflite_metadata(content, metadata.to_json()))
    write_onnx(tmp_path / "x.onnx")
    assert read_metadata(tmp_path / "x.onnx") is None
    assert read_metadata(tflite / "any.tflite") is None
    add_onnx_metadata(tmp_path / "x.onnx", metadata)
    for name in ("x.keras", "x.tflite", "x.onnx"):
        read = read_metadata(tmp_path / name)
        assert (read.threshold, read.training_data) == (0.3, "Gesichter, ×2")
        assert load_embedder(tmp_path / name, threads=1).metadata.threshold == 0.3


def test_a_later_versions_keys_are_kept():
    metadata = EmbedderMetadata.from_json('{"embedding_dim": 4, "colour": 7, "extra": {"a": 1}}')
    assert metadata.extra == {"a": 1, "colour": 7}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": (112,)}, "input_size"),
        ({"input_size": (112, 0)}, "input_size"),
        ({"channel_order": "grb"}, "channel_order must be one of"),
        ({"flip": "yes"}, "flip must be one of"),
        ({"pixel_mean": (1.0, 2.0)}, "pixel_mean must be one number or three"),
        ({"pixel_scale": 0.0}, "pixel_scale must be positive"),
        ({"threshold": 1.5}, "threshold must be a cosine"),
    ],
)
def test_metadata_outside_its_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EmbedderMetadata(**fields)


def test_metadata_that_is_no_json_object_is_refused():
    for text in ("{", "[1]", "7"):
        with pytest.raises(ValueError, match="metadata must be"):
            EmbedderMetadata.from_json(text)


def test_tflite_metadata_is_replaced_not_piled_up(tmp_path, tflite):
    content = (tflite / "any.tflite").read_bytes()
    once = add_tflite_metadata(content, "first")
    twice = add_tflite_metadata(once, "another text")
    (tmp_path / "x.tflite").write_bytes(twice)
    assert read_tflite_metadata(tmp_path / "x.tflite") == "another text"
    assert len(twice) - len(once) < 64


def test_tflite_metadata_leaves_the_network_alone(tmp_path, tflite, faces):
    from ai_edge_litert.schema_py_generated import Model

    content = (tflite / "any.tflite").read_bytes()
    changed = add_tflite_metadata(content, "some text")
    (tmp_path / "x.tflite").write_bytes(changed)
    before = load_embedder(tflite / "any.tflite", threads=1)(faces)
    metadata = EmbedderMetadata()
    (tmp_path / "x.tflite").write_bytes(add_tflite_metadata(content, metadata.to_json()))
    assert np.array_equal(load_embedder(tmp_path / "x.tflite", threads=1)(faces), before)
    model = Model.GetRootAs(changed, 0)
    for i in range(model.BuffersLength()):
        data = model.Buffers(i).DataAsNumpy()
        if model.Buffers(i).DataLength():
            offset = data.ctypes.data - np.frombuffer(changed, np.uint8).ctypes.data
            assert offset % 16 == 0


def test_tflite_metadata_refuses_other_bytes():
    with pytest.raises(ValueError, match="TFL3"):
        add_tflite_metadata(b"PK\x03\x04 a zip", "text")
    with pytest.raises(ValueError, match="text must not be empty"):
        add_tflite_metadata(b"\0\0\0\0TFL3", "")
