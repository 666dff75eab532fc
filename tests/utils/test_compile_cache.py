"""What XLA has compiled is found again by the next process, and no bad folder stops a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tf_sphereface.utils import compile_cache

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import sys
sys.argv = ["tf_sphereface-train", "--compile-cache", sys.argv[1]]
import tf_sphereface as sf
import keras, numpy as np, tensorflow as tf
if {other}:
    tf.function(lambda x: x + 1)(tf.ones(3))  # moves the count in the names of functions
image = keras.Input((8, 8, 3))
features = keras.layers.PReLU(shared_axes=[1, 2])(keras.layers.Conv2D(4, 3)(image))
model = sf.FaceClassifier(keras.Model(image, keras.layers.Flatten()(features)), 3)
model.compile("sgd", loss=sf.losses.CosFaceLoss(), jit_compile=True)
print(model.train_on_batch(np.ones((4, 8, 8, 3), "float32"), np.array([0, 1, 2, 0])) > 0)
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv(compile_cache.VARIABLE, "")  # restored afterwards, where it was not set too
    monkeypatch.delenv(compile_cache.VARIABLE)


def test_a_second_process_compiles_nothing_and_says_nothing(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    kept = []
    for other in (False, True):
        run = subprocess.run(
            [sys.executable, "-c", TRAIN.format(other=other), str(tmp_path / "new")],
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert run.stdout == "True\n"
        assert "parsing text-format" not in run.stderr
        files = compile_cache.machine_folder(tmp_path / "new").iterdir()
        kept.append({path.name: path.stat().st_mtime_ns for path in files})
    assert len(kept[0]) == 1
    assert kept[1] == kept[0]


@pytest.mark.parametrize(
    ("line", "has_gpu", "expected"),
    [
        ("--data x --compile-cache kept", False, "kept"),
        ("--compile-cache=kept --jit off", True, "kept"),
        ("--compile-cache none", True, None),
        ("--data x", False, None),
        ("--data x --jit on", False, "default"),
        ("--data x", True, "default"),
        ("--data x --jit off", True, None),
        ("--compile-cache", True, None),  # the command's parser says what is missing
    ],
)
def test_the_folder_of_a_command_line(line, has_gpu, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    default = tmp_path / "tf_sphereface" / "xla"
    right = {"default": default, "kept": Path("kept"), None: None}[expected]
    assert compile_cache.folder_from(line.split(), has_gpu) == right


def test_a_folder_is_made_for_the_user_alone_and_what_is_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv(compile_cache.VARIABLE, "--tf_xla_clustering_debug=false")
    assert compile_cache.start(tmp_path / "a" / "b") == ""
    folder = compile_cache.started()
    assert folder.parent == tmp_path / "a" / "b"
    assert folder.stat().st_mode & 0o777 == 0o700
    flags = os.environ[compile_cache.VARIABLE]
    assert flags.startswith("--tf_xla_clustering_debug=false ")
    assert compile_cache.start(tmp_path / "other") == ""  # the user's own flag goes first
    assert os.environ[compile_cache.VARIABLE] == flags


def test_a_folder_that_cannot_be_made_or_named_is_not_used(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "with space", Path("/proc/nothing")):
        assert "nothing that is compiled is kept" in compile_cache.start(folder)
        assert compile_cache.started() is None


def test_a_full_disk_or_a_folder_of_somebody_else_is_only_read(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": 1e6})
        patch.setattr(compile_cache.shutil, "disk_usage", lambda path: usage)
        assert "only 1 MB are free" in compile_cache.start(tmp_path)
        assert compile_cache.READ_ONLY in os.environ[compile_cache.VARIABLE]
    monkeypatch.delenv(compile_cache.VARIABLE)

    def refuse(**options):
        raise PermissionError("not yours")

    monkeypatch.setattr(compile_cache.tempfile, "TemporaryFile", refuse)
    assert "read, not written: not yours" in compile_cache.start(tmp_path)
    assert compile_cache.READ_ONLY in os.environ[compile_cache.VARIABLE]


def test_old_files_go_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "LARGEST", 100)
    folder = compile_cache.machine_folder(tmp_path)
    folder.mkdir()
    (folder / "notes.txt").write_text("x" * 500)
    for age, name in enumerate(["new.pb", "old.pb", "older.pb", "now.tmp"]):
        path = folder / f"xla_compile_cache_{name}"
        path.write_bytes(b"x" * 45)
        os.utime(path, (time.time() - 1000 * age,) * 2)
    stale = folder / "xla_compile_cache_stale.tmp"
    stale.touch()
    os.utime(stale, (0, 0))
    compile_cache.start(tmp_path)
    left = {path.name.removeprefix("xla_compile_cache_") for path in folder.iterdir()}
    assert left == {"notes.txt", "new.pb", "now.tmp"}


def test_errors_about_the_cache_are_known(tmp_path):
    message = "Can't parse /x/xla_compile_cache__1__2__XLA_CPU_JIT.pb as binary proto"
    assert not compile_cache.is_damaged(message)  # no cache is in use
    compile_cache.start(tmp_path)
    assert compile_cache.is_damaged(message)
    assert not compile_cache.is_damaged("OOM when allocating tensor")
