"""Each of the doctor's findings, provoked by a run that really has the trouble."""

from __future__ import annotations

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface.callbacks import diagnoses
from tf_sphereface.callbacks.nonfinite_layer import take_snapshot
from tf_sphereface.schedules import LambdaAnnealing
from tf_sphereface.training import build_annealing

DIM, CLASSES = 8, 4


def faces(count: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise images, 8x8, whose labels are random: nothing can be learnt in a few steps."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 1, (count, 8, 8, 3)).astype(np.float32)
    return images, rng.integers(0, CLASSES, count).astype(np.int32)


def backbone(norm: bool = False) -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Dense(16, name="first")(keras.layers.Flatten()(image))
    x = keras.layers.BatchNormalization(name="norm")(x) if norm else x
    x = keras.layers.PReLU(name="slope")(x)
    return keras.Model(image, keras.layers.Dense(DIM, name="embedding")(x))


def classifier(rate: float = 0.01, minimum: float = 5.0, **options: object) -> sf.FaceClassifier:
    model = sf.FaceClassifier(backbone(), num_classes=CLASSES)
    annealing = sf.schedules.LambdaAnnealing(minimum=minimum)
    """Return a classifier; eager, as tracing costs more than a few steps of it."""
    options.setdefault("run_eagerly", True)
    optimizer = options.pop("optimizer", None) or keras.optimizers.SGD(rate)
    model.compile(optimizer, sf.losses.ASoftmaxLoss(4, annealing), **options)
    return model


def stock(rate: float = 0.01, eager: bool = True) -> keras.Model:
    base = backbone()
    model = keras.Model(base.inputs, sf.layers.AngularDense(CLASSES)(base.output))
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, sf.losses.ASoftmaxLoss(4, step=optimizer), run_eagerly=eager)
    return model


def run(model: keras.Model, *others: object, data=None, steps: int = 4, epochs: int = 1, **given):
    said: list[str] = []
    doctor = sf.callbacks.TrainingDoctor(say=said.append, **given)
    images, labels = data or faces()
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16).repeat()
    model.fit(dataset, steps_per_epoch=steps, epochs=epochs, callbacks=[doctor, *others], verbose=0)
    assert said == [found.text for found in doctor.findings]
    return doctor


def kinds(doctor: sf.callbacks.TrainingDoctor) -> set[str]:
    return {found.kind for found in doctor.findings}


def test_a_healthy_run_is_left_alone():
    model = sf.FaceClassifier(backbone(), num_classes=CLASSES)
    annealing = sf.schedules.LambdaAnnealing.for_steps(300)
    model.compile(keras.optimizers.SGD(0.05, 0.9), sf.losses.ASoftmaxLoss(4, annealing))
    data = faces()
    doctor = run(
        model, data=data, steps=60, epochs=5, probe=data[0], label_counts=np.bincount(data[1])
    )
    assert doctor.findings == []


@pytest.mark.parametrize(
    "model", [lambda: classifier(1e-9, run_eagerly=False), lambda: stock(1e-9, eager=False)]
)
def test_a_loss_that_sits_at_chance(model):
    images, labels = faces()
    doctor = run(model(), data=(images * 0.01, labels), steps=250)
    found = next(f for f in doctor.findings if f.kind == "at chance")
    assert found.step == 200  # four windows of 50 steps, though a fifth of the run is 50
    assert "ln(4) is 1.386" in found.text


def probabilities(clip: float, scale: float) -> keras.Model:
    """A net that is sure of the wrong class, with a loss on clipped probabilities."""

    def loss(labels, outputs):
        chosen = tf.gather(outputs, tf.cast(tf.reshape(labels, [-1]), tf.int32), batch_dims=1)
        return -tf.math.log(tf.maximum(chosen, clip))

    base = backbone()
    logits = keras.layers.Dense(
        CLASSES, kernel_initializer="zeros", bias_initializer=lambda s, **_: [0.0, 0, 0, scale]
    )(base.output)
    model = keras.Model(base.inputs, keras.layers.Softmax()(logits))
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model


