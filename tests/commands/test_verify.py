from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import zlib

import cv2
import keras
import numpy as np
import pytest

from tf_sphereface.alignment.align import align
from tf_sphereface.alignment.detector import FaceDetector
from tf_sphereface.alignment.images import read_image
from tf_sphereface.commands.verify.main import main
from tf_sphereface.data import synthetic
from tf_sphereface.embedder import Embedder, EmbedderMetadata, load_embedder, save_embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    image = keras.Input((112, 96, 3))
    pooled = keras.layers.AveragePooling2D((14, 12))(image)
    model = keras.Model(image, keras.layers.Flatten()(pooled))
    model.save(root / "foreign.keras")
    save_embedder(model, root / "plain.keras", EmbedderMetadata())
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
    assert run(folder, "plain.keras", "a.png", "a.png") == 3
    out = capsys.readouterr().out
    assert "angle" in out
    assert "no verdict" in out


def test_only_the_same_person_is_code_0(folder, tmp_path, capsys, monkeypatch):
    """Whatever else happens to the image of one person, the code is no answer."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "empty.jpg").touch()
    for name in ("broken.png", "empty.jpg"):
        assert run(folder, "known.keras", tmp_path / name, "a.png") == 2
        assert run(folder, "known.keras", "a.png", tmp_path / name) == 2
    for value, message in ((np.nan, "is not finite"), (np.inf, "not finite"), (0.0, "is zero")):
        with monkeypatch.context() as patch:
            patch.setattr(Embedder, "__call__", lambda self, x, v=value: np.full((len(x), 4), v))
            assert run(folder, "known.keras", "a.png", "a.png") == 2
        assert message in " ".join(capsys.readouterr().err.split())
    for error, code in ((RuntimeError("ours"), 70), (KeyboardInterrupt(), 130), (OSError("x"), 2)):

        def broken(self, images, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(Embedder, "__call__", broken)
            assert run(folder, "known.keras", "a.png", "a.png") == code

    def full(path, value):
        raise OSError("no space left")

    monkeypatch.setattr("tf_sphereface.commands.console.write_json", full)
    out = str(tmp_path / "out.json")
    assert run(folder, "known.keras", "a.png", "a.png", "--json", out) == 2
    with pytest.raises(SystemExit) as error:
        run(folder, "known.keras", "a.png", "a.png", "--show", str(folder / "a.png" / "x.png"))
    assert error.value.code == 2


def test_a_reader_that_has_gone_away_is_no_answer(folder):
    command = "import sys; from tf_sphereface.commands.verify.main import main; sys.exit(main())"
    files = [str(folder / name) for name in ("known.keras", "a.png", "a.png")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", command, *files], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 2
    assert b"nobody reads the output" in done.stderr


def test_a_model_without_metadata_is_fed_as_the_options_say(folder, tmp_path, capsys):
    out = tmp_path / "verdict.json"
    options = ["--threshold", "0.5", "--json", str(out)]
    run(folder, "foreign.keras", "a.png", "other.png", *options)
    assert "foreign.keras has no metadata: taking RGB" in capsys.readouterr().err
    assert json.loads(out.read_text())["input"]["assumed"][:1] == ["channel_order"]
    given = ["--channel-order", "BGR", "--pixel-mean", "104,117,123", "--pixel-scale", "58"]
    run(folder, "foreign.keras", "a.png", "other.png", *options, *given)
    assert "no metadata" not in capsys.readouterr().err
    values = json.loads(out.read_text())
    faces = [cv2.imread(str(folder / name)) for name in ("a.png", "other.png")]  # BGR
    network = keras.models.load_model(folder / "foreign.keras")
    x, y = network.predict((np.stack(faces) - np.float32([104, 117, 123])) / 58, verbose=0)
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert values["cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert values["input"]["pixel_mean"] == [104, 117, 123]
    for option in (["--pixel-scale", "0"], ["--pixel-mean", "1,2"], ["--pixel-mean", "nan"]):
        with pytest.raises(SystemExit) as error:
            run(folder, "foreign.keras", "a.png", "other.png", *option)
        assert error.value.code == 2


def test_a_threshold_of_other_pixels_gives_no_verdict(folder, capsys):
    assert run(folder, "known.keras", "a.png", "a.png", "--channel-order", "bgr") == 3
    err = capsys.readouterr().err
    assert "taking channel_order bgr as given; its metadata says channel_order rgb" in err
    assert "its threshold 0.9000 is left out" in err


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
    assert run(folder, "known.keras", "a.png", "large.png", "--align", "never") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "large.png: 250x250 pixels, not 112x96" in err
    assert "tf_sphereface-align" in err
    assert run(folder, "known.keras", "a.png", "large.png") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "large.png: no face was found in it (250x250 pixels" in err
    assert run(folder, "known.keras", "a.png", "a.png", "--show", "x.gif") == 2
    assert "--show must end in .png or .jpg" in capsys.readouterr().err
    for options in (("none.png",), ("a.png", "--threshold", "2"), ("a.png", "--threshold", "nan")):
        with pytest.raises(SystemExit) as error:
            run(folder, "known.keras", "a.png", *options)
        assert error.value.code == 2


@pytest.mark.parametrize("how", ["auto", "always", "never"])
def test_refused_files_are_refused_before_they_are_decoded(folder, tmp_path, capsys, how):
    header = struct.pack(">2I5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", bytes(9)))
    ]
    contents = {
        "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC is not read here; convert it"),
        "huge.png": (b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "too many pixels for a photograph"),
    }
    for name, (data, message) in contents.items():
        (tmp_path / name).write_bytes(data)
        assert run(folder, "known.keras", tmp_path / name, "a.png", "--align", how) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_aligned_faces_need_no_pillow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert run(folder, "known.keras", "a.png", "alike.png") == 0


@pytest.fixture(scope="module")
def photos(folder):
    """Two photographs of one rendered person and one of another, not aligned."""
    for name, identity, sample, scale in (
        ("photo1.png", 3, 0, 1.5),
        ("photo2.jpg", 3, 1, 1.2),
        ("photo3.png", 5, 0, 1.5),
    ):
        face = synthetic.faces(identities=[identity], samples=[sample])[0, ..., ::-1]
        face = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        photo = np.full((300, 330, 3), 120, np.uint8)
        photo[40 : 40 + face.shape[0], 80 : 80 + face.shape[1]] = face
        cv2.imwrite(str(folder / name), photo)
    two = cv2.imread(str(folder / "photo1.png"))
    two[180:292, 226:322] = synthetic.faces(identities=[5], samples=[0])[0, ..., ::-1]
    cv2.imwrite(str(folder / "two.png"), two)
    return folder


def test_photographs_are_aligned_first(photos, tmp_path, capsys):
    out, picture = tmp_path / "verdict.json", tmp_path / "both.png"
    options = ("--threshold", "0.5", "--json", str(out), "--show", str(picture))
    code = run(photos, "known.keras", "photo1.png", "photo2.jpg", *options)
    verdict = json.loads(out.read_text())
    assert code == (0 if verdict["same"] else 1)
    assert [image["aligned_here"] for image in verdict["images"]] == [True, True]
    # what is compared is what tf_sphereface-align would write
    detector = FaceDetector()
    crops = []
    for name in ("photo1.png", "photo2.jpg"):
        image = read_image(photos / name)
        (face,) = detector(image)
        crops.append(align(image, face.points))
    embedder = load_embedder(photos / "known.keras")
    x, y = (np.concatenate([embedder(c[None])[0], embedder(c[None, :, ::-1])[0]]) for c in crops)
    cosine = float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert verdict["cosine"] == pytest.approx(cosine, abs=1e-5)
    # the picture holds each crop three times as high as it is, at the right of its photograph
    shown = read_image(picture)
    width = round(330 * 336 / 300)
    assert shown.shape[0] == 2 * (336 + 8) + 64
    for row, crop in enumerate(crops):
        top = row * (336 + 8)
        found = shown[top : top + 336, width : width + 288]
        expected = cv2.resize(crop, (288, 336), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(found, expected)
    assert shown[-64:].max() == 255  # the verdict in words


def test_aligned_face_against_a_photograph(photos, tmp_path):
    out = tmp_path / "verdict.json"
    run(photos, "plain.keras", "a.png", "photo3.png", "--json", str(out))
    images = json.loads(out.read_text())["images"]
    assert [image["aligned_here"] for image in images] == [False, True]
    assert images[0]["faces_found"] is None
    assert len(images[1]["points"]) == 5
    assert run(photos, "plain.keras", "a.png", "photo3.png", "--align", "always") == 2  # no face


def test_which_of_two_faces(photos, capsys):
    assert run(photos, "plain.keras", "two.png", "photo1.png") == 3
    assert "two.png: 2 faces; taken: nearest the centre" in capsys.readouterr().out
    run(photos, "plain.keras", "two.png", "photo1.png", "--select", "largest")
    assert "2 faces; taken: the largest" in capsys.readouterr().out


def test_photographs_without_the_detector(photos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    assert run(photos, "known.keras", "a.png", "alike.png") == 0  # aligned faces need none
    assert run(photos, "plain.keras", "a.png", "photo1.png") == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "photo1.png: 300x330 pixels, not 112x96 (height x width), so the face" in err
    assert 'pip install "tf_sphereface[align]"' in err
    assert "see tf_sphereface-align --help" in err


def test_a_rate_that_the_model_states_is_said(photos, capsys):
    model = keras.models.load_model(photos / "known.keras")
    rated = EmbedderMetadata(threshold=0.9, threshold_far=1e-3, flip="concat")
    save_embedder(model, photos / "rated.keras", rated)
    run(photos, "rated.keras", "a.png", "alike.png", "--json", str(photos / "r.json"))
    assert "for a false accept rate of 0.001" in " ".join(capsys.readouterr().out.split())
    assert json.loads((photos / "r.json").read_text())["threshold_far"] == 1e-3


def test_threshold_without_a_known_rate(photos, capsys):
    run(photos, "known.keras", "a.png", "alike.png")
    assert "Its false accept rate is not known" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("calibration", ["yes", {"threshold": 0.9}])
def test_a_calibration_that_others_wrote_is_passed_over(folder, tmp_path, capsys, calibration):
    model = keras.models.load_model(folder / "known.keras")
    known = EmbedderMetadata(threshold=0.9, extra={"calibration": calibration})
    save_embedder(model, tmp_path / "m.keras", known)
    assert run(tmp_path, "m.keras", folder / "a.png", folder / "alike.png") == 0
    assert "Its false accept rate is not known" in " ".join(capsys.readouterr().out.split())
