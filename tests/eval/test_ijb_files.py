"""Lists of IJB that are missing, cut off or odd."""

from __future__ import annotations

import numpy as np
import pytest

from tests.eval.ijb_tree import append
from tf_sphereface.eval import ijb
from tf_sphereface.eval.ijb_files import read_files
from tf_sphereface.utils.messages import SphereFaceWarning

pytestmark = pytest.mark.filterwarnings("ignore:this is not the published IJB")


def test_the_published_counts_are_asked_for(tree, monkeypatch):
    files = read_files(tree.root, "ijbc")
    with pytest.warns(SphereFaceWarning, match=r"of 469,375 images, .* of 15,658,489 pairs"):
        ijb._warn_of_counts(files)
    monkeypatch.setitem(ijb.PUBLISHED, "ijbb", files.counts)
    with pytest.warns(SphereFaceWarning, match="These are the counts of IJB-B"):
        ijb._warn_of_counts(files)
    monkeypatch.setitem(ijb.PUBLISHED, "ijbc", files.counts)
    ijb._warn_of_counts(files)  # says nothing


def test_without_all_csv_files_nothing_is_searched(tree, embedder):
    for name in ("1N_gallery_G1.csv", "1N_gallery_G2.csv"):
        tree.meta(name).unlink()
    with pytest.warns(
        SphereFaceWarning, match=r"lacks ijbc_1N_gallery_G1\.csv, ijbc_1N_gallery_G2"
    ):
        files = read_files(tree.root, "ijbc")
    assert files.probes is None
    tree.meta("1N_probe_mixed.csv").unlink()
    assert ijb.evaluate(embedder, tree.root, "ijbc").headline.search is None


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("face_tid_mid.txt", "meta/ lacks ijbc_face_tid_mid.txt$"),
        ("template_pair_label.txt", "lacks ijbc_template_pair_label.txt$"),
        ("name_5pts_score.txt", "lacks ijbc_name_5pts_score.txt$"),
    ],
)
def test_missing_lists_are_named(tree, name, cause):
    tree.meta(name).unlink()
    with pytest.raises(FileNotFoundError, match=cause):
        read_files(tree.root, "ijbc")


def test_a_folder_above_or_below_is_recognised(tree):
    with pytest.raises(FileNotFoundError, match=rf"the set lies deeper; give {tree.root}"):
        read_files(tree.root.parent, "ijbc")
    with pytest.raises(FileNotFoundError, match=rf"the folder meta itself; give {tree.root}"):
        read_files(tree.root / "meta", "ijbc")


def test_missing_images_are_counted_before_the_work(tree, embedder):
    for line in tree.lines[:12]:
        (tree.root / "loose_crop" / line.image).unlink()
    with pytest.raises(ValueError, match=r"12 of \d+ images in .*loose_crop") as error:
        ijb.evaluate(embedder, tree.root, "ijbc")
    assert str(error.value).count(": no such file") == 10
    assert "and 2 more" in str(error.value)


