"""Errors of each group: the list, the counts against a naive count, and every command."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from tf_sphereface.commands.eval.main import main
from tf_sphereface.eval import scores
from tf_sphereface.eval.bins import write_bin
from tf_sphereface.eval.groups import group_of, rates_by_group, read_groups
from tf_sphereface.utils.messages import SphereFaceWarning


def test_lists_in_several_forms(tmp_path):
    path = tmp_path / "groups.txt"
    path.write_text("# who\nname\tgroup\nAnn Lee\tx\n\nBob_1/0.jpg,y\nCy D z\n", encoding="utf-8")
    assert read_groups(path) == {"Ann Lee": "x", "Bob_1/0.jpg": "y", "Cy D": "z"}
    path.write_text('"name","group"\n"Ann, Lee","x"\nBob/,y\n')  # as spreadsheets write it
    assert read_groups(path) == {"Ann, Lee": "x", "Bob": "y"}
    path.write_text('Name;Group\n"Ann";"East Asian"\n')
    assert read_groups(path) == {"Ann": "East Asian"}
    path.write_bytes("\ufeffÅsa\tx\r\n".encode())
    assert read_groups(path) == {"Åsa": "x"}
    path.write_text("Åsa\tx\nBob\ty\n", encoding="utf-16")  # as PowerShell writes it
    assert read_groups(path) == {"Åsa": "x", "Bob": "y"}
    path.write_text("P1\t0\nP2\t1\n")  # as an image in text begins
    assert read_groups(path) == {"P1": "0", "P2": "1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a name and its group"),
        ("person,group\n", "must hold a name and its group"),
        ("Ann\n", "line 1: expected a name, a tab and its group"),
        ("Ann\tx\ty\n", "line 1: expected a name"),
        ("Ann,\n", "line 1: expected a name"),
        ("Ann\tx\nBob\ty\nAnn\ty\n", "line 3: 'Ann' is in group 'x' already. Received: 'y'"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path, text, message):
    path = tmp_path / "groups.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_groups(path)


def test_an_image_counts_before_its_person():
    groups = {"Ann": "x", "Ann/2": "y", "lfw": "z", "lfw/7": "w"}
    names = ("Ann/1.jpg", "Ann/2.jpg", "Ann/video/3.jpg", "Bob/1.jpg", "lfw/7", "lfw/8")
    assert [group_of(name, groups) for name in names] == ["x", "y", "x", None, "w", "z"]


PAIR = st.tuples(st.integers(0, 8), st.booleans(), st.sampled_from("xyz-"), st.sampled_from("xyz-"))


@settings(max_examples=100, deadline=None)
@given(st.lists(PAIR, min_size=1, max_size=60))
def test_the_counts_are_those_of_a_naive_count(pairs):
    groups = [(None if a == "-" else a, None if b == "-" else b) for _, _, a, b in pairs]
    if all(None in pair for pair in groups):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SphereFaceWarning)
        report = rates_by_group([s for s, *_ in pairs], [y for _, y, *_ in pairs], groups, 4)
    seen = sorted({a for pair in groups if None not in pair for a in pair})
    assert [entry.name for entry in report.groups] == seen
    for entry in report.groups:
        own = [p for p, g in zip(pairs, groups, strict=True) if g == (entry.name, entry.name)]
        impostor = [score for score, same, *_ in own if not same]
        genuine = [score for score, same, *_ in own if same]
        assert (entry.impostor_pairs, entry.genuine_pairs) == (len(impostor), len(genuine))
        accepted = sum(score >= 4 for score in impostor)
        assert entry.far == (accepted / len(impostor) if impostor else None)
        if impostor:
            low, high = entry.far_interval
            n, k = len(impostor), accepted
            assert low == pytest.approx(0 if k == 0 else beta.ppf(0.025, k, n - k + 1))
            assert high == pytest.approx(1 if k == n else beta.ppf(0.975, k + 1, n - k))
        rejected = sum(score < 4 for score in genuine)
        assert entry.frr == (rejected / len(genuine) if genuine else None)
    apart = [g for g in groups if None not in g and g[0] != g[1]]
    between = report.between
    assert (between is None) == (not apart)
    if between:
        assert between.impostor_pairs + between.genuine_pairs == len(apart)
    assert report.left_out == sum(None in g for g in groups)


def simulated(counts: dict[str, int], shift: dict[str, float]):
    """Impostor and genuine pairs of each group; a shift moves its impostors' scores up."""
    rng = np.random.default_rng(1)
    scores, same, groups = [], [], []
    for name, count in counts.items():
        scores += [rng.normal(shift.get(name, 0.0), 0.2, count), rng.normal(0.7, 0.2, count)]
        same += [False] * count + [True] * count
        groups += [(name, name)] * (2 * count)
    return np.concatenate(scores), same, groups


