"""The options of `tf_sphereface-train`, and the recipe and faces that they describe."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
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
from tf_sphereface.commands.input_options import add_strict_option
from tf_sphereface.commands.train import distillation
from tf_sphereface.embedder import read_metadata
from tf_sphereface.eval import bin_sets
from tf_sphereface.importers import import_checkpoint
from tf_sphereface.training import recipes

DEFAULTS: dict[str, Any] = {"identities": 300, "images": 40, "cache": "memory", "verify_people": 0}
"""Of options of which it matters whether they were given."""
JIT: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What to train, on which faces and where; `line` holds the options of how."""

    recipe: recipes.Recipe
    source: data.FaceSource
    folder: training.RunFolder
    line: argparse.Namespace
    pretrained: training.Pretrained | None = None
    held: data.FaceSource | None = None  # of people who are kept out of training
    teacher: training.Teacher | None = None


def read_options(arguments: argparse.Namespace) -> RunOptions:
    """Return what a command line that was checked asks for; fill in the defaults that are left.

    Raises CommandError, ValueError or OSError. TensorFlow starts where a network is opened.
    """
    for name, default in DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    folder = training.RunFolder(arguments.out)
    resumed = arguments.resume and folder.learns_from_teacher()
    distillation.check_distillation(arguments, resumed)
    own = arguments.start is not None or folder.base.exists()
    if not own and (arguments.teacher is not None or resumed):
        arguments.preset = arguments.preset or "distill"
    pretrained = pretrained_from(arguments, folder)
    recipe = recipe_from(arguments)
    if arguments.resume:
        names = (*recipes.FINE_TUNING, "distill_weight")
        given = [n for n in names if getattr(arguments, n, None) is not None]
        same = arguments.epochs is None
        recipe = folder.as_begun(recipe, same_epochs=same, given=given)
    if pretrained is not None:
        recipe = pretrained.recipe(recipe)
    teacher, recipe = distillation.taught(arguments, recipe)
    source, held = source_from(arguments, recipe), None
    if arguments.verify_people and arguments.data != "synthetic":
        source, held = data.hold_out(source, arguments.verify_people, recipe.seed)
    return RunOptions(recipe, source, folder, arguments, pretrained, held, teacher)


def pretrained_from(
    arguments: argparse.Namespace, folder: training.RunFolder
) -> training.Pretrained | None:
    """Return the network to start from, if any, and let the options say how it is fed.

    A run that is resumed without `--from` has its own in the run folder.
    """
    model = arguments.start
    if model is None and arguments.resume and folder.base.exists():
        model = folder.base
    arguments.preset = arguments.preset or ("small" if model is None else "fine-tune")
    own = ("backbone", "embedding_dim", "input_size")
    tuned = ("freeze_epochs", "freeze_norm", "body_rate")
    if model is None and arguments.preset == "fine-tune":
        raise CommandError("--preset fine-tune needs --from")
    for name in tuned if model is None else own:
        if getattr(arguments, name) is not None:
            why = "needs --from" if model is None else f"cannot go with --from: {model} has its own"
            raise CommandError(f"--{name.replace('_', '-')} {why}")
    if model is None:
        arguments.channel_order = arguments.channel_order or "rgb"
        return None
    name, order = str(model), arguments.channel_order
    if model.suffix == ".onnx":
        stored = read_metadata(model)
        guessed = stored is None or "channel_order" in stored.assumed
        model = import_checkpoint(model, "onnx", channel_order=order if guessed else None).model
    pretrained = training.open_pretrained(model, order, name)
    arguments.channel_order = pretrained.metadata.channel_order
    return pretrained


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
        unlabelled=recipe.teacher is not None and recipe.distill_weight == 1,
    )


