"""The plan of a run: schedule, batches, memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import keras
import tensorflow as tf
from rich.table import Table

from tf_sphereface import FaceClassifier
from tf_sphereface.angular import effective_margin
from tf_sphereface.commands.console import console
from tf_sphereface.commands.train import distillation, memory
from tf_sphereface.commands.train.arguments import RunOptions
from tf_sphereface.data.people import faces_of
from tf_sphereface.layers.sampled_angular_dense import sampling_doubt
from tf_sphereface.losses.update_count import scheduled_losses
from tf_sphereface.optimizers import treatment
from tf_sphereface.training import presets, recipe_losses
from tf_sphereface.training.building import steps_of
from tf_sphereface.training.solvers import rate_drops, rate_function, warm_up_steps
from tf_sphereface.utils.keras_private import all_layers


class Plan:
    """The figures of a run of `faces` faces of `people` people that is about to begin."""

    def __init__(self, options: RunOptions, model: FaceClassifier, faces: int, people: int) -> None:
        self.recipe = options.recipe
        self.line = options.line
        self.pretrained, self.teacher = options.pretrained, options.teacher
        self.model = model
        self.faces = faces
        self.people = people
        self.replicas = model.distribute_strategy.num_replicas_in_sync
        self.steps = steps_of(options.recipe, faces)  # in an epoch
        self.total = options.recipe.epochs * self.steps

    def header(self) -> list[str]:
        """Return the lines that every run begins with."""
        recipe, line, precision = self.recipe, self.line, self.recipe.policy
        scaling = "not scaled with the batch"
        if line.scale_learning_rate == "linear":
            usual = presets.preset(line.preset).batch_size
            scaling = f"scaled by {recipe.batch_size / usual:g} "
            scaling += f"(batch {recipe.batch_size} over {line.preset}'s {usual})"
        if (recipe.precision, precision) == ("auto", "float32"):
            precision = "float32 (bfloat16 is no faster here)"
        weights = "each person weighs alike: a face by n / (people x faces of the person)"
        return [
            f"{faces_of(self.faces, self.people)}; {self.steps} steps an epoch, "
            f"{recipe.epochs} epochs, {self.total} updates",
            f"strategy {line.strategy}: {self.replicas} replica(s), batch {recipe.batch_size} "
            f"({recipe.batch_size // self.replicas} each); "
            f"learning rate {recipe.learning_rate:g}, {scaling}",
            f"{precision}; XLA {self.model.xla_reason}",
            recipe_losses.describe_loss(self.model),
            *self._solver(),
            *([weights] if recipe.class_weights else []),
            *self._normalization(),
            *self._start(),
            *distillation.described(self.teacher, recipe),
            *self._sampling(),
        ]

    def _normalization(self) -> list[str]:
        """Say where batch normalisation makes several replicas another run than one."""
        kind, layers = keras.layers.BatchNormalization, all_layers(self.model.backbone)
        own = any(isinstance(x, kind) and x.trainable and not x.synchronized for x in layers)
        if self.replicas == 1 or not own:
            return []
        each = self.recipe.batch_size // self.replicas
        return [f"batch normalisation by the {each} images of each replica, not by the batch"]

    def _solver(self) -> list[str]:
        """Say how the rate moves, which weights the optimizer treats how, and what is averaged."""
        recipe, told = self.recipe, []
        if recipe.optimizer != "sgd":
            told.append(f"{recipe.optimizer}: decoupled decay {recipe.weight_decay:g} of kernels")
            parts = self.treatment()
            if "muon" in parts:
                told.append(
                    f"Muon for {parts['muon']} kernels as matrices, AdamW for {parts['adamw']} "
                    "other weights (depthwise kernels, head, norms, biases, slopes)"
                )
        falls = {
            "step": f"falls by 10 at {', '.join(f'{share:.0%}' for share in recipe.drops)}",
            "cosine": "falls as a cosine to 0",
            "polynomial": "falls straight to 0",
        }
        if (recipe.schedule, recipe.warm_up) != ("step", 0):
            rises = f"rises for {recipe.warm_up:g} epochs, then " if recipe.warm_up else ""
            told.append(f"the rate {rises}{falls[recipe.schedule]}")
        lines = ["; ".join(told)] if told else []
        if recipe.ema:
            lines.append(
                f"the network's weights are averaged (momentum {recipe.ema:g}): verification and "
                "files are of the averages, loss and accuracy of the weights in training"
            )
        return lines

    def treatment(self) -> dict[str, int]:
        """Return how many weights each rule of the optimizer trains."""
        parts = treatment(self.model.optimizer, self.model.trainable_variables)
        return {name: len(paths) for name, paths in parts.items()}

    def _start(self) -> list[str]:
        """Say what the run starts from, what is frozen and until when, and where lambda starts."""
        if self.pretrained is None:
            return []
        recipe, frozen = self.recipe, self.recipe.freeze_epochs * self.steps
        head = "its head is left out, " if self.pretrained.head_left_out else ""
        body = f"the body learns at {recipe.body_rate:g} of the rate"
        if frozen == self.total:
            body = "the body is frozen for all of the run"
        elif frozen:
            body = f"the body is frozen up to update {frozen:,}, then {body}"
        norms = "stays as it is" if recipe.freeze_norm else "is trained"
        margin = "the margin holds from the first update"
        for loss in scheduled_losses(self.model):
            margin = f"lambda starts at {float(loss.annealing(1)):.4g}; frozen updates count"
        return [
            f"from {self.pretrained}",
            f"{head}the new head starts at each person's mean embedding; {body}; batch "
            f"normalisation {norms}; {margin}",
        ]

    def _sampling(self) -> list[str]:
        """Say how many centres a step sees, and where that probably saves no time."""
        if not self.model.sampled:
            return []
        size, place = math.ceil(self.model.sample_rate * self.people), self.model.centers
        gpu = place == "device" and bool(tf.config.list_physical_devices("GPU"))
        doubt = sampling_doubt(self.people, size, gpu=gpu)
        held = f"{memory.off_device(self.model, self.people) / 1e6:,.0f} MB with optimizer state"
        where = {"device": "", "host": f", all in the host's memory, {held}"}
        there = where.get(place, f", all in {place}, {held}")
        if place != "device" and size == self.people:
            doubt = "each step takes all class centres to the device: --sample-rate takes fewer"
        return [doubt or f"{size:,} of {self.people:,} class centres a step{there}"]

    def report(self) -> dict[str, Any]:
        """Return the plan, ready for JSON; memory and disk in bytes."""
        parts = memory.memory(self.model, self.recipe, self.replicas, self.people)
        each = memory.checkpoint_size(self.model, parts, self.people)
        return {
            "faces": self.faces,
            "people": self.people,
            "epochs": self.recipe.epochs,
            "steps_per_epoch": self.steps,
            "updates": self.total,
            "strategy": self.line.strategy,
            "replicas": self.replicas,
            "batch": self.recipe.batch_size,
            "batch_per_replica": self.recipe.batch_size // self.replicas,
            "learning_rate": self.recipe.learning_rate,
            "learning_rate_scaling": self.line.scale_learning_rate,
            "optimizer": self.recipe.optimizer,
            "weight_decay": self.recipe.weight_decay,
            "weights_by_rule": self.treatment(),
            "rate_schedule": self.recipe.schedule,
            "warm_up": self.recipe.warm_up,
            "ema": self.recipe.ema,
            "parameters": parameters_by_part(self.model, self.people),
            "schedule": self.schedule(),
            "memory_per_replica": parts,
            "centers_off_device": memory.off_device(self.model, self.people),
            "checkpoints": {"each": each, "most": (self.line.keep + 2) * each},
        }

    def schedule(self) -> list[dict[str, Any]]:
        """Return lambda, margin and rate at the updates that matter, counted from 1."""
        losses, frozen = scheduled_losses(self.model), self.recipe.freeze_epochs * self.steps
        growing = getattr(self.model.loss, "margin_warm_up", 0)
        reasons: dict[int, list[str]] = {}
        for step, reason in self._marks():
            reasons.setdefault(step, []).append(reason)
        rate_of = rate_function(self.model.optimizer)
        rows = []
        for step in sorted(reasons):
            epoch = (step - 1) // self.steps + 1
            row = {"step": step, "epoch": epoch, "learning_rate": rate_of(step - 1)}
            if self.pretrained is not None:
                body = self.recipe.body_rate if step > frozen else 0.0
                row["body_rate"] = row["learning_rate"] * body
            for loss in losses:
                value = float(loss.annealing(step))
                row["lambda"] = value
                row["effective_margin"] = round(float(effective_margin(loss.margin, value)), 3)
            if growing:
                row["effective_margin"] = self.model.loss.margin * min(step / growing, 1.0)
            rows.append({**row, "why": ", ".join(reasons[step])})
        return rows

    def _marks(self) -> list[tuple[int, str]]:
        """Return the updates that matter, counted from 1, and why each does."""
        recipe, total = self.recipe, self.total
        marks = [(1, "first")]
        for quarter in (1, 2, 3):
            marks.append((max(1, math.ceil(total * quarter / 4)), f"{quarter}/4 of the run"))
        if recipe.schedule == "step":
            marks += [(drop + 1, "learning rate falls") for drop in rate_drops(recipe, total)]
        growing = getattr(self.model.loss, "margin_warm_up", 0)
        for steps, name in ((warm_up_steps(recipe, self.steps), "rate"), (growing, "margin")):
            if steps:
                end = f"{name} has risen" if steps <= total else f"{name} is still rising"
                marks.append((min(steps, total), end))
        for loss in scheduled_losses(self.model):
            step = _first_at_minimum(loss.annealing, total)
            marks += [] if step is None else [(step, "lambda at its minimum")]
        frozen = recipe.freeze_epochs * self.steps
        if 0 < frozen < total:
            marks.append((frozen + 1, "the body is trained"))
        return [*marks, (total, "last")]


def parameters_by_part(model: FaceClassifier, people: int) -> dict[str, int]:
    """Return the parameters of the backbone (what is kept) and of the head (what is not)."""
    backbone, head = int(model.backbone.count_params()), memory.head_parameters(model, people)
    return {"backbone": backbone, "head": head}


def show(report: dict[str, Any]) -> None:
    """Print the report as tables."""
    table = Table(title="schedule")
    for name in ("step", "epoch", "lambda", "margin felt", "learning rate", "body"):
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
            f"{row['body_rate']:.4g}" if "body_rate" in row else "",
            row["why"],
        )
    console.print(table)
    parameters, parts = report["parameters"], report["memory_per_replica"]
    listed = ", ".join(f"{key} {parts[key] / 1e6:,.0f}" for key in parts if key != "total")
    console.print(
        f"{parameters['backbone']:,} parameters in the network, {parameters['head']:,} in the head"
        f"\nmemory a replica: about {parts['total'] / 1e6:,.0f} MB ({listed}). {memory.NOTE}",
        highlight=False,
    )
    kept, centers = report["checkpoints"], report["centers_off_device"]
    each, most = (f"{kept[key] / 1e6:,.0f} MB" for key in ("each", "most"))
    told = f"checkpoints: about {each} each, {most} in all"
    if centers:
        told += f"; centers and their optimizer state off the device: {centers / 1e6:,.0f} MB"
    console.print(told, highlight=False)


def _first_at_minimum(annealing: Any, total: int) -> int | None:
    """Return the first update at the minimum, by bisection: the curve only falls."""
    minimum = getattr(annealing, "minimum", None)
    if minimum is None or annealing(total) > minimum:
        return None
    return 1 + bisect_left(range(1, total), True, key=lambda step: annealing(step) <= minimum)
