"""Which loss, margin and scale a recipe means, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from tf_sphereface import losses, training
from tf_sphereface.training import recipe_losses
from tf_sphereface.training.presets import preset
from tf_sphereface.training.recipes import LOSSES, Recipe

KINDS = {
    "a-softmax": losses.ASoftmaxLoss,
    "cosface": losses.CosFaceLoss,
    "arcface": losses.ArcFaceLoss,
    "adaface": losses.AdaFaceLoss,
    "magface": losses.MagFaceLoss,
    "curricularface": losses.CurricularFaceLoss,
    "normface": losses.NormFaceLoss,
    "sphereface-r-v0": losses.SphereFaceRLoss,
    "sphereface-r-v1": losses.SphereFaceRLoss,
    "sphereface-r-v2": losses.SphereFaceRLoss,
    "sphereface2": losses.SphereFace2Loss,
}

CLIP_NORMS = {"a-softmax": 0.0, "arcface": 1.0, "curricularface": 1.0}
UNMEASURED = {"adaface", "magface", "curricularface"}  # in no table of the docs


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_built_as_the_recipe_says(name):
    recipe = Recipe("sphereface4", embedding_dim=8, input_size=(32, 32), loss=name, epochs=1)
    model = training.build_classifier(recipe, num_classes=3, steps_per_epoch=10)
    fields = recipe.to_dict()
    words = recipe_losses.describe_loss(model)
    if name == "softmax":
        assert (fields["margin"], fields["scale"]) == (None, None)
        assert "no margin" in words
        return
    assert type(model.loss) is KINDS[name]
    for key in ("margin", "scale"):
        assert getattr(model.loss, key, None) == fields[key]
        assert fields[key] is None or f"{key} {fields[key]:g}" in words
    if "-r-" in name:
        assert model.loss.version == name[-2:]
    assert fields["clip_norm"] == CLIP_NORMS.get(name, 5.0)
    assert model.optimizer.global_clipnorm == (fields["clip_norm"] or None)
    assert model.head == ("sphereface2" if name == "sphereface2" else "angular")


def test_the_default_margin_is_the_losses_own():
    """A preset's margin does not leak into another loss."""
    recipe = dataclasses.replace(preset("quick"), loss="cosface")
    assert recipe.to_dict()["margin"] == 0.2
    assert preset("quick").to_dict()["margin"] == 4
    assert dataclasses.replace(recipe, margin=0.35).to_dict()["margin"] == 0.35


def test_sphereface2s_bias_starts_for_the_recipes_margin():
    recipe = dataclasses.replace(
        preset("quick"), loss="sphereface2", margin=0.2, scale=20.0, embedding_dim=8
    )
    model = training.build_classifier(recipe, num_classes=30, steps_per_epoch=10)
    expected = losses.sphereface2_bias(30, scale=20.0, margin=0.2)
    assert float(model.head_layer.bias.value) == pytest.approx(expected, rel=1e-6)
    assert abs(expected - losses.sphereface2_bias(30)) > 1.0


def test_the_released_gradient_reaches_the_model():
    recipe = dataclasses.replace(preset("quick"), gradient="caffe", embedding_dim=8)
    model = training.build_classifier(recipe, num_classes=3, steps_per_epoch=10)
    assert model.gradient == "caffe"
    words = recipe_losses.describe_loss(model)
    assert words.endswith("the margin that is felt is 1.37; the released Caffe layer's gradient")


def test_the_documents_show_each_loss_with_the_commands_defaults():
    docs = Path(__file__).resolve().parents[2] / "docs"
    text = (docs / "start" / "choose-a-loss.md").read_text("utf-8")
    begin = text.index("| `--loss` | `--margin` | `--scale` | `--clip-norm` |")
    shown = {}
    for line in text[begin : text.index("\n\n", begin)].splitlines()[2:]:
        names, *defaults = line.strip("| ").split(" | ")
        shown.update(dict.fromkeys(names.replace("`", "").split(", "), defaults))
    assert set(shown) == set(LOSSES)
    for name, defaults in shown.items():
        choice = recipe_losses.CHOICES[name]
        for text, default in zip(defaults, (choice.margin, choice.scale), strict=False):
            assert text.split()[0].strip(":") == ("refused" if default is None else f"{default:g}")
        assert float(defaults[2].split()[0]) == choice.clip_norm
    page = (docs / "results" / "paper.md").read_text("utf-8")
    measured = [line.split(" | ")[0] for line in page.splitlines() if " ± " in line]
    assert {f"| {name}" for name in set(LOSSES) - UNMEASURED} <= set(measured)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"margin": 2.5}, r"one of 1, 2, 3, 4 \(times the angle\) for a-softmax.*2.5"),
        ({"margin": 0}, "must be one of 1, 2, 3, 4"),
        ({"scale": 64.0}, "be left out for a-softmax: the length of the embedding"),
        ({"loss": "softmax", "margin": 4}, "be left out for softmax, which has none"),
        ({"loss": "softmax", "scale": 4.0}, "`scale` must be left out for softmax"),
        ({"loss": "normface", "margin": 0.1}, "be left out for normface, which has none"),
        (
            {"loss": "magface", "margin": 0.5},
            "for magface, whose margin follows the length",
        ),
        ({"centers_per_class": 0}, "`centers_per_class` must be an integer >= 1"),
        ({"centers_per_class": 2, "sample_rate": 0.5}, "above 1 needs .*sample_rate=0.5"),
        ({"centers_per_class": 2, "loss": "softmax"}, "above 1 needs .*head='softmax'"),
        (
            {"loss": "cosface", "margin": -0.1},
            r"at least 0 \(taken off the cosine\) for cos",
        ),
        ({"loss": "arcface", "margin": 4.0}, r"at least 0 and below 3.142 \(radians"),
        ({"loss": "sphereface-r-v1", "margin": 0.5}, "at least 1 .*Received: margin=0.5"),
        ({"loss": "cosface", "margin": math.nan}, "be at least 0 .* for cosface"),
        ({"loss": "cosface", "scale": 0.0}, r"`scale` must be a number in \(0, inf\)"),
        ({"loss": "triplet"}, "`loss` must be one of 'a-softmax', 'softmax', 'normface'"),
        ({"clip_norm": -1.0}, r"`clip_norm` must be a number in \[0, inf\)"),
        ({"gradient": "torch"}, "`gradient` must be one of 'exact', 'caffe'"),
        ({"gradient": "caffe", "loss": "cosface"}, "but for the loss a-softmax.*cosface"),
        ({"gradient": "caffe", "margin": 1}, "with margin 2, 3 or 4.*margin=1"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)
