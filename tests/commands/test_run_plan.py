"""What the plan of a run counts, with a sampled head and without."""

from __future__ import annotations

import math
import shutil

import keras
import pytest

from tf_sphereface import FaceClassifier
from tf_sphereface.commands.train import memory, run_plan
from tf_sphereface.layers.sampled_angular_dense import sampling_doubt
from tf_sphereface.training import presets
from tf_sphereface.training.checkpoint import save_checkpoint

CLASSES, DIM = 200, 8


def model_of(sample_rate: float, head: str = "angular", classes: int = CLASSES, **options):
    image = keras.Input((4,))
    backbone = keras.Model(image, keras.layers.Dense(DIM)(image))
    model = FaceClassifier(backbone, classes, head=head, sample_rate=sample_rate, **options)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    return model


@pytest.mark.parametrize(
    ("rate", "head", "expected"),
    [
        (1.0, "angular", CLASSES * DIM),
        (0.1, "angular", CLASSES * DIM),
        (1.0, "sphereface2", CLASSES * DIM + 1),
    ],
)
def test_the_head_has_as_many_parameters_as_its_centres(rate, head, expected):
    found = run_plan.parameters_by_part(model_of(rate, head), CLASSES)
    assert found == {"backbone": 5 * DIM, "head": expected}


def test_a_sample_that_saves_no_time_is_said_on_a_gpu(monkeypatch, caplog):
    plan = run_plan.Plan.__new__(run_plan.Plan)
    plan.model, plan.people = model_of(0.1), CLASSES
    assert plan._sampling() == ["20 of 200 class centres a step"]
    monkeypatch.setattr(
        "tensorflow.config.list_physical_devices", lambda kind=None: [kind] if kind else []
    )
    with caplog.at_level("INFO", "tf_sphereface"):
        model_of(0.1)
    assert "20 of 200 class centres probably saves no time" in caplog.text
    assert "probably saves no time" in plan._sampling()[0]
    assert sampling_doubt(1_000_000, 100_000, gpu=True) is None


@pytest.mark.parametrize(("rate", "logits"), [(1.0, CLASSES + 1), (0.1, CLASSES // 10 + 1)])
def test_a_step_s_logits_are_those_of_the_sample(rate, logits):
    recipe = presets.preset("quick")
    width = 4 if recipe.policy == "float32" else 2
    found = memory.memory(model_of(rate), recipe, 1, CLASSES)
    layers = 4 + DIM  # outputs of the input layer and of the network's one layer
    assert found["activations"] == 2 * recipe.batch_size * (layers * width + logits * 4)


@pytest.mark.parametrize(
    ("rate", "options"),
    [
        (1.0, {}),
        (1.0, {"head": "softmax"}),
        (1.0, {"head": "sphereface2", "centers_per_class": 2}),
        (0.1, {}),
        (0.1, {"centers": "host"}),
        (0.1, {"centers": "folder"}),
    ],
)
def test_a_stand_in_tells_the_memory_of_many_people(rate, options, tmp_path):
    if options.get("centers") == "folder":
        options = {"centers": tmp_path / "c"}
    recipe = presets.preset("quick")
    people = 7 * memory.STAND_IN
    small, whole = (model_of(rate, classes=n, **options) for n in (memory.STAND_IN, people))
    expected, found = (memory.memory(model, recipe, 1, people) for model in (whole, small))
    sample = {0.1: -(-people // 10), 1.0: 0}[rate]
    assert found == expected
    assert memory.off_device(small, people) == memory.off_device(whole, people)
    device = "centers" not in options
    held = sum(math.prod(v.shape) for v in whole.head_layer.trainable_variables)
    held += people * DIM if sample and device else 0
    assert found["centers"] == 4 * held
    each = memory.checkpoint_size(small, found, people)
    save_checkpoint(tmp_path / "s.npz", whole, {})
    assert each == pytest.approx((tmp_path / "s.npz").stat().st_size, rel=0.02, abs=9000)


def test_what_cannot_fit_is_said(tmp_path, monkeypatch):
    people = 4_000_000
    model = model_of(0.1, classes=memory.STAND_IN, centers="host")
    parts = memory.memory(model, presets.preset("quick"), 1, people)
    each = memory.checkpoint_size(model, parts, people)
    report = {
        "memory_per_replica": parts,
        "replicas": 1,
        "centers_off_device": memory.off_device(model, people),
        "checkpoints": {"each": each, "most": 5 * each},
    }
    assert report["centers_off_device"] == 2 * 4 * people * DIM
    monkeypatch.setattr("tf_sphereface.utils.hardware.free_memory", lambda: 10**8)
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    told = memory.doubts(report, model, tmp_path / "run")
    assert ["of memory are needed, and 0.1 GB are free" in text for text in told] == [True, False]
    assert "the checkpoints need 1." in told[1]
    monkeypatch.setattr("tf_sphereface.utils.keras_private.device_memory", lambda: 10**6)
    assert "and its GPU has 0.0 GB" in memory.doubts(report, model, tmp_path / "run")[0]
