"""Several `.bin` sets as terminal tables, as plain values and as a page."""

from __future__ import annotations

import os
from typing import Any

from rich.table import Table
from rich.text import Text

from tf_sphereface.embedder.metadata import library_versions
from tf_sphereface.eval.bin_sets import BinSetsResult
from tf_sphereface.eval.bins import BinResult
from tf_sphereface.eval.measures.hints import hints_of
from tf_sphereface.eval.report import figures, tables
from tf_sphereface.eval.report.contents import curve_points
from tf_sphereface.eval.report.page import about_model, groups_section, model_name, template
from tf_sphereface.eval.report.provenance import pairs_sha256, published_sets
from tf_sphereface.eval.report.quality import quality_section
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.optional import require


def sets_to_dict(result: BinSetsResult) -> dict[str, Any]:
    """Return what `evaluate_sets` gave as plain values for JSON: all that the page shows.

    `sets` maps names to results as in `report_schema.json`, without `mean` and with `insightface`,
    the `accuracy` and `std` of insightface's own search, and with `data`, `curve`, `hints` and
    `quality`; `mean` is that of the accuracies in `sets`, None where there are none; `failures`
    maps names to reasons; `published` lists `network`, `training_data`, `accuracy` by set and
    `source`. Rates are fractions; None stands for what cannot be stated.
    """
    return {
        "schema": tables.SCHEMA,
        "protocol": "bins",
        "description": _description(result),
        "model": tables.describe_model(result.embedder),
        "sets": {name: _set_to_dict(entry) for name, entry in result.sets.items()},
        "mean": result.accuracy,
        "failures": result.failures,
        "published": published_sets(result.sets),
        "versions": library_versions(),
    }


def _set_to_dict(result: BinResult) -> dict[str, Any]:
    headline, pairs = result.headline, result.pairs
    genuine = int(pairs.is_same.sum())
    return {
        **tables.result_to_dict(headline),
        "flip": result.headline_key[0],
        "insightface": {"accuracy": result.insightface_accuracy, "std": result.insightface_std},
        "data": {
            "pairs": len(pairs),
            "genuine": genuine,
            "impostor": len(pairs) - genuine,
            "items": result.num_items,
            "pairs_sha256": pairs_sha256(pairs),
        },
        "curve": curve_points(headline.scores, headline.is_same),
        "hints": hints_of(headline.scores, headline.is_same),
        "quality": tables.norms_to_dict(result),
    }


def _description(result: BinSetsResult) -> str:
    flips = {entry.headline_key[0] for entry in result.sets.values()}
    vectors = "image and mirror image, summed" if "sum" in flips else "the image alone"
    folds = sorted({entry.pairs.num_folds for entry in result.sets.values()})
    shown = " to ".join(str(n) for n in dict.fromkeys([*folds[:1], *folds[-1:]])) or "no"
    return (
        f"Cosine of the embeddings of {vectors}. Each set by itself: {shown} equal folds in the "
        "file's order, each fold's threshold chosen on the others; mean accuracy and its standard "
        "error over the folds. The mean over the sets weighs each set alike."
    )


def sets_table(values: dict[str, Any]) -> Table:
    """A row per set, in percent, and their mean; `values` is what `sets_to_dict` returned."""
    table = Table(title="measured here, %", title_justify="left")
    table.add_column("set", overflow="fold")
    for name in ("accuracy", "pairs", "folds", "AUC", "EER"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, entry in values["sets"].items():
        table.add_row(
            name,
            Text(_accuracy(entry), style="bold"),
            f"{entry['data']['pairs']:,}",
            str(len(entry["folds"])),
            _percent(entry["auc"]),
            _percent(entry["eer"]),
        )
    if values["sets"]:
        table.add_section()
        table.add_row(_mean_label(values), Text(_percent(values["mean"]), style="bold"))
    return table


def published_table(values: dict[str, Any]) -> Table | None:
    """Accuracies of others on these sets, in percent; None where there are none."""
    entries = values["published"]
    names = [name for name in values["sets"] if any(name in e["accuracy"] for e in entries)]
    if not entries:
        return None
    title = "published by others (their READMEs), not measured here; accuracy, %"
    table = Table(title=title, title_justify="left")
    table.add_column("network, training set")
    for name in names:
        table.add_column(name, justify="right", min_width=5, overflow="fold")
    for entry in entries:
        table.add_row(
            ", ".join(part for part in (entry["network"], entry["training_data"]) if part),
            *(_percent_or_empty(entry["accuracy"].get(name)) for name in names),
        )
    return table


def write_sets_page(values: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page of several sets, atomically, of what `sets_to_dict` returned.

    Raises:
        OSError: the file cannot be written.
        ImportError: the `eval` extra is not installed.
    """
    markup = require("jinja2", extra="eval").utils.markupsafe.Markup
    sets, published = values["sets"], values["published"]
    names = [name for name in sets if any(name in entry["accuracy"] for entry in published)]
    lines = [
        *about_model(values["model"]),
        *((f"SHA-256 of {name}'s pairs", e["data"]["pairs_sha256"]) for name, e in sets.items()),
        ("versions", ", ".join(f"{k} {v}" for k, v in values["versions"].items())),
    ]
    page = template("bin_sets.html").render(
        {
            **values,
            "percent": _percent,
            "accuracy": _accuracy,
            "mean_label": _mean_label(values),
            "model_name": model_name(values["model"]),
            "names": names,
            "figures": [
                (name, markup(figures.roc(entry["curve"], entry["data"]["impostor"])))
                for name, entry in sets.items()
            ],
            "hints": {hint: name for name, entry in sets.items() for hint in entry["hints"]},
            "group_sections": {
                f"Groups in {name}": groups_section(entry["groups"])
                for name, entry in sets.items()
                if "groups" in entry
            },
            "quality_sections": {
                f"Quality in {name}": quality_section(entry["quality"])
                for name, entry in sets.items()
                if entry.get("quality")
            },
            "provenance": [(name, str(value)) for name, value in lines if value is not None],
        }
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _mean_label(values: dict[str, Any]) -> str:
    count, failed = len(values["sets"]), len(values["failures"])
    return f"mean of {count}" + (f" (of {count + failed})" if failed else "")


def _accuracy(entry: dict[str, Any]) -> str:
    return f"{_percent(entry['accuracy'])} ± {_percent(entry['std_error'])}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _percent_or_empty(fraction: float | None) -> str:
    return "" if fraction is None else _percent(fraction)
