"""What a file of weights holds of an optimizer: momentum and the count of updates."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import zipfile
from typing import Any

import h5py
import keras

_OPTIMIZERS = {
    name.lower(): value
    for name, value in vars(keras.optimizers).items()
    if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer)
}


@dataclasses.dataclass(frozen=True)
class StoredOptimizer:
    """The state of an optimizer in a file: its kind, and its variables in their order."""

    kind: str
    shapes: list[tuple[int, ...]]
    counts: list[int | None]
    """The value of each variable that is one integer, else None."""

    def fits(self, optimizer: Any) -> bool:
        """Whether an optimizer that is built has these variables, and means the same by them."""
        if [tuple(variable.shape) for variable in optimizer.variables] != self.shapes:
            return False
        theirs, ours = _OPTIMIZERS.get(self.kind), type(_inner(optimizer))
        return theirs is None or issubclass(theirs, ours) or issubclass(ours, theirs)

    @property
    def updates(self) -> int:
        """The number of updates, or of calls under gradient accumulation.

        Loss scaling counts beside it what is never more.
        """
        return max((count for count in self.counts if count is not None), default=0)


def stored_optimizer(path: str | os.PathLike[str]) -> StoredOptimizer | None:
    """Read what a `.weights.h5` or `.keras` file holds of an optimizer; None where it has none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    name = os.fspath(path)
    try:
        if name.endswith(".weights.h5"):
            with h5py.File(name, "r") as file:
                return _read(file)
        if name.endswith(".keras"):
            with zipfile.ZipFile(name) as archive:
                content = io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(content, "r") as file:
                return _read(file)
    except FileNotFoundError:
        raise
    except (OSError, KeyError, zipfile.BadZipFile) as caught:
        raise ValueError(f"{name} is not a whole file of weights: {caught}") from caught
    return None


def _read(file: Any) -> StoredOptimizer | None:
    group = file.get("optimizer")
    if group is None or not len(group.get("vars", ())):
        return None
    inner = group.get("inner_optimizer", group)
    stored = [group["vars"][str(number)] for number in range(len(group["vars"]))]
    # Keras numbers the names of optimizers: "adam", "adam_1".
    kind = re.sub(r"_\d+$", "", str(inner["vars"].attrs.get("name", ""))).replace("_", "").lower()
    return StoredOptimizer(
        kind,
        [tuple(values.shape) for values in stored],
        [int(v[()]) if v.shape == () and v.dtype.kind in "iu" else None for v in stored],
    )


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)
