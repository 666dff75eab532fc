"""A failed export says why, leaves no file, and the old file as it was."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.embedder.small import KNOWN
from tf_sphereface.export import ExportError, export_onnx, export_tflite, parity, pipeline, tflite
from tf_sphereface.utils.optional import require


def fresh_net(name="tiny"):
    """A network of its own, so that no earlier conversion of it is at hand."""
    keras.utils.set_random_seed(4)
    image = keras.Input((56, 48, 3), name=KNOWN)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    x = keras.layers.Dense(16)(keras.layers.Flatten()(x))
    return keras.Model(image, x, name=name)


def spoil(net, how):
    """Return a network whose conversion stands for a converter's mistake."""
    copy = keras.models.clone_model(net)
    weights = net.get_weights()
    if how == "nan":
        weights = [np.full_like(weight, np.nan) for weight in weights]
    elif how == "noise":
        rng = np.random.default_rng(0)
        weights = [weight + rng.normal(0, 0.2, weight.shape) for weight in weights]
    elif how == "constant":
        weights[-2][:] = 0
        weights[-1][:] = 1
    copy.set_weights(weights)
    return copy


@pytest.mark.parametrize("write", [export_tflite, export_onnx])
@pytest.mark.parametrize(
    ("how", "message"),
    [("nan", "not finite"), ("noise", "cosine"), ("constant", "cosine")],
)
def test_a_converter_that_writes_garbage(monkeypatch, tmp_path, write, how, message):
    net = fresh_net()
    graph = pipeline.inference_graph
    monkeypatch.setattr(
        pipeline, "inference_graph", lambda net, *rest: graph(spoil(net, how), *rest)
    )
    path = tmp_path / f"m.{write.__name__.removeprefix('export_')}"
    path.write_bytes(b"the old file")
    sidecar = tmp_path / f"{path.name}.json"
    sidecar.write_text("the old sidecar")
    with pytest.raises(ExportError, match=message):
        write(net, path)
    assert path.read_bytes() == b"the old file"
    assert sidecar.read_text() == "the old sidecar"
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, sidecar.name]


