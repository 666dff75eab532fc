"""`tf_sphereface-data audit --labels RUN|MODEL`: the images whose labels are in doubt."""

from __future__ import annotations

import argparse
import csv
from typing import Any

import numpy as np

from tf_sphereface import data, training
from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    note,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.data.lists import SHOWN, say
from tf_sphereface.commands.input_options import input_facts
from tf_sphereface.data.doubtful_labels import MAX_ANGLE
from tf_sphereface.utils.files import atomic_path, write_json
from tf_sphereface.utils.messages import and_more, counted

HEADER = """\
Labels in doubt, by tf_sphereface-data audit --labels {run}, of {data}.
Look at the images before you use the list: tf_sphereface-train --exclude FILE"""
TOO_MANY = 1 / 3  # of the images
FEEDING = ("channel_order", "pixel_mean", "pixel_scale", "layout")
OTHERS = (
    "test", "model", "test_landmarks", "train_landmarks", "identity_cosine", "image_cosine",
    "hash_bits", "no_names", "expected",
)  # fmt: skip
"""Options of the audit of a test set, which have no effect here."""


def check_options(args: argparse.Namespace) -> None:
    """Refuse options of one audit that are given to the other."""
    if args.labels is None:
        for name in ("angle", "exclude"):
            if getattr(args, name) is not None:
                raise CommandError(f"--{name} needs --labels")
        if args.train is None or args.test is None:
            raise CommandError("audit needs TRAIN and TEST, --labels RUN, or TRAIN --labels MODEL")
        return
    if not args.labels.exists():
        raise CommandError(f"there is no run folder or embedder {args.labels}")
    by_model = args.labels.is_file()
    if by_model and args.train is None:
        raise CommandError(f"--labels {args.labels} needs TRAIN: the faces whose labels it audits")
    unused = OTHERS if by_model else OTHERS + FEEDING
    given = [name for name in unused if getattr(args, name, None) not in (None, False)]
    if given:
        names = ", ".join("TEST" if n == "test" else f"--{n.replace('_', '-')}" for n in given)
        why = "TRAIN alone is looked at" if by_model else "the run has its own model and faces"
        raise CommandError(f"{names} cannot go with --labels: {why}")


def run(args: argparse.Namespace) -> int:
    """Audit labels, print and write."""
    by = args.labels
    if by.is_file():
        from tf_sphereface.embedder.embedder import load_embedder

        by = load_embedder(by, **input_facts(args))
    with progress_bar("faces") as show_progress:
        audit = training.audit_labels(
            by,
            args.train,
            exclude=None if args.exclude is None else data.read_exclusions(args.exclude),
            max_angle=MAX_ANGLE if args.angle is None else args.angle,
            strict=args.strict,
            progress=show_progress,
        )
    if audit.source.report:
        note(audit.source.report.summary())
    entries, out = audit.entries(), args.out
    by_run = audit.step is not None
    report: dict[str, Any] = {
        "run" if by_run else "model": str(args.labels),
        "step": audit.step,
        "people": audit.source.num_classes,
        "images": len(audit.source),
        "damaged": audit.source.report.count,
        "centers_per_class": audit.centers_per_class,
        "max_angle": audit.max_angle,
        "doubtful": [
            {
                "image": name,
                "angle_degrees": round(found.angle, 2),
                **({"center": found.center, "main_center": found.dominant} if by_run else {}),
            }
            for (name, _), found in zip(entries, audit.doubtful, strict=True)
        ],
    }
    with (
        atomic_path(out / "doubtful.tsv") as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle,
    ):
        names = ["image", "angle_degrees", *(["center", "main_center"] if by_run else [])]
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
        raise CheckFailed(f"{len(entries):,} labels of {audit.source.source} are in doubt")
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
    people = counted(audit.source.num_classes, "person", "people")
    of = f"{counted(images, 'image')} of {people}"
    if audit.step is None:
        lines = [f"{args.labels}: {of}, each beside the mean of its person's others"]
        alone = int(np.sum(np.bincount(audit.source.labels) == 1))
        if alone:
            lines.append(f"people of one image, of which nothing can be said: {alone:,}")
        cure = (
            "is the network fed as it was trained, is TRAIN aligned, and has each person a folder? "
            "Else take"
        )
    else:
        centers = f"{counted(many, 'centre')} each"
        lines = [f"{args.labels}, after {audit.step:,} updates: {of}, {centers}"]
        if many == 1:
            lines.append("with one centre the angle alone decides (--centers-per-class)")
        cure = (
            "the run has not drawn its people together. Train longer or with a lower --scale, or "
            "take"
        )
    lines.append(f"labels in doubt: {len(entries):,} ({len(entries) / images:.1%})")
    if len(entries) > TOO_MANY * images:
        lines.append(f"that many are no errors of labels: {cure} a larger --angle")
    listed = [f"{name}: {why}" for name, why in entries]
    if listed:
        where = f"in {args.out / 'doubtful.tsv'}"
        lines.append("  " + and_more(listed, SHOWN, separator="\n  ", where=where))
    lines.append(f"{args.out / 'exclude.txt'}: for tf_sphereface-train --exclude; look at it first")
    say("\n".join(lines))
