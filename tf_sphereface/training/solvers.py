"""The optimizer and the learning rate that a recipe describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tf_sphereface import optimizers
from tf_sphereface.training import recipe_losses
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.utils import keras_private


def build_solver(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a recipe for a run of so many updates in an epoch.

    Example:

    >>> from tf_sphereface.training.presets import preset
    >>> solver = build_solver(preset("quick").with_optimizer("adamw"), 100)
    >>> type(solver).__name__, solver.weight_decay
    ('FaceAdamW', 0.05)
    """
    options: dict[str, Any] = {
        "learning_rate": learning_rate_of(recipe, steps_per_epoch),
        "weight_decay": recipe.weight_decay,
        "global_clipnorm": recipe_losses.resolve_clip_norm(recipe.loss, recipe.clip_norm) or None,
    }
    if recipe.optimizer == "sgd":
        rules = body_multipliers(recipe.body_rate)
        return optimizers.SphereFaceSGD(
            momentum=float(recipe.momentum), multipliers=rules, **options
        )
    rules = body_multipliers(recipe.body_rate, optimizers.DECOUPLED_MULTIPLIERS)
    solver = optimizers.FaceAdamW if recipe.optimizer == "adamw" else optimizers.FaceMuon
    frozen = recipe.freeze_epochs * steps_per_epoch
    released = ("^(?!(head|projection)/)", frozen) if frozen else None
    return solver(multipliers=rules, released=released, **options)


def learning_rate_of(recipe: Recipe, steps_per_epoch: int) -> optimizers.WarmUpDecay:
    """Return a recipe's learning rate as a function of the updates done before."""
    total = recipe.epochs * steps_per_epoch
    return optimizers.WarmUpDecay(
        recipe.learning_rate,
        total,
        recipe.schedule,
        warm_up=warm_up_steps(recipe, steps_per_epoch),
        drops=rate_drops(recipe, total) if recipe.schedule == "step" else (),
    )


def warm_up_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Return how many updates the learning rate rises for."""
    return round(recipe.warm_up * steps_per_epoch)


def rate_drops(recipe: Recipe, total: int) -> list[int]:
    """Return after how many of `total` updates the rate falls, increasing, all below `total`.

    In a run of a few updates two drops may fall together, or past the end: there are fewer then.
    """
    drops = {max(1, round(share * total)) for share in recipe.drops}
    return sorted(drop for drop in drops if drop < total)


def body_multipliers(
    rate: float, rules: Sequence[optimizers.Multiplier] = optimizers.PAPER_MULTIPLIERS
) -> tuple[optimizers.Multiplier, ...]:
    """Return an optimizer's multipliers with the rates of all but the head times `rate`.

    Example:

    >>> body_multipliers(0.1)[-2:]
    (('(^|/)(gamma|beta)$', 0.1, 0.0), ('', 0.1, 1.0))
    """
    if rate == 1:
        return tuple(rules)
    of_head = [(f"^(?=head/).*({pattern})", lr, decay) for pattern, lr, decay in rules]
    of_body = [(pattern, rate * lr, decay) for pattern, lr, decay in rules]
    return (*of_head, ("^(head|projection)/", 1.0, 1.0), *of_body, ("", rate, 1.0))


def rate_function(optimizer: keras.optimizers.Optimizer) -> Callable[[int], float]:
    """Return an optimizer's learning rate as a function of the updates done before."""
    inner = keras_private.optimizers_in(optimizer)[-1]  # float16 wraps it
    rate = inner.get_config()["learning_rate"]
    if not isinstance(rate, dict):
        return lambda done: float(keras.ops.convert_to_numpy(inner.learning_rate))
    schedule = keras.optimizers.schedules.deserialize(rate)
    return lambda done: float(keras.ops.convert_to_numpy(schedule(done)))
