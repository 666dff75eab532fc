"""Identification: exact whatever the blocks, and what a naive evaluator counts."""

from __future__ import annotations

import json
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tf_sphereface.commands.eval.main import main
from tf_sphereface.eval.identification import (
    blufr,
    open_set,
    pool_templates,
    verify_all_pairs,
    with_distractors,
)
from tf_sphereface.eval.identification.score_blocks import highest, score_blocks
from tf_sphereface.eval.scoring.precomputed import write_embeddings

LAWS = settings(max_examples=60, deadline=None)
# Small integers: many exact ties, and vectors that point the same way at different lengths.
NUMBERS = st.integers(-2, 2).map(float)
SMALL = 3000  # bytes: blocks of a few rows


def cloud(rows: int, width: int = 3) -> st.SearchStrategy[np.ndarray]:
    found = hnp.arrays(np.float64, (rows, width), elements=NUMBERS)
    return found.filter(lambda x: np.all(np.any(x != 0, axis=1)))


def people(count: int, images: int, width: int = 8, seed: int = 0, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), images)
    vectors = rng.normal(size=(count, width))[labels] + noise * rng.normal(
        size=(len(labels), width)
    )
    return vectors.astype(np.float32), labels


@LAWS
@given(cloud(7), cloud(9), st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_ranks_among_distractors_equal_the_naive_count(naive, probes, distractors, labels):
    assume(len(set(labels)) < 7)
    result = with_distractors(probes, labels, distractors, ranks=[1, 2, 4], memory=SMALL)
    for rank in (1, 2, 4):
        expected, searches = naive.rank_among(probes.tolist(), labels, distractors.tolist(), rank)
        assert result.rates[9][rank] == pytest.approx(expected)
        assert result.num_searches == searches


def test_a_twin_among_the_distractors_counts_against_the_network():
    probes = np.array([[1.0, 0.3], [0.9, 0.4]])
    for scale in (1.0, 3.7, 1e-3):
        twin = scale * probes[1:]
        found = with_distractors(probes, [0, 0], twin, ranks=[1, 2])
        # The twin ties with the mate of the first search; in the second it is the probe itself.
        assert found.rates[1] == {1: 0.0, 2: 1.0}


def test_more_distractors_make_it_harder_and_each_size_holds_the_last():
    probes, labels = people(30, 4, noise=0.7)
    distractors = np.random.default_rng(1).normal(size=(3000, 8)).astype(np.float32)
    found = with_distractors(probes, labels, distractors, ranks=[1, 10])
    assert list(found.rates) == [10, 100, 1000, 3000]
    first = [found.rates[size][1] for size in found.rates]
    assert first == sorted(first, reverse=True)
    assert first[0] > first[-1]
    part = with_distractors(probes, labels, distractors, ranks=[1, 10], sizes=[100, 1000])
    assert part.rates == {size: found.rates[size] for size in (100, 1000)}
    other = with_distractors(probes, labels, distractors, ranks=[1, 10], seed=5)
    assert other.rates[3000] == found.rates[3000]
    assert other.rates[100] != found.rates[100]


def test_nothing_depends_on_the_size_of_the_blocks(tmp_path):
    probes, labels = people(20, 3, noise=0.8)
    distractors = np.random.default_rng(1).normal(size=(2500, 8)).astype(np.float32)
    np.save(tmp_path / "distractors.npy", distractors)
    mapped = np.load(tmp_path / "distractors.npy", mmap_mode="r")
    found = [
        with_distractors(probes, labels, gallery, memory=memory)
        for gallery, memory in ((distractors, 2**28), (distractors, 20_000), (mapped, 100_000))
    ]
    for other in found[1:]:
        assert other.rates == found[0].rates
        assert other.verification.rates == found[0].verification.rates
        cut = found[0].verification.thresholds[1e-3]
        assert other.verification.thresholds[1e-3] == pytest.approx(cut, abs=1e-12)


def test_verification_among_distractors_equals_the_naive_rate(naive):
    probes, labels = people(8, 3, noise=0.8)
    distractors = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    found = with_distractors(probes, labels, distractors).verification
    unit = probes.astype(float) / np.linalg.norm(probes.astype(float), axis=1, keepdims=True)
    other = distractors.astype(float)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    impostor = (unit @ other.T).ravel().tolist()
    genuine = [
        float(unit[i] @ unit[j])
        for i in range(24)
        for j in range(i + 1, 24)
        if labels[i] == labels[j]
    ]
    assert (found.num_genuine, found.num_impostor) == (24, 24 * 60)
    for far in (Fraction(1, 10), Fraction(1, 100)):
        expected = naive.rate_at_far(genuine, impostor, far)
        assert found.rates[float(far)] == pytest.approx(expected)
        low, high = found.intervals[float(far)]
        assert low <= expected <= high
    assert found.rates[1e-3] is None
    assert found.reasons[1e-3] == "needs 10,000 impostor pairs, there are 1,440"


@LAWS
@given(cloud(12), st.lists(st.integers(0, 5), min_size=12, max_size=12), cloud(6))
def test_open_set_equals_the_naive_count(naive, probes, seekers, gallery):
    owners = [0, 1, 2, 3, 3, 1]
    assume(set(seekers) & {4, 5})
    assume(set(seekers) & set(owners))
    few = {0.5: Fraction(1, 2), 0.1: Fraction(1, 10)}
    # Ten impostors a false alarm are asked for: each probe comes twenty times.
    many, seeking = np.repeat(probes, 20, axis=0), np.repeat(seekers, 20)
    found = open_set(gallery, owners, many, seeking, ranks=[1, 2], fars=list(few), memory=SMALL)
    for rank in (1, 2):
        for far, exact in few.items():
            closed, rate = naive.open_set(
                gallery.tolist(), owners, probes.tolist(), seekers, rank, exact
            )
            assert found.rates[rank] == pytest.approx(closed)
            if found.dir_at_far[rank].rates[far] is not None:
                # Impostors that come twenty times are let in together or not at all.
                assert found.dir_at_far[rank].rates[far] == pytest.approx(rate)
            else:
                assert far in found.dir_at_far[rank].reasons


def test_open_set_counts_what_there_is():
    gallery, owners = people(10, 1, noise=0.0)
    probes, seekers = people(30, 2, noise=0.3)
    found = open_set(gallery, owners, probes, seekers, fars=[0.25, 0.01])
    assert (found.num_gallery, found.num_genuine, found.num_impostor) == (10, 20, 40)
    assert found.dir_at_far[1].rates[0.25] <= found.rates[1]
    assert found.dir_at_far[1].reasons[0.01] == "needs 1,000 impostor probes, there are 40"
    everybody = open_set(gallery, owners, probes[:20], seekers[:20])
    assert everybody.num_impostor == 0
    assert everybody.dir_at_far[1].rates[0.1] is None


def test_all_pairs_equal_the_naive_rate(naive):
    vectors, labels = people(12, 3, noise=0.8)
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    genuine, impostor = [], []
    for i in range(36):
        for j in range(i + 1, 36):
            (genuine if labels[i] == labels[j] else impostor).append(float(unit[i] @ unit[j]))
    for memory in (2**28, SMALL):
        found = verify_all_pairs(vectors, labels, memory=memory)
        assert (found.num_genuine, found.num_impostor) == (len(genuine), len(impostor))
        for far in (Fraction(1, 10), Fraction(1, 50)):
            if found.rates.get(float(far)) is not None:
                expected = naive.rate_at_far(genuine, impostor, far)
                assert found.rates[float(far)] == pytest.approx(expected)
    assert found.rates[1e-1] is not None


def test_verification_of_all_pairs_agrees_with_the_evaluator():
    from tf_sphereface.eval.verification import evaluate

    vectors, labels = people(40, 5, noise=0.8)
    i, j = np.triu_indices(len(labels), 1)
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    scores, same = np.sum(unit[i] * unit[j], axis=1), labels[i] == labels[j]
    expected = evaluate(scores, same, np.arange(len(same)) % 10)
    found = verify_all_pairs(vectors, labels)
    assert found.rates == pytest.approx(expected.tar_at_far)
    assert found.intervals == expected.tar_interval_at_far
    assert found.reasons == expected.tar_at_far_reasons


@LAWS
@given(
    st.lists(st.integers(-300, 300), min_size=1, max_size=60),
    st.integers(1, 8),
    st.lists(st.integers(0, 59), min_size=1, max_size=4),
    st.sampled_from([1, 4, 2**20]),
)
def test_the_highest_scores_are_those_of_sorting(numbers, step, ranks, collect):
    # Scores that differ by 1 / 300 or, in the last two, by a little more than rounding.
    scores = np.array(numbers) / 300
    scores[: len(scores) // 2] *= 1e-7
    blocks = [scores[k : k + step] for k in range(0, len(scores), step)]
    ranks = [rank % len(scores) for rank in ranks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tf_sphereface.eval.identification.score_blocks.COLLECT", collect)
        found = highest(lambda: blocks, ranks)
    expected = np.sort(scores)[::-1][ranks].tolist()
    # One score very often is found to within TIE, else exactly.
    assert found == (pytest.approx(expected, abs=1e-12) if collect < 2**20 else expected)


@LAWS
@given(cloud(11), st.lists(st.integers(0, 2), min_size=11, max_size=11), st.data())
def test_templates_equal_the_naive_ones(naive, vectors, templates, data):
    media = data.draw(st.lists(st.integers(0, 2), min_size=11, max_size=11))
    expected = {}
    for template in sorted(set(templates)):
        at = [i for i in range(11) if templates[i] == template]
        members = [vectors[i].tolist() for i in at]
        means = [
            np.mean([vectors[i] for i in at if media[i] == m], axis=0)
            for m in {media[i] for i in at}
        ]
        assume(np.linalg.norm(np.sum(means, axis=0)) > 1e-6)
        expected[template] = naive.template(members, [media[i] for i in at])
    ids, pooled = pool_templates(vectors, templates, media)
    assert ids.tolist() == list(expected)
    for row, template in zip(pooled, ids.tolist(), strict=True):
        assert row == pytest.approx(expected[template], abs=1e-9)


def test_a_long_video_counts_no_more_than_a_photograph():
    vectors = np.array([[1.0, 0.0], *[[0.0, 1.0]] * 9])
    together = pool_templates(vectors, [0] * 10, [0] + [1] * 9)[1]
    apart = pool_templates(vectors, [0] * 10)[1]
    assert together[0] == pytest.approx([np.sqrt(0.5), np.sqrt(0.5)])
    assert apart[0][1] > 0.99
    with pytest.raises(ValueError, match="the sum of template 4 is zero"):
        pool_templates(np.array([[1.0, 0], [-1, 0]]), [4, 4])


def test_blufr_draws_trials_and_sums_them_up():
    vectors, labels = people(80, 4, noise=0.6)
    found = blufr(vectors, labels, trials=4, seed=3, fars=(0.1,))
    assert len(found.open_set) == len(found.verification) == 4
    rates = [trial.dir_at_far[1].rates[0.1] for trial in found.open_set]
    mean, std = found.dir_at_far[1][0.1]
    assert (mean, std) == (pytest.approx(np.mean(rates)), pytest.approx(np.std(rates, ddof=1)))
    assert found.vr_at_far[0.1][0] == pytest.approx(
        np.mean([trial.rates[0.1] for trial in found.verification])
    )
    for trial in found.open_set:
        assert trial.num_gallery == 30  # half of three quarters of eighty people
        assert trial.num_genuine == 30 * 3
        assert trial.num_impostor == 30 * 4
    again = blufr(vectors, labels, trials=4, seed=3, fars=(0.1,))
    assert again.dir_at_far == found.dir_at_far
    assert blufr(vectors, labels, trials=4, seed=4, fars=(0.1,)).dir_at_far != found.dir_at_far
    assert blufr(vectors, labels, trials=2, fars=(1e-6,)).dir_at_far[1][1e-6] is None
    with pytest.raises(ValueError, match="four people with two images"):
        blufr(*people(3, 2))


def test_memory_is_bounded_by_the_blocks():
    probes, labels = people(20, 2, width=32)
    gallery = np.random.default_rng(0).normal(size=(60_000, 32)).astype(np.float32)
    memory = 4 * 2**20  # all scores together are 19 MB
    tracemalloc.start()
    with_distractors(probes, labels, gallery, sizes=[60_000], memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Two histograms of 65,536 bins for each of six rates, and the order of the distractors.
    assert peak < memory + 8 * 2**20


def test_blocks_cover_everything_once():
    probes, gallery = np.ones((5000, 2)), np.ones((700, 2))
    seen = np.zeros((5000, 700), int)
    for rows, columns, scores in score_blocks(probes, gallery, 500_000):
        assert scores.nbytes <= 500_000
        assert np.allclose(scores, 1)
        seen[rows, columns] += 1
    assert np.all(seen == 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 0]}, "probes must have the shape"),
        ({"labels": range(6)}, "labels must name somebody twice"),
        ({"distractors": np.ones((3, 9))}, r"distractors must have the shape \(m, 8\)"),
        ({"distractors": np.ones((0, 8))}, r"distractors must have the shape \(m, 8\)"),
        ({"distractors": np.zeros((3, 8))}, "gallery must be finite and not zero"),
        ({"distractors": np.full((3, 8), np.nan)}, "gallery must be finite and not zero"),
        ({"sizes": [4]}, "sizes must be from 1 to 3"),
    ],
)
def test_nonsense_is_refused(change, message):
    vectors, labels = people(2, 3)
    arguments = {"probes": vectors, "labels": labels, "distractors": np.ones((3, 8)), **change}
    with pytest.raises(ValueError, match=message):
        with_distractors(**arguments)


