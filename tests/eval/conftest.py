"""Fixtures of the evaluation's tests: the naive evaluator, and small faces."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import keras
import numpy as np
import pytest

from tests.embedder.small import KNOWN
from tests.eval.ijb_tree import make_tree
from tf_sphereface.embedder import Embedder, EmbedderMetadata, load_embedder, save_embedder

SIZE = (112, 96)


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """The naive evaluator of reference.py."""
    spec = importlib.util.spec_from_file_location(
        "eval_reference", Path(__file__).with_name("reference.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pixels_model(size: tuple[int, int] = SIZE) -> keras.Model:
    """The average colours of an 8 x 8 grid: an embedding that needs no training."""
    image = keras.Input((*size, 3), name=KNOWN)
    pooled = keras.layers.AveragePooling2D((size[0] // 8, size[1] // 8))(image)
    return keras.Model(image, keras.layers.Flatten()(pooled), name="pixels")


@pytest.fixture(scope="session")
def network() -> keras.Model:
    return pixels_model()


@pytest.fixture(scope="session")
def embedder(network: keras.Model) -> Embedder:
    return load_embedder(network)


@pytest.fixture(scope="session")
def save_pixels() -> Callable[..., Path]:
    """Writes the same network as a .keras file; another `loss` makes another file."""

    def save(path: Path, loss: str = "none") -> Path:
        save_embedder(pixels_model(), path, EmbedderMetadata(loss=loss))
        return path

    return save


@pytest.fixture(scope="session")
def half_embedder() -> Embedder:
    return load_embedder(pixels_model((56, 48)))


def face(identity: int, sample: int, noise: float = 30) -> np.ndarray:
    """A smooth random picture of an identity, with a little noise of the sample."""
    coarse = np.random.default_rng(identity).integers(0, 256, (7, 6, 3)).astype(np.float32)
    coarse += np.random.default_rng([identity, sample]).normal(0, noise, coarse.shape)
    image = cv2.resize(np.clip(coarse, 0, 255), SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    return image.astype(np.uint8)


@pytest.fixture(scope="session")
def make_face() -> Callable[..., np.ndarray]:
    return face


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture(scope="session")
def write_image() -> Callable[[Path, np.ndarray], None]:
    return write


@pytest.fixture
def lfw_folder(tmp_path: Path) -> Path:
    """12 people with 3 images each, and pairs.txt: 3 folds of 4 genuine + 4 impostor pairs."""
    root = tmp_path / "images"
    for person in range(12):
        for number in (1, 2, 3):
            write(root / f"P{person:02d}" / f"P{person:02d}_{number:04d}.jpg", face(person, number))
    lines = ["3\t4"]
    for fold in range(3):
        people = [f"P{4 * fold + k:02d}" for k in range(4)]
        lines += [f"{name}\t1\t{2 + k % 2}" for k, name in enumerate(people)]
        lines += [f"{a}\t1\t{b}\t2" for a, b in zip(people, people[1:] + people[:1], strict=True)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def tree(tmp_path, make_face):
    """A small one to spoil."""
    return make_tree(tmp_path / "IJBC", make_face, people=4)
