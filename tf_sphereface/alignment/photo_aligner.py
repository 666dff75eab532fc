"""Alignment of photographs and videos in threads: find faces, choose, cut out, write."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.alignment.align import cut_out
from tf_sphereface.alignment.detector import Detector, Selection
from tf_sphereface.alignment.images import read_photo, write_face
from tf_sphereface.alignment.journal import Found, Journal, Stat, rounded
from tf_sphereface.alignment.listing import find_photos, is_image
from tf_sphereface.alignment.outcomes import REFUSED, UNREADABLE, Outcome, judge
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.alignment.suffixes import IMAGE_SUFFIXES, UNREAD_SUFFIXES, suffix_of
from tf_sphereface.alignment.videos import VIDEO_SUFFIXES, count_frames, read_frames
from tf_sphereface.utils.files import short_name
from tf_sphereface.utils.messages import ProgressCallback

Work = TypeVar("Work")
VERSION = "2"  # of the detector's results; a new version detects again


@contextlib.contextmanager
def single_threaded_operations() -> Iterator[None]:
    """Let TensorFlow and OpenCV use one thread per operation, because images run in parallel.

    The last bits of a sum then do not depend on the number of cores. TensorFlow obeys only before
    its first operation.
    """
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@dataclass(frozen=True)
class Settings:
    """The arguments of `align_photos`."""

    src: Path
    dst: Path
    size: tuple[int, int]
    select: Selection
    min_face: float
    format: str
    quality: int
    jobs: int
    every: int | None
    overwrite: bool
    only: str | None = None  # one file in `src`; None: all of them
    strict: bool = False

    @property
    def output(self) -> str:
        """What the crops depend on, beside the faces that were found."""
        height, width = self.size
        parts = (f"{height}x{width}", self.select, self.min_face, self.format, self.quality)
        return " ".join(map(str, parts))


@dataclass(frozen=True)
class Item:
    """One image to look at: a file, or a frame of a video."""

    name: str
    path: Path
    stat: Stat
    target: Path  # of the first face, or of all with a number added
    frame: NDArray[np.uint8] | None = None
    of_video: bool = False


class Aligner:
    """Detects, cuts out and writes, in threads."""

    def __init__(self, settings: Settings, detector: Detector) -> None:
        self.settings = settings
        self.detector = detector
        self.videos_left_out = 0
        self.passed_over = PassedOver()
        self.left_behind: list[str] = []
        self._claims: dict[Path, str] = {}  # the image that each crop is from
        self._names: frozenset[str] = frozenset()  # of the photographs

    def run(self, progress: ProgressCallback | None = None) -> list[Outcome]:
        """Write the faces of all images in SRC; return the outcomes, sorted by name.

        `progress` is called with (done, in all) after each image. ValueError: there is no image,
        two would be written to one file, or DST holds the faces of another folder.
        """
        settings = self.settings
        photos, videos = self._find()
        present = {*photos, *videos}
        if settings.every is None:
            self.videos_left_out, left_out, videos = len(videos), videos, []
            if settings.strict:
                for name in left_out:
                    self.passed_over.add(suffix_of(name), os.fspath(settings.src / name))
        if settings.strict:
            self.passed_over.refuse(settings.src)
        if not photos and not videos:
            hint = "; --every N takes frames of its videos" if self.videos_left_out else ""
            what = "is no photograph" if settings.only else "holds no photographs"
            told = self.passed_over.summary()
            more = f"{hint}; {told}" if told else hint
            raise ValueError(f"{settings.src / (settings.only or '')} {what}{more}")
        self._names = frozenset(photos)
        targets = targets_of(photos, settings.dst, settings.format)
        items = [self._item(name, targets[name]) for name in photos]
        self._claims = owners({item.name: item.target for item in items}, settings.dst)
        frames = sum(count_frames(settings.src / name, settings.every or 1) for name in videos)
        key = detector_key(self.detector)
        outcomes: list[Outcome] = []
        total = len(items) + frames
        with Journal(settings.dst, settings.src, key, overwrite=settings.overwrite) as journal:
            if settings.only is None:
                journal.take_folder()

            def done(outcome: Outcome) -> None:
                outcomes.append(outcome)
                if progress is not None:
                    progress(len(outcomes), max(total, len(outcomes)))

            places = targets_of(videos, settings.dst, settings.format)
            clips = (self._frames(name, place, journal, done) for name, place in places.items())
            work = itertools.chain(items, *clips)
            run_in_threads(lambda item: self._process(item, journal), work, settings.jobs, done)
            journal.remove_obsolete(outcome.found.name for outcome in outcomes)
            if settings.only is None:
                self.left_behind = journal.left_behind(present)
        return sorted(outcomes, key=lambda outcome: _natural(outcome.found.name))

    def _find(self) -> tuple[list[str], list[str]]:
        """Return the photographs and the videos in SRC, or the one file that is asked for."""
        src, only = self.settings.src, self.settings.only
        if only is None:
            return find_photos(src, self.passed_over, skip=[self.settings.dst])
        suffix = suffix_of(only)
        photo = suffix in UNREAD_SUFFIXES or is_image(src / only)
        return [only] if photo else [], [only] if suffix in VIDEO_SUFFIXES else []

    def _frames(
        self, name: str, place: Path, journal: Journal, done: Callable[[Outcome], None]
    ) -> Iterator[Item]:
        """Yield the frames of a video that need work; the outcomes of the others go to `done`."""
        video, format = self._item(name, place), self.settings.format
        stem = place.stem
        suffix = ".jpg" if format == "keep" else f".{format}"

        def frame_item(number: int, frame: NDArray[np.uint8] | None = None) -> Item:
            target = place.with_name(short_name(stem, f"_{number:06d}{suffix}"))
            return Item(f"{name}#{number}", video.path, video.stat, target, frame, of_video=True)

        def wanted(number: int) -> bool:
            settled = self._settled(frame_item(number), journal)
            if settled is not None:
                done(settled)
            return settled is None

        try:
            for number, frame in read_frames(video.path, self.settings.every or 1, wanted):
                yield frame_item(number, frame)
        except ValueError as error:
            done(Outcome(Found(name, of_video=True), problem=UNREADABLE, detail=str(error)))

    def _process(self, item: Item, journal: Journal) -> Outcome:
        """Find, choose, cut out and write the faces of one image."""
        settled = self._settled(item, journal)
        if settled is not None:
            return settled
        image, found = self._look(item, journal)
        outcome, targets, files = self._plan(item, found)
        owner = self._claims.setdefault(item.target, item.name)
        if owner == item.name:
            reason = journal.obstacle(item.name, files, self._names)
        else:  # a frame; photographs have been compared before
            reason = f"it would be written over that of {owner}"
        if reason is not None:
            return Outcome(found, problem=REFUSED, detail=reason)
        journal.claim(item.name, files)
        if image is not None:
            for target, face in zip(targets, outcome.taken, strict=True):
                crop = cut_out(image, face.points, self.settings.size)
                write_face(target, crop, self.settings.quality)
        found.files = files
        journal.written(item.name, self.settings.output, files)
        outcome.written = len(targets)
        return outcome

    def _look(self, item: Item, journal: Journal) -> tuple[NDArray[np.uint8] | None, Found]:
        """Return an image, None where reading it fails, and its faces, detected if not known."""
        found = journal.get(item.name, item.stat)
        try:
            image = read_photo(item.path) if item.frame is None else item.frame
        except (OSError, ValueError) as error:
            found = Found(item.name, broken=str(error))
            journal.found(found, item.stat)
            return None, found
        if found is None:
            faces = [rounded(face) for face in self.detector(image)]
            found = Found(item.name, (image.shape[0], image.shape[1]), faces)
            journal.found(found, item.stat)
        return image, found

    def _settled(self, item: Item, journal: Journal) -> Outcome | None:
        """Return the outcome for an image whose faces are there already, else None."""
        found = journal.get(item.name, item.stat)
        if found is None:
            return None
        outcome, _, files = self._plan(item, found)
        if not journal.is_done(item.name, self.settings.output, files):
            return None
        found.files = files
        outcome.kept = len(files)
        return outcome

    def _plan(self, item: Item, found: Found) -> tuple[Outcome, list[Path], list[str]]:
        """Return the outcome for an image with these faces, and its crops, also relative to DST."""
        found.of_video = item.of_video
        outcome = judge(found, self.settings.select, self.settings.min_face)
        targets = [item.target] * len(outcome.taken)
        if self.settings.select == "all":
            stem, suffix = item.target.stem, item.target.suffix
            numbers = range(1, len(targets) + 1)
            targets = [
                item.target.with_name(short_name(stem, f"_{number}{suffix}")) for number in numbers
            ]
        return outcome, targets, [t.relative_to(self.settings.dst).as_posix() for t in targets]

    def _item(self, name: str, target: Path) -> Item:
        """Return what to look at under a name in SRC."""
        path = self.settings.src / name
        stat: Stat = (0, 0)
        with contextlib.suppress(OSError):  # reading it will say why
            found = path.stat()
            stat = (found.st_size, found.st_mtime_ns)
        return Item(name, path, stat, target)


def detector_key(detector: Detector) -> str:
    """Return the text that tells results of another detector, or of other settings, apart."""
    config = detector.get_config()
    return " ".join([VERSION, *(f"{name}={value}" for name, value in config.items())])


def targets_of(names: Iterable[str], dst: Path, kind: str) -> dict[str, Path]:
    """Return where the face of each image goes; `kind` is that of `--format`.

    Where images differ in their suffix alone, as `a.heic` and `a.png`, one that keeps its name has
    it, and the others are told apart by theirs: `a_heic.png`.
    """
    targets = {name: output_path(dst, name, kind) for name in names}
    alike: dict[Path, list[str]] = {}
    for name, path in targets.items():
        alike.setdefault(path, []).append(name)
    for path, group in alike.items():
        for name in group if len(group) > 1 else ():
            if dst / name != path:
                suffix = path.suffix
                added = f"_{suffix_of(name)[1:]}{suffix}"
                targets[name] = path.with_name(short_name(path.name.removesuffix(suffix), added))
    return targets


def owners(targets: Mapping[str, Path], dst: Path) -> dict[Path, str]:
    """Return the image that each crop is from; ValueError where two images have one crop."""
    names: dict[Path, str] = {}
    for name, path in targets.items():
        owner = names.setdefault(path, name)
        if owner != name:
            raise ValueError(
                f"{name!r} and {owner!r} would both be written to {path.relative_to(dst)}"
            )
    return names


def run_in_threads(
    function: Callable[[Work], Outcome],
    work: Iterable[Work],
    jobs: int,
    done: Callable[[Outcome], None],
) -> None:
    """Call a function on all of `work` in threads, without reading far ahead of them.

    The calling thread takes the items from `work` and gives each result to `done`.
    """
    running: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for item in work:
                running.add(pool.submit(function, item))
                if len(running) > 2 * jobs:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        done(future.result())
            for future in running:
                done(future.result())
        except BaseException:  # an interrupt too: do not finish the queue first
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def output_path(dst: Path, name: str, kind: str) -> Path:
    """Return where the face of an image goes; `kind` is that of `--format`."""
    path = dst / name
    suffix = suffix_of(name)
    if kind == "keep":
        if suffix in (".jpg", ".jpeg", ".png"):
            return path
        kind = "png"
    known = suffix in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES, *VIDEO_SUFFIXES)
    stem = path.name[: -len(suffix)] if known else path.name  # `Tom.0001` has none
    return path.with_name(short_name(stem, f".{kind}"))


def _natural(name: str) -> tuple[str | int, ...]:
    """Sort frames of a video by number: `a.mp4#9` before `a.mp4#10`."""
    head, mark, number = name.rpartition("#")
    return (head, int(number)) if mark and re.fullmatch(r"\d+", number) else (name, -1)
