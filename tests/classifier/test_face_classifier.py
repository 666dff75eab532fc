"""Path (b): FaceClassifier, with both heads, with and without XLA and a strategy."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, metrics
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import ASoftmaxLoss

HEADS = ["angular", "softmax"]


def data(seed: int = 0) -> tf.data.Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 64)
    images = rng.normal(size=(4, 8))[labels] + 0.3 * rng.normal(size=(64, 8))
    return tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels)).batch(
        16, drop_remainder=True
    )


def backbone(normalise: bool = False, dropout: float = 0.0) -> keras.Model:
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    if normalise:
        hidden = keras.layers.BatchNormalization()(hidden)
    if dropout:
        hidden = keras.layers.Dropout(dropout, seed=1)(hidden)
    return keras.Model(inputs, keras.layers.Dense(6)(hidden))


def classifier(
    head: str = "angular", jit_compile: bool | str = False, base: keras.Model | None = None, **sgd
) -> FaceClassifier:
    keras.utils.set_random_seed(3)
    model = FaceClassifier(base or backbone(), num_classes=4, head=head)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, **sgd)
    loss = ASoftmaxLoss(margin=4) if head == "angular" else None
    model.compile(optimizer, loss=loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def fit(model: keras.Model, epochs: int = 2, **kwargs: object) -> dict[str, list[float]]:
    return model.fit(data(), epochs=epochs, verbose=0, shuffle=False, **kwargs).history


@pytest.mark.parametrize(  # every pair of policy, compiler and head
    ("head", "jit_compile", "policy"),
    [
        ("angular", False, "float32"),
        ("softmax", True, "float32"),
        ("angular", True, "mixed_float16"),
        ("softmax", False, "mixed_float16"),
        ("angular", True, "mixed_bfloat16"),
        ("softmax", False, "mixed_bfloat16"),
    ],
)
def test_fit_evaluate_predict_save_load_and_go_on(policy, jit_compile, head, tmp_path: Path):
    keras.config.set_dtype_policy(policy)
    model = classifier(head, jit_compile)
    history = fit(model, epochs=4, validation_data=data())
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > 0.5  # chance is 0.25
    assert history["val_accuracy"][-1] > 0.5
    if head == "angular":
        expected = [1000 / (1 + 0.12 * update) for update in (4, 8, 12, 16)]
        np.testing.assert_allclose(history["lambda"], expected, rtol=1e-6)
        assert history["effective_margin"][0] < history["effective_margin"][-1]
    else:
        assert "lambda" not in history
    before = model.evaluate(data(), verbose=0)
    embeddings = model.predict(data(), verbose=0)
    assert embeddings.shape == (64, 6)
    assert embeddings.dtype == np.float32
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")  # warns of nothing: it binds by itself
    assert loaded.uses_xla is jit_compile
    np.testing.assert_allclose(loaded.evaluate(data(), verbose=0), before, rtol=1e-6)
    np.testing.assert_array_equal(loaded.predict(data(), verbose=0), embeddings)
    more, again = fit(model, epochs=1), fit(loaded, epochs=1)
    assert more.get("lambda") == again.get("lambda")
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # the optimizer's momentum came back too


def test_each_step_is_traced_once(monkeypatch):
    """TensorFlow traces again where the first trace made variables of optimizer or metrics."""
    traced = []

    def counted(name, step):
        return lambda self, batch: traced.append(name) or step(self, batch)

    for name in ("train_step", "test_step"):
        monkeypatch.setattr(FaceClassifier, name, counted(name, getattr(FaceClassifier, name)))
    model = classifier()
    model.evaluate(data(), verbose=0)
    fit(model, validation_data=data())
    assert traced == ["test_step", "train_step"]


@pytest.mark.parametrize("head", HEADS)
def test_equals_the_stock_model(head):
    """One step of ours against the same layers under stock Keras' own train_step."""
    ours = classifier(head)
    inputs = keras.Input((8,))
    base = keras.models.clone_model(ours.backbone)
    layer = AngularDense(4) if head == "angular" else keras.layers.Dense(4)
    stock = keras.Model(inputs, layer(base(inputs)))
    stock.set_weights(ours.get_weights())
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    stock.compile(
        sgd,
        loss=ASoftmaxLoss(margin=4, step=sgd)
        if head == "angular"
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    expected, found = fit(stock), fit(ours)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)  # float32 sums
    np.testing.assert_allclose(found["accuracy"], expected["accuracy"])
    for a, b in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_losses_of_layers_are_trained_on(jit_compile):
    """An activity regularizer and `add_loss` count as in the stock model."""

    class Penalty(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(0.1 * keras.ops.mean(keras.ops.square(inputs)))
            return inputs

    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(6, activity_regularizer=keras.regularizers.L2(0.05))(inputs)
    backbone = keras.Model(inputs, keras.layers.Dense(5)(Penalty()(hidden)))
    ours = FaceClassifier(backbone, 4, head="softmax")
    base = keras.models.clone_model(backbone)
    stock = keras.Model(inputs, keras.layers.Dense(4)(base(inputs)))
    stock.set_weights(ours.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    stock.compile(keras.optimizers.SGD(0.1), loss=loss)
    expected, found = fit(stock), fit(ours)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)  # float32 sums
    for a, b in zip(stock.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_whole_number_of_classes_may_be_a_float():
    model = FaceClassifier(keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)]), 4.0)
    model.compile(keras.optimizers.SGD(0.1), loss=ASoftmaxLoss())
    assert np.isfinite(fit(model)["loss"]).all()
    with pytest.raises(ValueError, match="got no labels"):
        model.evaluate(np.zeros((4, 8), "float32"), verbose=0)


