"""What a run will do, before it does it: schedule, batches, memory."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from rich.table import Table

from tf_sphereface.angular import effective_margin
from tf_sphereface.commands.console import console
from tf_sphereface.losses.update_count import scheduled_losses
from tf_sphereface.training.building import rate_drops
from tf_sphereface.training.checkpoint import build_optimizer
from tf_sphereface.training.recipes import Recipe

MEMORY_NOTE = (
    "An estimate: weights, optimizer state and gradients as they are; activations as the sum of "
    "all layers' outputs, twice (forward, and their gradients). XLA and in-place layers need less, "
    "convolution workspaces and the input pipeline come on top."
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The figures of a run that is about to begin.

    Attributes:
        recipe: as it will run, the learning rate scaled.
        preset: as it stands.
        preset_name: its name.
        scaling: of the learning rate, `"none"` or `"linear"`.
        strategy: its name.
        replicas: that share a batch.
        faces: training images.
        people: their identities.
        steps: updates in an epoch.
        xla: whether the step is compiled by XLA, and why.
        loss: the loss and its margin in words.
    """

    recipe: Recipe
    preset: Recipe
    preset_name: str
    scaling: str
    strategy: str
    replicas: int
    faces: int
    people: int
    steps: int
    xla: str
    loss: str

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.recipe.epochs * self.steps

    def header(self) -> list[str]:
        """Return the lines that every run begins with."""
        recipe, factor = self.recipe, self.recipe.batch_size / self.preset.batch_size
        rate = f"learning rate {recipe.learning_rate:g}"
        if self.scaling == "linear":
            rate += f", scaled by {factor:g} (batch {recipe.batch_size} over {self.preset_name}'s "
            rate += f"{self.preset.batch_size})"
        else:
            rate += ", not scaled with the batch"
        return [
            f"{self.faces} faces of {self.people} people; {self.steps} steps an epoch, "
            f"{recipe.epochs} epochs, {self.total} updates",
            f"strategy {self.strategy}: {self.replicas} replica(s), batch {recipe.batch_size} "
            f"({recipe.batch_size // self.replicas} each); {rate}",
            f"{self._precision()}; XLA {self.xla}",
            self.loss,
        ]

    def _precision(self) -> str:
        policy = self.recipe.policy
        if self.recipe.precision == "auto" and policy == "float32":
            return "float32 (no bfloat16 arithmetic here)"
        return policy

    def report(self, model: Any) -> dict[str, Any]:
        """Return the plan of a compiled model, ready for JSON."""
        return {
            "faces": self.faces,
            "people": self.people,
            "epochs": self.recipe.epochs,
            "steps_per_epoch": self.steps,
            "updates": self.total,
            "strategy": self.strategy,
            "replicas": self.replicas,
            "batch": self.recipe.batch_size,
            "batch_per_replica": self.recipe.batch_size // self.replicas,
            "learning_rate": self.recipe.learning_rate,
            "learning_rate_scaling": self.scaling,
            "parameters": count_parameters(model),
            "schedule": self.schedule(model),
            "memory_per_replica": memory(model, self.recipe, self.replicas),
        }

    def schedule(self, model: Any) -> list[dict[str, Any]]:
        """Return lambda, margin and rate at the updates that matter, counted from 1."""
        rate_of = _rate_function(model)
        scheduled = scheduled_losses(model)
        reasons: dict[int, list[str]] = {}

        def mark(step: int, reason: str) -> None:
            reasons.setdefault(step, []).append(reason)

        mark(1, "first")
        for quarter in (1, 2, 3):
            mark(max(1, math.ceil(self.total * quarter / 4)), f"{quarter}/4 of the run")
        for drop in rate_drops(self.recipe, self.total):
            mark(drop + 1, "learning rate falls")
        for loss in scheduled:
            reached = _first_at_minimum(loss.annealing, self.total)
            if reached is not None:
                mark(reached, "lambda at its minimum")
        mark(self.total, "last")
        rows = []
        for step in sorted(reasons):
            row = {
                "step": step,
                "epoch": (step - 1) // self.steps + 1,
                "learning_rate": rate_of(step - 1),
            }
            for loss in scheduled:
                value = float(loss.annealing(step))
                row["lambda"] = value
                row["effective_margin"] = round(float(effective_margin(loss.margin, value)), 3)
            rows.append({**row, "why": ", ".join(reasons[step])})
        return rows


