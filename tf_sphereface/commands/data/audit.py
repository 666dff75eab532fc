"""`tf_sphereface-data audit`: whether a test set's people or pictures are in a training set."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface import data
from tf_sphereface.alignment.images import decode_image
from tf_sphereface.commands.console import (
    EXIT_OK,
    CheckFailed,
    CommandError,
    cosine_value,
    output_dir,
    progress,
    write_json_option,
)
from tf_sphereface.commands.data.audit_report import show, words, write
from tf_sphereface.data import audit
from tf_sphereface.data.exclusions import image_names
from tf_sphereface.utils.files import sha256_file

_CHUNK = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """One of the two sets, read.

    Attributes:
        root: the folder.
        people: names of the identities.
        files: `IDENTITY/FILE` of the images that could be read.
        labels: (n,), index into `people`.
        hashes: uint8 (n, 32).
        vectors: (n, d) unit embeddings, or None without a model.
        unread: file -> why it could not be read.
    """

    root: Path
    people: list[str]
    files: list[str]
    labels: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    vectors: NDArray[np.float32] | None
    unread: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("train", type=Path, metavar="TRAIN", help="a folder a person, or a pack")
    parser.add_argument("test", type=Path, metavar="TEST", help="a folder a person, as LFW's")
    parser.add_argument(
        "--model", type=Path, metavar="M", help="an embedder, to compare faces and not names alone"
    )
    parser.add_argument(
        "--test-landmarks", type=Path, metavar="FILE", help="to align the test images by"
    )
    parser.add_argument(
        "--train-landmarks", type=Path, metavar="FILE", help="to align the training images by"
    )
    parser.add_argument(
        "--out", type=output_dir, default=Path("audit"), metavar="DIR", help="where the lists go"
    )
    parser.add_argument(
        "--expected",
        type=float,
        default=10.0,
        metavar="E",
        help="pairs of different people that each threshold may let through by chance",
    )
    parser.add_argument(
        "--identity-cosine", type=cosine_value, metavar="C", help="in place of the threshold found"
    )
    parser.add_argument(
        "--image-cosine", type=cosine_value, metavar="C", help="likewise, for pictures"
    )
    parser.add_argument(
        "--hash-bits", type=int, metavar="N", help="likewise: of 256 bits, how many may differ"
    )
    parser.add_argument(
        "--no-names", action="store_true", help="names mean nothing, such as numbers of both sets"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if anything is found")


def run(args: argparse.Namespace) -> int:
    """Audit, print and write."""
    for name in ("train", "test"):
        if not getattr(args, name).is_dir():
            raise CommandError(f"no such folder: {getattr(args, name)}")
        if getattr(args, f"{name}_landmarks") is not None and data.is_pack(getattr(args, name)):
            raise CommandError(
                f"--{name}-landmarks is for a folder of images: {getattr(args, name)} is packed, "
                "and what is packed is aligned already"
            )
    if not args.expected > 0:
        raise CommandError(f"--expected must be positive. Received: {args.expected}")
    embedder = None
    if args.model is not None:
        from tf_sphereface.embedder.embedder import load_embedder

        embedder = load_embedder(args.model)
    size = _crop_size(args, embedder)
    train = read_faces(args.train, args.train_landmarks, embedder, size, "train ")
    test = read_faces(args.test, args.test_landmarks, embedder, size, "test ")
    found = compare(train, test, args)
    report = {
        "train": _describe(train),
        "test": _describe(test),
        "model": args.model and {"file": str(args.model), "sha256": sha256_file(args.model)},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **found,
    }
    entries = exclusions(found)
    write(args.out, report, entries)
    show(report, entries, args.out)
    write_json_option(args.json, report)
    if args.strict and entries:
        raise CheckFailed(f"{args.train} and {args.test} have {len(entries):,} entries in common")
    return EXIT_OK


def read_faces(
    root: Path,
    landmarks: Path | None,
    embedder: Any,
    size: tuple[int, int] | None,
    title: str,
) -> Faces:
    """Read, align, hash and embed every image of a folder; those that cannot be read are listed."""
    from tf_sphereface.alignment.face_reader import FaceReader, Pool

    source = data.open_pack(root, errors="skip") if data.is_pack(root) else data.scan_folder(root)
    names = image_names(source)
    reader = FaceReader(size, landmarks) if size is not None else None

    def load(position: int) -> np.ndarray | ValueError:
        try:
            if isinstance(source, data.Pack):
                content = source.read(np.array([position]))[0]
                image = decode_image(content, names[position])
                return image if reader is None else reader.fit(image)
            if reader is None:
                return data.read_image(source.paths[position])
            return reader(source.paths[position], names[position])
        except (OSError, ValueError) as error:
            return error if isinstance(error, ValueError) else ValueError(str(error))

    kept: list[int] = []
    hashes, vectors, unread = [], [], {}
    with progress(title) as bar, Pool(max_workers=4) as pool:
        task = bar.add_task("", total=len(names))
        for begin in range(0, len(names), _CHUNK):
            positions = range(begin, min(begin + _CHUNK, len(names)))
            images = []
            for position, image in zip(positions, pool.map(load, positions), strict=True):
                if isinstance(image, ValueError):
                    unread[names[position]] = str(image)
                else:
                    images.append(image)
                    kept.append(position)
            hashes += [audit.difference_hash(image) for image in images]
            if embedder is not None and images:
                vectors.append(audit.unit(embedder(np.stack(images))))
            bar.update(task, completed=positions.stop)
    if not kept:
        name, why = next(iter(unread.items()))
        raise CommandError(
            f"none of the {len(names):,} images in {root} can be used, such as {name}: {why}"
        )
    return Faces(
        root,
        source.names,
        [names[position] for position in kept],
        np.asarray(source.labels, np.int64)[kept],
        np.stack(hashes),
        np.concatenate(vectors) if vectors else None,
        unread,
    )


def compare(train: Faces, test: Faces, args: argparse.Namespace) -> dict[str, Any]:
    """Return the thresholds and everything that is found."""
    thresholds: dict[str, audit.Threshold] = {}
    identities: dict[tuple[int, int], dict[str, Any]] = {}
    if not args.no_names:
        for pair in audit.same_names(train.people, test.people):
            identities[pair] = {"why": ["name"], "cosine": None}
    images: dict[tuple[int, int], dict[str, Any]] = {}

    def find(
        kind: str,
        given: float | None,
        left: NDArray[np.float32],
        right: NDArray[np.float32],
        labels: NDArray[np.int64],
        note: Callable[[int, int, float], None],
    ) -> None:
        pairs = len(left) * len(right)
        if given is not None:
            limit = audit.Threshold(given, math.nan, pairs)
        else:
            try:
                limit = audit.calibrate(right, labels, pairs, args.expected)
            except ValueError as error:
                option = {"identities": "--identity-cosine", "images": "--image-cosine"}
                raise CommandError(f"{error}: {option.get(kind, '--hash-bits')}") from error
        thresholds[kind] = limit
        for row, column, cosine in audit.pairs_above(left, right, limit.cosine):
            note(row, column, cosine)

    def note_person(row: int, column: int, cosine: float) -> None:
        entry = identities.setdefault((row, column), {"why": [], "cosine": cosine})
        entry["why"].append("centroid")
        entry["cosine"] = cosine

    def note_embedding(row: int, column: int, cosine: float) -> None:
        images.setdefault((row, column), {"why": []})["why"].append("embedding")

    def note_hash(row: int, column: int, cosine: float) -> None:
        images.setdefault((row, column), {"why": []})["why"].append("hash")

    suspects: list[tuple[int, int, float]] = []
    again: tuple[float, int] | None = None
    if train.vectors is not None and test.vectors is not None:
        ours = audit.centroids(train.vectors, train.labels, len(train.people))
        theirs = audit.centroids(test.vectors, test.labels, len(test.people))
        for pair, entry in identities.items():
            entry["cosine"] = float(ours[pair[0]] @ theirs[pair[1]])
        people = np.arange(len(test.people))
        find("identities", args.identity_cosine, ours, theirs, people, note_person)
        find("images", args.image_cosine, train.vectors, test.vectors, test.labels, note_embedding)
        again = audit.share_found(test.vectors, test.labels, thresholds["identities"].cosine)
        suspects = audit.impostors_above(test.vectors, test.labels, thresholds["images"].cosine)
    bits = None if args.hash_bits is None else 1 - 2 * (args.hash_bits + 0.5) / audit.HASH_BITS
    hashes = [audit.hash_vectors(faces.hashes) for faces in (train, test)]
    find("hashes", bits, hashes[0], hashes[1], test.labels, note_hash)
    for (row, column), entry in images.items():
        entry["hash_bits"] = int(audit.differing_bits(hashes[0][row] @ hashes[1][column]))
        if train.vectors is not None and test.vectors is not None:
            entry["cosine"] = float(train.vectors[row] @ test.vectors[column])
    contradicted = [
        pair
        for pair, entry in images.items()
        if entry["why"] == ["hash"]
        and "images" in thresholds
        and entry["cosine"] < (thresholds["images"].tail_from or thresholds["images"].cosine)
    ]  # one picture twice would be far more alike to the network than strangers are
    for pair in contradicted:
        del images[pair]
    return {
        "thresholds": {
            kind: {**dataclasses.asdict(limit), "reason": limit.reason()}
            for kind, limit in thresholds.items()
        },
        "people_found_again": again and {"share": again[0], "of": again[1]},
        "hash_bits_allowed": int(np.floor((1 - thresholds["hashes"].cosine) * audit.HASH_BITS / 2)),
        "hash_matches_that_the_model_contradicts": len(contradicted),
        "identities": _sorted(
            {"train": train.people[row], "test": test.people[column], **_angles(entry)}
            for (row, column), entry in identities.items()
        ),
        "images": _sorted(
            {"train": train.files[row], "test": test.files[column], **_angles(entry)}
            for (row, column), entry in images.items()
        ),
        "suspects_in_test": _sorted(
            {"first": test.files[row], "second": test.files[column], **_angles({"cosine": cosine})}
            for row, column, cosine in suspects
        ),
    }


def exclusions(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what training should leave out, with reasons: people, then pictures of others."""
    people: dict[str, str] = {}
    for row in found["identities"]:
        people.setdefault(row["train"], f"{row['test']}: {words(row)}")
    pictures: dict[str, str] = {}
    for row in found["images"]:
        if row["train"].split("/")[0] not in people:
            pictures.setdefault(row["train"], f"{row['test']}: {words(row)}")
    return [*people.items(), *pictures.items()]