def test_a_file_that_holds_no_weights(monkeypatch, tmp_path):
    """A right answer from a file of the wrong size is refused too."""
    net = fresh_net()
    monkeypatch.setattr(keras.Model, "count_params", lambda self: 10_000_000)
    with pytest.raises(ExportError, match="bytes, where"):
        export_tflite(net, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def replace_converter(monkeypatch, convert):
    """Put a function in the place of TensorFlow Lite's converter."""
    converter = types.SimpleNamespace(target_spec=types.SimpleNamespace(), convert=convert)
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", lambda folder: converter)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x1c\x00\x00\x00TFL3" + bytes(64)])
def test_a_converter_that_writes_no_model(monkeypatch, tmp_path, content):
    replace_converter(monkeypatch, lambda: content)
    with pytest.raises(ExportError):
        export_tflite(fresh_net(), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_a_converter_that_raises_is_named_with_its_reason(monkeypatch, tmp_path):
    def broken(*_, **__):
        os.write(2, b"a line from C++\n")
        raise RuntimeError("unsupported operator FOO")

    monkeypatch.setattr("tf2onnx.convert.from_function", broken)
    with pytest.raises(ExportError, match="unsupported operator FOO") as caught:
        export_onnx(fresh_net(), tmp_path / "m.onnx")
    assert "a line from C++" in "".join(caught.value.__cause__.__notes__)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(monkeypatch, tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    replace_converter(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_tflite(fresh_net(), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_and_spoils_nothing(monkeypatch, tmp_path):
    def full(content, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        tflite, "_TFLITE", dataclasses.replace(tflite._TFLITE, to_float=lambda *_: b"x", embed=full)
    )
    net = fresh_net()
    with pytest.raises(OSError, match="No space left"):
        export_tflite(net, tmp_path / "m.tflite")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    export_tflite(net, tmp_path / "m.tflite")  # what the broken converter returned is not kept


def test_a_folder_that_cannot_be_made(tmp_path, tiny_net):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        export_tflite(tiny_net, tmp_path / "file" / "m.tflite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "`quantize` must be one of 'none', 'float16', 'dynamic', 'int8'"),
        ({"quantize": "int8"}, "`calibration` must hold faces"),
        ({"quantize": "int8", "calibration": np.zeros((0, 56, 48, 3), np.uint8)}, "at least one"),
        ({"calibration": np.zeros((2, 56, 48, 3), np.float32)}, "uint8"),
        ({"calibration": np.zeros((2, 112, 96, 3), np.uint8)}, r"\(n, 56, 48, 3\)"),
        ({"path": "m.bin"}, "`path` must end in .tflite"),
    ],
)
def test_wrong_arguments(tiny_net, tmp_path, arguments, message):
    path = tmp_path / arguments.pop("path", "m.tflite")
    with pytest.raises(ValueError, match=message):
        export_tflite(tiny_net, path, **arguments)
    assert not list(tmp_path.iterdir())


def test_onnx_has_no_dynamic_kind(tiny_net, tmp_path):
    with pytest.raises(ValueError, match=r"one of 'none', 'float16', 'int8' for \.onnx files"):
        export_onnx(tiny_net, tmp_path / "m.onnx", quantize="dynamic")


def test_other_classifiers_are_refused(tiny_net, tmp_path):
    outputs = keras.layers.Dense(5, activation="softmax")(tiny_net.output)
    with pytest.raises(ValueError, match="classifier"):
        export_tflite(keras.Model(tiny_net.input, outputs), tmp_path / "m.tflite")


@pytest.mark.parametrize("kind", ["none", "int8"])
@pytest.mark.parametrize("write", [export_tflite, export_onnx])
def test_a_network_whose_training_has_diverged(tmp_path, write, kind):
    net = fresh_net()
    net.layers[1].bias.assign([np.nan] + [0.0] * 7)
    faces = np.zeros((8, 56, 48, 3), np.uint8)
    with pytest.raises(ExportError, match=r"1 weights of the model are not finite \(conv2d"):
        write(net, tmp_path / f"m.{write.__name__.removeprefix('export_')}", kind, faces)
    assert not list(tmp_path.iterdir())


def test_figures_that_are_not_finite_do_not_pass(tmp_path):
    good = parity.Parity(True, 1.0, 1.0, 1.0, 0.0, 0.0, float("nan"), 4_000, 48)
    parity.require_parity(good, "none", 1_000)
    few = dataclasses.replace(good, spread_cosine=float("nan"), faces=3)
    parity.require_parity(few, "none", 1_000)
    for name in ("cosine_min", "cosine_mean", "spread_cosine", "max_relative"):
        with pytest.raises(ExportError, match="does not compute what Keras computes"):
            parity.require_parity(dataclasses.replace(good, **{name: float("nan")}), "none", 1_000)
    infinite = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Rescaling(np.inf)])
    infinite.add(keras.layers.Flatten())
    with pytest.raises(ExportError, match="Keras itself returns numbers that are not finite"):
        parity.measure_parity(infinite, tmp_path / "m.onnx", np.ones((2, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("write", "module"),
    [
        (export_tflite, "ai_edge_litert.interpreter"),
        (export_onnx, "tf2onnx"),
        (export_onnx, "onnxslim"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, tmp_path, write, module):
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    path = tmp_path / f"m.{write.__name__.removeprefix('export_')}"
    with pytest.raises(ImportError, match=r"tf_sphereface\[export\]"):
        write(fresh_net(), path)
    assert not list(tmp_path.iterdir())


def test_importing_the_package_needs_no_extra():
    """A fresh interpreter in which no extra can be imported."""
    code = (
        "import sys\n"
        "for name in ('ai_edge_litert', 'litert_quantizer', 'tf2onnx', 'onnx', 'onnxruntime',"
        " 'onnxslim', 'sklearn', 'skimage', 'scipy', 'matplotlib', 'jinja2'):\n"
        "    sys.modules[name] = None\n"
        "import tf_sphereface.export, tf_sphereface.commands.export.main\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_require_names_the_extra():
    with pytest.raises(ImportError, match=r"tf_sphereface\[export\]"):
        require("a_module_that_is_not_there", extra="export")
