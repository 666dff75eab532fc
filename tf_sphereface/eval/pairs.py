"""Lists of pairs in folds, and the reader of LFW's pairs file."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.formats import begins_as_image
from tf_sphereface.alignment.listing import find_image
from tf_sphereface.utils.files import text_encoding

__all__ = [
    "Pairs",
    "read_pairs",
]

_USUAL_WORDS = {
    *("pairs", "pair", "list", "lists", "test", "dev", "train", "devtest", "devtrain"),
    *("view", "view1", "view2", "official", "original", "fold", "folds", "protocol"),
}
_PROTOCOLS = ("bin", "bins", "folder", "ytf", "scores")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images in folds.

    Attributes:
        left: relative path of each pair's first image, such as `"NAME/NAME_0001.jpg"`.
        right: relative path of its second image.
        is_same: bool (n,), genuine or impostor.
        folds: int (n,), from 1.
        name: what the list is called, empty where it has no name.

    Example:

    >>> same, folds = np.array([True, False]), np.array([1, 1])
    >>> pairs = Pairs(["A/1.jpg", "A/1.jpg"], ["A/2.jpg", "B/1.jpg"], same, folds)
    >>> pairs.images()[0]
    ['A/1.jpg', 'A/2.jpg', 'B/1.jpg']
    """

    left: list[str]
    right: list[str]
    is_same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    name: str = ""

    def __len__(self) -> int:
        return len(self.left)

    @property
    def num_folds(self) -> int:
        """How many folds there are."""
        return len(np.unique(self.folds))

    def images(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Return the distinct images, sorted, and each pair's two positions among them."""
        names = sorted({*self.left, *self.right})
        position = {name: i for i, name in enumerate(names)}
        left = np.array([position[name] for name in self.left], np.int64)
        right = np.array([position[name] for name in self.right], np.int64)
        return names, left, right


def read_pairs(path: str | os.PathLike[str]) -> Pairs:
    """Read a file in the format of LFW's `pairs.txt`; the pairs keep its order, that of the folds.

    The first line is `folds<TAB>pairs of each class in a fold`. For each fold follow its genuine
    pairs, `name<TAB>number<TAB>number`, then its impostor pairs,
    `name<TAB>number<TAB>name<TAB>number`. View 1's `pairsDevTest.txt`, whose first line is one
    count, is read as one fold. A table with commas and the title line
    `name,imagenum1,imagenum2,` is read too: a fold begins where genuine pairs follow impostor ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of that form, a pair comes twice, or the counts do not match the
            first line; the file and the line are named.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> folder = synthetic.write_folder(tempfile.mkdtemp(), 4, 4, pairs_per_fold=2, folds=2)
    >>> pairs = read_pairs(folder / "pairs.txt")
    >>> len(pairs.is_same), sorted(set(pairs.folds.tolist()))
    (4, [1, 2])
    """
    path = Path(path)
    lines = read_lines(path, "in LFW's pairs format")
    while lines and not lines[-1].strip():
        lines.pop()
    folds, per_class = _counted(path, lines) if _is_titled(lines) else _header(path, lines)
    expected = 2 * folds * per_class
    if len(lines) - 1 != expected:
        raise ValueError(
            f"{path}, line 1: {folds} folds of {per_class} genuine and {per_class} impostor pairs "
            f"need {expected} lines. Received: {len(lines) - 1}"
        )
    seen: dict[tuple[str, str], int] = {}
    left, right = [], []
    is_same = np.tile(np.repeat([True, False], per_class), folds)
    for number, line in enumerate(lines[1:], start=2):
        pair = _pair(path, number, line, genuine=bool(is_same[number - 2]))
        key = (min(pair), max(pair))
        if key in seen:
            raise ValueError(
                f"{path}, line {number}: the pair of line {seen[key]} again. Received: {line!r}"
            )
        seen[key] = number
        left.append(pair[0])
        right.append(pair[1])
    fold_of = np.repeat(np.arange(1, folds + 1), 2 * per_class)
    return Pairs(left, right, is_same, fold_of, list_name(path))


def list_name(path: str | os.PathLike[str]) -> str:
    """Return what a list in LFW's layout is called, by its file's name: `"lfw"` for LFW's own.

    Words that any list may have in its name (pairs, test, view2, numbers) do not count.

    Example:

    >>> [list_name(name) for name in ("pairs.txt", "pairsDevTest.txt", "xqlfw_pairs.txt")]
    ['lfw', 'lfw', 'xqlfw']
    """
    text = re.sub(r"^[Pp]airs?(?=[A-Z])|(?<=[a-z0-9])Pairs?$", "", Path(path).stem)
    words = [word.lower() for word in re.split(r"[\W_]+", text) if word]
    own = [word for word in words if word not in _USUAL_WORDS and not word.isdecimal()]
    if not own or own[0] == "lfw":
        return "lfw"
    name = "_".join(own)
    return f"{name}_pairs" if name in _PROTOCOLS else name


def locate(pairs: Pairs, root: Path) -> Pairs:
    """Return pairs under the names that their images have in `root`: other suffixes than `.jpg`."""
    names: dict[str, str] = {}
    for name in pairs.images()[0]:
        path = find_image(root / name)
        names[name] = (Path(name).parent / path.name).as_posix()
    return dataclasses.replace(
        pairs, left=[names[n] for n in pairs.left], right=[names[n] for n in pairs.right]
    )


def read_lines(path: Path, form: str) -> list[str]:
    """Return the lines of a text file, or raise a ValueError that names it and its form.

    It is UTF-8, or UTF-16 with its mark. Bytes that are neither are kept: they may be those of a
    file's name.
    """
    data = path.read_bytes()
    text = data.decode(text_encoding(path), "surrogateescape")
    if "\0" in text or (begins_as_image(data[:64]) and not data[:64].isascii()):
        raise ValueError(f"{path} is not a text file {form}, but no text, or UTF-16 unmarked")
    return text.splitlines()


def _is_titled(lines: list[str]) -> bool:
    """Tell whether a table begins with the names of its columns."""
    return bool(lines) and split_fields(lines[0])[0].strip('"').lower() == "name"


def _counted(path: Path, lines: list[str]) -> tuple[int, int]:
    """Return folds and pairs of each class of a table that does not state them."""
    genuine = [len(split_fields(line)) == 3 for line in lines[1:]]
    ends = [i for i in range(1, len(genuine)) if genuine[i] != genuine[i - 1]]
    runs = {b - a for a, b in zip([0, *ends], [*ends, len(genuine)], strict=True)}
    if not genuine or not genuine[0] or genuine[-1] or len(runs) != 1:
        raise ValueError(
            f"{path} must hold for each fold its genuine pairs (name, number, number), then as "
            "many impostor pairs (name, number, name, number). "
            f"Received: {sum(genuine)} genuine and {len(genuine) - sum(genuine)} impostor pairs in "
            f"{len(ends) + 1} runs"
        )
    return (len(ends) + 1) // 2, runs.pop()


def split_fields(line: str) -> list[str]:
    """Return the fields of a line, separated by tabs, else semicolons, commas, or blanks."""
    sign = next((sign for sign in "\t;," if sign in line), None)
    fields = [field.strip() for field in line.split(sign)] or [""]
    while len(fields) > 1 and not fields[-1]:  # as a table has them after its shorter rows
        fields.pop()
    return fields


def _header(path: Path, lines: list[str]) -> tuple[int, int]:
    fields = split_fields(lines[0]) if lines else []
    if len(fields) not in (1, 2) or not all(f.isdecimal() and int(f) > 0 for f in fields):
        raise ValueError(
            f"{path}, line 1: expected the number of folds, a tab, and the pairs of each class in "
            f"a fold, such as '10\\t300'. Received: {lines[0][:80] if lines else ''!r}"
        )
    return (int(fields[0]), int(fields[1])) if len(fields) == 2 else (1, int(fields[0]))


def _pair(path: Path, number: int, line: str, genuine: bool) -> tuple[str, str]:
    fields = split_fields(line)
    form = "name, number, number" if genuine else "name, number, name, number"
    wanted = 3 if genuine else 4
    numbers = fields[1:] if genuine else fields[1::2]
    names = fields[:1] if genuine else fields[::2]
    if len(fields) != wanted or not all(f.isdecimal() for f in numbers) or not all(names):
        kind = "a genuine" if genuine else "an impostor"
        raise ValueError(
            f"{path}, line {number}: expected {kind} pair, {form}, separated by tabs or commas. "
            f"Received: {line[:120]!r}"
        )
    if any(part in (".", "..") or "/" in part or "\\" in part for part in names):
        raise ValueError(f"{path}, line {number}: a name must not be a path. Received: {line!r}")
    if not genuine and names[0] == names[1]:
        raise ValueError(
            f"{path}, line {number}: an impostor pair needs two people. Received: {line!r}"
        )
    first, second = (
        f"{name}/{name}_{int(k):04d}.jpg"
        for name, k in zip((names[0], names[-1]), numbers, strict=True)
    )
    if first == second:
        raise ValueError(
            f"{path}, line {number}: an image is paired with itself. Received: {line!r}"
        )
    return first, second
