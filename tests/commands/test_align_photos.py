"""`tf_sphereface-align` on photographs and videos: detection, resuming, reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands.albums import crops, photo, report, run, save
from tests.data.rec_files import content, frame, write
from tf_sphereface.alignment.align import align as align_image
from tf_sphereface.alignment.align import read_landmarks
from tf_sphereface.alignment.detector import FaceDetector
from tf_sphereface.alignment.images import read_image
from tf_sphereface.commands.align import main


def test_album(album, capsys):
    assert run(album, "--min-face", "50", "--json", str(album / "all.json")) == 1
    assert list(crops(album)) == ["A/one.png", "A/two.png"]
    problems = report(album)
    assert list(problems) == ["A/two.png", "B/broken.jpg", "B/none.png", "B/tiny.png"]
    assert problems["A/two.png"] == ["several faces", "2", "2 faces; taken: nearest the centre"]
    assert problems["B/none.png"][:2] == ["no face", "0"]
    assert problems["B/tiny.png"][:2] == ["too small", "1"]
    assert problems["B/broken.jpg"][0] == "unreadable"
    captured = capsys.readouterr()
    assert "2 faces of 112x96 written, 0 were there, 3 failed" in captured.out
    assert "a second in 2 threads" in captured.out
    assert "3 images could not be aligned" in captured.err
    summary = json.loads((album / "all.json").read_text())
    assert summary["problems"]["several faces"] == summary["problems"]["too small"] == 1
    assert summary["images_per_second"] > 0
    assert list(summary["failed"]) == ["B/broken.jpg", "B/none.png", "B/tiny.png"]


def test_faces_and_landmarks_are_those_of_the_detector(album):
    run(album)
    image = read_image(album / "src/A/one.png")
    (face,) = FaceDetector()(image)
    points = read_landmarks(album / "dst/landmarks.tsv")
    np.testing.assert_allclose(points["A/one.png"], face.points, atol=0.0051)  # hundredths
    expected = align_image(image, points["A/one.png"])
    np.testing.assert_array_equal(read_image(album / "dst/A/one.png"), expected)
    # and by that file the very same faces come out, without a detector
    options = ["--landmarks", str(album / "dst/landmarks.tsv")]
    assert run(album, *options, out="again") == 0
    assert crops(album, "again") == crops(album)


def test_photographs_in_a_rec_file_are_those_of_the_folder(album, capsys):
    photos = sorted((album / "src" / "A").glob("*.png"))
    rec = album / "photos.rec"
    write(rec, [frame(content(7.0, path.read_bytes())) for path in photos])
    run(album)
    assert main.main([str(rec), str(album / "rec")]) == 0
    found, expected = crops(album, "rec"), crops(album)
    assert list(found) == ["7/00000000.png", "7/00000001.png"]
    assert list(found.values()) == [expected["A/one.png"], expected["A/two.png"]]
    assert not list(album.glob(".*.photos/*"))


def test_number_of_threads_changes_nothing(album):
    run(album)
    run(album, "--jobs", "1", out="one")
    run(album, "--jobs", "5", out="five")
    assert crops(album) == crops(album, "one") == crops(album, "five")
    for name in ("landmarks.tsv", "report.tsv"):
        texts = {(album / out / name).read_text() for out in ("one", "five")}
        assert len(texts) == 1


def test_resumes_and_detects_nothing_twice(album, calls, capsys):
    run(album)
    assert len(calls) == 4
    landmarks = (album / "dst/landmarks.tsv").read_text()
    (album / "dst/A/two.png").unlink()
    assert run(album) == 1
    assert len(calls) == 4
    assert (album / "dst/landmarks.tsv").read_text() == landmarks
    capsys.readouterr()
    assert run(album) == 1
    assert "0 faces of 112x96 written, 3 were there, 2 failed" in capsys.readouterr().out
    run(album, "--overwrite")
    assert len(calls) == 8


def test_what_could_not_be_read_is_tried_again(album, monkeypatch):
    """A disk that was away leaves the file and its time as they are."""

    def away(path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("tf_sphereface.alignment.photo_aligner.read_photo", away)
        run(album)
    assert crops(album) == {}
    run(album)
    assert len(crops(album)) == 3


def test_faces_of_files_that_are_gone_are_named(album, capsys):
    run(album)
    assert "has no more" not in capsys.readouterr().out
    (album / "src/A/two.png").unlink()
    run(album)
    out = " ".join(capsys.readouterr().out.split())
    assert "keeps 1 face of files that" in out
    assert "has no more: A/two.png" in out


def test_goes_on_after_a_kill(album, calls):
    """The journal's last line may be cut off; a crop is claimed there before it is written."""
    run(album, "--jobs", "1")
    before = crops(album)
    journal = album / "dst/.align.jsonl"
    lines = journal.read_text().splitlines()
    for count in range(len(lines)):
        journal.write_text("\n".join(lines[:count]) + "\n" + lines[count][:25])
        (album / "dst/landmarks.tsv").unlink()
        claimed = [file for line in lines[:count] for file in json.loads(line).get("files", ())]
        for name in set(before).difference(claimed):
            (album / "dst" / name).unlink()
        calls.clear()
        run(album)
        detected = ['"image"' in line and "broken.jpg" not in line for line in lines[:count]]
        assert len(calls) == 4 - sum(detected)
        assert crops(album) == before
        assert not [row for row in report(album).values() if row[0] == "not written"]
    calls.clear()
    run(album)
    assert not calls


