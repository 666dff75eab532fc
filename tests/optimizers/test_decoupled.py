"""AdamW and Muon by parameter against NumPy, and in every way in which a classifier runs them."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface.optimizers import FaceAdamW, FaceMuon, treatment

RULES = [("^frozen", 0.0, 1.0), ("^slow", 0.1, 1.0), ("bias$", 1.0, 0.0)]
SHAPES = {
    "conv/kernel": (3, 3, 2, 4),
    "slow/kernel": (5, 4),
    "frozen/kernel": (4, 3),
    "depthwise/kernel": (3, 3, 4, 1),
    "fc/bias": (4,),
    "head/kernel": (4, 6),
}
FACTORS = {"frozen/kernel": (0, 1), "slow/kernel": (0.1, 1), "fc/bias": (1, 0)}


def variables_of(shapes=SHAPES):
    rng, variables = np.random.default_rng(0), []
    for path, shape in shapes.items():
        scope, name = path.split("/")
        with keras.name_scope(scope):
            variables.append(keras.Variable(rng.normal(size=shape).astype("float32"), name=name))
    return variables


def orthogonalized(matrix):
    """Five steps of Newton-Schulz with Muon's coefficients, by singular values, in float64."""
    u, s, v = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


class Oracle:
    """One weight's decoupled decay and step."""

    def __init__(self, value, muon, lr_mult, decay_mult):
        self.value = value.astype("float64")
        self.muon, self.lr, self.decay = muon, 0.01 * lr_mult, 0.5 * decay_mult
        self.m, self.v, self.t = 0.0, 0.0, 0

    def step(self, g):
        self.t += 1
        self.value = self.value * (1 - self.lr * self.decay)
        if self.muon:
            self.m = 0.95 * self.m + g
            flat = (g + 0.95 * self.m).reshape(-1, g.shape[-1])
            update = orthogonalized(flat) * 0.2 * np.sqrt(max(flat.shape))
            self.value = self.value - self.lr * update.reshape(g.shape)
            return
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g**2
        bias = np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        self.value = self.value - self.lr * bias * self.m / (np.sqrt(self.v) + 1e-7)


@pytest.mark.parametrize("mode", ["eager", "xla"])
@pytest.mark.parametrize("kind", [FaceAdamW, FaceMuon])
def test_each_weight_takes_its_own_step_and_decay(kind, mode):
    variables = variables_of()
    optimizer = kind(0.01, weight_decay=0.5, multipliers=RULES)
    optimizer.build(variables)
    by_muon = {"conv/kernel", "slow/kernel", "frozen/kernel"} if kind is FaceMuon else set()
    assert set(treatment(optimizer, variables).get("muon", [])) == by_muon
    oracles = [
        Oracle(v.numpy(), v.path in by_muon, *FACTORS.get(v.path, (1, 1))) for v in variables
    ]
    apply = optimizer.apply if mode == "eager" else tf.function(optimizer.apply, jit_compile=True)
    rng = np.random.default_rng(1)
    for _ in range(3):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in variables]
        apply([tf.constant(g) for g in gradients])
        for oracle, gradient in zip(oracles, gradients, strict=True):
            oracle.step(gradient.astype("float64"))
    for variable, oracle in zip(variables, oracles, strict=True):
        # float32; five polynomials of a matrix in a row
        np.testing.assert_allclose(variable.numpy(), oracle.value, atol=5e-5)


@pytest.mark.parametrize("kind", [FaceAdamW, FaceMuon])
def test_a_weight_that_is_released_later_begins_as_a_new_one(kind):
    """Moments that begin at 0 after 500 updates would else make steps up to 5 times too large."""
    shapes = {"fc/bias": (4,), "head/kernel": (4, 6)}
    bias, head = variables_of(shapes)
    optimizer = kind(0.01, weight_decay=0.5, released=("^(?!head/)", 500))
    optimizer.build([bias, head])
    same = kind.from_config(optimizer.get_config())
    assert tuple(same.released) == ("^(?!head/)", 500)
    optimizer.iterations.assign(500)
    oracle = Oracle(bias.numpy(), False, 1, 0)
    rng = np.random.default_rng(1)
    for _ in range(4):
        gradients = [rng.normal(size=shape).astype("float32") for shape in shapes.values()]
        optimizer.apply([tf.constant(g) for g in gradients])
        oracle.step(gradients[0].astype("float64"))
    np.testing.assert_allclose(bias.numpy(), oracle.value, atol=1e-5)


