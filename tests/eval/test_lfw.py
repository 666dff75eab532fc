from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.embedder import load_embedder
from tf_sphereface.eval import lfw, verification
from tf_sphereface.eval.pairs import Pairs, read_pairs
from tf_sphereface.eval.report import tables
from tf_sphereface.eval.scoring.score_pairs import embed_verification


def run(folder, embedder, **options):
    return lfw.evaluate(embedder, folder / "images", folder / "pairs.txt", **options)


def test_equals_the_same_faces_in_memory(lfw_folder, embedder):
    calls = []
    result = run(lfw_folder, embedder, progress=lambda *done: calls.append(done))
    pairs = read_pairs(lfw_folder / "pairs.txt")
    names, left, right = pairs.images()
    images = [cv2.imread(str(lfw_folder / "images" / n))[..., ::-1] for n in names]
    expected = embed_verification(
        embedder, np.stack(images), left, right, pairs.is_same, pairs.folds
    )
    assert result.table.keys() == expected.table.keys()
    for key, entry in expected.table.items():
        assert result.table[key].scores == pytest.approx(entry.scores, abs=1e-12)
        assert result.table[key].folds.tolist() == [1] * 8 + [2] * 8 + [3] * 8
    for name in ("accuracy", "std_error", "auc", "eer", "tar_at_far", "genuine_angle"):
        assert getattr(result, name) == getattr(result.headline, name)
    for name in ("fold_accuracies", "thresholds"):
        assert getattr(result, name) is getattr(result.headline, name)
    assert calls[-1] == (len(names), len(names))
    assert result.num_items == len(names)
    assert "24 pairs (12 genuine, 12 impostor)" in result.protocol
    assert "3 folds of the list" in result.protocol


def test_without_the_mirror_image(lfw_folder, embedder):
    result = run(lfw_folder, embedder, flip=False)
    assert set(result.table) == {("none", "plain"), ("none", "mean_subtracted")}
    assert "the image alone" in result.protocol


def test_every_file_that_cannot_be_used_is_listed(lfw_folder, embedder, make_face, write_image):
    images = lfw_folder / "images"
    (images / "P03" / "P03_0001.jpg").unlink()
    (images / "P05" / "P05_0002.jpg").write_bytes(b"no picture")
    write_image(images / "P07" / "P07_0001.jpg", make_face(7, 1)[:100])
    (images / "P09" / "P09_0001.jpg").write_bytes(b"")
    truncated = images / "P10" / "P10_0002.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"^5 of 30 images in .* cannot be used") as error:
        run(lfw_folder, embedder)
    message = str(error.value)
    assert "P03/P03_0001.jpg: missing" in message
    assert "P05/P05_0002.jpg: cannot be decoded" in message
    assert "P07/P07_0001.jpg: 100x96 pixels, not 112x96" in message
    assert "P09/P09_0001.jpg: cannot be decoded" in message
    assert "P10/P10_0002.jpg: cannot be decoded" in message
    assert "--landmarks FILE" in message
    assert "tf_sphereface-align SRC DST --landmarks FILE" in message