def test_changed_photographs_and_settings_are_done_again(album, calls):
    run(album)
    first = crops(album)
    save(album / "src/A/one.png", photo(5, at=[(100, 50)]))
    calls.clear()
    run(album)
    assert len(calls) == 1
    second = crops(album)
    assert second["A/one.png"] != first["A/one.png"]
    assert second["A/two.png"] == first["A/two.png"]
    calls.clear()
    run(album, "--size", "112x112", "--select", "largest")  # other crops of the same faces
    assert not calls
    assert {read_image(album / "dst" / name).shape for name in crops(album)} == {(112, 112, 3)}
    run(album, "--max-side", "400")
    assert len(calls) == 4


def test_all_faces_of_an_image(album):
    run(album)
    run(album, "--select", "all")
    # the single faces of before are gone: they were ours
    assert list(crops(album)) == ["A/one_1.png", "A/two_1.png", "A/two_2.png", "B/tiny_1.png"]
    assert list(read_landmarks(album / "dst/landmarks.tsv")) == [
        "A/one.png",
        "A/two.png",
        "B/tiny.png",
    ]


def test_number_signs_in_names(tmp_path):
    names = ["#tag/a.png", "b #2.png", "c#5.png"]
    for name in names:
        save(tmp_path / "src" / name, photo(3, at=[(110, 60)]))
    assert run(tmp_path) == 0
    points = tmp_path / "dst/landmarks.tsv"
    assert list(read_landmarks(points)) == ["./#tag/a.png", *names[1:]]
    # resumed, and by that file
    assert run(tmp_path) == 0
    assert len(read_landmarks(points)) == 3
    assert run(tmp_path, "--landmarks", str(points), out="again") == 0
    assert list(crops(tmp_path, "again")) == names
    assert crops(tmp_path, "again") == crops(tmp_path)


def test_a_name_with_a_tab_does_not_break_the_landmark_file(tmp_path):
    for name in ("a\tb.png", "c.png"):
        save(tmp_path / "src" / name, photo(3, at=[(110, 60)]))
    assert run(tmp_path) == 0
    assert list(read_landmarks(tmp_path / "dst/landmarks.tsv")) == ["c.png"]
    assert (
        r"left out, for a tab or line break in the name: 'a\tb.png'"
        in (tmp_path / "dst/landmarks.tsv").read_text()
    )


def test_landmarks_after_detection(album):
    """Crops of the detected points are not taken for crops of the given ones, nor the reverse."""
    run(album)
    detected = crops(album)
    text = (album / "dst/landmarks.tsv").read_text().splitlines()
    name, *numbers = next(line for line in text if line.startswith("A/one.png")).split("\t")
    moved = [f"{float(number) + 9:.2f}" for number in numbers]
    (album / "moved.tsv").write_text("\t".join([name, *moved]) + "\n")
    for out in ("dst", "fresh"):
        assert run(album, "--landmarks", str(album / "moved.tsv"), out=out) == 0
    assert crops(album)[name] == crops(album, "fresh")[name] != detected[name]
    run(album)
    assert crops(album) == detected


@pytest.mark.parametrize("name", ["out.jpg", "out.HEIC", "out.mp4"])
def test_dst_is_no_image(album, capsys, name):
    photograph = str(album / "src/A/one.png")
    assert main.main([photograph, str(album / name)]) == 2
    assert "DST must be a folder" in " ".join(capsys.readouterr().err.split())
    assert not (album / name).exists()


def test_report_as_json_has_every_face(album):
    run(album, "--report", str(album / "faces.json"))
    images = {i["image"]: i for i in json.loads((album / "faces.json").read_text())["images"]}
    assert len(images) == 5
    assert [face["taken"] for face in images["A/two.png"]["faces"]].count(True) == 1
    assert len(images["A/one.png"]["faces"][0]["points"]) == 5
    assert images["A/one.png"]["files"] == ["A/one.png"]


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 240))
    for number in range(frames):
        writer.write(photo(3, at=[(100 + 2 * number, 60)]))
    writer.release()


