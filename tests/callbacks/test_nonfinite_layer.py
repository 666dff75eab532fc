"""Runs whose loss becomes NaN: the batch, the layer or the weights to blame."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tests.callbacks.runs import CLASSES, backbone, classifier, faces, run, sampled, stock
from tf_sphereface.callbacks.nonfinite_layer import Snapshots


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
    model._told = lambda y: (y,)  # as where XLA compiles the check away
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
    snapshot = Snapshots().take(model)
    model.fit(*faces(), verbose=0)
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    for a, b in zip(before, snapshot, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sampled_head_s_stores_are_not_held():
    """A step writes into them in place only while nobody else holds their values."""
    model = sampled()
    stores = model.head_layer.stores
    assert len(stores) == 2
    held = Snapshots().take(model)
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
