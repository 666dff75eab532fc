"""The folder of a training run: what is in it, and whether a run may go on there."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import keras
from rich.markup import escape
from rich.table import Table

from tf_sphereface import embedder
from tf_sphereface.commands.console import CommandError, console, error_console
from tf_sphereface.commands.train import face_source
from tf_sphereface.commands.train.run_callbacks import BEST, RunLog, warn
from tf_sphereface.embedder import model_card
from tf_sphereface.training import recipe_losses, recipes
from tf_sphereface.training.checkpoint import (
    Checkpoint,
    checkpoint_files,
    read_newest,
    remove_leftovers,
)


def config_of(arguments: argparse.Namespace, recipe: recipes.Recipe) -> dict[str, Any]:
    """Return all that decides what is trained, as JSON gives it back."""
    faces = {"channel_order": arguments.channel_order, "resize": arguments.resize}
    if arguments.data == "synthetic":
        faces |= {"identities": arguments.identities, "images": arguments.images}
    exclusions = face_source.exclusions_of(arguments)
    faces["exclude"] = None if exclusions is None else exclusions.to_dict()
    config = {"data": arguments.data, "faces": faces, "recipe": recipe.to_dict()}
    return dict(json.loads(json.dumps(config)))


def as_begun(arguments: argparse.Namespace, recipe: recipes.Recipe) -> recipes.Recipe:
    """Return the recipe in the precision that the run to resume began in, where it may choose.

    `precision="auto"` means another one on another machine, and a run keeps one to its end.
    """
    path = run_files(arguments.out)["config"]
    if not (arguments.resume and recipe.precision == "auto" and path.exists()):
        return recipe
    stored = json.loads(path.read_text(encoding="utf-8"))
    return dataclasses.replace(recipe, precision=stored["recipe"]["precision"])


def check_run_folder(
    arguments: argparse.Namespace, recipe: recipes.Recipe, files: dict[str, Path]
) -> None:
    """Refuse to overwrite a run, or to resume one with another recipe or data.

    A folder in which a run has left its configuration alone, as one whose first step failed, holds
    nothing to overwrite or resume, and may begin with any.
    """
    if not files["config"].exists():
        visible = arguments.out.glob("[!.]*") if arguments.out.exists() else ()
        if arguments.resume and any(visible):
            raise CommandError(f"{arguments.out} is not a run folder: it has no config.json")
        return
    if not has_begun(files):
        return
    if not arguments.resume:
        raise CommandError(
            f"{arguments.out} holds a run already: add --resume to go on, or choose another --out"
        )
    stored = json.loads(files["config"].read_text(encoding="utf-8"))
    before, after = (
        {"data": c["data"], **c.get("faces", {}), **c["recipe"]}
        for c in (stored, config_of(arguments, recipe))
    )
    changed = [key for key in after if before.get(key) != after[key]]
    if _same_folder(before["data"], after["data"]):
        changed = [key for key in changed if key != "data"]
    if changed:
        lines = ", ".join(f"{key} was {before.get(key)}, now {after[key]}" for key in changed)
        raise CommandError(f"--resume with another configuration: {lines}")


def has_begun(files: dict[str, Path]) -> bool:
    """Whether a run folder holds anything that a run has gained, even if it is damaged."""
    gained = any(files[name].exists() for name in ("log", "best", "embedder", "summary"))
    return gained or bool(checkpoint_files(files["checkpoints"]))


def _same_folder(before: str, after: str) -> bool:
    """Whether two values of `--data` name one folder, as `faces` and `faces/` do."""
    return "synthetic" not in (before, after) and os.path.abspath(before) == os.path.abspath(after)


def is_finished(arguments: argparse.Namespace, files: dict[str, Path]) -> bool:
    """Whether the run to resume has come to its end, whatever is left of its checkpoints."""
    return arguments.resume and files["summary"].exists()


def find_state(arguments: argparse.Namespace, files: dict[str, Path]) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; None where the run has to begin."""
    if not arguments.resume and not files["config"].exists():
        return None
    remove_leftovers(files["checkpoints"])
    stored = read_newest(files["checkpoints"], warn)
    if stored is None:
        error_console.print("no checkpoint yet: the run starts afresh", highlight=False)
    return stored


