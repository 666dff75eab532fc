"""`tf_sphereface-export`, as it is typed."""

from __future__ import annotations

import dataclasses
import json

import cv2
import keras
import pytest

import tf_sphereface as sf
from tf_sphereface.commands.export import main
from tf_sphereface.data import synthetic
from tf_sphereface.embedder import EmbedderMetadata, read_metadata, save_embedder
from tf_sphereface.embedder.metadata import sidecar_path
from tf_sphereface.embedder.metadata_rewriting import replace_metadata
from tf_sphereface.embedder.model_card import card_path
from tf_sphereface.utils.files import sha256_file


@pytest.fixture
def model(tiny_net, tmp_path):
    path = tmp_path / "in" / "net.keras"
    path.parent.mkdir()
    save_embedder(tiny_net, path, EmbedderMetadata(loss="a-softmax", margin=4.0))
    return path


@pytest.fixture
def face_folder(faces, tmp_path):
    root = tmp_path / "faces"
    root.mkdir()
    for i, face in enumerate(faces[:20]):
        cv2.imwrite(str(root / f"{i}.png"), face[..., ::-1])
    return root


@pytest.mark.parametrize("order", ["before", "after"])
def test_flags_stand_before_or_after_the_model(model, order, capfd):
    arguments = [str(model)]
    arguments.insert(0 if order == "before" else 1, "--tflite")
    assert main.main(arguments) == 0
    assert sorted(path.name for path in model.parent.iterdir()) == [
        "net.keras",
        "net.tflite",
        "net.tflite.card.md",
        "net.tflite.json",
    ]
    output = capfd.readouterr()
    assert "net.tflite" in output.out
    assert "accuracy was not checked" in output.out
    for chatter in ("XNNPACK", "SavedModel", "WARNING", "Warning", "W0000"):
        assert chatter not in output.err + output.out


def test_several_files_in_another_folder(model, face_folder, tmp_path, capfd):
    arguments = ["--onnx", "--quantize", "none,int8", str(model), "--tflite", "--quantize", "int8"]
    arguments += ["--calibrate", str(face_folder), "--output-dir", str(tmp_path / "out")]
    assert main.main([*arguments, "--json", str(tmp_path / "report.json")]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    names = {"net.tflite", "net.int8.tflite", "net.onnx", "net.int8.onnx"}
    beside = ("json", "card.md")
    assert written == names | {f"{name}.{suffix}" for name in names for suffix in beside}
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["quantize"] for entry in report["files"]] == ["none", "int8"] * 2
    assert all(entry["cosine_mean"] > 0.95 for entry in report["files"])
    assert report["failures"] == []
    metadata = read_metadata(tmp_path / "out" / "net.int8.onnx")
    assert metadata.margin == 4.0
    assert len(metadata.source_hash) == 64


def test_the_classification_head_is_left_out_and_that_is_said(tiny_net, tmp_path, capfd):
    model = keras.Model(tiny_net.input, sf.layers.AngularDense(5)(tiny_net.output))
    model.save(tmp_path / "classifier.keras")
    assert main.main([str(tmp_path / "classifier.keras"), "--tflite"]) == 0
    assert "the classification head is left out" in capfd.readouterr().out
    embedder = sf.load_embedder(tmp_path / "classifier.tflite")
    assert embedder.embedding_dim == tiny_net.output_shape[-1]


