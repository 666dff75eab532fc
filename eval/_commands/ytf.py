"""`tf_sphereface-eval ytf`: YouTube Faces."""

from __future__ import annotations

import argparse

from tf_sphereface.cli.common import existing_dir, existing_file
from tf_sphereface.eval._commands._shared import (
    Subparsers,
    add_protocol,
    add_search_option,
    finish,
    open_model,
    shown_progress,
)


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = add_protocol(protocols, "ytf", "YouTube Faces: one pooled embedding a video", run)
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
        "--frame-pairs", type=int, default=100, metavar="N", help="of --pooling frame_pairs"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of frame pairs")
    add_search_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from tf_sphereface.eval import ytf

    model = open_model(args)
    with shown_progress("videos") as show:
        result = ytf.evaluate(
            model,
            args.frames,
            args.splits,
            pooling=args.pooling,
            max_frames=args.max_frames,
            landmarks=args.landmarks,
            flip=not args.no_flip,
            progress=show,
            frame_pairs=args.frame_pairs,
            seed=args.seed,
            cache=args.cache,
            search=args.search,
        )
    return finish(args, result)
