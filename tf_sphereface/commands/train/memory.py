"""What a run takes of memory and disk, before it takes any."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface import FaceClassifier
from tf_sphereface.training.checkpoint import build_optimizer
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.weight_average import network_weights
from tf_sphereface.utils import hardware, keras_private

STAND_IN = 1009  # classes of the model that is made in place of one of more, to count by
NOTE = (
    "An estimate: weights, centers, optimizer state and gradients by their shapes; activations as "
    "the sum of all layers' outputs times the batch, twice (forward, and their gradients). XLA and "
    "in-place layers need less, convolution workspaces and the input pipeline come on top."
)


def head_parameters(model: FaceClassifier, people: int) -> int:
    """Return the parameters of a head of `people`, of which `model` may be a stand-in.

    A sampled head has those of all centers: its window and its optimizer state are none.
    """
    if model.sampled:
        return people * int(model.backbone.output_shape[-1])
    return sum(math.prod(_grown(v, model, people)) for v in model.head_layer.trainable_variables)


def memory(model: FaceClassifier, recipe: Recipe, replicas: int, people: int) -> dict[str, int]:
    """Estimate the bytes that one replica's device needs; see `NOTE`.

    `model` may be a stand-in of fewer classes than there are `people`.
    """
    build_optimizer(model)
    head = model.head_layer
    width = 4 if recipe.policy == "float32" else 2
    outputs = sum(
        math.prod(int(size) for size in output.shape[1:])
        for layer in model.backbone.layers
        for output in keras.tree.flatten(layer.output)
    )
    in_head = {id(v) for v in head.variables}
    centers = sum(4 * math.prod(_grown(v, model, people)) for v in head.trainable_variables)
    logits = math.ceil(model.sample_rate * people) * model.centers_per_class + 1
    optimizer = sum(_slot_bytes(v, model, people) for v in model.optimizer.variables)
    if model.sampled and model.centers == "device":
        table = 4 * people * int(model.backbone.output_shape[-1])
        centers += table
        optimizer += table * (len(head.stores) - 1)
    parts = {
        "weights": _bytes(v for v in model.weights if id(v) not in in_head),
        "centers": centers,
        "optimizer": optimizer,
        "gradients": sum(
            4 * math.prod(_grown(v, model, people)) for v in model.trainable_variables
        ),
        **({"averages": _bytes(network_weights(model))} if recipe.ema else {}),
        "activations": 2 * (recipe.batch_size // replicas) * (outputs * width + logits * 4),
    }
    return {**parts, "total": sum(parts.values())}


def off_device(model: FaceClassifier, people: int) -> int:
    """Return the bytes of centers and optimizer state in the host's memory, or in files."""
    table = getattr(model.head_layer, "center_table", None)
    return 0 if table is None else table.bytes // model.num_classes * people


def checkpoint_size(model: FaceClassifier, parts: dict[str, int], people: int) -> int:
    """Return about how many bytes a checkpoint has, for the parts of `memory`."""
    size = sum(parts[name] for name in ("weights", "centers", "optimizer"))
    head = model.head_layer
    sample = 4 * math.ceil(model.sample_rate * people) * int(model.backbone.output_shape[-1])
    table = getattr(head, "center_table", None)
    if table is not None:  # a step's rows are left out, and all are in
        size -= len(head.windows) * sample
        size += table.checkpoint_bytes // model.num_classes * people
    elif model.sampled:  # a step's optimizer state is in twice
        size += (len(head.stores) - 1) * sample
    return size + parts.get("averages", 0)


def doubts(report: dict[str, Any], model: FaceClassifier, out: Path) -> list[str]:
    """Say what of a plan's report cannot fit this machine, where that is known."""
    need, host = report["memory_per_replica"]["total"], report["centers_off_device"]
    device, free = keras_private.device_memory(), hardware.free_memory()
    told = []
    if device is None:  # the device is the processor
        need *= report["replicas"]
    in_memory = (need if device is None else 0) + (host if model.centers == "host" else 0)
    if device is not None and need > device:
        told.append(f"a replica needs about {_size(need)}, and its GPU has {_size(device)}")
    if free is not None and in_memory > free:
        told.append(f"about {_size(in_memory)} of memory are needed, and {_size(free)} are free")
    places = [(out, report["checkpoints"]["most"], "checkpoints")]
    if model.centers not in ("device", "host"):
        places.append((Path(model.centers), host, "centers"))
    for path, size, what in places:
        there = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        whole = path.absolute()
        near = next(parent for parent in (whole, *whole.parents) if parent.exists())
        room = shutil.disk_usage(near).free + there
        if size > room:
            told.append(f"the {what} need {_size(size)} in {path}, whose disk has {_size(room)}")
    return told


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _grown(variable: Any, model: FaceClassifier, people: int) -> list[int]:
    """Return a variable's shape in the model of `people` that `model` stands in for."""
    in_head = {id(v) for v in model.head_layer.trainable_variables}
    return _stretched(variable, model, people) if id(variable) in in_head else list(variable.shape)


def _stretched(variable: Any, model: FaceClassifier, people: int) -> list[int]:
    each, size = model.centers_per_class, getattr(model.head_layer, "sample_size", 0)
    sizes = {size: math.ceil(model.sample_rate * people)} if model.sampled else {}
    sizes = sizes or {model.num_classes * each: people * each}
    return [sizes.get(side, side) for side in variable.shape]


def _slot_bytes(slot: Any, model: FaceClassifier, people: int) -> int:
    """Return the bytes of an optimizer's variable; the head's grow with it."""
    names = [v.path.replace("/", "_") for v in model.head_layer.trainable_variables]
    of_head = any(name in slot.path.replace("/", "_") for name in names)
    shape = _stretched(slot, model, people) if of_head else list(slot.shape)
    return int(math.prod(shape)) * tf.as_dtype(slot.dtype).size


def _bytes(variables: Iterable[Any]) -> int:
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)
