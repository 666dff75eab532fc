"""`tf_sphereface-export`: TensorFlow Lite and ONNX files that have been run and compared."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
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
    note,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.export.arguments import (
    DEFAULT_MAX_DROP,
    add_arguments,
    built_in,
    file_jobs,
)
from tf_sphereface.commands.export.tables import print_layers, print_parity, print_reports
from tf_sphereface.commands.input_options import input_facts
from tf_sphereface.embedder import (
    Embedder,
    describe_file,
    load_embedder,
    model_card,
    read_metadata,
    upload_embedder,
)
from tf_sphereface.export import (
    ExportError,
    ExportReport,
    Gate,
    export_onnx,
    export_tflite,
    parity_table,
)
from tf_sphereface.export.calibration_faces import calibration_faces, probe_faces
from tf_sphereface.utils.files import sha256_file, write_json

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
  tf_sphereface-export embedder.keras --tflite --to hf://anna/faces
  tf_sphereface-export --inspect embedder.int8.tflite
  tf_sphereface-export --describe foreign.onnx --channel-order bgr --pixel-mean 0 --pixel-scale 1"""


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
    if args.describe is not None:
        if args.model is not None:
            raise CommandError("--describe FILE exports nothing: leave MODEL out, or --describe")
        return _describe(args)
    jobs = file_jobs(args)
    network = _load(args)
    reports, failures = _write(args, network, jobs)
    if reports:
        print_reports(reports)
    for report in reports:
        if report.layers:
            print_layers(report)
    for path, reason in failures:
        error_console.print("not written:", style="bold red", end=" ")
        note(f"{path}\n  {reason}")
    values: dict[str, Any] = {"model": str(args.model), "assumed": network.metadata.assumed}
    values["files"] = [report.to_dict() for report in reports]
    values["failures"] = [_failure(path, error) for path, error in failures]
    if args.parity is not None and reports:
        values["parity"] = _parity(args, network, reports)
    if args.to is not None and not failures:
        values["uploaded"] = _upload(args, network, reports)
    elif args.to is not None:
        note(f"nothing is put on {args.to}, since a file failed its checks")
    write_json_option(args.json, values)
    return EXIT_CHECK_FAILED if failures else EXIT_OK


def _upload(
    args: argparse.Namespace, network: Embedder, reports: Sequence[ExportReport]
) -> dict[str, Any]:
    """Put the network and the files that were written on the Hub; return what is there now."""
    paths = [report.path for report in reports]
    done = upload_embedder(network.backbone, args.to, paths, network.metadata)
    console.print(f"{done.address}: {', '.join(done.files)}", soft_wrap=True)
    if done.others:
        note(f"left there as they were, perhaps of other weights: {', '.join(done.others)}")
    return dataclasses.asdict(done)


def _write(
    args: argparse.Namespace, network: Embedder, jobs: list[tuple[Path, str, str]]
) -> tuple[list[ExportReport], list[tuple[Path, ExportError]]]:
    """Return the reports of the files that were written, and why others were not."""
    gate = None
    if args.gate_images is not None:
        max_drop = DEFAULT_MAX_DROP if args.max_drop is None else args.max_drop
        gate = Gate(args.gate_images, args.gate_pairs, args.gate_landmarks, max_drop)
    reports, failures = [], []
    for path, file_format, kind in jobs:
        write: Any = export_tflite if file_format == "tflite" else export_onnx
        with progress_bar(path.name) as show:
            if gate is not None:
                gate.progress = show
            try:
                options = built_in(args, file_format, kind)
                options |= {"metadata": network.metadata, "gate": gate, "progress": show}
                reports.append(write(network.backbone, path, kind, args.calibrate, **options))
            except ExportError as error:
                failures.append((path, error))
    return reports, failures


def _failure(path: Path, error: ExportError) -> dict[str, Any]:
    """Return what `--json` holds of a file that was not written."""
    result = getattr(error, "result", None)  # of the gate
    values = {"path": str(path), "reason": str(error)}
    return values if result is None else {**values, "accuracy": dataclasses.asdict(result)}


def _load(args: argparse.Namespace) -> Embedder:
    """Return the network in a `.keras` file; its metadata names the file by its hash."""
    path = args.model
    network = load_embedder(path, **{**input_facts(args), "layout": None})
    if network.head_left_out:
        note(f"{path}: the classification head is left out", console)
    metadata = network.metadata
    extra = {**metadata.extra, model_card.SOURCE: path.name}
    if metadata.source_hash or metadata.extra.get(model_card.SOURCE):
        earlier = {"file": metadata.extra.get(model_card.SOURCE), "sha256": metadata.source_hash}
        extra[model_card.EARLIER_SOURCE] = earlier
    digest = sha256_file(path)
    network.metadata = dataclasses.replace(metadata, source_hash=digest, extra=extra)
    return network


def _parity(
    args: argparse.Namespace, network: Embedder, reports: Sequence[ExportReport]
) -> list[dict[str, Any]]:
    """Measure Keras and the files in one run, print the table, write it; return its rows."""
    size, source = network.input_size, "synthetic"
    if args.calibrate is None:
        faces = probe_faces(size)
    else:
        faces, source = calibration_faces(args.calibrate, size, limit=_PARITY_FACES), "calibration"
    accuracies = {report.path: report.gate for report in reports if report.gate is not None}
    paths = [report.path for report in reports]
    table = parity_table(network.backbone, paths, faces, network.metadata, accuracies)
    print_parity(table, len(faces), source)
    rows = [row.to_dict() for row in table]
    values = {"model": str(args.model), "faces": len(faces), "faces_from": source, "rows": rows}
    write_json(args.parity, values)
    return rows


def _describe(args: argparse.Namespace) -> int:
    """Write the facts that were given into a file, and print all that it now says of itself."""
    facts = input_facts(args)
    if all(value is None for value in facts.values()):
        raise CommandError(
            "--describe needs one of --channel-order, --pixel-mean, --pixel-scale, --layout"
        )
    values = json.loads(describe_file(args.describe, **facts).to_json())
    console.print_json(data=values)
    note(f"written into {args.describe}")
    write_json_option(args.json, values)
    return EXIT_OK


def _inspect(path: Path, json_path: Path | None) -> int:
    metadata = read_metadata(path)
    if metadata is None:
        raise CommandError(f"{path} says nothing about itself: it carries no metadata")
    values = json.loads(metadata.to_json())
    console.print_json(data=values)
    write_json_option(json_path, values)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main(None))
