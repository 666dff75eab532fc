"""The gate: Keras and the file on the same pairs; too large a drop leaves no file."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from tests.embedder.small import KNOWN
from tf_sphereface.data import synthetic
from tf_sphereface.export import ExportError, Gate, export_tflite, measure_parity, pipeline
from tf_sphereface.export.gate import GateFailed


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    return synthetic.write_folder(root, 12, 4, size=(56, 48), pairs_per_fold=8, folds=3)


def make_gate(folder, **options):
    return Gate(folder, folder / "pairs.txt", **options)


def colours():
    """The average colours of an 8 x 8 grid: better than chance, and free."""
    image = keras.Input((56, 48, 3), name=KNOWN)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D((7, 6))(image))
    return keras.Model(image, keras.layers.Dense(64, kernel_initializer="orthogonal")(x))


def test_a_file_that_computes_the_same_passes(pairs_folder, tmp_path):
    calls = []
    gate = make_gate(pairs_folder, max_drop=0, progress=lambda *done: calls.append(done))
    model = colours()
    report = export_tflite(model, tmp_path / "m.tflite", gate=gate)
    result = report.accuracy
    assert result.pairs == 24
    assert result.accuracy == result.keras_accuracy
    assert result.drop == result.drop_std_error == 0
    assert result.drift_max < 1e-4
    assert set(result.table) == {
        "none/plain",
        "none/mean_subtracted",
        "flip/plain",
        "flip/mean_subtracted",
    }
    assert report.note == "accuracy checked on 24 pairs"
    stored = json.loads((tmp_path / "m.tflite.json").read_text())
    assert stored["extra"]["export"]["accuracy"]["pairs"] == 24
    # Keras and the file, each once; the next file costs one more, for Keras is remembered.
    assert len(calls) == 2
    export_tflite(model, tmp_path / "m.float16.tflite", "float16", gate=gate)
    assert len(calls) == 3
    export_tflite(colours(), tmp_path / "other.tflite", gate=gate)
    assert len(calls) == 5


def test_a_drop_leaves_no_file(monkeypatch, pairs_folder, tmp_path):
    """A file whose embedding is noise passes no gate, even where parity is not asked for."""
    graph = pipeline.inference_graph

    def noisy(backbone, size, *rest):
        image = keras.Input((*size, 3), name=KNOWN)
        mixed = keras.ops.cos(1e4 * backbone(image))
        return graph(keras.Model(image, mixed), size, *rest)

    monkeypatch.setattr(pipeline, "inference_graph", noisy)
    monkeypatch.setattr(pipeline, "require_parity", lambda *_, **__: None)
    path = tmp_path / "m.tflite"
    path.write_bytes(b"the old file")
    with pytest.raises(GateFailed, match="accuracy drops by") as caught:
        export_tflite(colours(), path, gate=make_gate(pairs_folder, max_drop=1))
    assert isinstance(caught.value, ExportError)
    assert caught.value.result.drop > 0.01
    for words in ("±", "the cosine of a pair drifts by", "(worst)", "MB", "ms per face"):
        assert words in str(caught.value)
    assert path.read_bytes() == b"the old file"
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_wrong_arguments(pairs_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="images"):
        Gate(tmp_path / "nowhere", pairs_folder / "pairs.txt")
    with pytest.raises(FileNotFoundError, match="pairs"):
        Gate(pairs_folder, tmp_path / "pairs.txt")
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_drop"):
            make_gate(pairs_folder, max_drop=wrong)


def test_missing_images_are_listed_and_no_file_is_left(pairs_folder, tmp_path):
    (tmp_path / "pairs.txt").write_text("2\t1\nA\t1\t2\nA\t1\tB\t1\nC\t1\t2\nC\t1\tD\t1\n")
    gate = Gate(pairs_folder, tmp_path / "pairs.txt")
    with pytest.raises(ValueError, match="A_0001"):
        export_tflite(colours(), tmp_path / "out" / "m.tflite", gate=gate)
    assert not list((tmp_path / "out").iterdir())


def test_parity_is_measured_and_does_not_judge(tiny_net, small_net, faces, tmp_path):
    path = tmp_path / "m.tflite"
    export_tflite(tiny_net, path)
    parity = measure_parity(tiny_net, path, faces)
    assert parity.finite
    assert parity.faces == len(faces)
    assert parity.max_relative < 1e-4
    assert parity.size_bytes == path.stat().st_size
    assert np.isnan(measure_parity(tiny_net, path, faces[:2]).spread_cosine)
    with pytest.raises(ExportError, match="shape"):
        measure_parity(small_net, path, faces[:4])
