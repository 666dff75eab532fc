"""Check that a release can be made from this checkout: version, changelog, tag, built files.

Without arguments it looks at the sources alone. With `--tag v0.1.0` the tag must be that of the
version, and setup.cfg must have the repository's address; with `--dist DIR` the folder must hold
the wheel and the sdist of this version, and nothing else. Exit code 0: ready, 1: what is wrong is
printed.

    python tools/check_release.py --tag v0.1.0 --dist dist
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from index_page import project_urls, version_of

ROOT = Path(__file__).resolve().parents[1]
DATE = r"\d{4}-\d{2}-\d{2}"


def source_problems(root: Path, tag: str | None) -> list[str]:
    """Return what is wrong with version, changelog, citation and tag."""
    version, problems = version_of(root), []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        problems.append(f"_version.py: {version!r} is no version such as 0.1.0")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} - {DATE}$", changelog, re.MULTILINE):
        problems.append(f"CHANGELOG.md has no heading '## {version} - DATE'")
    unreleased = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    if unreleased is None:
        problems.append("CHANGELOG.md has no heading '## Unreleased' on top")
    elif unreleased[1].strip():
        problems.append("CHANGELOG.md: move what is below 'Unreleased' to the version's section")
    if f"\nversion: {version}\n" not in (root / "CITATION.cff").read_text(encoding="utf-8"):
        problems.append(f"CITATION.cff does not say version {version}")
    if tag is not None and tag != f"v{version}":
        problems.append(f"the tag is {tag}, the version wants v{version}")
    return problems


def address_problems(root: Path) -> list[str]:
    """Return what is wrong with the addresses that the index' page and the citation need."""
    urls, citation = project_urls(root), (root / "CITATION.cff").read_text(encoding="utf-8")
    source, problems = urls.get("Source", ""), []
    if not source:
        problems.append(
            "setup.cfg: project_urls has no line 'Source = https://HOST/OWNER/tf_sphereface', the "
            "repository's address: on the index README.md has no links and no picture"
        )
    elif f"\nrepository-code: {source}\n" not in citation:
        problems.append(f"CITATION.cff does not say 'repository-code: {source}', as setup.cfg does")
    return problems + [
        f"setup.cfg: the project URL {name} must begin with https://, and is {address!r}"
        for name, address in urls.items()
        if not address.startswith("https://")
    ]


def file_problems(folder: Path, version: str) -> list[str]:
    """Return what is wrong with the built files."""
    wanted = {f"tf_sphereface-{version}-py3-none-any.whl", f"tf_sphereface-{version}.tar.gz"}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [f"{folder} lacks {name}" for name in sorted(wanted - names)] + [
        f"{folder} holds {name}, which is no file of this release"
        for name in sorted(names - wanted)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Check, and print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tag", help="such as v0.1.0")
    parser.add_argument("--dist", type=Path, help="the folder of the built files")
    arguments = parser.parse_args(argv)
    problems, addresses = source_problems(ROOT, arguments.tag), address_problems(ROOT)
    if arguments.tag is not None:
        problems += addresses
    if arguments.dist is not None:
        problems += file_problems(arguments.dist, version_of(ROOT))
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    for note in addresses if arguments.tag is None else ():
        sys.stderr.write(f"Before a release: {note}\n")
    if not problems:
        print(f"tf_sphereface {version_of(ROOT)}: ready")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
