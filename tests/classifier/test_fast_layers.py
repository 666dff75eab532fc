"""The stand-ins of a training step compute what the stock layers do, forwards and backwards."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.backbones import MobileFaceNet, SphereFaceNet
from tf_sphereface.classifier import fast_layers

CPU, XLA = fast_layers.Target("CPU", xla=False), fast_layers.Target("CPU", xla=True)
GPU = fast_layers.Target("GPU", xla=False)
SHAPE = (6, 5, 4)
LAYERS = {
    "prelu": lambda: keras.layers.PReLU("uniform", shared_axes=[1, 2]),
    "batchnorm": lambda: keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-3),
    "batchnorm_bare": lambda: keras.layers.BatchNormalization(center=False, scale=False),
    "pointwise": lambda: keras.layers.Conv2D(7, 1, activation="tanh", bias_initializer="normal"),
    "pointwise_strided": lambda: keras.layers.Conv2D(7, 1, strides=(2, 3), padding="same"),
    "whole_map": lambda: keras.layers.DepthwiseConv2D((6, 5), use_bias=False),
    "shifted": lambda: keras.layers.DepthwiseConv2D(3, padding="same", activation="tanh"),
    "shifted_valid": lambda: keras.layers.DepthwiseConv2D(3, use_bias=False),
    "shifted_by_two": lambda: keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
    "shifted_by_two_valid": lambda: keras.layers.DepthwiseConv2D(3, strides=2),
}
STAND_IN = {
    "prelu": fast_layers.PReLU,
    "batchnorm": fast_layers.BatchNormalization,
    "pointwise": fast_layers.PointwiseConvolution,
    "whole_map": fast_layers.WholeMapConvolution,
    "shifted": fast_layers.ShiftedConvolution,
}


def stand_in(name):
    return next(kind for start, kind in STAND_IN.items() if name.startswith(start))


@pytest.fixture
def all_stand_ins(monkeypatch):
    """Let every target take every stand-in."""
    depthwise = (fast_layers.WholeMapConvolution, fast_layers.ShiftedConvolution)
    for table in fast_layers.STAND_INS.values():
        monkeypatch.setitem(table, keras.layers.Conv2D, (fast_layers.PointwiseConvolution,))
        monkeypatch.setitem(table, keras.layers.DepthwiseConv2D, depthwise)


def network_of(layer):
    image = keras.Input(SHAPE)
    return keras.Model(image, layer(image))


def results(network, x, upstream, graph=True, xla=None):
    """Return outputs, gradients to weights and input, and the new state, by name."""

    def compute():
        with keras.StatelessScope() as scope, tf.GradientTape() as tape:
            tape.watch(x)
            y = network(x, training=True)
            total = tf.reduce_sum(y * tf.cast(upstream, y.dtype))
        weights = [v.value for v in network.trainable_variables]
        found = {"y": y}
        found["x"], *gradients = tape.gradient(total, [x, *weights])
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
            found[variable.path] = gradient
        for variable in network.non_trainable_variables:
            new = scope.get_current_value(variable)
            found[variable.path] = variable.value if new is None else new
        return found

    function = tf.function(compute, autograph=False, jit_compile=xla)
    found = function() if graph else compute()
    return {name: np.asarray(tf.cast(value, tf.float64)) for name, value in found.items()}


def batch(shape=SHAPE, count=8, seed=1, zeros=True):
    x = np.random.default_rng(seed).normal(0.3, 2.0, (count, *shape)).astype("float32")
    if zeros:
        x[0, 0] = 0.0  # where the derivative of a PReLU is a convention
    return tf.constant(x)


def distance(a, b):
    """Return the norm of the difference of two results over the first's norm."""
    assert a.keys() == b.keys()
    far = sum(np.sum((a[name] - b[name]) ** 2) for name in a)
    return float(np.sqrt(far / sum(np.sum(value**2) for value in a.values())))