def test_a_list_of_missing_files_ends_after_ten(lfw_folder, embedder):
    for path in (lfw_folder / "images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=r"^30 of 30 images") as error:
        run(lfw_folder, embedder)
    message = str(error.value)
    assert message.count(": missing") == 10
    assert "and 20 more" in message


def test_the_likely_cause_of_missing_files(lfw_folder, embedder):
    images, pairs = lfw_folder / "images", lfw_folder / "pairs.txt"
    images.rename(lfw_folder / "inner")
    images.mkdir()
    (lfw_folder / "inner").rename(images / "lfw")
    with pytest.raises(ValueError, match=r"one level deeper: give .*images.lfw$"):
        lfw.evaluate(embedder, images, pairs)
    with pytest.raises(ValueError, match=r"one level higher: give .*lfw$"):
        lfw.evaluate(embedder, images / "lfw" / "P03", pairs)
    for path in (images / "lfw").rglob("*.jpg"):
        path.rename(path.with_name(path.stem[:-5] + "_" + path.stem[-1] + ".jpg"))
    with pytest.raises(ValueError, match="named otherwise, such as _1 for _0001"):
        lfw.evaluate(embedder, images / "lfw", pairs)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp", ""])
def test_images_under_another_suffix(lfw_folder, embedder, suffix):
    expected = run(lfw_folder, embedder)
    for path in (lfw_folder / "images").rglob("*.jpg"):
        path.rename(path.with_suffix(suffix))
    result = run(lfw_folder, embedder)
    np.testing.assert_array_equal(result.headline.scores, expected.headline.scores)
    assert result.pairs.left[0].endswith(suffix)


def test_landmarks_align_the_images(tmp_path, lfw_folder, embedder):
    # The pictures are padded to 250x250, and the template's own points are moved along: aligning
    # by them must give the pictures back.
    from tf_sphereface.alignment.align import TEMPLATES

    expected = run(lfw_folder, embedder)
    lines = []
    for i, path in enumerate(sorted((lfw_folder / "images").rglob("*.jpg"))):
        image = cv2.imread(str(path))
        padded = np.zeros((250, 250, 3), np.uint8)
        top, left = 20 + i, 90 - i
        padded[top : top + 112, left : left + 96] = image
        cv2.imwrite(str(path.with_suffix(".png")), padded)
        path.with_suffix(".png").rename(path)  # lossless behind LFW's name; decoded by content
        points = TEMPLATES[112, 96] + [left, top]
        numbers = "\t".join(f"{number:.4f}" for number in points.ravel())
        lines.append(f"{path.parent.name}/{path.name}\t{numbers}")
    landmarks = tmp_path / "landmarks.tsv"
    landmarks.write_text("\n".join(lines) + "\n")
    result = run(lfw_folder, embedder, landmarks=landmarks)
    # The fitted transform is a whole shift up to 1e-4 pixels; bilinear rounding may move a level.
    assert result.headline.scores == pytest.approx(expected.headline.scores, abs=1e-3)
    assert "Aligned by the given landmarks" in result.protocol
    with pytest.raises(ValueError, match="250x250 pixels, not 112x96"):
        run(lfw_folder, embedder)

    landmarks.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(ValueError, match=r"P00/P00_0001.jpg: not in the landmark file"):
        run(lfw_folder, embedder, landmarks=landmarks)


def test_a_network_of_half_the_size_gets_the_crop_averaged_down(tmp_path, make_face, write_image):
    face = make_face(1, 1)
    write_image(tmp_path / "a.png", face)
    half = FaceReader((56, 48))(tmp_path / "a.png", "a.png")
    blocks = face.reshape(56, 2, 48, 2, 3).mean(axis=(1, 3))
    # cv2 rounds the mean of four pixels to the nearest level.
    assert np.max(np.abs(half - blocks)) <= 0.5
    write_image(tmp_path / "b.png", half)
    assert np.array_equal(FaceReader((56, 48))(tmp_path / "b.png", "b.png"), half)


def test_a_half_size_network_end_to_end(lfw_folder, embedder, half_embedder):
    full, half = run(lfw_folder, embedder), run(lfw_folder, half_embedder)
    # Both average the same colours over the same areas, with one rounding between.
    assert half.headline.scores == pytest.approx(full.headline.scores, abs=2e-3)


def test_landmarks_need_a_known_template(tmp_path):
    with pytest.raises(ValueError, match="landmarks need a network whose input is 112x96"):
        FaceReader((64, 64), {"a.jpg": np.zeros((5, 2))})


def test_a_folder_that_is_not_there(tmp_path, embedder):
    with pytest.raises(FileNotFoundError, match="images must be a folder"):
        lfw.evaluate(embedder, tmp_path / "none", "pairs.txt")


@pytest.fixture
def view1(lfw_folder):
    """Folds 1 and 2 as the training list, fold 3 as the test list, in View 1's format."""
    lines = (lfw_folder / "pairs.txt").read_text().splitlines()[1:]
    genuine = [line for k in (0, 8) for line in lines[k : k + 4]]
    impostor = [line for k in (4, 12) for line in lines[k : k + 4]]
    (lfw_folder / "train.txt").write_text("\n".join(["8", *genuine, *impostor]))
    (lfw_folder / "test.txt").write_text("\n".join(["4", *lines[16:]]))
    return lfw_folder


def test_view_1_takes_its_threshold_from_the_training_list(view1, embedder, caplog):
    found = lfw.evaluate_view1(embedder, view1 / "images", view1 / "train.txt", view1 / "test.txt")
    both = run(view1, embedder)
    for key, result in found.table.items():
        # Fold 3 of View 2 has its threshold and its mean from folds 1 and 2 as well.
        whole = both.table[key]
        assert result.thresholds.tolist() == pytest.approx([whole.thresholds[2]], abs=1e-12)
        assert result.accuracy == whole.fold_accuracies[2]
        assert result.scores == pytest.approx(whole.scores[16:], abs=1e-12)
    assert len(found.pairs) == 8
    assert "8 pairs (4 genuine, 4 impostor)" in found.protocol
    assert "not for publication" in found.protocol
    # of the tested images: those of the training list are no test
    score = found.headline.angular_fisher_score
    train, test = (read_pairs(view1 / f"{name}.txt") for name in ("train", "test"))
    half = [k for k in range(16) if k % 8 < 4]
    left, right = ([side[k] for k in half] for side in (train.left, train.right))
    fewer = Pairs(left, right, train.is_same[half], train.folds[half])
    alone = lfw.evaluate_view1(embedder, view1 / "images", fewer, test)
    assert alone.headline.angular_fisher_score == score
    assert score != both.headline.angular_fisher_score
    turned = Pairs(test.right, test.left, test.is_same, test.folds)
    caplog.clear()
    lfw.evaluate_view1(embedder, view1 / "images", turned, test)
    assert "share 8 pairs, such as" in caplog.text
    json.dumps(tables.to_dict(found), allow_nan=False)


def test_another_list_in_the_layout_has_its_own_name(view1, save_pixels, capsys):
    from tf_sphereface.commands.eval.main import main

    model, out, page = view1 / "pixels.keras", view1 / "out.json", view1 / "out.html"
    save_pixels(model)
    other = view1 / "xqlfw_pairs.txt"
    other.write_text((view1 / "pairs.txt").read_text())
    lists = ["--pairs", str(other), "--json", str(out), "--report", str(page)]
    assert main(["lfw", str(model), "--images", str(view1 / "images"), *lists]) == 0
    values = json.loads(out.read_text())
    assert values["protocol"] == "xqlfw"
    assert values["published"] == {"pairs": None, "figures": []}
    assert values["description"].startswith("xqlfw: 24 pairs")
    assert "result category" not in values["description"]
    printed = capsys.readouterr().out
    assert "xqlfw: 24 pairs" in " ".join(printed.split())
    assert "<h1>xqlfw, pairs in LFW" in page.read_text()
    train, test = view1 / "xqlfw_train.txt", view1 / "xqlfw_test.txt"
    for path, of in ((train, "train.txt"), (test, "test.txt")):
        path.write_text((view1 / of).read_text())
    found = lfw.evaluate_view1(load_embedder(model), view1 / "images", train, test)
    assert found.name == "xqlfw-view1"


def test_view_1_by_the_command(view1, save_pixels, capsys):
    from tf_sphereface.commands.eval.main import main

    model, page = save_pixels(view1 / "pixels.keras"), view1 / "out.html"
    lists = ["--pairs", str(view1 / "test.txt"), "--train-pairs", str(view1 / "train.txt")]
    images = ["--images", str(view1 / "images"), "--report", str(page)]
    assert main(["lfw", str(model), *images, *lists]) == 0
    assert "View 1" in capsys.readouterr().out
    scores = view1 / "scores.txt"
    assert main(["lfw", str(model), *images, *lists, "--write-scores", str(scores)]) == 2
    assert "--write-scores must be of folds" in capsys.readouterr().err
    assert not scores.exists()
    assert "its binomial standard error. The bold" in page.read_text()
    assert "chosen on the training pairs</th>" in page.read_text()


def test_the_category_is_said_in_words(lfw_folder, embedder):
    assert run(lfw_folder, embedder).protocol.endswith(
        "LFW's result category: unrestricted with labeled outside data."
    )
    assert "category" not in run(lfw_folder, embedder, category=None).protocol
    with pytest.raises(ValueError, match=r"category must be None or one of unsupervised, .*'best'"):
        run(lfw_folder, embedder, category="best")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("P03/P03_1.jpg", "misnamed? There is P03/P03_1.jpg"),
        ("P03/p03_0001.JPG", "misnamed? There is P03/p03_0001.JPG"),
        ("P03/P03 0001.jpg", "misnamed? There is P03/P03 0001.jpg"),
        ("P03/Q03_0001.jpg", None),
    ],
)
def test_a_misnamed_image_is_missing_and_pointed_out(lfw_folder, embedder, given, hint):
    images = lfw_folder / "images"
    (images / "P03" / "P03_0001.jpg").rename(images / given)
    with pytest.raises(ValueError, match=r"^1 of 30 images") as error:
        run(lfw_folder, embedder)
    line = next(x for x in str(error.value).splitlines() if "P03_0001.jpg: " in x)
    assert line == "  P03/P03_0001.jpg: missing" + (f"; {hint}" if hint else "")


