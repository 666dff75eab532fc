"""What is built into a file is computed as Keras and NumPy compute it, and told to every tool."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from tf_sphereface.data import synthetic
from tf_sphereface.embedder import Embedder, EmbedderMetadata, load_embedder, read_metadata
from tf_sphereface.embedder.runtimes import to_network
from tf_sphereface.eval import lfw
from tf_sphereface.eval.scoring.score_pairs import embed_verification, verification_vectors
from tf_sphereface.export import export_onnx, export_tflite
from tf_sphereface.export.options import FileOptions

WRITERS = {"tflite": export_tflite, "onnx": export_onnx}
NETWORK = EmbedderMetadata(
    channel_order="bgr",
    pixel_mean=(100.0, 110.0, 120.0),
    pixel_scale=(120.0, 125.0, 130.0),
    flip="concat",
    threshold=0.4,
    threshold_far=0.01,
)
ALL = {"input_dtype": "uint8", "flip_concat": True, "normalize": True}
LEAST = {"none": 0.999999, "float16": 0.9999, "dynamic": 0.98, "int8": 0.98}


def by_keras(net, images):
    """Image and mirror image, concatenated, of unit length."""
    embed = Embedder.in_memory(net, NETWORK)
    mirrored = embed(np.ascontiguousarray(images[:, :, ::-1]))
    both = np.concatenate([embed(images), mirrored], axis=1)
    return both / np.linalg.norm(both, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("file_format", "kind", "more"),
    [
        ("tflite", "none", {}),
        ("tflite", "float16", {}),
        ("tflite", "dynamic", {"batch": 1}),
        ("tflite", "int8", {}),
        ("tflite", "int8", {"batch": 3}),
        ("onnx", "none", {"layout": "nchw"}),
        ("onnx", "float16", {}),
        ("onnx", "int8", {"layout": "nchw", "batch": 3}),
    ],
)
def test_pixels_mirror_and_norm(tiny_net, faces, other_faces, tmp_path, file_format, kind, more):
    path = tmp_path / f"m.{file_format}"
    WRITERS[file_format](tiny_net, path, kind, faces, NETWORK, **ALL, **more)
    embedder = load_embedder(path)
    actual, expected = embedder(other_faces), by_keras(tiny_net, other_faces)
    assert (actual * expected).sum(axis=1).min() > LEAST[kind]
    # The norm is taken in float32, also where the network is in int8 or float16.
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=2e-6)
    stored = read_metadata(path)
    assert (stored.input_dtype, stored.channel_order, stored.pixel_mean) == ("uint8", "rgb", 0.0)
    assert (stored.flip_built_in, stored.flip, stored.normalized) == (True, "concat", True)
    assert (stored.embedding_dim, stored.threshold) == (32, 0.4)
    assert stored.layout == more.get("layout", "nhwc")
    assert stored.batch == more.get("batch")
    assert embedder.image_dim == 16


@pytest.mark.parametrize("file_format", ["tflite", "onnx"])
def test_a_fixed_batch_is_in_the_file(tiny_net, tmp_path, file_format):
    path = tmp_path / f"m.{file_format}"
    WRITERS[file_format](tiny_net, path, batch=2)
    if file_format == "onnx":
        graph = onnx.load(path).graph
        sides = [v.type.tensor_type.shape.dim[0].dim_value for v in (*graph.input, *graph.output)]
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        details = (*interpreter.get_input_details(), *interpreter.get_output_details())
        sides = [detail["shape_signature"][0] for detail in details]
    assert sides == [2, 2]


@pytest.mark.parametrize(("layout", "transposes"), [("nhwc", 1), ("nchw", 0)])
@pytest.mark.parametrize("kind", ["none", "int8"])
def test_onnx_has_no_transpose_more_than_its_layout_needs(
    small_net, faces, tmp_path, layout, transposes, kind
):
    path = tmp_path / "m.onnx"
    calibration = faces[:8] if kind == "int8" else None
    export_onnx(small_net, path, kind, calibration, **ALL, layout=layout)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Transpose") == transposes
    # relu(x) + slope * min(x, 0), for each of the four PReLUs; in float also in an int8 file.
    assert operators.count("Relu") == operators.count("Min") == operators.count("Add") == 4
    assert not {"PRelu", "Neg"} & set(operators)
    quantized = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    assert not any(quantized & set(n.input) for n in model.graph.node if n.op_type == "Add")
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape[1:] == ([56, 48, 3] if layout == "nhwc" else [3, 56, 48])


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("options", [{"flip_concat": True}, ALL], ids=["mirror", "all"])
def test_opencv_runs_a_file_with_what_is_built_in(tiny_net, other_faces, tmp_path, layout, options):
    """OpenCV 4 refuses slices with a negative step; its importer is version 5's classic engine."""
    path = tmp_path / "m.onnx"
    export_onnx(tiny_net, path, metadata=NETWORK, layout=layout, **options)
    model = onnx.load(path)
    assert "Slice" not in {node.op_type for node in model.graph.node}
    embed = load_embedder(path)
    expected = embed(other_faces[:2])
    for engine in (cv2.dnn.ENGINE_CLASSIC, cv2.dnn.ENGINE_NEW):
        net = cv2.dnn.readNetFromONNX(str(path), engine)
        for face, vector in zip(other_faces[:2], expected, strict=True):
            image = to_network(face[None], embed.metadata)
            image = image.transpose(0, 3, 1, 2) if layout == "nchw" else image
            net.setInput(np.ascontiguousarray(image))
            actual = net.forward().ravel()
            np.testing.assert_allclose(actual, vector, atol=1e-4 * np.abs(vector).max())