@pytest.mark.parametrize(("clip", "value"), [(1.17549435e-38, "87.3"), (1e-7, "16.1")])
def test_a_loss_that_has_underflowed(clip, value):
    images, labels = faces()
    doctor = run(probabilities(clip, 200.0), data=(images, labels % 3))
    (found,) = doctor.findings
    assert found.kind == "underflow"
    assert f"the loss is {value}" in found.text


def test_norms_that_collapse_under_decay():
    optimizer = sf.optimizers.SphereFaceSGD(0.1, momentum=0.0, weight_decay=5.0, multipliers=())
    doctor = run(classifier(optimizer=optimizer), steps=20, probe=faces()[0])
    assert "collapsed" in kinds(doctor)


def test_norms_that_explode_on_images_that_nobody_normalised():
    images, labels = faces()
    raw = (images * 40 + 128) * 30
    doctor = run(classifier(rate=1e-9), data=(raw, labels), probe=raw)
    assert "exploded" in kinds(doctor)
    assert "(x - 127.5) / 128" in next(f.text for f in doctor.findings if f.kind == "exploded")


@pytest.mark.parametrize("make", [classifier, stock])
def test_a_schedule_that_cannot_come_down_is_told_before_the_first_step(make):
    doctor = run(make())
    (found,) = [f for f in doctor.findings if f.kind == "lambda"]
    assert found.step == 0
    assert "lambda will be 675.7 at the last of 4 updates" in found.text
    assert "1.00, of 4" in found.text


def test_a_minimum_at_which_the_margin_is_not_felt():
    doctor = run(classifier(minimum=800.0))
    (found,) = [f for f in doctor.findings if f.kind == "lambda"]
    assert found.step == 4
    assert "ended after 4 updates at lambda 800" in found.text


@pytest.mark.parametrize("reach", [0.4, 1.0])
@pytest.mark.parametrize("margin", [2, 4])
def test_a_curve_that_as_good_as_reaches_a_minimum_of_0(reach, margin):
    recipe = sf.training.preset("quick")
    recipe = dataclasses.replace(recipe, lambda_minimum=0.0, annealing_reach=reach)
    loss = sf.losses.ASoftmaxLoss(margin, build_annealing(recipe, 748), step=1)
    assert diagnoses.unreachable(loss, 748) is None
    paper = sf.losses.ASoftmaxLoss(margin, LambdaAnnealing(minimum=0.0), step=1)
    assert "never reach its minimum 0" in diagnoses.unreachable(paper, 748)


def advice(annealing: LambdaAnnealing, update: int, updates: int | None) -> str | None:
    return diagnoses.slower_lambda(sf.losses.ASoftmaxLoss(4, annealing, step=1), update, updates)


def test_the_advice_on_lambda_depends_on_the_length_of_the_run():
    late = "--annealing fit --annealing-reach 0.9 --annealing-power 4"
    short = LambdaAnnealing.for_steps
    for updates in (5000, 1200):  # fit at its defaults would fall faster than the paper's here
        text = advice(LambdaAnnealing(), updates, updates)
        assert text.startswith("let lambda fall more slowly (its margin is felt from update 594 on")
        assert late in text
    assert advice(short(748), 300, 748).startswith("let lambda fall more slowly")
    assert advice(LambdaAnnealing(), 700, 748).startswith("train longer")
    assert advice(short(748, 0.9, power=4.0), 700, 748).startswith("train longer")
    assert advice(LambdaAnnealing(), 300, 5000) is None  # hardly a margin yet: it is not lambda
    assert "gamma" in advice(LambdaAnnealing(), 1000, None)


def test_no_advice_on_a_lambda_that_there_is_not():
    model = sf.FaceClassifier(backbone(), num_classes=CLASSES, head="softmax")
    model.compile(keras.optimizers.SGD(1e25), run_eagerly=True)
    (found,) = run(model, steps=30).findings
    assert "Lower the learning rate; the model holds" in found.text
    assert "lambda" not in found.text
    assert "lambda" not in diagnoses.at_chance([1.386, 1.386], 4, 200)


