"""`tf_sphereface-train --from`, and people who are kept out of training."""

from __future__ import annotations

import json

import keras
import pytest

import tf_sphereface as sf
from tests.commands.train_runs import rows
from tests.training.small_backbone import small_net
from tf_sphereface.commands.train.main import main
from tf_sphereface.embedder import EmbedderMetadata, read_metadata, save_embedder

SIZE = (28, 24)
SMALL = ["--batch-size", "8", "--epochs", "2", "--augment", "none"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return sf.data.synthetic.write_folder(tmp_path_factory.mktemp("faces"), 8, 4, size=SIZE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "old.keras"
    facts = {"channel_order": "bgr", "pixel_mean": 0.0, "pixel_scale": 255.0}
    metadata = EmbedderMetadata(
        **facts,
        template="112x112",
        threshold=0.3,
        flip="sum",
        extra={"licence": "MIT"},
        training_data="others",
    )
    keras.utils.set_random_seed(0)  # a fixture of the module: else as the test before left it
    save_embedder(small_net(4, (*SIZE, 3), 8), path, metadata)
    return path


def test_a_model_is_fine_tuned_verified_on_people_kept_out_and_resumed(
    faces, model, tmp_path, capsys
):
    out = tmp_path / "run"
    line = ["--data", str(faces), "--out", str(out), *SMALL, "--verify-people", "4"]
    assert main([*line, "--from", str(model), "--dry-run", "--json", str(tmp_path / "p")]) == 0
    plan = json.loads((tmp_path / "p").read_text())
    assert plan["people"] == 4
    bodies = [row["body_rate"] for row in plan["schedule"]]
    assert bodies[0] == 0
    assert bodies[-1] == pytest.approx(plan["schedule"][-1]["learning_rate"] * 0.1)
    assert main([*line, "--from", str(model), "--body-rate", "0.2"]) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "BGR aligned to the template 112x112" in text
    assert "the body is frozen up to update 2, then the body learns at 0.2" in text
    assert 0 <= float(rows(out)[1]["verification_accuracy"]) <= 1
    written = sf.load_embedder(out / "embedder.keras").metadata
    assert (written.channel_order, written.pixel_scale, written.flip) == ("bgr", 255.0, "sum")
    assert written.threshold is None
    assert written.extra["licence"] == "MIT"
    assert read_metadata(out / "best.keras").pixel_scale == 255.0
    # without the model, and with the options that were stored
    assert main([*line, "--resume", "--epochs", "3"]) == 0
    assert len(rows(out)) == 3
    assert json.loads((out / "config.json").read_text())["recipe"]["body_rate"] == 0.2
    after = read_metadata(out / "embedder.keras").extra["fine_tuned_from"]
    assert after == written.extra["fine_tuned_from"]
    assert after["model"] == "old.keras"
    assert after["training_data"] == "others"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input-size", "28x24"], "--input-size cannot go with --from"),
        (["--channel-order", "rgb"], "takes BGR, as its metadata say, and the data are to be read"),
        (["--verify-people", "7"], "1 to 6 can be kept out of training"),
        (["--freeze-epochs", "9"], "`freeze_epochs` must be at most epochs, 2"),
    ],
)
def test_what_does_not_fit_is_named(faces, model, tmp_path, capsys, options, message):
    line = ["--data", str(faces), "--out", str(tmp_path / "run"), *SMALL]
    assert main([*line, "--from", str(model), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_options_of_fine_tuning_need_a_model(faces, tmp_path, capsys):
    line = ["--data", str(faces), "--out", str(tmp_path / "run"), *SMALL]
    assert main([*line, "--freeze-norm"]) == 2
    assert "--freeze-norm needs --from" in capsys.readouterr().err


def test_a_body_that_is_frozen_to_the_end_keeps_the_figures(faces, model, tmp_path, capsys):
    """The last epoch's weights are those that training leaves, whichever were trained."""
    out = tmp_path / "run"
    line = ["--data", str(faces), "--out", str(out), "--from", str(model), *SMALL]
    assert main([*line, "--freeze-epochs", "2"]) == 0
    assert "put other weights back" not in " ".join(capsys.readouterr().err.split())
    assert "last epoch of training" in (out / "embedder.keras.card.md").read_text()
