"""`tf_sphereface-data audit --labels RUN`: the training images whose labels are in doubt."""

from __future__ import annotations

import argparse
import csv
from typing import Any

from tf_sphereface import data, training
from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.data.lists import SHOWN, say
from tf_sphereface.data.doubtful_labels import MAX_ANGLE
from tf_sphereface.utils.files import atomic_path, write_json
from tf_sphereface.utils.messages import and_more

HEADER = """\
Images of {data} whose label is in doubt, by tf_sphereface-data audit --labels {run}.
Look at them before you use it: tf_sphereface-train --exclude FILE"""
TOO_MANY = 1 / 3  # of the images
OTHERS = (
    "test", "model", "test_landmarks", "train_landmarks", "identity_cosine", "image_cosine",
    "hash_bits", "no_names", "channel_order", "pixel_mean", "pixel_scale", "layout",
)  # fmt: skip
"""Options of the audit of a test set, which have no effect here."""


def check_options(args: argparse.Namespace) -> None:
    """Refuse options of one audit that are given to the other."""
    if args.labels is None:
        for name in ("angle", "exclude"):
            if getattr(args, name) is not None:
                raise CommandError(f"--{name} needs --labels RUN")
        if args.train is None or args.test is None:
            raise CommandError("audit needs TRAIN and TEST, or --labels RUN")
        return
    given = [name for name in OTHERS if getattr(args, name, None) not in (None, False)]
    if given:
        names = ", ".join("TEST" if n == "test" else f"--{n.replace('_', '-')}" for n in given)
        raise CommandError(f"{names} cannot go with --labels: the run has its own model and faces")


def run(args: argparse.Namespace) -> int:
    """Audit the labels of a run, print and write."""
    with progress_bar("faces") as show_progress:
        audit = training.audit_labels(
            args.labels,
            args.train,
            exclude=None if args.exclude is None else data.read_exclusions(args.exclude),
            max_angle=MAX_ANGLE if args.angle is None else args.angle,
            progress=show_progress,
        )
    entries, out = audit.entries(), args.out
    report: dict[str, Any] = {
        "run": str(args.labels),
        "step": audit.step,
        "people": audit.source.num_classes,
        "images": len(audit.source),
        "centers_per_class": audit.centers_per_class,
        "max_angle": audit.max_angle,
        "doubtful": [
            {
                "image": name,
                "angle_degrees": round(found.angle, 2),
                "center": found.center,
                "main_center": found.dominant,
            }
            for (name, _), found in zip(entries, audit.doubtful, strict=True)
        ],
    }
    with (
        atomic_path(out / "doubtful.tsv") as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle,
    ):
        names = ["image", "angle_degrees", "center", "main_center"]
        writer = csv.DictWriter(handle, names, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(report["doubtful"])
    kept = [*_kept(args), *entries]
    header = HEADER.format(data=audit.source.describe(), run=args.labels)
    data.write_exclusions(out / "exclude.txt", kept, header)
    write_json(out / "labels.json", report)
    write_json_option(args.json, report)
    _show(args, audit, entries)
    if args.strict and entries:
        raise CheckFailed(f"{len(entries):,} labels of {args.labels} are in doubt")
    return EXIT_OK


def _kept(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return what the run left out already: training takes one list."""
    if args.exclude is None:
        return []
    before = data.read_exclusions(args.exclude)
    names = [*sorted(before.identities), *sorted(before.images)]
    return [(name, f"in {args.exclude.name}") for name in names]


def _show(
    args: argparse.Namespace, audit: training.LabelAudit, entries: list[tuple[str, str]]
) -> None:
    images, many = len(audit.source), audit.centers_per_class
    lines = [
        f"{args.labels}, after {audit.step:,} updates: {images:,} images of "
        f"{audit.source.num_classes:,} people, {many} centre{'s' * (many > 1)} each",
        f"labels in doubt: {len(entries):,} ({len(entries) / images:.1%})",
    ]
    if many == 1:
        lines.insert(1, "with one centre the angle alone decides (--centers-per-class)")
    if len(entries) > TOO_MANY * images:
        lines.append(
            "that many are no errors of labels: the run has not drawn its people together. Train "
            "longer or with a lower --scale, or take a larger --angle"
        )
    listed = [f"{name}: {why}" for name, why in entries]
    if listed:
        where = f"in {args.out / 'doubtful.tsv'}"
        lines.append("  " + and_more(listed, SHOWN, separator="\n  ", where=where))
    lines.append(f"{args.out / 'exclude.txt'}: for tf_sphereface-train --exclude; look at it first")
    say("\n".join(lines))