def test_advice_on_a_lambda_that_has_come_down():
    model = classifier(rate=1e25)
    model.loss.annealing = LambdaAnnealing.for_steps(30, reach=0.01)
    found = run(model, steps=30).diverged
    assert "learning rate, or let lambda fall more slowly (its margin is felt from" in found.text


@pytest.mark.parametrize(
    ("counts", "names", "words"),
    [
        ([9, 0, 9], None, "1 of 3 classes has no image (1)"),
        ([9, 0, 0], ["a", "b", "c"], "2 of 3 classes have no image (b, c)"),
        ([9], None, "images of 1 person (9 images), and a network learns to tell 2 or more people"),
        ([1, 1, 1], None, "one image of each of its 3 people"),
        ([1000, 1, 1, 1, 1], None, "unbalanced: 0 has 1000 images, 100 % of all"),
        ([5, 5, 2020, 5] + [20] * 200, None, "unbalanced: 2 has 2020 images"),
    ],
)
def test_labels_that_are_missing_or_unbalanced(counts, names, words):
    said: list[str] = []
    doctor = sf.callbacks.TrainingDoctor(label_counts=counts, class_names=names, say=said.append)
    model = classifier()
    doctor.set_model(model)
    doctor.on_train_begin()
    assert kinds(doctor) == {"labels"}
    assert words in said[0]


def test_long_tails_as_published_sets_have_them_are_no_finding():
    tail = np.round(800 / np.arange(1, 301) ** 0.6).astype(int)  # 800 ... 26
    assert "labels" not in kinds(run(classifier(), label_counts=tail))


def batches_of(**options: object) -> tf.data.Dataset:
    images = np.zeros((20, 8, 8, 3), np.uint8)
    labels = np.arange(20) % CLASSES
    return sf.data.face_dataset((images, labels), image_size=(8, 8), batch_size=8, **options)


@pytest.mark.parametrize("make", [classifier, stock])
@pytest.mark.parametrize(
    ("trained", "held", "said"),
    [
        ({}, {"training": False}, []),
        ({"repeat": True}, None, []),
        ({"training": False}, None, ["the training batches are not shuffled"]),
        ({"shuffle": False, "drop_remainder": True, "repeat": True}, None, ["not shuffled"]),
        ({}, {}, ["evaluates faces as for training: augmented (mirror), and without 4 images"]),
        ({}, {"training": False, "augment": "strong"}, ["augmented (strong). Make"]),
    ],
)
def test_a_dataset_of_the_other_form(make, trained, held, said):
    found: list[str] = []
    doctor = sf.callbacks.TrainingDoctor(say=found.append)
    # Behind another step of the pipeline it is known too.
    dataset = batches_of(**trained).map(lambda images, labels: (images, labels))
    validation = None if held is None else batches_of(**held)
    steps = 2 if trained.get("repeat") else None
    make().fit(
        dataset, epochs=2, steps_per_epoch=steps, validation_data=validation, callbacks=[doctor],
        verbose=0,
    )  # fmt: skip
    texts = [one.text for one in doctor.findings if "batches" in one.kind]
    assert len(texts) == len(said)
    assert all(words in text for words, text in zip(said, texts, strict=True))


def test_a_prediction_in_no_order():
    doctor = sf.callbacks.TrainingDoctor(say=lambda text: None)
    model = classifier()
    model.predict(batches_of(training=False), callbacks=[doctor], verbose=0)
    assert doctor.findings == []
    model.predict(batches_of(), callbacks=[doctor], verbose=0)
    (found,) = doctor.findings
    assert "shuffled, so that row k is not image k" in found.text


