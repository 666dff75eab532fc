"""XLA's flags are set for a GPU, once, in time, and for versions that know them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tf_sphereface import training
from tf_sphereface.utils import compile_cache, keras_private, xla_flags

ROOT = Path(__file__).resolve().parents[2]
OFF = "--xla_gpu_experimental_enable_fusion_autotuner=false"
LEVEL = "--xla_gpu_autotune_level=2"
PRODUCTS = "--xla_gpu_enable_triton_gemm=false"


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU and that nothing has been computed."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(keras_private, "is_tensorflow_started", lambda: False)
    monkeypatch.setattr(tf, "__version__", "2.21.3")
    for variable in (xla_flags.VARIABLE, compile_cache.VARIABLE):
        monkeypatch.setenv(variable, "")  # restored afterwards, where it was not set too
        monkeypatch.delenv(variable)


@pytest.mark.usefixtures("gpu")
def test_flags_are_set_and_named_in_the_log(caplog):
    with caplog.at_level("INFO", "tf_sphereface"):
        assert training.tune_xla() == (OFF, LEVEL, PRODUCTS)
    assert os.environ["XLA_FLAGS"] == f"{OFF} {LEVEL} {PRODUCTS}"
    assert OFF in caplog.text


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("given", "added"),
    [
        ("--xla_gpu_autotune_level=4", (OFF, PRODUCTS)),
        ("--xla_gpu_experimental_enable_fusion_autotuner", (LEVEL, PRODUCTS)),
        ("--noxla_gpu_experimental_enable_fusion_autotuner --xla_x=1", (LEVEL, PRODUCTS)),
        ("/etc/flags", ()),
    ],
)
def test_what_the_user_set_stays(given, added, monkeypatch):
    monkeypatch.setenv(xla_flags.VARIABLE, given)
    assert training.tune_xla() == added
    assert os.environ["XLA_FLAGS"] == " ".join([given, *added])


@pytest.mark.usefixtures("gpu")
def test_the_choice_of_kernels_is_kept_beside_what_is_compiled(tmp_path):
    compile_cache.start(tmp_path)
    folder = compile_cache.started()
    expected = tuple(f"--{name}={folder}" for name in xla_flags.CACHES)
    assert training.tune_xla() == (OFF, LEVEL, PRODUCTS, *expected)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("why", ["no GPU", "this is 2.22.0", "too late"])
def test_nothing_changes_and_the_log_says_why(why, monkeypatch, caplog):
    if why == "no GPU":
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    if why == "this is 2.22.0":
        monkeypatch.setattr(tf, "__version__", "2.22.0")
    if why == "too late":
        monkeypatch.setattr(keras_private, "is_tensorflow_started", lambda: True)
    with caplog.at_level("INFO", "tf_sphereface"):
        assert training.tune_xla() == ()
    assert why in caplog.text
    assert xla_flags.VARIABLE not in os.environ


SCRIPT = """
import os
import tensorflow as tf
from tf_sphereface import training
from tf_sphereface.utils import compile_cache, keras_private
from pathlib import Path
compile_cache.start(Path({folder!r}))  # for the flags of the kernels' cache
real, tf.config.list_physical_devices = tf.config.list_physical_devices, lambda kind: [kind]
print(len(training.tune_xla()), keras_private.is_tensorflow_started())
tf.config.list_physical_devices = real
print(float(tf.function(lambda x: x + 1.0, jit_compile=True)(1.0)))
tf.config.list_physical_devices = lambda kind: [kind]
print(training.tune_xla(), keras_private.is_tensorflow_started())
"""


@pytest.mark.skipif(
    tf.__version__.rpartition(".")[0] not in xla_flags.SEEN_IN, reason="another TensorFlow"
)
def test_this_version_knows_the_flags_and_nothing_starts_early(tmp_path):
    """XLA would end the process at a flag that it does not know."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "TF_XLA_FLAGS")}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(folder=str(tmp_path))],
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert run.stdout.splitlines() == ["5 False", "2.0", "() True"]
