"""The heads of a classifier, and the loss that belongs to each."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from typing import Any, Literal, get_args

import keras
import tensorflow as tf
from keras import ops

from tf_sphereface import losses
from tf_sphereface.layers import released_gradient
from tf_sphereface.layers.angular_dense import AngularDense
from tf_sphereface.layers.compile_checks import is_stock_loss
from tf_sphereface.layers.host_angular_dense import DEVICE, HostAngularDense
from tf_sphereface.layers.sampled_angular_dense import SampledAngularDense, sampling_doubt
from tf_sphereface.losses.margin_loss import wrong_head
from tf_sphereface.losses.update_count import OptimizerCount, check_step
from tf_sphereface.metrics import ClassMetric
from tf_sphereface.utils.checks import check_choice, check_integer, check_number
from tf_sphereface.utils.messages import SphereFaceWarning

logger = logging.getLogger("tf_sphereface")
Head = Literal["angular", "softmax", "sphereface2"]
_FIXED = ("num_classes", "head", "gradient", "sample_rate", "centers_per_class", "centers")


def make_head(
    head: Head,
    num_classes: int,
    gradient: released_gradient.Gradient,
    sample_rate: float,
    centers_per_class: int = 1,
    centers: str = DEVICE,
) -> keras.layers.Layer:
    """Return the head for these arguments of `FaceClassifier`, not built yet."""
    check_choice("head", head, get_args(Head))
    released_gradient.check_gradient(gradient, head)
    check_centers(centers_per_class, head, gradient, sample_rate)
    if sample_rate < 1 or centers != DEVICE:
        if head != "angular" or gradient != "exact":
            raise ValueError(
                'sample_rate below 1, and centers="host" or a folder, need head="angular" and '
                f'gradient="exact". Received: head={head!r}, gradient={gradient!r}'
            )
        if centers_per_class > 1:
            raise ValueError(
                'centers_per_class above 1 needs centers="device". '
                f"Received: centers_per_class={centers_per_class}, centers={centers!r}"
            )
        if centers != DEVICE:
            return HostAngularDense(num_classes, sample_rate, centers=centers, name="head")
        return SampledAngularDense(num_classes, sample_rate, name="head")
    if head != "softmax":
        constraint = keras.constraints.UnitNorm(axis=0) if gradient == "caffe" else None
        bias = "sphereface2" if head == "sphereface2" else None
        return AngularDense(
            num_classes,
            kernel_constraint=constraint,
            shared_bias=bias,
            centers_per_class=centers_per_class,
            name="head",
        )
    initializer = keras.initializers.VarianceScaling(1.0, "fan_in", "uniform")
    return keras.layers.Dense(
        num_classes, kernel_initializer=initializer, dtype="float32", name="head"
    )


def say_sampling_doubt(head: SampledAngularDense) -> None:
    """Log where a sample probably saves no time; nothing is changed."""
    if isinstance(head, HostAngularDense):  # is not meant to save time
        return
    gpu = bool(tf.config.list_physical_devices("GPU"))
    doubt = sampling_doubt(head.num_classes, head.sample_size, gpu=gpu)
    if doubt is not None:
        logger.info("%s", doubt)


def check_centers(
    centers_per_class: int, head: Head, gradient: released_gradient.Gradient, sample_rate: float
) -> None:
    """Raise ValueError where a head cannot have so many centres for each class."""
    plain = head != "softmax" and gradient == "exact" and sample_rate == 1
    if check_integer("centers_per_class", centers_per_class, 1) > 1 and not plain:
        raise ValueError(
            'centers_per_class above 1 needs head="angular" or "sphereface2", gradient="exact" and '
            f"sample_rate=1. Received: centers_per_class={centers_per_class}, head={head!r}, "
            f"gradient={gradient!r}, sample_rate={sample_rate:g}"
        )


def check_place(centers: str, replicas: int) -> None:
    """Raise ValueError where centres outside of the device are asked for over several replicas."""
    if centers != DEVICE and replicas > 1:
        raise ValueError(
            f"centers={centers!r} is for one device; several share the memory that the centres of "
            'a sample need: use centers="device" with sample_rate. '
            f"Received: {replicas} replicas"
        )


def check_conflict_cosine(
    conflict_cosine: float | None, head: Head, gradient: str, label_smoothing: float = 0.0
) -> float | None:
    """Return the cosine above which negatives are left out, or None; raise ValueError else."""
    if conflict_cosine is None:
        return None
    if head != "angular" or gradient != "exact" or label_smoothing:
        raise ValueError(
            'conflict_cosine needs head="angular", gradient="exact" and a loss without label '
            f"smoothing. Received: conflict_cosine={conflict_cosine!r}, head={head!r}, "
            f"gradient={gradient!r}, label_smoothing={label_smoothing:g}"
        )
    return check_number("conflict_cosine", conflict_cosine, 0.0, 1.0)


def without_conflicts(outputs: Any, labels: Any, conflict_cosine: float) -> Any:
    """Return an angular head's output in which no softmax counts conflicting negatives.

    A negative class whose cosine is above `conflict_cosine` is perhaps the same person under
    another label: its logit becomes so low that its probability, and its gradient, are 0.

    Args:
        outputs: of `AngularDense`, `(batch, num_classes + 1)`.
        labels: integers, `(batch,)`; the target is never left out.
        conflict_cosine: in [0, 1).

    Example:

    >>> outputs = tf.constant([[2.0, 1.0, -1.0, -2.0]])     # cos = 1, 1/2 and -1/2
    >>> without_conflicts(outputs, tf.constant([0]), 0.4).numpy().tolist()
    [[2.0, -20000.0, -1.0, -2.0]]

    Source: An et al., "Killing Two Birds with One Stone: Efficient and Robust Training of Face
    Recognition CNNs by Partial FC", CVPR 2022, arXiv:2203.15565.
    """
    logits, norm = outputs[:, :-1], -outputs[:, -1:]
    classes = ops.arange(logits.shape[-1], dtype="int32")
    negative = classes[None] != ops.cast(ops.reshape(labels, (-1, 1)), "int32")
    conflicts = ops.logical_and(negative, logits > conflict_cosine * norm)
    kept = ops.where(conflicts, -1e4 * ops.maximum(norm, 1.0), logits)
    return ops.concatenate([kept, outputs[:, -1:]], axis=-1)


def loss_for_head(head: Head, loss: Any) -> Any:
    """Return the loss to compile with, a copy, or raise where it does not fit the head."""
    if head == "softmax":
        if loss is None:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if isinstance(loss, losses.MarginLoss):
            raise ValueError(
                'A loss on unit class centres needs head="angular" (SphereFace2Loss: '
                f'head="sphereface2"); this model has head="softmax". Received: loss={loss!r}'
            )
        entropy = keras.losses.SparseCategoricalCrossentropy
        fits = isinstance(loss, entropy) and loss.from_logits
        if isinstance(loss, dict | list | tuple) or (is_stock_loss(loss) and not fits):
            raise ValueError(
                "The softmax head returns logits, one column for each class, and its labels are "
                "integers. Of the losses of Keras that is one for "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True), the default; or "
                f"pass a function of your own. Received: loss={loss!r}"
            )
        return loss
    if loss is None:
        return losses.SphereFace2Loss() if head == "sphereface2" else losses.ASoftmaxLoss()
    if inspect.isclass(loss) and issubclass(loss, losses.MarginLoss):
        loss = loss()
    if not isinstance(loss, losses.MarginLoss):
        raise ValueError(
            f'head="{head}" needs a loss of tf_sphereface.losses, such as ASoftmaxLoss(), alone '
            'and in no list; for a stock cross-entropy use head="softmax". '
            f"Received: loss={loss!r}"
        )
    if loss.needs_shared_bias is not (head == "sphereface2"):
        raise ValueError(wrong_head(loss))
    loss.fix()  # to set an argument of it would do nothing: the model has its own
    return copy.copy(loss)


def check_metrics(metrics: Any, num_classes: int) -> None:
    """Refuse a metric for another number of classes: it would leave some out, or add one."""
    for metric in keras.tree.flatten(metrics):
        if isinstance(metric, ClassMetric) and metric.num_classes != num_classes:
            raise ValueError(
                f"The metric {metric.name!r} is for {metric.num_classes} classes, and the model "
                f"has {num_classes}. Received: metric={metric!r}"
            )


def refuse_change(model: Any, name: str, value: Any) -> None:
    """Raise AttributeError where an argument of a head that is made gets another value."""
    if name in _FIXED and name in vars(model):
        raise AttributeError(
            f"`{name}` is fixed: the head was made of it. Make a new classifier of the same "
            f"backbone: FaceClassifier(model.backbone, ..., {name}={value!r})"
        )


def bind_loss(loss: Any, head_layer: keras.layers.Layer, optimizer: Any, uses_xla: bool) -> None:
    """Tell a compiled model's own copy of a loss where it reads and keeps what it needs."""
    if not isinstance(loss, losses.MarginLoss):
        return
    loss.xla = uses_xla
    if loss.first_state:
        loss.bind_state(head_layer.loss_state)
        _say_warm_up(loss, head_layer.loss_state.numbers, optimizer)
    if loss.needs_step:
        if not isinstance(loss.step, OptimizerCount | keras.Variable | tf.Variable | None):
            warnings.warn(
                "the loss's own `step` is left out: a FaceClassifier counts the updates of its "
                "optimizer. annealing=NUMBER holds lambda there",
                SphereFaceWarning,
                stacklevel=4,
            )
        loss.step = check_step(optimizer)


def _say_warm_up(loss: Any, numbers: dict[str, Any], optimizer: Any) -> None:
    """Log that a margin goes on growing, or has grown, where the optimizer begins anew."""
    count = int(numbers["margin_steps"].numpy()) if "margin_steps" in loss.first_state else 0
    if count and not int(optimizer.iterations.numpy()):
        logger.warning(
            "the margin goes on at step %d of the %d over which it grows, as the head has counted "
            "them: to begin at 0, "
            'model.head_layer.loss_state.numbers["margin_steps"].assign(0)',
            count,
            loss.margin_warm_up,
        )
