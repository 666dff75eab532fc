"""The Python blocks of README.md and migrate.md run, and the documents name what exists."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import ForkedProcess, run_code

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MIGRATING = ROOT / "docs" / "guides" / "migrate.md"  # goes on from README's scripts
DOCUMENTS = (
    *(README, ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "examples").glob("README.md"),
    *sorted((ROOT / "examples").glob("*/README.md")),
)


def blocks(*documents: Path) -> list[tuple[str, int, str]]:
    """Return document, line number and code of each Python block."""
    found = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            found.append((document.name, text.count("\n", 0, match.start(1)) + 1, match[1]))
    return found


def test_first_script_is_ten_lines():
    code = blocks(README)[0][2]
    statements = [line for line in code.splitlines() if line.strip() and "import" not in line]
    assert len(statements) == 10


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 110


def test_contributing_lists_every_room():
    package = ROOT / "tf_sphereface"
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    rooms |= {path.name for path in package.glob("[!_]*.py")}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([a-z]+(?:/|\.py))` \|", text, re.MULTILINE)) == sorted(rooms)


def test_old_code_is_marked():
    codes = [code for _, _, code in blocks(README, MIGRATING)]
    assert sum(code.startswith("# before\n") for code in codes) == 4
    for code in codes:
        assert code.startswith("# before\n") == ("tensorflow_addons" in code)


# Two logical CPUs stand for two GPUs. A process of its own: TensorFlow confuses the collectives of
# two MirroredStrategies in one process, and README makes one.
RUN = """
import json
import keras, tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
# One update of each fit: what a block shows is that it runs.
fit = keras.Model.fit
keras.Model.fit = lambda self, *x, **options: fit(self, *x, **{"steps_per_epoch": 1, **options})
namespace = {}
for document, line, code in given:
    keras.utils.set_random_seed(0)
    # Empty lines before the code, so that a traceback names the document's line.
    exec(compile("\\n" * (line - 1) + code, document, "exec"), namespace)
shapes = {name: namespace[name].shape for name in ("embeddings", "vectors")}
print(json.dumps({"replicas": namespace["strategy"].num_replicas_in_sync, **shapes}))
"""


@pytest.mark.slow
def test_blocks_run(tmp_path):
    given = [block for block in blocks(README, MIGRATING) if not block[2].startswith("# before\n")]
    code, said = ForkedProcess(run_code, RUN, given, tmp_path).finish(600)
    assert code == 0, said[-3000:]
    assert json.loads([line for line in said.splitlines() if line.startswith("{")][-1]) == {
        "replicas": 2,
        "embeddings": [160, 128],
        "vectors": [2, 128],
    }


def resolve(name: str) -> Any:
    """Return what a dotted name stands for, importing the modules on the way."""
    first, *rest = name.split(".")
    found: Any = importlib.import_module("tf_sphereface" if first == "sf" else first)
    for part in rest:
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dotted_names_exist(document):
    text = document.read_text(encoding="utf-8")
    names = set(re.findall(r"\b((?:sf|tf_sphereface)(?:\.[A-Za-z_]\w*)+)", text))
    names -= {"tf_sphereface.json"}  # a file
    imports = re.findall(r"\bfrom (tf_sphereface[\w.]*) import ([\w, ]+)", text)
    names |= {f"{module}.{name}" for module, found in imports for name in re.split(r",\s*", found)}
    missing = []
    for name in sorted(names):
        try:
            resolve(name)
        except (AttributeError, ImportError):
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_files_exist(document):
    """A path that ends in .py is of this repository, or stands beside the document."""
    text = document.read_text(encoding="utf-8")
    paths = set(re.findall(r"(?<![\w/.-])((?:[\w-]+/)*\w+\.py)\b", text))
    folders = (ROOT, ROOT / "tf_sphereface", document.parent)
    assert not {path for path in paths if not any((folder / path).exists() for folder in folders)}
