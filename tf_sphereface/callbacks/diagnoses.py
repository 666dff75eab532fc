"""Diagnoses of a training run: each function returns a sentence, or None where all is well."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from tf_sphereface import angular
from tf_sphereface.callbacks.nonfinite_layer import single
from tf_sphereface.data.passes import Pass
from tf_sphereface.data.people import too_few, unbalanced
from tf_sphereface.layers.angular_dense import AngularDense
from tf_sphereface.schedules import ALMOST_ZERO, LambdaAnnealing
from tf_sphereface.utils import hardware
from tf_sphereface.utils.keras_private import all_layers
from tf_sphereface.utils.messages import and_more

AT_CHANCE = 0.02  # of ln C
FALLING = 0.01
UNDERFLOWS = {
    87.336: "-ln(1.2e-38), the smallest float32",
    16.118: "-ln(1e-7), where Keras clips probabilities",
}
NORM_TOO_SMALL = 0.1  # logits in [-0.1, 0.1]: the loss stays within 0.2 of ln C
NORM_TOO_LARGE = 1000.0  # 0.1 of cosine is e^100, which is beyond float32
NEARLY_ALL = 0.95  # of the embeddings
FELT = 0.05  # of the way from margin 1 to m
ARRIVED = 0.9  # of the way from margin 1 to the one that is felt at lambda's minimum
LATE = {"reach": 0.9, "power": 4.0}  # the curve of the preset `short`
LATE_OPTIONS = "--annealing fit --annealing-reach 0.9 --annealing-power 4"
LATER = 1.1


def at_chance(
    means: Sequence[float], classes: int | None, step: int, advice: str | None = None
) -> str | None:
    """Judge the mean losses of consecutive windows; `advice` is offered beside the rate."""
    if classes is None or classes < 2:
        return None
    chance = math.log(classes)
    close = all(abs(mean - chance) <= AT_CHANCE * chance for mean in means)
    if not close or means[0] - means[-1] > FALLING * chance:
        return None
    return (
        f"after {step} updates the loss sits at {means[-1]:.3f}, and ln({classes}) is "
        f"{chance:.3f}: nothing is learnt. Change the learning rate{or_else(advice)}."
    )


def slower_lambda(loss: Any, update: int, updates: int | None) -> str | None:
    """Say how lambda could come down later, or None where it has not come down yet.

    `update` updates are done, of `updates` in the whole run (None where that is not known).
    """
    annealing = getattr(loss, "annealing", None)
    if not isinstance(annealing, LambdaAnnealing):
        return None
    if _share_felt(loss, float(annealing(max(1, update)))) < FELT:
        return None
    if not updates:
        return "let lambda fall more slowly (a smaller gamma of LambdaAnnealing)"
    late = LambdaAnnealing.for_steps(updates, minimum=annealing.minimum or ALMOST_ZERO, **LATE)
    now, then = (_first_felt(loss, curve, updates) for curve in (annealing, late))
    if then > LATER * now:
        return (
            f"let lambda fall more slowly (its margin is felt from update {now} on; with "
            f"{LATE_OPTIONS} from {then} on)"
        )
    return (
        f"train longer (the margin is felt from update {now} on; with more epochs and "
        f"{LATE_OPTIONS} later)"
    )


def or_else(advice: str | None) -> str:
    """Return a further advice as the end of a sentence."""
    return "" if advice is None else f", or {advice}"


def underflow(mean: float) -> str | None:
    """Judge a mean loss."""
    for value, reason in UNDERFLOWS.items():
        if abs(mean - value) < 0.02:
            return (
                f"the loss is {mean:.3f}, {reason}: the true class has the probability 0 for "
                "every face, and no gradient can mend it. Use a loss on logits, and a lower "
                "learning rate."
            )
    return None


def norms(embeddings: NDArray[np.floating[Any]], step: int) -> tuple[str, str | None]:
    """Judge the norms of some embeddings, (n, embedding_dim)."""
    median = float(np.median(np.linalg.norm(embeddings.astype(np.float64), axis=1)))
    if median < NORM_TOO_SMALL:
        return "collapsed", (
            f"after {step} updates the embeddings' norms have collapsed to {median:.2g}: with "
            "logits that small the loss cannot leave ln(num_classes). Lower the weight decay or "
            "the learning rate."
        )
    if median > NORM_TOO_LARGE:
        return "exploded", (
            f"after {step} updates the embeddings' norms have exploded to {median:.2g}: softmax "
            "is a hard maximum, and gradients are 0 or huge. Are the images normalised, "
            "(x - 127.5) / 128? If so, lower the learning rate."
        )
    return "fine", None


def norm_range(embeddings: NDArray[np.floating[Any]], loss: Any, step: int) -> str | None:
    """Judge whether MagFace's range of lengths is that of some embeddings, (n, embedding_dim)."""
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    for outside, what in (
        (norms < loss.lower_norm, f"shorter than {loss.lower_norm:g}"),
        (norms > loss.upper_norm, f"longer than {loss.upper_norm:g}"),
    ):
        if np.mean(outside) >= NEARLY_ALL:
            return (
                f"after {step} updates {np.mean(outside):.0%} of the embeddings are {what} (median "
                f"{np.median(norms):.3g}), out of MagFace's range: they all have one margin, and "
                "its regularizer has no gradient. MagFaceLoss(lower_norm=..., upper_norm=...) "
                "takes the lengths that this network has."
            )
    return None


