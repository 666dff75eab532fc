"""`tf_sphereface-train`: from a folder of identity folders to an embedder."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface import data, embedder, training
from tf_sphereface.commands.console import (
    CommandError,
    add_json_option,
    command,
    console,
    error_console,
    existing_dir,
    existing_file,
    image_size,
    make_parser,
    positive_int,
    progress,
    write_json_option,
)
from tf_sphereface.commands.train import face_source, run_folder, run_plan
from tf_sphereface.commands.train.run_callbacks import (
    BEST,
    Checkpoints,
    RunLog,
    ShowProgress,
    deferred_stop,
    warn,
)
from tf_sphereface.embedder import model_card
from tf_sphereface.training import recipe_losses, recipes
from tf_sphereface.training.checkpoint import Checkpoint
from tf_sphereface.training.fitting import is_chief
from tf_sphereface.utils.files import write_json

EXAMPLES = """\
  tf_sphereface-train --data faces/ --preset small --out runs/first
  tf_sphereface-train --data faces/ --preset small --loss softmax --out runs/baseline
  tf_sphereface-train --data synthetic --preset quick --out runs/quick
  tf_sphereface-train --data faces/ --preset small --out runs/first --resume
  tf_sphereface-train --data faces/ --exclude audit/exclude.txt --out runs/clean
  tf_sphereface-train --data faces/ --preset paper --out runs/paper --dry-run
  tf_sphereface-train --data faces/ --preset paper --strategy mirrored --out runs/paper

The data is a folder with one folder of aligned JPEG or PNG faces for each person, all at the
input size. The run folder holds config.json, environment.json, log.csv, summary.json, checkpoints/
(what --resume needs), embedder.keras (what eval, export and verify need) and, with a verification
set, best.keras."""

DESCRIPTION = """\
Train a face embedder with A-Softmax (SphereFace) or one of its successors or, as a baseline, plain
softmax. docs/losses.md compares the losses.

