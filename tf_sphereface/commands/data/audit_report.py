"""The lists that `tf_sphereface-data audit` prints and writes."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_sphereface import data
from tf_sphereface.commands.console import console
from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.utils.files import atomic_path, write_json
from tf_sphereface.utils.messages import and_more

SHOWN = 10  # findings of a kind that are printed; the lists hold them all

HEADER = """\
Identities and images of {train} that {test} has too, by tf_sphereface-data audit.
Look at identities.tsv and images.tsv before you use it: tf_sphereface-train --exclude FILE"""


_COLUMNS = {
    "identities": ("train", "test", "why", "cosine", "angle_degrees"),
    "images": ("train", "test", "why", "cosine", "angle_degrees", "hash_bits"),
    "suspects_in_test": ("first", "second", "cosine", "angle_degrees"),
}


def as_dict(overlap: data.Overlap) -> dict[str, Any]:
    """Return what was found as JSON takes it."""
    again = overlap.people_found_again
    return {
        "thresholds": {
            kind: {**dataclasses.asdict(limit), "reason": limit.reason()}
            for kind, limit in overlap.thresholds.items()
        },
        "people_found_again": again and {"share": again[0], "of": again[1]},
        "hash_bits_allowed": overlap.hash_bits_allowed,
        "hash_matches_that_the_model_contradicts": overlap.contradicted,
        **{
            key: [_row(match, columns) for match in getattr(overlap, key)]
            for key, columns in _COLUMNS.items()
        },
    }


def _row(match: data.Match, columns: Sequence[str]) -> dict[str, Any]:
    values = {
        columns[0]: match.first,
        columns[1]: match.second,
        "why": list(match.why),
        "cosine": match.cosine,
        "angle_degrees": None if match.cosine is None else float(degrees(match.cosine)),
        "hash_bits": match.hash_bits,
    }
    return {column: values[column] for column in columns}


def write(out: Path, report: dict[str, Any], entries: Sequence[tuple[str, str]]) -> None:
    """Write the lists into `out`: three tables, what to exclude, and all of it as JSON."""
    for name, columns in _COLUMNS.items():
        with (
            atomic_path(out / f"{name}.tsv") as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle,
        ):
            writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
            writer.writerow(columns)
            for row in report[name]:
                writer.writerow([_text(row[column]) for column in columns])
    header = HEADER.format(
        **{side: Path(report[side]["folder"]).name for side in ("train", "test")}
    )
    data.write_exclusions(out / "exclude.txt", entries, header)
    write_json(out / "audit.json", report)


def show(
    report: dict[str, Any], overlap: data.Overlap, entries: Sequence[tuple[str, str]], out: Path
) -> None:
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
    for kind, limit in overlap.thresholds.items():
        bits = f" ({overlap.hash_bits_allowed} of 256 bits)" if kind == "hashes" else ""
        lines.append(f"threshold for {names.get(kind, 'images, by hash')}{bits}: {limit.reason()}")
    if overlap.people_found_again:
        share, people = overlap.people_found_again
        lines.append(
            f"at this threshold {share:.1%} of the {people:,} people with several "
            "images in the test set are found again when their images are split in halves; a "
            "higher --expected finds more"
        )
    if overlap.contradicted:
        lines.append(
            f"matches by hash that the model contradicts, left out: {overlap.contradicted:,}"
        )
    for key, what in (
        ("identities", "people in both"),
        ("images", "images in both, or of one person"),
        ("suspects_in_test", "pairs in the test set that look like one person under two names"),
    ):
        matches = [f"{m.first}  {m.second}  {_words(m)}" for m in getattr(overlap, key)]
        listed = and_more(matches, SHOWN, separator="\n  ", where=f"in {out / f'{key}.tsv'}")
        lines.append(f"{what}: {len(matches):,}" + (f"\n  {listed}" if listed else ""))
    people = sum("/" not in name for name, _ in entries)
    lines.append(
        f"{out / 'exclude.txt'}: {people:,} identities and {len(entries) - people:,} images "
        "for tf_sphereface-train --exclude; look at the lists first"
    )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def reason(match: data.Match) -> str:
    """Say why training should leave a person or a picture out."""
    return f"{match.second}: {_words(match)}"


def _words(match: data.Match) -> str:
    """Say why two people or pictures are in a list."""
    parts = list(match.why)
    if match.cosine is not None:
        parts.append(f"{degrees(match.cosine):.1f}°, cosine {match.cosine:.4f}")
    if match.hash_bits is not None:
        parts.append(f"{match.hash_bits} bits differ")
    return ", ".join(parts)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return ",".join(value) if isinstance(value, list) else str(value)
