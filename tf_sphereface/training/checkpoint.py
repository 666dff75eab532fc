"""Checkpoints: the state of a run on disk, whole or absent, from which it goes on exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.utils.files import atomic_path

logger = logging.getLogger("tf_sphereface")
_INFO, _DIGEST = "info", "sha256"
_NAME = re.compile(r"step-(\d{8,})\.npz")
# What zipfile, zlib and NumPy raise where bits of an archive are wrong; RuntimeError for an entry
# that says it is encrypted (NotImplementedError is one too).
_DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, OSError, EOFError, RuntimeError)


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a checkpoint file, read and checked.

    `info` was saved with the state, such as the step and the history. The names of the variables in
    `arrays` begin with `model/`, `optimizer/` (learning rate and count of updates among them),
    `average/`, `metric/` or `centers/` (of a head that is not on the device).

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("sgd")
    >>> save_checkpoint("begun.npz", model, {"step": 0})
    >>> _ = model.layers[0].bias.assign([1.0, 1.0])
    >>> read_checkpoint("begun.npz").restore(model)
    >>> np.asarray(model.layers[0].bias).tolist()
    [0.0, 0.0]
    """

    path: Path
    info: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def metrics(self) -> list[NDArray[Any]]:
        """The sums of the epoch in progress, in the order of `model.metrics_variables`."""
        return self._listed("metric")

    @property
    def averages(self) -> list[NDArray[Any]]:
        """The averages of the weights (`WeightAverage.arrays`); none of a run without them."""
        return self._listed("average")

    @property
    def centers(self) -> str:
        """Where the class centres of the run are: `"device"`, `"host"` or a folder."""
        return str(self.info.get("centers", {}).get("place", "device"))

    def _listed(self, kind: str) -> list[NDArray[Any]]:
        count = sum(key.startswith(f"{kind}/") for key in self.arrays)
        return [self.arrays[f"{kind}/{i}"] for i in range(count)]

    def restore(self, model: keras.Model) -> None:
        """Write weights, random states and optimizer into a model that was built in the same way.

        The metrics are left to `training.train`: `fit` resets them when an epoch begins. Class
        centres that are not on the device are handed over, not copied: the checkpoint has them no
        more.

        Raises:
            ValueError: the checkpoint belongs to another model; nothing is changed.
        """
        build_optimizer(model)
        table, places = _center_table(model), [self.centers, "device"]
        if table is not None:
            places[1] = table.place
        if ("device" in places and places[0] != places[1]) or places.count("host") == 1:
            raise ValueError(
                f"{self.path} is of a run whose class centres are in {places[0]}: resume it with "
                f"--centers {places[0]}. Received: {places[1]}"
            )
        targets = _variables(model)
        own = ("model/", "optimizer/")
        stored = {key: v for key, v in self.arrays.items() if key.startswith(own)}
        wrong = sorted(set(targets) ^ set(stored)) or [
            key for key, variable in targets.items() if tuple(variable.shape) != stored[key].shape
        ]
        if wrong:
            raise ValueError(
                f"{self.path} belongs to another model or optimizer: {len(wrong)} of "
                f"{len(targets)} variables differ, such as {wrong[0]}"
            )
        if table is not None:
            names = [key for key in self.arrays if key.startswith("centers/")]
            state = {name.removeprefix("centers/"): self.arrays.pop(name) for name in names}
            table.restore(state, self.info["centers"])
        for key, variable in targets.items():
            variable.assign(stored[key].astype(variable.dtype))


def save_checkpoint(
    path: str | os.PathLike[str],
    model: keras.Model,
    info: dict[str, Any],
    *,
    averages: Sequence[NDArray[Any]] = (),
    write: bool = True,
) -> None:
    """Write weights, random states, optimizer, metrics and `info` to one file, atomically.

    The file holds its own SHA-256, over names, types, shapes and bytes of all that is in it.

    Args:
        path: a `.npz` file.
        model: a compiled model whose optimizer is built.
        info: what JSON can hold, such as the step and the history.
        averages: of the weights, where the run keeps them.
        write: False reads the state and writes nothing. In a run of several processes all of them
            call this, because reading a metric is a sum over all; the chief alone writes.

    Raises:
        OSError: the file cannot be written; an older checkpoint stays as it was.
        ValueError: a weight is not finite: there is nothing to go on from.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("sgd")
    >>> save_checkpoint("step-10.npz", model, {"step": 10})
    >>> read_checkpoint("step-10.npz").restore(model)  # or one built in the same way
    """
    arrays = {key: _read(variable) for key, variable in _variables(model).items()}
    arrays |= {f"metric/{i}": _read(v) for i, v in enumerate(model.metrics_variables)}
    arrays |= {f"average/{i}": np.asarray(value) for i, value in enumerate(averages)}
    if not write:
        return
    bad = [key for key, value in arrays.items() if not np.all(np.isfinite(value))]
    if bad:
        raise ValueError(f"{len(bad)} variables are not finite, such as {bad[0]}")
    table = _center_table(model)
    if table is not None:
        arrays |= {f"centers/{name}": value for name, value in table.state().items()}
        info = {**info, "centers": table.facts()}
    arrays[_INFO] = np.array(json.dumps(info))
    arrays[_DIGEST] = np.array(_digest(arrays))
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)
    if table is not None:
        table.kept()


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and check that it is whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged; the message names it.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("sgd")
    >>> save_checkpoint("step-10.npz", model, {"step": 10})
    >>> read_checkpoint("step-10.npz").info
    {'step': 10}
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("its end is missing, or it is no archive")
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        if str(arrays.pop(_DIGEST)) != _digest(arrays):
            raise ValueError("its SHA-256 does not fit its content")
        info: dict[str, Any] = json.loads(str(arrays.pop(_INFO)))
    except _DAMAGE as e:
        raise ValueError(f"{path} is not a whole checkpoint: {e}") from e
    return Checkpoint(Path(path), info, arrays)


