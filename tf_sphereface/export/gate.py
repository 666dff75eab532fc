"""The gate: a file that loses accuracy on pairs of faces is not written."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np

from tf_sphereface.alignment.face_reader import Landmarks
from tf_sphereface.embedder.embedder import Embedder, load_embedder
from tf_sphereface.eval.lfw import evaluate
from tf_sphereface.eval.scoring.score_pairs import VerificationTable
from tf_sphereface.eval.verification import compare
from tf_sphereface.export.parity import ExportError
from tf_sphereface.utils.checks import check_number, error
from tf_sphereface.utils.files import sha256_file
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning


@dataclasses.dataclass(frozen=True)
class GateResult:
    """Keras and a file on the same pairs of faces. Accuracies are fractions, not percent.

    Attributes:
        keras_accuracy: mean accuracy over the folds by Keras, image and mirror image concatenated.
        keras_std_error: its standard error.
        accuracy: the same by the file.
        std_error: its standard error.
        drop: `keras_accuracy - accuracy`; negative where the file did better.
        drop_std_error: the paired standard error of the drop over the folds.
        drift_mean: mean over the pairs of the absolute difference of the two cosines.
        drift_p99: its 99th percentile.
        drift_max: its largest value.
        max_drop: the largest drop that was allowed, in percentage points.
        pairs: how many pairs.
        decided_differently: how many of them Keras and the file decide differently, each by the
            thresholds that its own folds choose.
        pairs_sha256: of the pairs file.
        table: (flip, mean subtraction) joined by `/` -> [Keras' accuracy, the file's].
    """

    keras_accuracy: float
    keras_std_error: float
    accuracy: float
    std_error: float
    drop: float
    drop_std_error: float
    drift_mean: float
    drift_p99: float
    drift_max: float
    max_drop: float
    pairs: int
    decided_differently: int
    pairs_sha256: str
    table: dict[str, list[float]]

    @property
    def drift(self) -> str:
        """How far the file's cosines are from Keras', and what came of it, in words."""
        return (
            f"the cosine of a pair drifts by {self.drift_mean:.4f} (mean), {self.drift_p99:.4f} "
            f"(99 %), {self.drift_max:.4f} (worst); {self.decided_differently} of {self.pairs} "
            "pairs are decided differently"
        )


class GateFailed(ExportError):
    """The file lost more accuracy than was allowed. `result` tells how much."""

    def __init__(self, message: str, result: GateResult) -> None:
        super().__init__(message)
        self.result = result


class Gate:
    """Pairs of faces that every exported file must pass before it appears.

    Keras is evaluated once for all files of one export.

    Args:
        images: the folder that holds `NAME/NAME_0001.jpg`.
        pairs: a list of pairs in the format of LFW's `pairs.txt`.
        landmarks: a landmark file by which the images are aligned; None when they are already.
        max_drop: the largest drop of the accuracy that is allowed, in percentage points.
        progress: called with (images done, images in all), once for Keras and once per file.

    Raises:
        FileNotFoundError: a file or the folder does not exist.
        ValueError: `max_drop` is no finite number of at least 0.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> faces = sf.data.synthetic.write_folder(
    ...     "faces", 4, 2, size=(28, 24), pairs_per_fold=2, folds=2)
    >>> report = sf.export.export_onnx(
    ...     network, "model.onnx", metadata=sf.embedder.EmbedderMetadata(),
    ...     gate=Gate(faces, faces / "pairs.txt", max_drop=0.25))
    >>> report.accuracy.drop <= 0.0025, report.accuracy.pairs
    (True, 4)
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        pairs: str | os.PathLike[str],
        landmarks: Landmarks | None = None,
        max_drop: float = 0.25,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.images, self.pairs, self.landmarks = Path(images), Path(pairs), landmarks
        for name, path, kind in (("images", self.images, "folder"), ("pairs", self.pairs, "file")):
            if not (path.is_dir() if kind == "folder" else path.is_file()):
                raise FileNotFoundError(str(error(name, f"be an existing {kind}", str(path))))
        self.max_drop = check_number("max_drop", max_drop, 0)
        self.progress = progress
        self._reference: tuple[Embedder, VerificationTable] | None = None

    def check(self, reference: Embedder, artifact: str | os.PathLike[str]) -> GateResult:
        """Evaluate Keras and a `.tflite` or `.onnx` file on the pairs.

        Raises:
            GateFailed: the accuracy dropped by more than `max_drop`.
            ValueError: images cannot be used (all are listed), or the pairs file is malformed.
        """
        if self._reference is None or not _same_network(self._reference[0], reference):
            self._reference = (reference, self._evaluate(reference))
        expected = self._reference[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SphereFaceWarning)  # said of the model
            embedder = load_embedder(artifact)
        actual = self._evaluate(embedder)
        first, second = expected.headline, actual.headline
        paired = compare(first, second)
        drift = np.abs(first.scores - second.scores)
        result = GateResult(
            keras_accuracy=first.accuracy,
            keras_std_error=first.std_error,
            accuracy=second.accuracy,
            std_error=second.std_error,
            drop=paired.difference,
            drop_std_error=paired.std_error,
            drift_mean=float(drift.mean()),
            drift_p99=float(np.percentile(drift, 99)),
            drift_max=float(drift.max()),
            max_drop=self.max_drop,
            pairs=len(drift),
            decided_differently=int(np.sum(first.correct != second.correct)),
            pairs_sha256=sha256_file(self.pairs),
            table={
                "/".join(key): [value.accuracy, actual.table[key].accuracy]
                for key, value in expected.table.items()
            },
        )
        if 100 * result.drop > self.max_drop + 1e-9:
            raise GateFailed(
                f"accuracy drops by {_percent(result.drop, result.drop_std_error)} points, from "
                f"{_percent(first.accuracy, first.std_error)} by Keras to "
                f"{_percent(second.accuracy, second.std_error)} on {result.pairs} pairs; "
                f"{self.max_drop:g} are allowed; {result.drift}",
                result,
            )
        return result

    def _evaluate(self, embedder: Embedder) -> VerificationTable:
        return evaluate(
            embedder, self.images, self.pairs, landmarks=self.landmarks, progress=self.progress
        )


def _percent(value: float, std_error: float) -> str:
    return f"{100 * value:.2f} ± {100 * std_error:.2f}"


def _same_network(a: Embedder, b: Embedder) -> bool:
    """Whether two embedders answer a fixed noise image alike: they wrap one network."""
    if (a.input_size, a.embedding_dim) != (b.input_size, b.embedding_dim):
        return False
    noise = np.random.default_rng(0).integers(0, 256, (1, *a.input_size, 3), dtype=np.uint8)
    return bool(np.array_equal(a(noise), b(noise)))
