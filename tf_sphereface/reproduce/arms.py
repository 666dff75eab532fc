"""The arms: each is a recipe with a name, and each part of the reproduction a list of arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tf_sphereface import data
from tf_sphereface.training import presets
from tf_sphereface.training.recipes import Recipe

SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4, 5)  # of the ablation on m, on request
MARGINS = (1, 2, 3, 4)
SAMPLE_RATE = 0.3
OTHER_LOSSES: tuple[tuple[str, float | None], ...] = (
    ("normface", None),
    ("cosface", 0.2),
    ("arcface", 0.3),
    ("sphereface-r-v0", 1.5),
    ("sphereface-r-v1", 1.5),
    ("sphereface-r-v2", 1.5),
    ("sphereface2", 0.4),
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training, and the name of its files."""

    name: str
    recipe: Recipe

    @property
    def work(self) -> float:
        """What an update of a face costs, in units of SphereFaceNet-4's at 56x48 in bfloat16."""
        height, width = self.recipe.input_size
        # Ten layers multiply four times as much; in bfloat16 that took 2.3 times as long.
        ten = 2.3 if self.recipe.policy == "mixed_bfloat16" else 4.0
        depth = {"sphereface4": 1.0, "sphereface10": ten}.get(self.recipe.backbone, 10.0)
        precision = {"float32": 1.8, "mixed_float16": 9.0}.get(self.recipe.policy, 1.0)
        return depth * precision * height * width / (56 * 48)

    def updates(self, faces: int) -> int:
        """Return how many updates it makes on so many faces."""
        return self.recipe.epochs * data.steps_per_epoch(faces, self.recipe.batch_size)


def variant(base: Recipe, name: str, **changes: Any) -> Arm:
    """Return an arm whose recipe is the base but for some fields."""
    return Arm(name, dataclasses.replace(base, **changes))


def margin_arms(base: Recipe, seeds: Sequence[int] = SEEDS) -> list[Arm]:
    """Softmax and A-Softmax with m = 1, 2, 3, 4, each with some seeds."""
    arms = []
    for seed in seeds:
        arms.append(variant(base, f"softmax-seed{seed}", loss="softmax", margin=None, seed=seed))
        arms += [variant(base, f"m{m}-seed{seed}", margin=m, seed=seed) for m in MARGINS]
    return arms


def lambda_arms(base: Recipe) -> list[Arm]:
    """Lambda's minimum, and the released layer's gradient, for m = 4; 5 is `margin_arms`'s."""
    minima = [
        variant(base, f"m4-lambda{value:g}", margin=4, lambda_minimum=value)
        for value in (0.0, 2.0, 10.0)
    ]
    return [*minima, variant(base, "m4-caffe", margin=4, gradient="caffe")]


def depth_arms(base: Recipe) -> list[Arm]:
    """Ten layers, for softmax and m = 4; those with four are `margin_arms`."""
    return [
        variant(base, "softmax-10-layers", loss="softmax", margin=None, backbone="sphereface10"),
        variant(base, "m4-10-layers", margin=4, backbone="sphereface10"),
    ]


def loss_arms(base: Recipe) -> list[Arm]:
    """Every other loss of the library, with the margin and scale that suit some hundred people."""
    return [variant(base, loss, loss=loss, margin=margin) for loss, margin in OTHER_LOSSES]


def cost_arms(base: Recipe) -> list[Arm]:
    """What saves time, for m = 4: float32 beside bfloat16, a sampled head beside the full one.

    Where the base is float32 there is nothing to compare it with.
    """
    sampled = variant(base, "m4-sampled-head", margin=4, sample_rate=SAMPLE_RATE)
    if base.policy == "float32":
        return [sampled]
    return [variant(base, "m4-float32", margin=4, precision="float32"), sampled]


def _other_seeds(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms with the other seeds, so that each has as many as `margin_arms`."""
    return [
        variant(arm.recipe, f"{arm.name}-seed{seed}", seed=seed)
        for seed in SEEDS[1:]
        for arm in arms
    ]


def recipe_arms(base: Recipe) -> list[Arm]:
    """One change of the recipe at a time, for m = 4: what makes the margin help, or not."""
    return [
        variant(base, "m4-early-lambda", margin=4, annealing_power=1.0),
        variant(base, "m4-strong", margin=4, augment="strong"),
        variant(base, "m4-no-decay", margin=4, weight_decay=0.0),
        variant(base, "m4-slower", margin=4, learning_rate=base.learning_rate / 2.5),
    ]


def full_size_arms(base: Recipe) -> list[Arm]:
    """Softmax, m = 1 and m = 4 on faces of 112x96."""
    base = dataclasses.replace(base, input_size=(112, 96))
    return [
        variant(base, "softmax-full-size", loss="softmax", margin=None),
        *[variant(base, f"m{m}-full-size", margin=m) for m in (1, 4)],
    ]


ON_REQUEST: dict[str, Callable[[Recipe], list[Arm]]] = {
    "margin-seeds": lambda base: margin_arms(base, MORE_SEEDS),
    "loss-seeds": lambda base: _other_seeds(loss_arms(base)),
    "cost-seeds": lambda base: _other_seeds(cost_arms(base)),
    "full-size": full_size_arms,
}


def real_base() -> Recipe:
    """Return the recipe that every real arm changes: the preset `short`.

    Its precision is this machine's, so that an arm says the same of itself on another one.
    """
    recipe = presets.preset("short")
    return dataclasses.replace(recipe, precision=recipe.policy)
