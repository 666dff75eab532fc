"""The images whose labels are in doubt, by the class centres of a run or by any embedder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tf_sphereface.data.doubtful_labels import MAX_ANGLE, DoubtfulLabel, doubtful_labels
from tf_sphereface.data.exclusions import Exclusions
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.data.folder_index import scan_folder
from tf_sphereface.data.held_out import hold_out
from tf_sphereface.data.options import PixelType
from tf_sphereface.embedder.embedder import Embedder, load_embedder
from tf_sphereface.training.building import build_classifier, kept_policy
from tf_sphereface.training.checkpoint import read_newest
from tf_sphereface.training.pretrained import open_pretrained
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.run_folder import RunFolder, check_faces
from tf_sphereface.utils.messages import ProgressCallback


@dataclasses.dataclass(frozen=True)
class LabelAudit:
    """What `audit_labels` found.

    Attributes:
        source: the faces.
        centers_per_class: of the run's head; 1 by an embedder.
        step: updates of the checkpoint that was read; None: by an embedder.
        max_angle: degrees.
        doubtful: the images, the largest angle first.

    Example:

    >>> from tf_sphereface import data
    >>> source = data.FaceSource(data.synthetic.write_folder("listed", 2, 2), image_size=(112, 96))
    >>> wrong = DoubtfulLabel(position=1, label=0, angle=80.0, center=0, dominant=0)
    >>> LabelAudit(source, 1, step=9, max_angle=75.0, doubtful=[wrong]).entries()
    [('Person_000000/Person_000000_0002.jpg', "80.0° to its person's main centre, above 75°")]
    """

    source: FaceSource
    centers_per_class: int
    step: int | None
    max_angle: float
    doubtful: list[DoubtfulLabel]

    def entries(self) -> list[tuple[str, str]]:
        """Return `IDENTITY/FILE` and the reason of each, as `data.write_exclusions` takes them."""
        names = self.source.image_names()
        return [(names[d.position], self._reason(d)) for d in self.doubtful]

    def _reason(self, found: DoubtfulLabel) -> str:
        if self.step is not None:
            return found.reason(self.max_angle)
        return f"{found.angle:.1f}° to the mean of its person's others, above {self.max_angle:g}°"


def audit_labels(
    run: str | os.PathLike[str] | Embedder,
    data: str | os.PathLike[str] | None = None,
    *,
    exclude: Exclusions | None = None,
    max_angle: float = MAX_ANGLE,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> LabelAudit:
    """List the training images that may have a wrong label.

    Of a run the newest checkpoint is read, network and class centres; each image is embedded
    and compared with its person's centres, as `data.doubtful_labels` does. Train with several
    centres (`Recipe.centers_per_class`, 3 for example): then wrong images find a centre of their
    own. With one centre the angle decides alone. An embedder that was trained on others compares
    each image with the mean of its person's other images.

    Args:
        run: a run folder; or an embedder, open or its file.
        data: where the run's faces are now; None: where they were. By an embedder: the faces,
            of one person too; those of another size are averaged down to its own.
        exclude: the list that the run left out, where it did; by an embedder, what to leave out.
        max_angle: degrees, in [0, 180).
        strict: raise at a damaged file, rather than note it in `source.report` of the result.
        progress: called with (done, total) images.

    Raises:
        FileNotFoundError: there is no such run or embedder.
        ValueError: no run folder, or none with a checkpoint; a run on faces that are no files; the
            faces are not those of the run; a loss without class centres, or a sampled head.

    Example:

    >>> from tf_sphereface import data, training
    >>> recipe = dataclasses.replace(
    ...     training.preset("quick"), input_size=(28, 24), epochs=1, batch_size=4, embedding_dim=8)
    >>> folder = data.synthetic.write_folder("faces", 2, 2, size=(28, 24))
    >>> _ = training.run(recipe, data.FaceSource(folder, image_size=(28, 24)), "runs/audited")
    >>> audit = audit_labels("runs/audited")
    >>> len(audit.source), audit.step, audit.max_angle
    (4, 1, 75.0)
    """
    if isinstance(run, Embedder) or Path(run).is_file():
        if data is None:
            raise ValueError("an embedder needs the faces whose labels it audits. Received: none")
        embedder = load_embedder(run)
        source = _any_faces(data, embedder, exclude, strict, progress)
        vectors = _embeddings(embedder, source, "uint8", progress)
        found = doubtful_labels(vectors, source.labels, None, max_angle)
        return LabelAudit(source, 1, None, max_angle, found)
    if not Path(run).is_dir():
        raise FileNotFoundError(f"there is no run folder or embedder {run}")
    folder = RunFolder(run)
    state = read_newest(folder.checkpoints) if folder.config.exists() else None
    if state is None:
        raise ValueError(f"{folder.path} holds no run with a checkpoint to read the centres from")
    config = json.loads(folder.config.read_text(encoding="utf-8"))
    recipe = _recipe(config["recipe"])
    if recipe.loss == "softmax" or recipe.sample_rate < 1:
        raise ValueError(
            "labels are audited by a head of class centres that holds them all. Received: a run "
            f"with loss={recipe.loss}, sample_rate={recipe.sample_rate:g}"
        )
    if recipe.ignores_labels:
        raise ValueError(
            f"the run in {folder.path} learnt from a teacher alone (distill_weight=1): no label "
            "has moved its class centres"
        )
    source = _source(config, recipe, data, exclude, strict)
    check_faces(source, state, f"these are not the faces of {folder.path}: it had")
    with kept_policy():
        pretrained = None if recipe.start_from is None else open_pretrained(folder.base)
        model = build_classifier(
            recipe,
            source.num_classes,
            source.steps_per_epoch,
            pretrained=pretrained,
            teacher_dim=state.info.get("teacher_dim"),
            centers=state.centers,
        )
        state.restore(model)
        network = functools.partial(model.backbone, training=False)
        embeddings = _embeddings(network, source, "float32", progress)
    kernel = np.asarray(ops.convert_to_numpy(model.head_layer.kernel), np.float32)
    centers = kernel.T.reshape(source.num_classes, recipe.centers_per_class, -1)
    found = doubtful_labels(embeddings, source.labels, centers, max_angle)
    return LabelAudit(source, recipe.centers_per_class, state.info["step"], max_angle, found)


def _any_faces(
    data: str | os.PathLike[str],
    embedder: Embedder,
    exclude: Exclusions | None,
    strict: bool,
    progress: ProgressCallback | None,
) -> FaceSource:
    """Return the faces for an embedder, read; one person's pictures alone are taken too."""
    source = FaceSource(
        data,
        image_size=embedder.input_size,
        cache="none",
        resize=True,
        strict=strict,
        exclude=exclude,
        unlabelled=True,
    ).load(progress=progress)
    if source.names == ["."]:  # no folder of a person in it: is it that of one?
        files = source.names_of(np.arange(len(source)))
        if len({os.path.dirname(file) for file in files}) > 1:
            scan_folder(data)  # its error says what lies where
    return source


