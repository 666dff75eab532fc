"""A training run in a folder that can be stopped at any step and resumed to the bit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface import embedder
from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.layers.sampled_angular_dense import check_batch_fits
from tf_sphereface.training.agreement import check_agreement
from tf_sphereface.training.building import (
    batches_of,
    build_classifier,
    embedder_of,
    kept_policy,
    steps_of,
)
from tf_sphereface.training.checkpoint import Checkpoint, Room, room_for
from tf_sphereface.training.fitting import is_chief, train
from tf_sphereface.training.freezing import Freezing
from tf_sphereface.training.person_means import start_at_means, start_centers
from tf_sphereface.training.pretrained import Pretrained
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.run_callbacks import Checkpoints, RunLog, deferred_stop, logger
from tf_sphereface.training.run_folder import (
    RunFolder,
    check_faces,
    config_of,
    facts_of_faces,
)
from tf_sphereface.training.teacher_embeddings import TeacherEmbeddings
from tf_sphereface.training.weight_average import WeightAverage
from tf_sphereface.utils.files import write_json
from tf_sphereface.utils.messages import ProgressCallback


class Run:
    """A run with its model, at its first step or at the one that it goes on from.

    Args:
        recipe: how to train. Its batch size, augmentation and seed are taken in place of the
            source's; its policy becomes Keras' global dtype policy.
        source: the faces, of the recipe's input size.
        folder: where log and checkpoints are written.
        state: the checkpoint to go on from; None to begin.
        strategy: of distribution; the current one by default.
        jit: as `jit_compile` of `FaceClassifier.compile`.
        warn: called with what went wrong and costs no more than a file.
        pretrained: the network to start from, where the recipe is of one (`Pretrained.recipe`).
        progress: called with (done, all) faces, while their mean embeddings are computed.
        teacher: the embeddings to learn from, where the recipe is of a teacher.
        centers: where the class centres are, as of `FaceClassifier`; it changes no result. A folder
            belongs to one run: its checkpoints need the files there, and only the newest does not
            lose them.

    Attributes:
        source: with the recipe's batches.
        model: compiled, its state restored.
        step: number of updates that were done before.
        log: a `RunLog`; its `rows` hold the figures of each epoch.
        average: the `WeightAverage` of a recipe with `ema`; else None.

    Raises:
        ValueError: the faces fill no batch, have another size, are of one person, or are not those
            of `state`; `state` is of a later epoch than the recipe's last.

    Example:

    >>> import dataclasses
    >>> from tf_sphereface import data, training
    >>> recipe = dataclasses.replace(
    ...     training.preset("quick"), input_size=(28, 24), epochs=2, batch_size=4, embedding_dim=8)
    >>> source = data.FaceSource(data.SyntheticFaces(2, 2), image_size=(28, 24))
    >>> begun = Run(recipe, source, RunFolder("runs/mine"))
    >>> begun.step, begun.total_steps
    (0, 2)
    """

    def __init__(
        self,
        recipe: Recipe,
        source: FaceSource,
        folder: RunFolder,
        *,
        state: Checkpoint | None = None,
        strategy: tf.distribute.Strategy | None = None,
        jit: bool | str = "auto",
        warn: Callable[[str], None] = logger.warning,
        pretrained: Pretrained | None = None,
        progress: ProgressCallback | None = None,
        teacher: TeacherEmbeddings | None = None,
        centers: str | os.PathLike[str] = "device",
    ) -> None:
        self.recipe, self.centers = recipe, centers
        self.pretrained, self.teacher = pretrained, teacher
        self.source = batches_of(recipe, source, pretrained)
        self._take_targets()
        self.folder = folder
        steps = steps_of(recipe, len(self.source))
        planned = folder.epochs()
        if state is not None:
            self._check_state(state)
        strategy = strategy or tf.distribute.get_strategy()
        if strategy.num_replicas_in_sync == 1:  # else a step sees what its batch really holds
            check_batch_fits(recipe.sample_rate, self.source.num_classes, recipe.batch_size)
        for text in self.source.doubts():
            warn(text)
        check_agreement(strategy, recipe, self.source, state)
        with strategy.scope():
            self.model = self._built(steps, jit)
        for text in self._idle_epochs():
            warn(text)
        if state is None:
            self._start_centers(progress)
        self.step, rows, seconds = 0, [], 0.0
        self._metrics: Sequence[np.ndarray] = ()
        if state is not None:
            state.restore(self.model)
            self.step, rows, seconds = (state.info[k] for k in ("step", "history", "seconds"))
            self._metrics = state.metrics
        self.average: WeightAverage | None = None
        if recipe.ema:
            averages = [] if state is None else state.averages
            self.average = WeightAverage(self.model, recipe.ema, averages)
        self.log = RunLog(folder.log, rows, seconds, warn)
        if state is not None and planned not in (None, recipe.epochs):
            plural = "" if planned == 1 else "s"
            warn(
                f"the run of {planned} epoch{plural} goes on to {recipe.epochs}: "
                f"{self._next_update()}"
            )

    def _check_state(self, state: Checkpoint) -> None:
        """Raise ValueError where a checkpoint is of other faces, or of a later epoch."""
        check_faces(self.source, state, "a run cannot go on with other data: the run had")
        dim = self._facts().get("teacher_dim")
        if dim is not None and state.info.get("teacher_dim", dim) != dim:
            raise ValueError(
                f"a run cannot go on with another teacher: its embeddings had "
                f"{state.info['teacher_dim']} numbers, now {dim}"
            )
        steps = self.source.steps_per_epoch
        if state.info["step"] > self.total_steps:
            raise ValueError(
                f"a run that has done {state.info['step'] / steps:g} epochs cannot go on to "
                f"fewer. Received: epochs={self.recipe.epochs}"
            )

    def _idle_epochs(self) -> list[str]:
        """Say where epochs with a frozen body change nothing."""
        frozen, epochs = self.recipe.freeze_epochs, self.recipe.epochs
        if self.pretrained is None or not frozen:
            return []
        if frozen == epochs:
            return [
                f"the body is frozen for all of the {epochs} epochs: the embedder will be the one "
                "that the run starts from"
            ]
        if self.recipe.ignores_labels and self.model.projection is None:
            return [
                "nothing learns while the body is frozen: no label is used, and the embeddings are "
                "as long as the teacher's. Take freeze_epochs=0"
            ]
        return []

    def _built(self, steps: int, jit: bool | str) -> FaceClassifier:
        """Return the model, compiled, for so many steps in an epoch."""
        return build_classifier(
            self.recipe,
            self.source.num_classes,
            steps,
            jit=jit,
            pretrained=self.pretrained,
            teacher_dim=None if self.teacher is None else self.teacher.dim,
            centers=self.centers,
        )

    def _take_targets(self) -> None:
        """Let the stream carry the teacher's embeddings, if there is a teacher."""
        known = None if self.teacher is None else self.teacher.sha256
        if known != self.recipe.teacher:
            raise ValueError(
                "Argument `teacher` must be the embeddings of the recipe's teacher "
                f"{self.recipe.teacher}. Received: those of {known}"
            )
        if self.teacher is not None:
            self.source = self.source.with_targets(self.teacher.table)

    def _start_centers(self, progress: ProgressCallback | None) -> None:
        """Let the centres start at people's means: of the network, or of the teacher's space."""
        if self.pretrained is not None:
            start_at_means(self.model, self.source, self.pretrained, progress=progress)
        elif self.teacher is not None and self._in_teachers_space():
            start_centers(self.model.head_layer, self.teacher.person_means(self.source))

    def _in_teachers_space(self) -> bool:
        """Whether the head has one unit centre for each person, as long as the teacher's means."""
        plain = self.recipe.centers_per_class == 1 and self.model.head != "softmax"
        return plain and self.model.projection is None

    def _next_update(self) -> str:
        """Say which rate and lambda the next update has, and which the last one had."""
        values = {"learning rate": float(np.asarray(self.model.optimizer.learning_rate))}
        annealing = getattr(self.model.loss, "annealing", None)
        if annealing is not None:
            values["lambda"] = float(annealing(self.step + 1))
        last = self.log.rows[-1] if self.log.rows else {}
        told = []
        for name, value in values.items():
            before = last.get(name.replace(" ", "_"))
            told.append(f"{name} {value:.4g}" + ("" if before is None else f" (was {before:.4g})"))
        return (
            f"from update {self.step + 1} on, the schedules are those of a run of "
            f"{self.recipe.epochs} epochs, {' and '.join(told)}"
        )

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.recipe.epochs * self.source.steps_per_epoch

    def fit(
        self,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        *,
        stop: Callable[[], bool] = lambda: False,
        checkpoint_every: int | None = None,
        keep: int = 3,
    ) -> None:
        """Train to the end, writing configuration, log and checkpoints.

        Args:
            callbacks: as in `fit`; log and checkpoints come after them.
            stop: asked after each step; where it answers True, the state is kept and the run ends.
            checkpoint_every: updates between two checkpoints inside an epoch; None: 500, or two
                minutes where that comes first, but seldom enough that saving takes at most a tenth
                of the time.
            keep: how many of the newest checkpoints are kept, beside the one after the epoch of the
                best verification accuracy.

        Raises:
            RunStopped: `stop` has answered True.
            OSError: the disk has no room for the checkpoints, or for class centres in files.
        """
        if is_chief(self.model):
            room = self.room(keep)
            if room.most > room.free:
                raise OSError(
                    f"{self.folder.checkpoints}: {room}. Make room, keep fewer (--keep, keep=), or "
                    "choose another folder for the run"
                )
            if self.pretrained is None:
                self.folder.base.unlink(missing_ok=True)  # of an earlier try
            elif self.step == 0 or not self.folder.base.exists():
                self.pretrained.save(self.folder.base)
            # from here on, the folder holds a run
            write_json(self.folder.config, self.config())
            write_json(self.folder.environment, embedder.library_versions())
            self.folder.diverged.unlink(missing_ok=True)  # of an earlier try
        if self._table is not None:
            self._table.open()
        checkpoints = Checkpoints(
            self.folder.checkpoints,
            self.log,
            step=self.step,
            steps_per_epoch=self.source.steps_per_epoch,
            every=checkpoint_every,
            keep=keep,
            facts=self._facts(),
            stop=stop,
            average=self.average,
        )
        averaging = [] if self.average is None else [self.average]
        freezing = [Freezing(self.model, self.recipe.freeze_epochs)] if self.pretrained else []
        train(
            self.model,
            self.source,
            epochs=self.recipe.epochs,
            steps_per_epoch=self.source.steps_per_epoch,
            initial_step=self.step,
            metric_state=self._metrics,
            callbacks=[*freezing, *averaging, *callbacks, self.log, checkpoints],
        )

    def room(self, keep: int = 3) -> Room:
        """Return what the checkpoints take on disk, of which `keep` are kept."""
        averages = [] if self.average is None else self.average.arrays()
        size = sum(array.nbytes for array in averages)
        return room_for(self.folder.checkpoints, self.model, keep, size)

    @property
    def _table(self) -> Any:
        """The table of class centres that are not on the device, or None."""
        return getattr(self.model.head_layer, "center_table", None)

    def config(self) -> dict[str, Any]:
        """Return what decides what is trained, and where the class centres are, ready for JSON."""
        place = "device" if self._table is None else str(self._table.place)
        return {**config_of(self.recipe, self.source), "centers": place}

    def network(self, *, averaged: bool = True) -> keras.Model:
        """Return the trained network as a float32 model of stock layers.

        Where the recipe averages the weights (`ema`), it has the averages, or the last update's
        weights if not `averaged`.
        """
        order = self.source.channel_order
        average = self.average if averaged else None
        weights = None if average is None else average.arrays()
        return embedder_of(self.model, self.recipe, order, self.pretrained, weights)

    def _facts(self) -> dict[str, Any]:
        """Return what must not change between a stop and its resume: it orders the batches."""
        facts = facts_of_faces(self.source)
        return facts if self.teacher is None else {**facts, "teacher_dim": self.teacher.dim}


