"""A teacher: an embedder whose embeddings a network is trained to have."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.template import missing_columns
from tf_sphereface.data.decoding import path_size
from tf_sphereface.data.options import Size
from tf_sphereface.embedder import Embedder, load_embedder
from tf_sphereface.embedder.embedder import embed_sides
from tf_sphereface.embedder.input_facts import FACTS
from tf_sphereface.embedder.model_hashes import model_sha256
from tf_sphereface.training.pretrained import network_digest
from tf_sphereface.training.recipes import Recipe

_TRIAL = 32  # faces, to measure how long an embedding takes


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """An embedder to learn from; made by `open_teacher`.

    Attributes:
        embedder: it is called, never trained.
        name: its file, or the model's name.
        sha256: of the file, or of the network in memory, and of how it is fed.

    Example:

    >>> import keras
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> teacher = open_teacher(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> teacher.embed(np.zeros((2, 28, 24, 3), np.uint8)).shape  # faces, then mirrored
    (2, 2, 2016)
    """

    embedder: Embedder
    name: str
    sha256: str

    @property
    def dim(self) -> int:
        """Length of an image's embedding."""
        return self.embedder.image_dim

    @property
    def training_data(self) -> str | None:
        """What the teacher was trained on, as its file says."""
        return self.embedder.metadata.training_data

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe that learns from this teacher."""
        return dataclasses.replace(recipe, teacher=self.sha256)

    def check_shape(self, image_size: Size) -> None:
        """Raise `ValueError` where faces of (height, width) cannot be read at the teacher's size.

        Sizes of one shape are scaled; between the shapes of the templates 112x96 and 112x112, the
        columns that lie between them are cut off or added.
        """
        if missing_columns(image_size, self.embedder.input_size) is None:
            raise ValueError(
                f"{self.name} takes faces of {path_size(self.embedder.input_size)}, and the data "
                f"are faces of {path_size(image_size)}: neither scaling nor the columns between "
                "the templates 112x96 and 112x112 make one of the other. Align the photographs at "
                "its size, or take another teacher"
            )

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return unit embeddings of images and of their mirror images, float32 (2, n, dim).

        `images`: uint8 RGB (n, height, width, 3) of the teacher's input size. An embedding that is
        not finite, or has no direction, comes back as NaN.
        """
        both = np.asarray(embed_sides(self.embedder, images), np.float32)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            lengths = np.linalg.norm(both, axis=2, keepdims=True)
            unit = np.where(np.isfinite(lengths) & (lengths > 0), both / lengths, np.nan)
        return np.asarray(unit, np.float32)

    def cost(self, faces: int) -> tuple[float, int]:
        """Return about how many seconds the embeddings of so many faces take here, and the bytes.

        A few images of noise are embedded to measure it.
        """
        shape = (_TRIAL, *self.embedder.input_size, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.embed(noise)  # traces
        begun = time.perf_counter()
        self.embed(noise)
        return (time.perf_counter() - begun) / _TRIAL * faces, 4 * faces * self.dim

    def __str__(self) -> str:
        facts = self.embedder.metadata
        height, width = self.embedder.input_size
        data = self.training_data or "data that its file does not name"
        return (
            f"{self.name}, which takes {height}x{width} {facts.channel_order.upper()}, makes "
            f"{self.dim} numbers and was trained on {data}"
        )


def open_teacher(
    model: str | os.PathLike[str] | keras.Model | Embedder | Teacher,
    out: str | os.PathLike[str] | None = None,
    **facts: Any,
) -> Teacher:
    """Open an embedder to learn from.

    Args:
        model: what `load_embedder` takes: a `.keras`, `.tflite` or `.onnx` file, a name on the Hub,
            a Keras model, or an `Embedder`, such as one that was opened with the facts of its
            input.
        out: the run folder; a teacher in it is refused.
        **facts: how it is fed, as of `load_embedder`, where its file does not say so.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no embedder, it lies in the run folder, or it has no content that a hash
            can be taken of.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((28, 24, 3)), keras.layers.Flatten()])
    >>> teacher = open_teacher(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> teacher.dim
    2016
    """
    if isinstance(model, Teacher):
        return model
    if isinstance(model, str | os.PathLike) and out is not None:
        path, folder = Path(model).resolve(), Path(out).resolve()
        if folder in path.parents:
            raise ValueError(
                f"{model} lies in the run folder {out}, where the student's own files are written: "
                "a run cannot learn from itself. Choose another folder for the run, or resume it "
                "without a teacher"
            )
    embedder = load_embedder(model, **facts)
    network = embedder.backbone
    name = str(embedder.path or (model if isinstance(model, str) else None) or network.name)
    fed = {key: getattr(embedder.metadata, key) for key in FACTS}
    if embedder.path is not None:
        content = model_sha256(embedder.path)
    elif network is not None:
        content = network_digest(network)
    else:
        raise ValueError(f"{name} has no file that stays: download it, and name the file")
    key = json.dumps([content, fed], sort_keys=True)
    return Teacher(embedder, name, hashlib.sha256(key.encode()).hexdigest())


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """Return what is kept of a teacher beside its embeddings, ready for JSON."""
    return {
        "teacher": teacher.name,
        "teacher_sha256": teacher.sha256,
        "training_data": teacher.training_data,
    }
