"""Import of ONNX files: how the model is fed, the parity check, the command, and training on."""

from __future__ import annotations

import json
import warnings

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import tf_sphereface as sf
from tests.importers.onnx_graphs import SIZE, Maker, iresnet, mobilefacenet
from tf_sphereface.commands import import_
from tf_sphereface.embedder import load_embedder, read_metadata
from tf_sphereface.importers import import_checkpoint, source_parity
from tf_sphereface.utils.messages import SphereFaceWarning

FED = {"channel_order": "bgr", "pixel_mean": 127.5, "pixel_scale": 127.5}


@pytest.fixture(scope="module")
def faces():
    return np.random.default_rng(3).integers(0, 256, (3, *SIZE, 3), np.uint8)


@pytest.fixture
def network(tmp_path):
    add, output = mobilefacenet()
    return add.save(tmp_path / "network.onnx", output)


def fed_alike(imported, path, faces, **source):
    """Compare the imported model, fed by its own facts, with the file, fed as is said here."""
    expected = load_embedder(path, **{"channel_order": "rgb", **source})(faces)
    actual = load_embedder(imported.model)(faces)
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


def test_facts_that_are_given(network, faces):
    imported = import_checkpoint(network, **FED)
    assert {**imported.facts, **FED} == imported.facts
    assert imported.parity.relative_error < 1e-5
    assert imported.parity.cosine > 0.999999
    fed_alike(imported, network, faces, **FED)


def test_a_guess_is_said(network):
    with pytest.warns(SphereFaceWarning, match=r"network\.onnx has no metadata: taking RGB and"):
        imported = import_checkpoint(network)
    assert set(imported.facts["assumed"]) >= {"channel_order", "pixel_mean", "pixel_scale"}
    with pytest.warns(SphereFaceWarning, match="a guess"):
        load_embedder(imported.model)


def normalized(first, batch="n", **options):
    """A graph that begins with operators of its own on the pixels."""
    add = Maker(17, batch=batch, **options)
    x = add.conv(first(add, add.input), 3, 4, strides=[4, 4])
    return add, add("Flatten", x)


def channels(*numbers):
    return np.asarray(numbers, np.float32).reshape(1, 3, 1, 1)


def norm_of_pixels(add, x):
    mean, variance = np.asarray([120.0, 110, 100]), np.asarray([64.0**2, 60**2, 56**2])
    return add("BatchNormalization", x, np.ones(3), np.zeros(3), mean, variance, epsilon=0.0)


STARTS = {
    "caffe": (lambda add, x: add("Sub", x, np.float32(127.5)), 127.5, 1),
    "mxnet": (
        lambda add, x: add("Mul", add("Sub", x, np.float32(127.5)), np.float32(0.0078125)),
        127.5,
        128,
    ),
    "to_one_and_back": (
        lambda add, x: add("Div", add("Sub", add("Div", add("Cast", add("Identity", x), to=1),
                           np.float32(255)), channels(0.485, 0.456, 0.406)),
                           channels(0.229, 0.224, 0.225)),
        (123.675, 116.28, 103.53),
        (58.395, 57.12, 57.375),
    ),
    "affine": (
        lambda add, x: add("Add", add("Mul", x, np.float32(1 / 127.5)), np.float32(-1)),
        127.5,
        127.5,
    ),
    "batch_norm": (norm_of_pixels, (120, 110, 100), (64, 60, 56)),
}  # fmt: skip


@pytest.mark.parametrize("start", STARTS)
def test_normalisation_at_the_start_becomes_metadata(tmp_path, faces, start):
    first, mean, scale = STARTS[start]
    add, output = normalized(first)
    path = add.save(tmp_path / "x.onnx", output)
    imported = import_checkpoint(path, channel_order="rgb")
    assert imported.facts["pixel_mean"] == pytest.approx(mean, rel=1e-6)
    assert imported.facts["pixel_scale"] == pytest.approx(scale, rel=1e-6)
    assert not {"pixel_mean", "pixel_scale"} & set(imported.facts["assumed"])
    names = {type(layer).__name__ for layer in imported.model.layers}
    assert not {"Rescaling", "BatchNormalization"} & names
    fed_alike(imported, path, faces, pixel_mean=0, pixel_scale=1)


