"""A run from Python that is stopped and resumed, in a folder of its own."""

from __future__ import annotations

import csv
import dataclasses

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tf_sphereface import training
from tf_sphereface.data import FaceSource, SyntheticFaces
from tf_sphereface.training.checkpoint import checkpoint_files

RECIPE = dataclasses.replace(
    training.preset("quick"),
    input_size=(28, 24),
    embedding_dim=8,
    batch_size=8,
    epochs=2,
    dropout=0.2,
    augment="strong",
    precision="float32",
)
STEPS = 4


def source(images: int = 8) -> FaceSource:
    return FaceSource(SyntheticFaces(4, images), image_size=(28, 24))


class StopAfter(keras.callbacks.Callback):
    """Interrupt a run, as a power cut does, after some of this process's updates."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


def rows(folder) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def test_a_run_that_was_stopped_twice_ends_to_the_bit_as_one_that_was_not(tmp_path):
    whole = training.run(RECIPE, source(), tmp_path / "whole")
    broken = tmp_path / "broken"
    for steps in (2, 4):  # inside the first epoch, and inside the second
        with pytest.raises(InterruptedError):
            training.run(
                RECIPE,
                source(),
                broken,
                resume=True,
                callbacks=[StopAfter(steps)],
                checkpoint_every=1,
            )
    resumed = training.run(RECIPE, source(), broken, resume=True)
    assert resumed.step == 4  # the epoch's end; the step that was cut off is done again
    assert rows(broken) == rows(tmp_path / "whole")
    assert len(resumed.log.rows) == RECIPE.epochs
    for a, b in zip(whole.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(whole.network().get_weights(), resumed.network().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    again = training.run(RECIPE, source(), broken, resume=True)  # nothing is left to do
    assert again.step == again.total_steps == STEPS * RECIPE.epochs


def test_what_asks_a_run_to_stop_has_its_state_kept(tmp_path):
    folder = training.RunFolder(tmp_path)
    run = training.Run(RECIPE, source(), folder)
    with pytest.raises(training.RunStopped, match=r"after step 1; the state of step 1 is kept"):
        run.fit(stop=lambda: True)
    assert [path.name for path in checkpoint_files(folder.checkpoints)] == ["step-00000001.npz"]


def test_a_folder_is_not_overwritten_nor_resumed_with_other_faces(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    training.run(recipe, source(), tmp_path)
    with pytest.raises(ValueError, match="holds a run already"):
        training.run(recipe, source(), tmp_path)
    with pytest.raises(ValueError, match="images was 8, now 12"):
        training.run(recipe, source(12), tmp_path, resume=True)
    with pytest.raises(ValueError, match="epochs was 1, now 2"):
        training.run(RECIPE, source(), tmp_path, resume=True)


def test_faces_that_a_recipe_cannot_take_are_refused(tmp_path):
    arrays = sf.data.synthetic.training_set(2, 2, size=(56, 48))
    with pytest.raises(ValueError, match=r"`source` must have faces of .*\(28, 24\)"):
        training.run(RECIPE, FaceSource(arrays, image_size=(56, 48)), tmp_path)
    with pytest.raises(ValueError, match="4 faces do not fill one batch of 8"):
        training.run(RECIPE, FaceSource(SyntheticFaces(2, 2), image_size=(28, 24)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    recipe = dataclasses.replace(RECIPE, learning_rate=1e25)
    before = keras.mixed_precision.global_policy()
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) in epoch 1"):
        training.run(recipe, source(), tmp_path)
    assert keras.mixed_precision.global_policy() == before
