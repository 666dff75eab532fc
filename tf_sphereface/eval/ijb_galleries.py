"""Galleries and probes of IJB's 1:N search, csv files."""

from __future__ import annotations

import csv
import dataclasses
import re
import warnings
from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.files import text_encoding
from tf_sphereface.utils.messages import SphereFaceWarning, and_more

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
SHOWN = 10  # names in an error
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # a number that fits into int64


@dataclasses.dataclass(frozen=True, eq=False)
class TemplateOwners:
    """Templates of a gallery or of the probes: positions in `template_ids`, and whose they are."""

    templates: NDArray[np.int64]
    subjects: NDArray[np.str_]


def read_searches(
    meta: Path, subset: str, ids: NDArray[np.int64], lists: Path
) -> tuple[dict[str, TemplateOwners], TemplateOwners | None]:
    """Return the 1:N galleries by name and the mixed probes, where all three files are there."""
    files = {name: meta / f"{subset}_1N_gallery_{name}.csv" for name in GALLERIES[subset]}
    probe_file = meta / f"{subset}_1N_probe_mixed.csv"
    missing = [path.name for path in (*files.values(), probe_file) if not path.is_file()]
    if missing:
        if len(missing) <= len(files):
            warnings.warn(
                f"no 1:N search: it needs both galleries and the probes, and {meta} lacks "
                f"{', '.join(missing)}",
                SphereFaceWarning,
                stacklevel=4,
            )
        return {}, None
    galleries = {name: _read_owners(path, ids, lists) for name, path in files.items()}
    probes = _read_owners(probe_file, ids, lists)
    for name, gallery in galleries.items():
        if not np.isin(probes.subjects, gallery.subjects).any():
            raise ValueError(
                f"{files[name]} must hold somebody whom {probe_file.name} searches for. "
                "Received: nobody in common"
            )
    _warn_of_strangers(probe_file, galleries, probes)
    return galleries, probes


def _warn_of_strangers(
    path: Path, galleries: dict[str, TemplateOwners], probes: TemplateOwners
) -> None:
    """Say how many probes are of people in no gallery; the published sets have none."""
    enrolled = np.concatenate([gallery.subjects for gallery in galleries.values()])
    lost = np.flatnonzero(~np.isin(probes.subjects, enrolled))
    if len(lost):
        people = sorted(set(probes.subjects[lost].tolist()))
        warnings.warn(
            f"{len(lost):,} of {len(probes.subjects):,} probes in {path} are of people in no "
            f"gallery ({and_more(people, SHOWN)}): joined leaves them out, apart takes them as "
            "impostors",
            SphereFaceWarning,
            stacklevel=5,
        )


def _read_owners(path: Path, ids: NDArray[np.int64], lists: Path) -> TemplateOwners:
    """Read a csv file of images of templates and their people; one entry for each template."""
    owners: dict[int, str] = {}
    widths = [0, 0]  # of the last two lines
    number, row = 1, [""]
    rows = _read_csv(path)
    header = [name.strip().upper() for name in next(rows, (1, []))[1]]
    if not {"TEMPLATE_ID", "SUBJECT_ID"} <= set(header):
        raise line_error(path, 1, "columns TEMPLATE_ID and SUBJECT_ID", ",".join(header))
    which, whose = header.index("TEMPLATE_ID"), header.index("SUBJECT_ID")
    for number, row in rows:
        widths = [widths[1], len(row)]
        fields = [row[at].strip() if at < len(row) else "" for at in (which, whose)]
        if not WHOLE.fullmatch(fields[0]) or not fields[1]:
            raise line_error(path, number, "a template and a person", ",".join(row))
        if owners.setdefault(int(fields[0]), fields[1]) != fields[1]:
            raise ValueError(
                f"{path}, line {number}: template {fields[0]} is of {fields[1]} here, "
                f"and of {owners[int(fields[0])]} before"
            )
    if widths[1] < widths[0]:
        raise line_error(path, number, "as many fields as before", ",".join(row))
    if not owners:
        raise ValueError(f"{path} must hold templates and their people. Received: no line of them")
    templates = np.array(sorted(owners), np.int64)
    places = np.minimum(np.searchsorted(ids, templates), len(ids) - 1)
    check_unknown(path, set(templates[ids[places] != templates].tolist()), lists)
    return TemplateOwners(places, np.array([owners[name] for name in templates.tolist()]))


def _read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that is not empty."""
    with open(path, newline="", encoding=text_encoding(path), errors="surrogateescape") as file:
        reader = csv.reader(file)
        try:
            for row in reader:
                if any(field.strip() for field in row):
                    yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def check_unknown(path: Path, unknown: Set[int], lists: Path) -> None:
    """Raise a ValueError that lists templates without images."""
    if unknown:
        names = [str(name) for name in sorted(unknown)]
        raise ValueError(
            f"{path} names {len(names):,} templates of which {lists} has no image (is that cut "
            f"off, or of another set?): {and_more(names, SHOWN)}"
        )


def line_error(path: Path, number: int, expected: str, line: str) -> ValueError:
    """Return the error of a line that is not as expected."""
    return ValueError(
        f"{path}, line {number}: expected {expected}. Received: {line.strip()[:120]!r} "
        "(is the file cut off, or another one?)"
    )
