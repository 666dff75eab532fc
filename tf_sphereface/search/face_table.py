"""Embedded faces as a table, and its files: .npz for what memory holds, Parquet past that."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.optional import require

SUFFIXES = (".npz", ".parquet")
_META = b"tf_sphereface"
_SHAPES: dict[str, tuple[tuple[int, ...], Any]] = {
    "faces": ((), np.int32),
    "boxes": ((4,), np.float64),
    "points": ((5, 2), np.float64),
    "scores": ((), np.float64),
    "norms": ((), np.float64),
    "sharpness": ((), np.float64),
    "blankness": ((), np.float64),
}


def _unknown() -> NDArray[np.float64]:
    return np.zeros(0)


@dataclasses.dataclass(eq=False)
class FaceTable:
    """Embedded faces, a row each, and what is known of them.

    Attributes:
        paths: the picture of each face, relative to the source, as the source lists it.
        embeddings: float32 (n, d), not normalized; with the mirror image as the model's metadata
            say.
        faces: int32 (n,), number of the face in its picture, from 0 (the largest) on.
        boxes: float64 (n, 4), x1, y1, x2, y2 in pixels; NaN of a picture that was aligned already.
        points: float64 (n, 5, 2), as of `alignment.Face`; NaN likewise.
        scores: float64 (n,), the detector's confidence, 0 to 1; NaN likewise.
        norms: float64 (n,), lengths of the embeddings.
        sharpness: float64 (n,), variance of the Laplacian of the aligned gray face; NaN unknown.
        blankness: float64 (n,), the largest cosine to the embedding of a picture without a face;
            NaN unknown.
        facts: what made them: `"source"`, `"model"`, `"model_sha256"`, `"flip"`, `"threshold"`,
            `"threshold_far"`, `"share"`.
        failed: picture -> why it gave no face.

    Example:

    >>> table = FaceTable(["a.jpg", "b.jpg"], np.eye(2, 4, dtype="float32"))
    >>> len(table), table.norms.tolist(), table.faces.tolist()
    (2, [1.0, 1.0], [0, 0])
    """

    paths: Sequence[str]
    embeddings: NDArray[np.float32]
    faces: NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    boxes: NDArray[np.float64] = dataclasses.field(default_factory=_unknown)
    points: NDArray[np.float64] = dataclasses.field(default_factory=_unknown)
    scores: NDArray[np.float64] = dataclasses.field(default_factory=_unknown)
    norms: NDArray[np.float64] = dataclasses.field(default_factory=_unknown)
    sharpness: NDArray[np.float64] = dataclasses.field(default_factory=_unknown)
    blankness: NDArray[np.float64] = dataclasses.field(default_factory=_unknown)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill what is not given, and compare the shapes."""
        self.paths = [str(path) for path in self.paths]
        self.embeddings = np.asarray(self.embeddings, np.float32)
        n = len(self.paths)
        if self.embeddings.ndim != 2 or len(self.embeddings) != n:
            raise ValueError(
                f"Argument `embeddings` must be ({n}, d), a row for each path. "
                f"Received: shape {self.embeddings.shape}"
            )
        if not len(self.norms):
            self.norms = np.linalg.norm(self.embeddings.astype(np.float64), axis=1)
        if not len(self.faces):
            seen: dict[str, int] = {}
            self.faces = np.zeros(n, np.int32)
            for place, path in enumerate(self.paths):
                self.faces[place] = seen[path] = seen.get(path, -1) + 1
        for name, (shape, kind) in _SHAPES.items():
            given = np.asarray(getattr(self, name), kind)
            values = given if given.size else np.full((n, *shape), np.nan).astype(kind)
            if values.shape != (n, *shape):
                raise ValueError(
                    f"Argument `{name}` must have the shape {(n, *shape)}. Received: {values.shape}"
                )
            setattr(self, name, values)

    def __len__(self) -> int:
        return len(self.paths)

    def unit(self) -> NDArray[np.float32]:
        """Return the embeddings at unit length, float32 (n, d)."""
        vectors = self.embeddings.astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(norms > 0, norms, 1.0), np.float32)

    @classmethod
    def concatenate(cls, tables: Sequence[FaceTable], facts: dict[str, Any]) -> FaceTable:
        """Join tables in their order, under these facts."""
        failed: dict[str, str] = {}
        for table in tables:
            failed |= table.failed
        columns = {
            name: np.concatenate([getattr(table, name) for table in tables])
            for name in ("embeddings", *_SHAPES)
        }
        paths = [path for table in tables for path in table.paths]
        return cls(paths, facts=facts, failed=failed, **columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as .npz or .parquet, whole or not at all.

        Raises:
            ValueError: another suffix.
            ImportError: pyarrow is needed and not installed (the extra `search`).
            OSError: the file cannot be written.
        """
        write_tables(path, iter([self]), self.facts, are_text(self.paths))


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """Return a table's path, or raise ValueError where it ends in something else."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"a table of faces must end in .npz or .parquet. Received: {path}")
    return Path(path)


def write_tables(
    path: str | os.PathLike[str], tables: Iterable[FaceTable], facts: dict[str, Any], text: bool
) -> int:
    """Write tables into one file, and return the number of faces.

    A .parquet gets a row group of each table, and one of them is in memory at a time; its paths are
    text or, where not all of them are (`are_text`), binary. Errors are those of `FaceTable.save`.
    """
    path = check_suffix(path)
    if path.suffix.lower() == ".npz":
        table = FaceTable.concatenate(list(tables), facts)
        with atomic_path(path) as temporary:
            np.savez(temporary, allow_pickle=False, **_arrays(table))
        return len(table)
    arrow = require("pyarrow", extra="search")
    parquet = require("pyarrow.parquet", extra="search")
    count, writer = 0, None
    failed: dict[str, str] = {}
    with atomic_path(path) as temporary:
        try:
            for table in tables:
                rows = arrow.table(_columns(table, arrow, text))
                writer = writer or parquet.ParquetWriter(temporary, rows.schema)
                writer.write_table(rows, row_group_size=max(1, len(table)))
                count += len(table)
                failed |= table.failed
            if writer is None:
                raise ValueError("Argument `tables` must hold one table at least. Received: none")
            about = json.dumps({"facts": facts, "failed": failed})
            writer.add_key_value_metadata({_META.decode(): about})
        finally:
            if writer is not None:
                writer.close()
    return count


def _arrays(table: FaceTable) -> dict[str, NDArray[Any]]:
    """Return what an .npz holds; no array of it is of objects, so none needs a pickle."""
    described = json.dumps({"facts": table.facts, "failed": table.failed})
    columns = {name: getattr(table, name) for name in ("embeddings", *_SHAPES)}
    paths = np.asarray(table.paths, np.str_) if len(table) else np.zeros(0, "<U1")
    return {"paths": paths, **columns, "about": np.asarray(described)}


def _columns(table: FaceTable, arrow: Any, text: bool) -> dict[str, Any]:
    """Return the columns of a Parquet file; arrays become lists of a fixed length."""
    paths = [path.encode("utf-8", "surrogateescape") for path in table.paths]
    columns: dict[str, Any] = {"paths": arrow.array(paths, arrow.binary())}
    if text:
        columns["paths"] = columns["paths"].cast(arrow.string())
    for name in ("embeddings", *_SHAPES):
        values = getattr(table, name)
        flat = arrow.array(values.reshape(-1))
        wide = int(np.prod(values.shape[1:]))
        columns[name] = (
            flat if values.ndim == 1 else arrow.FixedSizeListArray.from_arrays(flat, wide)
        )
    return columns


def are_text(paths: Iterable[str]) -> bool:
    """Tell whether all names of files are UTF-8."""
    try:
        for path in paths:
            path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def load_faces(path: str | os.PathLike[str]) -> FaceTable:
    """Read a table of faces, `.npz` or `.parquet`.

    An .npz of another origin serves too if it holds `paths` (or `names`) and `embeddings`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or damaged.
        ImportError: pyarrow is needed and not installed (the extra `search`).

    Example:

    >>> np.savez("faces.npz", names=["a.jpg", "b.jpg"], embeddings=np.ones((2, 4)))
    >>> table = load_faces("faces.npz")
    >>> table.paths, table.embeddings.shape
    (['a.jpg', 'b.jpg'], (2, 4))
    """
    path = check_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"a table of faces is expected. Received: {path}, no such file")
    try:
        if path.suffix.lower() == ".npz":
            return _load_npz(path)
        return FaceTable.concatenate(*_load_parquet(path))
    except (KeyError, EOFError, zipfile.BadZipFile, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is no whole table of faces, as tf_sphereface-search embed writes it ({error})"
        ) from None


