"""Each script in examples/ runs by itself, in its quick form."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fork_server import ForkedProcess
from tf_sphereface.data import synthetic

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))

ELSEWHERE = {"embed_with_ray"}  # tests/search/test_ray.py

# script -> (options, what it says, what it writes)
QUICK = {
    "digits_on_a_sphere": (["--out", "digits.png"], "A-Softmax, m = 4: pairs", ["digits.png"]),
    "train_on_a_folder": (["--out", "run"], "embeddings (2, 512)", ["run/embedder.keras"]),
    "mirrored_strategy": ([], "2 replicas; XLA: off", []),
    "export_and_verify": (
        ["--out", "exported"],
        "embedder.int8.tflite",
        ["exported/embedder.none.tflite", "exported/embedder.onnx"],
    ),
}


def test_every_script_is_tested_and_listed():
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in SCRIPTS} == set(QUICK) | ELSEWHERE
    assert all(f"`{path.name}`" in listed for path in SCRIPTS)


IN_PROCESSES = ("mirrored_strategy",)  # it chooses TensorFlow's devices


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """A function that runs a script in this process, and returns what it printed."""

    def run_script(name: str, options: list[str]) -> str:
        path = ROOT / "examples" / f"{name}.py"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(path), "--quick", *options])
        capsys.readouterr()
        runpy.run_path(str(path), run_name="__main__")
        return str(capsys.readouterr().out)

    return run_script


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUICK))
def test_example(name: str, tmp_path: Path, run_here) -> None:
    options, said, written = QUICK[name]
    if name in IN_PROCESSES:
        assert said in run(name, options, tmp_path)
    else:
        assert said in run_here(name, options)
    for path in written:
        assert (tmp_path / path).stat().st_size > 1000


def run(name: str, options: list[str], folder: Path) -> str:
    """Run a script's quick form in a folder, in a process; return what it printed."""
    code, said = ForkedProcess(run_script, name, options, folder).finish(600)
    assert code == 0, said[-2000:]
    return said


def run_script(name: str, options: list[str], folder: Path) -> None:
    """Run a script's quick form in a folder, in this process."""
    os.chdir(folder)
    path = str(ROOT / "examples" / f"{name}.py")
    sys.argv = [path, "--quick", *options]
    runpy.run_path(path, run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("people", "said"),
    [
        (8, ["of 4 people who are held out", "64 faces of 4 people", "verification_accuracy"]),
        (7, ["112 faces of 7 people", "the last epoch's network is kept, unverified"]),
    ],
)
def test_own_faces_are_verified_on_or_it_is_said(
    people: int, said: list[str], tmp_path: Path, run_here
) -> None:
    synthetic.write_folder(tmp_path / "faces", people, 16, size=(56, 48))
    printed = run_here("train_on_a_folder", ["--data", "faces", "--out", "run"])
    for words in [*said, "embeddings (2, 512)"]:
        assert words in printed
    assert (tmp_path / "run/embedder.keras").stat().st_size > 1000


def test_pairs_of_people_who_are_held_out(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "examples" / "train_on_a_folder.py"))
    for person in range(60):  # only a name with two images can be held out
        (tmp_path / f"P{person:02d}").mkdir()
        for image in range(1 + (person != 59)):
            (tmp_path / f"P{person:02d}" / f"{image}.png").touch()
    assert script["people_to_hold_out"](tmp_path) == [f"P{n}" for n in range(53, 59)]
    labels = np.repeat(np.arange(5), [2, 9, 3, 6, 4])
    left, right, is_same, folds = script["random_pairs"](labels)
    assert ((labels[left] == labels[right]) == is_same).all()
    assert np.all(left != right)
    for person in range(5):
        among = (labels[left] == person) | (labels[right] == person)
        assert len(np.unique(folds[among])) == 1
    for fold in (0, 1):
        inside = is_same[folds == fold]
        assert 2 * inside.sum() == len(inside) > 0
    assert np.unique(np.sort([left, right], axis=0), axis=1).shape[1] == len(left)
