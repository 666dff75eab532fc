"""Whether a graph feeds a network's first weights with pixels from 0 to 255."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# What leaves the range of pixels as it is, and what multiplies them by weights.
_PASSING = {"Cast", "Identity", "Pad", "PadV2", "MirrorPad", "ReverseV2", "Transpose", "Reshape"}
_PASSING |= {"StridedSlice", "ResizeBilinear", "Squeeze", "ExpandDims"}
_WEIGHTING = {"Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "SpaceToBatchND"}


def refuse_raw_pixels(embedding: Any) -> None:
    """Raise ValueError where integers, cast and nothing else, meet a network's weights.

    Keras casts images of uint8 to float32 without a word, and a network trained on 0..255 fits
    nothing else here. Seen while a graph is traced, as in `fit`; eagerly nothing is known.
    """
    if not tf.is_symbolic_tensor(embedding):
        return
    pending, seen = [embedding.op], {embedding.op.name}
    while pending:
        operation = pending.pop()
        if operation.type == "Cast" and _is_image(operation) and _meets_weights(operation):
            raise ValueError(
                "The network gets pixels from 0 to 255: its images are of type "
                f"{operation.inputs[0].dtype.name}, and nothing normalises them. Put "
                "keras.layers.Rescaling(1 / 128, offset=-127.5 / 128) before the network, use "
                "FaceClassifier, which normalises uint8 images itself, or make the batches with "
                'face_dataset(..., dtype="float32").'
            )
        for tensor in operation.inputs:
            if tensor.op.name not in seen:
                seen.add(tensor.op.name)
                pending.append(tensor.op)


def _is_image(cast: Any) -> bool:
    source = cast.inputs[0]
    return bool(source.dtype.is_integer) and source.shape.rank == 4


def _meets_weights(operation: Any) -> bool:
    """Tell whether weights are what next changes an operation's output."""
    for tensor in operation.outputs:
        for taker in tensor.consumers():
            if taker.type in _WEIGHTING or (taker.type in _PASSING and _meets_weights(taker)):
                return True
    return False
