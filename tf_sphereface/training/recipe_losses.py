"""The losses that a recipe names: their defaults, their checks, and how each is built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras

from tf_sphereface import losses
from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.classifier.heads import Head
from tf_sphereface.losses.sphereface_r import Version
from tf_sphereface.schedules import LambdaAnnealing
from tf_sphereface.utils.checks import check_choice, check_number, error


@dataclasses.dataclass(frozen=True)
class LossChoice:
    """One value of `Recipe.loss`: its defaults, the margins it allows, and how it is built.

    The default margins are for networks of some hundred people, but those of AdaFace, MagFace and
    CurricularFace, which are the papers', as in the classes in `losses`, for many thousands.
    Gradients are clipped because that of a loss with a scale is `scale / ||x||` times A-Softmax's,
    some 25 times on a fresh network: unclipped, the first updates blow up ||x||, and with it the
    gradient dies.
    """

    margin: float | None = None  # None: the loss has none
    scale: float | None = None  # None: the length of the embedding takes its place
    margins: tuple[int, ...] | None = None  # None: low <= margin < high holds
    low: float = 0.0
    high: float = math.inf
    unit: str = ""  # what the margin is, in words
    no_margin: str = "which has none"  # why no margin can be given, where there is none
    clip_norm: float = 0.0  # 0: no clipping
    head: Head = "angular"
    build: Callable[..., keras.losses.Loss] | None = (
        None  # (margin, scale, annealing); None: softmax
    )


def _sphereface_r(version: Version) -> LossChoice:
    return LossChoice(
        margin=1.5,
        scale=30.0,
        low=1.0,
        unit="times the angle",
        clip_norm=5.0,
        build=lambda margin, scale, _, **more: losses.SphereFaceRLoss(
            version, margin, scale, **more
        ),
    )


def _of_scale_and_margin(loss: Callable[..., keras.losses.Loss]) -> Callable[..., Any]:
    return lambda margin, scale, _, **more: loss(scale, margin, **more)


CHOICES: dict[str, LossChoice] = {
    "a-softmax": LossChoice(
        margin=4,
        margins=(1, 2, 3, 4),
        unit="times the angle",
        build=lambda margin, _, annealing, **more: losses.ASoftmaxLoss(margin, annealing, **more),
    ),
    "softmax": LossChoice(head="softmax"),
    "normface": LossChoice(
        scale=30.0,
        clip_norm=5.0,
        build=lambda _, scale, __, **more: losses.NormFaceLoss(scale, **more),
    ),
    "cosface": LossChoice(
        margin=0.2,
        scale=30.0,
        unit="taken off the cosine",
        clip_norm=5.0,
        build=_of_scale_and_margin(losses.CosFaceLoss),
    ),
    "arcface": LossChoice(
        margin=0.3,
        scale=30.0,
        high=math.pi,
        unit="radians, added to the angle",
        clip_norm=1.0,  # with 5 a small run collapsed: all embeddings opposite to all centres
        build=_of_scale_and_margin(losses.ArcFaceLoss),
    ),
    "adaface": LossChoice(
        margin=0.4,
        scale=64.0,
        high=math.pi,
        unit="off the cosine and, for short embeddings, radians on the angle",
        clip_norm=5.0,
        build=_of_scale_and_margin(losses.AdaFaceLoss),
    ),
    "magface": LossChoice(
        scale=64.0,
        no_margin="whose margin follows the length of the embedding, from 0.45 to 0.8 rad",
        clip_norm=5.0,
        build=lambda _, scale, __, **more: losses.MagFaceLoss(scale, **more),
    ),
    "curricularface": LossChoice(
        margin=0.5,
        scale=64.0,
        high=math.pi,
        unit="radians, added to the angle",
        clip_norm=1.0,
        build=_of_scale_and_margin(losses.CurricularFaceLoss),
    ),
    "sphereface-r-v0": _sphereface_r("v0"),
    "sphereface-r-v1": _sphereface_r("v1"),
    "sphereface-r-v2": _sphereface_r("v2"),
    "sphereface2": LossChoice(
        margin=0.4,
        scale=40.0,
        unit="on the adjusted cosine",
        clip_norm=5.0,
        head="sphereface2",
        build=_of_scale_and_margin(losses.SphereFace2Loss),
    ),
}


GROWING = ("cosface", "arcface")  # of which the margin can grow


def resolve_margin(loss: str, margin: float | None) -> float | None:
    """Return the margin that is really used: the one given, or the loss's default.

    It is an int for A-Softmax, None for a loss without a margin.

    Example:

    >>> resolve_margin("cosface", None), resolve_margin("a-softmax", 3.0)
    (0.2, 3)
    """
    choice = CHOICES[loss]
    if margin is None:
        return choice.margin
    if choice.margin is None:
        raise error("margin", f"be left out for {loss}, {choice.no_margin}", margin)
    if choice.margins is not None:
        if isinstance(margin, bool) or margin not in choice.margins:
            allowed = ", ".join(map(str, choice.margins))
            raise error("margin", f"be one of {allowed} ({choice.unit}) for {loss}", margin)
        return int(margin)
    if isinstance(margin, bool) or not choice.low <= margin < choice.high:
        limit = "" if choice.high == math.inf else f" and below {choice.high:.4g}"
        limits = f"be at least {choice.low:g}{limit} ({choice.unit}) for {loss}"
        raise error("margin", limits, margin)
    return float(margin)


def resolve_scale(loss: str, scale: float | None) -> float | None:
    """Return the scale that is really used: the one given, or the loss's default."""
    choice = CHOICES[loss]
    if scale is None:
        return choice.scale
    if choice.scale is None:
        why = "the length of the embedding takes its place"
        raise error("scale", f"be left out for {loss}: {why}", scale)
    return check_number("scale", scale, 0, open_low=True)


