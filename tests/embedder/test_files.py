"""Files: what is written, and what is said of those that cannot be read."""

from __future__ import annotations

import json
import warnings
import zipfile

import keras
import numpy as np
import pytest

from tests.embedder.small import SIZE, make_network
from tf_sphereface.backbones import from_preset
from tf_sphereface.backbones.extraction import in_float32
from tf_sphereface.embedder import EmbedderMetadata, load_embedder, read_metadata, save_embedder


def test_wrong_files_are_named(tmp_path):
    for suffix in ("keras", "tflite", "onnx"):
        with pytest.raises(FileNotFoundError, match=f"none.{suffix}"):
            load_embedder(tmp_path / f"none.{suffix}")
        path = tmp_path / f"wrong.{suffix}"
        path.write_bytes(b"this is no model at all")
        with pytest.raises(ValueError, match=f"wrong.{suffix} is not a"):
            load_embedder(path)
    (tmp_path / "x.h5").touch()
    with pytest.raises(ValueError, match=r"`path` must end in .keras, .tflite, .onnx.*x.h5"):
        load_embedder(tmp_path / "x.h5")


INNER = keras.layers.Lambda(lambda x: x, name="in")


class Own(keras.layers.Layer):
    """Of a user, and not registered."""

    def call(self, x):
        return x / 2


def test_broken_files_are_named(tmp_path, tflite, network):
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("a.txt", "nothing")
    with pytest.raises(ValueError, match=r"empty.keras cannot be loaded by Keras"):
        load_embedder(tmp_path / "empty.keras")
    save_embedder(network, tmp_path / "x.keras")
    with zipfile.ZipFile(tmp_path / "x.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"{broken" if name == "tf_sphereface.json" else content)
    with pytest.raises(ValueError, match=r"x.keras: its metadata cannot be read"):
        load_embedder(tmp_path / "x.keras")


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (keras.layers.Lambda(lambda x: x / 2, name="half"), "code.*: Lambda 'half'. Save the"),
        (keras.layers.Activation(lambda x: x / 2, name="act"), "code.*: layer 'act'. Save the"),
        (keras.layers.TimeDistributed(INNER), "code.*: Lambda 'in'"),
        (Own(name="own"), "cannot be loaded by Keras: Could not locate class 'Own'"),
    ],
)
def test_code_in_a_file_is_refused_without_advice_to_run_it(tmp_path, layer, told):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Flatten()(layer(image)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras', at a lambda
        model.save(tmp_path / "x.keras")
    for call in (load_embedder, from_preset):
        with pytest.raises(ValueError, match=rf"x\.keras .*{told}") as caught:
            call(tmp_path / "x.keras")
        message = str(caught.value)
        assert "safe_mode" not in message
        assert "unsafe" not in message
        assert len(message) < 500  # Keras lists the network's configuration


def test_batch_size_must_be_positive(network):
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1"):
        load_embedder(network, batch_size=0)


def test_plain_keras_opens_what_is_saved(tmp_path, network, faces, expected):
    path = tmp_path / "embedder.keras"
    save_embedder(network, path, EmbedderMetadata(threshold=0.25, extra={"note": "x"}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["embedder.keras"]
    with zipfile.ZipFile(path) as archive:
        classes = set()
        collect(json.loads(archive.read("config.json")), classes)
    assert all(module.startswith("keras") for module in classes)
    loaded = keras.models.load_model(path)
    values = (faces.astype(np.float32) - 127.5) / 128
    assert loaded.predict(values, verbose=0) == pytest.approx(expected, abs=1e-6)
    metadata = read_metadata(path)
    assert (metadata.threshold, metadata.embedding_dim, metadata.input_size) == (0.25, 10, SIZE)
    assert metadata.extra == {"note": "x"}
    assert metadata.versions["keras"] == keras.__version__
    assert load_embedder(path)(faces) == pytest.approx(expected, abs=1e-5)


def collect(value, found):
    """Add the module of every class in a Keras configuration."""
    if isinstance(value, dict):
        if value.get("class_name") and value.get("module"):
            found.add(value["module"])
        for entry in value.values():
            collect(entry, found)
    elif isinstance(value, list):
        for entry in value:
            collect(entry, found)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_mixed_precision_network_is_saved_in_float32(tmp_path, faces, expected, policy):
    mixed = make_network(policy)
    save_embedder(mixed, tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    assert load_embedder(tmp_path / "x.keras")(faces) == pytest.approx(expected, abs=1e-5)
    assert load_embedder(mixed)(faces).dtype == np.float32
    network = make_network()
    assert in_float32(network) is network


def test_layers_that_plain_keras_lacks_are_refused(tmp_path):
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    image = keras.Input((*SIZE, 3))
    model = keras.Model(image, Own()(keras.layers.Flatten()(image)))
    with pytest.raises(ValueError, match=r"Keras' own layers.*Received: Own"):
        save_embedder(model, tmp_path / "x.keras")
    with pytest.raises(ValueError, match=r"must end in .keras"):
        save_embedder(make_network(), tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []
