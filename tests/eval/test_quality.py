"""Error against the share of pairs left out: a naive count, laws, and every protocol."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.eval.conftest import pixels_model
from tests.eval.ijb_tree import make_tree
from tf_sphereface.commands.eval.main import main
from tf_sphereface.embedder import load_embedder
from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.eval import ijb, lfw, verification, ytf
from tf_sphereface.eval.bins import write_bin_of_pairs
from tf_sphereface.eval.pairs import Pairs, read_pairs
from tf_sphereface.eval.quality import (
    ONE_LENGTH_SAID,
    discard_curve,
    error_versus_discard,
    norms_report,
    one_length,
)
from tf_sphereface.eval.report import tables
from tf_sphereface.eval.scoring import StoredEmbeddings
from tf_sphereface.utils.messages import SphereFaceWarning

SCHEMA = Path(tables.__file__).with_name("report_schema.json")


def naive_area(wrong, quality, limit):
    """Sort, drop one pair after the other, count again: the steps' areas, summed."""
    pairs = sorted(zip(quality, wrong, strict=True))
    total = 0.0
    for dropped in range(len(pairs)):
        left = [bad for _, bad in pairs[dropped:]]
        step = min(1 / len(pairs), max(0.0, limit - dropped / len(pairs)))
        total += step * sum(left) / len(left)
    return total


