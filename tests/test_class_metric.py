"""ClassMetric, and Keras' metrics that misread a head."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tests.heads import CLASSES, head_outputs
from tf_sphereface.metrics import ClassMetric, MeanTargetAngle

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
    ("number", "kind", "head"),
    [
        (0, "stock", "angular"),
        (1, "stock", "sphereface2"),
        (2, "classifier", "angular"),
        (3, "classifier", "sphereface2"),
        (4, "classifier", "softmax"),
    ],
)
def test_metrics_of_keras_in_a_model(number, kind, head, tmp_path):
    """Two of the eight in each model, and one graph: all of them take seconds to trace."""
    x, labels = eight_features()
    chosen = list(KERAS_METRICS)[2 * number % 8 :][:2]
    metrics = [ClassMetric(KERAS_METRICS[name](), CLASSES, name=name) for name in chosen]
    model = small_model(
        kind, head, metrics=metrics, weighted_metrics=[ClassMetric("AUC", CLASSES, name="auc")]
    )
    model.run_eagerly = True
    model.fit(x, labels, verbose=0, batch_size=16)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    model.run_eagerly, loaded.run_eagerly = False, True
    for some in (model, loaded):
        found = some.evaluate(x, labels, verbose=0, return_dict=True, batch_size=16)
        outputs = model.predict(x, verbose=0)
        if kind == "classifier":
            outputs = np.asarray(model.head_layer(outputs))
        for name in chosen:
            expected = on_classes(KERAS_METRICS[name], outputs, labels)
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


@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
def test_each_output_has_its_own_metrics(argument):
    x, labels = eight_features()
    image = keras.Input((8,))
    heads = [sf.layers.AngularDense(CLASSES), keras.layers.Dense(CLASSES)]
    model = keras.Model(image, [head(image) for head in heads])
    own = [sf.losses.CosFaceLoss(), "mse"]
    for metric in MISREAD:
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
    top_k = keras.metrics.SparseTopKCategoricalAccuracy
    for classes, several in ((2, (1, 2)), (7, (2, 6, 7, 9))):
        tops = [top_k(k=k, name=f"top {k}") for k in several]
        model = small_model(kind, head, classes, metrics=["accuracy", *tops], run_eagerly=True)
        found = model.evaluate(x, labels % classes, 100, verbose=0, return_dict=True)
        outputs = np.asarray(model(x))
        if kind == "classifier":
            outputs = np.asarray(model.head_layer(outputs))
        order = np.argsort(-outputs[:, :classes], axis=1)
        hit = order == (labels % classes)[:, None]
        assert found["accuracy"] == pytest.approx(hit[:, 0].mean())
        for k in several:
            assert found[f"top {k}"] == pytest.approx(hit[:, :k].any(1).mean())


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


def test_arguments_are_fixed():
    for metric, name in ((sf.metrics.TARAtFAR(), "far"), (ClassMetric("auc", 3), "scale")):
        with pytest.raises(AttributeError, match=f"`{name}` of .* is fixed.*a new metric"):
            setattr(metric, name, 0.5)


def test_accuracy_by_name_is_that_of_one_hot_labels():
    outputs, labels = np.array([[1.0, -0.5, -2.0], [0.0, 2.0, -2.0], [3.0, 2.0, -4.0]]), [0, 1, 1]
    assert float(ClassMetric("accuracy", 2)(labels, outputs)) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="takes scores of classes"):
        ClassMetric(keras.metrics.Accuracy(), 2)


@pytest.mark.parametrize("metric", [sf.metrics.TARAtFAR(0.3), sf.metrics.EqualErrorRate()])
def test_cosines_are_not_read_from_a_softmax_head(metric):
    inputs = keras.Input((4,))
    model = sf.FaceClassifier(keras.Model(inputs, keras.layers.Dense(3)(inputs)), 2, head="softmax")
    with pytest.raises(ValueError, match="softmax head are none"):
        model.compile("sgd", metrics=[metric])


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("wrong", [[0.0, 1.7], np.array([0, 2**32 + 1])])
def test_labels_that_int32_would_hide_are_refused(wrong, eager):
    inputs = keras.Input((4,))
    model = sf.FaceClassifier(keras.Model(inputs, keras.layers.Dense(3)(inputs)), 2)
    model.compile("sgd", sf.losses.CosFaceLoss(8.0), run_eagerly=eager, jit_compile=False)
    x = np.ones((2, 4), "float32")
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="Labels must"):
        model.fit(x, np.array(wrong), verbose=0)
    model.fit(x, np.array([0.0, 1.0]), verbose=0)
    model.fit(x, np.array([0, 1], "int64"), verbose=0)


def test_an_auc_on_logits_gets_logits():
    """Keras keeps its `from_logits` under another name: it would take a sigmoid of a softmax."""
    rng = np.random.default_rng(0)
    labels, outputs = rng.integers(0, 4, 60), rng.normal(size=(60, 5)).astype("float32")
    metric = sf.metrics.ClassMetric(keras.metrics.AUC(from_logits=True, multi_label=True), 4)
    metric.update_state(labels, outputs)
    plain = keras.metrics.AUC(from_logits=True, multi_label=True)
    plain.update_state(np.eye(4)[labels], outputs[:, :4])
    assert float(metric.result()) == pytest.approx(float(plain.result()), abs=1e-6)
