"""Several `.bin` sets with one model: each by its own folds, and the mean over them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tf_sphereface.alignment.face_reader import Problems
from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.eval import bins
from tf_sphereface.eval.bins import BinReader, BinResult, BinSet
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings
from tf_sphereface.eval.scoring.sources import EmbeddingOptions, open_embedder
from tf_sphereface.utils.checks import check_choice, check_integer, error
from tf_sphereface.utils.messages import ProgressCallback, and_more

__all__ = [
    "BinSetsResult",
    "evaluate_sets",
    "find_bins",
    "read_sets",
]

USUAL = ("lfw", "cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw", "vgg2_fp")
"""The sets that circulate, in the order of most tables; others follow by name."""

PathLike = str | os.PathLike[str]
Sources = PathLike | Sequence[PathLike] | Mapping[str, PathLike | BinSet]
"""Folders and files, or name -> file or what `bins.read_bin` returned."""


@dataclasses.dataclass(frozen=True, eq=False)
class BinSetsResult:
    """The outcome of several `.bin` sets.

    Attributes:
        sets: name -> the set's outcome.
        failures: name -> why a set could not be evaluated.
        embedder: what was evaluated.
    """

    sets: dict[str, BinResult]
    failures: dict[str, str]
    embedder: Embedder

    @property
    def accuracy(self) -> float | None:
        """Mean of the accuracies of `sets`, a fraction; None where there are none."""
        if not self.sets:
            return None
        return float(np.mean([result.accuracy for result in self.sets.values()]))


def find_bins(sources: PathLike | Sequence[PathLike]) -> dict[str, Path]:
    """Return the `.bin` sets of folders and files: name -> file.

    A set's name is its file's, without the suffix; files of one name in two folders have the
    folder's name before it. A folder's sets are the `.bin` files directly in it, the usual ones
    first. A file that does not exist is in the answer too: reading it says so.

    Raises:
        FileNotFoundError: a folder does not exist, or holds no `.bin` file.

    Example:

    >>> Path("sets").mkdir()
    >>> for name in ("mine", "agedb_30", "lfw"):
    ...     _ = Path("sets", f"{name}.bin").write_bytes(b"")
    >>> list(find_bins("sets"))
    ['lfw', 'agedb_30', 'mine']
    """
    listed = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not listed:
        raise error("sources", "name a folder or a file", sources)
    files: dict[Path, Path] = {}  # without a second one of the same
    for source in map(Path, listed):
        if source.is_dir():
            found = _in_folder(source)
        elif source.suffix.lower() == ".bin" or source.exists():
            found = [source]
        else:
            raise FileNotFoundError(f"no such folder or .bin file: {source}")
        for path in found:
            files.setdefault(path.resolve(), path)
    paths = sorted(files.values(), key=_place)
    stems = [path.stem for path in paths]
    return {
        path.stem if stems.count(path.stem) == 1 else path.with_suffix("").as_posix(): path
        for path in paths
    }


def set_key(name: str) -> str:
    """Return a set's name as figures of others are looked up, however it is written.

    Example:

    >>> set_key("faces/CFP-FP"), set_key("agedb30") == set_key("agedb_30")
    ('cfpfp', True)
    """
    return name.rsplit("/", 1)[-1].lower().replace("-", "").replace("_", "")


def read_sets(sources: Sources, max_pairs: int | None = None) -> dict[str, BinSet]:
    """Read all sets into memory, encoded as they are: name -> set.

    Args:
        sources: as for `evaluate_sets`.
        max_pairs: some so many pairs of each set, from 2, evenly spaced; None takes all.

    Raises:
        FileNotFoundError: as `find_bins`.
        ValueError: sets cannot be read, or their folds not evaluated; all of them are named.

    Example:

    >>> from tf_sphereface.eval.bins import write_bin
    >>> write_bin("mine.bin", [b"jpeg"] * 80, [True, False] * 20)
    >>> {name: len(bins.is_same) for name, bins in read_sets("mine.bin", max_pairs=10).items()}
    {'mine': 10}
    """
    if max_pairs is not None:
        check_integer("max_pairs", max_pairs, 2)
    sets: dict[str, BinSet] = {}
    failures: dict[str, str] = {}
    for name, source in _named(sources).items():
        try:
            read = source if isinstance(source, BinSet) else bins.read_bin(source)
            chosen = read if max_pairs is None else read.subset(max_pairs)
            bins.check_set(chosen)
            sets[name] = chosen
        except (OSError, ValueError) as failure:
            failures[name] = str(failure)
    _raise_failures(failures, len(sets))
    return sets


def check_images(sets: Mapping[str, BinSet], input_size: tuple[int, int]) -> None:
    """Decode every image once, for a network of this input (height, width).

    Raises:
        ValueError: images cannot be used; sets and images are named.
    """
    failures: dict[str, str] = {}
    for name, read in sets.items():
        reader, problems = BinReader(input_size, read), Problems()
        numbers = [str(k) for k in range(len(read.images))]
        with reader.pool() as pool:
            for start in range(0, len(numbers), 1024):  # the faces are dropped again
                part = numbers[start : start + 1024]
                reader.each(pool, reader, Path(read.name), part, problems)
        try:
            problems.raise_if_any(len(numbers), Path(read.name), reader.hint)
        except ValueError as failure:
            failures[name] = str(failure)
    _raise_failures(failures, len(sets) - len(failures))


def evaluate_sets(
    embedder: Any,
    sources: Sources,
    flip: bool = True,
    progress: Callable[[str], ProgressCallback] | None = None,
    *,
    cache: PathLike | None = None,
    on_error: Literal["raise", "report"] = "raise",
) -> BinSetsResult:
    """Evaluate one model on several `.bin` sets, one after the other.

    Args:
        embedder: what `load_embedder` takes.
        sources: a folder, a file, a list of these (see `find_bins`), or name -> file or `BinSet`.
        flip: whether mirror images are embedded and added.
        progress: called with a set's name; returns what is called with (images done, in all).
        cache: as for `lfw.evaluate`.
        on_error: what to do about a set that cannot be evaluated: `"raise"`, or `"report"` it in
            the result's `failures` and go on with the others.

    Returns:
        An outcome per set, each by insightface's protocol (`bins.evaluate`) and its own folds.

    Raises:
        FileNotFoundError: as `find_bins`.
        ValueError: a set cannot be evaluated, with `on_error="raise"`; or stored embeddings were
            given, which are of one set.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((112, 96, 3)), keras.layers.Flatten()])
    >>> faces = sf.data.synthetic.write_folder("faces", 4, 2, pairs_per_fold=2, folds=2)
    >>> _ = bins.write_bin_of_pairs("mine.bin", faces, faces / "pairs.txt", size=(112, 96))
    >>> embedder = sf.load_embedder(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> result = evaluate_sets(embedder, "mine.bin")
    >>> result.accuracy == result.sets["mine"].accuracy
    True
    """
    check_choice("on_error", on_error, ("raise", "report"))
    named = _named(sources)
    model = open_embedder(embedder, EmbeddingOptions(flip, cache=cache))
    if isinstance(model, StoredEmbeddings):
        raise ValueError(
            f"stored embeddings (.npz) are of one .bin set: evaluate them with bin. Received: "
            f"{model.path}"
        )
    sets: dict[str, BinResult] = {}
    failures: dict[str, str] = {}
    for name, source in named.items():
        show = None if progress is None else progress(name)
        try:
            sets[name] = bins.evaluate(model, source, flip, show, cache=cache)
        except (OSError, ValueError) as failure:
            if on_error == "raise":
                raise
            failures[name] = str(failure)
    return BinSetsResult(sets, failures, model)


def _named(sources: Sources) -> Mapping[str, PathLike | BinSet]:
    return sources if isinstance(sources, Mapping) else find_bins(sources)


def _in_folder(folder: Path) -> list[Path]:
    """Return the `.bin` files of a folder; hidden ones, such as macOS' `._lfw.bin`, are none."""
    found = [path for path in sorted(folder.iterdir()) if _is_bin(path)]
    if found:
        return found
    below = sorted({path.parent.name for path in folder.glob("*/*") if _is_bin(path)})
    hint = f"; there are some in {and_more(below, 3)}: give that folder" if below else ""
    raise FileNotFoundError(f"{folder} holds no .bin file{hint}")


def _is_bin(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() == ".bin" and not hidden and path.is_file()


def _place(path: Path) -> tuple[int, str, str]:
    """Return what sets are sorted by."""
    usual = USUAL.index(path.stem) if path.stem in USUAL else len(USUAL)
    return usual, path.stem, str(path)


def _raise_failures(failures: Mapping[str, str], others: int) -> None:
    """Raise a ValueError that names all sets that failed, if there are any."""
    if failures:
        lines = "\n  ".join(f"{name}: {reason}" for name, reason in failures.items())
        total = len(failures) + others
        raise ValueError(f"{len(failures)} of {total} .bin sets cannot be used:\n  {lines}")
