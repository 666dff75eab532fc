"""Published accuracies beside measured ones, and the mistakes in feeding that explain a gap."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from tests.embedder.small import KNOWN
from tf_sphereface.backbones.known_weights import KnownWeights
from tf_sphereface.commands.eval.main import main
from tf_sphereface.embedder import EmbedderMetadata, load_embedder, save_embedder
from tf_sphereface.eval import bin_sets, bins, feeding_mistakes, published_check
from tf_sphereface.eval.feeding_mistakes import Way

PAIRS = 80
RIGHT = EmbedderMetadata(channel_order="rgb", pixel_mean=127.5, pixel_scale=127.5)


def row(lfw: float, **changes) -> KnownWeights:
    facts = {"source": "https://a.page/Project", "arch": None, "network": "Own"}
    facts |= {"training_data": "Faces", "channel_order": "rgb", "license": "MIT"}
    return KnownWeights("own.onnx (pack)", published={"lfw": lfw}, **{**facts, **changes})


def own_network(name: str = KNOWN) -> keras.Model:
    """Sees the red channel near the middle of its range alone: blue is noise to it."""
    image = keras.Input((112, 96, 3), name=name)
    x = keras.layers.AveragePooling2D((14, 12))(image)
    x = keras.layers.Conv2D(8, 1, activation="tanh", use_bias=False)(x)
    model = keras.Model(image, keras.layers.Flatten()(x), name="own")
    kernel = np.zeros((1, 1, 3, 8), np.float32)
    kernel[0, 0, 0] = np.linspace(1, 3, 8)
    kernel[0, 0, 1] = 0.2
    model.layers[2].set_weights([kernel])
    return model


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Red tells the person; blue is of the light, another one in every picture."""
    rng = np.random.default_rng(4)
    images = []
    for k in range(2 * PAIRS):
        person = k // 2 if k % 4 < 2 else k  # two of one, then one and another
        coarse = np.stack(
            [
                np.random.default_rng([person, 1]).integers(60, 196, (8, 8)),
                np.full((8, 8), 120),
                rng.integers(60, 196, (8, 8)),
            ],
            axis=-1,
        ).astype(np.float32)
        coarse[..., 0] += rng.normal(0, 25, (8, 8))
        face = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_NEAREST)
        face = np.clip(face, 0, 255).astype(np.uint8)
        images.append(cv2.imencode(".png", face[..., ::-1])[1].tobytes())
    root = tmp_path_factory.mktemp("sets")
    bins.write_bin(root / "LFW.bin", images, [k % 2 == 0 for k in range(PAIRS)])
    bins.write_bin(root / "other.bin", images, [k % 2 == 0 for k in range(PAIRS)])
    return root


@pytest.fixture(scope="module")
def accuracy(sets) -> float:
    return 100 * bins.evaluate(load_embedder_of(RIGHT), sets / "LFW.bin").accuracy


def load_embedder_of(metadata: EmbedderMetadata):
    from tf_sphereface.embedder import Embedder

    return Embedder.in_memory(own_network("image"), metadata)


@pytest.fixture
def published(monkeypatch, accuracy):
    monkeypatch.setattr(published_check, "known_weights", lambda: [row(accuracy)])


def test_the_same_accuracy_agrees(sets, published, accuracy, tmp_path, capsys):
    save_embedder(own_network("image"), tmp_path / "own.keras", RIGHT)
    out = tmp_path / "out.json"
    command = ["check", str(tmp_path / "own.keras"), "--bins", str(sets), "--weights", "own"]
    assert main([*command, "--json", str(out)]) == 0
    values = json.loads(out.read_text())
    entry = values["sets"]["LFW"]
    assert entry["published"] == pytest.approx(accuracy / 100)
    assert entry["difference"] == pytest.approx(0, abs=1e-9)
    assert (values["verdict"], values["unpublished"]) == ("agrees", ["other"])
    assert values["fits"] is None
    assert {trial["name"] for trial in values["tried"]} >= {"BGR, (x - 127.5) / 127.5"}
    text = capsys.readouterr().out
    assert "Agrees with the published accuracy" in text
    assert "80 pairs, the published figure is of 6,000" in text


