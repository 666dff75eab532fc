"""Metrics on the output of the angular head, and on scored pairs: right under any strategy."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tf_sphereface.losses.head_output import BIAS_MARK, NORM_FLOOR, cosines_of, norms_of, or_nan
from tf_sphereface.utils.checks import check_choice, check_integer, check_number, error
from tf_sphereface.utils.keras_private import set_direction, takes_logits, wrapped_function

__all__ = ["ClassMetric", "EqualErrorRate", "MeanTargetAngle", "TARAtFAR", "hits", "without_copies"]

Inputs = Literal["head", "pairs"]
_FIXED = ("far", "inputs", "scale", "num_classes", "metric", "sparse")  # arguments of the metrics
_MOST = 1.01  # of a cosine: bfloat16 rounds by 0.004
BINS = 20_000  # of cosine, 1e-4 each: the step of the SphereFace authors' own search
_BLOCKS = 100
_OF_INDICES = (keras.metrics.IoU, keras.metrics.Accuracy)  # not of scores
IMPOSTORS_PER_FALSE_ACCEPT = 10  # as in eval.verification


@keras.saving.register_keras_serializable(package="tf_sphereface")
def hits(y_true: Any, y_pred: Any) -> Any:
    """Return 1 where the largest entry of a row stands at its label, else 0.

    As Keras' `sparse_categorical_accuracy`, which makes three more tables of the logits' size on
    the way (it corrects negative zeros), and compares labels as floats, which is exact up to 2^24.

    Args:
        y_true: integers `(batch,)` or `(batch, 1)`.
        y_pred: `(batch, columns)`.

    Returns:
        float32 `(batch,)`.

    Example:

    >>> hits([1, 0], ops.array([[0.1, 0.7, -3.0], [0.2, 0.3, -3.0]])).numpy().tolist()
    [1.0, 0.0]
    """
    labels = _labels(y_true)
    found = tf.argmax(ops.convert_to_tensor(y_pred), axis=-1, output_type=tf.int32)
    return tf.cast(tf.equal(found, labels), tf.float32)


def without_copies(metrics: Any) -> Any:
    """Replace "accuracy" in the argument `metrics` of `compile` by one that needs no copies.

    Example:

    >>> [getattr(metric, "name", metric) for metric in without_copies(["accuracy", "mae"])]
    ['accuracy', 'mae']
    """

    def replace(metric: Any) -> Any:
        if metric in ("accuracy", "acc"):
            metric = keras.metrics.MeanMetricWrapper(hits, name=metric)
        if wrapped_function(metric) is hits:  # one from a file, too
            set_direction(metric, "up")
        return metric

    return keras.tree.map_structure(replace, metrics)


@keras.saving.register_keras_serializable(package="tf_sphereface")
class MeanTargetAngle(keras.metrics.Mean):
    """Mean angle between an embedding and its own class centre, in degrees.

    What an angular margin pulls down, at any length of the embedding. Computed from the head's
    output, so it costs one gather and one arccos per row. Under a strategy its sums are added up,
    so the mean is over the global batch.

    Args:
        name: name in the logs.
        dtype: of the sums.

    Input: labels, integers `(batch,)` or `(batch, 1)`; the output of an angular or a sphereface2
    head, `(batch, columns)`. Result: a number in [0, 180]; NaN where the last column is no
    `-||x||`, as of a softmax head.

    Example:

    >>> metric = MeanTargetAngle()
    >>> outputs = ops.array([[1.0, -0.5, -2.0], [0.0, 2.0, -2.0]])  # 2 classes, then -||x||
    >>> round(float(metric(ops.array([0, 1]), outputs)), 3)
    30.0

    Source: theta_y of Liu et al., "SphereFace" (CVPR 2017), equation 6.
    """

    def __init__(self, name: str = "mean_target_angle", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        set_direction(self, "down")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch."""
        outputs, labels = ops.convert_to_tensor(y_pred), _labels(y_true)
        norms = norms_of(outputs)
        target = tf.gather(outputs, labels, batch_dims=1, axis=1)
        cosines = ops.clip(target / ops.maximum(norms, NORM_FLOOR), -1.0, 1.0)
        angles = or_nan(ops.arccos(cosines) * (180.0 / np.pi), norms > 0)
        super().update_state(angles, sample_weight=sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}


