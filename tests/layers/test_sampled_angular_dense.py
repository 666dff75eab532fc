"""The head that trains on a sample of its class centres."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier
from tf_sphereface.layers.sampled_angular_dense import SampledAngularDense
from tf_sphereface.losses import ASoftmaxLoss, CosFaceLoss

# From 32 classes on a draw is compiled in a third of the time: it has fewer rounds.
CLASSES, WIDTH, BATCH = 32, 6, 8


def batches(seed: int = 0, count: int = 64) -> tf.data.Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = rng.normal(size=(CLASSES, 10))[labels] + 0.3 * rng.normal(size=(count, 10))
    pairs = tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels))
    return pairs.batch(BATCH, drop_remainder=True)


def classifier(
    rate: float, jit_compile: bool = False, optimizer: keras.Optimizer | None = None, loss=None
) -> FaceClassifier:
    keras.utils.set_random_seed(4)
    net = keras.Sequential([keras.Input((10,)), keras.layers.Dense(WIDTH)])
    model = FaceClassifier(net, CLASSES, sample_rate=rate)
    model.compile(
        optimizer or keras.optimizers.SGD(0.1, momentum=0.9),
        loss=loss or ASoftmaxLoss(margin=4, annealing=5.0),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    return model


def centres(model: FaceClassifier) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(model.head_layer.kernel))


def test_a_sample_holds_the_batch_and_differs_from_step_to_step():
    head = SampledAngularDense(1000, sample_rate=0.05)
    labels = tf.constant([3, 999, 0, 3], tf.int32)
    samples = []
    for step in range(3):
        chosen, places = head.choose(labels, step)
        again, _ = head.choose(labels, step)
        np.testing.assert_array_equal(chosen, again)
        assert chosen.shape == (50,)
        assert len(set(chosen.numpy().tolist())) == 50
        np.testing.assert_array_equal(tf.gather(chosen, places), labels)
        samples.append(set(chosen.numpy().tolist()) - {0, 3, 999})
    assert samples[0] != samples[1] != samples[2]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_sample_of_all_is_the_full_head(jit_compile):
    full, sampled = classifier(1.0, jit_compile), classifier(0.99, jit_compile)
    assert sampled.head_layer.sample_size == CLASSES
    sampled.backbone.set_weights(full.backbone.get_weights())
    sampled.head_layer.centres.assign(centres(full).T)
    expected = full.fit(batches(), epochs=3, verbose=0, shuffle=False).history
    found = sampled.fit(batches(), epochs=3, verbose=0, shuffle=False).history
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)  # float32 sums
    np.testing.assert_allclose(found["sampled_accuracy"], expected["accuracy"])
    np.testing.assert_allclose(centres(sampled), centres(full), atol=1e-6)
    np.testing.assert_allclose(
        sampled.evaluate(batches(), verbose=0), full.evaluate(batches(), verbose=0), rtol=1e-5
    )


def test_what_was_not_drawn_stays_as_it_was():
    model = classifier(0.5, optimizer=keras.optimizers.Adam(0.05, weight_decay=0.1))
    head = model.head_layer
    stores = head.stores
    assert len(stores) == 3  # the centres and Adam's two moments
    for step, batch in enumerate(batches()):
        before = [store.numpy().copy() for store in stores]
        chosen, _ = head.choose(tf.cast(batch[1], tf.int32), step)
        model.fit(*batch, batch_size=BATCH, verbose=0)
        rest = np.setdiff1d(np.arange(CLASSES), chosen.numpy())
        assert len(rest) == CLASSES // 2
        for store, old in zip(stores, before, strict=True):
            np.testing.assert_array_equal(store.numpy()[rest], old[rest])
            assert (store.numpy()[chosen.numpy()] != old[chosen.numpy()]).any(axis=1).all()


def test_the_sampled_loss_by_hand():
    """One step's loss is the full head's over the chosen columns."""
    model = classifier(0.5)
    images, labels = next(iter(batches()))
    chosen, places = model.head_layer.choose(tf.cast(labels, tf.int32), 0)
    table = model.head_layer(model(images)).numpy()
    columns = np.append(chosen.numpy(), CLASSES)
    expected = ASoftmaxLoss(margin=4, annealing=5.0)(places, table[:, columns])
    found = model.fit(images, labels, batch_size=BATCH, verbose=0).history["loss"][0]
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("jit_compile", "policy"),
    [
        (False, "float32"),
        (True, "mixed_float16"),
        (False, "mixed_bfloat16"),
    ],
)
def test_it_learns_and_goes_on_after_loading(policy, jit_compile, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = classifier(0.5, jit_compile, loss=ASoftmaxLoss(margin=2))
    history = model.fit(batches(), epochs=12, verbose=0, validation_data=batches()).history
    assert "accuracy" not in history
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_accuracy"][-1] > 0.5  # over all classes
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        each.fit(batches(1), epochs=2, verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # momentum of every centre came back
    alone = keras.models.load_model(tmp_path / "m.keras", compile=False)
    assert alone.head_layer.centres.shape == (CLASSES, WIDTH)


def test_xla_changes_the_tables_in_place_and_ends_where_others_do():
    """The compiled step copies no table of all classes, and gives each back in its own memory."""
    models = [classifier(0.5, jit, optimizer=keras.optimizers.Adam(0.01)) for jit in (True, False)]
    for model in models:
        model.fit(batches(), epochs=2, verbose=0)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # sums in another order
    images, labels = next(iter(batches()))
    step = models[0]._update_function.experimental_get_compiler_ir
    labels = tf.cast(labels, tf.int32)
    text = step(images, labels, None, labels)(stage="optimized_hlo")
    table = rf"f32\[{CLASSES},{WIDTH}\]\S*"
    parameters = re.findall(rf"= {table} parameter\((\d+)\), parameter_replication", text)
    assert len(parameters) == 3  # centres and Adam's two moments
    assert not re.search(rf"= {table} copy", text)
    for parameter in parameters:
        assert f"({parameter}, {{}}, may-alias)" in text.splitlines()[0]


def test_a_replica_computes_all_up_to_the_sum_in_one_program_that_copies_no_table(two_replicas):
    """From labels and the table of all classes to gradients: XLA reads the table where it is."""
    single = classifier(0.5, optimizer=keras.optimizers.Adam(0.01))
    with two_replicas.scope():
        model = classifier(0.5, True, optimizer=keras.optimizers.Adam(0.01))
    for each in (single, model):
        history = each.fit(batches(), epochs=2, verbose=0).history
    np.testing.assert_allclose(centres(model), centres(single), atol=1e-5)
    assert history["loss"][1] < history["loss"][0]
    images, labels = next(iter(batches()))
    labels = tf.cast(labels, tf.int32)
    table = two_replicas.experimental_local_results(model.head_layer.centres.value)[0].handle
    text = model._gradient_function.experimental_get_compiler_ir(
        [tf.convert_to_tensor(v.value) for v in model.trainable_variables],
        [],  # no window of Adam's: the update has them
        tf.constant(0, tf.int64),
        (images[:4], labels[:4], None),
        tf.constant(1.0),
        (labels, table),
    )(stage="optimized_hlo")
    shape = rf"f32\[{CLASSES},{WIDTH}\]\S*"
    parameter = re.findall(rf"= {shape} parameter\((\d+)\), parameter_replication", text)
    assert len(parameter) == 1
    assert not re.search(rf"= {shape} (?!parameter)", text)


def test_a_batch_of_any_size_with_too_many_classes_is_refused_under_xla_too():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(16, 10)).astype("float32"), np.arange(16)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(12)
    model = classifier(0.3, True)
    before = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"places, 10 .*larger sample_rate"):
        model.fit(data, verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_loss_and_no_slots():
    model = classifier(0.5, optimizer=keras.optimizers.SGD(0.1), loss=CosFaceLoss(scale=16.0))
    assert model.head_layer.stores == [model.head_layer.centres]
    before = centres(model)
    model.fit(batches(), verbose=0)
    assert np.isfinite(centres(model)).all()
    assert np.abs(centres(model) - before).max() > 0


def test_what_cannot_work_says_so():
    head = SampledAngularDense(40, 0.05)
    some = tf.function(head.choose, autograph=False).get_concrete_function(
        tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)
    )
    assert some(tf.constant([4, 4, 9, 4]), tf.constant(0))[0].shape == (2,)
    with pytest.raises(tf.errors.InvalidArgumentError):
        some(tf.constant([4, 5, 9]), tf.constant(0))
    for rate in (0, 1.5, "half", True):
        with pytest.raises(ValueError, match="`sample_rate`"):
            classifier(rate)
    net = keras.Sequential([keras.Input((10,)), keras.layers.Dense(WIDTH)])
    with pytest.raises(ValueError, match='head="angular"'):
        FaceClassifier(net, CLASSES, head="softmax", sample_rate=0.5)
    for options in ({"gradient_accumulation_steps": 2}, {"use_ema": True}):
        with pytest.raises(ValueError, match="each step draws other centres"):
            classifier(0.5, optimizer=keras.optimizers.SGD(0.1, **options))
    with pytest.raises(ValueError, match=r"sample_rate >= 0\.25"):
        classifier(0.1).fit(batches(), verbose=0)
