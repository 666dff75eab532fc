"""How a network is fed: known from a file, an input's name or an argument, else guessed aloud."""

from __future__ import annotations

import copy
import warnings

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tf_sphereface as sf
from tests.embedder.small import FED, SIZE, add_onnx_metadata, make_network, write_onnx
from tf_sphereface.embedder import (
    Embedder,
    EmbedderMetadata,
    describe_file,
    load_embedder,
    read_metadata,
    save_embedder,
)
from tf_sphereface.embedder.input_facts import facts_in_name, input_name
from tf_sphereface.embedder.metadata_rewriting import replace_metadata
from tf_sphereface.embedder.model_hashes import network_sha256
from tf_sphereface.utils.messages import SphereFaceWarning

PIXELS = ["channel_order", "pixel_mean", "pixel_scale"]
BGR = {"channel_order": "bgr", "pixel_mean": 0.0, "pixel_scale": 255.0}


def fed(embedder):
    return {name: getattr(embedder.metadata, name) for name in PIXELS}


@pytest.fixture(scope="module")
def foreign():
    """A network that says nothing of how it is fed."""
    return make_network(name="image")


@pytest.fixture
def bgr_file(tmp_path, foreign):
    save_embedder(foreign, tmp_path / "bgr.keras", EmbedderMetadata(threshold=0.3, **BGR))
    return tmp_path / "bgr.keras"


def test_a_guess_is_said_and_marked(tmp_path, foreign, tflite):
    foreign.save(tmp_path / "plain.keras")
    write_onnx(tmp_path / "plain.onnx")
    said = r"no metadata: taking RGB and \(x - 127.5\) / 128, a guess.*--channel-order"
    for model in (
        foreign,
        tmp_path / "plain.keras",
        tmp_path / "plain.onnx",
        tflite / "any.tflite",
    ):
        with pytest.warns(SphereFaceWarning, match=said):
            embedder = load_embedder(model)
        assert fed(embedder) == FED
        assert embedder.metadata.assumed == [*PIXELS, "template"]
    with pytest.warns(SphereFaceWarning, match=said):
        assert Embedder.in_memory(foreign).metadata.assumed
    assert Embedder.in_memory(foreign, EmbedderMetadata()).metadata.assumed == []


def test_a_guess_is_not_written_as_a_fact(tmp_path, foreign, faces):
    path = tmp_path / "saved.keras"
    save_embedder(foreign, path)
    assert read_metadata(path).assumed == [*PIXELS, "template"]
    with pytest.warns(SphereFaceWarning, match="a guess"):
        embedder = load_embedder(path)
    replace_metadata(path, embedder.metadata)
    assert read_metadata(path).assumed == [*PIXELS, "template"]
    assert keras.models.load_model(path).inputs[0].name == "image"
    with pytest.warns(SphereFaceWarning, match="a guess"):
        sf.export.export_onnx(foreign, tmp_path / "x.onnx", calibration=faces)
    with pytest.warns(SphereFaceWarning, match="a guess"):
        load_embedder(tmp_path / "x.onnx")
    with pytest.warns(SphereFaceWarning, match="a guess"):
        sf.export.export_onnx(foreign, tmp_path / "u.onnx", calibration=faces, input_dtype="uint8")
    with pytest.warns(
        SphereFaceWarning, match=r"RGB and \(x - 127.5\) / 128 are built in, a guess"
    ):
        assert load_embedder(tmp_path / "u.onnx").metadata.input_dtype == "uint8"


def test_facts_that_are_given_are_taken(tmp_path, foreign, faces):
    foreign.save(tmp_path / "plain.keras")
    expected = foreign.predict(faces[..., ::-1] / np.float32(255), verbose=0)
    for model in (foreign, tmp_path / "plain.keras"):
        embedder = load_embedder(model, **BGR)
        assert embedder(faces) == pytest.approx(expected, abs=1e-5)
        assert embedder.metadata.assumed == ["template"]
    with pytest.warns(SphereFaceWarning, match=r"taking \(x - 127.5\) / 128, a guess"):
        partly = load_embedder(foreign, channel_order="bgr")
    assert partly.metadata.assumed == ["pixel_mean", "pixel_scale", "template"]


