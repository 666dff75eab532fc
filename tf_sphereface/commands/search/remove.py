"""`tf_sphereface-search remove`: people out of a gallery."""

from __future__ import annotations

import argparse
import shutil

from tf_sphereface.commands.console import EXIT_OK, console, note
from tf_sphereface.commands.search.shared import add_gallery, parts_of, tell_threshold
from tf_sphereface.utils.messages import counted

SUMMARY = "remove people from a gallery"
DESCRIPTION = """\
Remove people with all their pictures; their bytes are overwritten in the file, and what an
unfinished enrollment keeps beside it is deleted, as it may be theirs. The threshold is chosen anew.

exit code: 0 removed, 2 bad input, such as a name that is not there (nobody is removed then)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_gallery(parser)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a person, or a stranger")


def run(args: argparse.Namespace) -> int:
    """Remove people; return the exit code."""
    from tf_sphereface.search.gallery import Gallery

    gallery = Gallery.open(args.gallery)
    pictures = gallery.remove(args.names)
    console.print(
        f"{counted(len(set(args.names)), 'name')} removed with "
        f"{counted(pictures, 'picture')}; {counted(len(gallery), 'person', 'people')} left",
        highlight=False,
    )
    parts = parts_of(args.gallery)
    if parts.is_dir():
        shutil.rmtree(parts)
        note(f"{parts}, embeddings of an enrollment that is not finished, was deleted as well")
    tell_threshold(gallery.calibration)
    return EXIT_OK
