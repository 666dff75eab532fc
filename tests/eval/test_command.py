from __future__ import annotations

import json

import pytest

from tf_sphereface.commands.eval.main import build_parser, main
from tf_sphereface.data import synthetic


@pytest.fixture
def model(tmp_path, save_pixels):
    return save_pixels(tmp_path / "pixels.keras")


def test_lfw(lfw_folder, model, capsys):
    out = lfw_folder / "out.json"
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    assert main(["lfw", str(model), "--images", images, "--pairs", pairs, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    values = json.loads(out.read_text())
    assert f"{100 * values['headline']['accuracy']:.2f} ±" in printed
    assert "mean subtracted" in printed
    assert values["model"]["metadata"]["loss"] == "none"
    assert len(values["model"]["sha256"]) == 64


def test_the_table_is_printed_even_where_the_json_cannot_be_written(
    lfw_folder, model, capsys, monkeypatch
):
    def full(path, value):
        raise OSError(f"no space left for {path.name}")

    monkeypatch.setattr("tf_sphereface.commands.console.write_json", full)
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    out = ["--json", str(lfw_folder / "out.json")]
    assert main(["lfw", str(model), "--images", images, "--pairs", pairs, *out]) == 2
    captured = capsys.readouterr()
    assert "mean subtracted" in captured.out
    assert "no space left for out.json" in captured.err


@pytest.mark.parametrize("option", ["--json", "--report", "--write-scores"])
def test_what_cannot_be_written_is_said_before_the_work(
    lfw_folder, model, capsys, option, monkeypatch
):
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    arguments = ["lfw", str(model), "--images", images, "--pairs", pairs, option]
    for path, message in ((pairs + "/new/out", "pairs.txt is a file"), (images, "is a folder")):
        with pytest.raises(SystemExit) as error:
            main([*arguments, path])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SystemExit):
        main([*arguments, str(lfw_folder / "out")])
    assert "is read-only" in capsys.readouterr().err


def test_a_number_of_bootstrap_draws_is_no_negative_one(capsys):
    with pytest.raises(SystemExit):
        main(["scores", __file__, "--bootstrap", "-5"])
    assert "0 or more, is expected, not '-5'" in capsys.readouterr().err


def test_the_authors_grid_on_request(lfw_folder, model, capsys):
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    arguments = ["lfw", str(model), "--images", images, "--pairs", pairs, "--no-flip"]
    out = lfw_folder / "out.json"
    assert main([*arguments, "--search", "grid", "--json", str(out)]) == 0
    assert "the 2 others from the authors' grid of 1e-4" in " ".join(
        capsys.readouterr().out.split()
    )
    values = json.loads(out.read_text())
    for row in values["table"]:
        for fold in row["folds"]:  # a mean of multiples of 1e-4 between two scores
            assert fold["threshold"] * 20_000 == pytest.approx(round(fold["threshold"] * 20_000))


def test_folder(lfw_folder, model, capsys):
    arguments = ["--folds", "3", "--pairs-per-fold", "5", "--seed", "2", "--no-flip"]
    assert main(["folder", str(model), str(lfw_folder / "images"), *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "30 pairs (15 genuine, 15 impostor)" in printed
    assert "seed 2" in printed
    assert "image + mirror" not in printed


def test_bad_input_is_one_message_and_code_2(lfw_folder, model, capsys):
    (lfw_folder / "images" / "P03" / "P03_0001.jpg").unlink()
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    assert main(["lfw", str(model), "--images", images, "--pairs", pairs]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "P03/P03_0001.jpg: missing" in captured.err
    assert "Traceback" not in captured.err
    assert main(["folder", str(lfw_folder / "pairs.txt"), images]) == 2
    assert ".keras, .tflite, .onnx" in capsys.readouterr().err


def test_ytf(tmp_path, model, make_face, write_image, capsys):
    lines = []
    for person in range(4):
        for video in range(2):
            for frame in range(3):
                path = tmp_path / "frames" / f"P{person}" / str(video) / f"0.{frame}.png"
                write_image(path, make_face(person, 50 * video + frame))
        lines.append(f"{person // 2 + 1}, 0, P{person}/0, P{person}/1, 1")
        lines.append(f"{person // 2 + 1}, 0, P{person}/0, P{person ^ 1}/1, 0")
    splits = tmp_path / "splits.txt"
    splits.write_text("\n".join(lines))
    arguments = ["ytf", str(model), "--frames", str(tmp_path / "frames"), "--splits", str(splits)]
    for options, words in (
        (
            ["--pooling", "frame_pairs", "--frame-pairs", "5", "--seed", "3"],
            "5 frame pairs per pair",
        ),
        (["--pooling", "best_frame", "--max-frames", "2"], "At most 2 frames of a video"),
    ):
        assert main([*arguments, *options, "--cache", str(tmp_path / "cache")]) == 0
        assert words in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "--frame-pairs", "100", "--seed", "0"]) == 2
    message = "--frame-pairs, --seed must come with --pooling frame_pairs. Received: --pooling mean"
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [[], ["lfw"], ["folder", "no-such.keras", "."], ["other"]])
def test_wrong_usage_is_code_2(arguments):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


SUBCOMMANDS = ["lfw", "folder", "ytf", "bin", "make-bin", "identify", "scores", "compare"]
SUBCOMMANDS += ["calibrate"]


@pytest.mark.parametrize("protocol", [[], *([name] for name in SUBCOMMANDS)])
def test_help(protocol, capsys):
    with pytest.raises(SystemExit) as error:
        build_parser().parse_args([*protocol, "--help"])
    assert error.value.code == 0
    assert "usage: tf_sphereface-eval" in capsys.readouterr().out


def test_people_who_are_too_few_for_trials_leave_the_ranks(save_pixels, tmp_path, capsys):
    """Embedding a million distractors takes hours: it must not be for nothing."""
    root = synthetic.write_folder(tmp_path / "few", 3, 2)
    others = synthetic.write_folder(tmp_path / "others", 1, 4, first_identity=50)
    model, out = save_pixels(tmp_path / "pixels.keras"), tmp_path / "out.json"
    given = ["identify", str(model), str(root)]
    assert main([*given, "--distractors", str(others), "--json", str(out)]) == 0
    assert "BLUFR's trials need 4: none are made" in " ".join(capsys.readouterr().err.split())
    found = json.loads(out.read_text())
    assert "distractors" in found
    assert "blufr" not in found
    assert main(given) == 2
