"""The public PyTorch MobileFaceNet: the same embeddings, and reports on tensors that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from tf_sphereface.backbones import MobileFaceNet
from tf_sphereface.importers import import_checkpoint, load_mobilefacenet
from tf_sphereface.importers.mobilefacenet import _pairs, assign_mobilefacenet


def to_torch(variable) -> np.ndarray:
    """The inverse of the importer's layout, written from PyTorch's side."""
    value = variable.numpy()
    if value.ndim == 4:
        return np.einsum("hwcm->cmhw" if value.shape[-1] == 1 else "hwio->oihw", value)
    return value.reshape(-1)


@pytest.fixture
def state(tensor):
    """The weights of a small untrained network, perturbed, under PyTorch's names."""
    model = MobileFaceNet((32, 16, 3), 8)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, variable in _pairs(model):
        variable.assign(variable + 0.1 * rng.uniform(size=variable.shape))
        tensors[name] = to_torch(variable)
        if name.endswith("running_var"):
            counter = name.replace("running_var", "num_batches_tracked")
            tensors[counter] = np.array(3)
    return model, tensors


def test_round_trip(tmp_path, write_legacy, tensor, state) -> None:
    model, tensors = state
    path = write_legacy(
        tmp_path / "x.ckpt", {"net": {name: tensor.of(array) for name, array in tensors.items()}}
    )
    loaded = load_mobilefacenet(path)
    assert loaded.input_shape == (None, 32, 16, 3)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


def test_weights_of_half_precision_and_a_head(tmp_path, write_zip, tensor, state) -> None:
    model, tensors = state
    kept = {name: tensor.of(array.astype("float16")) for name, array in tensors.items()}
    path = write_zip(tmp_path / "x.ckpt", {**kept, "linear.weight": tensor.of(np.zeros((9, 8)))})
    loaded = load_mobilefacenet(path)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        assert theirs.dtype == "float32"
        # float16 has 11 bits; the smallest weights are subnormal in it
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=5e-4, atol=1e-7)


def test_every_weight_is_set_once(state) -> None:
    model, _ = state
    names, variables = zip(*_pairs(model), strict=True)
    assert len(set(names)) == len(names)
    assert {id(variable) for variable in variables} == {id(weight) for weight in model.weights}
    assert len(variables) == len(model.weights)


def test_all_problems_are_listed_and_nothing_is_assigned(state) -> None:
    _, tensors = state
    model = MobileFaceNet((32, 16, 3), 8)
    before = model.get_weights()
    del tensors["conv2.bn.bias"], tensors["blocks.3.conv.5.weight"]
    tensors["extra.weight"] = np.zeros(3)
    tensors["linear1.conv.weight"] = np.zeros((9, 512, 1, 1))
    with pytest.raises(ValueError, match="not the weights of this MobileFaceNet") as caught:
        assign_mobilefacenet(model, tensors)
    message = str(caught.value)
    assert "missing tensors: blocks.3.conv.5.weight, conv2.bn.bias" in message
    assert "unknown tensors: extra.weight" in message
    assert "linear1.conv.weight (9, 512, 1, 1) for linear1_conv/kernel" in message
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_another_network_names_the_file(tmp_path, write_legacy, tensor) -> None:
    path = write_legacy(tmp_path / "resnet.ckpt", {"layer1.weight": tensor.of(np.ones(3))})
    with pytest.raises(ValueError, match=r"resnet\.ckpt: not the weights.*unknown tensors: layer1"):
        load_mobilefacenet(path)


@pytest.mark.parametrize("mirrored", [False, True])
def test_embeddings_equal_pytorchs(real_data, mirrored) -> None:
    folder = real_data / "mobilefacenet"
    parity = np.load(folder / "parity.npz")
    model = load_mobilefacenet(folder / "mobilefacenet_casia_068.ckpt")
    images = (parity["images"].astype("float32") - 127.5) / 128.0
    expected = parity["mirrored_embeddings" if mirrored else "embeddings"]
    found = model.predict(images[:, :, ::-1] if mirrored else images, verbose=0)
    # each face: float32 sums in another order; measured 2e-6
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-4


def test_a_key_chooses_where_the_architecture_is_found_by_itself(
    tmp_path, write_legacy, tensor, state
) -> None:
    """As of a Lightning file that holds a network and its moving average."""
    _, tensors = state
    both = {
        f"{prefix}.{name}": tensor.of(sign * array)
        for prefix, sign in (("model", 1), ("ema", 1.5))
        for name, array in tensors.items()
    }
    path = write_legacy(tmp_path / "x.ckpt", both)
    with pytest.raises(ValueError, match="2 sets of weights fit MobileFaceNet"):
        import_checkpoint(path, input_size=(32, 16))
    found = [import_checkpoint(path, key=key, input_size=(32, 16)) for key in ("model", "ema")]
    assert [imported.architecture.name for imported in found] == ["mobilefacenet"] * 2
    one, other = (imported.model.get_weights()[0] for imported in found)
    np.testing.assert_allclose(1.5 * one, other, rtol=1e-6)
    with pytest.raises(ValueError, match="no state dictionary under 'teacher'"):
        import_checkpoint(path, key="teacher", input_size=(32, 16))
