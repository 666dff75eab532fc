"""What the machine multiplies fast, and the precision that follows from it."""

from __future__ import annotations

import dataclasses
import json

import keras
import pytest

from tf_sphereface import training
from tf_sphereface.callbacks import TrainingDoctor
from tf_sphereface.commands.train import main
from tf_sphereface.commands.train.arguments import read_options
from tf_sphereface.training import presets
from tf_sphereface.utils import hardware

ZEN_3 = (
    "processor\t: 0\nflags\t\t: fpu avx avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu avx avx2 fma\n"
)
ZEN_4 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def machine(monkeypatch):
    """Make this machine one with the features of a listing, or with GPUs of a capability."""

    def pretend(features: str = "", gpus: tuple[tuple[int, int], ...] = ()) -> None:
        monkeypatch.setattr(hardware, "processor_features", lambda: frozenset(features.split()))
        monkeypatch.setattr(hardware, "gpu_capabilities", lambda: list(gpus))

    return pretend


@pytest.mark.parametrize(
    ("listing", "some"), [(ZEN_3, "avx2"), (ZEN_4, "AuthenticAMD"), (GRAVITON, "bf16")]
)
def test_features_are_read_from_linux_listing(tmp_path, listing, some):
    path = tmp_path / "cpuinfo"
    path.write_text(listing, encoding="utf-8")
    found = hardware.processor_features(path)
    assert some in found
    assert "0" not in found


def test_free_memory_is_what_linux_and_a_container_leave(tmp_path):
    assert hardware.free_memory(tmp_path) is None  # another system
    group = tmp_path / "sys/fs/cgroup"
    for folder in (tmp_path / "proc", group):
        folder.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable:  4000 kB\n")
    assert hardware.free_memory(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1500000\n")
    (group / "memory.stat").write_text("anon 1000000\ninactive_file 500000\n")
    assert hardware.free_memory(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("3000000\n")
    assert hardware.free_memory(tmp_path) == 2_000_000


@pytest.mark.parametrize(
    ("features", "gpus", "policy"),
    [
        ("avx2", (), "float32"),
        ("avx2 avx512_bf16 AuthenticAMD", (), "mixed_bfloat16"),
        ("avx2 avx512_bf16 GenuineIntel", (), "float32"),  # 1.4 to 1.7 times as slow in bfloat16
        ("avx2 amx_bf16", (), "mixed_bfloat16"),
        ("bf16", (), "float32"),  # ARM: not measured
        ("avx2", ((8, 0),), "mixed_bfloat16"),
        ("avx512_bf16", ((7, 5),), "float32"),  # the GPU is what counts
        ("avx2", ((9, 0), (7, 0)), "float32"),
    ],
)
def test_auto_is_bfloat16_where_it_is_multiplied(machine, features, gpus, policy):
    machine(features, gpus)
    recipe = presets.preset("short")
    assert recipe.precision == "auto"
    assert recipe.policy == policy
    assert recipe.to_dict()["precision"] == policy  # what is recorded is what was used
    bound = dataclasses.replace(recipe, backbone="mobilefacenet")  # by memory
    assert bound.policy == (policy if gpus else "float32")
    named = dataclasses.replace(recipe, precision="mixed_float16")
    assert named.policy == "mixed_float16"


@pytest.mark.parametrize(("features", "computed"), [("avx2", "float32"), ("amx_bf16", "bfloat16")])
def test_a_network_is_built_in_the_precision_of_the_machine(machine, features, computed):
    machine(features)
    before = keras.mixed_precision.global_policy()
    try:
        model = training.build_classifier(presets.preset("quick"), 4, 2)
    finally:
        keras.mixed_precision.set_global_policy(before)
    convolution = next(x for x in model.backbone.layers if isinstance(x, keras.layers.Conv2D))
    assert convolution.compute_dtype == computed


@pytest.mark.parametrize(
    ("policy", "features", "gpus", "said"),
    [
        ("mixed_bfloat16", "avx2", (), "computes in bfloat16"),
        ("mixed_bfloat16", "amx_bf16", (), None),
        ("mixed_float16", "avx512_bf16", (), "computes in float16"),
        ("mixed_float16", "avx2", ((7, 5),), None),
        ("float32", "avx2", (), None),
    ],
)
def test_the_doctor_names_a_type_without_arithmetic(machine, policy, features, gpus, said):
    machine(features, gpus)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, dtype=policy)])
    doctor = TrainingDoctor(say=lambda text: None)
    doctor.set_model(model)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    doctor.on_train_begin()
    texts = [found.text for found in doctor.findings if found.kind == "precision"]
    assert len(texts) == (said is not None)
    if said:
        assert said in texts[0]
        assert "--precision float32" in texts[0]


def test_a_resumed_run_keeps_its_precision(machine, tmp_path):
    """Begun where bfloat16 is fast and gone on with where it is not, or the other way round."""
    machine("amx_bf16")
    names = ["--data", "synthetic", "--preset", "quick", "--out", str(tmp_path)]
    begun = read_options(main.build_parser().parse_args(names)).recipe
    config = {"recipe": begun.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    machine("avx2")
    for more, policy in (
        ([], "float32"),
        (["--resume"], "mixed_bfloat16"),
        (["--resume", "--precision", "float32"], "float32"),  # refused later: another recipe
    ):
        options = read_options(main.build_parser().parse_args([*names, *more]))
        assert options.recipe.policy == policy