def test_a_misnamed_folder_is_pointed_out(lfw_folder, embedder):
    images = lfw_folder / "images"
    (images / "P03").rename(images / "p03")
    with pytest.raises(
        ValueError,
        match=r"(?s)P03_0001.jpg: missing; misnamed\? There is p03/P03_0001.*case of names differ",
    ):
        run(lfw_folder, embedder)
    (images / "p03").rename(images / "P03")
    images.rename(lfw_folder / "inner")
    (images / "x" / "y").mkdir(parents=True)
    (lfw_folder / "inner").rename(images / "x" / "y" / "lfw")
    with pytest.raises(ValueError, match=r"None of these people's folders .* which holds x$"):
        run(lfw_folder, embedder)


def test_the_angular_fisher_score_is_that_of_the_images(lfw_folder, embedder, naive):
    result = run(lfw_folder, embedder, flip=False)
    names = result.pairs.images()[0]
    vectors = embedder(
        np.stack([cv2.imread(str(lfw_folder / "images" / n))[..., ::-1] for n in names])
    )
    labels = [name.split("/")[0] for name in names]
    expected = naive.angular_fisher_score(vectors.tolist(), labels)
    assert result.headline.angular_fisher_score == pytest.approx(expected, rel=1e-4)
    assert result.table["none", "mean_subtracted"].angular_fisher_score is None