def test_somebody_watches_val_loss():
    stopper = keras.callbacks.EarlyStopping(monitor="val_loss")
    other = keras.callbacks.EarlyStopping(monitor="loss")
    said: list[str] = []
    doctor = sf.callbacks.TrainingDoctor(say=said.append, callbacks=[other, stopper])
    classifier().fit(
        *faces(), callbacks=[doctor, other, stopper], validation_data=faces(), verbose=0
    )
    (found,) = [f for f in doctor.findings if f.kind == "val_loss"]
    assert found.text.startswith("EarlyStopping watches val_loss")


@pytest.mark.parametrize("make", [classifier, stock])
def test_a_bad_image_is_named_with_its_file(make):
    images, labels = faces()
    images[37, 3, 3, 1] = np.nan  # in the third batch of 16
    model = make()
    doctor = run(
        model,
        data=(images, labels),
        batch_of=lambda step: (images[16 * step :][:16], labels[16 * step :][:16]),
        files_of=lambda step: [f"face{i}.jpg" for i in range(16 * step, 16 * step + 16)],
    )
    found = doctor.diverged
    assert found is not None
    assert found.step == 3
    assert "became nan at step 3: the batch's images hold a non-finite value" in found.text
    assert "1 of 16 images, number 5 of the batch" in found.text
    assert "learning rate" not in found.text
    assert found.details["suspects"] == ["face37.jpg"]
    assert len(found.details["files"]) == 16
    assert set(found.details) == {"layer", "files", "suspects"}
    assert model.stop_training
    assert all(np.isfinite(w).all() for w in model.get_weights())  # as before that step


def test_wrong_labels_are_named():
    images, labels = faces()
    labels[21] = 7
    model = sf.FaceClassifier(backbone(), num_classes=CLASSES)
    model.compile("sgd", sf.losses.ASoftmaxLoss(4), jit_compile=True)
    model._checked_labels = lambda y: y  # as where XLA compiles the check away
    found = run(
        model,
        data=(images, labels),
        batch_of=lambda step: (images[16 * step :][:16], labels[16 * step :][:16]),
    ).diverged
    assert found.step == 2
    assert "1 of 16 labels of the batch are no class: they must be in [0, 4), and one" in found.text
    assert "is 7. Mend the labels;" in found.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("make", [classifier, stock])
def test_without_batches_the_images_are_suspected_where_the_weights_are_small(make, bad):
    images, labels = faces()
    images[5] = bad
    text = run(make(), data=(images, labels)).diverged.text
    assert "the step's own images (NaN, infinity, or not normalised) or labels" in text
    assert "learning rate" not in text


def test_images_that_nobody_normalised():
    images, labels = faces()
    data = np.abs(images * 1e30), labels
    text = run(classifier(), data=data, batch_of=lambda step: data).diverged.text
    assert re.search(r"the images' values run from .* to .*\. Normalise the images", text)


def test_the_bad_batch_of_several_steps_in_one_execution():
    images, labels = faces()
    images[20] = np.nan  # the second of four batches
    model = classifier(run_eagerly=False, steps_per_execution=4)
    found = run(
        model,
        data=(images, labels),
        batch_of=lambda step: (images[16 * step :][:16], labels[16 * step :][:16]),
    ).diverged
    assert "at step 2: the batch's images hold a non-finite value" in found.text


def test_lambda_that_follows_another_optimizer_or_nothing():
    said: list[str] = []
    model = stock()
    model.compile("sgd", loss=model.loss)
    with pytest.raises(ValueError, match="counts the updates of another optimizer"):
        model.fit(*faces(), callbacks=[sf.callbacks.TrainingDoctor(say=said.append)], verbose=0)
    assert "counts the updates of another optimizer" in said[0]
    model.compile("sgd", sf.losses.ASoftmaxLoss(4, step=lambda: tf.constant(3)))
    found = run(model, epochs=2)
    assert kinds(found) == {"lambda"}
    model.compile("sgd", sf.losses.ASoftmaxLoss(4, step=lambda: tf.constant(3)))
    doctor = run(model, epochs=2, total_steps=5000)  # whose schedule comes down
    assert "lambda stood still at 675.7 through 8 updates" in doctor.findings[0].text


