"""Embeddings and scores that were computed elsewhere, in place of a model."""

from __future__ import annotations

import collections
import dataclasses
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tf_sphereface.utils.files import atomic_path

SUFFIX = ".npz"


@dataclasses.dataclass(frozen=True, eq=False)
class StoredEmbeddings:
    """Embeddings by name; what a protocol takes in place of an embedder.

    Attributes:
        path: the file they are from, None for embeddings in memory.
        names: what each is of, as the protocol names it: `NAME/NAME_0001.jpg` for LFW,
            `person/video` or `person/video/frame.jpg` for YouTube Faces, `person/image.jpg` for
            identification, the image's number from 0 for a `.bin` set.
        embeddings: float32 (n, embedding_dim), not zero.
        mirrored: those of the mirror images, or None.
    """

    path: Path | None
    names: list[str]
    embeddings: NDArray[np.float32]
    mirrored: NDArray[np.float32] | None = None

    format = "embeddings"
    input_size = None
    metadata = None

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return int(self.embeddings.shape[1])

    def __post_init__(self) -> None:
        shape = self.embeddings.shape
        mirrored = shape if self.mirrored is None else self.mirrored.shape
        if len(shape) != 2 or shape[0] != len(self.names) or mirrored != shape:
            raise ValueError(
                "embeddings and mirrored must have the shape (n, embedding_dim), and names n "
                f"entries. Received: {shape}, {mirrored} and {len(self.names)} names"
            )
        if len(set(self.names)) != len(self.names):
            twice = collections.Counter(self.names).most_common(1)[0][0]
            raise ValueError(f"names must differ. Received: {twice!r} twice")


@dataclasses.dataclass(frozen=True)
class StoredScores:
    """Stands for the model where only scores are known."""

    path: Path | None

    format = "scores"
    input_size = None
    embedding_dim = None
    metadata = None


def read_embeddings(path: str | os.PathLike[str]) -> StoredEmbeddings:
    """Read a `.npz` file with `names`, `embeddings` and, if it has them, `mirrored`.

    Args:
        path: as `write_embeddings` or `numpy.savez` wrote it; nothing in it is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or its arrays do not fit together; the file is named.

    Example:

    >>> np.savez("faces.npz", names=["Ann/1.jpg", "Bob/1.jpg"], embeddings=np.eye(2))
    >>> stored = read_embeddings("faces.npz")
    >>> stored.names, stored.embedding_dim
    (['Ann/1.jpg', 'Bob/1.jpg'], 2)
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        objects = "Object arrays" in str(error)
        cure = ". Of a table's column of texts save column.astype(str)" if objects else ""
        raise ValueError(f"{path} is no .npz file of plain arrays: {error}{cure}") from error
    if not {"names", "embeddings"} <= arrays.keys():
        raise ValueError(
            f"{path} must hold names and embeddings. Received: {', '.join(arrays) or 'nothing'}"
        )
    try:
        mirrored = arrays.get("mirrored")
        return StoredEmbeddings(
            Path(path),
            [os.fsdecode(name) for name in arrays["names"].tolist()],  # HDF5's are bytes
            np.asarray(arrays["embeddings"], np.float32),
            None if mirrored is None else np.asarray(mirrored, np.float32),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_embeddings(
    path: str | os.PathLike[str],
    names: Sequence[str],
    embeddings: ArrayLike,
    mirrored: ArrayLike | None = None,
) -> None:
    """Write embeddings by name, whole or not at all, as `read_embeddings` reads them.

    The arguments are those of `StoredEmbeddings`, kept as float32.

    Raises:
        ValueError: `path` does not end in `.npz`, or shapes do not fit.

    Example:

    >>> write_embeddings("two.npz", ["A/A_0001.jpg", "A/A_0002.jpg"], [[1, 0], [0, 1]])
    >>> read_embeddings("two.npz").names
    ['A/A_0001.jpg', 'A/A_0002.jpg']
    """
    if Path(path).suffix != SUFFIX:
        raise ValueError(f"path must end in {SUFFIX}. Received: {str(path)!r}")
    plain = np.asarray(embeddings, np.float32)
    other = None if mirrored is None else np.asarray(mirrored, np.float32)
    StoredEmbeddings(None, list(names), plain, other)  # checks the shapes
    arrays: dict[str, Any] = {"names": np.asarray(list(names), np.str_), "embeddings": plain}
    if other is not None:
        arrays["mirrored"] = other
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
