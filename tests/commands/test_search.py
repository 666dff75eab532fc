from __future__ import annotations

import dataclasses
import json
import os
import shutil

import cv2
import keras
import numpy as np
import pytest

from tests.embedder.small import KNOWN
from tf_sphereface.alignment.detector import FaceDetector
from tf_sphereface.alignment.images import read_image, write_face
from tf_sphereface.commands.search.main import main
from tf_sphereface.data import synthetic
from tf_sphereface.embedder import EmbedderMetadata, load_embedder, save_embedder
from tf_sphereface.embedder.metadata_rewriting import replace_metadata
from tf_sphereface.search import Gallery, photo_faces


def network():
    image = keras.Input((112, 96, 3), name=KNOWN)
    pooled = keras.layers.AveragePooling2D((14, 12))(image)
    return keras.Model(image, keras.layers.Flatten()(pooled))


def face(person, shade=0):
    """A pattern for each person, and pictures of it that differ a little."""
    rng = np.random.default_rng(person)
    coarse = rng.integers(0, 250, (8, 8, 3))
    noise = np.random.default_rng(1000 + shade).integers(-4, 4, (8, 8, 3))
    return cv2.resize(np.clip(coarse + noise, 0, 255).astype(np.uint8), (96, 112), None, 0, 0, 0)


def write_people(root, people, pictures, first=0):
    for person in people:
        for k in range(first, first + pictures):
            write_face(root / f"P{person:03d}" / f"{k}.png", face(person, k))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, 60 people and a gallery of them, made in another place."""
    root = tmp_path_factory.mktemp("search")
    save_embedder(network(), root / "model.keras", EmbedderMetadata())
    save_embedder(network(), root / "other.keras", EmbedderMetadata(flip="sum"))
    write_people(root / "people", range(60), 5)
    (root / "people" / "P000" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "people" / "loose.png").write_bytes(b"")
    code = main(
        ["enroll", str(root / "made"), str(root / "people"), "--model", str(root / "model.keras")]
    )
    assert code == 0
    shutil.rmtree(root / "people")  # the gallery answers without them
    write_people(root / "probes", [3, 200], 1, first=9)
    return root


@pytest.fixture
def gallery(folder, tmp_path):
    shutil.copy(folder / "made", tmp_path / "g")
    return tmp_path / "g"


def who(gallery, *photos):
    out = gallery.parent / "who.json"
    code = main(["who", str(gallery), *map(str, photos), "--json", str(out)])
    return code, json.loads(out.read_text())


def test_names_unknown_and_codes(folder, gallery, capsys):
    known, stranger = folder / "probes/P003/9.png", folder / "probes/P200/9.png"
    code, (answer,) = who(gallery, known)
    assert code == 0
    (named,) = answer["faces"]
    assert (answer["file"], named["name"], named["box"]) == (str(known), "P003", None)
    assert np.cos(np.radians(named["angle"])) == pytest.approx(named["cosine"], abs=1e-6)
    assert named["margin"] > 10
    assert "P003, angle" in capsys.readouterr().out
    code, answers = who(gallery, known, stranger)
    assert code == 1
    assert [a["faces"][0]["name"] for a in answers] == ["P003", None]
    assert "unknown, angle" in capsys.readouterr().out
    bad = gallery.with_name("bad.png")
    bad.write_bytes(b"GIF")
    code, answers = who(gallery, bad, known)
    assert code == 2
    assert "truncated" in answers[0]["error"]
    assert answers[1]["faces"][0]["name"] == "P003"  # the others are answered


def test_info_tells_threshold_rate_and_origin(gallery, capsys):
    out = gallery.parent / "info.json"
    assert main(["info", str(gallery), "--json", str(out)]) == 0
    values = json.loads(out.read_text())
    assert (values["people"], values["faces"]) == (60, 300)
    assert values["false_identification_rate"] == 0.01
    assert -1 < values["threshold"] < 1
    assert values["calibration"]["origin"] == "people"
    assert len(values["model"]["sha256"]) == 64
    assert "each against the gallery without its person" in capsys.readouterr().out


def test_a_gallery_without_threshold_is_code_3(folder, tmp_path, capsys):
    small = write_people(tmp_path / "few", [3, 4], 2)
    gallery = tmp_path / "g"
    model = str(folder / "model.keras")
    assert main(["enroll", str(gallery), str(small), "--model", model]) == 0
    assert "no threshold, so nobody can be named" in capsys.readouterr().err
    code, (answer,) = who(gallery, folder / "probes/P003/9.png")
    assert code == 3
    assert (answer["faces"][0]["name"], answer["faces"][0]["nearest"]) == (None, "P003")
    strangers = write_people(tmp_path / "strangers", range(300, 350), 6)
    added = ["add", str(gallery), str(small), "--strangers", str(strangers)]
    assert main(added) == 0  # the pictures are there, the strangers are new
    assert "measured on 300 pictures of 50 strangers" in capsys.readouterr().out
    assert who(gallery, folder / "probes/P003/9.png")[0] == 0
    assert who(gallery, folder / "probes/P200/9.png")[0] == 1
    assert main([*added, "--rate", "0.1%"]) == 0
    assert Gallery.open(gallery).threshold is None


def test_people_come_and_go(folder, gallery, tmp_path, capsys):
    more = write_people(tmp_path / "more", [200], 3)
    assert main(["add", str(gallery), str(more)]) == 0
    assert who(gallery, folder / "probes/P200/9.png")[0] == 0
    assert main(["remove", str(gallery), "P200"]) == 0
    assert who(gallery, folder / "probes/P200/9.png")[0] == 1
    before = gallery.read_bytes()
    assert main(["add", str(gallery), str(more), "--channel-order", "bgr"]) == 2
    assert "--channel-order goes with --model" in capsys.readouterr().err
    assert main(["remove", str(gallery), "P003", "nobody"]) == 2
    assert "nobody of the name 'nobody'" in capsys.readouterr().err
    assert gallery.read_bytes() == before


def test_another_model_is_refused_and_a_moved_one_is_told(folder, gallery, tmp_path, capsys):
    before = gallery.read_bytes()
    people = str(write_people(tmp_path / "more", [200], 1))
    other = str(folder / "other.keras")
    for arguments in (["enroll", str(gallery), people], ["add", str(gallery), people]):
        assert main([*arguments, "--model", other]) == 2
        assert "made with another model" in capsys.readouterr().err
    assert main(["who", str(gallery), str(folder / "probes/P003/9.png"), "--model", other]) == 2
    given = ["--model", str(folder / "model.keras"), "--channel-order", "bgr"]
    assert main(["add", str(gallery), people, *given]) == 2
    assert "channel_order 'rgb'" in capsys.readouterr().err
    assert gallery.read_bytes() == before
    moved = folder / "moved.keras"
    (folder / "model.keras").rename(moved)
    try:
        photo = str(folder / "probes/P003/9.png")
        assert main(["who", str(gallery), photo]) == 2
        assert "say with --model where it is" in capsys.readouterr().err
        assert main(["who", str(gallery), photo, "--model", str(moved)]) == 0
    finally:
        moved.rename(folder / "model.keras")


def test_a_calibrated_model_is_the_gallery_s_model_still(folder, gallery, tmp_path):
    calibrated = shutil.copy(folder / "model.keras", tmp_path / "calibrated.keras")
    known = load_embedder(calibrated).metadata
    replace_metadata(calibrated, dataclasses.replace(known, threshold=0.5, threshold_far=1e-3))
    photo = str(folder / "probes/P003/9.png")
    assert main(["who", str(gallery), photo, "--model", str(calibrated)]) == 0
    people = str(write_people(tmp_path / "more", [200], 1))
    assert main(["add", str(gallery), people, "--model", str(calibrated)]) == 0
    facts = Gallery.open(gallery).facts["model"]
    assert (facts["path"], facts["thresholds"]) == (str(calibrated), {"0.001": 0.5})
    fed = dataclasses.replace(known, pixel_mean=0.0)
    replace_metadata(calibrated, fed)
    assert main(["who", str(gallery), photo]) == 2  # its vectors are others


def test_a_stopped_enrollment_goes_on(folder, gallery, tmp_path, monkeypatch, capsys):
    people, whole, model = tmp_path / "people", tmp_path / "whole", str(folder / "model.keras")
    write_people(people, range(100, 160), 3)
    given = ["enroll", str(gallery), str(people), "--model", model]
    shutil.copy(gallery, whole)
    assert main(["enroll", str(whole), *given[2:]]) == 0
    before, embed, faces = gallery.read_bytes(), photo_faces.vectors_of, []

    def stopped(embedder, crops):
        if faces:
            raise KeyboardInterrupt
        return counting(embedder, crops)

    def counting(embedder, crops):
        faces.append(len(crops))
        return embed(embedder, crops)

    monkeypatch.setattr(photo_faces, "vectors_of", stopped)
    assert main(given) != 0
    monkeypatch.setattr(photo_faces, "vectors_of", embed)  # `who` takes it at its first import
    parts = tmp_path / "g.parts"
    assert (gallery.read_bytes(), parts.stat().st_mode & 0o77) == (before, 0)
    assert who(gallery, folder / "probes/P003/9.png")[0] == 0  # as before
    assert "the same call goes on" in capsys.readouterr().err
    (next(parts.glob("*/*.npz")).parent / "torn.npz").write_bytes(b"PK")
    more = write_people(tmp_path / "more", [900], 1)
    assert main(["add", str(whole), str(more)]) == 0  # another's end is not this one's
    shutil.copytree(parts, tmp_path / "whole.parts")
    assert main(["add", str(whole), str(write_people(tmp_path / "others", [901], 1))]) == 0
    assert next((tmp_path / "whole.parts").glob("*/*.npz"))
    assert main(["remove", str(whole), "P900", "P901"]) == 0
    capsys.readouterr()
    os.utime(people / "P100" / "0.png", (1, 1))  # changed since
    monkeypatch.setattr(photo_faces, "vectors_of", counting)
    faces.clear()
    assert main(given) == 0
    assert "63 pictures had been embedded" in capsys.readouterr().err
    assert sum(faces) == 180 - 63
    assert not parts.exists()
    one, other = Gallery.open(gallery), Gallery.open(whole)
    assert one.names == other.names
    assert np.abs(one.templates - other.templates).max() < 1e-6
    assert one.threshold == pytest.approx(other.threshold, abs=1e-6)


def test_a_picture_that_cannot_be_used_ends_nothing(folder, tmp_path, capsys):
    people = write_people(tmp_path / "people", [1, 2], 2)
    (people / "P001" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    write_face(people / "P002" / "nobody.png", np.full((300, 300, 3), 127, np.uint8))
    write_face(people / "P002" / "black.png", np.zeros((112, 96, 3), np.uint8))
    gallery, model = tmp_path / "g", str(folder / "model.keras")
    arguments = ["enroll", str(gallery), str(people), "--model", model]
    assert main([*arguments, "--strict"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "2 pictures cannot be used, and a strict enrollment leaves none out" in err
    assert f"the same call goes on with it (or delete {tmp_path / 'g.parts'})" in err
    (people / "P002" / "phone.heic").write_bytes(b"x")
    assert main([*arguments, "--strict"]) == 2
    assert not gallery.exists()
    assert main([*arguments, "--json", str(tmp_path / "e.json")]) == 0
    err = capsys.readouterr().err
    assert "broken.jpg: truncated" in err
    assert "nobody.png: no face was found" in err
    assert "1 .heic" in err
    values = json.loads((tmp_path / "e.json").read_text())
    assert values["added"] >= 4
    assert len(values["problems"]) == 2
    shutil.rmtree(people / "P001")
    shutil.rmtree(people / "P002")
    (people / "P003").mkdir()
    (people / "P003" / "x.png").write_bytes(b"")
    assert main(["enroll", str(tmp_path / "h"), str(people), "--model", model]) == 2
    assert not (tmp_path / "h").exists()
    (people / "P003" / "x.png").unlink()
    assert main(["enroll", str(tmp_path / "h"), str(people), "--model", model]) == 2
    assert f"error: {people} must hold one folder per identity" in capsys.readouterr().err


def test_one_of_a_thing_is_no_plural(folder, tmp_path, capsys):
    people = write_people(tmp_path / "people", [1, 2], 1)
    gallery = str(tmp_path / "g")
    assert main(["enroll", gallery, str(people), "--model", str(folder / "model.keras")]) == 0
    (people / "P003").mkdir()
    write_face(people / "P003" / "0.png", face(3))
    shutil.rmtree(people / "P001")
    assert main(["add", gallery, str(people)]) == 0
    assert "1 picture enrolled, 1 in it already, or twice in the folder" in capsys.readouterr().out
    assert main(["remove", gallery, "P001"]) == 0
    assert "1 name removed with 1 picture; 2 people left" in capsys.readouterr().out
    assert main(["remove", gallery, "P002"]) == 0
    capsys.readouterr()
    assert main(["info", gallery]) == 0
    assert "1 person, 1 picture\n" in capsys.readouterr().out


def test_people_who_are_not_enrolled_and_folders_of_one_name_are_told(folder, tmp_path, capsys):
    people = write_people(tmp_path / "people", range(3), 1)
    for name in ("Empty", "apart", "@eaDir", "lost+found"):  # of cluster, and of systems
        (people / name).mkdir()
    (people / "Broken").mkdir()
    (people / "Broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("Jose\u0301", "Jos\u00e9"):
        write_face(people / name / "1.png", face(7 + len(name), 1))
        write_face(people / name / "copy.png", face(20, 1))  # of one person all the same
    given = ["enroll", str(tmp_path / "g"), str(people), "--model", str(folder / "model.keras")]
    assert main([*given, "--json", str(tmp_path / "e.json")]) == 0
    told = json.loads((tmp_path / "e.json").read_text())
    assert (told["absent"], told["merged"]) == (["Empty", "Broken"], ["Jos\u00e9"])
    said = " ".join(capsys.readouterr().err.split())
    assert "not enrolled, 2 people of whom no picture can be used: Empty, Broken" in said
    assert "spelled in two ways, are one person: Jos\u00e9" in said


def test_a_missing_photograph_is_told_and_the_others_are_named(folder, gallery, tmp_path, capsys):
    photo, missing = folder / "probes" / "P003" / "9.png", tmp_path / "gone.jpg"
    assert main(["who", str(gallery), str(missing), str(photo)]) == 2
    said = capsys.readouterr()
    assert "P003" in said.out
    assert "gone.jpg" in said.err


def test_damaged_foreign_and_missing_galleries_are_bad_input(folder, gallery, capsys):
    content = bytearray(gallery.read_bytes())
    place = content.find(b"P003") - 1
    content[place + 1 : place + 5] = b"P999"
    gallery.write_bytes(content)
    photo = str(folder / "probes/P003/9.png")
    assert main(["who", str(gallery), photo]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert main(["info", photo]) == 2
    assert "is no gallery" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(["info", str(gallery.with_name("none"))])
    assert error.value.code == 2
    assert main(["enroll", str(gallery.with_name("new")), str(folder / "probes")]) == 2
    assert "a new gallery needs --model" in capsys.readouterr().err


def test_several_faces_of_a_photograph_are_shown_with_their_names(folder, tmp_path):
    """Rendered people: two in one photograph, one of them enrolled."""
    photos = synthetic.write_folder(tmp_path / "rendered", 2, 3, size=(224, 192))
    files = sorted(photos.rglob("*.jpg"))
    detector = FaceDetector()
    found = [file for file in files if len(detector(read_image(file))) == 1]
    if len(found) < 2:
        pytest.skip("the detector finds no two rendered faces")
    pair = np.concatenate([read_image(found[0]), read_image(found[-1])], axis=1)
    write_face(tmp_path / "pair.png", pair)
    gallery = Gallery.create(None, folder / "model.keras")
    result = gallery.enroll(found[0].parents[1])
    assert result.added == len(found)
    gallery.save(tmp_path / "g")
    out = tmp_path / "show.jpg"
    code = main(["who", str(tmp_path / "g"), str(tmp_path / "pair.png"), "--show", str(out)])
    assert code == 3  # too few for a threshold
    shown = read_image(out)
    assert shown.shape[0] >= 224
    red = (shown[..., 0] > 200) & (shown[..., 1:] < 110).all(axis=-1)
    assert red.sum() > 100  # two boxes


def test_a_picture_under_two_names_is_of_neither(folder, gallery, tmp_path, capsys):
    """As of a group that was copied into the folder of each: one face would be taken for both."""
    more = write_people(tmp_path / "more", [300, 301], 2)
    for person in ("P300", "P301"):
        write_face(more / person / "group.png", face(302))
    assert main(["add", str(gallery), str(more)]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "2 pictures could not be used" in err
    assert "the same picture is under P301: whose face it is, is not known" in err
    assert Gallery.open(gallery).info()["faces_per_person"]["P300"] == 2


def test_a_file_with_other_contents_is_told(folder, tmp_path, caplog):
    for person in (310, 311):
        write_face(tmp_path / "few" / "Ann" / "1.png", face(person))
        model = ["--model", str(folder / "model.keras")]
        assert main(["enroll", str(tmp_path / "g"), str(tmp_path / "few"), *model]) in (0, 3)
    assert "1 file with other contents than when it was enrolled" in caplog.text
    assert Gallery.open(tmp_path / "g").info()["faces_per_person"] == {"Ann": 2}