def test_xnnpack_takes_the_network_in_one_piece(small_net, tiny_net, faces, tmp_path):
    report = export_tflite(small_net, tmp_path / "m.int8.tflite", "int8", faces[:8])
    assert report.partitions == 1
    report = export_tflite(tiny_net, tmp_path / "all.tflite", "int8", faces[:8], **ALL)
    assert report.partitions <= 3  # what is in front, the network, what is behind
    assert export_onnx(tiny_net, tmp_path / "m.onnx").partitions is None


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    return synthetic.write_folder(root, 12, 4, size=(56, 48), pairs_per_fold=8, folds=3)


@pytest.fixture(scope="module")
def twice(tiny_net, tmp_path_factory):
    """A file of the network alone, and one with the mirror image built in."""
    root = tmp_path_factory.mktemp("twice")
    export_onnx(tiny_net, root / "one.onnx", metadata=NETWORK)
    export_onnx(tiny_net, root / "both.onnx", metadata=NETWORK, flip_concat=True)
    return root / "one.onnx", root / "both.onnx"


def test_no_tool_mirrors_a_file_twice(twice, pairs_folder, other_faces, tmp_path):
    one, both = (load_embedder(path) for path in twice)
    for flip in ("none", "concat", "sum"):
        expected = verification_vectors(one, other_faces, flip)
        np.testing.assert_allclose(
            verification_vectors(both, other_faces, flip), expected, atol=1e-5
        )
    calls = []
    run = both._runner
    both._runner = CountedRunner(run, calls)
    ids = np.arange(10)
    same, folds = ids // 2 % 2 == 0, ids % 2
    tables = [
        embed_verification(e, other_faces, ids, ids + 10, same, folds).table for e in (one, both)
    ]
    assert sum(calls) == len(other_faces)
    for key, result in tables[0].items():
        np.testing.assert_allclose(result.scores, tables[1][key].scores, atol=1e-5)
    # From files, from files with a cache, and from what the cache holds.
    results = [
        lfw.evaluate(path, pairs_folder, pairs_folder / "pairs.txt", cache=cache)
        for path, cache in ((one, None), (both, None), (twice[1], tmp_path), (twice[1], tmp_path))
    ]
    for other in results[1:]:
        for key, result in results[0].table.items():
            np.testing.assert_allclose(result.scores, other.table[key].scores, atol=1e-5)
    plain = lfw.evaluate(twice[1], pairs_folder, pairs_folder / "pairs.txt", flip=False)
    assert list(plain.table) == [("none", "plain"), ("none", "mean_subtracted")]


class CountedRunner:
    """Counts the faces that go through."""

    def __init__(self, runner, calls):
        self._runner, self._calls = runner, calls

    def __call__(self, images):
        self._calls.append(len(images))
        return self._runner(images)


def test_a_threshold_of_other_vectors_is_dropped():
    alone = dataclasses.replace(NETWORK, flip="none", embedding_dim=16)
    built_in = FileOptions(flip_concat=True).applied_to(alone)
    assert (built_in.threshold, built_in.threshold_far, built_in.flip) == (None, None, "concat")
    assert FileOptions("uint8", normalize=True).applied_to(alone).threshold == 0.4
    measured = dataclasses.replace(alone, extra={"calibration": {"threshold": 0.4}})
    assert "calibration" not in FileOptions(flip_concat=True).applied_to(measured).extra
    assert "calibration" in FileOptions(normalize=True).applied_to(measured).extra
    # image and mirror image of unit length are joined: not what was measured
    joined = dataclasses.replace(NETWORK, extra=measured.extra)
    scaled = FileOptions(normalize=True).applied_to(joined)
    assert (scaled.threshold, scaled.flip, scaled.extra) == (None, "concat", {})
    unit = dataclasses.replace(joined, normalized=True)
    assert FileOptions(normalize=True).applied_to(unit).threshold == 0.4
    assert FileOptions(normalize=True, flip_concat=True).applied_to(joined).threshold == 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_dtype": "int8"}, "`input_dtype` must be one of 'float32', 'uint8'"),
        ({"layout": "chw"}, "`layout` must be one of 'nhwc', 'nchw'"),
        ({"batch": 0}, "`batch` must be an integer >= 1"),
        ({"explain": True}, "`explain` is for quantize='int8'"),
        ({"float_layers": 2}, "`float_layers` is for quantize='int8'"),
        ({"float_layers": -1}, "`float_layers` must be an integer >= 0"),
    ],
)
def test_wrong_options(tiny_net, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(tiny_net, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_the_examples_for_apps_name_fields_that_files_have():
    examples = Path(__file__).parents[2] / "examples"
    paths = ("android/FaceEmbedder.kt", "cpp/face_embedder.h")
    text = "".join((examples / path).read_text(encoding="utf-8") for path in paths)
    named = re.findall(r'(?:metadata\[|metadata\.get\w*\(|number\()"(\w+)"', text)
    assert len(named) > 15
    assert set(named) <= {field.name for field in dataclasses.fields(EmbedderMetadata)}