class _Fixed(keras.metrics.Metric):
    """A metric whose arguments stay: a compiled step would not see another one."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute once; refuse another value for an argument."""
        if name in _FIXED and name in self.__dict__:
            raise AttributeError(
                f"`{name}` of {type(self).__name__} is fixed: a training step that is compiled "
                "would go on with the old value. Compile with a new metric. "
                f"Received: {name}={value!r}"
            )
        super().__setattr__(name, value)


@keras.saving.register_keras_serializable(package="tf_sphereface")
class ClassMetric(_Fixed):
    """A metric of Keras on the classes of a head: F1, AUC, precision, recall, cross-entropy.

    A head returns logits, and an angular one columns after them that are no classes; labels are
    integers. The metric inside gets the classes' columns alone: as logits where it has
    `from_logits=True`, else as their softmax; and one-hot labels, or integers where its name begins
    with "Sparse". Counts and result are its own.

    Args:
        metric: a metric of Keras, or a name of one.
        num_classes: number of classes of the head.
        scale: factor of the cosines in the logits, as in the loss (`CosFaceLoss(scale=64)`). None
            (default) takes the head's logits as they are, `||x|| cos(theta)`, which are those of
            `ASoftmaxLoss` without its margin. The order of the classes of one example, and so F1
            without a threshold, is the same with any scale.
        name: name in the logs; default: that of `metric`.
        dtype: as in `keras.metrics.Metric`.

    Input: labels, integers `(batch,)` or `(batch, 1)`; the output of any head of all classes. A
    sampled head's training steps see a part of them and are refused: evaluate with it.

    Raises:
        ValueError: `metric` is none, or one of class indices (`MeanIoU`); the output has another
            number of classes.

    Example:

    >>> metric = ClassMetric(keras.metrics.F1Score(average="macro"), num_classes=2)
    >>> outputs = ops.array([[1.0, -0.5, -2.0], [0.0, 2.0, -2.0]])  # 2 classes, then -||x||
    >>> round(float(metric([0, 1], outputs)), 4)
    1.0
    """

    def __init__(
        self,
        metric: Any,
        num_classes: int,
        scale: float | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        named = "categorical_accuracy" if metric in ("accuracy", "acc") else metric
        inner = keras.metrics.get(named) if isinstance(named, str) else named
        inner = inner() if isinstance(inner, type) else inner
        if not isinstance(inner, keras.metrics.Metric) or isinstance(inner, _OF_INDICES):
            raise error("metric", "be a metric of Keras that takes scores of classes", metric)
        given = metric if isinstance(metric, str) else inner.name  # as Keras names it
        super().__init__(name=name or given, dtype=dtype)
        self.metric = inner
        self.num_classes = check_integer("num_classes", num_classes, 1)
        given = None if scale is None else check_number("scale", scale, 0.0, open_low=True)
        self.scale = given
        self.sparse = type(inner).__name__.startswith("Sparse")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch."""
        outputs, labels = ops.cast(y_pred, "float32"), _labels(y_true)
        if not 0 <= outputs.shape[-1] - self.num_classes <= 2:
            raise ValueError(
                f"ClassMetric {self.name!r} is for {self.num_classes} classes, and the output has "
                f"{outputs.shape[-1]} columns. (A sampled head trains on a part of the classes; "
                "compile with this metric to evaluate.)"
            )
        scores = outputs[:, : self.num_classes]
        if self.scale is not None:
            scores = self.scale * cosines_of(outputs, self.num_classes)
        if not takes_logits(self.metric):
            scores = ops.softmax(scores)
        if not self.sparse:
            labels = ops.one_hot(labels, self.num_classes)
        self.metric.update_state(labels, scores, sample_weight=sample_weight)

    def result(self) -> Any:
        """Return what the metric inside does."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Begin anew."""
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        return {
            "metric": keras.saving.serialize_keras_object(self.metric),
            "num_classes": self.num_classes,
            "scale": self.scale,
            "name": self.name,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ClassMetric:
        """Return the metric that `get_config` described."""
        config = dict(config)
        if isinstance(config["metric"], dict):
            config["metric"] = keras.saving.deserialize_keras_object(config["metric"])
        return cls(**config)


class _ScoreHistogram(_Fixed):
    """Counts genuine and impostor cosines in bins of 1e-4, so that any curve can be read off.

    The counts add up over batches and replicas, which a rate or a threshold would not.
    """

    def __init__(self, inputs: Inputs, name: str, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.inputs = check_choice("inputs", inputs, get_args(Inputs))
        # float64: float32 stops counting at 2^24, which 10,000 classes pass in a few steps.
        self.counts = self._variable("counts", (2, BINS))  # impostor, genuine
        self.not_finite = self._variable("not_finite", (1,))  # or no cosine
        self.impostors = self._variable("impostors", (1,))  # of whatever weight

    def _variable(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.add_variable(shape, "zeros", dtype="float64", aggregation="sum", name=name)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch."""
        outputs, labels = ops.convert_to_tensor(y_pred), _labels(y_true)[:, None]
        if self.inputs == "head":
            scores = cosines_of(outputs, outputs.shape[-1] - 1)
            genuine = tf.range(tf.shape(scores)[1])[None] == labels
        else:
            scores, genuine = tf.reshape(outputs, [-1, 1]), labels != 0
        scores = tf.cast(scores, "float32")
        weights = tf.ones_like(scores)
        if sample_weight is not None:
            weights *= tf.cast(tf.reshape(sample_weight, [-1, 1]), "float32")
        if self.inputs == "head":  # a column below -1 is the shared bias of sphereface2
            weights = tf.where(scores < -BIAS_MARK, 0.0, weights)
        low = -_MOST if self.inputs == "pairs" else tf.float32.min
        finite = (scores > low) & (scores < _MOST)  # false of NaN
        bad = tf.reduce_sum(tf.where(finite, 0.0, weights))
        self.not_finite.assign_add(tf.cast(bad, "float64")[None])
        bins = tf.cast((tf.where(finite, scores, 0.0) + 1.0) * (BINS / 2), "int32")
        bins = tf.clip_by_value(bins, 0, BINS - 1) + BINS * tf.cast(genuine, "int32")
        weights = tf.where(finite, weights, 0.0)
        added = tf.math.unsorted_segment_sum(
            tf.reshape(weights, [-1]), tf.reshape(bins, [-1]), 2 * BINS
        )
        self.counts.assign_add(tf.cast(tf.reshape(added, [2, BINS]), "float64"))
        others = tf.math.count_nonzero(~genuine & (weights > 0))
        self.impostors.assign_add(tf.cast(others, "float64")[None])

    def _rates(self) -> tuple[Any, Any]:
        """Return the impostor count, and FAR and TAR (2, BINS + 1) from each bin's lower edge on.

        The last column is for accepting nothing. NaN where a class is missing or a score no cosine.
        """
        counts = self.counts.value
        totals = tf.reduce_sum(counts, axis=1)
        accepted = tf.pad(_sums_from_each_on(counts), [[0, 0], [0, 1]])
        bad = self.not_finite.value > 0
        return self.impostors.value[0], or_nan(accepted / totals[:, None], ~bad)

    def get_config(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="tf_sphereface")
class TARAtFAR(_ScoreHistogram):
    """True accept rate at the threshold that keeps the false accept rate to `far`.

    Thresholds are multiples of 1e-4 of cosine, and the lowest that keeps to `far` is taken: the
    result is a rate that this threshold really has, at most the share of genuine scores within one
    bin below the exact figure of `eval.verification`, and never above it. As there, fewer than
    `10 / far` impostor scores cannot state it: the result is NaN.

    Counts are summed over batches and replicas, so the figure is the global one under any strategy.
    A batch costs one pass over its scores; the state is 320 kB.

    Args:
        far: false accept rate, in (0, 1).
        inputs: `"head"`: labels and the output of an angular or a sphereface2 head. The cosine to
            the own class centre is a genuine score, each to another centre an impostor score: it
            says how the classes separate, not how a verifier does on people it has not seen.
            `"pairs"`: 1 for genuine and 0 for impostor, `(n,)` or `(n, 1)`, and cosines likewise.
        name: name in the logs.
        dtype: kept for Keras; the counts are float64.

    Result: a fraction in [0, 1], or NaN.

    Raises:
        ValueError: `far` is outside (0, 1), or `inputs` is neither.

    Example:

    >>> metric = TARAtFAR(far=0.1, inputs="pairs")
    >>> is_same = np.repeat([1, 0], [4, 100])
    >>> scores = np.r_[0.9, 0.8, 0.2, 0.7, np.linspace(-0.5, 0.5, 100)]
    >>> float(metric(is_same, scores))
    0.75
    """

    def __init__(
        self,
        far: float = 1e-3,
        inputs: Inputs = "head",
        name: str = "tar_at_far",
        dtype: Any = None,
    ) -> None:
        super().__init__(inputs, name, dtype)
        self.far = check_number("far", far, 0.0, 1.0, open_low=True)
        set_direction(self, "up")

    def result(self) -> Any:
        """Return the rate, float32."""
        impostors, rates = self._rates()
        # The rates fall along the thresholds, so the count of those above is the first at or below.
        at = tf.reduce_sum(tf.cast(~(rates[0] <= self.far * (1 + 1e-9)), "int32"))
        rate = rates[1, tf.minimum(at, BINS)]
        known = impostors * self.far >= IMPOSTORS_PER_FALSE_ACCEPT * (1 - 1e-9)
        return tf.cast(or_nan(rate, known), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "far": self.far}


@keras.saving.register_keras_serializable(package="tf_sphereface")
class EqualErrorRate(_ScoreHistogram):
    """The rate at which false accepts equal false rejects.

    Interpolated between thresholds 1e-4 of cosine apart: it differs from the exact figure of
    `eval.verification` by no more than the share of scores in the bin where the two rates cross.
    Exact sums under any strategy, as for `TARAtFAR`.

    Args:
        inputs: `"head"` or `"pairs"`, as for `TARAtFAR`.
        name: name in the logs.
        dtype: kept for Keras; the counts are float64.

    Result: a fraction in [0, 1]; NaN while a class is missing.

    Raises:
        ValueError: `inputs` is neither.

    Example:

    >>> metric = EqualErrorRate(inputs="pairs")
    >>> float(metric([1, 1, 0, 0], [0.9, 0.1, 0.5, -0.2]))
    0.5
    """

    def __init__(
        self, inputs: Inputs = "head", name: str = "equal_error_rate", dtype: Any = None
    ) -> None:
        super().__init__(inputs, name, dtype)
        set_direction(self, "down")

    def result(self) -> Any:
        """Return the rate, float32."""
        rates = self._rates()[1]
        # FAR - FRR falls from 1, accepting all, to -1, accepting nothing: find where it changes.
        at = tf.reduce_sum(tf.cast(rates[0] + rates[1] >= 1.0, "int32")) - 1
        far, tar = tf.unstack(tf.gather(rates, tf.maximum(at, 0) + tf.range(2), axis=1))
        excess = far + tar - 1.0
        step = excess[0] / (excess[0] - excess[1])
        return tf.cast(far[0] + step * (far[1] - far[0]), "float32")


def _sums_from_each_on(counts: Any) -> Any:
    """Return the reversed cumulative sums of `(2, BINS)`, by blocks.

    XLA on a CPU spends seconds to minutes on compiling `cumsum` of this length; two products with
    triangles of ones, exact in float64, cost 16 million multiplications.
    """
    blocks = tf.reshape(counts, [2, _BLOCKS, BINS // _BLOCKS])
    within = blocks @ tf.constant(np.tri(BINS // _BLOCKS))
    after = tf.constant(np.triu(np.ones((_BLOCKS, _BLOCKS)), 1)) @ within[:, :, :1]
    return tf.reshape(within + after, [2, BINS])


def _labels(y_true: Any) -> Any:
    return tf.reshape(ops.cast(y_true, "int32"), [-1])
