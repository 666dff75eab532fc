"""Small faces and made-up results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tf_sphereface.reproduce import faces as reproduced_faces
from tf_sphereface.reproduce.arm_training import Outcome
from tf_sphereface.reproduce.faces import Faces
from tf_sphereface.training.recipes import Recipe


@pytest.fixture(scope="session")
def few_faces() -> Faces:
    """Faces of 28x24 of six people, and pairs of six others in three folds."""
    return reproduced_faces.synthetic_faces(6, 8, (28, 24), pairs_per_fold=12)


@pytest.fixture
def recipe() -> Recipe:
    """A recipe of six updates."""
    return Recipe(
        backbone="sphereface4",
        input_size=(28, 24),
        embedding_dim=16,
        epochs=2,
        batch_size=16,
        learning_rate=0.01,
        annealing="fit",
    )


def make_outcome(recipe: Recipe, faces: Faces, seed: int) -> Outcome:
    """Return an outcome of the right form without training: decisions right with chance 0.8."""
    rng = np.random.default_rng(seed)
    folds = np.unique(faces.folds)
    rows, arrays = {}, {}
    for key in ("none-plain", "none-mean_subtracted", "flip-plain", "flip-mean_subtracted"):
        correct = rng.random(len(faces.folds)) < 0.8
        accuracies = [float(correct[faces.folds == fold].mean()) for fold in folds]
        rows[key] = {
            "accuracy": float(np.mean(accuracies)),
            "std_error": 0.01,
            "fold_accuracies": accuracies,
            "genuine_angle": 50.0 + seed,
            "impostor_angle": 80.0 + seed,
            "angular_fisher_score": 0.1,
        }
        arrays[f"correct {key}"] = correct
        arrays[f"scores {key}"] = rng.uniform(-0.2, 0.9, len(faces.folds))
    scheduled = recipe.loss == "a-softmax"
    points = [
        [10 * k, 5.0 / k, 100.0 / k, 1.1] if scheduled else [10 * k, 5.0 / k, None, None]
        for k in (1, 2, 3)
    ]
    return Outcome(
        {
            "recipe": recipe.to_dict(),
            "faces": faces.about,
            "diverged": False,
            "verification": rows,
            "training": {"epochs": {"loss": [2.0], "accuracy": [0.5]}, "curve": points},
            "seconds": {"training": 1.0, "verification": 1.0, "processor": 3.0, "step": 0.1},
        },
        arrays,
    )


@pytest.fixture
def made_up() -> Callable[[Recipe, Faces, int], Outcome]:
    """What makes an outcome up."""
    return make_outcome


@pytest.fixture
def whole_folder(tmp_path: Path, few_faces: Faces, recipe: Recipe) -> Path:
    """A folder in which every arm of every part has been run, by `make_outcome`."""
    from tf_sphereface.reproduce import experiments
    from tf_sphereface.reproduce.arm_runner import run_arms
    from tf_sphereface.reproduce.arms import Arm

    base = dataclasses.replace(recipe, precision="mixed_bfloat16")  # beside which float32 is an arm
    every = {arm.name: arm for make in experiments.TRAINED.values() for arm in make(base)}
    small = []
    for arm in every.values():  # full-size arms as well, on the small faces
        changed = arm.recipe.__class__(**{**arm.recipe.__dict__, "input_size": (28, 24)})
        small.append(Arm(arm.name, changed))
    counter = iter(range(100))
    run_arms(
        small,
        tmp_path,
        lambda size: few_faces,
        run=lambda recipe, faces, moved: make_outcome(recipe, faces, next(counter)),
    )
    return tmp_path
