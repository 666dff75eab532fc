"""Hashes of the data that a figure was measured on, and the published figures beside it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tf_sphereface.eval.pairs import Pairs
from tf_sphereface.utils.files import sha256_file


def images_sha256(root: Path, names: Iterable[str]) -> str:
    """Return one hash of the contents of files, whose names are relative to `root`.

    It is what `cd ROOT && sha256sum NAMES | sha256sum` prints, names sorted. A name that is a
    folder (a video) counts as all files in it.
    """
    files: list[str] = []
    for name in sorted(set(names)):
        path = root / name
        inside = sorted(path.iterdir()) if path.is_dir() else []
        files += [f"{name}/{file.name}" for file in inside if file.is_file()] or [name]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max_workers=4) as pool:
        hashes = pool.map(lambda name: sha256_file(root / name), files)
        for name, file_hash in zip(files, hashes, strict=True):
            digest.update(f"{file_hash}  {name}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def pairs_sha256(pairs: Pairs) -> str:
    """Return a hash of which pairs are compared, in which order, and in which folds.

    It is the SHA-256 of one line per pair, `fold<TAB>left<TAB>right<TAB>1 or 0`.
    """
    digest = hashlib.sha256()
    for fold, left, right, same in zip(
        pairs.folds.tolist(), pairs.left, pairs.right, pairs.is_same.tolist(), strict=True
    ):
        line = f"{fold}\t{left}\t{right}\t{int(same)}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure somebody else has published, a fraction; the lowest and highest of several."""

    protocol: str
    what: str
    accuracy: float
    highest: float | None
    source: str


_TABLE = "the table in the CosFace paper"
_PAPER = "the SphereFace paper, by a translation"
FIGURES = (
    Published("lfw", "SphereFace-64, A-Softmax, CASIA-WebFace", 0.9942, None, _TABLE),
    Published("lfw", "the same network, softmax", 0.9788, None, _TABLE),
    Published("lfw", "SphereFace-20, A-Softmax, five runs", 0.9913, 0.9930, "the authors' README"),
    Published("lfw", "SphereFace-20, reproductions", 0.9897, 0.9922, "independent repositories"),
    Published("lfw", "SphereFace-4, A-Softmax", 0.9820, None, _PAPER),
    Published("lfw", "the same network, softmax", 0.9660, None, _PAPER),
    Published("ytf", "SphereFace-64, A-Softmax, CASIA-WebFace", 0.950, None, _TABLE),
    Published("ytf", "the same network, softmax", 0.931, None, _TABLE),
)
FULL_SIZE = {"lfw": 6000, "ytf": 5000}  # pairs of the protocol that they were measured on


def published_for(protocol: str) -> list[dict[str, Any]]:
    """Return the figures of a protocol as plain values; an empty list where there are none."""
    return [dataclasses.asdict(figure) for figure in FIGURES if figure.protocol == protocol]