WRONG = st.lists(st.booleans(), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(WRONG, st.randoms(use_true_random=False), st.floats(0.05, 1))
def test_the_area_is_that_of_a_naive_count(wrong, random, limit):
    quality = random.sample(range(1000), len(wrong))
    curve = discard_curve(wrong, quality, limit)
    assert curve.area == pytest.approx(naive_area(wrong, quality, limit), abs=1e-12)
    best = sorted(quality)
    ideal = [0] * len(wrong)
    for k, at in enumerate(np.argsort(~np.array(wrong), kind="stable")):
        ideal[at] = best[k]
    assert curve.ideal == pytest.approx(naive_area(wrong, ideal, limit), abs=1e-12)
    assert curve.ideal <= curve.area + 1e-12
    assert curve.random == pytest.approx(np.mean(wrong) * limit)
    # turning the order round, or stretching the quality, changes nothing or the sign of the gain
    stretched = discard_curve(wrong, np.exp(np.array(quality) / 500), limit)
    assert stretched.area == curve.area


@settings(max_examples=40, deadline=None)
@given(WRONG, st.floats(0.05, 1))
def test_an_oracle_is_better_than_chance_and_its_reverse_is_worse(wrong, limit):
    assume(0 < sum(wrong) < len(wrong) and limit * len(wrong) > 1.01)  # else nobody is left out
    bad = np.array(wrong)
    oracle, reverse = (discard_curve(bad, value, limit) for value in (~bad, bad))
    assert oracle.area < oracle.random < reverse.area
    assert oracle.area == pytest.approx(oracle.ideal)
    assert oracle.gain == pytest.approx(1)
    assert reverse.gain < 0


def test_random_orders_have_the_mean_and_deviation_that_are_said():
    rng = np.random.default_rng(3)
    wrong = rng.random(80) < 0.2
    curve = discard_curve(wrong, np.arange(80), 0.4)
    areas = [discard_curve(wrong, rng.permutation(80), 0.4).area for _ in range(4000)]
    assert np.mean(areas) == pytest.approx(curve.random, abs=4 * curve.random_std / 4000**0.5)
    assert np.std(areas) == pytest.approx(curve.random_std, rel=0.05)


def test_constant_quality_is_said_to_give_no_order():
    with pytest.warns(SphereFaceWarning, match="all have one quality"):
        curve = discard_curve([True, False, False, True], [3, 3, 3, 3])
    assert curve.area == pytest.approx(curve.random)
    assert curve.error == pytest.approx(np.full(4, 0.5))
    assert curve.gain == pytest.approx(0)
    assert discard_curve([False, False], [1, 2]).gain is None


def test_pairs_take_the_lower_of_two_and_the_threshold_is_that_of_the_rates():
    rng = np.random.default_rng(5)
    same = np.arange(3000) < 1000
    scores = np.clip(rng.normal(np.where(same, 0.5, 0.0), 0.2), -1, 1)
    sides = rng.random((3000, 2))
    curve, threshold, fmr = error_versus_discard(scores, same, sides)
    result = verification.evaluate(scores, same)
    assert fmr == 1e-2  # 2,000 impostor pairs allow no 1e-3
    assert curve.error[0] == pytest.approx(1 - result.tar_at_far[1e-2])
    assert np.mean(scores[~same] > threshold) <= 1e-2
    again = error_versus_discard(scores, same, sides.min(axis=1), fmr=1e-2)[0]
    assert again.area == curve.area
    kept = np.sort(sides[same].min(axis=1))[250:]
    assert curve.quality[250:].tolist() == kept.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([True], [float("nan")]), "quality must be finite"),
        (([True, False], [1.0]), r"quality must have the shape \(2,\) or \(2, 2\)"),
        (([], []), "a pair at least"),
        (([True, False], [1, 2], 0), "`limit` must be above 0"),
        (([True, 7], [1, 2]), "wrong must be True or False"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        discard_curve(*arguments)


def test_too_few_pairs_for_a_rate():
    with pytest.raises(ValueError, match="needs 100 impostor pairs, there are 1"):
        error_versus_discard([0.9, 0.1], [1, 0], [1, 2])
    with pytest.raises(ValueError, match="needs 1,000 impostor pairs"):
        error_versus_discard(np.arange(200.0), np.arange(200) > 99, np.arange(200), fmr=1e-2)
    with pytest.raises(ValueError, match="one class alone"):
        error_versus_discard([0.9, 0.1], [1, 1], [1, 2])


# Protocols --------------------------------------------------------------------------------------


def test_norms_are_kept_before_scaling(lfw_folder, embedder):
    result = lfw.evaluate(embedder, lfw_folder / "images", lfw_folder / "pairs.txt")
    names = read_pairs(lfw_folder / "pairs.txt").images()[0]
    assert list(result.norms) == names
    report = norms_report(result)
    assert not report.meaningless
    assert report.fnmr is None  # 12 impostor pairs
    assert report.verification.num_wrong == int(np.sum(~result.headline.correct))
    single = lfw.evaluate(
        embedder, lfw_folder / "images", lfw_folder / "pairs.txt", flip=False
    ).norms
    import cv2

    image = cv2.imread(str(lfw_folder / "images" / names[0]))[None, ..., ::-1]
    plain, mirror = embedder(image)[0], embedder(image[:, :, ::-1])[0]
    assert single[names[0]] == pytest.approx(np.linalg.norm(plain), rel=1e-5)
    both = np.linalg.norm(np.concatenate([plain, mirror]))
    assert result.norms[names[0]] == pytest.approx(both, rel=1e-5)


@pytest.mark.parametrize("whole", [False, True], ids=["one side", "image and mirror in one"])
def test_a_network_that_scales_its_output_is_told(lfw_folder, whole):
    base = pixels_model()
    output = base.output
    if whole:  # image and mirror image concatenated, then scaled: each side's length differs
        mirrored = base(keras.layers.Lambda(lambda x: x[:, :, ::-1])(base.input))
        output = keras.layers.Concatenate()([output, 0.3 * mirrored])
    network = keras.Model(base.input, keras.layers.UnitNormalization()(output))
    model = load_embedder(network)
    if whole:
        model.metadata = EmbedderMetadata(flip_built_in=True)
    result = lfw.evaluate(model, lfw_folder / "images", lfw_folder / "pairs.txt")
    report = norms_report(result)
    assert report.meaningless == ONE_LENGTH_SAID
    assert report.fnmr is report.verification is None
    assert report.to_dict()["meaningless"] == ONE_LENGTH_SAID


def test_lengths_that_say_nothing():
    rng = np.random.default_rng(1)
    assert one_length(rng.uniform(0.985, 1.015, 50))  # unit vectors of a quantized network
    assert one_length(np.full(5, 64.0))  # scaled to s
    assert one_length([7.0, 7.0]) == ONE_LENGTH_SAID
    assert not one_length(rng.uniform(0.9, 1.1, 50))


def stored_pairs(count, rng):
    """Embeddings of people, of which the short ones are noisy: the norm knows the errors."""
    centers = rng.normal(size=(count, 16))
    names, vectors, left, right, same, folds = [], [], [], [], [], []
    for k in range(count):
        for number in (1, 2):
            norm = rng.uniform(1, 10)
            noise = rng.normal(size=16) * 6 / norm
            unit = centers[k] + noise
            names.append(f"P{k}/{number}.jpg")
            vectors.append(norm * unit / np.linalg.norm(unit))
        left += [f"P{k}/1.jpg"] * 2
        right += [f"P{k}/2.jpg", f"P{(k + 1) % count}/2.jpg"]
        same += [True, False]
        folds += [1 + k % 5] * 2
    stored = StoredEmbeddings(None, names, np.array(vectors, np.float32))
    return stored, Pairs(left, right, np.array(same), np.array(folds))


def test_a_norm_that_knows_the_errors_is_seen_to():
    stored, pairs = stored_pairs(400, np.random.default_rng(2))
    report = norms_report(lfw.evaluate(stored, None, pairs))
    assert report.fmr == 0.1
    for curve in (report.fnmr, report.verification):
        assert curve.area < curve.random - 5 * curve.random_std
        assert curve.error[curve.at(0.5)] < 0.7 * curve.error[0]
    points = report.to_dict()["fnmr"]["points"]
    assert [point["share"] for point in points][:2] == [0, 0.01]
    assert points[50]["images"] == pytest.approx(
        np.mean(report.images < points[50]["quality"]), abs=1e-9
    )


def test_videos_have_the_mean_of_their_frames_lengths():
    rng = np.random.default_rng(4)
    names = [f"P{p}/0/{f}.jpg" for p in range(4) for f in range(3)]
    names += [f"P{p}/1/{f}.jpg" for p in range(4) for f in range(3)]
    vectors = rng.normal(size=(24, 8)).astype(np.float32)
    stored = StoredEmbeddings(None, names, vectors)
    left = [f"P{p}/0" for p in range(4)] * 2
    right = [f"P{p}/1" for p in range(4)] + [f"P{(p + 1) % 4}/1" for p in range(4)]
    same = np.arange(8) < 4
    pairs = Pairs(left, right, same, np.array([1, 1, 2, 2] * 2))
    for pooling in ("mean", "mean_normalized", "best_frame", "frame_pairs"):
        norms = ytf.evaluate(stored, None, pairs, pooling=pooling, frame_pairs=40).norms
        expected = np.linalg.norm(vectors[:3], axis=1).mean()
        assert norms["P0/0"] == pytest.approx(expected, rel=1e-5), pooling
        assert len(norms) == 8


def test_templates_have_the_mean_of_their_media(tmp_path, make_face, embedder):
    tree = make_tree(tmp_path / "IJBC", make_face, people=10)
    done = []

    def stages(name):
        return lambda at, total: done.append((name, at, total))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SphereFaceWarning)
        result = ijb.evaluate(embedder, tree.root, "ijbc", stages=stages)
    norm, detector = result.qualities
    assert [norm.quality, detector.quality] == ["norm", "detector_score"]
    assert result.detector_scores.tolist() == [line.score for line in tree.lines]
    for values, report in ((result.norms, norm), (result.detector_scores, detector)):
        expected = []
        for template in {line.template for line in tree.lines}:
            media: dict[int, list[float]] = {}
            for value, line in zip(values, tree.lines, strict=True):
                if line.template == template:
                    media.setdefault(line.media, []).append(value)
            expected.append(np.mean([np.mean(part) for part in media.values()]))
        assert report.images == pytest.approx(np.sort(expected))
        assert report.fnmr is not None
        assert report.verification is None  # there are no folds
        assert report.fnmr.error[0] == pytest.approx(1 - result.headline.verification.rates[0.1])
    pairs = len(tree.pairs)
    assert ("scoring pairs", 8 * pairs, 8 * pairs) in done
    assert any(name == "reading pairs" and at == total for name, at, total in done)


