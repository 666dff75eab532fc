"""`tf_sphereface-train`: from a folder of identity folders to an embedder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_sphereface import FaceClassifier, embedder, training
from tf_sphereface.commands.console import (
    CommandError,
    command,
    console,
    make_parser,
    progress,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.train import run_plan, summary, watchers
from tf_sphereface.commands.train.arguments import Options, add_arguments, read_options
from tf_sphereface.commands.train.watchers import ShowProgress, note, warn
from tf_sphereface.embedder import model_card
from tf_sphereface.training import building, recipe_losses, recipes
from tf_sphereface.training.fitting import is_chief
from tf_sphereface.training.run_callbacks import BEST
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
    add_arguments(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = read_options(build_parser().parse_args(argv))
    # before TensorFlow does a thing
    strategy = make_strategy(options.strategy, options.recipe.batch_size)
    if options.dry_run:
        return dry_run(options, strategy)
    folder = options.folder
    folder.check(options.recipe, options.source, resume=options.resume)
    if options.resume and folder.summary.exists():
        said = f"this run is finished: {folder.summary}; nothing to do"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        return 0
    run = begin(options, strategy)
    train(run, options)
    if not is_chief(run.model):
        return 0
    metadata = summary.metadata_of(run, options.license, finished=True)
    embedder.save_embedder(run.network(), folder.embedder, metadata)
    model_card.write_card(folder.embedder)
    result = summary.summarise(run)
    write_json(folder.summary, result)
    summary.show_summary(result)
    write_json_option(options.json, result)
    return 0


def dry_run(options: Options, strategy: tf.distribute.Strategy) -> int:
    """Show what a run would do. Files are counted, not opened; nothing is written."""
    faces, people = options.source.count(say=say_excluded(options))
    steps = building.steps_of(options.recipe, faces)
    with strategy.scope():
        model = training.build_classifier(options.recipe, people, steps, jit=options.jit)
    plan = make_plan(options, model, faces, people)
    report = plan.report(model)
    console.print("\n".join(plan.header()), markup=False, highlight=False, soft_wrap=True)
    run_plan.show(report)
    write_json_option(options.json, report)
    return 0


def say_excluded(options: Options) -> Callable[[str], None]:
    """Return what says how much the list of exclusions has left out."""
    return lambda text: note(f"left out by {options.exclude}: {text}")


def begin(options: Options, strategy: tf.distribute.Strategy) -> training.Run:
    """Read the newest state and the faces, build the model, and say what will be done."""
    source, folder = options.source, options.folder
    state = folder.newest_state(warn)
    if state is None and (options.resume or folder.config.exists()):
        note("no checkpoint yet: the run starts afresh")
    with progress_bar("reading faces") as show:
        source.load(progress=show, say=say_excluded(options))
    if source.report.count:
        note(source.report.summary())
    run = training.Run(
        options.recipe,
        source,
        folder,
        state=state,
        strategy=strategy,
        jit=options.jit,
        warn=warn,
    )
    if state is not None:
        note(f"resumed after step {run.step}")
    note("\n".join(make_plan(options, run.model, len(source), source.num_classes).header()))
    return run


def make_plan(options: Options, model: FaceClassifier, faces: int, people: int) -> run_plan.Plan:
    """Return the figures of the run that is about to begin."""
    recipe = options.recipe
    return run_plan.Plan(
        recipe=recipe,
        preset=recipes.preset(options.preset),
        preset_name=options.preset,
        scaling=options.scaling,
        strategy=options.strategy,
        replicas=model.distribute_strategy.num_replicas_in_sync,
        faces=faces,
        people=people,
        steps=building.steps_of(recipe, faces),
        xla=model.xla_reason,
        loss=recipe_losses.describe(model.loss, recipe.gradient),
    )


def train(run: training.Run, options: Options) -> None:
    """Train to the end, or raise where the loss is no number."""
    verifier = watchers.verification(
        options.verification,
        run,
        best=run.folder.best,
        metadata=summary.metadata_of(run, options.license),
        best_so_far=max((row[BEST] for row in run.log.rows if BEST in row), default=None),
        embedder=lambda trained: training.embedder_of(trained, run.recipe),
    )
    others = [] if verifier is None else [verifier]
    doctor = watchers.doctor(run, *others) if options.doctor else None
    try:
        with progress() as bar, training.deferred_stop(note) as stop:
            run.fit(
                [
                    doctor or keras.callbacks.TerminateOnNaN(),
                    *others,
                    ShowProgress(bar, run.total_steps, run.step),
                ],
                stop=stop,
                checkpoint_every=options.checkpoint_every,
                keep=options.keep,
            )
    except training.RunStopped as stopped:
        note(f"{stopped}: the same command with --resume goes on")
        raise
    if doctor is not None and doctor.diverged is not None:
        found = doctor.diverged
        path = run.folder.diverged
        write_json(path, {"step": found.step, "what": found.text, **found.details})
        raise CommandError(
            f"training stopped at step {found.step}, see above; {path} lists the batch's images"
        )
    if run.log.diverged:
        last = run.log.rows[-1]
        raise CommandError(
            f"the loss became {last['loss']} in epoch {last['epoch']}: lower --learning-rate "
            "(without --no-doctor the run would say more)"
        )


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