def test_videos(tmp_path, calls, capsys):
    save(tmp_path / "src/A/one.png", photo(3, at=[(110, 60)]))
    write_video(tmp_path / "src/A/clip.avi", 9)
    (tmp_path / "src/A/page.mp4").write_text("<html>")
    assert run(tmp_path) == 0
    assert "2 videos were left out; --every N takes their frames" in capsys.readouterr().out
    calls.clear()
    assert run(tmp_path, "--every", "4") == 1
    assert list(crops(tmp_path)) == [
        *("A/clip_000000.jpg", "A/clip_000004.jpg", "A/clip_000008.jpg"),
        "A/one.png",
    ]
    assert len(calls) == 3
    assert report(tmp_path)["A/page.mp4"][0] == "unreadable"
    assert list(read_landmarks(tmp_path / "dst/landmarks.tsv")) == ["A/one.png"]
    capsys.readouterr()
    run(tmp_path, "--every", "4")  # resumed: nothing is detected again
    assert len(calls) == 3
    assert "0 faces of 112x96 written, 4 were there, 1 failed" in capsys.readouterr().out


def test_one_photograph(album, capsys):
    """A file instead of a folder: that file alone, and what others left in DST stays."""
    one, two = album / "src/A/one.png", album / "src/A/two.png"
    assert main.main([str(one), str(album / "dst")]) == 0
    assert main.main([str(two), str(album / "dst"), "--select", "all"]) == 0
    assert list(crops(album)) == ["one.png", "two_1.png", "two_2.png"]
    assert list(read_landmarks(album / "dst/one.png.landmarks.tsv")) == ["one.png"]
    assert list(read_landmarks(album / "dst/two.png.landmarks.tsv")) == ["two.png"]
    capsys.readouterr()
    assert main.main([str(one), str(album / "src/A")]) == 2
    assert "DST must be another folder" in capsys.readouterr().err
    points = str(album / "dst/one.png.landmarks.tsv")
    assert main.main([str(one), str(album / "out"), "--landmarks", points]) == 2
    assert "SRC must be a folder" in capsys.readouterr().err
    (album / "notes.txt").write_text("no picture")
    assert main.main([str(album / "notes.txt"), str(album / "out")]) == 2
    assert "notes.txt is no photograph" in " ".join(capsys.readouterr().err.split())


def test_nothing_to_do(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    assert run(tmp_path) == 2
    assert "holds no photographs" in " ".join(capsys.readouterr().err.split())
    write_video(tmp_path / "src/clip.avi", 1)
    assert run(tmp_path) == 2
    assert "--every N takes frames of its videos" in " ".join(capsys.readouterr().err.split())


def test_faces_inside_the_folder_are_no_photographs(album, calls):
    assert run(album, out="src/faces") == 1
    calls.clear()
    run(album, out="src/faces")
    assert not calls
    assert sorted(crops(album, "src/faces")) == ["A/one.png", "A/two.png", "B/tiny.png"]


def test_one_name_for_two_photographs(tmp_path, capsys):
    """As of a HEIC photograph and the PNG that was made of it; here neither is read by its name."""
    for suffix in ("bmp", "tif", "png"):
        save(tmp_path / f"src/a.{suffix}", photo(3, at=[(110, 60)]))
    (tmp_path / "src/a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    assert run(tmp_path) == 1  # the HEIC
    assert list(crops(tmp_path)) == ["a.png", "a_bmp.png", "a_tif.png"]
    assert run(tmp_path) == 1
    assert "would both" not in capsys.readouterr().err


def test_two_names_that_cannot_be_told_apart(tmp_path, capsys):
    for name in ("a.bmp", "a.tif", "a_tif.png"):
        save(tmp_path / "src" / name, photo(3, at=[(110, 60)]))
    assert run(tmp_path) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "would both be written to a_tif.png" in message


@pytest.mark.parametrize("module", ["mtcnn", "joblib"])
def test_without_the_detector(album, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert run(album) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert 'pip install "tf_sphereface[align]"' in message
    assert "--landmarks FILE" in message
    assert not (album / "dst").exists()


def test_landmarks_need_no_detector(album, monkeypatch):
    run(album)
    monkeypatch.setitem(sys.modules, "mtcnn", None)
    options = ["--landmarks", str(album / "dst/landmarks.tsv")]
    assert run(album, *options, out="again") == 0
    assert len(crops(album, "again")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-face", "5"], "--min-face must be at least 20"),
        (["--every", "0"], "--every must be at least 1"),
        (["--max-side", "9"], "--max-side must be at least 100"),
        (["--report", "x.csv"], "--report must end in .tsv or .json"),
    ],
)
def test_refuses_options(album, capsys, options, message):
    assert run(album, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_detection_options_with_landmarks_are_refused(album, capsys):
    (album / "points.tsv").write_text("A/one.png" + "\t1" * 10 + "\n")
    options = ["--landmarks", str(album / "points.tsv"), "--select", "all", "--min-face", "40"]
    assert run(album, *options) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "--select, --min-face: only without --landmarks" in message
