"""Each of the doctor's findings, provoked by a run that really has the trouble."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tests.callbacks.runs import (
    CLASSES,
    backbone,
    classifier,
    faces,
    kinds,
    run,
    sampled,
    stock,
)
from tf_sphereface.callbacks import diagnoses
from tf_sphereface.schedules import LambdaAnnealing
from tf_sphereface.training import build_annealing


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


@pytest.mark.parametrize(("norm", "what"), [(3, "shorter than 10"), (300, "longer than 110")])
def test_norms_out_of_magfaces_range(norm, what):
    loss = sf.losses.MagFaceLoss()
    text = diagnoses.norm_range(np.eye(4) * norm, loss, 7)
    assert f"after 7 updates 100% of the embeddings are {what}" in text
    assert diagnoses.norm_range(np.eye(4) * 30, loss, 7) is None


def test_the_doctor_looks_at_magfaces_range():
    model = classifier(rate=1e-9)
    model.compile("sgd", sf.losses.MagFaceLoss())
    doctor = run(model, probe=faces()[0])
    assert "norm range" in kinds(doctor)


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


@pytest.mark.parametrize("same", [True, False])
def test_validation_on_other_people_is_told(tmp_path, same):
    """Their labels would be taken for those of the people who are trained on."""
    sf.data.synthetic.write_folder(tmp_path / "a", CLASSES, 4, size=(8, 8))
    sf.data.synthetic.write_folder(tmp_path / "b", CLASSES, 4, size=(8, 8), first_identity=90)
    options = {"image_size": (8, 8), "batch_size": 4}
    held = sf.data.face_dataset(tmp_path / ("a" if same else "b"), training=False, **options)
    doctor = sf.callbacks.TrainingDoctor(say=lambda text: None)
    trained = sf.data.face_dataset(tmp_path / "a", **options)
    classifier().fit(trained, validation_data=held, callbacks=[doctor], verbose=0)
    texts = [one.text for one in doctor.findings if one.kind == "evaluated people"]
    assert len(texts) == (not same)
    assert same or "of other people than those trained on (Person_000090" in texts[0]


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


def test_validation_images_that_are_not_finite():
    said: list[str] = []
    bad = faces()
    bad[0][3] = np.nan
    doctor = sf.callbacks.TrainingDoctor(say=said.append, total_steps=5000)
    classifier().fit(*faces(), validation_data=bad, callbacks=[doctor], verbose=0)
    (found,) = [f for f in doctor.findings if f.kind == "validation"]
    assert "the validation loss is nan" in found.text
    assert doctor.diverged is None


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


def test_chance_with_a_sampled_head_is_that_of_the_sample():
    assert diagnoses.class_count(sampled()) == 25
    assert diagnoses.class_count(classifier()) == CLASSES


def test_bytes_are_seen_as_the_network_gets_them():
    model = sf.FaceClassifier(backbone(), num_classes=CLASSES)
    model.compile(keras.optimizers.SGD(1e-4), sf.losses.CosFaceLoss(8.0))
    images, labels = faces()
    pixels = np.clip(images * 128 + 127.5, 0, 255).astype(np.uint8)
    normalised = (pixels.astype(np.float32) - 127.5) / 128
    np.testing.assert_allclose(
        diagnoses.embed(model, pixels), diagnoses.embed(model, normalised), rtol=1e-5
    )
    assert run(model, data=(pixels, labels), steps=8, probe=pixels).findings == []


def test_lambda_that_has_come_down_before_is_no_finding():
    model = classifier(0.01)
    model.compile(keras.optimizers.SGD(0.01), sf.losses.ASoftmaxLoss(4))
    model.optimizer.iterations.assign(5000)
    images, labels = faces()
    doctor = sf.callbacks.TrainingDoctor(say=lambda text: None)
    for _ in range(2):  # and in the next fit, which has a number of steps of its own
        model.fit(images, labels, batch_size=8, verbose=0, callbacks=[doctor])
    assert not [found for found in doctor.findings if found.kind == "lambda"]


def test_a_doctor_that_is_used_again_stops_the_next_run_too():
    images, labels = faces()
    doctor = sf.callbacks.TrainingDoctor(say=lambda text: None)
    for _ in range(2):
        model = classifier(0.01)
        history = model.fit(
            images * np.nan, labels, batch_size=8, epochs=3, verbose=0, callbacks=[doctor]
        )
        assert len(history.epoch) == 1
        assert doctor.diverged is not None


def test_a_fit_that_goes_on_is_as_long_as_what_is_left():
    model = classifier(0.01)
    model.compile(keras.optimizers.SGD(0.01), sf.losses.ASoftmaxLoss(4))
    model.optimizer.iterations.assign(800)
    images, labels = faces()
    texts = []
    for first in (0, 200):
        doctor = sf.callbacks.TrainingDoctor(say=lambda text: None)
        span = {"initial_epoch": first, "epochs": first + 2}
        model.fit(images, labels, batch_size=16, verbose=0, callbacks=[doctor], **span)
        texts.append([found.kind for found in doctor.findings])
    assert texts[0] == texts[1] == ["lambda"]
