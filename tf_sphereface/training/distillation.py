"""Training of a network by a teacher's embeddings, with labels or without."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.embedder import Embedder
from tf_sphereface.training.presets import preset
from tf_sphereface.training.pretrained import Pretrained, open_pretrained
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.resumable import Run, run
from tf_sphereface.training.run_folder import RunFolder
from tf_sphereface.training.teacher import Teacher, open_teacher
from tf_sphereface.training.teacher_embeddings import (
    TeacherEmbeddings,
    kept_embeddings,
    teacher_embeddings,
)
from tf_sphereface.utils.messages import ProgressCallback


def distill(
    teacher: str | os.PathLike[str] | keras.Model | Embedder | Teacher | None,
    source: FaceSource,
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    model: str | os.PathLike[str] | keras.Model | Embedder | Pretrained | None = None,
    cache: str | os.PathLike[str] | None = None,
    teacher_progress: ProgressCallback | None = None,
    **options: Any,
) -> Run:
    """Train a network to have a teacher's embeddings, in a run folder.

    The loss is `(1 - W) * margin loss + W * (1 - cosine to the teacher)`, W the recipe's
    `distill_weight`; see `docs/guides/distill.md`.

    Args:
        teacher: what `open_teacher` takes. None, with `resume=True`: the one of the run, whose
            embeddings are kept.
        source: the faces. With W = 1 labels are not needed: `FaceSource(..., unlabelled=True)`
            takes a flat folder of images too.
        out: the run folder.
        recipe: how to train. Default: `preset("distill")`, with `model` `preset("fine-tune")` and
            W = 0.5.
        model: a trained network to start from, as `fine_tune` takes it; the teacher may be the
            same one, which keeps it from forgetting. None: random weights.
        cache: a folder for the teacher's embeddings; default: `teacher` in the run folder.
        teacher_progress: called with (done, all) faces while the teacher embeds them.
        **options: as of `fine_tune`.

    Returns:
        The finished run: its `network()` is the embedder.

    Raises:
        ValueError: as `open_teacher`, `teacher_embeddings` and `run`; W is 0 in the recipe.

    Example:

    >>> import tf_sphereface as sf
    >>> teacher = sf.load_embedder(
    ...     sf.backbones.SphereFaceNet(4, (28, 24, 3), 8),
    ...     channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> source = sf.data.FaceSource(sf.data.SyntheticFaces(2, 4), image_size=(56, 48))
    >>> recipe = dataclasses.replace(preset("distill"), epochs=1, batch_size=4, precision="float32")
    >>> finished = distill(teacher, source, "runs/student", recipe)
    >>> -1 <= finished.log.rows[-1]["teacher_cosine"] <= 1
    True
    """
    folder = RunFolder(out)
    opened = None if teacher is None else open_teacher(teacher, out)
    pretrained = None if model is None else open_pretrained(model)
    if pretrained is None and options.get("resume") and folder.base.exists():
        pretrained = open_pretrained(folder.base)
    if recipe is None:
        weight = 0.5 if pretrained is not None else preset("distill").distill_weight
        recipe = preset("distill" if pretrained is None else "fine-tune")
        recipe = dataclasses.replace(recipe, distill_weight=weight)
    if pretrained is not None:
        recipe = pretrained.recipe(recipe)
    if opened is not None:
        recipe = opened.recipe(recipe)
    elif options.get("resume"):
        recipe = folder.as_begun(recipe)
    if recipe.distill_weight == 0:
        raise ValueError(
            "Argument `recipe` must have a distill_weight above 0: nothing is learnt from the "
            "teacher. Received: distill_weight=0"
        )
    if recipe.teacher is None:
        raise ValueError(
            f"Argument `teacher` must be given but to resume a run, and {out} holds none that "
            "learns from one"
        )
    folder.check(recipe, source, resume=bool(options.get("resume")))
    strategy = options.get("strategy") or tf.distribute.get_strategy()
    taught = embeddings_of(
        opened,
        recipe,
        source,
        folder,
        cache=cache,
        progress=teacher_progress,
        chief=bool(strategy.extended.should_checkpoint),
    )
    return run(recipe, source, out, pretrained=pretrained, teacher=taught, **options)


def embeddings_of(
    teacher: Teacher | None,
    recipe: Recipe,
    source: FaceSource,
    folder: RunFolder,
    *,
    cache: str | os.PathLike[str] | None = None,
    **options: Any,
) -> TeacherEmbeddings:
    """Return the embeddings that a run learns from: kept ones, or those of `teacher`.

    Args:
        teacher: None for a run that is resumed, whose embeddings are kept.
        recipe: of the run; its `teacher` is the one whose embeddings are needed.
        source: the faces.
        folder: of the run.
        cache: as of `distill`.
        **options: `progress`, `warn` and `chief` of `teacher_embeddings`.

    Raises:
        ValueError: there is no teacher, and none of its embeddings of these faces are kept.
    """
    where = folder.teacher if cache is None else cache
    if teacher is not None:
        return teacher_embeddings(teacher, source, where, **options)
    kept = kept_embeddings(where, str(recipe.teacher), source.load())
    if kept is None:
        raise ValueError(
            f"{where} has no whole embeddings of the run's teacher of these faces: name the "
            "teacher again (--teacher), or the folder where they are (--cache)"
        )
    return kept
