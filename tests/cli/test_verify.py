from __future__ import annotations

import json
import math

import cv2
import keras
import numpy as np
import pytest

from tf_sphereface.cli.verify import main
from tf_sphereface.embedder import EmbedderMetadata, load_embedder, save_embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    image = keras.Input((112, 96, 3))
    pooled = keras.layers.AveragePooling2D((14, 12))(image)
    model = keras.Model(image, keras.layers.Flatten()(pooled))
    save_embedder(model, root / "plain.keras")
    save_embedder(model, root / "known.keras", EmbedderMetadata(threshold=0.9, flip="concat"))
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (112, 96, 3)).astype(np.uint8)
    first[:40] = 250
    cv2.imwrite(str(root / "a.png"), first)
    cv2.imwrite(str(root / "alike.png"), np.clip(first * 0.98, 0, 255).astype(np.uint8))
    cv2.imwrite(str(root / "other.png"), first[::-1])
    cv2.imwrite(str(root / "large.png"), np.zeros((250, 250, 3), np.uint8))
    return root


def run(folder, model, first, second, *options):
    return main([str(folder / model), str(folder / first), str(folder / second), *options])


def test_same_person_is_code_0_and_different_people_code_1(folder, capsys):
    assert run(folder, "known.keras", "a.png", "alike.png") == 0
    assert "same person" in capsys.readouterr().out
    assert run(folder, "known.keras", "a.png", "other.png") == 1
    out = capsys.readouterr().out
    assert "different people" in out
    assert "threshold 25.84°, cosine 0.9000 (from the model)" in out


def test_without_a_threshold_there_is_no_verdict(folder, capsys):
    assert run(folder, "plain.keras", "a.png", "other.png") == 0
    out = capsys.readouterr().out
    assert "angle" in out
    assert "no verdict" in out


def test_the_option_comes_before_the_models_threshold(folder, tmp_path):
    out = tmp_path / "verdict.json"
    options = ("--threshold", "-1", "--json", str(out))
    assert run(folder, "known.keras", "a.png", "other.png", *options) == 0
    verdict = json.loads(out.read_text())
    assert (verdict["threshold"], verdict["threshold_source"], verdict["same"]) == (
        -1.0,
        "--threshold",
        True,
    )
    # The mirror images count, as the metadata says.
    embedder = load_embedder(folder / "known.keras")
    faces = [cv2.imread(str(folder / name))[..., ::-1] for name in ("a.png", "other.png")]
    x, y = (np.concatenate([embedder(f[None])[0], embedder(f[None, :, ::-1])[0]]) for f in faces)
    cosine = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert verdict["cosine"] == pytest.approx(cosine, abs=1e-6)
    assert verdict["angle_degrees"] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-3)


def test_a_threshold_of_zero_is_a_threshold(folder, tmp_path):
    out = tmp_path / "verdict.json"
    run(folder, "plain.keras", "a.png", "other.png", "--threshold", "0", "--json", str(out))
    assert json.loads(out.read_text())["same"] is not None


def test_bad_input_is_code_2(folder, capsys):
    assert run(folder, "known.keras", "a.png", "large.png") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "large.png: 250x250 pixels, not 112x96" in err
    assert "tf_sphereface-align" in err
    for options in (("none.png",), ("a.png", "--threshold", "2"), ("a.png", "--threshold", "nan")):
        with pytest.raises(SystemExit) as error:
            run(folder, "known.keras", "a.png", *options)
        assert error.value.code == 2
