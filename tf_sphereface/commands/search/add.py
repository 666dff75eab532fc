"""`tf_sphereface-search add`: more people, or more pictures of people, into a gallery."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import add_json_option
from tf_sphereface.commands.input_options import add_input_options
from tf_sphereface.commands.search import enroll
from tf_sphereface.commands.search.shared import add_gallery, add_model_option, add_people

SUMMARY = "add people, or more pictures of people, to a gallery"
DESCRIPTION = """\
Add people to a gallery that is there, or pictures of people who are in it; what is in it already is
left out. The threshold is chosen anew: a larger gallery needs a higher one.

exit code: 0 added, 2 bad input (the gallery stays as it was)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    add_gallery(parser)
    add_people(parser)
    add_model_option(parser, "the gallery's model, where its file has moved")
    add_input_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Add people; return the exit code."""
    return enroll.run(args)
