"""`tf_sphereface-data audit`, and what training does with its list."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import keras
import pytest

import tf_sphereface as sf
from tf_sphereface.commands.data.main import main
from tf_sphereface.commands.train.main import main as train
from tf_sphereface.data import synthetic
from tf_sphereface.utils.files import sha256_file

SIZE = (56, 48)
PEOPLE = 60


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[Path, Path]:
    """Training and test faces of different people, with three overlaps planted.

    A person of both by name, a picture of the test set recompressed in somebody's training folder,
    and a person of the training set under another name in the test set.
    """
    root = tmp_path_factory.mktemp("sets")
    ours = synthetic.write_folder(root / "train", PEOPLE, 4, size=SIZE)
    test = synthetic.write_folder(root / "test", PEOPLE, 2, size=SIZE, first_identity=1000)
    (test / "Person_001001").rename(test / "José_Pérez")
    (ours / "Person_000001").rename(ours / "perez jose")
    picture = cv2.imread(str(test / "Person_001002" / "Person_001002_0001.jpg"))
    copy = ours / "Person_000002" / "copy.jpg"
    cv2.imwrite(str(copy), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    shutil.copytree(ours / "Person_000003", test / "Somebody_Else")
    (ours / "Person_000004" / "Person_000004_0001.jpg").write_bytes(b"broken")
    return ours, test


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A random projection of the pixels: enough to know a picture again."""
    keras.utils.set_random_seed(0)
    image = keras.Input((*SIZE, 3), name="image")
    small = keras.layers.AveragePooling2D(4)(image)
    vector = keras.layers.Dense(256, use_bias=False)(keras.layers.Flatten()(small))
    path = tmp_path_factory.mktemp("model") / "random.keras"
    sf.embedder.save_embedder(keras.Model(image, vector), path)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_every_planted_overlap_is_found(sets, model, tmp_path, capsys):
    out = tmp_path / "audit"
    options = ["--model", str(model), "--out", str(out), "--json", str(tmp_path / "x.json")]
    # A projection of pixels takes strangers for one person: one pair in all by chance.
    assert main(["audit", *map(str, sets), *options, "--expected", "0.1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"train: 240 images of {PEOPLE} people" in said
    assert (
        "1 could not be used, such as Person_000004/Person_000004_0001.jpg: cannot be decoded"
        in said
    )
    assert "threshold for people, by centroid: " in said
    assert "are found again when their images are split in halves" in said
    found = {(row["train"], row["test"]): row["why"] for row in rows(out / "identities.tsv")}
    assert "name" in found["perez jose", "José_Pérez"]
    assert found["Person_000003", "Somebody_Else"] == "centroid"
    pictures = {(row["train"], row["test"]): row for row in rows(out / "images.tsv")}
    copy = pictures["Person_000002/copy.jpg", "Person_001002/Person_001002_0001.jpg"]
    assert "hash" in copy["why"]
    assert float(copy["cosine"]) > 0.99
    assert int(copy["hash_bits"]) <= 20
    same = "Person_000003_0002.jpg"
    assert pictures[f"Person_000003/{same}", f"Somebody_Else/{same}"]["why"] == "embedding,hash"
    exclusions = sf.data.read_exclusions(out / "exclude.txt")
    assert {"perez jose", "Person_000003"} <= exclusions.identities
    assert "Person_000002/copy.jpg" in exclusions.images
    assert not any(name.startswith("Person_000003/") for name in exclusions.images)
    report = json.loads((tmp_path / "x.json").read_text())
    assert report == json.loads((out / "audit.json").read_text())
    assert report["thresholds"]["images"]["impostors"] > 1000
    assert report["model"]["sha256"] == sha256_file(model)


def test_without_a_model_names_and_hashes_are_compared(sets, tmp_path, capsys):
    ours, test = sets
    options = ["--out", str(tmp_path / "audit"), "--hash-bits", "20"]
    assert main(["audit", str(ours), str(test), *options, "--strict"]) == 1
    assert "entries in common" in " ".join(capsys.readouterr().err.split())
    exclusions = sf.data.read_exclusions(tmp_path / "audit" / "exclude.txt")
    assert exclusions.identities == {"perez jose"}
    kept = {f"Person_000003/Person_000003_000{i}.jpg" for i in (1, 2, 3, 4)}
    assert exclusions.images == {"Person_000002/copy.jpg"} | kept
    assert main(["audit", str(ours), str(test), *options, "--no-names"]) == 0
    again = sf.data.read_exclusions(tmp_path / "audit" / "exclude.txt")
    assert not again.identities


def test_a_pack_and_a_clean_set(sets, tmp_path):
    ours, test = sets
    pack, clean = tmp_path / "pack", tmp_path / "clean"
    assert main(["pack", str(ours), str(pack)]) == 0
    options = ["--out", str(tmp_path / "audit"), "--hash-bits", "20"]
    assert main(["audit", str(pack), str(test), *options]) == 0
    exclusions = sf.data.read_exclusions(tmp_path / "audit" / "exclude.txt")
    assert "Person_000002/copy.jpg" in exclusions.images
    synthetic.write_folder(clean, 3, 2, size=SIZE, first_identity=5000)
    assert main(["audit", str(clean), str(test), *options, "--strict"]) == 0
    assert rows(tmp_path / "audit" / "identities.tsv") == []
    nothing = sf.data.read_exclusions(tmp_path / "audit" / "exclude.txt")
    assert not nothing.identities | nothing.images
    (tmp_path / "points.tsv").write_text("")
    landmarks = ["--train-landmarks", str(tmp_path / "points.tsv")]
    assert main(["audit", str(pack), str(test), *options, *landmarks]) == 2


def test_what_cannot_be_audited(sets, model, tmp_path, capsys):
    few = synthetic.write_folder(tmp_path / "few", 3, 2, size=SIZE)
    options = ["--out", str(tmp_path / "audit")]
    assert main(["audit", str(sets[0]), str(few), *options]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert (
        "too few to find a threshold from (1,000 at least): give it: hash_bits (--hash-bits)"
        in error
    )
    assert main(["audit", str(sets[0]), str(tmp_path / "absent"), *options]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["audit", *map(str, sets), *options, "--expected", "0"]) == 2
    large = synthetic.write_folder(tmp_path / "large", 2, 1, size=(112, 96))
    assert main(["audit", str(large), str(large), "--model", str(tmp_path / "no.keras")]) == 2
    assert not (tmp_path / "audit").exists()


@pytest.mark.usefixtures("small_backbone")
def test_training_leaves_out_what_is_listed_and_remembers_it(tmp_path, capsys):
    faces = synthetic.write_folder(tmp_path / "faces", 5, 8, size=SIZE)
    listed = tmp_path / "exclude.txt"
    listed.write_text("Person_000001\tLFW too\nPerson_000002/Person_000002_0003.jpg\n")
    run = tmp_path / "run"
    options = ["--data", str(faces), "--preset", "quick", "--batch-size", "15", "--epochs", "1"]
    options += ["--embedding-dim", "8", "--precision", "float32", "--exclude", str(listed)]
    assert train([*options, "--out", str(run), "--dry-run"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "31 faces of 4 people" in text
    assert train([*options, "--out", str(run)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 identities and 1 images, 9 faces in all of 40; 1 of 5 people are gone" in said
    kept = json.loads((run / "config.json").read_text())["faces"]["exclude"]
    assert (kept["identities"], kept["images"]) == (1, 1)
    metadata = sf.embedder.read_metadata(run / "embedder.keras")
    assert "31 faces of 4 people, without 1 identities and 1 images" in metadata.training_data
    assert metadata.training_data in (run / "embedder.keras.card.md").read_text()

    listed.write_text("Person_000001\n")
    assert train([*options, "--out", str(run), "--resume"]) == 2
    assert "another configuration: exclude was" in " ".join(capsys.readouterr().err.split())
    assert train([*options[:-2], "--out", str(run), "--resume"]) == 2
    listed.write_text("Person_9\n")
    assert train([*options, "--out", str(tmp_path / "other")]) == 2
    assert "exclusions must be in" in " ".join(capsys.readouterr().err.split())
    assert train(["--data", "synthetic", *options[2:], "--out", str(tmp_path / "other")]) == 2
    assert "not for --data synthetic" in " ".join(capsys.readouterr().err.split())
