"""Runners of a network in three engines: uint8 RGB faces in, float32 embeddings out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.utils.optional import require


def to_network(images: np.ndarray, metadata: EmbedderMetadata) -> np.ndarray:
    """Return uint8 RGB faces as the network takes them: its channel order, mean and scale.

    A network that takes pixels gets them as they are. The axes stay (n, height, width, channel).
    """
    if metadata.channel_order == "bgr":
        images = images[..., ::-1]
    if metadata.input_dtype == "uint8":
        return np.ascontiguousarray(images)
    mean = np.asarray(metadata.pixel_mean, np.float32)
    return (images.astype(np.float32) - mean) / np.asarray(metadata.pixel_scale, np.float32)


def full_batch(images: np.ndarray, batch: int) -> np.ndarray:
    """Return `batch` images: the last one is repeated where there are fewer."""
    return np.concatenate([images, np.repeat(images[-1:], batch - len(images), axis=0)])


class KerasRunner:
    """A backbone as one traced function; batches of any length share the trace."""

    def __init__(self, model: keras.Model, metadata: EmbedderMetadata) -> None:
        self.input_size = metadata.input_size
        self.embedding_dim = int(model.outputs[0].shape[-1])
        mean = np.asarray(metadata.pixel_mean, np.float32)
        scale = np.asarray(metadata.pixel_scale, np.float32)
        reverse = metadata.channel_order == "bgr"

        # A batch of unknown length in the signature: an odd last batch does not trace again.
        @tf.function(input_signature=[tf.TensorSpec((None, *self.input_size, 3), tf.uint8)])
        def embed(images: tf.Tensor) -> tf.Tensor:
            if reverse:
                images = images[..., ::-1]
            outputs = model((tf.cast(images, tf.float32) - mean) / scale, training=False)
            return tf.cast(tf.nest.flatten(outputs)[0], tf.float32)

        self._embed = embed

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings of one batch."""
        return np.asarray(self._embed(tf.constant(images)).numpy())


class _FileRunner:
    """A file whose engine takes one batch at a time; a subclass opens it and runs a batch."""

    def _take_sizes(
        self, path: Path, metadata: EmbedderMetadata, shapes: list[Any], outputs: int
    ) -> None:
        """Take the sizes of the only input; refuse a file that is no embedder."""
        if (len(shapes), outputs) != (1, 1):
            raise ValueError(
                f"{path}: an embedder has one input and one output. "
                f"Received: {len(shapes)} inputs and {outputs} outputs"
            )
        # None where a side is free: -1 in TensorFlow Lite, a name or None in ONNX.
        sides = [int(s) if isinstance(s, (int, np.integer)) and s > 0 else None for s in shapes[0]]
        layout = _layout_of(sides, metadata) if len(sides) == 4 else None
        if layout is None:
            raise ValueError(
                f"{path}: its input must be a batch of images with three channels (where the shape "
                "leaves their place open, say layout: --layout). "
                f"Received: shape {[side if side else 'any' for side in sides]}"
            )
        self.layout, self.takes_pixels = layout, False
        self._fixed_batch, self._channels_first = sides[0], layout == "nchw"
        height, width = sides[2:] if self._channels_first else sides[1:3]
        self._metadata = metadata
        self.input_size = (height or metadata.input_size[0], width or metadata.input_size[1])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings of one batch, in pieces where the file's batch size is fixed."""
        fixed = self._fixed_batch
        if fixed is None:
            return self._run(images)
        starts = range(0, len(images), fixed)
        pieces = [self._run(full_batch(images[i : i + fixed], fixed)) for i in starts]
        return np.concatenate(pieces)[: len(images)]

    def _run(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def _layout_of(sides: list[int | None], metadata: EmbedderMetadata) -> str | None:
    """Return the order of an input's four axes: by its shape, else as the metadata says."""
    channels = {"nhwc": sides[3], "nchw": sides[1]}
    fitting = [name for name, count in channels.items() if count == 3]
    fitting = fitting or [name for name, count in channels.items() if count is None]
    told = None if "layout" in metadata.assumed else metadata.layout
    if told in fitting:
        return told
    return fitting[0] if fitting and 3 in channels.values() else None


class TFLiteRunner(_FileRunner):
    """A TensorFlow Lite file, float or quantized, with a fixed or a free batch size."""

    def __init__(self, path: Path, metadata: EmbedderMetadata, threads: int | None) -> None:
        interpreter = require("ai_edge_litert.interpreter", extra="export")
        try:
            self._interpreter = interpreter.Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} cannot be run as TensorFlow Lite: {error}") from error
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        shapes = [each["shape_signature"] for each in inputs]
        self._take_sizes(path, metadata, shapes, len(outputs))
        self._input, self._output = inputs[0], outputs[0]
        integers = np.dtype(self._input["dtype"]).kind != "f"
        self.takes_pixels = integers and self._input["quantization"][0] == 0
        self.embedding_dim = int(self._output["shape"][-1])
        self._shape = tuple(self._input["shape"])

    def _run(self, images: np.ndarray) -> np.ndarray:
        values = _quantize(images, self._metadata, self._input)
        if self._channels_first:
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        if values.shape != self._shape:
            self._interpreter.resize_tensor_input(self._input["index"], values.shape)
            self._interpreter.allocate_tensors()
            self._shape = values.shape
        self._interpreter.set_tensor(self._input["index"], values)
        self._interpreter.invoke()
        return _dequantize(self._interpreter.get_tensor(self._output["index"]), self._output)


