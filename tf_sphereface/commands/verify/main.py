"""`tf_sphereface-verify`: do two photographs show one person?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_sphereface.commands.console import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    CommandError,
    add_json_option,
    command,
    console,
    cosine_value,
    error_console,
    existing_file,
    make_parser,
    write_json_option,
)

DESCRIPTION = """\
Compare two faces: the angle between their embeddings, and whether it is small enough for one
person. The threshold is the one in the model's metadata, or --threshold; without either only the
angle is printed.

Images of the model's size are taken as aligned faces. In others the face is found and aligned
first, which needs the package mtcnn: pip install "tf_sphereface[align]".

exit code: 0 the same person (or no threshold is known), 1 different people, 2 bad input
"""
EXAMPLES = """\
  tf_sphereface-verify embedder.keras a.jpg b.jpg
  tf_sphereface-verify embedder.keras passport.jpg selfie.jpg --show both.png
  tf_sphereface-verify embedder.tflite a.jpg b.jpg --threshold 0.35 --json verdict.json"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("verify", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "model", type=existing_file, metavar="MODEL", help="a .keras, .tflite or .onnx file"
    )
    parser.add_argument("first", type=existing_file, metavar="A", help="a photograph or a face")
    parser.add_argument("second", type=existing_file, metavar="B", help="another")
    parser.add_argument(
        "--threshold",
        type=cosine_value,
        metavar="T",
        help="cosine from which two faces count as one person, instead of the model's own",
    )
    parser.add_argument(
        "--align",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: images of another size than the model's; always: those too; never: an error",
    )
    parser.add_argument(
        "--select",
        choices=("center", "largest"),
        default="center",
        help="which face of several in a photograph: the one nearest the centre, or the largest",
    )
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="a .png or .jpg of both images, crops and verdict"
    )
    add_json_option(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)

    if args.show is not None and args.show.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise CommandError(f"--show must end in .png or .jpg. Received: {args.show}")

    import numpy as np

    from tf_sphereface.alignment.face_reader import FaceReader
    from tf_sphereface.commands.verify.photos import PhotoReader, write_picture
    from tf_sphereface.embedder.embedder import load_embedder
    from tf_sphereface.eval.scoring.score_pairs import verification_vectors

    embedder = load_embedder(args.model)
    reader = PhotoReader(FaceReader(embedder.input_size), args.align, args.select)
    compared = [reader(path) for path in (args.first, args.second)]
    for face in compared:
        if face.count > 1:
            which = "nearest the centre" if args.select == "center" else "the largest"
            console.print(
                f"{face.path}: {face.count} faces; taken: {which}", highlight=False, soft_wrap=True
            )
    faces = [face.crop for face in compared]
    vectors = verification_vectors(embedder, np.stack(faces), embedder.metadata.flip)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = float(np.clip(unit[0] @ unit[1], -1.0, 1.0))

    own = embedder.metadata.threshold
    threshold = args.threshold if args.threshold is not None else own
    source = calibration = None
    if threshold is not None:
        source = "the model" if args.threshold is None else "--threshold"
        if args.threshold is None:
            calibration = embedder.metadata.extra.get("calibration")
            if calibration is not None and calibration.get("threshold") != threshold:
                calibration = None  # somebody has changed the threshold since
    far = embedder.metadata.threshold_far if source == "the model" else None
    same = None if threshold is None else cosine >= threshold
    angle = math.degrees(math.acos(cosine))
    console.print(f"angle {angle:.2f}°, cosine {cosine:.4f}", highlight=False)
    if threshold is None:
        console.print("The model carries no threshold and none was given: no verdict.")
    else:
        limit = math.degrees(math.acos(threshold))
        verdict = "[bold green]same person[/]" if same else "[bold red]different people[/]"
        console.print(
            f"threshold {limit:.2f}°, cosine {threshold:.4f} (from {source}): {verdict}",
            highlight=False,
        )
        if calibration is not None:
            console.print(_describe(calibration, embedder.format), highlight=False)
        elif far is not None:
            console.print(
                f"said to be for a false accept rate of {far:g}; where that was measured is not "
                "known",
                highlight=False,
            )
        elif args.threshold is None:
            console.print(
                "Its false accept rate is not known: tf_sphereface-eval calibrate measures one.",
                highlight=False,
            )
    if args.show is not None:
        lines = [f"angle {angle:.2f}°, cosine {cosine:.4f}"]
        if threshold is not None:
            rate = f" (FAR {far:g})" if far is not None else ""
            verdict = "same person" if same else "different people"
            lines.append(f"threshold {limit:.2f}°{rate}: {verdict}")
        write_picture(args.show, compared, lines)
        error_console.print(f"wrote {args.show}", highlight=False)
    write_json_option(
        args.json,
        {
            "model": str(args.model),
            "first": str(args.first),
            "second": str(args.second),
            "angle_degrees": angle,
            "cosine": cosine,
            "flip": embedder.metadata.flip,
            "threshold": threshold,
            "threshold_source": source,
            "threshold_far": far,
            "calibration": calibration,
            "same": same,
            "images": [face.describe() for face in compared],
        },
    )
    return EXIT_CHECK_FAILED if same is False else EXIT_OK


def _describe(calibration: dict[str, Any], format: str) -> str:
    """Say where the model's threshold comes from."""
    low, high = calibration["threshold_interval"]
    text = (
        f"calibrated for a false accept rate of {calibration['far']:g} on "
        f"{calibration['impostor_pairs']:,} impostor pairs of {calibration['people']:,} people, "
        f"{calibration['date'][:10]}; {calibration['confidence']:.0%} interval {low:.4f} to "
        f"{high:.4f}"
    )
    measured_on = calibration["model_format"]
    if measured_on != format:
        text += f". Note: measured on the .{measured_on} model that this .{format} was made from"
    return text


if __name__ == "__main__":
    raise SystemExit(main(None))
