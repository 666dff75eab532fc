"""Keep the converters' chatter off the terminal, without losing it when one of them fails."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO, Any

_TAIL = 2000  # characters of chatter that go into an error's note


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence everything that a block of converter calls prints, logs or warns about.

    The converters write from C++ straight to the process's standard error, past `sys.stderr`, so
    both file descriptors are turned to a temporary file for the length of the block. What Python
    prints is dropped, warnings are ignored, log records up to WARNING too. All of it comes back at
    the end; an exception leaves with the end of the C++ chatter as a note. Other threads that print
    meanwhile are silenced too: keep blocks short.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as chatter, contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(max(logging.WARNING, logging.root.manager.disable))
        for descriptor in (1, 2):
            stack.enter_context(_descriptor_to(descriptor, chatter))
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(_Muted(sys.stdout))))
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(_Muted(sys.stderr))))
        try:
            yield
        except Exception as error:
            text = _read(chatter)
            if text:
                error.add_note(f"the converter had printed:\n{text}")
            raise


class _Muted:
    """A stream that drops what is written, and passes it on once the block has ended.

    A log handler that a library makes inside the block keeps the stream it finds, for good.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._muted = stream, True

    def __enter__(self) -> _Muted:
        return self

    def __exit__(self, *error: object) -> None:
        self._muted = False

    def write(self, text: str) -> int:
        return len(text) if self._muted else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _descriptor_to(descriptor: int, file: IO[str]) -> Iterator[None]:
    """Turn a file descriptor to `file` for the length of the block."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a stream may be closed, or None under pythonw
            stream.flush()
    try:
        saved = os.dup(descriptor)
    except OSError:  # the process runs without it
        yield
        return
    os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)


def _read(chatter: IO[str]) -> str:
    chatter.flush()
    with open(os.dup(chatter.fileno()), encoding="utf-8", errors="replace") as copy:
        copy.seek(0)
        return copy.read()[-_TAIL:].strip()
