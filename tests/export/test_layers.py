"""Which layers lose most in int8, and leaving those in float."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.embedder.small import KNOWN
from tf_sphereface.embedder import load_embedder, read_metadata
from tf_sphereface.export import ExportError, export_onnx, export_tflite, parity_table, pipeline

WRITERS = {"tflite": export_tflite, "onnx": export_onnx}


@pytest.fixture(scope="module")
def lopsided():
    """A network whose second convolution has one loud channel: its int8 steps drown the others."""
    keras.utils.set_random_seed(5)
    image = keras.Input((56, 48, 3), name=KNOWN)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu", name="first")(image)
    second = keras.layers.Conv2D(8, 3, strides=2, name="second")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="third")(
        keras.layers.Rescaling(1.0)(second(x))  # over which no channel's scale is moved
    )
    x = keras.layers.Dense(16, name="last")(keras.layers.Flatten()(x))
    net = keras.Model(image, x, name="lopsided")
    kernel = second.kernel.numpy()
    kernel[..., 0] *= 300
    second.kernel.assign(kernel)
    third = net.get_layer("third").kernel.numpy()
    third[:, :, 0] /= 300
    net.get_layer("third").kernel.assign(third)
    return net


@pytest.mark.parametrize("file_format", ["tflite", "onnx"])
def test_the_worst_layer_comes_first(lopsided, faces, tmp_path, monkeypatch, file_format):
    monkeypatch.setattr(pipeline, "require_parity", lambda *_, **__: None)
    path = tmp_path / f"m.{file_format}"
    report = WRITERS[file_format](lopsided, path, "int8", faces[:16], explain=True, batch=1)
    assert len(report.layers) == 4
    added = [layer.added for layer in report.layers]
    assert added == sorted(added, reverse=True)
    assert "third" in report.layers[0].name or "second" in report.layers[0].name
    assert all(0 <= layer.added <= layer.error for layer in report.layers)
    assert report.float_layers == ()


@pytest.mark.parametrize("file_format", ["tflite", "onnx"])
def test_the_worst_layers_stay_in_float_until_the_checks_pass(
    tiny_net, lopsided, faces, other_faces, tmp_path, monkeypatch, file_format
):
    judge, tried = pipeline.require_parity, []

    def strict(parity, kind, parameters, float_layers, **others):
        tried.append((float_layers, parity.cosine_mean))
        if float_layers < 3:
            raise ExportError("too far away")
        judge(parity, kind, parameters, float_layers, **others)

    monkeypatch.setattr(pipeline, "require_parity", strict)
    path = tmp_path / f"m.{file_format}"
    write = WRITERS[file_format]
    report = write(lopsided, path, "int8", faces[:16], float_layers=3, explain=True)
    assert [count for count, _ in tried] == [0, 1, 2, 3]
    assert tried[-1][1] > tried[0][1]  # it is nearer to Keras, too
    assert len(report.float_layers) == 3
    assert {layer.name for layer in report.layers if layer.in_float} == set(report.float_layers)
    assert read_metadata(path).extra["export"]["float_layers"] == list(report.float_layers)
    assert load_embedder(path)(other_faces).shape == (len(other_faces), 16)
    with pytest.raises(ExportError, match="too far away"):
        write(tiny_net, tmp_path / f"n.{file_format}", "int8", faces[:16], float_layers=1)
    assert all(p.name.startswith(path.name) for p in tmp_path.iterdir())


def test_an_interrupt_while_explaining_leaves_the_old_file(tiny_net, faces, tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"the old file")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline._Work, "_explain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_tflite(tiny_net, path, "int8", faces[:8], explain=True)
    assert path.read_bytes() == b"the old file"
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_a_table_of_keras_and_every_file(tiny_net, faces, tmp_path):
    export_tflite(tiny_net, tmp_path / "a.tflite", normalize=True)
    export_onnx(tiny_net, tmp_path / "b.onnx", "float16", flip_concat=True, batch=2)
    keras_row, a, b = parity_table(tiny_net, [tmp_path / "a.tflite", tmp_path / "b.onnx"], faces)
    assert (keras_row.name, keras_row.cosine_min, keras_row.size_bytes) == ("Keras", 1.0, None)
    assert keras_row.latency_keras_ms > 0
    for row, least in ((a, 0.999999), (b, 0.9999)):
        assert row.cosine_min > least
        assert row.cosine_min <= row.cosine_mean <= 1 + 1e-9
        assert min(row.latency_ms, row.latency_2_threads_ms) > 0
        assert row.size_bytes == (tmp_path / row.name).stat().st_size
        assert row.accuracy is None
    assert np.isfinite(a.max_abs)


def grouped() -> keras.Model:
    image = keras.Input((56, 48, 3), name=KNOWN)
    x = keras.layers.Conv2D(8, 3, strides=4)(image)
    x = keras.layers.Conv2D(
        8, 3, groups=4, padding="same", strides=2, activation="relu", name="by_fours"
    )(x)
    x = keras.layers.Conv2D(12, 3, groups=2, dilation_rate=2, use_bias=False)(x)
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


def test_a_grouped_convolution_is_exported(tmp_path):
    assert export_onnx(grouped(), tmp_path / "m.onnx").cosine_min > 0.99999
    assert export_tflite(grouped(), tmp_path / "m.tflite").cosine_min > 0.99999


def test_a_grouped_convolution_in_an_inner_model_is_refused_in_onnx(tmp_path):
    net = grouped()
    outer = keras.Model(image := keras.Input((56, 48, 3), name=KNOWN), net(image))
    with pytest.raises(ExportError, match=r"convolution in . groups inside"):
        export_onnx(outer, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
