"""`tf_sphereface-search`: who is it? Galleries of people, and strangers who stay unknown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import ModuleType

from tf_sphereface.commands.console import HelpFormatter, command, make_parser
from tf_sphereface.commands.search import (
    add,
    cluster,
    copy_,
    embed,
    enroll,
    info,
    join,
    remove,
    who,
)

DESCRIPTION = """\
Name the people in photographs, from a gallery of people who were enrolled. Who is not in it is
unknown: the gallery's threshold is measured for a wanted rate of strangers who get a name.
"""
EXAMPLES = """\
  tf_sphereface-search embed embedder.keras photos/ --out faces.npz
  tf_sphereface-search embed embedder.keras faces.rec --share 3/8 --out faces-3.parquet
  tf_sphereface-search join faces-?.parquet --out faces.parquet
  tf_sphereface-search cluster photos/ --model embedder.keras --out people/
  tf_sphereface-search enroll staff.gallery --model embedder.onnx people/
  tf_sphereface-search who staff.gallery photo.jpg --show names.jpg --json names.json
  tf_sphereface-search add staff.gallery newcomers/
  tf_sphereface-search remove staff.gallery "Ann Other"
  tf_sphereface-search info staff.gallery
  tf_sphereface-search copy staff.gallery postgresql://anna@db.example.org/staff"""

# Each module has SUMMARY (one line), DESCRIPTION, add_arguments(parser) and run(args) -> exit code.
SUBCOMMANDS: dict[str, ModuleType] = {
    "embed": embed,
    "join": join,
    "cluster": cluster,
    "enroll": enroll,
    "add": add,
    "remove": remove,
    "info": info,
    "copy": copy_,
    "who": who,
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command and its subcommands."""
    parser = make_parser("search", DESCRIPTION, EXAMPLES)
    choices = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, module in SUBCOMMANDS.items():
        module.add_arguments(
            choices.add_parser(
                name,
                help=module.SUMMARY,
                description=module.DESCRIPTION,
                formatter_class=HelpFormatter,
            )
        )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    code: int = SUBCOMMANDS[args.subcommand].run(args)
    return code


if __name__ == "__main__":
    raise SystemExit(main(None))
