"""`tf_sphereface-search join`: the tables of a job's shares as one."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import (
    EXIT_OK,
    add_json_option,
    console,
    existing_file,
    write_json_option,
)
from tf_sphereface.commands.search.embed import table_file
from tf_sphereface.utils.messages import counted

SUMMARY = "join the tables that `embed --share` has written"
DESCRIPTION = """\
Join the tables of all shares of a job into one, in the order of the shares. Tables of another model
or source, and a share that is missing or there twice, are refused."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "tables", type=existing_file, nargs="+", metavar="TABLE", help="of a share each, any order"
    )
    parser.add_argument(
        "--out", type=table_file, required=True, metavar="FILE", help="the table, .npz or .parquet"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Join; return the exit code."""
    from tf_sphereface.search.face_table import join_faces

    result = join_faces(args.tables, args.out)
    faces, shares = counted(result["faces"], "face"), counted(result["shares"], "share")
    console.print(f"{args.out}: {faces} of {shares}")
    write_json_option(args.json, {"out": str(args.out), **result})
    return EXIT_OK
