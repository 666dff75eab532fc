"""The embedder: any saved face embedding model as one callable, and a file that says what it is."""

from __future__ import annotations

import dataclasses
import os
import shutil
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tf_sphereface.backbones.extraction import LoadedModel, as_backbone, in_float32, load_model
from tf_sphereface.backbones.remembered_metadata import KERAS_MEMBER
from tf_sphereface.embedder import graph_normalization, hub_download
from tf_sphereface.embedder.input_facts import (
    NUMBERS,
    check_layout,
    given_facts,
    guess,
    guess_of,
    input_name,
    metadata_in_memory,
    say_guesses,
    say_open_size,
    with_given,
    with_input_name,
)
from tf_sphereface.embedder.metadata import (
    EmbedderMetadata,
    artifact_format,
    library_versions,
    read_metadata,
)
from tf_sphereface.embedder.runtimes import KerasRunner, OnnxRunner, TFLiteRunner
from tf_sphereface.utils import first_layers
from tf_sphereface.utils.checks import check_integer, error
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.layer_checks import require_stock_layers

_PARTS = ("layers", "weights")  # of which a network without its head has fewer


class Embedder:
    """A face embedding model: uint8 RGB aligned faces in, float32 embeddings out.

    Made by `load_embedder` or `Embedder.in_memory`. Any number of threads may call it at once. A
    pickled one opens its file again where it is unpickled; a forked process has to open its own.

    Attributes:
        metadata: how the network is fed and where it comes from.
        embedding_dim: length of the embedding.
        input_size: (height, width) of the faces, in pixels.
        format: `"keras"`, `"tflite"` or `"onnx"`.
        path: the file, or None for a model in memory.
        batch_size: the most faces that go through the network at once.
        backbone: the Keras network; None for a `.tflite` or `.onnx` file.
        given: the facts of its input that were given when it was opened, by name.
        threads: CPU threads that were asked for when a file was opened.
        head_left_out: whether the file holds a classifier, whose head is not used.

    Example:

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> embedder = Embedder.in_memory(network, EmbedderMetadata(channel_order="bgr"))
    >>> embedder(np.zeros((2, 8, 8, 3), np.uint8)).shape, embedder.input_size
    ((2, 192), (8, 8))
    """

    def __init__(
        self,
        runner: Any,
        metadata: EmbedderMetadata,
        format: str,
        path: Path | None,
        batch_size: int,
    ) -> None:
        self._runner = runner
        self.metadata = metadata
        self.format = format
        self.path = path
        self.batch_size = batch_size
        self.backbone: Any = None  # keras.Model | None
        self.given: dict[str, Any] = {}
        self.head_left_out = False
        self.threads: int | None = None
        self.input_size: tuple[int, int] = runner.input_size
        self.embedding_dim: int = runner.embedding_dim

    @classmethod
    def in_memory(
        cls,
        model: keras.Model | LoadedModel,
        metadata: EmbedderMetadata | None = None,
        *,
        batch_size: int = 64,
        float32: bool = False,
    ) -> Embedder:
        """Wrap a Keras model.

        Args:
            model: a Keras model, as `load_embedder` takes it.
            metadata: how to feed it. Input size and embedding length are taken from the model.
                None: what is known of the model (see `load_embedder`), or a guess, with a warning.
            batch_size: the most faces that go through the network at once.
            float32: compute in float32 whatever policy the layers have.

        Raises:
            ValueError: another kind of model, or a batch size below 1.
        """
        backbone = as_backbone(model)
        if float32:
            backbone = in_float32(backbone)
        return _of_backbone(backbone, metadata, batch_size, {}, say=metadata is None)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embed faces.

        Args:
            images: uint8 RGB, (n, height, width, 3), aligned to `metadata.template`; n may be 0.

        Returns:
            float32, (n, embedding_dim), not normalised (unless the network itself does it).

        Raises:
            ValueError: another dtype, rank or size.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise ValueError(
                "Argument `images` must be uint8 pixels of 0 to 255 (they are normalised here). "
                f"Received: dtype {images.dtype}"
            )
        if images.ndim != 4 or images.shape[1:] != (*self.input_size, 3):
            height, width = self.input_size
            raise ValueError(
                f"Argument `images` must have the shape (n, {height}, {width}, 3). "
                f"Received: {images.shape}"
            )
        if len(images) == 0:
            return np.zeros((0, self.embedding_dim), np.float32)
        size = self.batch_size
        parts = [self._runner(images[i : i + size]) for i in range(0, len(images), size)]
        return np.concatenate(parts)

    @property
    def image_dim(self) -> int:
        """Length of one image's embedding: half the output where the mirror image is built in."""
        return self.embedding_dim // 2 if self.metadata.flip_built_in else self.embedding_dim

    def __repr__(self) -> str:
        height, width = self.input_size
        where = self.path if self.path else self.metadata.architecture or "a model in memory"
        return f"<Embedder {where}: {height}x{width} -> {self.embedding_dim}>"


