from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.eval import folder
from tf_sphereface.eval.folder import _genuine, _impostor, random_pairs


def make_tree(root, sizes):
    for identity, size in enumerate(sizes):
        (root / f"id{identity}").mkdir(parents=True)
        for k in range(size):
            (root / f"id{identity}" / f"{k}.jpg").touch()
    return root


def test_every_pair_can_be_drawn_once():
    fold = [["a0"], ["b0", "b1", "b2", "b3", "b4"], ["c0", "c1"], ["d0", "d1", "d2"]]
    rng = np.random.default_rng(0)
    genuine = _genuine(fold, 10 + 1 + 3, rng)
    expected = {(x, y) for files in fold for x in files for y in files if x < y}
    assert set(genuine) == expected
    impostor = _impostor(fold, 41, rng)  # 11 * 10 / 2 - 14
    everyone = [x for files in fold for x in files]
    assert set(impostor) == {(x, y) for x in everyone for y in everyone if x < y and x[0] != y[0]}


def test_genuine_pairs_are_uniform():
    fold = [["a0", "a1", "a2"], ["b0", "b1"]]
    counts = {}
    for seed in range(2000):
        (pair,) = _genuine(fold, 1, np.random.default_rng(seed))
        counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 4
    # 500 each; binomial sd 19, four of them.
    assert all(abs(count - 500) < 80 for count in counts.values())


@pytest.mark.parametrize("sizes", [[5] * 12, [1, 2] * 10, [40, 2, 3, 2, 3, 9, 1, 1]])
def test_pairs_are_distinct_balanced_and_their_folds_disjoint(tmp_path, sizes):
    root = make_tree(tmp_path, sizes)
    pairs = random_pairs(root, pairs_per_fold=8, folds=3, seed=4)
    assert len(set(zip(pairs.left, pairs.right, strict=True))) == len(pairs)
    owner = [[name.split("/")[0] for name in side] for side in (pairs.left, pairs.right)]
    assert [a == b for a, b in zip(*owner, strict=True)] == pairs.is_same.tolist()
    for fold in (1, 2, 3):
        inside = pairs.folds == fold
        assert pairs.is_same[inside].sum() * 2 == inside.sum() == len(pairs) / 3
        names = {n for side in owner for n, here in zip(side, inside, strict=True) if here}
        others = {n for side in owner for n, here in zip(side, ~inside, strict=True) if here}
        assert not names & others
    again = random_pairs(root, pairs_per_fold=8, folds=3, seed=4)
    assert (again.left, again.right) == (pairs.left, pairs.right)
    assert random_pairs(root, pairs_per_fold=8, folds=3, seed=5).left != pairs.left


def test_pictures_that_are_there_twice_are_told(tmp_path, caplog):
    root = make_tree(tmp_path, [3, 3, 3, 3])
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(bytes([number]))
    random_pairs(root, 2, 2)
    assert not caplog.messages
    (root / "id1" / "0.jpg").write_bytes(bytes([0]))  # that of id0
    (root / "id2" / "1.jpg").write_bytes((root / "id2" / "0.jpg").read_bytes())
    random_pairs(root, 2, 2)
    assert "under two people (id0 and id1)" in caplog.messages[0]
    assert "there twice for one person (such as 1.jpg)" in caplog.messages[1]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    root = make_tree(tmp_path / "faces", [2, 3])
    (root / "id0" / "._0.jpg").touch()
    (root / ".ipynb_checkpoints").mkdir()
    (root / ".ipynb_checkpoints" / "0.jpg").touch()
    assert folder.scan(root) == {
        "id0": ["id0/0.jpg", "id0/1.jpg"],
        "id1": ["id1/0.jpg", "id1/1.jpg", "id1/2.jpg"],
    }


def test_a_folder_that_is_too_small_is_refused(tmp_path):
    root = make_tree(tmp_path, [3, 3, 1, 1])
    with pytest.raises(ValueError, match=r"4 identities, 2 of them with two images"):
        random_pairs(root, folds=3)
    with pytest.raises(ValueError, match="folds must be at least 2"):
        random_pairs(root, folds=1)
    with pytest.raises(FileNotFoundError, match="root must be a folder"):
        folder.evaluate(None, tmp_path / "none")


def test_end_to_end(tmp_path, embedder, make_face, write_image):
    for identity in range(12):
        for sample in range(3):
            path = tmp_path / f"id{identity:02d}" / f"{sample}.png"
            write_image(path, make_face(identity, sample))
    result = folder.evaluate(embedder, tmp_path, pairs_per_fold=6, folds=3)
    assert result.name == "folder"
    assert "seed 0" in result.protocol
    assert len(result.pairs) == 36
    assert result.genuine_angle < result.impostor_angle
    assert result.headline.accuracy > 0.8  # these pictures differ far more between identities
