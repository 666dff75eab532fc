"""Photographs of drawn faces, and what aligning them left, for the tests of align."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tf_sphereface.commands.align import main
from tf_sphereface.data import synthetic


def photo(*identities: int, at=((40, 60), (190, 20)), scale=1.0, size=(240, 320)) -> np.ndarray:
    """Rendered faces on a gray wall, BGR: one near the middle, a second one aside."""
    wall = np.full((*size, 3), 120, np.uint8)
    for identity, (x, y) in zip(identities, at, strict=False):
        face = synthetic.faces(identities=[identity], samples=[0])[0, ..., ::-1]
        face = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        wall[y : y + face.shape[0], x : x + face.shape[1]] = face
    return wall


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def run(root: Path, *options: str, out: str = "dst") -> int:
    return main.main([str(root / "src"), str(root / out), "--jobs", "2", *options])


def crops(root: Path, out: str = "dst") -> dict[str, bytes]:
    """Return the faces that were written, without reports."""
    folder = root / out
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def report(root: Path) -> dict[str, list[str]]:
    lines = (root / "dst/report.tsv").read_text().splitlines()
    assert lines[0] == "image\tproblem\tfaces\tdetail"
    return {line.split("\t")[0]: line.split("\t")[1:] for line in lines[1:]}
