"""The released SphereFace networks in NumPy, channels first, and files as Caffe writes them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

CHANNELS = (3, 64, 128, 256, 512)


def convolutions(units: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Yield suffix, input and output channels of each convolution."""
    for stage, count in enumerate(units, start=1):
        yield f"{stage}_1", CHANNELS[stage - 1], CHANNELS[stage]
        for index in range(2, 2 * count + 2):
            yield f"{stage}_{index}", CHANNELS[stage], CHANNELS[stage]


def random_tensors(
    units: Sequence[int], positions: int, unit_bias: bool, classes: int = 10, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return seeded weights under PyTorch's names, all of them different from their defaults."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    tensors = {}
    for suffix, inputs, outputs in convolutions(units):
        first = suffix.endswith("_1")
        scale = (2 / (9 * inputs)) ** 0.5 * (1 if first else 0.3)
        tensors[f"conv{suffix}.weight"] = scale * draw(outputs, inputs, 3, 3)
        bias = 0.1 * draw(outputs)
        tensors[f"conv{suffix}.bias"] = bias if first or unit_bias else np.zeros_like(bias)
        tensors[f"relu{suffix}.weight"] = 0.25 + 0.1 * draw(outputs)
    inputs = 512 * positions
    tensors["fc5.weight"] = inputs**-0.5 * draw(512, inputs)
    tensors["fc5.bias"] = 0.1 * draw(512)
    tensors["fc6.weight"] = draw(512, classes)
    return tensors


def embed(
    tensors: Mapping[str, np.ndarray], units: Sequence[int], images: np.ndarray
) -> np.ndarray:
    """Run the network: (n, 3, height, width) to (n, 512), float64, by sums over kernel taps."""

    def conv(x: np.ndarray, suffix: str, stride: int) -> np.ndarray:
        weight = tensors[f"conv{suffix}.weight"].astype(np.float64)
        taps = np.ascontiguousarray(weight.transpose(2, 3, 0, 1))  # matrices for BLAS
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        height, width = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
        total = np.zeros((len(x), len(weight), height, width))
        for row in range(3):
            for column in range(3):
                rows = slice(row, row + stride * (height - 1) + 1, stride)
                columns = slice(column, column + stride * (width - 1) + 1, stride)
                tap = padded[:, :, rows, columns].reshape(*x.shape[:2], -1)
                total += (taps[row, column] @ tap).reshape(total.shape)
        total += tensors[f"conv{suffix}.bias"][:, None, None]
        slopes = tensors[f"relu{suffix}.weight"].astype(np.float64)[:, None, None]
        return np.where(total > 0, total, slopes * total)

    x = images.astype(np.float64)
    for stage, count in enumerate(units, start=1):
        x = conv(x, f"{stage}_1", 2)
        for unit in range(1, count + 1):
            x = x + conv(conv(x, f"{stage}_{2 * unit}", 1), f"{stage}_{2 * unit + 1}", 1)
    return x.reshape(len(x), -1) @ tensors["fc5.weight"].T + tensors["fc5.bias"]


def varint(number: int) -> bytes:
    """Encode an unsigned integer."""
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def message(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, legacy: bool = False) -> bytes:
    """Encode a BlobProto; `legacy` with the four numbers that came before BlobShape."""
    if legacy:
        sides = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(varint(i << 3) + varint(n) for i, n in enumerate(sides, start=1))
    else:
        shape = message(7, message(1, b"".join(map(varint, array.shape))))
    return message(5, np.ascontiguousarray(array, "<f4").tobytes()) + shape


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    """Encode a field `layer` of a NetParameter, with what Caffe writes around the blobs."""
    body = message(1, name.encode()) + message(2, kind.encode()) + message(3, b"bottom")
    body += message(4, b"top") + message(6, b"\x1d" + struct.pack("<f", 1.0))  # a ParamSpec
    body += b"".join(message(7, content) for content in blobs) + varint(10 << 3) + b"\x01"  # phase
    return message(100, body)


def write_caffemodel(
    path: Path, tensors: Mapping[str, np.ndarray], legacy: bool = False, keep: int | None = None
) -> Path:
    """Write the file that Caffe would for these weights, up to byte `keep`."""
    parts = [message(1, b"SpherefaceNet"), layer("data", "Input")]
    for name in dict.fromkeys(key.split(".")[0] for key in tensors):
        kind = {"c": "Convolution", "r": "PReLU", "f": "InnerProduct"}[name[0]]
        kind = "MarginInnerProduct" if name == "fc6" else kind
        arrays = [tensors[key] for key in tensors if key.split(".")[0] == name]
        parts.append(layer(name, kind, *(blob(array, legacy) for array in arrays)))
        if name.startswith("relu"):
            parts.append(layer(name.replace("relu", "res"), "Eltwise"))
    path.write_bytes(b"".join(parts)[:keep])
    return path