@pytest.mark.parametrize("norm", [False, True])
def test_the_first_layer_that_overflows_is_named(norm):
    images, labels = faces()
    model = sf.FaceClassifier(backbone(norm), num_classes=CLASSES)
    model.compile(keras.optimizers.SGD(0.01), sf.losses.ASoftmaxLoss(4))
    slope = model.backbone.get_layer("slope").variables[0]
    slope.assign(slope + 3e38)  # finite itself; its product with an input is not
    doctor = run(model, data=(images * 1e3, labels), batch_of=lambda step: (images * 1e3, labels))
    found = doctor.diverged
    assert found is not None
    assert found.details["layer"] == "slope"


def test_a_rate_that_is_far_too_high_stops_the_run_with_a_layer():
    images, labels = faces()
    doctor = run(
        classifier(rate=1e25),
        steps=30,
        data=(images, labels),
        batch_of=lambda step: (images[16 * (step % 4) :][:16], labels[16 * (step % 4) :][:16]),
    )
    found = doctor.diverged
    assert found is not None
    assert found.details["layer"] is not None
    assert re.search(r"at step \d+: layer '\w+'", found.text)


def test_without_batches_the_weights_are_looked_at_and_the_run_stops():
    found = run(classifier(rate=1e25), steps=30).diverged
    assert found is not None
    assert found.step < 30


def test_the_snapshot_does_not_follow_the_weights():
    model = classifier(rate=0.5)
    before = model.get_weights()
    snapshot = take_snapshot(model)
    model.fit(*faces(), verbose=0)
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    for a, b in zip(before, snapshot, strict=True):
        np.testing.assert_array_equal(a, b)


def sampled(rate: float = 0.01) -> sf.FaceClassifier:
    model = sf.FaceClassifier(backbone(), num_classes=100, sample_rate=0.25)
    model.compile(keras.optimizers.SGD(rate, 0.9), sf.losses.ASoftmaxLoss(4), run_eagerly=True)
    return model


def test_a_sampled_head_s_stores_are_not_held():
    """A step writes into them in place only while nobody else holds their values."""
    model = sampled()
    stores = model.head_layer.stores
    assert len(stores) == 2
    held = take_snapshot(model)
    assert len(held) == len(model.weights) - 2
    assert all(value.shape != stores[0].shape for value in held)


def test_a_sampled_head_that_fails():
    images, labels = faces()
    images[37, 3, 3, 1] = np.nan
    model = sampled()
    found = run(model, data=(images, labels)).diverged
    assert found.step == 3
    assert "but 25 class centres that it drew are lost" in found.text
    stores = {id(store) for store in model.head_layer.stores}
    kept = [weight.numpy() for weight in model.weights if id(weight) not in stores]
    assert all(np.isfinite(weight).all() for weight in kept)


def test_a_sampled_head_is_not_blamed_for_what_the_failed_step_stored():
    images, labels = faces()
    model = sampled()
    slope = model.backbone.get_layer("slope").variables[0]
    slope.assign(slope + 3e38)
    data = images * 1e3, labels
    assert run(model, data=data, batch_of=lambda _: data).diverged.details["layer"] == "slope"


def test_chance_with_a_sampled_head_is_that_of_the_sample():
    assert diagnoses.class_count(sampled()) == 25
    assert diagnoses.class_count(classifier()) == CLASSES


def test_under_a_strategy(two_replicas):
    images, labels = faces()
    images[37] = np.inf
    with two_replicas.scope():
        model = classifier(run_eagerly=False)
    doctor = run(
        model,
        data=(images, labels),
        probe=faces()[0],
        batch_of=lambda step: (images[16 * step :][:16], labels[16 * step :][:16]),
    )
    assert doctor.diverged is not None
    assert doctor.diverged.step == 3
    assert all(np.isfinite(w).all() for w in model.get_weights())
