"""The released SphereFace networks: embeddings equal to NumPy's, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.backbones.sphereface import UNITS
from tf_sphereface.commands import import_
from tf_sphereface.data import align
from tf_sphereface.embedder import card_of, load_embedder, read_metadata
from tf_sphereface.importers import (
    ARCHITECTURES,
    import_checkpoint,
    load_sphere20a,
    load_sphereface_caffe,
)
from tf_sphereface.importers.sphereface import RELEASED_64

SMALL = (48, 32)  # the last map is 3x2: rows and columns cannot be mistaken for each other

# Sums of float32 in another order than the oracle's float64, over twenty layers and more.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def weights(released):
    """Weights of the small 20-layer network, with biases in the units."""
    return released.random_tensors(UNITS[20], positions=6, unit_bias=True)


@pytest.fixture(scope="module")
def caffe_weights(weights):
    """The same with the units' biases at zero, as the authors froze them."""
    return {
        name: np.zeros_like(value) if name.endswith("bias") and name[-6] != "1" else value
        for name, value in weights.items()
        if name != "fc5.bias"
    } | {"fc5.bias": weights["fc5.bias"]}


def pixels(size, count=2):
    """Return channels-first images in [-1, 1]."""
    return np.random.default_rng(1).uniform(-1, 1, (count, 3, *size)).astype(np.float32)


def check(model, released, tensors, units, size=SMALL):
    images = pixels(size)
    found = model(images.transpose(0, 2, 3, 1), training=False).numpy()
    np.testing.assert_allclose(found, released.embed(tensors, units, images), atol=TOLERANCE)


def test_sphere20a(tmp_path, write_zip, tensor, released, weights):
    state = {f"module.{name}": tensor.of(array) for name, array in weights.items()}
    path = write_zip(tmp_path / "sphere20a.pth", state)
    model, left_out = load_sphere20a(path, input_size=SMALL)
    assert load_embedder(model).metadata.channel_order == "bgr"  # known, not guessed
    assert left_out == ["fc6.weight (512, 10): the head, class centres of the training set"]
    check(model, released, weights, UNITS[20])


def test_the_20_layer_caffemodel(tmp_path, released, caffe_weights):
    path = released.write_caffemodel(tmp_path / "x.caffemodel", caffe_weights)
    model, left_out = load_sphereface_caffe(path, input_size=SMALL)
    check(model, released, caffe_weights, UNITS[20])
    assert len(left_out) == 2
    assert left_out[1] == "16 biases of residual units: all zero"
    assert not model.get_layer("conv1_2").use_bias


def test_biases_of_units_are_kept_where_they_are_not_zero(tmp_path, released, weights):
    path = released.write_caffemodel(tmp_path / "x.caffemodel", weights, legacy=True)
    model, _ = load_sphereface_caffe(path, input_size=SMALL)
    assert model.get_layer("conv1_2").use_bias
    check(model, released, weights, UNITS[20])


def test_the_64_layer_caffemodel_has_seven_units_in_its_second_stage(tmp_path, released):
    assert RELEASED_64 == (3, 7, 16, 3)
    tensors = released.random_tensors(RELEASED_64, positions=2, unit_bias=False)
    del tensors["fc6.weight"]  # a file saved from the deploy net has no head
    path = released.write_caffemodel(tmp_path / "x.caffemodel", tensors)
    model, left_out = load_sphereface_caffe(path, 64, input_size=(32, 16))
    assert left_out == ["58 biases of residual units: all zero"]
    names = {layer.name for layer in model.layers}
    assert {"conv2_15", "conv3_33"} <= names
    assert "conv2_16" not in names
    check(model, released, tensors, RELEASED_64, (32, 16))


def test_the_command_from_a_caffemodel_to_embeddings_of_photographs(tmp_path, released, capsys):
    """RGB faces go in; the network sees BGR, aligned by the authors' numbers."""
    tensors = released.random_tensors(UNITS[20], positions=42, unit_bias=False)
    path = released.write_caffemodel(tmp_path / "x.caffemodel", tensors)
    out = tmp_path / "model.keras"
    options = ["--arch", "sphereface20-caffe", "--out", str(out), "--license", "MIT"]
    assert import_.main([str(path), *options]) == 0
    said = capsys.readouterr().out
    assert "SphereFaceNet-20, 112x96 BGR to 512 numbers, 22.67 M parameters, 1.750 GMAC" in said
    assert "left out: fc6.weight (512, 10): the head" in said
    assert "MATLAB, which counts pixels from 1" in said

    # The template's numbers are used with pixels counted from 0: points that lie on them already
    # move nothing.
    face = np.random.default_rng(1).integers(0, 256, (112, 96, 3), np.uint8)
    points = [(30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366)]
    points += [(33.5493, 92.3655), (62.7299, 92.2041)]
    embedder = load_embedder(out)
    assert embedder.metadata.template == "112x96"
    np.testing.assert_array_equal(align(face, np.array(points)), face)

    bgr = ((face[..., ::-1].astype(np.float64) - 127.5) / 128).transpose(2, 0, 1)[None]
    expected = released.embed(tensors, UNITS[20], bgr)
    np.testing.assert_allclose(embedder(face[None]), expected, atol=TOLERANCE)

    card = card_of(out)
    assert (card["licence"], card["input"]["channel_order"]) == ("MIT", "bgr")
    assert "Channels are BGR" in (tmp_path / "model.keras.card.md").read_text()


