"""An album of photographs, and the count of what the detector was shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.albums import photo, save
from tests.training.small_backbone import small_backbone
from tf_sphereface.alignment.detector import FaceDetector
from tf_sphereface.data import synthetic

__all__ = ["small_backbone"]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """One face, two, none, one that is too small, one broken file; `src` in a temporary folder."""
    src = tmp_path / "src"
    save(src / "A/one.png", photo(3, at=[(110, 60)]))
    save(src / "A/two.png", photo(3, 5, at=[(110, 60), (215, 120)]))
    save(src / "B/none.png", photo())
    save(src / "B/tiny.png", photo(3, at=[(110, 60)], scale=0.5))
    (src / "B/broken.jpg").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the images that the detector has seen."""
    seen: list[tuple[int, ...]] = []
    detect = FaceDetector.__call__

    def count(self, image):
        seen.append(image.shape)
        return detect(self, image)

    monkeypatch.setattr(FaceDetector, "__call__", count)
    return seen


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people, ten faces each, 56x48."""
    root = tmp_path_factory.mktemp("faces")
    synthetic.write_folder(root, 4, 10, size=(56, 48))
    return root
