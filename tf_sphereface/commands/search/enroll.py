"""`tf_sphereface-search enroll`: people into a gallery."""

from __future__ import annotations

import argparse

SUMMARY = "make a gallery of a folder that holds a folder of photographs for each person"
DESCRIPTION = SUMMARY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("gallery", metavar="GALLERY")


def run(args: argparse.Namespace) -> int:
    """Enroll people; return the exit code."""
    raise NotImplementedError
