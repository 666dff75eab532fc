"""A trained network that a run starts from: its weights, how it is fed, and its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.backbones.extraction import in_precision
from tf_sphereface.backbones.remembered_metadata import remember
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.embedder import (
    Embedder,
    EmbedderMetadata,
    load_embedder,
    model_card,
    read_metadata,
    save_embedder,
)
from tf_sphereface.embedder.input_facts import PIXELS, without_measurements
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.first_layers import own_normalization
from tf_sphereface.utils.layer_checks import require_stock_layers

_USUAL = (127.5, 128.0)  # mean and scale of what `FaceSource` gives
_HEAD = "head"
_ORIGIN = "started_from"  # in `extra` of a run's own copy: the name of the file


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained network to start from; made by `open_pretrained`.

    Attributes:
        network: up to its embedding, float32; it is copied, never trained itself.
        metadata: how it is fed and where it is from. What was measured of it, such as its
            threshold, is not in it: it does not hold for the network that comes of it.
        name: the file, or the model's name.
        sha256: of layers, weights and how it is fed.
        head_left_out: whether the file held a classifier, whose head is not used.

    Example:

    >>> import tf_sphereface as sf
    >>> network = sf.backbones.SphereFaceNet(4, (28, 24, 3), 8)
    >>> opened = open_pretrained(
    ...     sf.load_embedder(network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128))
    >>> opened.recipe(sf.training.preset("quick")).embedding_dim  # the network's
    8
    """

    network: keras.Model
    metadata: EmbedderMetadata
    name: str
    sha256: str
    head_left_out: bool = False

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a recipe that trains this network: its size, embedding and name are taken."""
        return dataclasses.replace(
            recipe,
            start_from=self.sha256,
            backbone=self.metadata.architecture or self.network.name,
            embedding_dim=int(self.network.output_shape[-1]),
            input_size=self.metadata.input_size,
        )

    @property
    def origin(self) -> str:
        """Name of the file that training began with, without its folder; a resumed run's too."""
        return str(self.metadata.extra.get(_ORIGIN, Path(self.name).name))

    @property
    def scaling(self) -> tuple[Any, Any] | None:
        """Factor and offset from `(x - 127.5) / 128` to how the network is fed.

        None where that is the same, and the network does not normalise pixels itself.
        """
        mean, scale = self.metadata.pixel_mean, self.metadata.pixel_scale
        if (mean, scale) == _USUAL and own_normalization(self.network) is None:
            return None
        factor = _USUAL[1] / np.asarray(scale, np.float64)
        offset = (_USUAL[0] - np.asarray(mean, np.float64)) / np.asarray(scale, np.float64)
        if np.ndim(factor) or np.ndim(offset):
            factor, offset = np.broadcast_arrays(factor, offset)
        return factor.tolist(), offset.tolist()

    def copy(self, policy: str) -> keras.Model:
        """Return a copy of the network under a dtype policy."""
        return in_precision(self.network, policy)

    def with_scaling(self, network: keras.Model) -> keras.Model:
        """Return a network like this one as one that takes what `FaceSource` gives."""
        if self.scaling is None:
            return network
        factor, offset = self.scaling
        image = keras.Input(network.input_shape[1:], name="faces", dtype="float32")
        scaled = keras.layers.Rescaling(factor, offset, dtype="float32", name="as_fed")(image)
        return keras.Model(image, network(scaled), name=network.name)

    def with_weights(self, weights: list[NDArray[Any]]) -> keras.Model:
        """Return a float32 copy with other weights, which remembers how it is fed."""
        network = in_precision(self.network, "float32")
        network.set_weights(weights)
        remember(network, self.metadata_after().to_json())
        return network

    def metadata_after(self) -> EmbedderMetadata:
        """Return the metadata of a network that was trained from this one.

        How it is fed and what its licence is stay; where it is from is in `extra`.
        """
        before = self.metadata
        origin = {
            "model": self.origin,
            "sha256": self.sha256,
            **{key: getattr(before, key) for key in ("training_data", "loss", "source_hash")},
        }
        license = before.extra.get(model_card.LICENSE, model_card.UNKNOWN)
        return dataclasses.replace(
            before,
            training_data=None,
            loss=None,
            margin=None,
            source_hash=None,
            versions={},
            extra={"fine_tuned_from": origin, model_card.LICENSE: license},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network as a file that `open_pretrained` opens as this one."""
        extra = {**self.metadata.extra, _ORIGIN: self.origin}
        save_embedder(self.network, path, dataclasses.replace(self.metadata, extra=extra))

    def check_faces(self, source: FaceSource) -> None:
        """Raise ValueError where faces are of another size or channel order than it takes."""
        size, order = self.metadata.input_size, self.metadata.channel_order
        if tuple(source.image_size) != tuple(size):
            raise ValueError(
                f"{self.name} takes faces of {size[0]}x{size[1]}, and the data are read at "
                f"{source.image_size[0]}x{source.image_size[1]}: make the source with "
                f"image_size={size}"
            )
        if source.channel_order != order:
            raise ValueError(
                f"{self.name} takes {order.upper()}, and the data are read as "
                f"{source.channel_order.upper()}: make the source with channel_order={order!r}"
            )

    def __str__(self) -> str:
        height, width = self.metadata.input_size
        template = self.metadata.template or "unknown"
        return (
            f"{self.name}: {self.metadata.architecture or self.network.name}, {height}x{width} "
            f"{self.metadata.channel_order.upper()} aligned to the template {template}, to "
            f"{self.network.output_shape[-1]} numbers"
        )


def open_pretrained(
    model: str | os.PathLike[str] | keras.Model | Embedder | Pretrained,
    channel_order: str | None = None,
    name: str | None = None,
) -> Pretrained:
    """Open a network to train further.

    Args:
        model: a `.keras` file with or without a head (a head is left out), a Keras model, such as
            `importers.import_checkpoint` makes of an ONNX file, or an `Embedder` of one.
        channel_order: what it is expected to take, or, where neither file nor model says so, takes.
        name: of a model in memory, for messages and metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no network that can be trained, or it takes another channel order.

    Example:

    >>> import tf_sphereface as sf
    >>> network = sf.backbones.SphereFaceNet(4, (28, 24, 3), 8)
    >>> opened = open_pretrained(
    ...     sf.load_embedder(network, channel_order="bgr", pixel_mean=127.5, pixel_scale=128))
    >>> opened.recipe(sf.training.preset("fine-tune")).input_size, opened.metadata.channel_order
    ((28, 24), 'bgr')
    """
    if isinstance(model, Pretrained):
        return model
    if not isinstance(model, keras.Model | Embedder):
        path = Path(model)
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        if path.suffix != ".keras":
            raise ValueError(
                f"{path} cannot be trained further: that takes a .keras file. ONNX files, and "
                "weights of PyTorch or Caffe, become one by tf_sphereface-import, or a model by "
                "importers.import_checkpoint; a .tflite file has no weights that can be trained"
            )
        stored = read_metadata(path)
        told = stored is not None and "channel_order" not in stored.assumed
        given: Any = None if told else channel_order
        return _pretrained(load_embedder(path, channel_order=given), str(path), channel_order)
    opened = load_embedder(model)
    name = name or str(opened.path or opened.metadata.architecture or opened.backbone.name)
    if opened.backbone is None:
        raise ValueError(f"{name} is no network of Keras: it cannot be trained")
    return _pretrained(opened, name, channel_order)


def _pretrained(opened: Embedder, name: str, channel_order: str | None) -> Pretrained:
    network, metadata = opened.backbone, opened.metadata
    if channel_order not in (None, metadata.channel_order):
        raise ValueError(
            f"{name} takes {metadata.channel_order.upper()}, as its metadata say, and the data are "
            f"to be read as {str(channel_order).upper()}: leave the channel order out"
        )
    if metadata.flip_built_in:
        raise ValueError(f"{name} embeds the mirror image too: train the file that it was made of")
    if not keras.backend.is_float_dtype(network.inputs[0].dtype):
        raise error("model", "take floats", f"{name}, which takes {network.inputs[0].dtype}")
    require_stock_layers("model", network)
    if not network.trainable_variables:
        raise ValueError(f"{name} has no weight that can be trained: all its layers are frozen")
    clash = [v.path for v in network.trainable_variables if v.path.startswith(f"{_HEAD}/")]
    if clash:
        raise ValueError(
            f"{name} has a layer named {_HEAD!r}, as the class centres are: name it otherwise"
        )
    network = in_precision(network, "float32")
    metadata = without_measurements(metadata)
    remember(network, metadata.to_json())
    return Pretrained(network, metadata, name, _digest(network, metadata), opened.head_left_out)


def _digest(network: keras.Model, metadata: EmbedderMetadata) -> str:
    """Return a SHA-256 of the layers' classes, the weights, and how the network is fed."""
    return network_digest(network, [getattr(metadata, key) for key in (*PIXELS, "input_size")])


def network_digest(network: keras.Model, facts: Any = None) -> str:
    """Return a SHA-256 of the layers' classes, the weights, and facts that JSON can hold."""
    listed = [[type(layer).__name__ for layer in network.layers], facts]
    digest = hashlib.sha256(json.dumps(listed).encode())
    for weight in network.get_weights():
        digest.update(f"{weight.dtype.str} {weight.shape}\n".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
