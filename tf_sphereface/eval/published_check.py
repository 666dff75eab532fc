"""Measured accuracies on `.bin` sets beside the published ones of the same weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from tf_sphereface.backbones.known_weights import KnownWeights, known_weights
from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.embedder.model_card import EARLIER_SOURCE, SOURCE
from tf_sphereface.eval import bin_sets
from tf_sphereface.eval.bin_sets import BinSetsResult, PathLike
from tf_sphereface.eval.verification import VerificationResult
from tf_sphereface.utils.messages import ProgressCallback

__all__ = [
    "PublishedCheck",
    "SetComparison",
    "check",
    "find_weights",
]

LIMIT = 2.0
"""Standard errors within which a difference counts as agreement."""

_PAIRS = {"lfw": 6000, "cfpfp": 7000, "agedb30": 6000, "calfw": 6000, "cplfw": 6000}

Verdict = Literal["agrees", "below", "above"]


@dataclasses.dataclass(frozen=True)
class SetComparison:
    """One set's accuracy beside the published one; all are fractions.

    Attributes:
        accuracy: measured here.
        published: what the weights' page says.
        std_error: of the measured accuracy: over the folds, or the binomial one of the published
            accuracy on so many pairs, whichever is larger. The published one's is not known.
        pairs: how many pairs the set has.
    """

    accuracy: float
    published: float
    std_error: float
    pairs: int

    @property
    def difference(self) -> float:
        """Measured less published."""
        return self.accuracy - self.published

    @property
    def standard_errors(self) -> float:
        """The difference in standard errors."""
        return _ratio(self.difference, self.std_error)

    @property
    def verdict(self) -> Verdict:
        """`"agrees"` within `LIMIT` standard errors, else `"below"` or `"above"`."""
        return _verdict(self.standard_errors)


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedCheck:
    """The outcome of `check`.

    Attributes:
        weights: whose figures were compared with.
        sets: name -> the set's comparison.
        unpublished: names of sets of which the weights' page has no figure; they are not evaluated.
        results: what was measured, as the model is fed.
    """

    weights: KnownWeights
    sets: dict[str, SetComparison]
    unpublished: list[str]
    results: BinSetsResult

    @property
    def difference(self) -> float:
        """Mean over the sets of measured less published."""
        return float(np.mean([entry.difference for entry in self.sets.values()]))

    @property
    def std_error(self) -> float:
        """Standard error of that mean, the sets taken as independent."""
        errors = [entry.std_error for entry in self.sets.values()]
        return float(np.linalg.norm(errors)) / len(errors)

    @property
    def standard_errors(self) -> float:
        """The mean difference in standard errors."""
        return _ratio(self.difference, self.std_error)

    @property
    def verdict(self) -> Verdict:
        """`"below"` or `"above"` where a set, or the mean over the sets, does not agree."""
        verdicts = [
            *(entry.verdict for entry in self.sets.values()),
            _verdict(self.standard_errors),
        ]
        return next((v for name in ("below", "above") for v in verdicts if v == name), "agrees")


def check(
    embedder: Embedder,
    sources: PathLike | list[PathLike],
    weights: KnownWeights,
    flip: bool = True,
    progress: Callable[[str], ProgressCallback] | None = None,
    *,
    cache: PathLike | None = None,
) -> PublishedCheck:
    """Evaluate a model on `.bin` sets and compare with the published figures of its weights.

    Args:
        embedder: the model, opened.
        sources: folders and files, as for `bin_sets.find_bins`.
        weights: whose figures; `find_weights` finds them for a model.
        flip: whether mirror images are embedded and added, as insightface's protocol does.
        progress: called with a set's name; returns what is called with (images done, in all).
        cache: as for `lfw.evaluate`.

    Raises:
        FileNotFoundError: there are no sets.
        ValueError: none of them has a published figure, or one of those that have cannot be
            evaluated.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> folder = sf.data.synthetic.write_folder("faces", 4, 2, pairs_per_fold=2, folds=2)
    >>> _ = sf.eval.bins.write_bin_of_pairs("lfw.bin", folder, folder / "pairs.txt", size=(112, 96))
    >>> network = keras.Sequential([keras.Input((112, 96, 3)), keras.layers.Flatten()])
    >>> model = Embedder.in_memory(network, sf.embedder.EmbedderMetadata())
    >>> result = check(model, "lfw.bin", find_weights(model, "ir101_webface4m"))
    >>> result.sets["lfw"].published, result.unpublished
    (0.998, [])
    """
    found = bin_sets.find_bins(sources)
    published = {bin_sets.set_key(name): percent for name, percent in weights.published.items()}
    chosen = {name: path for name, path in found.items() if bin_sets.set_key(name) in published}
    if not chosen:
        figures = ", ".join(weights.published) or "none"
        raise ValueError(
            f"No set has a published figure for {weights.file}, whose page has: {figures}. "
            f"Received: {', '.join(found)}"
        )
    results = bin_sets.evaluate_sets(embedder, chosen, flip, progress, cache=cache)
    sets = {
        name: compare_with(result.headline, published[bin_sets.set_key(name)] / 100)
        for name, result in results.sets.items()
    }
    return PublishedCheck(weights, sets, [name for name in found if name not in chosen], results)


def compare_sets(
    result: PublishedCheck, others: Mapping[str, VerificationResult]
) -> PublishedCheck:
    """Compare other results on the same sets (name -> result) with the same published figures."""
    sets = {
        name: compare_with(others[name], entry.published) for name, entry in result.sets.items()
    }
    return dataclasses.replace(result, sets=sets)


def compare_with(result: VerificationResult, published: float) -> SetComparison:
    """Compare a result with folds with a published accuracy, a fraction."""
    pairs = len(result.is_same)
    binomial = math.sqrt(published * (1 - published) / pairs)
    error = result.std_error if math.isfinite(result.std_error) else 0.0
    return SetComparison(result.accuracy, published, max(error, binomial), pairs)


def notes(result: PublishedCheck) -> list[str]:
    """Return what limits a check, in sentences: parts of sets, and sets without a figure."""
    texts = []
    for name, entry in result.sets.items():
        whole = _PAIRS.get(bin_sets.set_key(name))
        if whole is not None and whole != entry.pairs:
            texts.append(
                f"{name} has {entry.pairs:,} pairs, the published figure is of {whole:,}: other "
                "pairs, other folds"
            )
    facts, row = result.results.embedder.metadata, result.weights
    fed = (facts.channel_order, facts.pixel_mean, facts.pixel_scale)
    if facts.input_dtype == "float32" and fed != (row.channel_order, 127.5, row.pixel_scale):
        texts.append("the model is fed otherwise than its page says")
    if result.unpublished:
        texts.append(f"no published figure, so not evaluated: {', '.join(result.unpublished)}")
    return texts


def find_weights(embedder: Embedder, name: str | None = None) -> KnownWeights:
    """Return the row of `known_weights()` that a model is.

    Args:
        embedder: the model; it is known by the name of the file that it was imported from, or has,
            or by its architecture where that names the project it comes from.
        name: a file of `known_weights()`, or the `arch` that one row alone has, or a part of a
            file's name that no other has.

    Raises:
        ValueError: none or several fit; the candidates are listed.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> model = Embedder.in_memory(network, sf.embedder.EmbedderMetadata())
    >>> find_weights(model, "ir101_webface4m").published["lfw"]
    99.8
    """
    rows = [row for row in known_weights() if _has_figures(row)]
    if name is not None:
        matches = _by_name(rows, name)
        if len(matches) == 1:
            return matches[0]
        raise ValueError(
            f"Argument `weights` must name one file of known_weights(). Received: {name!r}, which "
            + (f"fits several:{_listed(matches)}" if matches else f"fits none of:{_listed(rows)}")
        )
    metadata = embedder.metadata
    earlier = metadata.extra.get(EARLIER_SOURCE) or {}
    files = [metadata.extra.get(SOURCE), earlier.get("file"), embedder.path and embedder.path.name]
    for file in filter(None, files):
        matches = [row for row in rows if _file(row) == str(file).lower()]
        if len(matches) == 1:
            return matches[0]
    architecture = metadata.architecture or ""
    matches = [row for row in rows if architecture == f"{row.network} ({_project(row)})"]
    if len(matches) == 1:
        return matches[0]
    alike = [row for row in rows if architecture.split(" (")[0] == row.network]
    raise ValueError(
        f"{embedder.path or 'the model'} does not say which published weights it is "
        f"(architecture {architecture or 'unknown'}). Name them by weights (--weights):"
        + _listed(alike or rows)
    )


def _by_name(rows: list[KnownWeights], name: str) -> list[KnownWeights]:
    """Return the rows whose file is `name`, else those of that `arch`, else whose file has it."""
    wanted = name.lower()
    for fits in (
        lambda row: wanted in (row.file.lower(), _file(row)),
        lambda row: wanted == row.arch,
        lambda row: wanted in row.file.lower(),
    ):
        matches = [row for row in rows if fits(row)]
        if matches:
            return matches
    return []


def _has_figures(row: KnownWeights) -> bool:
    """Tell whether a row has a figure on a `.bin` set; that of IJB-C is of another protocol."""
    return any(not name.startswith("ijb") for name in row.published)


def _file(row: KnownWeights) -> str:
    """Return the name of a row's file, without what stands in brackets."""
    return row.file.split(" (")[0].lower()