def _load_npz(path: Path) -> FaceTable:
    with np.load(path, allow_pickle=False) as stored:
        names = "paths" if "paths" in stored else "names"
        about = json.loads(str(stored["about"])) if "about" in stored else {}
        columns = {name: stored[name] for name in _SHAPES if name in stored}
        paths, vectors = stored[names].tolist(), stored["embeddings"]
    return FaceTable(paths, vectors, **columns, **about)


def _load_parquet(path: Path) -> tuple[list[FaceTable], dict[str, Any]]:
    parquet = require("pyarrow.parquet", extra="search")
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises its own kinds
        raise ValueError(str(error)) from None
    about = json.loads((file.metadata.metadata or {}).get(_META, b"{}"))
    tables = list(_row_groups(file))
    if not tables:
        raise ValueError("it holds no rows")
    tables[0].failed = about.get("failed", {})
    return tables, about.get("facts", {})


def _row_groups(file: Any) -> Iterator[FaceTable]:
    for number in range(file.num_row_groups):
        rows = file.read_row_group(number)
        columns = {}
        for name in ("embeddings", *_SHAPES):
            if name in _SHAPES and name not in rows.column_names:  # a table of another origin
                continue
            column = rows.column(name).combine_chunks()
            if name in ("embeddings", "boxes", "points"):
                shape = _SHAPES[name][0] if name in _SHAPES else (-1,)
                flat = column.flatten().to_numpy(zero_copy_only=False)
                columns[name] = flat.reshape(len(rows), *shape) if len(rows) else flat
            else:
                columns[name] = column.to_numpy(zero_copy_only=False)
        if not len(rows):
            columns["embeddings"] = np.zeros((0, rows.schema.field("embeddings").type.list_size))
            columns |= {name: np.zeros((0, *_SHAPES[name][0])) for name in ("boxes", "points")}
        paths = [
            path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
            for path in rows.column("paths").to_pylist()
        ]
        yield FaceTable(paths, **columns)


