"""Which data a figure was measured on, as hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tf_sphereface._files import sha256_file
from tf_sphereface.eval.pairs import Pairs


def images_sha256(root: Path, names: Iterable[str]) -> str:
    """Return one hash of the contents of files.

    It is the SHA-256 of what `sha256sum` prints for them, sorted by name, so that
    `cd ROOT && sha256sum NAMES | sha256sum` gives it too. A name that is a folder (a video) counts
    as all files in it.

    Args:
        root: the folder.
        names: paths relative to it, `/` between the parts.

    Raises:
        OSError: a file cannot be read.

    Example:

    >>> with open("a.txt", "w") as file:
    ...     _ = file.write("a")
    >>> images_sha256(Path("."), ["a.txt"])[:16]
    '29ef94e5c0fea664'
    """
    files: list[str] = []
    for name in sorted(set(names)):
        path = root / name
        inside = sorted(path.iterdir()) if path.is_dir() else []
        files += [f"{name}/{file.name}" for file in inside if file.is_file()] or [name]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(max_workers=4) as pool:
        for name, found in zip(
            files, pool.map(lambda name: sha256_file(root / name), files), strict=True
        ):
            digest.update(f"{found}  {name}\n".encode())
    return digest.hexdigest()


def pairs_sha256(pairs: Pairs) -> str:
    """Return a hash of which pairs are compared, in which order, and in which folds.

    It is the SHA-256 of one line a pair, `fold<TAB>left<TAB>right<TAB>1 or 0`.
    """
    digest = hashlib.sha256()
    for fold, left, right, same in zip(
        pairs.folds.tolist(), pairs.left, pairs.right, pairs.is_same.tolist(), strict=True
    ):
        digest.update(f"{fold}\t{left}\t{right}\t{int(same)}\n".encode())
    return digest.hexdigest()
