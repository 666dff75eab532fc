"""The site: every public name has a page and an example, and the tools that check it work."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# These need files of others, and a server: their examples are shown and not run.
SHOWN_ONLY = {
    "tf_sphereface.alignment.YuNetDetector",
    "tf_sphereface.embedder.upload_embedder",
    "tf_sphereface.importers.load_sphere20a",
    "tf_sphereface.importers.load_sphereface_caffe",
    "tf_sphereface.importers.read_caffemodel",
}

pytest.importorskip("sphinx")


@pytest.fixture(scope="module")
def extension():
    """The modules of docs/_ext."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "docs" / "_ext"))


@pytest.fixture(scope="module")
def reference(extension):
    return extension("reference_pages")


def test_every_public_name_has_a_page(reference):
    pages = reference.pages()
    for room in reference.rooms():
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                assert value.__name__ in pages
            elif name != "__version__":
                page = reference.entries()[f"{room}.{name}"].full
                assert f"{page}>`" in pages[room]  # listed in each room that has it
                assert pages[page].startswith(":orphan:")


def test_every_public_name_says_what_it_is(reference):
    silent = [entry.full for entry in reference.entries().values() if not entry.text]
    assert not silent


def methods_of(cls):
    """The docstrings of a class' own public methods by name; how a record is stored is none."""
    kinds = (types.FunctionType, classmethod, staticmethod)
    own = {name: value for name, value in vars(cls).items() if isinstance(value, kinds)}
    return {n: v.__doc__ or "" for n, v in own.items() if n[0] != "_" and n != "to_dict"}


def needs_example(value):
    """Whether it does something: a result without methods, an exception and an alias do not."""
    if not inspect.isclass(value):
        return inspect.isroutine(value)
    record = dataclasses.is_dataclass(value) or hasattr(value, "_fields")
    return not issubclass(value, BaseException) and bool(not record or methods_of(value))


def has_example(entry):
    """Whether its docstring, or one of its methods, has lines that run."""
    texts = [
        entry.text,
        *(methods_of(entry.value).values() if entry.directive == "autoclass" else ()),
    ]
    lines = [line for text in texts for line in text.splitlines()]
    return any(line.lstrip().startswith(">>> ") and "+SKIP" not in line for line in lines)


def test_every_public_function_and_class_has_an_example(reference):
    entries = {entry.full: entry for entry in reference.entries().values()}
    needed = {name: entry for name, entry in entries.items() if needs_example(entry.value)}
    assert len(needed) > 200
    assert {name for name, entry in needed.items() if not has_example(entry)} == SHOWN_ONLY
    assert all("```python" in entries[name].text for name in SHOWN_ONLY)


def test_modules_that_users_name_promise_what_is_public(reference):
    package = ROOT / "tf_sphereface"
    for room in ("angular", "schedules", "metrics"):
        assert (package / f"{room}.py").exists()
        assert f"tf_sphereface.{room}" in reference.rooms()
    assert {f"tf_sphereface.{room}" for room in ("eval", "export", "search")} <= set(
        reference.rooms()
    )


def test_names_are_found_as_they_are_written(reference):
    find = reference.find_public
    assert find("sf.load_embedder") == "tf_sphereface.load_embedder"
    assert find("tf_sphereface.embedder.load_embedder") == "tf_sphereface.load_embedder"
    assert (
        find("layers.AngularDense") == find("AngularDense") == "tf_sphereface.layers.AngularDense"
    )
    assert find("psi", "tf_sphereface.angular.cos_multiple_angle") is None  # a word
    assert find("Gallery.open") == "tf_sphereface.search.Gallery.open"
    assert find("AngularDense", "tf_sphereface.layers.AngularDense") is None  # its own page
    assert find("keras.Model") is find("margin=4") is None


def test_a_document_outside_the_site_that_is_linked_is_one_of_its_pages(extension):
    """A link to it leads to a page; without one a browser would be handed a file."""
    docs = ROOT / "docs"
    pages = extension("file_links").included_files(docs)
    assert pages[ROOT / "README.md"] == "readme"
    linked = set()
    for path in [*docs.rglob("*.md"), *pages]:
        targets = re.findall(r"\]\(([\w./-]+\.md)[#)]", path.read_text(encoding="utf-8"))
        linked |= {(path.parent / target).resolve() for target in targets}
    outside = {path for path in linked if not path.is_relative_to(docs)}
    assert len(outside) >= 4
    assert outside <= set(pages)


def test_types_of_arrays_are_short(reference):
    text = "(x: ~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~numpy.float32]]) -> int"
    assert reference.short_arrays(text) == "(x: ~numpy.typing.NDArray[~numpy.float32]) -> int"


def test_docstrings_become_restructured_text(extension):
    text = extension("markdown_docstrings").convert(
        "See `layers.AngularDense`, `x` and docs/guides/train.md; |x| is `||x||`s.\n"
        "- one\n- two\n\n| a | b |\n|---|---|\n| `c` | d |\n\n```python\nx = 1\n```\n\n"
        ">>> print('`x`')\n`x`\n"
    )
    assert ":py:obj:`layers.AngularDense <tf_sphereface.layers.AngularDense>`" in text
    assert ":doc:`/guides/train`; \\|x\\| is ``||x||``\\ s.\n\n- one\n- two\n" in text
    assert ".. list-table::\n    :header-rows: 1\n\n    * - a\n      - b\n    * - ``c``\n" in text
    assert ".. code-block:: python\n\n    x = 1\n" in text
    assert text.endswith(">>> print('`x`')\n`x`")


