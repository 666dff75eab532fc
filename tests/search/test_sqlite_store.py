from __future__ import annotations

import gc
import os
import signal
import sqlite3
import threading
import warnings

import numpy as np
import pytest

from tests.search.people import DIM, people
from tf_sphereface.search import Gallery, sqlite_store
from tf_sphereface.search.gallery_record import GalleryChange, NewFaces
from tf_sphereface.search.sqlite_store import SqliteStore


@pytest.fixture
def path(tmp_path):
    gallery = Gallery.create(tmp_path / "g.gallery", embedding_dim=DIM)
    gallery.add(*people(6, 3))
    return tmp_path / "g.gallery"


def same(first, second):
    return (
        first.facts == second.facts
        and first.names == second.names
        and first.vectors.tobytes() == second.vectors.tobytes()
        and first.owner.tolist() == second.owner.tolist()
        and first.sources == second.sources
    )


def test_no_changed_byte_goes_unnoticed(path):
    whole, record = path.read_bytes(), SqliteStore(path).load()
    noticed = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 150):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        message = None
        try:
            unharmed = same(SqliteStore(path).load(), record)  # in an unused part of the file
        except (ValueError, OSError) as error:
            message = str(error)
        assert unharmed if message is None else str(path) in message, place
        noticed += message is not None
    assert noticed > 15
    for length in (0, 10, 1000, 4096, len(whole) - 4096, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises((ValueError, OSError), match="gallery"):
            SqliteStore(path).load()


def test_missing_rows_and_an_edited_threshold_are_damage(path):
    whole = path.read_bytes()
    for statement in (
        "DELETE FROM faces WHERE id = 4",
        "UPDATE people SET name = 'Eve' WHERE id = 1",
        "UPDATE faces SET person = 2 WHERE id = 1",
        "UPDATE facts SET value = '0.5' WHERE name = 'rate'",
        "UPDATE faces SET embedding = zeroblob(128) WHERE id = 2",
        "UPDATE faces SET embedding = NULL WHERE id = 2",
        "DROP TABLE people",
    ):
        path.write_bytes(whole)
        database = sqlite3.connect(path)
        with database:
            try:
                database.execute(statement)
            except sqlite3.IntegrityError:
                continue  # SQLite refuses it itself
        database.close()
        with pytest.raises(ValueError, match="is damaged"):
            Gallery.open(path)


def test_a_schema_that_is_no_text_is_damage(path):
    whole = path.read_bytes()
    schema = whole.index(b"CREATE TABLE", 0, 4096)
    path.write_bytes(whole[: schema + 14] + b"\xff\xfe" + whole[schema + 16 :])
    with pytest.raises(ValueError, match=r"g.gallery is damaged"):
        Gallery.open(path)


def test_foreign_and_later_files_are_named(tmp_path, path):
    foreign = tmp_path / "photos.db"
    sqlite3.connect(foreign).execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(ValueError, match=r"photos.db is no gallery of tf_sphereface-search"):
        Gallery.open(foreign)
    (tmp_path / "text").write_text("names\n" * 1000)
    with pytest.raises(ValueError, match="text is no gallery, and no SQLite file"):
        Gallery.open(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="no gallery"):
        Gallery.open(tmp_path / "none")
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2").connection.close()
    with pytest.raises(ValueError, match="has the format 2, and this version"):
        Gallery.open(path)


def test_a_killed_writer_leaves_the_gallery_as_it_was(path):
    before = SqliteStore(path).load()
    more = NewFaces(["x"] * 20_000, np.ones((20_000, DIM), np.float32), [""] * 20_000)

    def stop(database):
        os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: none is needed
        gc.collect()
        child = os.fork()
    if child == 0:
        gc.disable()  # what is freed may wait for threads, of which a child has none
        try:
            sqlite_store._write_sums = stop  # what was written lies in the file, uncommitted
            change = GalleryChange([before.names[0]], [more], {})
            SqliteStore(path).update(lambda record: change)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.with_name("g.gallery-journal").stat().st_size > 0
    assert same(SqliteStore(path).load(), before)
    assert Gallery.open(path).add(*people(1, 2, seed=5)) == 2


def test_a_full_disk_changes_nothing(path, monkeypatch):
    before = path.read_bytes()

    def full(database):
        raise sqlite3.OperationalError("database or disk is full")

    gallery = Gallery.open(path)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_store, "_write_sums", full)
        with pytest.raises(OSError, match="database or disk is full"):
            gallery.add(*people(1, 2, seed=5))
        with pytest.raises(OSError, match="full"):
            Gallery.create(path.parent / "new", embedding_dim=4)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["g.gallery"]


def test_several_read_and_write_at_once(path):
    """Readers see a whole state; two writers follow each other, and none's change is lost."""
    errors, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                counts = np.bincount(SqliteStore(path).load().owner)
                assert set(counts) == {3}
            except Exception as error:
                errors.append(error)

    def write(seed):
        gallery = Gallery.open(path)
        for k in range(4):
            gallery.add(*people(2, 3, seed=10 * seed + k))

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not errors
    assert len(Gallery.open(path)) == 6 + 2 * 4 * 2
