"""Embeddings of pictures on the disk, for an enrollment that is stopped and begun again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.search.model_facts import facts_of
from tf_sphereface.utils.files import atomic_path, sha256_file

_VERSION = 1  # of how a face is found and embedded
_UNUSED = ("path", "sha256", "network_sha256", "thresholds")  # facts that change no vector


class KeptEmbedding(NamedTuple):
    """The embedding (d,) of a picture's face, and whether the picture shows several."""

    vector: NDArray[np.float32]
    several: bool


class KeptEmbeddings:
    """Embeddings by picture, in the files of a folder, each written whole.

    A picture is known by its path, size and time of change, by the model and by the detector; what
    gave no face is not kept, and tried again. The folder is private to its user: embeddings are
    biometric data.

    Args:
        folder: made at the first `add`; files that cannot be read are passed over.
        embedder: the model. One in memory without weights that can be read keeps nothing.
        detector: the detector's file, or None.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        embedder: Embedder,
        detector: str | os.PathLike[str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        facts = facts_of(embedder)
        self._known: dict[str, KeptEmbedding] = {}
        network = facts["network_sha256"] or facts["sha256"]
        self._active = network is not None
        about = [
            *(_VERSION, network),
            {name: value for name, value in facts.items() if name not in _UNUSED},
            None if detector is None else sha256_file(detector),
        ]
        self._about = json.dumps(about, sort_keys=True, default=list)
        for file in sorted(self.folder.glob("*.npz")) if self._active else []:
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self._read(file)

    def get(self, path: Path) -> KeptEmbedding | None:
        """Return what is kept of a picture."""
        return self._known.get(self._key(path)) if self._known else None

    def add(
        self, paths: Sequence[str], vectors: NDArray[np.float32], several: Sequence[bool]
    ) -> None:
        """Keep embeddings (n, d) of pictures; OSError where they cannot be written."""
        if not self._active or not paths:
            return
        keys = [self._key(Path(path)) for path in paths]
        for place in (self.folder.parent, self.folder):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        with atomic_path(self.folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, keys=keys, vectors=vectors, several=np.array(several, bool))

    def _read(self, file: Path) -> None:
        with np.load(file) as stored:
            columns = [stored[name] for name in ("keys", "vectors", "several")]
        for key, vector, several in zip(*columns, strict=True):
            self._known[str(key)] = KeptEmbedding(np.asarray(vector, np.float32), bool(several))

    def _key(self, path: Path) -> str:
        """Return 64 hexadecimal digits that change with the picture, the model or the detector."""
        try:
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns]
        except OSError:
            state = []
        text = json.dumps([self._about, str(path.resolve()), state])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
