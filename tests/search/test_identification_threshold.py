from __future__ import annotations

import numpy as np
import pytest

from tests.search.people import DIM, people
from tf_sphereface.search import Gallery, identification_threshold
from tf_sphereface.search.exact_search import unit_rows
from tf_sphereface.search.identification_threshold import find_threshold


def named(gallery, vectors):
    return np.mean([name is not None for name, _, _ in gallery.identify(vectors)])


@pytest.fixture(scope="module")
def strangers():
    return people(150, 6, seed=9)


def test_the_wanted_share_of_strangers_gets_a_name_at_most(strangers):
    """Over galleries, and no threshold is much stricter than need be."""
    shares, missed = [], []
    for seed in range(8):
        vectors, names = people(80, 8, seed=seed + 20)
        gallery = Gallery.from_embeddings(vectors[::2], names[::2], rate=0.02)
        assert gallery.calibration.origin == "people"
        shares.append(named(gallery, strangers[0]))
        missed.append(1 - named(gallery, vectors[1::2]))
    assert 0.004 < np.mean(shares) < 0.02
    assert np.max(shares) < 0.04
    assert np.mean(missed) < 0.2


def test_strangers_come_first_and_are_never_named(strangers, tmp_path):
    path = tmp_path / "g.gallery"
    gallery = Gallery.create(path, embedding_dim=DIM, rate=0.01)
    vectors, names = people(10, 4)
    gallery.add(vectors, names)
    assert gallery.threshold is None
    gallery.add(*strangers, strangers=True)
    found = Gallery.open(path).calibration
    assert (found.origin, found.pictures, found.people) == ("strangers", 900, 150)
    assert found == gallery.calibration
    assert named(gallery, strangers[0]) == found.measured_rate <= 0.01
    low, high = found.rate_interval
    assert 0 <= low <= found.measured_rate <= high <= 0.06
    assert found.threshold_interval[1] == found.threshold
    assert not set(strangers[1]) & set(gallery.names)


def test_a_larger_gallery_has_a_higher_threshold(strangers):
    vectors, names = people(200, 2)
    gallery = Gallery.from_embeddings(vectors[:20], names[:20], rate=0.02)
    gallery.add(*strangers, strangers=True)
    thresholds = [gallery.threshold]
    for begin, end in ((20, 100), (100, 400)):
        gallery.add(vectors[begin:end], names[begin:end])
        thresholds.append(gallery.threshold)
    assert thresholds == sorted(set(thresholds))
    gallery.remove(sorted(set(names))[10:])
    assert gallery.threshold == thresholds[0]


@pytest.mark.parametrize(
    ("count", "each", "rate", "found"),
    [
        (50, 6, 0.01, True),
        (50, 5, 0.01, False),
        (49, 9, 0.01, False),
        (60, 60, 0.001, False),  # of too few people
        (50, 1, 0.1, True),
    ],
)
def test_too_few_people_or_pictures_give_no_threshold(count, each, rate, found):
    vectors, names = people(count, each)
    gallery = Gallery.from_embeddings(vectors, names, rate=rate)
    assert (gallery.threshold is not None) == found
    assert (gallery.calibration.reason is None) == found


def test_of_very_many_pictures_some_people_are_drawn(monkeypatch):
    vectors, names = people(100, 6)
    whole = Gallery.from_embeddings(vectors, names, rate=0.05)
    monkeypatch.setattr(identification_threshold, "MOST_PICTURES", 400)
    drawn = Gallery.from_embeddings(vectors, names, rate=0.05)
    assert (drawn.calibration.pictures, drawn.calibration.people) == (396, 66)
    assert drawn.calibration.gallery_people == 100
    assert drawn.threshold == pytest.approx(whole.threshold, abs=0.08)


def test_one_person_with_very_many_pictures_leaves_room_for_others(monkeypatch):
    monkeypatch.setattr(identification_threshold, "MOST_PICTURES", 100)
    vectors, names = people(61, 2)
    many = np.tile(vectors[:2], (150, 1)) + np.random.default_rng(0).normal(0, 0.1, (300, DIM))
    gallery = Gallery.from_embeddings(np.vstack([vectors, many]), [*names, *names[:1] * 300])
    assert (gallery.calibration.pictures, gallery.calibration.people) == (100, 50)


def test_too_few_strangers_leave_it_to_the_enrolled_and_can_be_removed(tmp_path):
    """And not without a threshold, for good."""
    vectors, names = people(65, 6)
    path = tmp_path / "g.gallery"
    Gallery.from_embeddings(vectors[:360], names[:360], rate=0.02).save(path)
    gallery = Gallery.open(path)
    before = gallery.threshold
    strangers = [f"s{name}" for name in names[360:]]
    gallery.add(vectors[360:], strangers, strangers=True)
    assert (gallery.threshold, gallery.calibration.origin) == (before, "people")
    assert "30 pictures of 5 strangers" in gallery.calibration.not_strangers
    assert gallery.info()["stranger_names"] == sorted(set(strangers))
    assert gallery.remove(strangers[0]) == 6
    assert len(Gallery.open(path).info()["stranger_names"]) == 4


def test_the_model_s_calibration_serves_where_its_rate_is_small_enough():
    """Each enrolled picture is a chance to be wrong, so more of them need a smaller rate."""

    def ask(pictures, thresholds):
        vectors, names = people(10, pictures // 10)
        owner = np.repeat(np.arange(10), pictures // 10)
        enrolled = (sorted(set(names)), unit_rows(vectors), owner)
        nobody = ([], np.zeros((0, DIM), np.float32), np.zeros(0, np.int64))
        templates = enrolled[1][:: pictures // 10]
        return find_threshold(templates, enrolled, nobody, {"thresholds": thresholds}, 0.01)

    stated = {"0.01": 0.3, "0.001": 0.4, "0.0001": 0.5}
    found = ask(10, stated)
    assert (found.origin, found.threshold) == ("model", 0.4)
    assert found.measured_rate == pytest.approx(1 - (1 - 1e-3) ** 10)
    assert ask(100, stated).threshold == 0.5
    refused = ask(110, stated)
    assert refused.threshold is None
    assert "down to a false accept rate of 0.0001, and 110 enrolled pictures need 9.1e-05" in (
        refused.reason
    )
    assert "states no threshold" in ask(100, {}).reason


def test_the_interval_holds_the_rate_of_other_strangers(strangers):
    """The pictures of a person are alike: they do not tell as much as pictures of many."""
    inside = 0
    for seed in range(20):
        vectors, names = people(60, 6, seed=seed + 40)
        gallery = Gallery.from_embeddings(vectors, names, rate=0.01)
        low, high = gallery.calibration.rate_interval
        assert low <= gallery.calibration.measured_rate <= high
        inside += low <= named(gallery, strangers[0]) <= high
    assert inside >= 18


def test_equal_cosines_are_not_named_beyond_the_rate():
    """200 people who are enrolled under two names each: nobody can be told apart."""
    vectors, names = people(200, 1)
    twice = [*names, *(f"{name} again" for name in names)]
    gallery = Gallery.from_embeddings(np.concatenate([vectors, vectors]), twice, rate=0.01)
    assert gallery.calibration.measured_rate == 0
    assert gallery.threshold > gallery.calibration.nearest[2]