def unreachable(loss: Any, updates: int | None, done: int = 0) -> str | None:
    """Judge whether lambda's schedule comes down in a run of `updates`, after `done` others."""
    annealing = getattr(loss, "annealing", None)
    minimum = getattr(annealing, "minimum", None)
    if not updates or not callable(annealing) or minimum is None:
        return None
    last = float(annealing(done + updates))
    if last <= minimum or _felt(loss, last) - 1 >= ARRIVED * (_felt(loss, minimum) - 1):
        return None
    return (
        f"lambda will be {last:.4g} at the last of {updates} updates and never reach its minimum "
        f"{minimum:g}: the margin that is felt then is {_felt(loss, last):.2f}, of "
        f"{loss.margin}. Train longer, or scale the schedule to the run (--annealing fit, "
        "LambdaAnnealing.for_steps)."
    )


def not_felt(loss: Any, step: int) -> str | None:
    """Judge the lambda that a run ended with."""
    margin = getattr(loss, "margin", 1)
    if not hasattr(loss, "current_lambda") or margin <= 1:
        return None
    last = float(keras.ops.convert_to_numpy(loss.current_lambda()))
    if _share_felt(loss, last) >= FELT:
        return None
    return (
        f"the run ended after {step} updates at lambda {last:.4g}: the margin that was felt is "
        f"{_felt(loss, last):.2f}, of {margin}. It trained plain softmax."
    )


def labels(counts: NDArray[Any], names: Sequence[str] | None) -> str | None:
    """Judge how many images each class has."""
    counts = np.asarray(counts)
    name = (lambda i: str(names[i])) if names is not None else str
    empty = np.flatnonzero(counts == 0)
    found = []
    if len(empty):
        classes = and_more([name(int(i)) for i in empty], 5)
        verb = "has" if len(empty) == 1 else "have"
        found.append(
            f"{len(empty)} of {len(counts)} classes {verb} no image ({classes}): its centre "
            "only ever moves away from everything; leave it out"
        )
    found += [text for text in (unbalanced(counts, names), too_few(counts)) if text is not None]
    return "; ".join(found) + "." if found else None


def training_batches(begun: Sequence[Pass]) -> str | None:
    """Judge the `face_dataset` that is trained on; `begun` are those whose pass has just begun."""
    if len(begun) != 1 or begun[0].options.shuffle:
        return None
    return (
        "the training batches are not shuffled: a batch holds the faces of a few people, in the "
        "same order in each epoch. Train on face_dataset(..., shuffle=True); training=False is for "
        "predict and evaluate."
    )


def evaluated_batches(begun: Sequence[Pass], predicted: bool) -> str | None:
    """Judge the `face_dataset` that is evaluated or predicted, as `training_batches` does."""
    if len(begun) != 1:
        return None
    options, dropped, _ = begun[0]
    found = [f"augmented ({options.augment})"] * (options.augment != "none")
    found += ["shuffled, so that row k is not image k"] * (options.shuffle and predicted)
    found += [f"without {dropped} images that fill no batch"] * (dropped > 0)
    if not found:
        return None
    what = "predicts" if predicted else "evaluates"
    return (
        f"the network {what} faces as for training: {', and '.join(found)}. Make that dataset with "
        "face_dataset(..., training=False)."
    )


