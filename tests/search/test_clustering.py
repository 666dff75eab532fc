"""Faces into people: vectors that are made up, drawn faces through the command, real people."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from tests.browser import find, look
from tf_sphereface import search
from tf_sphereface.alignment.images import read_image, write_face
from tf_sphereface.commands.search import main
from tf_sphereface.embedder.embedder import save_embedder
from tf_sphereface.eval.measures.clusters import score_clusters
from tf_sphereface.importers import load_mobilefacenet

DIMENSION = 64


def run(*arguments) -> int:
    return main.main([str(argument) for argument in arguments])


def people(counts, spread=0.08, seed=0, dimension=DIMENSION):
    """Vectors around random directions, and who each shows."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(len(counts), dimension))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    who = np.repeat(np.arange(len(counts)), counts)
    return centers[who] + spread * rng.normal(size=(len(who), dimension)), who


def table(vectors, **columns):
    paths = columns.pop("paths", [f"{i}.jpg" for i in range(len(vectors))])
    return search.FaceTable(paths, vectors, **columns)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.1, 0.7))
def test_components_change_nothing_about_average_linkage(seed, cut):
    vectors, _ = people([4, 3, 3, 2, 1], 0.15, seed)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    tree = linkage(1 - (units @ units.T)[np.triu_indices(len(units), 1)], "average")
    expected = fcluster(tree, 1 - cut, "distance")
    labels = search.cluster_faces(table(vectors), threshold=cut).labels
    together = labels[:, None] == labels
    together[labels < 0] = False
    np.fill_diagonal(together, True)
    np.testing.assert_array_equal(together, expected[:, None] == expected)


def test_the_faces_own_cosines_give_the_cut_and_say_so():
    vectors, who = people([9] * 12 + [1] * 5)
    clusters = search.cluster_faces(table(vectors))
    assert clusters.cut.origin == "folder"
    assert "the model has no threshold" in clusters.cut.reason
    score = score_clusters(clusters.labels, who)
    assert score.pairwise == score.bcubed == (1.0, 1.0, 1.0)
    assert clusters.count == 12
    assert (clusters.labels[-5:] == -1).all()


def test_the_models_threshold_is_raised_for_more_faces():
    facts = {"threshold": 0.3, "threshold_far": 0.01}
    few = search.cluster_faces(table(people([3, 3])[0], facts=facts)).cut
    many = search.cluster_faces(table(people([3] * 100)[0], facts=facts)).cut
    assert few.origin == many.origin == "model"
    assert 0.3 <= few.cosine < many.cosine < 0.7
    assert (
        search.cluster_faces(table(people([3, 3])[0], facts=facts), threshold=0.2).cut.cosine == 0.2
    )


def test_cosines_of_one_kind_ask_for_a_threshold():
    with pytest.raises(ValueError, match="threshold"):
        search.cluster_faces(table(people([30])[0]))


def test_a_chain_of_likenesses_joins_nobody():
    """Each of a row of faces is near the next one; the first and the last are strangers."""
    angles = np.radians(np.arange(12) * 25.0)
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = search.cluster_faces(table(chain), threshold=0.6).labels
    assert len(set(labels.tolist())) > 3


def test_faces_of_one_picture_stay_apart_and_draw_others_to_the_nearer():
    vectors, _ = people([8], 0.02)
    paths = [*[f"{i}.jpg" for i in range(6)], "twins.jpg", "twins.jpg"]
    labels = search.cluster_faces(table(vectors, paths=paths), threshold=0.5).labels
    assert labels[6] != labels[7]
    assert set(labels[:6]) <= {labels[6], labels[7]} - {-1}


def test_blurred_faces_found_no_cluster_and_join_clear_ones_only():
    vectors, _ = people([6, 6, 4])
    sharp = np.full(16, 100.0)
    blank = np.zeros(16)
    sharp[12:] = 3.0  # four of nobody that are alike
    sharp[5] = 3.0  # one of the first person
    blank[11] = 0.9  # alike to a picture without a face
    sharp[11] = 3.0  # which as a rule is blurred too
    clusters = search.cluster_faces(table(vectors, sharpness=sharp, blankness=blank), threshold=0.5)
    assert clusters.labels.tolist() == [0] * 6 + [1] * 5 + [-1] * 5
    assert clusters.unclear == {
        5: "blurred",
        11: "no face",
        **dict.fromkeys(range(12, 16), "blurred"),
    }
    allsoft = search.cluster_faces(table(vectors, sharpness=np.full(16, 3.0)), threshold=0.5)
    assert allsoft.count == 3
    assert "more than half" in allsoft.notes[0]


