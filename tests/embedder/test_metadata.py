"""Metadata: it survives each format, and is checked."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.embedder.small import FED, SIZE, add_onnx_metadata, make_network, write_onnx
from tf_sphereface.embedder import (
    EmbedderMetadata,
    load_embedder,
    read_metadata,
    save_embedder,
)
from tf_sphereface.embedder.metadata import (
    add_tflite_metadata,
)
from tf_sphereface.embedder.metadata_rewriting import replace_metadata
from tf_sphereface.embedder.model_hashes import external_data_files, model_sha256, network_sha256
from tf_sphereface.utils.files import sha256_file

TEXT = st.none() | st.text(max_size=20)
METADATA = st.builds(
    EmbedderMetadata,
    input_size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    embedding_dim=st.none() | st.integers(1, 2048),
    channel_order=st.sampled_from(["rgb", "bgr"]),
    pixel_mean=st.floats(0, 255) | st.tuples(*[st.floats(0, 255)] * 3),
    pixel_scale=st.floats(0.5, 255),
    template=TEXT,
    normalized=st.booleans(),
    flip=st.sampled_from(["none", "concat", "sum"]),
    architecture=TEXT,
    margin=st.none() | st.floats(1, 4),
    threshold=st.none() | st.floats(-1, 1),
    versions=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    extra=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)


@settings(deadline=None)
@given(METADATA)
def test_metadata_survives_json(metadata):
    assert EmbedderMetadata.from_json(metadata.to_json()) == metadata


def test_metadata_survives_each_format(tmp_path, network, tflite):
    metadata = EmbedderMetadata(
        input_size=SIZE, embedding_dim=10, threshold=0.3, training_data="Gesichter, ×2"
    )
    save_embedder(network, tmp_path / "x.keras", metadata)
    content = (tflite / "any.tflite").read_bytes()
    (tmp_path / "x.tflite").write_bytes(add_tflite_metadata(content, metadata.to_json()))
    write_onnx(tmp_path / "x.onnx")
    assert read_metadata(tmp_path / "x.onnx") is None
    assert read_metadata(tflite / "any.tflite") is None
    add_onnx_metadata(tmp_path / "x.onnx", metadata)
    for name in ("x.keras", "x.tflite", "x.onnx"):
        read = read_metadata(tmp_path / name)
        assert (read.threshold, read.training_data) == (0.3, "Gesichter, ×2")
        assert load_embedder(tmp_path / name, threads=1).metadata.threshold == 0.3
        digest = network_sha256(tmp_path / name)
        replace_metadata(tmp_path / name, dataclasses.replace(read, threshold=0.4))
        assert network_sha256(tmp_path / name) == digest
    content = bytearray((tmp_path / "x.onnx").read_bytes())
    content[len(content) // 2] ^= 1  # of a weight
    (tmp_path / "y.onnx").write_bytes(content)
    assert network_sha256(tmp_path / "y.onnx") != digest


def test_a_later_versions_keys_are_kept():
    metadata = EmbedderMetadata.from_json('{"embedding_dim": 4, "colour": 7, "extra": {"a": 1}}')
    assert metadata.extra == {"a": 1, "colour": 7}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": (112,)}, "input_size"),
        ({"input_size": (112, 0)}, "input_size"),
        ({"channel_order": "grb"}, "`channel_order` must be one of"),
        ({"flip": "yes"}, "`flip` must be one of"),
        ({"pixel_mean": (1.0, 2.0)}, "`pixel_mean` must be one number or three"),
        ({"pixel_mean": math.nan}, "`pixel_mean` must be one number or three, finite"),
        ({"pixel_scale": math.inf}, "`pixel_scale` must be one number or three, finite"),
        ({"pixel_scale": True}, "`pixel_scale` must be one number or three"),
        ({"pixel_scale": 0.0}, "`pixel_scale` must be positive"),
        ({"threshold": 1.5}, "`threshold` must be a cosine"),
        ({"threshold": "0.3"}, "`threshold` must be a cosine"),
        ({"threshold_far": 5}, "`threshold_far` must be a rate"),
    ],
)
def test_metadata_outside_its_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        EmbedderMetadata(**fields)


def test_metadata_that_is_no_json_object_is_refused():
    for text in ("{", "[1]", "7"):
        with pytest.raises(ValueError, match="`text` must be"):
            EmbedderMetadata.from_json(text)


def test_tflite_metadata_is_replaced_not_piled_up(tmp_path, tflite):
    content = (tflite / "any.tflite").read_bytes()
    once = add_tflite_metadata(content, EmbedderMetadata(loss="first").to_json())
    twice = add_tflite_metadata(once, EmbedderMetadata(loss="another").to_json())
    (tmp_path / "x.tflite").write_bytes(twice)
    assert read_metadata(tmp_path / "x.tflite") == EmbedderMetadata(loss="another")
    assert len(twice) - len(once) < 64


def test_tflite_metadata_leaves_the_network_alone(tmp_path, tflite, faces):
    from ai_edge_litert.schema_py_generated import Model

    content = (tflite / "any.tflite").read_bytes()
    changed = add_tflite_metadata(content, "some text")
    (tmp_path / "x.tflite").write_bytes(changed)
    before = load_embedder(tflite / "any.tflite", threads=1, **FED)(faces)
    metadata = EmbedderMetadata()
    (tmp_path / "x.tflite").write_bytes(add_tflite_metadata(content, metadata.to_json()))
    assert np.array_equal(load_embedder(tmp_path / "x.tflite", threads=1)(faces), before)
    model = Model.GetRootAs(changed, 0)
    for i in range(model.BuffersLength()):
        data = model.Buffers(i).DataAsNumpy()
        if model.Buffers(i).DataLength():
            offset = data.ctypes.data - np.frombuffer(changed, np.uint8).ctypes.data
            assert offset % 16 == 0


def test_tflite_metadata_refuses_other_bytes():
    with pytest.raises(ValueError, match="TFL3"):
        add_tflite_metadata(b"PK\x03\x04 a zip", "text")
    with pytest.raises(ValueError, match="`text` must not be empty"):
        add_tflite_metadata(b"\0\0\0\0TFL3", "")


def test_what_a_file_cannot_hold_comes_back_as_it_can(tmp_path):
    facts = EmbedderMetadata(threshold=np.float32(0.3), embedding_dim=np.int64(3))
    assert (type(facts.threshold), type(facts.embedding_dim)) == (float, int)
    told = dataclasses.replace(facts, extra={"faces": (112, 96), "loss": float("nan")})
    network = make_network()
    save_embedder(network, tmp_path / "m.keras", told)
    replace_metadata(tmp_path / "m.keras", told)
    assert read_metadata(tmp_path / "m.keras").extra == {"faces": [112, 96], "loss": None}


def test_weights_beside_an_onnx_file_are_a_part_of_the_model(tmp_path):
    path = tmp_path / "m.onnx"
    write_onnx(path)
    assert (external_data_files(path), model_sha256(path)) == ([], sha256_file(path))
    model, hashes = onnx.load(path), set()
    for change in (1.0, 2.0):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        weights = next(t for t in copy.graph.initializer if t.name == "weights")
        values = numpy_helper.to_array(weights) * change
        weights.CopyFrom(numpy_helper.from_array(values, "weights"))
        (tmp_path / "m.data").unlink(missing_ok=True)
        onnx.save(copy, path, save_as_external_data=True, location="m.data", size_threshold=0)
        assert external_data_files(path) == [tmp_path / "m.data"]
        hashes.add((sha256_file(path), model_sha256(path)))
    assert len({own for own, _ in hashes}) == 1
    assert len(hashes) == 2