def run(
    recipe: Recipe,
    source: FaceSource,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    strategy: tf.distribute.Strategy | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
    pretrained: Pretrained | None = None,
    progress: ProgressCallback | None = None,
    teacher: TeacherEmbeddings | None = None,
    centers: str | os.PathLike[str] | None = None,
) -> Run:
    """Train a recipe in a run folder, from the start or from its newest checkpoint.

    Killed at any step and called again with `resume=True`, it ends as if it had not been
    interrupted; on one CPU device, to the bit. Ctrl-C and SIGTERM finish the step and keep the
    state. Log, checkpoints and configuration are those of `tf_sphereface-train`.

    The arguments are those of `Run` and `Run.fit`, but `out` is the path of the run folder, and
    with `resume` the run in it goes on, with its `centers` if they are None; where there is none,
    it begins. A recipe of another number
    of epochs, not below those done, goes on to that, by the schedules of a run of that length; this
    is logged. Returns the finished run: its `model`, the rows of its `log`, and `network()`.

    Raises:
        ValueError: as `RunFolder.claimed`, `RunFolder.check` and `Run`; or the loss became NaN or
            infinite.
        RunStopped: the process was asked to stop; a `KeyboardInterrupt`.

    Example:

    >>> import dataclasses
    >>> from tf_sphereface import data, training
    >>> recipe = dataclasses.replace(
    ...     training.preset("quick"), input_size=(28, 24), epochs=1, batch_size=4, embedding_dim=8)
    >>> source = data.FaceSource(data.SyntheticFaces(2, 2), image_size=(28, 24))
    >>> finished = run(recipe, source, "runs/first")
    >>> finished.network().output_shape, len(finished.log.rows)
    ((None, 8), 1)
    """
    folder = RunFolder(out)
    if resume:
        recipe = folder.as_begun(recipe)
    chief = (strategy or tf.distribute.get_strategy()).extended.should_checkpoint
    with contextlib.ExitStack() as stack:
        if chief:
            stack.enter_context(folder.claimed())
        folder.check(recipe, source, resume=resume)
        stack.enter_context(kept_policy())
        stop = stack.enter_context(deferred_stop())
        begun = Run(
            recipe,
            source,
            folder,
            state=folder.newest_state(),
            strategy=strategy,
            pretrained=pretrained,
            progress=progress,
            teacher=teacher,
            centers=centers or (folder.centers() if resume else "device"),
        )
        stoppers = [*callbacks, keras.callbacks.TerminateOnNaN()]
        begun.fit(stoppers, stop=stop, checkpoint_every=checkpoint_every, keep=keep)
    if begun.log.diverged:
        row = begun.log.rows[-1]
        raise ValueError(f"the loss became {row['loss']} in epoch {row['epoch']}")
    return begun
