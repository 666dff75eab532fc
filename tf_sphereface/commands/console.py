"""Shared parts of the commands: errors and exit codes, tables, progress, JSON output."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tf_sphereface.utils.files import check_name, is_stream, write_json
from tf_sphereface.utils.messages import ProgressCallback, SphereFaceWarning

STACK = ("Graph execution error", "Detected at node", "<stack traces")
EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130


class PlainConsole(Console):
    """A console to which brackets and colons in a name are no markup, in a table or in a line.

    What is to be bold is a `rich.text.Text`, or has a style.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """Raise an error: rich would end with 1, which is an answer of some commands."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # for the flush at the end
        raise CommandError("nobody reads the output any more; it is not complete")


console = PlainConsole()
error_console = PlainConsole(stderr=True)


class CommandError(Exception):
    """Wrong usage or bad input: one clear message on stderr, exit code 2."""


class CheckFailed(Exception):
    """The command ran, but what it checked did not hold: exit code 1."""


def command(main: Callable[..., int]) -> Callable[..., int]:
    r"""Turn every error into one message and an exit code, and our warnings into lines.

    `CommandError`, `ValueError`, `OSError` and `ImportError` end with code 2, as does an error
    inside a TensorFlow graph (what was raised is shown, not the stacks around it), `CheckFailed`
    with 1, an interrupt with 130. Any other error is a defect: its traceback is shown, and the code
    is 70, so that it is never taken for an answer. With `TF_SPHEREFACE_DEBUG=1` every error shows
    its traceback; the codes stay. What the terminal cannot show of a name is written `\udce9`.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file name may be no UTF-8
                stream.reconfigure(errors="backslashreplace")
        try:
            with _warnings_as_lines():
                return main(argv)
        except KeyboardInterrupt:
            error_console.print("interrupted")
            return EXIT_INTERRUPTED
        except Exception as error:
            return _ended_by(error)

    return wrapped


def _ended_by(error: Exception) -> int:
    """Say what went wrong, and return the exit code."""
    internal = not isinstance(
        error, CheckFailed | CommandError | ValueError | OSError | ImportError | tf.errors.OpError
    )
    if internal or os.environ.get("TF_SPHEREFACE_DEBUG"):
        note("".join(traceback.format_exception(error)).rstrip())
    if internal:
        _complain("internal error", f"{type(error).__name__}: {error}")
        return EXIT_INTERNAL
    if isinstance(error, CheckFailed):
        _complain("check failed", error)
        return EXIT_CHECK_FAILED
    _complain("error", _in_the_graph(error) if isinstance(error, tf.errors.OpError) else error)
    return EXIT_USAGE


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print each of our warnings as one line, once; leave those of others as they are."""
    said = set[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("always", SphereFaceWarning)
        show = warnings.showwarning

        def print_line(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
            if not issubclass(category, SphereFaceWarning):
                show(message, category, *place, **options)
            elif str(message) not in said:
                said.add(str(message))
                warn(str(message))

        warnings.showwarning = print_line
        yield


def _in_the_graph(error: tf.errors.OpError) -> CommandError:
    """Return what went wrong inside a graph, without the stacks that TensorFlow adds."""
    message = error.message or type(error).__name__
    if isinstance(error, tf.errors.UnavailableError) and os.environ.get("TF_CONFIG"):
        return CommandError(
            "another worker has stopped or cannot be reached: start all of them again with "
            "--resume (TF_SPHEREFACE_DEBUG=1 shows the traceback)"
        )
    raised = re.search(r"\w*Error: (.+)", message)  # by Python code in the input pipeline
    lines = [line for line in message.splitlines() if line and not line.startswith(STACK)]
    first = raised[1] if raised else re.sub(r"^{{.*?}}", "", lines[0] if lines else message)
    return CommandError(f"{first.strip()} (TF_SPHEREFACE_DEBUG=1 shows the traceback)")


def note(text: str, to: Console = error_console) -> None:
    """Print text as it is; lines are not broken."""
    to.print(text, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning."""
    error_console.print("warning:", style="bold yellow", end=" ")
    note(text)


def _complain(kind: str, error: Exception | str) -> None:
    error_console.print(f"{kind}:", style="bold red", end=" ")
    note(str(error) or type(error).__name__)


_ALWAYS = "exit code of every command: 70 an internal error, 130 an interrupt"


def make_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser whose help has a description and an example block."""
    return argparse.ArgumentParser(
        prog=f"tf_sphereface-{name}",
        description=description,
        epilog=f"examples:\n{examples}\n\n{_ALWAYS}",
        formatter_class=HelpFormatter,
    )


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the layout of description and examples, and show every default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def progress(description: str = "") -> Progress:
    """Return a progress bar on stderr (stdout stays clean for tables and pipes)."""
    return Progress(
        TextColumn(description + "{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=error_console,
        transient=not sys.stderr.isatty(),
    )


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[ProgressCallback]:
    """Show one bar on stderr; yields what long work calls with (done, in all)."""
    with progress() as bars:
        task = bars.add_task(description, total=None)

        def show(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield show


def existing_file(text: str) -> Path:
    """An argparse type: the path of a file that exists."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path


def existing_dir(text: str) -> Path:
    """An argparse type: the path of a folder that exists."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text}")
    return path


def output_file(text: str) -> Path:
    """An argparse type: a file to write. What cannot be one is said before the work, not after."""
    path = _named(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"a file to write is expected, this is a folder: {text!r}")
    if not is_stream(path):
        _require_writable(text, path.absolute().parent)
    return path


def output_dir(text: str) -> Path:
    """An argparse type: a folder to write into, there or not."""
    _require_writable(text, _named(text).absolute())
    return Path(text)


def _named(text: str) -> Path:
    """Return a path to write, or raise argparse's error if a name in it is too long."""
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _require_writable(text: str, path: Path) -> None:
    """Raise argparse's error if a folder cannot be made or written into."""
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {folder} is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {folder} is read-only")


def image_size(text: str) -> tuple[int, int]:
    """An argparse type: "112x96" as (112, 96), height and width in pixels."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 112x96: {text}") from None
    return height, width


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on: {text}")
    return int(text)


def cosine_value(text: str) -> float:
    """An argparse type: a cosine."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"a cosine from -1 to 1 is expected, not {text!r}")
    return value


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE`."""
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write the result as JSON"
    )


def write_json_option(path: Path | None, value: Any) -> None:
    """Write what `--json` asked for, when it asked."""
    if path is not None:
        write_json(path, value)
        note(f"wrote {path}")