@pytest.mark.parametrize("shape", [(400, 20), (20, 400), (60, 20), (30, 20), (3, 3, 16, 8)])
@pytest.mark.parametrize("kind", ["full", "of rank 4", "ill-conditioned", "tiny"])
def test_a_long_matrix_is_orthogonalized_by_its_gram_matrix(kind, shape):
    rng = np.random.default_rng(0)
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    rank = 4 if kind == "of rank 4" else min(rows, columns)
    left, right = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
    if kind == "ill-conditioned":  # singular values fall to a billionth of the first
        left = left * np.geomspace(1, 1e-9, rank)
    matrix = (left @ right * (1e-20 if kind == "tiny" else 1)).astype("float32")
    expected = orthogonalized(matrix.astype("float64"))
    if kind == "tiny":  # Muon adds 1e-7 to the norm, so as not to divide by zero
        expected = 3.4445**5 * matrix / 1e-7
    orthogonal = FaceMuon().zeropower_via_newtonschulz5(matrix.reshape(shape), 5)
    scale = np.abs(expected).max()
    # float32; singular values below 3e-4 of the first are lost in a Gram matrix's rounding
    np.testing.assert_allclose(
        np.reshape(orthogonal, matrix.shape) / scale, expected / scale, atol=2e-3
    )


@pytest.mark.parametrize(("steps", "dtype"), [(10, "float32"), (5, "bfloat16"), (5, "float16")])
def test_a_gram_matrix_is_not_used_where_rounding_would_grow(steps, dtype):
    """Of a matrix of low rank: its Gram matrix has eigenvalues of 0, which rounding makes less."""
    rng = np.random.default_rng(0)
    matrix = keras.ops.cast(rng.normal(size=(576, 8)) @ rng.normal(size=(8, 64)), dtype)
    found = FaceMuon().zeropower_via_newtonschulz5(matrix, steps)
    expected = keras.optimizers.Muon().zeropower_via_newtonschulz5(matrix, steps)
    np.testing.assert_array_equal(np.asarray(found, "float32"), np.asarray(expected, "float32"))
    assert np.abs(np.asarray(found, "float32")).max() < 1


def test_the_centres_of_a_stock_model_are_adam_s():
    image = keras.Input((6,))
    model = keras.Model(image, sf.layers.AngularDense(5)(keras.layers.Dense(4, name="fc")(image)))
    parts = treatment(FaceMuon(), model.trainable_variables)
    assert parts["muon"] == ["fc/kernel"]


def test_what_decays_and_what_muon_takes_in_our_networks():
    for network in (
        sf.backbones.MobileFaceNet((32, 32, 3), 8),
        sf.backbones.IResNet(18, (16, 16, 3), 8),
    ):
        optimizer = FaceMuon(multipliers=None)
        model = sf.FaceClassifier(network, 5)
        parts = treatment(optimizer, model.trainable_variables)
        shapes = {v.path: tuple(v.shape) for v in model.trainable_variables}
        assert all(len(shapes[p]) > 1 and shapes[p][-1] > 1 for p in parts["muon"])
        left = [p for p in parts["adamw"] if p.endswith("kernel")]
        assert all(p.startswith("head/") or shapes[p][-1] == 1 for p in left)
        optimizer.build(model.trainable_variables)
        decays = {v.path for v in model.trainable_variables if optimizer.factors(v)[1]}
        assert decays == {path for path in shapes if path.endswith("kernel")}


@pytest.fixture(scope="module")
def train(two_replicas):
    """Return a function that trains in some way; each way once."""

    @functools.cache
    def train(kind, how):
        keras.config.set_dtype_policy(how if how.startswith("mixed") else "float32")
        strategy = tf.distribute.get_strategy()
        if how == "mirrored":
            strategy = two_replicas
        with strategy.scope():
            keras.utils.set_random_seed(0)
            layers = [keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(6)]
            backbone = keras.Sequential([keras.Input((6, 6, 1)), *layers])
            model = sf.FaceClassifier(backbone, 12, sample_rate=0.99 if how == "sampled" else 1.0)
            optimizer = kind(0.01, weight_decay=0.5, global_clipnorm=1.0)
            model.compile(optimizer, sf.losses.CosFaceLoss(8.0), jit_compile=how == "xla")
        x = np.random.default_rng(0).normal(size=(24, 6, 6, 1)).astype("float32")
        history = model.fit(x, np.arange(24) % 12, 12, 3, shuffle=False, verbose=0).history
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert copy.get_config() == optimizer.get_config()
        return history["loss"], model.backbone.get_weights()

    return train


@pytest.mark.parametrize("kind", [FaceAdamW, FaceMuon])
@pytest.mark.parametrize("how", ["mirrored", "xla", "sampled", "mixed_float16"])
def test_a_classifier_trains_by_them_as_on_one_device(kind, how, train):
    losses, weights = train(kind, how)
    if how in ("mixed_float16", "sampled"):  # it rounds, or starts from other centres
        assert losses[-1] < losses[0]
        return
    right, expected = train(kind, "one device")
    np.testing.assert_allclose(losses, right, rtol=1e-4)
    for a, b in zip(weights, expected, strict=True):
        # Adam divides by the root of tiny second moments: rounding grows
        np.testing.assert_allclose(a, b, atol=2e-3)
