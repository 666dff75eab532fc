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
from tf_sphereface.eval import verification
from tf_sphereface.losses.head_output import join
from tf_sphereface.metrics import ClassMetric, EqualErrorRate, MeanTargetAngle, TARAtFAR

CLASSES = 7


def draw(seed: int, genuine: int, impostor: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping cosines of both classes, shuffled."""
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(0.4, 0.15, genuine), rng.normal(0.0, 0.15, impostor)]
    is_same = np.repeat([1, 0], [genuine, impostor])
    order = rng.permutation(len(scores))
    return np.clip(scores, -1, 1)[order].astype(np.float32), is_same[order]


def head_outputs(seed: int, rows: int, bias: float | None = None) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    cosines = np.clip(rng.normal(0, 0.3, (rows, CLASSES)), -1, 1).astype(np.float32)
    labels = rng.integers(0, CLASSES, rows)
    cosines[np.arange(rows), labels] = np.clip(rng.normal(0.5, 0.3, rows), -1, 1)
    norms = rng.uniform(0.5, 30, (rows, 1)).astype(np.float32)
    return np.asarray(join(cosines * norms, norms, bias)), labels, cosines


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


KERAS_METRICS = {
    "entropy": lambda: keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    "entropy of probabilities": keras.metrics.SparseCategoricalCrossentropy,
    "one-hot entropy": lambda: keras.metrics.CategoricalCrossentropy(from_logits=True),
    "f1": lambda: keras.metrics.F1Score(average="macro"),
    "auc": lambda: keras.metrics.AUC(multi_label=True),
    "precision": lambda: keras.metrics.Precision(class_id=2),
    "recall": lambda: keras.metrics.Recall(top_k=2),
    "top 2": lambda: keras.metrics.TopKCategoricalAccuracy(k=2),
}


def on_classes(make, outputs, labels, weights=None, scale=None) -> float:
    """Give a metric of Keras what it wants, in NumPy."""
    metric = make()
    logits = outputs[:, :CLASSES].astype(np.float64)
    if scale is not None:
        logits *= -scale / outputs[:, -1:]
    if not getattr(metric, "from_logits", False):
        logits = np.exp(logits - logits.max(1, keepdims=True))
        logits /= logits.sum(1, keepdims=True)
    given = labels if type(metric).__name__.startswith("Sparse") else np.eye(CLASSES)[labels]
    metric.update_state(given, logits.astype("float32"), sample_weight=weights)
    return float(metric.result())


@pytest.mark.parametrize("scale", [None, 16.0])
@pytest.mark.parametrize("bias", [None, -5.0])
@pytest.mark.parametrize("name", list(KERAS_METRICS))
def test_a_metric_of_keras_on_the_classes_alone(name, bias, scale):
    outputs, labels, _ = head_outputs(3, 60, bias)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, 60)
    for some_weights in (None, weights):
        metric = ClassMetric(KERAS_METRICS[name](), CLASSES, scale=scale)
        for _ in range(2):  # the second time after a reset
            metric.reset_state()
            for part in (slice(0, 25), slice(25, None)):
                some = None if some_weights is None else some_weights[part]
                metric.update_state(labels[part, None], outputs[part], sample_weight=some)
        expected = on_classes(KERAS_METRICS[name], outputs, labels, some_weights, scale)
        assert float(metric.result()) == pytest.approx(expected, abs=1e-4)
        again = ClassMetric.from_config(metric.get_config())
        assert again.get_config() == metric.get_config()


def small_model(kind: str, head: str = "angular", classes: int = CLASSES, **compiled):
    image = keras.Input((8,))
    embedding = keras.layers.Dense(5)(image)
    if kind == "classifier":
        model = sf.FaceClassifier(keras.Model(image, embedding), classes, head=head)
        loss = None
    else:
        biased = "sphereface2" if head == "sphereface2" else None
        model = keras.Model(image, sf.layers.AngularDense(classes, shared_bias=biased)(embedding))
        loss = sf.losses.SphereFace2Loss() if biased else sf.losses.ASoftmaxLoss(margin=1)
    model.compile("sgd", loss=loss, **compiled)
    return model


def eight_features(rows: int = 40):
    rng = np.random.default_rng(2)
    return rng.normal(size=(rows, 8)).astype("float32"), rng.integers(0, CLASSES, rows)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("stock", "angular"),
        ("stock", "sphereface2"),
        ("classifier", "angular"),
        ("classifier", "sphereface2"),
        ("classifier", "softmax"),
    ],
)
def test_metrics_of_keras_in_a_model(kind, head, tmp_path):
    x, labels = eight_features()
    metrics = [ClassMetric(make(), CLASSES, name=name) for name, make in KERAS_METRICS.items()]
    model = small_model(
        kind, head, metrics=metrics, weighted_metrics=[ClassMetric("AUC", CLASSES, name="auc")]
    )
    model.fit(x, labels, verbose=0, batch_size=16)
    model.save(tmp_path / "m.keras")
    for some in (model, keras.models.load_model(tmp_path / "m.keras")):
        found = some.evaluate(x, labels, verbose=0, return_dict=True, batch_size=16)
        outputs = model.predict(x, verbose=0)
        if kind == "classifier":
            outputs = np.asarray(model.head_layer(outputs))
        for name, make in KERAS_METRICS.items():
            expected = on_classes(make, outputs, labels)
            assert found[name] == pytest.approx(expected, abs=1e-4), name


class MyF1(keras.metrics.F1Score):
    """A metric of somebody who knows the head."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32"), 7)
        super().update_state(labels, keras.ops.softmax(y_pred[:, :7]))


