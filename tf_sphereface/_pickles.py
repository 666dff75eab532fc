"""What every reader of strangers' pickles needs: look at the instructions before running any."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO


def instructions(data: bytes | BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield the name and argument of each instruction of a pickle, without running any.

    Args:
        data: the pickle; a stream is read up to the pickle's end.

    Raises:
        ValueError: it is no pickle, or it numbers a value higher than it can have values. The C
            unpickler takes memory for as many values as the highest number says, so that ten bytes
            could ask for 34 GB.

    Example:

    >>> import pickle
    >>> [name for name, _ in instructions(pickle.dumps(None, protocol=0))]
    ['NONE', 'STOP']
    """
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data), start=1):
        if instruction.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise ValueError(f"it keeps its value number {argument}, and has {count} at most")
        yield instruction.name, argument
