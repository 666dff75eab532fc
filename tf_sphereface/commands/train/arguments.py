"""The options of `tf_sphereface-train`, and the recipe and faces that they describe."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tf_sphereface import data, training
from tf_sphereface.commands.console import (
    CommandError,
    add_json_option,
    existing_dir,
    existing_file,
    image_size,
    positive_int,
)
from tf_sphereface.training import recipes

DEFAULTS: dict[str, Any] = {"identities": 300, "images": 40, "cache": "memory", "verify_people": 0}
"""Of options of which it matters whether they were given."""


@dataclasses.dataclass(frozen=True)
class VerificationOptions:
    """The faces to verify on: a folder with its pairs and landmarks, or rendered people."""

    images: Path | None
    pairs: Path | None
    landmarks: Path | None
    people: int


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line: what to train, on which faces, where, and how the run is watched.

    Attributes:
        preset: name of the preset that the recipe comes from.
        scaling: of the learning rate, `"none"` or `"linear"`.
        jit: as `jit_compile` of `FaceClassifier.compile`.
        exclude: the file that the exclusions come from.
    """

    recipe: recipes.Recipe
    source: data.FaceSource
    folder: training.RunFolder
    verification: VerificationOptions
    preset: str
    scaling: str
    strategy: str
    jit: bool | str
    resume: bool
    dry_run: bool
    doctor: bool
    checkpoint_every: int | None
    keep: int
    license: str | None
    exclude: Path | None
    json: Path | None


def read_options(arguments: argparse.Namespace) -> Options:
    """Return what the command line asks for.

    Raises:
        CommandError: an option was given that would have no effect.
        ValueError: a value is out of its range.
        OSError: a list of exclusions cannot be read.
    """
    check_options(arguments)
    folder = training.RunFolder(arguments.out)
    recipe = recipe_from(arguments)
    if arguments.resume:
        recipe = folder.as_begun(recipe)
    switches: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
    return Options(
        recipe=recipe,
        source=source_from(arguments, recipe),
        folder=folder,
        verification=VerificationOptions(
            arguments.verify_images,
            arguments.verify_pairs,
            arguments.verify_landmarks,
            arguments.verify_people,
        ),
        preset=arguments.preset,
        scaling=arguments.scale_learning_rate,
        strategy=arguments.strategy,
        jit=switches[arguments.jit],
        resume=arguments.resume,
        dry_run=arguments.dry_run,
        doctor=not arguments.no_doctor,
        checkpoint_every=arguments.checkpoint_every,
        keep=arguments.keep,
        license=arguments.license,
        exclude=arguments.exclude,
        json=arguments.json,
    )


def source_from(arguments: argparse.Namespace, recipe: recipes.Recipe) -> data.FaceSource:
    """Return the faces that were asked for; none is read yet."""
    source: str | data.SyntheticFaces = arguments.data
    if arguments.data == "synthetic":
        source = data.SyntheticFaces(arguments.identities, arguments.images, recipe.seed)
    listed = arguments.exclude
    return data.FaceSource(
        source,
        image_size=recipe.input_size,
        batch_size=recipe.batch_size,
        augment=recipe.augment,
        seed=recipe.seed,
        channel_order=arguments.channel_order,
        cache=arguments.cache,
        strict=arguments.strict,
        resize=arguments.resize,
        exclude=None if listed is None else data.read_exclusions(listed),
    )