def test_normalisation_of_pixels_of_0_to_1(tmp_path, faces):
    def of_one(add, x):
        return add("Div", add("Sub", x, channels(0.5, 0.4, 0.3)), np.float32(0.5))

    path = normalized(of_one)[0].save(tmp_path / "x.onnx", normalized(of_one)[1])
    with pytest.warns(SphereFaceWarning, match=r"\(x - \(127.5, 102, 76.5\)\) / 127.5, a guess"):
        imported = import_checkpoint(path, channel_order="rgb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SphereFaceWarning)
        fed_alike(imported, path, faces, pixel_mean=0, pixel_scale=255)
    told = import_checkpoint(path, channel_order="rgb", pixel_scale=255)
    assert told.facts["assumed"] in ([], ["template"])
    assert told.facts["pixel_mean"] == (127.5, 102.0, 76.5)


def test_a_normalisation_behind_a_flip_is_pointed_out(tmp_path):
    """What comes before it is no fact of the file: it would be normalised twice."""

    def flipped(add, x):
        return add("Sub", add("Gather", x, np.asarray([2, 1, 0]), axis=1), np.float32(127.5))

    add, output = normalized(flipped)
    path = add.save(tmp_path / "x.onnx", output)
    with pytest.warns(SphereFaceWarning) as caught:
        imported = import_checkpoint(path)
    assert any("normalised twice" in str(each.message) for each in caught)
    with pytest.warns(SphereFaceWarning) as caught:
        load_embedder(imported.model)
    assert any("normalised twice" in str(each.message) for each in caught)


def test_a_graph_that_takes_uint8(tmp_path, faces):
    add = Maker(17, shape=["n", *SIZE, 3])
    add.input_type = TensorProto.UINT8
    x = add("Sub", add("Cast", add.input, to=1), np.asarray([104.0, 117, 123]))
    x = add.conv(add("Transpose", x, perm=[0, 3, 1, 2]), 3, 4)
    path = add.save(tmp_path / "x.onnx", add("Flatten", x))
    imported = import_checkpoint(path, channel_order="rgb")
    assert imported.facts["pixel_mean"] == (104, 117, 123)
    fed_alike(imported, path, faces)
    with pytest.raises(ValueError, match="`pixel_mean` must be left out"):
        import_checkpoint(path, channel_order="rgb", pixel_mean=127.5)


def test_slopes_that_are_constants_of_operators_are_said(tmp_path):
    """A PReLU in parts, as TensorFlow's converter writes it; fine-tuning leaves them."""

    def parts(add, x):
        below = add("Mul", add("Relu", add("Neg", x)), channels(-0.1, -0.2, -0.3))
        return add("Add", add("Relu", x), below)

    add, output = normalized(parts)
    imported = import_checkpoint(add.save(tmp_path / "x.onnx", output), **FED)
    assert imported.read_as.endswith("; 1 Mul or Add by channel stay constants, which "
                                     "fine-tuning does not train")  # fmt: skip
    assert len(imported.model.trainable_variables) == 2  # of the convolution


def test_what_is_no_normalisation_stays(tmp_path, faces):
    """Of two branches one alone is scaled; a first normalisation of small numbers is trained."""

    def branches(add, x):
        return add("Add", x, add("Mul", x, np.float32(2)))

    add, output = normalized(branches)
    imported = import_checkpoint(add.save(tmp_path / "x.onnx", output), **FED)
    assert any(isinstance(layer, keras.layers.Rescaling) for layer in imported.model.layers)
    add, output = normalized(lambda add, x: add.norm(x, 3))
    imported = import_checkpoint(add.save(tmp_path / "y.onnx", output), **FED)
    assert isinstance(imported.model.layers[1], keras.layers.BatchNormalization)
    assert imported.facts["pixel_scale"] == 127.5


def test_our_own_files_know_how_they_are_fed(tmp_path, faces):
    image = keras.Input((*SIZE, 3), name="image_bgr_mean_100_scale_64")
    x = keras.layers.PReLU(shared_axes=[1, 2])(keras.layers.Conv2D(4, 3, strides=2)(image))
    model = keras.Model(image, keras.layers.Dense(6)(keras.layers.Flatten()(x)))
    for dtype in ("float32", "uint8"):
        path = tmp_path / f"{dtype}.onnx"
        sf.export.export_onnx(model, path, input_dtype=dtype)
        imported = import_checkpoint(path)
        assert not {"channel_order", "pixel_mean"} & set(imported.facts["assumed"])
        np.testing.assert_allclose(
            load_embedder(imported.model)(faces), load_embedder(model)(faces), atol=1e-4
        )


@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_any_batch_becomes_a_free_one(tmp_path, faces, batch):
    add, output = iresnet(11, by_shape=True, batch=batch)
    imported = import_checkpoint(add.save(tmp_path / "x.onnx", output), **FED)
    assert imported.model.output_shape == (None, 10)
    assert imported.parity.relative_error < 1e-4


def test_images_of_any_size(tmp_path):
    add = Maker(17, shape=["n", 3, "h", "w"])
    output = add("Flatten", add("GlobalAveragePool", add.conv(add.input, 3, 4)))
    path = add.save(tmp_path / "x.onnx", output)
    with pytest.warns(SphereFaceWarning, match="any size: 112x112 are taken, a guess"):
        imported = import_checkpoint(path, **FED)
    assert imported.model.input_shape == (None, 112, 112, 3)
    assert imported.parity.relative_error < 1e-4
    imported = import_checkpoint(path, input_size=(20, 16), **FED)
    assert imported.model.input_shape[1:3] == (20, 16)
    assert imported.parity.relative_error < 1e-4
    with pytest.warns(SphereFaceWarning, match="any size: taking 112x112, a guess"):
        assert load_embedder(path, **FED).input_size == (112, 112)
    fixed, output = mobilefacenet()
    fixed.save(tmp_path / "y.onnx", output)
    with pytest.raises(ValueError, match=r"`input_size` must be the file's own, 16x12"):
        import_checkpoint(tmp_path / "y.onnx", input_size=(20, 16))


def test_of_several_outputs_one_is_named(tmp_path):
    add, output = mobilefacenet()
    path = add.save(tmp_path / "x.onnx", output, add("Relu", output))
    with pytest.raises(ValueError, match=rf"it has 2 outputs, '{output}'.*--key"):
        import_checkpoint(path, **FED)
    imported = import_checkpoint(path, key=output, **FED)
    assert imported.left_out == [f"output '{int(output) + 1}'"]
    with pytest.raises(ValueError, match="no output 'embedding'"):
        import_checkpoint(path, key="embedding", **FED)


def test_a_model_that_computes_something_else_is_refused(network, monkeypatch):
    runner = source_parity.OnnxRunner
    monkeypatch.setattr(source_parity, "OnnxRunner", lambda *a: lambda x: runner(*a)(x) + 0.01)
    with pytest.raises(ValueError, match="does not compute what the file computes: a relative err"):
        import_checkpoint(network, **FED)


def test_no_parity_without_onnxruntime(network, monkeypatch):
    def absent(*arguments, **options):
        raise ImportError("onnxruntime is needed here")

    monkeypatch.setattr(source_parity, "OnnxRunner", absent)
    parity = import_checkpoint(network, **FED).parity
    assert parity == "no parity check was possible: onnxruntime is needed here"


def test_the_command(network, tmp_path, faces, capsys):
    out, report = tmp_path / "model.keras", tmp_path / "report.json"
    options = ["--channel-order", "bgr", "--pixel-mean", "127.5", "--pixel-scale", "127.5"]
    assert import_.main([str(network), "--out", str(out), *options, "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "recognised: onnx, an ONNX model" in text
    assert "read: by pytorch, operator set 17, 8 Conv, 4 PRelu, 1 Add, 1 Flatten" in text
    assert "parity with the source: cosine 1.0000000, largest relative error" in text
    assert json.loads(report.read_text())["parity"]["relative_error"] < 1e-4
    metadata = read_metadata(out)
    assert {name: getattr(metadata, name) for name in FED} == FED
    assert (metadata.architecture, metadata.assumed) == ("network (ONNX)", ["template"])
    plain = keras.models.load_model(out)  # nothing of ours is in it
    np.testing.assert_allclose(
        plain((faces[..., ::-1] - 127.5) / 127.5), load_embedder(out)(faces), atol=1e-5
    )
    np.testing.assert_allclose(
        load_embedder(out)(faces), load_embedder(network, **FED)(faces), atol=1e-4
    )


def test_the_command_says_where_no_check_was_possible(network, tmp_path, capsys):
    model = onnx.load(network)
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("unheard_of", 1))
    onnx.save(model, network)  # which ONNX Runtime refuses, and Keras does not know
    options = ["--channel-order", "bgr", "--pixel-mean", "127.5", "--pixel-scale", "127.5"]
    assert import_.main([str(network), "--out", str(tmp_path / "x.keras"), *options]) == 0
    assert "no parity check was possible: ONNX Runtime does not run" in capsys.readouterr().out


@pytest.mark.parametrize("graph", [iresnet, mobilefacenet])
def test_an_imported_network_trains(tmp_path, faces, graph):
    add, output = graph()
    imported = import_checkpoint(add.save(tmp_path / "x.onnx", output), **FED)
    model = sf.FaceClassifier(imported.model, num_classes=3)
    model.compile(keras.optimizers.SGD(0.02), loss=sf.losses.CosFaceLoss(scale=8.0, margin=0.1))
    images = ((faces - 127.5) / 127.5).astype(np.float32)
    history = model.fit(images, np.arange(3), batch_size=3, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    sf.embedder.save_embedder(model, tmp_path / "trained.keras")
    np.testing.assert_allclose(
        load_embedder(tmp_path / "trained.keras")(faces), load_embedder(model)(faces), atol=1e-5
    )


@pytest.mark.slow
def test_a_real_embedder(real_data):
    """Its embeddings are ONNX Runtime's, and a few steps of training lower the loss."""
    path = real_data / "phone_onnx" / "fr_feature.onnx"
    fed = {"channel_order": "rgb", "pixel_mean": 127.5, "pixel_scale": 128.0}
    imported = import_checkpoint(path, **fed)
    assert imported.parity.relative_error < 1e-4
    assert imported.model.output_shape == (None, 512)
    model = sf.FaceClassifier(imported.model, num_classes=4)
    model.compile(keras.optimizers.SGD(1e-3), loss=sf.losses.CosFaceLoss(scale=16.0, margin=0.1))
    images = source_parity.seeded_images(112, 112)[:4]
    images = ((images - 127.5) / 128).astype(np.float32)
    history = model.fit(images, np.arange(4), batch_size=4, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
