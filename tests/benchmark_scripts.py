"""Lets tests import the scripts of benchmarks/."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tf_sphereface.classifier import fast_layers

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = (
    *("cases", "process", "table", "worker", "compare", "processor"),
    *("with_keras", "with_torch", "gpu", "hlo", "cards", "gpu_cases", "gpu_turns", "gpu_table"),
    *("search", "pgvector_search", "repeated", "with_keras_gpu", "with_torch_gpu", "replica_model"),
    *("recipes", "fine_tuning"),
)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let the scripts be imported as they import each other, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


SMALL = "numpy"
SMALL_SIDE = """
import time

import numpy

def use_threads(count):
    pass

def product(size, dtype):
    matrix = numpy.ones((size, size), dtype)
    return lambda: matrix @ matrix

def sleep(seconds):
    return lambda: time.sleep(seconds)

def versions():
    return {"numpy": numpy.__version__}
"""


@pytest.fixture
def small_side(tmp_path, monkeypatch) -> None:
    """Give the workers the side `SMALL`, which starts at once: it has NumPy alone."""
    (tmp_path / f"with_{SMALL}.py").write_text(SMALL_SIDE)
    paths = (str(tmp_path), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture
def own_stand_ins(monkeypatch):
    """Let a script choose the stand-ins of layers for itself alone."""
    for target, kinds in fast_layers.STAND_INS.items():
        monkeypatch.setitem(fast_layers.STAND_INS, target, dict(kinds))