def recipe_from(arguments: argparse.Namespace) -> recipes.Recipe:
    """Return the preset with the options that were given, and the learning rate scaled."""
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
    """Refuse options that were given and would have no effect, before any work."""
    synthetic, folder = arguments.data == "synthetic", arguments.verify_images is not None
    sets = arguments.verify_bins is not None
    verified = folder or sets or arguments.verify_people is not None
    refused = {
        "is for --data synthetic, not for a folder of faces": (
            () if synthetic else ("identities", "images")
        ),
        "is for a folder of faces, not for --data synthetic": (
            ("exclude", "strict", "resize", "cache") if synthetic else ()
        ),
        "needs --verify-images": () if folder else ("verify_pairs", "verify_landmarks"),
        "cannot go with --verify-images: the run verifies on one set": (
            ("verify_people",) if folder else ()
        ),
        "cannot go with --verify-bins: the run verifies on them": (
            ("verify_images", "verify_people") if sets else ()
        ),
        "needs --verify-bins": () if sets else ("verify_max_pairs",),
        "needs --verify-bins, --verify-images or --verify-people": (
            () if verified else ("verify_every",)
        ),
    }
    for why, names in refused.items():
        for name in names:
            if getattr(arguments, name) not in (None, False):
                raise CommandError(f"--{name.replace('_', '-')} {why}")
    people = arguments.verify_people
    if people and people < 4:  # two folds, of two people each
        raise CommandError(f"--verify-people must be at least 4. Received: {people}")
    if sets:
        bin_sets.find_bins(arguments.verify_bins)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    add = parser.add_argument
    add("--data", required=True, metavar="DIR|FILE.rec|synthetic", help="training faces")
    add("--out", required=True, type=Path, metavar="RUN", help="the run folder")
    add(
        "--preset",
        choices=sorted(recipes.PRESETS),
        help="the recipe; default: small, with --from fine-tune, with --teacher alone distill",
    )
    add("--resume", action="store_true", help="go on where this run stopped")
    add("--dry-run", action="store_true", help="show schedule and memory, train nothing")
    add("--no-doctor", action="store_true", help="no TrainingDoctor")
    add(
        "--strategy",
        choices=("none", "mirrored", "multiworker"),
        default="none",
        help="mirrored: all GPUs of this machine; multiworker: those of all in TF_CONFIG",
    )
    add("--jit", choices=tuple(JIT), default="auto", help="XLA; auto: on for GPUs")
    add(
        "--compile-cache",
        metavar="DIR|none",
        help="where compiled steps are kept for the next run; default: in the user's cache, with "
        "a GPU or --jit on",
    )
    add("--license", metavar="TEXT", help="of the trained weights, for the model card")
    add_json_option(parser)
    _add_recipe(parser.add_argument_group("changes to the preset").add_argument)
    _add_fine_tuning(parser.add_argument_group("fine-tuning").add_argument)
    distillation.add_distillation(parser)
    _add_faces(parser.add_argument_group("data"))
    add = parser.add_argument_group("checkpoints and verification").add_argument
    add(
        "--checkpoint-every",
        type=positive_int,
        metavar="N",
        help="steps between checkpoints; default: 500 or two minutes, and at each epoch's end",
    )
    add("--keep", type=positive_int, default=3, metavar="K", help="newest checkpoints")
    add("--verify-images", type=existing_dir, metavar="DIR", help="verify after each epoch")
    add("--verify-pairs", type=existing_file, metavar="FILE", help="as LFW's; else random pairs")
    add("--verify-landmarks", type=existing_file, metavar="FILE", help="to align them by")
    add("--verify-people", type=int, metavar="N", help="so many of the data's, not trained on")
    add(
        "--verify-bins",
        nargs="+",
        type=Path,
        metavar="DIR|FILE",
        help="verify on all .bin sets of a folder, or on such files; their mean chooses the best",
    )
    add(
        "--verify-max-pairs",
        type=positive_int,
        metavar="N",
        help="pairs of each .bin set, evenly spaced; default: all",
    )
    add(
        "--verify-every",
        type=positive_int,
        metavar="N",
        help="epochs between verifications (and after the last epoch); default: 1",
    )


