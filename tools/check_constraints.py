"""Check that constraints.txt resolves on every Python that the package supports.

Asks pip for a dry run of all requirements and extras of setup.cfg under constraints.txt, wheels
only, for each version named (the running interpreter is enough: pip picks the files of the other
versions). Nothing is installed. Exit code 0: all resolve, 1: the first that does not is shown.

    python tools/check_constraints.py 3.11 3.12 3.13
"""

from __future__ import annotations

import argparse
import configparser
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
ELSEWHERE = ("bench",)  # extras whose pins are in a file of their own, and differ between systems


def requirements(setup_cfg: Path) -> list[str]:
    """Return the base requirements and the extras', without the package and `ELSEWHERE`."""
    config = configparser.ConfigParser()
    config.read(setup_cfg, encoding="utf-8")
    extras = config["options.extras_require"]
    chosen = [text for name, text in extras.items() if name not in ELSEWHERE]
    blocks = [config["options"]["install_requires"], *chosen]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line and not line.startswith(("tf_sphereface", "#"))})


def resolve(version: str, wanted: Sequence[str], constraints: Path) -> dict[str, str]:
    """Resolve for one version of Python.

    Returns:
        The chosen version of each package, by its lower-case name.

    Raises:
        RuntimeError: pip found no solution; the message is pip's.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"),
                *("--ignore-installed", "--only-binary=:all:", "--python-version", version),
                *("--target", str(Path(folder) / "target"), "--report", str(report)),
                *("--constraint", str(constraints), *wanted),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout.strip())
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in chosen}


def pinned(constraints: Path) -> set[str]:
    """Return the lower-case names that the constraints file pins, dashes for underscores."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    names = (line.split("==")[0] for line in lines if "==" in line and not line.startswith("#"))
    return {normalized(name) for name in names}


def normalized(name: str) -> str:
    """Return a package's name as indexes write it."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve for each version and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("versions", nargs="*", default=VERSIONS, help="such as 3.12")
    arguments = parser.parse_args(argv)
    constraints = ROOT / "constraints.txt"
    wanted = requirements(ROOT / "setup.cfg")
    known = pinned(constraints)
    for version in arguments.versions:
        try:
            chosen = resolve(version, wanted, constraints)
        except RuntimeError as error:
            sys.stderr.write(f"Python {version}: constraints.txt does not resolve.\n{error}\n")
            return 1
        loose = sorted(name for name in chosen if normalized(name) not in known)
        if loose:
            sys.stderr.write(f"Python {version}: not pinned: {', '.join(loose)}\n")
            return 1
        print(f"Python {version}: {len(chosen)} packages, all pinned, wheels for all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
