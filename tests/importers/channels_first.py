"""PyTorch's layers in NumPy, channels first, in float64, over seeded tensors by name."""

from __future__ import annotations

import numpy as np


class Weights(dict):
    """Seeded tensors by name, all of them different from their defaults."""

    def __init__(self, seed=0):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def draw(self, *shape, scale=1.0):
        return np.float32(scale) * self.rng.standard_normal(shape, np.float32)

    def conv(self, name, inputs, outputs, side=3, bias=False, groups=1):
        fan_in = inputs // groups * np.prod(side if isinstance(side, tuple) else (side, side))
        sides = side if isinstance(side, tuple) else (side, side)
        shape = (outputs, inputs // groups, *sides)
        self[f"{name}.weight"] = self.draw(*shape, scale=(2 / fan_in) ** 0.5)
        if bias:
            self[f"{name}.bias"] = self.draw(outputs, scale=0.1)

    def norm(self, name, channels, affine=True):
        if affine:
            self[f"{name}.weight"] = 1 + self.draw(channels, scale=0.1)
            self[f"{name}.bias"] = self.draw(channels, scale=0.1)
        self[f"{name}.running_mean"] = self.draw(channels, scale=0.1)
        self[f"{name}.running_var"] = 1 + self.rng.uniform(-0.3, 0.3, channels).astype(np.float32)
        self[f"{name}.num_batches_tracked"] = np.array(7)

    def prelu(self, name, channels):
        self[f"{name}.weight"] = 0.25 + self.draw(channels, scale=0.05)

    def linear(self, name, inputs, outputs, bias=True):
        self[f"{name}.weight"] = self.draw(outputs, inputs, scale=inputs**-0.5)
        if bias:
            self[f"{name}.bias"] = self.draw(outputs, scale=0.1)


class Layers:
    """The layers over such tensors: maps are (n, channels, height, width)."""

    def __init__(self, tensors):
        self.tensors = tensors

    def _get(self, name):
        value = self.tensors.get(name)
        return None if value is None else value.astype(np.float64)

    def conv(self, x, name, stride=1, groups=1, padding=None):
        """Sum over the kernel's taps, with symmetric padding that keeps the size."""
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        outputs, inputs, tall, wide = weight.shape
        rows, columns = (tall // 2, wide // 2) if padding is None else padding
        padded = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
        height = (padded.shape[2] - tall) // stride + 1
        width = (padded.shape[3] - wide) // stride + 1
        total = np.zeros((len(x), groups, outputs // groups, height * width))
        weight = weight.reshape(groups, outputs // groups, inputs, tall, wide)
        taps = np.ascontiguousarray(weight.transpose(3, 4, 0, 1, 2))  # matrices for BLAS
        for row in range(tall):
            for column in range(wide):
                down = slice(row, row + stride * (height - 1) + 1, stride)
                across = slice(column, column + stride * (width - 1) + 1, stride)
                tap = padded[:, :, down, across].reshape(len(x), groups, inputs, -1)
                total += taps[row, column] @ tap
        total = total.reshape(len(x), outputs, height, width)
        return total if bias is None else total + bias[:, None, None]

    def norm(self, x, name):
        sides = (1,) * (x.ndim - 2)
        mean, variance, scale, bias = (
            None if value is None else value.reshape(-1, *sides)
            for value in (
                self._get(f"{name}.{kind}")
                for kind in ("running_mean", "running_var", "weight", "bias")
            )
        )
        x = (x - mean) / np.sqrt(variance + 1e-5)
        return x if scale is None else x * scale + bias

    def prelu(self, x, name):
        return np.where(x > 0, x, self._get(f"{name}.weight")[:, None, None] * x)

    def linear(self, x, name):
        bias = self._get(f"{name}.bias")
        y = x @ self._get(f"{name}.weight").T
        return y if bias is None else y + bias


def relu(x):
    return np.maximum(x, 0)


def relative_error(found, expected):
    """The largest distance of two embeddings, as a part of their length."""
    return (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()
