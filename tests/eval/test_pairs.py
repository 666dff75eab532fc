from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.eval.pairs import list_name, read_pairs

GOOD = """2\t2
A\t1\t2
B_C\t3\t10
A\t1\tB_C\t3
D\t1\tA\t2
E\t1\t2
F\t1\t2
E\t1\tF\t1
E\t2\tF\t2
"""


def write(tmp_path, text):
    path = tmp_path / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_folds_in_the_files_order(tmp_path):
    pairs = read_pairs(write(tmp_path, GOOD))
    assert pairs.left[:4] == [
        "A/A_0001.jpg",
        "B_C/B_C_0003.jpg",
        "A/A_0001.jpg",
        "D/D_0001.jpg",
    ]
    assert pairs.right[1:3] == ["B_C/B_C_0010.jpg", "B_C/B_C_0003.jpg"]
    assert pairs.is_same.tolist() == [True, True, False, False] * 2
    assert pairs.folds.tolist() == [1] * 4 + [2] * 4
    names, left, right = pairs.images()
    assert names == sorted(set(names))
    assert [names[i] for i in left] == pairs.left
    assert [names[i] for i in right] == pairs.right


def test_spaces_blank_ends_and_windows_lines_are_fine(tmp_path):
    assert len(read_pairs(write(tmp_path, GOOD.replace("\t", "  ")))) == 8
    assert len(read_pairs(write(tmp_path, GOOD.replace("\n", "\r\n") + "\n\n"))) == 8
    assert len(read_pairs(write(tmp_path, "\ufeff" + GOOD))) == 8  # as Windows' editor saves it


def test_commas_and_ends_of_a_table(tmp_path):
    expected = read_pairs(write(tmp_path, GOOD))
    lines = GOOD.splitlines()
    commas = [line.replace("\t", ",") for line in lines]
    titled = ["name,imagenum1,imagenum2,", *commas[1:]]
    for text in (
        commas,
        titled,
        [f"{line}\t" if line.count("\t") == 2 else line for line in lines],
        [f"{line}," if line.count(",") == 2 else line for line in titled],
    ):
        found = read_pairs(write(tmp_path, "\n".join(text)))
        assert (found.left, found.right) == (expected.left, expected.right)
        assert found.folds.tolist() == expected.folds.tolist()
    for wrong in (titled[:3], titled[:1], titled[3:4] + titled[1:], titled[:2] + titled[3:]):
        with pytest.raises(ValueError, match=r"genuine|number of folds"):
            read_pairs(write(tmp_path, "\n".join(wrong)))


def test_view_1_has_a_single_count(tmp_path):
    pairs = read_pairs(write(tmp_path, "1\nA\t1\t2\nA\t1\tB\t1\n"))
    assert pairs.folds.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\t2\n", "", "line 1: expected the number of folds"),
        ("2\t2\n", "2\t3\n", "line 1: 2 folds of 3.*need 12 lines. Received: 8"),
        ("2\t2\n", "0\t2\n", "line 1: expected the number of folds"),
        ("B_C\t3\t10", "B_C\t3", "line 3: expected a genuine pair"),
        ("B_C\t3\t10", "B_C\t3\tx", "line 3: expected a genuine pair"),
        ("A\t1\tB_C\t3", "A\t1\t2", "line 4: expected an impostor pair"),
        ("A\t1\tB_C\t3", "A\t1\tA\t3", "line 4: an impostor pair needs two people"),
        ("B_C\t3\t10", "B_C\t3\t3", "line 3: an image is paired with itself"),
        ("F\t1\t2", "A\t2\t1", "line 7: the pair of line 2 again"),
        ("E\t2\tF\t2", "F\t1\tE\t1", "line 9: the pair of line 8 again"),
        ("E\t2\tF\t2", "E\t2\t../F\t2", "line 9: a name must not be a path"),
    ],
)
def test_a_bad_line_is_named(tmp_path, old, new, message):
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        read_pairs(path)
    assert str(path) in str(error.value)


def test_an_empty_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 1"):
        read_pairs(write(tmp_path, ""))
    for content in (b"\xff\xd8\xff\xe0" * 10, "10\t300\n".encode("utf-16-le")):
        (tmp_path / "photo.txt").write_bytes(content)
        with pytest.raises(ValueError, match="not a text file"):
            read_pairs(tmp_path / "photo.txt")
    with pytest.raises(FileNotFoundError):
        read_pairs(tmp_path / "none.txt")


def test_the_real_subset(real_data):
    pairs = read_pairs(real_data / "lfw_subset" / "pairs.txt")
    assert np.bincount(pairs.folds).tolist() == [0] + [120] * 10
    assert pairs.is_same.sum() == 600
    names = pairs.images()[0]
    assert len(names) == 2190
    assert all((real_data / "lfw_subset" / "images" / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("pairs.txt", "lfw"),
        ("lfw/pairs_view2.txt", "lfw"),
        ("lfw_pairs.txt", "lfw"),
        ("lfw-a-subset.txt", "lfw"),
        ("pairsDevTrain.txt", "lfw"),
        ("pairs_1200.txt", "lfw"),
        ("xqlfw_pairs.txt", "xqlfw"),
        ("pairs_XQLFW.txt", "xqlfw"),
        ("XQLFW.txt", "xqlfw"),
        ("xqlfwPairs.txt", "xqlfw"),
        ("pairs-of-masks.txt", "of_masks"),
        ("ytf.txt", "ytf_pairs"),  # another protocol's name
    ],
)
def test_a_list_is_called_after_its_file(file, name):
    assert list_name(file) == name


def test_what_was_read_has_the_name(tmp_path):
    path = tmp_path / "xqlfw_pairs.txt"
    path.write_text(GOOD)
    assert read_pairs(path).name == "xqlfw"