def test_given_facts_win_over_the_files_and_its_threshold_falls(bgr_file):
    with pytest.warns(SphereFaceWarning) as said:
        embedder = load_embedder(bgr_file, channel_order="rgb", pixel_mean=0)
    texts = " ".join(str(each.message) for each in said)
    assert "taking channel_order rgb as given; its metadata says channel_order bgr" in texts
    assert "threshold 0.3000 is left out" in texts
    assert (embedder.metadata.channel_order, embedder.metadata.threshold) == ("rgb", None)
    assert load_embedder(bgr_file, **BGR).metadata.threshold == 0.3  # the same facts


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"pixel_scale": 0}, "`pixel_scale` must be positive"),
        ({"pixel_scale": -1.0}, "`pixel_scale` must be positive"),
        ({"pixel_mean": float("nan")}, "`pixel_mean` must be one number or three, finite"),
        ({"pixel_mean": [1.0, 2.0]}, "`pixel_mean` must be one number or three"),
        ({"channel_order": "gbr"}, "`channel_order` must be one of 'rgb', 'bgr'"),
        ({"layout": "nchw"}, "`layout` must be 'nhwc'"),
    ],
)
def test_nonsense_is_refused(foreign, facts, message):
    with pytest.raises(ValueError, match=message):
        load_embedder(foreign, **facts)


def test_facts_are_for_models_not_for_embedders(network):
    with pytest.raises(ValueError, match="an Embedder has been opened with its own"):
        load_embedder(load_embedder(network), channel_order="bgr")


def test_a_scale_for_pixels_of_0_to_1_is_pointed_out(foreign):
    with pytest.warns(SphereFaceWarning, match="Pixels here are 0 to 255"):
        load_embedder(foreign, channel_order="rgb", pixel_mean=0.5, pixel_scale=0.5)


def test_three_means_and_scales(foreign, faces):
    mean, scale = (104.0, 117.0, 123.0), np.array([58.0, 57.0, 56.0], np.float32)
    embedder = load_embedder(foreign, channel_order="bgr", pixel_mean=mean, pixel_scale=scale)
    values = (faces[..., ::-1].astype(np.float32) - np.float32(mean)) / scale
    assert embedder(faces) == pytest.approx(foreign.predict(values, verbose=0), abs=1e-4)


@pytest.mark.parametrize("told", ["nhwc", "nchw"])
def test_a_layout_that_the_shape_leaves_open(tmp_path, faces, told):
    weights = write_onnx(tmp_path / "x.onnx", channels_first=told == "nchw")
    model = onnx.load(tmp_path / "x.onnx")
    for number, side in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        side.dim_param = f"side{number}"
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="say layout"):
        load_embedder(tmp_path / "x.onnx", **FED)
    size = "of any size: taking 112x112, a guess"
    message = "cannot be run on images of 112x112"
    with pytest.warns(SphereFaceWarning, match=size), pytest.raises(ValueError, match=message):
        load_embedder(tmp_path / "x.onnx", **FED, layout=told)(np.zeros((1, 112, 112, 3), np.uint8))
    add_onnx_metadata(tmp_path / "x.onnx", EmbedderMetadata(input_size=SIZE, layout=told))
    values = (faces.astype(np.float32) - 127.5) / 128
    ordered = values.transpose(0, 3, 1, 2) if told == "nchw" else values
    embeddings = load_embedder(tmp_path / "x.onnx")(faces)
    assert embeddings == pytest.approx(ordered.reshape(len(faces), -1) @ weights, abs=1e-4)
    write_onnx(tmp_path / "y.onnx", channels_first=told == "nchw")
    other = "nhwc" if told == "nchw" else "nchw"
    with pytest.raises(ValueError, match=f"`layout` must be '{told}', as the shape"):
        load_embedder(tmp_path / "y.onnx", **FED, layout=other)


def test_a_file_that_takes_pixels_has_no_mean(tmp_path):
    write_onnx(tmp_path / "x.onnx", dtype=TensorProto.UINT8)
    with pytest.warns(SphereFaceWarning, match="taking RGB, a guess"):
        metadata = load_embedder(tmp_path / "x.onnx").metadata
    assert (metadata.input_dtype, metadata.pixel_mean, metadata.pixel_scale) == ("uint8", 0, 1)
    with pytest.raises(ValueError, match="no mean and no scale can be applied"):
        load_embedder(tmp_path / "x.onnx", pixel_mean=127.5)
    described = describe_file(tmp_path / "x.onnx", channel_order="bgr")
    assert (described.channel_order, described.input_dtype) == ("bgr", "uint8")
    assert load_embedder(tmp_path / "x.onnx", pixel_mean=0, pixel_scale=1).metadata == described


def test_a_network_of_any_size_warns_unless_its_file_says_of_which(tmp_path):
    image = keras.Input((None, None, 3))
    network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    network.save(tmp_path / "plain.keras")
    with pytest.warns(SphereFaceWarning, match="any size: taking 112x112, a guess"):
        assert load_embedder(tmp_path / "plain.keras", **FED).input_size == (112, 112)
    facts = EmbedderMetadata(**FED, input_size=(40, 30))
    save_embedder(network, tmp_path / "said.keras", facts)
    assert load_embedder(tmp_path / "said.keras").input_size == (40, 30)


