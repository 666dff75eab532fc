"""`tf_sphereface-search cluster`: a folder of pictures, or a table of faces, into people."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_sphereface.commands.console import (
    EXIT_OK,
    CommandError,
    add_json_option,
    console,
    cosine_value,
    existing_file,
    note,
    output_dir,
    progress_bar,
    warn,
    write_json_option,
)
from tf_sphereface.commands.input_options import add_input_options, input_facts
from tf_sphereface.commands.search.embed import add_face_options
from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.utils.files import short_name
from tf_sphereface.utils.messages import and_more, counted

if TYPE_CHECKING:
    from tf_sphereface.search import FaceTable

SUMMARY = "sort the faces of a folder of pictures, or of a table, into people"
DESCRIPTION = """\
Sort faces into people. DIR gets a folder for each, from the largest on, with the aligned faces
(--files copies or links: the pictures); apart/singletons and apart/unclear (blurred faces, pictures
without a face); clusters.tsv; and index.html, a page of contact sheets. The pictures stay where
they are. Rename the folders of faces to names, and enroll them: tf_sphereface-search enroll GALLERY
DIR. (Of a picture of several people nobody knows which face is whose: it is not enrolled.)

Two clusters are one person where the mean cosine of their faces reaches the cut: --threshold, or
the model's calibrated threshold, raised for the number of faces, or, where the model has none, one
that is read from these faces' own cosines. Which it is, is said.

exit code: 0 done, 2 bad input, no face, or no threshold can be had"""
SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "src",
        type=Path,
        metavar="SRC",
        help="a table of `embed`, or what `embed` takes, with --model",
    )
    parser.add_argument(
        "--out", type=output_dir, required=True, metavar="DIR", help="a folder, new or empty"
    )
    parser.add_argument(
        "--model", type=existing_file, metavar="MODEL", help="to embed SRC with, if it is no table"
    )
    parser.add_argument(
        "--threshold",
        type=cosine_value,
        metavar="T",
        help="the mean cosine of one person",
    )
    parser.add_argument(
        "--files",
        choices=("faces", "copies", "links"),
        default="faces",
        help="what the folders hold: aligned faces, or copies of or links to the pictures",
    )
    parser.add_argument(
        "--score",
        action="store_true",
        help="SRC has a folder per person: also say how well the clusters agree with them, by the "
        "largest face of each picture, unclear ones left out",
    )
    add_face_options(parser)
    add_input_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Cluster; return the exit code."""
    from tf_sphereface.search.cluster_folder import (
        check_target,
        describe_clusters,
        write_clusters,
    )
    from tf_sphereface.search.clustering import cluster_faces

    if args.out.resolve() == Path.cwd():
        raise CommandError("--out must be another folder than the present one")
    check_target(args.out)
    table, stored = _table(args)
    if not len(table):
        raise CommandError(f"{args.src}: no face was found in it")
    try:
        clusters = cluster_faces(table, threshold=args.threshold)
    except ValueError as error:
        if stored is None:
            raise
        raise CommandError(f"{error}. The faces are in {stored}: cluster that file") from error
    described = describe_clusters(table, clusters)
    with progress_bar("writing") as show:
        there = write_clusters(table, described, args.out, content=args.files, progress=show)
    if stored is not None:
        os.replace(stored, args.out / "faces.npz")
    score = _score(table, described, clusters.labels) if args.score else None
    _say(args, described, score)
    if not there:
        warn(
            f"the pictures of the table are not at {table.facts.get('source') or 'a known place'}: "
            "the lists were written, no faces"
        )
    write_json_option(
        args.json,
        {"src": str(args.src), "out": str(args.out), **described, "score": score},
    )
    return EXIT_OK


def _table(args: argparse.Namespace) -> tuple[FaceTable, Path | None]:
    """Return the faces, and where the table lies if it was made now."""
    from tf_sphereface.search.embedding_job import embed_faces
    from tf_sphereface.search.face_table import SUFFIXES, load_faces

    if args.src.suffix.lower() in SUFFIXES and not args.src.is_dir():
        if args.model is not None:
            raise CommandError("--model is for pictures: a table of faces has its vectors")
        return load_faces(args.src), None
    if args.model is None:
        raise CommandError(f"--model is needed to embed pictures. Received: {args.src}")
    stored = args.out.with_name(short_name(args.out.name, ".faces.npz"))
    with progress_bar("embedding") as show:
        result = embed_faces(
            args.model,
            args.src,
            stored,
            alignment=args.align,
            detector=args.detector,
            min_face=args.min_face,
            batch_size=args.batch_size,
            jobs=args.jobs,
            facts=input_facts(args),
            progress=show,
        )
    if result.unread:
        lines = [f"{name}: {why}" for name, why in result.unread.items()]
        warn(f"{counted(len(lines), 'picture')} could not be used: {and_more(lines, SHOWN)}")
    if result.images.passed_over.summary():
        note(result.images.passed_over.summary(), console)
    return load_faces(stored), stored


def _score(table: FaceTable, described: dict[str, Any], labels: Any) -> dict[str, Any] | None:
    """Return how the clusters agree with the first folder of each path; None without folders.

    A picture counts by its largest face, the others may be of anybody; unclear faces do not count.
    """
    from tf_sphereface.eval.measures.clusters import score_clusters

    unclear = {face["row"] for face in described["unclear"]}
    rows = [
        row
        for row, path in enumerate(table.paths)
        if table.faces[row] == 0 and "/" in path and row not in unclear
    ]
    if not rows:
        warn("--score: no face is in a person's folder")
        return None
    people = [table.paths[row].split("/")[0] for row in rows]
    return score_clusters(labels[rows], people).to_dict()


def _say(args: argparse.Namespace, described: dict[str, Any], score: dict[str, Any] | None) -> None:
    """Print what was found."""
    cut = described["cut"]
    widest = max((cluster["largest_angle"] for cluster in described["clusters"]), default=0.0)
    apart = sum(face["cluster"] is None for face in described["unclear"])
    lines = [
        f"{args.out}: {counted(described['people'], 'person', 'people')} among "
        f"{counted(described['faces'], 'face')}; {len(described['singletons']):,} by themselves, "
        f"{apart:,} unclear; {counted(len(described['without_face']), 'picture')} without a face",
        f"cut at {degrees(cut['cosine']):.1f}°, cosine {cut['cosine']:.4f}: {cut['reason']}",
        f"the largest angle within a cluster is {widest:.1f}°; contact sheets: "
        f"{args.out / 'index.html'}",
    ]
    if score is not None:
        for name, title in (("pairwise", "pairs"), ("bcubed", "BCubed")):
            rates = score[name]
            lines.append(
                f"{title}: precision {rates['precision']:.4f}, recall {rates['recall']:.4f}, "
                f"F {rates['f']:.4f}"
            )
        lines.append(
            f"{counted(score['people'], 'person', 'people')} by folder; clusters of several "
            f"people: {score['mixed']:,}; people in several clusters: {score['split']:,}"
        )
    console.print("\n".join(lines), soft_wrap=True)
    for text in described["notes"]:
        note(text, console)
