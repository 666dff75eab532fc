"""Embeddings are computed once per image, kept by content, and found again after a kill."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tf_sphereface.embedder import load_embedder
from tf_sphereface.eval import lfw, ytf
from tf_sphereface.eval.pairs import read_pairs
from tf_sphereface.eval.scoring.cache import EmbeddingCache


class Counting:
    """An embedder that counts the faces it is given, and can be interrupted."""

    def __init__(self, embedder, stop_after=None):
        self._embedder, self._stop_after = embedder, stop_after
        self.seen = self.most = 0

    def __getattr__(self, name):
        return getattr(self._embedder, name)

    def __call__(self, images):
        if self._stop_after is not None and self.seen >= self._stop_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        self.most = max(self.most, len(images))
        return self._embedder(images)


@pytest.fixture
def model(tmp_path, save_pixels) -> Path:
    return save_pixels(tmp_path / "pixels.keras")


@pytest.fixture
def run(lfw_folder, monkeypatch):
    monkeypatch.setattr("tf_sphereface.eval.lfw.open_embedder", lambda model, options: model)

    def evaluate(embedder, **options):
        images, pairs = lfw_folder / "images", lfw_folder / "pairs.txt"
        options = {"cache": lfw_folder / "cache", **options}
        return lfw.evaluate(embedder, images, pairs, **options)

    return evaluate


def test_each_image_is_embedded_once(run, model):
    first, second = Counting(load_embedder(model)), Counting(load_embedder(model))
    before, after = run(first), run(second)
    assert (first.seen, second.seen) == (2 * 30, 0)  # image and mirror image
    for key, result in before.table.items():
        assert result.scores.tolist() == after.table[key].scores.tolist()
    assert before.headline.scores.tolist() == run(first, cache=None).headline.scores.tolist()
    assert first.seen == 4 * 30


def test_an_interrupted_run_goes_on(run, model, monkeypatch):
    monkeypatch.setattr("tf_sphereface.alignment.face_reader.CHUNK", 5)
    expected = run(load_embedder(model), cache=None).headline.scores
    stopped = Counting(load_embedder(model), stop_after=25)
    with pytest.raises(KeyboardInterrupt):
        run(stopped)
    rest = Counting(load_embedder(model))
    found = run(rest).headline.scores
    assert stopped.seen == 25  # five pieces: three with their mirror images, or two and a half
    assert rest.seen == 60 - 25
    # float32 embeddings of batches of other sizes differ in the last digits
    assert found == pytest.approx(expected, abs=1e-6)


def test_mirror_images_are_added_later(run, model):
    run(load_embedder(model), flip=False)
    more = Counting(load_embedder(model))
    run(more)
    assert more.seen == 30


def test_a_changed_image_is_embedded_again_and_a_copy_is_not(
    run, model, lfw_folder, make_face, write_image
):
    run(load_embedder(model))
    images = lfw_folder / "images"
    write_image(images / "P03" / "P03_0001.jpg", make_face(3, 77))
    again = Counting(load_embedder(model))
    changed = run(again)
    assert again.seen == 2
    pair = changed.pairs.left.index("P03/P03_0001.jpg")
    assert changed.headline.scores[pair] == pytest.approx(
        run(load_embedder(model), cache=None).headline.scores[pair], abs=1e-6
    )
    (images / "P04" / "P04_0001.jpg").write_bytes((images / "P05" / "P05_0001.jpg").read_bytes())
    copied = Counting(load_embedder(model))
    run(copied)
    assert copied.seen == 0


def test_landmarks_are_part_of_the_key(run, model, lfw_folder):
    from tf_sphereface.alignment.align import TEMPLATES

    names = read_pairs(lfw_folder / "pairs.txt").images()[0]
    points = dict.fromkeys(names, TEMPLATES[112, 96])
    run(load_embedder(model))
    aligned, moved = Counting(load_embedder(model)), Counting(load_embedder(model))
    run(aligned, landmarks=points)
    assert aligned.seen == 60
    points[names[0]] = points[names[0]] + 1
    run(moved, landmarks=points)
    assert moved.seen == 2


def test_another_model_has_a_file_of_its_own(run, model, tmp_path, lfw_folder, save_pixels):
    run(load_embedder(model))
    other = save_pixels(tmp_path / "other.keras", loss="other")
    counting = Counting(load_embedder(other))
    run(counting)
    assert counting.seen == 60
    assert len(list((lfw_folder / "cache").glob("*.sqlite"))) == 2


def test_a_model_that_is_fed_otherwise_has_a_file_of_its_own(run, tmp_path, lfw_folder):
    image = keras.Input((112, 96, 3), name="image")
    pooled = keras.layers.AveragePooling2D((14, 12))(image)
    keras.Model(image, keras.layers.Flatten()(pooled)).save(tmp_path / "foreign.keras")
    scores = []
    for mean in (127.5, (0.0, 90.0, 200.0)):
        fed = {"channel_order": "rgb", "pixel_mean": mean, "pixel_scale": 128}
        embedder = load_embedder(tmp_path / "foreign.keras", **fed)
        scores.append(run(embedder).headline.scores.tolist())
        assert run(embedder).headline.scores.tolist() == scores[-1]
    assert scores[0] != scores[1]
    assert len(list((lfw_folder / "cache").glob("*.sqlite"))) == 2


def test_problems_are_listed_with_a_cache_too(run, model, lfw_folder):
    images = lfw_folder / "images"
    (images / "P03" / "P03_0001.jpg").rename(images / "P03" / "p03_1.jpg")
    (images / "P05" / "P05_0002.jpg").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^2 of 30 images") as error:
            run(load_embedder(model))
        assert "P03/P03_0001.jpg: missing; misnamed? There is P03/p03_1.jpg" in str(error.value)
        assert "P05/P05_0002.jpg: cannot be decoded" in str(error.value)


def test_a_model_in_memory_has_no_cache(run, embedder):
    with pytest.raises(ValueError, match="a cache needs a model in a file"):
        run(embedder)


def test_a_file_that_is_no_cache_is_said_so(tmp_path, model):
    with EmbeddingCache(tmp_path / "cache", load_embedder(model)) as cache:
        path = cache.path
    path.write_bytes(b"something else entirely, and long enough to look at" * 50)
    with pytest.raises(OSError, match="is no cache of embeddings"):
        EmbeddingCache(tmp_path / "cache", load_embedder(model))


def test_a_cache_that_cannot_be_used_is_an_error_that_names_it(tmp_path, model):
    embedder = load_embedder(model)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"cache must be a folder that can be made\. Received: "):
        EmbeddingCache(tmp_path / "file", embedder)
    vectors = np.ones((1, embedder.embedding_dim), np.float32)
    with EmbeddingCache(tmp_path / "cache", embedder) as cache:
        cache._database.execute("PRAGMA query_only = 1")  # as on a disk that is full or read-only
        with pytest.raises(OSError, match=r"\.sqlite cannot be written: "):
            cache.put(["a"], False, vectors)
        cache._database.execute("PRAGMA query_only = 0")
        cache._database.execute("DROP TABLE embeddings")
        with pytest.raises(OSError, match=r"\.sqlite cannot be read: "):
            cache.get(["a"], False)


def test_a_vector_of_another_length_is_not_taken(tmp_path, model):
    embedder = load_embedder(model)
    with EmbeddingCache(tmp_path / "cache", embedder) as cache:
        vectors = np.ones((2, embedder.embedding_dim), np.float32)
        cache.put(["a", "b"], False, vectors)
        path = cache.path
    with sqlite3.connect(path) as database:
        database.execute("UPDATE embeddings SET vector = x'00000000' WHERE key = 'a'")
    database.close()
    with EmbeddingCache(tmp_path / "cache", embedder) as cache:
        found = cache.get(["a", "b", "c"], False)
        assert [v is None for v in found] == [True, False, True]
        assert cache.get(["b"], True) == [None]


KILLED = """
import os, signal, sys
import tf_sphereface.alignment.face_reader as faces
from tf_sphereface.eval import lfw
faces.CHUNK = 8