def test_figures_do_not_outlive_the_way_that_they_were_measured_with(tmp_path):
    extra = {"measured": {"LFW": {"accuracy": 0.99}}, "licence": "MIT"}
    extra["export"] = {"format": "onnx", "quantize": "int8", "cosine_min": 0.9}
    write_onnx(tmp_path / "x.onnx")
    facts = EmbedderMetadata(**FED, input_size=SIZE, layout="nchw", extra=extra)
    add_onnx_metadata(tmp_path / "x.onnx", facts)
    same = describe_file(tmp_path / "x.onnx", channel_order=FED["channel_order"])
    assert same.extra == extra
    with pytest.warns(SphereFaceWarning, match="its metadata says"):
        other = describe_file(tmp_path / "x.onnx", pixel_scale=255)
    assert other.extra == {"licence": "MIT", "export": {"format": "onnx", "quantize": "int8"}}


# Facts stay with a network in memory --------------------------------------------------------------


def test_facts_stay_whatever_is_made_of_the_network(tmp_path, bgr_file, faces):
    right = load_embedder(bgr_file)(faces)
    loaded = keras.saving.load_model(bgr_file)
    loaded.save(tmp_path / "again.keras")
    classifier = sf.FaceClassifier(loaded, 3)
    classifier.save(tmp_path / "classifier.keras")
    clone = keras.models.clone_model(loaded)
    clone.set_weights(loaded.get_weights())
    image = keras.Input((*SIZE, 3))
    save_embedder(loaded, tmp_path / "saved.keras")
    networks = {
        "loaded by Keras": loaded,
        "from_preset": sf.backbones.from_preset(bgr_file),
        "of the embedder": load_embedder(bgr_file).backbone,
        "in a classifier": classifier.backbone,
        "the classifier": classifier,
        "of a classifier's file": keras.saving.load_model(tmp_path / "classifier.keras"),
        "a classifier's file": tmp_path / "classifier.keras",
        "with a head": keras.Model(loaded.input, sf.layers.AngularDense(3)(loaded.output)),
        "a clone": clone,
        "a copy": copy.deepcopy(loaded),
        "inside another": keras.Model(image, loaded(image)),
        "saved by Keras": tmp_path / "again.keras",
        "saved again by Keras": keras.saving.load_model(tmp_path / "again.keras"),
        "saved without metadata": tmp_path / "saved.keras",
    }
    for name, network in networks.items():
        embedder = load_embedder(network)  # a guess would be a warning
        assert fed(embedder) == BGR, name
        assert embedder(faces) == pytest.approx(right, abs=1e-5), name


def test_a_threshold_stays_with_the_network_that_it_was_measured_on(bgr_file):
    network = sf.backbones.from_preset(bgr_file)
    assert load_embedder(network).metadata.threshold == 0.3
    assert Embedder.in_memory(network, float32=True).metadata.threshold == 0.3
    cut = keras.Model(network.inputs[0], network.layers[-2].output)
    for changed in (cut, network):
        if changed is network:
            network.set_weights([2 * weight for weight in network.get_weights()])
        with pytest.warns(SphereFaceWarning, match="threshold of its file is left out"):
            metadata = load_embedder(changed).metadata
        assert metadata.threshold is None
        assert (metadata.channel_order, metadata.pixel_scale) == ("bgr", 255.0)


def test_files_of_former_versions_keep_their_facts_through_from_preset(tmp_path, foreign):
    """Their input's name tells nothing; what from_preset has read is remembered."""
    import zipfile

    foreign.save(tmp_path / "old.keras")
    with zipfile.ZipFile(tmp_path / "old.keras", "a") as archive:
        archive.writestr("tf_sphereface.json", '{"channel_order": "bgr", "template": null}')
    network = sf.backbones.from_preset(tmp_path / "old.keras")
    for model in (network, sf.FaceClassifier(network, 3), tmp_path / "old.keras"):
        metadata = load_embedder(model).metadata
        assert (metadata.channel_order, metadata.assumed) == ("bgr", [])


@pytest.mark.parametrize(
    "facts",
    [
        {"pixel_mean": 127.5, "pixel_scale": 128},
        {"channel_order": "bgr", "pixel_mean": -1.0, "pixel_scale": 1e-7},
        {"pixel_mean": (103.939, 116.779, 123.68), "pixel_scale": (1e22, 0.017, 3.0)},
    ],
)
def test_the_name_of_an_input_tells_the_facts(facts):
    metadata = EmbedderMetadata(**facts)
    name = input_name(metadata)
    assert name.isidentifier()
    assert facts_in_name(name) == {key: getattr(metadata, key) for key in PIXELS}
    for other in ("image", "image_rgb_mean_e_scale_p", "image_rgb_mean_0_scale_0"):
        assert facts_in_name(other) is None