def test_a_gallery_without_anybody_searched_is_refused():
    with pytest.raises(ValueError, match="somebody in the gallery"):
        open_set(np.eye(2), [0, 1], np.eye(2), [2, 3])


def test_the_command(tmp_path, lfw_folder, save_pixels, capsys):
    model, out = save_pixels(tmp_path / "pixels.keras"), tmp_path / "out.json"
    folder = str(lfw_folder / "images")
    strangers = np.random.default_rng(0).normal(size=(50, 192)).astype(np.float32)
    stored = tmp_path / "strangers.npz"
    write_embeddings(stored, [f"{k}.jpg" for k in range(50)], strangers, strangers)
    arguments = ["--distractors", str(stored), "--json", str(out), "--trials", "3"]
    assert main(["identify", str(model), folder, *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "36 images of 12 people" in printed
    assert "50 distractors" in printed
    values = json.loads(out.read_text())
    assert values["protocol"] == "identify"
    assert [row["distractors"] for row in values["distractors"]["rates"]] == [10, 50]
    assert values["distractors"]["rates"][0]["rank_1"] > 0.5
    assert len(values["blufr"]["trials"]) == 3
    assert values["blufr"]["vr_at_far"][-1]["reason"]
    assert main(["identify", str(model), folder, "--trials", "0", "--no-flip"]) == 2
    assert "nothing to do" in capsys.readouterr().err
    (lfw_folder / "images" / "loose.jpg").write_bytes(b"a face of nobody")
    for name, *options in (["identify"], ["folder", "--folds", "2"], ["calibrate", "--far", "0.1"]):
        assert main([name, str(model), folder, "--strict", *options]) == 2
        assert "a strict run leaves no image out" in capsys.readouterr().err


POINTS = np.array([[19.0, 26.0], [30.0, 26.0], [24.0, 35.0], [20.0, 45.0], [29.0, 45.0]])


@pytest.mark.filterwarnings("ignore:.*upper left quarter")  # they are padded
def test_landmarks_are_of_the_people_and_distractors_have_their_own(
    tmp_path, lfw_folder, save_pixels, make_face, write_image
):
    """Distractors that are aligned already need no points, and none of the people's are theirs."""
    model, images = save_pixels(tmp_path / "pixels.keras"), lfw_folder / "images"
    points = "\t".join(f"{value:.3f}" for value in POINTS.ravel())
    files = sorted(images.rglob("*.jpg"))
    lines = [f"{path.relative_to(images).as_posix()}\t{points}" for path in files]
    (tmp_path / "points.tsv").write_text("\n".join(lines) + "\n")
    strangers = tmp_path / "strangers"
    for person in range(20, 26):
        write_image(strangers / f"{person}.jpg", make_face(person, 1))
    arguments = ["identify", str(model), str(images), "--trials", "0"]
    arguments += ["--landmarks", str(tmp_path / "points.tsv"), "--distractors", str(strangers)]
    assert main(arguments) == 0
    given = ["--distractor-landmarks", str(tmp_path / "points.tsv")]
    assert main([*arguments, *given]) == 2  # it names none of them


def test_landmarks_of_distractors_need_a_folder_of_images(tmp_path, save_pixels, capsys):
    model = save_pixels(tmp_path / "pixels.keras")
    (tmp_path / "points.tsv").touch()
    (tmp_path / "stored.npz").touch()
    arguments = ["identify", str(model), str(tmp_path)]
    arguments += ["--distractor-landmarks", str(tmp_path / "points.tsv")]
    for others in ([], ["--distractors", str(tmp_path / "stored.npz")]):
        assert main([*arguments, *others]) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert "--distractor-landmarks must come with --distractors DIR" in message


def test_the_command_names_what_it_cannot_use(tmp_path, lfw_folder, capsys):
    folder = str(lfw_folder / "images")
    names = [f"{p.parent.name}/{p.name}" for p in sorted((lfw_folder / "images").rglob("*.jpg"))]
    vectors = np.random.default_rng(0).normal(size=(len(names), 8))
    stored, out = str(tmp_path / "stored.npz"), tmp_path / "out.json"
    write_embeddings(stored, names, vectors)
    assert main(["identify", stored, folder, "--trials", "1", "--json", str(out)]) == 0
    assert "the image alone" in json.loads(out.read_text())["description"]
    vectors[4] = np.nan
    write_embeddings(stored, names, vectors)
    assert main(["identify", stored, folder]) == 2
    assert f"the embedding of {names[4]} is not finite" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["identify", stored, str(tmp_path / "empty")]) == 2
    assert "one folder per identity, with images in it. Received: " in capsys.readouterr().err
