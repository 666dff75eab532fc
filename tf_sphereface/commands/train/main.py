"""`tf_sphereface-train`: from a folder of identity folders to an embedder."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_sphereface import callbacks, embedder, training
from tf_sphereface.commands.console import (
    CommandError,
    command,
    console,
    make_parser,
    note,
    progress,
    progress_bar,
    warn,
    write_json_option,
)
from tf_sphereface.commands.train import distillation, hooks, memory, run_plan, summary, watchers
from tf_sphereface.commands.train.arguments import RunOptions, check_options, read_options
from tf_sphereface.commands.train.options import JIT, add_arguments
from tf_sphereface.commands.train.run_plan import Plan
from tf_sphereface.commands.train.watchers import ShowProgress
from tf_sphereface.embedder import model_card
from tf_sphereface.layers.sampled_angular_dense import check_batch_fits
from tf_sphereface.training import building
from tf_sphereface.training.fitting import is_chief
from tf_sphereface.training.run_callbacks import BEST
from tf_sphereface.utils import compile_cache, startup
from tf_sphereface.utils.files import write_json
from tf_sphereface.utils.optional import require

EXAMPLES = """\
  tf_sphereface-train --data faces/ --preset small --out runs/first
  tf_sphereface-train --data faces/ --preset small --loss softmax --out runs/baseline
  tf_sphereface-train --data faces/ --from model.keras --verify-people 50 --out runs/mine
  tf_sphereface-train --data faces/ --teacher model.onnx --resize --out runs/student
  tf_sphereface-train --data faces/ --from model.keras --teacher model.keras --out runs/mine
  tf_sphereface-train --data synthetic --preset quick --out runs/quick
  tf_sphereface-train --data faces/ --preset small --out runs/first --resume
  tf_sphereface-train --data faces/ --preset small --out runs/first --resume --epochs 40
  tf_sphereface-train --data faces/ --exclude audit/exclude.txt --out runs/clean
  tf_sphereface-train --data faces/ --preset paper --out runs/paper --dry-run
  tf_sphereface-train --data faces/ --preset paper --strategy mirrored --out runs/paper

The data is a folder with one folder of aligned faces for each person, all at the
input size, or such a folder packed, or an MXNet RecordIO file (train.rec). The run folder holds
config.json, environment.json, log.csv, summary.json, checkpoints/ (what --resume needs),
embedder.keras (what eval, export and verify need) and, with a verification set, best.keras; with
--ema these hold the averages, and unaveraged.keras the last update's weights."""

DESCRIPTION = """\
Train a face embedder with A-Softmax (SphereFace) or one of its successors or, as a baseline, plain
softmax. docs/start/choose-a-loss.md compares the losses.

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
    line = build_parser().parse_args(argv)
    check_options(line)
    if line.tensorboard:
        require("tensorboard", extra="tensorboard")
    if line.verify_images is not None or line.verify_people or line.verify_bins:
        require("sklearn.metrics", extra="eval")
    # before TensorFlow does a thing, as opening a network does
    prepare_xla(line.compile_cache)
    found = hooks.find_hooks(line.callback or ())
    strategy = make_strategy(line.strategy)
    training.RunFolder(line.out).check_place()
    options = read_options(line)
    check_batch(options.recipe.batch_size, strategy.num_replicas_in_sync)
    if line.dry_run:
        return dry_run(options, strategy)
    with contextlib.ExitStack() as held:
        if strategy.extended.should_checkpoint:
            held.enter_context(options.folder.claimed())
        return run_in_folder(options, strategy, found)


def run_in_folder(
    options: RunOptions, strategy: tf.distribute.Strategy, found: dict[str, hooks.Hook]
) -> int:
    """Begin a run or go on with it, train to the end, and write what comes of it."""
    folder, line = options.folder, options.line
    folder.check(options.recipe, options.source, resume=line.resume)
    if line.resume and folder.is_finished(options.recipe):
        note(f"this run is finished: {folder.summary}; nothing to do", console)
        write_json_option(line.json, json.loads(folder.summary.read_text(encoding="utf-8")))
        return 0
    run = begin(options, strategy)
    train(run, options, found)
    if not is_chief(run.model):
        return 0
    if not run.log.is_of_the_weights():
        warn(summary.restored(run))
    metadata = summary.metadata_of(run, line.license, finished=True)
    embedder.save_embedder(run.network(), folder.embedder, metadata)
    if run.average is not None:  # what was measured is measured of the averages
        plain = summary.metadata_of(run, line.license)
        embedder.save_embedder(run.network(averaged=False), folder.unaveraged, plain)
    model_card.write_card(folder.embedder)
    result = summary.summarise(run)
    write_json(folder.summary, result)
    summary.show_summary(result)
    write_json_option(line.json, result)
    return 0


def prepare_xla(folder: str | None) -> None:
    """Set XLA's flags for a GPU, and say where compiled steps are kept, or why they are not."""
    if startup.cache_problem:
        warn(startup.cache_problem)
    elif folder not in (None, compile_cache.OFF) and compile_cache.started() is None:
        warn("--compile-cache has no effect: TensorFlow was imported before the command")
    for flag in training.tune_xla():
        note(f"XLA: {flag}")
    if compile_cache.started() is not None:
        note(f"compiled steps are kept in {compile_cache.started()}")


