"""StudentClassifier: a classifier that learns a teacher's embeddings beside the labels."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.classifier.replicas import replica_count
from tf_sphereface.utils.checks import check_integer, error


@keras.saving.register_keras_serializable(package="tf_sphereface")
class StudentClassifier(FaceClassifier):
    """A `FaceClassifier` whose embedding is drawn to a teacher's.

    The loss of a step is `(1 - W) * loss of the head + W * mean of (1 - cosine)`, the cosine that
    of the embedding and the teacher's, each brought to length 1 here. Where the two have another
    length, a matrix without bias from embedding to teacher is trained with them; it is no part of
    the embedder. The logs of `fit` carry `teacher_cosine`, the mean over the epoch.

    Training data are `(images, (labels, targets))`, targets the teacher's embeddings (batch,
    teacher_dim), as `FaceSource.with_targets` gives them. Weights of the images, if there are any,
    count in both parts. With W = 1 the head is not trained, and the labels change nothing; where
    its centres are not those of the teacher's space, or there is one class, `accuracy` is NaN.

    Args:
        backbone: as in `FaceClassifier`.
        num_classes: as there.
        teacher_dim: length of the teacher's embeddings, >= 1.
        distill_weight: W, from 0, the labels alone, to 1, the teacher alone.
        **kwargs: the other arguments of `FaceClassifier`.

    Raises:
        ValueError: an argument is out of range, or data without targets are trained on.

    Example:

    >>> backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = StudentClassifier(backbone, 3, teacher_dim=6, distill_weight=0.5)
    >>> model.compile("sgd", metrics=["accuracy"])
    >>> x, labels = keras.random.normal((6, 8)), keras.ops.array([0, 1, 2, 0, 1, 2])
    >>> dataset = tf.data.Dataset.from_tensors((x, (labels, keras.random.normal((6, 6)))))
    >>> history = model.fit(dataset, verbose=0).history
    >>> -1 <= history["teacher_cosine"][0] <= 1
    True

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, with the cosine of
    embeddings in place of the soft labels.
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        *,
        teacher_dim: int,
        distill_weight: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **kwargs)
        self.teacher_dim = check_integer("teacher_dim", teacher_dim, 1)
        self.distill_weight = check_distill_weight(distill_weight)
        self.projection: keras.layers.Dense | None = None
        dim = int(backbone.output_shape[-1])
        if dim != self.teacher_dim:
            self.projection = keras.layers.Dense(
                self.teacher_dim,
                use_bias=False,
                kernel_initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
                dtype="float32",
                name="projection",
            )
            self.projection.build((None, dim))
        self.teacher_cosine = keras.metrics.Mean(name="teacher_cosine")

    def to_teacher(self, embedding: Any) -> Any:
        """Return embeddings in the teacher's space, unit vectors, float32 (batch, teacher_dim)."""
        projected = embedding if self.projection is None else self.projection(embedding)
        return _unit(projected)

    def _whole_loss(
        self, loss: Any, embedding: Any, sample_weight: Any, *targets: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Blend the head's loss with the mean distance from the teacher."""
        cosine = ops.sum(self.to_teacher(embedding) * _unit(targets[0]), axis=-1)
        distance = 1.0 - cosine
        if sample_weight is not None:
            distance = distance * ops.cast(ops.reshape(sample_weight, (-1,)), "float32")
        weight = self.distill_weight
        taught = weight * ops.mean(distance) / replica_count()  # as Keras shares a mean out
        whole = taught if weight == 1 else (1.0 - weight) * loss + taught
        return whole, {"teacher_cosine": ops.mean(cosine)}

    def _told(self, y: Any) -> tuple[Any, ...]:
        """Return checked labels and, in training, targets."""
        labels, targets = _parts(y)
        checked = super()._told(labels)
        return checked if targets is None else (*checked, targets)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Apply one update and return the logs."""
        if _parts(keras.utils.unpack_x_y_sample_weight(data)[1])[1] is None:
            raise ValueError(
                "StudentClassifier takes (images, (labels, targets)), as FaceSource.with_targets "
                "gives them; got no targets"
            )
        return super().train_step(data)

    def _track_loss(self, loss: Any, x: Any, logs: dict[str, Any]) -> None:
        """Update the reported loss, and the cosine to the teacher."""
        super()._track_loss(loss, x, logs)
        cosine = logs.pop("teacher_cosine", None)
        if cosine is not None:
            count = tf.shape(keras.tree.flatten(x)[0])[0]
            self.teacher_cosine.update_state(cosine, sample_weight=count)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate one batch by its labels, and return the logs."""
        logs = super().test_step(data)
        logs.pop("teacher_cosine", None)
        return logs

    def training_names(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return metrics under the names of training's logs."""
        cosine = {name: value for name, value in results.items() if name == "teacher_cosine"}
        others = {name: value for name, value in results.items() if name not in cosine}
        return {**super().training_names(others), **cosine}

    def get_metrics_result(self) -> dict[str, Any]:
        """Return the metrics; the accuracy is NaN where labels tell nothing."""
        results = dict(super().get_metrics_result())
        untaught = self.distill_weight == 1 and self.projection is not None
        if "accuracy" in results and (self.num_classes == 1 or untaught):
            results["accuracy"] = ops.convert_to_tensor(math.nan, "float32")
        return results

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the head's loss of embeddings `y_pred`."""
        return super().compute_loss(x, _parts(y)[0], y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics with the head's logits for embeddings `y_pred`."""
        return super().compute_metrics(x, _parts(y)[0], y_pred, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"teacher_dim": self.teacher_dim, "distill_weight": self.distill_weight}
        return {**super().get_config(), **own}


def check_distill_weight(weight: Any) -> float:
    """Return the argument `distill_weight`, or raise ValueError."""
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight <= 1:
        text = "be a number from 0, the labels alone, to 1, the teacher alone"
        raise error("distill_weight", text, weight)
    return float(weight)


def _parts(y: Any) -> tuple[Any, Any]:
    """Return the labels and the targets of a batch, None where it has none."""
    if isinstance(y, tuple | list) and len(y) == 2:
        return y[0], y[1]
    return y, None


def _unit(vectors: Any) -> Any:
    vectors = ops.cast(vectors, "float32")
    squared = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squared, 1e-24))
