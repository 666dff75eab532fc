"""The folder of a training run: its files, and whether a run may begin or go on there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.training.checkpoint import (
    Checkpoint,
    checkpoint_files,
    read_newest,
    remove_leftovers,
)
from tf_sphereface.training.recipes import DISTILLATION, FINE_TUNING, Recipe
from tf_sphereface.training.run_callbacks import logger
from tf_sphereface.utils.files import try_lock


class RunFolder:
    """The files of a run.

    Attributes:
        path: the folder; it need not exist.
        config: what decides what is trained, JSON.
        environment: versions of Python and the libraries, JSON.
        log: a row for each epoch, CSV.
        checkpoints: a folder of states to go on from.
        base: the network that the run started from, if it did from one.
        teacher: the folder of a teacher's embeddings, if it learns from one.
        best: the embedder of the best verification accuracy.
        embedder: the embedder after the last epoch.
        unaveraged: the same with the last update's weights, where `embedder` has averages.
        summary: what the run did, JSON; there is one when the run is finished.
        diverged: where a run that diverged did so, JSON.

    Example:

    >>> folder = RunFolder("runs/first")
    >>> folder.embedder.name, folder.has_begun()
    ('embedder.keras', False)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.environment = self.path / "environment.json"
        self.log = self.path / "log.csv"
        self.checkpoints = self.path / "checkpoints"
        self.base = self.path / "base.keras"
        self.teacher = self.path / "teacher"
        self.best = self.path / "best.keras"
        self.embedder = self.path / "embedder.keras"
        self.unaveraged = self.path / "unaveraged.keras"
        self.summary = self.path / "summary.json"
        self.diverged = self.path / "diverged.json"
        self._lock = self.path / ".lock"

    def check_place(self) -> None:
        """Raise ValueError where the path cannot be a folder, as a file is in its way."""
        nearest = next((p for p in (self.path, *self.path.absolute().parents) if p.exists()), None)
        if nearest is not None and not nearest.is_dir():
            raise ValueError(f"the run folder {self.path} cannot be made: {nearest} is a file")

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder while a run is in it; it is made, and removed again if it stays empty.

        Raises:
            ValueError: it cannot be a folder, or another run holds it.

        Example:

        >>> with RunFolder("runs/held").claimed(), RunFolder("runs/held").claimed():
        ...     pass
        Traceback (most recent call last):
            ...
        ValueError: another run is going on in runs/held: wait for it, or choose another folder
        """
        self.check_place()
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT)
        try:
            if not try_lock(descriptor):
                raise ValueError(
                    f"another run is going on in {self.path}: wait for it, or choose another folder"
                )
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # something is in it
                    self._lock.unlink()
                    for folder in made:
                        folder.rmdir()
        finally:
            os.close(descriptor)

    def has_begun(self) -> bool:
        """Whether the folder holds anything that a run has gained, even if it is damaged."""
        gained = (self.log, self.best, self.embedder, self.summary)
        return any(path.exists() for path in gained) or bool(checkpoint_files(self.checkpoints))

    def as_begun(
        self,
        recipe: Recipe,
        *,
        same_epochs: bool = False,
        given: Sequence[str] = (*FINE_TUNING, "distill_weight"),
    ) -> Recipe:
        """Return the recipe in the precision that the run began in, where it may choose.

        `auto` resolves to different precisions on different machines, so a resumed run takes the
        stored one. With `same_epochs` it takes the stored number of epochs too, and of what is for
        fine-tuning and distillation alone it takes all that is not `given`; a recipe without a
        teacher takes the stored one.
        """
        if not self.config.exists():
            return recipe
        stored = self._stored()["recipe"]
        if recipe.precision == "auto":
            recipe = dataclasses.replace(recipe, precision=stored["precision"])
        names: tuple[str, ...] = DISTILLATION if recipe.teacher is None else ("distill_weight",)
        if self.has_begun():
            names = (*names, *FINE_TUNING)
        kept = [name for name in names if name not in given and name in stored]
        kept += ["epochs"] if same_epochs and self.has_begun() else []
        recipe = dataclasses.replace(recipe, **{name: stored[name] for name in kept})
        return recipe

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether the run has come to its end, and the recipe asks for no other one."""
        if not self.summary.exists():
            return False
        summary = json.loads(self.summary.read_text(encoding="utf-8"))
        return bool(summary.get("epochs", recipe.epochs) == recipe.epochs)

    def learns_from_teacher(self) -> bool:
        """Whether the run that was begun here learns from a teacher."""
        return self.config.exists() and self._stored()["recipe"].get("teacher") is not None

    def centers(self) -> str:
        """Return where the class centres of the run are that was begun here; else `"device"`."""
        return str(self._stored().get("centers", "device") if self.config.exists() else "device")

    def epochs(self) -> int | None:
        """Return the number of epochs of the run that was begun here; None where there is none."""
        return int(self._stored()["recipe"]["epochs"]) if self.config.exists() else None

    def check(self, recipe: Recipe, source: FaceSource, *, resume: bool) -> None:
        """Refuse to overwrite a run, or to resume one with another recipe or data.

        A folder that holds only a configuration (its first step failed) may be used again. The
        number of epochs may be another one: the run then goes on to that.

        Raises:
            ValueError: the folder holds a run and `resume` is not set; or it is no run folder, or
                the run in it has another configuration.
        """
        if not self.config.exists():
            visible = set(self.path.glob("[!.]*")) - {self.base, self.teacher}  # made before
            if resume and visible:
                raise ValueError(f"{self.path} is not a run folder: it has no config.json")
            if self.has_begun():
                raise ValueError(
                    f"{self.path} holds what a run has written, without its config.json: choose "
                    "another folder, where nothing is replaced"
                )
            return
        if not self.has_begun():
            return
        if not resume:
            raise ValueError(
                f"{self.path} holds a run already: resume it (--resume, resume=True), or choose "
                "another folder"
            )
        defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
        before, after = (
            defaults | {"data": config["data"], **config.get("faces", {}), **config["recipe"]}
            for config in (self._stored(), config_of(recipe, source))
        )
        if before["start_from"] != after["start_from"]:
            raise ValueError(
                f"the run in {self.path} {_started(before['start_from'])}, and this one "
                f"{_started(after['start_from'])}: the model is another one, or its file has "
                f"changed. Resume without a model (--from): {self.base} holds the run's own"
            )
        changed = [key for key in after if before.get(key) != after[key] and key != "epochs"]
        old, new = before["data"], after["data"]
        if "data" in changed and _are_files(old) and _are_files(new):
            changed.remove("data")  # that they are the same faces, the checkpoint is compared with
            if os.path.abspath(old) != os.path.abspath(new):
                logger.warning(
                    "the faces were in %s and are in %s now: people and files of the same names, "
                    "in the same order, are taken for the same",
                    old,
                    new,
                )
        if changed:
            lines = ", ".join(f"{key} was {before.get(key)}, now {after[key]}" for key in changed)
            raise ValueError(
                f"a run cannot go on with another configuration: {lines}. Only the number of "
                "epochs may change; train with the rest in another folder"
            )
        if before["epochs"] != after["epochs"] and not checkpoint_files(self.checkpoints):
            raise ValueError(
                f"the run of {before['epochs']} epochs in {self.path} cannot go on to "
                f"{after['epochs']}: it has no checkpoint any more. Train in another folder"
            )

    def newest_state(self, warn: Callable[[str], None] = logger.warning) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; None where the run has to begin.

        Where there are checkpoints, and all are damaged, a ValueError is raised.
        """
        if not self.config.exists():
            return None
        remove_leftovers(self.checkpoints)
        return read_newest(self.checkpoints, warn)

    def _stored(self) -> dict[str, Any]:
        return dict(json.loads(self.config.read_text(encoding="utf-8")))


def facts_of_faces(source: FaceSource) -> dict[str, Any]:
    """Return what a checkpoint keeps of the faces: it decides which centre is whose."""
    return {"people": source.num_classes, "faces": len(source), "order": source.order()}


def check_faces(source: FaceSource, state: Checkpoint, what: str) -> None:
    """Raise ValueError, which begins with `what`, where a checkpoint is of other faces.

    A checkpoint of an earlier version has no hash of their order, and is not asked for it.
    """
    facts = facts_of_faces(source)
    old = facts | state.info
    lines = [f"{old[k]} {k}, now {facts[k]}" for k in ("people", "faces") if old[k] != facts[k]]
    if lines or old["order"] != facts["order"]:
        other = "as many people and faces, of other names or in another order"
        raise ValueError(f"{what} {', '.join(lines) or other}")


def _are_files(data: str) -> bool:
    """Whether a configuration's `data` is a place of files, not arrays or synthetic faces."""
    return data not in ("arrays", "synthetic")


def _started(sha256: str | None) -> str:
    if sha256 is None:
        return "starts from random weights"
    return f"starts from a network of SHA-256 {sha256[:12]}..."


def config_of(recipe: Recipe, source: FaceSource) -> dict[str, Any]:
    """Return all that decides what is trained, as JSON gives it back."""
    config = {**source.to_dict(), "recipe": recipe.to_dict()}
    return dict(json.loads(json.dumps(config)))
