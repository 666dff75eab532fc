"""What is left out of training, and what is no list of exclusions."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tf_sphereface import data
from tf_sphereface.data import synthetic
from tf_sphereface.data.exclusions import image_names

SIZE = (28, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 5, 4, size=SIZE)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data.read_exclusions(path)


def test_a_list_is_read_as_people_write_it(tmp_path):
    found = write(
        tmp_path / "x.txt",
        "# CASIA-WebFace, also in LFW",
        "",
        "0166921",
        "1056413/\tby name",
        "./1193098/004.jpg\tLFW/x.jpg: hash",
        "two words/a b.png",
    )
    assert found.identities == {"0166921", "1056413"}
    assert found.images == {"1193098/004.jpg", "two words/a b.png"}
    again = write(tmp_path / "y.txt", "two words/a b.png", "1193098/004.jpg", "1056413", "0166921")
    assert found.to_dict() == again.to_dict()


def test_names_that_look_like_comments_or_end_in_a_blank_survive(tmp_path):
    names = ["#selfies", "#tag/1.jpg", "Ann ", "Bob/2 .jpg"]
    data.write_exclusions(tmp_path / "x.txt", [(name, "why") for name in names], "who")
    found = data.read_exclusions(tmp_path / "x.txt")
    assert found.identities | found.images == set(names)
    assert write(tmp_path / "y.txt", "Ann  ", "# no one").identities == {"Ann"}
    assert found.to_dict() != write(tmp_path / "z.txt", "0166921").to_dict()
    data.write_exclusions(tmp_path / "w.txt", [("0166921", "why"), ("a/b.jpg", "c")], "two\nlines")
    assert data.read_exclusions(tmp_path / "w.txt").images == {"a/b.jpg"}


def test_an_audit_that_found_nothing_leaves_nothing_out(tmp_path):
    data.write_exclusions(tmp_path / "x.txt", [], "what a.tf and b.tf have in common")
    found = data.read_exclusions(tmp_path / "x.txt")
    assert (found.identities, found.images) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "names no identity and no image"),
        (b"\n\n", "names no identity and no image"),
        (b"../secret\n", r"line 1: expected IDENTITY or IDENTITY/FILE"),
        (b"a\n/etc/passwd\n", r"line 2: expected IDENTITY"),
        (b"a/b/c.jpg\n", r"Received: 'a/b/c\.jpg'"),
        ("a\n".encode("utf-16-le"), "must be text, in UTF-8 or marked UTF-16"),
    ],
)
def test_other_lists_are_refused(tmp_path, text, message):
    (tmp_path / "x.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        data.read_exclusions(tmp_path / "x.txt")


def test_people_and_pictures_are_left_out_of_folder_and_pack_alike(folder, tmp_path):
    data.pack_folder(folder, tmp_path / "pack", shards=2)
    index, pack = data.scan_folder(folder), data.open_pack(tmp_path / "pack")
    names = image_names(index)
    assert image_names(pack) == names
    last = [name for name in names if name.startswith("Person_000004")]
    some = write(tmp_path / "x.txt", "Person_000001", names[0], *last)
    fewer, less = data.leave_out(index, some), data.leave_out(pack, some)
    assert (len(fewer), fewer.names) == (11, ["Person_000000", "Person_000002", "Person_000003"])
    assert (len(less), less.names) == (11, fewer.names)
    assert image_names(fewer) == image_names(less) == names[1:4] + names[8:16]
    np.testing.assert_array_equal(fewer.labels, [0] * 3 + [1] * 4 + [2] * 4)
    np.testing.assert_array_equal(less.labels, fewer.labels)

    copy = tmp_path / "copy"  # the same by deleting files
    shutil.copytree(folder, copy)
    for name in set(names) - set(image_names(fewer)):
        (copy / name).unlink()
    expected = list(data.face_dataset(copy, image_size=SIZE, batch_size=5).as_numpy_iterator())
    for source in (fewer, less):
        found = data.face_dataset(source, image_size=SIZE, batch_size=5).as_numpy_iterator()
        for (images, labels), (others, numbers) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(images, others)
            np.testing.assert_array_equal(labels, numbers)


def test_what_is_not_there_and_what_leaves_nothing_is_an_error(folder, tmp_path):
    index = data.scan_folder(folder)
    with pytest.raises(ValueError, match=r"Received: Persn_1, Person_000001/9\.jpg"):
        data.leave_out(index, write(tmp_path / "x.txt", "Persn_1", "Person_000001/9.jpg"))
    with pytest.raises(ValueError, match="leave nothing of"):
        data.leave_out(index, write(tmp_path / "x.txt", *index.names))
