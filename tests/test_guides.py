"""The code of the guides: Python blocks run, command lines parse, the rest is marked as output."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fork_server import ForkedProcess, run_code

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GUIDES = [path for room in ("start", "guides") for path in sorted((DOCS / room).glob("*.md"))]
MIGRATING = DOCS / "guides" / "migrate.md"  # tests/test_readme.py runs it, behind README's blocks
PAGES = [ROOT / "README.md", *GUIDES, *sorted((DOCS / "results").glob("*.md"))]
# `text` and `console` are output, of a `console` block the lines behind "$ " are commands too.
LANGUAGES = {"python", "bash", "console", "text"}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, language and content of each block."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield text.count("\n", 0, match.start(3)) + 1, match[2], match[3]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES[1:], ids=named)
def test_every_block_says_what_it_is(page: Path) -> None:
    for line, language, _ in blocks(page):
        assert language in LANGUAGES, f"line {line}: {language!r}"
    assert page.read_text(encoding="utf-8").count("```") == 2 * sum(1 for _ in blocks(page))


# Command lines -----------------------------------------------------------------------------------


def command_lines(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and words of each of our commands."""
    for line, language, content in blocks(page):
        if language not in ("bash", "console", ""):
            continue
        joined = re.sub(r"\\\n\s*", " ", content)
        for offset, text in enumerate(joined.splitlines()):
            if language == "console":
                if not text.startswith("$ "):
                    continue
                text = text[2:]
            words = shlex.split(text, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
                del words[0]
            if words and words[0].startswith("tf_sphereface-"):
                yield line + offset, words


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Command -> its parser."""
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    found = re.findall(r"^ +(tf_sphereface-\w+) = ([\w.]+):main$", text, re.MULTILINE)
    return {name: importlib.import_module(module).build_parser() for name, module in found}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_command_lines_parse(page, parsers, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line, words in command_lines(page):
        for word in words[1:]:  # some parsers look whether a path is there
            path = Path(word)
            if re.fullmatch(r"\w[\w./-]*", word) and not path.exists():
                folder = path.parent if path.suffix else path
                folder.mkdir(parents=True, exist_ok=True)
                if path.suffix:
                    path.write_text("Ada\tA\nBob\tB\n", encoding="utf-8")
        if "--help" in words or "--version" in words:
            continue
        try:
            parsers[words[0]].parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"line {line}: {shlex.join(words)}\n{capsys.readouterr().err}")


def test_the_walk_and_the_guides_show_commands():
    shown = {words[0] for page in GUIDES for _, words in command_lines(page)}
    assert len(shown) >= 8


# Python ------------------------------------------------------------------------------------------

# A page's blocks share a namespace, and a folder with faces, a list of pairs and an embedder.
RUN = """
import json, os, shutil, time
from pathlib import Path
import cv2, keras, numpy as np, tensorflow as tf
import tf_sphereface as sf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
# One update of each fit: what a block shows is that it runs.
fit = keras.Model.fit
keras.Model.fit = lambda self, *x, **options: fit(self, *x, **{"steps_per_epoch": 1, **options})
base = Path("given").resolve()
sf.data.synthetic.write_folder(base / "faces", 8, 6)
sf.data.synthetic.write_folder(base / "lfw", 6, 4, pairs_per_fold=4, folds=2, first_identity=100)
keras.utils.set_random_seed(0)
image = keras.Input((112, 96, 3), name="image")
x = keras.layers.Conv2D(8, 7, strides=8)(image)
x = keras.layers.BatchNormalization()(x)
x = keras.layers.Dense(16, name="embedding")(keras.layers.Flatten()(x))
network, facts = keras.Model(image, x), sf.embedder.EmbedderMetadata()
sf.embedder.save_embedder(network, base / "embedder.keras", facts)
seconds = {}
for page, found in given.items():
    folder = shutil.copytree(base, Path("run", page).resolve())
    os.chdir(folder)
    keras.utils.set_random_seed(0)
    namespace, begin = {}, time.process_time()
    for line, code in found:
        # Empty lines before the code, so that a traceback names the document's line.
        exec(compile("\\n" * (line - 1) + code, page, "exec"), namespace)
    os.chdir(base.parent)
    keras.backend.clear_session()
    seconds[page] = time.process_time() - begin
print(json.dumps(seconds))
"""


@pytest.mark.slow
def test_the_python_blocks_run(tmp_path):
    found = {
        page.stem: [(line, code) for line, language, code in blocks(page) if language == "python"]
        for page in GUIDES
        if page != MIGRATING
    }
    found = {stem: code for stem, code in found.items() if code}
    code, said = ForkedProcess(run_code, RUN, found, tmp_path).finish(600)
    assert code == 0, said[-3000:]
    seconds = [line for line in said.splitlines() if line.startswith("{")][-1]
    assert set(json.loads(seconds)) == set(found)


# Symptoms ----------------------------------------------------------------------------------------


def said(folder: Path) -> str:
    """Return what the package says: its strings, placeholders left out, one after the other."""
    text = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text.append("".join(part.value for part in node.values if is_text(part)))
            elif is_text(node):
                text.append(node.value)
    return "\n".join(text)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_symptoms_quote_what_is_said():
    """Numbers and names in a quoted sentence stand for placeholders."""
    page = (DOCS / "start" / "symptoms.md").read_text(encoding="utf-8")
    quoted = re.findall(r'"([^"]+)"', re.sub(r"`[^`]*`", "", page.replace("\n", " ")))
    assert len(quoted) > 20
    package = said(ROOT / "tf_sphereface")
    for sentence in quoted:
        pieces = re.split(r"'\w+'|\b[\d.,]+\d?\b|\bnan\b|[()]", sentence)
        for piece in filter(None, (piece.strip(" :;.,") for piece in pieces)):
            assert piece in package, sentence


def test_symptoms_name_what_the_doctor_finds():
    page = (DOCS / "start" / "symptoms.md").read_text(encoding="utf-8")
    page = page.replace("\n", " ")
    for phrase in (
        *("nothing is learnt", "probability 0 for every face", "norms have collapsed"),
        *("have exploded", "out of MagFace's range", "never reach its minimum"),
        *("It trained plain softmax", "the classes are unbalanced", "are not shuffled"),
        *("faces as for training", "bfloat16, which this machine", "watches val_loss"),
        *("the validation loss is", "the loss became", "updates of another optimizer"),
    ):
        assert phrase in page, phrase


@pytest.mark.parametrize(
    "words",
    [
        *("loss does not fall", "which threshold", "int8 is worse", "fine-tune on my people"),
        *("unknown", "nan", "out of memory", "accuracy is 50 %", "strangers", "killed"),
    ],
)
def test_what_people_search_for_is_a_heading(words):
    """The site's search puts a symptom's heading first (docs/_static/scorer.js)."""
    page = (DOCS / "start" / "symptoms.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert any(words in heading.lower() for heading in headings)
