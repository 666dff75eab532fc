"""Docstrings in Markdown for autodoc: code, tables, fences and lists become reStructuredText.

It runs before napoleon, which reads the sections (`Args:`, `Returns:` ...). Code that names
something public becomes a link to its page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reference_pages import find_public

CODE = re.compile(r"`([^`]+)`")
PAGE = re.compile(r"(?<![\w/])docs/([\w/-]+)\.md\b")
ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s")


def convert(text: str, module: str = "") -> str:
    """Return Markdown of a docstring as reStructuredText; names are looked up from `module`."""
    return "\n".join(_blocks(text.splitlines(), module))


def _blocks(lines: list[str], module: str) -> Iterator[str]:
    k = 0
    while k < len(lines):
        line = lines[k]
        indent = line[: len(line) - len(line.lstrip())]
        body = line.lstrip()
        if body.startswith(">>>"):
            while k < len(lines) and lines[k].strip():
                yield lines[k]
                k += 1
            continue
        if body.startswith("```"):
            end = next(n for n in range(k + 1, len(lines)) if lines[n].strip() == "```")
            yield from ("", f"{indent}.. code-block:: {body[3:].strip() or 'text'}", "")
            yield from (f"    {inner}" if inner.strip() else "" for inner in lines[k + 1 : end])
            yield ""
            k = end + 1
            continue
        if body.startswith("|") and k + 1 < len(lines) and lines[k + 1].lstrip().startswith("|--"):
            end = next(
                (n for n in range(k, len(lines)) if not lines[n].lstrip().startswith("|")),
                len(lines),
            )
            rows = [_cells(row, module) for row in (line, *lines[k + 2 : end])]
            yield from (f"{indent}{part}".rstrip() for part in _table(rows))
            k = end
            continue
        starts_list = ITEM.match(line) and k > 0 and lines[k - 1].strip()
        if (
            starts_list
            and not ITEM.match(lines[k - 1])
            and not lines[k - 1].startswith(indent + " ")
        ):
            yield ""
        yield _inline(line, module)
        k += 1


def _inline(line: str, module: str) -> str:
    """Return a line with its code as literals or links, and the rest safe."""
    parts = CODE.split(line)
    for k, part in enumerate(parts):
        if k % 2:
            page = PAGE.fullmatch(part)
            target = find_public(part, module)
            parts[k] = f":py:obj:`{part} <{target}>`" if target else f"``{part}``"
            parts[k] = f":doc:`/{page[1]}`" if page else parts[k]
            # What touches it, such as a plural's s, would end the markup: an escaped blank.
            if re.match(r"\w", parts[k + 1]):
                parts[k + 1] = "\\ " + parts[k + 1]
        else:
            safe = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part.replace("|", r"\|"))
            parts[k] = PAGE.sub(r":doc:`/\1`", safe)
    return "".join(parts)


def _cells(row: str, module: str) -> list[str]:
    return [_inline(cell.strip(), module) for cell in row.strip().strip("|").split("|")]


def _table(rows: list[list[str]]) -> Iterator[str]:
    yield from ("", ".. list-table::", "    :header-rows: 1", "")
    for row in rows:
        for k, cell in enumerate(row):
            yield f"    {'-' if k else '* -'} {cell}" if not k else f"      - {cell}"
    yield ""


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert what autodoc has read; `lines` is changed in place."""
    lines[:] = convert("\n".join(lines), name).splitlines()
    for k, line in enumerate(lines[:-1]):
        # A value is described by a sentence: what stands before its colon is not a type.
        if line.strip() in ("Returns:", "Yields:") and lines[k + 1].strip():
            indent = len(lines[k + 1]) - len(lines[k + 1].lstrip())
            lines[k + 1] = f"{' ' * indent}: {lines[k + 1].lstrip()}"
    app.env.temp_data["docstring"] = list(lines)


def keep_property(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo napoleon on properties: it takes what stands before a colon for the type."""
    if what in ("attribute", "data", "property"):
        lines[:] = app.env.temp_data.pop("docstring", lines)


def setup(app: Any) -> dict[str, bool]:
    """Connect to autodoc, before and after napoleon."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-docstring", keep_property, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
