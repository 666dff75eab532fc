"""Finding the weights of a network in a file: where they lie, under which prefix, beside what."""

from __future__ import annotations

import re
import types

import numpy as np
import pytest

from tf_sphereface.importers.state_dictionaries import (
    Layout,
    best_fits,
    load_layout,
    load_only_fit,
    open_tensors,
)

NAMES = ("conv1.weight", "conv1.bias", "blocks.0.weight", "fc.weight")


def build(tensors, _input_size):
    """Stand for a network: it keeps the tensors, and refuses other shapes."""
    if tensors["fc.weight"].shape != (2, 3):
        raise ValueError(f"wrong shapes: fc.weight {tensors['fc.weight'].shape}")
    return types.SimpleNamespace(tensors=dict(tensors), output_shape=(None, 2))


LAYOUT = Layout(
    "TinyNet", frozenset(NAMES), re.compile(r"(conv|blocks|fc)"), build, frozenset({"fc.weight"})
)


@pytest.fixture
def net(tensor):
    """Make the tensors of a network: all of one value, under a prefix."""

    def make(value=1.0, prefix="", shape=(2, 3)):
        shapes = dict.fromkeys(NAMES, (2,)) | {"fc.weight": shape}
        return {
            prefix + name: tensor.of(np.full(shape, value, "float32"))
            for name, shape in shapes.items()
        }

    return make


@pytest.fixture
def load(tmp_path, write_zip):
    """Write a checkpoint and load the network in it: its value, what was left out, where it lay."""

    def run(content, key=None):
        file = open_tensors(write_zip(tmp_path / "x.pth", content))
        fits = best_fits(file, LAYOUT, key)
        (model, left_out), fit = load_only_fit(file, LAYOUT, fits)
        assert set(model.tensors) == set(NAMES)
        (value,) = {array.flat[0] for array in model.tensors.values()}
        return value, left_out, fit.read_as()

    return run


@pytest.mark.parametrize("content", [{}, {"epoch": 3, "state_dict": {}}])
def test_a_checkpoint_without_tensors_is_called_so(load, content):
    with pytest.raises(ValueError, match=r"x\.pth: a PyTorch checkpoint without named tensors"):
        load(content)


@pytest.mark.parametrize(
    "prefix",
    ["backbone.", "model.", "net.", "module.module.", "encoder.", "student.", "a.b.c.d."],
)
def test_prefixes(load, net, prefix):
    value, left_out, said = load(net(prefix=prefix))
    assert (value, left_out) == (1, [])
    assert said == f"the tensors whose names begin with {prefix!r}"


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_before_and_within_names(load, net, wrapper):
    assert load(net(prefix=f"{wrapper}.model."))[0] == 1
    wrapped = {name.replace(".", f".{wrapper}.", 1): value for name, value in net().items()}
    assert load(wrapped)[0] == 1


@pytest.mark.parametrize(
    ("entry", "nest"),
    [
        ("state_dict", lambda net: {"epoch": 3, "state_dict": net}),
        ("ema", lambda net: {"ema": net}),
        ("state.model", lambda net: {"state": {"model": net}}),
        ("a.b.c", lambda net: {"a": {"b": {"c": net}}, "best": 0.9}),
        ("0", lambda net: [net, 3]),
    ],
)
def test_nesting(load, net, entry, nest):
    value, _, said = load(nest(net(prefix="backbone.")))
    assert value == 1
    assert said == f"the tensors under {entry!r} whose names begin with 'backbone.'"


def test_what_is_not_of_the_network_is_named(load, net, tensor):
    head = tensor.of(np.zeros((10, 2), "float32"))
    count = tensor.of(np.zeros((), "int64"))
    optimizer = {"state": {0: {"exp_avg": head}}, "flat": {"fp32": head}}
    others = {f"teacher.layer{k}.w": head for k in range(400)}
    content = {"state_dict": {**net(prefix="net."), "head.kernel": head, "net.bn.scale": head}}
    content["state_dict"] |= {"net.bn.num_batches_tracked": count, **others}
    content |= {"optimizer": optimizer, "arcface": {"weight": head}}
    _, left_out, _ = load(content)
    text = "the head, class centres of the training set"
    assert left_out == [
        f"head.kernel (10, 2): {text}",
        f"bn.scale (10, 2): {text}",
        "400 tensors of 'teacher', such as teacher.layer0.w",
        f"arcface.weight (10, 2): {text}",
    ]


def test_the_one_that_fits_is_chosen(load, net):
    content = {"generator": {"deconv.weight": net()["fc.weight"]}, "net": net(2.0)}
    assert load(content)[0] == 2
    assert load({**net(1.0, "teacher.", (4, 3)), **net(2.0, "student.")})[0] == 2
    larger = {**net(1.0, "teacher."), "teacher.blocks.1.weight": net()["conv1.bias"]}
    assert load({**larger, **net(2.0, "student.")})[0] == 2


def test_where_two_fit_the_user_chooses(load, net):
    content = {"state_dict": net(1.0, "model."), "ema": net(2.0, "model.")}
    message = r"2 sets of weights fit TinyNet: 'state_dict\.model', 'ema\.model'; choose .*--key"
    with pytest.raises(ValueError, match=message):
        load(content)
    assert load(content, key="ema")[0] == 2
    assert load(content, key="state_dict.model")[0] == 1
    with pytest.raises(ValueError, match=r"under 'net'; there is 'state_dict', 'ema'"):
        load(content, key="net")
    pair = {**net(1.0, "teacher."), **net(2.0, "student.")}
    with pytest.raises(ValueError, match="2 sets of weights fit"):
        load(pair)
    assert load(pair, key="student")[0] == 2


def test_two_names_of_the_same_tensors_are_one_network(load, net):
    same = net()
    assert load({"model": same, "module": dict(same)})[0] == 1


def test_missing_and_unknown_tensors_are_errors_and_errors_are_short(tmp_path, write_zip, net):
    tensors = net()
    lacking = {name: value for name, value in tensors.items() if name != "conv1.bias"}
    file = open_tensors(write_zip(tmp_path / "x.pth", lacking))
    (fit,) = best_fits(file, LAYOUT)
    assert fit.missing == ["conv1.bias"]
    assert not fit.whole
    more = {**tensors, "blocks.1.weight": tensors["conv1.bias"]}
    (fit,) = best_fits(open_tensors(write_zip(tmp_path / "x.pth", more)), LAYOUT)
    assert fit.unknown == ["blocks.1.weight"]
    other = {f"layer{k}.{'very_long_' * 30}": tensors["conv1.bias"] for k in range(500)}
    with pytest.raises(ValueError, match=r"missing tensors: .*and 490 more") as caught:
        load_layout(write_zip(tmp_path / "x.pth", other), LAYOUT)
    assert len(str(caught.value)) < 2_000
