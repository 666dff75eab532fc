"""Class centres in files: what a checkpoint needs is there after a kill at any moment."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import warnings

import numpy as np
import pytest

from tf_sphereface.layers.center_table import CenterTable
from tf_sphereface.layers.mapped_center_table import MappedCenterTable
from tf_sphereface.utils import hardware

CLASSES, WIDTH = 50, 6


def first(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.float32)[:, None] + np.ones(WIDTH, np.float32)


def table_in(folder, classes: int = CLASSES, width: int = WIDTH) -> MappedCenterTable:
    table = MappedCenterTable(folder, classes, width, first)
    table.add(0.5)
    return table


def step(table: CenterTable, seed: int) -> None:
    """Change some rows of both tables, as an update does."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(CLASSES)[:20].astype(np.int32)
    centers, slots = table.read(classes)
    table.write(classes, [centers + 1, slots + rng.normal(size=slots.shape).astype("float32")])


def content(table: CenterTable) -> list[np.ndarray]:
    return [table.whole(0).copy(), table.whole(1).copy()]


def saved(table: MappedCenterTable) -> tuple:
    """What a checkpoint file keeps of a table."""
    state = {name: value.copy() for name, value in table.state().items()}
    table.kept()
    return state, table.facts()


def assert_same(found: CenterTable, expected: list[np.ndarray]) -> None:
    for a, b in zip(content(found), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_and_memory_hold_the_same(tmp_path):
    memory = CenterTable(CLASSES, WIDTH, first)
    memory.add(0.5)
    files = table_in(tmp_path / "c")
    assert not (tmp_path / "c").exists()  # until it is used
    for seed in range(6):
        for table in (memory, files):
            step(table, seed)
        assert_same(files, content(memory))
        files.kept()
    assert files.bytes == 2 * memory.bytes == sum(p.stat().st_size for p in files._files())
    again = CenterTable(CLASSES, WIDTH, first)
    again.add(0.5)
    again.restore({name: value.copy() for name, value in memory.state().items()}, memory.facts())
    assert_same(again, content(memory))


@pytest.mark.parametrize("steps", [1, 5])
def test_a_process_killed_in_the_middle_of_a_write_leaves_the_checkpoint_s_state(tmp_path, steps):
    table = table_in(tmp_path)
    for seed in range(3):
        step(table, seed)
    state, facts = saved(table)
    expected = content(table)
    del table
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of threads, unused here
        gc.collect()
        child = os.fork()
    if child == 0:  # it has the same state, writes on, and dies between two tables' rows
        gc.disable()  # what is freed may wait for threads, of which a child has none
        try:
            going_on = table_in(tmp_path)
            going_on.restore(state, facts)
            for seed in range(10, 10 + steps):
                step(going_on, seed)
            going_on._tables[1] = None
            step(going_on, 99)
        except TypeError:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    resumed = table_in(tmp_path)
    resumed.restore(state, facts)
    assert_same(resumed, expected)


def test_only_the_newest_checkpoint_s_state_is_there_and_another_is_named(tmp_path):
    table = table_in(tmp_path)
    step(table, 0)
    old = saved(table)
    step(table, 1)
    new, expected = saved(table), content(table)
    del table
    for state, facts in (old, new):  # no write since the newest: both are there
        table_in(tmp_path).restore(state, facts)
    table = table_in(tmp_path)
    table.restore(*new)
    step(table, 2)
    del table
    with pytest.raises(ValueError, match=r"classes are of a later state, or damaged"):
        table_in(tmp_path).restore(*old)
    table = table_in(tmp_path)
    table.restore(*new)
    assert_same(table, expected)
    del table
    path = tmp_path / "centers.f32"
    with path.open("r+b") as handle:
        handle.truncate(100)
    with pytest.raises(ValueError, match=r"centers\.f32 must have .* bytes, and has 100"):
        table_in(tmp_path).restore(*new)


def test_a_folder_is_one_run_s(tmp_path):
    table = table_in(tmp_path / "c")
    step(table, 0)
    newer = table_in(tmp_path / "c")  # no checkpoint needs the files: they are made anew
    step(newer, 0)
    with pytest.raises(ValueError, match="used by another model now"):
        step(table, 1)
    state, facts = saved(newer)
    del newer, table
    with (tmp_path / "c" / "lock").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="in use by another process"):
            table_in(tmp_path / "c").restore(state, facts)
    with pytest.raises(ValueError, match=r"a run that has a checkpoint: resume that run"):
        table_in(tmp_path / "c").open()
    shutil.copytree(tmp_path / "c", tmp_path / "moved")
    table_in(tmp_path / "moved").restore(state, facts)
    table_in(tmp_path / "other").open()
    with pytest.raises(ValueError, match=r"not hold the class centres of the run, which were in"):
        table_in(tmp_path / "other").restore(state, facts)
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"holds other files \(a\.jpg\)"):
        table_in(tmp_path / "faces").open()
    with pytest.raises(ValueError, match="another number or size"):
        table_in(tmp_path / "c", classes=CLASSES + 1).restore(state, facts)


def test_too_little_room_is_an_error_before_any_file(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"take 0\.0 GB in .*twice their size"):
        table_in(tmp_path / "c").open()
    assert not list((tmp_path / "c").glob("*.f32"))
    monkeypatch.setattr(hardware, "free_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"GB are free: keep them in files"):
        CenterTable(CLASSES, WIDTH, first).open()


def test_a_row_that_is_not_finite_is_no_state_to_keep(tmp_path):
    files = MappedCenterTable(tmp_path, CLASSES, WIDTH, first)
    for table in (CenterTable(CLASSES, WIDTH, first), files):
        rows = np.full((2, WIDTH), 3e38, np.float32)  # finite, though their sum is not
        table.write(np.array([3, 4], np.int32), [rows])
        table.state()
        rows[1, 0] = np.nan
        table.write(np.array([3, 4], np.int32), [rows])
        assert table.count_lost() == 1
        with pytest.raises(ValueError, match="1 class centres"):
            table.state()


def test_a_million_classes(tmp_path):
    """A tenth of them a step, in memory and in files: the same rows, and the checkpoint's."""
    classes, width, rng = 1_000_000, 8, np.random.default_rng(0)

    def made(kind, *place) -> CenterTable:
        table = kind(*place, classes, width, lambda a, b: np.ones((b - a, width), np.float32))
        table.add(0.5)
        return table

    memory, files = made(CenterTable), made(MappedCenterTable, tmp_path)
    for number in range(4):
        if number == 3:
            state, facts = saved(files)
            expected = content(files)
        chosen = rng.permutation(classes)[: classes // 10].astype(np.int32)
        for table in (memory, files):
            centers, slots = table.read(chosen)
            table.write(chosen, [centers - slots, 0.9 * slots])
    assert_same(files, content(memory))
    del files, table
    resumed = made(MappedCenterTable, tmp_path)
    resumed.restore(state, facts)
    assert_same(resumed, expected)
