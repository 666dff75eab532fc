from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_curve

import tf_sphereface as sf
from tf_sphereface.commands.eval.main import main
from tf_sphereface.embedder import EmbedderMetadata, save_embedder
from tf_sphereface.eval.measures.curve import clopper_pearson
from tf_sphereface.eval.report import contents, page, provenance
from tf_sphereface.eval.report.provenance import images_sha256

SCHEMA = Path(page.__file__).with_name("report_schema.json")


def load_browser():
    path = Path(__file__).parents[1] / "browser.py"
    spec = importlib.util.spec_from_file_location("browser", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reports(tmp_path_factory, network, make_face, write_image):
    """The command's page and JSON, on blurred likenesses of 40 people; markup in some names."""
    root = tmp_path_factory.mktemp("page")
    for person in range(40):
        for number in range(3):
            name = f"P{person:02d} <b>&" if person % 7 == 0 else f"P{person:02d}_with_a_long_name"
            face = 0.25 * make_face(person, number) + 0.75 * make_face(1000 * person + number, 0)
            write_image(root / "faces" / name / f"{number}.png", face.astype(np.uint8))
    model = root / "pixels.keras"
    metadata = EmbedderMetadata(threshold=0.93, threshold_far=0.1, flip="concat", loss="none")
    save_embedder(network, model, metadata)
    out = ["--json", str(root / "out.json"), "--report", str(root / "out.html")]
    faces = str(root / "faces")
    assert main(["folder", str(model), faces, "--folds", "5", "--bootstrap", "20", *out]) == 0
    return root


def test_the_json_follows_its_schema(reports):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    values = json.loads((reports / "out.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    values["headline"]["accuracy"] = 98.0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema)


def test_the_documentation_names_every_key():
    document = (Path(__file__).parents[2] / "docs" / "guides" / "evaluate.md").read_text()
    for key in json.loads(SCHEMA.read_text())["properties"]:
        assert f"`{key}`" in document, key


def test_the_curve_is_that_of_all_pairs(reports, result):
    values = json.loads((reports / "out.json").read_text())
    headline = result.headline
    fpr, tpr, _ = roc_curve(headline.is_same, headline.scores)
    points = values["curve"]["points"]
    assert len(points) > 10
    for point in points:
        assert (np.isclose(fpr, point["far"]) & np.isclose(tpr, point["tar"])).any()
        if point["threshold"] is not None:
            accepted = headline.scores >= point["threshold"]
            assert np.mean(accepted[~headline.is_same]) == pytest.approx(point["far"])
            genuine = headline.is_same.sum()
            hits = int(accepted[headline.is_same].sum())
            assert point["tar_interval"] == pytest.approx(clopper_pearson(hits, genuine))
    own = values["operating_point"]
    accepted = headline.scores >= 0.93
    assert own["calibrated_far"] == 0.1
    assert own["far"] == np.mean(accepted[~headline.is_same])
    assert own["far_interval"][0] <= own["far"] <= own["far_interval"][1]
    assert own["tar"] == np.mean(accepted[headline.is_same])
    assert values["data"]["images_sha256"] == images_sha256(
        reports / "faces", [*result.pairs.left, *result.pairs.right]
    )


def test_the_terminal_tells_what_the_model_s_own_threshold_does(reports, capsys):
    arguments = [str(reports / "pixels.keras"), str(reports / "faces"), "--folds", "5"]
    assert main(["folder", *arguments]) == 0
    own = json.loads((reports / "out.json").read_text())["operating_point"]
    said = " ".join(capsys.readouterr().out.split())
    assert "at the model's own threshold 0.9300: FAR" in said
    assert f"FAR {100 * own['far']:.2f} % [" in said
    assert f"TAR {100 * own['tar']:.2f} % [" in said


def test_the_hash_of_images_is_that_of_sha256sum(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert images_sha256(tmp_path, ["a.txt"]).startswith("29ef94e5c0fea664")


def test_the_worst_errors_are_the_worst(reports, result):
    values = json.loads((reports / "out.json").read_text())
    headline, errors = result.headline, values["errors"]
    for kind, same, sign in (("false_accepts", False, -1), ("false_rejects", True, 1)):
        wrong = ~headline.correct & (headline.is_same == same)
        assert errors[kind]["count"] == wrong.sum() > 0
        scores = [error["score"] for error in errors[kind]["worst"]]
        assert scores == sorted(headline.scores[wrong], key=lambda s: sign * s)[:20]
    assert errors["false_accepts"]["count"] > 20 == len(errors["false_accepts"]["worst"])
    first = errors["false_accepts"]["worst"][0]
    assert first["left"].split("/")[0] != first["right"].split("/")[0]


def test_the_page_says_what_the_json_says(reports):
    values = json.loads((reports / "out.json").read_text())
    text = (reports / "out.html").read_text()
    for wanted in (
        f"{100 * values['headline']['accuracy']:.2f}",
        values["model"]["sha256"],
        values["data"]["pairs_sha256"],
        values["data"]["images_sha256"],
        values["versions"]["tensorflow"],
        "best on test",
        "measured here",
        *(row["reason"] for row in values["headline"]["tar_at_far"] if row["reason"]),
        *(f"{fold['accuracy'] * 100:.2f}" for fold in values["headline"]["folds"]),
    ):
        assert wanted in text
    low, high = values["headline"]["bootstrap"]["auc"]
    assert f'<td>AUC</td><td class="n">{100 * low:.2f} – {100 * high:.2f}</td>' in text
    shown = sum(len(values["errors"][kind]["worst"]) for kind in values["errors"])
    assert text.count("data:image/jpeg;base64,") == 2 * shown
    assert text.count("<svg") == 4
    assert "P01_<wbr>with_<wbr>a_<wbr>long_<wbr>name/<wbr>" in text  # where a phone breaks it
    assert "<b>&/" not in text  # a name is text, not markup
    assert "&lt;b&gt;&amp;" in text
    # Nothing is fetched: no script, and no address but the namespaces of SVG and the data's own.
    assert "<script" not in text
    addresses = set(re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', text))
    assert not addresses
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_a_page_of_the_json_alone(reports, tmp_path):
    values = json.loads((reports / "out.json").read_text())
    page.write_page(values, tmp_path / "again.html")
    text = (tmp_path / "again.html").read_text()
    assert "data:image/jpeg" not in text
    assert values["errors"]["false_accepts"]["worst"][0]["right"].split("/")[1] in text


def test_scores_that_are_no_cosines(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    rng = np.random.default_rng(0)
    lines = [f"{3 * (k % 2) + rng.normal():.4f}\t{k % 2}\t{k % 4}" for k in range(400)]
    (tmp_path / "scores.txt").write_text("\n".join(lines))
    out = ["--json", str(tmp_path / "o.json"), "--report", str(tmp_path / "o.html")]
    assert main(["scores", str(tmp_path / "scores.txt"), *out]) == 0
    values = json.loads((tmp_path / "o.json").read_text())
    jsonschema.validate(values, json.loads(SCHEMA.read_text()))
    assert (tmp_path / "o.html").read_text().count("<svg") == 2
    assert values["data"]["images_sha256"] is None


@pytest.mark.parametrize(
    ("protocol", "pairs", "title"),
    [
        ("lfw", 6000, "Labeled Faces in the Wild, View 2"),
        ("lfw", 1200, "1,200 pairs by the protocol of LFW's View 2 (which has 6,000)"),
        ("ytf", 300, "300 pairs by the protocol of YouTube Faces (which has 5,000)"),
        ("folder", 300, "Pairs of a folder of faces"),
    ],
)
def test_a_part_of_a_protocol_does_not_bear_its_name(protocol, pairs, title):
    assert page._title({"protocol": protocol, "data": {"pairs": pairs}}) == title


def test_published_figures_stand_apart(reports, tmp_path):
    values = json.loads((reports / "out.json").read_text())
    assert values["published"] == {"pairs": None, "figures": []}
    values["published"] = {"pairs": 6000, "figures": provenance.published_for("lfw")}
    page.write_page(values, tmp_path / "lfw.html")
    text = (tmp_path / "lfw.html").read_text()
    assert text.count('<span class="mark">published</span>') == 6
    assert "99.42" in text
    assert "compare with care" in text


@pytest.fixture(scope="module")
def result(reports):
    return sf.eval.folder.evaluate(reports / "pixels.keras", reports / "faces", folds=5)


@pytest.fixture(scope="module")
def browser():
    found = load_browser().find()
    if found is None:
        pytest.skip(
            "no Chromium on the path (or in TF_SPHEREFACE_BROWSER): the page is not looked at"
        )
    return found


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1100, False)])
def test_in_a_browser(reports, tmp_path, browser, width, dark):
    module = load_browser()
    seen = module.look(browser, reports / "out.html", tmp_path, width, 1200, dark)
    assert seen["console"] == []
    assert seen["requests"] == []
    assert (seen["out"], seen["broken"]) == ([], 0)
    assert seen["scroll"] == seen["width"] == width
    assert seen["background"] == ("rgb(20, 24, 28)" if dark else "rgb(255, 255, 255)")
    picture = cv2.imread(str(seen["picture"]))[:, :width]
    assert picture.shape == (1200, width, 3)
    ground = np.array([28, 24, 20] if dark else [255, 255, 255])
    ink = np.abs(picture.astype(int) - ground).max(axis=2) > 60
    assert 0.005 < ink.mean() < 0.5
    assert all(part.any() for part in np.array_split(ink, 6))  # something in every sixth of it
    keep = os.environ.get("TF_SPHEREFACE_SCREENSHOTS")
    if keep:
        Path(keep, seen["picture"].name).write_bytes(seen["picture"].read_bytes())


def test_a_broken_page_is_noticed(tmp_path, browser):
    """What the checks look for is found where it is."""
    path = tmp_path / "bad.html"
    path.write_text(
        '<!doctype html><body><p style="width:900px">wide</p><img src="data:image/png;base64,AA">'
        '<script>console.error("boom")</script></body>'
    )
    seen = load_browser().look(browser, path, tmp_path, 360)
    assert seen["scroll"] > seen["width"]
    assert seen["out"] == ["P"]
    assert seen["broken"] == 1
    assert any("boom" in line for line in seen["console"])


def test_what_cannot_be_shown_is_left_out(result, tmp_path):
    values = contents.contents(result)

    def missing(name):
        raise ValueError(f"{name} is gone")

    page.write_page(values, tmp_path / "gone.html", missing)
    assert "data:image/jpeg" not in (tmp_path / "gone.html").read_text()
