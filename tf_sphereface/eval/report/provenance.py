"""Hashes of the data that a figure was measured on, and the published figures beside it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tf_sphereface.eval.bin_sets import set_key
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


@dataclasses.dataclass(frozen=True)
class PublishedSets:
    """Accuracies on `.bin` sets that somebody else has published, fractions by the set's name."""

    network: str
    training_data: str | None
    accuracy: dict[str, float]
    source: str


_SETS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw")
_MODEL_ZOO = "insightface's model zoo"
_ADAFACE = "AdaFace's README"
_YAKHYO = "yakhyo's README"
_KERAS = "Keras_insightface's README"


def _sets(
    network: str, training_data: str | None, source: str, *percent: float | None
) -> PublishedSets:
    """Return figures that are given in percent, in the order of `_SETS`."""
    known = {name: value for name, value in zip(_SETS, percent, strict=False) if value is not None}
    accuracy = {name: round(value / 100, 4) for name, value in known.items()}
    return PublishedSets(network, training_data, accuracy, source)


SETS = (
    _sets("IResNet-50", "CASIA-WebFace", _MODEL_ZOO, 99.45, 95.21, 94.90),
    _sets("IResNet-50", "MS1MV3", _MODEL_ZOO, 99.80, 98.53, 98.27),
    _sets("buffalo_l, IResNet-50", "WebFace600K", _MODEL_ZOO, 99.83, 99.33, 98.23),
    _sets("buffalo_s, MobileFaceNet", "WebFace600K", _MODEL_ZOO, 99.70, 98.00, 96.58),
    _sets("Sphere20", "MS1MV2", _YAKHYO, 99.67, None, 96.58, 95.61, 88.75),
    _sets("Sphere36", "MS1MV2", _YAKHYO, 99.72, None, 96.83, 95.64, 89.92),
    _sets("AdaFace R18", "CASIA-WebFace", _ADAFACE, 99.13, 92.59, 92.72, 92.65, 87.00),
    _sets("AdaFace R50", "CASIA-WebFace", _ADAFACE, 99.42, 96.41, 94.38, 93.23, 89.97),
    _sets("ResNet-34", "CASIA-WebFace", _KERAS, 99.47, 94.91, 94.95),
    _sets("SE-MobileFaceNet", "MS1MV3", _KERAS, 99.73, 96.93, 97.30),
    _sets("SFace, float32", None, "OpenCV's model zoo", 99.40),
    _sets("SFace, int8", None, "OpenCV's model zoo", 99.32),
)


def published_sets(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the published figures on any of these `.bin` sets, as plain values.

    A set's name may be written otherwise: `CFP-FP` is `cfp_fp`. The keys are as they were given.
    """
    keys = {name: set_key(name) for name in names}
    entries = []
    for entry in SETS:
        accuracy = {set_key(name): value for name, value in entry.accuracy.items()}
        figures = {n: accuracy[key] for n, key in keys.items() if key in accuracy}
        if figures:
            entries.append({**dataclasses.asdict(entry), "accuracy": figures})
    return entries
