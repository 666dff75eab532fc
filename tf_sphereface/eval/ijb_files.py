"""Files of IJB-B and IJB-C as they circulate: images, templates, pairs, galleries and probes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.ijb_galleries import (
    SHOWN,
    WHOLE,
    TemplateOwners,
    check_unknown,
    line_error,
    read_searches,
)
from tf_sphereface.eval.measures.checks import check_classes
from tf_sphereface.eval.pairs import read_lines
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.files import text_encoding
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning, and_more

Subset = Literal["ijbb", "ijbc"]
NAMES = {"ijbb": "IJB-B", "ijbc": "IJB-C"}
PUBLISHED = {
    "ijbb": {"images": 227_630, "templates": 12_115, "pairs": 8_010_270, "genuine": 10_270},
    "ijbc": {"images": 469_375, "templates": 23_124, "pairs": 15_658_489, "genuine": 19_557},
}
_LINES = 250_000  # of pairs, read at once


class FacePoints(Mapping[str, NDArray[np.float64]]):
    """The five points of each image by its name: (5, 2) of one array (n, 5, 2)."""

    def __init__(self, path: Path, names: Sequence[str], points: NDArray[np.float64]) -> None:
        self.path = path
        self._place = {name: i for i, name in enumerate(names)}
        self._points = points

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return np.asarray(self._points[self._place[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


@dataclasses.dataclass(frozen=True, eq=False)
class IJBFiles:
    """What the files say, n images, m lines of images in templates, t templates.

    Attributes:
        subset: `"ijbb"` or `"ijbc"`.
        root: the folder that holds `loose_crop/` and `meta/`.
        images: names of the images, (n,), distinct, in the order of the file.
        points_file: where the points are from.
        points: float64 (n, 5, 2), in pixels of the image.
        detector_scores: float64 (n,), not negative.
        template_ids: int64 (t,), ascending.
        image: int64 (m,), ascending: which image a line puts into a template.
        template: int64 (m,), position of that template in `template_ids`.
        weight: float64 (m,): 1 / number of images of its medium in its template. The template's sum
            over the means of its media is the sum of its images by these weights.
        num_media: distinct media of all templates.
        left, right: int32 (pairs,), positions in `template_ids`.
        is_same: bool (pairs,).
        galleries: name -> templates of a 1:N gallery; empty where the csv files are not there.
        probes: the mixed probes, or None likewise.
    """

    subset: str
    root: Path
    images: list[str]
    points_file: Path
    points: NDArray[np.float64]
    detector_scores: NDArray[np.float64]
    template_ids: NDArray[np.int64]
    image: NDArray[np.int64]
    template: NDArray[np.int64]
    weight: NDArray[np.float64]
    num_media: int
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    is_same: NDArray[np.bool_]
    galleries: dict[str, TemplateOwners]
    probes: TemplateOwners | None

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of images, templates, pairs and genuine pairs, to compare with `PUBLISHED`."""
        return {
            "images": len(self.images),
            "templates": len(self.template_ids),
            "pairs": len(self.left),
            "genuine": int(self.is_same.sum()),
        }


def read_files(
    root: str | os.PathLike[str], subset: Subset, progress: ProgressCallback | None = None
) -> IJBFiles:
    """Read the files in `meta/` of a folder of IJB-B or IJB-C; images are not looked at.

    Args:
        root: holds `loose_crop/` and `meta/`; in `meta/`, for `"ijbc"`: `ijbc_face_tid_mid.txt`
            (image, template, media), `ijbc_template_pair_label.txt` (template, template, 0 or 1),
            `ijbc_name_5pts_score.txt` (image, five x y, detector score), with blanks between, and
            perhaps `ijbc_1N_gallery_G1.csv`, `_G2.csv` and `ijbc_1N_probe_mixed.csv` (for
            `"ijbb"`: `_S1.csv`, `_S2.csv`).
        subset: `"ijbb"` or `"ijbc"`.
        progress: called with (bytes of the list of pairs read, in all).

    Raises:
        FileNotFoundError: files are missing; all are named, with the likely cause.
        ValueError: a line is not of its form (file and line are named), or the files do not fit
            together.
    """
    check_choice("subset", subset, tuple(NAMES))
    meta = _meta_folder(Path(root), subset)
    lists = meta / f"{subset}_face_tid_mid.txt"
    points_file = meta / f"{subset}_name_5pts_score.txt"
    place, image, template_of, media = _read_templates(lists)
    points, scores = _read_points(points_file, place, lists)
    ids, template = np.unique(template_of, return_inverse=True)
    weight, num_media = _media_weights(template, media)
    _check_repeats(lists, list(place), ids, image, template)
    pairs_file = meta / f"{subset}_template_pair_label.txt"
    left, right, same = _read_pairs(pairs_file, ids, lists, progress)
    galleries, probes = read_searches(meta, subset, ids, lists)
    order = np.argsort(image, kind="stable")
    return IJBFiles(
        subset=subset,
        root=Path(root),
        images=list(place),
        points_file=points_file,
        points=points,
        detector_scores=scores,
        template_ids=ids,
        image=image[order],
        template=template[order],
        weight=weight[order],
        num_media=num_media,
        left=left,
        right=right,
        is_same=same,
        galleries=galleries,
        probes=probes,
    )


