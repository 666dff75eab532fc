"""`tf_sphereface-export`: TensorFlow Lite and ONNX files that have been run and compared."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tf_sphereface.commands.console import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    CommandError,
    command,
    console,
    error_console,
    make_parser,
    progress,
    write_json_option,
)
from tf_sphereface.commands.export.arguments import (
    DEFAULT_MAX_DROP,
    add_arguments,
    built_in,
    file_jobs,
)
from tf_sphereface.commands.export.tables import print_layers, print_parity, print_reports

_PARITY_FACES = 64

DESCRIPTION = """\
Export a face embedder to TensorFlow Lite and ONNX. Every file is run and compared with Keras before
it appears: finite, of a plausible size, and close enough in cosine for its kind, on the calibration
faces or on synthetic ones. With --gate-images and --gate-pairs its accuracy is checked as well.

--input uint8, --flip-concat, --normalize, --layout and --batch build into the file what an app
would have to do around it. The metadata tells, so that every tool feeds each file rightly.

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
  tf_sphereface-export embedder.keras --tflite --input uint8 --flip-concat --normalize
  tf_sphereface-export embedder.keras --onnx --layout nchw --batch 1
  tf_sphereface-export embedder.keras --tflite --quantize int8 --calibrate faces/ --explain
  tf_sphereface-export embedder.keras --tflite --onnx --quantize none,float16,int8 \\
      --calibrate faces/ --parity parity.json
  tf_sphereface-export --inspect embedder.int8.tflite"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("export", DESCRIPTION, EXAMPLES)
    add_arguments(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if args.inspect is not None:
        if args.model is not None:
            raise CommandError("--inspect FILE writes nothing: leave MODEL out, or --inspect")
        return _inspect(args.inspect, args.json)
    jobs = file_jobs(args)

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
                max_drop=DEFAULT_MAX_DROP if args.max_drop is None else args.max_drop,
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
                        **built_in(args, file_format, kind),
                    )
                )
            except ExportError as error:
                failures.append((path, error))
    if reports:
        print_reports(reports)
    for report in reports:
        if report.layers:
            print_layers(report)
    for path, reason in failures:
        error_console.print(f"[bold red]not written:[/] {path}", highlight=False)
        error_console.print(f"  {reason}", markup=False, highlight=False)
    values: dict[str, Any] = {"model": str(args.model)}
    values["files"] = [report.to_dict() for report in reports]
    values["failures"] = [_failure(path, error) for path, error in failures]
    if args.parity is not None and reports:
        values["parity"] = _parity(args, model, metadata, reports)
    write_json_option(args.json, values)
    return EXIT_CHECK_FAILED if failures else EXIT_OK


def _failure(path: Path, error: Exception) -> dict[str, Any]:
    """Return what `--json` holds of a file that was not written."""
    result = getattr(error, "result", None)  # of the gate
    values = {"path": str(path), "reason": str(error)}
    return values if result is None else {**values, "accuracy": dataclasses.asdict(result)}


def _load(path: Path) -> tuple[Any, Any]:
    """Return the backbone in a `.keras` file and its metadata, which names the file by its hash."""
    from tf_sphereface.backbones.extraction import load_model
    from tf_sphereface.embedder import model_card
    from tf_sphereface.embedder.embedder import as_backbone, load_embedder, read_metadata
    from tf_sphereface.utils.files import sha256_file

    stored = read_metadata(path)
    try:
        loaded = load_model(path)
    except Exception as error:  # Keras raises many kinds for a broken archive
        raise CommandError(f"{path} cannot be loaded by Keras: {error}") from error
    model, backbone = loaded.model, as_backbone(loaded)
    if len(backbone.layers) < len(model.layers) and len(backbone.weights) < len(model.weights):
        console.print(f"{path}: the classification head is left out", highlight=False)
    metadata = stored or load_embedder(backbone).metadata
    extra = {**metadata.extra, model_card.SOURCE: path.name}
    if metadata.source_hash or metadata.extra.get(model_card.SOURCE):
        earlier = {"file": metadata.extra.get(model_card.SOURCE), "sha256": metadata.source_hash}
        extra[model_card.EARLIER_SOURCE] = earlier
    return backbone, dataclasses.replace(metadata, source_hash=sha256_file(path), extra=extra)


def _show(bars: Any, task: Any, description: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bars.update(task, description=description, completed=done, total=total)

    return show


def _parity(
    args: argparse.Namespace, model: Any, metadata: Any, reports: Sequence[Any]
) -> list[dict[str, Any]]:
    """Measure Keras and the files in one run, print the table, write it; return its rows."""
    from tf_sphereface.export.calibration_faces import calibration_faces, probe_faces
    from tf_sphereface.export.parity_table import parity_table
    from tf_sphereface.utils.files import write_json

    size, source = metadata.input_size, "synthetic"
    if args.calibrate is None:
        faces = probe_faces(size)
    else:
        faces, source = calibration_faces(args.calibrate, size, limit=_PARITY_FACES), "calibration"
    accuracies = {report.path: report.accuracy for report in reports if report.accuracy is not None}
    paths = [report.path for report in reports]
    rows = parity_table(model, paths, faces, metadata, accuracies)
    print_parity(rows, len(faces), source)
    listed = [row.to_dict() for row in rows]
    values = {"model": str(args.model), "faces": len(faces), "faces_from": source, "rows": listed}
    write_json(args.parity, values)
    return listed


def _inspect(path: Path, json_path: Path | None) -> int:
    import json

    from tf_sphereface.embedder.embedder import read_metadata

    metadata = read_metadata(path)
    if metadata is None:
        raise CommandError(f"{path} says nothing about itself: it carries no metadata")
    values = json.loads(metadata.to_json())
    console.print_json(data=values)
    write_json_option(json_path, values)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main(None))
