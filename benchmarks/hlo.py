"""What XLA has to compile for a training step, read from its program before optimisation."""

from __future__ import annotations

import re
from typing import Any, Literal

import keras
import tensorflow as tf

import tf_sphereface as sf
from tf_sphereface.classifier import fast_layers
from tf_sphereface.utils import keras_private

NETWORKS = {
    "SphereFaceNet-4": lambda **options: sf.backbones.SphereFaceNet(4, **options),
    "SphereFaceNet-20": lambda **options: sf.backbones.SphereFaceNet(20, **options),
    "SphereFaceNet-64": lambda **options: sf.backbones.SphereFaceNet(64, **options),
    "MobileFaceNet": sf.backbones.MobileFaceNet,
    "IResNet-18": lambda **options: sf.backbones.IResNet(18, **options),
    "IResNet-50": lambda **options: sf.backbones.IResNet(50, **options),
}
Depthwise = Literal["table", "shifted", "grouped"]
"""Nine products, a grouped convolution, or what `fast_layers.STAND_INS` says."""
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?\S+ = (?P<shape>\S.*?) (?P<name>[a-z][\w\-]*)\(")
_GROUPED = re.compile(r"(?:feature|batch)_group_count=")


def use_depthwise(form: Depthwise) -> None:
    """Let every target compute depthwise 3x3 convolutions in one form."""
    kinds: tuple[type[fast_layers.StandIn], ...] = (fast_layers.WholeMapConvolution,)
    if form == "shifted":
        kinds += (fast_layers.ShiftedConvolution,)
    for table in fast_layers.STAND_INS.values():
        if form != "table":
            table[keras.layers.DepthwiseConv2D] = kinds


def classifier(
    network: str,
    classes: int,
    size: tuple[int, int],
    sample_rate: float = 1.0,
    jit_compile: bool = True,
) -> sf.FaceClassifier:
    """Return a network of `NETWORKS` with A-Softmax, in Keras' present dtype policy."""
    backbone = NETWORKS[network](input_shape=(*size, 3))
    model = sf.FaceClassifier(backbone, classes, sample_rate=sample_rate)
    loss = sf.losses.ASoftmaxLoss(margin=4, annealing=5.0)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss=loss, jit_compile=jit_compile)
    return model


def step_program(model: sf.FaceClassifier, batch: int) -> str:
    """Return the text of the program that XLA gets for a training step; nothing is compiled.

    Of a sampled head it is the whole update, after XLA's passes: those put the copies in.
    """
    model.optimizer.build(model.trainable_variables)
    images = tf.zeros((batch, *model.backbone.input_shape[1:]))
    labels = tf.zeros(batch, tf.int32)
    if model.sample_rate < 1:
        update = model._update_function.experimental_get_compiler_ir(images, labels, None, labels)
        return str(update(stage="optimized_hlo"))
    function = model._gradient_function.experimental_get_compiler_ir(
        [tf.convert_to_tensor(v.value) for v in model.trainable_variables],
        [tf.convert_to_tensor(v.value) for v in model._step_state()],
        tf.convert_to_tensor(keras_private.micro_steps(model.optimizer).value),
        (images, labels, None),
        tf.constant(1.0),
        None,
    )
    return str(function(stage="hlo"))


def counts(program: str, classes: int) -> dict[str, Any]:
    """Count the instructions of a program.

    `copies of tables` are of arrays with a side of `classes`, where the program has any: before
    optimisation it has none yet.
    """
    found = {
        "instructions": 0,
        "convolutions": 0,
        "of them grouped": 0,
        "reductions": 0,
        "sorts": 0,
        "copies of tables": 0,
    }
    of_a_table = re.compile(rf"\[(?:\d+,)*{classes}(?:,\d+)*\]")
    for line in program.splitlines():
        operation = _OPERATION.match(line)
        if operation is None:
            continue
        name = operation["name"]
        found["instructions"] += 1
        found["reductions"] += name == "reduce"
        found["sorts"] += name in ("sort", "topk")
        copied = name in ("copy", "copy-start") and bool(of_a_table.search(operation["shape"]))
        found["copies of tables"] += copied
        if name == "convolution":
            found["convolutions"] += 1
            found["of them grouped"] += bool(_GROUPED.search(line))
    return found