def _meta_folder(root: Path, subset: str) -> Path:
    """Return `root/meta`, or raise a FileNotFoundError that names what is not in it, and why."""
    meta = root / "meta"
    wanted = [
        f"{subset}_{what}.txt"
        for what in ("face_tid_mid", "template_pair_label", "name_5pts_score")
    ]
    missing = [name for name in wanted if not (meta / name).is_file()]
    if not missing:
        return meta
    cause = ""
    other = next(name for name in NAMES if name != subset)
    other_is_there = any((meta / name.replace(subset, other)).is_file() for name in wanted)
    below = sorted(
        path.parent.parent
        for path in (*root.glob(f"*/meta/{wanted[0]}"), *root.glob(f"*/*/meta/{wanted[0]}"))
    )
    if other_is_there:
        cause = (
            f". There are files of {NAMES[other]}: give subset {other}, or the folder of "
            f"{NAMES[subset]}"
        )
    elif below:
        cause = f". Likely cause: the set lies deeper; give {below[0]}"
    elif (root / wanted[0]).is_file():
        cause = f". Likely cause: this is the folder meta itself; give {root.absolute().parent}"
    raise FileNotFoundError(
        f"Argument `root` must hold loose_crop/ and meta/ of {NAMES[subset]}. Received: {root}, "
        f"where meta/ lacks {', '.join(missing)}{cause}"
    )


