"""Photographs and videos to aligned faces: find, choose, cut out, write."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.alignment.align import align
from tf_sphereface.alignment.detector import FaceDetector, Selection
from tf_sphereface.alignment.images import PHOTO_SUFFIXES, find_images, read_photo, write_face
from tf_sphereface.alignment.journal import Found, Journal, Stat, rounded
from tf_sphereface.alignment.outcomes import REFUSED, UNREADABLE, Outcome, judge
from tf_sphereface.alignment.videos import VIDEO_SUFFIXES, count_frames, read_frames
from tf_sphereface.utils.messages import ProgressCallback

Work = TypeVar("Work")
VERSION = "1"  # of what the detector finds: another one detects again


@contextlib.contextmanager
def single_threaded_operations() -> Iterator[None]:
    """Let TensorFlow and OpenCV use one thread per operation, because whole images run in parallel.

    So the last bits of a sum do not depend on the number of cores either. TensorFlow can be told
    only before its first operation; afterwards it stays as it is.
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

    @property
    def output(self) -> str:
        """What the crops depend on, beside the faces that were found."""
        height, width = self.size
        parts = (f"{height}x{width}", self.select, self.min_face, self.format, self.quality)
        return " ".join(map(str, parts))


@dataclass(frozen=True)
class Item:
    """One image to look at: a file, or a frame of a video that has been read."""

    name: str
    path: Path
    stat: Stat
    target: Path  # of the first face, or of all with a number added
    frame: NDArray[np.uint8] | None = None
    of_video: bool = False


