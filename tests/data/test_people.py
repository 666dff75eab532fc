"""People that nothing can be learnt from, and what looks wrong about a set of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tf_sphereface import data
from tf_sphereface.data import people, synthetic

SIZE = (28, 24)


def folders(root: Path, **counts: int) -> Path:
    """Write a folder of faces for each name."""
    picture = next(synthetic.write_folder(root / "one", 1, 1, size=SIZE).glob("*/*.jpg"))
    for name, count in counts.items():
        (root / "faces" / name).mkdir(parents=True)
        for i in range(count):
            (root / "faces" / name / f"{i}.jpg").write_bytes(picture.read_bytes())
    return root / "faces"


@pytest.mark.parametrize("stream", ["memory", "none"])
def test_one_person_is_refused_to_train_on(tmp_path: Path, stream: str) -> None:
    folder = folders(tmp_path, images=6)
    message = r"faces has images of 1 person \(6 images, in the folder 'images'\).*for each person"
    with pytest.raises(ValueError, match=message):
        data.face_dataset(folder, image_size=SIZE, batch_size=2, cache=stream)
    with pytest.raises(ValueError, match=message):
        data.FaceSource(folder, image_size=SIZE, cache=stream).count()
    evaluated = data.face_dataset(folder, image_size=SIZE, batch_size=4, training=False)
    assert evaluated.cardinality() == 2
    with pytest.raises(ValueError, match="one label for each person"):
        data.FaceSource((np.zeros((4, 2, 2, 3), np.uint8), [1] * 4), image_size=(2, 2)).load()


def test_a_person_whose_images_are_all_damaged_is_none(tmp_path: Path) -> None:
    folder = folders(tmp_path, a=4, b=2)
    for path in (folder / "b").iterdir():
        path.write_bytes(b"damaged")
    source = data.FaceSource(folder, image_size=SIZE)
    assert source.count() == (6, 2)
    with pytest.raises(ValueError, match=r"images of 1 person .*in the folder 'a'"):
        source.load()


def test_one_image_of_each_is_refused_by_a_source_and_said_of_a_dataset(tmp_path, caplog) -> None:
    folder = folders(tmp_path, a=1, b=1, c=1)
    message = "has one image of each of its 3 people"
    data.face_dataset(folder, image_size=SIZE, batch_size=2)
    assert message in caplog.text
    with pytest.raises(ValueError, match=message):
        data.FaceSource(folder, image_size=SIZE).load()


@pytest.mark.parametrize(
    ("counts", "names", "said"),
    [
        ([30, 3, 3], ["unknown", "a", "b"], "the classes are unbalanced: unknown has 30 images"),
        ([1, 1, 1, 2], None, "3 of the 4 people of x have one image alone"),
        ([1, 1, 5, 5], None, None),
        ([9, 9], ["train", "Val"], "2 of the 2 folders in x have names like parts of a data set"),
        ([9, 9, 9], ["Ada", "Val", "Grace"], None),
        ([9, 9, 9], ["Ada L", "ada_l", "Grace"], "1 people of x may have two names (Ada L and"),
        ([9, 9], ["Jose\u0301", "Jos\u00e9"], "1 people of x may have two names"),
        ([9, 9], ["-", "_"], None),
    ],
)
def test_what_looks_wrong_is_said(counts, names, said) -> None:
    found = people.doubts(np.array(counts), names, "x")
    assert (found == []) if said is None else (len(found) == 1 and found[0].startswith(said))
