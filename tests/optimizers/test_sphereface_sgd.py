"""The paper's solver against its equations in NumPy, and in every way in which Keras runs it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_sphereface.backbones import MobileFaceNet, SphereFaceNet
from tf_sphereface.optimizers import (
    PAPER_MULTIPLIERS,
    SphereFaceSGD,
    match_multipliers,
    paper_optimizer,
)

PATHS = {  # path: (lr_mult, decay_mult) that the authors' network file gives it
    "conv1_1/kernel": (1, 1),
    "conv1_1/bias": (2, 0),
    "relu1_1/alpha": (1, 1),
    "conv3_4/kernel": (1, 1),
    "conv3_4/bias": (0, 0),
    "fc5/kernel": (1, 1),
    "fc5/bias": (2, 0),
    "head/kernel": (1, 1),
}


class Caffe:
    """Caffe's SGDSolver, transcribed: clip, regularise, momentum, update (v is subtracted)."""

    def __init__(self, lr, momentum=0.9, decay=5e-4, clip=None):
        self.lr, self.momentum, self.decay, self.clip = lr, momentum, decay, clip
        self.history: dict[str, np.ndarray] = {}

    def step(self, weights, gradients, multipliers):
        if self.clip is not None:
            norm = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
            gradients = {k: g * min(1.0, self.clip / norm) for k, g in gradients.items()}
        for key, (lr_mult, decay_mult) in multipliers.items():
            diff = gradients[key] + self.decay * decay_mult * weights[key]
            old = self.history.get(key, 0.0)
            self.history[key] = self.momentum * old + self.lr * lr_mult * diff
            weights[key] = weights[key] - self.history[key]


def variables_of(paths, seed=0):
    rng = np.random.default_rng(seed)
    variables = []
    for path in paths:
        scope, name = path.split("/")
        with keras.name_scope(scope):
            value = rng.normal(size=(3, 2)).astype("float32")
            variables.append(keras.Variable(value, name=name))
    assert [v.path for v in variables] == list(paths)
    return variables


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_equals_caffe(clip, mode) -> None:
    variables = variables_of(PATHS)
    # a large decay, so that a mistake in it cannot hide in the tolerance
    optimizer = SphereFaceSGD(0.1, 0.9, 0.05, global_clipnorm=clip)
    oracle = Caffe(0.1, 0.9, 0.05, clip)
    weights = {v.path: v.numpy().astype("float64") for v in variables}
    optimizer.build(variables)

    def apply(gradients):
        optimizer.apply(gradients)

    if mode != "eager":
        apply = tf.function(apply, jit_compile=mode == "xla")
    rng = np.random.default_rng(1)
    for _ in range(6):
        gradients = {path: rng.normal(size=(3, 2)) for path in PATHS}
        apply([tf.constant(g, "float32") for g in gradients.values()])
        oracle.step(weights, gradients, PATHS)
    for variable in variables:
        # float32 rounding over six steps of values about 1
        np.testing.assert_allclose(variable.numpy(), weights[variable.path], atol=2e-6)


def test_without_momentum_and_decay_it_is_gradient_descent() -> None:
    (variable,) = variables_of(["head/kernel"])
    before = variable.numpy()
    SphereFaceSGD(0.5, 0.0, None, multipliers=()).apply([tf.ones((3, 2))], [variable])
    np.testing.assert_allclose(variable.numpy(), before - 0.5, atol=1e-7)


def test_decay_equals_the_regulariser_of_half_the_factor() -> None:
    """L2(wd / 2) as a regulariser has the gradient wd * w: the same weights, another loss."""

    def train(optimizer, regularizer):
        keras.utils.set_random_seed(5)
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer=regularizer)]
        )
        model.compile(optimizer, loss="mse")
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 3))
        model.fit(x, y, epochs=4, batch_size=4, shuffle=False, verbose=0)
        return model.layers[-1].kernel.numpy()

    coupled = train(SphereFaceSGD(0.1, 0.9, 0.1, multipliers=[("bias$", 1, 0)]), None)
    regularised = train(keras.optimizers.SGD(0.1, 0.9), keras.regularizers.L2(0.05))
    decoupled = train(keras.optimizers.SGD(0.1, 0.9, weight_decay=0.1), None)
    np.testing.assert_allclose(coupled, regularised, atol=1e-6)
    assert np.abs(decoupled - coupled).max() > 1e-3


