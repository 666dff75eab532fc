"""The callback that says in a sentence what is wrong with a run, and stops it on NaN."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.callbacks import diagnoses
from tf_sphereface.callbacks.angular_logs import LambdaWatch
from tf_sphereface.callbacks.nonfinite_layer import (
    BatchOf,
    Snapshots,
    find_cause,
    first_bad_batch,
    lost_centres,
)
from tf_sphereface.data.passes import Pass, begun_since, last_begun
from tf_sphereface.losses.mag_face import MagFaceLoss
from tf_sphereface.losses.update_count import other_optimizer, read_step, scheduled_losses
from tf_sphereface.utils.messages import and_more

logger = logging.getLogger("tf_sphereface")


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding of the doctor.

    Attributes:
        kind: `"at chance"`, `"underflow"`, `"collapsed"`, `"exploded"`, `"norm range"`,
            `"lambda"`, `"lambda anew"`, `"labels"`, `"precision"`, `"val_loss"`, `"validation"`,
            `"batches"`, `"evaluated batches"`, `"evaluated people"` or `"diverged"`.
        step: number of updates after which it was found.
        text: a sentence or two.
        details: for `"diverged"`: `layer`, its name or None; `files`, the batch's; `suspects`,
            those concerned where not all are.
    """

    kind: str
    step: int
    text: str
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class TrainingDoctor(keras.callbacks.Callback):
    """Watch a run and say, once each, what is wrong with it; stop it when the loss is not finite.

    - `at chance`: the loss is within 2 % of `ln(num_classes)` (the sample's size, with a sampled
      head), and falls by less than 1 % from one window to the next. A window is a twentieth of the
      run, from 50 to 1,000 steps (200 where the length is unknown). The first two windows are not
      judged, so this is found at the end of the fourth at the earliest;
    - `underflow`: the loss is 87.3 = -ln(1.2e-38) or 16.1 = -ln(1e-7): the probabilities are 0;
    - `collapsed`: the probe's median norm is below 0.1, so the logits move the loss by 0.2 at most;
    - `exploded`: it is above 1000, so a tenth of cosine is a factor of e^100;
    - `norm range`: from the fourth window on, or at the end, 95 % of the probe's norms are below
      the range of `MagFaceLoss`, or above it;
    - `lambda`: the loss counts the updates of another optimizer than the model's, or lambda stands
      still while the model is updated; the schedule cannot reach its minimum in this run, or the
      run ended with a margin that is not felt (less than 5 % of the way from 1 to m);
    - `lambda anew`: lambda begins at its base in a model that is trained already;
    - `labels`: a class has no image, one holds half of all, or 100 times the median class; there is
      one class alone, or one image of each;
    - `batches`: the `face_dataset` that is trained on is not shuffled; `evaluated batches`: that of
      `validation_data`, `evaluate` or `predict` is augmented, leaves images out, or is shuffled;
    - `evaluated people`: that of `validation_data` or `evaluate` is of others than are trained on;
    - `precision`: the network computes in a type that this machine does not multiply faster;
    - `val_loss`: one of `callbacks` watches it, though it changes with lambda;
    - `validation`: the validation loss is not finite, and the training loss is;
    - `diverged`: the loss is NaN or infinite, and `fit` stops. The images and labels are looked at
      first, then weights and layers; step, files and layer are named. Without `batch_of` it is
      tried whether the network is finite on images of ordinary values.

    It works in plain `fit`, with `FaceClassifier` and with stock models, and checks what its
    arguments allow it to. It costs one copy of the weights in memory, and passes the probe through
    the network after each window and each epoch. When it stops a run, the model holds the weights
    from before the step that failed; but of a sampled head's store of all classes no copy is held:
    the centres that the failed step drew are lost, and the finding counts them.

    Args:
        label_counts: (num_classes,) training images of each class.
        class_names: (num_classes,) for messages; numbers by default.
        probe: a few dozen images as the network takes them, (n, height, width, channels).
        batch_of: step (from 0) -> (images, labels) of its batch, to find the layer.
        files_of: step (from 0) -> the names of the batch's images.
        callbacks: the others of this `fit`; Keras tells a callback nothing of them.
        first_step: updates that were done before this `fit`.
        total_steps: updates of the whole run; None: `epochs * steps` of this `fit`.
        say: called with each finding's text; the library's logger by default.

    Attributes:
        findings: a list of `Finding`.

    Example:

    >>> doctor = TrainingDoctor(label_counts=[40, 40, 0], say=print)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> _ = model.fit(np.ones((8, 4)), np.zeros(8), callbacks=[doctor], verbose=0)
    1 of 3 classes has no image (2): its centre only ever moves away from everything; ...
    """

    def __init__(
        self,
        *,
        label_counts: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
        probe: NDArray[np.float32] | None = None,
        batch_of: BatchOf | None = None,
        files_of: Callable[[int], Sequence[str]] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        first_step: int = 0,
        total_steps: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.findings: list[Finding] = []
        self._label_counts = None if label_counts is None else np.asarray(label_counts)
        self._class_names = class_names
        self._probe = probe
        self._batch_of = batch_of
        self._files_of = files_of
        self._callbacks = callbacks
        self._step = first_step
        self._given_total = self._total = total_steps
        self._say = say or logger.warning
        self._epoch_start: int | None = None
        self._mean: tuple[int, float] | None = None  # batches of the epoch, and their mean loss
        self._window: list[float] = []
        self._means: list[float] = []
        self._snapshots = Snapshots()
        self._snapshot: list[Any] = []
        self._passes: int | None = None  # the last one that began before the first batch
        self._people: Sequence[str] | None = None  # who are trained on
        self._watch: LambdaWatch | None = None
        self._began = first_step
        self._first_epoch: int | None = None  # of this fit

    @property
    def diverged(self) -> Finding | None:
        """The finding that stopped the run."""
        return next((found for found in self.findings if found.kind == "diverged"), None)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look at what is known before the first step."""
        self.findings[:] = [found for found in self.findings if found.kind != "diverged"]
        self._window, self._means, self._mean = [], [], None  # of a fit before
        self._total, self._first_epoch = self._given_total, None
        if self._label_counts is not None:
            self._note("labels", diagnoses.labels(self._label_counts, self._class_names))
        self._note("precision", diagnoses.precision(self.model))
        self._note("val_loss", diagnoses.val_loss(self._callbacks))
        scheduled = scheduled_losses(self.model)
        self._note("lambda", other_optimizer(self.model))
        self._watch = None
        if scheduled and all(loss.step is not None for loss in scheduled):
            self._watch = LambdaWatch(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin to count the epoch's batches; before the first, look where lambda will be."""
        self._epoch_start, self._mean = None, None
        self._passes = last_begun()
        if self._first_epoch is not None:
            return
        self._first_epoch, params = epoch, self.params or {}
        epochs, steps = params.get("epochs"), params.get("steps")
        if self._given_total is None and epochs and steps:  # of this fit
            self._total = (epochs - epoch) * steps
        for loss in scheduled_losses(self.model):
            anew = self._given_total is not None or loss.step is None
            done = 0 if anew else int(read_step(loss.step))
            self._note("lambda", diagnoses.unreachable(loss, self._updates(), done))

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the weights before the step."""
        if self._epoch_start is None:
            self._epoch_start = self._step - batch
            self._mean = (0, 0.0) if batch == 0 else None
        self._began = self._epoch_start + batch
        self._snapshot = self._snapshots.take(self.model)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the loss."""
        mean = float((logs or {}).get("loss", 0.0))
        self._step = (self._epoch_start or 0) + batch + 1
        if not math.isfinite(mean):
            self._stop(mean)
            return
        begun = self._passes_begun()
        self._note("batches", diagnoses.training_batches(begun))
        if len(begun) == 1:
            self._people = begun[0].people
        if self._watch is not None:
            self._note("lambda anew", self._watch.began_anew(batch, logs or {}))
        if self._mean is not None:  # logs hold the mean since the epoch began: take it apart
            count, before = self._mean
            self._window.append((mean * (batch + 1) - before * count) / (batch + 1 - count))
        self._mean = (batch + 1, mean)
        if len(self._window) >= self._window_length():
            self._means.append(float(np.mean(self._window)))
            self._window = []
            self._look_at_loss(self._means[-1])
            self._look_at_norms()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the epoch's loss and at the probe."""
        if self.diverged is None:
            self._note("underflow", diagnoses.underflow(float((logs or {}).get("loss", 0.0))))
            self._look_at_norms()
            self._look_at_lambda(at_end=False)
            self._note("validation", diagnoses.val_loss_not_finite(logs or {}))

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Note which passes over datasets have begun."""
        self._passes = last_begun()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the batches that are evaluated."""
        begun = self._passes_begun()
        self._note("evaluated batches", diagnoses.evaluated_batches(begun, predicted=False))
        self._note("evaluated people", diagnoses.other_people(self._people, begun))

    def on_predict_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Note which passes over datasets have begun."""
        self._passes = last_begun()

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the batches that are predicted."""
        text = diagnoses.evaluated_batches(self._passes_begun(), predicted=True)
        self._note("evaluated batches", text)

    def _passes_begun(self) -> list[Pass]:
        """Return the passes that began for the first batch; none at the later ones."""
        number, self._passes = self._passes, None
        return [] if number is None else begun_since(number)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Look at the margin that the run ended with."""
        self._snapshot = []
        self._look_at_lambda(at_end=True)
        self._look_at_norms(late=True)
        for loss in scheduled_losses(self.model):
            self._note("lambda", diagnoses.not_felt(loss, self._step))

    def _look_at_lambda(self, at_end: bool) -> None:
        if self._watch is not None:
            self._note("lambda", self._watch.stood_still(at_end))

    def _note(self, kind: str, text: str | None, **details: Any) -> None:
        if text is not None and all(found.kind != kind for found in self.findings):
            self.findings.append(Finding(kind, self._step, text, details))
            self._say(text)

    def _updates(self) -> int | None:
        return None if self._total is None else self._total // self._accumulation()

    def _accumulation(self) -> int:
        return getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1

    def _advice(self) -> str | None:
        """Return what to do about lambda, where one has come down."""
        done, updates = self._step // self._accumulation(), self._updates()
        scheduled = scheduled_losses(self.model)
        found = (diagnoses.slower_lambda(loss, done, updates) for loss in scheduled)
        return next((text for text in found if text is not None), None)

    def _window_length(self) -> int:
        return 200 if self._total is None else min(1000, max(50, self._total // 20))

    def _look_at_loss(self, mean: float) -> None:
        self._note("underflow", diagnoses.underflow(mean))
        if len(self._means) >= 4:
            means, classes = self._means[-2:], diagnoses.class_count(self.model)
            self._note("at chance", diagnoses.at_chance(means, classes, self._step, self._advice()))

    def _look_at_norms(self, late: bool = False) -> None:
        if self._probe is None or {"collapsed", "exploded"} & {f.kind for f in self.findings}:
            return
        embeddings = diagnoses.embed(self.model, self._probe)
        if embeddings is not None:
            self._note(*diagnoses.norms(embeddings, self._step))
            for loss in keras.tree.flatten(getattr(self.model, "loss", None)):
                if isinstance(loss, MagFaceLoss) and (late or len(self._means) >= 4):
                    self._note("norm range", diagnoses.norm_range(embeddings, loss, self._step))

    def _stop(self, mean: float) -> None:
        if self.diverged is not None:
            return
        classes = diagnoses.label_count(self.model)
        steps = range(min(self._began, self._step - 1), self._step)  # several in one execution
        failed = first_bad_batch(steps, self._batch_of, classes)
        cause = find_cause(self.model, self._snapshot, failed, self._batch_of, classes)
        files = [] if self._files_of is None else [str(name) for name in self._files_of(failed)]
        suspects = [files[row] for row in cause.rows] if files else []
        text = f"the loss became {mean} at step {failed + 1}: {cause.text}."
        if files:
            which = "The images concerned" if suspects else "The batch's images"
            text += f" {which}: {and_more(suspects or files, 4)}."
        advice = cause.advice or f"Lower the learning rate{diagnoses.or_else(self._advice())}"
        text += f" {advice}; the model holds the weights from before that step"
        lost = lost_centres(self.model)
        text += f", but {lost} class centres that it drew are lost." if lost else "."
        self._note("diverged", text, layer=cause.layer, files=files, suspects=suspects)
        self.model.stop_training = True
