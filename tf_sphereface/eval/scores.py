"""A file of scores as a verification protocol."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.eval import verification
from tf_sphereface.eval.measures.thresholds import Search
from tf_sphereface.eval.pairs import Pairs, read_lines
from tf_sphereface.eval.protocol import ProtocolResult, count_in_words, over_folds
from tf_sphereface.eval.scoring.precomputed import StoredScores
from tf_sphereface.utils.files import atomic_path

__all__ = [
    "evaluate",
    "write_scores",
]

_BREAKS = re.compile(r"[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # in a name: of fields, of lines
_LABELS = {"0": False, "false": False, "1": True, "true": True}
_MOST = 2**63 - 1  # a fold is an int64
_EXACT = 2**53  # up to there a float is one integer


def evaluate(
    path: str | os.PathLike[str], pairs: Pairs | None = None, *, search: Search = "exact"
) -> ProtocolResult:
    r"""Evaluate scores that were computed elsewhere.

    Args:
        path: a text file, one line per pair, fields separated by tabs, else commas, else spaces;
            empty lines, those that begin with `#`, and a first line that begins with the field
            `score` are skipped. With `pairs` a line is the score
            alone, in the order of the pairs. Without, it is `score, label, fold`, the label 1 (or
            true) for one person and 0 (or false) for two, label and fold also as floats (`1.0`);
            further fields name what is compared.
            Where no line has a fold (`score, label`, or `-` in its place before names), there are
            rates and no accuracy.
        pairs: what `read_pairs` or `read_splits` returned.
        search: as for `verification.evaluate`.

    Returns:
        A result whose table has one entry, `("scores", "plain")`. It has angles where the scores
        can be cosines: they are in [-1, 1], and one is below 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of that form (file and line are named), the number of scores is
            not that of the pairs, or what `verification.evaluate` refuses: a score that is NaN is
            refused with its pair's name.

    Example:

    >>> text = "0.9 1 1 Ann/1 Ann/2\n0.1 0 1 Ann/1 Bob/1\n0.8 1 2\n0.2 0 2\n"
    >>> _ = Path("scores.txt").write_text(text)
    >>> evaluate("scores.txt").headline.accuracy
    1.0
    """
    values, listed, has_folds = _read(Path(path), pairs)
    names = [f"{a} and {b}" for a, b in zip(listed.left, listed.right, strict=True)]
    table: dict[tuple[str, str], Any] = {}
    if has_folds:
        in_folds, how = f" in {listed.num_folds} folds", over_folds(listed, search)
        table["scores", "plain"] = verification.evaluate(
            values, listed.is_same, listed.folds, search=search, names=names
        )
    else:
        in_folds, how = " without folds", "rates over all of them, and no accuracy."
        table["scores", "plain"] = verification.evaluate(
            values, listed.is_same, search=search, names=names
        )
    if np.min(values) >= 0:  # of pairs enough some cosine is below 0: they may be probabilities
        table["scores", "plain"] = dataclasses.replace(
            table["scores", "plain"], genuine_angles=None, impostor_angles=None
        )
    return ProtocolResult(
        table=table,
        name="scores",
        protocol=f"{count_in_words(listed)}{in_folds}; scores as given; {how}",
        embedder=StoredScores(Path(path)),
        pairs=listed,
        num_items=len({*listed.left, *listed.right}),
    )


def write_scores(path: str | os.PathLike[str], result: ProtocolResult) -> None:
    r"""Write the scores of a result's headline as `evaluate` reads them, one line per pair.

    Example:

    >>> _ = Path("scores.txt").write_text("0.9 1 1\n0.1 0 1\n0.8 1 2\n0.2 0 2\n")
    >>> write_scores("again.txt", evaluate("scores.txt"))
    >>> evaluate("again.txt").headline.scores.tolist()
    [0.9, 0.1, 0.8, 0.2]
    """
    headline, pairs = result.headline, result.pairs
    lines = ["# score\tlabel\tfold\tleft\tright"]
    labels = headline.is_same.astype(int)
    folds: Any = headline.folds
    if folds is None:
        folds = ["-"] * len(labels)
    columns = (headline.scores.tolist(), labels, folds, pairs.left, pairs.right)
    for score, *rest in zip(*columns, strict=True):
        lines.append("\t".join([repr(score), *(_BREAKS.sub(" ", str(part)) for part in rest)]))
    with atomic_path(path) as temporary:
        text = "\n".join(lines) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def _read(path: Path, pairs: Pairs | None) -> tuple[np.ndarray, Pairs, bool]:
    """Return the scores, their pairs, and whether these have folds (else all are in fold 0)."""
    values: list[float] = []
    same: list[bool] = []
    folds: list[int | None] = []
    left: list[str] = []
    right: list[str] = []
    for number, line in enumerate(read_lines(path, "of scores"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        sign = next((sign for sign in "\t," if sign in line), None)
        fields = [field.strip() for field in line.split(sign)]
        if not values and fields[0].strip('"').lower() == "score":
            continue
        try:
            values.append(float(fields[0]))
            if pairs is None:
                same.append(_label(fields[1]))
                folds.append(_fold(fields))
                if (folds[-1] is None) != (folds[0] is None):
                    raise ValueError("some lines have a fold, others have none")
            elif len(fields) != 1:
                raise ValueError("more than a score")
        except (ValueError, KeyError, IndexError) as error:
            form = "score, label (0 or 1), fold" if pairs is None else "a score alone"
            if len(folds) > 1 and folds[0] is None:
                form = "score, label (0 or 1), and no fold, as the lines before"
            raise ValueError(
                f"{path}, line {number}: expected {form}. Received: {line[:120]!r}"
            ) from error
        unnamed = f"score {len(values)}"
        left.append(fields[3] if len(fields) > 3 else unnamed)
        right.append(fields[4] if len(fields) > 4 else unnamed)
    has_folds = pairs is not None or any(fold is not None for fold in folds)
    if pairs is None:
        numbers = np.array([fold or 0 for fold in folds], np.int64)
        pairs = Pairs(left, right, np.array(same, bool), numbers)
    elif len(values) != len(pairs):
        raise ValueError(
            f"{path} must hold a score for each of {len(pairs)} pairs. Received: {len(values)}"
        )
    return np.array(values), pairs, has_folds


def _label(text: str) -> bool:
    """Return whether a label is of one person: 1, 0, true, false, or these as floats."""
    known = _LABELS.get(text.lower())
    return _LABELS[str(_whole(text))] if known is None else known


def _whole(text: str) -> int:
    """Return an integer, also of `3.0` or `3.0e+00`, as tables of floats are written."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer() or abs(number) > _EXACT:
            raise
        return int(number)


def _fold(fields: list[str]) -> int | None:
    """Return the fold of a line; None where it ends before it, or has a `-` there."""
    if len(fields) == 2 or fields[2] == "-":
        return None
    fold = _whole(fields[2])
    if abs(fold) > _MOST:
        raise ValueError("a fold of more than 63 bits")
    return fold
