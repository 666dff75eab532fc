"""The layout, the names and the versions that several files have to agree on."""

from __future__ import annotations

import ast
import configparser
import graphlib
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tf_sphereface

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tf_sphereface"
SOURCES = sorted(PACKAGE.rglob("*.py"))
INSIDE = "tf_sphereface."
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
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


def test_the_package_is_whole_and_two_of_its_folders_are_linked():
    for name in ("eval", "export"):
        assert (PACKAGE / name).is_dir()
        assert not (PACKAGE / name).is_symlink()
        if (ROOT / name).is_symlink():  # an sdist has no links, nor has a clone on some systems
            assert os.readlink(ROOT / name) == f"tf_sphereface/{name}"


def test_every_command_has_a_parser_and_a_main():
    for target in commands().values():
        module, function = target.split(":")
        assert function == "main"
        tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text("utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {"build_parser", "main"} <= defined, target


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


def test_relative_links_lead_somewhere():
    for document in DOCUMENTS:
        text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith(("http:", "https:", "#", "mailto:")):
                path = document.parent / target.split("#")[0]
                assert path.exists(), f"{document.name} links to {target}"


def test_pictures_are_small():
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".png", ".svg", ".jpg"):
            assert path.stat().st_size < 200_000, path.name


# The rooms: the modules and folders on the top level of the package ------------------------------

MOST_ROOMS, MOST_FLOORS, MOST_ARROWS = 21, 9, 90
MOST_POSITIONAL, MOST_LINES, MOST_LINES_OF_A_FILE = 6, 60, 400


def room(module: str) -> str:
    """Return the room of a module: the part behind `tf_sphereface.`, empty for the package."""
    return module.split(".")[1] if "." in module else ""


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Room -> the other rooms that it imports."""
    modules = {module_name(path): path for path in SOURCES}
    found: dict[str, set[str]] = {room(module): set() for module in modules if room(module)}
    for module, path in modules.items():
        if room(module):  # the package itself hands all of them on
            targets = (name.split(".")[1] for name in imported(path) if name.startswith(INSIDE))
            found[room(module)] |= set(targets) & set(found) - {room(module)}
    return found


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Room -> its floor: one above the highest that it imports. Raises where rooms form a circle.

    A room without imports is on floor 1.
    """
    order = graphlib.TopologicalSorter(arrows).static_order()
    heights: dict[str, int] = {}
    for name in order:
        heights[name] = 1 + max((heights[other] for other in arrows[name]), default=0)
    return heights


def test_the_house_is_small_and_without_circles(arrows):
    assert len(arrows) <= MOST_ROOMS
    assert [name for name in arrows if name.startswith("_")] == ["_version"]
    assert max(floors(arrows).values()) <= MOST_FLOORS
    assert sum(map(len, arrows.values())) <= MOST_ARROWS


def test_arrows_point_down(arrows):
    """Commands are above all, `eval` and `export` above `embedder`, callbacks above `eval`."""
    height = floors(arrows)
    below = {name for name in arrows if height[name] <= height["embedder"]}
    assert arrows["utils"] == arrows["angular"] == set()
    assert [name for name in arrows if "commands" in arrows[name]] == []
    assert arrows["eval"] <= below
    assert arrows["export"] <= below | {"eval"}
    above_eval = {"callbacks", "commands", "export", "reproduce", "search"}
    assert {name for name in arrows if "eval" in arrows[name]} <= above_eval
    assert {name for name in arrows if "export" in arrows[name]} <= {"commands", "reproduce"}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function of the package and where it stands."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield f"{module_name(path)}.{node.name}", node


def test_functions_are_narrow_and_short():
    """At most 6 positional parameters, and 60 lines without docstring; parsers may be longer."""
    for name, node in functions():
        arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
        positional = len(arguments) - (arguments[:1] in (["self"], ["cls"]))
        assert positional <= MOST_POSITIONAL, f"{name} takes {positional} positional parameters"
        text = ast.get_docstring(node, clean=False)
        lines = node.end_lineno - node.lineno + 1 - (text.count("\n") + 1 if text else 0)
        parser = node.name in ("build_parser", "add_arguments")
        assert parser or lines <= MOST_LINES, f"{name} has {lines} lines"


def test_every_module_says_what_it_is_in_at_most_400_lines():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{module_name(path)} has no docstring"
        assert text.count("\n") <= MOST_LINES_OF_A_FILE, f"{module_name(path)} is too long"
