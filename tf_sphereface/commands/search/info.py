"""`tf_sphereface-search info`: what a gallery holds."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import EXIT_OK, add_json_option, console, write_json_option
from tf_sphereface.commands.search.shared import add_gallery, tell_threshold, tell_unfinished
from tf_sphereface.utils.messages import counted

SUMMARY = "show what a gallery holds: people, model, threshold and where it comes from"
DESCRIPTION = """\
Show what a gallery holds. Everything in it is compared with its checksum.

exit code: 0 shown, 2 the file is missing, damaged or no gallery
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_gallery(parser)
    parser.add_argument(
        "--search",
        choices=("exact", "usearch", "hnsw"),
        default="exact",
        help="how the nearest person is found: usearch by a graph in memory, hnsw by pgvector's on "
        "the server; prints how often either finds the nearest",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Show a gallery; return the exit code."""
    from tf_sphereface.search.gallery import Gallery

    gallery = Gallery.open(args.gallery, search=args.search)
    values = gallery.info()
    strangers = ""
    if values["strangers"]:
        pictures = counted(values["stranger_faces"], "picture")
        strangers = f"; {pictures} of {counted(values['strangers'], 'stranger')}"
    people = counted(values["people"], "person", "people")
    console.print(f"{people}, {counted(values['faces'], 'picture')}{strangers}", highlight=False)
    model = values["model"]
    if model is not None:
        where = f"{model['path'] or 'a model in memory'}, sha256 {model['sha256']}"
        console.print(f"model {where}", highlight=False, soft_wrap=True)
    tell_threshold(gallery.calibration)
    values["unfinished_enrollment"] = tell_unfinished(args.gallery)
    if args.search != "exact":
        values["recall"] = gallery.recall()
        console.print(
            f"recall of {args.search} against the exact answer: {values['recall']:.4f}",
            highlight=False,
        )
    write_json_option(args.json, values)
    return EXIT_OK