class Aligner:
    """Detects, cuts out and writes, in threads.

    Args:
        settings: what is asked for.
        detector: finds the faces.
    """

    def __init__(self, settings: Settings, detector: FaceDetector) -> None:
        self.settings = settings
        self.detector = detector
        self.videos_left_out = 0
        self._claims: dict[Path, str] = {}
        self._names: frozenset[str] = frozenset()  # of the photographs

    def run(self, progress: ProgressCallback | None = None) -> list[Outcome]:
        """Look at everything in SRC and write the faces.

        Args:
            progress: called with (done, in all) after each image.

        Returns:
            What became of each image, sorted by name.

        Raises:
            ValueError: there is nothing to look at, two photographs would be written to one
                file, or DST holds the faces of another folder.
        """
        settings = self.settings
        photos, videos = self._find(PHOTO_SUFFIXES), self._find(VIDEO_SUFFIXES)
        if settings.every is None:
            self.videos_left_out, videos = len(videos), []
        if not photos and not videos:
            hint = "; --every N takes frames of its videos" if self.videos_left_out else ""
            what = "is no photograph" if settings.only else "holds no photographs"
            raise ValueError(f"{settings.src / (settings.only or '')} {what}{hint}")
        self._names = frozenset(photos)
        items = [self._item(name) for name in photos]
        for item in items:
            self._claim(item)
        frames = sum(count_frames(settings.src / name, settings.every or 1) for name in videos)
        config = self.detector.get_config()
        key = " ".join([VERSION, *(f"{name}={value:g}" for name, value in config.items())])
        outcomes: list[Outcome] = []
        with Journal(settings.dst, settings.src, key, fresh=settings.overwrite) as journal:
            if settings.only is None:
                self._take_folder(journal)
            total = len(items) + frames

            def done(outcome: Outcome) -> None:
                outcomes.append(outcome)
                if progress is not None:
                    progress(len(outcomes), max(total, len(outcomes)))

            work = self._all(items, videos, journal, done)
            run_in_threads(lambda item: self._process(item, journal), work, settings.jobs, done)
            journal.remove_obsolete(outcome.found.name for outcome in outcomes)
        return sorted(outcomes, key=lambda outcome: _natural(outcome.found.name))

    def _take_folder(self, journal: Journal) -> None:
        """Refuse a DST whose lists and faces are those of another folder."""
        if journal.of_another_folder and not self.settings.overwrite:
            raise ValueError(
                "DST must be a folder of its own for each SRC: its faces and lists are those of "
                f"{journal.folder}, and --overwrite replaces them. Received: {self.settings.dst}"
            )
        journal.take_folder()

    def _find(self, suffixes: tuple[str, ...]) -> list[str]:
        """Return the names of what SRC holds, or of the one file that is asked for."""
        only = self.settings.only
        if only is not None:
            return [only] if only.lower().endswith(suffixes) else []
        return find_images(self.settings.src, suffixes, skip=[self.settings.dst])

    def _all(
        self,
        items: list[Item],
        videos: list[str],
        journal: Journal,
        done: Callable[[Outcome], None],
    ) -> Iterator[Item]:
        """Yield the photographs, then the frames that need work."""
        yield from items
        for name in videos:
            path = self.settings.src / name
            before = self._item(name)

            def frame_item(
                number: int, frame: NDArray[np.uint8] | None = None, video: Item = before
            ) -> Item:
                suffix = ".jpg" if self.settings.format == "keep" else f".{self.settings.format}"
                stem = video.target.with_suffix("")
                target = stem.with_name(f"{stem.name}_{number:06d}{suffix}")
                name = f"{video.name}#{number}"
                return Item(name, video.path, video.stat, target, frame, of_video=True)

            def wanted(number: int, make: Callable[..., Item] = frame_item) -> bool:
                settled = self._settled(make(number), journal)
                if settled is not None:
                    done(settled)
                return settled is None

            try:
                for number, frame in read_frames(path, self.settings.every or 1, wanted):
                    yield frame_item(number, frame)
            except ValueError as error:
                done(Outcome(Found(name, of_video=True), problem=UNREADABLE, detail=str(error)))

    def _process(self, item: Item, journal: Journal) -> Outcome:
        """Find, choose, cut out and write the faces of one image."""
        settled = self._settled(item, journal)
        if settled is not None:
            return settled
        image, found = self._look(item, journal)
        outcome = self._judge(found)
        targets = self._targets(item, outcome)
        files = self._files(targets)
        reason = self._obstacle(item, files, journal)
        if reason is not None:
            return Outcome(found, problem=REFUSED, detail=reason)
        journal.claim(item.name, files)
        if image is not None:
            for target, face in zip(targets, outcome.taken, strict=True):
                crop = align(image, face.points, self.settings.size, antialias=True)
                write_face(target, crop, self.settings.quality)
        found.files = files
        journal.written(item.name, self.settings.output, files)
        outcome.written = len(targets)
        return outcome

    def _look(self, item: Item, journal: Journal) -> tuple[NDArray[np.uint8] | None, Found]:
        """Read an image, None where that fails, and find its faces, unless they are known."""
        image, found = item.frame, journal.get(item.name, item.stat)
        try:
            if image is None and (found is None or found.broken is None):
                image = read_photo(item.path)
        except (OSError, ValueError) as error:
            image, found = None, Found(item.name, broken=str(error))
            journal.found(found, item.stat)
        if found is None and image is not None:
            faces = [rounded(face) for face in self.detector(image)]
            found = Found(item.name, (image.shape[0], image.shape[1]), faces)
            journal.found(found, item.stat)
        if found is None:
            raise RuntimeError(f"nothing is known about {item.name}")
        found.of_video = item.of_video
        return image, found

    def _obstacle(self, item: Item, files: list[str], journal: Journal) -> str | None:
        """Say why the faces of an image may not be written; None if they may."""
        owner = self._claims.setdefault(item.target, item.name)
        if owner != item.name:  # a frame; photographs have been compared before
            return f"it would be written over that of {owner}"
        if self.settings.overwrite:
            return None
        return journal.obstacle(item.name, files, self._names)

    def _settled(self, item: Item, journal: Journal) -> Outcome | None:
        """Return the outcome for an image whose faces are there already, else None."""
        found = journal.get(item.name, item.stat)
        if found is None:
            return None
        outcome = self._judge(found)
        files = self._files(self._targets(item, outcome))
        if not journal.is_done(item.name, self.settings.output, files):
            return None
        found.files, found.of_video = files, item.of_video
        outcome.kept = len(files)
        return outcome

    def _files(self, targets: list[Path]) -> list[str]:
        """Return the crops as the journal names them."""
        return [target.relative_to(self.settings.dst).as_posix() for target in targets]

    def _judge(self, found: Found) -> Outcome:
        return judge(found, self.settings.select, self.settings.min_face)

    def _targets(self, item: Item, outcome: Outcome) -> list[Path]:
        """Return where the faces of an image go."""
        if self.settings.select != "all":
            return [item.target] * len(outcome.taken)
        return [
            item.target.with_name(f"{item.target.stem}_{number}{item.target.suffix}")
            for number in range(1, len(outcome.taken) + 1)
        ]

    def _item(self, name: str) -> Item:
        """Return what to look at under a name in SRC."""
        path = self.settings.src / name
        stat: Stat = (0, 0)
        with contextlib.suppress(OSError):  # reading it will say why
            found = path.stat()
            stat = (found.st_size, found.st_mtime_ns)
        return Item(name, path, stat, output_path(self.settings.dst, name, self.settings.format))

    def _claim(self, item: Item) -> None:
        """Refuse two photographs for one face."""
        owner = self._claims.setdefault(item.target, item.name)
        if owner != item.name:
            raise ValueError(
                f"{item.name!r} and {owner!r} would both be written to "
                f"{item.target.relative_to(self.settings.dst)}"
            )


def run_in_threads(
    function: Callable[[Work], Outcome],
    work: Iterable[Work],
    jobs: int,
    done: Callable[[Outcome], None],
) -> None:
    """Call a function on everything, a few more in hand than there are threads.

    Args:
        function: what the threads run.
        work: its arguments; taken, as `done` is called, in the calling thread.
        jobs: number of threads.
        done: takes each result.
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
    if kind == "keep":
        keeps = path.suffix.lower() in (".jpg", ".jpeg", ".png")
        return path if keeps else path.with_suffix(".png")
    return path.with_suffix(f".{kind}")


def _natural(name: str) -> tuple[str | int, ...]:
    """Sort frames of a video by number: `a.mp4#9` before `a.mp4#10`."""
    head, mark, number = name.rpartition("#")
    return (head, int(number)) if mark and re.fullmatch(r"\d+", number) else (name, -1)
