"""The sdist and the wheel hold what they should, once, and no link."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Build the sdist, and the wheel from it, out of a copy: the checkout stays as it is.

    The build backend of the environment is used, so nothing is downloaded. `make wheel-test`
    does the same with an isolated build, and installs the result.
    """
    folder = tmp_path_factory.mktemp("packaging")
    source, target = folder / "source", folder / "dist"
    unwanted = (".git", ".venv*", "build", "dist", "*.egg-info", "demo", "runs", ".*_cache")
    unwanted += ("node_modules",)
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*unwanted))
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return target


def sources() -> set[str]:
    """Return the package's files."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tf_sphereface").rglob("*")
        if path.suffix in (".py", ".typed", ".html", ".json")
    }


def test_wheel_holds_every_module_once(built):
    (wheel,) = built.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(sources())  # no eval/ and export/ at the top level
    assert "tf_sphereface/eval/__init__.py" in names
    assert "tf_sphereface/export/__init__.py" in names


def test_wheel_by_folder(built):
    """Only the package is shipped, in its rooms. `tf_sphereface-reproduce` needs `reproduce`."""
    (wheel,) = built.glob("*.whl")
    names = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
    inside = [name for name in names if not name.parts[0].endswith(".dist-info")]
    assert {name.parts[0] for name in inside} == {"tf_sphereface"}
    assert {name.parts[1] for name in inside if len(name.parts) > 2} == {
        *("alignment", "backbones", "callbacks", "classifier", "commands", "data", "embedder"),
        *("eval", "export", "importers", "layers", "losses", "optimizers", "reproduce", "search"),
        *("training", "utils"),
    }
    others = {str(name) for name in inside if name.suffix != ".py"}
    assert "tf_sphereface/py.typed" in others
    report = PurePosixPath("tf_sphereface/eval/report")
    assert {PurePosixPath(name).parent for name in others - {"tf_sphereface/py.typed"}} == {report}


def test_index_would_take_the_files(built):
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    check = [sys.executable, str(ROOT / "tools" / "check_release.py"), "--dist", str(built)]
    ready = subprocess.run(check, capture_output=True, text=True, check=False)
    # Between releases "Unreleased" has lines; the files themselves are right at any time.
    assert str(built) not in ready.stderr


def test_wheel_says_what_setup_cfg_says(built):
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    metadata = archive.read(f"{folder}/METADATA").decode()
    for line in (
        "Name: tf_sphereface",
        "License-Expression: Apache-2.0",
        "Requires-Python: >=3.11",
        "Provides-Extra: eval",
        "Provides-Extra: export",
        "Provides-Extra: align",
        "Provides-Extra: dev",
        "Provides-Extra: docs",
        "Project-URL: Paper, https://arxiv.org/abs/1704.08063",
    ):
        assert f"\n{line}\n" in metadata, line
    page = metadata.partition("\n\n")[2]  # what the index shows: README.md, nothing in it dead
    assert page.startswith("# tf_sphereface\n")
    assert "\n```python\nimport keras\n" in page
    assert not re.search(r"\]\((?!https://)", page)
    assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert "tf_sphereface-train = " in archive.read(f"{folder}/entry_points.txt").decode()


def test_sdist_holds_plain_files_and_what_is_needed_to_test_it(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = {member.name.split("/", 1)[-1] for member in members}
    assert sources() <= names
    wanted = {
        "SECURITY.md",
        "setup.py",
        "tools/index_page.py",
        "docs/conf.py",
        "docs/notebooks/quickstart.md",
        "docs/_static/site.css",
        "docs/_static/scorer.js",
    }
    assert wanted <= names
    assert not {name for name in names if name.startswith("docs/reference/generated/")}
    wanted = {"README.md", "LICENSE", "Makefile", "constraints.txt", "tests/conftest.py"}
    assert wanted <= names
    assert not {"eval", "export"} & {name.split("/")[0] for name in names}
    assert not {name for name in names if name.startswith((".git/", ".venv", "runs/", "demo/"))}
