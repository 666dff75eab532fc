"""The callbacks of `tf_sphereface-train`: progress, the doctor, verification."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tf_sphereface import callbacks, data, training
from tf_sphereface.commands.console import warn
from tf_sphereface.utils import people_names
from tf_sphereface.utils.messages import and_more


class ShowProgress(keras.callbacks.Callback):
    """A progress bar over the whole run, and a line for each epoch.

    `waits` comes before it in the list of callbacks: the bar shows its share of the epoch where the
    data is what bounds the run.
    """

    def __init__(
        self, bar: Any, total: int, done: int, waits: callbacks.DataWait, compiled: bool = False
    ) -> None:
        super().__init__()
        self.bar, self.waits, self.compiled = bar, waits, compiled
        self.begin = time.monotonic()
        self.task = bar.add_task("training", total=total, completed=done)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Say that XLA compiles: until the first batch is done the bar shows nothing else."""
        self.begin = time.monotonic()
        if self.compiled:
            self.bar.update(self.task, description="compiling")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the bar; after the first batch, say how long it took to compile."""
        share = self.waits.share or 0.0
        bound = f", data-bound {share:.0%}" if share >= callbacks.data_wait.BOUND else ""
        self.bar.update(self.task, advance=1, description=f"training{bound}")
        if self.compiled:
            self.compiled = False
            seconds = time.monotonic() - self.begin
            self.bar.console.print(f"compiled: first step after {seconds:.1f} s", highlight=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the epoch's figures."""
        values = {key: float(value) for key, value in (logs or {}).items()}
        figures = "  ".join(f"{k} {v:.4g}" for k, v in values.items() if _is_shown(k, v))
        self.bar.console.print(f"epoch {epoch + 1:3d}  {figures}", highlight=False)


class CenterTimes(keras.callbacks.Callback):
    """Say after an epoch what a step takes, and its part that moves class centers.

    Of centers that are not on the device; the run's first step, which is compiled, is left out.
    """

    def __init__(self, table: Any, say: Callable[[str], None]) -> None:
        super().__init__()
        self.table, self.say = table, say
        self._begun, self._moved, self._steps = 0.0, 0.0, -1
        self._whole = self._part = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure the epoch for itself."""
        self._whole, self._part, self._steps = 0.0, 0.0, min(self._steps, 0)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the time."""
        self._begun, self._moved = time.perf_counter(), self.table.seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the step."""
        self._steps += 1
        if self._steps > 0:
            self._whole += time.perf_counter() - self._begun
            self._part += self.table.seconds - self._moved

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say it."""
        if self._steps > 0:
            whole, part = (1e3 * x / self._steps for x in (self._whole, self._part))
            self.say(f"a step takes {whole:.0f} ms, {part:.1f} of them to read and write centers")


def _is_shown(name: str, value: float) -> bool:
    """Whether a figure is in an epoch's line; log.csv has all.

    An epoch that is not verified, or faces without labels, have NaN there; of several sets the
    accuracies are enough.
    """
    of_a_set = name.startswith("verification_") and name.endswith("_std_error")
    if of_a_set and name != "verification_std_error":
        return False
    return name == "loss" or not math.isnan(value)


def verification(
    line: argparse.Namespace,
    run: training.Run,
    held: data.FaceSource | None = None,
    **options: Any,
) -> callbacks.Verification | None:
    """Return the verification that was asked for, or None; `options` are the callback's.

    `held` are faces of people of the data who are kept out of training.
    """
    images, count, size = line.verify_images, line.verify_people, run.recipe.input_size
    if images is None and not count and not line.verify_bins:
        return None
    options["every"] = line.verify_every or 1
    if line.verify_bins:
        return callbacks.Verification(
            bins=line.verify_bins, max_pairs=line.verify_max_pairs, **options
        )
    if images is not None:
        say_shared(run.source.names, images)
        return callbacks.Verification.from_files(
            images, line.verify_pairs, line.verify_landmarks, input_size=size, **options
        )
    if held is not None:
        return callbacks.verify_on(held, seed=run.recipe.seed, **options)
    held_out = data.synthetic.verification_set(
        count,
        pairs_per_fold=40,
        folds=min(10, count // 2),
        seed=run.recipe.seed,
        first_identity=run.source.num_classes,
        size=size,
    )
    return callbacks.Verification(
        held_out.images, held_out.left, held_out.right, held_out.is_same, held_out.folds, **options
    )


def say_other_sets(verifier: callbacks.Verification, best: Mapping[str, Any]) -> None:
    """Warn where a resumed run is verified on other `.bin` sets than its best epoch was."""
    names = {f"verification_{name}_accuracy" for name in verifier.bins or ()}
    before = {key for key in best if key.startswith("verification_") and key.endswith("_accuracy")}
    if names != before - {"verification_accuracy"}:
        warn(
            f"epoch {best['epoch']} was verified on other sets: its accuracy "
            f"{best['verification_accuracy']:.4f} cannot be compared, and best.keras stays as it "
            "is until it is beaten"
        )


def say_shared(names: Sequence[str] | None, folder: Path) -> None:
    """Warn of people who are trained on and verified, as their names say."""
    try:
        shared = people_names.shared_names(data.scan_folder(folder).names, names)
    except (OSError, ValueError):  # no folder of identity folders: a list names its images
        return
    if shared:
        warn(
            f"{len(shared)} people of {folder} are trained on, by their names "
            f"({and_more(shared, 4)}): verification_accuracy is not of people never seen"
        )


def doctor(run: training.Run, *others: keras.callbacks.Callback) -> callbacks.TrainingDoctor:
    """Return a doctor that knows the labels, the batches, their files and the other callbacks."""
    said = run.source.doubts()  # by the run, before its first step
    needed = run.teacher is None or run.source.num_classes > 1  # a teacher needs no labels
    return callbacks.TrainingDoctor(
        label_counts=run.source.counts() if needed else None,
        class_names=run.source.names,
        probe=run.source.batch_at(0, augment="none")[0][:32],
        batch_of=run.source.batch_at,
        files_of=run.source.files_at,
        callbacks=others,
        first_step=run.step,
        total_steps=run.total_steps,
        say=lambda text: None if text.rstrip(".") in said else warn(text),
    )