def count_parameters(model: Any) -> dict[str, int]:
    """Return the parameters of the backbone (what is kept) and of the head (what is not)."""
    return {
        "backbone": int(model.backbone.count_params()),
        "head": _head_parameters(model),
    }


def _head_parameters(model: Any) -> int:
    """Return the parameters of the head: a sampled one's window and optimizer state are none."""
    if hasattr(model.head_layer, "sample_size"):
        return int(math.prod(model.head_layer.centres.shape))
    return int(model.head_layer.count_params())


def memory(model: Any, recipe: Recipe, replicas: int) -> dict[str, int]:
    """Estimate the bytes that one replica needs; see `MEMORY_NOTE`."""
    build_optimizer(model)
    batch = recipe.batch_size // replicas
    width = 4 if recipe.policy == "float32" else 2
    outputs = sum(
        math.prod(int(size) for size in output.shape[1:])
        for layer in model.backbone.layers
        for output in keras.tree.flatten(layer.output)
    )
    logits = getattr(model.head_layer, "sample_size", model.num_classes) + 1
    parts = {
        "weights": _bytes(model.weights),
        "optimizer": _bytes(model.optimizer.variables),
        "gradients": _bytes(model.trainable_variables),
        "activations": 2 * batch * (outputs * width + logits * 4),
    }
    return {**parts, "total": sum(parts.values())}


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    table = Table(title="schedule")
    for name in ("step", "epoch", "lambda", "margin felt", "learning rate"):
        table.add_column(name, justify="right")
    table.add_column("why")
    for row in report["schedule"]:
        lambda_, felt = row.get("lambda"), row.get("effective_margin")
        table.add_row(
            str(row["step"]),
            str(row["epoch"]),
            "" if lambda_ is None else f"{lambda_:.4g}",
            "" if felt is None else f"{felt:.2f}",
            f"{row['learning_rate']:.4g}",
            row["why"],
        )
    console.print(table)
    parameters = report["parameters"]
    console.print(
        f"{parameters['backbone']:,} parameters in the network, {parameters['head']:,} in the head",
        highlight=False,
    )
    parts = report["memory_per_replica"]
    listed = ", ".join(f"{key} {parts[key] / 1e6:,.0f}" for key in parts if key != "total")
    console.print(
        f"memory a replica: about {parts['total'] / 1e6:,.0f} MB ({listed}). {MEMORY_NOTE}",
        highlight=False,
    )


def _first_at_minimum(annealing: Any, total: int) -> int | None:
    """Return the first update at the minimum, by bisection: the curve only falls."""
    minimum = getattr(annealing, "minimum", None)
    if minimum is None or annealing(total) > minimum:
        return None
    low, high = 1, total
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if annealing(middle) <= minimum else (middle + 1, high)
    return low


def _rate_function(model: Any) -> Any:
    """Return the learning rate as a function of the updates done before."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # float16 wraps it
    rate = optimizer.get_config()["learning_rate"]
    if not isinstance(rate, dict):
        return lambda done: float(rate)
    schedule = keras.optimizers.schedules.deserialize(rate)
    return lambda done: float(keras.ops.convert_to_numpy(schedule(done)))


def _bytes(variables: Any) -> int:
    return sum(
        math.prod(variable.shape)
        * np.dtype(keras.backend.standardize_dtype(variable.dtype)).itemsize
        for variable in variables
    )
