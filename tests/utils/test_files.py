"""Files that are written whole, and what is no file."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from tf_sphereface.utils.files import write_json


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
