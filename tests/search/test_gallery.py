from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.search.people import DIM, people
from tf_sphereface.search import Gallery
from tf_sphereface.utils.messages import SphereFaceWarning


def test_a_person_is_the_mean_of_the_unit_vectors():
    gallery = Gallery.from_embeddings(
        [[2.0, 0.0, 0.0], [0.0, 7.0, 0.0], [0.0, 0.0, 1.0]], ["Ann", "Ann", "Bob"], threshold=0.6
    )
    (answer,) = gallery.identify([[5.0, 0.0, 1.0]])
    assert answer[0] == "Ann"
    np.testing.assert_allclose(answer[1:], [5 / np.sqrt(52), 1 / np.sqrt(26)], atol=1e-7)
    assert gallery.names == ["Ann", "Bob"]


def test_who_is_far_from_everybody_or_has_no_direction_is_nobody():
    gallery = Gallery.from_embeddings(np.eye(3), ["a", "b", "c"], threshold=0.9)
    far, nan, zero, near = gallery.identify([[1, 1, 1], [np.nan, 0, 1], [0, 0, 0], [0, 0, 1e-9]])
    assert far[0] is None
    assert far[1] == pytest.approx(3**-0.5)
    for name, cosine, runner_up in (nan, zero):
        assert name is None
        assert np.isnan([cosine, runner_up]).all()
    assert near == ("c", 1.0, 0.0)
    with pytest.raises(ValueError, match=r"are 3 long. Received: shape \(1, 4\)"):
        gallery.identify(np.ones((1, 4)))
    assert gallery.identify(np.zeros((0, 3))) == []


def test_one_person_alone_has_no_runner_up():
    gallery = Gallery.from_embeddings([[1.0, 0.0]], ["a"], threshold=0.5)
    ((name, cosine, runner_up),) = gallery.identify([[1.0, 0.0]])
    assert (name, cosine) == ("a", 1.0)
    assert np.isnan(runner_up)


def test_in_one_photograph_a_name_goes_to_the_nearest_face():
    gallery = Gallery.from_embeddings([[1.0, 0, 0], [0.8, 0.6, 0]], ["a", "b"], threshold=0.7)
    faces = [[1.0, 0.1, 0], [1, 0, 0], [1, 0, 0.2]]
    assert [name for name, _, _ in gallery.identify(faces)] == ["a", "a", "a"]
    together = gallery.identify(faces, distinct=True)
    assert [name for name, _, _ in together] == ["b", "a", None]
    assert together[0][1] < together[0][2]  # the nearest of the others is nearer, and taken


def test_without_a_threshold_nobody_is_named_and_it_is_said():
    vectors, names = people(5, 3)
    gallery = Gallery.from_embeddings(vectors, names)
    assert gallery.threshold is None
    assert "needs 300 pictures of 50 enrolled people" in gallery.calibration.reason
    with pytest.warns(SphereFaceWarning, match="no threshold, so nobody is named"):
        answers = gallery.identify(vectors)
    assert {name for name, _, _ in answers} == {None}
    assert answers[0][1] > 0.5
    rows, _ = gallery.nearest(vectors[:3])
    assert [gallery.names[row] for row in rows[:, 0]] == names[:3]


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "g.gallery"
    gallery = Gallery.create(path, embedding_dim=DIM)
    vectors, names = people(2, 2)
    gallery.add(vectors, names)
    before = path.read_bytes()
    for bad, match in (
        (np.ones((1, DIM + 1)), f"gallery's are {DIM} long"),
        (np.zeros((1, DIM)), "finite and not zero"),
        (np.full((1, DIM), np.nan), "finite and not zero"),
    ):
        with pytest.raises(ValueError, match=match):
            gallery.add(bad, ["x"])
    with pytest.raises(ValueError, match="not empty"):
        gallery.add(np.ones((1, DIM)), [""])
    with pytest.raises(ValueError, match="name each"):
        gallery.add(np.ones((2, DIM)), ["x"])
    with pytest.raises(ValueError, match="strangers must not be enrolled"):
        gallery.add(np.ones((1, DIM)), [names[0]], strangers=True)
    with pytest.raises(ValueError, match="nobody of the name 'x'"):
        gallery.remove([names[0], "x"])
    with pytest.raises(ValueError, match="cancel each other"):
        gallery.add([np.eye(DIM)[0], -np.eye(DIM)[0]], ["x", "x"])
    assert path.read_bytes() == before
    with pytest.raises(FileExistsError, match="never written over"):
        Gallery.create(path, embedding_dim=DIM)


def test_people_come_and_go_and_the_file_remembers(tmp_path):
    path = tmp_path / "g.gallery"
    vectors, names = people(4, 3)
    gallery = Gallery.create(path, embedding_dim=DIM, rate=0.02)
    assert gallery.add(vectors, names, sources=[f"{k}.jpg" for k in range(12)]) == 12
    assert gallery.add(vectors[:5] * 3, names[:5]) == 0  # the same pictures
    assert gallery.remove(names[0]) == 3
    assert gallery.add(vectors[:3], ["Zoe\u0301"] * 3) == 3
    again = Gallery.open(path)
    assert again.names == [*sorted(set(names))[1:], "Zo\u00e9"]
    np.testing.assert_array_equal(again.templates, gallery.templates)
    info = again.info()
    assert (info["people"], info["faces"], info["false_identification_rate"]) == (4, 12, 0.02)
    assert info["threshold"] is None
    assert info["faces_per_person"]["Zo\u00e9"] == 3
    gallery.remove("Zoe\u0301")
    assert vectors[0].astype("<f4").tobytes() not in path.read_bytes()  # overwritten


def test_questions_during_changes_are_answered_from_one_state():
    vectors, names = people(30, 4)
    gallery = Gallery.from_embeddings(vectors, names, threshold=0.1)
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers = gallery.identify(vectors[40:])
            known = set(names) | {"new"}
            wrong.extend(name for name, _, _ in answers if name not in known)
            wrong.extend(1 for (n, _, _), m in zip(answers, names[40:], strict=True) if n != m)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for k in range(10):
        gallery.remove(names[4 * k])
        gallery.add(-vectors[4 * k : 4 * k + 4], [names[4 * k]] * 4)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_people_whom_threads_add_at_once_are_all_there(tmp_path):
    for place in (None, tmp_path / "g.gallery"):
        gallery = Gallery.create(place, embedding_dim=DIM)
        vectors, names = people(24, 2)
        threads = [
            threading.Thread(target=gallery.add, args=(vectors[k : k + 2], names[k : k + 2]))
            for k in range(0, 48, 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(gallery) == 24


def test_usearch_gives_the_same_names():
    pytest.importorskip("usearch")
    vectors, names = people(200, 3)
    exact = Gallery.from_embeddings(vectors, names, threshold=0.3)
    graph = Gallery.from_embeddings(vectors, names, threshold=0.3, search="usearch")
    assert [a[0] for a in graph.identify(vectors)] == [a[0] for a in exact.identify(vectors)]
    assert graph.recall() > 0.95
    assert exact.recall() == 1.0


def test_one_picture_under_two_names_is_told(caplog):
    people = np.eye(6)
    gallery = Gallery.from_embeddings(people[:4], list("ABCD"), threshold=0.5)
    assert not caplog.messages
    gallery.add(people[3:5], ["Dora", "E"])
    assert "one picture is under two names: Dora and D. If they are one" in caplog.messages[0]
    gallery.add(people[[5, 5]], ["F", "G"])
    assert "one picture is under two names: G and F." in caplog.messages[1]
    gallery.add(people[:1], ["A"])  # again: left out
    assert len(caplog.messages) == 2