def dry_run(options: RunOptions, strategy: tf.distribute.Strategy) -> int:
    """Show what a run would do. Files are counted, not opened; nothing is written."""
    faces, people = options.source.count(say=say_excluded(options), doubt=warn)
    if options.source.report:
        note(options.source.report.summary())
    steps = building.steps_of(options.recipe, faces)
    if strategy.num_replicas_in_sync == 1:
        check_batch_fits(options.recipe.sample_rate, people, options.recipe.batch_size)
    with strategy.scope():
        jit = JIT[options.line.jit]
        model = training.build_classifier(
            options.recipe,
            min(people, memory.STAND_IN),  # all would take the memory that is to be told
            steps,
            jit=jit,
            pretrained=options.pretrained,
            teacher_dim=distillation.dim_of(options.line, options.recipe, options.teacher),
            centers=options.line.centers,
        )
    plan = Plan(options, model, faces, people)
    report = plan.report()
    note("\n".join(plan.header()), console)
    if options.teacher is not None:
        told = distillation.costs(options.line, options.source, options.teacher, faces)
        note("\n".join(told), console)
    run_plan.show(report)
    for doubt in memory.doubts(report, model, options.folder.path):
        warn(doubt)
    write_json_option(options.line.json, report)
    return 0


def say_excluded(options: RunOptions) -> Callable[[str], None]:
    """Return what says how much the list of exclusions has left out."""
    line = options.line
    lists = [] if line.exclude is None else [str(line.exclude)]
    if options.held is not None:
        lists.append(f"--verify-people {line.verify_people}")
    return lambda text: note(f"left out by {' and '.join(lists)}: {text}")


def begin(options: RunOptions, strategy: tf.distribute.Strategy) -> training.Run:
    """Read the newest state and the faces, build the model, and say what will be done."""
    recipe, source, folder, line = options.recipe, options.source, options.folder, options.line
    state = folder.newest_state(warn)
    if state is None and (line.resume or folder.config.exists()):
        note("no checkpoint yet: the run starts afresh")
    with progress_bar("reading faces") as show:
        source.load(progress=show, say=say_excluded(options))
    if source.report:
        note(source.report.summary())
    chief = bool(strategy.extended.should_checkpoint)
    taught = distillation.embeddings(line, recipe, source, folder, options.teacher, chief=chief)
    jit = JIT[line.jit]
    with contextlib.ExitStack() as bars:
        measured = options.pretrained is not None and state is None
        means = bars.enter_context(progress_bar("mean embeddings")) if measured else None
        run = training.Run(
            recipe,
            source,
            folder,
            state=state,
            strategy=strategy,
            jit=jit,
            warn=warn,
            pretrained=options.pretrained,
            progress=means,
            teacher=taught,
            centers=line.centers,
        )
    if state is not None:
        note(f"resumed after step {run.step}")
    note("\n".join(Plan(options, run.model, len(source), source.num_classes).header()))
    note(str(run.room(line.keep)))
    return run


def train(run: training.Run, options: RunOptions, own: dict[str, hooks.Hook]) -> None:
    """Train to the end, with the callbacks of `own`; raise where the loss is no number."""
    line, best = options.line, run.log.best
    verifier = watchers.verification(
        line,
        run,
        options.held,
        best=run.folder.best,
        metadata=summary.metadata_of(run, line.license),
        best_so_far=None if best is None else best[BEST],
        embedder=lambda trained: run.network(),
    )
    if verifier is not None and best is not None:
        watchers.say_other_sets(verifier, best)
    others: list[keras.callbacks.Callback] = [] if verifier is None else [verifier]
    guarded = hooks.callbacks_of(own, run)
    others += guarded
    if line.tensorboard:  # after them: their figures go there too
        others.append(hooks.TensorBoardColumns(run.folder.path / "tensorboard"))
    table = getattr(run.model.head_layer, "center_table", None)
    if table is not None:
        others.append(watchers.CenterTimes(table, note))
    watched = [*others, *(callback.inner for callback in guarded)]
    doctor = None if line.no_doctor else watchers.doctor(run, *watched)
    try:
        with progress() as bar, training.deferred_stop(note) as stop:
            waits = callbacks.DataWait(say=note)
            shown = ShowProgress(bar, run.total_steps, run.step, waits, run.model.uses_xla)
            run.fit(
                [doctor or keras.callbacks.TerminateOnNaN(), *others, waits, shown],
                stop=lambda: stop() or any(callback.failure for callback in guarded),
                checkpoint_every=line.checkpoint_every,
                keep=line.keep,
            )
    except tf.errors.OpError as error:
        if compile_cache.is_damaged(error.message or ""):
            raise CommandError(
                f"the compile cache {compile_cache.started()} is damaged, or its disk is full: "
                f"remove it, or use --compile-cache none. {error.message}"
            ) from None
        raise
    except training.RunStopped as stopped:
        failures = [callback.failure for callback in guarded if callback.failure]
        if failures:
            raise CommandError(f"{failures[0]} ({stopped}; --resume goes on there)") from None
        note(f"{stopped}: the same command with --resume goes on")
        raise
    if doctor is not None and doctor.diverged is not None:
        found, path = doctor.diverged, run.folder.diverged
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


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy by name."""
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multiworker":
        if not os.environ.get("TF_CONFIG"):
            raise CommandError(
                "--strategy multiworker needs TF_CONFIG in the environment of each worker, such as "
                '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
                '"task": {"type": "worker", "index": 0}}'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def check_batch(batch_size: int, replicas: int) -> None:
    """Raise CommandError where the batch cannot be shared out."""
    if batch_size % replicas:
        raise CommandError(f"a batch of {batch_size} cannot be shared by {replicas} replicas")


if __name__ == "__main__":
    raise SystemExit(main())
