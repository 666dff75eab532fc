"""Files that serve a classifier's embeddings: a SavedModel or ONNX, compared before they stay."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.dtype_policies import computes_in_float32, copy_in
from tf_sphereface.utils.files import atomic_folder, atomic_path
from tf_sphereface.utils.keras_private import all_layers, input_structure
from tf_sphereface.utils.optional import require

ServingFormat = Literal["tf_saved_model", "onnx"]
INPUT_NAME, OUTPUT_NAME = "image", "embedding"
_BATCHES = (1, 3)
_UNKNOWN_SIDE = 112  # pixels, of a network that takes images of any size
_TOLERANCE = 1e-3  # of the largest entry: rounding in another order
_HALF_TOLERANCE = 0.05  # for 16 bits
_OF_A_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}


def export(
    backbone: keras.Model,
    path: str | os.PathLike[str],
    format: ServingFormat,
    *,
    verbose: bool,
    opset_version: int,
) -> None:
    """Write what computes the embedding; see `FaceClassifier.export`."""
    _check_target(Path(path), format)
    if format == "onnx" and not computes_in_float32(backbone):
        backbone = copy_in(backbone, "float32")  # tf2onnx writes float32 alone
    network = _serving_network(backbone)
    if format == "onnx":
        for module in ("tf2onnx", "onnx", "onnxruntime"):
            require(module, extra="export")
        with atomic_path(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Keras' tf2onnx looks at np.object
            network.export(
                str(temporary), format="onnx", verbose=verbose, opset_version=opset_version
            )
            _compare(network, _onnx_session(temporary), path)
        return
    with atomic_folder(path) as temporary:
        _write_saved_model(network, temporary, verbose)
        with tf.device("CPU:0"):
            _compare(network, _saved_model(temporary), path)


def _check_target(path: Path, format: str) -> None:
    """Refuse a format that is not written here, and a folder that holds something else."""
    if format in ("litert", "tflite") or path.suffix == ".tflite":
        raise ValueError(
            "TensorFlow Lite files are written by tf_sphereface.export.export_tflite(model, path). "
            f"Received: format={format!r}, filepath={str(path)!r}"
        )
    check_choice("format", format, get_args(ServingFormat))
    if format != "onnx" and path.suffix == ".onnx":
        raise ValueError(
            'Argument `format` must be "onnx" for a file that ends in .onnx. '
            f"Received: format={format!r}, filepath={str(path)!r}"
        )
    if format == "onnx" and path.is_dir():
        raise ValueError(f"Argument `filepath` must be a file. Received: the folder {path}")
    if format != "onnx" and path.exists():
        held = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
        if held - _OF_A_SAVED_MODEL:
            raise ValueError(
                "Argument `filepath` must be a new folder, or one that holds a SavedModel alone, "
                f"which is replaced. Received: {path}, with {sorted(held - _OF_A_SAVED_MODEL)[0]}"
            )


def _serving_network(backbone: keras.Model) -> keras.Model:
    """Return a functional model from `image` to `{"embedding": float32}`."""
    inputs = keras.tree.flatten(getattr(backbone, "inputs", None) or [])
    if len(inputs) != 1:
        raise ValueError(
            "FaceClassifier.export takes a backbone with one input (a functional model). "
            f"Received: {backbone.name!r} with {len(inputs)} inputs"
        )
    image = keras.Input(batch_shape=inputs[0].shape, dtype=inputs[0].dtype, name=INPUT_NAME)
    given = keras.tree.pack_sequence_as(input_structure(backbone), [image])
    embedding = keras.ops.cast(backbone(given, training=False), "float32")
    network = keras.Model(image, {OUTPUT_NAME: embedding}, name=backbone.name)
    network(_trial(network, _BATCHES[0]))  # Keras exports only what has been called once
    return network


def _write_saved_model(network: keras.Model, path: Path, verbose: bool) -> None:
    shape, dtype = network.inputs[0].shape, network.inputs[0].dtype
    signature = [tf.TensorSpec(shape, dtype, name=INPUT_NAME)]

    def serve(image: Any) -> Any:
        return network(image, training=False)[OUTPUT_NAME]

    def serving_default(image: Any) -> dict[str, Any]:
        return {OUTPUT_NAME: serve(image)}

    archive = keras.export.ExportArchive()
    archive.track(network)
    for function in (serve, serving_default):
        archive.add_endpoint(function.__name__, function, signature)
    archive.write_out(str(path), verbose=verbose)


def _saved_model(path: Path) -> Any:
    loaded = tf.saved_model.load(str(path))  # must stay: a function of it does not keep its weights

    def embed(images: Any) -> Any:
        signature = loaded.signatures["serving_default"]
        return signature(**{INPUT_NAME: tf.constant(images)})[OUTPUT_NAME]

    return embed


def _onnx_session(path: Path) -> Any:
    session = require("onnxruntime", extra="export").InferenceSession(
        path.read_bytes(), providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]


def _compare(network: keras.Model, embed: Any, path: Any) -> None:
    """Raise where the file gives other embeddings than the network, both on the CPU."""
    tolerance = _HALF_TOLERANCE if _half_precision(network) else _TOLERANCE
    for count in _BATCHES:
        images = _trial(network, network.inputs[0].shape[0] or count)
        with tf.device("CPU:0"):
            right = np.asarray(network(images, training=False)[OUTPUT_NAME])
        if not np.isfinite(right).all():
            raise ValueError(f"{path} was not written: the model's own embeddings are not finite")
        worst = float(np.abs(np.asarray(embed(images)) - right).max())
        limit = tolerance * float(np.abs(right).max())
        if not worst <= limit:
            raise ValueError(
                f"{path} was not written: it gives other embeddings than the model. "
                f"Received: a difference of {worst:.3g}, where at most {limit:.3g} is rounding"
            )


def _half_precision(network: keras.Model) -> set[str]:
    return {layer.compute_dtype for layer in all_layers(network)} & {"float16", "bfloat16"}


def _trial(network: keras.Model, count: int) -> NDArray[Any]:
    """Return random images: in [-1, 1), or of 0 to 255 where the input takes integers."""
    symbol = network.inputs[0]
    shape = [count, *(side or _UNKNOWN_SIDE for side in symbol.shape[1:])]
    rng = np.random.default_rng(0)
    if "int" in symbol.dtype:
        return rng.integers(0, 256, shape).astype(symbol.dtype)
    return rng.uniform(-1.0, 1.0, shape).astype(symbol.dtype)
