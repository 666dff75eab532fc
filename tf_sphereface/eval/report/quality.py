"""Error against the share of pairs left out as a terminal table, and as text for the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table

from tf_sphereface.eval.report import figures
from tf_sphereface.utils.optional import require

SHARES = (0.0, 0.1, 0.2, 0.5)
NAMES = {"norm": "norm", "detector_score": "detector score"}
COLUMNS = ("quality", "error", *(f"{share:.0%}" for share in SHARES), "area", "random", "ideal")
ERRORS = {"fnmr": "FNMR", "verification": "verification"}


def quality_tables(entries: dict[str, dict[str, Any] | None]) -> list[Table | str]:
    """Return what is printed of `QualityReport.to_dict` by name (of a set, or of the quality).

    One table holds all that have curves; the others are a line each, with the reason.
    """
    named = {name: values for name, values in entries.items() if values is not None}
    table = Table(title=TITLE, title_justify="left")
    for name in COLUMNS:
        if name in COLUMNS[:2]:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for name, values in named.items():
        for row in quality_rows(values):
            table.add_row(*(name if at == 0 else cell for at, cell in enumerate(row)))
    parts: list[Table | str] = []
    if table.row_count:
        table.caption, table.caption_justify = _caption(named.values()), "left"
        parts.append(table)
    lines = {name: _nothing(values) for name, values in named.items()}
    return [*parts, *(f"quality, {name}: {line}." for name, line in lines.items() if line)]


TITLE = "error, %, of the pairs that are left when this share is left out, lowest quality first"
CAPTION = (
    "area: under error over share, from 0 to 50 %; random: that of a random order, mean and "
    "standard deviation; ideal: of the best order"
)
KINDS = {
    "fnmr": "FNMR: genuine pairs, at a threshold that stays",
    "verification": "verification: all pairs, at their folds' thresholds",
}
TOO_FEW = "the pairs are too few"
NO_ERROR = "no pair is decided wrongly: there is nothing to sort out"


def _caption(entries: Iterable[dict[str, Any]]) -> str:
    """Return what the columns mean, and which errors there are."""
    kinds = {kind for values in entries for kind, _ in _curves(values)}
    return "; ".join([CAPTION, *(text for kind, text in KINDS.items() if kind in kinds)])


def _nothing(values: dict[str, Any]) -> str | None:
    """Return why there is no row, None where there is one."""
    if values["meaningless"] is not None:
        return str(values["meaningless"])
    if quality_rows(values):
        return None
    return NO_ERROR if any(values[kind] is not None for kind in ERRORS) else TOO_FEW


def quality_rows(values: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of both curves."""
    rows = []
    for kind, curve in _curves(values):
        error = ERRORS[kind]
        if kind == "fnmr":
            error += f" at FMR {values['fmr']:g}"
        shares = (f"{100 * _error_at(curve, share):.2f}" for share in SHARES)
        area, random, spread, ideal = (
            f"{100 * curve[name]:.3f}" for name in ("area", "random", "random_std", "ideal")
        )
        areas = (area, f"{random} ± {spread}", ideal)
        rows.append((NAMES[values["quality"]], error, *shares, *areas))
    return rows


def quality_section(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the page shows of `QualityReport.to_dict`; None where there is none."""
    if values is None:
        return None
    markup = require("jinja2", extra="eval").utils.markupsafe.Markup
    curves = dict(_curves(values))
    return {
        "name": NAMES[values["quality"]],
        "description": values["description"],
        "nothing": _nothing(values),
        "rows": list(zip(COLUMNS[1:], *(row[1:] for row in quality_rows(values)), strict=True)),
        "title": TITLE,
        "caption": _caption([values]),
        "svg": markup(figures.discard(curves)) if curves else "",
        "spread": f"{values['lowest']:.4g} to {values['highest']:.4g}, median "
        f"{values['median']:.4g}",
    }


def _curves(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the curves that have an error to leave out."""
    return ((kind, values[kind]) for kind in ERRORS if (values[kind] or {"wrong": 0})["wrong"])


def _error_at(curve: dict[str, Any], share: float) -> float:
    """Return the error of the last point that leaves out no more than a share."""
    points = [point for point in curve["points"] if point["share"] <= share + 1e-9]
    return float(points[-1]["error"])
