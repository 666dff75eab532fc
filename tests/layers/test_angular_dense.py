from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_sphereface as sf
from tf_sphereface.layers import AngularDense
from tf_sphereface.losses import ASoftmaxLoss


def built(num_classes: int = 5, embedding_dim: int = 3, **kwargs: object) -> AngularDense:
    layer = AngularDense(num_classes, **kwargs)
    layer.build((None, embedding_dim))
    return layer


def test_columns_are_norm_times_cosine_and_the_negative_norm():
    layer = built()
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    kernel = layer.kernel.numpy()
    outputs = layer(x).numpy()
    norms = np.linalg.norm(x, axis=1)
    cosines = x @ kernel / (norms[:, None] * np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(outputs[:, :-1], norms[:, None] * cosines, atol=1e-6)
    np.testing.assert_allclose(outputs[:, -1], -norms, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(1e-5, 1e5))
def test_the_norm_column_is_never_the_argmax(seed, num_classes, scale):
    keras.utils.set_random_seed(seed)
    x = np.random.default_rng(seed).normal(size=(8, 4)).astype("float32") * scale
    outputs = built(num_classes, 4)(x).numpy()
    assert (outputs.argmax(axis=1) < num_classes).all()


def test_scale_of_the_centres_does_not_matter():
    layer = built()
    x = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    before = layer(x).numpy()
    layer.kernel.assign(layer.kernel * np.array([0.001, 0.1, 1.0, 10.0, 1000.0], "float32"))
    np.testing.assert_allclose(layer(x).numpy(), before, rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
@pytest.mark.parametrize("explicit", [False, True])
def test_computes_in_float32_whatever_the_policy(policy, explicit):
    if not explicit:
        keras.config.set_dtype_policy(policy)
    layer = built(dtype=policy) if explicit else built()
    x = tf.cast(np.full((2, 3), 300.0), "float16")  # the squared norm is past float16's range
    outputs = layer(x)
    assert layer.compute_dtype == layer.variable_dtype == outputs.dtype == "float32"
    np.testing.assert_allclose(outputs[:, -1], -300 * np.sqrt(3), rtol=1e-3)  # 300 in float16


@pytest.mark.parametrize("norm", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_value_and_gradients_are_finite_for_extreme_embeddings(norm, dtype, margin):
    layer = built(4, 2)
    # The target's angle is 0, pi, pi / 2 and a joint of psi in turn.
    layer.kernel.assign(
        [[1.0, -1.0, 0.0, np.cos(np.pi / margin)], [0, 0, 1, np.sin(np.pi / margin)]]
    )
    x = tf.Variable(tf.cast(np.tile([[norm, 0.0]], (4, 1)), dtype))
    loss = ASoftmaxLoss(margin=margin, annealing=0.0, reduction="sum")
    with tf.GradientTape() as tape:
        value = loss(np.arange(4), layer(x))
    gradients = tape.gradient(value, [x, layer.kernel.value])
    for tensor in (value, *gradients):
        assert np.isfinite(tf.cast(tensor, "float64").numpy()).all()


def test_float16_embeddings_in_their_range():
    layer = built(4, 2)
    for norm in (0.0, 1e-4, 1.0, 6e4):
        x = tf.Variable(tf.cast([[norm, 0.0]], "float16"))
        with tf.GradientTape() as tape:
            value = ASoftmaxLoss(annealing=5.0)([0], layer(x))
        assert np.isfinite(value)
        assert np.isfinite(tape.gradient(value, x).numpy()).all()


def test_gradient_at_a_zero_centre_stays_below_1e7():
    layer = built(3, 4)
    kernel = np.random.default_rng(0).normal(size=(4, 3))
    kernel[:, 1] = 0.0
    layer.kernel.assign(kernel)
    x = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    with tf.GradientTape() as tape:
        value = ASoftmaxLoss(annealing=5.0)(np.array([0, 1, 2, 0, 1, 2]), layer(x))
    gradient = tape.gradient(value, layer.kernel.value).numpy()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1e7


def test_gradient_lives_past_a_cosine_of_1():
    """A clip would kill it where rounding gives 1 + 1e-7."""
    layer = built(2, 3)
    x = tf.Variable(np.array([[0.1, 0.7, 0.3]], "float32") * 3)
    layer.kernel.assign(np.stack([x.numpy()[0], [1.0, 0.0, 0.0]], axis=1))
    with tf.GradientTape() as tape:
        value = ASoftmaxLoss(annealing=0.0)([0], layer(x))
    assert np.abs(tape.gradient(value, x).numpy()).max() > 0


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.sparse_categorical_crossentropy,
        ["sparse_categorical_crossentropy"],
    ],
)
def test_a_stock_cross_entropy_is_refused(loss):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, AngularDense(4, name="head")(inputs))
    model.compile("sgd", loss=loss)
    with pytest.raises(ValueError, match=r"num_classes \+ 1 = 5 columns.*ASoftmaxLoss"):
        model.fit(np.zeros((4, 3)), np.zeros(4), verbose=0)


