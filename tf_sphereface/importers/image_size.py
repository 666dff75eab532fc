"""The size of the images that a network takes, told by the dense layer behind its last map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tf_sphereface.utils.checks import check_image_size, error

CHANNELS = 512  # of the last map
STRIDE = 16  # pixels of the image per position of the map, rounded up at the edges
_SIZES = {7 * 6: (112, 96), 7 * 7: (112, 112)}


def sizes_of(
    name: str,
    weight: np.ndarray | None,
    input_size: Sequence[int] | None,
    usual: tuple[int, int],
) -> tuple[tuple[int, int], int]:
    """Return the (height, width) in pixels of the images, and the length of the embedding.

    Args:
        name: of the dense layer's tensor in the file.
        weight: that tensor, (embedding_dim, positions * 512); None or of another rank: `usual`
            and 512, so that the full report of what is missing follows.
        input_size: (height, width) where it is known.
        usual: (height, width).

    Raises:
        ValueError: `input_size` does not fit, or the tensor does not tell it.

    Example:

    >>> sizes_of("fc.weight", np.zeros((128, 512 * 7 * 6)), None, (112, 112))
    ((112, 96), 128)
    """
    if weight is None or weight.ndim != 2:
        return usual, 512
    embedding_dim, inputs = weight.shape
    if input_size is not None:
        height, width = check_image_size("input_size", input_size)
        numbers = CHANNELS * math.ceil(height / STRIDE) * math.ceil(width / STRIDE)
        if numbers != inputs:
            given = f"an input of {height}x{width} gives {numbers:,}"
            text = f"fit {name}, which takes {inputs:,} numbers; {given}"
            raise error("input_size", text, (height, width))
        return (height, width), embedding_dim
    positions, rest = divmod(inputs, CHANNELS)
    if rest or positions not in _SIZES:
        raise ValueError(
            f"{name} takes {inputs:,} numbers: 112x96 pixels give 21,504 and 112x112 give "
            "25,088; for another size of image pass input_size (--input-size HxW)"
        )
    return _SIZES[positions], embedding_dim


def size_of_kernel(
    name: str,
    kernel: np.ndarray | None,
    input_size: Sequence[int] | None,
    usual: tuple[int, int],
) -> tuple[int, int]:
    """Return the (height, width) in pixels that a depthwise kernel as large as the last map tells.

    Args:
        name: of the kernel in the file.
        kernel: (channels, 1, height, width); None or of another rank: `usual`.
        input_size: (height, width) where it is known.
        usual: (height, width).

    Raises:
        ValueError: `input_size` does not fit.

    Example:

    >>> size_of_kernel("linear7.conv.weight", np.zeros((512, 1, 7, 6)), None, (112, 112))
    (112, 96)
    """
    if kernel is None or kernel.ndim != 4:
        return usual
    rows, columns = kernel.shape[2:]
    if input_size is None:
        return STRIDE * rows, STRIDE * columns
    height, width = check_image_size("input_size", input_size)
    if (math.ceil(height / STRIDE), math.ceil(width / STRIDE)) != (rows, columns):
        text = f"fit {name}, which is of {STRIDE * rows}x{STRIDE * columns}"
        raise error("input_size", text, (height, width))
    return height, width
