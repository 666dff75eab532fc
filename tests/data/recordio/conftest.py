"""A RecordIO set, its folder, and a cache of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.comparing import SIZE
from tests.data.rec_files import (
    insightface,
    write,
    write_idx,
)
from tf_sphereface.data import synthetic


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("LOCALAPPDATA", str(folder))
    return folder


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """A set in insightface's form: 3, 1, 4 images of three people, keys 1 to 8."""
    path = tmp_path / "train.rec"
    write_idx(path.with_suffix(".idx"), write(path, insightface([3, 1, 4])))
    path.with_name("property").write_text("3,56,48")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 5 people with 8 pictures each, one of them damaged."""
    root = synthetic.write_folder(tmp_path / "faces", 5, 8, size=SIZE)
    sorted(root.glob("*/*.jpg"))[10].write_bytes(b"no image")
    return root
