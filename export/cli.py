"""`tf_sphereface-export`: TensorFlow Lite and ONNX files that have been run and compared."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tf_sphereface.cli.common import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    CommandError,
    add_json_option,
    command,
    console,
    error_console,
    existing_dir,
    existing_file,
    make_parser,
    progress,
    write_json_option,
)

KINDS = {"tflite": ("none", "float16", "dynamic", "int8"), "onnx": ("none", "float16", "int8")}

DESCRIPTION = """\
Export a face embedder to TensorFlow Lite and ONNX. Every file is run and compared with Keras before
it appears: finite, of a plausible size, and close enough in cosine for its kind, on the calibration
faces or on synthetic ones. With --gate-images and --gate-pairs its accuracy is checked as well.

The files are MODEL's name with .tflite or .onnx, and with the kind before it if it is not "none"; a
.json beside each holds what the file says about itself.

exit code: 0 all files are written, 1 a file failed its checks (that file is not written, an older
one stays as it was), 2 wrong usage or bad input
"""
EXAMPLES = """\
  tf_sphereface-export --tflite embedder.keras
  tf_sphereface-export embedder.keras --tflite --onnx --quantize none,int8 --calibrate faces/
  tf_sphereface-export embedder.keras --tflite --quantize int8 --calibrate faces/ \\
      --gate-images lfw/ --gate-pairs pairs.txt --gate-landmarks landmarks.tsv --max-drop 0.25
  tf_sphereface-export --inspect embedder.int8.tflite"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("export", DESCRIPTION, EXAMPLES)
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
    gate = parser.add_argument_group("gate", "check accuracy on pairs of faces")
    gate.add_argument(
        "--gate-images", type=existing_dir, metavar="DIR", help="holds NAME/NAME_0001.jpg"
    )
    gate.add_argument("--gate-pairs", type=existing_file, metavar="FILE", help="LFW's pairs.txt")
    gate.add_argument(
        "--gate-landmarks",
        type=existing_file,
        metavar="FILE",
        help="a path and five x,y pairs a line: images are aligned by them",
    )
    gate.add_argument(
        "--max-drop",
        type=float,
        default=0.25,
        metavar="POINTS",
        help="largest drop of the accuracy that is allowed, in percentage points",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="where to write (default: beside MODEL)"
    )
    parser.add_argument(
        "--inspect",
        type=existing_file,
        metavar="FILE",
        help="print what a .keras, .tflite or .onnx file says about itself, and write nothing",
    )
    add_json_option(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if args.inspect is not None:
        return _inspect(args.inspect, args.json)
    jobs = _jobs(args)

    from tf_sphereface.export import ExportError, Gate, export_onnx, export_tflite

    model, metadata = _load(args.model)
    writers = {"tflite": export_tflite, "onnx": export_onnx}
    reports, failures = [], []
    with progress() as bars:
        task = bars.add_task("", total=None)
        gate = None
        if args.gate_images is not None:
            gate = Gate(
                args.gate_images,
                args.gate_pairs,
                landmarks=args.gate_landmarks,
                max_drop=args.max_drop,
                progress=_show(bars, task, "gate"),
            )
        for path, file_format, kind in jobs:
            bars.reset(task, description=path.name, total=None)
            try:
                reports.append(
                    writers[file_format](
                        model,
                        path,
                        kind,
                        calibration=args.calibrate,
                        metadata=metadata,
                        gate=gate,
                        progress=_show(bars, task, f"{path.name}: calibration"),
                    )
                )
            except ExportError as error:
                failures.append((path, str(error)))
    if reports:
        _print_table(reports)
    for path, reason in failures:
        error_console.print(f"[bold red]not written:[/] {path}", highlight=False)
        error_console.print(f"  {reason}", markup=False, highlight=False)
    values: dict[str, Any] = {"model": str(args.model)}
    values["files"] = [report.to_dict() for report in reports]
    values["failures"] = [{"path": str(path), "reason": reason} for path, reason in failures]
    write_json_option(args.json, values)
    return EXIT_CHECK_FAILED if failures else EXIT_OK


def _jobs(args: argparse.Namespace) -> list[tuple[Path, str, str]]:
    """Return (path, format, kind) of every file to write; refuse what cannot be done."""
    if args.model is None:
        raise CommandError("MODEL is missing (or --inspect FILE); see --help")
    if args.model.suffix != ".keras":
        raise CommandError(f"MODEL must be a .keras file. Received: {args.model}")
    formats = [name for name in KINDS if getattr(args, name)]
    if not formats:
        raise CommandError("say what to write: --tflite, --onnx or both")
    kinds: list[str] = []
    for kind in ",".join(args.quantize or ["none"]).split(","):
        if kind.strip() not in kinds:
            kinds.append(kind.strip())
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
    if (args.gate_images is None) != (args.gate_pairs is None):
        raise CommandError("--gate-images and --gate-pairs go together")
    if args.gate_landmarks is not None and args.gate_images is None:
        raise CommandError("--gate-landmarks needs --gate-images and --gate-pairs")
    folder = args.output_dir or args.model.parent
    return [
        (folder / f"{args.model.stem}{'' if kind == 'none' else f'.{kind}'}.{name}", name, kind)
        for name in formats
        for kind in kinds
    ]


def _load(path: Path) -> tuple[Any, Any]:
    """Return the backbone in a `.keras` file and its metadata, which names the file by its hash."""
    from tf_sphereface._backbone import load_model
    from tf_sphereface._files import sha256_file
    from tf_sphereface.embedder import as_backbone, load_embedder, read_metadata

    stored = read_metadata(path)
    try:
        model = load_model(path)
    except Exception as error:  # Keras raises many kinds for a broken archive
        raise CommandError(f"{path} cannot be loaded by Keras: {error}") from error
    backbone = as_backbone(model)
    if len(backbone.layers) < len(model.layers) and len(backbone.weights) < len(model.weights):
        console.print(f"{path}: the classification head is left out", highlight=False)
    metadata = stored or load_embedder(backbone).metadata
    return backbone, dataclasses.replace(metadata, source_hash=sha256_file(path))


def _show(bars: Any, task: Any, description: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bars.update(task, description=description, completed=done, total=total)

    return show


def _print_table(reports: Sequence[Any]) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("file", overflow="fold")
    for name in ("MB", "cosine min", "mean", "max abs", "ms"):
        table.add_column(name, justify="right")
    gated = any(report.accuracy is not None for report in reports)
    if gated:
        table.add_column("accuracy, % (Keras)", justify="right")
        table.add_column("drop", justify="right")
    for report in reports:
        cells = [
            report.path.name,
            f"{report.size_bytes / 1e6:.2f}",
            f"{report.cosine_min:.5f}",
            f"{report.cosine_mean:.5f}",
            f"{report.max_abs:.2g}",
            f"{report.latency_ms:.2f}",
        ]
        if gated:
            a = report.accuracy
            cells.append(
                f"{100 * a.accuracy:.2f} ± {100 * a.std_error:.2f} "
                f"({100 * a.keras_accuracy:.2f} ± {100 * a.keras_std_error:.2f})"
            )
            cells.append(f"{100 * a.drop:+.2f} ± {100 * a.drop_std_error:.2f}")
        table.add_row(*cells)
    console.print(table)
    first = reports[0]
    console.print(
        f"cosine with Keras over {first.faces} {first.faces_from} faces; ms a face on one thread",
        highlight=False,
    )
    if not gated:
        console.print(f"{first.note}: give --gate-images and --gate-pairs for that")
    console.print(f"written to {first.path.parent}", highlight=False, soft_wrap=True)


def _inspect(path: Path, json_path: Path | None) -> int:
    import json

    from tf_sphereface.embedder import read_metadata

    metadata = read_metadata(path)
    if metadata is None:
        raise CommandError(f"{path} says nothing about itself: it carries no metadata")
    values = json.loads(metadata.to_json())
    console.print_json(data=values)
    write_json_option(json_path, values)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main(None))
