"""Links from a page to Markdown files outside the site, such as README.md and CONTRIBUTING.md."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx import addnodes


def included_files(folder: Path) -> dict[Path, str]:
    """Return the files outside the site that pages consist of, such as README.md: file -> page."""
    pages = {}
    for path in sorted(folder.glob("*.md")):
        include = re.match(r"```\{include\} (\S+)", path.read_text(encoding="utf-8"))
        if include:
            pages[(folder / include[1]).resolve()] = path.stem
    return pages


def link_files(app: Any, doctree: Any) -> None:
    """Lead a link to a Markdown file outside the site to the page that includes it.

    Without such a page the link is one to the file itself, as to any file.
    """
    pages = included_files(Path(app.srcdir))
    for node in list(doctree.findall(addnodes.pending_xref)):
        folder = Path(app.srcdir, app.env.docname).parent
        path = (folder / f"{node.get('reftarget')}.md").resolve()
        if node.get("refdomain") != "doc":
            continue
        if path in pages:
            node["reftarget"] = pages[path]
        elif path.exists() and not path.is_relative_to(Path(app.srcdir).resolve()):
            link = addnodes.download_reference(
                "", "", refdoc=app.env.docname, reftarget=os.path.relpath(path, folder)
            )
            link += node.children
            node.replace_self(link)


def setup(app: Any) -> dict[str, bool]:
    """Lead the links once a page is read."""
    app.connect("doctree-read", link_files, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
