"""The benchmarks of recipes and of fine-tuning train and verify, on a few real people."""

from __future__ import annotations

import dataclasses
import importlib
import shutil

import pytest

import tf_sphereface as sf
from tests.benchmark_scripts import importable  # noqa: F401, a fixture
from tf_sphereface import training
from tf_sphereface.callbacks import verify_on

PEOPLE = 12
pytestmark = pytest.mark.slow  # each embeds all of the LFW subset


@pytest.fixture
def options(real_data, tmp_path) -> list[str]:
    """Return the options that both scripts need, with a small folder of faces."""
    for person in sorted((real_data / "celeba_faces").iterdir())[:PEOPLE]:
        shutil.copytree(person, tmp_path / "faces" / person.name)
    return ["--faces", str(tmp_path / "faces"), "--lfw", str(real_data / "lfw_subset")]


def test_a_recipe_is_verified(options):
    recipes = importlib.import_module("recipes")
    args = recipes.parser().parse_args([*options, "--people", "6", "--pairs", "200"])
    recipe = dataclasses.replace(
        training.preset("long"), input_size=(28, 24), epochs=1, batch_size=32, warm_up=0.5
    )
    cells = recipes.figures(args, recipe).split(" | ")
    lfw, subtracted, eer = map(float, cells[:3])
    assert 50 < min(lfw, subtracted) <= max(lfw, subtracted) <= 100  # chance is 50
    assert 0 <= eer < 50
    assert cells[3] == "nan"  # too few pairs for this FAR
    assert int(cells[4]) > 0


def test_fine_tuning_is_verified_with_a_teacher_and_beside_a_start_from_nothing(options, capsys):
    script = importlib.import_module("fine_tuning")
    args = script.parser().parse_args(["MODEL", *options, "--pairs", "20"])
    network = sf.backbones.SphereFaceNet(4, (56, 48, 3), 16)
    start = training.open_pretrained(
        sf.load_embedder(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    )
    faces = sf.data.FaceSource(args.faces, image_size=(56, 48), resize=True)
    source, others = sf.data.hold_out(faces, PEOPLE - 6)
    recipe = dataclasses.replace(training.preset("fine-tune"), epochs=1, batch_size=16)
    held = verify_on(others, args.pairs)
    assert script.accuracy(start.network, held) > 50
    for taught in (False, True):
        tuned = script.tuned(start, source, recipe, taught)
        assert tuned.output_shape == (None, 16)
    *accuracies, seconds = script.from_scratch(args, source, others, seed=0)
    assert 50 < min(accuracies) <= max(accuracies) <= 100
    assert seconds > 0
    script.print_row("12, from scratch", 0, None, accuracies[0], None, 80.0, 9.4)
    assert capsys.readouterr().out.endswith(f"|  | {accuracies[0]:.2f} |  | 80.00 | 9 |\n")
