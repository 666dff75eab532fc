"""`tf_sphereface-train`: wrong usage is one clear line, and nothing is written."""

from __future__ import annotations

import pytest

from tf_sphereface.commands.train.main import main
from tf_sphereface.training.run_folder import RunFolder

TINY = ["--identities", "2", "--images", "8", "--batch-size", "16"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere", "--out", "x"], "nowhere"),
        (["--data", __file__, "--out", "x"], "is a file; faces are read from a folder"),
        (["--data", "synthetic", "--out", "x", "--identities", "1"], "images of 1 person"),
        (["--data", "synthetic", "--out", "x", "--images", "1"], "one image of each of its 300"),
        (
            ["--data", "synthetic", "--out", "x", "--loss", "softmax", "--label-smoothing", "0.1"],
            "`label_smoothing` must be 0 for softmax",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--epochs", "0"],
            "must be an integer >= 1",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--dropout", "1"],
            "must be a number in [0, 1)",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--annealing-reach", "0"],
            "`annealing_reach` must be in (0, 1]",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--margin", "2.5"],
            "must be one of 1, 2, 3, 4 (times the angle) for a-softmax",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--loss", "normface", "--margin", "2"],
            "`margin` must be left out for normface",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--identities", "2", "--images", "2"],
            "do not fill one batch",
        ),
        (
            ["--data", "synthetic", "--out", "x", *TINY, "--verify-people", "3"],
            "--verify-people must be at least 4. Received: 3",
        ),
        (
            ["--data", "synthetic", "--out", "x", *TINY, "--verify-landmarks", __file__],
            "--verify-landmarks needs --verify-images",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--verify-people", "4", "--verify-images", "."],
            "--verify-people cannot go with --verify-images",
        ),
        (["--data", ".", "--out", "x", "--verify-people", "3"], "--verify-people must be at least"),
        (
            ["--data", "synthetic", "--out", "x", "--verify-bins", "nowhere"],
            "no such folder or .bin",
        ),
        (["--data", "synthetic", "--out", "x", "--verify-bins", "."], "holds no .bin file"),
        (["--data", "synthetic", "--out", "x", "--verify-every", "2"], "--verify-every needs"),
        (
            [
                "--data",
                "synthetic",
                "--out",
                "x",
                "--verify-max-pairs",
                "9",
                "--verify-people",
                "4",
            ],
            "--verify-max-pairs needs --verify-bins",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--verify-people", "4", "--verify-bins", "."],
            "--verify-people cannot go with --verify-bins",
        ),
        (["--data", ".", "--out", "x", "--identities", "300"], "--identities is for --data synth"),
        (["--data", ".", "--out", "x", "--images", "40"], "--images is for --data synthetic"),
        (["--data", "synthetic", "--out", "x", "--resize"], "--resize is for a folder of faces"),
        (["--data", "synthetic", "--out", "x", "--strict"], "--strict is for a folder of faces"),
        (
            ["--data", "synthetic", "--out", "x", "--cache", "memory"],
            "--cache is for a folder of faces, not for --data synthetic",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--annealing", "paper", "--annealing-reach", "1"],
            "--annealing-reach needs --annealing fit",
        ),
        (
            ["--data", "synthetic", "--out", "x", "--annealing", "paper", "--annealing-power", "2"],
            "--annealing-power needs --annealing fit",
        ),
    ],
)
def test_bad_input_is_one_clear_line(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*options, "--preset", "quick"]) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "x" / "config.json").exists()


def test_a_second_run_in_a_folder_waits_for_no_one(tmp_path, capsys):
    line = ["--data", "synthetic", *TINY, "--out", str(tmp_path / "runs" / "one")]
    with RunFolder(tmp_path / "runs" / "one").claimed():
        for more in ([], ["--resume"]):
            assert main([*line, *more]) == 2
            assert "another run is going on in" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()  # nothing was in it