def test_images_under_another_suffix_are_found(tree, embedder):
    expected = ijb.evaluate(embedder, tree.root, "ijbc").headline.auc
    for picture in (tree.root / "loose_crop").iterdir():
        picture.rename(picture.with_suffix(".png"))
    assert ijb.evaluate(embedder, tree.root, "ijbc").headline.auc == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("face_tid_mid.txt", "77.jpg 10", r"line \d+: expected an image, a template and a media"),
        ("face_tid_mid.txt", "77.jpg ten 3\n", "Received: '77.jpg ten 3'"),
        ("face_tid_mid.txt", "77.jpg 10 3\n", "5pts_score.txt lacks 1 images .*: 77.jpg"),
        ("face_tid_mid.txt", "1.jpg 1000 3\n", r"Received: 1.jpg 2 times for template 1000"),
        ("template_pair_label.txt", "1000 99", r"line 67: expected two templates and a label"),
        ("template_pair_label.txt", "1000 993 2\n", "a label, 0 or 1"),
        ("template_pair_label.txt", "1000 993 1.0\n", "a label, 0 or 1"),
        ("template_pair_label.txt", "1000 3 1\n4 5 0\n", "names 3 templates .* no image .*: 3, 4"),
        ("name_5pts_score.txt", "77.jpg" + 11 * " 1" + "\n", "tid_mid.txt lacks 1 .*: 77.jpg"),
        ("name_5pts_score.txt", "1.jpg" + 11 * " 1" + "\n", "1.jpg is listed twice"),
        ("name_5pts_score.txt", "1.jpg" + 10 * " 1" + "\n", "ten coordinates and a score"),
        ("name_5pts_score.txt", "1.jpg" + 10 * " 1" + " nan\n", "score that is finite"),
        ("name_5pts_score.txt", "1.jpg" + 10 * " 1" + " -1\n", "not negative"),
        ("1N_probe_mixed.csv", "5,41,img/1.jpg,1\n", "names 1 templates .* no image .*: 5"),
        ("1N_probe_mixed.csv", "1000,41\n", "as many fields as before"),
        ("1N_probe_mixed.csv", "100", "expected a template and a person"),
        ("1N_gallery_G1.csv", "1000,3,a,1\n", "template 1000 is of 3 here, and of 40 before"),
    ],
)
def test_lines_that_cannot_be_are_named(tree, name, text, message):
    append(tree.meta(name), text)
    with pytest.raises(ValueError, match=message) as error:
        read_files(tree.root, "ijbc")
    assert tree.meta(name).name in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("face_tid_mid.txt", ""),
        ("template_pair_label.txt", "\n \n"),
        ("template_pair_label.txt", "1000 993 1\n"),
        ("name_5pts_score.txt", ""),
        ("1N_gallery_G1.csv", ""),
        ("1N_gallery_G1.csv", "TEMPLATE_ID,SUBJECT_ID\n"),
        ("1N_gallery_G1.csv", "TEMPLATE_ID,SUBJECT_ID\n1000,7\n"),
        ("1N_gallery_G1.csv", "T\0E\0M\0"),
        ("1N_gallery_G1.csv", 'TEMPLATE_ID,SUBJECT_ID\n1000,"7\n' + 200_000 * "x"),
        ("template_pair_label.txt", "1\0 2\0 1\0"),
        ("face_tid_mid.txt", "version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_files_without_content_are_named(tree, name, text):
    tree.meta(name).write_text(text)
    with pytest.raises(ValueError, match=tree.meta(name).name):
        read_files(tree.root, "ijbc")


def test_blanks_are_of_any_kind(tree):
    expected = read_files(tree.root, "ijbc")
    for name in ("face_tid_mid.txt", "template_pair_label.txt", "name_5pts_score.txt"):
        lines = tree.meta(name).read_text().splitlines()
        text = "\r\n\r\n".join(line.replace(" ", "\t  ") for line in lines)
        tree.meta(name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    files = read_files(tree.root, "ijbc")
    assert files.images == expected.images
    for name in ("points", "detector_scores", "template", "weight", "left", "right", "is_same"):
        assert np.array_equal(getattr(files, name), getattr(expected, name)), name


def test_pairs_that_come_again(tree):
    first, second, label = tree.meta("template_pair_label.txt").read_text().split()[:3]
    append(tree.meta("template_pair_label.txt"), f"{second} {first} {label}\n")
    with pytest.warns(SphereFaceWarning, match="lists 1 pairs again"):
        count = read_files(tree.root, "ijbc").counts["pairs"]
    assert count == len(tree.pairs) + 1
    append(tree.meta("template_pair_label.txt"), f"{first} {second} {1 - int(label)}\n")
    low, high = sorted((int(first), int(second)))
    with pytest.raises(ValueError, match=f"templates {low} and {high} with 0 and with 1, 1 such"):
        read_files(tree.root, "ijbc")


def test_a_probe_of_somebody_in_no_gallery_is_said(tree):
    path = tree.meta("1N_probe_mixed.csv")
    text = path.read_text()
    owner = text.splitlines()[1].split(",")[1]
    path.write_text(text.replace(f",{owner},", ",777,"))
    with pytest.warns(SphereFaceWarning, match=r"2 of 8 probes .* in no gallery \(777\)"):
        read_files(tree.root, "ijbc")


def test_detector_scores_of_zero_leave_no_template(tree, embedder):
    template = tree.lines[0].template
    names = [line.image for line in tree.lines if line.template == template]
    path = tree.meta("name_5pts_score.txt")
    lines = path.read_text().splitlines()
    lines = [line.rsplit(" ", 1)[0] + " 0" if line.split()[0] in names else line for line in lines]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"template {template} is zero .* N1D1F1"):
        ijb.evaluate(embedder, tree.root, "ijbc")


def test_points_of_no_face_name_their_file(tree, embedder):
    path = tree.meta("name_5pts_score.txt")
    lines = [line.split() for line in path.read_text().splitlines()]
    path.write_text("\n".join(" ".join([line[0], *10 * ["0.5"], line[-1]]) for line in lines))
    with pytest.raises(ValueError, match=r"ijbc_name_5pts_score.txt: the points of"):
        ijb.evaluate(embedder, tree.root, "ijbc")