@pytest.mark.parametrize(("jit_compile", "head"), [(False, "softmax"), (True, "angular")])
def test_mirrored_strategy_equals_one_device(head, jit_compile, two_replicas):
    single = classifier(head)
    with two_replicas.scope():
        mirrored = classifier(head, jit_compile)
    mirrored.set_weights(single.get_weights())
    expected, found = fit(single, validation_data=data()), fit(mirrored, validation_data=data())
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)  # float32 sums
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_accumulation_moves_lambda_once_an_update(jit_compile):
    history = fit(classifier(jit_compile=jit_compile, gradient_accumulation_steps=2))
    np.testing.assert_allclose(history["lambda"], [1000 / 1.24, 1000 / 1.48], rtol=1e-6)


def test_gradient_accumulation_under_a_strategy_of_one_device():
    """As on a machine with one GPU."""
    single = classifier(gradient_accumulation_steps=2)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        mirrored = classifier(gradient_accumulation_steps=2)
    expected, found = fit(single), fit(mirrored)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # float32 sums


def test_loss_scaling_and_accumulation_do_not_go_together_under_a_strategy():
    keras.config.set_dtype_policy("mixed_float16")
    with (
        tf.distribute.MirroredStrategy(["CPU:0"]).scope(),
        pytest.raises(ValueError, match=r"loss scaling do not go together.*mixed_bfloat16"),
    ):
        classifier(gradient_accumulation_steps=2)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_batch_norm_and_dropout_change_state(jit_compile):
    model = classifier(jit_compile=jit_compile, base=backbone(normalise=True, dropout=0.2))
    before = [v.numpy().copy() for v in model.backbone.non_trainable_variables]
    fit(model, epochs=1)
    changed = [
        not np.array_equal(old, v.numpy())
        for old, v in zip(before, model.backbone.non_trainable_variables, strict=True)
    ]
    assert len(changed) == 3  # moving mean, moving variance, the dropout's seed
    assert all(changed)


def test_xla_really_compiles():
    model = classifier(jit_compile=True)
    assert model.uses_xla
    fit(model, epochs=1)
    function = model._gradient_function
    assert function._jit_compile is True
    assert function.experimental_get_tracing_count() >= 1  # the step went through it


def test_auto_is_off_on_a_cpu_and_says_so(caplog):
    caplog.set_level("INFO", logger="tf_sphereface")
    model = classifier(jit_compile="auto")
    assert model.uses_xla is bool(tf.config.list_physical_devices("GPU"))
    assert "XLA:" in caplog.text


