"""IJB-B and IJB-C from the files as they circulate, against a naive computation."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from fractions import Fraction

import cv2
import numpy as np
import pytest

from tests.eval.ijb_tree import append, make_tree
from tf_sphereface.commands.eval.main import main
from tf_sphereface.eval import ijb
from tf_sphereface.eval.identification import open_set
from tf_sphereface.eval.ijb_galleries import TemplateOwners
from tf_sphereface.eval.scoring import StoredEmbeddings
from tf_sphereface.eval.template_search import search_templates
from tf_sphereface.eval.templates import curve_of, template_cosines

pytestmark = pytest.mark.filterwarnings("ignore:this is not the published IJB")


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_face):
    """One made-up IJB-C, which no test changes."""
    return make_tree(tmp_path_factory.mktemp("ijbc"), make_face)


def naive_templates(tree, embedder, naive, flip, norm, detector_score):
    """Every template by loops over its images, in Python floats."""
    templates = {}
    for template in {line.template for line in tree.lines}:
        vectors, media = [], []
        for line in tree.lines:
            if line.template != template:
                continue
            vector = embedder(line.face[None])[0].astype(float).tolist()
            if flip:
                mirror = embedder(line.face[None, :, ::-1])[0].astype(float).tolist()
                vector = [a + b for a, b in zip(vector, mirror, strict=True)]
            length = 1.0 if norm else math.sqrt(sum(v * v for v in vector))
            factor = (line.score if detector_score else 1.0) / length
            vectors.append([v * factor for v in vector])
            media.append(line.media)
        templates[template] = naive.template(vectors, media)
    return templates


def naive_joined(naive, templates, gallery, probes, fpir):
    """The circulating script's: one list of all scores with others, and a place in it."""
    mates, others = [], []
    for probe, subject in probes.items():
        for entry, owner in gallery.items():
            score = naive.cosine(templates[probe], templates[entry])
            (mates if owner == subject else others).append(score)
    threshold = sorted(others, reverse=True)[math.ceil(fpir * len(probes)) - 1]
    return sum(score > threshold for score in mates) / len(probes)


@pytest.mark.parametrize("flip", [True, False])
def test_every_variant_equals_a_naive_computation(made, embedder, naive, flip):
    result = ijb.evaluate(embedder, made.root, "ijbc", flip=flip)
    modes = [f"N{n}D{d}F{f}" for f in ((1, 0) if flip else (0,)) for n in (1, 0) for d in (1, 0)]
    assert [one.variant.mode for one in result.variants] == modes
    same = [label for *_, label in made.pairs]
    for one in result.variants:
        chosen = dataclasses.astuple(one.variant)
        templates = naive_templates(made, embedder, naive, *chosen)
        scores = [naive.cosine(templates[a], templates[b]) for a, b, _ in made.pairs]
        assert one.auc == pytest.approx(naive.auc(scores, same), abs=1e-12)
        expected = naive.tar_at_far(scores, same, Fraction(1, 10))
        assert one.verification.rates[0.1] == pytest.approx(expected)
        low, high = one.verification.intervals[0.1]
        assert low <= expected <= high
        assert one.verification.rates[1e-2] is one.verification.intervals[1e-2] is None
        assert "needs 1,000 impostor pairs" in one.verification.reasons[1e-2]
    aucs = [one.auc for one in result.variants]
    assert len(set(aucs)) == len(aucs)
    assert 0.6 < min(aucs) < max(aucs) < 1
    assert result.counts["media"] == len({line.media for line in made.lines})
    assert not result.complete


def test_search_equals_a_naive_computation(made, embedder, naive):
    headline = ijb.evaluate(embedder, made.root, "ijbc").headline
    templates = naive_templates(made, embedder, naive, True, True, True)
    probes = list(made.probes)
    vectors, owners = [templates[t] for t in probes], list(made.probes.values())
    assert list(headline.search.apart) == ["G1", "G2"]
    for name, gallery in made.galleries.items():
        found = headline.search.apart[name]
        assert found.num_impostor == 10  # two probes of each of five people
        for rank in (1, 5):
            closed, _ = naive.open_set(
                [templates[t] for t in gallery],
                list(gallery.values()),
                vectors,
                owners,
                rank,
                Fraction(1, 10),
            )
            assert found.rates[rank] == pytest.approx(closed)
    means = [np.mean([one.rates[r] for one in headline.search.apart.values()]) for r in (1, 5, 10)]
    assert list(headline.search.mean_rates.values()) == pytest.approx(means)
    both = {t: s for gallery in made.galleries.values() for t, s in gallery.items()}
    stranger = [1.0] * len(vectors[0])  # the naive search needs one; its rate does not count them
    closed, _ = naive.open_set(
        [templates[t] for t in both],
        list(both.values()),
        [*vectors, stranger],
        [*owners, 0],
        1,
        Fraction(1, 10),
    )
    assert headline.search.joined.rates[1] == pytest.approx(closed)
    assert headline.search.joined.tpir_at_fpir == {0.01: None, 0.1: None}  # 20 probes
    assert "needs 100 probes" in headline.search.joined.reasons[0.1]


