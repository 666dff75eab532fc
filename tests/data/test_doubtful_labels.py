"""Doubtful labels: the rule by hand, planted wrong labels, a run's list, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tf_sphereface import data, training
from tf_sphereface.alignment.images import write_face
from tf_sphereface.commands.data.main import main
from tf_sphereface.data import doubtful_labels, synthetic


def test_the_rule_by_hand():
    """Two people in the plane; angles are those of the vectors."""
    centers = np.array([[[1.0, 0.0], [0.0, 2.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    degrees = np.array([0.0, 10.0, 80.0, -76.0, 180.0, 190.0])
    vectors = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1) * 5
    found = doubtful_labels(vectors, [0, 0, 0, 0, 1, 1], centers)
    # at 80 the other centre is nearer, -76 is past 75 degrees; both people's centre 0 is dominant
    assert [(d.position, d.label, d.center, d.dominant) for d in found] == [
        (2, 0, 1, 0),
        (3, 0, 0, 0),
    ]
    assert [d.angle for d in found] == pytest.approx([80.0, 76.0], abs=1e-4)
    assert "above 75°, nearer to centre 1 than to centre 0" in found[0].reason()
    assert [d.position for d in doubtful_labels(vectors, [0, 0, 0, 0, 1, 1], centers, 79)] == [2]


def test_the_rule_without_centers_by_hand():
    """Each image is compared with the mean direction of the others, whatever their lengths."""
    degrees = np.array([0.0, 20.0, 100.0, 40.0, 70.0, 7.0])
    vectors = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    vectors *= np.arange(1, 7)[:, None]
    found = doubtful_labels(vectors, [0, 0, 0, 1, 1, 3], max_angle=50)
    # of 0, 20, 100 the others' means are at 60, 50 and 10; one alone is never in doubt
    assert [(d.position, d.label) for d in found] == [(2, 0), (0, 0)]
    assert [d.angle for d in found] == pytest.approx([90.0, 60.0], abs=1e-4)
    assert doubtful_labels(vectors[5:], [3], max_angle=0) == []
    opposite = np.array([[1.0, 0], [-1.0, 0], [0, 1.0]])  # the first two cancel out for the third
    assert [d.position for d in doubtful_labels(opposite, [0, 0, 0])] == [0, 1, 2]


def test_planted_wrong_labels_are_found():
    """One label in ten is wrong; a list drawn by chance would have a precision of 0.1."""
    rng = np.random.default_rng(0)
    people, each = 30, 20
    true = np.repeat(np.arange(people), each)
    x = rng.normal(size=(people, 24))[true] + 0.6 * rng.normal(size=(len(true), 24))
    wrong = np.zeros(len(true), bool)
    wrong[rng.choice(len(true), 60, replace=False)] = True
    labels = np.where(wrong, (true + rng.integers(1, people, len(true))) % people, true)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((24,))
    network = keras.Model(inputs, keras.layers.Dense(16)(inputs))
    model = sf.FaceClassifier(network, people, centers_per_class=3)
    model.compile(keras.optimizers.Adam(0.01), loss=sf.losses.ArcFaceLoss(16.0, 0.3))
    model.fit(x.astype("float32"), labels, batch_size=32, epochs=15, verbose=0)
    centers = model.head_layer.kernel.numpy().T.reshape(people, 3, 16)
    listed = [d.position for d in doubtful_labels(network(x), labels, centers)]
    precision, recall = wrong[listed].mean(), wrong[listed].sum() / wrong.sum()
    assert precision > 0.7
    assert recall > 0.5


RECIPE = dataclasses.replace(
    training.preset("quick"),
    input_size=(28, 24),
    embedding_dim=8,
    batch_size=8,
    epochs=1,
    loss="adaface",
    centers_per_class=2,
    precision="float32",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("labels")
    faces = synthetic.write_folder(root / "faces", 4, 5, size=(28, 24))
    (faces / "Person_000002" / "Person_000002_0001.jpg").write_bytes(b"broken")
    training.run(RECIPE, data.FaceSource(faces, image_size=(28, 24)), root / "run")
    return root / "run", faces


def test_the_command_writes_a_list_that_training_reads(run, tmp_path, capsys):
    folder, faces = run
    out = tmp_path / "out"
    assert main(["audit", "--labels", str(folder), "--angle", "1", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 centres each" in said
    assert "that many are no errors of labels" in said
    report = json.loads((out / "labels.json").read_text())
    assert (report["people"], report["images"], report["max_angle"]) == (4, 19, 1.0)
    with (out / "doubtful.tsv").open() as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert len(rows) == len(report["doubtful"]) > 10  # no image is within a degree of its centre
    assert float(rows[0]["angle_degrees"]) >= float(rows[-1]["angle_degrees"])
    listed = data.read_exclusions(out / "exclude.txt")
    assert listed.images == {row["image"] for row in rows}
    assert all((faces / name).is_file() for name in listed.images)
    audit = training.audit_labels(folder, faces, max_angle=1.0)
    assert [name for name, _ in audit.entries()] == [row["image"] for row in rows]
    assert main(["audit", "--labels", str(folder), "--angle", "1", "--out", str(out), "--strict"])


def test_people_kept_out_of_training_are_left_out_of_the_audit(tmp_path):
    faces = synthetic.write_folder(tmp_path / "faces", 6, 4, size=(28, 24))
    listed = data.Exclusions(
        frozenset({"Person_000000"}), frozenset({"Person_000001/Person_000001_0001.jpg"})
    )
    source = data.FaceSource(faces, image_size=(28, 24), exclude=listed)
    recipe = dataclasses.replace(RECIPE, seed=3)
    trained, held = data.hold_out(source, 2, recipe.seed)
    training.run(recipe, trained, tmp_path / "run")
    audit = training.audit_labels(tmp_path / "run", exclude=listed, max_angle=1.0)
    assert audit.source.names == trained.names
    assert not set(audit.source.names) & set(held.names)
    with pytest.raises(ValueError, match="must be audited with the list that it left out"):
        training.audit_labels(tmp_path / "run")


def test_faces_of_other_names_are_not_those_of_the_run(tmp_path):
    faces = synthetic.write_folder(tmp_path / "faces", 4, 4, size=(28, 24))
    training.run(RECIPE, data.FaceSource(faces, image_size=(28, 24)), tmp_path / "run")
    (faces / "Person_000000").rename(faces / "Zoe")
    with pytest.raises(ValueError, match=r"not the faces of .* of other names"):
        training.audit_labels(tmp_path / "run")


def test_an_embedder_finds_a_picture_among_another_persons(tmp_path, capsys):
    """Colour tells the person; one picture of the second lies among the first one's."""
    image = keras.Input((28, 24, 3))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    path = tmp_path / "colour.keras"
    facts = sf.embedder.EmbedderMetadata(channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    sf.embedder.save_embedder(keras.Model(image, mean), path, facts)
    rng = np.random.default_rng(0)
    for person, colour in (("red", (220, 40, 40)), ("blue", (40, 40, 220)), ("one", (9, 99, 9))):
        for number in range(1 if person == "one" else 6):
            wrong = (person, number) == ("red", 4)
            pixels = rng.normal((40, 40, 220) if wrong else colour, 9, (28, 24, 3))
            target = tmp_path / "faces" / person / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_face(target, np.clip(pixels, 0, 255).astype(np.uint8))
    words = [str(tmp_path / "faces"), "--labels", str(path), "--out", str(tmp_path / "out")]
    assert main(["audit", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "13 images of 3 people, each beside the mean of its person's others" in said
    assert "people of one image, of which nothing can be said: 1 " in said
    assert "labels in doubt: 1 (7.7%)" in said
    assert "° to the mean of its person's others, above 75°" in said
    assert data.read_exclusions(tmp_path / "out" / "exclude.txt").images == {"red/4.png"}
    report = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert (report["model"], report["step"], report["damaged"]) == (str(path), None, 0)
    assert list(report["doubtful"][0]) == ["image", "angle_degrees"]
    audit = training.audit_labels(path, tmp_path / "faces")
    assert [name for name, _ in audit.entries()] == ["red/4.png"]
    words += ["--exclude", str(tmp_path / "out" / "exclude.txt")]
    assert main(["audit", *words, "--strict", "--json", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["images"] == 12
    assert data.read_exclusions(tmp_path / "out" / "exclude.txt").images == {"red/4.png"}
    capsys.readouterr()
    words[0] = str(tmp_path / "faces" / "red")  # the pictures of one person alone
    for left, more in ((6, []), (5, words[5:])):
        assert main(["audit", *words[:5], *more]) == 0
        assert f"{left} images of 1 person, each" in " ".join(capsys.readouterr().out.split())
    assert data.read_exclusions(tmp_path / "out" / "exclude.txt").images == {"red/4.png"}
    nested = tmp_path / "nested"  # several people, who are not taken for one
    shutil.copytree(tmp_path / "faces", nested / "train")
    assert main(["audit", str(nested), *words[1:5]]) == 2
    assert "a level too deep" in capsys.readouterr().err
    words[0] = str(tmp_path / "faces")
    assert main(["audit", "--labels", str(path)]) == 2
    assert "needs TRAIN" in capsys.readouterr().err
    assert main(["audit", *words, "--model", str(path)]) == 2
    assert "--model cannot go with --labels: TRAIN alone is looked at" in capsys.readouterr().err
    (tmp_path / "faces" / "blue" / "0.png").write_bytes(b"broken")
    assert main(["audit", *words[:-2]]) == 0
    assert "1 file was skipped" in capsys.readouterr().err
    assert main(["audit", *words[:-2], "--strict"]) == 2
    assert "blue/0.png" in capsys.readouterr().err


def test_an_embedding_that_is_not_finite_is_named(tmp_path):
    image = keras.Input((28, 24, 3))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    embedder = sf.load_embedder(
        keras.Model(image, mean * np.inf), channel_order="rgb", pixel_mean=127.5, pixel_scale=128
    )
    folder = synthetic.write_folder(tmp_path / "faces", 2, 2, size=(28, 24))
    with pytest.raises(ValueError, match=r"Person_000000_0001\.jpg is not finite"):
        training.audit_labels(embedder, folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "{run}", "{faces}", "{faces}"], "TEST cannot go with --labels"),
        (["--labels", "{run}", "--model", "m.keras"], "--model cannot go with --labels"),
        (["--labels", "{faces}"], "holds no run with a checkpoint"),
        (["--labels", "{faces}/m.keras"], "there is no run folder or embedder"),
        (["--labels", "{run}", "--angle", "180"], "`max_angle` must be"),
        (["--labels", "{run}", "--exclude", "{list}"], "the list that it left out"),
        (["--labels", "{run}", "{fewer}"], "these are not the faces of"),
        (["{faces}"], "audit needs TRAIN and TEST, --labels RUN, or TRAIN --labels MODEL"),
        (["{faces}", "{faces}", "--angle", "70"], "--angle needs --labels"),
    ],
)
def test_what_cannot_be_audited_is_said(run, options, message, tmp_path, capsys):
    folder, faces = run
    fewer = synthetic.write_folder(tmp_path / "fewer", 3, 5, size=(28, 24))
    (tmp_path / "list").write_text("Person_000000\n")
    places = {"run": folder, "faces": faces, "fewer": fewer, "list": tmp_path / "list"}
    words = [word.format(**places) for word in options]
    assert main(["audit", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_run_that_started_from_a_network_is_audited(run, tmp_path):
    size = (28, 24)
    source = data.FaceSource(run[1], image_size=size)
    network = sf.load_embedder(
        sf.backbones.SphereFaceNet(4, (*size, 3), 8),
        channel_order="rgb",
        pixel_mean=127.5,
        pixel_scale=255.0,
    )
    recipe = dataclasses.replace(
        training.preset("fine-tune"), epochs=1, batch_size=8, centers_per_class=2
    )
    finished = training.fine_tune(network, source, tmp_path / "run", recipe)
    audit = training.audit_labels(tmp_path / "run", max_angle=1.0)
    faces = np.concatenate([batch for batch, *_ in source.in_order()])
    centers = finished.model.head_layer.kernel.numpy().T.reshape(4, 2, -1)
    expected = doubtful_labels(finished.model.predict(faces, verbose=0), source.labels, centers, 1)
    assert [d.position for d in audit.doubtful] == [d.position for d in expected] != []


def test_wrong_arrays_are_refused():
    centers = np.ones((2, 1, 3))
    for vectors, labels, message in (
        (np.ones((2, 4)), [0, 1], "shapes"),
        (np.ones((2, 3)), [0, 2], r"`labels` must be 2 integers in \[0, 2\)"),
        (np.full((2, 3), np.nan), [0, 1], "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            doubtful_labels(vectors, labels, centers)