def test_rules_on_our_networks() -> None:
    found = match_multipliers(
        SphereFaceNet(20, (16, 16, 3), 8, unit_bias=True).trainable_variables, PAPER_MULTIPLIERS
    )
    for path, factors in found.items():
        layer, weight = path.split("/")
        stride_2 = layer in {f"conv{stage}_1" for stage in (1, 2, 3, 4)}
        expected = {"kernel": (1, 1), "alpha": (1, 1)}.get(weight)
        assert factors == (expected or ((2, 0) if stride_2 or layer == "fc5" else (0, 0))), path
    found = match_multipliers(MobileFaceNet((16, 16, 3)).trainable_variables, PAPER_MULTIPLIERS)
    for path, factors in found.items():
        assert factors == ((1, 0) if path.endswith(("gamma", "beta")) else (1, 1)), path


def test_first_matching_rule_holds() -> None:
    rules = [("kernel", 3, 0), ("head", 5, 1)]
    found = match_multipliers(variables_of(["head/kernel", "head/bias", "x/y"]), rules)
    assert found == {"head/kernel": (3, 0), "head/bias": (5, 1), "x/y": (1, 1)}


def test_exclude_from_weight_decay_is_honoured() -> None:
    first, second = variables_of(["a/kernel", "b/kernel"])
    before = first.numpy(), second.numpy()
    optimizer = SphereFaceSGD(0.1, 0.0, 0.5)
    optimizer.exclude_from_weight_decay(var_list=[first])
    optimizer.apply([tf.zeros((3, 2))] * 2, [first, second])
    np.testing.assert_array_equal(first.numpy(), before[0])
    np.testing.assert_allclose(second.numpy(), before[1] * (1 - 0.05), rtol=1e-6)


def test_sparse_gradient() -> None:
    """A head that gathers a sample of its centres has a sparse gradient; the decay is dense."""
    sparse, dense = variables_of(["a/kernel"]), variables_of(["a/kernel"])
    slices = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), tf.constant([1]), tf.constant([3, 2]))
    for variables, gradient in ((sparse, slices), (dense, tf.convert_to_tensor(slices))):
        optimizer = SphereFaceSGD(0.1, 0.9, 0.5)
        for _ in range(3):
            optimizer.apply([gradient], variables)
    np.testing.assert_allclose(sparse[0].numpy(), dense[0].numpy(), atol=1e-6)


def small_model(seed=1):
    keras.utils.set_random_seed(seed)
    image = keras.Input((4,), name="image")
    x = keras.layers.Dense(6, name="conv1_1")(image)
    x = keras.layers.PReLU(name="relu1_1")(x)
    return keras.Model(image, keras.layers.Dense(3, name="fc5")(x))


def data(n=16):
    rng = np.random.default_rng(7)
    return rng.normal(size=(n, 4)).astype("float32"), rng.integers(0, 3, n)