def embed_sides(
    embedder: Any, images: np.ndarray, flip: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed images, (n, height, width, 3) uint8, and their mirror images (None without `flip`).

    Each is embedded once, to (n, d): a file that has the mirror image built in returns both in one
    pass. `embedder` may be any callable.
    """
    vectors = embedder(images)
    if getattr(getattr(embedder, "metadata", None), "flip_built_in", False):
        half = vectors.shape[1] // 2
        return vectors[:, :half], vectors[:, half:] if flip else None
    return vectors, embedder(np.ascontiguousarray(images[:, :, ::-1])) if flip else None


def load_embedder(
    model: str | os.PathLike[str] | keras.Model | Embedder,
    batch_size: int = 64,
    threads: int | None = None,
    *,
    channel_order: Literal["rgb", "bgr"] | None = None,
    pixel_mean: float | Sequence[float] | None = None,
    pixel_scale: float | Sequence[float] | None = None,
    layout: Literal["nhwc", "nchw"] | None = None,
) -> Embedder:
    """Open a saved model, or wrap one in memory, as an `Embedder`.

    How the network is fed is known from the file's metadata, which a model that was opened from
    one of our files keeps in memory. What the metadata do not tell is guessed, and a
    `SphereFaceWarning` says so; what is given here wins over both.

    Args:
        model: a `.keras`, `.tflite` or `.onnx` file, `"hf://owner/name"` on the Hugging Face Hub
            (fetched now, by the `hub` extra; `"hf://owner/name/FILE"` where it has several models),
            a Keras model, or an `Embedder` (returned as it is). A `FaceClassifier` gives its
            backbone, a model that ends in `AngularDense` is stripped of it. Without metadata the
            project's defaults hold (RGB, `(x - 127.5) / 128`), with a warning.
        batch_size: the most faces that go through the network at once.
        threads: CPU threads for TensorFlow Lite and ONNX Runtime. None: all cores, TensorFlow Lite
            with a part of the faces on each. Keras takes TensorFlow's own setting.
        channel_order: `"rgb"` or `"bgr"`, the order in which the network takes the channels. The
            faces given to the embedder are RGB whatever this says.
        pixel_mean: subtracted from the pixels of 0 to 255; one number, or three in the network's
            order.
        pixel_scale: what the difference is divided by, likewise.
        layout: `"nhwc"` or `"nchw"`, for a file whose shape does not tell.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be opened as what its suffix says, or is no embedder; a fact is
            out of range, contradicts the file's shape, or is given for an `Embedder`.
        ImportError: `.tflite` and `.onnx` need the `export` extra, `hf://` the `hub` extra.
        OSError: a repository cannot be reached.

    Example:

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> embedder = load_embedder(network, channel_order="bgr", pixel_mean=0, pixel_scale=255)
    >>> embedder(np.zeros((2, 8, 8, 3), np.uint8)).shape
    (2, 192)
    """
    given = given_facts(
        channel_order=channel_order, pixel_mean=pixel_mean, pixel_scale=pixel_scale, layout=layout
    )
    if isinstance(model, Embedder):
        if given:
            raise ValueError(
                "Argument `model` must be a model or a file where facts of its input are given: an "
                f"Embedder has been opened with its own. Received: {', '.join(given)}"
            )
        return model
    batch_size = check_integer("batch_size", batch_size, 1)
    if isinstance(model, keras.Model):
        return _of_backbone(as_backbone(model), None, batch_size, given)
    if hub_download.is_hub_name(model):
        with hub_download.fetched(str(model)) as (path, stays):
            embedder = _opened(path, threads, batch_size, given)
        embedder.path = path if stays else None
        return embedder
    return _opened(Path(model), threads, batch_size, given)


def _opened(path: Path, threads: int | None, batch_size: int, given: dict[str, Any]) -> Embedder:
    """Open a file."""
    suffix = artifact_format(path)
    if suffix == ".keras":
        stored, loaded = read_metadata(path), load_model(path)
        backbone = as_backbone(loaded)
        embedder = _of_backbone(backbone, stored, batch_size, given, path)
        fewer = [len(getattr(backbone, x)) < len(getattr(loaded.model, x)) for x in _PARTS]
        embedder.head_left_out = all(fewer)
        return embedder
    return _of_file(path, suffix, threads, batch_size, given)


def _of_backbone(
    backbone: keras.Model,
    metadata: EmbedderMetadata | None,
    batch_size: int,
    given: dict[str, Any],
    path: Path | None = None,
    *,
    say: bool = True,
) -> Embedder:
    """Wrap a backbone, that of a file if there is a path; `say` what is guessed."""
    batch_size = check_integer("batch_size", batch_size, 1)
    name = str(path) if path else f"{backbone.name} (in memory)"
    check_layout(given.get("layout"), "nhwc", name)
    unknown = metadata is None and metadata_in_memory(backbone) is None
    metadata = with_given(describe_backbone(backbone, metadata), given, name)
    if say:
        found = partial(first_layers.own_normalization, backbone)
        say_guesses(metadata, name, found, stored=not unknown)
        if unknown and None in backbone.inputs[0].shape[1:3]:
            say_open_size(metadata, name)
    embedder = Embedder(KerasRunner(backbone, metadata), metadata, "keras", path, batch_size)
    embedder.backbone, embedder.given = backbone, given
    return embedder


def _of_file(
    path: Path, suffix: str, threads: int | None, batch_size: int, given: dict[str, Any]
) -> Embedder:
    """Open a TensorFlow Lite or ONNX file; say what is guessed."""
    stored = read_metadata(path)
    metadata = with_given(stored or guess(), given, str(path))
    runner = (TFLiteRunner if suffix == ".tflite" else OnnxRunner)(path, metadata, threads)
    check_layout(given.get("layout"), runner.layout, str(path))
    known = {"layout"}  # by the shape
    changes: dict[str, Any] = {"layout": runner.layout}
    if runner.takes_pixels and metadata.input_dtype != "uint8":
        if tuple(map(given.get, NUMBERS, (0, 1))) != (0, 1):
            raise ValueError(
                f"{path} takes pixels of 0 to 255, so no mean and no scale can be applied. "
                f"Received: {', '.join(given)}"
            )
        changes |= {"input_dtype": "uint8", "pixel_mean": 0.0, "pixel_scale": 1.0}
        known |= changes.keys()
    elif stored is None and not set(given) & set(NUMBERS) and (told := runner.pixel_facts()):
        metadata, known = dataclasses.replace(metadata, **told), {*known, *told}
        runner = type(runner)(path, metadata, threads)
    metadata = dataclasses.replace(
        metadata,
        input_size=runner.input_size,
        embedding_dim=runner.embedding_dim,
        template=metadata.template if stored else _template_name(runner.input_size),
        assumed=[name for name in metadata.assumed if name not in known],
        **changes,
    )
    found = partial(graph_normalization.own_normalization, path)
    say_guesses(metadata, str(path), found, stored=stored is not None)
    if runner.any_size and stored is None:
        say_open_size(metadata, str(path))
    embedder = Embedder(runner, metadata, suffix[1:], path, batch_size)
    embedder.given, embedder.threads = given, threads
    return embedder


def save_embedder(
    model: keras.Model,
    path: str | os.PathLike[str],
    metadata: EmbedderMetadata | None = None,
) -> None:
    """Write a `.keras` file that plain Keras opens, with the metadata inside it.

    Only the backbone is kept, uncompiled and computing in float32 whatever policy it was trained
    with. The file appears whole or not at all.

    Args:
        model: what `as_backbone` takes; its layers must be Keras' own.
        path: where to write; must end in `.keras`.
        metadata: how to feed it. Input size and embedding length are taken from the model, the
            library versions are filled in when empty. None: what is known of the model, as for
            `load_embedder`; else a guess, which the file marks as one.

    Raises:
        ValueError: another suffix, a model that is no backbone, or layers that Keras alone could
            not load (a `Lambda`, classes and functions of your own), with what to use instead.

    Example:

    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> save_embedder(network, "network.keras", EmbedderMetadata(channel_order="bgr"))
    >>> load_embedder("network.keras").metadata.channel_order
    'bgr'
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise error("path", "end in .keras", str(path))
    backbone = as_backbone(model)
    require_stock_layers("model", backbone)
    backbone = in_float32(backbone)
    metadata = describe_backbone(backbone, metadata)
    if not metadata.versions:
        metadata = dataclasses.replace(metadata, versions=library_versions())
    with atomic_path(path) as temporary:
        plain = temporary.with_name(f"plain.{path.name}")
        backbone.save(plain)
        add_keras_metadata(plain, temporary, metadata)


def add_keras_metadata(source: Path, target: Path, metadata: EmbedderMetadata) -> None:
    """Copy a `.keras` file with metadata inside, in place of older ones.

    The name of the network's input then tells how it is fed, if that is known.
    """
    name = input_name(metadata)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            if entry.filename == KERAS_MEMBER:
                continue
            if entry.filename == "config.json" and name is not None:
                new.writestr(entry, with_input_name(old.read(entry).decode("utf-8"), name))
                continue
            with old.open(entry) as reader, new.open(entry, "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)  # its checksum is verified on the way
        new.writestr(KERAS_MEMBER, metadata.to_json())


def describe_backbone(model: keras.Model, metadata: EmbedderMetadata | None) -> EmbedderMetadata:
    """Return the metadata with input size and embedding length taken from the model."""
    base = metadata or metadata_in_memory(model) or guess_of(model)
    # Keras' networks take NHWC, as `as_backbone` has seen.
    assumed = [name for name in base.assumed if name != "layout"]
    height, width, _ = model.inputs[0].shape[1:]
    size = (height or base.input_size[0], width or base.input_size[1])
    return dataclasses.replace(
        base,
        input_size=size,
        embedding_dim=int(model.outputs[0].shape[-1]),
        template=_template_name(size) if "template" in assumed else base.template,
        assumed=assumed,
    )


def _template_name(size: tuple[int, int]) -> str:
    """Faces of half the height and width are made from the 112x96 or the 112x112 crop."""
    return "112x112" if size[0] == size[1] else "112x96"