MISREAD = [
    keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    keras.metrics.F1Score(average="macro"),
    keras.metrics.AUC(),
    keras.metrics.Precision(),
    keras.metrics.MeanIoU(num_classes=7),
    keras.metrics.BinaryAccuracy(),
    keras.metrics.CategoricalAccuracy,
    keras.metrics.MeanMetricWrapper(keras.losses.sparse_categorical_crossentropy),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    keras.losses.sparse_categorical_crossentropy,
    "sparse_categorical_crossentropy",
    "categorical_accuracy",
    "mse",
    "AUC",
]
READ = [
    "accuracy",
    "sparse_categorical_accuracy",
    keras.metrics.SparseCategoricalAccuracy(),
    keras.metrics.SparseTopKCategoricalAccuracy(k=3),
    MeanTargetAngle(),
    MyF1(average="macro"),
    sf.losses.CosFaceLoss(),
    lambda y_true, y_pred: y_pred[:, 0],
]


@pytest.mark.parametrize("metric", MISREAD)
@pytest.mark.parametrize("kind", ["stock", "classifier"])
@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
def test_a_metric_that_misreads_the_head_is_refused(kind, metric, argument):
    x, labels = eight_features()
    with pytest.raises(ValueError, match=r"cannot read what the head returns.*ClassMetric"):
        small_model(kind, **{argument: ["accuracy", metric]}).fit(x, labels, verbose=0)
    if kind == "stock":  # each output has its own metrics
        image = keras.Input((8,))
        heads = [sf.layers.AngularDense(CLASSES), keras.layers.Dense(CLASSES)]
        model = keras.Model(image, [head(image) for head in heads])
        own = [sf.losses.CosFaceLoss(), "mse"]
        model.compile("sgd", loss=own, **{argument: [[metric], ["mse"]]})
        with pytest.raises(ValueError, match=r"cannot read what the head returns"):
            model.evaluate(x, [labels, np.eye(CLASSES)[labels]], verbose=0)
        model.compile("sgd", loss=own, **{argument: [["accuracy"], ["mse"]]})
        model.evaluate(x, [labels, np.eye(CLASSES)[labels]], verbose=0)


@pytest.mark.parametrize("metric", READ)
@pytest.mark.parametrize("kind", ["stock", "classifier"])
def test_a_metric_that_reads_the_head_goes_as_it_is(kind, metric):
    small_model(kind, metrics=[metric]).evaluate(*eight_features(), verbose=0)


@pytest.mark.parametrize("kind", ["stock", "classifier"])
@pytest.mark.parametrize("head", ["angular", "sphereface2"])
def test_accuracy_and_top_k_do_not_count_the_last_columns(kind, head):
    """Of two classes and of many, k up to all of them and beyond."""
    x, labels = eight_features(200)
    for classes, k in ((2, 1), (2, 2), (7, 2), (7, 6), (7, 7), (7, 9)):
        top = keras.metrics.SparseTopKCategoricalAccuracy(k=k, name="top")
        model = small_model(kind, head, classes, metrics=["accuracy", top])
        found = model.evaluate(x, labels % classes, verbose=0, return_dict=True)
        outputs = model.predict(x, verbose=0)
        if kind == "classifier":
            outputs = np.asarray(model.head_layer(outputs))
        order = np.argsort(-outputs[:, :classes], axis=1)
        hit = order == (labels % classes)[:, None]
        assert found["accuracy"] == pytest.approx(hit[:, 0].mean())
        assert found["top"] == pytest.approx(hit[:, :k].any(1).mean())


def test_cross_entropy_as_a_metric_of_the_softmax_head():
    x, labels = eight_features()
    entropy = keras.metrics.SparseCategoricalCrossentropy
    model = small_model("classifier", "softmax", metrics=[entropy(from_logits=True, name="e")])
    found = model.evaluate(x, labels, verbose=0, return_dict=True)
    assert found["e"] == pytest.approx(found["loss"], rel=1e-5)
    for wrong in (entropy(), "sparse_categorical_crossentropy", keras.metrics.F1Score()):
        with pytest.raises(ValueError, match="ClassMetric"):
            small_model("classifier", "softmax", metrics=[wrong])


@pytest.mark.parametrize("metric", [keras.metrics.MeanIoU(num_classes=7), 3, keras.losses.Loss()])
def test_class_metric_wants_a_metric_of_scores(metric):
    with pytest.raises(ValueError, match="`metric` must be a metric of Keras that takes scores"):
        ClassMetric(metric, 7)


def test_class_metric_wants_all_classes():
    with pytest.raises(ValueError, match="is for 7 classes, and the output has 5 columns"):
        ClassMetric("auc", 7)([0], np.zeros((1, 5), "float32"))


def test_class_metric_counts_over_replicas(two_replicas):
    x, labels = eight_features()
    with two_replicas.scope():
        f1 = ClassMetric(keras.metrics.F1Score(average="macro"), CLASSES)
        model = small_model("classifier", metrics=[f1, ClassMetric("auc", CLASSES)])
    found = model.evaluate(x, labels, verbose=0, return_dict=True, batch_size=20)
    outputs = np.asarray(model.head_layer(model.backbone(x)))
    for name, make in (
        ("f1_score", lambda: keras.metrics.F1Score(average="macro")),
        ("auc", keras.metrics.AUC),
    ):
        assert found[name] == pytest.approx(on_classes(make, outputs, labels), abs=1e-4)