def test_exchanged_channels_are_found_and_the_command_mends_them(
    sets, published, accuracy, tmp_path, capsys
):
    path, out = tmp_path / "own.keras", tmp_path / "out.json"
    wrong = EmbedderMetadata(channel_order="bgr", pixel_mean=127.5, pixel_scale=127.5)
    save_embedder(own_network("image"), path, wrong)
    command = ["check", str(path), "--bins", str(sets / "LFW.bin"), "--weights", "own.onnx"]
    assert main([*command, "--json", str(out)]) == 1
    values = json.loads(out.read_text())
    assert values["verdict"] == "below"
    fits = values["fits"]
    assert fits["name"] == "RGB, (x - 127.5) / 127.5"
    assert fits["clear"]
    assert fits["verdict"] == "agrees"
    assert fits["accuracy"]["LFW"] == pytest.approx(accuracy / 100)
    text = capsys.readouterr().out
    assert "the model is fed otherwise than its page says" in text
    assert f"To mend it: {fits['mend']}" in text
    from tf_sphereface.commands.export.main import main as export

    assert export(fits["mend"].split()[1:]) == 0
    assert main(command) == 0


def test_exchanged_channels_are_found_where_the_accuracy_agrees(
    sets, monkeypatch, tmp_path, capsys
):
    path, out = tmp_path / "own.keras", tmp_path / "out.json"
    wrong = EmbedderMetadata(channel_order="bgr", pixel_mean=127.5, pixel_scale=128.0)
    save_embedder(own_network("image"), path, wrong)
    reached = 100 * bins.evaluate(load_embedder(path), sets / "LFW.bin").accuracy
    monkeypatch.setattr(published_check, "known_weights", lambda: [row(reached)])
    command = ["check", str(path), "--bins", str(sets / "LFW.bin"), "--weights", "own"]
    assert main([*command, "--json", str(out)]) == 1
    values = json.loads(out.read_text())
    assert values["verdict"] == "agrees"
    assert values["fits"]["name"] == "RGB, (x - 127.5) / 127.5"  # of its page
    text = " ".join(capsys.readouterr().out.split())
    assert f"To mend it: {values['fits']['mend']}" in text
    # fed as its page feeds, but for the scale, which hardly matters: told, and no failure
    save_embedder(own_network("image"), path, EmbedderMetadata(pixel_scale=128.0))
    reached = 100 * bins.evaluate(load_embedder(path), sets / "LFW.bin").accuracy
    monkeypatch.setattr(published_check, "known_weights", lambda: [row(reached)])
    assert main(command) == 0
    assert "RGB, (x - 127.5) / 127.5 (as its page feeds it): d'" in capsys.readouterr().out