def test_zero_and_wrong_vectors_are_named():
    with pytest.raises(ValueError, match=r"finite and not zero.*1\.jpg"):
        search.cluster_faces(table(np.array([[1.0, 0], [0, 0]])), threshold=0.5)
    with pytest.raises(ValueError, match="threshold"):
        search.cluster_faces(table(np.eye(3)), threshold=2.0)


def test_rates_agree_with_their_definition():
    rng = np.random.default_rng(1)
    labels, who = rng.integers(-1, 5, 60), rng.integers(0, 6, 60)
    apart = np.where(labels < 0, 100 + np.arange(60), labels)
    together, one = apart[:, None] == apart, who[:, None] == who
    pairs = np.triu_indices(60, 1)
    both = (together & one)[pairs].sum()
    score = score_clusters(labels, who)
    assert score.pairwise[:2] == pytest.approx(
        (both / together[pairs].sum(), both / one[pairs].sum())
    )
    precision = np.mean((together & one).sum(1) / together.sum(1))
    recall = np.mean((together & one).sum(1) / one.sum(1))
    assert score.bcubed[:2] == pytest.approx((precision, recall))
    assert score.bcubed[2] == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.fixture(scope="module")
def faces_and_table(faces, tmp_path_factory):
    """Drawn faces in a folder of any depth, and a table of them with vectors of their people."""
    root = tmp_path_factory.mktemp("cluster")
    shutil.copytree(faces, root / "faces")
    paths = sorted(p.relative_to(root / "faces").as_posix() for p in root.rglob("*.jpg"))
    vectors, _ = people([5] * 20)
    made = search.FaceTable(paths, vectors, facts={"source": str(root / "faces")})
    made.save(root / "faces.npz")
    return root


def test_the_command_writes_folders_and_leaves_the_pictures(faces_and_table, tmp_path, capsys):
    root, out = faces_and_table, tmp_path / "out"
    before = {path: path.read_bytes() for path in (root / "faces").rglob("*.jpg")}
    result = tmp_path / "c.json"
    assert run("cluster", root / "faces.npz", "--out", out, "--json", result, "--score") == 0
    found = json.loads(result.read_text())
    assert found["people"] == 20
    assert found["score"]["pairwise"]["f"] == found["score"]["bcubed"]["f"] == 1.0
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert [path.name for path in folders] == [c["name"] for c in found["clusters"]]
    for cluster in found["clusters"]:
        written = sorted((out / cluster["name"]).iterdir())
        assert len(written) == len(cluster["faces"]) == 5
        assert 0 < cluster["largest_angle"] < 90
        sources = sorted(root / "faces" / file for file in cluster["files"])
        assert [p.read_bytes() for p in written] == [p.read_bytes() for p in sources]
    assert {path: path.read_bytes() for path in (root / "faces").rglob("*.jpg")} == before
    assert "precision 1.0000" in capsys.readouterr().out
    assert (out / "clusters.tsv").read_text().count("\n") == 101
    assert run("cluster", root / "faces.npz", "--out", out) == 2  # names would be lost
    assert "new or empty" in capsys.readouterr().err


def test_links_lead_to_the_pictures(faces_and_table, tmp_path):
    out = tmp_path / "out"
    assert run("cluster", faces_and_table / "faces.npz", "--out", out, "--files", "links") == 0
    links = list(out.glob("person_*/*"))
    assert len(links) == 100
    assert all(link.is_symlink() and link.exists() for link in links)


def test_pictures_without_a_face_are_not_lost(faces_and_table, tmp_path, capsys):
    root, out = faces_and_table, tmp_path / "out"
    made = search.load_faces(root / "faces.npz")
    bare, twin = (root / "faces" / name for name in ("a/no.jpg", "a_no.jpg"))
    bare.parent.mkdir(exist_ok=True)
    for number, path in enumerate((bare, twin)):
        path.write_bytes(b"landscape %d" % number)
    made.failed = {"a/no.jpg": "no face was found", "a_no.jpg": "no face was found"}
    made.save(tmp_path / "t.npz")
    result = tmp_path / "c.json"
    assert (
        run("cluster", tmp_path / "t.npz", "--out", out, "--files", "copies", "--json", result) == 0
    )
    assert "2 pictures without a face" in " ".join(capsys.readouterr().out.split())
    assert [lost["file"] for lost in json.loads(result.read_text())["without_face"]] == [
        *made.failed
    ]
    assert "a/no.jpg\t\tapart/unclear\tno face was found" in (out / "clusters.tsv").read_text()
    kept = {path.read_bytes() for path in (out / "apart" / "unclear").iterdir()}
    assert kept == {b"landscape 0", b"landscape 1"}


