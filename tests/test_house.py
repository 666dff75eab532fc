"""The layout, the names and the versions that several files have to agree on."""

from __future__ import annotations

import ast
import configparser
import os
import re
import tomllib
from pathlib import Path

import pytest

import tf_sphereface

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tf_sphereface"
SOURCES = sorted(
    Path(folder, name)
    for folder, _, names in os.walk(PACKAGE, followlinks=True)
    for name in names
    if name.endswith(".py")
)
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def module_name(path: Path) -> str:
    """Return the dotted name that a file of the package is imported under."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def setup_cfg() -> configparser.ConfigParser:
    """Read setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def commands() -> dict[str, str]:
    """Return the installed commands and what each of them calls."""
    text = setup_cfg()["options.entry_points"]["console_scripts"]
    lines = (line.split("=") for line in text.strip().splitlines())
    return {name.strip(): target.strip() for name, target in lines}


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_pyproject_leaves_the_metadata_to_setup_cfg():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "project" not in pyproject  # setuptools would ignore most of setup.cfg


def test_one_version():
    version = tf_sphereface.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(version)}\b", changelog, re.MULTILINE)


def test_every_pin_is_within_its_range():
    packaging = pytest.importorskip("packaging.requirements")
    pins = dict(
        line.split("==")
        for name in ("constraints.txt", "benchmarks/constraints.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    canonical = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    config = setup_cfg()
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for text in texts for line in text.split("\n") if line and line[0] != "#"]
    assert lines
    for line in lines:
        requirement = packaging.Requirement(line)
        if requirement.name != "tf_sphereface":
            assert requirement.specifier.contains(canonical[requirement.name.lower()]), line


@pytest.mark.parametrize("name", ["eval", "export"])
def test_linked_folders_are_links(name):
    if not (ROOT / name).exists():
        pytest.skip("an unpacked sdist holds plain folders")
    assert (ROOT / name).is_symlink()
    assert os.readlink(ROOT / name) == f"tf_sphereface/{name}"
    assert (PACKAGE / name).is_dir()
    assert not (PACKAGE / name).is_symlink()


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{module_name(path)} has no docstring"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_a_parser_and_a_main(name):
    module, function = commands()[name].split(":")
    assert function == "main"
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text("utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"build_parser", "main"} <= defined


def test_documents_name_real_commands_and_the_readme_names_all():
    known = set(commands())
    for document in DOCUMENTS:
        named = set(re.findall(r"\btf_sphereface-[a-z]+\b", document.read_text(encoding="utf-8")))
        assert named <= known, document.name
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {name for name in known if name in readme} == known


def test_readme_shows_make_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text("utf-8"), re.DOTALL))
        named = set(re.findall(r"\bmake ([a-z-]+)\b", code))
        assert named <= targets, document.name
    assert {"demo", "test"} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http:", "https:", "#", "mailto:")):
            path = document.parent / target.split("#")[0]
            assert path.exists(), f"{document.name} links to {target}"


def test_pictures_are_small():
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".png", ".svg", ".jpg"):
            assert path.stat().st_size < 200_000, path.name


def test_arrows_point_down():
    """The library knows nothing of eval and export, but for its commands and its callbacks."""
    upward = ("tf_sphereface.eval", "tf_sphereface.export")
    for path in SOURCES:
        relative = path.relative_to(PACKAGE).as_posix()
        commands = ("cli/", "reproduce/")  # reproduce/ is what one command runs
        allowed = relative.startswith((*commands, "eval/", "export/"))
        allowed = allowed or relative == "callbacks.py"
        if not allowed:
            names = {name for name in imported(path) if name.startswith(upward)}
            assert not names, f"{relative} imports {sorted(names)}"
        if relative.startswith("eval/"):
            assert not any(n.startswith("tf_sphereface.export") for n in imported(path)), relative


def test_the_maths_imports_nothing_of_ours():
    names = imported(PACKAGE / "angular.py")
    assert not {name for name in names if name.startswith("tf_sphereface")}
