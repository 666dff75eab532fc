"""What a dry run of training shows."""

from __future__ import annotations

import dataclasses
import json

import pytest

import tf_sphereface as sf
from tests.commands.train_runs import rows, run
from tf_sphereface.commands.train import main as command
from tf_sphereface.training import presets


def test_a_dry_run_in_float16_shows_the_rates_of_the_optimizer_inside(faces, tmp_path):
    report = tmp_path / "plan.json"
    options = ("--precision", "mixed_float16", "--dry-run", "--json", str(report))
    assert run(faces, tmp_path / "run", *options) == 0
    plan = json.loads(report.read_text())
    assert plan["schedule"][0]["learning_rate"] == pytest.approx(0.05)
    assert plan["schedule"][-1]["learning_rate"] == pytest.approx(0.0005)


def test_a_dry_run_shows_the_plan_and_writes_nothing(faces, tmp_path, capsys):
    out, report = tmp_path / "run", tmp_path / "plan.json"
    options = ("--epochs", "40", "--dry-run", "--json", str(report))
    assert run(faces, out, *options, "--scale-learning-rate", "linear") == 0
    assert not out.exists()
    said = capsys.readouterr().out
    assert "40 faces of 4 people; 2 steps an epoch, 40 epochs, 80 updates" in said
    assert "learning rate 0.0125, scaled by 0.25 (batch 16 over quick's 64)" in said
    plan = json.loads(report.read_text())
    rows = {row["step"]: row for row in plan["schedule"]}
    assert list(rows) == [1, 20, 40, 49, 60, 69, 80]
    recipe = dataclasses.replace(presets.quick(), epochs=40, batch_size=16)
    annealing = sf.training.build_annealing(recipe, 80)
    for step, row in rows.items():
        assert row["lambda"] == pytest.approx(annealing(step))
        assert row["learning_rate"] == pytest.approx(0.0125 * 0.1 ** ((step > 48) + (step > 68)))
    assert rows[80]["effective_margin"] == pytest.approx(1.37, abs=0.01)
    assert "lambda at its minimum" in rows[80]["why"]
    parts = plan["memory_per_replica"]
    assert parts["weights"] + parts["centers"] == 4 * sum(plan["parameters"].values())
    assert parts["gradients"] == parts["weights"] + parts["centers"]
    assert plan["checkpoints"]["most"] == 5 * plan["checkpoints"]["each"]
    assert "checkpoints: about" in said
    assert parts["total"] == sum(parts.values()) - parts["total"]


def test_averages_have_a_momentum_without_a_number(faces, tmp_path, capsys):
    assert run(faces, tmp_path / "run", "--dry-run", "--ema") == 0
    assert "the network's weights are averaged (momentum 0.999)" in capsys.readouterr().out


def test_a_dry_run_refuses_what_the_run_would(faces, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    wrong = {
        "draws 2 of 4 centres, and a batch may": (
            "--loss",
            "cosface",
            "--sample-rate",
            ".5",
        ),
        "file is a file": ("--out", str(tmp_path / "file" / "run")),
    }
    for message, options in wrong.items():
        assert run(faces, tmp_path / "run", "--dry-run", *options) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_shows_the_replicas(faces, tmp_path, capsys, monkeypatch, two_replicas):
    monkeypatch.setattr(command, "make_strategy", lambda *_: two_replicas)
    options = ("--dry-run", "--strategy", "mirrored", "--json", str(tmp_path / "plan.json"))
    assert run(faces, tmp_path / "run", *options) == 0
    said = capsys.readouterr().out
    assert "strategy mirrored: 2 replica(s), batch 16 (8 each); learning rate 0.05, not" in said
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["replicas"], plan["batch"], plan["batch_per_replica"]) == (2, 16, 8)


@pytest.mark.usefixtures("small_backbone")
def test_the_dry_run_s_learning_rates_are_those_of_the_run(faces, tmp_path):
    out = tmp_path / "run"
    assert run(faces, out, "--epochs", "4") == 0
    assert run(faces, out, "--epochs", "4", "--dry-run", "--json", str(tmp_path / "p.json")) == 0
    plan = json.loads((tmp_path / "p.json").read_text())
    last = plan["schedule"][-1]
    assert float(rows(out)[-1]["lambda"]) == pytest.approx(last["lambda"], rel=1e-5)
    # the log's rate is the one that the next update would use
    assert float(rows(out)[-1]["learning_rate"]) == pytest.approx(last["learning_rate"], rel=1e-5)
