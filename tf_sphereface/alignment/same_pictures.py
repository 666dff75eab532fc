"""Pictures that a folder of people holds more than once, by their content."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tf_sphereface.utils.files import sha256_file
from tf_sphereface.utils.messages import and_more, counted, printable

Files = Sequence[tuple[str, Path]]
"""Name of the person and file, each."""


def same_pictures(files: Files) -> list[list[tuple[str, Path]]]:
    """Return the files of each picture that is there several times, with names in one spelling.

    Few files are read whole: those whose sizes and beginnings are the same.
    """
    groups = [[(unicodedata.normalize("NFC", name), path) for name, path in files]]
    for key in (lambda path: path.stat().st_size, _beginning, sha256_file):
        groups = [alike for group in groups for alike in _grouped(group, key)]
    return [group for group in groups if group[0][1].stat().st_size]  # no empty files


def under_two_names(files: Files) -> dict[str, str]:
    """Return the pictures that two people have: path -> why they cannot be used.

    Such as a group photograph that was copied into the folder of each: which face is whose is not
    known, and the same one would be taken for all.
    """
    problems = {}
    for group in same_pictures(files):
        for name, path in group:
            others = sorted({other for other, _ in group} - {name})
            if others:
                problems[str(path)] = (
                    f"the same picture is under {printable(others[0])}: whose face it is, is not "
                    "known"
                )
    return problems


def repeats_in_words(files: Files, where: str) -> list[str]:
    """Return a sentence on pictures under two people, and one on those that a person has twice."""
    groups = same_pictures(files)
    two = [g for g in groups if len({name for name, _ in g}) > 1]
    twice = [g for g in groups if len({name for name, _ in g}) < len(g)]
    said = []
    if two:
        shown = [" and ".join(sorted({printable(n) for n, _ in g})) for g in two]
        said.append(
            f"{counted(len(two), 'picture')} of {where} {_are(two)} under two people "
            f"({and_more(list(dict.fromkeys(shown)), 3)}): as pairs of two people they look alike, "
            "and raise thresholds"
        )
    if twice:
        shown = [printable(str(g[1][1].name)) for g in twice]
        said.append(
            f"{counted(len(twice), 'picture')} of {where} {_are(twice)} there twice for one person "
            f"(such as {shown[0]}): as pairs of one person they are alike, whatever the network"
        )
    return said


def _are(groups: Sequence[Any]) -> str:
    return "is" if len(groups) == 1 else "are"


def _grouped(
    files: Sequence[tuple[str, Path]], key: Callable[[Path], Any]
) -> list[list[tuple[str, Path]]]:
    """Return the files of one key together, where there are several."""
    alike: dict[Any, list[tuple[str, Path]]] = {}
    for name, path in files:
        with contextlib.suppress(OSError):  # reading it will say why
            alike.setdefault(key(path), []).append((name, path))
    return [group for group in alike.values() if len(group) > 1]


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)