@pytest.mark.usefixtures("all_stand_ins")
@pytest.mark.parametrize("way", ["eager", "graph", "xla", "as on a GPU"])
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_each_equals_its_stock_layer(name, way):
    network = network_of(LAYERS[name]())
    target = {"xla": XLA, "as on a GPU": GPU}.get(way, CPU)
    fast = fast_layers.for_training(network, target)
    assert isinstance(fast.layers[1], stand_in(name))
    small = isinstance(fast.layers[1], fast_layers.SmallNormalization)
    assert small == (target is GPU and name.startswith("batchnorm"))
    assert fast.output_shape == network.output_shape
    x, upstream = batch(), batch(network.output_shape[1:], seed=2)
    stock = results(network, x, upstream, graph=False)
    ours = results(fast, x, upstream, graph=way != "eager", xla=way == "xla")
    for key, value in stock.items():  # rounding of sums over 240 terms
        np.testing.assert_allclose(ours[key], value, rtol=1e-5, atol=3e-5, err_msg=key)


@pytest.mark.usefixtures("all_stand_ins")
@pytest.mark.parametrize(
    ("name", "target", "dtype"),
    [
        *((name, CPU, "bfloat16") for name in sorted(LAYERS) if "shifted" not in name),
        *((name, XLA, "bfloat16") for name in sorted(LAYERS)),
        *((name, XLA, "float16") for name in ("prelu", "batchnorm", "shifted_by_two")),
        *(("batchnorm", GPU, dtype) for dtype in ("bfloat16", "float16")),
    ],
)
def test_16_bits_are_as_near_to_float32_as_stock_is(name, target, dtype):
    keras.utils.set_random_seed(3)
    exact = network_of(LAYERS[name]())
    keras.config.set_dtype_policy(f"mixed_{dtype}")
    network = network_of(LAYERS[name]())
    network.set_weights(exact.get_weights())
    fast = fast_layers.for_training(network, target)
    assert isinstance(fast.layers[1], stand_in(name))
    x, upstream = batch(), batch(network.output_shape[1:], seed=2)
    truth, stock, ours = (
        list(results(model, x, upstream, model is not exact, xla=target.xla).values())
        for model in (exact, network, fast)
    )
    precision = 2**-8 if dtype == "bfloat16" else 2**-11
    for right, theirs, mine in zip(truth, stock, ours, strict=True):
        scale = np.abs(right).max()
        assert np.abs(mine - right).max() <= 2 * np.abs(theirs - right).max() + precision * scale


@pytest.mark.parametrize("target", [XLA, GPU])
def test_one_pass_over_channels_far_from_zero_loses_no_digits(target):
    """A difference of means of squares would: of 300 ** 2 float32 keeps the second digit."""
    network = network_of(keras.layers.BatchNormalization(epsilon=1e-5))
    fast = fast_layers.for_training(network, target)
    x = np.full((8, *SHAPE), 300.0, "float32")  # one channel constant
    x[..., 1:] += np.random.default_rng(0).normal(size=(8, *SHAPE[:2], 3))
    ours = results(fast, tf.constant(x), batch(seed=2), xla=target.xla)
    exact = x.astype("float64")
    variance = exact.var((0, 1, 2))
    right = (exact - exact.mean((0, 1, 2))) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(ours["y"][..., 1:], right[..., 1:], atol=1e-4)
    assert np.abs(ours["y"][..., 0]).max() < 0.1  # the mean's last digit over sqrt(epsilon)
    (moved,) = (value for name, value in ours.items() if name.endswith("moving_variance"))
    np.testing.assert_allclose(moved, 0.99 + 0.01 * variance, rtol=1e-6)
    assert np.isfinite(ours["x"]).all()