def other_people(trained: Sequence[str] | None, begun: Sequence[Pass]) -> str | None:
    """Judge whose faces are evaluated, beside the names that a `face_dataset` is trained on."""
    evaluated = begun[0].people if len(begun) == 1 else None
    if trained is None or evaluated is None or list(trained) == list(evaluated):
        return None
    return (
        f"the faces that are evaluated are of other people than those trained on "
        f"({and_more(list(evaluated), 3)}; {and_more(list(trained), 3)}): their labels name other "
        "people, so that val_accuracy and val_loss say nothing. Verify on people who are never "
        "seen: callbacks.Verification, callbacks.verify_on."
    )


def precision(model: keras.Model) -> str | None:
    """Judge whether this machine multiplies fast in the type that the layers compute in."""
    computed = {layer.compute_dtype for layer in all_layers(model)}
    if "bfloat16" in computed and not hardware.has_bfloat16():
        return (
            "the network computes in bfloat16, which this machine does not multiply faster: its "
            "convolutions take 1.4 to twelve times as long as in float32. Train in float32 "
            "(--precision float32, keras.mixed_precision.set_global_policy('float32'))."
        )
    if "float16" in computed and not hardware.gpu_capabilities():
        return (
            "the network computes in float16, for which a processor has no instructions: a step "
            "takes several times as long as in float32. It is for GPUs; train in float32 here "
            "(--precision float32, keras.mixed_precision.set_global_policy('float32'))."
        )
    return None


def val_loss(callbacks: Sequence[Any]) -> str | None:
    """Judge what other callbacks watch."""
    names = [type(c).__name__ for c in callbacks if getattr(c, "monitor", None) == "val_loss"]
    if not names:
        return None
    return (
        f"{', '.join(names)} watches val_loss, which changes with lambda at the same weights and "
        "cannot choose an epoch: watch verification_accuracy (callbacks.Verification, mode='max')."
    )


def val_loss_not_finite(logs: dict[str, Any]) -> str | None:
    """Judge an epoch's validation loss beside its training loss."""
    value = float(logs.get("val_loss", 0.0))
    if math.isfinite(value) or not math.isfinite(float(logs.get("loss", 0.0))):
        return None
    return (
        f"the validation loss is {value}, and the training loss is not: look in the validation "
        "images for NaN or infinity, and in their labels for some that are no class."
    )


def class_count(model: keras.Model) -> int | None:
    """Return the number of classes that a step of a `FaceClassifier` or stock model tells apart.

    None where a teacher is learnt from: the loss at chance is not known then.
    """
    if getattr(model, "distill_weight", 0):
        return None
    sampled = getattr(getattr(model, "head_layer", None), "sample_size", None)
    return sampled if isinstance(sampled, int) else label_count(model)


def label_count(model: keras.Model) -> int | None:
    """Return the number of classes that labels may name."""
    for layer in (model, *reversed(getattr(model, "layers", []))):
        count = getattr(layer, "num_classes", None)
        if isinstance(count, int):
            return count
    shape = getattr(model, "output_shape", None)
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


def embedding_network(model: keras.Model) -> keras.Model | None:
    """Return the functional model up to the embedding, or None where there is none."""
    if getattr(model, "compiles_inside_replica", False):
        return cast(keras.Model, model.backbone)
    for layer in reversed(getattr(model, "layers", [])):
        if isinstance(layer, AngularDense) and getattr(model, "inputs", None):
            return keras.Model(single(model.inputs), single(layer.input))
    return None


def embed(model: keras.Model, images: Any) -> NDArray[np.floating[Any]] | None:
    """Return the embeddings of some images, in inference mode."""
    network = embedding_network(model)
    if network is None:
        return None
    scale = getattr(model, "scale_pixels", None)  # a FaceClassifier normalises uint8 images
    images = images if scale is None else scale(images)
    return np.asarray(keras.ops.cast(network(images), "float32"))


def _felt(loss: Any, lambda_: float) -> float:
    return float(angular.effective_margin(loss.margin, lambda_))


def _share_felt(loss: Any, lambda_: float) -> float:
    """Return how far the margin that is felt is on the way from 1 to the loss's."""
    return (_felt(loss, lambda_) - 1) / (loss.margin - 1)


def _first_felt(loss: Any, curve: Any, updates: int) -> int:
    """Return the first update whose margin is felt, by bisection: lambda only falls."""

    def felt(update: int) -> bool:
        return _share_felt(loss, float(curve(update))) >= FELT

    return 1 + bisect_left(range(1, updates), True, key=felt)
