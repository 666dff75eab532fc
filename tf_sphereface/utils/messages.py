"""Sentences for messages, the category of our warnings, and the type of a progress callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ProgressCallback = Callable[[int, int], None]
"""What long work calls now and then with (done, in all)."""


class SphereFaceWarning(UserWarning):
    """A guess that was made, or a figure that is hardly what was meant.

    In Python it is a warning as any other; a command prints it as one line.
    """


def and_more(items: Sequence[str], shown: int, *, separator: str = ", ", where: str = "") -> str:
    r"""Join the first items, and say how many are left out.

    Args:
        items: what to list.
        shown: how many at most.
        separator: `", "`, or `"\n  "` for a line each.
        where: where the others are found, such as `"--json FILE lists them all"`.

    Example:

    >>> and_more(["a", "b", "c"], 2)
    'a, b and 1 more'
    >>> print(and_more(["a", "b", "c"], 2, separator="\n  ", where="see x.tsv"))
    a
      b
      and 1 more (see x.tsv)
    """
    text = separator.join(items[:shown])
    hidden = len(items) - shown
    if hidden <= 0:
        return text
    joint = separator if "\n" in separator else " "
    return f"{text}{joint}and {hidden:,} more" + (f" ({where})" if where else "")


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun; the plural is that with an s unless it is given.

    Example:

    >>> counted(1, "person", "people"), counted(2190, "picture")
    ('1 person', '2,190 pictures')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def printable(text: str) -> str:
    r"""Return a text that can be encoded: bytes of a file's name that are no UTF-8 become `\udce9`.

    Example:

    >>> print(printable(b"caf\xe9".decode(errors="surrogateescape")))
    caf\udce9
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
