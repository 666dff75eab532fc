"""Runs that start from a trained network."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tests.embedder.small import KNOWN
from tf_sphereface import training
from tf_sphereface.data import FaceSource, SyntheticFaces
from tf_sphereface.embedder import EmbedderMetadata, save_embedder

SIZE = (28, 24)
RECIPE = dataclasses.replace(
    training.preset("fine-tune"),
    epochs=2,
    batch_size=8,
    augment="strong",
)
STEPS = 4


def network(policy="float32", name=KNOWN) -> keras.Model:
    """With normalisation inside a model inside, and without."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((*SIZE, 3), name=name, dtype="float32")
    x = layers.Conv2D(6, 3, strides=2, name="first", dtype=policy)(image)
    x = layers.BatchNormalization(name="first_norm", dtype=policy)(x)
    inner = keras.Input(x.shape[1:])
    y = layers.Conv2D(6, 3, strides=2, name="second", dtype=policy)(inner)
    y = layers.BatchNormalization(name="second_norm", dtype=policy)(y)
    x = keras.Model(
        inner, layers.PReLU(shared_axes=[1, 2], name="act", dtype=policy)(y), name="block"
    )(x)
    x = layers.Dense(8, name="fc", dtype=policy)(layers.Flatten()(x))
    return keras.Model(image, x, name="tiny")


def source(images: int = 8, **options) -> FaceSource:
    return FaceSource(SyntheticFaces(4, images), image_size=SIZE, **options)


def weights(model) -> dict[str, np.ndarray]:
    return {v.path: v.numpy() for v in model.weights}


class Watch(keras.callbacks.Callback):
    """Keep the weights after each epoch, and stop as a power cut does."""

    def __init__(self, stop_after: int = 0) -> None:
        super().__init__()
        self.left, self.after = stop_after, []

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError

    def on_epoch_end(self, epoch, logs=None):
        self.after.append([weights(self.model.backbone), np.array(self.model.head_layer.kernel)])


@pytest.mark.parametrize(
    ("norm", "precision"),
    [(True, "float32"), (False, "float32"), (True, "mixed_float16"), (False, "mixed_bfloat16")],
)
def test_what_is_frozen_stays_to_the_bit(tmp_path, norm, precision):
    watch, before = Watch(), weights(network())
    recipe = dataclasses.replace(RECIPE, freeze_norm=norm, precision=precision)
    run = training.fine_tune(network(), source(), tmp_path, recipe, callbacks=[watch])
    (frozen, first_head), (trained, second_head) = watch.after
    moved = {path for path in before if not np.array_equal(before[path], frozen[path])}
    assert not moved
    assert not np.array_equal(first_head, second_head)
    still = {path for path in before if np.array_equal(before[path], trained[path])}
    norms = {path for path in before if "_norm/" in path}
    assert still == (norms if norm else set())
    assert len(norms) == 8
    assert run.network().output_shape == (None, 8)
    assert all(layer.trainable for layer in network().layers)


def test_centres_start_at_the_mean_embedding_of_each_person(tmp_path):
    model, faces = network(), source().load()
    run = training.Run(
        training.open_pretrained(model).recipe(RECIPE),
        faces,
        training.RunFolder(tmp_path),
        pretrained=training.open_pretrained(model),
    )
    images, labels = sf.data.synthetic.training_set(4, 8, size=SIZE)
    vectors = sf.load_embedder(model)(images)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([vectors[labels == c].mean(axis=0) for c in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(run.model.head_layer.kernel).T, means, atol=1e-5)


def test_a_run_stopped_in_mid_freeze_ends_to_the_bit_as_one_that_was_not(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=3, freeze_epochs=2, freeze_norm=False)
    whole = training.fine_tune(network(), source(), tmp_path / "whole", recipe)
    broken = tmp_path / "broken"
    for model, steps in ((network(), 2), (network(), 4), (None, 6)):  # cut off in steps 2, 5, 10
        with pytest.raises(InterruptedError):
            training.fine_tune(
                model,
                source(),
                broken,
                recipe,
                resume=True,
                callbacks=[Watch(steps)],
                checkpoint_every=1,
            )
    resumed = training.fine_tune(None, source(), broken, recipe, resume=True)
    assert resumed.step == 2 * STEPS + 1
    for a, b in zip(whole.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    other = network()
    other.layers[1].bias.assign_add([1e-3] * 6)
    with pytest.raises(ValueError, match=r"SHA-256 .*, and this one starts .*base\.keras holds"):
        training.fine_tune(other, source(), broken, recipe, resume=True)


def test_what_is_written_carries_the_facts_and_no_threshold(tmp_path):
    metadata = EmbedderMetadata(
        channel_order="bgr",
        pixel_mean=(1.0, 2.0, 3.0),
        pixel_scale=255.0,
        template="112x112",
        threshold=0.4,
    )
    path = tmp_path / "old.keras"
    save_embedder(network(name="image"), path, metadata)
    with pytest.raises(ValueError, match="takes BGR, and the data are read as RGB"):
        training.fine_tune(path, source(), tmp_path / "run")
    faces = FaceSource(SyntheticFaces(4, 8), image_size=(56, 48), channel_order="bgr")
    with pytest.raises(ValueError, match="takes faces of 28x24, and the data are read at 56x48"):
        training.fine_tune(path, faces, tmp_path / "run")
    recipe = dataclasses.replace(RECIPE, epochs=1, learning_rate=1e-9)
    run = training.fine_tune(path, source(channel_order="bgr"), tmp_path / "run", recipe)
    after = sf.load_embedder(run.network())
    for key in ("channel_order", "pixel_mean", "pixel_scale", "template"):
        assert getattr(after.metadata, key) == getattr(metadata, key)
    assert after.metadata.threshold is None
    images = sf.data.synthetic.training_set(2, 2, size=SIZE)[0]
    before = sf.load_embedder(path)(images)
    np.testing.assert_allclose(after(images), before, atol=1e-4)
    # the model in training is fed by the source, and computes the same
    fed = (np.asarray(images[..., ::-1], np.float32) - 127.5) / 128
    np.testing.assert_allclose(run.model.predict(fed, verbose=0), before, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "a-softmax", "gradient": "caffe"},
        {"loss": "softmax"},
        {"loss": "sphereface2"},
        {"centers_per_class": 3},
        {"sample_rate": 0.5},
    ],
)
def test_every_head_starts_at_the_means_and_leaves_the_frozen_body_alone(tmp_path, options):
    recipe = dataclasses.replace(RECIPE, **options, epochs=1, batch_size=4, learning_rate=1e-6)
    faces = FaceSource(SyntheticFaces(8, 2), image_size=SIZE)  # fewer images than centers
    run = training.fine_tune(network(), faces, tmp_path, recipe)  # its one epoch is frozen
    before, after = weights(network()), weights(run.model.backbone)
    for path, value in before.items():
        np.testing.assert_array_equal(value, after[path])
    faces = faces.with_batches(batch_size=16, augment="none", seed=0)
    images, labels = faces.batch_at(0)
    classes = run.model.predict_classes(images)
    assert np.mean(classes == labels) > 0.6  # of random features; by chance 0.13
