"""Keras callback that verifies on held-out pairs while a network trains."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.backbones.extraction import as_backbone, in_float32
from tf_sphereface.embedder.embedder import Embedder, EmbedderMetadata, save_embedder
from tf_sphereface.embedder.model_card import with_measured, write_card
from tf_sphereface.utils.checks import check_integer, error
from tf_sphereface.utils.keras_private import optimizers_in
from tf_sphereface.utils.layer_checks import require_stock_layers
from tf_sphereface.utils.messages import SphereFaceWarning
from tf_sphereface.utils.weight_samples import are_unchanged, some_weights

logger = logging.getLogger("tf_sphereface")
FIGURES = ("accuracy", "std_error", "auc", "eer", "genuine_angle", "impostor_angle")
_TAR = "tar_at_far_"


class Verification(keras.callbacks.Callback):
    """Verify on held-out pairs, or on `.bin` sets, every few epochs, and keep the best embedder.

    The epoch's logs get `verification_accuracy` and `verification_std_error` (fractions): k-fold
    accuracy of the cosine of the embeddings, the protocol of `eval.verification`. Choose an epoch
    by it: `val_loss` changes with lambda at the same weights. Put it before callbacks that write
    logs (`CSVLogger`, `TensorBoard`). It costs one pass over the faces (two with `flip`), draws no
    random number and changes no weight. Use people who are not trained on.

    Where the optimizer averages the weights (`use_ema=True`), the averages are verified and kept,
    as they are what `fit` leaves in the model. It does not matter whether `SwapEMAWeights` is
    there, before or after this callback.

    With `bins`, each set is evaluated by insightface's protocol and its own folds. The logs get
    each figure as its mean over the sets (`std_error` is that of the mean), and of each set, such
    as `verification_lfw_accuracy`. The mean of the accuracies chooses the best.

    Args:
        images: uint8 RGB aligned faces, (n, height, width, 3). This and the next four are given
            together, unless `bins` is.
        left: (pairs,) index of each pair's first image.
        right: (pairs,) index of its second image.
        is_same: (pairs,) bool.
        folds: (pairs,) int, two folds at least.
        bins: `.bin` sets: a folder, a file, a list of these, or name -> file or what
            `eval.bins.read_bin` returned. They are read now and kept encoded in memory.
        max_pairs: some so many pairs of each set of `bins`, evenly spaced; None takes all.
        flip: whether mirror images are embedded as well (concatenated, as on LFW; added, with
            `bins`).
        best: a `.keras` file for the embedder with the highest accuracy so far (the earliest of
            equals); None keeps none.
        metadata: how the network is fed, in verification and by that file. None: what is known of
            the model, as for `load_embedder`, or a guess, with a warning in the first epoch.
        best_so_far: the accuracy that `best` has to beat, of a run that is resumed.
        embedder: from the model in training to the network to verify and keep; default: the
            backbone of a `FaceClassifier`, or the model without its `AngularDense`, in float32.
        every: verify after every so many epochs, after the first and the last one; in between the
            logs hold NaN, which Keras' `EarlyStopping` and `ModelCheckpoint` never take for the
            best after a number; a patience counts these epochs too. Put a callback that ends the
            run early by other figures before this one; if it comes after, the last epoch's figures
            reach only `best`, the history and the logs of `on_train_end`.
        figures: which figures to log, as `verification_...`: `"accuracy"`, `"std_error"`,
            `"auc"`, `"eer"` (fractions), `"genuine_angle"`, `"impostor_angle"` (degrees), or a
            true accept rate such as `"tar_at_far_0.001"` (NaN where the pairs cannot state it).

    Raises:
        FileNotFoundError: a folder of `bins` does not exist, or holds no `.bin` file.
        ValueError: `every` is below 1, or a figure is not known; a set of `bins` cannot be read;
            pairs and `bins` are given, or neither. As training begins, images of `bins` cannot be
            used; in training, what `eval.verification.evaluate` refuses, or an embedding that is
            not finite.
        ImportError: the `eval` extra is not installed.

    Example:

    >>> import tf_sphereface as sf
    >>> faces = sf.data.synthetic.training_set(4, 8, size=(56, 48))
    >>> dataset = sf.data.face_dataset(faces, image_size=(56, 48), batch_size=16)
    >>> held = sf.data.synthetic.verification_set(
    ...     4, pairs_per_fold=4, folds=2, first_identity=4, size=(56, 48))
    >>> model = sf.FaceClassifier(sf.backbones.SphereFaceNet(4, (56, 48, 3), 16), num_classes=4)
    >>> model.compile("sgd")
    >>> verification = Verification(
    ...     held.images, held.left, held.right, held.is_same, held.folds,
    ...     metadata=sf.embedder.EmbedderMetadata())
    >>> history = model.fit(dataset, callbacks=[verification], verbose=0).history
    >>> 0 <= history["verification_accuracy"][0] <= 1
    True
    """

    def __init__(
        self,
        images: NDArray[np.uint8] | None = None,
        left: ArrayLike | None = None,
        right: ArrayLike | None = None,
        is_same: ArrayLike | None = None,
        folds: ArrayLike | None = None,
        *,
        bins: Any = None,
        max_pairs: int | None = None,
        flip: bool = True,
        best: str | os.PathLike[str] | None = None,
        metadata: EmbedderMetadata | None = None,
        best_so_far: float | None = None,
        embedder: Callable[[keras.Model], keras.Model] | None = None,
        every: int = 1,
        figures: Sequence[str] = ("accuracy", "std_error"),
    ) -> None:
        super().__init__()
        for name in figures:
            if name not in FIGURES and _far_of(name) is None:
                known = f"{', '.join(FIGURES)}, {_TAR}0.1, {_TAR}0.01, ... {_TAR}1e-06"
                raise error("figures", f"be of {known}", name)
        self.every = check_integer("every", every, 1)
        self.figures = tuple(figures)
        given = (images, left, right, is_same, folds)
        _check_given(given, bins, max_pairs)
        self.images, *self.pairs = (np.asarray([] if part is None else part) for part in given)
        self.bins = None if bins is None else _read_sets(bins, max_pairs)
        self.flip = flip
        self.best = None if best is None else Path(best)
        self.metadata = metadata
        self.best_so_far = best_so_far
        self._embedder = embedder or (lambda model: in_float32(as_backbone(model)))
        self._protocol: Callable[[Embedder], Any] | None = None
        self._traced: tuple[keras.Model, Embedder] | None = None  # network, traced
        self._said = False  # what is guessed
        self._checked = False  # that the images of the sets can be decoded
        self._passed_over: int | None = None  # the latest epoch, if it was not its turn
        self._trained: list[Any] = []  # a few weights as the last step left them

    @classmethod
    def from_files(
        cls,
        images: str | os.PathLike[str],
        pairs: str | os.PathLike[str] | None = None,
        landmarks: str | os.PathLike[str] | None = None,
        *,
        input_size: tuple[int, int] = (112, 96),
        **options: Any,
    ) -> Verification:
        """Return a verification on files, whose faces are read into memory once.

        Args:
            images: a folder of identity folders.
            pairs: a file in LFW's format; None draws pairs from the folder by seed 0, in 10
                folds or as many as its people allow.
            landmarks: a landmark file by which the images are aligned; None: they are aligned.
            input_size: (height, width) that the network takes.
            **options: the constructor's keyword arguments.

        Raises:
            FileNotFoundError: a file or the folder does not exist.
            ValueError: images cannot be used (all are listed), or the pairs file is malformed.
        """
        from tf_sphereface.alignment import face_reader
        from tf_sphereface.eval.folder import random_pairs
        from tf_sphereface.eval.pairs import read_pairs
        from tf_sphereface.eval.protocol import existing_folder

        root = existing_folder("images", images)
        listed = random_pairs(root, folds=None) if pairs is None else read_pairs(pairs)
        names, left, right = listed.images()
        reader, problems = face_reader.FaceReader(input_size, landmarks), face_reader.Problems()
        pieces = list(face_reader.iterate_faces(root, names, reader, problems))
        problems.raise_if_any(len(names), root, reader.hint)
        return cls(np.concatenate(pieces), left, right, listed.is_same, listed.folds, **options)

    @classmethod
    def from_protocol(cls, protocol: Callable[[Embedder], Any], **options: Any) -> Verification:
        """Return a verification by any protocol of `eval`, whose headline chooses the best.

        Args:
            protocol: from an `Embedder` to the protocol's result, such as
                `lambda embedder: sf.eval.ytf.evaluate(embedder, "frames", "splits.txt")`.
            **options: the constructor's keyword arguments, without `flip`, which is the protocol's.

        Raises:
            ValueError: as the constructor.
        """
        if "flip" in options:
            raise error("flip", "be set in the protocol's own call", options["flip"])
        callback = cls(np.zeros((0, 1, 1, 3), np.uint8), [], [], [], [], **options)
        callback._protocol = protocol
        return callback

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuse a network that `best` could not hold, and images that cannot be verified on.

        Before the first epoch, not after it.
        """
        if self.best is not None:
            require_stock_layers("model", self._embedder(self.model))
        if self.bins is not None and not self._checked:
            from tf_sphereface.eval.bin_sets import check_images

            height, width = self._embedder(self.model).input_shape[1:3]
            check_images(self.bins, (height, width))
            self._checked = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note by a few weights what the step left in the model, where the optimizer averages."""
        if averages_weights(self.model.optimizer):
            self._trained = some_weights(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Verify when it is time, add the figures to the logs, and keep the best."""
        self._passed_over = None
        if logs is not None and not np.isfinite(logs.get("loss", 0.0)):
            return  # it diverged: nothing to verify
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        first = not epoch or self.best_so_far is None  # or Keras holds NaN for the best
        if not first and (epoch + 1) % self.every and not last:
            self._log(logs, None)
            self._passed_over = epoch
        else:
            self._verify_epoch(epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Verify the last epoch if a later callback ended the run there; mend history and logs."""
        if self._passed_over is None:
            return
        found: dict[str, Any] = {}
        self._verify_epoch(self._passed_over, found)
        self._passed_over = None
        history = getattr(getattr(self.model, "history", None), "history", {})
        for name, value in found.items():
            if history.get(name):
                history[name][-1] = value
        if logs is not None:
            logs.update(found)

    def _verify_epoch(self, epoch: int, logs: dict[str, Any] | None) -> None:
        """Verify the network, add the figures to the logs, and keep the best."""
        with self._averaged():
            self._verify_weights(epoch, logs)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the optimizer's averages into the model, unless somebody has done it already."""
        if not self._trained or not are_unchanged(self._trained):
            yield
            return
        variables = self.model.trainable_variables
        raw = [keras.ops.convert_to_numpy(variable) for variable in variables]
        try:
            self.model.optimizer.finalize_variable_values(variables)
            yield
        finally:
            for variable, value in zip(variables, raw, strict=True):
                variable.assign(value)

    def _verify_weights(self, epoch: int, logs: dict[str, Any] | None) -> None:
        """Verify the weights that are in the model."""
        network = self._embedder(self.model)
        if self._traced is None or self._traced[0].layers != network.layers:
            self._traced = network, self._embedder_of(network)  # else the same, of other weights
        results = self._verify(self._traced[1])
        self._log(logs, results)
        accuracy = _mean("accuracy", results)
        if accuracy is not None and (self.best_so_far is None or accuracy > self.best_so_far):
            self.best_so_far = accuracy
            if self.best is not None and self.model.distribute_strategy.extended.should_checkpoint:
                self._keep(network, self.best, epoch, results)

    def _embedder_of(self, network: keras.Model) -> Embedder:
        """Wrap the network; what is guessed of it is said once."""
        with warnings.catch_warnings():
            if self._said:
                warnings.simplefilter("ignore", SphereFaceWarning)
            self._said = True
            return Embedder.in_memory(network, self.metadata)

    def _verify(self, embed: Embedder) -> dict[str, Any]:
        """Return the headline's result of the network as it is, by the set's name.

        Where there are no sets, there is one result, and its name is empty.
        """
        from tf_sphereface.eval.bin_sets import evaluate_sets
        from tf_sphereface.eval.scoring.score_pairs import embed_verification

        if self.bins is not None:
            sets = evaluate_sets(embed, self.bins, self.flip).sets
            return {name: result.headline for name, result in sets.items()}
        if self._protocol is not None:
            return {"": self._protocol(embed).headline}
        left, right, is_same, folds = self.pairs
        result = embed_verification(embed, self.images, left, right, is_same, folds, flip=self.flip)
        return {"": result.headline}

    def _log(self, logs: dict[str, Any] | None, results: dict[str, Any] | None) -> None:
        """Add the figures, first those of all sets together; NaN for what is not known."""
        if logs is None:
            return
        for column, (name, figure) in self._columns().items():
            value = None
            if results is not None:
                value = _mean(figure, results if name is None else {name: results[name]})
            logs[column] = math.nan if value is None else value

    def _columns(self) -> dict[str, tuple[str | None, str]]:
        """Return what the logs get: name -> (set, figure), the set None for all together."""
        columns: dict[str, tuple[str | None, str]] = {}
        for name in (None, *(self.bins or ())):
            prefix = "verification_" if name is None else f"verification_{name}_"
            columns |= {f"{prefix}{figure}": (name, figure) for figure in self.figures}
        return columns

    def _keep(self, network: keras.Model, path: Path, epoch: int, results: dict[str, Any]) -> None:
        """Write the best embedder and its card; a full disk is no reason to stop training."""
        metadata = self.metadata
        if metadata is not None:
            figures: dict[str, float] = {"epoch": epoch + 1}
            for figure, label in (("accuracy", "accuracy"), ("std_error", "standard error")):
                value = _mean(figure, results)
                if value is not None:
                    figures[label] = value
            for name in self.bins or ():
                figures[f"accuracy on {name}"] = float(results[name].accuracy)
            metadata = with_measured(metadata, {"verification while training": figures})
        try:
            save_embedder(network, path, metadata)
            write_card(path)
        except OSError as error:
            logger.warning("%s could not be written: %s", path, error)


def _check_given(pairs: Sequence[Any], bins: Any, max_pairs: int | None) -> None:
    """Refuse pairs beside `bins`, neither of them, and a limit of sets that are not there."""
    missing = sum(part is None for part in pairs)
    if bins is None and missing:
        raise ValueError(
            "Verification takes images, left, right, is_same and folds, or bins. "
            f"Received: bins=None and {len(pairs) - missing} of the five"
        )
    if bins is not None and missing < len(pairs):
        raise error("bins", "stand alone, without images and pairs", bins)
    if bins is None and max_pairs is not None:
        raise error("max_pairs", "be of bins, which are not given", max_pairs)


def _read_sets(bins: Any, max_pairs: int | None) -> dict[str, Any]:
    """Return name -> set, each with folds that can be evaluated."""
    from tf_sphereface.eval.bin_sets import read_sets

    return read_sets(bins, max_pairs)


def _figure(name: str, result: Any) -> float | None:
    """Return a figure of one result; None where it is not known."""
    far = _far_of(name)
    value = getattr(result, name, None) if far is None else result.tar_at_far.get(far)
    return None if value is None else float(value)


def _mean(name: str, results: dict[str, Any]) -> float | None:
    """Return the mean of a figure over the results; None where one of them does not know it.

    The standard error is that of the mean, the results taken as independent.
    """
    values = [_figure(name, result) for result in results.values()]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if name == "std_error":
        return math.hypot(*known) / len(known)
    return float(np.mean(known))


def averages_weights(optimizer: Any) -> bool:
    """Tell whether an optimizer, or one that it wraps, keeps averages of the weights."""
    return any(o.use_ema for o in optimizers_in(optimizer) if hasattr(o, "use_ema"))


def _far_of(figure: str) -> float | None:
    """Return the false accept rate that a figure's name holds: a power of ten from 0.1 to 1e-6."""
    if not figure.startswith(_TAR):
        return None
    fars = [float(f"1e-{power}") for power in range(1, 7)]
    return next((far for far in fars if figure == f"{_TAR}{far:g}"), None)
