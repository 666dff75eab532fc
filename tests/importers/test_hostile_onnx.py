"""ONNX files that are damaged, hostile, or beyond what is imported: an error that helps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.importers.onnx_graphs import Maker, iresnet, mobilefacenet
from tf_sphereface.commands import import_
from tf_sphereface.importers import import_checkpoint, load_onnx


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.onnx"


def saved(path, change, graph=mobilefacenet):
    """Save a network that somebody has changed."""
    add, output = graph()
    model = add.model(output)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    return path


def test_unknown_operators_are_listed_once(path):
    add = Maker(17)
    x = add.conv(add.input, 3, 4)
    for _ in range(3):
        x = add("Softsign", x)
    x = add("Conv", add("LRN", x, size=3), add("Bitshift", add.constant(np.ones(3))))
    x = add("FusedThing", x, domain="com.example")
    add.save(path, add("Flatten", x))
    with pytest.raises(ValueError, match="operators that cannot be imported") as caught:
        import_checkpoint(path)
    text = str(caught.value)
    assert "Softsign 'Softsign_1' (3 of them), " in text
    assert "LRN 'LRN_4'" in text
    assert "Bitshift 'Bitshift_5'" in text
    assert "com.example.FusedThing 'FusedThing_7'" in text
    assert "tf_sphereface-eval, load_embedder" in text


def test_a_quantized_file_is_told(path):
    add = Maker(17)
    x = add("QuantizeLinear", add.input, np.float32(0.1), np.uint8(128))
    x = add("DequantizeLinear", x, np.float32(0.1), np.uint8(128))
    add.save(path, add("Flatten", add.conv(x, 3, 4)))
    with pytest.raises(ValueError, match=r"QuantizeLinear.*import the float file"):
        import_checkpoint(path)


def test_a_decision_by_a_constant_is_resolved(path):
    """PyTorch writes `squeeze` as an `If`; onnxslim decides it."""
    add = Maker(17)
    x = add("Flatten", add.conv(add.input, 3, 4))

    def branch(kind):
        value = helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, [x], [kind])], kind, [], [value])

    same = add("Equal", np.asarray(2), np.asarray(2))
    x = add("If", same, then_branch=branch("Relu"), else_branch=branch("Neg"))
    network = load_onnx(add.save(path, x))
    assert (np.asarray(network.model(np.ones((1, 16, 12, 3), np.float32))) >= 0).all()


def test_a_circle(path):
    def circle(graph):
        graph.node[1].input[0] = graph.node[5].output[0]

    with pytest.raises(
        ValueError, match=r"x\.onnx: its operators form a circle: .*PRelu 'PRelu_1'"
    ):
        import_checkpoint(saved(path, circle))


def test_operators_in_another_order(path):
    def turned(graph):
        nodes = list(graph.node)[::-1]
        del graph.node[:]
        graph.node.extend(nodes)

    assert load_onnx(saved(path, turned)).model.output_shape == (None, 10)


def untidy(graph):
    graph.node[3].input[0] = "nowhere"


def twice(graph):
    graph.node[3].output[0] = graph.node[2].output[0]


def huge(graph):
    del graph.initializer[0].dims[:]
    graph.initializer[0].dims.extend([10**9, 10**9])


def cut(graph):
    graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-4]


def not_finite(graph):
    array = numpy_helper.to_array(graph.initializer[0]).copy()
    array.flat[0] = np.nan
    graph.initializer[0].CopyFrom(numpy_helper.from_array(array, graph.initializer[0].name))


def second_input(graph):
    graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))


def large_image(graph):
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 10**9


def gray(graph):
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def wide_padding(graph):
    graph.node[0].attribute[1].ints[:] = [10**9] * 4


def words(graph):
    graph.node[0].attribute[2].CopyFrom(helper.make_attribute("strides", ["a", "b"]))


DAMAGE = {
    untidy: "takes 'nowhere', which nothing makes",
    twice: "is made twice, the second time by PRelu 'PRelu_3'",
    huge: r"its tensor '\d+' \[1000000000, 1000000000, 3, 3\] is damaged|is damaged",
    cut: "is damaged",
    not_finite: r"Conv 'Conv_0' cannot be imported: its weights '\d+' are not finite",
    second_input: r"one input, the image. Received: 2, 'input.1', 'mask'",
    large_image: "larger than 4096 pixels",
    gray: "its input must be a batch of images of three channels",
    wide_padding: "Conv 'Conv_0' cannot be imported: it adds more than the map has",
    words: "Conv 'Conv_0' cannot be imported",
}


@pytest.mark.parametrize("change", DAMAGE)
def test_damage_is_named(path, change):
    with pytest.raises(ValueError, match=DAMAGE[change]) as caught:
        load_onnx(saved(path, change))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("shape", [[10**6, 10**6], [10**12], [-1]])
@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand"])
def test_constants_that_would_fill_the_memory(path, shape, kind):
    add = Maker(17)
    extra = [np.float32(1)] if kind == "Expand" else []
    weights = add(kind, *extra, np.asarray(shape))
    x = add("MatMul", add("Flatten", add.input), weights)
    with pytest.raises(ValueError, match=r"makes a constant of the shape|does not fit"):
        load_onnx(add.save(path, x))


def test_constants_that_double(path):
    add = Maker(17)
    x = add.constant(np.ones(64))
    for _ in range(40):
        x = add("Concat", x, x, axis=0)
    with pytest.raises(ValueError, match="makes a constant of the shape"):
        load_onnx(add.save(path, add("MatMul", add("Flatten", add.input), x)))


def external(tmp_path, **facts):
    """A model whose first tensor is said to lie in another file."""
    (tmp_path / "weights.data").write_bytes(np.zeros(4 * 3 * 3 * 3, np.float32).tobytes())

    def change(graph):
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "weights.data", **facts}.items():
            tensor.external_data.add(key=key, value=str(value))

    return change


def test_weights_in_a_file_beside_it(path, tmp_path):
    add = Maker(17)
    kernel = add.weights(4, 3, 3, 3)
    model = add.model(add("Flatten", add("Conv", add.input, kernel)))
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    network = load_onnx(path)
    np.testing.assert_allclose(
        network.model.layers[1].get_weights()[0], kernel.transpose(2, 3, 1, 0), rtol=1e-6
    )
    (tmp_path / "weights.data").unlink()
    with pytest.raises(ValueError, match=r"weights\.data, which is missing: download it too"):
        load_onnx(path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../x", "a/../../x", "", "..\\x\0"])
def test_weights_outside_the_folder(tmp_path, location):
    (tmp_path / "in").mkdir()
    (tmp_path / "x").write_bytes(bytes(10_000))
    path = saved(tmp_path / "in" / "x.onnx", external(tmp_path, location=location))
    with pytest.raises(ValueError, match=r"outside the model's folder, at .*: refused"):
        load_onnx(path)


@pytest.mark.parametrize(
    "facts", [{"offset": 10**12}, {"length": 4}, {"offset": -8}, {"length": "x"}]
)
def test_weights_beyond_the_end(path, tmp_path, facts):
    with pytest.raises(ValueError, match=r"bytes at|is damaged"):
        load_onnx(saved(path, external(tmp_path, **facts)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<!DOCTYPE html><html>sign in</html>", "but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b"", "an empty file"),
        (bytes(4096), "zeros"),
        (b"\x08\x07\x12\x07pytorch", "not an ONNX model: it has no graph"),
        (np.random.default_rng(0).bytes(5000), "not an ONNX model"),
    ],
)
@pytest.mark.parametrize("arch", ["auto", "onnx"])
def test_other_files(path, content, text, arch):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        import_checkpoint(path, arch)


def test_half_a_download(path, tmp_path, capsys):
    add, output = iresnet()
    content = add.model(output).SerializeToString()
    path.write_bytes(content[: len(content) // 2])
    out = tmp_path / "out.keras"
    assert import_.main([str(path), "--out", str(out)]) == 2
    assert "only a part of one" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_every_cut_and_many_changed_bytes_are_no_crash(path):
    """Whatever is changed, the result is a model or a ValueError."""
    add, output = mobilefacenet(size=(16, 12))
    content = bytearray(add.model(output).SerializeToString())
    rng = np.random.default_rng(11)
    messages: list[str] = []
    structure = len(content) - 400  # nodes lie before the tensors, names of values at the end
    for trial in range(60):
        changed = bytearray(content)
        place = int(rng.integers(0, 1500 if trial % 3 else structure))
        changed[place] = int(rng.integers(0, 256))
        path.write_bytes(changed)
        try:
            load_onnx(path)
        except ValueError as error:
            messages.append(str(error))
    assert all(str(path) in message for message in messages)


def test_a_map_of_features_is_no_embedding(path):
    add = Maker(17)
    with pytest.raises(ValueError, match="must be one vector per face"):
        load_onnx(add.save(path, add.conv(add.input, 3, 4)))


@pytest.mark.parametrize(
    "build",
    [
        lambda add, x: add("Reshape", x, np.asarray([-1, 12])),
        lambda add, x: add("Transpose", x, perm=[1, 0, 2, 3]),
        lambda add, x: add.axes("ReduceMean", x, [0, 2], since=18),
        lambda add, x: add("Slice", x, np.asarray([0]), np.asarray([1]), np.asarray([0])),
        lambda add, x: add("Flatten", x, axis=2),
    ],
)
def test_the_batch_is_never_mixed_with_other_axes(path, build):
    add = Maker(17)
    x = build(add, add.conv(add.input, 3, 4))
    with pytest.raises(ValueError, match="batch"):
        load_onnx(add.save(path, x))


def test_the_weights_must_be_constants(path):
    add = Maker(17)
    x = add("Flatten", add.conv(add.input, 3, 4))
    x = add("MatMul", x, add("Transpose", x, perm=[1, 0]))
    with pytest.raises(ValueError, match=r"batch|must be a constant, and depends on the image"):
        load_onnx(add.save(path, x))


def test_an_old_operator_set(path):
    add, output = mobilefacenet(opset=6)
    with pytest.raises(ValueError, match=r"version 7 or later: renew the file.* Received: 6"):
        load_onnx(add.save(path, output))