@pytest.mark.parametrize("memory", [2**28, 2**14])
def test_joined_search_counts_as_the_script_in_circulation(naive, memory):
    rng = np.random.default_rng(1)
    gallery = rng.normal(size=(40, 24))
    owners = np.arange(40)
    seekers = rng.integers(0, 40, 150)
    probes = gallery[seekers] + rng.normal(0, 1.2, (150, 24))
    templates = np.vstack([gallery, probes, rng.normal(size=(30, 24))])
    halves = {
        "G1": TemplateOwners(np.arange(25), owners[:25].astype(str)),
        "G2": TemplateOwners(np.arange(25, 40), owners[25:].astype(str)),
    }
    search = search_templates(
        templates, halves, TemplateOwners(np.arange(40, 190), seekers.astype(str)), memory=memory
    )
    found = search.joined
    for name, half in halves.items():  # the same as by the general search
        single = open_set(
            templates[half.templates],
            half.subjects,
            probes,
            seekers.astype(str),
            ranks=(1, 5, 10),
            fars=(0.01, 0.1),
        )
        assert search.apart[name].rates == single.rates
        assert search.apart[name].dir_at_far[1].rates == single.dir_at_far[1].rates
        assert search.apart[name].num_impostor == single.num_impostor
    everybody = open_set(gallery, owners, probes, seekers, ranks=(1, 5, 10))
    assert found.rates == everybody.rates
    assert everybody.rates[1] < 1
    named = {f"g{i}": row for i, row in enumerate(gallery.tolist())}
    named |= {f"p{i}": row for i, row in enumerate(probes.tolist())}
    expected = naive_joined(
        naive,
        named,
        {f"g{i}": i for i in range(40)},
        {f"p{i}": int(s) for i, s in enumerate(seekers)},
        0.1,
    )
    assert 0.2 < expected < 0.8
    assert found.tpir_at_fpir[0.1] == pytest.approx(expected)
    assert found.tpir_at_fpir[0.01] is None
    more = TemplateOwners(np.arange(40, 220), np.append(seekers, [99] * 30).astype(str))
    again = search_templates(templates, halves, more)
    assert (again.num_probes, again.joined) == (180, found)  # who has no mate is left out


def test_a_gallery_of_one_person_has_nobody_who_could_be_taken_for_another():
    templates = np.random.default_rng(0).normal(size=(101, 4))
    alone = {"G1": TemplateOwners(np.arange(1), np.array(["a"]))}
    probes = TemplateOwners(np.arange(1, 101), np.repeat("a", 100))
    found = search_templates(templates, alone, probes).joined
    assert found.tpir_at_fpir[0.1] == 1


def test_pairs_are_scored_in_blocks_of_any_size():
    rng = np.random.default_rng(2)
    templates = rng.normal(size=(50, 16)).astype(np.float32)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    left, right = rng.integers(0, 50, (2, 300)).astype(np.int32)
    expected = [float(templates[a] @ templates[b]) for a, b in zip(left, right, strict=True)]
    for memory in (2**27, 4 * 50 * 3, 1):
        scores = template_cosines(templates, left, right, memory)
        assert scores.dtype == np.float32
        assert scores == pytest.approx(expected, abs=1e-6)


def test_curve_of_many_pairs_with_ties(naive):
    rng = np.random.default_rng(3)
    same = rng.random(3000) < 0.2
    scores = np.round(np.clip(rng.normal(0.1, 0.2, 3000) + 0.4 * same, -1, 1), 2)
    scores = scores.astype(np.float32)
    auc, rates = curve_of(scores, same)
    assert auc == pytest.approx(naive.auc(scores.tolist(), same.tolist()), abs=1e-12)
    for far in (0.1, 0.01):
        expected = naive.tar_at_far(scores.tolist(), same.tolist(), Fraction(str(far)))
        assert rates.rates[far] == pytest.approx(expected)
    assert rates.rates[1e-3] is None


