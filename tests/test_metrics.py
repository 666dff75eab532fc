"""Metrics: against the exact evaluator, and summed over replicas as one device sees it."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

import tf_sphereface as sf
from tests.heads import CLASSES, head_outputs
from tf_sphereface.eval import verification
from tf_sphereface.metrics import ClassMetric, EqualErrorRate, MeanTargetAngle, TARAtFAR


def draw(seed: int, genuine: int, impostor: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping cosines of both classes, shuffled."""
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(0.4, 0.15, genuine), rng.normal(0.0, 0.15, impostor)]
    is_same = np.repeat([1, 0], [genuine, impostor])
    order = rng.permutation(len(scores))
    return np.clip(scores, -1, 1)[order].astype(np.float32), is_same[order]


@pytest.mark.parametrize("bias", [None, -5.0, 12.0])
def test_mean_target_angle(bias):
    outputs, labels, cosines = head_outputs(0, 50, bias)
    angles = np.degrees(np.arccos(cosines[np.arange(50), labels].astype(np.float64)))
    metric = MeanTargetAngle()
    metric.update_state(labels[:20], outputs[:20])
    metric.update_state(labels[20:, None], outputs[20:])
    # float32: the cosine is rebuilt from logit and norm, and arccos is steep near 1.
    assert float(metric.result()) == pytest.approx(angles.mean(), abs=1e-2)
    weights = np.random.default_rng(1).uniform(0, 3, 50)
    metric.reset_state()
    assert float(metric(labels, outputs, weights)) == pytest.approx(
        np.average(angles, weights=weights), abs=1e-2
    )


def test_a_softmax_head_has_no_angle():
    assert np.isnan(float(MeanTargetAngle()(np.array([0]), np.array([[1.0, 2.0, 0.5]]))))


def exact(scores: np.ndarray, is_same: np.ndarray) -> verification.VerificationResult:
    return verification.evaluate(scores, is_same, np.arange(len(scores)) % 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_the_exact_evaluator(seed):
    scores, is_same = draw(seed, 3000, 20000)
    result = exact(scores, is_same)
    eer, rates = EqualErrorRate("pairs"), {}
    for far in (0.1, 1e-2, 1e-3):
        rates[far] = TARAtFAR(far, "pairs")
    for piece in np.array_split(np.arange(len(scores)), 7):
        for metric in (eer, *rates.values()):
            metric.update_state(is_same[piece][:, None], scores[piece][:, None])
    bins = np.floor((scores + 1) / 1e-4).astype(int)
    fullest = max(np.bincount(bins[is_same == kind]).max() for kind in (0, 1))
    assert abs(float(eer.result()) - result.eer) <= fullest / 3000
    for far, metric in rates.items():
        exact_rate = result.tar_at_far[far]
        assert exact_rate - fullest / 3000 <= float(metric.result()) <= exact_rate + 1e-7
        assert float(metric.result()) < 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-9, 9), min_size=2, max_size=12),
    st.lists(st.integers(-9, 9), min_size=100, max_size=120),
)
def test_ties_and_order_change_nothing(genuine, impostor):
    """On scores that are each alone in their bin the histogram is the exact curve."""
    scores = np.array([*genuine, *impostor]) / 10 + 5e-5
    is_same = np.repeat([1, 0], [len(genuine), len(impostor)])
    far, tar, _ = roc_curve(is_same, scores, drop_intermediate=False)
    rate = float(TARAtFAR(0.1, "pairs")(is_same, scores))
    assert rate == pytest.approx(tar[far <= 0.1 + 1e-12].max(), abs=1e-6)
    again = np.random.default_rng(0).permutation(len(scores))
    one, other = EqualErrorRate("pairs"), EqualErrorRate("pairs")
    assert float(one(is_same, scores)) == float(other(is_same[again], scores[again]))


@pytest.mark.parametrize("bias", [None, -5.0, 12.0])
def test_the_heads_outputs_are_scores_of_images_and_centres(bias):
    outputs, labels, cosines = head_outputs(3, 400, bias)
    own = np.zeros(cosines.shape, bool)
    own[np.arange(400), labels] = True
    for metric in (TARAtFAR(1e-2), EqualErrorRate()):
        pairs = type(metric).from_config({**metric.get_config(), "inputs": "pairs"})
        # By one bin at most where rounding moves a cosine over an edge: at most 2 of 400.
        assert float(metric(labels, outputs)) == pytest.approx(
            float(pairs(own.ravel(), cosines.ravel())), abs=2 / 400
        )
        assert metric.counts.numpy().sum(axis=1).tolist() == [400 * (CLASSES - 1), 400]


def test_what_cannot_be_stated_is_nan():
    scores, is_same = draw(0, 50, 99)
    assert np.isnan(float(TARAtFAR(0.1, "pairs")(is_same, scores)))
    assert np.isnan(float(EqualErrorRate("pairs")([1, 1], [0.3, 0.4])))
    scores, is_same = draw(0, 50, 100)
    assert np.isfinite(float(TARAtFAR(0.1, "pairs")(is_same, scores)))
    scores[3] = np.nan
    assert np.isnan(float(TARAtFAR(0.1, "pairs")(is_same, scores)))
    assert np.isnan(float(EqualErrorRate("pairs")(is_same, scores)))


