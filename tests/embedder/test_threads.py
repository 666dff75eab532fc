"""One embedder that many threads call at once gives each its own faces' embeddings."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.embedder.small import FED, write_onnx
from tf_sphereface.embedder import load_embedder, save_embedder

THREADS = 8


def wrong_answers(embedder, faces, right, turns=30):
    """Let eight threads embed one, two or three faces again and again; return who got others'."""
    start = threading.Barrier(THREADS)

    def work(number):
        start.wait()
        wrong = []
        for turn in range(turns):
            chosen = [(3 * number + turn + k) % len(faces) for k in range(1 + turn % 3)]
            if not np.allclose(embedder(faces[chosen]), right[chosen], atol=1e-4):
                wrong.append((number, chosen))
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        return [each for wrong in pool.map(work, range(THREADS)) for each in wrong]


@pytest.mark.parametrize("name", ["any", "one", "four"])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_tflite(tflite, faces, expected, name, threads):
    embedder = load_embedder(tflite / f"{name}.tflite", batch_size=2, threads=threads, **FED)
    assert not wrong_answers(embedder, faces, expected)


def test_onnx(tmp_path, faces):
    weights = write_onnx(tmp_path / "x.onnx")
    right = ((faces.astype(np.float32) - 127.5) / 128).reshape(len(faces), -1) @ weights
    assert not wrong_answers(load_embedder(tmp_path / "x.onnx", threads=1, **FED), faces, right)


@pytest.mark.parametrize("saved", [True, False])
def test_keras(tmp_path, network, faces, expected, saved):
    """The first calls, which trace the network, come at the same time too."""
    save_embedder(network, tmp_path / "x.keras")
    embedder = load_embedder(tmp_path / "x.keras" if saved else network, **FED)
    assert not wrong_answers(embedder, faces, expected)


def test_no_more_interpreters_than_cores(tflite, faces, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    embedder = load_embedder(tflite / "any.tflite", threads=1, **FED)
    wrong_answers(embedder, faces, embedder(faces))
    assert 1 <= len(embedder._runner._idle) <= 2


def test_a_file_that_is_replaced_changes_no_open_embedder(tmp_path, tflite, faces, expected):
    path = tmp_path / "x.tflite"
    path.write_bytes((tflite / "any.tflite").read_bytes())
    embedder = load_embedder(path, threads=1, **FED)
    path.write_bytes(b"another file")
    assert not wrong_answers(embedder, faces, expected)


def test_a_failed_call_spoils_no_other(tflite, faces, expected, monkeypatch):
    embedder = load_embedder(tflite / "any.tflite", threads=1, **FED)
    with monkeypatch.context() as patch:
        patch.setattr("tf_sphereface.embedder.runtimes._dequantize", broken)
        with pytest.raises(RuntimeError, match="no memory"):
            embedder(faces)
    assert embedder(faces) == pytest.approx(expected, abs=1e-4)


def broken(*_):
    raise RuntimeError("no memory")


def test_embedders_go_through_pickle(tmp_path, tflite, network, faces, expected):
    """As a pool of processes that do not fork hands them to its workers."""
    for model in (tflite / "any.tflite", network):
        copy = pickle.loads(pickle.dumps(load_embedder(model, **FED)))
        assert copy(faces) == pytest.approx(expected, abs=1e-4)
    write_onnx(tmp_path / "x.onnx")
    embedder = load_embedder(tmp_path / "x.onnx", **FED)
    assert pickle.loads(pickle.dumps(embedder))(faces) == pytest.approx(embedder(faces))


@pytest.mark.parametrize("name", ["any", "one", "four"])
def test_a_call_takes_all_cores(tflite, faces, expected, monkeypatch, name):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    embedder = load_embedder(tflite / f"{name}.tflite", **FED)
    both, run, sizes = threading.Barrier(2, timeout=30), embedder._runner._run, []

    def waiting(images):
        both.wait()  # until another piece is embedded too
        sizes.append(len(images))
        return run(images)

    monkeypatch.setattr(embedder._runner, "_run", waiting)
    assert embedder(faces[:8]) == pytest.approx(expected[:8], abs=1e-4)
    assert sizes == ([1] * 8 if name == "one" else [4, 4])
