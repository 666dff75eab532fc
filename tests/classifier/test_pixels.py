"""Batches of uint8: normalised in the step, and refused where nothing does so."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, data
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import ASoftmaxLoss
from tf_sphereface.utils.first_layers import own_normalization

SIZE, PEOPLE = (14, 12), 4


@pytest.fixture(scope="module")
def faces():
    return data.synthetic.training_set(PEOPLE, 8, size=SIZE)


def batches(faces, dtype: str, **options) -> tf.data.Dataset:
    return data.face_dataset(faces, image_size=SIZE, batch_size=8, dtype=dtype, **options)


def network(*first: keras.layers.Layer) -> keras.Sequential:
    keras.utils.set_random_seed(2)
    last = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(5)]
    return keras.Sequential([keras.Input((*SIZE, 3)), *first, *last])


def classifier(backbone: keras.Model, jit_compile: bool = False) -> FaceClassifier:
    model = FaceClassifier(backbone, PEOPLE)
    loss = ASoftmaxLoss(margin=4, annealing=5.0)
    model.compile(keras.optimizers.SGD(0.05), loss=loss, jit_compile=jit_compile)
    return model


def stock(first: list[keras.layers.Layer]) -> keras.Model:
    backbone = network(*first)
    model = keras.Model(backbone.inputs, AngularDense(PEOPLE)(backbone.outputs[0]))
    model.compile(keras.optimizers.SGD(0.05), loss=ASoftmaxLoss(margin=4, annealing=5.0))
    return model


@pytest.mark.parametrize("augment", ["none", "mirror"])
@pytest.mark.parametrize("training", [True, False])
def test_bytes_are_the_floats_before_they_are_normalised(faces, augment, training):
    options = {"augment": augment, "training": training, "channel_order": "bgr"}
    pairs = zip(
        batches(faces, "float32", **options), batches(faces, "uint8", **options), strict=True
    )
    for (images, labels), (pixels, same) in pairs:
        assert pixels.dtype == tf.uint8
        np.testing.assert_array_equal(
            (pixels.numpy() - np.float32(127.5)) / np.float32(128), images
        )
        np.testing.assert_array_equal(labels, same)


def test_an_image_is_mirrored_as_a_whole(faces):
    plain, flipped = (
        np.concatenate([x for x, _ in batches(faces, "uint8", augment=augment)])
        for augment in ("none", "mirror")
    )
    turned = [bool((a == b[:, ::-1]).all()) for a, b in zip(plain, flipped, strict=True)]
    kept = [bool((a == b).all()) for a, b in zip(plain, flipped, strict=True)]
    assert all(a or b for a, b in zip(turned, kept, strict=True))
    assert any(turned)
    assert any(kept)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_classifier_trains_on_either_alike(faces, jit_compile):
    models = [classifier(network(), jit_compile) for _ in range(2)]
    for model, dtype in zip(models, ("float32", "uint8"), strict=True):
        history = model.fit(
            batches(faces, dtype),
            validation_data=batches(faces, dtype, training=False),
            verbose=0,
        ).history
        assert np.isfinite(history["val_loss"]).all()
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)
    pixels = faces[0][:3]
    expected = models[0].predict((pixels - np.float32(127.5)) / 128, verbose=0)
    np.testing.assert_array_equal(models[1].predict(pixels, verbose=0), expected)


def test_a_network_that_normalises_by_itself_gets_the_pixels(faces):
    """Once, not twice; and one that was built for integers gets integers."""
    inside = classifier(network(keras.layers.Rescaling(1 / 128, offset=-127.5 / 128)))
    pixels = faces[0][:3]
    expected = classifier(network()).predict((pixels - np.float32(127.5)) / 128, verbose=0)
    np.testing.assert_array_equal(inside.predict(pixels, verbose=0), expected)


@pytest.mark.parametrize("inside", [False, True])
def test_augmentation_before_a_network_s_own_normalisation_hands_pixels_on(faces, inside):
    """As Keras' guides have it: a network of `Random...` layers, or these one by one."""
    random = [keras.layers.RandomRotation(0.1), keras.layers.RandomContrast(0.1)]
    if inside:
        random = [keras.Sequential([keras.Input((14, 12, 3)), *random])]
    layers = [keras.Input((14, 12, 3)), *random, keras.layers.Rescaling(1 / 255, name="to_one")]
    backbone = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(4)])
    assert own_normalization(backbone) == "Rescaling 'to_one'"
    model = FaceClassifier(backbone, 3)
    pixels = faces[0][:3]
    expected = backbone.predict(pixels.astype("float32"), verbose=0)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_stock_model_needs_a_layer(faces, policy):
    """The documented one gives to the bit what `face_dataset` gives in float32."""
    keras.config.set_dtype_policy(policy)
    model, same = stock([keras.layers.Rescaling(1 / 128, offset=-127.5 / 128)]), stock([])
    model.fit(batches(faces, "uint8"), verbose=0)
    same.fit(batches(faces, "float32"), verbose=0)
    for a, b in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("first", [[], [keras.layers.ZeroPadding2D()]])
def test_without_it_a_stock_model_is_refused(faces, first):
    for images in (faces[0], faces[0].astype("int32")):
        model = stock(first)
        before = model.get_weights()
        with pytest.raises(ValueError, match="gets pixels from 0 to 255"):
            model.fit(images, faces[1], verbose=0)
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)


def test_strong_augmentation_needs_floats(faces):
    with pytest.raises(ValueError, match="Argument `dtype`"):
        batches(faces, "uint8", augment="strong")
    with pytest.raises(ValueError, match="Argument `dtype`"):
        batches(faces, "float16")


def test_bytes_in_a_dict_are_normalised_too(faces):
    image = keras.Input((*SIZE, 3), name="image")
    vector = keras.layers.Dense(5)(keras.layers.Flatten()(image))
    model = classifier(keras.Model({"image": image}, vector))
    given = model.predict({"image": faces[0]}, verbose=0)
    floats = (faces[0].astype("float32") - 127.5) / 128
    np.testing.assert_allclose(given, model.predict({"image": floats}, verbose=0), rtol=1e-5)


def test_floats_from_0_to_255_are_said_once(faces, caplog):
    """As keras.utils.image_dataset_from_directory makes them."""
    model = classifier(network())
    images, labels = faces
    raw = (images.astype("float32"), labels)
    for _ in range(2):
        model.fit(*raw, batch_size=8, epochs=1, verbose=0)
    (record,) = caplog.records
    assert "images of floats from" in record.getMessage()


@pytest.mark.parametrize("kind", ["uint8", "float32", "centred", "own"])
def test_other_images_are_not_taken_for_raw_pixels(faces, kind, caplog):
    images, labels = faces
    own = [keras.layers.Rescaling(1 / 128, offset=-127.5 / 128)] if kind == "own" else []
    given = {
        "uint8": images,
        "float32": data.normalize(images),
        "centred": images.astype("float32") - 110.0,  # as networks of Caffe take them
        "own": images.astype("float32"),
    }[kind]
    classifier(network(*own)).fit(given, labels, batch_size=8, verbose=0)
    assert not caplog.records
