from __future__ import annotations

import contextlib
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface import data, training
from tf_sphereface.training.checkpoint import (
    checkpoint_files,
    checkpoint_path,
    prune,
    read_checkpoint,
    read_newest,
    remove_leftovers,
    save_checkpoint,
)


def model(units: int = 3) -> keras.Model:
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])
    network.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    network.fit(np.ones((2, 4)), np.zeros((2, units)), verbose=0)
    return network


def test_weights_optimizer_and_info_come_back(tmp_path):
    saved, fresh = model(), model()
    saved.fit(np.ones((2, 4)), np.zeros((2, 3)), verbose=0)
    save_checkpoint(tmp_path / "state.npz", saved, {"epoch": 7})
    stored = read_checkpoint(tmp_path / "state.npz")
    stored.restore(fresh)
    assert stored.info == {"epoch": 7}
    for a, b in zip(
        [*saved.variables, *saved.optimizer.variables],
        [*fresh.variables, *fresh.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    save_checkpoint(path, model(), {"epoch": 1})
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, model(), {"epoch": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_another_model_and_a_missing_file_are_named_and_change_nothing(tmp_path):
    path = tmp_path / "state.npz"
    save_checkpoint(path, model(3), {})
    other = model(5)
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"state\.npz belongs to another model"):
        read_checkpoint(path).restore(other)
    for a, b in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        read_checkpoint(tmp_path / "gone.npz")


def test_a_full_disk_leaves_the_old_one_for_real(tmp_path):
    """The system refuses to write more than a few hundred bytes, as it does on a full disk."""
    path = tmp_path / "state.npz"
    network = model()
    save_checkpoint(path, network, {"epoch": 1})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(path, network, {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    network = model()
    network.trainable_variables[0].assign(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="not finite, such as model/0"):
        save_checkpoint(tmp_path / "state.npz", network, {})
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_not_the_chief_writes_nothing(tmp_path):
    save_checkpoint(tmp_path / "state.npz", model(), {}, write=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other", "half", "flag"])
def test_a_damaged_newest_one_is_passed_over_with_a_warning(tmp_path, damage):
    network = model()
    for step in (10, 20):
        save_checkpoint(checkpoint_path(tmp_path, step), network, {"step": step})
    newest = checkpoint_path(tmp_path, 20)
    content = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(content[:-300])
    elif damage == "half":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "flag":  # one bit: the last entry says that it is encrypted
        place = content.rindex(b"PK\x01\x02") + 8
        newest.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "other":  # a whole archive, with a value that was changed in it
        with np.load(newest) as stored:
            arrays = dict(stored)
        arrays["model/0"] = arrays["model/0"] + 1
        np.savez(newest, **arrays)
    else:
        middle = len(content) // 3
        newest.write_bytes(
            content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        )
    warnings: list[str] = []
    found = read_newest(tmp_path, warnings.append)
    assert found is not None
    assert found.info == {"step": 10}
    (warning,) = warnings
    assert "step-00000020.npz is not a whole checkpoint" in warning


def test_none_and_none_that_is_whole_are_two_things(tmp_path):
    assert read_newest(tmp_path) is None
    assert read_newest(tmp_path / "nowhere") is None
    checkpoint_path(tmp_path, 5).write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="none of the 1 checkpoints"):
        read_newest(tmp_path)


def test_the_newest_and_the_best_are_kept_and_leftovers_go(tmp_path):
    for step in (2, 10, 9, 30, 100000000):
        checkpoint_path(tmp_path, step).touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".step-00000031.npz.x1").mkdir()
    prune(tmp_path, 2, also=[9])
    remove_leftovers(tmp_path)
    assert [path.name for path in checkpoint_files(tmp_path)] == [
        "step-100000000.npz",
        "step-00000030.npz",
        "step-00000009.npz",
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".npz") == [
        "notes.txt"
    ]


def test_what_was_passed_over_takes_no_good_one_s_place(tmp_path):
    for step in (10, 20, 30):
        checkpoint_path(tmp_path, step).touch()
    prune(tmp_path, 1, newest=20)  # the run went on from 10, because 30 was damaged
    names = [path.name for path in checkpoint_files(tmp_path)]
    assert names == ["step-00000030.npz", "step-00000020.npz"]


# A run in pieces ---------------------------------------------------------------------------------

STEPS, EPOCHS = 5, 2


def small_net() -> sf.FaceClassifier:
    """A net with all kinds of state: moving averages, a seed for dropout, momentum, lambda."""
    keras.utils.set_random_seed(3)
    image = keras.Input((28, 24, 3))
    x = keras.layers.Dense(16)(keras.layers.Flatten()(image))
    x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.Dropout(0.2, seed=5)(x)
    network = sf.FaceClassifier(keras.Model(image, keras.layers.Dense(8)(x)), num_classes=4)
    optimizer = sf.optimizers.paper_optimizer(0.05, total=STEPS * EPOCHS)
    annealing = sf.schedules.LambdaAnnealing.for_steps(STEPS * EPOCHS)
    network.compile(optimizer, sf.losses.ASoftmaxLoss(4, annealing), metrics=["accuracy"])
    return network


class Stop(keras.callbacks.Callback):
    """Keep the state after some update, and leave."""

    def __init__(self, path, after: int) -> None:
        super().__init__()
        self.path, self.left = path, after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            save_checkpoint(self.path, self.model, {})
            raise KeyboardInterrupt


class Record(keras.callbacks.Callback):
    """Note what a callback is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, object]] = []
        self.losses: list[float] = []

    def on_train_begin(self, logs=None):
        self.seen.append(("begin", None))

    def on_train_end(self, logs=None):
        self.seen.append(("end", None))

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(("epoch", epoch))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(("batch", batch))
        self.losses.append(logs["loss"])


def whole_and_in_pieces(tmp_path, strategy: tf.distribute.Strategy, after: int):
    faces = data.synthetic.training_set(4, 10, size=(28, 24))

    def dataset_from(step: int) -> tf.data.Dataset:
        return data.face_dataset(
            faces, image_size=(28, 24), batch_size=8, repeat=True, start_step=step
        )

    def run(**options):
        with strategy.scope():
            network = small_net()
        checkpoint = options.pop("checkpoint", None)
        if checkpoint is not None:
            checkpoint.restore(network)
            options["metric_state"] = checkpoint.metrics
        record = Record()
        history = {}
        with_record = [record, *options.pop("callbacks", [])]
        with contextlib.suppress(KeyboardInterrupt):
            history = training.train(
                network,
                dataset_from,
                epochs=EPOCHS,
                steps_per_epoch=STEPS,
                callbacks=with_record,
                **options,
            )
        return network, history, record

    path = tmp_path / "state.npz"
    whole = run()
    run(callbacks=[Stop(path, after)])
    return whole, run(checkpoint=read_checkpoint(path), initial_step=after)


def test_a_run_in_pieces_is_one_run(tmp_path):
    after = 4  # one batch of the first epoch is left
    (model_a, history_a, seen_a), (model_b, history_b, seen_b) = whole_and_in_pieces(
        tmp_path, tf.distribute.get_strategy(), after
    )
    for a, b in zip(model_a.variables, model_b.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model_a.optimizer.variables, model_b.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    done = after // STEPS
    assert {key: values[done:] for key, values in history_a.items()} == history_b
    batches = [entry for entry in seen_a.seen if entry[0] == "batch"]
    assert [entry for entry in seen_b.seen if entry[0] == "batch"] == batches[after:]
    assert [entry for entry in seen_b.seen if entry[0] != "batch"] == [
        ("begin", None),
        *(("epoch", epoch) for epoch in range(done, EPOCHS)),
        ("end", None),
    ]
    assert seen_b.losses == seen_a.losses[after:]


def test_under_a_strategy_a_run_in_pieces_is_one_run(tmp_path, two_replicas):
    (model_a, history_a, _), (model_b, history_b, _) = whole_and_in_pieces(
        tmp_path, two_replicas, 3
    )
    for a, b in zip(model_a.get_weights(), model_b.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert set(history_a) == set(history_b)
    for key, values in history_a.items():  # sums are shared out over the replicas: rounding
        assert history_b[key] == pytest.approx(values, rel=1e-6)


def test_another_model_s_metrics_are_refused():
    faces = data.synthetic.training_set(4, 10, size=(28, 24))
    with pytest.raises(ValueError, match=r"metric_state must hold \d values.*Received: 1"):
        training.train(
            small_net(),
            lambda step: data.face_dataset(faces, image_size=(28, 24), batch_size=8, repeat=True),
            epochs=1,
            steps_per_epoch=STEPS,
            initial_step=2,
            metric_state=[np.zeros(())],
        )


@pytest.mark.parametrize("sample_rate", [1.0, 0.75])
def test_float16_keeps_its_loss_scale(tmp_path, sample_rate):
    def build() -> sf.FaceClassifier:
        keras.config.set_dtype_policy("mixed_float16")
        network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
        network.add(keras.layers.Dense(4))
        classifier = sf.FaceClassifier(network, num_classes=4, sample_rate=sample_rate)
        classifier.compile(keras.optimizers.SGD(0.1, 0.9), sf.losses.ASoftmaxLoss(4))
        return classifier

    saved, fresh = build(), build()
    saved.fit(np.ones((4, 8, 8, 3), np.float32), np.array([0, 1, 2, 0]), verbose=0)
    save_checkpoint(tmp_path / "s.npz", saved, {})
    stored = read_checkpoint(tmp_path / "s.npz")
    stored.restore(fresh)
    stored.restore(fresh)  # its optimizer is built now
    assert type(fresh.optimizer).__name__ == "LossScaleOptimizer"
    for a, b in zip(saved.optimizer.variables, fresh.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