def check_facts(stored: Checkpoint, facts: dict[str, Any]) -> None:
    """Refuse to go on with other faces: the order of all batches would be another."""
    changed = [key for key in facts if stored.info.get(key) != facts[key]]
    if changed:
        lines = ", ".join(f"{stored.info.get(key)} {key}, now {facts[key]}" for key in changed)
        raise CommandError(f"--resume with other data: the run had {lines}")


def metadata_of(
    arguments: argparse.Namespace,
    recipe: recipes.Recipe,
    model: Any,
    faces: face_source.Faces,
    log: RunLog | None = None,
) -> embedder.EmbedderMetadata:
    """Return what the embedder says of itself; with a log, the last epoch's figures too."""
    metadata = embedder.EmbedderMetadata(
        input_size=recipe.input_size,
        embedding_dim=recipe.embedding_dim,
        channel_order=arguments.channel_order,
        template=face_source.template_of(recipe),
        flip="concat",
        architecture=recipe.backbone,
        loss=recipe.loss,
        margin=recipe_losses.resolve_margin(recipe.loss, recipe.margin),
        training_data=face_source.describe_data(arguments, faces),
        extra={
            "recipe": recipe.to_dict(),
            "loss": recipe_losses.describe(model.loss, recipe.gradient),
            model_card.NETWORK: model_card.network_facts(model.backbone),
            model_card.LICENSE: arguments.license or model_card.UNKNOWN,
        },
    )
    if log is None or not log.rows:
        return metadata
    row = {key: value for key, value in log.rows[-1].items() if key != "seconds"}
    return model_card.with_measured(metadata, {"last epoch of training": row})


def summarise(
    model: Any,
    recipe: recipes.Recipe,
    log: RunLog,
    faces: face_source.Faces,
    files: dict[str, Path],
) -> dict[str, Any]:
    """Return what the run did, for the table and for summary.json."""
    summary = {
        "loss": recipe.loss,
        "margin": recipe_losses.resolve_margin(recipe.loss, recipe.margin),
        "scale": recipe_losses.resolve_scale(recipe.loss, recipe.scale),
        "loss in words": recipe_losses.describe(model.loss, recipe.gradient),
        "backbone": recipe.backbone,
        "people": faces.num_classes,
        "faces": len(faces),
        "skipped": faces.report.count,
        "epochs": recipe.epochs,
        "updates": int(keras.ops.convert_to_numpy(model.optimizer.iterations)),
        "final": log.rows[-1] if log.rows else {},
        "embedder": str(files["embedder"]),
    }
    scored = [row for row in log.rows if BEST in row]
    if scored:
        best = max(scored, key=lambda row: float(row[BEST]))
        summary["best"] = {"epoch": best["epoch"], BEST: best[BEST], "file": str(files["best"])}
    return summary


def show_summary(summary: dict[str, Any]) -> None:
    """Print the summary as a table."""
    table = Table(title="run", show_header=False)
    for key, value in summary.items():
        if key == "final":
            figures = dict(value)
            seconds = figures.pop("seconds", None)
            for name, figure in figures.items():
                table.add_row(f"last epoch: {name}", f"{figure:.5g}")
            if seconds is not None:
                table.add_row("time", f"{seconds / 60:.1f} minutes")
        elif key == "best":
            table.add_row("best epoch", f"{value['epoch']}: {BEST} {value[BEST]:.4f}")
        elif value is not None:
            table.add_row(key, escape(str(value)))  # a path may hold brackets
    console.print(table)


def run_files(out: Path) -> dict[str, Path]:
    """Name the files of a run folder."""
    return {
        "config": out / "config.json",
        "environment": out / "environment.json",
        "log": out / "log.csv",
        "checkpoints": out / "checkpoints",
        "best": out / "best.keras",
        "embedder": out / "embedder.keras",
        "summary": out / "summary.json",
        "diverged": out / "diverged.json",
    }
