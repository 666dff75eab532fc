from __future__ import annotations

import subprocess
import sys

import pytest

from tf_sphereface.eval.verification import evaluate

SCRIPT = """
import sys
for name in ("sklearn", "scipy", "skimage", "matplotlib", "jinja2", "ai_edge_litert", "onnx",
             "onnxruntime", "tf2onnx", "litert_quantizer"):
    sys.modules[name] = None
import tf_sphereface as sf
for function in (sf.eval.verification.evaluate, sf.eval.lfw.evaluate, sf.eval.ytf.evaluate,
                 sf.eval.folder.evaluate, sf.load_embedder):
    assert callable(function)
import tf_sphereface.commands.eval.main, tf_sphereface.commands.verify.main
"""


def test_no_extra_is_needed_to_import_the_evaluation():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r'pip install "tf_sphereface\[eval\]"'):
        evaluate([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], [1, 1, 2, 2])
