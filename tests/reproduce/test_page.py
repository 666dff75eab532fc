"""The page and its figures: there, whole, small, and made of the results alone."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest

from tf_sphereface.commands import reproduce
from tf_sphereface.reproduce import bounds, experiments, page, page_text, small_networks
from tf_sphereface.reproduce import faces as reproduced_faces
from tf_sphereface.reproduce.arm_runner import Results
from tf_sphereface.reproduce.page_sections import loss_table
from tf_sphereface.reproduce.statistics import ArmGroups

ROOT = Path(__file__).resolve().parents[2]


def check_figures(written: Path, expected: set[str]) -> None:
    """Each figure of the page is a drawing in both formats, with something on it."""
    shown = re.findall(r"!\[([^]]+)\]\((images/paper/[\w-]+)\.svg\)", written.read_text("utf-8"))
    assert {Path(path).name for _, path in shown} == expected
    for words, path in shown:
        assert len(words) > 10
        svg = (written.parent / path).with_suffix(".svg")
        root = ET.parse(svg).getroot()
        assert root.tag.endswith("svg")
        assert svg.stat().st_size < 200_000
        assert "<dc:date>" not in svg.read_text("utf-8")  # the same results give the same file
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 20
        picture = cv2.imread(str((written.parent / path).with_suffix(".png")), cv2.IMREAD_UNCHANGED)
        assert picture.shape[2] == 4
        assert picture.shape[1] > 300
        ink = picture[picture[..., 3] > 128][:, :3].astype(float).mean(axis=1)
        assert 0.01 < len(ink) / picture[..., 3].size < 0.9  # drawn on, and transparent beside
        # nothing that a white or a black page would swallow
        assert np.mean((ink > 40) & (ink < 235)) > 0.95


def test_page_of_everything(whole_folder: Path) -> None:
    found = bounds.measure(rays=72, points=7)
    (whole_folder / "bounds.json").write_text(json.dumps(found))
    runs = [["margin", "lambda"], ["margin"], ["full-size"]]  # two pieces and one on request
    record = [{"parts": names, "seconds": 90, "cores": 2} for names in runs]
    (whole_folder / "runs.json").write_text(json.dumps(record))
    said: list[str] = []
    written = page.write_page(whole_folder, whole_folder / "paper.md", quick=False, say=said.append)
    text = written.read_text(encoding="utf-8")
    check_figures(written, {"bounds", "boundaries", "margins", "angles", "training", "losses"})
    assert "{" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "nan" not in text.lower()
    for number in range(1, 11):
        assert f"\n## {number}. " in text
    for title, figure in page_text.BY_MARGIN.items():
        assert f"| {title} | {figure} |" in text  # published, in its own column and marked
    assert "† recalled, not checked against a source" in text
    assert "34 arms 1.7 minutes, 36 arms on request 1.8" in text  # 3 seconds each
    assert "the default parts 3.0 minutes, `--parts full-size` 1.5 minutes" in text
    asked = page._commands(ArmGroups(Results(whole_folder)))  # of real faces
    assert asked.endswith("--lfw LFW --parts margin-seeds loss-seeds cost-seeds full-size")
    assert "Mean over six seeds" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):  # a table's rows are alike
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    assert "Not run (`--parts embeddings`)" in text
    rows = loss_table(ArmGroups(Results(whole_folder)))
    assert len(rows) == 2 + 5 + 7 + 1
    assert len({row.count("|") for row in rows if row}) == 1
    kept = json.loads((whole_folder / "figures.json").read_text())
    assert all((whole_folder / f"{name}.svg").is_file() for name in kept)


def test_page_without_faces_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_SPHEREFACE_DATA", raising=False)
    said: list[str] = []
    written = experiments.reproduce(tmp_path, parts=["boundaries"], say=said.append)
    assert written.read_text("utf-8").count("Not run: this part needs faces") == 6
    with pytest.raises(ValueError, match="the parts lambda need real faces"):
        experiments.reproduce(tmp_path, parts=["lambda"])


def test_the_page_alone_needs_no_data(
    whole_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And it says itself that it is of `--quick`: the arms' faces are drawn."""
    monkeypatch.setenv("TF_SPHEREFACE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(page, "_draw", lambda *given: None)  # not looked at
    written = experiments.reproduce(whole_folder, parts=["none"])
    assert "This page is of `--quick`" in written.read_text("utf-8")


def test_quick_and_real_results_are_not_mixed(whole_folder: Path, tmp_path: Path) -> None:
    lfw, train = tmp_path / "lfw", tmp_path / "train"
    (lfw / "images").mkdir(parents=True)
    (lfw / "pairs.txt").touch()
    train.mkdir()
    with pytest.raises(ValueError, match=r"out must be another folder: .* results of --quick"):
        experiments.reproduce(whole_folder, parts=["margin"], data=train, lfw=lfw)
    for path in (whole_folder / "arms").glob("*.json"):
        path.write_text(path.read_text().replace('"real": false', '"real": true'))
    with pytest.raises(ValueError, match="holds results of real faces"):
        experiments.reproduce(whole_folder, quick=True)
    with pytest.raises(ValueError, match="quick has no part depth"):
        experiments.reproduce(tmp_path / "other", parts=["depth"], quick=True)


def test_the_ranking_is_of_the_seeds_of_its_table(
    whole_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, real = {}, page._draw  # the other figures are not looked at

    def draw(rows, base, images):
        drawn.update(rows)
        return "losses"

    monkeypatch.setattr(page, "_draw", lambda name, *rest: name == "losses" and real(name, *rest))
    monkeypatch.setattr(page.figures, "draw_ranking", draw)
    page.write_page(whole_folder, whole_folder / "p.md", quick=True, say=lambda text: None)
    groups = ArmGroups(Results(whole_folder))
    assert len(drawn) == 12
    for title, found in drawn.items():
        assert found == groups.average(title, most=3)
        assert len(found.runs) == 3
    assert drawn["m = 4"].accuracy != groups.average("m = 4").accuracy  # of six
    table = "\n".join(loss_table(groups))
    assert f"| {100 * drawn['m = 4'].accuracy:.2f} ± " in table
    assert "seed by seed" in table
    kept = whole_folder / "arms" / f"{groups.names['m = 4'][0]}.json"
    kept.write_text(kept.read_text().replace('"diverged": false', '"diverged": true'))
    assert ArmGroups(Results(whole_folder)).first_that_ended("m = 4") == groups.names["m = 4"][1]
    (whole_folder / "arms" / "cosface-seed2.json").unlink()
    (whole_folder / "arms" / "cosface-seed1.json").unlink()
    again = ArmGroups(Results(whole_folder))  # what one loss lacks, none is compared over
    assert again.loss_seeds() == 1
    assert "seed by seed" not in "\n".join(loss_table(again))


def test_small_networks_pull_the_classes_apart() -> None:
    """Two classes of digits, few updates: both losses learn, pairs of two classes are far apart."""
    few = small_networks.digits(classes=2)
    rows, arrays = small_networks.measure([few], [2], [None, 4], epochs=8)
    assert [row["name"] for row in rows] == ["digits 2 softmax", "digits 2 m4"]
    for row in rows:
        for part in small_networks.MEASURED_ON:
            assert row[part]["impostor_angle"] > row[part]["genuine_angle"] + 45
        assert arrays[row["name"]].shape == (len(few.held_out), 2)
        assert arrays[f"{row['name']} centres"].shape == (2, 2)


@pytest.mark.slow
def test_quick_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--quick` with less work: a page, its figures, its results; and again, untrained."""
    out = tmp_path / "paper"
    # 48 steps, of a quarter of the batch, on 8 people in place of 40; 4 epochs of digits, not 30
    base = dataclasses.replace(experiments.quick_base(), epochs=4, batch_size=16)
    monkeypatch.setattr(experiments, "quick_base", lambda: base)
    render, measure = reproduced_faces.synthetic_faces, small_networks.measure
    monkeypatch.setattr(
        reproduced_faces,
        "synthetic_faces",
        lambda people, images, size, **options: render(8, images, size, **options),
    )
    monkeypatch.setattr(
        small_networks,
        "measure",
        lambda sources, dimensions, margins, epochs, say: measure(
            sources, dimensions, margins, 4, say
        ),
    )
    arguments = ["--out", str(out), "--quick", "--jobs", "1"]
    assert reproduce.main(arguments) == 0
    said = capfd.readouterr()
    assert "paper.md" in said.out
    assert "arms were done before" not in said.err
    for noise in ("oneDNN", "cuInit", "WARNING"):
        assert noise not in said.err
    assert reproduce.main(arguments) == 0
    said = capfd.readouterr()
    assert "paper.md" in said.out
    assert "4 of 4 arms were done before" in said.err
    figures = {"embeddings-digits-2d", "bounds", "boundaries", "margins", "angles", "training"}
    check_figures(out / "paper.md", {*figures, "losses"})
    kept = sorted(path.stem for path in (out / "arms").glob("*.json"))
    assert kept == ["cosface", "m1-seed0", "m4-seed0", "softmax-seed0"]
    for name in kept:
        row = json.loads((out / "arms" / f"{name}.json").read_text())["verification"]["flip-plain"]
        assert row["accuracy"] > 0.6  # 160 pairs of people who were not trained on


def test_quick_takes_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["--quick", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "leave out --data and --lfw" in capsys.readouterr().err


def test_the_page_in_docs_is_the_commands() -> None:
    """What the documentation shows was written by the command, and its figures are there."""
    results = ROOT / "docs" / "results"
    text = (results / "paper.md").read_text(encoding="utf-8")
    for name in re.findall(r"\((images/paper/[\w-]+\.svg)\)", text):
        assert (results / name).is_file()
        assert (results / name).with_suffix(".png").is_file()
    assert text.startswith("# The paper, reproduced\n")