def test_a_file_is_described_once_and_for_all(tmp_path, foreign, tflite, faces):
    foreign.save(tmp_path / "x.keras")
    write_onnx(tmp_path / "x.onnx")
    (tmp_path / "x.tflite").write_bytes((tflite / "any.tflite").read_bytes())
    for path in sorted(tmp_path.iterdir()):
        expected = load_embedder(path, **BGR)(faces)
        assert describe_file(path, **BGR).assumed == ["template"]
        assert fed(load_embedder(path)) == BGR
        assert load_embedder(path)(faces) == pytest.approx(expected, abs=1e-4)
    assert fed(load_embedder(keras.saving.load_model(tmp_path / "x.keras"))) == BGR
    with pytest.raises(ValueError, match="one must be given"):
        describe_file(tmp_path / "x.keras")


# A network that normalises by itself ------------------------------------------------------------


def scaled(kind):
    """A network that takes pixels of 0 to 255, in one of the ways that people write it."""
    layers, image = keras.layers, keras.Input((*SIZE, 3))
    if kind == "nested":
        inner = keras.Sequential([keras.Input((*SIZE, 3)), layers.Rescaling(1 / 255)])
        first = inner(layers.ZeroPadding2D(0)(image))
    else:
        first = {
            "Rescaling": lambda x: layers.Rescaling(1 / 255)(x),
            "Normalization": lambda x: layers.Normalization(mean=127.5, variance=1.0)(x),
            "operators": lambda x: (x - 127.5) / 128.0,
            "reversed": lambda x: x[..., ::-1] * (1 / 255),
        }[kind](image)
    return keras.Model(image, layers.Dense(4)(layers.Flatten()(first)))


@pytest.mark.parametrize("kind", ["Rescaling", "Normalization", "operators", "reversed", "nested"])
def test_a_network_that_normalises_its_pixels_is_pointed_out(kind):
    with pytest.warns(SphereFaceWarning) as said:
        load_embedder(scaled(kind))
    assert any("normalise its pixels itself" in str(each.message) for each in said)
    load_embedder(scaled(kind), channel_order="rgb", pixel_mean=0, pixel_scale=1)  # says nothing


def test_a_sum_further_on_is_no_normalisation(foreign):
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(3, 3, padding="same")(image)
    x = keras.layers.Flatten()(keras.layers.Add()([x, image]) * 0.5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_embedder(keras.Model(image, x))
    assert len(said) == 1
    assert "a guess" in str(said[0].message)


@pytest.mark.parametrize("operation", ["Sub", "Mul"])
def test_a_graph_that_normalises_its_pixels_is_pointed_out(tmp_path, operation):
    path = tmp_path / "x.onnx"
    weights = np.ones((SIZE[0] * SIZE[1] * 3, 4), np.float32)
    nodes = [
        helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node(operation, ["turned", "number"], ["scaled"], name="first"),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *SIZE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(np.float32(2.0), "number"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    with pytest.warns(SphereFaceWarning) as said:
        load_embedder(path, threads=1)
    assert any(f"begins with {operation} 'first'" in str(each.message) for each in said)


def test_a_tflite_file_that_normalises_its_pixels_is_pointed_out(tmp_path):
    import tensorflow as tf

    content = tf.lite.TFLiteConverter.from_keras_model(scaled("operators")).convert()
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.warns(SphereFaceWarning) as said:
        load_embedder(tmp_path / "x.tflite", threads=1)
    assert any("begins with Sub" in str(each.message) for each in said)


def test_a_note_of_the_import_goes_when_the_fact_is_another(tmp_path, foreign):
    notes = ["Channels are BGR: sphere20a.", "Pixels are scaled as was said.", "Trained on CASIA."]
    save_embedder(foreign, tmp_path / "a.keras", EmbedderMetadata(extra={"notes": notes}, **BGR))
    with pytest.warns(SphereFaceWarning, match="taking channel_order rgb as given"):
        metadata = describe_file(tmp_path / "a.keras", channel_order="rgb")
    assert metadata.extra["notes"] == notes[1:]


def test_what_a_network_is_does_not_depend_on_what_is_known_of_it(tmp_path, foreign):
    """A gallery whose model is calibrated or described later knows it still."""
    foreign.save(tmp_path / "a.keras")
    before = network_sha256(tmp_path / "a.keras")
    describe_file(tmp_path / "a.keras", **BGR)
    assert network_sha256(tmp_path / "a.keras") == before
    assert network_sha256(tmp_path / "a.keras", as_named=True) != before
    foreign.set_weights([weight + 1 for weight in foreign.get_weights()])
    foreign.save(tmp_path / "b.keras")
    assert network_sha256(tmp_path / "b.keras") != before


def test_a_download_that_broke_off_is_named(tmp_path, tflite):
    content = (tflite / "any.tflite").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "half.tflite").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"half\.tflite"):
            load_embedder(tmp_path / "half.tflite")
