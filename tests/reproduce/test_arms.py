"""One arm, trained and verified; many arms, resumed."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.fork_server import prepare_server
from tf_sphereface.eval import verification
from tf_sphereface.reproduce import arms as arms_of
from tf_sphereface.reproduce import experiments, workers
from tf_sphereface.reproduce import faces as reproduced_faces
from tf_sphereface.reproduce.arm_runner import Pace, Results, run_arms
from tf_sphereface.reproduce.arm_training import Outcome, run_arm
from tf_sphereface.reproduce.arms import Arm
from tf_sphereface.reproduce.faces import Faces
from tf_sphereface.training import build_annealing
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.utils import startup

ROOT = Path(__file__).resolve().parents[2]


def test_one_arm(few_faces: Faces, recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, precision="mixed_bfloat16", epochs=10)
    moved: list[int] = []
    outcome = run_arm(recipe, few_faces, moved.append)
    figures = outcome.figures
    json.dumps(figures)
    assert sum(moved) == 30
    assert not figures["diverged"]
    assert keras.mixed_precision.global_policy().name == "float32"  # as it was before
    points = figures["training"]["curve"]
    assert [point[0] for point in points] == [10, 20, 30]
    annealing = build_annealing(recipe, 30)
    assert [point[2] for point in points] == pytest.approx([annealing(k) for k in (10, 20, 30)])
    short = run_arm(dataclasses.replace(recipe, epochs=2), few_faces).figures["training"]["curve"]
    assert [point[0] for point in short] == [6]  # a run shorter than a window has a point too
    # Windows cross epochs of three updates: a point is of the updates since the epoch began.
    assert all(np.isfinite(point[1]) for point in points)
    for key, row in figures["verification"].items():
        correct = outcome.arrays[f"correct {key}"]
        assert row["accuracy"] == pytest.approx(np.mean(correct))  # folds are equally large
    plain = verification.evaluate(
        outcome.arrays["scores flip-plain"].astype("float64"), few_faces.is_same, few_faces.folds
    )
    # scores are kept in float32: a pair at its threshold may fall to the other side
    assert plain.accuracy == pytest.approx(
        figures["verification"]["flip-plain"]["accuracy"], abs=1 / 36 + 1e-9
    )


def test_faces_of_another_size_are_refused(few_faces: Faces, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"recipe's size \(56, 48\). Received: \(28, 24\)"):
        run_arm(dataclasses.replace(recipe, input_size=(56, 48)), few_faces)


def test_a_diverged_arm_is_kept_as_such(few_faces: Faces, recipe: Recipe) -> None:
    wild = dataclasses.replace(recipe, learning_rate=1e30, loss="softmax", margin=None)
    outcome = run_arm(wild, few_faces)
    assert outcome.figures["diverged"]
    assert outcome.arrays == {}


def test_arms_are_resumed_one_by_one(
    tmp_path: Path, few_faces: Faces, recipe: Recipe, made_up: Callable[..., Outcome]
) -> None:
    two = [Arm("a", recipe), Arm("b", dataclasses.replace(recipe, seed=1))]
    ran: list[int] = []
    said: list[str] = []

    def run(of: Recipe, faces: Faces, moved: object) -> object:
        if of.seed == 1 and len(ran) == 1:
            ran.append(-1)
            raise KeyboardInterrupt
        ran.append(of.seed)
        return made_up(of, faces, of.seed)

    def again(arms: list[Arm]) -> Results:
        return run_arms(arms, tmp_path, lambda size: few_faces, say=said.append, run=run)

    with pytest.raises(KeyboardInterrupt):
        again(two)
    assert not list((tmp_path / "arms").glob(".*"))  # nothing half-written is left
    results = again(two)
    assert ran == [0, -1, 1]
    assert "1 of 2 arms were done before" in said
    assert "minutes left" in said[-1]
    assert "b: " in said[-1]
    assert results.load("b")["recipe"]["seed"] == 1
    again(two)
    assert ran == [0, -1, 1]
    again([Arm("a", dataclasses.replace(recipe, epochs=3)), two[1]])  # another recipe: run again
    assert ran == [0, -1, 1, 0]


def test_arms_run_at_once(
    tmp_path: Path,
    few_faces: Faces,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In processes of a command, which are as quiet as it."""
    monkeypatch.delenv(startup.VARIABLE)
    monkeypatch.setattr(sys, "argv", ["tf_sphereface-reproduce"])
    arms = [Arm(f"seed{seed}", dataclasses.replace(recipe, seed=seed)) for seed in range(2)]
    arms.append(Arm("longest", dataclasses.replace(recipe, epochs=4)))
    said: list[str] = []
    results = run_arms(arms, tmp_path / "both", lambda size: few_faces, say=said.append, jobs=2)
    noise = capfd.readouterr().err
    assert not any(word in noise for word in ("oneDNN", "cuInit", "WARNING")), noise
    alone = run_arms(arms[1:], tmp_path / "one", lambda size: few_faces)
    for arm in arms[1:]:
        first, second = results.load(arm.name), alone.load(arm.name)
        assert first["recipe"] == second["recipe"] == json.loads(json.dumps(arm.recipe.to_dict()))
        # Other numbers of threads add in another order: the same but for rounding.
        assert first["training"]["epochs"]["loss"] == pytest.approx(
            second["training"]["epochs"]["loss"], rel=1e-3
        )
        assert set(results.arrays(arm.name)) == set(alone.arrays(arm.name))
    assert [line.split()[0] for line in said] == ["1", "2", "3"]
    assert "about 0 minutes left" in said[-1]