A preset fixes everything; the other options change single values of it. lambda, the margin that
is really felt, loss and accuracy are shown after each epoch and written to log.csv."""


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = make_parser("train", DESCRIPTION, EXAMPLES)
    parser.add_argument("--data", required=True, metavar="DIR|synthetic", help="training faces")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="the run folder")
    parser.add_argument(
        "--preset", default="small", choices=sorted(recipes.PRESETS), help="the recipe"
    )
    parser.add_argument("--resume", action="store_true", help="go on where this run stopped")
    parser.add_argument(
        "--dry-run", action="store_true", help="show schedule and memory, train nothing"
    )
    parser.add_argument("--no-doctor", action="store_true", help="no TrainingDoctor")
    parser.add_argument(
        "--strategy",
        choices=("none", "mirrored", "multiworker"),
        default="none",
        help="mirrored: all GPUs of this machine; multiworker: those of all in TF_CONFIG",
    )
    parser.add_argument(
        "--jit", choices=("auto", "on", "off"), default="auto", help="XLA; auto: on for GPUs"
    )
    recipe = parser.add_argument_group("changes to the preset")
    recipe.add_argument("--backbone", choices=recipes.BACKBONES)
    recipe.add_argument("--embedding-dim", type=int, metavar="N")
    recipe.add_argument("--input-size", type=image_size, metavar="HxW", help="such as 112x96")
    recipe.add_argument("--loss", choices=recipes.LOSSES)
    recipe.add_argument("--margin", type=float, metavar="M", help="a-softmax: 1, 2, 3 or 4")
    recipe.add_argument("--scale", type=float, metavar="S", help="of the cosines; not a-softmax")
    recipe.add_argument("--clip-norm", type=float, metavar="G", help="of gradients; 0: none")
    recipe.add_argument(
        "--gradient", choices=("exact", "caffe"), help="caffe: the released layer's, for a-softmax"
    )
    recipe.add_argument(
        "--sample-rate", type=float, metavar="R", help="share of the class centres a step sees"
    )
    recipe.add_argument(
        "--annealing", choices=recipes.ANNEALINGS, help="fit: lambda's fall scaled to the run"
    )
    recipe.add_argument(
        "--annealing-reach",
        type=float,
        metavar="S",
        help="share of the run after which lambda is at its minimum; with --annealing fit",
    )
    recipe.add_argument(
        "--annealing-power",
        type=float,
        metavar="P",
        help="exponent of lambda's curve; with --annealing fit. Above 1 it falls later",
    )
    recipe.add_argument("--lambda-minimum", type=float, metavar="L", help="where lambda stops")
    recipe.add_argument("--epochs", type=int, metavar="N")
    recipe.add_argument("--batch-size", type=int, metavar="N", help="over all replicas")
    recipe.add_argument("--learning-rate", type=float, metavar="R")
    recipe.add_argument(
        "--scale-learning-rate",
        choices=("none", "linear"),
        default="none",
        help="linear: by batch size over the preset's",
    )
    recipe.add_argument("--weight-decay", type=float, metavar="W")
    recipe.add_argument(
        "--dropout", type=float, metavar="P", help="share of the embedding layer's inputs dropped"
    )
    recipe.add_argument("--augment", choices=("none", "mirror", "strong"))
    recipe.add_argument(
        "--precision",
        choices=recipes.PRECISIONS,
        help="auto: mixed_bfloat16 where this machine multiplies in it, else float32",
    )
    recipe.add_argument("--seed", type=int, metavar="N")
    faces = parser.add_argument_group("data")
    faces.add_argument("--strict", action="store_true", help="stop at a damaged file")
    faces.add_argument("--resize", action="store_true", help="resize faces of another size")
    faces.add_argument(
        "--cache",
        choices=("memory", "none"),
        help=f"none: decode every epoch {_default('cache')}",
    )
    faces.add_argument(
        "--exclude",
        type=existing_file,
        metavar="FILE",
        help="identities and images to leave out, as tf_sphereface-data audit lists them",
    )
    faces.add_argument("--channel-order", choices=("rgb", "bgr"), default="rgb")
    faces.add_argument(
        "--identities",
        type=int,
        metavar="N",
        help=f"of the synthetic data {_default('identities')}",
    )
    faces.add_argument(
        "--images",
        type=int,
        metavar="N",
        help=f"an identity, of the synthetic data {_default('images')}",
    )
    kept = parser.add_argument_group("checkpoints and verification")
    kept.add_argument(
        "--checkpoint-every",
        type=positive_int,
        metavar="N",
        help="steps between checkpoints; default: 500 or two minutes, and at each epoch's end",
    )
    kept.add_argument(
        "--keep", type=positive_int, default=3, metavar="K", help="newest checkpoints"
    )
    kept.add_argument(
        "--verify-images", type=existing_dir, metavar="DIR", help="verify on these after each epoch"
    )
    kept.add_argument(
        "--verify-pairs", type=existing_file, metavar="FILE", help="as LFW's; else random pairs"
    )
    kept.add_argument(
        "--verify-landmarks", type=existing_file, metavar="FILE", help="to align them by"
    )
    kept.add_argument("--verify-people", type=int, metavar="N", help="held out, for synthetic data")
    parser.add_argument(
        "--license", metavar="TEXT", help="of the trained weights, for the model card"
    )
    add_json_option(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = build_parser().parse_args(argv)
    face_source.check_options(arguments)
    recipe = run_folder.as_begun(arguments, recipe_from(arguments))
    strategy = make_strategy(
        arguments.strategy, recipe.batch_size
    )  # before TensorFlow does a thing
    if arguments.dry_run:
        return dry_run(arguments, recipe, strategy)
    files = run_folder.run_files(arguments.out)
    run_folder.check_run_folder(arguments, recipe, files)
    if run_folder.is_finished(arguments, files):
        said = f"this run is finished: {files['summary']}; nothing to do"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        return 0
    stored = run_folder.find_state(arguments, files)
    faces = face_source.load_faces(arguments, recipe)
    model, plan = build(arguments, recipe, faces, strategy)
    facts = {"people": faces.num_classes, "faces": len(faces)}
    if stored is not None:
        run_folder.check_facts(stored, facts)
        stored.restore(model)
        error_console.print(f"resumed after step {stored.info['step']}", highlight=False)
    error_console.print("\n".join(plan.header()), markup=False, highlight=False, soft_wrap=True)
    log = fit(arguments, recipe, files, faces, model, plan, stored, facts)
    if not is_chief(model):
        return 0
    network = training.embedder_of(model, recipe)
    metadata = run_folder.metadata_of(arguments, recipe, model, faces, log)
    embedder.save_embedder(network, files["embedder"], metadata)
    model_card.write_card(files["embedder"])
    summary = run_folder.summarise(model, recipe, log, faces, files)
    write_json(files["summary"], summary)
    run_folder.show_summary(summary)
    write_json_option(arguments.json, summary)
    return 0


JIT: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}


def dry_run(
    arguments: argparse.Namespace, recipe: recipes.Recipe, strategy: tf.distribute.Strategy
) -> int:
    """Show what a run would do. Files are counted, not opened; nothing is written."""
    faces = face_source.count_faces(arguments)
    model, plan = build(arguments, recipe, faces, strategy)
    report = plan.report(model)
    console.print("\n".join(plan.header()), markup=False, highlight=False, soft_wrap=True)
    run_plan.show(report)
    write_json_option(arguments.json, report)
    return 0


def build(
    arguments: argparse.Namespace,
    recipe: recipes.Recipe,
    faces: face_source.Faces,
    strategy: tf.distribute.Strategy,
) -> tuple[Any, run_plan.Plan]:
    """Return the compiled model and the plan of the run."""
    steps = data.steps_per_epoch(len(faces), recipe.batch_size)
    if steps < 1:
        raise CommandError(
            f"{len(faces)} faces do not fill one batch of {recipe.batch_size}: use --batch-size"
        )
    with strategy.scope():
        jit = JIT[arguments.jit]
        model = training.build_classifier(recipe, faces.num_classes, steps, jit=jit)
    plan = run_plan.Plan(
        recipe=recipe,
        preset=recipes.preset(arguments.preset),
        preset_name=arguments.preset,
        scaling=arguments.scale_learning_rate,
        strategy=arguments.strategy,
        replicas=strategy.num_replicas_in_sync,
        faces=len(faces),
        people=faces.num_classes,
        steps=steps,
        xla=model.xla_reason,
        loss=recipe_losses.describe(model.loss, recipe.gradient),
    )
    return model, plan


def fit(
    arguments: argparse.Namespace,
    recipe: recipes.Recipe,
    files: dict[str, Path],
    faces: face_source.Faces,
    model: Any,
    plan: run_plan.Plan,
    stored: Checkpoint | None,
    facts: dict[str, Any],
) -> RunLog:
    """Train to the end, or raise where the loss is no number."""
    begun: dict[str, Any] = {"step": 0, "history": [], "seconds": 0.0}
    info = begun if stored is None else stored.info
    log = RunLog(files["log"], info["history"], info["seconds"])
    doctor = None
    if not arguments.no_doctor:
        doctor = face_source.doctor(
            arguments,
            recipe,
            faces,
            first_step=info["step"],
            total_steps=plan.total,
            say=warn,
        )
    verifier = face_source.verification(
        arguments,
        recipe,
        best=files["best"],
        metadata=run_folder.metadata_of(arguments, recipe, model, faces),
        best_so_far=max((row[BEST] for row in info["history"] if BEST in row), default=None),
        embedder=lambda trained: training.embedder_of(trained, recipe),
    )
    if is_chief(model):  # from here on, the folder holds a run
        write_json(files["config"], run_folder.config_of(arguments, recipe))
        write_json(files["environment"], embedder.library_versions())
        files["diverged"].unlink(missing_ok=True)  # of an earlier try
    with progress() as bar, deferred_stop() as stop:
        watchers = [
            doctor or keras.callbacks.TerminateOnNaN(),
            *([verifier] if verifier is not None else []),
            ShowProgress(bar, plan.total, info["step"]),
            log,
            Checkpoints(
                files["checkpoints"],
                log,
                step=info["step"],
                steps_per_epoch=plan.steps,
                every=arguments.checkpoint_every,
                keep=arguments.keep,
                facts=facts,
                stop=stop,
            ),
        ]
        training.train(
            model,
            lambda step: face_source.stream(
                faces, arguments, recipe, model.distribute_strategy, step
            ),
            epochs=recipe.epochs,
            steps_per_epoch=plan.steps,
            initial_step=info["step"],
            metric_state=stored.metrics if stored is not None else (),
            callbacks=watchers,
        )
    if doctor is not None and doctor.diverged is not None:
        found = doctor.diverged
        path = files["diverged"]
        write_json(path, {"step": found.step, "what": found.text, **found.details})
        raise CommandError(
            f"training stopped at step {found.step}, see above; {path} lists the batch's images"
        )
    if log.diverged:
        raise CommandError(
            f"the loss became {log.rows[-1]['loss']} in epoch {log.rows[-1]['epoch']}: lower "
            "--learning-rate (without --no-doctor the run would say more)"
        )
    return log


def _default(name: str) -> str:
    return f"(default: {face_source.DEFAULTS[name]})"


def recipe_from(arguments: argparse.Namespace) -> recipes.Recipe:
    """Return the preset with the options that were given, and the learning rate scaled.

    Raises:
        CommandError: an option was given that the annealing of the recipe has no use for.
        ValueError: a value is out of its range.
    """
    preset = recipes.preset(arguments.preset)
    names = {field.name for field in dataclasses.fields(preset)}
    given = {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    recipe = dataclasses.replace(preset, **given)
    for name in ("annealing_reach", "annealing_power"):
        if name in given and recipe.annealing != "fit":
            raise CommandError(
                f"--{name.replace('_', '-')} needs --annealing fit: with --annealing "
                f"{recipe.annealing} lambda falls by the released layer's constants"
            )
    if arguments.scale_learning_rate == "linear":
        rate = recipe.learning_rate * recipe.batch_size / preset.batch_size
        recipe = dataclasses.replace(recipe, learning_rate=rate)
    return recipe


def make_strategy(name: str, batch_size: int) -> tf.distribute.Strategy:
    """Return the strategy by name, or raise where the batch cannot be shared out."""
    strategy = tf.distribute.get_strategy()
    if name == "mirrored":
        strategy = tf.distribute.MirroredStrategy()
    elif name == "multiworker":
        if not os.environ.get("TF_CONFIG"):
            raise CommandError(
                "--strategy multiworker needs TF_CONFIG in the environment of each worker, such as "
                '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
                '"task": {"type": "worker", "index": 0}}'
            )
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if batch_size % strategy.num_replicas_in_sync:
        raise CommandError(
            f"a batch of {batch_size} cannot be shared by {strategy.num_replicas_in_sync} replicas"
        )
    return strategy


if __name__ == "__main__":
    raise SystemExit(main())
