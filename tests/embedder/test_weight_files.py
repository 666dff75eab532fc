"""Weights as safetensors: what is written comes back by its names alone, with its facts."""

from __future__ import annotations

import json
import random

import keras
import numpy as np
import pytest

from tests.embedder.small import FED
from tf_sphereface.backbones import IRSE, IResNet, MobileFaceNet, SFNet, SphereFaceNet
from tf_sphereface.commands import import_
from tf_sphereface.embedder import EmbedderMetadata, load_embedder, read_metadata, save_weights
from tf_sphereface.importers import import_checkpoint, read_torch_checkpoint

SIZE = (44, 30)  # no multiple of 16: the file tells it
FACTS = {"channel_order": "bgr", "pixel_mean": (1.0, 2.0, 3.0), "pixel_scale": 60.0}


def vary(model, seed=0):
    """Set every weight to something else than its default."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        wide = weight.path.endswith(("gamma", "moving_variance"))
        low, high = (0.5, 1.5) if wide else (-0.1, 0.1)
        weight.assign(rng.uniform(low, high, weight.shape).astype("float32"))
    return model


NETWORKS = {
    "spherenet10": lambda: SphereFaceNet(10, (*SIZE, 3), 16),
    "sphere20a": lambda: SphereFaceNet(20, (*SIZE, 3), 16, unit_bias=True),
    "sfnet10": lambda: SFNet(10, (*SIZE, 3), 16),
    "sfnet10-bn": lambda: SFNet(10, (*SIZE, 3), 16, batch_norm=True),
    "sfnet10-older": lambda: SFNet(10, (*SIZE, 3), 16, activation_after_add=False),
    "mobilefacenet": lambda: MobileFaceNet((*SIZE, 3), 16),
    "mbf": lambda: MobileFaceNet((*SIZE, 3), 16, width=2),
    "iresnet18": lambda: IResNet(18, (*SIZE, 3), 16),
    "adaface-irse18": lambda: IRSE(18, (*SIZE, 3), 16, se=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back(name, tmp_path):
    model = vary(NETWORKS[name]())
    path = tmp_path / "x.safetensors"
    assert save_weights(model, path, EmbedderMetadata(**FACTS, template=None)) == name
    imported = import_checkpoint(path)
    assert (imported.architecture.name, imported.left_out) == (name, [])
    metadata = load_embedder(imported.model).metadata
    assert {key: getattr(metadata, key) for key in FACTS} == FACTS
    assert metadata.input_size == SIZE
    for ours, theirs in zip(model.weights, imported.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


def test_the_command_keeps_the_facts_of_the_file(tmp_path, capsys):
    model = vary(SphereFaceNet(4, (32, 32, 3), 16))
    path, out = tmp_path / "x.safetensors", tmp_path / "x.keras"
    facts = EmbedderMetadata(**FACTS, template=None, threshold=0.25, training_data="mine")
    save_weights(model, path, facts)
    assert import_.main([str(path), "--out", str(out)]) == 0
    assert "recognised: spherenet4" in capsys.readouterr().out
    metadata = read_metadata(out)
    assert (metadata.threshold, metadata.training_data) == (0.25, "mine")
    faces = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = load_embedder(model, **FACTS)(faces)
    np.testing.assert_allclose(load_embedder(out)(faces), expected, rtol=1e-5, atol=1e-5)
    assert import_.main([str(path), "--out", str(out), "--channel-order", "rgb"]) == 0
    assert "its threshold 0.2500 is left out" in capsys.readouterr().err
    assert read_metadata(out).threshold is None


def test_the_file_is_as_the_format_says(tmp_path):
    path = tmp_path / "x.safetensors"
    model = IResNet(18, (16, 16, 3), 8)
    state = random.getstate()
    save_weights(model, path, EmbedderMetadata(**FED, template=None))
    assert random.getstate() == state  # what is drawn next is not changed
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert header["__metadata__"]["format"] == "pt"
    assert header["features.weight"]["shape"] == [8]
    assert header["layer1.0.conv1.weight"]["shape"] == [64, 64, 3, 3]
    ends = [facts["data_offsets"][1] for name, facts in header.items() if name != "__metadata__"]
    assert max(ends) == len(content) - 8 - length
    np.testing.assert_array_equal(read_torch_checkpoint(path)["features.weight"], np.ones(8))


def test_what_has_no_published_names_is_refused(tmp_path):
    image = keras.Input((8, 8, 3), name="image")
    own = keras.Model(image, keras.layers.Flatten()(image))
    path = tmp_path / "x.safetensors"
    for model in (own, IResNet(18, (16, 16, 3), 8, units=(1, 1, 1, 1))):
        with pytest.raises(ValueError, match="`model` must be a published network"):
            save_weights(model, path)
    with pytest.raises(ValueError, match=r"`path` must end in \.safetensors"):
        save_weights(own, tmp_path / "x.pth")
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_weights(SphereFaceNet(4, (16, 16, 3), 8), path, EmbedderMetadata(**FED, template=None))
    path.write_bytes(path.read_bytes().replace(b"channel_order", b"channel_ardor", 1))
    assert import_checkpoint(path).metadata.channel_order == "rgb"  # a key of a later version
    path.write_bytes(
        path.read_bytes().replace(b'\\"pixel_scale\\": 128.0', b'\\"pixel_scale\\": -28.0', 1)
    )
    with pytest.raises(ValueError, match=r"x\.safetensors: .*its metadata cannot be read"):
        import_checkpoint(path)
