"""Outcomes of aligning photographs, one per image, and the lists that are written of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tf_sphereface.alignment.detector import Face, Selection, choose
from tf_sphereface.alignment.journal import Found
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.utils.files import atomic_path, write_json

UNREADABLE, NO_FACE, TOO_SMALL = "unreadable", "no face", "too small"
SEVERAL, REFUSED, IMPLAUSIBLE = "several faces", "not written", "points of no face"
FAILURES = (UNREADABLE, NO_FACE, TOO_SMALL, REFUSED, IMPLAUSIBLE)  # no crop came of it


@dataclass
class Outcome:
    """What became of one image.

    Args:
        found: the image and its faces.
        taken: the faces that were cut out.
        problem: "unreadable", "no face", "too small", "several faces", "not written", "points of no
            face" (of given points) or None.
        detail: more about it, in words.
        written: number of crops written now.
        kept: number of crops that were there already.
    """

    found: Found
    taken: list[Face] = field(default_factory=list)
    problem: str | None = None
    detail: str = ""
    written: int = 0
    kept: int = 0


@dataclass(frozen=True)
class AlignResult:
    """What `align_photos` or `align_by_landmarks` did.

    Args:
        outcomes: of all images, in order.
        seconds: duration, without loading the detector.
        passed_over: files in the folder that are neither images nor videos.
        videos_left_out: videos among the photographs, where no frames were asked for.
        landmarks: the file of detected points; None if they were given.
        report: the list of problems; None if the points were given.
        report_written: whether that list was written now; lists that belong to another image's
            faces are not replaced.
        left_behind: crops in the target of files that the folder had and has no more.

    Example:

    >>> outcomes = [Outcome(Found("1.jpg"), written=1), Outcome(Found("2.jpg"), problem="no face")]
    >>> result = AlignResult(outcomes, seconds=0.2)
    >>> result.written, result.counts()["no face"]
    (1, 1)
    """

    outcomes: list[Outcome]
    seconds: float
    passed_over: PassedOver = field(default_factory=PassedOver)
    videos_left_out: int = 0
    landmarks: Path | None = None
    report: Path | None = None
    report_written: bool = False
    left_behind: Sequence[str] = ()

    @property
    def written(self) -> int:
        """Number of crops written now."""
        return sum(outcome.written for outcome in self.outcomes)

    @property
    def kept(self) -> int:
        """Number of crops that were there already."""
        return sum(outcome.kept for outcome in self.outcomes)

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes of images that gave no crop."""
        return [outcome for outcome in self.outcomes if outcome.problem in FAILURES]

    def counts(self) -> dict[str, int]:
        """Return how many images have each problem."""
        return {
            problem: sum(outcome.problem == problem for outcome in self.outcomes)
            for problem in (NO_FACE, SEVERAL, TOO_SMALL, UNREADABLE, REFUSED)
        }


def judge(found: Found, select: Selection, min_face: float) -> Outcome:
    """Return the faces to cut out, and the problem if there is one."""
    if found.broken is not None or found.size is None:
        return Outcome(found, problem=UNREADABLE, detail=found.broken or "")
    large = [face for face in found.faces if face.side >= min_face]
    taken = choose(large, found.size, select)
    if not taken:
        if found.faces:
            side = max(face.side for face in found.faces)
            detail = f"the largest face has {side:.0f} pixels, --min-face is {min_face:g}"
            return Outcome(found, problem=TOO_SMALL, detail=detail)
        if min(found.size) < min_face:
            detail = f"the image has {found.size[0]}x{found.size[1]} pixels"
            return Outcome(found, problem=TOO_SMALL, detail=detail)
        return Outcome(found, problem=NO_FACE)
    if len(large) > 1:
        which = {"center": "nearest the centre", "largest": "the largest", "all": "all"}[select]
        smaller = len(found.faces) - len(large)
        told = f"{len(large)} faces" + (f", {smaller} too small" if smaller else "")
        return Outcome(found, taken, SEVERAL, f"{told}; taken: {which}")
    return Outcome(found, taken)


def write_landmarks(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the points of the photographs' faces as a landmark file.

    Of several faces in one photograph the one nearest the centre is listed. Frames of videos have
    no line: a landmark file names files. A name that would read as a comment gets `./` before it;
    one that would break the line is left out, and a comment says so.
    """
    lines = ["# image, x and y of left eye, right eye, nose, left and right mouth corner"]
    for outcome in outcomes:
        size = outcome.found.size
        if outcome.taken and size is not None and not outcome.found.of_video:
            (face,) = choose(outcome.taken, size, "center")
            numbers = [f"{value:.2f}" for value in face.points.ravel()]
            name = outcome.found.name
            if any(mark in name for mark in "\t\r\n"):
                lines.append(f"# left out, for a tab or line break in the name: {name!r}")
            else:
                lines.append("\t".join([f"./{name}" if name.startswith("#") else name, *numbers]))
    _write_lines(path, lines)


def write_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the problems as a .tsv, a line per image, or everything about all images as .json."""
    if path.suffix.lower() == ".json":
        write_json(path, {"images": [_describe(outcome) for outcome in outcomes]})
        return
    lines = ["image\tproblem\tfaces\tdetail"]
    for outcome in outcomes:
        if outcome.problem is not None:
            detail = " ".join(outcome.detail.split())
            count = str(len(outcome.found.faces))
            lines.append("\t".join([outcome.found.name, outcome.problem, count, detail]))
    _write_lines(path, lines)


def _write_lines(path: Path, lines: list[str]) -> None:
    with atomic_path(path) as temporary:
        text = "\n".join(lines) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # of names


def _describe(outcome: Outcome) -> dict[str, Any]:
    found = outcome.found
    return {
        "image": found.name,
        "size": found.size,
        "problem": outcome.problem,
        "detail": outcome.detail,
        "files": found.files,
        "faces": [
            {
                "box": face.box.tolist(),
                "score": face.score,
                "points": face.points.tolist(),
                "taken": any(face is taken for taken in outcome.taken),
            }
            for face in found.faces
        ],
    }
