"""A small network in a file, and folders of drawn faces and photographs for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.albums import photo, save
from tests.embedder.small import make_network
from tf_sphereface.data import synthetic
from tf_sphereface.embedder import EmbedderMetadata
from tf_sphereface.embedder.embedder import save_embedder

SIZE = (56, 48)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.keras"
    metadata = EmbedderMetadata(input_size=SIZE, template="112x96", flip="concat")
    save_embedder(make_network(size=SIZE), path, metadata)
    return path


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    """Twenty people, five aligned faces each."""
    root = tmp_path_factory.mktemp("faces")
    synthetic.write_folder(root, 20, 5, size=SIZE)
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Photographs of one face and of two, one without, one that is damaged."""
    root = tmp_path_factory.mktemp("photos")
    save(root / "a/one.png", photo(3, at=[(110, 60)]))
    save(root / "a/two.png", photo(3, 5, at=[(110, 60), (215, 120)]))
    save(root / "none.png", photo())
    (root / "broken.jpg").write_bytes(b"no picture")
    return root
