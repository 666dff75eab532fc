"""The one listing of image files: suffixes, contents, links, thumbnails, and what is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tf_sphereface.alignment.listing import find_images, find_photos, images_in, walk
from tf_sphereface.alignment.passed_over import PassedOver

PNG = b"\x89PNG\r\n\x1a\n" + bytes(30)


def make(root: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def counted(root: Path, **options) -> dict[str, int]:
    passed_over = PassedOver()
    find_images(root, passed_over=passed_over, **options)
    return passed_over.counts


def test_images_of_all_suffixes_in_any_case(tmp_path):
    names = ["a.webp", "b/1.png", "b/2.JPG", "b/3.jfif", "b/4.PJPEG", "b/5.avif", "b/6.jp2"]
    make(tmp_path, *names, ".hidden.jpg", ".git/x.png", "out/1.jpg", "n.txt")
    assert find_images(tmp_path, skip=[tmp_path / "out"]) == names
    assert counted(tmp_path) == {"hidden": 2, ".txt": 1}


def test_other_suffixes_are_told_by_their_content(tmp_path):
    make(tmp_path, "Tom_0001", "subject01.sad", "Tom.0002", "x.jpg?size=large", content=PNG)
    make(tmp_path, "notes", "x.foo", "Tom.0003", content=b"some text")
    make(tmp_path, "a.png.part", "b.png~", "c.bak", content=PNG)
    assert find_images(tmp_path) == ["Tom.0002", "Tom_0001", "subject01.sad", "x.jpg?size=large"]
    assert counted(tmp_path) == {"no suffix": 2, ".foo": 1, "copy": 3}


def test_what_cannot_be_read_is_counted_with_advice(tmp_path):
    make(tmp_path, "a.HEIC", "b.heic", "c.cr2", "d.mp4", "e.jpg")
    passed_over = PassedOver()
    assert find_images(tmp_path, passed_over=passed_over) == ["e.jpg"]
    assert passed_over.counts == {".heic": 2, ".cr2": 1, ".mp4": 1}
    assert passed_over.lost == 4
    text = passed_over.summary()
    assert "2 .heic, such as" in text
    assert "convert it to JPEG" in text
    assert "raw file" in text
    assert "tf_sphereface-align --every" in text
    with pytest.warns(UserWarning, match=r"2 \.heic"):
        find_images(tmp_path)
    photos, videos = find_photos(tmp_path, PassedOver())
    assert (photos, videos) == (["a.HEIC", "b.heic", "c.cr2", "e.jpg"], ["d.mp4"])


def test_thumbnails_and_trash_of_the_system(tmp_path):
    folders = ("@eaDir", "#recycle", "@Recycle", "__MACOSX", "lost+found", "$RECYCLE.BIN")
    make(tmp_path, "P/a.jpg", *(f"P/{folder}/b.jpg" for folder in folders))
    make(tmp_path, ".DS_Store", "P/._a.jpg", "P/Thumbs.db", ".thumbnails/c.jpg", "P/m.THM")
    passed_over = PassedOver()
    assert find_images(tmp_path, passed_over=passed_over) == ["P/a.jpg"]
    make(tmp_path, "P/SYNOFILE_THUMB_M.jpg", "@SynoEAStream/a.jpg", content=PNG)
    make(tmp_path, "P/a.jpg@SynoResource", "P/ZbThumbnail.info", content=PNG)
    assert find_images(tmp_path, passed_over=passed_over) == ["P/a.jpg"]
    assert passed_over.counts == {"system": 26}  # 11 of before, then 15
    assert not passed_over.lost
    assert "26 thumbnails" in passed_over.summary()


def test_each_folder_is_listed_once(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    make(root, "a/1.jpg", "a/b/2.jpg")
    make(other, "3.jpg")
    for link, target in {
        "a/b/up": root,
        "Z": root / "a",
        "above": tmp_path,
        "itself": root / "itself",
        "outside": other,
        "outside2": other,
        "nowhere": tmp_path / "missing",
        "a/gone.jpg": tmp_path / "gone.jpg",
    }.items():
        (root / link).symlink_to(target)
    passed_over = PassedOver()
    images = find_images(root, passed_over=passed_over)
    assert images == ["a/1.jpg", "a/b/2.jpg", "outside/3.jpg"]
    assert passed_over.counts == {"link": 4, "broken link": 3}
    assert passed_over.lost == 3


def test_a_linked_root_is_listed(tmp_path):
    make(tmp_path / "real", "a/1.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert find_images(tmp_path / "link") == ["a/1.jpg"]


def test_images_too_deep(tmp_path):
    make(tmp_path, "1.jpg", "2019/2.jpg", "2019/may/3.jpg", "@eaDir/4.jpg")
    (tmp_path / "2019" / "loop").symlink_to(tmp_path)
    passed_over = PassedOver()
    assert [entry.name for entry in images_in(tmp_path, passed_over)] == ["1.jpg"]
    assert passed_over.counts == {"deep": 2, "system": 1, "link": 1}


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_no_utf8(tmp_path):
    name = b"caf\xe9.jpg"
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).touch()
    assert [os.fsencode(found) for found in find_images(tmp_path)] == [name]


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    passed_over = PassedOver()
    assert find_images(tmp_path, passed_over=passed_over) == ["b/2.jpg"]
    assert passed_over.counts == {"closed": 1}


def test_walk_goes_through_many_levels(tmp_path):
    make(tmp_path, "/".join("abcdefgh") + "/1.jpg")
    assert [inside for inside, _ in walk(tmp_path, PassedOver())][-1] == "a/b/c/d/e/f/g/h/"