class Softened(keras.losses.SparseCategoricalCrossentropy):
    """A user's own subclass: it would still take `-||x||` for a class."""


@pytest.mark.parametrize("loss", [Softened(from_logits=True), {"face": "mse"}])
def test_a_stock_loss_in_other_clothes_is_refused(loss):
    inputs = keras.Input((3,))
    head = AngularDense(4, name="head")(inputs)
    model = keras.Model(inputs, {"face": head} if isinstance(loss, dict) else head)
    model.compile("sgd", loss=loss)
    labels = {"face": np.zeros(4)} if isinstance(loss, dict) else np.zeros(4)
    with pytest.raises(ValueError, match="stock Keras loss"):
        model.fit(np.zeros((4, 3)), labels, verbose=0)


def test_a_stock_loss_on_another_output_is_fine():
    inputs = keras.Input((3,))
    outputs = {"face": AngularDense(4, name="face")(inputs), "age": keras.layers.Dense(1)(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss={"face": ASoftmaxLoss(annealing=5.0), "age": "mse"})
    labels = {"face": np.zeros(4), "age": np.zeros((4, 1))}
    history = model.fit(np.ones((4, 3)), labels, verbose=0).history
    assert np.isfinite(history["loss"][0])
    model.compile("sgd", loss={"face": "mse", "age": "mse"})
    with pytest.raises(ValueError, match="stock Keras loss"):
        model.fit(np.ones((4, 3)), labels, verbose=0)


def several(k: int = 3) -> tuple[AngularDense, np.ndarray, np.ndarray]:
    layer = AngularDense(4, centers_per_class=k, shared_bias=1.5)
    layer.build((None, 5))
    x = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
    w = layer.kernel.numpy().astype(float)
    each = (x @ (w / np.linalg.norm(w, axis=0))).reshape(7, 4, k)
    return layer, x, each


def test_with_several_centres_a_class_is_as_near_as_its_nearest_one():
    layer, x, each = several()
    outputs = layer(x).numpy()
    assert outputs.shape == (7, 6)
    np.testing.assert_allclose(outputs[:, :4], each.max(axis=2), atol=1e-5)  # float32
    np.testing.assert_allclose(outputs[:, -1], -np.linalg.norm(x, axis=1), rtol=1e-6)
    with tf.GradientTape() as tape:
        target = layer(x[:1])[0, 2]
    gradient = tape.gradient(target, layer.kernel.value).numpy()
    moved = np.flatnonzero(np.abs(gradient).sum(axis=0))
    assert moved.tolist() == [2 * 3 + each[0, 2].argmax()]  # the nearest centre of class 2 alone
    compiled = tf.function(layer, jit_compile=True)(x)
    np.testing.assert_allclose(compiled, outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_several_centres_train_in_a_classifier_and_are_saved(jit_compile, tmp_path):
    inputs = keras.Input((5,))
    network = keras.Model(inputs, keras.layers.Dense(6)(inputs))
    model = sf.FaceClassifier(network, 4, centers_per_class=2)
    model.compile("sgd", ASoftmaxLoss(2, 5.0), metrics=["accuracy"], jit_compile=jit_compile)
    x, labels = several()[1], np.arange(7) % 4
    first = model.evaluate(x, labels, verbose=0)[0]
    model.fit(x, labels, epochs=3, verbose=0)
    value = model.evaluate(x, labels, verbose=0)
    assert value[0] < first
    assert model.head_layer.kernel.shape == (6, 8)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.evaluate(x, labels, verbose=0), value, rtol=1e-6)
    for options in ({"gradient": "caffe"}, {"head": "softmax"}, {"sample_rate": 0.5}):
        with pytest.raises(ValueError, match="centers_per_class above 1 needs"):
            sf.FaceClassifier(network, 4, centers_per_class=2, **options)


def test_config_round_trip():
    layer = AngularDense(7, kernel_regularizer=keras.regularizers.L2(1e-3), name="centres")
    clone = AngularDense.from_config(layer.get_config())
    assert clone.num_classes == 7
    assert clone.kernel_regularizer.l2 == pytest.approx(1e-3)
    assert clone.get_config() == layer.get_config()


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, True, None, "3"])
def test_a_wrong_number_of_classes_is_refused(num_classes):
    with pytest.raises(ValueError, match=r"`num_classes`.*Received"):
        AngularDense(num_classes)


def test_images_are_no_embeddings():
    with pytest.raises(ValueError, match=r"\(batch, embedding_dim\).*Received"):
        AngularDense(3)(np.zeros((2, 4, 4, 3)))
