"""A protocol's result as terminal tables and as JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.embedder.metadata import library_versions
from tf_sphereface.embedder.model_hashes import model_sha256
from tf_sphereface.eval.measures.angles import AngleDistribution
from tf_sphereface.eval.measures.curve import clopper_pearson
from tf_sphereface.eval.measures.hints import hints_of
from tf_sphereface.eval.protocol import ProtocolResult, own_threshold
from tf_sphereface.eval.quality import norms_report
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings, StoredScores
from tf_sphereface.eval.verification import (
    BootstrapIntervals,
    VerificationRates,
    VerificationResult,
)

SCHEMA = 1
FLIPS = {
    "none": "image",
    "flip": "image + mirror",
    "sum": "image + mirror, summed",
    "scores": "given scores",
}
MEANS = {"plain": "plain", "mean_subtracted": "mean subtracted"}


def to_dict(result: ProtocolResult) -> dict[str, Any]:
    r"""Return what a protocol's `evaluate` gave as plain values for JSON.

    `report_schema.json` in this package describes the keys. Rates are fractions, angles degrees;
    None stands for what cannot be stated and for an infinite threshold.

    Example:

    >>> from pathlib import Path
    >>> from tf_sphereface.eval import scores
    >>> _ = Path("scores.txt").write_text("0.9 1 1\n0.1 0 1\n0.8 1 2\n0.2 0 2\n")
    >>> to_dict(scores.evaluate("scores.txt"))["headline"]["accuracy"]
    1.0
    """
    pairs = result.pairs
    genuine = int(pairs.is_same.sum())
    flip, mean = result.headline_key
    return {
        "schema": SCHEMA,
        "protocol": result.name,
        "description": result.protocol,
        "model": describe_model(result.embedder),
        "data": {
            "pairs": len(pairs),
            "genuine": genuine,
            "impostor": len(pairs) - genuine,
            "folds": len(result.headline.fold_ids),
            "items": result.num_items,
        },
        "headline": {"flip": flip, "mean": mean, **result_to_dict(result.headline)},
        "table": [
            {"flip": key[0], "mean": key[1], **result_to_dict(entry)}
            for key, entry in result.table.items()
        ],
        "versions": library_versions(),
        "hints": hints_of(result.headline.scores, result.headline.is_same),
        "quality": norms_to_dict(result),
    }


def norms_to_dict(result: ProtocolResult) -> dict[str, Any] | None:
    """Return what the embeddings' lengths tell of the errors; None where they are not known."""
    report = norms_report(result)
    return None if report is None else report.to_dict()


def result_to_dict(result: VerificationRates) -> dict[str, Any]:
    """Return one result's figures as plain values (fractions and degrees), without the pairs."""
    best = result.best_on_test
    return {
        "accuracy": result.accuracy,
        "std_error": result.std_error,
        "auc": result.auc,
        "eer": result.eer,
        "genuine_angle_degrees": result.genuine_angle,
        "impostor_angle_degrees": result.impostor_angle,
        "genuine_angles": _spread(result.genuine_angles),
        "impostor_angles": _spread(result.impostor_angles),
        "angular_fisher_score": _finite(result.angular_fisher_score),
        "best_on_test": None
        if best is None
        else {"accuracy": best.accuracy, "threshold": _finite(best.threshold)},
        "tar_at_far": [
            {
                "far": far,
                "tar": tar,
                "interval": result.tar_interval_at_far[far],
                "threshold_best_on_test": result.threshold_at_far[far],
                "reason": result.tar_at_far_reasons.get(far),
            }
            for far, tar in result.tar_at_far.items()
        ],
        "folds": [
            {
                "fold": int(fold),
                "accuracy": float(accuracy),
                "threshold": _finite(float(threshold)),
            }
            for fold, accuracy, threshold in zip(
                result.fold_ids, result.fold_accuracies, result.thresholds, strict=True
            )
        ],
    }


