"""The faces that `tf_sphereface-train` trains and verifies on."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface import callbacks, data
from tf_sphereface.commands.console import CommandError, error_console, progress
from tf_sphereface.training import recipes
from tf_sphereface.utils.optional import require

Listed = TypeVar("Listed", data.FolderIndex, data.Pack)
DEFAULTS: dict[str, Any] = {"identities": 300, "images": 40, "cache": "memory", "verify_people": 0}
"""Of options of which it matters whether they were given."""


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """A source of training faces, and what is known of it.

    Attributes:
        source: what `data.face_dataset` takes; None where only the counts were wanted.
        labels: int (n,).
        num_classes: number of people.
        index: the files; None for synthetic faces.
        report: files that were left out.
    """

    source: Any
    labels: NDArray[Any]
    num_classes: int
    index: data.FolderIndex | data.Pack | None
    report: data.SkipReport

    def __len__(self) -> int:
        return len(self.labels)

    def names_of(self, positions: NDArray[np.int64]) -> list[str]:
        """Name faces: their files, or the records of a packed folder."""
        if isinstance(self.index, data.Pack):
            pack = self.index
            rows = positions if pack.rows is None else pack.rows[positions]
            named = dict(zip(np.sort(rows).tolist(), pack.describe(np.sort(rows)), strict=True))
            return [f"{file}, {record}" for file, record in (named[int(row)] for row in rows)]
        if self.index is not None:
            return [str(self.index.paths[position]) for position in positions]
        return [f"synthetic person {self.labels[i]}, image {i}" for i in positions]

    def counts(self) -> NDArray[np.int64]:
        """Return how many faces each person has."""
        return np.bincount(self.labels, minlength=self.num_classes)


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


def count_faces(arguments: argparse.Namespace) -> Faces:
    """List the faces without opening a file."""
    if arguments.data == "synthetic":
        people = arguments.identities
        labels = np.repeat(np.arange(people), arguments.images)
        return Faces(None, labels, people, None, data.SkipReport())
    index: data.FolderIndex | data.Pack
    if data.is_pack(arguments.data):
        index = without_excluded(arguments, data.open_pack(arguments.data))
    else:
        index = without_excluded(arguments, data.scan_folder(arguments.data))
    return Faces(None, index.labels, len(index.names), index, data.SkipReport())


def exclusions_of(arguments: argparse.Namespace) -> data.Exclusions | None:
    """Return what `--exclude` names, or None."""
    if arguments.exclude is None:
        return None
    return data.read_exclusions(arguments.exclude)


def without_excluded(arguments: argparse.Namespace, index: Listed) -> Listed:
    """Leave out what `--exclude` names, and say how much that was."""
    exclusions = exclusions_of(arguments)
    if exclusions is None:
        return index
    kept = data.leave_out(index, exclusions)
    error_console.print(
        f"left out by {arguments.exclude}: {exclusions}, {len(index) - len(kept):,} faces in all "
        f"of {len(index):,}; {index.num_classes - kept.num_classes:,} of {index.num_classes:,} "
        "people are gone",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return kept


def load_faces(arguments: argparse.Namespace, recipe: recipes.Recipe) -> Faces:
    """Render or read the faces; damaged files are left out and shown."""
    report = data.SkipReport()
    with progress() as bar:
        task = bar.add_task("reading faces", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if arguments.data == "synthetic":
            images, labels = data.synthetic.training_set(
                arguments.identities, arguments.images, seed=recipe.seed, size=recipe.input_size
            )
            return Faces((images, labels), labels, arguments.identities, None, report)
        options: dict[str, Any] = {
            "image_size": recipe.input_size,
            "strict": arguments.strict,
            "resize": arguments.resize,
            "report": report,
            "progress": show,
        }
        source: Any
        index: data.FolderIndex | data.Pack
        if data.is_pack(arguments.data):
            errors: Literal["raise", "skip"] = "raise" if arguments.strict else "skip"
            pack = data.open_pack(arguments.data, errors=errors, report=report, progress=show)
            index = source = without_excluded(arguments, pack)
        elif arguments.cache == "memory":
            listed = without_excluded(arguments, data.scan_folder(arguments.data))
            images, labels, index = data.load_folder(listed, **options)
            source = (images, labels)
        else:
            listed = without_excluded(arguments, data.scan_folder(arguments.data))
            index = source = data.check_folder(listed, **options)
    if report.count:
        error_console.print(report.summary(), markup=False, highlight=False)
    return Faces(source, index.labels, len(index.names), index, report)


def stream(
    faces: Faces,
    arguments: argparse.Namespace,
    recipe: recipes.Recipe,
    strategy: tf.distribute.Strategy,
    step: int,
) -> Any:
    """Return the endless stream of batches from a step on; of several workers, this one's part."""
    make = functools.partial(
        data.face_dataset,
        faces.source,
        image_size=recipe.input_size,
        batch_size=recipe.batch_size,
        channel_order=arguments.channel_order,
        augment=recipe.augment,
        seed=recipe.seed,
        cache=arguments.cache,
        resize=arguments.resize,
        repeat=True,
        start_step=step,
        report=faces.report,
    )
    if arguments.strategy != "multiworker":
        return make()
    return strategy.distribute_datasets_from_function(lambda context: make(input_context=context))