def resolve_clip_norm(loss: str, clip_norm: float | None) -> float:
    """Return the norm that gradients are clipped to: the one given, or the loss's default."""
    if clip_norm is None:
        return CHOICES[loss].clip_norm
    return check_number("clip_norm", clip_norm, 0)


def check_label_smoothing(loss: str, smoothing: float) -> None:
    """Raise ValueError where the labels cannot be smoothed so."""
    if check_number("label_smoothing", smoothing, 0, 1) and CHOICES[loss].build is None:
        raise error("label_smoothing", f"be 0 for {loss}", smoothing)


def check_margin_warm_up(loss: str, epochs: float) -> None:
    """Raise ValueError where the margin of a loss cannot grow over the first epochs."""
    if check_number("margin_warm_up", epochs, 0) and loss not in GROWING:
        why = "its lambda does that" if loss == "a-softmax" else f"only {' and '.join(GROWING)} can"
        raise error("margin_warm_up", f"be 0 for {loss}: {why}", epochs)


def check_gradient(loss: str, margin: float | None, gradient: str) -> None:
    """Raise ValueError where a recipe's gradient does not go with its loss."""
    check_choice("gradient", gradient, ("exact", "caffe"))
    used = resolve_margin(loss, margin)
    if gradient == "caffe" and (loss != "a-softmax" or used == 1):
        raise ValueError(
            "Argument `gradient` must be 'exact' but for the loss a-softmax with margin 2, 3 or 4: "
            "'caffe' is the released layer's backward. "
            f"Received: gradient='caffe', loss={loss!r}, margin={used}"
        )


def build_loss(
    loss: str,
    margin: float | None,
    scale: float | None,
    annealing: LambdaAnnealing,
    label_smoothing: float = 0.0,
    margin_warm_up: int = 0,
) -> keras.losses.Loss | None:
    """Return the loss that a recipe names; None for the stock softmax.

    `margin_warm_up` is in training steps.
    """
    build = CHOICES[loss].build
    if build is None:
        return None
    more: dict[str, Any] = {"label_smoothing": label_smoothing} if label_smoothing else {}
    if margin_warm_up:
        more["margin_warm_up"] = margin_warm_up
    return build(resolve_margin(loss, margin), resolve_scale(loss, scale), annealing, **more)


def describe_loss(model: FaceClassifier) -> str:
    """Say what a compiled classifier really learns from: margin, scale, a teacher's share.

    Example:

    >>> network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = FaceClassifier(network, 3)
    >>> model.compile(loss=losses.CosFaceLoss())
    >>> describe_loss(model)
    'CosFace with margin 0.35 (taken off the cosine), scale 64'
    """
    weight = getattr(model, "distill_weight", 0.0)
    if weight == 1:
        return "1 - cosine to the teacher; no label is used"
    margin = isinstance(model.loss, losses.MarginLoss)
    words = model.loss.describe() if margin else "softmax on a plain dense layer: no margin"
    if model.gradient == "caffe":
        words += "; the released Caffe layer's gradient"
    return (
        f"{weight:g} of 1 - cosine to the teacher, {1 - weight:g} of {words}" if weight else words
    )
