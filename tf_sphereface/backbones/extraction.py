"""From a classifier to the backbone that computes its embedding."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from tf_sphereface.backbones.remembered_metadata import carry, metadata_text, remember
from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.layers.angular_dense import AngularDense
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.dtype_policies import computes_in_float32, copy_in
from tf_sphereface.utils.keras_private import input_of, maker_of
from tf_sphereface.utils.layer_checks import require_graph

logger = logging.getLogger(__name__)

_CODE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper")
"""Class names in a model's configuration that Keras' safe mode refuses."""


class LoadedModel(NamedTuple):
    """An uncompiled model from a file, and what the file says of its loss ("" for none).

    `metadata` is the JSON text of the file's metadata, None where it carries none.
    """

    model: keras.Model
    loss: str
    metadata: str | None = None


def as_backbone(model: keras.Model | LoadedModel) -> keras.Model:
    """Return the part of a model that computes the embedding, uncompiled, with the same weights.

    The model is a `FaceClassifier`, a model that ends in `AngularDense` (the head is stripped, and
    that is logged), a backbone, or one of these as `load_model` returns it. Anything but one image
    input and one rank-2 output is refused, as are other classifiers. The metadata of the file that
    the model is from stay known.
    """
    loss, metadata = "", None
    if isinstance(model, LoadedModel):
        model, loss, metadata = model
    if not isinstance(model, keras.Model):
        raise error("model", "be a keras.Model", model)
    if isinstance(model, FaceClassifier):
        model = model.backbone
    require_graph("model", model)
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "model must have one image input and one output. "
            f"Received: {model.name!r} with {len(inputs)} inputs and {len(outputs)} outputs"
            + (". keras.Model(model.input, model.outputs[k]) takes one" if len(outputs) > 1 else "")
        )
    if len(inputs[0].shape) != 4 or inputs[0].shape[-1] != 3:
        raise ValueError(
            "model must take images of the shape (n, height, width, 3). "
            f"Received: {model.name!r} with the input shape {tuple(inputs[0].shape)}"
        )
    output = _without_head(model, loss)
    if len(output.shape) != 2 or output.shape[-1] is None:
        raise ValueError(
            "model must return embeddings of the shape (n, embedding_dim). "
            f"Received: {model.name!r} with the output shape {tuple(output.shape)}"
        )
    backbone = keras.Model(inputs[0], output, name=model.name)
    if metadata is not None:
        remember(backbone, metadata)
    return backbone


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Load a model without compiling it, its loss' name, and the metadata in its file.

    Raises:
        ValueError: it cannot be loaded, or it holds code, with the layers that do. Code is not run.
    """
    try:
        model = keras.models.load_model(path, compile=False)
        text = metadata_text(path) if zipfile.is_zipfile(path) else None
        loss = (_config_in_file(path).get("compile_config") or {}).get("loss")
    except Exception as caught:  # Keras raises many kinds for a broken archive
        raise ValueError(_refusal(path, str(caught))) from caught
    return LoadedModel(model, json.dumps(loss), text)


def _config_in_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a `.keras` file says of its model."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read("config.json")))


def _refusal(path: str | os.PathLike[str], message: str) -> str:
    """Return why a file is not loaded: the code that it holds, or the last of Keras' causes."""
    with contextlib.suppress(Exception):  # a broken file has Keras' message
        layers = list(_layers_with_code(_config_in_file(path)))
        if layers:
            return (
                f"{os.fspath(path)} holds code, which is not run since a model file may be a "
                f"stranger's: {', '.join(layers)}. Save the network anew with Keras' own layers in "
                "its place, such as Rescaling, or take the network as an .onnx file"
            )
    cause = message.rpartition("Exception encountered: ")[2].partition(" Full object config:")[0]
    return f"{os.fspath(path)} cannot be loaded by Keras: {cause}"


def _layers_with_code(config: Any, name: str = "") -> Iterator[str]:
    """Yield the layers of a model's configuration that hold a function as bytes, or a model."""
    if isinstance(config, dict):
        inner, kind = config.get("config"), config.get("class_name")
        if isinstance(inner, dict):
            name = config.get("name") or inner.get("name") or name
        if kind in _CODE or (set(config) == {"value"} and isinstance(config["value"], list)):
            yield f"layer {name!r}" if kind in (None, "__lambda__") else f"{kind} {name!r}"
            return
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            yield from _layers_with_code(value, name)


def _without_head(model: keras.Model, saved_loss: str = "") -> Any:
    """Return a model's output up to its embedding, also where the head is in a model inside."""
    output = keras.tree.flatten(model.outputs)[0]
    last = maker_of(output)
    if isinstance(last, AngularDense):
        logger.info("%s ends in AngularDense: the head is left out", model.name)
        return input_of(output)
    if _classifies(model, last, saved_loss):
        raise ValueError(
            "model must be a FaceClassifier, a backbone, or a model that ends in AngularDense. "
            f"Received: {model.name!r}, a classifier that ends in {type(last).__name__} "
            f"({getattr(last, 'name', '')!r}); pass the model up to its embedding instead"
        )
    if isinstance(last, FaceClassifier):
        return last.backbone(input_of(output))
    outputs = keras.tree.flatten(getattr(last, "outputs", None) or [])  # a subclassed one has none
    if isinstance(last, keras.Model) and len(outputs) == 1:
        inner = _without_head(last)
        if inner is not keras.tree.flatten(last.outputs)[0]:
            return keras.Model(last.inputs, inner, name=last.name)(input_of(output))
    return output


def in_float32(model: keras.Model) -> keras.Model:
    """Return a functional model of Keras' layers as one that computes in float32: itself or a copy.

    A model trained with `mixed_bfloat16` or `mixed_float16` keeps float32 weights; the copy uses
    them at full precision.
    """
    return model if computes_in_float32(model) else in_precision(model, "float32")


def in_precision(model: keras.Model, policy: str) -> keras.Model:
    """Return a copy of a functional model of Keras' layers, its weights too, under a dtype policy.

    As `utils.dtype_policies.copy_in`; the copy remembers how the model is fed.
    """
    clone = copy_in(model, policy)
    if len(keras.tree.flatten(model.inputs or [])) == 1:
        carry(model, clone)
    return clone


def _classifies(model: keras.Model, last: Any, saved_loss: str) -> bool:
    """Whether the output is a probability, or the model was compiled with a cross-entropy."""
    activation = getattr(last, "activation", None)
    probabilities = (keras.activations.softmax, keras.activations.sigmoid)
    if isinstance(last, keras.layers.Softmax) or activation in probabilities:
        return True
    loss = getattr(model, "loss", None)
    name = loss if isinstance(loss, str) else getattr(loss, "name", "") or ""
    return "crossentropy" in f"{name} {saved_loss}".lower()
