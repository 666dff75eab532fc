"""What every test runs under: quiet TensorFlow, several logical CPUs, fixed seeds, float32."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

# TensorFlow reads these when it is imported, so they come before it. Under xdist the workers
# share the cores: with all threads in each of them, two workers are slower than one.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a GPU is for the tests' processes too
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes of tests compile the package once
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    _threads = str(max(1, (os.cpu_count() or 1) // _workers))
    for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(_name, _threads)

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from hypothesis import settings  # noqa: E402

# The same examples each time: a law that fails, fails for everybody and stays failed until mended.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

LOGICAL_CPUS = 2

# Replicas for the tests of distribution. TensorFlow fixes its devices when it starts, so this is
# decided once for the whole session; a model outside a strategy stays on the first of them.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration() for _ in range(LOGICAL_CPUS)],
)


# The longest files, longest first: under xdist the last one would keep one worker while the other
# has nothing left.
LONGEST = (
    *("test_accuracy_lfw_subset.py", "distributed/test_strategies.py"),
    *("test_accuracy_synthetic.py", "test_examples.py", "test_benchmarks.py"),
    *("export/test_formats.py", "classifier/test_fast_layers.py"),
    *("classifier/test_face_classifier.py", "losses/test_training.py", "commands/test_resume.py"),
    *("test_gpu_benchmark.py", "reproduce/test_arms.py", "reproduce/test_page.py"),
    *("commands/test_train.py", "training/test_distillation.py", "commands/test_multiworker.py"),
    *("test_docstrings.py", "search/test_ray.py", "losses/test_family.py"),
    *("layers/test_sampled_angular_dense.py", "export/test_options.py", "test_class_metric.py"),
    *("training/test_resumable.py", "losses/test_update_count.py"),
    *("training/test_fine_tuning.py", "losses/test_label_smoothing.py", "test_memory.py"),
    *("utils/test_startup.py", "test_stock_keras.py", "importers/test_named_networks.py"),
    *("importers/test_sphereface.py", "test_readme.py", "export/test_command.py"),
    *("embedder/test_weight_files.py", "layers/test_host_angular_dense.py"),
    *("callbacks/test_verification.py", "callbacks/test_training_doctor.py"),
    *("classifier/test_weight_files.py", "losses/test_loss_state.py", "export/test_failures.py"),
    *("training/test_weight_average.py", "alignment/test_detection_lfw.py"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others stay in their order."""
    here = Path(__file__).parent
    place = {str(here / name): number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what was imported, and come less often.

    Tracing a graph makes objects by the hundred thousand. With Python's thresholds the collector
    goes through all of TensorFlow's modules after them: an eighth of the suite's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _load(name: str) -> ModuleType:
    """Import a module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"tests/{name}.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


realdata = _load("realdata")
_load("without_autotuner").turn_off_autotuner()
_load("without_tracebacks").share_one_traceback()
_load("without_grappler").turn_off_grappler()
_load("without_llvm_passes").leave_out_llvm_passes()
_load("without_spare_iterator").leave_out_spare_iterator()
_load("without_sync").leave_out_sync()
_load("without_collections").leave_out_collections()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real faces; skips where there is none, fails in CI."""
    folder: Path | None = realdata.real_data_folder()
    if folder is None:
        reason = f"no real faces: set {realdata.ENVIRONMENT_VARIABLE} or put them in ../shared/data"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


LFW_VARIABLE = "TF_SPHEREFACE_LFW"
CHECKPOINT = "mobilefacenet_casia_068.ckpt"


class LFWSource(NamedTuple):
    """Where the fixed subset of LFW, its landmarks and a network for it are."""

    images: Path
    pairs: Path
    landmarks: Path
    checkpoint: Path
    calibration: Path  # faces of other people; need not exist
    own: bool  # somebody's own LFW, with landmarks of another detector perhaps


@pytest.fixture(scope="session")
def lfw_source(request: pytest.FixtureRequest) -> LFWSource:
    """The project's data, or the folder that `TF_SPHEREFACE_LFW` names; see the tests' docs."""
    own = os.environ.get(LFW_VARIABLE)
    if not own:
        folder = request.getfixturevalue("real_data")
        lfw, network = folder / "lfw_subset", folder / "mobilefacenet"
        faces = folder / "celeba_faces"
        names = (lfw / "images", lfw / "pairs.txt", lfw / "landmarks.tsv", network / CHECKPOINT)
        return LFWSource(*names, faces, own=False)
    lfw = Path(own)
    names = (lfw / "images", lfw / "pairs.txt", lfw / "landmarks.tsv", lfw / CHECKPOINT)
    absent = [str(path) for path in names if not path.exists()]
    if absent:
        pytest.fail(f"{LFW_VARIABLE} lacks {', '.join(absent)}")
    return LFWSource(*names, lfw / "calibration", own=True)


@pytest.fixture(scope="session")
def lfw_subset() -> ModuleType:
    """The rule of tests/lfw_subset.py."""
    return _load("lfw_subset")


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.MirroredStrategy:
    """A MirroredStrategy over two logical CPUs: one for all, or TensorFlow confuses their sums.

    Each new strategy numbers its collective operations from the start; the runtime then compares
    the shapes of two models' gradients, and stops.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Give each test the same seeds and the float32 policy, whatever ran before it."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The oracles of tests/reference.py."""
    return _load("reference")
