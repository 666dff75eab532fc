"""The arguments of `tf_sphereface-export`, and the files that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tf_sphereface.alignment.listing import find_images
from tf_sphereface.commands.console import (
    CommandError,
    add_json_option,
    existing_dir,
    existing_file,
    output_file,
)
from tf_sphereface.commands.input_options import add_input_options, add_strict_option
from tf_sphereface.embedder import hub_upload
from tf_sphereface.export.job import KINDS
from tf_sphereface.export.options import INPUTS, LAYOUTS
from tf_sphereface.utils.files import check_name

DEFAULT_MAX_DROP = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        type=existing_file,
        nargs="?",
        metavar="MODEL",
        help="a .keras file: an embedder, a FaceClassifier, or a model that ends in AngularDense",
    )
    parser.add_argument("--tflite", action="store_true", help="write TensorFlow Lite")
    parser.add_argument("--onnx", action="store_true", help="write ONNX")
    parser.add_argument(
        "--quantize",
        action="append",
        metavar="KIND",
        help="none, float16, dynamic (TensorFlow Lite only) or int8; several separated by commas, "
        "or the option several times (default: none)",
    )
    parser.add_argument(
        "--calibrate",
        type=existing_dir,
        metavar="DIR",
        help="aligned faces, subfolders included: needed for int8; at most 256 are used",
    )
    add_strict_option(parser, " in the folder to --calibrate by")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print the error of every int8 layer against float, the worst first",
    )
    parser.add_argument(
        "--float-layers",
        type=int,
        default=0,
        metavar="N",
        help="where an int8 file fails its checks or the gate: leave up to N of the worst layers "
        "in float (1, then 2, 4, ...) until it passes",
    )
    built_in = parser.add_argument_group("built in", "what the file does around the network")
    built_in.add_argument(
        "--input",
        choices=INPUTS,
        default="float32",
        help="uint8: RGB pixels go in, channel order and normalisation are built in",
    )
    built_in.add_argument(
        "--flip-concat",
        action="store_true",
        help="embed the mirror image as well; the output is both, concatenated",
    )
    built_in.add_argument(
        "--normalize", action="store_true", help="divide by the L2 norm: unit length"
    )
    built_in.add_argument(
        "--layout",
        choices=LAYOUTS,
        type=str.lower,
        help="order of the input's axes: of the file to write (ONNX only; default: nhwc), or of "
        "the one to --describe",
    )
    built_in.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="how many faces the file takes at once (default: any number)",
    )
    gate = parser.add_argument_group("gate", "check accuracy on pairs of faces")
    gate.add_argument(
        "--gate-images", type=existing_dir, metavar="DIR", help="holds NAME/NAME_0001.jpg"
    )
    gate.add_argument("--gate-pairs", type=existing_file, metavar="FILE", help="LFW's pairs.txt")
    gate.add_argument(
        "--gate-landmarks",
        type=existing_file,
        metavar="FILE",
        help="a path and five x,y pairs per line: images are aligned by them",
    )
    gate.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="largest drop of the accuracy that is allowed, in percentage points "
        f"(default: {DEFAULT_MAX_DROP})",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="where to write (default: beside MODEL)"
    )
    parser.add_argument(
        "--to",
        metavar="hf://OWNER/NAME",
        help="also put the network, its facts and the files that were written on the Hugging Face "
        "Hub (needs the hub extra); a new repository is private",
    )
    parser.add_argument(
        "--inspect",
        type=existing_file,
        metavar="FILE",
        help="print what a .keras, .tflite or .onnx file says about itself, and write nothing",
    )
    parser.add_argument(
        "--describe",
        type=existing_file,
        metavar="FILE",
        help="write how a .keras, .tflite or .onnx file is fed into it, once and for all: "
        "--channel-order, --pixel-mean, --pixel-scale, --layout, one at least",
    )
    add_input_options(parser, layout=False)
    parser.add_argument(
        "--parity",
        type=output_file,
        metavar="FILE",
        help="measure Keras and every file in one run, print the table and write it as JSON",
    )
    add_json_option(parser)


def file_jobs(args: argparse.Namespace) -> list[tuple[Path, str, str]]:
    """Return (path, format, kind) of every file to write; refuse what cannot be done."""
    if args.model is None:
        raise CommandError("MODEL is missing (or --inspect FILE, --describe FILE); see --help")
    if args.model.suffix != ".keras":
        raise CommandError(f"MODEL must be a .keras file. Received: {args.model}")
    formats = [name for name in KINDS if getattr(args, name)]
    if args.to is not None:
        hub_upload.check_target(args.to)  # before the work
    if not formats and args.to is None:
        raise CommandError("say what to write: --tflite, --onnx or both")
    named = ",".join(args.quantize or ["none"]).split(",")
    kinds = list(dict.fromkeys(kind.strip() for kind in named))
    for kind in kinds:
        if kind not in KINDS["tflite"]:
            raise CommandError(
                f"--quantize must be one of {', '.join(KINDS['tflite'])}. Received: {kind}"
            )
        if "onnx" in formats and kind not in KINDS["onnx"]:
            raise CommandError(
                f"--quantize {kind} is for TensorFlow Lite only: give it without --onnx"
            )
    if "int8" in kinds and args.calibrate is None:
        raise CommandError("--quantize int8 needs --calibrate DIR, a folder of aligned faces")
    if args.strict:
        if args.calibrate is None:
            raise CommandError("--strict needs --calibrate DIR, a folder of aligned faces")
        find_images(args.calibrate, strict=True)
    if (args.gate_images is None) != (args.gate_pairs is None):
        raise CommandError("--gate-images and --gate-pairs go together")
    for name, value in (("gate-landmarks", args.gate_landmarks), ("max-drop", args.max_drop)):
        if value is not None and args.gate_images is None:
            raise CommandError(f"--{name} needs --gate-images and --gate-pairs")
    if args.layout == "nchw" and formats != ["onnx"]:
        raise CommandError("--layout nchw is for ONNX only: give it without --tflite")
    if (args.explain or args.float_layers) and "int8" not in kinds:
        name = "--explain" if args.explain else "--float-layers"
        raise CommandError(f"{name} is for --quantize int8")
    if args.float_layers < 0:
        raise CommandError(f"--float-layers must be 0 or more. Received: {args.float_layers}")
    if args.batch is not None and args.batch < 1:
        raise CommandError(f"--batch must be at least 1. Received: {args.batch}")
    folder = args.output_dir or args.model.parent
    jobs = [
        (folder / f"{args.model.stem}{'' if kind == 'none' else f'.{kind}'}.{name}", name, kind)
        for name in formats
        for kind in kinds
    ]
    for path, *_ in jobs:
        check_name(path, "give MODEL's file a shorter one")
    return jobs


def built_in(args: argparse.Namespace, file_format: str, kind: str) -> dict[str, Any]:
    """Return the options as keyword arguments of the function that writes one file."""
    options = {
        "input_dtype": args.input,
        "flip_concat": args.flip_concat,
        "normalize": args.normalize,
        "batch": args.batch,
    }
    if file_format == "onnx":
        options["layout"] = args.layout or "nhwc"
    if kind == "int8":
        options |= {"explain": args.explain, "float_layers": args.float_layers}
    return options
