from __future__ import annotations

import json

import pytest

from tf_sphereface.eval.cli import build_parser, main


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


def test_the_table_is_printed_even_where_the_json_cannot_be_written(lfw_folder, model, capsys):
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    out = ["--json", str(lfw_folder / "pairs.txt" / "out.json")]  # a file is no folder
    assert main(["lfw", str(model), "--images", images, "--pairs", pairs, *out]) == 2
    captured = capsys.readouterr()
    assert "mean subtracted" in captured.out
    assert "pairs.txt" in captured.err


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
        (["--pooling", "frame_pairs", "--frame-pairs", "5", "--seed", "3"], "5 frame pairs a pair"),
        (["--pooling", "best_frame", "--max-frames", "2"], "At most 2 frames of a video"),
    ):
        assert main([*arguments, *options, "--cache", str(tmp_path / "cache")]) == 0
        assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [[], ["lfw"], ["folder", "no-such.keras", "."], ["other"]])
def test_wrong_usage_is_code_2(arguments):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


SUBCOMMANDS = ["lfw", "folder", "ytf", "bin", "make-bin", "identify", "scores", "compare"]


@pytest.mark.parametrize("protocol", [[], *([name] for name in SUBCOMMANDS)])
def test_help(protocol, capsys):
    with pytest.raises(SystemExit) as error:
        build_parser().parse_args([*protocol, "--help"])
    assert error.value.code == 0
    assert "usage: tf_sphereface-eval" in capsys.readouterr().out