def test_the_time_left_knows_of_larger_faces(
    tmp_path: Path, few_faces: Faces, recipe: Recipe, made_up: Callable[..., Outcome]
) -> None:
    """Sizes are trained one after the other, and what waits is counted from the start."""
    large = dataclasses.replace(recipe, input_size=(56, 48), epochs=10_000)
    arms = [Arm("large", large), Arm("small", recipe)]
    said: list[str] = []

    def run(of: Recipe, faces: Faces, moved: object) -> Outcome:
        return made_up(of, faces, 0)

    run_arms(arms, tmp_path, lambda size: few_faces, say=said.append, run=run)
    first, second = said
    assert first.startswith("1 of 1 at 28x24  small: ")
    # 30,000 updates of 16 faces, 1.8 units each in float32, at the first guess of 1.8 ms a unit
    assert "about 26 minutes left" in first
    assert second.startswith("1 of 1  large: ")


def fail_or_die(recipe: Recipe, faces: Faces, moved: Callable[[int], None]) -> Outcome:
    """Fail in an arm of one seed, end the process in one of another, else wait."""
    moved(1)
    if recipe.seed == 1:
        raise ValueError("no face was left")
    if recipe.seed == 2:
        os._exit(3)
    time.sleep(60)
    raise AssertionError("nobody stopped this process")


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (1, "the arm bad failed: ValueError: no face was left"),
        (2, r"the process of the arm bad ended with exit code 3: .*fewer --jobs"),
    ],
)
def test_an_arm_that_fails_ends_the_others(
    tmp_path: Path,
    few_faces: Faces,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    message: str,
) -> None:
    prepare_server()
    monkeypatch.setattr(workers, "START", "forkserver")  # which imports TensorFlow once
    arms = [Arm("good", recipe), Arm("bad", dataclasses.replace(recipe, seed=seed))]
    began = time.monotonic()
    with pytest.raises(ChildProcessError, match=message):
        run_arms(arms, tmp_path, lambda size: few_faces, jobs=2, run=fail_or_die)
    assert time.monotonic() - began < 55
    assert multiprocessing.active_children() == []


ORPHANS = """
import os, sys, time
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.reproduce.arms import Arm
from tf_sphereface.reproduce.workers import at_once

def run(recipe, faces, moved):
    moved(os.getpid())
    time.sleep(100)

if __name__ == "__main__":
    arms = [Arm("a", Recipe()), Arm("b", Recipe())]
    list(at_once(arms, None, lambda arm, process: print(process, flush=True), run, 2))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Even where it is killed and can stop nobody."""
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        children = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    deadline = time.monotonic() + 20
    while alive := [child for child in children if Path(f"/proc/{child}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def test_the_precision_of_a_folder_is_kept(
    tmp_path: Path, few_faces: Faces, recipe: Recipe, made_up: Callable[..., Outcome]
) -> None:
    """A folder begun on another machine is gone on with in its precision."""

    def run(recipe: Recipe, faces: Faces, moved: object) -> Outcome:
        return made_up(recipe, faces, 0)

    assert Results(tmp_path).precision() is None
    other = dataclasses.replace(recipe, precision="mixed_bfloat16")
    arms = [Arm("m4-float32", recipe), Arm("softmax-seed0", other)]
    run_arms(arms, tmp_path, lambda size: few_faces, run=run)
    kept = Results(tmp_path).precision()
    assert kept == "mixed_bfloat16"
    chosen = experiments._chosen_arms(["margin", "cost"], False, kept)
    assert {a.recipe.precision for a in chosen if a.name != "m4-float32"} == {"mixed_bfloat16"}
    names = {arm.name for arm in experiments._chosen_arms(["cost", "cost-seeds"], False, "float32")}
    assert names == {"m4-sampled-head", "m4-sampled-head-seed1", "m4-sampled-head-seed2"}


def test_broken_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json must be JSON"):
        Results(tmp_path).load("a")
    assert Results(tmp_path).load("b") is None


def test_time_left_is_by_work() -> None:
    now = 1000.0
    pace = Pace(10.0, seconds_a_unit=6.0, clock=lambda: now)
    assert pace.minutes_left == pytest.approx(1.0)
    now += 240.0
    pace.moved(2.0)
    assert pace.minutes_left == pytest.approx(8 * 120 / 60)


def test_every_part_has_its_arms() -> None:
    base = dataclasses.replace(arms_of.real_base(), precision="mixed_bfloat16")
    arms = [
        arm
        for name in experiments.BY_DEFAULT
        if name in experiments.TRAINED
        for arm in experiments.TRAINED[name](base)
    ]
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names) == 34
    assert sum("seed" in name for name in names) == 15
    losses = {arm.recipe.loss for arm in arms}
    from tf_sphereface.training.recipes import LOSSES

    # whose margins follow the embeddings: they came later, and are in no table of the page
    assert losses == set(LOSSES) - {"adaface", "magface", "curricularface"}
    minima = {arm.recipe.lambda_minimum for arm in arms if arm.recipe.margin == 4}
    assert minima == {0.0, 2.0, 5.0, 10.0}
    for arm in arms_of.full_size_arms(base):
        assert arm.recipe.input_size == (112, 96)


