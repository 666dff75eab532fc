"""The PyTorch IResNets: embeddings equal to NumPy's, and which depth a file is of."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest

from tf_sphereface.commands import import_
from tf_sphereface.embedder import load_embedder, read_metadata
from tf_sphereface.importers import import_checkpoint
from tf_sphereface.importers.iresnet import LAYOUTS
from tf_sphereface.importers.state_dictionaries import TensorFile, best_fits

CHANNELS = (64, 64, 128, 256, 512)
SMALL = (48, 32)  # the last map is 3x2: rows and columns cannot be mistaken for each other


def random_tensors(units, positions, seed=0):
    """Return seeded weights under the names of arcface_torch, all different from defaults."""
    rng = np.random.default_rng(seed)
    tensors = {}

    def draw(*shape, scale=1.0):
        return np.float32(scale) * rng.standard_normal(shape, np.float32)

    def conv(name, inputs, outputs, side=3):
        scale = (2 / (inputs * side * side)) ** 0.5
        tensors[f"{name}.weight"] = draw(outputs, inputs, side, side, scale=scale)

    def norm(name, channels):
        tensors[f"{name}.weight"] = 1 + draw(channels, scale=0.1)
        tensors[f"{name}.bias"] = draw(channels, scale=0.1)
        tensors[f"{name}.running_mean"] = draw(channels, scale=0.1)
        tensors[f"{name}.running_var"] = 1 + draw(channels, scale=0.1)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", 3, 64)
    norm("bn1", 64)
    tensors["prelu.weight"] = 0.25 + draw(64, scale=0.05)
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name, channels = f"layer{stage}.{unit}", CHANNELS[stage]
            inputs = channels if unit else CHANNELS[stage - 1]
            norm(f"{name}.bn1", inputs)
            conv(f"{name}.conv1", inputs, channels)
            norm(f"{name}.bn2", channels)
            tensors[f"{name}.prelu.weight"] = 0.25 + draw(channels, scale=0.05)
            conv(f"{name}.conv2", channels, channels)
            norm(f"{name}.bn3", channels)
            if not unit:
                conv(f"{name}.downsample.0", inputs, channels, 1)
                norm(f"{name}.downsample.1", channels)
    norm("bn2", 512)
    tensors["fc.weight"] = draw(512, 512 * positions, scale=(512 * positions) ** -0.5)
    tensors["fc.bias"] = draw(512, scale=0.1)
    norm("features", 512)
    tensors["features.weight"] = np.ones(512, np.float32)
    return tensors


def embed(tensors, units, images):
    """Run the network: (n, 3, height, width) to (n, 512), float64, by sums over kernel taps."""

    def conv(x, name, stride=1):
        weight = tensors[f"{name}.weight"].astype(np.float64)
        side = weight.shape[-1]
        margin = side // 2
        padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        height, width = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
        total = np.zeros((len(x), len(weight), height * width))
        for row in range(side):
            for column in range(side):
                rows = slice(row, row + stride * (height - 1) + 1, stride)
                columns = slice(column, column + stride * (width - 1) + 1, stride)
                tap = padded[:, :, rows, columns].reshape(*x.shape[:2], -1)
                total += weight[:, :, row, column] @ tap
        return total.reshape(len(x), len(weight), height, width)

    def norm(x, name):
        sides = (1,) * (x.ndim - 2)
        scale, bias, mean, variance = (
            tensors[f"{name}.{kind}"].astype(np.float64).reshape(-1, *sides)
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias

    def prelu(x, name):
        slopes = tensors[f"{name}.weight"].astype(np.float64)[:, None, None]
        return np.where(x > 0, x, slopes * x)

    x = prelu(norm(conv(images.astype(np.float64), "conv1"), "bn1"), "prelu")
    for stage, count in enumerate(units, start=1):
        for unit in range(count):
            name, stride = f"layer{stage}.{unit}", 1 if unit else 2
            y = norm(conv(norm(x, f"{name}.bn1"), f"{name}.conv1"), f"{name}.bn2")
            y = norm(conv(prelu(y, f"{name}.prelu"), f"{name}.conv2", stride), f"{name}.bn3")
            if not unit:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = x + y
    x = norm(x, "bn2").reshape(len(x), -1)
    return norm(x @ tensors["fc.weight"].T + tensors["fc.bias"], "features")


@pytest.fixture(scope="module")
def weights():
    return random_tensors((2, 2, 2, 2), positions=6)


def check(found, expected):
    # float32 sums in another order than the oracle's float64, over eighteen layers
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-4


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


@pytest.mark.parametrize("depth", LAYOUTS)
def test_the_depth_is_recognised(depth):
    """The names of a deep network hold those of a shallow one."""
    names = dict.fromkeys(LAYOUTS[depth].names, types.SimpleNamespace(shape=(1,)))
    file = TensorFile(Path("x.pth"), "PyTorch checkpoint", {"": names}, dict)
    whole = [other for other, layout in LAYOUTS.items() if best_fits(file, layout)[0].whole]
    assert whole == [depth]


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