def recipe_from(arguments: argparse.Namespace) -> recipes.Recipe:
    """Return the preset with the options that were given, and the learning rate scaled.

    Raises:
        CommandError: an option was given that the annealing of the recipe has no use for.
        ValueError: a value is out of its range.
    """
    preset = recipes.preset(arguments.preset)
    names = {field.name for field in dataclasses.fields(preset)}
    given = {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    recipe = dataclasses.replace(preset, **given)
    for name in ("annealing_reach", "annealing_power"):
        if name in given and recipe.annealing != "fit":
            raise CommandError(
                f"--{name.replace('_', '-')} needs --annealing fit: with --annealing "
                f"{recipe.annealing} lambda falls by the released layer's constants"
            )
    if arguments.scale_learning_rate == "linear":
        rate = recipe.learning_rate * recipe.batch_size / preset.batch_size
        recipe = dataclasses.replace(recipe, learning_rate=rate)
    return recipe


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that were given and would have no effect; fill in the defaults of the rest.

    Raises:
        CommandError: such an option, with what it is for.
    """
    synthetic, folder = arguments.data == "synthetic", arguments.verify_images is not None
    refused = {
        "is for --data synthetic, not for a folder of faces": (
            () if synthetic else ("identities", "images")
        ),
        "is for a folder of faces, not for --data synthetic": (
            ("exclude", "strict", "resize", "cache") if synthetic else ()
        ),
        "needs --verify-images": () if folder else ("verify_pairs", "verify_landmarks"),
        "is for --data synthetic; use --verify-images": () if synthetic else ("verify_people",),
        "cannot go with --verify-images: the run verifies on one set": (
            ("verify_people",) if folder else ()
        ),
    }
    for why, names in refused.items():
        for name in names:
            if getattr(arguments, name) not in (None, False):
                raise CommandError(f"--{name.replace('_', '-')} {why}")
    for name, default in DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    parser.add_argument("--data", required=True, metavar="DIR|synthetic", help="training faces")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="the run folder")
    parser.add_argument(
        "--preset", default="small", choices=sorted(recipes.PRESETS), help="the recipe"
    )
    parser.add_argument("--resume", action="store_true", help="go on where this run stopped")
    parser.add_argument(
        "--dry-run", action="store_true", help="show schedule and memory, train nothing"
    )
    parser.add_argument("--no-doctor", action="store_true", help="no TrainingDoctor")
    parser.add_argument(
        "--strategy",
        choices=("none", "mirrored", "multiworker"),
        default="none",
        help="mirrored: all GPUs of this machine; multiworker: those of all in TF_CONFIG",
    )
    parser.add_argument(
        "--jit", choices=("auto", "on", "off"), default="auto", help="XLA; auto: on for GPUs"
    )
    recipe = parser.add_argument_group("changes to the preset")
    recipe.add_argument("--backbone", choices=recipes.BACKBONES)
    recipe.add_argument("--embedding-dim", type=int, metavar="N")
    recipe.add_argument("--input-size", type=image_size, metavar="HxW", help="such as 112x96")
    recipe.add_argument("--loss", choices=recipes.LOSSES)
    recipe.add_argument("--margin", type=float, metavar="M", help="a-softmax: 1, 2, 3 or 4")
    recipe.add_argument("--scale", type=float, metavar="S", help="of the cosines; not a-softmax")
    recipe.add_argument("--clip-norm", type=float, metavar="G", help="of gradients; 0: none")
    recipe.add_argument(
        "--gradient", choices=("exact", "caffe"), help="caffe: the released layer's, for a-softmax"
    )
    recipe.add_argument(
        "--sample-rate", type=float, metavar="R", help="share of the class centres a step sees"
    )
    recipe.add_argument(
        "--annealing", choices=recipes.ANNEALINGS, help="fit: lambda's fall scaled to the run"
    )
    recipe.add_argument(
        "--annealing-reach",
        type=float,
        metavar="S",
        help="share of the run after which lambda is at its minimum; with --annealing fit",
    )
    recipe.add_argument(
        "--annealing-power",
        type=float,
        metavar="P",
        help="exponent of lambda's curve; with --annealing fit. Above 1 it falls later",
    )
    recipe.add_argument("--lambda-minimum", type=float, metavar="L", help="where lambda stops")
    recipe.add_argument("--epochs", type=int, metavar="N")
    recipe.add_argument("--batch-size", type=int, metavar="N", help="over all replicas")
    recipe.add_argument("--learning-rate", type=float, metavar="R")
    recipe.add_argument(
        "--scale-learning-rate",
        choices=("none", "linear"),
        default="none",
        help="linear: by batch size over the preset's",
    )
    recipe.add_argument("--weight-decay", type=float, metavar="W")
    recipe.add_argument(
        "--dropout", type=float, metavar="P", help="share of the embedding layer's inputs dropped"
    )
    recipe.add_argument("--augment", choices=("none", "mirror", "strong"))
    recipe.add_argument(
        "--precision",
        choices=recipes.PRECISIONS,
        help="auto: mixed_bfloat16 where this machine multiplies in it, else float32",
    )
    recipe.add_argument("--seed", type=int, metavar="N")
    faces = parser.add_argument_group("data")
    faces.add_argument("--strict", action="store_true", help="stop at a damaged file")
    faces.add_argument("--resize", action="store_true", help="resize faces of another size")
    faces.add_argument(
        "--cache",
        choices=("memory", "none"),
        help=f"none: decode every epoch (default: {DEFAULTS['cache']})",
    )
    faces.add_argument(
        "--exclude",
        type=existing_file,
        metavar="FILE",
        help="identities and images to leave out, as tf_sphereface-data audit lists them",
    )
    faces.add_argument("--channel-order", choices=("rgb", "bgr"), default="rgb")
    faces.add_argument(
        "--identities",
        type=int,
        metavar="N",
        help=f"of the synthetic data (default: {DEFAULTS['identities']})",
    )
    faces.add_argument(
        "--images",
        type=int,
        metavar="N",
        help=f"an identity, of the synthetic data (default: {DEFAULTS['images']})",
    )
    kept = parser.add_argument_group("checkpoints and verification")
    kept.add_argument(
        "--checkpoint-every",
        type=positive_int,
        metavar="N",
        help="steps between checkpoints; default: 500 or two minutes, and at each epoch's end",
    )
    kept.add_argument(
        "--keep", type=positive_int, default=3, metavar="K", help="newest checkpoints"
    )
    kept.add_argument(
        "--verify-images", type=existing_dir, metavar="DIR", help="verify on these after each epoch"
    )
    kept.add_argument(
        "--verify-pairs", type=existing_file, metavar="FILE", help="as LFW's; else random pairs"
    )
    kept.add_argument(
        "--verify-landmarks", type=existing_file, metavar="FILE", help="to align them by"
    )
    kept.add_argument("--verify-people", type=int, metavar="N", help="held out, for synthetic data")
    parser.add_argument(
        "--license", metavar="TEXT", help="of the trained weights, for the model card"
    )
    add_json_option(parser)