def test_results_of_other_pairs_are_left_out_and_of_other_faces_run_again(
    tmp_path: Path, few_faces: Faces, recipe: Recipe, made_up: Callable[..., Outcome]
) -> None:
    ran: list[str] = []

    def run(recipe: Recipe, faces: Faces, moved: object) -> Outcome:
        ran.append(faces.about["content"])
        return made_up(recipe, faces, 0)

    arm = Arm("one", recipe)
    for _ in range(2):  # the second time it is there
        results = run_arms([arm], tmp_path, lambda size: few_faces, run=run)
    assert len(ran) == 1
    images = few_faces.images.copy()
    images[0, 0, 0, 0] ^= 1
    aligned_anew = dataclasses.replace(few_faces, images=images).fingerprinted()
    run_arms([arm], tmp_path, lambda size: aligned_anew, run=run)
    assert len(set(ran)) == 2
    other_list = dataclasses.replace(few_faces, is_same=~few_faces.is_same).fingerprinted()
    run_arms([Arm("two", recipe)], tmp_path, lambda size: other_list, run=run)
    assert results.load("one") is None
    assert results.load("two") is not None
    about = {**other_list.about, "train": "more faces of others"}
    more = dataclasses.replace(other_list, about=about)
    run_arms([Arm("three", recipe)], tmp_path, lambda size: more, run=run)
    assert results.load("two") is None  # never beside what was trained on other faces


def test_lambda_of_zero_has_no_floor() -> None:
    recipe = dataclasses.replace(arms_of.real_base(), lambda_minimum=0.0)
    annealing = build_annealing(recipe, 1000)
    assert annealing(900) == pytest.approx(0.05, rel=1e-6)  # at the recipe's reach of 90 %
    assert 0 < annealing(1000) < 0.05
    steep = build_annealing(dataclasses.replace(recipe, lambda_minimum=5.0), 1000)
    flat = build_annealing(
        dataclasses.replace(recipe, lambda_minimum=5.0, annealing_power=1.0), 1000
    )
    assert steep(900) == flat(900) == 5.0
    assert steep(100) > 5 * flat(100)  # a larger power falls later


def test_real_faces_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(reproduced_faces.ENVIRONMENT_VARIABLE, raising=False)
    assert reproduced_faces.find_real(None, None) is None
    lfw, train = tmp_path / "lfw_subset", tmp_path / "celeba_faces"
    train.mkdir()
    with pytest.raises(ValueError, match="training faces and LFW belong together"):
        reproduced_faces.find_real(train, None)
    with pytest.raises(FileNotFoundError, match="the folder of LFW must exist"):
        reproduced_faces.find_real(train, lfw)
    (lfw / "images").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"must hold pairs\.txt"):
        reproduced_faces.find_real(train, lfw)
    (lfw / "pairs.txt").touch()
    monkeypatch.setenv(reproduced_faces.ENVIRONMENT_VARIABLE, str(tmp_path))
    assert reproduced_faces.find_real(None, None) == (train, lfw)


def test_a_folder_of_faces_is_read_like_the_arrays(tmp_path: Path) -> None:
    from tf_sphereface.data import synthetic

    train = synthetic.write_folder(tmp_path / "train", 3, 4, size=(56, 48))
    lfw = tmp_path / "lfw"
    synthetic.write_folder(lfw / "images", 6, 4, first_identity=9, pairs_per_fold=4, folds=3)
    (lfw / "images" / "pairs.txt").rename(lfw / "pairs.txt")
    faces = reproduced_faces.real_faces(train, lfw, (56, 48))
    assert faces.images.shape == (12, 56, 48, 3)
    assert set(faces.labels) == {0, 1, 2}
    assert faces.about["train"] == "12 faces of 3 people"
    assert len(faces.is_same) == 12
    assert faces.is_same.sum() == 6
    assert faces.test_images.shape[1:] == (56, 48, 3)  # 112x96, averaged down
    same = faces.people[faces.left] == faces.people[faces.right]
    assert np.array_equal(same, faces.is_same)