def test_above_and_bad_input(sets, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(published_check, "known_weights", lambda: [row(60.0), row(70, arch="x")])
    path = tmp_path / "own.keras"
    save_embedder(own_network("image"), path, RIGHT)
    command = ["check", str(path), "--bins", str(sets)]
    assert main(command) == 2
    text = capsys.readouterr().err
    assert "does not say which published weights it is" in text
    assert text.count("own.onnx (pack): Own, Faces") == 2
    assert main([*command, "--weights", "own"]) == 2
    assert "fits several" in capsys.readouterr().err
    assert main([*command, "--weights", "nothing"]) == 2
    assert "fits none of" in capsys.readouterr().err
    assert main([*command, "--weights", "x"]) in (1, 2)
    monkeypatch.setattr(published_check, "known_weights", lambda: [row(60.0)])
    assert main([*command, "--weights", "own"]) == 1
    assert "other weights than these, or other pairs" in capsys.readouterr().out
    only = ["check", str(path), "--bins", str(sets / "other.bin"), "--weights", "own"]
    assert main(only) == 2
    assert "No set has a published figure" in capsys.readouterr().err


def test_weights_are_known_by_their_file_or_their_project():
    def find(**facts):
        model = load_embedder_of(EmbedderMetadata(**facts))
        return published_check.find_weights(model).file

    assert find(extra={"source": "adaface_ir50_casia.ckpt"}) == "adaface_ir50_casia.ckpt"
    earlier = {"source": "a.keras", "earlier_source": {"file": "SPHERE20_mcp.pth", "sha256": ""}}
    assert find(extra=earlier) == "sphere20_mcp.pth"
    assert find(architecture="IR-SE-50 (InsightFace_Pytorch)") == "model_ir_se50.pth"
    with pytest.raises(ValueError, match="adaface_ir101_ms1mv2") as caught:
        find(architecture="IR-101")
    assert "w600k" not in str(caught.value)
    # A network of one's own is not taken for another's of the same architecture.
    with pytest.raises(ValueError, match=r"model_mobilefacenet\.pth"):
        find(architecture="MobileFaceNet")


@pytest.mark.parametrize("name", ["faces one pixel right", "whole faces of 112x112, made 112x96"])
def test_a_way_that_moves_the_faces(sets, name):
    model = load_embedder_of(RIGHT)
    read = bin_sets.read_sets(sets / "LFW.bin", 20)
    way = next(way for way in feeding_mistakes.usual_ways(model) if way.name == name)
    scores = feeding_mistakes.evaluate_way(model, read, way, flip=False)["LFW"].scores
    faces = []
    for data in read["LFW"].images:
        face = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        if way.resized:
            face = cv2.resize(face, (96, 112), interpolation=cv2.INTER_AREA)
        else:
            face = face[:, 8:104]
            face = np.concatenate([face[:, :1], face[:, :-1]], axis=1)
        faces.append(face)
    vectors = model(np.stack(faces)).astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, np.sum(vectors[::2] * vectors[1::2], axis=1), atol=1e-6)


def test_weights_in_the_order_of_nchw_are_found(sets):
    image = keras.Input((112, 96, 3), name=KNOWN)
    x = keras.layers.AveragePooling2D((14, 12))(image)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(6, use_bias=False)(x))
    dense = model.layers[-1]
    right = np.random.default_rng(0).normal(size=(8, 8, 3, 6)).astype(np.float32)
    dense.kernel.assign(right.reshape(192, 6))
    read = bin_sets.read_sets(sets / "LFW.bin", 20)
    wanted = feeding_mistakes.evaluate_way(load_embedder(model), read, Way("now"))["LFW"].scores
    wrong = right.transpose(2, 0, 1, 3).reshape(192, 6)
    dense.kernel.assign(wrong)
    embedder = load_embedder(model)
    way = next(way for way in feeding_mistakes.usual_ways(embedder) if way.channels_first)
    scores = feeding_mistakes.evaluate_way(embedder, read, way)["LFW"].scores
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(dense.kernel), wrong)  # as it was


def test_a_way_of_which_the_network_overflows_is_left_out(sets):
    image = keras.Input((112, 96, 3), name=KNOWN)
    x = keras.layers.Rescaling(1e37)(keras.layers.AveragePooling2D((14, 12))(image))
    embedder = load_embedder(keras.Model(image, keras.layers.Flatten()(x)))
    read = bin_sets.read_sets(sets / "LFW.bin", 20)
    raw = Way("0..255", {"pixel_mean": 0.0, "pixel_scale": 1.0})
    with pytest.raises(ValueError, match="must be finite"):
        feeding_mistakes.evaluate_way(embedder, read, raw)
    trials = feeding_mistakes.try_ways(embedder, read, ways=[raw, Way("taken as it is")])
    assert [trial.way.name for trial in trials] == ["taken as it is"]
