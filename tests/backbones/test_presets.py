"""Networks by name, from a file and from a run."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import tf_sphereface as sf
from tf_sphereface.backbones import PRESETS, from_preset


def test_the_names_are_the_architectures():
    sizes = ("112x96", "112x112")
    depths = (4, 10, 20, 36, 64)
    names = {f"sphereface{depth}_{size}" for depth in depths for size in sizes}
    assert set(PRESETS) == names | {f"mobilefacenet_{size}" for size in sizes}


def test_a_name_gives_the_papers_settings():
    model = from_preset("sphereface20_112x96")
    assert (model.input_shape, model.output_shape) == ((None, 112, 96, 3), (None, 512))
    assert sf.backbones.count_parameters(model) == 22_666_944
    assert not model.get_layer("conv1_2").use_bias
    assert from_preset("mobilefacenet_112x112").input_shape == (None, 112, 112, 3)


def test_a_file_and_a_run_give_their_weights(tmp_path):
    backbone = sf.backbones.SphereFaceNet(4, (16, 16, 3), 8)
    sf.embedder.save_embedder(backbone, tmp_path / "embedder.keras")
    for path in (tmp_path / "embedder.keras", str(tmp_path / "embedder.keras"), tmp_path):
        for ours, theirs in zip(backbone.weights, from_preset(path).weights, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_head_is_left_out(tmp_path):
    backbone = sf.backbones.SphereFaceNet(4, (16, 16, 3), 8)
    outputs = sf.layers.AngularDense(5)(backbone.output)
    keras.Model(backbone.input, outputs).save(tmp_path / "model.keras")
    assert from_preset(tmp_path / "model.keras").output_shape == (None, 8)


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one of sphereface4_112x96, .*Received: preset='resnet'"):
        from_preset("resnet")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        from_preset(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match=r"has not ended.*--resume"):
        from_preset(tmp_path)
    (tmp_path / "broken.keras").write_text("no zip")
    with pytest.raises(ValueError, match=r"broken\.keras cannot be loaded"):
        from_preset(tmp_path / "broken.keras")
    (tmp_path / "model.tflite").write_text("x")
    with pytest.raises(ValueError, match=r"must be a \.keras file"):
        from_preset(tmp_path / "model.tflite")
