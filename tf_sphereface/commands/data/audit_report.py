"""What `tf_sphereface-data audit` prints and writes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_sphereface import data
from tf_sphereface.commands.console import console
from tf_sphereface.utils.files import atomic_path, write_json

SHOWN = 10  # findings of a kind that are printed; the lists hold them all

HEADER = """\
Identities and images of {train} that {test} has too, by tf_sphereface-data audit.
Look at identities.tsv and images.tsv before you use it: tf_sphereface-train --exclude FILE"""


def write(out: Path, report: dict[str, Any], entries: Sequence[tuple[str, str]]) -> None:
    """Write the lists into `out`: three tables, what to exclude, and all of it as JSON."""
    columns = {
        "identities": ("train", "test", "why", "cosine", "angle_degrees"),
        "images": ("train", "test", "why", "cosine", "angle_degrees", "hash_bits"),
        "suspects_in_test": ("first", "second", "cosine", "angle_degrees"),
    }
    for name, fields in columns.items():
        with (
            atomic_path(out / f"{name}.tsv") as temporary,
            temporary.open("w", newline="", encoding="utf-8") as handle,
        ):
            writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
            writer.writerow(fields)
            for row in report[name]:
                writer.writerow([_text(row.get(field)) for field in fields])
    header = HEADER.format(
        **{side: Path(report[side]["folder"]).name for side in ("train", "test")}
    )
    data.write_exclusions(out / "exclude.txt", entries, header)
    write_json(out / "audit.json", report)


def show(report: dict[str, Any], entries: Sequence[tuple[str, str]], out: Path) -> None:
    """Print what was found, the first of each kind."""
    lines = []
    for side in ("train", "test"):
        about = report[side]
        lines.append(
            f"{side}: {about['images']:,} images of {about['people']:,} people in {about['folder']}"
        )
        if about["unread"]:
            name, why = next(iter(about["unread"].items()))
            lines.append(f"  {len(about['unread']):,} could not be used, such as {name}: {why}")
    names = {"identities": "people, by centroid", "images": "images, by embedding"}
    for kind, limit in report["thresholds"].items():
        bits = f" ({report['hash_bits_allowed']} of 256 bits)" if kind == "hashes" else ""
        lines.append(f"threshold for {names.get(kind, 'images, by hash')}{bits}: {limit['reason']}")
    again = report["people_found_again"]
    if again:
        lines.append(
            f"at this threshold {again['share']:.1%} of the {again['of']:,} people with several "
            "images in the test set are found again when their images are split in halves; a "
            "higher --expected finds more"
        )
    contradicted = report["hash_matches_that_the_model_contradicts"]
    if contradicted:
        lines.append(f"matches by hash that the model contradicts, left out: {contradicted:,}")
    for key, what in (
        ("identities", "people in both"),
        ("images", "images in both, or of one person"),
        ("suspects_in_test", "pairs in the test set that look like one person under two names"),
    ):
        rows = report[key]
        lines.append(f"{what}: {len(rows):,}")
        for row in rows[:SHOWN]:
            first, second = list(row.values())[:2]
            lines.append(f"  {first}  {second}  {words(row)}")
        if len(rows) > SHOWN:
            lines.append(f"  and {len(rows) - SHOWN:,} more in {out / f'{key}.tsv'}")
    people = sum("/" not in name for name, _ in entries)
    lines.append(
        f"{out / 'exclude.txt'}: {people:,} identities and {len(entries) - people:,} images "
        "for tf_sphereface-train --exclude; look at the lists first"
    )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def words(row: dict[str, Any]) -> str:
    """Say why a row is in a list."""
    parts = list(row.get("why", ()))
    if row.get("cosine") is not None:
        parts.append(f"{row['angle_degrees']:.1f}°, cosine {row['cosine']:.4f}")
    if row.get("hash_bits") is not None:
        parts.append(f"{row['hash_bits']} bits differ")
    return ", ".join(parts)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return ",".join(value) if isinstance(value, list) else str(value)