def test_small_groups_are_warned_of_and_not_in_the_ratio():
    scores, same, groups = simulated({"a": 2000, "b": 2000, "c": 40}, {"b": 0.2, "c": 0.6})
    with pytest.warns(SphereFaceWarning, match=r"too few pairs for a rate: c: 40 impostor pairs, "):
        report = rates_by_group(scores, same, groups, 0.35)
    rates = {entry.name: entry for entry in report.groups}
    assert rates["c"].far > rates["b"].far > rates["a"].far > 0
    assert "far" in rates["c"].few
    assert not rates["a"].few
    assert report.far_ratio == pytest.approx(rates["b"].far / rates["a"].far)
    alone = rates_by_group(scores[:4000], same[:4000], groups[:4000], 9.0)
    assert alone.far_ratio is None  # one group, and no false accept


def test_bad_arguments():
    with pytest.raises(ValueError, match="of all 2 pairs"):
        rates_by_group([0.1, 0.2], [0, 1], [("x", "x")], 0.5)
    with pytest.raises(ValueError, match="`threshold` must"):
        rates_by_group([0.1], [0], [("x", "x")], float("nan"))
    with pytest.raises(ValueError, match="both images"):
        rates_by_group([0.1], [0], [("x", None)], 0.5)


# The commands -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faces(tmp_path_factory, make_face, write_image) -> Path:
    """24 people, 3 images each; people 0 to 11 are of group one, the others of group two."""
    root = tmp_path_factory.mktemp("groups")
    for person in range(24):
        for number in range(3):
            face = 0.3 * make_face(person, number) + 0.7 * make_face(500 * person + number, 0)
            image = face.astype(np.uint8)
            write_image(
                root / "faces" / f"P{person:02d}" / f"P{person:02d}_{number:04d}.png", image
            )
    lines = [f"P{k:02d}\t{'one' if k < 12 else 'two'}" for k in range(24)]
    (root / "groups.tsv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def model(save_pixels, tmp_path_factory) -> Path:
    return save_pixels(tmp_path_factory.mktemp("model") / "pixels.keras")


def test_folder_and_scores(faces, model, tmp_path, capsys):
    out, page, scores = tmp_path / "o.json", tmp_path / "o.html", tmp_path / "scores.txt"
    files = ["--json", str(out), "--report", str(page), "--write-scores", str(scores)]
    groups = ["--groups", str(faces / "groups.tsv")]
    argv = ["folder", str(model), str(faces / "faces"), "--folds", "4", *files, *groups]
    assert main(argv) == 0
    values = json.loads(out.read_text())
    found = values["groups"]
    folds = [fold["threshold"] for fold in values["headline"]["folds"]]
    assert found["threshold"] == pytest.approx(np.mean(folds))
    assert [entry["name"] for entry in found["groups"]] == ["one", "two"]
    total = sum(entry["genuine_pairs"] for entry in found["groups"])
    assert total == values["data"]["genuine"]
    assert found["between"]["impostor_pairs"] > 0
    schema = Path(__file__).parents[2] / "tf_sphereface/eval/report/report_schema.json"
    pytest.importorskip("jsonschema").validate(values, json.loads(schema.read_text()))
    printed = capsys.readouterr()
    assert "groups: threshold" in " ".join(printed.out.split())
    assert "too few pairs" in " ".join(printed.err.split())
    html = page.read_text()
    assert "Errors of each group" in html
    assert "<td>between groups</td>" in html
    # the scores that were written give the same groups, at a threshold that is given
    threshold = ["--threshold", repr(found["threshold"])]
    assert main(["scores", str(scores), *groups, *threshold, "--json", str(out)]) == 0
    again = json.loads(out.read_text())["groups"]
    assert again["groups"] == found["groups"]
    assert again["origin"] == "given"
    assert main(["scores", str(scores), *threshold]) == 2
    assert "--threshold is for --groups" in capsys.readouterr().err


def test_lfw(faces, model, tmp_path):
    genuine = [f"P{k:02d}\t0\t1" for k in range(24)]
    impostor = [f"P{k:02d}\t0\tP{(k + 5) % 24:02d}\t2" for k in range(24)]
    lines = [line for k in (0, 12) for part in (genuine, impostor) for line in part[k : k + 12]]
    pairs, out = tmp_path / "pairs.txt", tmp_path / "o.json"
    pairs.write_text("\n".join(["2\t12", *lines]))
    argv = ["lfw", str(model), "--images", str(faces / "faces"), "--pairs", str(pairs)]
    groups = tmp_path / "groups.csv"
    groups.write_text("person,group\n" + "".join(f"P{k:02d},{'ab'[k % 2]}\n" for k in range(20)))
    assert main([*argv, "--groups", str(groups), "--json", str(out)]) == 0
    found = json.loads(out.read_text())["groups"]
    assert [entry["genuine_pairs"] for entry in found["groups"]] == [10, 10]
    assert found["left_out"] == 4 + 8  # of the last four people
    groups.write_text("Nobody,x\n")
    assert main([*argv, "--groups", str(groups), "--json", str(out)]) == 2
    assert "headline" in json.loads(out.read_text())  # the rest is not lost


def test_bins(faces, model, tmp_path, capsys):
    names = sorted((faces / "faces").rglob("*.png"))
    data = [path.read_bytes() for path in names]
    images = [data[i] for k in range(24) for i in (3 * k, 3 * k + 1 if k % 2 else (3 * k + 3) % 72)]
    sets, out, page = tmp_path / "sets", tmp_path / "o.json", tmp_path / "o.html"
    sets.mkdir()
    for name in ("lfw", "own"):
        write_bin(sets / f"{name}.bin", images, [k % 2 == 1 for k in range(24)])
    groups = tmp_path / "groups.tsv"
    groups.write_text("\n".join(f"lfw/{k}\t{'x' if k < 24 else 'y'}" for k in range(48)))
    argv = ["bins", str(model), str(sets), "--json", str(out), "--report", str(page)]
    assert main([*argv, "--groups", str(groups), "--threshold", "0.9"]) == 0
    values = json.loads(out.read_text())["sets"]
    assert "groups" not in values["own"]
    found = values["lfw"]["groups"]
    assert [entry["genuine_pairs"] for entry in found["groups"]] == [6, 6]
    assert "Groups in lfw" in page.read_text()
    assert "groups in lfw: threshold 0.9000, given" in " ".join(capsys.readouterr().out.split())
    groups.write_text("lfw/0\tx\n")  # fits no whole pair
    assert main([*argv, "--groups", str(groups), "--threshold", "0.9"]) == 1
    said = capsys.readouterr()
    assert "lfw is not measured by group" in " ".join(said.err.split())
    assert "groups" not in json.loads(out.read_text())["sets"]["lfw"]
    assert main([*argv, "--groups", str(faces / "groups.tsv")]) == 2
    assert "by set and number, such as lfw/0" in " ".join(capsys.readouterr().err.split())


def test_calibrate(faces, model, tmp_path, capsys):
    out, before = tmp_path / "o.json", model.read_bytes()
    groups = ["--groups", str(faces / "groups.tsv")]
    argv = ["calibrate", str(model), str(faces / "faces"), "--far", "0.05", "--dry-run"]
    assert main([*argv, *groups, "--json", str(out)]) == 0
    values = json.loads(out.read_text())
    assert values["groups"]["threshold"] == values["threshold"]
    assert values["groups"]["overall"]["far"] == pytest.approx(values["measured_far"])
    assert "chosen here" in " ".join(capsys.readouterr().out.split())
    assert model.read_bytes() == before
    assert main([*argv, "--json", str(out)]) == 0
    assert "groups" not in json.loads(out.read_text())


def test_scores_without_folds_need_a_threshold(tmp_path, capsys):
    path, groups = tmp_path / "scores.txt", tmp_path / "groups.txt"
    path.write_text("0.9 1 - A/1 A/2\n0.1 0 - A/1 B/1\n0.3 0 - A/2 B/1\n")
    groups.write_text("A x\nB x\n")
    assert main(["scores", str(path), "--groups", str(groups)]) == 2
    assert "groups need a threshold" in " ".join(capsys.readouterr().err.split())
    assert main(["scores", str(path), "--groups", str(groups), "--threshold", "0.2"]) == 0
    assert "50.00" in capsys.readouterr().out


def test_scores_without_folds_or_names_are_written_and_compared(tmp_path, capsys):
    plain, titled = tmp_path / "plain.txt", tmp_path / "titled.txt"
    plain.write_text("0.9 1 -\n0.1 0 -\n0.3 0 -\n0.7 1 -\n")
    result = scores.evaluate(plain)
    scores.write_scores(tmp_path / "again.txt", result)
    again = scores.evaluate(tmp_path / "again.txt")
    assert again.headline.scores.tolist() == result.headline.scores.tolist()
    titled.write_text("score,label,fold\n0.9,1,0\n0.1,0,0\n0.3,0,1\n0.7,1,1\n")
    plain.write_text("0.9 1 0\n0.1 0 0\n0.3 0 1\n0.7 1 1\n")
    assert main(["compare", str(plain), str(titled)]) == 0
    assert "name other pairs" not in capsys.readouterr().err


def test_the_figure_is_drawn_for_one_class_alone():
    from tf_sphereface.eval.report.figures import group_errors

    with pytest.warns(SphereFaceWarning):
        report = rates_by_group([0.1, 0.9], [0, 0], [("x", "x"), ("y", "y")], 0.5)
    assert group_errors(report.to_dict()).startswith("<svg")
