"""The wire format of `.caffemodel` files, as Caffe writes them and as nobody should."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tf_sphereface.importers import read_caffemodel
from tf_sphereface.importers.protobuf import WireError, read_fields


def official_net():
    """Return the class of a NetParameter, made by the protocol buffers' own library."""
    pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    pool = pytest.importorskip("google.protobuf.descriptor_pool").DescriptorPool()
    factory = pytest.importorskip("google.protobuf.message_factory")
    file = pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")

    def define(name, *fields):
        message = file.message_type.add(name=name)
        for number, field, kind, label, packed in fields:
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = 11, f".caffe.{kind}"
            else:
                added.type = kind
            if packed:
                added.options.packed = True

    one, many, text, floats, doubles, int64 = 1, 3, 9, 2, 1, 3
    define("BlobShape", (1, "dim", int64, many, True))
    define(
        "BlobProto",
        (5, "data", floats, many, True),
        (7, "shape", "BlobShape", one, False),
        (8, "double_data", doubles, many, True),
    )
    define("Loose", (5, "data", floats, many, False), (7, "shape", "BlobShape", one, False))
    define(
        "LayerParameter",
        (1, "name", text, one, False),
        (2, "type", text, one, False),
        (7, "blobs", "BlobProto", many, False),
    )
    define(
        "NetParameter",
        (1, "name", text, one, False),
        (100, "layer", "LayerParameter", many, False),
    )
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def test_reads_what_the_official_library_writes(tmp_path):
    net = official_net()(name="net")
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((2, 3, 3, 3), dtype=np.float32), rng.normal(size=2)
    layer = net.layer.add(name="conv1_1", type="Convolution")
    first, second = layer.blobs.add(), layer.blobs.add()
    first.shape.dim.extend(arrays[0].shape)
    first.data.extend(arrays[0].ravel().tolist())
    second.shape.dim.append(2)
    second.double_data.extend(arrays[1].tolist())
    net.layer.add(name="loss", type="SoftmaxWithLoss")
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net.SerializeToString())
    layers = read_caffemodel(path)
    assert list(layers) == ["conv1_1"]
    assert layers["conv1_1"].type == "Convolution"
    for found, expected in zip(layers["conv1_1"].blobs, arrays, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert not found.flags.writeable


def test_numbers_that_are_not_packed_and_in_pieces(tmp_path, released):
    one = released.varint(5 << 3 | 5) + np.float32(1.5).tobytes()
    piece = released.message(5, np.array([2.5, 3.5], "<f4").tobytes())
    axes = released.message(7, released.varint(1 << 3) + b"\x03")
    path = tmp_path / "x.caffemodel"
    path.write_bytes(released.layer("fc5", "InnerProduct", one + piece + axes))
    np.testing.assert_array_equal(read_caffemodel(path)["fc5"].blobs[0], [1.5, 2.5, 3.5])


def test_the_older_shape_of_a_blob(tmp_path, released):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = tmp_path / "x.caffemodel"
    path.write_bytes(released.layer("fc5", "InnerProduct", released.blob(array, legacy=True)))
    np.testing.assert_array_equal(read_caffemodel(path)["fc5"].blobs[0], array[None, None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .caffemodel but an empty file: download it again"),
        (b'name: "SpherefaceNet-20"\nlayer {', "the weights are in the .caffemodel file"),
        (b"PK\x03\x04" + bytes(40), "not a .caffemodel"),
        (b"<html>not found</html>", "not a .caffemodel but a web page"),
        (b"\xff" * 20, "a number longer than 64 bits"),
        (b"\xa2\x06\xff\xff\xff\xff\x7f", "needs 34,359,738,367 bytes and 0 are left"),
        (b"\xa2\x06\x02\x3a\x7f", "field 7 needs 127 bytes and 0 are left"),
        (b"\xa0\x06\x05", "field 100 has wire type 0, expected 2"),
        (b"\xa2", "truncated inside a number"),
        (b"\x00\x01", "field number 0"),
        (b"\xa2\x06\x03\x0a\x01\xff", "field 1 is no UTF-8 text"),
        (b"\x0a\x03net", "it holds no layer with weights"),
        (b"\x12\x02\x08\x01", "upgrade_net_proto_binary"),
    ],
)
def test_refuses_other_files(tmp_path, content, message):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.caffemodel: ") as caught:
        read_caffemodel(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((2, 4), "7 values for the shape 2x4"),
        ((2**40, 2**40), "7 values for the shape"),
        ((0, 2**63), "7 values for the shape 0x"),
        ((1,) * 33 + (7,), "7 values for the shape 1x1"),
    ],
)
def test_refuses_a_shape_that_lies(tmp_path, released, axes, message):
    shape = released.message(7, released.message(1, b"".join(map(released.varint, axes))))
    values = released.message(5, np.zeros(7, "<f4").tobytes())
    path = tmp_path / "x.caffemodel"
    path.write_bytes(released.layer("fc5", "InnerProduct", values + shape))
    with pytest.raises(ValueError, match="blob 0 of layer 'fc5'") as caught:
        read_caffemodel(path)
    assert message in str(caught.value)


def test_refuses_half_a_number_and_a_name_twice(tmp_path, released):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(released.layer("fc5", "InnerProduct", released.message(5, b"12345")))
    with pytest.raises(ValueError, match="5 bytes are no whole number of 4-byte values"):
        read_caffemodel(path)
    one = released.layer("fc5", "InnerProduct", released.blob(np.zeros(2)))
    path.write_bytes(one + one)
    with pytest.raises(ValueError, match="two layers are named 'fc5'"):
        read_caffemodel(path)


def test_every_truncation_is_an_error_or_lacks_layers(tmp_path, released):
    tensors = {"conv1_1.weight": np.ones((2, 3, 3, 3)), "fc5.weight": np.ones((2, 4))}
    path = released.write_caffemodel(tmp_path / "x.caffemodel", tensors)
    data = path.read_bytes()
    for keep in range(len(data)):
        path.write_bytes(data[:keep])
        try:
            assert set(read_caffemodel(path)) < {"conv1_1", "fc5"}
        except ValueError as error:
            assert "x.caffemodel" in str(error)  # noqa: PT017


def test_any_bytes_end_in_an_error_and_soon():
    rng = np.random.default_rng(0)
    begun = time.monotonic()
    for _ in range(2_000):
        data = memoryview(rng.integers(0, 256, rng.integers(1, 200), np.uint8).tobytes())
        try:
            list(read_fields(data))
        except WireError:
            continue
    assert time.monotonic() - begun < 60