def test_the_command_for_sphere20a(tmp_path, released, weights, write_legacy, tensor, capsys):
    state = {name: tensor.of(array) for name, array in weights.items()}
    path = write_legacy(tmp_path / "sphere20a.pth", state)
    out = tmp_path / "model.keras"
    options = ["--arch", "sphere20a", "--out", str(out), "--input-size", "48x32"]
    assert import_.main([str(path), *options]) == 0
    assert "note: Channels are BGR: the implementation" in capsys.readouterr().out
    metadata = read_metadata(out)
    assert (metadata.channel_order, metadata.template) == ("bgr", None)
    assert import_.main([str(path), *options, "--channel-order", "rgb"]) == 0
    assert "note: Channels are RGB, as was said" in capsys.readouterr().out
    assert read_metadata(out).channel_order == "rgb"
    face = np.random.default_rng(1).integers(0, 256, (48, 32, 3), np.uint8)
    rgb = ((face.astype(np.float64) - 127.5) / 128).transpose(2, 0, 1)[None]
    expected = released.embed(weights, UNITS[20], rgb)
    np.testing.assert_allclose(load_embedder(out)(face[None]), expected, atol=TOLERANCE)


def test_the_channel_order_is_recorded():
    bgr = {name for name, kind in ARCHITECTURES.items() if kind.channel_order == "bgr"}
    families = {name.rstrip("0123456789") for name in bgr}
    assert families == {
        *("sphere20a", "sphereface20-caffe", "sphereface64-caffe"),
        *("adaface-ir", "adaface-irse", "ir", "irse", "mobilefacenet-treb1en"),
    }
    assert any("MATLAB" in note for note in ARCHITECTURES["sphereface64-caffe"].notes)


def test_every_problem_is_listed(tmp_path, released, caffe_weights):
    tensors = dict(caffe_weights)
    del tensors["relu3_7.weight"], tensors["conv4_1.bias"]
    tensors["relu1_1.weight"] = np.ones(1)  # one slope for all channels
    tensors["conv2_2.weight"] = np.ones((128, 64, 3, 3))
    tensors["relu2_1.weight"] = np.full(128, np.nan)
    tensors["conv1_4.weight"] = np.ones((64, 64, 3, 3))
    path = released.write_caffemodel(tmp_path / "x.caffemodel", tensors)
    with pytest.raises(ValueError, match="not the weights of this SphereFaceNet-20") as caught:
        load_sphereface_caffe(path, input_size=SMALL)
    message = str(caught.value)
    assert "x.caffemodel: " in message
    assert "missing tensors: relu3_7.weight, conv4_1.bias" in message
    assert "unknown tensors: conv1_4.weight" in message
    assert "relu1_1.weight (1,) for relu1_1/alpha (1, 1, 64)" in message
    assert "conv2_2.weight (128, 64, 3, 3) for conv2_2/kernel (3, 3, 128, 128)" in message
    assert "not finite: relu2_1.weight" in message


def test_the_wrong_arch_is_named(tmp_path, released, write_zip, tensor):
    small = {name: np.zeros((1,)) for name in ("conv1_1.weight", "conv3_9.weight", "fc5.bias")}
    caffe = released.write_caffemodel(tmp_path / "x.caffemodel", small)
    with pytest.raises(
        ValueError, match=r"missing tensors: .*looks like --arch sphereface20-caffe"
    ):
        import_checkpoint(caffe, "sphereface64-caffe")
    with pytest.raises(ValueError, match=r"not a PyTorch .*looks like --arch sphereface20-caffe"):
        import_checkpoint(caffe, "sphere20a")
    state = {name: tensor.of(array) for name, array in small.items()}
    torch = write_zip(tmp_path / "x.pth", {**state, "conv4_3.weight": tensor.of(np.zeros(1))})
    with pytest.raises(ValueError, match=r"not a \.caffemodel.*looks like --arch sphere20a"):
        import_checkpoint(torch, "sphereface20-caffe")
    with pytest.raises(ValueError, match=r"missing tensors: .*looks like --arch sphere20a"):
        import_checkpoint(torch, "mobilefacenet")


def test_arguments_are_checked(tmp_path, released):
    tensors = {"fc5.weight": np.zeros((8, 512 * 5))}
    path = released.write_caffemodel(tmp_path / "x.caffemodel", tensors)
    with pytest.raises(ValueError, match="for another size of image pass input_size"):
        load_sphereface_caffe(path)
    with pytest.raises(ValueError, match="an input of 32x16 gives 1,024"):
        load_sphereface_caffe(path, input_size=(32, 16))
    with pytest.raises(ValueError, match=r"`depth` must be one of 20, 64\. Received: depth=36"):
        load_sphereface_caffe(path, 36)
    with pytest.raises(ValueError, match="`arch` must be one of 'auto', 'mobilefacenet"):
        import_checkpoint(path, "resnet")
    with pytest.raises(ValueError, match="key is for PyTorch"):
        import_checkpoint(path, "sphereface20-caffe", key="net")
