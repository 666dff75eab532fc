"""README.md as a package index shows it, and the project's addresses that it follows.

The addresses are written once, as `project_urls` in setup.cfg: `Source` is the repository,
`Documentation` the built site. An index knows neither the files nor the pictures beside README.md.
With a `Source` its links lead to the files of the released tag there; without one a link is its
text alone, and a picture is left out.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)\n*")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|mailto:)([^)\s]+)\)")


def project_urls(root: Path) -> dict[str, str]:
    """Return the addresses that setup.cfg lists, by their name."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / "setup.cfg", encoding="utf-8")
    lines = config.get("metadata", "project_urls", fallback="").strip().splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): address.strip() for name, _, address in pairs}


def version_of(root: Path) -> str:
    """Return the version that the package says."""
    text = (root / "tf_sphereface" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "([^"]+)"', text)
    return found[1] if found else ""


def description(root: Path) -> str:
    """Return README.md without a link or a picture that an index could not show."""
    source = project_urls(root).get("Source", "").rstrip("/")
    blob, raw = (f"{source}/{kind}/v{version_of(root)}" for kind in ("blob", "raw"))
    pieces = CODE.split((root / "README.md").read_text(encoding="utf-8"))
    for k in range(0, len(pieces), 2):  # the odd ones are code
        text = PICTURE.sub(rf"![\1]({raw}/\2)\n\n" if source else "", pieces[k])
        pieces[k] = LINK.sub(rf"[\1]({blob}/\2)" if source else r"\1", text)
    return "".join(pieces)