def test_a_threshold_that_cannot_be_kept_is_said(tiny_net, tmp_path, capsys):
    net = tmp_path / "net[bold]v[red]2.keras"
    save_embedder(tiny_net, net, EmbedderMetadata(threshold=0.3))
    out = tmp_path / "report.json"
    assert main.main([str(net), "--onnx", "--flip-concat", "--json", str(out)]) == 0
    printed = capsys.readouterr()
    assert "warning: net[bold]v[red]2.onnx: the threshold 0.3000 is left out" in printed.err
    assert "│ net[bold]v[red]2.onnx" in printed.out
    (file,) = json.loads(out.read_text())["files"]
    assert "threshold 0.3000" in file["left_behind"][0]
    assert main.main([str(net), "--onnx", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["files"][0]["left_behind"] == []
    assert "left out" not in capsys.readouterr().err


def test_how_a_foreign_model_is_fed_is_said_given_and_written(tmp_path, capsys):
    image = keras.Input((56, 48, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    net, out = tmp_path / "net.keras", tmp_path / "report.json"
    keras.Model(image, keras.layers.Dense(8)(keras.layers.Flatten()(x))).save(net)
    assert main.main([str(net), "--onnx", "--json", str(out)]) == 0
    assert capsys.readouterr().err.count("no metadata: taking RGB") == 1
    assert "pixel_mean" in json.loads(out.read_text())["assumed"]
    assert "pixel_mean" in read_metadata(tmp_path / "net.onnx").assumed
    assert "(assumed)" in (tmp_path / "net.onnx.card.md").read_text()
    given = ["--channel-order", "bgr", "--pixel-mean", "0", "--pixel-scale", "255"]
    assert main.main([str(net), "--onnx", *given]) == 0
    assert "no metadata" not in capsys.readouterr().err
    assert read_metadata(tmp_path / "net.onnx").channel_order == "bgr"
    assert main.main(["--describe", str(net)]) == 2
    assert "--describe needs one of" in capsys.readouterr().err
    assert main.main(["--describe", str(net), *given]) == 0
    assert read_metadata(net).pixel_scale == 255
    assert main.main([str(net), "--describe", str(net), *given]) == 2


def test_inspect_prints_what_a_file_says(model, capsys):
    assert main.main(["--inspect", str(model)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["loss"] == "a-softmax"
    assert values["embedding_dim"] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--tflite, --onnx or both"),
        (["--tflite", "--quantize", "int8"], "needs --calibrate"),
        (["--tflite", "--quantize", "int4"], "must be one of none, float16, dynamic, int8"),
        (["--onnx", "--quantize", "dynamic"], "TensorFlow Lite only"),
        (["--tflite", "--gate-images", "."], "go together"),
        (["--tflite", "--onnx", "--layout", "nchw"], "for ONNX only"),
        (["--tflite", "--explain"], "--explain is for --quantize int8"),
        (["--tflite", "--float-layers", "3"], "--float-layers is for --quantize int8"),
        (["--tflite", "--batch", "0"], "--batch must be at least 1"),
        (["--tflite", "--max-drop", "0.1"], "--max-drop needs --gate-images"),
    ],
)
def test_wrong_usage_is_one_line(model, arguments, message, capsys):
    assert main.main([str(model), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error
    assert [path.name for path in model.parent.iterdir()] == ["net.keras"]


def test_a_file_that_is_no_model(tmp_path, capsys):
    path = tmp_path / "net.keras"
    path.write_bytes(b"nothing")
    assert main.main(["--tflite", str(path)]) == 2
    assert "not a .keras file" in " ".join(capsys.readouterr().err.split())
    assert main.main(["--tflite"]) == 2
    assert "MODEL is missing" in capsys.readouterr().err


def test_a_wrong_calibration_file_is_named(model, face_folder, faces, capsys):
    cv2.imwrite(str(face_folder / "zz.png"), faces[0][:40])
    arguments = ["--tflite", str(model), "--quantize", "int8", "--calibrate", str(face_folder)]
    assert main.main(arguments) == 2
    assert "zz.png: 40x48 pixels" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_cannot_be_written(model, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert main.main(["--tflite", str(model), "--output-dir", str(tmp_path / "taken")]) == 2
    assert "taken" in capsys.readouterr().err


def test_names_of_files_that_are_too_long(model, capsys):
    """The file's own is refused before any work; those that lie beside it are shortened."""
    long = model.rename(model.parent / f"{'x' * 246}.keras")
    assert main.main([str(long), "--tflite", "--quantize", "dynamic"]) == 2
    assert "255 bytes: give MODEL's file a shorter one" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="255 bytes"):
        sf.export.export_tflite(keras.Model(), model.parent / f"{'x' * 250}.tflite")
    assert list(model.parent.iterdir()) == [long]
    for beside in (sidecar_path(long), card_path(long)):
        assert len(beside.name) <= 255


def test_a_failed_check_ends_with_1_and_the_other_files_are_written(model, monkeypatch, capsys):
    from tf_sphereface.export import ExportError, pipeline

    judge = pipeline.require_parity

    def strict(parity, kind, parameters, **options):
        if kind == "float16":
            raise ExportError("too far away")
        judge(parity, kind, parameters, **options)

    monkeypatch.setattr(pipeline, "require_parity", strict)
    assert main.main(["--tflite", str(model), "--quantize", "float16,none"]) == 1
    output = capsys.readouterr()
    assert "too far away" in output.err
    assert not (model.parent / "net.float16.tflite").exists()
    assert (model.parent / "net.tflite").exists()


def test_help_shows_examples_and_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "(default: 0.25)" in text


def test_options_are_built_in_and_verify_agrees(model, face_folder, tmp_path, capfd):
    """The same faces, the same angle: by Keras, and by a file that does everything itself."""
    from tf_sphereface.commands.verify import main as verify

    network = dataclasses.replace(read_metadata(model), flip="concat", threshold=0.5)
    replace_metadata(model, network)
    options = ["--input", "uint8", "--flip-concat", "--normalize", "--batch", "1"]
    out = ["--output-dir", str(tmp_path / "out")]
    assert main.main([str(model), "--onnx", "--layout", "nchw", *options, *out]) == 0
    assert main.main([str(model), "--tflite", *options, *out]) == 0
    capfd.readouterr()
    angles = []
    faces = [str(face_folder / "1.png"), str(face_folder / "2.png")]
    for path in (model, tmp_path / "out" / "net.onnx", tmp_path / "out" / "net.tflite"):
        verify.main([str(path), *faces, "--json", str(tmp_path / "verdict.json")])
        verdict = json.loads((tmp_path / "verdict.json").read_text())
        assert verdict["threshold"] == 0.5
        angles.append(verdict["angle_degrees"])
    assert max(angles) - min(angles) < 1e-3


def test_parity_and_explain(model, face_folder, tmp_path, capfd):
    arguments = ["--tflite", "--onnx", str(model), "--quantize", "int8", "--explain"]
    arguments += ["--calibrate", str(face_folder), "--parity", str(tmp_path / "p" / "parity.json")]
    pairs = synthetic.write_folder(
        tmp_path / "pairs", 12, 4, size=(56, 48), pairs_per_fold=8, folds=3
    )
    arguments += ["--gate-images", str(pairs), "--gate-pairs", str(pairs / "pairs.txt")]
    assert main.main([*arguments, "--max-drop", "100", "--json", str(tmp_path / "r.json")]) == 0
    output = " ".join(capfd.readouterr().out.split())
    for words in (
        "Keras and every file",
        "error of each layer",
        "decide differently",
        "partitions",
    ):
        assert words in output
    values = json.loads((tmp_path / "p" / "parity.json").read_text())
    assert [row["name"] for row in values["rows"]] == ["Keras", "net.int8.tflite", "net.int8.onnx"]
    assert values["faces_from"] == "calibration"
    for row in values["rows"]:
        assert row["pairs"] == 24
        assert 0 <= row["decided_differently"] <= 24
        assert 0.3 <= row["accuracy"] <= 1
    assert all(row["latency_2_threads_ms"] > 0 for row in values["rows"][1:])
    report = json.loads((tmp_path / "r.json").read_text())
    assert [len(entry["layers"]) for entry in report["files"]] == [2, 2]
    assert report["parity"] == values["rows"]


def test_the_card_says_what_is_built_in_and_where_it_came_from(tiny_net, tmp_path):
    """The network's own order and scale, not those of the file's input; the first source too."""
    net = tmp_path / "net.keras"
    metadata = EmbedderMetadata(
        channel_order="bgr",
        threshold=0.3,
        source_hash="5" * 64,
        extra={"source": "weights.pth", "calibration": {"threshold": 0.3}},
    )
    save_embedder(tiny_net, net, metadata)
    assert main.main([str(net), "--onnx", "--input", "uint8", "--flip-concat"]) == 0
    text = (tmp_path / "net.onnx.card.md").read_text()
    assert "uint8 RGB pixels; BGR and (x - 127.5) / 128 are built in" in text
    assert f"- made from: net.keras (SHA-256 `{sha256_file(net)}`)" in text
    assert f"- which was made from: weights.pth (SHA-256 `{'5' * 64}`)" in text
    assert "calibration: threshold" not in text
    assert "No threshold was calibrated" in text


def test_a_parity_file_that_cannot_be_written_is_named_before_the_work(model, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    arguments = ["--onnx", str(model), "--parity", str(tmp_path / "taken" / "p.json")]
    with pytest.raises(SystemExit, match="2"):
        main.main([*arguments, "--output-dir", str(tmp_path / "out")])
    assert "cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
