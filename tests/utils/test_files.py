"""Files that are written whole, and what is no file."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from tf_sphereface.utils import files
from tf_sphereface.utils.files import atomic_path, write_json


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "verdict.json"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_json, args=(pipe, {"same": True}))
    writer.start()
    assert json.loads(pipe.read_text()) == {"same": True}
    writer.join()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    target = tmp_path / "table.npz"

    def write() -> None:
        with atomic_path(target) as temporary:
            temporary.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: '.*table\.npz'") as caught:
        write()
    assert caught.value.filename == str(target)
    with pytest.raises(FileNotFoundError, match=r"elsewhere"), atomic_path(target):
        (tmp_path / "elsewhere").read_bytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slow", [True, False])
def test_the_system_is_told_of_parts_that_are_not_in_memory(slow, monkeypatch):
    now, announced = [0.0], []

    class Disk:
        def read(self, offset: int, length: int) -> bytes:
            now[0] += 1e-4 if slow else 1e-6
            return bytes([offset]) * length

        def announce(self, offset: int, length: int) -> None:
            announced.append(offset)

    monkeypatch.setattr(files.time, "perf_counter", lambda: now[0])
    parts = [(Disk(), offset, 2) for offset in range(20)]
    assert list(files.read_parts(parts)) == [bytes([offset]) * 2 for offset in range(20)]
    assert announced == (list(range(files.FEW, 20)) if slow else [])
