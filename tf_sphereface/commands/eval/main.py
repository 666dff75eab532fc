"""`tf_sphereface-eval`: judge a face verifier by a protocol."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tf_sphereface.commands.console import command, make_parser
from tf_sphereface.commands.eval import (
    bin,
    bins,
    calibrate,
    check,
    folder,
    identify,
    ijb,
    lfw,
    scores,
    ytf,
)

DESCRIPTION = """\
Evaluate an embedding model on pairs of faces: accuracy and standard error over folds, each fold's
threshold chosen on the others, with and without the mirror image and mean subtraction.

Images must be aligned to the network's input (see tf_sphereface-align), or come with --landmarks.
An image that cannot be used is an error: all such images are listed, none is skipped.
"""
EXAMPLES = """\
  tf_sphereface-eval lfw embedder.keras --images lfw-deepfunneled --pairs pairs.txt \\
      --landmarks landmarks.tsv --json lfw.json
  tf_sphereface-eval folder embedder.tflite faces/
  tf_sphereface-eval ytf embedder.onnx --frames aligned/ --splits splits.txt
  tf_sphereface-eval bin embedder.keras agedb_30.bin
  tf_sphereface-eval bins embedder.keras faces_emore/ --json bins.json --report bins.html
  tf_sphereface-eval check adaface.keras --bins faces_emore/
  tf_sphereface-eval ijb embedder.keras --root IJBC --subset ijbc --cache embeddings
  tf_sphereface-eval make-bin lfw.bin --images lfw/ --pairs pairs.txt --landmarks landmarks.tsv
  tf_sphereface-eval identify embedder.keras faces/ --distractors strangers/
  tf_sphereface-eval scores scores.txt --pairs pairs.txt
  tf_sphereface-eval compare first.txt second.txt
  tf_sphereface-eval calibrate embedder.tflite faces/ --far 1e-2"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command and its protocols."""
    parser = make_parser("eval", DESCRIPTION, EXAMPLES)
    protocols = parser.add_subparsers(dest="protocol", required=True, metavar="PROTOCOL")
    for subcommand in (lfw, folder, ytf, bin, bins, check, ijb, identify, scores, calibrate):
        subcommand.add(protocols)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    code: int = args.run(args)
    return code


if __name__ == "__main__":
    raise SystemExit(main(None))
