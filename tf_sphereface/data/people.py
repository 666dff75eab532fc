"""People of a training set: whether it can be learnt from, and the weights of its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.options import ClassWeights
from tf_sphereface.utils.checks import check_choice, check_number, error
from tf_sphereface.utils.messages import and_more
from tf_sphereface.utils.people_names import alike_names

UNBALANCED = 100  # largest class over the median one: a prior of ln 100 = 4.6 in its logit
SHARE = 0.5
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
LISTS = (".csv", ".tsv", ".txt", ".lst", ".json", ".jsonl", ".xlsx", ".parquet")
# Names of folders, in lower case, that are hardly a person's.
_PART = re.compile(
    r"train(ing)?|val(id|idation)?|dev|test(ing)?|eval|holdout|data|raw|aligned|"
    r"(image|img|face|photo|picture|crop)s?"
)


def faces_of(faces: int, people: int) -> str:
    """Say how many faces of how many people there are; one person tells of no labels.

    Example:

    >>> faces_of(40, 4), faces_of(40, 1)
    ('40 faces of 4 people', '40 faces, no labels')
    """
    return f"{faces} faces, no labels" if people == 1 else f"{faces} faces of {people} people"


def too_few(
    counts: NDArray[np.integer], names: Sequence[str] | None = None, where: str = "the data"
) -> str | None:
    """Say why nothing can be learnt from so many images of each person; None where it can.

    `counts` are the images of each person, (people,), `names` those of their folders, None where
    there are none; `where` names the data.

    Example:

    >>> too_few(np.array([24]), ["images"], "faces")
    "faces has images of 1 person (24 images, in the folder 'images'), and a network learns to ..."
    """
    filled = np.asarray(counts)[np.asarray(counts) > 0]
    if len(filled) < 2:
        people = "1 person" if len(filled) == 1 else "no person"
        folder, each = "", "there must be one label for each person"
        if names is not None:
            each = "name the folder that has a folder for each person"
            named = [name for name, count in zip(names, counts, strict=True) if count]
            folder = f", in the folder {named[0]!r}" if named else ""
        return (
            f"{where} has images of {people} ({int(filled.sum())} images{folder}), and a network "
            f"learns to tell 2 or more people apart: {each}"
        )
    if filled.max() == 1:
        return (
            f"{where} has one image of each of its {len(filled):,} people: what images of one "
            "person have in common cannot be learnt from a single image. Give each person two or "
            "more"
        )
    return None


def unbalanced(counts: NDArray[np.integer], names: Sequence[str] | None = None) -> str | None:
    """Say that one person has by far the most of the images; None where nobody has.

    `counts` and `names` are as for `too_few`.

    Example:

    >>> unbalanced(np.array([90, 5, 5]), ["unknown", "Ada", "Grace"])
    'the classes are unbalanced: unknown has 90 images, 90 % of all, and the median class 5; ...'
    """
    counts = np.asarray(counts)
    filled = counts[counts > 0]
    if len(filled) < 2:
        return None
    top, median = int(np.argmax(counts)), float(np.median(filled))
    share = counts[top] / counts.sum()
    if counts[top] <= UNBALANCED * median and (len(filled) == 2 or share <= SHARE):
        return None
    return (
        f"the classes are unbalanced: {top if names is None else names[top]} has "
        f"{int(counts[top])} images, {100 * share:.0f} % of all, and the median class {median:g}; "
        "cap the large ones, or the net learns their frequency"
    )


def doubts(
    counts: NDArray[np.integer], names: Sequence[str] | None = None, where: str = "the data"
) -> list[str]:
    """Return a sentence for each thing that looks wrong about a set of people.

    `names` are those of the folders, (people,), None where there are none.
    """
    filled = np.asarray(counts)[np.asarray(counts) > 0]
    single = int((filled == 1).sum())
    found = []
    if len(filled) > 1 and len(filled) // 2 < single < len(filled):
        found.append(
            f"{single:,} of the {len(filled):,} people of {where} have one image alone: what "
            "images of one person have in common is learnt from the others"
        )
    uneven = unbalanced(counts, names)
    found += [uneven] if uneven is not None else []
    if names is None:
        return found
    parts = [name for name in names if _PART.fullmatch(name.lower())]
    if parts and 2 * len(parts) >= len(names):
        found.append(
            f"{len(parts)} of the {len(names)} folders in {where} have names like parts of a data "
            f"set ({and_more(parts, 4)}), and each is taken for one person: there must be a "
            "folder for each person"
        )
    alike = alike_names(names, where)
    return found if alike is None else [*found, alike]


def weights_of(class_weights: ClassWeights, counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the weight of each class, float32 (classes,).

    `"balanced"` is `n / (C n_c)` for n images of C classes that have any, n_c of class c: each
    class weighs alike, and the mean weight over the images is 1. A mapping goes from labels to
    weights, >= 0, and must name each class that has an image.

    Example:

    >>> weights_of("balanced", np.array([4, 1, 1])).tolist()
    [0.5, 2.0, 2.0]
    """
    counts = np.asarray(counts)
    filled = counts > 0
    if not isinstance(class_weights, Mapping):
        check_choice("class_weights", class_weights, ("balanced",))
        shares = counts.sum() / (max(int(filled.sum()), 1) * np.maximum(counts, 1))
        return np.where(filled, shares, 0).astype(np.float32)
    weights = np.zeros(len(counts), np.float32)
    for label, weight in class_weights.items():
        if label not in range(len(counts)):
            raise error("class_weights", f"have labels from 0 to {len(counts) - 1}", label)
        weights[label] = check_number(f"class_weights[{label}]", weight, 0)
    missing = [str(i) for i in np.flatnonzero(filled).tolist() if i not in class_weights]
    if missing:
        raise ValueError(
            "Argument `class_weights` must have a weight for each class. "
            f"Received: none for {and_more(missing, 5)}"
        )
    return weights


def check_path(path: Any) -> None:
    """Refuse a source that is neither a folder nor arrays, with what to do about it."""
    try:
        file = Path(path)
    except TypeError:
        raise ValueError(
            "Argument `source` must be a folder of faces, a packed folder, an index, or arrays "
            f"(images, labels). Received: {type(path).__name__}"
        ) from None
    if not file.is_file():
        return
    suffix = file.suffix.lower()
    what = "is a file; faces are read from a folder that has a folder for each person"
    if suffix in ARCHIVES:
        what = "is an archive: unpack it, and name the folder that has a folder for each person"
    elif suffix in LISTS:
        what = (
            "is a list, and none is read: put the faces into a folder for each person, and name "
            "the folder that holds them"
        )
    elif suffix in (".npy", ".npz"):
        what = "holds arrays: load them with NumPy and pass (images, labels)"
    raise ValueError(f"{file} {what}")
