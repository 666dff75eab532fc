"""The cards beside models: what they say, and that they follow the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import pytest

import tf_sphereface as sf
from tf_sphereface.embedder import model_card
from tf_sphereface.embedder.metadata_rewriting import replace_metadata
from tf_sphereface.utils.files import sha256_file


@pytest.fixture
def model(tmp_path) -> Path:
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    metadata = sf.embedder.EmbedderMetadata(
        channel_order="bgr",
        architecture="Flat|Net",
        loss="a-softmax",
        margin=4.0,
        training_data="faces: 10 faces of 2 people",
        extra={
            model_card.LICENSE: "CC BY-NC 4.0",
            model_card.NETWORK: {"parameters": 2_000_000, "macs": 3_000_000_000},
            model_card.LEFT_OUT: ["fc6.weight (512, 10)"],
            model_card.SOURCE: "weights.pth",
            model_card.NOTES: ["Trained in the rain."],
        },
    )
    metadata = model_card.with_measured(metadata, {"LFW": {"accuracy": 0.991, "pairs": 6000}})
    path = tmp_path / "net.keras"
    sf.embedder.save_embedder(network, path, metadata)
    return path


def test_the_card_holds_what_is_known(model):
    card = model_card.card_of(model)
    assert card["file"]["bytes"] == model.stat().st_size
    assert card["file"]["sha256"] == sha256_file(model)
    assert card["input"]["channel_order"] == "bgr"
    assert card["licence"] == "CC BY-NC 4.0"
    assert card["measured"] == {"LFW": {"accuracy": 0.991, "pairs": 6000}}
    assert "keras" in card["versions"]
    text = model_card.write_card(model).read_text()
    for line in (
        "# Model card: net.keras",
        "| architecture | Flat\\|Net, 2.00 M parameters, 3.000 GMAC per image |",
        "BGR (load_embedder takes RGB and reorders), (x - 127.5) / 128 |",
        "- loss: a-softmax, margin 4",
        "- left out: fc6.weight (512, 10)",
        "| LFW: accuracy | 0.991 |",
        "## Intended use",
        "No threshold was calibrated",
        "- Trained in the rain.",
        "| licence of the weights | CC BY-NC 4.0 |",
    ):
        assert line in text


def test_a_file_that_says_nothing_gets_a_card_that_says_so(tmp_path):
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    network.save(tmp_path / "plain.keras")
    text = model_card.write_card(tmp_path / "plain.keras").read_text()
    assert "| licence of the weights | unknown |" in text
    assert "Nothing was measured on this file." in text
    assert "What it was trained on is not known here." in text
    with pytest.raises(FileNotFoundError):
        model_card.write_card(tmp_path / "absent.keras")


@pytest.mark.parametrize("key", list(model_card.ORIGINS))
def test_the_network_that_another_learnt_from_is_named(model, key):
    known = sf.embedder.read_metadata(model)
    origin = {"model": "big.onnx", "sha256": "0a1b", "training_data": None}
    extra = {**known.extra, key: origin}
    replace_metadata(model, dataclasses.replace(known, loss="normface", margin=None, extra=extra))
    assert model_card.card_of(model)["training"][key] == origin
    text = model_card.write_card(model).read_text()
    said = model_card.ORIGINS[key]
    assert f"- loss: normface\n- {said}: big.onnx (SHA-256 `0a1b`), trained on: unknown" in text
    assert "People of that one's training set" in text


def test_a_new_threshold_renews_the_card_that_is_there(model):
    known = sf.embedder.read_metadata(model)
    replace_metadata(model, dataclasses.replace(known, threshold=0.25, threshold_far=1e-3))
    card = model_card.card_path(model)
    assert not card.exists()
    model_card.write_card(model)
    replace_metadata(model, dataclasses.replace(known, threshold=0.3, threshold_far=1e-3))
    assert "| threshold | 0.3 |" in card.read_text()
    assert "No threshold was calibrated" not in card.read_text()


def test_what_was_measured_before_an_export_is_called_so(model):
    known = sf.embedder.read_metadata(model)
    extra = {**known.extra, "export": {"format": "tflite", "quantize": "int8", "cosine_min": 0.9}}
    replace_metadata(model, dataclasses.replace(known, extra=extra))
    card = model_card.card_of(model)
    assert card["file"]["quantize"] == "int8"
    assert card["measured"]["before the export"]["LFW"]["accuracy"] == 0.991
    assert card["measured"]["export"] == {"cosine_min": 0.9}


def test_what_an_export_has_built_in_is_said(model):
    known = sf.embedder.read_metadata(model)
    built_in = {"input_dtype": "uint8", "layout": "nchw", "batch": 2, "flip_built_in": True}
    replace_metadata(model, dataclasses.replace(known, flip="concat", **built_in))
    card = model_card.card_of(model)
    assert (card["input"]["dtype"], card["input"]["layout"]) == ("uint8", "nchw")
    assert (card["input"]["batch"], card["output"]["flip_built_in"]) == (2, True)
    text = model_card.write_card(model).read_text()
    assert "channels first, 2 at once, uint8 RGB pixels; BGR and (x - 127.5) / 128" in text
    assert "| mirror image | built in: its embedding is appended |" in text