class OnnxRunner(_FileRunner):
    """An ONNX file on ONNX Runtime's CPU engine, NHWC or NCHW, float or uint8 input."""

    def __init__(self, path: Path, metadata: EmbedderMetadata, threads: int | None) -> None:
        runtime = require("onnxruntime", extra="export")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own kinds
            raise ValueError(f"{path} cannot be run as ONNX: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._take_sizes(path, metadata, [each.shape for each in inputs], len(outputs))
        self._name, self._type = inputs[0].name, inputs[0].type
        if self._type not in ("tensor(float)", "tensor(float16)", "tensor(uint8)"):
            raise ValueError(f"{path}: its input must be float or uint8. Received: {self._type}")
        self.takes_pixels = self._type == "tensor(uint8)"
        length = outputs[0].shape[-1] if outputs[0].shape else None
        if not isinstance(length, int):
            length = self(np.zeros((1, *self.input_size, 3), np.uint8)).shape[-1]
        self.embedding_dim = length

    def _run(self, images: np.ndarray) -> np.ndarray:
        if self._type == "tensor(uint8)":
            values = images if self._metadata.channel_order == "rgb" else images[..., ::-1]
        else:
            values = to_network(images, self._metadata)
            if self._type == "tensor(float16)":
                values = values.astype(np.float16)
        if self._channels_first:
            values = values.transpose(0, 3, 1, 2)
        outputs = self._session.run(None, {self._name: np.ascontiguousarray(values)})
        return np.asarray(outputs[0], np.float32)


def _quantize(images: np.ndarray, metadata: EmbedderMetadata, detail: Any) -> np.ndarray:
    """Return the input tensor's values: floats, or integers by its scale and zero point."""
    dtype = np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return to_network(images, metadata).astype(dtype)
    scale, zero_point = detail["quantization"]
    if scale == 0:  # integers without a scale: the graph takes the pixels themselves
        pixels = images[..., ::-1] if metadata.channel_order == "bgr" else images
        if dtype != np.uint8:
            raise ValueError(f"an input of {dtype} without a scale cannot be fed with pixels")
        return np.ascontiguousarray(pixels)
    steps = np.rint(to_network(images, metadata) / scale) + zero_point
    limits = np.iinfo(dtype)
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _dequantize(values: np.ndarray, detail: Any) -> np.ndarray:
    if np.dtype(detail["dtype"]).kind == "f":
        return np.asarray(values, np.float32)
    scale, zero_point = detail["quantization"]
    return (values.astype(np.float32) - zero_point) * np.float32(scale or 1.0)
