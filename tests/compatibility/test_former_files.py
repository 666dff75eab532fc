"""Files that former versions wrote open, and mean the same.

`files/0.1.0` was written by version 0.1.0 as it stood before its modules moved to their present
folders (commit 2277541). The archives were packed again with compression. The weights in the run's
checkpoint are replaced by a simple pattern, so that it is small; the run was then resumed and ended
by that version, which gave the expected embedding and log.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tf_sphereface.commands.train.main import main

FILES = Path(__file__).parent / "files" / "0.1.0"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
SIZE = (16, 12)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # another processor adds in another order


def faces() -> np.ndarray:
    """The noise that the files were made with."""
    return np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["embedder.keras", "embedder.tflite", "embedder.onnx"])
def test_an_embedder_gives_the_same_embeddings(name):
    embedder = sf.load_embedder(FILES / name, threads=1)
    np.testing.assert_allclose(embedder(faces()[:2]), EXPECTED[name], **CLOSE)
    facts = sf.embedder.read_metadata(FILES / name)
    assert (facts.channel_order, facts.threshold, facts.training_data) == ("bgr", 0.25, "noise")


@pytest.mark.parametrize(
    "name", sorted(name for name in EXPECTED if name.startswith(("classifier", "stock")))
)
def test_a_saved_model_evaluates_and_predicts_the_same(name):
    held = name == "stock.keras"  # FaceClassifier binds its loss to the optimizer by itself
    with pytest.warns(UserWarning, match="held at update 2") if held else nullcontext():
        model = keras.saving.load_model(FILES / name)
    pixels = (faces().astype("float32") - 127.5) / 128
    figures = model.evaluate(pixels, np.arange(8) % 4, verbose=0, return_dict=True)
    expected = EXPECTED[name]
    assert figures == pytest.approx(expected["evaluate"], rel=1e-4)
    vectors = model.predict(pixels[:2], verbose=0)
    np.testing.assert_allclose(vectors, expected["predict"], **CLOSE)


def test_a_packed_folder_holds_the_same_faces():
    pack = sf.data.open_pack(FILES / "pack")
    assert (len(pack), pack.num_classes) == (6, 3)
    options = {"image_size": (28, 24), "batch_size": 6, "augment": "none"}
    images, labels = sf.data.batch_at(pack, 0, **options)
    with np.load(FILES / "pack_batch.npz") as expected:
        np.testing.assert_array_equal(labels, expected["labels"])
        pixels = (images * 128 + 127.5).round().astype(np.uint8)
        np.testing.assert_array_equal(pixels, expected["images"])


@pytest.mark.slow
def test_a_run_goes_on_and_ends_as_it_would_have(tmp_path):
    out = tmp_path / "run"
    shutil.copytree(FILES / "run", out)
    expected = EXPECTED["run"]
    assert main([*expected["arguments"], "--out", str(out), "--resume"]) == 0
    face = sf.data.synthetic.faces([3], [0], size=(28, 24))
    embedder = sf.load_embedder(out / "embedder.keras")
    # Updates from the pattern's weights are large; what rounds otherwise has grown in nine of them.
    np.testing.assert_allclose(embedder(face), expected["embedding"], rtol=1e-2, atol=1e-3)
    before, after = (
        list(csv.DictReader(io.StringIO(text)))
        for text in (expected["log"], (out / "log.csv").read_text(encoding="utf-8"))
    )
    assert list(before[0]) == list(after[0])
    assert [row["lambda"] for row in before] == [row["lambda"] for row in after]
