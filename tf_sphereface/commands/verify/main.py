"""`tf_sphereface-verify`: do two photographs show one person?"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from tf_sphereface.commands.console import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    CommandError,
    add_json_option,
    command,
    console,
    cosine_value,
    existing_file,
    make_parser,
    note,
    output_file,
    write_json_option,
)
from tf_sphereface.commands.input_options import (
    add_detector_option,
    add_input_options,
    input_facts,
)
from tf_sphereface.eval.measures.angles import degrees

if TYPE_CHECKING:
    from tf_sphereface.alignment.photo_reader import PhotoFace
    from tf_sphereface.embedder.embedder import Embedder

DESCRIPTION = """\
Compare two faces: the angle between their embeddings, and whether it is small enough for one
person. The threshold is the one in the model's metadata, or --threshold; without either only the
angle is printed, and there is no verdict.

Images of the model's size are taken as aligned faces. In others the face is found and aligned
first, which needs the package mtcnn: pip install "tf_sphereface[align]".

exit code: 0 the same person and nothing else, 1 different people, 2 bad input (a file that is
missing or no image, no face in it, an embedding that is zero or not finite, a result that could not
be written), 3 no threshold is known, so there is no verdict
"""
EXIT_NO_VERDICT = 3
_TOLD = {"threshold", "threshold_interval", "far", "impostor_pairs", "people", "date"}
_TOLD |= {"confidence", "model_format"}
_INPUT = ("channel_order", "pixel_mean", "pixel_scale", "assumed")
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
        help="cosine from which two faces count as one person; by default the model's",
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
    add_detector_option(parser)
    parser.add_argument(
        "--show",
        type=output_file,
        metavar="FILE",
        help="a .png or .jpg of both images, crops and verdict",
    )
    add_input_options(parser)
    add_json_option(parser)
    return parser


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The comparison of two faces by their embeddings.

    Attributes:
        cosine: of the embeddings.
        threshold: cosine from which they count as one person; None: there is no verdict.
        source: of the threshold, `"the model"` or `"--threshold"`.
        far: the false accept rate that the model states for its threshold, if it does.
        calibration: how the model's threshold was measured, if that is known.
    """

    cosine: float
    threshold: float | None = None
    source: str | None = None
    far: float | None = None
    calibration: dict[str, Any] | None = None

    @property
    def same(self) -> bool | None:
        """Whether it is one person; None without a threshold."""
        return None if self.threshold is None else self.cosine >= self.threshold

    @property
    def angle(self) -> float:
        """The angle between the embeddings, in degrees."""
        return float(degrees(self.cosine))

    @property
    def limit(self) -> float:
        """The threshold as an angle in degrees; NaN without one."""
        return float(degrees(math.nan if self.threshold is None else self.threshold))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)

    if args.show is not None and args.show.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise CommandError(f"--show must end in .png or .jpg. Received: {args.show}")

    from tf_sphereface.alignment.photo_reader import PhotoReader
    from tf_sphereface.commands.verify.picture import write_picture
    from tf_sphereface.embedder.embedder import load_embedder

    embedder = load_embedder(args.model, **input_facts(args))
    reader = PhotoReader(embedder.input_size, args.align, args.select, detector=args.detector)
    faces = [reader(path) for path in (args.first, args.second)]
    for face in faces:
        if face.count > 1:
            which = "nearest the centre" if args.select == "center" else "the largest"
            note(f"{face.path}: {face.count} faces; taken: {which}", console)
    verdict = _compare(embedder, [face.crop for face in faces], args.threshold)
    _say(verdict, embedder.format)
    if args.show is not None:
        write_picture(args.show, faces, _lines(verdict))
        note(f"wrote {args.show}")
    write_json_option(
        args.json,
        {
            "model": str(args.model),
            "first": str(args.first),
            "second": str(args.second),
            "angle_degrees": verdict.angle,
            "cosine": verdict.cosine,
            "flip": embedder.metadata.flip,
            "input": {name: getattr(embedder.metadata, name) for name in _INPUT},
            "threshold": verdict.threshold,
            "threshold_source": verdict.source,
            "threshold_far": verdict.far,
            "calibration": verdict.calibration,
            "same": verdict.same,
            "images": [_describe_face(face) for face in faces],
        },
    )
    if verdict.same is None:
        return EXIT_NO_VERDICT
    return EXIT_OK if verdict.same else EXIT_CHECK_FAILED


def _compare(embedder: Embedder, crops: Sequence[np.ndarray], given: float | None) -> Verdict:
    """Compare two aligned faces; `given` is the threshold of the command line."""
    from tf_sphereface.eval.scoring.score_pairs import verification_vectors

    metadata = embedder.metadata
    vectors = verification_vectors(embedder, np.stack(crops), metadata.flip)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = float(np.clip(unit[0] @ unit[1], -1.0, 1.0))
    if not math.isfinite(cosine):
        raise ValueError(f"the cosine of the embeddings is {cosine}: there is nothing to judge by")
    if given is not None:
        return Verdict(cosine, given, "--threshold")
    if metadata.threshold is None:
        return Verdict(cosine)
    calibration = metadata.extra.get("calibration")
    if not isinstance(calibration, dict) or not calibration.keys() >= _TOLD:
        calibration = None  # not as tf_sphereface-eval calibrate writes it
    elif calibration["threshold"] != metadata.threshold:
        calibration = None  # somebody has changed the threshold since
    return Verdict(cosine, metadata.threshold, "the model", metadata.threshold_far, calibration)


def _say(verdict: Verdict, format: str) -> None:
    """Print the angle, the verdict, and what is known about the threshold."""
    console.print(f"angle {verdict.angle:.2f}°, cosine {verdict.cosine:.4f}")
    if verdict.threshold is None:
        console.print("The model carries no threshold and none was given: no verdict.")
        return
    source = f"cosine {verdict.threshold:.4f} (from {verdict.source})"
    answer = ("same person", "bold green") if verdict.same else ("different people", "bold red")
    console.print(Text.assemble(f"threshold {verdict.limit:.2f}°, {source}: ", answer))
    if verdict.calibration is not None:
        console.print(_describe(verdict.calibration, format))
    elif verdict.far is not None:
        console.print(
            f"said to be for a false accept rate of {verdict.far:g}; where that was measured is "
            "not known",
            highlight=False,
        )
    elif verdict.source == "the model":
        console.print(
            "Its false accept rate is not known: tf_sphereface-eval calibrate measures one.",
            highlight=False,
        )


def _lines(verdict: Verdict) -> list[str]:
    """Return the verdict as the picture has it."""
    lines = [f"angle {verdict.angle:.2f}°, cosine {verdict.cosine:.4f}"]
    if verdict.threshold is not None:
        rate = f" (FAR {verdict.far:g})" if verdict.far is not None else ""
        answer = "same person" if verdict.same else "different people"
        lines.append(f"threshold {verdict.limit:.2f}°{rate}: {answer}")
    return lines


def _describe_face(face: PhotoFace) -> dict[str, Any]:
    """Return what `--json` says about an image."""
    found = face.face
    return {
        "aligned_here": found is not None,
        "faces_found": None if found is None else face.count,
        "box": None if found is None else found.box.round(2).tolist(),
        "score": None if found is None else round(found.score, 4),
        "points": None if found is None else found.points.round(2).tolist(),
    }


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