def test_notebooks_are_text_without_outputs():
    """What they write belongs to the build: a folder that goes."""
    files = [path.name for path in (ROOT / "docs" / "notebooks").rglob("*") if path.is_file()]
    assert files
    assert not [name for name in files if not re.fullmatch(r"[a-z-]+\.md", name)]


def test_a_version_has_a_short_section_in_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *versions = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    assert first.startswith("Unreleased\n")
    assert versions
    assert all(len(section.splitlines()) <= 100 for section in versions)


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "loads <script"),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', "loads <link"),
        ("<style>@import url(https://fonts.example/x)</style>", "loads @import"),
        ('<a href="https://arxiv.org">paper</a><script src="_static/x.js"></script>', None),
    ],
)
def test_pages_that_load_from_elsewhere_are_named(tmp_path, load_tool, page, problem):
    (tmp_path / "index.html").write_text(page)
    found = load_tool("check_site").loaded_from_elsewhere(tmp_path)
    assert (problem in found[0]) if problem else not found


@pytest.fixture
def load_tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


def test_extras_that_are_named_exist():
    """pip says one line about an extra that is not there, and installs none of it."""
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8").split("[options.extras_require]")[1]
    extras = set(re.findall(r"^([a-z]+) =$", text.split("\n[", 1)[0], re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for path in (*pages, *(ROOT / "tf_sphereface").rglob("*.py"), *ROOT.glob("examples/**/*.py")):
        named = re.findall(r"(?:tf_sphereface|\"\.)\[([a-z,]+)\]", path.read_text(encoding="utf-8"))
        assert {extra for each in named for extra in each.split(",")} <= extras, path


def test_release_is_refused_for_what_is_missing(tmp_path, load_tool):
    check = load_tool("check_release")
    (tmp_path / "tf_sphereface").mkdir()
    (tmp_path / "tf_sphereface" / "_version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text("a: b\nversion: 1.2.3\n")
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2026-01-02\n\n- A line\n")
    assert check.source_problems(tmp_path, "v1.2.3") == []
    assert check.source_problems(tmp_path, "v1.2.4") == [
        "the tag is v1.2.4, the version wants v1.2.3"
    ]
    changelog.write_text("# Changelog\n\n## Unreleased\n\n- New\n\n## 1.2.2 - 2026-01-02\n")
    text = "\n".join(check.source_problems(tmp_path, None))
    assert "no heading '## 1.2.3 - DATE'" in text
    assert "move what is below 'Unreleased'" in text
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "old.whl").touch()
    text = "\n".join(check.file_problems(tmp_path / "dist", "1.2.3"))
    assert "lacks tf_sphereface-1.2.3.tar.gz" in text
    assert "holds old.whl" in text


def test_release_needs_the_address_of_the_repository(tmp_path, load_tool, capsys):
    check = load_tool("check_release")
    setup, citation = tmp_path / "setup.cfg", tmp_path / "CITATION.cff"
    citation.write_text("a: b\nversion: 1.2.3\n")
    setup.write_text("[metadata]\nproject_urls =\n    Paper = https://arxiv.org/abs/1\n")
    (problem,) = check.address_problems(tmp_path)
    assert "project_urls has no line 'Source = https://HOST/OWNER/tf_sphereface'" in problem
    setup.write_text("[metadata]\nproject_urls =\n    Source = http://host.example/face\n")
    text = "\n".join(check.address_problems(tmp_path))
    assert "CITATION.cff does not say 'repository-code: http://host.example/face'" in text
    assert "Source must begin with https://" in text
    setup.write_text("[metadata]\nproject_urls =\n    Source = https://host.example/face\n")
    citation.write_text("a: b\nrepository-code: https://host.example/face\n")
    assert not check.address_problems(tmp_path)
    if not check.project_urls(ROOT).get("Source"):  # said by any check, refused for a tag
        check.main([])
        assert "Before a release: setup.cfg: project_urls has no line" in capsys.readouterr().err
        assert check.main(["--tag", f"v{check.version_of(ROOT)}"]) == 1


README = """# Name

![A picture](docs/a.png)

[Guide](docs/guide.md#part), [paper](https://arxiv.org/abs/1), <https://b.example>.

```python
x = [f](y)  # [code](stays.md)
```
"""


def test_index_shows_no_dead_link(tmp_path, load_tool):
    index_page = load_tool("index_page")
    (tmp_path / "tf_sphereface").mkdir()
    (tmp_path / "tf_sphereface" / "_version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = x\n")
    text = index_page.description(tmp_path)
    assert text == README.replace("![A picture](docs/a.png)\n\n", "").replace(
        "[Guide](docs/guide.md#part)", "Guide"
    )
    (tmp_path / "setup.cfg").write_text(
        "[metadata]\nproject_urls =\n    Paper = https://a.example\n    Source = https://h.example/x/\n"
    )
    assert index_page.description(tmp_path) == README.replace(
        "(docs/a.png)", "(https://h.example/x/raw/v1.2.3/docs/a.png)"
    ).replace("(docs/guide", "(https://h.example/x/blob/v1.2.3/docs/guide")
    shown = index_page.CODE.sub("", index_page.description(ROOT))
    assert not re.search(r"\]\((?!https://)|<(a|img)\b", shown)
