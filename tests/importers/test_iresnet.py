"""The PyTorch IResNets: embeddings equal to NumPy's, and which depth a file is of."""

from __future__ import annotations

import numpy as np
import pytest

from tests.importers.channels_first import Layers, Weights, relative_error
from tf_sphereface.commands import import_
from tf_sphereface.embedder import load_embedder, read_metadata
from tf_sphereface.importers import import_checkpoint

CHANNELS = (64, 64, 128, 256, 512)
SMALL = (48, 32)  # the last map is 3x2: rows and columns cannot be mistaken for each other


def random_tensors(units, positions, seed=0):
    """Return seeded weights under the names of arcface_torch, all different from defaults."""
    w = Weights(seed)
    w.conv("conv1", 3, 64)
    w.norm("bn1", 64)
    w.prelu("prelu", 64)
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name, channels = f"layer{stage}.{unit}", CHANNELS[stage]
            inputs = channels if unit else CHANNELS[stage - 1]
            w.norm(f"{name}.bn1", inputs)
            w.conv(f"{name}.conv1", inputs, channels)
            w.norm(f"{name}.bn2", channels)
            w.prelu(f"{name}.prelu", channels)
            w.conv(f"{name}.conv2", channels, channels)
            w.norm(f"{name}.bn3", channels)
            if not unit:
                w.conv(f"{name}.downsample.0", inputs, channels, 1)
                w.norm(f"{name}.downsample.1", channels)
    w.norm("bn2", 512)
    w.linear("fc", 512 * positions, 512)
    w.norm("features", 512)
    w["features.weight"] = np.ones(512, np.float32)
    return w


def embed(tensors, units, images):
    """Run the network: (n, 3, height, width) to (n, 512), float64."""
    net = Layers(tensors)
    x = net.prelu(net.norm(net.conv(images.astype(np.float64), "conv1"), "bn1"), "prelu")
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name, stride = f"layer{stage}.{unit}", 1 if unit else 2
            y = net.norm(net.conv(net.norm(x, f"{name}.bn1"), f"{name}.conv1"), f"{name}.bn2")
            y = net.conv(net.prelu(y, f"{name}.prelu"), f"{name}.conv2", stride)
            if not unit:
                x = net.conv(x, f"{name}.downsample.0", stride)
                x = net.norm(x, f"{name}.downsample.1")
            x = x + net.norm(y, f"{name}.bn3")
    x = net.norm(x, "bn2").reshape(len(x), -1)
    return net.norm(net.linear(x, "fc"), "features")


@pytest.fixture(scope="module")
def weights():
    return random_tensors((2, 2, 2, 2), positions=6)


def check(found, expected):
    # float32 sums in another order than the oracle's float64, over eighteen layers
    assert relative_error(found, expected) < 1e-4


def test_the_command_recognises_it(tmp_path, write_zip, tensor, weights, capsys):
    state = {f"module.{name}": tensor.of(array) for name, array in weights.items()}
    state["arcface.weight"] = tensor.of(np.zeros((10, 512), "float32"))
    path = write_zip(tmp_path / "backbone.pth", {"epoch": 3, "state_dict_backbone": state})
    out = tmp_path / "model.keras"
    assert import_.main([str(path), "--out", str(out), "--input-size", "48x32"]) == 0
    said = capsys.readouterr().out
    assert "recognised: iresnet18, a PyTorch checkpoint" in said
    assert "read: the tensors under 'state_dict_backbone' whose names begin with 'module.'" in said
    assert "left out: arcface.weight (10, 512): the head" in said
    metadata = read_metadata(out)
    assert (metadata.channel_order, metadata.pixel_scale, metadata.flip) == ("rgb", 127.5, "sum")
    faces = np.random.default_rng(1).integers(0, 256, (2, *SMALL, 3), np.uint8)
    pixels = ((faces.astype(np.float64) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    check(load_embedder(out)(faces), embed(weights, (2, 2, 2, 2), pixels))


def test_a_scale_of_the_embedding_that_was_trained(tmp_path, write_zip, tensor, weights):
    scale = np.random.default_rng(2).uniform(0.05, 2, 512).astype(np.float32)
    tensors = {**weights, "features.weight": scale}
    state = {name: tensor.of(array) for name, array in tensors.items()}
    path = write_zip(tmp_path / "x.pth", state)
    imported = import_checkpoint(path, input_size=SMALL)
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, 3, *SMALL)).astype(np.float32)
    found = imported.model(pixels.transpose(0, 2, 3, 1), training=False).numpy()
    check(found, embed(tensors, (2, 2, 2, 2), pixels))
    state["features.weight"] = tensor.of(-scale)
    with pytest.raises(ValueError, match=r"features\.weight, the scale of the .* be positive"):
        import_checkpoint(write_zip(tmp_path / "y.pth", state), input_size=SMALL)


def test_other_residual_networks_are_not_taken_for_it(tmp_path, write_zip, tensor, weights):
    """Torchvision's ResNet has many of the names."""
    state = {
        name: tensor.of(np.zeros(1))
        for name in weights
        if "prelu" not in name and "features" not in name and "bn3" not in name
    }
    path = write_zip(tmp_path / "x.pth", state)
    with pytest.raises(ValueError, match=r"fit no network that is known here\. There are \d+: "):
        import_checkpoint(path)
    del state["conv1.weight"]
    more = {name: tensor.of(np.zeros(1)) for name in weights if name != "layer3.1.conv2.weight"}
    path = write_zip(tmp_path / "x.pth", more)
    message = r"nearest is iresnet18, but missing: layer3\.1\.conv2\.weight"
    with pytest.raises(ValueError, match=message):
        import_checkpoint(path)