def _spread(angles: AngleDistribution | None) -> dict[str, Any] | None:
    """Return how angles are spread, in degrees, as plain values."""
    if angles is None:
        return None
    return {
        **dataclasses.asdict(angles),
        "quantiles": {f"{share:g}": angle for share, angle in angles.quantiles.items()},
        "counts": angles.counts.tolist(),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def describe_model(embedder: Embedder | StoredEmbeddings | StoredScores) -> dict[str, Any]:
    """Return which model was evaluated: path, hash, shapes and its own metadata."""
    return {
        "path": str(embedder.path) if embedder.path else None,
        "sha256": model_sha256(embedder.path) if embedder.path else None,
        "format": embedder.format,
        "input_size": list(embedder.input_size) if embedder.input_size else None,
        "embedding_dim": embedder.embedding_dim,
        "metadata": dataclasses.asdict(embedder.metadata) if embedder.metadata else None,
    }


def bootstrap_to_dict(intervals: BootstrapIntervals) -> dict[str, Any]:
    """Return bootstrap intervals as plain values."""
    by_far = [{"far": far, "interval": pair} for far, pair in intervals.tar_at_far.items()]
    return {**dataclasses.asdict(intervals), "tar_at_far": by_far}


def bootstrap_rows(values: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return name, lower and upper limit of each interval of `bootstrap_to_dict`."""
    by_far = [(f"TAR at FAR {row['far']:g}", row["interval"]) for row in values["tar_at_far"]]
    rows = [("AUC", values["auc"]), ("EER", values["eer"]), *by_far]
    return [(name, *interval) for name, interval in rows if interval is not None]


def bootstrap_table(values: dict[str, Any]) -> Table:
    """Bootstrap intervals, in percent."""
    title = f"{100 * values['confidence']:g} % intervals, pairs drawn {values['repeats']:,} times"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, low, high in bootstrap_rows(values):
        table.add_row(name, f"{_percent(low)} to {_percent(high)}")
    return table


def print_result(result: ProtocolResult, console: Console) -> None:
    r"""Print the headline and its protocol, the 2x2 table, the curve's figures and the folds.

    Without folds there are the curve's figures alone.

    Example:

    >>> from pathlib import Path
    >>> from tf_sphereface.eval import scores
    >>> _ = Path("scores.txt").write_text("0.9 1 1\n0.1 0 1\n0.8 1 2\n0.2 0 2\n")
    >>> print_result(scores.evaluate("scores.txt"), Console(width=80))
    100.00 ± 0.00 %  4 pairs (2 genuine, 2 impostor) in 2 folds; scores as given; ...
    """
    headline = result.headline
    if not len(headline.fold_ids):
        eer = f"EER {_percent(headline.eer)} %"
        console.print(Text.assemble((eer, "bold"), "  ", result.protocol))
        console.print(figures_table(headline))
        return
    accuracy = f"{_percent(headline.accuracy)} ± {_percent(headline.std_error)} %"
    console.print(Text.assemble((accuracy, "bold"), "  ", result.protocol))
    console.print(accuracy_table(result))
    console.print(figures_table(headline))
    point = operating_point(result)
    if point is not None:
        rates = (
            f"{name.upper()} {_percent(point[name])} % "
            f"[{', '.join(map(_percent, point[f'{name}_interval']))}]"
            for name in ("far", "tar")
        )
        console.print(f"at the model's own threshold {point['threshold']:.4f}: {', '.join(rates)}")
    console.print(folds_table(headline))


def operating_point(result: ProtocolResult) -> dict[str, Any] | None:
    """Return what the model's own threshold, chosen elsewhere, does on these pairs."""
    threshold = own_threshold(result)
    if threshold is None:
        return None
    headline, metadata = result.headline, result.embedder.metadata
    point = {"threshold": threshold, "calibrated_far": getattr(metadata, "threshold_far", None)}
    for name, same in (("far", False), ("tar", True)):
        scores = headline.scores[headline.is_same == same]
        accepted = int(np.sum(scores >= threshold))
        point[name] = accepted / len(scores)
        point[f"{name}_interval"] = list(clopper_pearson(accepted, len(scores)))
    return point


def accuracy_table(result: ProtocolResult) -> Table:
    """Accuracy ± standard error: flip by mean subtraction, in percent."""
    table = Table(title="accuracy ± standard error, %", title_justify="left")
    table.add_column("embedding of")
    for label in MEANS.values():
        table.add_column(label, justify="right")
    for flip, label in FLIPS.items():
        cells: list[Text] = []
        for mean in MEANS:
            entry = result.table.get((flip, mean))
            if entry is not None:
                text = f"{_percent(entry.accuracy)} ± {_percent(entry.std_error)}"
                headline = (flip, mean) == result.headline_key
                cells.append(Text(text, style="bold" if headline else ""))
        if cells:
            table.add_row(label, *cells)
    return table


def figures_table(result: VerificationRates) -> Table:
    """Figures of the headline: mean angles, AUC, EER, TAR at FAR or why there is none."""
    table = Table(title="headline in figures", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    if result.genuine_angle is not None and result.impostor_angle is not None:
        table.add_row("mean genuine angle", f"{result.genuine_angle:.2f}°")
        table.add_row("mean impostor angle", f"{result.impostor_angle:.2f}°")
        table.add_row("gap", f"{result.impostor_angle - result.genuine_angle:.2f}°")
    table.add_row("AUC", f"{result.auc:.5f}")
    table.add_row("EER", f"{_percent(result.eer)} %")
    for far, tar in result.tar_at_far.items():
        text = f"{_percent(tar)} %" if tar is not None else result.tar_at_far_reasons[far]
        interval = result.tar_interval_at_far[far]
        if interval is not None:
            text += f"  [{_percent(interval[0])}, {_percent(interval[1])}]"
        table.add_row(f"TAR at FAR {far:g}", Text(text))
    if result.angular_fisher_score is not None:
        table.add_row("angular Fisher score", f"{result.angular_fisher_score:.4f}")
    best = result.best_on_test
    if best is not None:
        text = f"{_percent(best.accuracy)} % at {best.threshold:.4f}"
        table.add_row("best on test (no result)", text)
    return table


def folds_table(result: VerificationResult) -> Table:
    """Accuracy of each fold and the threshold that the other folds chose for it."""
    table = Table(title="folds", title_justify="left")
    for name in ("fold", "accuracy, %", "threshold"):
        table.add_column(name, justify="right")
    for fold, accuracy, threshold in zip(
        result.fold_ids, result.fold_accuracies, result.thresholds, strict=True
    ):
        table.add_row(str(fold), _percent(float(accuracy)), f"{threshold:.4f}")
    return table


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