def fit(model, optimizer, *, batch_size=8, epochs=3, **compile_options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, **compile_options)
    model.fit(*data(), batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return [weight.numpy() for weight in model.weights]


def assert_same(found, expected, atol=1e-6) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_accumulation_is_one_update_of_the_mean(jit_compile) -> None:
    whole = fit(small_model(), SphereFaceSGD(0.1, weight_decay=0.1), batch_size=8)
    optimizer = SphereFaceSGD(0.1, weight_decay=0.1, gradient_accumulation_steps=4)
    parts = fit(small_model(), optimizer, batch_size=2, jit_compile=jit_compile)
    assert int(optimizer.iterations) == 6
    assert_same(parts, whole)


def test_jit_compile_equals_graph() -> None:
    results = [
        fit(small_model(), SphereFaceSGD(0.1, weight_decay=0.1), jit_compile=jit)
        for jit in (False, True)
    ]
    assert_same(*results)


def test_loss_scaling_does_not_scale_the_decay() -> None:
    plain = fit(small_model(), SphereFaceSGD(0.1, weight_decay=0.1))
    fixed = fit(small_model(), SphereFaceSGD(0.1, weight_decay=0.1, loss_scale_factor=1024.0))
    assert_same(fixed, plain)
    wrapped = keras.optimizers.LossScaleOptimizer(SphereFaceSGD(0.1, weight_decay=0.1))
    assert_same(fit(small_model(), wrapped), plain)


def test_mixed_float16() -> None:
    plain = fit(small_model(), SphereFaceSGD(0.1, weight_decay=0.1))
    keras.config.set_dtype_policy("mixed_float16")
    model = small_model()
    mixed = fit(model, SphereFaceSGD(0.1, weight_decay=0.1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    # float16 products: 11 bits of mantissa, six steps
    assert_same(mixed, plain, atol=5e-3)


def test_mirrored_strategy_equals_one_device(two_replicas) -> None:
    single = fit(small_model(), SphereFaceSGD(0.1, weight_decay=0.1, multipliers=None))
    with two_replicas.scope():
        mirrored = fit(small_model(), SphereFaceSGD(0.1, weight_decay=0.1))
    assert_same(mirrored, single)


def test_saved_training_goes_on_where_it_stopped(tmp_path) -> None:
    def optimizer():
        return paper_optimizer(0.1, 0.1, total=10, multipliers=[("bias$", 3.0, 0.5)])

    whole = fit(small_model(), optimizer(), epochs=4)
    model = small_model()
    fit(model, optimizer(), epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, SphereFaceSGD)
    assert int(loaded.optimizer.iterations) == 4
    loaded.fit(*data(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same([weight.numpy() for weight in loaded.weights], whole)


def test_config_round_trip() -> None:
    optimizer = SphereFaceSGD(
        0.2, 0.8, 0.01, [("bias", 1, 0)], nesterov=True, global_clipnorm=2.0, name="solver"
    )
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert tuple(again.multipliers) == (("bias", 1.0, 0.0),)
    assert SphereFaceSGD.from_config(SphereFaceSGD().get_config()).multipliers == PAPER_MULTIPLIERS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0"),
        ({"multipliers": [("(", 1, 1)]}, r"`multipliers` must hold rules.*Received: \('\('"),
        ({"multipliers": [("a", 1)]}, "`multipliers` must hold rules"),
        ({"multipliers": [("a", "x", 1)]}, "`multipliers` must hold rules"),
        ({"multipliers": [("a", -1, 1)]}, "negative"),
    ],
)
def test_errors(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        SphereFaceSGD(**arguments)


def rates(optimizer, batches):
    """Return the rate of every batch."""
    (variable,) = variables_of(["a/kernel"])
    found = []
    for _ in range(batches):
        found.append(float(optimizer.learning_rate))
        optimizer.apply([tf.zeros((3, 2))], [variable])
    return np.array(found)


def test_step_decay() -> None:
    # Caffe drops the rate at the update whose number, from 0, is the boundary.
    found = rates(paper_optimizer(0.1, boundaries=(3, 5), total=7), 7)
    np.testing.assert_allclose(found, [0.1] * 3 + [0.01] * 2 + [0.001] * 2, rtol=1e-6)
    np.testing.assert_allclose(rates(paper_optimizer(0.1, boundaries=(0.5,), total=4), 4),
                               [0.1, 0.1, 0.01, 0.01], rtol=1e-6)  # fmt: skip


def test_defaults_are_the_papers() -> None:
    optimizer = paper_optimizer()
    schedule = optimizer.learning_rate
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
    schedule = optimizer._learning_rate
    for step, rate in ((0, 0.1), (15999, 0.1), (16000, 0.01), (23999, 0.01), (24000, 0.001)):
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)
    assert list(paper_optimizer(total=2000)._learning_rate.boundaries) == [1142, 1713]


@pytest.mark.parametrize(("total", "drops"), [(1, []), (2, [1]), (3, [2]), (4, [2, 3])])
def test_a_run_of_a_few_updates_has_the_drops_that_fit_in(total, drops) -> None:
    expected = [0.1 * 0.1 ** sum(drop <= update for drop in drops) for update in range(total)]
    np.testing.assert_allclose(rates(paper_optimizer(total=total), total), expected, rtol=1e-6)


def test_boundaries_count_updates_under_accumulation() -> None:
    optimizer = paper_optimizer(0.1, boundaries=(2,), total=4, gradient_accumulation_steps=3)
    found = rates(optimizer, 12)[2::3]  # the batches that end an update
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_no_boundaries_is_a_constant_rate() -> None:
    optimizer = paper_optimizer(0.1, boundaries=())
    optimizer.learning_rate = 0.3
    assert float(optimizer.learning_rate) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "boundaries", [(5, 5), (7, 3), (0, 3), (3, 10), (3, 11), (2.5, 4), (0.9, 0.2)]
)
def test_wrong_boundaries(boundaries) -> None:
    with pytest.raises(ValueError, match="`boundaries` must be increasing"):
        paper_optimizer(boundaries=boundaries, total=10)


def test_wrong_total() -> None:
    with pytest.raises(ValueError, match="`total` must be positive"):
        paper_optimizer(total=0)
