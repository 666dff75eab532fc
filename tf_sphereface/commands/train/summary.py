"""The results of a training run: the embedder's metadata, and the summary."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
from rich.table import Table

from tf_sphereface import embedder, training
from tf_sphereface.commands.console import console
from tf_sphereface.embedder import model_card
from tf_sphereface.training import recipe_losses
from tf_sphereface.training.run_callbacks import BEST


def metadata_of(
    run: training.Run, license: str | None, *, finished: bool = False
) -> embedder.EmbedderMetadata:
    """Return what the embedder says of itself; at the end, the last epoch's figures too."""
    recipe = run.recipe
    template = "112x112" if recipe.input_size[0] == recipe.input_size[1] else "112x96"
    start = embedder.EmbedderMetadata(template=template, flip="concat")
    start.extra[model_card.LICENSE] = model_card.UNKNOWN
    if run.pretrained is not None:
        start = run.pretrained.metadata_after()
    loss, margin, _ = _loss(recipe)
    metadata = dataclasses.replace(
        start,
        input_size=recipe.input_size,
        embedding_dim=recipe.embedding_dim,
        channel_order=run.source.channel_order,
        architecture=recipe.backbone,
        loss=loss,
        margin=margin,
        training_data=run.source.describe(),
        extra={
            **start.extra,
            "recipe": recipe.to_dict(),
            "loss": recipe_losses.describe_loss(run.model),
            model_card.NETWORK: model_card.network_facts(run.model.backbone),
            **({} if run.teacher is None else {"distilled_from": run.teacher.origin()}),
            **({model_card.LICENSE: license} if license else {}),
        },
    )
    if not finished or not run.log.rows or not run.log.is_of_the_weights():
        return metadata
    row = {k: v for k, v in run.log.rows[-1].items() if k != "seconds" and not math.isnan(v)}
    return model_card.with_measured(metadata, {"last epoch of training": row})


def restored(run: training.Run) -> str:
    """Say which file holds what, where a callback has put other weights back as training ended."""
    text = (
        "a callback put other weights back as training ended, as "
        "EarlyStopping(restore_best_weights=True) does: "
    )
    if run.average is None:
        return text + (
            f"{run.folder.embedder} holds those, and the last epoch's figures are not of them"
        )
    return text + (
        f"{run.folder.unaveraged} holds those; {run.folder.embedder} holds the average of the "
        "whole run"
    )


def summarise(run: training.Run) -> dict[str, Any]:
    """Return what the run did, for the table and for summary.json."""
    recipe, rows = run.recipe, run.log.rows
    loss, margin, scale = _loss(recipe)
    done = rows[-1]["epoch"] if rows else 0
    summary = {
        "loss": loss,
        "margin": margin,
        "scale": scale,
        "loss in words": recipe_losses.describe_loss(run.model),
        "backbone": recipe.backbone,
        "optimizer": recipe.optimizer,
        "schedule": recipe.schedule,
        "averaged weights": f"momentum {recipe.ema:g}" if recipe.ema else None,
        "from": None if run.pretrained is None else run.pretrained.origin,
        "teacher": None if run.teacher is None else run.teacher.name,
        "distill weight": None if run.teacher is None else recipe.distill_weight,
        "people": run.source.num_classes,
        "faces": len(run.source),
        "skipped": run.source.report.count,
        "epochs": done,
        "ended early": None if done == recipe.epochs else f"by a callback, of {recipe.epochs}",
        "updates": int(keras.ops.convert_to_numpy(run.model.optimizer.iterations)),
        "final": rows[-1] if rows else {},
        "embedder": str(run.folder.embedder),
        "without average": str(run.folder.unaveraged) if recipe.ema else None,
    }
    best = run.log.best
    if best is not None:
        summary["best"] = {"epoch": best["epoch"], BEST: best[BEST], "file": str(run.folder.best)}
    return summary


def _loss(recipe: training.Recipe) -> tuple[str, float | None, float | None]:
    """Return the name, margin and scale of what a run learns from; a teacher has none."""
    if recipe.ignores_labels:
        return "distillation", None, None
    margin = recipe_losses.resolve_margin(recipe.loss, recipe.margin)
    return recipe.loss, margin, recipe_losses.resolve_scale(recipe.loss, recipe.scale)


def show_summary(summary: dict[str, Any]) -> None:
    """Print the summary as a table."""
    table = Table(title="run", show_header=False)
    for key, value in summary.items():
        if key == "final":
            figures = dict(value)
            seconds = figures.pop("seconds", None)
            for name, figure in figures.items():
                if not math.isnan(figure):
                    table.add_row(f"last epoch: {name}", f"{figure:.5g}")
            if seconds is not None:
                table.add_row("time", f"{seconds / 60:.1f} minutes")
        elif key == "best":
            table.add_row("best epoch", f"{value['epoch']}: {BEST} {value[BEST]:.4f}")
        elif value is not None:
            unlabelled = (key, value) == ("people", 1)
            table.add_row(key, "no labels" if unlabelled else str(value))
    console.print(table)