@pytest.mark.slow
def test_full_size_pairs_fit_in_memory_and_minutes(tmp_path):
    """A quarter of IJB-C's templates, 4 million pairs; benchmarks/evaluation.py does all."""
    import resource

    rng = np.random.default_rng(0)
    templates = rng.standard_normal((23_124 // 2, 512), np.float32)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    left = np.sort(rng.integers(0, 3531 // 2, 4_000_000)).astype(np.int32)
    right = rng.integers(3531 // 2, len(templates), 4_000_000).astype(np.int32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scores = template_cosines(templates, left, right)
    auc, _ = curve_of(scores, rng.random(len(scores)) < 0.002)
    assert auc == pytest.approx(0.5, abs=0.02)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KB


def test_stored_embeddings_need_no_images(made, embedder, tmp_path):
    faces = np.stack([line.face for line in made.lines])
    names = [line.image for line in made.lines]
    stored = StoredEmbeddings(None, names, embedder(faces), embedder(faces[:, :, ::-1].copy()))
    direct = ijb.evaluate(embedder, made.root, "ijbc")
    root = tmp_path / "lists"
    root.mkdir()
    (root / "meta").symlink_to(made.root / "meta")
    result = ijb.evaluate(stored, root, "ijbc")
    assert [one.auc for one in result.variants] == [one.auc for one in direct.variants]
    with pytest.raises(FileNotFoundError, match=r"no folder .*loose_crop"):
        ijb.evaluate(embedder, root, "ijbc")
    fewer = StoredEmbeddings(None, names[3:], stored.embeddings[3:])
    with pytest.raises(ValueError, match=r"3 of \d+ images .*\n  1\.jpg: not in the file"):
        ijb.evaluate(fewer, root, "ijbc")


def test_an_image_in_two_templates_counts_in_both(tree, embedder, naive):
    extra = dataclasses.replace(tree.lines[0], template=tree.lines[-1].template, media=9)
    tree.lines.append(extra)
    append(tree.meta("face_tid_mid.txt"), f"{extra.image} {extra.template} {extra.media}\n")
    headline = ijb.evaluate(embedder, tree.root, "ijbc").headline
    templates = naive_templates(tree, embedder, naive, True, True, True)
    scores = [naive.cosine(templates[a], templates[b]) for a, b, _ in tree.pairs]
    same = [label for *_, label in tree.pairs]
    assert headline.auc == pytest.approx(naive.auc(scores, same), abs=1e-12)


def test_the_command(tree, save_pixels, tmp_path, capsys):
    model, out = save_pixels(tmp_path / "pixels.keras"), tmp_path / "out.json"
    arguments = ["ijb", str(model), "--root", str(tree.root), "--subset", "ijbc"]
    cache = tmp_path / "cache"
    page = tmp_path / "page.html"
    written = ["--json", str(out), "--report", str(page)]
    assert main([*arguments, *written, "--cache", str(cache)]) == 0
    captured = capsys.readouterr()
    values = json.loads(out.read_text())
    assert values["protocol"] == "ijbc"
    assert values["headline"] == values["variants"][0]
    assert values["headline"]["mode"] == "N1D1F1"
    assert len(values["variants"]) == 8
    fars = [row["far"] for row in values["headline"]["tar_at_far"]]
    assert fars == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    search = values["headline"]["identification"]
    assert set(search) == {"probes", "joined", "apart"}
    assert 0 <= search["apart"]["rank_1"] <= search["joined"]["rank_5"] <= 1
    assert values["data"]["complete"] is False
    printed = " ".join(captured.out.split())
    assert "both galleries joined, so that every probe has a mate" in printed
    assert "each gallery apart, and the mean of both" in printed
    assert "not the published IJB-C" in captured.err
    text = page.read_text()
    assert "A set in the layout of IJB-C" in text
    assert "not the published set" in text
    assert all(mode in text for mode in ("N1D1F1", "N0D0F0"))
    assert text.count("<svg") == 1
    assert not re.search(r"https?://(?!www\.w3\.org)", text)  # it needs no network
    auc = values["headline"]["auc"]
    points = values["curve"]["points"]
    area = sum(
        (b["far"] - a["far"]) * (a["tar"] + b["tar"]) / 2 for a, b in itertools.pairwise(points)
    )
    assert area + points[0]["far"] * points[0]["tar"] / 2 == pytest.approx(auc, abs=0.02)
    again = tmp_path / "again.json"
    assert main([*arguments, "--json", str(again), "--cache", str(cache)]) == 0
    assert json.loads(again.read_text())["variants"] == values["variants"]
    assert main([*arguments, "--no-flip", "--json", str(again)]) == 0
    assert len(json.loads(again.read_text())["variants"]) == 4


def test_a_killed_run_goes_on_from_its_cache(tree, save_pixels, tmp_path, monkeypatch):
    model = save_pixels(tmp_path / "pixels.keras")
    monkeypatch.setattr("tf_sphereface.alignment.face_reader.CHUNK", 5)

    def killed(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ijb.evaluate(model, tree.root, "ijbc", cache=tmp_path / "cache", progress=killed)
    read = []
    monkeypatch.setattr(
        "tf_sphereface.alignment.face_reader.cut_out",
        lambda image, points, size: read.append(1) or cv2.resize(image, size[::-1]),
    )
    ijb.evaluate(model, tree.root, "ijbc", cache=tmp_path / "cache")
    assert len(read) == len(tree.lines) - 5


def test_ijbb_has_its_own_names(tmp_path, make_face, embedder):
    tree = make_tree(tmp_path, make_face, "ijbb", people=4)
    headline = ijb.evaluate(embedder, tree.root, "ijbb").headline
    assert list(headline.search.apart) == ["S1", "S2"]
    with pytest.raises(FileNotFoundError, match="There are files of IJB-B: give subset ijbb"):
        ijb.evaluate(embedder, tree.root, "ijbc")