@pytest.mark.parametrize("far", [0.0, 1.0, -1.0])
def test_wrong_arguments(far):
    with pytest.raises(ValueError, match=r"`far` must be a number in \(0, 1\). Received"):
        TARAtFAR(far)
    with pytest.raises(ValueError, match="`inputs` must be one of 'head', 'pairs'"):
        EqualErrorRate("images")


def test_sample_weights_count_as_repeats():
    scores, is_same = draw(4, 200, 400)
    weights = np.random.default_rng(0).integers(0, 4, 600)
    repeated = np.repeat(np.arange(600), weights)
    for kind in (EqualErrorRate, TARAtFAR):
        options = {"inputs": "pairs", **({"far": 0.05} if kind is TARAtFAR else {})}
        found = kind(**options)(is_same, scores, weights)
        assert float(found) == pytest.approx(
            float(kind(**options)(is_same[repeated], scores[repeated])), abs=1e-7
        )


def metrics() -> list[keras.metrics.Metric]:
    return [MeanTargetAngle(), TARAtFAR(0.1), EqualErrorRate()]


def fit(kind: str, strategy) -> dict[str, float]:
    """One epoch at learning rate 0 over 44 images: the last batch is not full."""
    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(5)
    images = rng.normal(size=(44, 6)).astype("float32")
    labels = np.arange(44) % CLASSES
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        backbone = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        if kind == "classifier":
            model = sf.FaceClassifier(backbone, CLASSES)
            model.compile(keras.optimizers.SGD(0.0), sf.losses.ASoftmaxLoss(), metrics=metrics())
        else:
            outputs = sf.layers.AngularDense(CLASSES)(backbone.outputs[0])
            model = keras.Model(backbone.inputs, outputs)
            optimizer = keras.optimizers.SGD(0.0)
            loss = sf.losses.ASoftmaxLoss(step=optimizer)
            model.compile(optimizer, loss, metrics=metrics())
    history = model.fit(images, labels, batch_size=16, verbose=0, shuffle=False).history
    return {name: history[name][-1] for name in [metric.name for metric in metrics()]}


@pytest.mark.parametrize("kind", ["classifier", "stock"])
def test_replicas_add_up_to_one_device(two_replicas, kind):
    alone, mirrored = fit(kind, None), fit(kind, two_replicas)
    assert all(np.isfinite(value) for value in alone.values())
    assert 0 < alone["equal_error_rate"] < 1
    assert mirrored == pytest.approx(alone, rel=1e-6)


def test_in_a_compiled_and_saved_model(tmp_path):
    """Also under XLA, and loaded again by name."""
    keras.utils.set_random_seed(5)
    image = keras.Input((6,))
    model = keras.Model(image, sf.layers.AngularDense(CLASSES)(keras.layers.Dense(4)(image)))
    optimizer = keras.optimizers.SGD(0.0)
    loss = sf.losses.ASoftmaxLoss(step=optimizer)
    model.compile(optimizer, loss, metrics=metrics(), jit_compile=True)
    images, labels = np.random.default_rng(5).normal(size=(32, 6)), np.arange(32) % CLASSES
    history = model.fit(images, labels, batch_size=32, verbose=0).history
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="bind_step"):
        again = keras.models.load_model(tmp_path / "model.keras")
    again.run_eagerly = True  # to save another compilation
    figures = again.evaluate(images, labels, verbose=0, return_dict=True)
    for metric in metrics():
        assert figures[metric.name] == pytest.approx(history[metric.name][0], abs=1e-5)
        name = keras.saving.get_registered_name(type(metric))
        assert name == f"tf_sphereface>{type(metric).__name__}"


@pytest.mark.parametrize(
    "make",
    [lambda: TARAtFAR(0.1, inputs="pairs"), lambda: EqualErrorRate(inputs="pairs")],
)
@pytest.mark.parametrize("scores", [[90.0, 80.0, 10.0, 5.0], [-0.2, -0.4, -1.3, -1.5]])
def test_scores_that_are_no_cosines_give_no_figure(make, scores):
    """Percents, or negated distances: clipped into the last bin they would count as equal."""
    metric = make()
    metric.update_state(np.repeat([1, 0], [2, 200]), np.repeat(scores, [1, 1, 100, 100]))
    assert np.isnan(float(metric.result()))


def test_weights_are_no_further_impostors():
    same, scores = np.repeat([1, 0], [4, 50]), np.r_[[0.9] * 4, np.linspace(-0.5, 0.5, 50)]
    for weight, far in ((100.0, 0.01), (1.0, 0.2), (0.01, 0.2)):
        metric = TARAtFAR(far, inputs="pairs")
        metric.update_state(same, scores, np.full(54, weight))
        assert bool(np.isnan(float(metric.result()))) is (far == 0.01)


def test_a_metric_of_another_number_of_classes_is_refused():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = sf.FaceClassifier(network, 5)
    with pytest.raises(ValueError, match="is for 4 classes, and the model has 5"):
        model.compile("sgd", metrics=[ClassMetric("accuracy", 4)])
    model.compile("sgd", metrics=[ClassMetric("accuracy", 5)])
