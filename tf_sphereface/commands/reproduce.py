"""`tf_sphereface-reproduce`: the paper's experiments, run again on this machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from tf_sphereface.commands.console import (
    CommandError,
    command,
    console,
    error_console,
    existing_dir,
    make_parser,
    positive_int,
    progress,
)

DESCRIPTION = """\
Run the paper's experiments again, and write what comes out as a page with figures.

Without any data: the embeddings of handwritten digits and of synthetic faces on the circle and the
sphere, the lower bounds of the margin, and the decision boundaries. With faces to train on and LFW
to verify on: the ablation on m over three seeds, depth, lambda's minimum, the released layer's
gradient, every loss of the library, and what saves time.

Every arm is kept as JSON when it is done. The same command again goes on where it was."""

EXAMPLES = """\
  tf_sphereface-reproduce --out paper --quick                 # 3 minutes, synthetic faces
  tf_sphereface-reproduce --out paper --data FACES --lfw LFW  # all, some 50 minutes on 2 cores
                                                              # that multiply bfloat16
  tf_sphereface-reproduce --out paper --parts embeddings bounds boundaries
  tf_sphereface-reproduce --out paper --data FACES --lfw LFW --parts full-size   # 112x96
  tf_sphereface-reproduce --out paper --data FACES --lfw LFW --parts margin-seeds loss-seeds
  tf_sphereface-reproduce --out paper --parts none            # write the page again

FACES holds one folder a person, of faces aligned to 112x96. LFW holds images/NAME/NAME_0001.jpg,
pairs.txt and landmarks.tsv."""


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    from tf_sphereface.reproduce.experiments import GEOMETRY, NAMES, ON_REQUEST
    from tf_sphereface.reproduce.workers import MOST

    parser = make_parser("reproduce", DESCRIPTION, EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("paper"), metavar="DIR")
    parser.add_argument(
        "--data",
        type=existing_dir,
        metavar="DIR",
        help="faces to train on; else celeba_faces in $TF_SPHEREFACE_DATA",
    )
    parser.add_argument(
        "--lfw",
        type=existing_dir,
        metavar="DIR",
        help="pairs to verify on; else lfw_subset in $TF_SPHEREFACE_DATA",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=(*NAMES, "none"),
        metavar="PART",
        help=f"of {', '.join(NAMES)}; by default all but {', '.join(ON_REQUEST)}. Without data: "
        f"{', '.join(GEOMETRY)}",
    )
    parser.add_argument(
        "--jobs",
        type=positive_int,
        metavar="N",
        help=f"arms at a time, some 2 GB each; by default one a core and {MOST} at most, or 1 with "
        "a GPU",
    )
    parser.add_argument("--quick", action="store_true", help="a smaller run, on synthetic faces")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="where to write the page, its figures into images/paper beside it; else DIR/paper.md",
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from tf_sphereface.reproduce import experiments

    arguments = build_parser().parse_args(argv)
    began = time.monotonic()
    if arguments.quick and (arguments.data or arguments.lfw):
        raise CommandError("--quick renders its own faces: leave out --data and --lfw")
    arguments.out.mkdir(parents=True, exist_ok=True)
    page = experiments.reproduce(
        arguments.out,
        parts=arguments.parts,
        data=arguments.data,
        lfw=arguments.lfw,
        quick=arguments.quick,
        jobs=arguments.jobs,
        page=arguments.page,
        say=lambda text: error_console.print(text, markup=False, highlight=False),
        progress=progress,
    )
    console.print(f"{page}; {(time.monotonic() - began) / 60:.1f} minutes", highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
