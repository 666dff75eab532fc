"""Class centres and their optimizer state in the memory of the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils import hardware

FirstCenters = Callable[[int, int], NDArray[np.float32]]
BLOCK = 262_144  # classes that are looked at together


class CenterTable:
    """Centres of all classes, and a table for each number that an optimizer keeps of them.

    It takes its memory when it is first read or written, or by `open`; until then it only knows
    its size.

    Args:
        num_classes: of how many classes.
        width: length of a centre.
        first: returns the first centres of the classes from one number to another,
            (classes, width); asked in the order of the classes.
        block: how many are asked for together.

    Attributes:
        seconds: spent in `read` and `write` so far.
        lost: whether a row was ever written that is not finite.
    """

    place = "host"
    copies = 1

    def __init__(
        self, num_classes: int, width: int, first: FirstCenters, block: int = BLOCK
    ) -> None:
        self.shape, self._size = (num_classes, width), block
        self.seconds, self.lost = 0.0, False
        self._first = first
        self._constants: list[float] = []
        self._tables: list[NDArray[np.float32]] = []

    @property
    def bytes(self) -> int:
        """What all tables take."""
        return 4 * self.copies * (1 + len(self._constants)) * self.shape[0] * self.shape[1]

    def add(self, constant: float) -> None:
        """Add a table, filled with one number, such as the momentum's, which is 0 at first."""
        self._constants.append(constant)
        if self._tables:
            self._tables.append(self._filled(len(self._tables)))

    @property
    def count(self) -> int:
        """Number of tables: the centres, and each that was added."""
        return 1 + len(self._constants)

    def fill(self, constant: float, table: int) -> None:
        """Fill a table with one number again, which `add` made."""
        self._constants[table - 1] = constant
        for start, stop in self._blocks() if self._tables else ():
            classes = np.arange(start, stop, dtype=np.int32)
            rows = self.read(classes)
            rows[table] = np.full_like(rows[table], constant)
            self.write(classes, rows)

    def open(self) -> None:
        """Take the memory and draw the first centres, unless that is done.

        Raises:
            ValueError: there is not as much memory.
        """
        if self._tables:
            return
        self._check_room()
        self._tables = [self._filled(number) for number in range(1 + len(self._constants))]
        for start, stop in self._blocks():
            self._tables[0][self._where(slice(start, stop))] = self._first(start, stop)

    def read(self, classes: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """Return the rows of some classes from each table, the centres' first."""
        self.open()
        begun = time.perf_counter()
        where = self._where(classes)
        rows = [np.take(table, where, axis=0) for table in self._tables]
        self.seconds += time.perf_counter() - begun
        return rows

    def write(self, classes: NDArray[np.int32], rows: Sequence[NDArray[np.float32]]) -> None:
        """Put rows of some classes, none twice, into the tables."""
        self.open()
        begun = time.perf_counter()
        where = self._where(classes)
        for table, new in zip(self._tables, rows, strict=True):
            table[where] = new
        self.lost = self.lost or not all(_is_finite(new) for new in rows)
        self.seconds += time.perf_counter() - begun

    def block(self, start: int, stop: int, table: int = 0) -> NDArray[np.float32]:
        """Return rows of a table, of the centres if not said, from one class to another.

        They may be the table's own memory, not to be changed.
        """
        self.open()
        return np.asarray(self._tables[table][self._where(slice(start, stop))])

    def whole(self, table: int = 0) -> NDArray[np.float32]:
        """Return a table, (num_classes, width)."""
        return self.block(0, self.shape[0], table)

    def assign(self, values: NDArray[Any], table: int = 0) -> None:
        """Write a whole table; ValueError where it has another shape."""
        if tuple(values.shape) != self.shape:
            raise ValueError(
                f"Argument `values` must have the shape {self.shape}. Received: {values.shape}"
            )
        for start, stop in self._blocks():
            classes = np.arange(start, stop, dtype=np.int32)
            rows = self.read(classes)
            rows[table] = np.asarray(values[start:stop], np.float32)
            self.write(classes, rows)

    def count_lost(self) -> int:
        """Return how many centres are not finite."""
        return sum(
            int((~np.isfinite(self.block(start, stop)).all(axis=1)).sum())
            for start, stop in self._blocks()
        )

    # Checkpoints ---------------------------------------------------------------------------------

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint file holds of the tables."""
        return self.bytes

    def facts(self) -> dict[str, Any]:
        """Return where the tables are, ready for JSON."""
        return {"place": self.place}

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what brings the tables back: the arrays of a checkpoint. They are no copies.

        Raises:
            ValueError: a centre is not finite.
        """
        self.open()
        self._require_finite()
        return {str(number): self.whole(number) for number in range(len(self._tables))}

    def kept(self) -> None:
        """Note that what `state` returned last is on disk."""

    def restore(self, state: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
        """Bring back what `state` and `facts` returned.

        The arrays of the state become the tables where they can.

        Raises:
            ValueError: these are no tables of such a size.
        """
        shapes = {str(number): self.shape for number in range(1 + len(self._constants))}
        if {name: value.shape for name, value in state.items()} != shapes:
            raise ValueError("the checkpoint has class centres of another number or size")
        self._tables = [np.require(state[name], np.float32, "W") for name in shapes]

    def _require_finite(self) -> None:
        if self.lost:
            raise ValueError(
                f"{self.count_lost():,} class centres, or optimizer state of them, are not finite"
            )

    def _check_room(self) -> None:
        lack = hardware.lack_of_memory(self.bytes)
        if lack is not None:
            raise ValueError(
                f"class centres and optimizer state take {lack}: keep them in files (--centers "
                "DIR, centers=DIR)"
            )

    def _filled(self, number: int) -> NDArray[np.float32]:
        """Return a new table, its slots by their constant."""
        constant = self._constants[number - 1] if number else 0.0
        table = np.zeros(self.shape, np.float32)  # takes its memory page by page
        if constant:
            table.fill(constant)
        return table

    def _where(self, classes: Any) -> Any:
        """Return at which rows of a table some classes are."""
        return classes

    def _blocks(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.shape[0], self._size):
            yield start, min(start + self._size, self.shape[0])


def _is_finite(rows: NDArray[np.float32]) -> bool:
    """Tell whether all is finite: where the sum is, all is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(rows.sum()) or np.isfinite(rows).all())