def checkpoint_bytes(model: keras.Model) -> int:
    """Return about how large a checkpoint of a compiled model is; averages of weights not counted.

    Its optimizer is built.
    """
    build_optimizer(model)
    table = _center_table(model)
    variables = _variables(model).values()
    size = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)
    return int(size) + (0 if table is None else table.checkpoint_bytes)


@dataclasses.dataclass(frozen=True)
class Room:
    """What the checkpoints of a run take on disk, in bytes.

    Attributes:
        each: about what one takes.
        most: what all take at most: those that are kept, the best one's, and the one in writing.
        free: what the disk has left for them.
    """

    each: int
    most: int
    free: int

    def __str__(self) -> str:
        each, most, free = (f"{size / 1e6:,.0f} MB" for size in (self.each, self.most, self.free))
        return f"checkpoints: about {each} each, {most} in all; the disk has {free} left for them"


def room_for(folder: Path, model: keras.Model, keep: int, averages: int = 0) -> Room:
    """Return what the checkpoints of a model take in a folder, of which `keep` are kept.

    `averages` is what averages of the weights take in each, in bytes.
    """
    each = checkpoint_bytes(model) + averages
    there = sum(path.stat().st_size for path in checkpoint_files(folder))
    place = next(
        parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists()
    )
    return Room(each, (keep + 2) * each, shutil.disk_usage(place).free + there)


def build_optimizer(model: keras.Model) -> None:
    """Create the variables of a compiled model's optimizer, where they are not yet there.

    Keras' `LossScaleOptimizer` built twice would have two loss scales.
    """
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the state after `step` updates lies."""
    return folder / f"step-{step:08d}.npz"


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first; none where there is no folder."""
    files = [path for path in folder.iterdir() if _step_of(path) >= 0] if folder.is_dir() else []
    return sorted(files, key=_step_of, reverse=True)


def read_newest(folder: Path, warn: Callable[[str], None] = logger.warning) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None where there is none at all.

    Each damaged one that is passed over is named in a call of `warn`; where all are damaged, a
    ValueError is raised.
    """
    files = checkpoint_files(folder)
    for path in files:
        try:
            return read_checkpoint(path)
        except ValueError as error:
            warn(f"{error}; it is passed over")
    if files:
        raise ValueError(
            f"none of the {len(files)} checkpoints in {folder} is whole; remove the folder to "
            "start from the beginning"
        )
    return None


def prune(folder: Path, keep: int, also: Iterable[int] = (), newest: int | None = None) -> None:
    """Remove all but the `keep` newest checkpoints and those of the steps in `also`.

    `newest` is the step that was just saved. Files of later steps are of a run that went on from an
    earlier one because they are damaged: they are not counted, and stay.
    """
    kept = {checkpoint_path(folder, step).name for step in also}
    files = [p for p in checkpoint_files(folder) if newest is None or _step_of(p) <= newest]
    for path in files[keep:]:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process has left half-written in a folder of checkpoints."""
    for path in folder.glob(".step-*.npz.*") if folder.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def _read(variable: keras.Variable) -> NDArray[Any]:
    """Return a variable's value; of a metric under a strategy, the sum over the replicas."""
    return np.asarray(tf.convert_to_tensor(variable.value).numpy())


def _center_table(model: keras.Model) -> Any:
    """Return the table of class centres that are not on the device, or None."""
    return getattr(getattr(model, "head_layer", None), "center_table", None)


def _variables(model: keras.Model) -> dict[str, Any]:
    """Return what a checkpoint holds, without what each step reads again from a table."""
    found = {f"model/{i}": v for i, v in enumerate(model.variables)}
    found |= {f"optimizer/{i}": v for i, v in enumerate(model.optimizer.variables)}
    windows = {id(v) for v in getattr(getattr(model, "head_layer", None), "windows", ())}
    return {key: variable for key, variable in found.items() if id(variable) not in windows}


def _digest(arrays: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {value.dtype.str} {np.shape(arrays[key])}\n".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _step_of(path: Path) -> int:
    """Return the step in a checkpoint's name; -1 for another file."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1
