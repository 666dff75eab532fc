from __future__ import annotations

from tf_sphereface.alignment.same_pictures import (
    repeats_in_words,
    same_pictures,
    under_two_names,
)


def write(root, contents):
    files = []
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        files.append((path.parent.name, path))
    return files


def test_pictures_are_the_same_by_their_content(tmp_path):
    long = bytes(5000)
    files = write(
        tmp_path,
        {
            "Ann/1.jpg": b"one",
            "Ann/2.jpg": b"two",
            "Bob/1.jpg": b"one",
            "Bob/2.jpg": long + b"a",
            "Cy/1.jpg": long + b"b",  # of the same size and beginning
            "Dee/1.jpg": b"five",
            "Dee/1 (1).jpg": b"five",
            "Eve/1.jpg": b"",
            "Fay/1.jpg": b"",
        },
    )
    groups = [
        {path.relative_to(tmp_path).as_posix() for _, path in g} for g in same_pictures(files)
    ]
    assert groups == [{"Ann/1.jpg", "Bob/1.jpg"}, {"Dee/1.jpg", "Dee/1 (1).jpg"}]
    problems = under_two_names(files)
    assert set(problems) == {str(tmp_path / "Ann/1.jpg"), str(tmp_path / "Bob/1.jpg")}
    assert "the same picture is under Bob" in problems[str(tmp_path / "Ann/1.jpg")]
    two, twice = repeats_in_words(files, "faces")
    assert two.startswith("1 picture of faces is under two people (Ann and Bob)")
    assert twice.startswith("1 picture of faces is there twice for one person")
    assert repeats_in_words(files[:2], "faces") == []