def watchers(monitor: str, folder: Path) -> list[keras.callbacks.Callback]:
    """Return Keras' callbacks that have to know which way a metric gets better."""
    return [
        keras.callbacks.EarlyStopping(monitor, patience=3, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(
            folder / "best.keras", monitor, save_best_only=True, initial_value_threshold=None
        ),
        keras.callbacks.ReduceLROnPlateau(monitor, patience=1),
    ]


RISES = {
    "accuracy": True,
    "val_accuracy": True,
    "val_acc": True,
    "val_top": True,
    "val_mean_target_angle": False,
    "val_equal_error_rate": False,
    "val_tar_at_far": True,
    "val_loss": False,
}


def test_callbacks_know_which_way_a_metric_gets_better(tmp_path):
    model = FaceClassifier(backbone(), 4)
    model.compile(
        keras.optimizers.SGD(0.1),
        loss=ASoftmaxLoss(margin=1),
        metrics=[
            "accuracy",
            keras.metrics.SparseTopKCategoricalAccuracy(2, name="top"),
            metrics.MeanTargetAngle(),
            metrics.EqualErrorRate(),
            metrics.TARAtFAR(0.5),
        ],
        weighted_metrics=["acc"],
        run_eagerly=True,
    )
    model.save(tmp_path / "m.keras")
    for trained in (model, keras.models.load_model(tmp_path / "m.keras")):
        callbacks = {name: watchers(name, tmp_path) for name in RISES}
        fit(
            trained,
            validation_data=data(),
            callbacks=[c for group in callbacks.values() for c in group],
        )
        for name, rises in RISES.items():
            found = [bool(callback.monitor_op(2.0, 1.0)) for callback in callbacks[name]]
            assert found == [rises] * 3, name


def test_callbacks_watch_accuracy_under_a_strategy(tmp_path, two_replicas):
    with two_replicas.scope():
        model = classifier(jit_compile=False)
    callbacks = watchers("val_accuracy", tmp_path)
    history = fit(model, epochs=4, validation_data=data(), callbacks=callbacks)
    assert callbacks[0].best == max(history["val_accuracy"])
    best = keras.models.load_model(tmp_path / "best.keras")
    result = best.evaluate(data(), verbose=0, return_dict=True)
    assert result["accuracy"] == pytest.approx(max(history["val_accuracy"]))


def test_compile_copies_the_loss():
    loss = ASoftmaxLoss(margin=3)
    model = FaceClassifier(backbone(), num_classes=4)
    model.compile("sgd", loss=loss)
    assert model.loss is not loss
    assert loss.step is None


def test_recompiling_with_a_new_optimizer_starts_lambda_anew():
    model = classifier()
    fit(model)
    model.compile(keras.optimizers.SGD(0.1), loss=ASoftmaxLoss(margin=4))
    assert fit(model, epochs=1)["lambda"][0] == pytest.approx(1000 / 1.48)


def test_clone_model_and_config():
    model = classifier("softmax")
    clone = keras.models.clone_model(model)
    assert (clone.num_classes, clone.head) == (4, "softmax")
    clone.set_weights(model.get_weights())
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(clone.predict(x, verbose=0), model.predict(x, verbose=0))


def test_run_eagerly_and_sample_weights():
    model = classifier()
    x, y = np.ones((4, 8), "float32"), np.array([0, 1, 2, 3])
    half = model.test_on_batch(x, y, sample_weight=np.array([1.0, 1.0, 0.0, 0.0]))
    alone = model.test_on_batch(x[:2], y[:2])
    assert half[0] == pytest.approx(alone[0] / 2, rel=1e-5)
    model.compile("sgd", loss=ASoftmaxLoss(), run_eagerly=True)
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_wrong_label_stops_training_even_under_xla(jit_compile):
    model = classifier(jit_compile=jit_compile)
    before = model.get_weights()
    x, y = np.ones((4, 8), "float32"), np.array([0, 1, 2, 4])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[0, 4\)"):
        model.fit(x, y, verbose=0)
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("head", "loss", "message"),
    [
        ("softmax", ASoftmaxLoss(), 'needs head="angular"'),
        ("softmax", "sparse_categorical_crossentropy", "from_logits=True"),
        ("softmax", keras.losses.SparseCategoricalCrossentropy(), "from_logits=True"),
        ("softmax", keras.losses.CategoricalCrossentropy(from_logits=True), "from_logits=True"),
        ("softmax", keras.losses.CategoricalFocalCrossentropy(from_logits=True), "the default"),
        ("softmax", keras.losses.MeanSquaredError(), "one for keras.losses.Sparse"),
        ("softmax", keras.losses.sparse_categorical_crossentropy, "its labels are integers"),
        ("softmax", [ASoftmaxLoss()], "its labels are integers"),
        ("angular", "sparse_categorical_crossentropy", 'use head="softmax"'),
        ("angular", keras.losses.SparseCategoricalCrossentropy(from_logits=True), "tf_sphereface"),
    ],
)
def test_a_loss_of_the_other_head_is_refused(head, loss, message):
    model = FaceClassifier(backbone(), num_classes=4, head=head)
    with pytest.raises(ValueError, match=message):
        model.compile("sgd", loss=loss)


def test_the_softmax_head_takes_a_loss_of_ones_own():
    class Own(keras.losses.SparseCategoricalCrossentropy):
        pass

    def function(y_true, y_pred):
        return keras.ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    values = []
    for loss in (None, Own(from_logits=True), function):
        keras.utils.set_random_seed(0)
        model = FaceClassifier(backbone(), num_classes=4, head="softmax")
        model.compile("sgd", loss=loss)
        values.append(model.evaluate(np.ones((4, 8), "float32"), np.arange(4), verbose=0))
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_other_misuse_is_refused(two_replicas):
    with pytest.raises(ValueError, match="`head`"):
        FaceClassifier(backbone(), num_classes=4, head="cosface")
    with pytest.raises(ValueError, match="`backbone`"):
        FaceClassifier(keras.Sequential(), num_classes=4)
    with pytest.raises(ValueError, match="`num_classes`"):
        FaceClassifier(backbone(), num_classes=0)
    with pytest.raises(ValueError, match="`jit_compile`"):
        classifier(jit_compile="on")
    with two_replicas.scope():
        model = FaceClassifier(backbone(), num_classes=4)
        with pytest.raises(ValueError, match="steps_per_execution must be 1"):
            model.compile("sgd", steps_per_execution=2)
