"""Safetensors: what is read, and headers that lie."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from tf_sphereface.backbones import SphereFaceNet
from tf_sphereface.embedder import save_weights
from tf_sphereface.importers import import_checkpoint, read_torch_checkpoint
from tf_sphereface.importers.safetensors import SafetensorsFile


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(kind, shape, begin, end):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def test_types_and_names(tmp_path):
    numbers = np.array([[1, -2.5, 0.5]], "<f4")
    half, brain = numbers.astype("<f2"), (numbers.view("<u4") >> 16).astype("<u2")
    header = {
        "__metadata__": {"format": "pt"},
        "module.a": entry("F32", [1, 3], 6, 18),
        "module.h": entry("F16", [3], 0, 6),
        "module.b": entry("BF16", [1, 3], 18, 24),
        "module.count": entry("I64", [], 24, 32),
        "module.none": entry("F32", [0, 2], 32, 32),
    }
    data = half.tobytes() + numbers.tobytes() + brain.tobytes() + struct.pack("<q", 7)
    found = read_torch_checkpoint(write(tmp_path / "x.safetensors", header, data))
    assert list(found) == ["a", "h", "b", "count", "none"]
    np.testing.assert_array_equal(found["a"], numbers)
    np.testing.assert_array_equal(found["h"], half[0])
    np.testing.assert_array_equal(found["b"], numbers)
    assert found["b"].dtype == np.float32
    assert found["count"] == 7
    assert found["none"].shape == (0, 2)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a": ', "its header cannot be read"),
        (b'{"a": ' + b"[" * 100_000, "its header cannot be read"),
        (b'{"a": 1, "a": 2}', "a name comes twice"),
        ({"a": 3}, "'a' is described wrongly"),
        ({"a": entry("F32", [-1], 0, 4)}, "'a' is described wrongly"),
        ({"a": entry("F32", [1], -4, 0)}, "'a' is described wrongly"),
        ({"a": entry("F32", ["1"], 0, 4)}, "'a' is described wrongly"),
        ({"a": entry("F32", [True], 0, 4)}, "'a' is described wrongly"),
        ({"a": entry("F8_E4M3", [4], 0, 4)}, "is of type F8_E4M3, which is not read"),
        ({"a": entry("F32", [2], 0, 4)}, "'a' has 4 bytes, not 8"),
        ({"a": entry("F32", [2**40, 2**40], 0, 8)}, "'a' has 8 bytes, not"),
        ({"a": entry("F32", [3], 0, 12)}, "8 bytes are missing at its end; download it again"),
    ],
)
def test_headers_that_lie(tmp_path, header, message):
    path = write(tmp_path / "x.safetensors", header, bytes(4))
    with pytest.raises(ValueError, match=r"x\.safetensors: not a safetensors file, or a") as caught:
        SafetensorsFile(path)
    assert message in str(caught.value)


def test_a_header_longer_than_the_file(tmp_path):
    path = write(tmp_path / "x.safetensors", b"{}", length=1 << 40)
    with pytest.raises(ValueError, match="its header would be"):
        SafetensorsFile(path)


@pytest.mark.parametrize(("value", "what"), [(0.0, "zeros"), (3e38, "numbers that are not finite")])
def test_weights_that_answer_nothing_are_not_imported(tmp_path, value, what):
    network = SphereFaceNet(4, (28, 24, 3), 8)
    for variable in network.layers[-1].variables:
        variable.assign(np.full(variable.shape, value))
    save_weights(network, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=f"answers images by {what}"):
        import_checkpoint(tmp_path / "m.safetensors")