def test_the_score_is_of_the_largest_face_of_pictures_in_people_s_folders(tmp_path, capsys):
    vectors, _ = people([4, 4])
    paths = [f"ann/{i}.jpg" for i in range(4)] + ["ann/0.jpg"] + [f"bob/{i}.jpg" for i in range(3)]
    made = table(vectors)
    made.paths, made.faces[4] = paths, 1  # somebody behind Ann
    made.save(tmp_path / "t.npz")
    result = tmp_path / "c.json"
    options = ["--out", tmp_path / "out", "--threshold", "0.5", "--score", "--json", result]
    assert run("cluster", tmp_path / "t.npz", *options) == 0
    score = json.loads(result.read_text())["score"]
    assert (score["people"], score["pairwise"]["f"]) == (2, 1.0)


def test_a_table_whose_pictures_are_gone_gives_the_lists(tmp_path, capsys):
    vectors, _ = people([4, 4, 4])
    table(vectors, facts={"source": str(tmp_path / "gone")}).save(tmp_path / "t.npz")
    assert run("cluster", tmp_path / "t.npz", "--out", tmp_path / "out", "--threshold", "0.5") == 0
    assert "no faces" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["clusters.tsv", "index.html"]


def test_a_table_of_another_origin_is_read_from_its_paths(faces, tmp_path):
    paths = [str(path) for path in sorted(faces.rglob("*.jpg"))][:10]
    np.savez(tmp_path / "t.npz", paths=np.array(paths), embeddings=people([5, 5])[0])
    arguments = (tmp_path / "t.npz", "--out", tmp_path / "out", "--threshold", "0.5")
    assert run("cluster", *arguments) == 0
    assert len(list((tmp_path / "out").glob("person_*/*.jpg"))) == 10


def test_photographs_are_embedded_first_and_cut_out(model, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("cluster", photos, "--out", out, "--threshold", "0.99") == 2
    assert "--model is needed" in capsys.readouterr().err
    assert run("cluster", photos, "--model", model, "--out", out, "--threshold", "0.99") == 0
    assert "broken.jpg" in capsys.readouterr().err
    assert len(search.load_faces(out / "faces.npz")) == 3
    crops = sorted(out.rglob("*.png"), key=lambda crop: crop.name)
    assert [crop.name for crop in crops] == ["a_one.png", "a_two_1.png", "a_two_2.png"]
    assert read_image(crops[0]).shape == (112, 96, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.slow
@pytest.mark.skipif(find() is None, reason="no Chromium")
def test_the_page_is_whole_in_a_browser(faces_and_table, tmp_path):
    assert run("cluster", faces_and_table / "faces.npz", "--out", tmp_path / "out") == 0
    seen = look(str(find()), tmp_path / "out" / "index.html", tmp_path, 390)
    assert seen["broken"] == 0
    assert seen["out"] == seen["requests"] == seen["console"] == []


@pytest.mark.slow
def test_blurred_real_faces_and_pictures_without_one_glue_nobody(real_data, tmp_path):
    """Ten people, ten faces each; four blurred ones of each, and thirty pictures without a face."""
    folders = sorted(path for path in (real_data / "celeba_faces").iterdir() if path.is_dir())[:10]
    rng = np.random.default_rng(1)
    for folder in folders:
        for i, path in enumerate(sorted(folder.iterdir())[:10]):
            image = read_image(path)
            write_face(tmp_path / "src" / folder.name / path.name, image, 100)
            if i < 4:
                soft = cv2.GaussianBlur(image, (0, 0), (3, 4, 6, 9)[i])
                write_face(tmp_path / "src" / folder.name / f"soft_{path.name}", soft, 100)
    for i in range(30):
        cells = rng.integers(0, 256, (112, 96, 3) if i % 2 else (8, 7, 3)).astype(np.uint8)
        image = cv2.resize(cells, (96, 112), interpolation=cv2.INTER_CUBIC)
        write_face(tmp_path / "src" / "none" / f"{i}.png", image)
    network = load_mobilefacenet(real_data / "mobilefacenet" / "mobilefacenet_casia_068.ckpt")
    save_embedder(network, tmp_path / "m.keras")
    options = ("--model", tmp_path / "m.keras", "--json", tmp_path / "c.json", "--score")
    assert run("cluster", tmp_path / "src", "--out", tmp_path / "out", *options) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["score"]["mixed"] == 0
    assert len([face for face in found["unclear"] if face["file"].startswith("none/")]) == 30
    sharp = {
        cluster["name"]: {file.split("/")[0] for file in cluster["files"] if "soft" not in file}
        for cluster in found["clusters"]
    }
    assert 9 <= len(sharp) <= 14  # one person does not become five