def progress(done, total):
    if done >= 16:
        os.kill(os.getpid(), signal.SIGKILL)

model, folder = sys.argv[1:]
lfw.evaluate(model, folder + "/images", folder + "/pairs.txt", progress=progress,
             cache=folder + "/cache")
"""


def test_a_killed_run_goes_on(run, model, lfw_folder):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(model), str(lfw_folder)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    rest = Counting(load_embedder(model))
    run(rest)
    assert rest.seen == 2 * (30 - 16)


def test_frames_of_videos_are_cached_and_streamed(
    tmp_path, model, make_face, write_image, monkeypatch
):
    monkeypatch.setattr("tf_sphereface.eval.ytf.open_embedder", lambda model, options: model)
    monkeypatch.setattr("tf_sphereface.alignment.face_reader.CHUNK", 4)
    lines = []
    for person in range(4):
        for video in range(2):
            for frame in range(11):
                path = tmp_path / "frames" / f"P{person}" / str(video) / f"0.{frame}.png"
                write_image(path, make_face(person, 50 * video + frame))
        other = person ^ 1
        lines.append(f"{person // 2 + 1}, 0, P{person}/0, P{person}/1, 1")
        lines.append(f"{person // 2 + 1}, 0, P{person}/0, P{other}/1, 0")
    (tmp_path / "splits.txt").write_text("\n".join(lines))
    first, second = Counting(load_embedder(model)), Counting(load_embedder(model))
    arguments = (tmp_path / "frames", tmp_path / "splits.txt")
    before = ytf.evaluate(first, *arguments, cache=tmp_path / "cache")
    after = ytf.evaluate(second, *arguments, cache=tmp_path / "cache")
    assert (first.seen, first.most, second.seen) == (2 * 88, 4, 0)
    assert before.headline.scores.tolist() == after.headline.scores.tolist()
