"""Folders of aligned faces from folders of photographs, by a detector or by given points."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from tf_sphereface.alignment.align import cut_out, template_size
from tf_sphereface.alignment.detector import SELECTIONS, SMALLEST, Detector, Selection
from tf_sphereface.alignment.images import read_photo, write_face
from tf_sphereface.alignment.journal import Found, Journal
from tf_sphereface.alignment.landmarks import Landmarks, check_places, find_odd, load_landmarks
from tf_sphereface.alignment.outcomes import (
    IMPLAUSIBLE,
    REFUSED,
    UNREADABLE,
    AlignResult,
    Outcome,
    write_landmarks,
    write_report,
)
from tf_sphereface.alignment.photo_aligner import (
    Aligner,
    Settings,
    owners,
    run_in_threads,
    single_threaded_operations,
    targets_of,
)
from tf_sphereface.alignment.plausibility import check_face
from tf_sphereface.alignment.suffixes import IMAGE_SUFFIXES, UNREAD_SUFFIXES, suffix_of
from tf_sphereface.alignment.videos import VIDEO_SUFFIXES
from tf_sphereface.alignment.yunet import make_detector
from tf_sphereface.utils.checks import check_choice, check_integer, check_number, error
from tf_sphereface.utils.files import short_name
from tf_sphereface.utils.messages import ProgressCallback
from tf_sphereface.utils.optional import require

FaceFormat = Literal["keep", "jpg", "png"]


def align_photos(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (112, 96),
    select: Selection = "center",
    min_face: float = 28.0,
    max_side: int = 1600,
    every: int | None = None,
    format: FaceFormat = "keep",
    quality: int = 95,
    jobs: int | None = None,
    overwrite: bool = False,
    report: str | os.PathLike[str] | None = None,
    landmarks_out: str | os.PathLike[str] | None = None,
    strict: bool = False,
    detector: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> AlignResult:
    """Find the faces in a folder of photographs, and write them aligned.

    `target` gets the folders and names of `source`, the points that were found, and a list of the
    images without a face, with several, too small or unreadable. A stopped call goes on where it
    was, and repeats only what has changed. Files that it has not written are replaced only with
    `overwrite`. The faces do not depend on the number of threads.

    Args:
        source: a folder of images (JPEG, PNG, WebP, AVIF, BMP, TIFF, ...), or one image or video.
        target: where the faces go; a folder of its own for each folder of photographs.
        size: (height, width) of a face, 112x96 or 112x112.
        select: which face of an image: the one nearest the center, the largest, or all, written as
            NAME_1, NAME_2, ... from the largest on.
        min_face: smaller faces, in pixels, are not written but reported; at least 20.
        max_side: faces are looked for in the image reduced to this many pixels, at least 100, and
            cut out of the image as it is.
        every: also take each `every`-th frame of the videos in `source`; None leaves videos out.
        format: of the faces; `"keep"`: JPEG and PNG stay, and other formats become PNG.
        quality: of JPEG, from 1 to 100.
        jobs: threads; the machine's cores by default.
        overwrite: do again what is there, wherever it is from.
        report: the list of problems, a .tsv, or a .json that has every image; by default
            `target`/report.tsv (of one image: IMAGE.report.tsv).
        landmarks_out: the file of the points found; by default `target`/landmarks.tsv (of one
            image: IMAGE.landmarks.tsv).
        strict: raise where images or videos of a folder are passed over. Images that cannot be
            read are outcomes still.
        detector: an ONNX file of YuNet, which OpenCV runs; None: MTCNN.
        progress: called with (done, in all) after each image.

    Returns:
        The outcome of each image; what went wrong with one of them is no error of the call.

    Raises:
        ValueError: an argument is out of range; there is no photograph, two would be written to
            one file, or `target` is no folder, is `source`, or holds the faces of another folder;
            with `strict`, something is passed over.
        ImportError: a package of the extra `align` is missing.
        OSError: `target` cannot be written.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> photos, faces = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = synthetic.write_folder(photos, 1, 2, size=(224, 192))
    >>> result = align_photos(photos, faces, select="largest")
    >>> len(result.outcomes), result.written, result.counts()["no face"]
    (2, 1, 1)
    """
    src, dst = Path(source), Path(target)
    only = src.name if src.is_file() else None
    folder = src.parent if only else src
    points_path = Path(landmarks_out or dst / _list_name(only, "landmarks.tsv"))
    report_path = Path(report or dst / _list_name(only, "report.tsv"))
    if report_path.suffix.lower() not in (".tsv", ".json"):
        raise error("report", "end in .tsv or .json", str(report))
    _check_folders(folder, dst)
    settings = Settings(
        src=folder,
        only=only,
        dst=dst,
        size=template_size(size),
        select=check_choice("select", select, SELECTIONS),
        min_face=check_number("min_face", min_face, SMALLEST),
        format=check_choice("format", format, get_args(FaceFormat)),
        quality=check_integer("quality", quality, 1, 100),
        jobs=_threads(jobs),
        every=None if every is None else check_integer("every", every, 1),
        overwrite=overwrite,
        strict=strict,
    )
    with single_threaded_operations():
        aligner = Aligner(settings, _make_detector(detector, settings.min_face, max_side))
        begin = time.perf_counter()
        outcomes, seconds = aligner.run(progress), time.perf_counter() - begin
    ours = only is None or any(outcome.problem != REFUSED for outcome in outcomes)  # not another's
    if landmarks_out or ours:
        write_landmarks(points_path, outcomes)
    if report or ours:
        write_report(report_path, outcomes)
    return AlignResult(
        outcomes,
        seconds,
        aligner.passed_over,
        aligner.videos_left_out,
        points_path,
        report_path,
        report_written=bool(report or ours),
        left_behind=aligner.left_behind,
    )


def align_by_landmarks(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    landmarks: Landmarks,
    *,
    size: tuple[int, int] = (112, 96),
    format: FaceFormat = "keep",
    quality: int = 95,
    jobs: int | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> AlignResult:
    """Write the faces whose five points are known, aligned; nothing is detected.

    A face is there already only if it was made from these points, from this file and with these
    settings; a stopped call goes on where it was.

    The arguments are those of `align_photos`, and `landmarks`: a landmark file (see
    `read_landmarks`), or a mapping from the path inside the folder `source` to (5, 2) points.

    Returns:
        The outcome of each image, in the order of `landmarks`.

    Raises:
        ValueError: an argument is out of range; `landmarks` is empty or malformed, most of its
            points cannot be faces, it names a path outside `source`, or two images for one face;
            `target` is no folder, or is `source`.
        ImportError: scikit-image is missing (the extra `align`).
        OSError: `target` cannot be written.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.alignment import TEMPLATES
    >>> from tf_sphereface.data import synthetic
    >>> photos, faces = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = synthetic.write_folder(photos, 1, 1, size=(224, 192))
    >>> points = {"Person_000000/Person_000000_0001.jpg": 2 * TEMPLATES[112, 96]}
    >>> align_by_landmarks(photos, faces, points, size=(112, 112)).written
    1
    """
    src, dst = Path(source), Path(target)
    _check_folders(src, dst)
    crop, threads = template_size(size), _threads(jobs)
    check_choice("format", format, get_args(FaceFormat))
    check_integer("quality", quality, 1, 100)
    points = _points(landmarks, src)
    targets = targets_of(points, dst, format)
    owners(targets, dst)
    names = {name: Path(name).as_posix() for name in points}  # without `./`
    others = frozenset(names.values())

    def attempt(name: str) -> Outcome:
        found, inside, path = Found(name), names[name], src / name
        files = [targets[name].relative_to(dst).as_posix()]
        try:
            output = _output(path, points[name], f"{crop[0]}x{crop[1]}", format, quality)
            done = journal.is_done(inside, output, files)
            if not done:
                if (reason := journal.obstacle(inside, files, others)) is not None:
                    return Outcome(found, problem=REFUSED, detail=reason)
                image = read_photo(path)
                if (reason := check_face(points[name], image.shape)) is not None:
                    return Outcome(found, problem=IMPLAUSIBLE, detail=reason)
                face = cut_out(image, points[name], crop)
                journal.claim(inside, files)
                write_face(targets[name], face, quality)
                journal.written(inside, output, files)
        except FileNotFoundError:
            return Outcome(found, problem=UNREADABLE, detail="missing")
        except (OSError, ValueError) as problem:
            return Outcome(found, problem=UNREADABLE, detail=str(problem))
        found.files = files
        return Outcome(found, written=int(not done), kept=int(done))

    outcomes: dict[str, Outcome] = {}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.found.name] = outcome
        if progress is not None:
            progress(len(outcomes), len(names))

    begin = time.perf_counter()
    with Journal(dst, src, overwrite=overwrite) as journal:
        run_in_threads(attempt, names, threads, note)
        journal.remove_obsolete(others)
    return AlignResult([outcomes[name] for name in names], time.perf_counter() - begin)


def _list_name(only: str | None, name: str) -> str:
    """Return a list's name; that of one image, so that other files of the target keep theirs."""
    return name if only is None else short_name(only, f".{name}")


