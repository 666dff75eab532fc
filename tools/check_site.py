"""Check the built site: nothing is fetched from elsewhere, and every public name has a page.

    python tools/check_site.py build/docs

Sphinx checks the links (`make docs`). Exit code 0: all is well, 1: what is wrong is printed.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What a browser loads by itself, in contrast to a link that somebody follows.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]*\""
    r"|<link\b(?![^>]*rel=\"(?:canonical|license)\")[^>]*\bhref=\"(?:https?:)?//[^\"]*\""
    r"|@import\s+(?:url\()?['\"]?(?:https?:)?//|url\(['\"]?(?:https?:)?//[^)]*"
)


def loaded_from_elsewhere(site: Path) -> list[str]:
    """Return the pages and style sheets that load something over the network, with what."""
    problems = []
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for match in LOADED.finditer(path.read_text(encoding="utf-8")):
            problems.append(f"{path.relative_to(site)} loads {match[0][:120]}")
    return problems


def documented(site: Path) -> set[str]:
    """Return the Python names that the site's inventory leads to."""
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(content).decode("utf-8").splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def names_without_page(site: Path) -> list[str]:
    """Return what the rooms' `__all__` promise and the site lacks."""
    sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]
    import reference_pages

    names = {entry.full for entry in reference_pages.entries().values()}
    lacking = (names | set(reference_pages.rooms())) - documented(site)
    return [f"{name} has no page" for name in sorted(lacking)]


def main(argv: Sequence[str] | None = None) -> int:
    """Check the site in the folder that is named."""
    (folder,) = sys.argv[1:] if argv is None else argv
    problems = [*loaded_from_elsewhere(Path(folder)), *names_without_page(Path(folder))]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if not problems:
        pages = sum(1 for _ in Path(folder).rglob("*.html"))
        print(f"{folder}: {pages} pages, {len(documented(Path(folder)))} names")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
