"""What the subcommands of a gallery share: arguments, and what is told of a threshold."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tf_sphereface.commands.console import console, existing_dir, existing_file, note, warn
from tf_sphereface.commands.input_options import add_detector_option, add_strict_option
from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.utils.files import short_name
from tf_sphereface.utils.messages import and_more, counted, printable

if TYPE_CHECKING:
    from tf_sphereface.search import Enrollment, IdentificationThreshold

_ORIGINS = {
    "strangers": "measured on {pictures} of {strangers}",
    "people": "measured on {pictures} of {people} who are enrolled, each against the gallery "
    "without its person",
    "model": "from the model's own calibration, for the {gallery_pictures} that are enrolled",
    "given": "given by hand",
}


def add_gallery(parser: argparse.ArgumentParser, *, exists: bool = True) -> None:
    """Add the argument GALLERY."""
    parser.add_argument(
        "gallery",
        type=gallery_place if exists else new_gallery_place,
        metavar="GALLERY",
        help="the gallery's file, or postgresql://user@host/database",
    )


def gallery_place(text: str) -> Path | str:
    """An argparse type: the address of a gallery on a server, or a file that is there."""
    from tf_sphereface.search.postgres_connection import is_server

    return text if is_server(text) else existing_file(text)


def new_gallery_place(text: str) -> Path | str:
    """An argparse type: the address of a gallery on a server, or any file."""
    from tf_sphereface.search.postgres_connection import is_server

    return text if is_server(text) else Path(text)


def parts_of(gallery: Path | str) -> Path:
    """Return the folder that keeps the embeddings of an enrollment until it is finished.

    It lies beside a gallery's file; of a gallery on a server, in the current folder.
    """
    from tf_sphereface.search.gallery_stores import shown_place

    if isinstance(gallery, Path):
        return gallery.with_name(short_name(gallery.name, ".parts"))
    return Path(short_name(re.sub(r"\W+", "-", shown_place(gallery)), ".parts"))


def add_model_option(parser: argparse.ArgumentParser, why: str) -> None:
    """Add `--model FILE`."""
    parser.add_argument("--model", type=existing_file, metavar="FILE", help=why)


def add_people(parser: argparse.ArgumentParser) -> None:
    """Add the argument PEOPLE and the options of an enrollment."""
    parser.add_argument(
        "people",
        type=existing_dir,
        metavar="PEOPLE",
        help="a folder that holds a folder of images for each person, named as the person",
    )
    parser.add_argument(
        "--strangers",
        type=existing_dir,
        metavar="DIR",
        help="a folder of the same kind, of people who are not enrolled: the threshold is chosen "
        "on them, if they are enough, and their embeddings are kept in the gallery for that",
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="R",
        help="wanted share of strangers' pictures that get a name (default: that of the gallery, "
        "0.01 of a new one)",
    )
    add_strict_option(parser, ", or cannot be used")
    add_detector_option(parser)


def tell_enrollment(result: Enrollment) -> None:
    """Print what became of the pictures."""
    if result.problems:
        note(f"{counted(len(result.problems), 'picture')} could not be used:\n  {result.told()}")
    if result.several:
        note(
            f"several faces in {counted(len(result.several), 'photograph')}, such as "
            f"{result.several[0]}: the one nearest the center was taken"
        )
    if result.absent:
        note(
            f"not enrolled, {counted(len(result.absent), 'person', 'people')} of whom no picture "
            f"can be used: {and_more([printable(name) for name in result.absent], 10)}"
        )
    if result.merged:
        note(
            "folders of one name, spelled in two ways, are one person: "
            f"{and_more([printable(name) for name in result.merged], 10)}"
        )
    for passed_over in result.passed_over:
        if passed_over.summary():
            note(passed_over.summary())
    if result.kept:
        note(
            f"{counted(result.kept, 'picture')} had been embedded before the last call was stopped"
        )
    known = f", {result.known:,} in it already, or twice in the folder" if result.known else ""
    strangers = f", {result.strangers:,} of strangers" if result.strangers else ""
    pictures = counted(result.added, "picture")
    console.print(f"{pictures} enrolled{known}{strangers}", highlight=False)


def tell_unfinished(gallery: Path | str) -> bool:
    """Tell of an enrollment that is not finished, and return whether there is one."""
    parts = parts_of(gallery)
    if not parts.is_dir():
        return False
    note(
        f"an enrollment runs, or was stopped, and is not in the gallery: the "
        f"same call goes on with it (or delete {parts})"
    )
    return True


def tell_threshold(found: IdentificationThreshold) -> None:
    """Print the threshold, its rate and interval, and where it comes from."""
    from tf_sphereface.search.identification_threshold import ABOVE_NEAREST

    if found.threshold is None:
        warn(
            f"no threshold, so nobody can be named: {found.reason}. Give more pictures of "
            "--strangers, or a larger --rate, or calibrate the model first "
            "(tf_sphereface-eval calibrate)"
        )
        return
    origin = _ORIGINS[found.origin or "given"].format(
        pictures=counted(found.pictures, "picture"),
        people=counted(found.people, "person", "people"),
        strangers=counted(found.people, "stranger"),
        gallery_pictures=counted(found.gallery_pictures, "picture"),
    )
    console.print(
        f"threshold {float(degrees(found.threshold)):.2f}°, cosine {found.threshold:.4f}, {origin}",
        highlight=False,
        soft_wrap=True,
    )
    if found.not_strangers is not None:
        note(f"not chosen on the strangers: {found.not_strangers}")
    if found.origin == "model":
        console.print(
            f"strangers who get a name: {found.rate:.2%} wanted at most, {found.measured_rate:.2%} "
            "by the model's rate",
            highlight=False,
            soft_wrap=True,
        )
    if found.rate_interval is not None:
        low, high = found.rate_interval
        console.print(
            f"strangers who get a name: {found.rate:.2%} wanted at most, {found.measured_rate:.2%} "
            f"measured, 90 % interval {low:.2%} to {high:.2%}",
            highlight=False,
            soft_wrap=True,
        )
    if found.nearest is not None and found.nearest[2] >= found.threshold - ABOVE_NEAREST:
        who, whom, cosine = found.nearest
        note(
            f"most alike: {who} and {whom}, {float(degrees(cosine)):.1f}°. If they are one person, "
            "the threshold is higher than it need be"
        )


def _rate(text: str) -> float:
    """An argparse type: a share between 0 and 1, as 0.01 or 1%."""
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"a share between 0 and 1 is expected, not {text!r}")
    return value
