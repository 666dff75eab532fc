"""`tf_sphereface-search enroll`: people into a gallery."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tf_sphereface.commands.console import (
    EXIT_OK,
    CommandError,
    add_json_option,
    console,
    progress_bar,
    warn,
    write_json_option,
)
from tf_sphereface.commands.input_options import add_input_options, input_facts
from tf_sphereface.commands.search.shared import (
    add_gallery,
    add_model_option,
    add_people,
    parts_of,
    tell_enrollment,
    tell_threshold,
    tell_unfinished,
)
from tf_sphereface.utils.messages import counted
from tf_sphereface.utils.people_names import alike_names

if TYPE_CHECKING:
    from tf_sphereface.embedder.embedder import Embedder
    from tf_sphereface.search.enrollment import Enrollment
    from tf_sphereface.search.gallery import Gallery

SUMMARY = "make a gallery of a folder that holds a folder of pictures for each person"
DESCRIPTION = """\
Enroll people: a folder for each, named as the person, with one picture or more. Images of the
model's size are aligned faces; in others the face nearest the center is found and aligned, which
needs the package mtcnn: pip install "tf_sphereface[align]". A picture that cannot be used is named
and counted, and ends nothing.

The threshold is chosen for a wanted rate of strangers' pictures that get a name (--rate), on
--strangers, or else on the enrolled people, each against the gallery without them, or else from the
model's own calibration. Too few pictures for the rate give no threshold. A gallery that is there
already gets the people in addition, if it is the same model's.

It changes at the end, at once. Until then embeddings are kept in the folder GALLERY.parts, 64
pictures at a time: where the command was stopped or killed, the same call goes on.

exit code: 0 enrolled, 2 bad input (the gallery stays as it was)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_gallery(parser, exists=False)
    add_people(parser)
    add_model_option(parser, "a .keras, .tflite or .onnx file; needed for a new gallery")
    add_input_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Enroll people; return the exit code."""
    from tf_sphereface.embedder.embedder import load_embedder
    from tf_sphereface.search.gallery import Gallery
    from tf_sphereface.search.gallery_stores import gallery_exists, shown_place

    model = None
    new, shown = not gallery_exists(args.gallery), shown_place(args.gallery)
    if new and args.model is None:
        raise CommandError(f"a new gallery needs --model. Received: {shown}, not there yet")
    facts = input_facts(args)
    if args.model is not None:
        model = load_embedder(args.model, **facts)
    elif given := [name for name, value in facts.items() if value is not None]:
        raise CommandError(
            f"--{given[0].replace('_', '-')} goes with --model: a gallery remembers how its model "
            "is fed"
        )
    gallery = Gallery.create(None, model) if new else Gallery.open(args.gallery)
    try:
        result = _enrolled(args, gallery, model)
    except BaseException:
        tell_unfinished(args.gallery)
        raise
    if new:
        gallery.save(args.gallery)
    shutil.rmtree(kept_in(args), ignore_errors=True)
    for old in parts_of(args.gallery).glob("*.npz"):  # of version 0.1.0, which kept them there
        old.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another enrollment keeps something there
        parts_of(args.gallery).rmdir()
    tell_enrollment(result)
    if (alike := alike_names(gallery.names, shown)) is not None:
        warn(alike)
    people = counted(len(gallery), "person", "people")
    console.print(f"{shown}: {people}", highlight=False, soft_wrap=True)
    tell_threshold(gallery.calibration)
    values = {"added": result.added, "known": result.known, "problems": result.problems}
    values |= {"absent": result.absent, "merged": result.merged}
    write_json_option(args.json, {**gallery.info(), **values})
    return EXIT_OK


def kept_in(args: argparse.Namespace) -> Path:
    """Return where this enrollment keeps its embeddings, beside those of others."""
    folders = [str(folder and folder.resolve()) for folder in (args.people, args.strangers)]
    digest = hashlib.sha256(json.dumps(folders).encode()).hexdigest()
    return parts_of(args.gallery) / digest[:12]


def _enrolled(args: argparse.Namespace, gallery: Gallery, model: Embedder | None) -> Enrollment:
    with progress_bar("faces") as progress:
        return gallery.enroll(
            args.people,
            model,
            strangers=args.strangers,
            rate=args.rate,
            strict=args.strict,
            detector=args.detector,
            keep_in=kept_in(args),
            progress=progress,
        )