def _add_recipe(add: Callable[..., Any]) -> None:
    add("--backbone", choices=recipes.BACKBONES)
    add("--embedding-dim", type=int, metavar="N")
    add("--input-size", type=image_size, metavar="HxW", help="such as 112x96")
    add("--loss", choices=recipes.LOSSES)
    add("--margin", type=float, metavar="M", help="a-softmax: 1, 2, 3 or 4; not magface")
    add("--scale", type=float, metavar="S", help="of the cosines; not a-softmax")
    add("--clip-norm", type=float, metavar="G", help="of gradients; 0: none")
    add("--label-smoothing", type=float, metavar="E", help="in [0, 1); not for softmax")
    add(
        "--class-weights",
        choices=("balanced",),
        help="balanced: each person weighs alike, however many faces there are",
    )
    add("--gradient", choices=("exact", "caffe"), help="caffe: the released layer's, for a-softmax")
    add("--sample-rate", type=float, metavar="R", help="share of the class centres a step sees")
    add(
        "--centers-per-class",
        type=int,
        metavar="K",
        help="of each person; above 1, tf_sphereface-data audit --labels RUN finds wrong labels",
    )
    add("--annealing", choices=recipes.ANNEALINGS, help="fit: lambda's fall scaled to the run")
    add(
        "--annealing-reach",
        type=float,
        metavar="S",
        help="share of the run after which lambda is at its minimum; with --annealing fit",
    )
    add(
        "--annealing-power",
        type=float,
        metavar="P",
        help="exponent of lambda's curve; with --annealing fit. Above 1 it falls later",
    )
    add("--lambda-minimum", type=float, metavar="L", help="where lambda stops")
    add("--epochs", type=int, metavar="N", help="with --resume: go on to the end of epoch N")
    add("--batch-size", type=int, metavar="N", help="over all replicas")
    add("--learning-rate", type=float, metavar="R")
    add(
        "--scale-learning-rate",
        choices=("none", "linear"),
        default="none",
        help="linear: by batch size over the preset's",
    )
    add("--weight-decay", type=float, metavar="W")
    add("--dropout", type=float, metavar="P", help="share of the embedding layer's inputs dropped")
    add("--augment", choices=("none", "mirror", "strong"))
    add(
        "--precision",
        choices=recipes.PRECISIONS,
        help="auto: mixed_bfloat16 where this machine multiplies in it, else float32",
    )
    add("--seed", type=int, metavar="N")


def _add_fine_tuning(add: Callable[..., Any]) -> None:
    add(
        "--from",
        dest="start",
        type=existing_file,
        metavar="MODEL",
        help="fine-tune this .keras or .onnx file: a new head on its network",
    )
    add("--freeze-epochs", type=int, metavar="N", help="train the new head alone in the first N")
    add(
        "--freeze-norm",
        action=argparse.BooleanOptionalAction,
        help="leave batch normalisation as it is; with --from",
    )
    add("--body-rate", type=float, metavar="R", help="learning rate of the body over the head's")


def _add_faces(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    people, each, cache = (DEFAULTS[name] for name in ("identities", "images", "cache"))
    add_strict_option(group, ", and at a damaged one")
    add("--resize", action="store_true", help="resize faces of another size")
    add(
        "--cache",
        action=distillation.CacheAction,
        metavar="memory|none|DIR",
        help=f"none: decode every epoch (default: {cache}); DIR: keep a teacher's embeddings there",
    )
    group.set_defaults(teacher_cache=None)
    add(
        "--exclude",
        type=existing_file,
        metavar="FILE",
        help="identities and images to leave out, as tf_sphereface-data audit lists them",
    )
    add("--channel-order", choices=("rgb", "bgr"), help="default: rgb, with --from the model's")
    add("--identities", type=int, metavar="N", help=f"of synthetic data (default: {people})")
    add("--images", type=int, metavar="N", help=f"each, of synthetic data (default: {each})")