def _recipe(fields: dict[str, Any]) -> Recipe:
    """Return the recipe that a configuration holds; its lists were tuples."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if name in known
    }
    return Recipe(**values)


def _source(
    config: dict[str, Any],
    recipe: Recipe,
    data: str | os.PathLike[str] | None,
    exclude: Exclusions | None,
    strict: bool,
) -> FaceSource:
    """Return the faces of a run, read."""
    faces = config.get("faces", {})
    if data is None and config["data"] in ("synthetic", "arrays"):
        raise ValueError(
            f"labels of files are audited, and this run was trained on {config['data']} faces; for "
            "arrays use tf_sphereface.data.doubtful_labels"
        )
    source = FaceSource(
        data if data is not None else config["data"],
        image_size=recipe.input_size,
        batch_size=recipe.batch_size,
        channel_order=faces.get("channel_order", "rgb"),
        resize=bool(faces.get("resize", False)),
        strict=strict,
        exclude=exclude,
    )
    return _as_trained(source, faces.get("exclude"), recipe.seed).load()


def _as_trained(source: FaceSource, listed: dict[str, Any] | None, seed: int) -> FaceSource:
    """Return the source without the people whom the run kept out to verify on, by its seed."""
    given = 0 if source.exclude is None else len(source.exclude.identities)
    held = 0 if listed is None else listed["identities"] - given
    found = source
    if held > 0:
        with contextlib.suppress(ValueError):  # so many are not there: another list
            found, _ = hold_out(source, held, seed)
    if listed != (None if found.exclude is None else found.exclude.to_dict()):
        raise ValueError(
            "the run must be audited with the list that it left out (exclude=, --exclude), and "
            f"that is another one. Received: exclude={source.exclude}, the run had {listed}"
        )
    return found


def _embeddings(
    network: Callable[[Any], Any],
    source: FaceSource,
    dtype: PixelType,
    progress: ProgressCallback | None,
) -> NDArray[np.float32]:
    """Embed each face once, in the source's order."""
    table, done = np.empty((0, 0), np.float32), 0
    for images, *_ in source.in_order(dtype=dtype):
        vectors = ops.convert_to_numpy(ops.cast(network(images), "float32"))
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            name = source.image_names()[done + int(finite.argmin())]
            raise ValueError(f"the embedding of {name} is not finite")
        if not done:
            table = np.empty((len(source), vectors.shape[1]), np.float32)
        table[done : done + len(vectors)] = vectors
        done += len(vectors)
        if progress is not None:
            progress(done, len(source))
    return table
