"""What the plan of a run counts, with a sampled head and without."""

from __future__ import annotations

import keras
import pytest

from tf_sphereface import FaceClassifier
from tf_sphereface.commands.train import run_plan
from tf_sphereface.layers.sampled_angular_dense import sampling_doubt
from tf_sphereface.training import recipes

CLASSES, DIM = 200, 8


def model_of(sample_rate: float, head: str = "angular") -> FaceClassifier:
    image = keras.Input((4,))
    backbone = keras.Model(image, keras.layers.Dense(DIM)(image))
    model = FaceClassifier(backbone, CLASSES, head=head, sample_rate=sample_rate)
    model.compile(keras.optimizers.SGD(0.1, 0.9))
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
    found = run_plan.parameters_by_part(model_of(rate, head))
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
    recipe = recipes.preset("quick")
    width = 4 if recipe.policy == "float32" else 2
    found = run_plan.memory(model_of(rate), recipe, 1)
    layers = 4 + DIM  # outputs of the input layer and of the network's one layer
    assert found["activations"] == 2 * recipe.batch_size * (layers * width + logits * 4)
