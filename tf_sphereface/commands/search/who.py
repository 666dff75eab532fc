"""`tf_sphereface-search who`: the names of the faces in photographs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tf_sphereface.commands.console import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    CommandError,
    add_json_option,
    console,
    note,
    output_file,
    warn,
    write_json_option,
)
from tf_sphereface.commands.input_options import add_detector_option
from tf_sphereface.commands.search.shared import (
    add_gallery,
    add_model_option,
    tell_unfinished,
)
from tf_sphereface.utils.messages import printable

if TYPE_CHECKING:
    from tf_sphereface.alignment.photo_reader import PhotoFace
    from tf_sphereface.embedder.embedder import Embedder
    from tf_sphereface.search.gallery import Gallery
    from tf_sphereface.search.photo_faces import PhotoFaces

EXIT_NO_VERDICT = 3
SUMMARY = "name the faces in photographs; who is not enrolled is unknown"
DESCRIPTION = """\
Name the faces in photographs, with the angle to the person and the margin over the next one. Who is
too far from everybody is unknown. Nobody is in one photograph twice: a name goes to the nearest
face. Images of the model's size are taken as aligned faces.

exit code: 0 every face has a name, 1 a face is unknown, 2 bad input (a file that is missing or no
image, no face in it, a result that could not be written), 3 the gallery has no threshold, so there
is no verdict
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_gallery(parser)
    parser.add_argument(
        "photos", nargs="+", type=Path, metavar="PHOTO", help="a photograph or a face"
    )
    add_model_option(parser, "the gallery's model, where its file has moved")
    add_detector_option(parser)
    parser.add_argument(
        "--show",
        type=output_file,
        metavar="FILE",
        help="a .png or .jpg of the photographs with the names",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Name faces; return the exit code."""
    if args.show is not None and args.show.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise CommandError(f"--show must end in .png or .jpg. Received: {args.show}")

    from tf_sphereface.commands.search.picture import write_picture
    from tf_sphereface.search.gallery import Gallery
    from tf_sphereface.search.photo_faces import PhotoFaces

    gallery = Gallery.open(args.gallery)
    tell_unfinished(args.gallery)
    embedder = gallery.model(args.model)
    reader = PhotoFaces(embedder.input_size, detector=args.detector)
    answers: list[dict[str, Any]] = []
    shown: list[tuple[list[PhotoFace], list[dict[str, Any]]]] = []
    for path in args.photos:
        faces, answer = _answer(path, gallery, embedder, reader)
        answers.append(answer)
        _tell(answer, gallery.threshold)
        if faces:
            shown.append((faces, answer["faces"]))
    if gallery.threshold is None:
        warn(f"the gallery has no threshold, so there is no verdict: {gallery.calibration.reason}")
    if args.show is not None and shown:
        write_picture(args.show, shown)
        note(f"wrote {args.show}")
    write_json_option(args.json, answers)
    return _exit_code(answers, gallery.threshold)


def _answer(
    path: Path, gallery: Gallery, embedder: Embedder, reader: PhotoFaces
) -> tuple[list[PhotoFace], dict[str, Any]]:
    """Return the faces of a photograph, and what `--json` says of them."""
    from tf_sphereface.search.named_faces import name_faces

    try:
        faces = reader(path)
    except (OSError, ValueError) as error:
        return [], {"file": str(path), "faces": [], "error": str(error)}
    if not faces:
        return [], {"file": str(path), "faces": [], "error": f"{path}: no face was found in it"}
    values = name_faces(faces, gallery, embedder)
    return faces, {"file": str(path), "faces": values}


def _tell(answer: dict[str, Any], threshold: float | None) -> None:
    """Print a line for each face."""
    file = printable(answer["file"])
    if "error" in answer:
        warn(printable(answer["error"]))
    for face in answer["faces"]:
        line = Text(f"{file}: ")
        if face["name"] is not None:
            line.append(face["name"], "bold green")
        elif threshold is None:
            line.append(f"no verdict, nearest {face['nearest']}", "bold yellow")
        else:
            line.append("unknown", "bold red")
        if face["cosine"] is None:
            line.append(", its embedding is zero or not finite, or nobody is enrolled")
        else:
            line.append(f", angle {face['angle']:.2f}°, cosine {face['cosine']:.4f}")
        if face["margin"] is not None:
            line.append(f", {face['margin']:.2f}° before the next")
        if face["box"] is not None:
            line.append(f", at {', '.join(f'{value:.0f}' for value in face['box'])}")
        console.print(line, soft_wrap=True)


def _exit_code(answers: list[dict[str, Any]], threshold: float | None) -> int:
    faces = [face for answer in answers for face in answer["faces"]]
    if any("error" in answer for answer in answers):
        return EXIT_USAGE
    if threshold is None:
        return EXIT_NO_VERDICT
    return EXIT_OK if all(face["name"] is not None for face in faces) else EXIT_CHECK_FAILED