def _check_folders(folder: Path, target: Path) -> None:
    """Refuse a target that is `folder` or no folder, and say early that a package is missing."""
    if target.resolve() == folder.resolve():
        raise ValueError("DST must be another folder than SRC: aligning would replace the images")
    named = suffix_of(target.name) in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES, *VIDEO_SUFFIXES)
    if target.is_file() or (named and not target.is_dir()):
        raise ValueError(
            "DST must be a folder, where the faces get the names of their images. "
            f"Received: {target}"
        )
    require("skimage.transform", extra="align")  # fail once here, not for every image


def _points(landmarks: Landmarks, src: Path) -> Mapping[str, np.ndarray]:
    """Return the points by path; ValueError if there are none, or a path leads outside SRC."""
    points = load_landmarks(landmarks)
    if not points:
        given = "landmarks" if isinstance(landmarks, Mapping) else os.fspath(landmarks)
        raise ValueError(f"{given} names no image")
    for name in points:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"the landmark file names a path outside SRC: {name!r}")
    find_odd(landmarks, points)  # refuses them if most are; a single one is reported as an outcome
    check_places(landmarks, points, src)
    return points


def _output(path: Path, points: np.ndarray, *settings: object) -> str:
    """Return what a crop from given points depends on, for the journal."""
    stat = path.stat()
    digest = hashlib.sha256(np.ascontiguousarray(points, "<f8").tobytes()).hexdigest()
    return " ".join(map(str, ("landmarks", digest, *settings, stat.st_size, stat.st_mtime_ns)))


def _make_detector(path: str | os.PathLike[str] | None, min_face: float, max_side: int) -> Detector:
    """Return a detector that also finds faces a little below `min_face`, to report them."""
    try:
        return make_detector(path, min_face=max(SMALLEST, 0.709 * min_face), max_side=max_side)
    except ImportError as missing:
        raise ImportError(
            f"{missing}. Without a detector, give the points: --landmarks FILE"
        ) from missing


def _threads(jobs: int | None) -> int:
    return (os.cpu_count() or 1) if jobs is None else check_integer("jobs", jobs, 1)
