"""The options of `tf_sphereface-train` for a teacher, and what they mean."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from tf_sphereface import callbacks, training
from tf_sphereface.commands.console import CommandError, note, progress_bar, warn
from tf_sphereface.commands.input_options import add_input_options, input_facts
from tf_sphereface.data import FaceSource
from tf_sphereface.embedder.input_facts import PIXELS
from tf_sphereface.training import recipes
from tf_sphereface.training.distillation import embeddings_of
from tf_sphereface.training.teacher_embeddings import kept_dim

BESIDE_LABELS = 0.5  # W with a network to start from, whose preset has none
DOUBTFUL = 0.9  # of a teacher's verification


def add_distillation(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = parser.add_argument_group("distillation")
    add = group.add_argument
    add(
        "--teacher",
        metavar="MODEL",
        help="learn this embedder's embeddings: a .keras, .tflite or .onnx file, of any size",
    )
    add(
        "--distill-weight",
        type=float,
        metavar="W",
        help="the teacher's share of the loss, 0 to 1; 1 needs no labels, so a flat folder of "
        f"images will do (default: the preset's, with --from {BESIDE_LABELS:g})",
    )
    add_input_options(group, of="teacher")


class CacheAction(argparse.Action):
    """`--cache memory|none|DIR`: of pixels, or the folder of a teacher's embeddings."""

    def __call__(self, parser, namespace, value, option=None):  # type: ignore[no-untyped-def]
        """Keep the value where it belongs."""
        if value in ("memory", "none"):
            namespace.cache = value
        else:
            namespace.teacher_cache = Path(value)


def check_distillation(line: argparse.Namespace, resumed: bool) -> None:
    """Refuse options that would have no effect; `resumed`: the run has a teacher already."""
    if line.teacher is not None:
        if line.distill_weight == 0:
            raise CommandError(
                "--distill-weight 0 learns nothing from the teacher: leave out --teacher, or give "
                "a weight above 0"
            )
        return
    for name, value in input_facts(line, "teacher").items():
        if value is not None:
            raise CommandError(f"--teacher-{name.replace('_', '-')} needs --teacher")
    if resumed:
        return
    if line.distill_weight is not None:
        raise CommandError("--distill-weight needs --teacher")
    if line.teacher_cache is not None:
        raise CommandError(
            "--cache DIR is the folder of a teacher's embeddings, and needs --teacher; for "
            f"pixels it is memory or none. Received: --cache {line.teacher_cache}"
        )


def taught(
    line: argparse.Namespace, recipe: recipes.Recipe
) -> tuple[training.Teacher | None, recipes.Recipe]:
    """Open the teacher, if any, and return it with the recipe that learns from it."""
    teacher = None
    if line.teacher is not None:
        facts = input_facts(line, "teacher")
        teacher = training.open_teacher(line.teacher, line.out, **facts)
        recipe = teacher.recipe(recipe)
        if set(PIXELS) & set(teacher.embedder.metadata.assumed):
            note(
                "what the teacher takes can be said by --teacher-channel-order, "
                "--teacher-pixel-mean and --teacher-pixel-scale"
            )
    begun = training.RunFolder(line.out).has_begun()  # then it keeps its own
    unsaid = line.distill_weight is None and not begun
    if recipe.teacher is not None and unsaid and recipe.distill_weight == 0:
        recipe = dataclasses.replace(recipe, distill_weight=BESIDE_LABELS)
    if teacher is not None and recipe.ignores_labels and not begun:
        projected = teacher.embedder.embedding_dim != recipe.embedding_dim
        if line.freeze_epochs is None and not projected:  # a frozen body has nothing above it
            recipe = dataclasses.replace(recipe, freeze_epochs=0)
    return teacher, recipe


def embeddings(
    line: argparse.Namespace,
    recipe: recipes.Recipe,
    source: FaceSource,
    folder: training.RunFolder,
    teacher: training.Teacher | None,
    *,
    chief: bool = True,
) -> training.TeacherEmbeddings | None:
    """Return the teacher's embeddings of the faces, and print how well it verifies on them.

    Of several workers the `chief` computes them; the others wait.
    """
    if recipe.teacher is None:
        return None
    options = {"cache": line.teacher_cache, "warn": warn, "chief": chief}
    with progress_bar("teacher's embeddings") as show:
        result = embeddings_of(teacher, recipe, source, folder, progress=show, **options)
    note(f"teacher's embeddings: {result.path}")
    if source.num_classes == 1:
        note("the teacher is not verified on the training faces: they have no labels")
        return result
    try:
        accuracy, pairs = callbacks.verify_embeddings(result.table, source, recipe.seed)
    except (ValueError, ImportError) as error:
        note(f"the teacher is not verified on the training faces: {error}")
        return result
    note(
        f"the teacher verifies the training people at {100 * accuracy:.2f} % "
        f"({pairs:,} pairs, image and mirror image)"
    )
    if accuracy < DOUBTFUL:
        warn(
            f"the teacher tells the training people apart at {100 * accuracy:.1f} % alone: is it "
            "fed as it was trained, and are the faces aligned by its template?"
        )
    return result


def dim_of(
    line: argparse.Namespace, recipe: recipes.Recipe, teacher: training.Teacher | None
) -> int | None:
    """Return the length of the teacher's embeddings before they are there; None for no teacher."""
    if recipe.teacher is None:
        return None
    if teacher is not None:
        return teacher.dim
    dim = kept_dim(line.teacher_cache or training.RunFolder(line.out).teacher, recipe.teacher)
    if dim is None:
        raise CommandError("the run's teacher has no embeddings here: name it again (--teacher)")
    return dim


def costs(
    line: argparse.Namespace, source: FaceSource, teacher: training.Teacher, faces: int
) -> list[str]:
    """Say what the teacher's embeddings will cost, and how the faces are read for it."""
    teacher.check_shape(source.image_size)
    seconds, size = teacher.cost(faces)
    height, width = teacher.embedder.input_size
    told = f"the faces are read for it at {height}x{width}"
    where = line.teacher_cache or training.RunFolder(line.out).teacher
    time = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return [
        told,
        f"its embeddings of {faces:,} faces and their mirror images: about {time} "
        f"here, once, and {size / 1e6:,.1f} MB in {where}",
    ]


def described(teacher: training.Teacher | None, recipe: recipes.Recipe) -> list[str]:
    """Return the line of a run's header that says from whom it learns."""
    if recipe.teacher is None:
        return []
    if teacher is not None:
        return [f"teacher {teacher}"]
    return [f"teacher: that of SHA-256 {recipe.teacher[:12]}..., whose embeddings are kept"]
