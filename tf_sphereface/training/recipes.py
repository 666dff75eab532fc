"""Recipes: all that decides how a network is trained."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from tf_sphereface.classifier.heads import check_centers, check_conflict_cosine
from tf_sphereface.classifier.student import check_distill_weight
from tf_sphereface.data.options import Augment
from tf_sphereface.layers.released_gradient import Gradient
from tf_sphereface.layers.sampled_angular_dense import check_sample_rate
from tf_sphereface.optimizers import Decay
from tf_sphereface.training import recipe_losses
from tf_sphereface.utils import hardware
from tf_sphereface.utils.checks import check_choice, check_integer, check_number, error

LOSSES = tuple(recipe_losses.CHOICES)
Backbone = Literal[
    "sphereface4",
    "sphereface10",
    "sphereface20",
    "sphereface36",
    "sphereface64",
    "mobilefacenet",
    "iresnet18",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "iresnet200",
]
Annealing = Literal["paper", "fit"]
Optimizer = Literal["sgd", "adamw", "muon"]
BACKBONES: tuple[str, ...] = get_args(Backbone)
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
FINE_TUNING = ("start_from", "freeze_epochs", "freeze_norm", "body_rate")
DISTILLATION = ("teacher", "distill_weight")
ANNEALINGS: tuple[str, ...] = get_args(Annealing)
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
SCHEDULES: tuple[str, ...] = get_args(Decay)
DECOUPLED = {"learning_rate": 1e-3, "weight_decay": 0.05}
"""What AdamW and Muon begin with, for whom the rates and decays of SGD are no guide."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained.

    Attributes:
        backbone: one of `BACKBONES`; with `start_from` the network's name.
        embedding_dim: length of the embedding.
        input_size: (height, width) of the faces, in pixels.
        loss: one of `LOSSES`; `"softmax"` is the plain baseline, on a dense layer with bias.
        margin: None: the loss's default in `recipe_losses`. A-Softmax takes 1, 2, 3 or 4.
        margin_warm_up: epochs over which the margin grows from 0, >= 0; for cosface and arcface.
        scale: of the cosines; None: the loss's default. A-Softmax and softmax have none.
        label_smoothing: e, share of the target that all C classes share, in [0, 1): the label keeps
            `1 - e + e / C`; not for softmax.
        class_weights: None, or `"balanced"`: each person weighs alike, however many faces there
            are; a face of person c weighs `n / (C n_c)`.
        clip_norm: global norm that gradients are clipped to, 0: none; None: the loss's default.
        gradient: `"exact"`, or `"caffe"`: the released layer's, for A-Softmax.
        sample_rate: share of the class centres that a step sees, in (0, 1]; see `sampling`.
        centers_per_class: centres of each person, >= 1 (sub-center ArcFace; with any loss but
            softmax). With several, `data audit --labels` lists doubtful images.
        conflict_cosine: None, or a cosine in [0, 1) above which an image's negative classes are
            left out of its loss, as in `FaceClassifier`; not with `label_smoothing`.
        annealing: `"paper"`, lambda by the released layer's constants, or `"fit"`, the same curve
            scaled to the run.
        lambda_minimum: where lambda stops, >= 0. With `"fit"` and 0, which the curve never reaches,
            it is scaled to reach 0.05, where the effective margin is that of 0 within 4 %.
        annealing_reach: with `"fit"`, the share of the run after which the minimum is reached, in
            (0, 1].
        annealing_power: with `"fit"`, the exponent of the curve, > 0. 1 is the released layer's; a
            larger one falls later, as a run of some hundred updates needs.
        epochs: passes over the data, >= 1.
        batch_size: faces in a step, over all replicas.
        optimizer: `"sgd"` (`SphereFaceSGD`), `"adamw"` (`FaceAdamW`) or `"muon"` (`FaceMuon`);
            `with_optimizer` changes rate and decay with it.
        learning_rate: the highest, after the warm-up.
        schedule: how it falls: `"step"`, by 10 at each of `drops`, `"cosine"` or `"polynomial"`, a
            straight line, to 0 at the end of the run; see `optimizers.WarmUpDecay`.
        warm_up: epochs over which it rises, >= 0; 0.5 is half of the first one.
        drops: shares of the run, in (0, 1), after which the rate of `"step"` is divided by 10.
        momentum: of SGD.
        weight_decay: of SGD coupled, gradient `weight_decay * w`; of the others decoupled, a share
            `learning_rate * weight_decay` of w in each update.
        ema: momentum of the average of the network's weights, in [0, 1), such as 0.999; it is what
            is verified and kept then. 0: no average.
        dropout: share of the embedding layer's inputs that are dropped in training, in [0, 1).
        augment: `"none"`, `"mirror"`, `"strong"` (mirror, shift, light, erasing), `"quality"`
            (mirror, poor pictures) or `"warp"` (mirror, turn, scale, shift, light).
        precision: a Keras dtype policy, or `"auto"`: `mixed_bfloat16` where the GPUs multiply in
            bfloat16 (without a GPU, the processor), `float32` elsewhere; see `policy`.
        seed: of initialisation, order and augmentation.
        start_from: SHA-256 of the network that training starts from (`Pretrained.sha256`), whose
            own are then `backbone`, `embedding_dim` and `input_size`; None: from random weights.
            The next three need it.
        freeze_epochs: so many epochs train the head alone, from 0 to `epochs`.
        freeze_norm: whether batch normalisation stays as it is: statistics, scale and offset.
        body_rate: learning rate of the backbone over that of the head, > 0.
        teacher: SHA-256 of the embedder that is learnt from (`Teacher.sha256`); None: none.
        distill_weight: with a teacher, its share W of the loss, from 0 to 1: `(1 - W) * margin loss
            + W * (1 - cosine to the teacher)`; 1 needs no labels.
    """

    backbone: str = "sphereface20"
    embedding_dim: int = 512
    input_size: tuple[int, int] = (112, 96)
    loss: str = "a-softmax"
    margin: float | None = None
    margin_warm_up: float = 0.0
    scale: float | None = None
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | None = None
    clip_norm: float | None = None
    gradient: Gradient = "exact"
    sample_rate: float = 1.0
    centers_per_class: int = 1
    conflict_cosine: float | None = None
    annealing: Annealing = "paper"
    lambda_minimum: float = 5.0
    annealing_reach: float = 0.4
    annealing_power: float = 1.0
    epochs: int = 20
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    schedule: Decay = "step"
    warm_up: float = 0.0
    drops: tuple[float, ...] = (0.6, 0.85)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    ema: float = 0.0
    dropout: float = 0.0
    augment: Augment = "mirror"
    precision: str = "float32"
    seed: int = 0
    start_from: str | None = None
    freeze_epochs: int = 0
    freeze_norm: bool = False
    body_rate: float = 1.0
    teacher: str | None = None
    distill_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.start_from is None:
            check_choice("backbone", self.backbone, BACKBONES)
        check_choice("loss", self.loss, LOSSES)
        recipe_losses.resolve_margin(self.loss, self.margin)
        recipe_losses.check_margin_warm_up(self.loss, self.margin_warm_up)
        recipe_losses.resolve_scale(self.loss, self.scale)
        recipe_losses.resolve_clip_norm(self.loss, self.clip_norm)
        recipe_losses.check_label_smoothing(self.loss, self.label_smoothing)
        check_choice("class_weights", self.class_weights, (None, "balanced"))
        recipe_losses.check_gradient(self.loss, self.margin, self.gradient)
        check_sample_rate(self.sample_rate)
        head = recipe_losses.CHOICES[self.loss].head
        check_centers(self.centers_per_class, head, self.gradient, self.sample_rate)
        check_conflict_cosine(self.conflict_cosine, head, self.gradient, self.label_smoothing)
        check_choice("annealing", self.annealing, ANNEALINGS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("augment", self.augment, get_args(Augment))
        check_choice("precision", self.precision, PRECISIONS)
        for name in ("embedding_dim", "epochs", "batch_size"):
            check_integer(name, getattr(self, name), 1)
        if check_integer("freeze_epochs", self.freeze_epochs, 0) > self.epochs:
            raise error("freeze_epochs", f"be at most epochs, {self.epochs}", self.freeze_epochs)
        for name in ("learning_rate", "annealing_power", "body_rate"):
            check_number(name, getattr(self, name), 0, open_low=True)
        for name in ("weight_decay", "momentum", "lambda_minimum", "warm_up"):
            check_number(name, getattr(self, name), 0)
        for name in ("dropout", "ema"):
            check_number(name, getattr(self, name), 0, 1)
        check_distill_weight(self.distill_weight)
        for share in self.drops:
            check_number("drops", share, 0, 1, open_low=True)
        if not 0 < self.annealing_reach <= 1:
            raise error("annealing_reach", "be in (0, 1]", self.annealing_reach)

    @property
    def policy(self) -> str:
        """The Keras dtype policy that `precision` is on this machine.

        `"auto"` is float32 on a processor that does not multiply bfloat16 faster: its convolutions
        are 1.4 to twelve times slower in bfloat16 (*measured here*, docs/results/benchmarks.md). A
        MobileFaceNet, which memory bounds, is slower in bfloat16 on every processor.
        """
        if self.precision != "auto":
            return self.precision
        if self.backbone.lower() == "mobilefacenet" and not hardware.gpu_capabilities():
            return "float32"
        return "mixed_bfloat16" if hardware.has_bfloat16() else "float32"

    @property
    def ignores_labels(self) -> bool:
        """Whether a teacher alone is learnt from, so that margin and scale mean nothing."""
        return self.teacher is not None and self.distill_weight == 1

    def with_optimizer(self, optimizer: Optimizer) -> Recipe:
        """Return the recipe with another optimizer, and a rate and decay that are usual for it.

        AdamW and Muon begin at `DECOUPLED`; SGD, coming from one of them, at a recipe's defaults.

        Example:

        >>> from tf_sphereface.training.presets import preset
        >>> changed = preset("small").with_optimizer("muon")
        >>> changed.learning_rate, changed.weight_decay
        (0.001, 0.05)
        """
        if optimizer == self.optimizer:
            return self
        usual = {name: getattr(Recipe, name) for name in DECOUPLED}
        changed = usual if optimizer == "sgd" else DECOUPLED
        return dataclasses.replace(self, optimizer=optimizer, **changed)

    def with_loss(self, loss: str) -> Recipe:
        """Return the recipe with another loss, and the margin, scale and clipping usual for it.

        Example:

        >>> from tf_sphereface.training.presets import preset
        >>> changed = preset("long").with_loss("arcface")
        >>> changed.to_dict()["margin"], preset("long").margin
        (0.3, 0.35)
        """
        if loss == self.loss:
            return self
        return dataclasses.replace(self, loss=loss, margin=None, scale=None, clip_norm=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON, as they are really used: no default is left open."""
        return {
            **dataclasses.asdict(self),
            "margin": recipe_losses.resolve_margin(self.loss, self.margin),
            "scale": recipe_losses.resolve_scale(self.loss, self.scale),
            "clip_norm": recipe_losses.resolve_clip_norm(self.loss, self.clip_norm),
            "precision": self.policy,
        }
