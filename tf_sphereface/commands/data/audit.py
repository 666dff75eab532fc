"""`tf_sphereface-data audit`: the people and pictures of a test set that a training set has too."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface import data
from tf_sphereface.alignment.images import decode_image
from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    cosine_value,
    output_dir,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.data import label_audit
from tf_sphereface.commands.data.audit_report import as_dict, reason, show, write
from tf_sphereface.commands.input_options import (
    add_input_options,
    add_strict_option,
    input_facts,
)
from tf_sphereface.embedder.model_hashes import model_sha256

EXPECTED = 10.0  # pairs above a threshold by chance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "train", type=Path, nargs="?", metavar="TRAIN", help="a folder per person, a pack or a .rec"
    )
    parser.add_argument(
        "test", type=Path, nargs="?", metavar="TEST", help="a folder per person, as LFW's"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="RUN|MODEL",
        help="list the images whose label is in doubt, in place of a comparison: by a run's class "
        "centres (TRAIN: where its faces are now), or by how an embedder sees each person's others "
        "in TRAIN",
    )
    parser.add_argument(
        "--angle",
        type=float,
        metavar="A",
        help="with --labels: degrees to a person's main centre, or to the mean of the others, "
        "above which an image is doubtful (75)",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        metavar="FILE",
        help="with --labels: images to leave out; of a run, the list that it left out",
    )
    parser.add_argument("--model", type=Path, metavar="M", help="an embedder, to compare faces by")
    for side in ("test", "train"):
        parser.add_argument(
            f"--{side}-landmarks", type=Path, metavar="FILE", help="to align its images by"
        )
    parser.add_argument(
        "--out", type=output_dir, default=Path("audit"), metavar="DIR", help="where the lists go"
    )
    parser.add_argument(
        "--expected",
        type=float,
        metavar="E",
        help="pairs of different people that each threshold may let through by chance "
        f"({EXPECTED:g})",
    )
    parser.add_argument(
        "--identity-cosine", type=cosine_value, metavar="C", help="in place of the threshold found"
    )
    parser.add_argument("--image-cosine", type=cosine_value, metavar="C", help="of pictures")
    parser.add_argument("--hash-bits", type=int, metavar="N", help="that may differ, of 256")
    parser.add_argument(
        "--no-names", action="store_true", help="names mean nothing, such as numbers of both sets"
    )
    add_strict_option(parser, ", and exit with 1 if anything is found")
    add_input_options(parser)


def run(args: argparse.Namespace) -> int:
    """Audit a test set, or the labels of a run."""
    label_audit.check_options(args)
    return audit_test_set(args) if args.labels is None else label_audit.run(args)


def audit_test_set(args: argparse.Namespace) -> int:
    """Compare the two sets, print and write."""
    if args.expected is None:
        args.expected = EXPECTED
    _check(args)
    embedder = None
    if args.model is not None:
        from tf_sphereface.embedder.embedder import load_embedder

        embedder = load_embedder(args.model, **input_facts(args))
    elif any(value is not None for value in input_facts(args).values()):
        raise CommandError("--channel-order, --pixel-mean, --pixel-scale and --layout need --model")
    size = _crop_size(args, embedder)
    sets = {}
    for name in ("train", "test"):
        with progress_bar(name) as show_progress:
            sets[name] = data.read_face_set(
                getattr(args, name),
                embed=embedder,
                size=size,
                landmarks=getattr(args, f"{name}_landmarks"),
                strict=args.strict,
                progress=show_progress,
            )
    overlap = data.find_overlap(
        **sets,
        names=not args.no_names,
        expected=args.expected,
        identity_cosine=args.identity_cosine,
        image_cosine=args.image_cosine,
        hash_bits=args.hash_bits,
    )
    report = {
        **{
            name: {
                "folder": str(getattr(args, name)),
                "people": len(faces.people),
                "images": len(faces.files),
                "unread": faces.unread,
            }
            for name, faces in sets.items()
        },
        "model": embedder and _describe(embedder),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **as_dict(overlap),
    }
    entries = [(name, reason(match)) for name, match in overlap.exclusions().items()]
    write(args.out, report, entries)
    show(report, overlap, entries, args.out)
    write_json_option(args.json, report)
    if args.strict and entries:
        raise CheckFailed(f"{args.train} and {args.test} have {len(entries):,} entries in common")
    return EXIT_OK


def _check(args: argparse.Namespace) -> None:
    """Refuse sets that are not there, and options that do not fit them."""
    for name in ("train", "test"):
        source = getattr(args, name)
        packed = data.is_pack(source) or data.is_rec(source)
        if not source.is_dir() and not (packed and source.is_file()):
            raise CommandError(f"no such folder or RecordIO file: {source}")
        if getattr(args, f"{name}_landmarks") is not None and packed:
            raise CommandError(
                f"--{name}-landmarks is for a folder of images: {source} is packed, "
                "and what is packed is aligned already"
            )
    if not args.expected > 0:
        raise CommandError(f"--expected must be positive. Received: {args.expected}")


def _describe(embedder: Any) -> dict[str, Any]:
    """Return what the report says of the model."""
    metadata = embedder.metadata
    return {
        "file": str(embedder.path),
        "sha256": model_sha256(embedder.path),
        "channel_order": metadata.channel_order,
        "pixel_mean": metadata.pixel_mean,
        "pixel_scale": metadata.pixel_scale,
        "assumed": metadata.assumed,
    }


def _crop_size(args: argparse.Namespace, embedder: Any) -> tuple[int, int] | None:
    """Return the size at which faces are compared; None: as they are, by hash alone."""
    if embedder is not None:
        size: tuple[int, int] = embedder.input_size
        return size
    if args.test_landmarks is None and args.train_landmarks is None:
        return None
    if data.is_pack(args.train):
        size = data.open_pack(args.train).image_size or (112, 96)
    elif data.is_rec(args.train):
        first = data.open_rec(args.train, errors="report").read(np.arange(1))[0]
        size = decode_image(first).shape[:2]
    else:
        first = data.read_image(data.scan_folder(args.train).paths[0])
        size = (int(first.shape[0]), int(first.shape[1]))
    return size if size in data.TEMPLATES else (112, 96)
