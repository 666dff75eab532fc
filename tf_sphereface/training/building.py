"""Build the network, the classifier and the schedules that a recipe describes."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from numpy.typing import NDArray

from tf_sphereface import backbones, losses, schedules
from tf_sphereface.backbones.remembered_metadata import remember_input
from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.classifier.student import StudentClassifier
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.data.options import ChannelOrder
from tf_sphereface.schedules import ALMOST_ZERO
from tf_sphereface.training import recipe_losses
from tf_sphereface.training.checkpoint import build_optimizer
from tf_sphereface.training.freezing import freeze_normalization
from tf_sphereface.training.pretrained import Pretrained
from tf_sphereface.training.recipes import FINE_TUNING, Recipe
from tf_sphereface.training.solvers import build_solver
from tf_sphereface.training.weight_average import network_weights


def build_backbone(recipe: Recipe) -> keras.Model:
    """Return the network of a recipe with random weights, under the dtype policy in force.

    Example:

    >>> from tf_sphereface.training.presets import preset
    >>> build_backbone(preset("quick")).output_shape
    (None, 512)
    """
    needs = [name for name in FINE_TUNING if getattr(recipe, name) != getattr(Recipe(), name)]
    if needs:
        raise ValueError(
            f"A recipe with {', '.join(needs)} starts from a trained network: pass one "
            "(fine_tune, or --from MODEL)"
        )
    shape = (*recipe.input_size, 3)
    if recipe.backbone == "mobilefacenet":
        return backbones.MobileFaceNet(shape, recipe.embedding_dim)
    if recipe.backbone.startswith("iresnet"):
        depth = int(recipe.backbone.removeprefix("iresnet"))
        return backbones.IResNet(depth, shape, recipe.embedding_dim)
    depth = int(recipe.backbone.removeprefix("sphereface"))
    return backbones.SphereFaceNet(depth, shape, recipe.embedding_dim)


def build_classifier(
    recipe: Recipe,
    num_classes: int,
    steps_per_epoch: int,
    jit: bool | str = "auto",
    pretrained: Pretrained | None = None,
    teacher_dim: int | None = None,
    *,
    centers: str | os.PathLike[str] = "device",
) -> FaceClassifier:
    """Return the model of a recipe, compiled with its optimizer and loss.

    Args:
        recipe: what to train and how. Its `policy` becomes Keras' global dtype policy, its seed
            initialises the weights.
        num_classes: number of identities.
        steps_per_epoch: updates in an epoch; with the epochs it gives the schedules' lengths.
        jit: as `jit_compile` of `FaceClassifier.compile`.
        pretrained: the network that `recipe.start_from` names; a copy of it is trained. Its
            optimizer is built.
        teacher_dim: length of the embeddings of the teacher that `recipe.teacher` names; the model
            is then a `StudentClassifier`.
        centers: as of `FaceClassifier`.

    Raises:
        ValueError: the recipe is of a teacher, and there is no `teacher_dim`.

    Example:

    >>> import dataclasses
    >>> from tf_sphereface.training import preset
    >>> recipe = dataclasses.replace(preset("quick"), input_size=(28, 24), embedding_dim=8)
    >>> model = build_classifier(recipe, num_classes=10, steps_per_epoch=5)
    >>> model.backbone.output_shape, model.num_classes
    ((None, 8), 10)
    """
    keras.mixed_precision.set_global_policy(recipe.policy)
    keras.utils.set_random_seed(recipe.seed)
    head = recipe_losses.CHOICES[recipe.loss].head
    network = build_backbone(recipe) if pretrained is None else pretrained.copy(recipe.policy)
    backbone = with_dropout(network, recipe.dropout, recipe.seed)
    if pretrained is not None:
        backbone = pretrained.with_scaling(backbone)
    if recipe.freeze_norm:
        freeze_normalization(backbone)
    kind: type[FaceClassifier] = FaceClassifier
    more: dict[str, float] = {}
    if recipe.teacher is not None:
        if teacher_dim is None:
            raise ValueError(
                "A recipe with teacher learns from one: pass one (distill, or --teacher MODEL)"
            )
        kind = StudentClassifier
        more = {"teacher_dim": teacher_dim, "distill_weight": recipe.distill_weight}
    model = kind(
        backbone,
        num_classes,
        head=head,
        gradient=recipe.gradient,
        sample_rate=recipe.sample_rate,
        centers_per_class=recipe.centers_per_class,
        conflict_cosine=recipe.conflict_cosine,
        centers=centers,
        **more,
    )
    total = recipe.epochs * steps_per_epoch
    annealing = build_annealing(recipe, total)
    loss = recipe_losses.build_loss(
        recipe.loss,
        recipe.margin,
        recipe.scale,
        annealing,
        recipe.label_smoothing,
        round(recipe.margin_warm_up * steps_per_epoch),
    )
    if isinstance(loss, losses.SphereFace2Loss):
        model.head_layer.bias.assign(loss.first_bias(num_classes))
    optimizer = build_solver(recipe, steps_per_epoch)
    model.compile(optimizer, loss=loss, metrics=["accuracy"], jit_compile=jit)
    if pretrained is not None:  # over all that is ever trained, before some of it is frozen
        build_optimizer(model)
    return model


def build_annealing(recipe: Recipe, total: int) -> schedules.LambdaAnnealing:
    """Return lambda's schedule for a run of `total` updates.

    Example:

    >>> from tf_sphereface.training.recipes import Recipe
    >>> round(build_annealing(Recipe(annealing="paper"), 1000)(1), 1)
    892.9
    """
    if recipe.annealing == "paper":
        return schedules.LambdaAnnealing(minimum=recipe.lambda_minimum)
    curve = schedules.LambdaAnnealing.for_steps(
        total,
        reach=recipe.annealing_reach,
        power=recipe.annealing_power,
        minimum=recipe.lambda_minimum or ALMOST_ZERO,
    )
    return schedules.LambdaAnnealing(curve.base, curve.gamma, curve.power, recipe.lambda_minimum)


def with_dropout(backbone: keras.Model, rate: float, seed: int) -> keras.Model:
    """Return the backbone with dropout of its embedding layer's inputs, sharing its weights.

    The embedding layer is the last one with a kernel; a normalisation may follow it, which dropout
    must not, or it would set coordinates of the embedding to 0. A rate of 0 is none.
    """
    if rate == 0:
        return backbone
    layers = backbone.layers
    place = max(i for i, layer in enumerate(layers) if hasattr(layer, "kernel"))
    chain = itertools.pairwise(layers[place:])
    if any(after.input is not before.output for before, after in chain):
        raise ValueError(
            f"dropout cannot go before {layers[place].name!r}, the network's last layer with a "
            "kernel: what follows it is no chain of layers. Train without dropout (--dropout 0)"
        )
    x = keras.layers.Dropout(rate, seed=seed, name="dropout")(layers[place].input)
    for layer in layers[place:]:
        x = layer(x)
    return keras.Model(backbone.input, x, name=backbone.name)


def steps_of(recipe: Recipe, faces: int) -> int:
    """Return the updates in an epoch of so many faces, which must fill one batch."""
    if faces < recipe.batch_size:
        raise ValueError(
            f"{faces} faces do not fill one batch of {recipe.batch_size}: take a smaller one "
            "(--batch-size)"
        )
    return faces // recipe.batch_size


def batches_of(
    recipe: Recipe, source: FaceSource, pretrained: Pretrained | None = None
) -> FaceSource:
    """Return the faces with the batches of a recipe: size, augmentation, seed and weights."""
    if pretrained is not None:
        pretrained.check_faces(source)
    if tuple(source.image_size) != tuple(recipe.input_size):
        raise ValueError(
            f"Argument `source` must have faces of the recipe's input size {recipe.input_size}. "
            f"Received: source.image_size={source.image_size}"
        )
    # uint8 is normalised in the step, but for a network that does so itself
    whole = recipe.augment != "strong" and (pretrained is None or pretrained.scaling is None)
    return source.with_batches(
        batch_size=recipe.batch_size,
        augment=recipe.augment,
        seed=recipe.seed,
        class_weights=recipe.class_weights,
        dtype="uint8" if whole else "float32",
    )


@contextlib.contextmanager
def kept_policy() -> Iterator[None]:
    """Restore Keras' global dtype policy on leaving."""
    policy = keras.mixed_precision.global_policy()
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(policy)


def embedder_of(
    model: FaceClassifier,
    recipe: Recipe,
    channel_order: ChannelOrder = "rgb",
    pretrained: Pretrained | None = None,
    weights: Sequence[NDArray[Any]] | None = None,
) -> keras.Model:
    """Return the trained network as a float32 model of stock layers, without dropout.

    It remembers how it is fed: `(x - 127.5) / 128`, in the order that it was trained with, or as
    the network that it was trained from. `weights` are others in place of the model's own, such as
    `WeightAverage.arrays()`.

    Example:

    >>> import dataclasses
    >>> from tf_sphereface import load_embedder, training
    >>> recipe = dataclasses.replace(
    ...     training.preset("quick"), input_size=(28, 24), embedding_dim=8)
    >>> network = embedder_of(build_classifier(recipe, 10, 5), recipe, channel_order="bgr")
    >>> load_embedder(network).metadata.channel_order
    'bgr'
    """
    trained = [v.numpy() for v in network_weights(model)] if weights is None else list(weights)
    if pretrained is not None:
        return pretrained.with_weights(trained)
    with kept_policy():
        keras.mixed_precision.set_global_policy("float32")
        network = build_backbone(recipe)
    network.set_weights(trained)
    remember_input(network, channel_order)
    return network