def _crop_size(args: argparse.Namespace, embedder: Any) -> tuple[int, int] | None:
    """Return the size at which faces are compared; None: as they are, by hash alone."""
    if embedder is not None:
        size: tuple[int, int] = embedder.input_size
        return size
    if args.test_landmarks is None and args.train_landmarks is None:
        return None
    if data.is_pack(args.train):
        size = data.open_pack(args.train).image_size or (112, 96)
    else:
        first = data.read_image(data.scan_folder(args.train).paths[0])
        size = (int(first.shape[0]), int(first.shape[1]))
    return size if size in data.TEMPLATES else (112, 96)


def _describe(faces: Faces) -> dict[str, Any]:
    return {
        "folder": str(faces.root),
        "people": len(faces.people),
        "images": len(faces.files),
        "unread": faces.unread,
    }


def _angles(entry: dict[str, Any]) -> dict[str, Any]:
    """Add the angle to an entry with a cosine."""
    cosine = entry.get("cosine")
    angle = None if cosine is None else math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    return {**entry, "angle_degrees": angle}


def _sorted(rows: Any) -> list[dict[str, Any]]:
    """Return the rows, the most alike first."""
    order = lambda row: -(row["cosine"] or 0.0) if "cosine" in row else row.get("hash_bits", 0)  # noqa: E731
    return sorted(rows, key=order)
