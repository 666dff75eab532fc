"""Calibration of the cosine from which two faces count as one person, for a false accept rate."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.face_reader import Landmarks
from tf_sphereface.embedder.embedder import Embedder, load_embedder
from tf_sphereface.embedder.metadata import library_versions
from tf_sphereface.embedder.metadata_rewriting import replace_metadata
from tf_sphereface.eval.folder import scan
from tf_sphereface.eval.groups import GroupReport, groups_of_pairs, rates_by_group
from tf_sphereface.eval.measures.curve import unsupported
from tf_sphereface.eval.measures.hints import warn_of_scores
from tf_sphereface.eval.pairs import Pairs, locate, read_pairs
from tf_sphereface.eval.protocol import existing_folder
from tf_sphereface.eval.report.provenance import images_sha256
from tf_sphereface.eval.scoring.score_pairs import Flip, cosines, verification_vectors_of_files
from tf_sphereface.eval.scoring.sources import EmbeddingOptions
from tf_sphereface.utils.checks import check_choice, check_number
from tf_sphereface.utils.files import sha256_file
from tf_sphereface.utils.messages import ProgressCallback

__all__ = [
    "Calibration",
    "calibrate",
    "store",
]

CONFIDENCE = 0.95
RESAMPLES = 200
FEWEST_PEOPLE = 20  # below, resampling them says nothing
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A threshold and where it comes from. Rates are fractions; intervals cover 95 %.

    The intervals come from drawing the people anew, with replacement: pairs that share a person
    are not independent, and counting pairs alone would make the intervals too narrow.

    Attributes:
        threshold: the cosine from which two faces count as one person.
        threshold_interval: of the threshold that has exactly this rate in the population.
        far: the false accept rate that was asked for.
        measured_far: its share of the impostor pairs, at most `far`.
        far_interval: of the false accept rate at `threshold`.
        tar: share of the genuine pairs that are accepted; None without such pairs.
        tar_interval: of it.
        impostor_pairs: how many.
        genuine_pairs: how many.
        people: how many, by the images' folders.
        images: how many.
        flip: how the vectors were made, as in `EmbedderMetadata`.
        confidence: of the intervals.
        resamples: of the bootstrap.
        seed: of the bootstrap, and of the choice of pairs.
        images_sha256: see `provenance.images_sha256`.
        model_sha256: of the file before the threshold was written; None for a model in memory.
        model_format: `"keras"`, `"tflite"` or `"onnx"`.
        date: of the measurement, UTC.
        versions: of the libraries.
        given: facts of the input that were given when the model was opened, by name.
        groups: the errors of each group at `threshold`; None where no groups were given. Not
            written into the model.
        lower_rates: smaller false accept rates that the pairs support, as text -> threshold and its
            interval's ends: a gallery of many people needs one of them.
    """

    threshold: float
    threshold_interval: Interval
    far: float
    measured_far: float
    far_interval: Interval
    tar: float | None
    tar_interval: Interval | None
    impostor_pairs: int
    genuine_pairs: int
    people: int
    images: int
    flip: str
    confidence: float
    resamples: int
    seed: int
    images_sha256: str
    model_sha256: str | None
    model_format: str
    date: str
    versions: dict[str, str]
    given: dict[str, Any] = dataclasses.field(default_factory=dict)
    groups: GroupReport | None = None
    lower_rates: dict[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = dataclasses.asdict(self)
        values["given"] = {k: _plain(v) for k, v in self.given.items()}
        values["lower_rates"] = {k: list(v) for k, v in self.lower_rates.items()}
        if self.groups is None:
            del values["groups"]
        return {k: _plain(v) for k, v in values.items()}


def _falling(scores: NDArray[np.float64], kind: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the positions of the scores of a kind, the highest first."""
    positions = np.flatnonzero(kind)
    return positions[np.argsort(-scores[positions], kind="stable")]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def calibrate(
    embedder: Any,
    images: str | os.PathLike[str],
    far: float = 1e-2,
    pairs: str | os.PathLike[str] | Pairs | None = None,
    landmarks: Landmarks | None = None,
    *,
    flip: Flip | None = None,
    max_pairs: int = 200_000,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Calibration:
    """Choose the threshold for a false accept rate.

    It is the middle between two neighboring impostor scores, the lowest with which the share of
    accepted impostor pairs is at most `far`. Take people whom the model was not trained on, and do
    not evaluate the threshold on them again.

    Args:
        embedder: what `load_embedder` takes.
        images: a folder that holds one folder per person.
        far: the false accept rate, in (0, 1).
        pairs: a file in LFW's format, or what `read_pairs` returned; None: all pairs of the folder,
            or `max_pairs` of each class drawn from them.
        landmarks: as for `lfw.evaluate`.
        flip: `"none"`, `"concat"` or `"sum"`: what is done with mirror images; None: what the
            model's metadata says.
        max_pairs: genuine pairs, and impostor pairs, at most.
        seed: of the choice of pairs and of the bootstrap.
        groups: what `groups.read_groups` returned, for the errors of each group.
        strict: raise where images of the folder are passed over, rather than warn.
        progress: called with (images done, images in all).

    Returns:
        The threshold, its interval and provenance. Nothing is written: see `store`.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: fewer than `10 / far` impostor pairs or 20 people; images that cannot be used;
            no pair has groups; an argument out of range; scores so equal that no threshold keeps to
            the rate.

    Example:

    >>> import tempfile
    >>> import keras, tf_sphereface as sf
    >>> folder = sf.data.synthetic.write_folder(tempfile.mkdtemp(), 20, 3, size=(28, 24))
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> embedder = sf.load_embedder(
    ...     network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> calibrate(embedder, folder, far=0.1).measured_far <= 0.1
    True
    """
    check_number("far", far, 0.0, 1.0, open_low=True)
    root = existing_folder("images", images)
    model = load_embedder(embedder)
    flip = _flip_of(model, flip)
    rng = np.random.default_rng(seed)
    names, left, right, same = _choose(root, pairs, max_pairs, rng, strict)
    people, person = np.unique([str(PurePosixPath(n).parent) for n in names], return_inverse=True)
    _check_counts(int(np.sum(~same)), len(people), far, max_pairs)
    of_pairs = None if groups is None else groups_of_pairs(names, left, right, groups)
    digest = sha256_file(model.path) if model.path else None  # before the work
    options = EmbeddingOptions(flip != "none", landmarks, progress=progress)
    vectors = verification_vectors_of_files(model, root, names, options, flip)
    scores = cosines(np.asarray(vectors, np.float64), left, right)
    warn_of_scores(scores, same)
    genuine, impostor = np.flatnonzero(same), _falling(scores, ~same)
    threshold, measured = _threshold(scores[impostor], far)
    fars = _supported_rates(far, len(impostor))
    resampled = _bootstrap(
        scores[impostor],
        (person[left[impostor]], person[right[impostor]]),
        scores[genuine] >= threshold,
        person[left[genuine]],
        ((far, *fars), threshold, len(people)),
        rng,
    )
    tar = float(np.mean(scores[genuine] >= threshold)) if len(genuine) else None
    return Calibration(
        threshold=threshold,
        threshold_interval=_interval(resampled[0]),
        far=far,
        measured_far=measured,
        far_interval=_interval(resampled[1]),
        tar=tar,
        tar_interval=None if tar is None else _interval(resampled[2]),
        impostor_pairs=len(impostor),
        genuine_pairs=len(genuine),
        people=len(people),
        images=len(names),
        flip=flip,
        seed=seed,
        images_sha256=images_sha256(root, names),
        model_sha256=digest,
        **_circumstances(model),
        lower_rates=_lower_rates(scores[impostor], fars, resampled[3:]),
        groups=_of_groups(scores, same, of_pairs, threshold),
    )


def _of_groups(
    scores: NDArray[np.float64], same: NDArray[np.bool_], of_pairs: Any, threshold: float
) -> GroupReport | None:
    """Return the errors of each group at the threshold, if there are groups."""
    if of_pairs is None:
        return None
    return rates_by_group(scores, same, of_pairs, threshold, "chosen here")


def _circumstances(model: Embedder) -> dict[str, Any]:
    """Return the fields of `Calibration` that say how and with what it was measured."""
    return {
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "model_format": model.format,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
        "given": dict(model.given),
    }


def store(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write the threshold and its provenance into the metadata of the model file it was made for.

    `threshold`, `threshold_far` and `flip` are set, and `extra["calibration"]` holds the rest.
    Facts of the input that were given are written too; what was guessed stays marked as a guess.
    The network is not touched, and the file is whole at every moment.

    Raises:
        ValueError: the file is another than the calibrated one.
        OSError: it could not be written; it is left as it was.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> folder = sf.data.synthetic.write_folder("faces", 20, 3, size=(28, 24))
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> sf.embedder.save_embedder(network, "network.keras", sf.embedder.EmbedderMetadata())
    >>> store(calibrate("network.keras", folder, far=0.1), "network.keras")
    >>> load_embedder("network.keras").metadata.threshold_far
    0.1
    """
    known = load_embedder(path, **calibration.given).metadata
    kept = dataclasses.replace(calibration, groups=None)
    updated = dataclasses.replace(
        known,
        threshold=calibration.threshold,
        threshold_far=calibration.far,
        flip=calibration.flip,
        extra={**known.extra, "calibration": kept.to_dict()},
    )
    if calibration.model_sha256 is None:
        raise ValueError("calibration must be of a file. Received: one of a model in memory")
    replace_metadata(path, updated, expected_sha256=calibration.model_sha256)


def _flip_of(model: Embedder, flip: Flip | None) -> Flip:
    """Return what is done with mirror images: what the argument or the model's metadata says."""
    chosen: Any = model.metadata.flip if flip is None else flip
    check_choice("flip", chosen, ("none", "concat", "sum"))
    if model.metadata.flip_built_in and chosen != "concat":
        raise ValueError(
            'flip must be "concat" for a file that embeds the mirror image itself: an app compares '
            f"its whole output. Received: {chosen!r}"
        )
    return chosen


def _choose(
    root: Path, pairs: Any, max_pairs: int, rng: np.random.Generator, strict: bool
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the images and the pairs of them: those listed, or any two of the folder."""
    if pairs is not None:
        listed = pairs if isinstance(pairs, Pairs) else read_pairs(pairs)
        return *locate(listed, root).images(), listed.is_same
    names = sorted(name for files in scan(root, strict).values() for name in files)
    owner = np.unique([name.split("/")[0] for name in names], return_inverse=True)[1]
    count = len(names)
    if count * (count - 1) // 2 <= 4 * max_pairs:
        left, right = np.triu_indices(count, 1)
    else:
        drawn = np.sort(rng.integers(0, count, (3 * max_pairs, 2)), axis=1)
        drawn = np.unique(drawn[owner[drawn[:, 0]] != owner[drawn[:, 1]]], axis=0)
        inside = [np.flatnonzero(owner == k) for k in range(owner.max() + 1)]
        genuine = [members[np.column_stack(np.triu_indices(len(members), 1))] for members in inside]
        left, right = np.concatenate([drawn, *genuine]).T
    same = owner[left] == owner[right]
    kept = [rng.permutation(np.flatnonzero(same == kind))[:max_pairs] for kind in (True, False)]
    chosen = np.sort(np.concatenate(kept))
    return names, left[chosen], right[chosen], same[chosen]


def _check_counts(impostors: int, people: int, far: float, max_pairs: int) -> None:
    reason = unsupported(far, impostors)
    if reason:
        more = f"; max_pairs is {max_pairs:,}" if impostors == max_pairs else ""
        raise ValueError(
            f"far must be one that the pairs support. Received: {far:g}: {reason}{more}"
        )
    if people < FEWEST_PEOPLE:
        raise ValueError(
            f"images must show {FEWEST_PEOPLE} people at least, one folder each. Received: {people}"
        )


def _supported_rates(far: float, impostors: int) -> list[float]:
    """Return the rates 5, 2 and 1 of each decade below `far` that the pairs support."""
    grid = [digit * 10.0**-power for power in range(1, 9) for digit in (5, 2, 1)]
    return [rate for rate in grid if rate < far and unsupported(rate, impostors) is None]


def _lower_rates(
    falling: NDArray[np.float64], fars: Sequence[float], resampled: NDArray[np.float64]
) -> dict[str, tuple[float, float, float]]:
    """Return the thresholds of further rates, and their intervals; less those that ties forbid."""
    found = {}
    for far, drawn in zip(fars, resampled, strict=True):
        with contextlib.suppress(ValueError):
            found[f"{far:g}"] = (_threshold(falling, far)[0], *_interval(drawn))
    return found


def _threshold(falling: NDArray[np.float64], far: float) -> tuple[float, float]:
    """Return the threshold and its share of accepted scores; the scores fall."""
    allowed = int(far * len(falling) * (1 + 1e-12))
    accepted = int(np.searchsorted(-falling, -falling[allowed], side="left"))  # ties are rejected
    if accepted == 0:
        raise ValueError(
            f"scores must differ: {np.sum(falling == falling[0]):,} impostor pairs share the "
            f"highest, so no threshold keeps to far={far:g}. Received: {falling[0]:.6f}"
        )
    middle = (falling[accepted - 1] + falling[accepted]) / 2
    return float(middle), accepted / len(falling)


def _bootstrap(
    falling: NDArray[np.float64],
    impostors: tuple[NDArray[np.int64], NDArray[np.int64]],
    accepted: NDArray[np.bool_],
    owners: NDArray[np.int64],
    settings: tuple[Sequence[float], float, int],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return threshold, FAR, TAR and thresholds of further rates with the people drawn anew.

    The result is (2 + rates, resamples); the first of the rates has the first line.

    A person drawn k times counts k times, an impostor pair of people drawn k and l times k l times:
    the vertex bootstrap of Snijders and Borgatti, "Non-parametric standard errors and tests for
    network statistics" (Connections, 1999).
    """
    fars, threshold, people = settings
    places = np.array([0, *range(3, 2 + len(fars))])
    first_below = int(np.searchsorted(-falling, -threshold, side="right"))
    figures = np.full((2 + len(fars), RESAMPLES), np.nan)
    for k in range(RESAMPLES):
        times = np.bincount(rng.integers(0, people, people), minlength=people)
        sums = np.cumsum(times[impostors[0]] * times[impostors[1]])
        if sums[-1]:
            allowed = np.array(fars) * sums[-1] * (1 + 1e-12)
            at = np.clip(np.searchsorted(sums, allowed, side="right"), 1, len(falling) - 1)
            figures[places, k] = (falling[at - 1] + falling[at]) / 2
            figures[1, k] = sums[first_below - 1] / sums[-1]
        weights = times[owners]
        if weights.sum():
            figures[2, k] = np.sum(weights * accepted) / weights.sum()
    return figures


def _interval(values: NDArray[np.float64]) -> Interval:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
