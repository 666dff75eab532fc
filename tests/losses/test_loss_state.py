"""The numbers of AdaFace and CurricularFace: how they move, and where they are kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tf_sphereface import FaceClassifier, losses
from tf_sphereface.layers import AngularDense
from tf_sphereface.training.checkpoint import read_checkpoint, save_checkpoint

BATCH, STEPS, CLASSES = 8, 4, 5
MAKE = {
    "adaface": lambda: losses.AdaFaceLoss(12.0, t_alpha=0.3),
    "curricularface": lambda: losses.CurricularFaceLoss(12.0, t_alpha=0.3),
}


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    lengths = rng.uniform(1, 60, (BATCH * STEPS, 1))
    lengths[::2] /= 3  # the two replicas' halves of a batch differ
    return (rng.normal(size=(BATCH * STEPS, 6)) * lengths).astype("float32"), np.arange(32) % 5


def network(kind: str, name: str, jit_compile: bool = False, rate: float = 0.0, **options: Any):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    base = keras.Model(inputs, keras.layers.Dense(4, use_bias=False)(inputs))
    model: keras.Model
    if kind == "stock":
        model = keras.Model(base.input, AngularDense(CLASSES)(base.output))
    else:
        model = FaceClassifier(base, CLASSES, **options)
    loss = MAKE[name]() if name in MAKE else losses.ArcFaceLoss()
    model.compile(keras.optimizers.SGD(rate), loss=loss, jit_compile=jit_compile)
    return model


def head(model: keras.Model) -> Any:
    return getattr(model, "head_layer", None) or model.layers[-1]


def state(model: keras.Model) -> dict[str, float]:
    numbers = head(model).loss_state.numbers
    return {name: float(variable.numpy()) for name, variable in sorted(numbers.items())}


def fit(model: keras.Model) -> None:
    model.fit(*data(), batch_size=BATCH, shuffle=False, verbose=0)


def oracle(reference: Any, name: str, model: keras.Model) -> tuple[dict[str, float], float]:
    """Return the numbers after an epoch without learning, and its mean loss, by hand."""
    x, labels = data()
    kernel = head(model).kernel.numpy()
    embedding = x.astype(float) @ model.get_weights()[0].astype(float)
    theta, norms = reference.angles(embedding, kernel), np.linalg.norm(embedding, axis=1)
    mean, deviation, t, total = 20.0, 100.0, 0.0, 0.0
    for start in range(0, len(x), BATCH):
        part = slice(start, start + BATCH)
        clipped = norms[part].clip(0.001, 100)
        mean = 0.3 * clipped.mean() + 0.7 * mean
        deviation = 0.3 * clipped.std(ddof=1) + 0.7 * deviation
        t = 0.3 * np.cos(theta[np.arange(len(x)), labels][part]).mean() + 0.7 * t
        for row, norm, label in zip(theta[part], clipped, labels[part], strict=True):
            cosines, own = np.cos(row), row[label]
            if name == "adaface":
                z = np.clip(0.333 * (norm - mean) / (deviation + 1e-3), -1, 1)
                target = math.cos(np.clip(own - 0.4 * z, 1e-3, math.pi - 1e-3)) - 0.4 * (1 + z)
            else:
                over = own + 0.5 >= math.pi
                target = math.cos(own) - 0.5 * math.sin(0.5) if over else math.cos(own + 0.5)
                cosines = np.where(cosines > target, cosines * (t + cosines), cosines)
            cosines[label] = target
            total += np.logaddexp.reduce(12 * cosines) - 12 * target
    numbers = {"norm_deviation": deviation, "norm_mean": mean} if name == "adaface" else {"t": t}
    return numbers, total / len(x)


@pytest.mark.parametrize("name", list(MAKE))
@pytest.mark.parametrize(
    ("kind", "jit_compile"), [("stock", False), ("classifier", False), ("classifier", True)]
)
def test_they_move_before_use_in_training_alone_and_are_saved(
    kind, jit_compile, name, reference, tmp_path: Path
):
    model = network(kind, name, jit_compile)
    numbers, loss = oracle(reference, name, model)
    history = model.fit(*data(), batch_size=BATCH, shuffle=False, verbose=0).history
    assert history["loss"][0] == pytest.approx(loss, rel=1e-5)
    assert state(model) == pytest.approx(numbers, rel=1e-5)
    after = state(model)
    value = model.evaluate(*data(), batch_size=BATCH, verbose=0)
    model.predict(data()[0], verbose=0)
    assert state(model) == after
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.run_eagerly = True
    assert state(loaded) == after
    assert loaded.evaluate(*data(), batch_size=BATCH, verbose=0) == pytest.approx(value, rel=1e-6)
    model.save_weights(tmp_path / "m.weights.h5")
    other = network(kind, name)
    other.load_weights(tmp_path / "m.weights.h5")
    assert state(other) == after
    # compiled anew, as for another learning rate
    other.compile("sgd", loss=MAKE[name](), run_eagerly=True)
    other.evaluate(*data(), batch_size=BATCH, verbose=0)
    assert state(other) == after


@pytest.mark.parametrize(
    ("kind", "name"),
    [("stock", "adaface"), ("classifier", "adaface"), ("classifier", "curricularface")],
)
def test_over_replicas_they_are_those_of_the_global_batch(kind, name, two_replicas):
    single = network(kind, name, rate=0.05)
    with two_replicas.scope():
        mirrored = network(kind, name, rate=0.05)
    mirrored.set_weights(single.get_weights())
    for model in (single, mirrored):
        fit(model)
    assert state(mirrored) == pytest.approx(state(single), rel=1e-5)
    for a, b in zip(single.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # float32 sums
    for variable in head(mirrored).loss_state.numbers.values():
        each = [float(v) for v in variable.value.values]
        assert each[0] == each[1]


def test_xla_over_replicas_is_refused(two_replicas):
    with two_replicas.scope(), pytest.raises(ValueError, match="AdaFaceLoss over 2 replicas"):
        network("classifier", "adaface", jit_compile=True)


def test_a_checkpoint_goes_on_exactly(tmp_path):
    model = network("classifier", "adaface", rate=0.05)
    fit(model)
    save_checkpoint(tmp_path / "state.npz", model, {})
    other = network("classifier", "adaface", rate=0.05)
    read_checkpoint(tmp_path / "state.npz").restore(other)
    for one in (model, other):
        fit(one)
    assert state(other) == state(model)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sampled_head_keeps_them_and_files_of_other_losses_load(tmp_path):
    sampled = {"sample_rate": 1 - 1e-9}
    model = network("classifier", "adaface", rate=0.05, **sampled)
    fit(model)
    assert state(model)["norm_mean"] != 20.0
    model.save(tmp_path / "m.keras")
    assert state(keras.models.load_model(tmp_path / "m.keras")) == state(model)
    for first, then in (("arcface", "adaface"), ("adaface", "arcface")):
        former = network("classifier", first)
        former.save_weights(tmp_path / "f.weights.h5")
        new = network("classifier", then)
        new.load_weights(tmp_path / "f.weights.h5")
        np.testing.assert_array_equal(head(new).kernel, head(former).kernel)


@pytest.mark.parametrize("values", [[7.0], [7.0, 7.0, 7.0], [np.nan, 3.0], [1e-6, 1e6]])
def test_one_example_equal_lengths_and_wild_ones(values):
    layer, loss = AngularDense(3), losses.AdaFaceLoss(t_alpha=1.0)
    layer.build((None, 2))
    loss.bind_state(layer.loss_state)
    x = np.array([[value, 0.0] for value in values], "float32")
    result = float(loss(np.zeros(len(x), "int32"), layer(x, training=True)))
    numbers = {name: float(v.numpy()) for name, v in layer.loss_state.numbers.items()}
    clipped = np.clip(values, 0.001, 100)
    if np.isnan(values).any():  # the loss says so; what was learnt of the lengths is kept
        assert numbers == {"norm_mean": 20.0, "norm_deviation": 100.0}
        return
    assert np.isfinite(result)
    deviation = 100.0 if len(values) == 1 else np.std(clipped, ddof=1)
    expected = {"norm_mean": np.mean(clipped), "norm_deviation": deviation}
    assert numbers == pytest.approx(expected, rel=1e-6)
    layer(x)
    loss(np.zeros(len(x), "int32"), layer(x * 2))
    assert {n: float(v.numpy()) for n, v in layer.loss_state.numbers.items()} == numbers


def test_models_that_do_not_say_when_they_train_and_shared_losses_are_refused():
    class Silent(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = AngularDense(3)

        def call(self, x: Any) -> Any:
            return self.head(x)

    silent = Silent()
    silent.compile("sgd", loss=losses.AdaFaceLoss())
    with pytest.raises(ValueError, match="`call` of Silent has no argument `training`"):
        silent.fit(np.ones((2, 4)), np.zeros(2), verbose=0)
    inputs = keras.Input((4,))
    shared = losses.AdaFaceLoss()
    for both in ([shared, shared], shared):
        model = keras.Model(inputs, [AngularDense(3)(inputs), AngularDense(3)(inputs)])
        model.compile("sgd", loss=both)
        with pytest.raises(ValueError, match="give each output a loss object of its own"):
            model.fit(np.ones((2, 4)), [np.zeros(2), np.zeros(2)], verbose=0)


@pytest.mark.parametrize("form", ["flat", "inside", "named", "subclassed"])
def test_one_of_several_outputs_keeps_its_numbers_however_it_is_made(form):
    """Unbound, AdaFace would train for ever on the statistics that it begins with."""
    image = keras.Input((6,))
    vector = keras.layers.Dense(4)(image)
    layer = AngularDense(CLASSES)
    people, age = layer(vector), keras.layers.Dense(1, name="age")(vector)
    if form == "inside":
        people = keras.Model(image, people, name="id")(image)
    elif form == "named":
        people = keras.layers.Activation("linear", name="id")(people)
    model: keras.Model = keras.Model(image, {"id": people, "age": age})
    if form == "subclassed":

        class Wrapped(keras.Model):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def call(self, x, training=None):
                return self.inner(x, training=training)

        model = Wrapped(model)
    model.compile("sgd", loss={"id": MAKE["adaface"](), "age": "mse"})
    x, labels = data()
    model.fit(x, {"id": labels, "age": np.zeros(len(x))}, batch_size=BATCH, verbose=0)
    numbers = {n: float(v.numpy()) for n, v in layer.loss_state.numbers.items()}
    assert numbers["norm_mean"] != 20