@pytest.mark.slow
def test_a_whole_network_is_as_exact_as_the_stock_one():
    """Both are compared with float64: fifty normalised layers amplify any rounding.

    With slopes of 1 a PReLU has no kink: else a value that rounding takes across 0, in either of
    the two, changes gradients by a thousandth.
    """
    network = MobileFaceNet(input_shape=(32, 32, 3), embedding_dim=16)
    for layer in network.layers:
        if isinstance(layer, keras.layers.PReLU):
            layer.alpha.assign(tf.ones_like(layer.alpha.value))
    fast = fast_layers.for_training(network, CPU)
    kinds = [type(layer) for layer in fast.layers if isinstance(layer, fast_layers.StandIn)]
    counts = {kind.__name__: kinds.count(kind) for kind in kinds}
    assert counts == {
        "PReLU": 33,
        "BatchNormalization": 50,
        "PointwiseConvolution": 32,
        "WholeMapConvolution": 1,
    }
    keras.config.set_dtype_policy("float64")
    exact = MobileFaceNet(input_shape=(32, 32, 3), embedding_dim=16)
    exact.set_weights(network.get_weights())
    assert fast_layers.for_training(exact, CPU) is exact
    keras.config.set_dtype_policy("float32")
    x, upstream = batch((32, 32, 3), 16, zeros=False), batch((16,), 16, zeros=False)
    truth = results(exact, tf.cast(x, tf.float64), upstream, graph=False)
    stock, ours = results(network, x, upstream, graph=False), results(fast, x, upstream)
    assert distance(truth, ours) < 2 * distance(truth, stock)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.PReLU(),
        lambda: keras.layers.PReLU(shared_axes=[1, 2, 3]),
        lambda: keras.layers.PReLU(shared_axes=[1, 2, 0]),
        lambda: keras.layers.BatchNormalization(axis=1),
        lambda: keras.layers.Conv2D(4, 1, groups=2),
        lambda: keras.layers.Conv2D(4, 3),
        lambda: keras.layers.DepthwiseConv2D(3),
        lambda: keras.layers.DepthwiseConv2D((6, 5), depth_multiplier=2),
        lambda: keras.layers.PReLU(shared_axes=[1, 2], dtype="float16"),
        lambda: keras.layers.PReLU(shared_axes=[1, 2], activity_regularizer="l2"),
        lambda: type("Mine", (keras.layers.PReLU,), {})(shared_axes=[1, 2]),
    ],
)
def test_other_settings_keep_the_stock_layer(layer):
    network = network_of(layer())
    assert fast_layers.for_training(network, CPU) is network


def test_a_mask_is_the_stock_layer_s_business():
    """It keeps pixels out of the statistics."""
    image = keras.Input(SHAPE)
    mask = keras.Input(SHAPE[:2], dtype="bool")
    masked = keras.layers.BatchNormalization()(image, mask=mask)
    network = keras.Model([image, mask], masked)
    for target in fast_layers.STAND_INS:
        assert fast_layers.for_training(network, target) is network


@pytest.mark.parametrize("target", [CPU, XLA, GPU], ids=["graph", "xla", "gpu"])
def test_frozen_and_fixed_normalisation_stays_what_it_is(target):
    image = keras.Input(SHAPE)
    fixed = keras.layers.BatchNormalization(name="fixed")
    frozen = keras.layers.BatchNormalization(name="frozen")
    network = keras.Model(
        image, keras.layers.PReLU(shared_axes=[1, 2])(frozen(fixed(image, training=False)))
    )
    frozen.trainable = False
    fast = fast_layers.for_training(network, target)
    x, upstream = batch(), batch(seed=2)
    stock, ours = results(network, x, upstream), results(fast, x, upstream, xla=target.xla)
    assert distance(stock, ours) < 1e-6
    np.testing.assert_array_equal(ours[frozen.moving_mean.path], np.zeros(4))