@pytest.fixture(scope="module")
def model(save_pixels, tmp_path_factory) -> Path:
    return save_pixels(tmp_path_factory.mktemp("model") / "pixels.keras")


def test_the_commands_print_it_and_write_it(lfw_folder, model, tmp_path, write_image, capsys):
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    files = ["--json", str(out), "--report", str(page)]
    assert main(["lfw", str(model), "--images", images, "--pairs", pairs]) == 0
    assert "quality, norm: no pair is decided wrongly" in " ".join(capsys.readouterr().out.split())
    for k in range(6):  # gray pictures: nobody is known again
        write_image(
            lfw_folder / "images" / f"P{k:02d}" / f"P{k:02d}_0001.jpg",
            np.full((112, 96, 3), 120 + 3 * k, np.uint8),
        )
    assert main(["lfw", str(model), "--images", images, "--pairs", pairs, *files]) == 0
    values = json.loads(out.read_text())
    pytest.importorskip("jsonschema").validate(values, json.loads(SCHEMA.read_text()))
    assert values["quality"]["verification"]["pairs"] == 24
    assert "lowest quality first" in " ".join(capsys.readouterr().out.split())
    assert "Error against the share of pairs left out" in page.read_text()
    (tmp_path / "sets").mkdir()
    write_bin_of_pairs(tmp_path / "sets" / "mine.bin", images, pairs, None, (112, 96))
    assert main(["bins", str(model), str(tmp_path / "sets"), *files]) == 0
    entry = json.loads(out.read_text())["sets"]["mine"]["quality"]
    assert entry["verification"]["pairs"] == 24
    assert "lowest quality first" in " ".join(capsys.readouterr().out.split())
    assert "Quality in mine" in page.read_text()


def test_stored_unit_vectors_are_told_in_a_line(lfw_folder, tmp_path, capsys):
    names = read_pairs(lfw_folder / "pairs.txt").images()[0]
    vectors = np.random.default_rng(1).normal(size=(len(names), 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.savez(tmp_path / "unit.npz", names=names, embeddings=vectors.astype(np.float32))
    page = tmp_path / "out.html"
    argv = ["lfw", str(tmp_path / "unit.npz"), "--pairs", str(lfw_folder / "pairs.txt")]
    assert main([*argv, "--report", str(page)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "quality, norm: the embeddings all have one length" in printed
    assert "the embeddings all have one length" in page.read_text()
