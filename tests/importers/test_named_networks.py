"""Networks of other people: embeddings equal to NumPy's, recognised by their tensors alone."""

from __future__ import annotations

import functools
import itertools
import types
from pathlib import Path

import numpy as np
import pytest

from tests.importers.channels_first import Layers, Weights, relative_error, relu
from tf_sphereface.commands import import_
from tf_sphereface.embedder import load_embedder, read_metadata
from tf_sphereface.importers import ARCHITECTURES, import_checkpoint
from tf_sphereface.importers.state_dictionaries import Layout, TensorFile, best_fits

SIZE = (48, 32)  # the last map is 3x2: rows and columns cannot be mistaken for each other
POSITIONS = 6
CHANNELS = (64, 128, 256, 512)
UNITS_18, UNITS_50 = (2, 2, 2, 2), (3, 4, 14, 3)
UNITS_10, UNITS_20 = (0, 1, 2, 0), (1, 2, 4, 1)


def ir_units(units):
    """Yield name, input and output channels, and stride of each unit."""
    inputs, number = 64, 0
    for channels, count in zip(CHANNELS, units, strict=True):
        for unit in range(count):
            yield f"body.{number}", inputs, channels, 1 if unit else 2
            inputs, number = channels, number + 1


def ir_weights(units, adaface, se):
    w = Weights()
    w.conv("input_layer.0", 3, 64)
    w.norm("input_layer.1", 64)
    w.prelu("input_layer.2", 64)
    for name, inputs, channels, _ in ir_units(units):
        layer = itertools.count()
        w.norm(f"{name}.res_layer.{next(layer)}", inputs)
        w.conv(f"{name}.res_layer.{next(layer)}", inputs, channels)
        if adaface:
            w.norm(f"{name}.res_layer.{next(layer)}", channels)
        w.prelu(f"{name}.res_layer.{next(layer)}", channels)
        w.conv(f"{name}.res_layer.{next(layer)}", channels, channels)
        w.norm(f"{name}.res_layer.{next(layer)}", channels)
        if se:
            block = f"{name}.res_layer." + ("se_block" if adaface else str(next(layer)))
            w.conv(f"{block}.fc1", channels, channels // 16, 1)
            w.conv(f"{block}.fc2", channels // 16, channels, 1)
            w[f"{block}.fc2.weight"] *= np.float32(0.01)  # away from where a sigmoid is flat
        if inputs != channels:
            w.conv(f"{name}.shortcut_layer.0", inputs, channels, 1)
            w.norm(f"{name}.shortcut_layer.1", channels)
    w.norm("output_layer.0", 512)
    w.linear("output_layer.3", 512 * POSITIONS, 512)
    w.norm("output_layer.4", 512, affine=not adaface)
    return w


def ir_embed(net, x, units, adaface, se):
    x = net.prelu(net.norm(net.conv(x, "input_layer.0"), "input_layer.1"), "input_layer.2")
    for name, inputs, channels, stride in ir_units(units):
        layer = (f"{name}.res_layer.{index}" for index in itertools.count())
        y = net.conv(net.norm(x, next(layer)), next(layer))
        if adaface:
            y = net.norm(y, next(layer))
        y = net.conv(net.prelu(y, next(layer)), next(layer), stride)
        y = net.norm(y, next(layer))
        if se:
            block = f"{name}.res_layer.se_block" if adaface else next(layer)
            mean = y.mean((2, 3), keepdims=True)
            weight = net.conv(relu(net.conv(mean, f"{block}.fc1")), f"{block}.fc2")
            y = y / (1 + np.exp(-weight))
        if inputs != channels:
            x = net.conv(x, f"{name}.shortcut_layer.0", stride)
            x = net.norm(x, f"{name}.shortcut_layer.1")
        else:
            x = x[:, :, ::stride, ::stride]
        x = x + y
    x = net.norm(x, "output_layer.0").reshape(len(x), -1)
    return net.norm(net.linear(x, "output_layer.3"), "output_layer.4")


def spherenet_weights(units):
    w = Weights()
    for stage, (channels, count) in enumerate(zip(CHANNELS, units, strict=True), start=1):
        w.conv(f"layer{stage}.0.0", 3 if stage == 1 else channels // 2, channels, bias=True)
        w.prelu(f"layer{stage}.0.1", channels)
        for unit, half in itertools.product(range(1, count + 1), (0, 1)):
            w.conv(f"layer{stage}.{unit}.block.{half}.0", channels, channels)
            w.prelu(f"layer{stage}.{unit}.block.{half}.1", channels)
    w.linear("fc", 512 * POSITIONS, 512)
    return w


def spherenet_embed(net, x, units):
    for stage, count in enumerate(units, start=1):
        x = net.prelu(net.conv(x, f"layer{stage}.0.0", 2), f"layer{stage}.0.1")
        for unit in range(1, count + 1):
            y = x
            for half in (0, 1):
                name = f"layer{stage}.{unit}.block.{half}"
                y = net.prelu(net.conv(y, f"{name}.0"), f"{name}.1")
            x = x + y
    return net.linear(x.reshape(len(x), -1), "fc")


def sfnet_weights(units, batch_norm, older):
    w = Weights()
    for stage, (channels, count) in enumerate(zip(CHANNELS, units, strict=True), start=1):
        convolutions = [(f"layer{stage}.0", "" if older else "1")]
        convolutions += itertools.product(
            [f"layer{stage}.{unit}" for unit in range(1, count + 1)], "12"
        )
        inputs = 3 if stage == 1 else channels // 2
        for block, number in convolutions:
            w.conv(f"{block}.conv{number}", inputs, channels, bias=not batch_norm)
            inputs = channels
            if batch_norm:
                w.norm(f"{block}.bn{number}", channels)
    w.linear("fc", 512 * POSITIONS, 512)
    if batch_norm:
        w.norm("features", 512)
    return w


def sfnet_embed(net, x, units, batch_norm, older):
    def conv(x, block, number, stride=1):
        x = net.conv(x, f"{block}.conv{number}", stride)
        return net.norm(x, f"{block}.bn{number}") if batch_norm else x

    for stage, count in enumerate(units, start=1):
        x = relu(conv(x, f"layer{stage}.0", "" if older else 1, 2))
        for unit in range(1, count + 1):
            name = f"layer{stage}.{unit}"
            y = conv(relu(conv(x, name, 1)), name, 2)
            x = x + relu(y) if older else relu(x + y)
    x = net.linear(x.reshape(len(x), -1), "fc")
    return net.norm(x, "features") if batch_norm else x


def mobile_blocks(blocks, width):
    """Yield group, place in it, input, inner and output channels, and stride."""
    channels = 64 * width
    if blocks[0] > 1:
        for index in range(blocks[0]):
            yield 1, index, channels, 128, channels, 1
    for group, (inside, outputs, count, between) in enumerate(
        [(128, 64, blocks[1], 128), (256, 128, blocks[2], 256), (512, 128, blocks[3], 256)], start=2
    ):
        yield group, None, channels, inside, width * outputs, 2
        channels = width * outputs
        for index in range(count):
            yield group, index, channels, between, channels, 1


def mbf_names(blocks, width):
    """Yield a block's three convolutions, each as (conv, norm, PReLU), and its sizes."""
    for group, index, *sizes in mobile_blocks(blocks, width):
        place = 2 * (group - 1)
        name = f"layers.{place}"
        if index is not None:
            name = f"layers.{place + 1}.layers.{index}"
        yield [[f"{name}.layers.{k}.layers.{j}" for j in range(3)] for k in range(3)], sizes


def treb1en_names(blocks, width):
    for group, index, *sizes in mobile_blocks(blocks, width):
        strided = f"conv_{group}{group + 1}"
        name = strided if index is None else f"conv_{group + 1}.model.{index}"
        parts = ("conv", "conv_dw", "project")
        yield [[f"{name}.{part}.{x}" for x in ("conv", "bn", "prelu")] for part in parts], sizes


MBF = types.SimpleNamespace(
    names=mbf_names,
    first=[f"layers.0.layers.{k}" for k in range(3)],
    second=[f"layers.1.layers.{k}" for k in range(3)],
    last=[f"conv_sep.layers.{k}" for k in range(3)],
    whole=[f"features.layers.0.layers.{k}" for k in range(2)],
    linear="features.layers.2",
    norm="features.layers.3",
)
TREB1EN = types.SimpleNamespace(
    names=treb1en_names,
    first=["conv1.conv", "conv1.bn", "conv1.prelu"],
    second=["conv2_dw.conv", "conv2_dw.bn", "conv2_dw.prelu"],
    last=["conv_6_sep.conv", "conv_6_sep.bn", "conv_6_sep.prelu"],
    whole=["conv_6_dw.conv", "conv_6_dw.bn"],
    linear="linear",
    norm="bn",
)


def mobile_weights(layout, blocks, width):
    w = Weights()

    def conv(names, inputs, outputs, side, groups=1, slopes=True):
        w.conv(names[0], inputs, outputs, side, groups=groups)
        w.norm(names[1], outputs)
        if slopes:
            w.prelu(names[2], outputs)

    conv(layout.first, 3, 64 * width, 3)
    if blocks[0] == 1:
        conv(layout.second, 64 * width, 64 * width, 3, 64)
    for names, (inputs, inside, outputs, _) in layout.names(blocks, width):
        conv(names[0], inputs, inside, 1)
        conv(names[1], inside, inside, 3, inside)
        conv(names[2], inside, outputs, 1, slopes=False)
    conv(layout.last, 128 * width, 512, 1)
    conv(layout.whole, 512, 512, (3, 2), 512, slopes=False)
    w.linear(layout.linear, 512, 512, bias=False)
    w.norm(layout.norm, 512)
    return w


def mobile_embed(net, x, layout, blocks, width):
    def conv(x, names, stride=1, groups=1, padding=None, slopes=True):
        x = net.norm(net.conv(x, names[0], stride, groups, padding), names[1])
        return net.prelu(x, names[2]) if slopes else x

    x = conv(x, layout.first, 2)
    if blocks[0] == 1:
        x = conv(x, layout.second, groups=64)
    for names, (inputs, inside, outputs, stride) in layout.names(blocks, width):
        y = conv(conv(x, names[0]), names[1], stride, inside)
        y = conv(y, names[2], slopes=False)
        x = x + y if stride == 1 and inputs == outputs else y
    x = conv(conv(x, layout.last), layout.whole, groups=512, padding=(0, 0), slopes=False)
    return net.norm(net.linear(x.reshape(len(x), -1), layout.linear), layout.norm)


NETWORKS = {
    "adaface-irse18": (ir_weights, ir_embed, (UNITS_18, True, True)),
    "irse50": (ir_weights, ir_embed, (UNITS_50, False, True)),
    "spherenet20": (spherenet_weights, spherenet_embed, (UNITS_20,)),
    "sfnet10": (sfnet_weights, sfnet_embed, (UNITS_10, False, False)),
    "sfnet10-bn": (sfnet_weights, sfnet_embed, (UNITS_10, True, False)),
    "sfnet10-older": (sfnet_weights, sfnet_embed, (UNITS_10, False, True)),
    "mbf": (mobile_weights, mobile_embed, (MBF, (1, 4, 6, 2), 2)),
    "mbf-large": (mobile_weights, mobile_embed, (MBF, (2, 8, 12, 4), 4)),
    "mobilefacenet-treb1en": (mobile_weights, mobile_embed, (TREB1EN, (1, 4, 6, 2), 1)),
}


@pytest.mark.parametrize(
    "arch", [pytest.param(x, marks=[pytest.mark.slow] * (x == "irse50")) for x in NETWORKS]
)
def test_embeddings(arch, tmp_path, write_zip, tensor):
    weights, embed, options = NETWORKS[arch]
    tensors = weights(*options)
    path = write_zip(tmp_path / "x.pth", {name: tensor.of(x) for name, x in tensors.items()})
    told = "mobile" in arch or "mbf" in arch
    imported = import_checkpoint(path, input_size=None if told else SIZE)
    assert imported.architecture.name == arch
    assert imported.left_out == []
    metadata = load_embedder(imported.model).metadata
    order = "rgb" if arch.startswith(("s", "mbf")) else "bgr"
    assert (metadata.channel_order, metadata.pixel_scale) == (order, 127.5)
    assert metadata.input_size == SIZE
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, 3, *SIZE)).astype(np.float32)
    found = imported.model(pixels.transpose(0, 2, 3, 1), training=False).numpy()
    # float32 sums in another order than the oracle's float64
    assert relative_error(found, embed(Layers(tensors), pixels.astype(float), *options)) < 1e-4


def test_the_command_for_adaface(tmp_path, write_zip, tensor, capsys):
    """A Lightning checkpoint: RGB faces go in, the network sees BGR."""
    tensors = ir_weights(UNITS_18, True, False)
    state = {f"model.{name}": tensor.of(x) for name, x in tensors.items()}
    state["head.kernel"] = tensor.of(np.zeros((512, 10), "float32"))
    state["head.t"] = tensor.of(np.zeros(1, "float32"))
    content = {"epoch": 3, "state_dict": state, "hyper_parameters": {"arch": "ir_18"}}
    path = write_zip(tmp_path / "adaface.ckpt", content)
    out = tmp_path / "model.keras"
    assert import_.main([str(path), "--out", str(out), "--input-size", "48x32"]) == 0
    said = capsys.readouterr().out
    assert "recognised: adaface-ir18, a PyTorch checkpoint" in said
    assert "left out: head.kernel (512, 10): the head" in said
    assert "note: Channels are BGR, as AdaFace says" in said
    metadata = read_metadata(out)
    assert (metadata.channel_order, metadata.pixel_scale, metadata.flip) == ("bgr", 127.5, "sum")
    faces = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3), np.uint8)
    bgr = ((faces[..., ::-1].astype(float) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    expected = ir_embed(Layers(tensors), bgr, UNITS_18, True, False)
    assert relative_error(load_embedder(out)(faces), expected) < 1e-4


LAYOUTS = {
    name: kind.layout for name, kind in ARCHITECTURES.items() if isinstance(kind.layout, Layout)
}


@functools.cache
def all_fits(arch):
    """Return the networks whose tensors, and no more, a file of one layout has."""
    names = dict.fromkeys(LAYOUTS[arch].names, types.SimpleNamespace(shape=(1,)))
    file = TensorFile(Path("x.pth"), "PyTorch checkpoint", {"": names}, dict)
    return [other for other, layout in LAYOUTS.items() if best_fits(file, layout)[0].whole]


def test_no_layout_is_taken_for_another():
    """The names of a deep network hold those of a shallow one, and sources share names."""
    shallow = [arch for arch in LAYOUTS if not arch.endswith(("64", "101", "152", "200", "large"))]
    assert [all_fits(arch) for arch in shallow] == [[arch] for arch in shallow]