def _project(row: KnownWeights) -> str:
    """Return the last part of the address of a row's page, such as `InsightFace_Pytorch`."""
    return row.source.rsplit("/", 1)[-1]


def _listed(rows: list[KnownWeights]) -> str:
    return "".join(f"\n  {row.file}: {row.network}, {row.training_data}" for row in rows)


def _ratio(difference: float, error: float) -> float:
    if error > 0:
        return difference / error
    return 0.0 if difference == 0 else math.copysign(math.inf, difference)


def _verdict(standard_errors: float) -> Verdict:
    if abs(standard_errors) <= LIMIT:
        return "agrees"
    return "below" if standard_errors < 0 else "above"


def check_to_dict(result: PublishedCheck) -> dict[str, Any]:
    """Return a check as plain values for JSON; rates are fractions."""
    row = result.weights
    figures: Mapping[str, SetComparison] = result.sets
    return {
        "weights": {
            "file": row.file,
            "source": row.source,
            "network": row.network,
            "training_data": row.training_data,
        },
        "sets": {
            name: {
                **dataclasses.asdict(entry),
                "difference": entry.difference,
                "standard_errors": _finite(entry.standard_errors),
                "verdict": entry.verdict,
            }
            for name, entry in figures.items()
        },
        "unpublished": result.unpublished,
        "difference": result.difference,
        "std_error": result.std_error,
        "standard_errors": _finite(result.standard_errors),
        "verdict": result.verdict,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
