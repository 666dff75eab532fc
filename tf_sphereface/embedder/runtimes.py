"""Runners of a network in three engines: uint8 RGB faces in, float32 embeddings out.

Any number of threads may call one runner at once. A runner that is pickled opens its file again.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.utils.messages import printable
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
        self._arguments = (model, metadata)
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
        self._trace: Any = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings of one batch."""
        # Called as a trace: TensorFlow takes the traces of many embedders for one function's.
        if self._trace is None:
            self._trace = self._embed.get_concrete_function()
        return np.asarray(self._trace(tf.constant(images)).numpy())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class _FileRunner:
    """A file whose engine takes one batch at a time; a subclass opens it and runs a batch."""

    input_size: tuple[int, int]
    embedding_dim: int
    _at_once = 1  # pieces of a batch

    def __init__(self, path: Path, metadata: EmbedderMetadata, threads: int | None) -> None:
        self._path, self._metadata, self._threads = path, metadata, threads

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path, self._metadata, self._threads)

    def pixel_facts(self) -> dict[str, Any]:
        """Return mean and scale that the file's input tells by itself; none where it does not."""
        return {}

    def _take_sizes(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Take the sizes of the only input and output; refuse a file that is no embedder."""
        if (len(inputs), len(outputs)) != (1, 1):
            several = len(inputs) == 1 and self._path.suffix == ".onnx"
            cure = ". tf_sphereface-import FILE --key OUTPUT takes one of them" if several else ""
            raise ValueError(
                f"{self._path}: an embedder has one input and one output. "
                f"Received: {len(inputs)} inputs and {len(outputs)} outputs{cure}"
            )
        sides = _known_sides(inputs[0])
        layout = _layout_of(sides, self._metadata) if len(sides) == 4 else None
        if layout is None:
            raise ValueError(
                f"{self._path}: its input must be a batch of images with three channels (where the "
                "shape leaves their place open, say layout: --layout). "
                f"Received: shape {[side if side else 'any' for side in sides]}"
            )
        self.layout, self.takes_pixels = layout, False
        self._fixed_batch, self._channels_first = sides[0], layout == "nchw"
        height, width = sides[2:] if self._channels_first else sides[1:3]
        known, self.any_size = self._metadata.input_size, None in (height, width)
        self.input_size = (height or known[0], width or known[1])
        behind = _known_sides(outputs[0])[1:]
        known_sides = [side for side in behind if side is not None]
        if behind and len(known_sides) == len(behind):
            self.embedding_dim = self._length_of(known_sides)

    def _measure_length(self) -> None:
        """Embed one face where the file does not tell the length of an embedding."""
        if not hasattr(self, "embedding_dim"):
            self.embedding_dim = self(np.zeros((1, *self.input_size, 3), np.uint8)).shape[-1]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings of one batch, in pieces of the file's own size, or one per core."""
        size = self._fixed_batch or math.ceil(len(images) / self._at_once)
        pieces = [images[i : i + size] for i in range(0, len(images), size)]
        if self._fixed_batch is not None:
            pieces[-1] = full_batch(pieces[-1], size)
        if self._at_once == 1 or len(pieces) == 1:
            return np.concatenate([self._vectors(piece) for piece in pieces])[: len(images)]
        with ThreadPoolExecutor(self._at_once) as pool:
            return np.concatenate(list(pool.map(self._vectors, pieces)))[: len(images)]

    def _vectors(self, images: np.ndarray) -> np.ndarray:
        """Return (n, d) of an output (n, d), (n, d, 1), (n, d, 1, 1) or (n, 1, 1, d)."""
        values = self._run(images)
        if values.ndim < 2 or len(values) != len(images):
            raise ValueError(
                f"{self._path}: its output must hold one embedding per face, (n, d). "
                f"Received: shape {values.shape} for {len(images)} faces"
            )
        return values.reshape(len(values), self._length_of(list(values.shape[1:])))

    def _length_of(self, sides: list[int]) -> int:
        """Return the only side behind the batch that is not 1; refuse feature maps."""
        if sum(side != 1 for side in sides) > 1:
            shown = ", ".join(map(str, ["n", *sides]))
            raise ValueError(
                f"{self._path}: its output must be one vector per face: (n, d), (n, d, 1, 1) or "
                f"(n, 1, 1, d). Received: ({shown}), a map of features; export the network with "
                "its pooling or its embedding layer"
            )
        return max(sides)

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
        super().__init__(path, metadata, threads)
        self._module = require("ai_edge_litert.interpreter", extra="export")
        # All interpreters share it, so a file that is replaced meanwhile changes nothing.
        self._content = path.read_bytes()
        # An interpreter holds the faces and the embeddings of one call: a call takes one that no
        # other call has, and more of them than cores would gain nothing.
        self._idle: collections.deque[Any] = collections.deque()
        cores = os.cpu_count() or 1
        self._places = threading.BoundedSemaphore(max(1, cores // (threads or 1)))
        self._at_once = cores if threads is None else 1  # an interpreter takes one core
        with self._interpreter() as interpreter:
            inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        signatures = [[d["shape_signature"] for d in each] for each in (inputs, outputs)]
        self._take_sizes(*signatures)
        self._input, self._output = inputs[0], outputs[0]
        integers = np.dtype(self._input["dtype"]).kind != "f"
        self.takes_pixels = integers and self._input["quantization"][0] == 0
        self._measure_length()

    @contextlib.contextmanager
    def _interpreter(self) -> Iterator[Any]:
        """Lend an interpreter to one call; the next call takes the one that was used last."""
        with self._places:
            try:
                interpreter = self._idle.pop()
            except IndexError:
                interpreter = self._open()
            yield interpreter
            self._idle.append(interpreter)  # not after an error, which may have left it half set

    def _open(self) -> Any:
        try:
            interpreter = self._module.Interpreter(
                model_content=self._content, num_threads=self._threads
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self._path} cannot be run as TensorFlow Lite: {error}") from error
        return interpreter

    def _run(self, images: np.ndarray) -> np.ndarray:
        values = _quantize(images, self._metadata, self._input)
        if self._channels_first:
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        with self._interpreter() as interpreter:
            if values.shape != tuple(interpreter.get_input_details()[0]["shape"]):
                interpreter.resize_tensor_input(self._input["index"], values.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(self._input["index"], values)
            interpreter.invoke()
            return _dequantize(interpreter.get_tensor(self._output["index"]), self._output)

    def pixel_facts(self) -> dict[str, Any]:
        """Return mean and scale by the range of a quantised input, 0 to 255 or 0 to 1; else none.

        It is that of the values in calibration.
        """
        scale, zero_point = self._input["quantization"]
        if np.dtype(self._input["dtype"]).kind == "f" or scale == 0:
            return {}
        limits = np.iinfo(self._input["dtype"])
        low, high = (scale * (limit - zero_point) for limit in (limits.min, limits.max))
        for whole in (255.0, 1.0):
            if abs(low) < 0.05 * whole and abs(high - whole) < 0.05 * whole:
                return {"pixel_mean": 0.0, "pixel_scale": 255.0 / whole}
        return {}


class OnnxRunner(_FileRunner):
    """An ONNX file on ONNX Runtime's CPU engine, NHWC or NCHW, float or uint8 input."""

    def __init__(self, path: Path, metadata: EmbedderMetadata, threads: int | None) -> None:
        super().__init__(path, metadata, threads)
        runtime = require("onnxruntime", extra="export")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        # ONNX Runtime takes no name that is not UTF-8.
        source = str(path) if printable(str(path)) == str(path) else path.read_bytes()
        try:
            self._session = runtime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own kinds
            raise ValueError(f"{path} cannot be run as ONNX: {error}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._take_sizes([each.shape for each in inputs], [each.shape for each in outputs])
        self._name, self._type = inputs[0].name, inputs[0].type
        if self._type not in ("tensor(float)", "tensor(float16)", "tensor(uint8)"):
            raise ValueError(f"{path}: its input must be float or uint8. Received: {self._type}")
        self.takes_pixels = self._type == "tensor(uint8)"
        self._measure_length()

    def _run(self, images: np.ndarray) -> np.ndarray:
        if self._type == "tensor(uint8)":
            values = images if self._metadata.channel_order == "rgb" else images[..., ::-1]
        else:
            values = to_network(images, self._metadata)
            if self._type == "tensor(float16)":
                values = values.astype(np.float16)
        if self._channels_first:
            values = values.transpose(0, 3, 1, 2)
        try:
            outputs = self._session.run(None, {self._name: np.ascontiguousarray(values)})
        except Exception as error:  # onnxruntime raises its own kinds
            height, width = images.shape[1:3]
            raise ValueError(
                f"{self._path} cannot be run on images of {height}x{width}: {error}"
            ) from error
        return np.asarray(outputs[0], np.float32)


def _known_sides(shape: Any) -> list[int | None]:
    """Return a shape with None where a side is free: -1 in TensorFlow Lite, a name in ONNX."""
    sides = [] if shape is None else list(shape)
    return [int(s) if isinstance(s, (int, np.integer)) and s > 0 else None for s in sides]


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