def batch_at(
    faces: Faces, arguments: argparse.Namespace, recipe: recipes.Recipe, step: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Make one batch of that stream again."""
    return data.batch_at(
        faces.source,
        step,
        image_size=recipe.input_size,
        batch_size=recipe.batch_size,
        channel_order=arguments.channel_order,
        augment=recipe.augment,
        seed=recipe.seed,
        resize=arguments.resize,
    )


def verification(
    arguments: argparse.Namespace, recipe: recipes.Recipe, **options: Any
) -> callbacks.Verification | None:
    """Return the verification that was asked for, or None; `options` are the callback's."""
    people = arguments.verify_people
    if arguments.verify_images is None and not people:
        return None
    require("sklearn.metrics", extra="eval")
    if arguments.verify_images is not None:
        return callbacks.Verification.from_files(
            arguments.verify_images,
            arguments.verify_pairs,
            arguments.verify_landmarks,
            input_size=recipe.input_size,
            **options,
        )
    folds = min(10, people // 2)
    if folds < 2:
        raise CommandError(f"--verify-people must be at least 4. Received: {people}")
    held_out = data.synthetic.verification_set(
        people,
        pairs_per_fold=40,
        folds=folds,
        seed=recipe.seed,
        first_identity=arguments.identities,
        size=recipe.input_size,
    )
    return callbacks.Verification(
        held_out.images, held_out.left, held_out.right, held_out.is_same, held_out.folds, **options
    )


def doctor(
    arguments: argparse.Namespace,
    recipe: recipes.Recipe,
    faces: Faces,
    *,
    first_step: int,
    total_steps: int,
    say: Callable[[str], None],
) -> callbacks.TrainingDoctor:
    """Return a doctor that knows the labels, the batches and their files."""
    plain = dataclasses.replace(recipe, augment="none")

    def files_of(step: int) -> list[str]:
        positions = data.batch_positions(len(faces), recipe.batch_size, step, seed=recipe.seed)
        return faces.names_of(positions)

    return callbacks.TrainingDoctor(
        label_counts=faces.counts(),
        class_names=None if faces.index is None else faces.index.names,
        probe=batch_at(faces, arguments, plain, 0)[0][:32],
        batch_of=lambda step: batch_at(faces, arguments, recipe, step),
        files_of=files_of,
        first_step=first_step,
        total_steps=total_steps,
        say=say,
    )


def template_of(recipe: recipes.Recipe) -> str:
    """Name the crop that the faces are."""
    return "112x112" if recipe.input_size[0] == recipe.input_size[1] else "112x96"


def describe_data(arguments: argparse.Namespace, faces: Faces) -> str:
    """Say what was trained on, for the embedder's metadata."""
    text = f"{Path(arguments.data).name}: {len(faces)} faces of {faces.num_classes} people"
    exclusions = exclusions_of(arguments)
    return text if exclusions is None else f"{text}, without {exclusions} of an exclusion list"
