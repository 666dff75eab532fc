"""A run from Python that is stopped and resumed, in a folder of its own."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import signal

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tests.training.stopping import StopAfter
from tf_sphereface import training
from tf_sphereface.data import FaceSource, SyntheticFaces
from tf_sphereface.training import run_callbacks
from tf_sphereface.training.checkpoint import checkpoint_files

pytestmark = pytest.mark.usefixtures("small_backbone")

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
    with pytest.raises(ValueError, match=r"batch_size was 8, now 4.*Only the number of epochs"):
        training.run(dataclasses.replace(recipe, batch_size=4), source(), tmp_path, resume=True)


def test_what_is_left_of_a_run_is_not_overwritten(tmp_path):
    """Also where its configuration is gone, as in a folder of kept models."""
    (tmp_path / "embedder.keras").write_bytes(b"somebody's")
    with pytest.raises(ValueError, match="holds what a run has written, without its config"):
        training.run(RECIPE, source(), tmp_path)
    assert (tmp_path / "embedder.keras").read_bytes() == b"somebody's"


def test_a_run_goes_on_to_more_epochs_by_the_schedules_of_that_many(tmp_path, caplog):
    """Finished or not: rate and lambda of the later epochs are those of the long run."""
    whole = training.run(dataclasses.replace(RECIPE, epochs=3), source(), tmp_path / "whole")
    short = dataclasses.replace(RECIPE, epochs=1)
    training.run(short, source(), tmp_path / "run")
    assert "goes on" not in caplog.text
    longer = training.run(
        dataclasses.replace(RECIPE, epochs=3), source(), tmp_path / "run", resume=True
    )
    assert longer.step == STEPS
    assert (
        "the run of 1 epoch goes on to 3: from update 5 on, the schedules are those of a run "
        "of 3 epochs, learning rate 0.05 (was 0.0005) and lambda " in caplog.text
    )
    assert [row["epoch"] for row in longer.log.rows] == [1, 2, 3]
    for name in ("lambda", "effective_margin", "learning_rate"):
        expected = [row[name] for row in whole.log.rows]
        assert [row[name] for row in longer.log.rows][1:] == expected[1:]
    caplog.clear()
    training.run(dataclasses.replace(RECIPE, epochs=3), source(), tmp_path / "run", resume=True)
    assert "goes on" not in caplog.text
    with pytest.raises(ValueError, match=r"has done 3 epochs cannot go on to fewer.*epochs=2"):
        training.run(RECIPE, source(), tmp_path / "run", resume=True)


def test_a_run_may_end_sooner_than_it_was_to(tmp_path, caplog):
    with pytest.raises(InterruptedError):
        training.run(
            dataclasses.replace(RECIPE, epochs=3), source(), tmp_path,
            callbacks=[StopAfter(5)], checkpoint_every=1,
        )  # fmt: skip
    run = training.run(RECIPE, source(), tmp_path, resume=True)
    assert len(run.log.rows) == 2
    assert "the run of 3 epochs goes on to 2" in caplog.text


def test_a_run_of_one_update_goes_on(tmp_path):
    """It has no drop of the rate, and a longer one has."""
    recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=32)
    training.run(recipe, source(), tmp_path)
    longer = dataclasses.replace(recipe, epochs=4)
    assert len(training.run(longer, source(), tmp_path, resume=True).log.rows) == 4


def test_a_run_without_checkpoints_does_not_go_on_to_more_epochs(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    training.run(recipe, source(), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"cannot go on to 2: it has no checkpoint"):
        training.run(RECIPE, source(), tmp_path, resume=True)
    assert len(rows(tmp_path)) == 1


def test_a_run_from_before_an_option_was_there_goes_on(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    training.run(recipe, source(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("label_smoothing", "class_weights"):
        del config["recipe"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    training.run(recipe, source(), tmp_path, resume=True)
    weighted = dataclasses.replace(recipe, class_weights="balanced")
    with pytest.raises(ValueError, match="class_weights was None, now balanced"):
        training.run(weighted, source(), tmp_path, resume=True)


@pytest.mark.parametrize(("sample_rate", "jit"), [(1.0, False), (0.75, True)])
def test_class_weights_are_those_of_fit_and_kept_by_resume(tmp_path, sample_rate, jit):
    """With XLA and without, over all classes and over a sample of them."""
    images, labels = sf.data.synthetic.training_set(4, 8, size=(28, 24))
    kept = np.r_[0:8, 8:12, 16:18, 24:26]  # 8, 4, 2 and 2 faces
    faces = FaceSource((images[kept], labels[kept]), image_size=(28, 24))
    recipe = dataclasses.replace(
        RECIPE, epochs=1, dropout=0.0, batch_size=2, class_weights="balanced",
        sample_rate=sample_rate,
    )  # fmt: skip
    batches = training.building.batches_of(recipe, faces)
    weights = {0: 0.5, 1: 1.0, 2: 2.0, 3: 2.0}
    for _, found, given in batches.stream().take(8):
        np.testing.assert_allclose(given, [weights[label] for label in found.numpy()])
    plain = batches.stream().map(lambda image, label, weight: (image, label)).take(8)
    other = training.build_classifier(recipe, 4, 8, jit=False)
    expected = other.fit(plain, class_weight=weights, verbose=0).history
    model = training.build_classifier(recipe, 4, 8, jit=jit)
    history = model.fit(batches.stream(), steps_per_epoch=8, verbose=0).history
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    if sample_rate == 1:  # what is kept is the same
        return
    with pytest.raises(InterruptedError):
        training.run(recipe, faces, tmp_path, callbacks=[StopAfter(2)], checkpoint_every=1)
    training.run(recipe, faces, tmp_path, resume=True)
    whole = training.run(recipe, faces, tmp_path / "whole")
    assert rows(tmp_path) == rows(tmp_path / "whole")
    assert whole.source.class_weights == "balanced"


@pytest.mark.parametrize("loss", [name for name in training.recipes.LOSSES if name != "softmax"])
def test_label_smoothing_reaches_each_loss(loss):
    recipe = dataclasses.replace(RECIPE, loss=loss, label_smoothing=0.1)
    assert training.build_classifier(recipe, 4, 4).loss.label_smoothing == 0.1


def test_label_smoothing_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"`label_smoothing` must be a number in \[0, 1\)"):
        dataclasses.replace(RECIPE, label_smoothing=1.0)
    with pytest.raises(ValueError, match="`label_smoothing` must be 0 for softmax"):
        dataclasses.replace(RECIPE, loss="softmax", label_smoothing=0.1)


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


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP on this system")
def test_a_closed_terminal_stops_after_the_step_unless_it_is_ignored():
    before = signal.getsignal(signal.SIGHUP)
    said: list[str] = []
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with run_callbacks.deferred_stop(said.append) as asked:
            signal.raise_signal(signal.SIGHUP)
            assert asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup sets it
        with run_callbacks.deferred_stop(said.append) as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert said == ["finishing the step; once more to stop at once"]