def join_faces(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> dict[str, Any]:
    """Join the tables that the shares of a job have written into one, in the order of shares.

    Args:
        paths: the tables, in any order.
        out: the file to write, .npz or .parquet.

    Returns:
        `"faces"`, how many there are, and `"shares"`.

    Raises:
        ValueError: they are of several models or sources, one is there twice, or one is missing.

    Example:

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for i in (1, 2):
    ...     facts = {"share": [i, 2]}
    ...     FaceTable([f"{i}.jpg"], np.ones((1, 4)), facts=facts).save(folder / f"{i}.npz")
    >>> join_faces([folder / "2.npz", folder / "1.npz"], folder / "all.npz")
    {'faces': 2, 'shares': 2}
    >>> load_faces(folder / "all.npz").paths
    ['1.jpg', '2.jpg']
    """
    check_suffix(out)
    parts: dict[int, Path] = {}
    first: dict[str, Any] | None = None
    text = True
    for path in map(Path, paths):
        table = load_faces(path)
        facts, text = dict(table.facts), text and are_text(table.paths)
        number, count = facts.pop("share", None) or (None, None)
        if number is None:
            raise ValueError(f"{path} is no share of a job: it was made without --share")
        facts = {**facts, "share": count}
        if first is not None and facts != first:
            other = next(key for key in {**facts, **first} if facts.get(key) != first.get(key))
            raise ValueError(
                f"{path} belongs to another job than {next(iter(parts.values()))}: their "
                f"{other} is {facts.get(other)!r} and {first.get(other)!r}"
            )
        if number in parts:
            raise ValueError(f"{path} and {parts[number]} are the same share, {number}/{count}")
        first, parts[number] = facts, path
    if first is None:
        raise ValueError("Argument `paths` must name one table at least. Received: none")
    count = int(first.pop("share"))
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in parts]
    if missing:
        raise ValueError(f"share {missing[0]} is missing, {len(missing)} of {count} in all")
    ordered = (load_faces(parts[number]) for number in sorted(parts))
    return {"faces": write_tables(out, ordered, {**first, "share": None}, text), "shares": count}