def test_the_report_is_valid_json_with_the_headline(lfw_folder, embedder):
    result = run(lfw_folder, embedder)
    text = json.dumps(tables.to_dict(result), allow_nan=False)
    values = json.loads(text)
    assert values["protocol"] == "lfw"
    assert values["data"] == {"pairs": 24, "genuine": 12, "impostor": 12, "folds": 3, "items": 30}
    assert values["headline"]["accuracy"] == result.headline.accuracy
    assert values["headline"]["flip"] == "flip"
    assert [(row["flip"], row["mean"]) for row in values["table"]] == list(result.table)
    assert values["headline"]["tar_at_far"][0]["reason"].startswith("needs 100 impostor pairs")
    assert len(values["headline"]["folds"]) == 3


class Unused:
    """Stands for an embedder that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(f"the embedder was asked for {name}")


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("1\t12", {}, r"Received: one fold\. .*--train-pairs pairsDevTrain\.txt"),
        ("3\t4", {"search": "best"}, "`search` must be one of 'exact', 'grid'"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_work(
    lfw_folder, monkeypatch, header, options, message
):
    monkeypatch.setattr(lfw, "open_embedder", lambda model, options: model)
    path = lfw_folder / "pairs.txt"
    lines = path.read_text().splitlines()[1:]
    lines.sort(key=lambda line: line.count("\t") if header == "1\t12" else 0)
    path.write_text("\n".join([header, *lines]))
    with pytest.raises(ValueError, match=message):
        run(lfw_folder, Unused(), **options)


def test_both_searches_reach_every_way_of_scoring(lfw_folder, embedder):
    exact, grid = (run(lfw_folder, embedder, search=search) for search in ("exact", "grid"))
    for key, result in grid.table.items():
        expected = verification.evaluate(
            exact.table[key].scores, result.is_same, result.folds, search="grid"
        )
        if key[1] == "plain":  # else each fold has scores of its own
            assert result.thresholds.tolist() == expected.thresholds.tolist()
        # halves of the grid's step, as a mean of neighbours on it may be
        assert result.thresholds * 20_000 == pytest.approx(np.round(result.thresholds * 20_000))
    assert "grid" not in exact.protocol


def test_a_name_in_another_unicode_form_is_pointed_out(lfw_folder, embedder):
    composed, decomposed = "Jos\u00e9", "Jose\u0301"
    path = lfw_folder / "pairs.txt"
    path.write_text(path.read_text().replace("P03", composed), encoding="utf-8")
    folder = lfw_folder / "images" / decomposed
    (lfw_folder / "images" / "P03").rename(folder)
    for image in sorted(folder.iterdir()):
        image.rename(folder / image.name.replace("P03", decomposed))
    with pytest.raises(ValueError, match=rf"misnamed\? There is {decomposed}/{decomposed}_0001"):
        run(lfw_folder, embedder)
