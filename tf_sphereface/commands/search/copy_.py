"""`tf_sphereface-search copy`: a gallery into another kind of database."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import EXIT_OK, console
from tf_sphereface.commands.search.shared import gallery_place, new_gallery_place
from tf_sphereface.utils.messages import counted

SUMMARY = "copy a gallery from a file to a PostgreSQL server, or back"
DESCRIPTION = """\
Copy a gallery into a new one: a file, or a PostgreSQL database with pgvector (the extra postgres),
given as postgresql://user@host/database; a password is better left to ~/.pgpass. What was written
is read again, and its checksum compared.

exit code: 0 copied, 2 bad input, such as a damaged gallery, or one that is there already
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("source", type=gallery_place, metavar="FROM", help="the gallery")
    parser.add_argument(
        "target", type=new_gallery_place, metavar="TO", help="the new one, which must not be there"
    )


def run(args: argparse.Namespace) -> int:
    """Copy a gallery; return the exit code."""
    from tf_sphereface.search.gallery_stores import copy_gallery, shown_place

    record, checksum = copy_gallery(args.source, args.target)
    strangers = int(record.is_stranger.sum())
    also = f", {counted(strangers, 'stranger')}" if strangers else ""
    console.print(
        f"{counted(len(record.names) - strangers, 'person', 'people')}{also}, "
        f"{counted(len(record.vectors), 'picture')} copied to "
        f"{shown_place(args.target)}, sha256 {checksum}",
        highlight=False,
        soft_wrap=True,
    )
    return EXIT_OK
