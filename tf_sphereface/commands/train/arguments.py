"""The recipe and the faces that the options of `tf_sphereface-train` describe."""

from __future__ import annotations

import argparse
import dataclasses

from tf_sphereface import data, training
from tf_sphereface.commands.console import CommandError
from tf_sphereface.commands.train import distillation
from tf_sphereface.commands.train.options import DEFAULTS
from tf_sphereface.embedder import read_metadata
from tf_sphereface.eval import bin_sets
from tf_sphereface.importers import import_checkpoint
from tf_sphereface.training import presets, recipes


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
    if arguments.centers is None:
        arguments.centers = folder.centers() if arguments.resume else "device"
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
        unlabelled=recipe.ignores_labels,
    )


def recipe_from(arguments: argparse.Namespace) -> recipes.Recipe:
    """Return the preset with the options that were given, and the learning rate scaled."""
    preset = presets.preset(arguments.preset)
    names = {field.name for field in dataclasses.fields(preset)}
    given = {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    begun = preset.with_optimizer(given.get("optimizer", preset.optimizer))
    begun = begun.with_loss(given.get("loss", preset.loss))
    recipe = dataclasses.replace(begun, **given)
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
