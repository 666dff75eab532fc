"""`tf_sphereface-eval ytf`: YouTube Faces."""

from __future__ import annotations

import argparse

from tf_sphereface.commands.console import CommandError, existing_dir, existing_file
from tf_sphereface.commands.eval.shared import (
    Subparsers,
    add_protocol,
    add_search_option,
    run_protocol,
)
from tf_sphereface.commands.input_options import add_strict_option
from tf_sphereface.eval import ytf

DRAWS = {"frame_pairs": 100, "seed": 0}  # of --pooling frame_pairs, unless given


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = add_protocol(protocols, "ytf", "YouTube Faces: one pooled embedding per video", run)
    parser.add_argument(
        "--frames",
        type=existing_dir,
        metavar="DIR",
        help="holds person/video/frame.jpg (not needed with a .npz of embeddings)",
    )
    parser.add_argument(
        "--splits", type=existing_file, required=True, metavar="FILE", help="splits.txt"
    )
    parser.add_argument(
        "--pooling",
        choices=("mean", "mean_normalized", "best_frame", "frame_pairs"),
        default="mean",
        help="mean of the frames' embeddings, or of those scaled to unit length; the frame with "
        "the longest embedding; or mean score of random frame pairs",
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="of a video, evenly spaced (all if not given)"
    )
    parser.add_argument(
        "--frame-pairs",
        type=int,
        metavar="N",
        help=f"of --pooling frame_pairs (default: {DRAWS['frame_pairs']})",
    )
    parser.add_argument(
        "--seed", type=int, help=f"of the choice of frame pairs (default: {DRAWS['seed']})"
    )
    add_search_option(parser)
    add_strict_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return run_protocol(
        args,
        ytf.evaluate,
        args.frames,
        args.splits,
        unit="videos",
        pooling=args.pooling,
        max_frames=args.max_frames,
        landmarks=args.landmarks,
        search=args.search,
        strict=args.strict,
        **_draws(args),
    )


def _draws(args: argparse.Namespace) -> dict[str, int]:
    """Return how frame pairs are drawn; refuse to be told so where none are."""
    given = {name: getattr(args, name) for name in DRAWS if getattr(args, name) is not None}
    if given and args.pooling != "frame_pairs":
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise CommandError(
            f"{options} must come with --pooling frame_pairs. Received: --pooling {args.pooling}"
        )
    return DRAWS | given
