"""The run through all arms: what is done is kept, and the time left is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress, TaskID

from tf_sphereface.embedder.metadata import library_versions
from tf_sphereface.reproduce.arm_training import Outcome, run_arm
from tf_sphereface.reproduce.arms import Arm
from tf_sphereface.reproduce.faces import Faces, Size
from tf_sphereface.reproduce.workers import RunArm, at_once, in_turn
from tf_sphereface.utils.files import atomic_path, write_json

Say = Callable[[str], None]
PAIRS = "pairs.npz"  # which pairs are genuine, their folds and fingerprint, and what was trained on


class Results:
    """The arms of a folder: `arms/NAME.json`, and `arms/NAME.npz` with the scores of the pairs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "arms"

    def load(self, name: str) -> dict[str, Any] | None:
        """Return what is kept of an arm, None where it has not been run on the faces of today."""
        kept = read_json(self.folder / f"{name}.json")
        pairs, train = self._marks()
        if not kept or kept["faces"].get("pairs") != pairs:
            return None
        return kept if train in (None, kept["faces"].get("train")) else None

    def _marks(self) -> tuple[str | None, str | None]:
        """Return the fingerprint of the pairs that were verified last, and what was trained on."""
        path = self.folder / PAIRS
        if not path.is_file():
            return None, None
        with np.load(path) as stored:
            found = {name: str(stored[name]) for name in ("fingerprint", "train") if name in stored}
        return found.get("fingerprint"), found.get("train")

    def real(self) -> bool | None:
        """Return whether the arms are of real faces; None where there is none."""
        first = min(self.folder.glob("*.json"), default=None)
        return bool(read_json(first)["faces"]["real"]) if first else None

    def precision(self) -> str | None:
        """Return what the arms that are there compute in; None where there is none.

        Arms of two machines are comparable if it is the same for all; `m4-float32` tells nothing.
        """
        for path in sorted(self.folder.glob("*.json")):
            if "float32" not in path.stem:
                return str(read_json(path)["recipe"]["precision"])
        return None

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the scores of an arm, and which pairs it decided rightly."""
        with np.load(self.folder / f"{name}.npz") as stored:
            return {key: stored[key] for key in stored.files}

    def save(self, name: str, outcome: Outcome) -> None:
        """Keep an arm: the arrays first, so that whoever sees the figures has them too."""
        with atomic_path(self.folder / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, **outcome.arrays)  # type: ignore[arg-type]
        write_json(
            self.folder / f"{name}.json",
            {"name": name, **outcome.figures, "versions": library_versions()},
        )

    def done(self, arm: Arm, about: Mapping[str, Any]) -> bool:
        """Whether this very arm has been run: the same recipe on the same faces."""
        kept = self.load(arm.name)
        if kept is None or not (self.folder / f"{arm.name}.npz").is_file():
            return False
        same_recipe = kept["recipe"] == json.loads(json.dumps(arm.recipe.to_dict()))
        return bool(same_recipe and kept["faces"] == about)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON: {error}. Received: something else") from error


class Pace:
    """How long is left, from how long it has taken: the work of the arms in common units.

    `seconds_a_unit` is a first guess.
    """

    def __init__(
        self, work: float, seconds_a_unit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work, self._guess, self._clock = work, seconds_a_unit, clock
        self._began, self._done = clock(), 0.0

    def moved(self, work: float) -> None:
        """Note that some of the work is done."""
        self._done += work

    @property
    def minutes_left(self) -> float:
        """The estimate."""
        seconds = self._clock() - self._began
        unit = seconds / self._done if self._done else self._guess
        return max(self._work - self._done, 0.0) * unit / 60


def run_arms(
    arms: Sequence[Arm],
    folder: Path,
    faces_of: Callable[[Size], Faces],
    *,
    say: Say = lambda text: None,
    bar: Progress | None = None,
    jobs: int = 1,
    run: RunArm = run_arm,
) -> Results:
    """Run the arms that are not done yet, or whose recipe or faces were others; return all results.

    `faces_of` is called once per size, when it is first needed. Of several `jobs` at a time the
    longest start first, so that they end together. The bar gets a task for all arms, and one for
    each that runs.
    """
    results = Results(folder)
    for size in sorted({arm.recipe.input_size for arm in arms}):
        faces = faces_of(size)
        _keep_pairs(faces, folder)
        of_size = [arm for arm in arms if arm.recipe.input_size == size]
        waiting = [arm for arm in of_size if not results.done(arm, faces.about)]
        if len(waiting) < len(of_size):
            say(f"{len(of_size) - len(waiting)} of {len(of_size)} arms were done before")
        if waiting:
            later = [arm for arm in arms if arm.recipe.input_size > size]
            later = [arm for arm in later if results.load(arm.name) is None]
            display = _Display(waiting, later, len(faces.labels), say, bar)
            if jobs == 1 or len(waiting) == 1:
                outcomes = in_turn(waiting, faces, display.moved, run)
            else:
                waiting.sort(key=lambda arm: -display.work[arm.name])
                outcomes = at_once(waiting, faces, display.moved, run, jobs)
            for arm, outcome in outcomes:
                results.save(arm.name, outcome)
                display.done(arm, outcome)
        del faces  # one size in memory at a time
    return results


def _keep_pairs(faces: Faces, folder: Path) -> None:
    marks = {}
    if "pairs" in faces.about:
        marks = {"fingerprint": faces.about["pairs"], "train": faces.about["train"]}
    with atomic_path(folder / "arms" / PAIRS) as temporary:
        np.savez_compressed(temporary, is_same=faces.is_same, folds=faces.folds, **marks)


class _Display:
    """Shows how far the arms of one size are; those of larger sizes count in the time left."""

    def __init__(
        self, waiting: list[Arm], later: list[Arm], faces: int, say: Say, bar: Progress | None
    ) -> None:
        every = [*waiting, *later]
        self._faces, self._say, self._bar = faces, say, bar
        self._update_work = {arm.name: arm.work * arm.recipe.batch_size for arm in every}
        self.work = {arm.name: self._update_work[arm.name] * arm.updates(faces) for arm in every}
        self._pace = Pace(sum(self.work.values()), seconds_a_unit=0.0018)  # measured on two cores
        height, width = waiting[0].recipe.input_size
        self._count = f"{len(waiting)} at {height}x{width}" if later else f"{len(waiting)}"
        self._number = 0
        self._tasks: dict[str, TaskID] = {}
        self._total = bar.add_task("all arms", total=len(waiting)) if bar else None

    def moved(self, arm: Arm, steps: int) -> None:
        """Note some updates of an arm."""
        self._pace.moved(self._update_work[arm.name] * steps)
        if self._bar:
            if arm.name not in self._tasks:
                total = arm.updates(self._faces)
                self._tasks[arm.name] = self._bar.add_task(arm.name, total=total)
            self._bar.update(self._tasks[arm.name], advance=steps)

    def done(self, arm: Arm, outcome: Outcome) -> None:
        """Note that an arm is done, and say what it reached."""
        self._number += 1
        if self._bar and self._total is not None:
            if arm.name in self._tasks:
                self._bar.remove_task(self._tasks.pop(arm.name))
            self._bar.update(self._total, advance=1)
        seconds = outcome.figures["seconds"]
        self._say(
            f"{self._number} of {self._count}  {arm.name}: {_headline(outcome.figures)}, "
            f"{seconds['training'] + seconds['verification']:.0f} s; about "
            f"{self._pace.minutes_left:.0f} minutes left"
        )


def _headline(figures: Mapping[str, Any]) -> str:
    if figures["diverged"]:
        return "diverged"
    row = figures["verification"]["flip-plain"]
    return f"{100 * row['accuracy']:.2f} ± {100 * row['std_error']:.2f} %"
