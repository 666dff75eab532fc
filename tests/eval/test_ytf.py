from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from tf_sphereface.data import synthetic
from tf_sphereface.eval import ytf
from tf_sphereface.eval.pairs import Pairs
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings
from tf_sphereface.eval.ytf import read_splits

GOOD = "1, 1, A_B/1, A_B/5, 1\n1, 2, C/0, D/2, 0\n2, 3, E/1, E/2, 1\n2, 4, F/0, G/1, 0\n"


def write(tmp_path, text):
    path = tmp_path / "splits.txt"
    path.write_text(text)
    return path


def test_reads_pairs_of_videos(tmp_path):
    pairs = read_splits(write(tmp_path, GOOD + "\n"))
    assert pairs.left == ["A_B/1", "C/0", "E/1", "F/0"]
    assert pairs.right == ["A_B/5", "D/2", "E/2", "G/1"]
    assert pairs.is_same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [1, 1, 2, 2]
    titles = "split number, pair number, first name, second name, is same\n"
    assert read_splits(write(tmp_path, titles + GOOD)).left == pairs.left
    with pytest.raises(ValueError, match="line 5: expected"):
        read_splits(write(tmp_path, GOOD + titles))
    for sign in ("\t", ";"):  # as tables are written elsewhere
        text = "fold,pair,video1,video2,same\n" + GOOD.replace(", 1\n", ", True\n")
        found = read_splits(write(tmp_path, text.replace(",", sign)))
        assert (found.left, found.is_same.tolist()) == (pairs.left, pairs.is_same.tolist())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1, 2, C/0, D/2, 0", "1, 2, C/0, D/2", "line 2: expected"),
        ("1, 2, C/0, D/2, 0", "x, 2, C/0, D/2, 0", "line 2: expected"),
        ("1, 2, C/0, D/2, 0", "1, 2, C, D/2, 0", "line 2: expected"),
        ("1, 2, C/0, D/2, 0", "1, 2, ../0, D/2, 0", "line 2: expected"),
        ("1, 2, C/0, D/2, 0", "1, 2, C/0, D/2, 2", "line 2: expected"),
        ("1, 2, C/0, D/2, 0", "1, 2, C/0, D/2, 1", "line 2: the names and the label contradict"),
        ("E/1, E/2, 1", "E/1, E/1, 1", "line 3: the names and the label contradict"),
        ("2, 3, E/1, E/2, 1", "2, 3, D/2, C/0, 0", "line 3: the pair of line 2 again"),
    ],
)
def test_a_bad_line_is_named(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        read_splits(write(tmp_path, GOOD.replace(old, new)))


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no line at all"):
        read_splits(write(tmp_path, "\n"))


def test_the_published_splits(real_data):
    pairs = read_splits(real_data / "ytf" / "splits.txt")
    assert len(pairs) == 5000
    counts = Counter(zip(pairs.folds.tolist(), pairs.is_same.tolist(), strict=True))
    assert counts == {(fold, same): 250 for fold in range(1, 11) for same in (True, False)}
    videos = pairs.images()[0]
    assert len(videos) == 3226
    assert len({video.split("/")[0] for video in videos}) == 1447


@pytest.fixture
def archive(tmp_path, make_face, write_image):
    """12 people, 2 videos each, of 1 to 12 noisy frames; 3 folds of 4 + 4 pairs of videos."""
    rng = np.random.default_rng(5)
    root = tmp_path / "frames"
    for person in range(12):
        for video in range(2):
            for frame in range(1 + (5 * person + video) % 12):
                image = make_face(person, 100 * video + frame)
                noisy = np.clip(image + rng.normal(0, 40, image.shape), 0, 255).astype(np.uint8)
                write_image(root / f"P{person:02d}" / str(video) / f"0.{frame}.png", noisy)
    lines = []
    for fold in range(3):
        for k in range(4):
            a, b = 4 * fold + k, 4 * fold + (k + 1) % 4
            lines.append(f"{fold + 1}, 0, P{a:02d}/0, P{a:02d}/1, 1")
            lines.append(f"{fold + 1}, 0, P{a:02d}/0, P{b:02d}/1, 0")
    write(tmp_path, "\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("pooling", ["mean", "mean_normalized"])
def test_a_video_is_the_mean_of_its_frames(archive, embedder, pooling, monkeypatch):
    # Pieces of five frames: videos of up to twelve are streamed.
    monkeypatch.setattr("tf_sphereface.alignment.face_reader.CHUNK", 5)
    calls = []
    result = ytf.evaluate(
        embedder,
        archive / "frames",
        archive / "splits.txt",
        pooling=pooling,
        progress=lambda *done: calls.append(done),
    )
    assert calls[-1] == (24, 24)
    assert ytf.POOLINGS[pooling] in result.protocol

    import cv2

    def pooled(video):
        paths = sorted((archive / "frames" / video).iterdir())
        faces = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
        parts = []
        for x in (embedder(faces), embedder(faces[:, :, ::-1])):
            y = x.astype(np.float64)
            if pooling == "mean_normalized":
                y /= np.linalg.norm(y, axis=1, keepdims=True)
            parts.append(y.mean(axis=0))
        return np.concatenate(parts)

    for i, (a, b) in enumerate(zip(result.pairs.left, result.pairs.right, strict=True)):
        x, y = pooled(a), pooled(b)
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        # float32 embeddings of batches of other sizes differ in the last digits.
        assert result.headline.scores[i] == pytest.approx(cosine, abs=1e-6)


def test_the_best_frame_is_the_one_with_the_longest_embedding(archive, embedder):
    import cv2

    result = ytf.evaluate(
        embedder, archive / "frames", archive / "splits.txt", pooling="best_frame"
    )

    def best(video):
        paths = sorted((archive / "frames" / video).iterdir())
        faces = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
        at = np.argmax(np.linalg.norm(embedder(faces), axis=1))
        pair = np.stack([faces[at], faces[at][:, ::-1]])
        return embedder(pair).astype(np.float64).ravel()

    for i, (a, b) in enumerate(zip(result.pairs.left, result.pairs.right, strict=True)):
        x, y = best(a), best(b)
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert result.headline.scores[i] == pytest.approx(cosine, abs=1e-6)
    assert "the longest embedding" in result.protocol


def test_the_best_frame_needs_lengths_that_differ():
    vectors = np.random.default_rng(0).normal(size=(8, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"P{i // 2}/{i % 2}" for i in range(8)]
    stored = StoredEmbeddings(None, names, vectors.astype(np.float32))
    pairs = Pairs(
        names[::2], names[1::2], np.array([True, False, True, False]), np.array([1, 1, 2, 2])
    )
    with pytest.raises(ValueError, match="all of one length"):
        ytf.evaluate(stored, None, pairs, pooling="best_frame")


@pytest.mark.parametrize("flip", [True, False])
def test_random_frame_pairs_equal_the_naive_mean(archive, embedder, naive, flip, monkeypatch):
    import cv2

    from tf_sphereface.eval.frame_pairs import draw_frame_pairs

    monkeypatch.setattr("tf_sphereface.eval.frame_pairs._BLOCK", 7)
    result = ytf.evaluate(
        embedder,
        archive / "frames",
        archive / "splits.txt",
        pooling="frame_pairs",
        frame_pairs=6,
        seed=3,
        flip=flip,
    )
    assert "6 frame pairs per pair of videos, seed 3." in result.protocol
    videos = result.pairs.images()[0]
    files = {v: ytf._list_frames(archive / "frames", [v], False)[v] for v in videos}
    drawn = draw_frame_pairs(result.pairs, {v: len(n) for v, n in files.items()}, 6, 3)

    names = sorted({name for listed in files.values() for name in listed})
    faces = np.stack([cv2.imread(str(archive / "frames" / n))[..., ::-1] for n in names])
    vectors = [embedder(faces)] + ([embedder(faces[:, :, ::-1])] if flip else [])
    vectors = np.concatenate(vectors, axis=1).astype(np.float64).tolist()
    at = {name: i for i, name in enumerate(names)}
    pairs = [
        (at[files[a][i]], at[files[b][j]])
        for k, (a, b) in enumerate(zip(result.pairs.left, result.pairs.right, strict=True))
        for i, j in drawn[k].tolist()
    ]
    folds = np.repeat(result.pairs.folds, 6).tolist()
    key = "flip" if flip else "none"
    for fold in (1, 2, 3):
        expected = naive.mean_subtracted_cosines(vectors, pairs, folds, fold)
        expected = np.array(expected).reshape(-1, 6).mean(axis=1)
        found = result.table[key, "mean_subtracted"]
        tested = found.folds == fold
        assert found.scores[tested] == pytest.approx(expected[tested], abs=1e-5)
    plain = [
        np.dot(vectors[a], vectors[b]) / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])
        for a, b in pairs
    ]
    expected = np.array(plain).reshape(-1, 6).mean(axis=1)
    assert result.table[key, "plain"].scores == pytest.approx(expected, abs=1e-6)


def test_frame_pairs_repeat_by_the_seed(archive, embedder):
    def scores(**options):
        return ytf.evaluate(
            embedder,
            archive / "frames",
            archive / "splits.txt",
            pooling="frame_pairs",
            frame_pairs=2,
            **options,
        ).headline.scores.tolist()

    assert scores() == scores()
    assert scores() != scores(seed=1)
    with pytest.raises(ValueError, match="`frame_pairs` must be an integer >= 1"):
        ytf.evaluate(embedder, archive / "frames", archive / "splits.txt", frame_pairs=0)


def test_broken_frames_are_listed_with_frame_pairs_too(archive, embedder):
    (archive / "frames" / "P02" / "0" / "0.0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of \d+ frames .*(\n.*)+P02/0/0.0.png"):
        ytf.evaluate(
            embedder,
            archive / "frames",
            archive / "splits.txt",
            pooling="frame_pairs",
            frame_pairs=200,
        )


def test_synthetic_videos_have_the_archive_s_layout(tmp_path):
    root = synthetic.write_videos(
        tmp_path, 6, 2, (2, 4), pairs_per_fold=4, folds=2, first_identity=3, size=(28, 24)
    )
    pairs = read_splits(root / "splits.txt")
    assert len(pairs) == 8
    assert pairs.is_same.sum() == 4
    for video in pairs.images()[0]:
        assert re.fullmatch(r"Person_00000[3-8]/[01]", video)
        frames = list((root / "frames" / video).iterdir())
        assert 2 <= len(frames) <= 4
        assert all(frame.name.startswith(f"{video[-1]}.") for frame in frames)
    first = {p.relative_to(root): p.read_bytes() for p in root.rglob("*.*")}
    again = synthetic.write_videos(
        tmp_path / "b", 6, 2, (2, 4), pairs_per_fold=4, folds=2, first_identity=3, size=(28, 24)
    )
    assert all((again / name).read_bytes() == data for name, data in first.items())
    with pytest.raises(ValueError, match="`frames` must be"):
        synthetic.write_videos(tmp_path, 6, 2, (0, 4))


def test_frames_are_sampled_evenly_in_time_order(archive, embedder, write_image, make_face):
    folder = archive / "frames" / "P00" / "0"
    for frame in range(30):
        write_image(folder / f"0.{frame}.png", make_face(0, frame))
    (folder / "._0.1.png").touch()  # a hidden file is no frame
    names = ytf._list_frames(archive / "frames", ["P00/0"], False)["P00/0"]
    assert names == [f"P00/0/0.{frame}.png" for frame in range(30)]
    assert ytf._sample(names, 3) == [names[5], names[15], names[25]]
    assert ytf._sample(names, 30) == names
    result = ytf.evaluate(embedder, archive / "frames", archive / "splits.txt", max_frames=1)
    assert "24 videos (24 frames)" in result.protocol
    with pytest.raises(ValueError, match="max_frames"):
        ytf.evaluate(embedder, archive / "frames", archive / "splits.txt", max_frames=0)


def test_pooling_beats_a_single_frame(archive, embedder):
    results = [
        ytf.evaluate(embedder, archive / "frames", archive / "splits.txt", max_frames=frames)
        for frames in (None, 1)
    ]
    gaps = [result.impostor_angle - result.genuine_angle for result in results]
    assert gaps[0] > gaps[1] + 1
    assert results[0].headline.auc >= results[1].headline.auc


def test_missing_videos_and_broken_frames_are_listed(archive, embedder):
    frames = archive / "frames"
    (frames / "P02" / "0" / "0.0.png").write_bytes(b"")
    (frames / "P05" / "1" / "0.1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^2 of \d+ frames") as error:
        ytf.evaluate(embedder, frames, archive / "splits.txt")
    assert "P02/0/0.0.png" in str(error.value)
    assert "P05/1/0.1.png" in str(error.value)
    for path in [*(frames / "P02" / "0").iterdir(), *(frames / "P03" / "1").iterdir()]:
        path.unlink()
    (frames / "P03" / "1").rmdir()
    with pytest.raises(ValueError, match=r"^2 of 24 videos") as error:
        ytf.evaluate(embedder, frames, archive / "splits.txt")
    assert "P02/0: no frames in it" in str(error.value)
    assert "P03/1: missing" in str(error.value)


def test_an_unknown_pooling_is_refused(archive, embedder):
    with pytest.raises(
        ValueError, match="`pooling` must be one of 'mean', 'mean_normalized', 'best"
    ):
        ytf.evaluate(embedder, archive / "frames", archive / "splits.txt", pooling="max")


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = write(tmp_path, "")
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"splits\.txt is not a text file"):
        read_splits(path)


@pytest.mark.parametrize("pooling", list(ytf.POOLINGS))
@pytest.mark.parametrize(("value", "kind"), [(0.0, "zero"), (np.nan, "not finite")])
def test_a_frame_without_a_direction_is_refused_by_name(tmp_path, pooling, value, kind):
    """In a mean it would go unseen: a zero adds nothing, and the best frame passes over a NaN."""
    names = [f"{who}/{video}/0.{k}.jpg" for who in "ABCDEFGI" for video in "012" for k in range(3)]
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(len(names), 8)).astype(np.float32)
    mirrored = plain + 1
    mirrored[names.index("C/0/0.1.jpg")] = value
    stored = StoredEmbeddings(None, names, plain, mirrored)
    splits = write(tmp_path, GOOD.replace("A_B/1", "A/1").replace("A_B/5", "A/2"))
    with pytest.raises(ValueError, match=rf"the embedding of C/0/0\.1\.jpg is {kind}$"):
        ytf.evaluate(stored, None, splits, pooling=pooling)