def _read_templates(
    path: Path,
) -> tuple[dict[str, int], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the place of each image by its name, and image, template and media of each line."""
    place: dict[str, int] = {}
    image, template, media = [], [], []
    for number, line in enumerate(read_lines(path, "of images in templates"), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not all(map(WHOLE.fullmatch, fields[1:])):
            raise line_error(path, number, "an image, a template and a media number", line)
        image.append(place.setdefault(fields[0], len(place)))
        template.append(int(fields[1]))
        media.append(int(fields[2]))
    if not place:
        raise ValueError(f"{path} must name images and their templates. Received: no line at all")
    columns = np.array([image, template, media], np.int64)
    return place, columns[0], columns[1], columns[2]


def _read_points(
    path: Path, place: Mapping[str, int], lists: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points (n, 5, 2) and the detector's scores (n,) of the images in `place`."""
    values = np.full((len(place), 11), np.nan)
    seen = np.zeros(len(place), bool)
    strangers = []
    for number, line in enumerate(read_lines(path, "of points and detector scores"), start=1):
        name, *fields = line.split() or [""]
        if not name:
            continue
        try:
            numbers = [float(field) for field in fields]
        except ValueError:
            numbers = []
        if len(numbers) != 11:
            raise line_error(path, number, "an image, ten coordinates and a score", line)
        if not (np.isfinite(numbers[10]) and numbers[10] >= 0):
            raise line_error(path, number, "a score that is finite and not negative", line)
        at = place.get(name)
        if at is None:
            strangers.append(name)
        elif seen[at]:
            raise ValueError(f"{path}, line {number}: {name} is listed twice")
        else:
            values[at], seen[at] = numbers, True
    lacking = [name for name, at in place.items() if not seen[at]]
    for names, where, other in ((lacking, path, lists), (strangers, lists, path)):
        if names:
            raise ValueError(
                f"{where} lacks {len(names):,} images that {other} has (is it cut off, or of "
                f"another set?): {and_more(names, SHOWN)}"
            )
    return values[:, :10].reshape(-1, 5, 2), values[:, 10]


def _media_weights(
    template: NDArray[np.int64], media: NDArray[np.int64]
) -> tuple[NDArray[np.float64], int]:
    """Return 1 / images of each line's medium in its template, and the number of media."""
    groups, group, sizes = np.unique(
        np.stack([template, media], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    return 1.0 / sizes[group.ravel()], len(np.unique(groups[:, 1]))


def _check_repeats(
    path: Path,
    names: list[str],
    ids: NDArray[np.int64],
    image: NDArray[np.int64],
    template: NDArray[np.int64],
) -> None:
    """Raise a ValueError where an image is twice in one template."""
    keys, counts = np.unique(image * len(ids) + template, return_counts=True)
    twice = keys[counts > 1]
    if len(twice):
        first, where = divmod(int(twice[0]), len(ids))
        raise ValueError(
            f"{path} must name an image once for a template. Received: {names[first]} "
            f"{int(counts[counts > 1][0])} times for template {ids[where]}, {len(twice):,} such "
            "images in all"
        )


def _read_pairs(
    path: Path, ids: NDArray[np.int64], lists: Path, progress: ProgressCallback | None
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return both templates of each pair as positions in `ids`, and the labels."""
    codes, labels = [], []
    unknown: set[int] = set()
    done = size = 0
    with open(path, encoding=text_encoding(path), errors="surrogateescape") as lines:
        while chunk := list(itertools.islice(lines, _LINES)):
            table = _integers(path, done, chunk)
            done += len(chunk)
            places = np.minimum(np.searchsorted(ids, table[:, :2]), len(ids) - 1)
            unknown.update(table[:, :2][ids[places] != table[:, :2]].tolist())
            codes.append(places.astype(np.int32))
            labels.append(table[:, 2] == 1)
            if progress is not None:
                size += sum(map(len, chunk))
                progress(size, path.stat().st_size)
    if not sum(map(len, codes)):
        raise ValueError(f"{path} must hold pairs of templates. Received: no line at all")
    check_unknown(path, unknown, lists)
    same = np.concatenate(labels)
    try:
        check_classes(same, "its labels")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    left, right = (np.concatenate([part[:, side] for part in codes]) for side in (0, 1))
    _check_pairs(path, ids, left, right, same)
    return left, right, same


def _check_pairs(
    path: Path,
    ids: NDArray[np.int64],
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    same: NDArray[np.bool_],
) -> None:
    """Raise a ValueError where a pair has both labels, and warn of pairs that are listed again."""
    codes = np.minimum(left, right) * np.int64(2 * len(ids)) + 2 * np.maximum(left, right) + same
    codes.sort()
    both = codes[:-1][(codes[1:] == codes[:-1] + 1) & (codes[:-1] % 2 == 0)]
    if len(both):
        first, second = ids[list(divmod(int(both[0]) // 2, len(ids)))].tolist()
        raise ValueError(
            f"{path} must give a pair one label. Received: templates {first} and {second} with 0 "
            f"and with 1, {len(both):,} such pairs in all"
        )
    again = int(np.sum(codes[1:] == codes[:-1]))
    if again:
        warnings.warn(
            f"{path} lists {again:,} pairs again; each line counts", SphereFaceWarning, stacklevel=5
        )


def _integers(path: Path, done: int, lines: list[str]) -> NDArray[np.int64]:
    """Return lines of two templates and a label, int64 (n, 3); `done` lines stand before them."""
    filled = [line for line in lines if not line.isspace()]
    if not filled:
        return np.zeros((0, 3), np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of numbers that are no integers
            table = np.loadtxt(filled, np.int64, comments=None, ndmin=2)
        if table.shape[1] == 3 and ((table[:, 2] == 0) | (table[:, 2] == 1)).all():
            return table
    except (ValueError, Warning):
        pass
    numbers = []  # slowly, to find the line
    for number, line in enumerate(lines, start=done + 1):
        fields = line.split()
        if not fields:
            continue
        whole = len(fields) == 3 and all(map(WHOLE.fullmatch, fields))
        if not whole or int(fields[2]) not in (0, 1):
            raise line_error(path, number, "two templates and a label, 0 or 1", line)
        numbers.append([int(field) for field in fields])
    return np.array(numbers, np.int64)
