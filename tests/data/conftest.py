"""A folder of faces, and arrays in which every picture tells its position."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.comparing import PEOPLE, PICTURES, SIZE
from tf_sphereface.data import synthetic


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 5 people with 8 pictures each at 56 x 48."""
    folder = tmp_path_factory.mktemp("faces")
    return synthetic.write_folder(folder, PEOPLE, PICTURES, size=SIZE)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The same folder with five files spoilt, and what is expected to be said of each."""
    folder = synthetic.write_folder(tmp_path / "faces", PEOPLE, PICTURES, size=SIZE)
    files = sorted(folder.glob("*/*.jpg"))
    whole = files[3].read_bytes()
    files[3].write_bytes(whole[: len(whole) // 2])
    files[9].write_bytes(b"")
    files[17].write_bytes(b"no image at all")
    files[25].write_bytes(files[25].read_bytes()[:-30])
    files[26].write_bytes(bytes([0xFF, 0xD8, 0xFF, 0xE0]) + os.urandom(500))
    expected = {
        files[3].name: "truncated",
        files[9].name: "empty",
        files[17].name: "not an image",
        files[25].name: "truncated",
        files[26].name: "corrupt",
    }
    return folder, expected


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """37 pictures whose every pixel tells their position: 37 is no multiple of a batch."""
    images = np.zeros((37, *SIZE, 3), np.uint8) + np.arange(37, dtype=np.uint8)[:, None, None, None]
    return images, np.arange(37, dtype=np.int32)
