"""The usual mistakes in feeding a network, tried on pairs of `.bin` sets."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.face_reader import Problems
from tf_sphereface.backbones import tensor_layout
from tf_sphereface.backbones.known_weights import KnownWeights
from tf_sphereface.embedder.embedder import Embedder, embed_sides, load_embedder
from tf_sphereface.eval import verification
from tf_sphereface.eval.bins import BinReader, BinSet, WholeFaces, check_set
from tf_sphereface.eval.scoring.score_pairs import cosines, join_sides
from tf_sphereface.eval.verification import VerificationResult
from tf_sphereface.utils.checks import check_integer
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning

__all__ = [
    "Trial",
    "Way",
    "evaluate_way",
    "try_ways",
    "usual_ways",
]

PAIRS = 240
"""Pairs that every way is tried on, over all sets."""

SCALES = ((127.5, 127.5), (127.5, 128.0), (0.0, 255.0), (0.0, 1.0))
"""(mean, scale) as networks are fed: -1 to 1 in two ways, 0 to 1, 0 to 255."""

_CHUNK = 512  # faces that are held at once
_SHIFTS = ((1, 0), (-1, 0), (0, 1), (0, -1))
CLEAR, SURE = 2.0, 3.0
"""Standard errors of the gain from which a way is better; the second where nothing seemed wrong."""

_SHARE = 0.02  # of d', below which a gain is not worth a word

Faces = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of feeding a network, as a difference from the way that it is fed now.

    Attributes:
        name: in words.
        facts: keyword arguments of `load_embedder`.
        shift: pixels to the right and down by which the faces are moved.
        resized: whether the faces are the middle 112x96 of a 112x112 crop, made 112x112, or a
            112x112 crop made 112x96.
        channels_first: whether the weights behind a Flatten layer are in the order of NCHW.
        flip: `"none"`, `"sum"` or `"concat"`; None leaves the use of mirror images as it is.
        changes: how many things are changed.
    """

    name: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shift: tuple[int, int] = (0, 0)
    resized: bool = False
    channels_first: bool = False
    flip: str | None = None
    changes: int = 1

    @property
    def moves_faces(self) -> bool:
        """Whether the faces are cut otherwise, which may be the sets' fault."""
        return self.resized or self.shift != (0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A way and what it gives, beside the present way on the same pairs.

    Accuracies hardly move on few pairs, so ways are compared by how far apart genuine and impostor
    scores lie: the difference of their means over the root of their mean variance (d').

    Attributes:
        way: the way.
        accuracy: name of the set -> accuracy, a fraction.
        present: the same of the way that it was compared with.
        gain: how much d' is larger than with the present way, mean over the sets.
        std_error: of the gain, paired, by leaving out one fold after the other.
        results: name of the set -> its result.
        separation: d' of the present way, mean over the sets.
    """

    way: Way
    accuracy: dict[str, float]
    present: dict[str, float]
    gain: float
    std_error: float
    results: dict[str, VerificationResult]
    separation: float

    @property
    def is_clear(self) -> bool:
        """Whether the gain is more than chance."""
        return self.gain > CLEAR * self.std_error

    @property
    def is_sure(self) -> bool:
        """Whether the gain is more than the chance of ten ways, and a fiftieth of d' at least."""
        return self.gain > max(SURE * self.std_error, _SHARE * abs(self.separation))


def usual_ways(embedder: Embedder, flip: bool = True) -> list[Way]:
    """Return the other ways in which a network is fed by mistake; `flip`: the sum is used now.

    Example:

    >>> import keras
    >>> network = keras.Sequential([keras.Input((112, 96, 3)), keras.layers.Flatten()])
    >>> model = load_embedder(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> "BGR, (x - 127.5) / 128" in [way.name for way in usual_ways(model)]
    True
    """
    metadata = embedder.metadata
    now = (metadata.channel_order, metadata.pixel_mean, metadata.pixel_scale)
    other = "rgb" if now[0] == "bgr" else "bgr"
    scales = [now[1:]] if metadata.input_dtype == "uint8" else [now[1:], *SCALES]
    ways: dict[tuple[Any, ...], Way] = {}
    for order in (now[0], other):
        for mean, scale in scales:
            facts = {"channel_order": order, "pixel_mean": mean, "pixel_scale": scale}
            if metadata.input_dtype == "uint8":
                facts = {"channel_order": order}
            changes = (order != now[0]) + ((mean, scale) != now[1:])
            name = describe_facts(order, mean, scale)
            ways.setdefault((order, mean, scale), Way(name, facts, changes=changes))
    del ways[now]
    listed = list(ways.values())
    for x, y in _SHIFTS:
        sides = ["right" if x > 0 else "left"] if x else []
        sides += ["down" if y > 0 else "up"] if y else []
        listed.append(Way(f"faces one pixel {' and '.join(sides)}", shift=(x, y)))
    if embedder.input_size == (112, 112):
        listed.append(Way("the middle 112x96 of the faces, made 112x112", resized=True))
    elif embedder.input_size == (112, 96):
        listed.append(Way("whole faces of 112x112, made 112x96", resized=True))
    if tensor_layout.flattened(embedder.backbone) is not None:
        listed.append(Way("weights behind Flatten in the order of NCHW", channels_first=True))
    names = {"none": "no mirror image", "sum": "mirror image added"}
    names["concat"] = "mirror image concatenated"
    used = "sum" if flip else "none"
    listed += [Way(text, flip=how) for how, text in names.items() if how != used]
    return listed


def single_changes(embedder: Embedder, weights: KnownWeights | None = None) -> list[Way]:
    """Return the ways that change one thing, and the one of the weights' page; no mirror image."""
    return [
        way
        for way in usual_ways(embedder)
        if way.flip is None and (way.changes == 1 or is_of(way, weights))
    ]


def describe_facts(order: str, mean: Any, scale: Any) -> str:
    """Return how a network is fed, in words.

    Example:

    >>> describe_facts("bgr", 127.5, 128.0)
    'BGR, (x - 127.5) / 128'
    """
    numbers = [
        "(" + ", ".join(f"{v:g}" for v in n) + ")" if isinstance(n, tuple) else f"{n:g}"
        for n in (mean, scale)
    ]
    top = "x" if numbers[0] == "0" else f"(x - {numbers[0]})"
    return f"{order.upper()}, {top}" + ("" if numbers[1] == "1" else f" / {numbers[1]}")


def try_ways(
    embedder: Embedder,
    sets: Mapping[str, BinSet],
    flip: bool = True,
    pairs: int = PAIRS,
    progress: ProgressCallback | None = None,
    *,
    weights: KnownWeights | None = None,
    ways: Sequence[Way] | None = None,
) -> list[Trial]:
    """Try the usual mistakes on some pairs of each set, the same pairs for every way.

    Channel order, scale and alignment are tried without mirror images, against the present way
    without them; the mirror image is tried against the present use of it.

    Args:
        embedder: the model as it is fed now.
        sets: name -> set, as `bin_sets.read_sets` returns them.
        flip: whether mirror images are added now.
        pairs: how many pairs over all sets, from 20 on; every set gives 20 at least.
        progress: called with (ways tried, ways in all).
        weights: what the model is; of ways that are as good, that of its page is preferred.
        ways: what is tried; None: all `usual_ways`.

    Returns:
        The trials, the one that fits best first: of those that are as good as the best within
        `CLEAR` standard errors the one that changes least. The others follow by their gain.

    Raises:
        ValueError: images cannot be used.

    Example:

    >>> import keras
    >>> from tf_sphereface.data import synthetic
    >>> faces = synthetic.faces([0, 0, 0, 1], [0, 1, 2, 0], size=(28, 24))
    >>> images = [cv2.imencode(".png", face[..., ::-1])[1].tobytes() for face in faces]
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> model = load_embedder(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> sets = {"mine": BinSet(images * 10, np.array([True, False] * 10))}
    >>> try_ways(model, sets, ways=[Way("taken as BGR", {"channel_order": "bgr"})])[0].is_clear
    False
    """
    pairs = check_integer("pairs", pairs, 20)
    chosen = {name: each.subset(max(pairs // len(sets), 20)) for name, each in sets.items()}
    ways = usual_ways(embedder, flip) if ways is None else ways
    plain = evaluate_way(embedder, chosen, Way("", flip="none"))
    mirrors = flip and any(way.flip is not None for way in ways)
    present = evaluate_way(embedder, chosen, Way("", flip="sum")) if mirrors else plain
    trials = []
    for done, way in enumerate(ways, 1):
        try:
            results = plain if way.flip == "none" else evaluate_way(embedder, chosen, way, False)
        except ValueError as error:
            if "finite" not in str(error):
                raise
        else:  # a network of 16 bits may overflow: then it is not that way
            trials.append(make_trial(way, results, plain if way.flip is None else present))
        if progress is not None:
            progress(done, len(ways))
    return _ordered(trials, weights)


def evaluate_way(
    embedder: Embedder,
    sets: Mapping[str, BinSet],
    way: Way,
    flip: bool = True,
    progress: ProgressCallback | None = None,
) -> dict[str, VerificationResult]:
    """Evaluate a way of feeding on all pairs of the sets: name -> result.

    Args:
        embedder: the model as it is fed now.
        sets: name -> set.
        way: how to feed it.
        flip: whether mirror images are added, where the way does not say.
        progress: called with (images done, in all).

    Example:

    >>> import keras
    >>> from tf_sphereface.data import synthetic
    >>> faces = synthetic.faces([0, 0, 0, 1], [0, 1, 2, 0], size=(28, 24))
    >>> images = [cv2.imencode(".png", face[..., ::-1])[1].tobytes() for face in faces]
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> model = load_embedder(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> sets = {"mine": BinSet(images * 2, np.array([True, False] * 2))}
    >>> evaluate_way(model, sets, Way("faces to the right", shift=(1, 0)))["mine"].scores.shape
    (4,)
    """
    how = way.flip or ("sum" if flip else "none")
    total = sum(len(each.images) for each in sets.values())
    done = 0
    results: dict[str, VerificationResult] = {}
    with tensor_layout.reordered(embedder.backbone if way.channels_first else None):
        network = _refed(embedder, way.facts)
        for name, each in sets.items():
            pairs = check_set(each)
            parts = []
            for faces in _faces(embedder.input_size, each, way.resized):
                moved = _moved(faces, *way.shift)
                plain, mirrored = embed_sides(network, moved, how != "none")
                parts.append(np.asarray(join_sides(plain, mirrored, how), np.float64))
                done += len(faces)
                if progress is not None:
                    progress(done, total)
            vectors = np.concatenate(parts)
            if not np.isfinite(vectors).all():
                raise ValueError(f"{name}: embeddings must be finite")
            left, right = np.arange(0, len(vectors), 2), np.arange(1, len(vectors), 2)
            scores = cosines(vectors, left, right)
            results[name] = verification.evaluate(scores, pairs.is_same, pairs.folds)
    return results


def make_trial(
    way: Way,
    results: dict[str, VerificationResult],
    before: Mapping[str, VerificationResult],
) -> Trial:
    """Compare a way's results with those of another on the same sets (name -> result)."""
    gain, error = _gain(results, before)
    shares = {name: result.accuracy for name, result in results.items()}
    present = {name: before[name].accuracy for name in results}
    parts = [before[name] for name in results]
    now = float(np.mean([_separation(part, np.ones(len(part.scores), bool)) for part in parts]))
    return Trial(way, shares, present, gain, error, results, now)


def _gain(
    first: Mapping[str, VerificationResult], second: Mapping[str, VerificationResult]
) -> tuple[float, float]:
    """Return by how much the first separates better, mean over the sets, and its standard error."""
    gains, errors = [], []
    for name in first:
        one, two = first[name], second[name]

        def difference(kept: NDArray[np.bool_], one: Any = one, two: Any = two) -> float:
            return _separation(one, kept) - _separation(two, kept)

        gains.append(difference(np.ones(len(one.scores), bool)))
        parts = np.array([difference(one.folds != fold) for fold in one.fold_ids])
        spread = np.sum((parts - parts.mean()) ** 2)
        errors.append(float(np.sqrt((len(parts) - 1) / len(parts) * spread)))
    return float(np.mean(gains)), float(np.linalg.norm(errors)) / len(errors)


def _separation(result: VerificationResult, kept: NDArray[np.bool_]) -> float:
    """Return d' of the pairs that are kept."""
    genuine, impostor = (result.scores[kept & (result.is_same == same)] for same in (True, False))
    spread = np.sqrt((genuine.var() + impostor.var()) / 2)
    return float((genuine.mean() - impostor.mean()) / spread) if spread > 0 else 0.0


def _ordered(trials: list[Trial], weights: KnownWeights | None) -> list[Trial]:
    """Put the trial first that changes least of those as good as the best; others by their gain."""
    gains = sorted(trials, key=lambda trial: trial.gain, reverse=True)
    alike = []
    for trial in gains:
        behind, error = _gain(gains[0].results, trial.results)
        if trial.gain > 0 and behind <= CLEAR * error + 1e-9:
            alike.append(trial)
    if not alike:
        return gains
    first = min(alike, key=lambda trial: 0 if is_of(trial.way, weights) else trial.way.changes)
    return [first, *(trial for trial in gains if trial is not first)]


def is_of(way: Way, weights: KnownWeights | None) -> bool:
    """Tell whether a way is the one that the weights' page says."""
    if weights is None or not way.facts:
        return False
    known = {
        "channel_order": weights.channel_order,
        "pixel_mean": 127.5,
        "pixel_scale": weights.pixel_scale,
    }
    return all(known[name] == value for name, value in way.facts.items())


def _refed(embedder: Embedder, facts: Mapping[str, Any]) -> Embedder:
    """Open a model again with other facts of its input; what that warns of is known here."""
    if not facts:
        return embedder
    model: Any = embedder.backbone if embedder.backbone is not None else embedder.path
    given = {**embedder.given, **facts}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SphereFaceWarning)
        return load_embedder(model, embedder.batch_size, embedder.threads, **given)


def _faces(size: tuple[int, int], bins: BinSet, resized: bool) -> Iterator[Faces]:
    """Yield the faces of a set for a network of this input, (n, height, width, 3)."""
    narrow = resized and size == (112, 96)
    reader = (WholeFaces if narrow else BinReader)(size, bins)
    problems, names = Problems(), [str(k) for k in range(len(bins.images))]
    with reader.pool() as pool:
        for start in range(0, len(names), _CHUNK):
            part = names[start : start + _CHUNK]
            read = [face for _, face in reader.each(pool, reader, Path(bins.name), part, problems)]
            problems.raise_if_any(len(names), Path(bins.name), reader.hint)
            if resized and not narrow:
                side = cv2.INTER_LINEAR
                read = [cv2.resize(face[:, 8:104], (112, 112), interpolation=side) for face in read]
            yield np.stack(read)


def _moved(faces: Faces, right: int, down: int) -> Faces:
    """Move faces by whole pixels; the edge is repeated."""
    if not (right or down):
        return faces
    x, y = abs(right), abs(down)
    wide = np.pad(faces, ((0, 0), (y, y), (x, x), (0, 0)), mode="edge")
    height, width = faces.shape[1:3]
    return np.ascontiguousarray(
        wide[:, y - down : y - down + height, x - right : x - right + width]
    )
