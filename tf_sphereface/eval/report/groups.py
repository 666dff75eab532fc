"""The errors of each group as a terminal table, and as text for the page."""

from __future__ import annotations

from typing import Any

from rich.table import Table

COLUMNS = ("group", "impostor pairs", "false accepts, %", "genuine pairs", "false rejects, %")


def groups_table(values: dict[str, Any], title: str = "groups") -> Table:
    """A row per group, rates in percent with their intervals, of `GroupReport.to_dict`."""
    table = Table(title=f"{title}: {threshold_text(values)}", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "group" else "right")
    for row in group_rows(values):
        table.add_row(*row)
    table.caption, table.caption_justify = "; ".join(group_notes(values)), "left"
    return table


def threshold_text(values: dict[str, Any]) -> str:
    """Return which threshold all groups have."""
    return f"threshold {values['threshold']:.4f}, {values['origin']}"


def group_rows(values: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of the groups, of the pairs between them, and of all; a star: too few."""
    entries = [*values["groups"], *filter(None, [values["between"]]), values["overall"]]
    return [
        (
            entry["name"],
            f"{entry['impostor_pairs']:,}",
            _rate(entry, "far"),
            f"{entry['genuine_pairs']:,}",
            _rate(entry, "frr"),
        )
        for entry in entries
    ]


def group_notes(values: dict[str, Any]) -> list[str]:
    """Return the ratios of the worst group to the best, what a star means, what is left out."""
    notes = [
        f"worst over best group, false {kind}: " + ("none" if ratio is None else f"{ratio:.2f}")
        for kind, ratio in (("accepts", values["far_ratio"]), ("rejects", values["frr_ratio"]))
    ]
    if any(entry["few"] for entry in values["groups"]):
        notes.append("*: too few pairs, not in the ratio")
    if values["left_out"]:
        notes.append(f"{values['left_out']:,} pairs left out: an image has no group")
    return notes


def _rate(entry: dict[str, Any], rate: str) -> str:
    if entry[rate] is None:
        return "-"
    low, high = entry[f"{rate}_interval"]
    star = "*" if rate in entry["few"] else ""
    return f"{100 * entry[rate]:.2f}{star} [{100 * low:.2f}, {100 * high:.2f}]"
