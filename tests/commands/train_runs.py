"""Small runs of the training command."""

from __future__ import annotations

import csv
from pathlib import Path

from tf_sphereface.commands.train.main import main

SMALL = ["--preset", "quick", "--batch-size", "16", "--embedding-dim", "16"]


def run(faces: Path, out: Path, *options: str) -> int:
    options = ("--precision", "float32", *options)
    return main(["--data", str(faces), "--out", str(out), *SMALL, *options])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open() as handle:
        return list(csv.DictReader(handle))
