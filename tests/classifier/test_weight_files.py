"""Files of weights: training goes on from them, or a warning says what starts again."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest

from tf_sphereface import FaceClassifier, losses


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 8)).astype("float32"), rng.integers(0, 4, 32)


def classifier(optimizer="default", num_classes: int = 4, **options) -> FaceClassifier:
    """Return a model with dropout, so that random states matter; not compiled for None."""
    image = keras.Input((8,))
    hidden = keras.layers.Dropout(0.3, seed=5)(keras.layers.Dense(12, activation="relu")(image))
    model = FaceClassifier(
        keras.Model(image, keras.layers.Dense(6)(hidden)), num_classes, **options
    )
    if optimizer == "default":
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    if optimizer is not None:
        model.compile(optimizer, loss=losses.ASoftmaxLoss(margin=3))
    return model


def train(model: FaceClassifier, epochs: int = 2) -> dict[str, list[float]]:
    return model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0).history


def state(model: FaceClassifier) -> list[np.ndarray]:
    return [np.asarray(v.value) for v in (*model.variables, *model.optimizer.variables)]


# A sampled head in float32: tests/layers/test_host_angular_dense.py.
@pytest.mark.parametrize(
    ("policy", "options"),
    [("float32", {}), ("mixed_float16", {}), ("mixed_float16", {"sample_rate": 0.99})],
)
def test_training_goes_on_from_a_file_of_weights(policy, options, tmp_path):
    keras.config.set_dtype_policy(policy)
    first, second, third = (classifier(**options) for _ in range(3))
    train(first)
    first.save_weights(tmp_path / "w.weights.h5")
    first.save(tmp_path / "m.keras")
    second.load_weights(tmp_path / "w.weights.h5")
    third.load_weights(tmp_path / "m.keras")
    fourth = keras.models.load_model(tmp_path / "m.keras")
    history = train(first)
    assert history["lambda"][0] == pytest.approx(1000 / (1 + 0.12 * 12))
    for model in (second, third, fourth):
        assert train(model) == history
        for ours, right in zip(state(model), state(first), strict=True):
            np.testing.assert_array_equal(ours, right)


def test_training_goes_on_under_a_strategy(tmp_path, two_replicas):
    with two_replicas.scope():
        first, second = classifier(), classifier()
    train(first)
    first.save_weights(tmp_path / "w.weights.h5")
    second.load_weights(tmp_path / "w.weights.h5")
    assert train(second) == train(first)


def test_copies_go_on_too():
    model = classifier()
    fresh = pickle.loads(pickle.dumps(model))  # no warning: there is nothing to lose
    train(model)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    history = train(model)
    assert [train(one) for one in copies] == [history, history]
    assert train(fresh)["lambda"][0] == pytest.approx(1000 / (1 + 0.12 * 4))


def test_checkpoints_of_keras_go_on(tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    model = classifier()
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[checkpoint])
    loaded = classifier()
    loaded.load_weights(tmp_path / "1.weights.h5")
    assert int(loaded.optimizer.iterations) == 4

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        classifier().fit(*data(), **options, callbacks=[backup(), Killed()])
    history = classifier().fit(*data(), **options, callbacks=[backup()]).history
    assert history["lambda"] == pytest.approx([1000 / (1 + 0.12 * 12)])


@pytest.mark.parametrize(
    "other", [keras.optimizers.Adam, keras.optimizers.SGD, keras.optimizers.RMSprop]
)
def test_another_optimizer_starts_again_and_says_so(other, tmp_path):
    """RMSprop has as many variables of the same shapes as SGD with momentum."""
    model, loaded = classifier(), classifier(other(0.05))
    train(model)
    model.save_weights(tmp_path / "w.weights.h5")
    with pytest.warns(UserWarning, match=r"momentum .* lambda, start again .* 8 updates"):
        loaded.load_weights(tmp_path / "w.weights.h5")
    for ours, right in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, right)
    assert int(loaded.optimizer.iterations) == 0
    assert train(loaded)["lambda"][0] == pytest.approx(1000 / (1 + 0.12 * 4))


def test_a_learning_rate_that_the_file_changes_is_said(tmp_path):
    model = classifier()
    train(model)
    model.save_weights(tmp_path / "w.weights.h5")
    loaded = classifier(keras.optimizers.SGD(0.001, momentum=0.9))
    with pytest.warns(UserWarning, match=r"learning rate is 0\.05.*before it was 0\.001"):
        loaded.load_weights(tmp_path / "w.weights.h5")
    assert int(loaded.optimizer.iterations) == 8


def test_weights_before_compile_start_lambda_again_and_say_so(tmp_path):
    model = classifier()
    train(model)
    model.save_weights(tmp_path / "w.weights.h5")
    loaded = classifier(None)
    loaded.load_weights(tmp_path / "w.weights.h5")
    with pytest.warns(UserWarning, match="call compile first, then load_weights"):
        loaded.compile("sgd", loss=losses.ASoftmaxLoss())
    loaded.compile("sgd", loss=losses.ASoftmaxLoss())  # said once
    other = classifier(None)
    other.load_weights(tmp_path / "w.weights.h5")
    other.compile("sgd", loss=losses.CosFaceLoss())  # no lambda to lose


def test_weights_without_an_optimizer_and_untrained_ones(tmp_path):
    bare, fresh = classifier(None), classifier()
    bare.save_weights(tmp_path / "bare.weights.h5")
    fresh.save_weights(tmp_path / "fresh.weights.h5")
    loaded = classifier()
    with pytest.warns(UserWarning, match="holds no state of an optimizer"):
        loaded.load_weights(tmp_path / "bare.weights.h5")
    loaded.load_weights(tmp_path / "fresh.weights.h5")  # nothing is lost, nothing to say
    for ours, right in zip(loaded.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, right)


def test_weights_of_other_people_leave_the_head(tmp_path):
    model, loaded = classifier(), classifier(num_classes=7)
    train(model)
    model.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match="head"):
        loaded.load_weights(tmp_path / "w.weights.h5")
    with (
        pytest.warns(UserWarning, match="start again"),
        pytest.warns(UserWarning, match="objects could not be loaded"),
    ):
        loaded.load_weights(tmp_path / "w.weights.h5", skip_mismatch=True)
    np.testing.assert_array_equal(loaded.backbone.get_weights()[0], model.backbone.get_weights()[0])
    assert int(loaded.optimizer.iterations) == 0


def test_files_that_cannot_hold_a_classifier_are_refused(tmp_path):
    model = classifier()
    for name in ("m.h5", "m.hdf5"):
        with pytest.raises(ValueError, match=r"\.keras"):
            model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"\.keras"):
        keras.saving.save_model(model, tmp_path / "m.h5")
    (tmp_path / "w.weights.h5").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"w\.weights\.h5 is not a whole file"):
        model.load_weights(tmp_path / "w.weights.h5")
    with pytest.raises(FileNotFoundError):
        model.load_weights(tmp_path / "none.weights.h5")