def test_networks_inside_a_network_and_other_models():
    inner = network_of(keras.layers.BatchNormalization())
    image = keras.Input(SHAPE)
    outer = keras.Model(image, inner(image))
    fast = fast_layers.for_training(outer, CPU)
    assert distance(*(results(m, batch(), batch(seed=2)) for m in (outer, fast))) < 1e-6
    assert isinstance(fast.layers[1].layers[1], fast_layers.BatchNormalization)
    sequential = keras.Sequential([keras.Input(SHAPE), keras.layers.BatchNormalization()])
    assert fast_layers.for_training(sequential, CPU) is sequential


def twice(layer):
    """Return a network that calls a layer on two maps."""
    image = keras.Input(SHAPE)
    first = keras.layers.Conv2D(SHAPE[-1], 3, padding="same")(image)
    return keras.Model(image, keras.layers.Add()([layer(image), layer(first)]))


def on_two_sizes(layer):
    """Return a network that calls a layer on a map and on a larger one."""
    image = keras.Input(SHAPE)
    outputs = [layer(image), layer(keras.layers.ZeroPadding2D(1)(image))]
    pooled = [keras.layers.GlobalMaxPooling2D()(output) for output in outputs]
    return keras.Model(image, keras.layers.Concatenate()(pooled))


def trained_and_fixed(layer):
    """Return a network that calls a layer in training and, a second time, never in training."""
    image = keras.Input(SHAPE)
    return keras.Model(image, keras.layers.Add()([layer(image), layer(image, training=False)]))


def deeply(layer):
    """Return a network with the layer in networks inside it, one of them called twice."""
    inner, image = network_of(layer), keras.Input(SHAPE)
    middle = keras.Model(image, inner(keras.layers.PReLU(shared_axes=[1, 2])(inner(image))))
    image = keras.Input(SHAPE)
    return keras.Model(image, keras.layers.Add()([middle(image), inner(image), layer(image)]))


USED_TWICE = {
    "prelu": (LAYERS["prelu"], (twice, on_two_sizes, trained_and_fixed, deeply)),
    "batchnorm": (LAYERS["batchnorm"], (twice, on_two_sizes, trained_and_fixed, deeply)),
    "pointwise": (lambda: keras.layers.Conv2D(SHAPE[-1], 1), (twice, on_two_sizes, deeply)),
    "whole_map": (LAYERS["whole_map"], (twice, on_two_sizes)),
    "network": (lambda: network_of(LAYERS["batchnorm"]()), (twice, trained_and_fixed, deeply)),
    "sequential": (
        lambda: keras.Sequential([keras.Input(SHAPE), LAYERS["batchnorm"]()]),
        (twice, trained_and_fixed, deeply),
    ),
}


@pytest.mark.parametrize(
    ("name", "use"),
    [(name, use) for name, (_, uses) in USED_TWICE.items() for use in uses],
)
def test_layers_and_networks_that_are_used_twice(name, use):
    network = use(USED_TWICE[name][0]())
    fast = fast_layers.for_training(network, CPU)
    assert (fast is not network) or name == "sequential"
    x, upstream = batch(), batch(network.output_shape[1:], seed=2)
    stock, ours = results(network, x, upstream, graph=False), results(fast, x, upstream)
    for key, value in stock.items():  # rounding of sums over 240 terms
        np.testing.assert_allclose(ours[key], value, rtol=2e-5, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("inner", ["network", "sequential", "distributed"])
def test_a_classifier_of_networks_used_twice_trains_as_the_stock_layers_do(inner):
    def backbone():
        keras.utils.set_random_seed(2)
        image, layers = keras.Input((8, 8, 3)), keras.layers
        x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(4, 1)(image))
        part = keras.Model(image, layers.GlobalAveragePooling2D()(x))
        if inner == "sequential":
            part = keras.Sequential([part, layers.Dense(5)])
        if inner == "distributed":
            both = layers.Concatenate(axis=1)([layers.Reshape((1, 8, 8, 3))(image)] * 2)
            vectors = layers.GlobalAveragePooling1D()(layers.TimeDistributed(part)(both))
        else:
            vectors = layers.Average()([part(image), part(layers.Rescaling(0.5)(image))])
        return keras.Model(image, layers.Dense(6)(vectors))

    x = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
    weights = []
    for options in ({}, {"run_eagerly": True}):  # an eager step has the stock layers
        model = FaceClassifier(backbone(), 3)
        model.compile(keras.optimizers.SGD(0.1), loss=losses.CosFaceLoss(), **options)
        model.fit(x, np.arange(6) % 3, batch_size=3, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for ours, stock in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, stock, atol=1e-5)  # float32


def test_classifier_trains_with_them_and_keeps_stock_layers(tmp_path):
    backbone = SphereFaceNet(4, input_shape=(16, 16, 3), embedding_dim=8)
    model = FaceClassifier(backbone, 3)
    x, y = np.zeros((4, 16, 16, 3), "float32"), np.array([0, 1, 2, 0])
    expected = [v.path for v in model.weights]
    model.compile("sgd", loss=losses.ASoftmaxLoss(margin=4))
    used = model._training_network.__self__
    assert any(isinstance(layer, fast_layers.PReLU) for layer in used.layers)
    model.fit(x, y, verbose=0)
    assert [v.path for v in model.weights] == expected
    assert not any(isinstance(layer, fast_layers.StandIn) for layer in model._flatten_layers())
    backbone.save(tmp_path / "embedder.keras")
    config = keras.models.load_model(tmp_path / "embedder.keras").get_config()
    assert "tf_sphereface" not in str(config)
    assert len(backbone.get_config()["layers"]) == len(config["layers"])


def test_a_backbone_with_one_slope_for_all_channels_trains():
    image = keras.Input((8, 8, 3))
    slope = keras.layers.PReLU(shared_axes=[1, 2, 3])
    features = slope(keras.layers.Conv2D(8, 3)(image))
    model = FaceClassifier(keras.Model(image, keras.layers.Flatten()(features)), 3)
    model.compile("sgd", loss=losses.ASoftmaxLoss(margin=4))
    model.fit(np.ones((4, 8, 8, 3), "float32"), np.array([0, 1, 2, 0]), verbose=0)
    assert np.isfinite(np.asarray(slope.alpha)).all()
    assert np.any(np.asarray(slope.alpha) != 0)


@pytest.mark.parametrize("side", [14, 56])
def test_a_strided_1x1_convolution_of_few_channels_does_not_end_the_process(side):
    """TensorFlow's own gradient to its kernel corrupts the memory, on some CPUs."""
    image = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(8, 1, strides=2)(image)
    backbone = keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalMaxPooling2D()(x)))
    model = FaceClassifier(backbone, num_classes=3)
    model.compile("sgd", losses.ArcFaceLoss())
    images = np.random.default_rng(0).normal(size=(1, side, side, 3)).astype("float32")
    history = model.fit(images, np.array([1]), batch_size=1, epochs=20, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}], ids=["graph", "xla"])
def test_training_moves_weights_and_averages_as_the_stock_layers_do(options):
    """With slopes of 1: a value that rounding takes across 0 would change the gradients."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 32, 32, 3)).astype("float32"), np.arange(8) % 3
    weights = []
    for choice in (options, {"run_eagerly": True}):
        keras.utils.set_random_seed(2)
        image = keras.Input((32, 32, 3))
        features = keras.layers.Conv2D(8, 3, use_bias=False)(image)
        features = keras.layers.BatchNormalization()(features)
        features = keras.layers.PReLU("ones", shared_axes=[1, 2])(features)
        features = keras.layers.DepthwiseConv2D(3, strides=2)(features)
        features = keras.layers.GlobalAveragePooling2D()(features)
        model = FaceClassifier(keras.Model(image, keras.layers.Dense(6)(features)), 3)
        model.compile(keras.optimizers.SGD(0.01), loss=losses.CosFaceLoss(scale=8), **choice)
        assert (model._training_network is model.backbone) == ("run_eagerly" in choice)
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for ours, stock in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-4, atol=1e-5)
