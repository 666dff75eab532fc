"""Checkpoints: both formats, what may be in them, and files that are broken or hostile."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import functools
import operator
import os
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from tests.importers.pickles import ARRAYS, HEADER
from tf_sphereface.importers import read_torch_checkpoint


def test_reads_a_state_dictionary(tmp_path, write, state) -> None:
    found = read_torch_checkpoint(write(tmp_path / "x.pt", state))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.owndata


def test_finds_the_state_dictionary_in_a_checkpoint(tmp_path, write, state, tensor) -> None:
    optimizer = {"state": {0: {"momentum_buffer": tensor.of(np.ones(3))}}, "lr": 0.1}
    path = write(tmp_path / "x.pt", {"epoch": 3, "net": state, "optimizer": optimizer})
    assert list(read_torch_checkpoint(path)) == list(ARRAYS)


def test_choice_between_state_dictionaries(tmp_path, write, state, tensor) -> None:
    head = {"w": tensor.of(np.ones(3))}
    path = write(tmp_path / "x.pt", {"net": state, "head": head})
    with pytest.raises(ValueError, match=r"x\.pt: several state dictionaries.*'net', 'head'"):
        read_torch_checkpoint(path)
    assert list(read_torch_checkpoint(path, key="head")) == ["w"]
    with pytest.raises(ValueError, match="no state dictionary under 'body'"):
        read_torch_checkpoint(path, key="body")


def test_data_parallel_prefix_is_removed(tmp_path, write, tensor) -> None:
    path = write(tmp_path / "x.pt", {"module.a": tensor.of(np.ones(2))})
    assert list(read_torch_checkpoint(path)) == ["a"]


def test_views_share_a_storage(tmp_path, write, tensor) -> None:
    storage = np.arange(12, dtype="float32")
    views = {
        "transposed": tensor(storage, shape=(3, 4), strides=(1, 3)),
        "part": tensor(storage, offset=5, shape=(2,), strides=(2,)),
    }
    found = read_torch_checkpoint(write(tmp_path / "x.pt", views))
    np.testing.assert_array_equal(found["transposed"], storage.reshape(4, 3).T)
    np.testing.assert_array_equal(found["part"], [5, 7])


def test_bfloat16_becomes_float32(tmp_path, write, tensor) -> None:
    bits = np.array([0x3F80, 0xC020, 0x0000], np.uint16)  # 1, -2.5, 0
    found = read_torch_checkpoint(
        write(tmp_path / "x.pt", {"a": tensor(bits, kind="BFloat16Storage")})
    )
    np.testing.assert_array_equal(found["a"], np.array([1, -2.5, 0], "float32"))
    assert found["a"].dtype == np.float32


def test_big_endian_machine(tmp_path, write_legacy, state) -> None:
    found = read_torch_checkpoint(write_legacy(tmp_path / "x.pt", state, byteorder=">"))
    np.testing.assert_array_equal(found["a.weight"], ARRAYS["a.weight"])


class Config:
    """An author's own class."""

    class Inner:
        """A nested one."""

    def __init__(self):
        self.rate, self.inner = 0.1, Config.Inner()


class Options(dict):
    """A dictionary of an author's own."""


class Stage(enum.Enum):
    """Pickles as a call."""

    LAST = 2


Step = collections.namedtuple("Step", "number")

FOREIGN = {
    "counter": collections.Counter({5: 2}),
    "numpy": [np.float64(0.25), np.arange(3), np.array(["a"]), np.random.RandomState(0)],
    "namespace": argparse.Namespace(lr=0.1),
    "sets": [{1, 2}, frozenset({(1, 2)}), {frozenset({1}): 2}],
    "path": [Path("runs/1"), PureWindowsPath("C:/x")],
    "times": [datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(1)],
    "defaults": collections.defaultdict(list, a=[1]),
    "queue": collections.deque([1], maxlen=3),
    "own": [Config(), Options(a=1), Stage.LAST, Step(1), Config, Config.Inner],
    "functions": [os.path.join, len, functools.partial(pow, 2), operator.itemgetter(1)],
    "numbers": [decimal.Decimal("0.1"), fractions.Fraction(1, 3), 2j, b"\xff", bytearray(b"x")],
    "pattern": re.compile("a"),
    "range": [range(3), slice(1), Ellipsis, NotImplemented],
}


def test_harmless_values_beside_the_tensors_are_passed_over(tmp_path, write, state) -> None:
    torch = sys.modules["torch"]
    torch.Size = type("Size", (tuple,), {"__module__": "torch"})
    torch.device = type("device", (Config,), {"__module__": "torch", "__qualname__": "device"})
    values = {**FOREIGN, "size": torch.Size((3, 4)), "device": torch.device(), "kind": torch.device}
    path = write(tmp_path / "x.pt", {**values, "state_dict": state, "epoch": 3})
    found = read_torch_checkpoint(path)
    assert list(found) == list(ARRAYS)
    np.testing.assert_array_equal(found["a.weight"], ARRAYS["a.weight"])
    mixed = read_torch_checkpoint(write(tmp_path / "y.pt", {**state, **values}))
    assert list(mixed) == list(ARRAYS)


@pytest.mark.parametrize("name", FOREIGN)
def test_each_harmless_value_alone(tmp_path, write_zip, state, name) -> None:
    path = write_zip(tmp_path / "x.pt", {name: FOREIGN[name], "state_dict": state})
    assert list(read_torch_checkpoint(path)) == list(ARRAYS)


def test_a_state_dictionary_within_foreign_values(tmp_path, write, state) -> None:
    holder, defaults = argparse.Namespace(model=state), collections.defaultdict(dict, net=state)
    for value in (holder, defaults, Options(net=state), (3, state), {"a": {"b": [state]}}):
        assert list(read_torch_checkpoint(write(tmp_path / "x.pt", value))) == list(ARRAYS)
    path = write(tmp_path / "x.pt", {"state": {"model": state, "ema": {**state}}})
    with pytest.raises(ValueError, match=r"It holds 'state\.model', 'state\.ema'"):
        read_torch_checkpoint(path)
    assert list(read_torch_checkpoint(path, key="state.ema")) == list(ARRAYS)


class Module:
    """Pickles as a `torch.nn.Module` does."""

    def __init__(self, parameters, buffers=(), modules=()):
        self._parameters, self._buffers = OrderedDict(parameters), OrderedDict(buffers)
        self._modules = OrderedDict(modules)
        self.training = True


def test_a_network_that_was_saved_whole(tmp_path, write, tensor) -> None:
    def one(value):
        return tensor.of(np.full(2, value, "float32"))

    inner = Module({"weight": one(1), "bias": None}, {"running_mean": one(2)})
    net = Module({"scale": one(0)}, modules={"body": Module({}, modules={"0": inner})})
    found = read_torch_checkpoint(write(tmp_path / "x.pt", {"net": net, "epoch": 1}))
    assert {name: array[0] for name, array in found.items()} == {
        "scale": 0,
        "body.0.weight": 1,
        "body.0.running_mean": 2,
    }


def test_tensors_that_have_attributes_or_are_parameters(tmp_path) -> None:
    """What PyTorch writes for a Parameter, and for a tensor that a script gave an attribute."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    storage += b"X\x03\x00\x00\x00cpuK\x06tQ"
    arguments = b"(" + storage + b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89}t"
    plain = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + plain + b"\x88}tR"
    rebuild = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\n"
    typed = rebuild + b"ctorch\nTensor\n" + arguments + b"}Vnote\nK\x01stR"
    numbers = np.arange(6, dtype="<f4")
    for program in (plain, parameter, typed):
        path = tmp_path / "x.pth"
        content = b"\x80\x02}Vw\n" + program + b"s." + pickle.dumps(["0"], 2)
        path.write_bytes(HEADER + content + struct.pack("<q", 6) + numbers.tobytes())
        np.testing.assert_array_equal(read_torch_checkpoint(path)["w"], numbers.reshape(2, 3))


def test_tensors_of_before_pytorch_0_4(tmp_path, fake_torch) -> None:
    """A legacy file of 2017 names `_rebuild_tensor`, and its storages have a view, None."""
    utils = b"ctorch._utils\n_rebuild_tensor\n"
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    storage += b"X\x03\x00\x00\x00cpuK\x06NtQ"
    program = b"\x80\x02}X\x01\x00\x00\x00w" + utils + b"(" + storage
    program += b"K\x00K\x02K\x03\x86K\x03K\x01\x86tRs."
    keys = pickle.dumps(["0"], 2)
    numbers = np.arange(6, dtype="<f4")
    path = tmp_path / "old.pth"
    path.write_bytes(HEADER + program + keys + struct.pack("<q", 6) + numbers.tobytes())
    tensors = read_torch_checkpoint(path)
    np.testing.assert_array_equal(tensors["w"], numbers.reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PyTorch checkpoint but an empty file"),
        (b"<html>404</html>", "not a PyTorch checkpoint but a web page"),
        (pickle.dumps({"a": 1}), "magic number is missing"),
        (HEADER[:20], "not a PyTorch checkpoint"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(9), "unknown format version 9"),
        (HEADER + b"\x80\x02]." + b"\x80\x02].", "no state dictionary"),
        (HEADER + b"\x80\x02}." + b"\x80\x02].", "no state dictionary"),
    ],
)
def test_other_files(tmp_path, content, message) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_torch_checkpoint(path)
    assert "file.pt" in str(caught.value)


def test_truncated_file(tmp_path, write_legacy, state) -> None:
    whole = write_legacy(tmp_path / "whole.pt", state).stat().st_size
    for keep in (1, 8, 50, whole // 2, whole - 1):
        path = write_legacy(tmp_path / "part.pt", state, keep=keep)
        with pytest.raises(ValueError, match=r"part\.pt: .*(again|half a download)"):
            read_torch_checkpoint(path)


def test_damaged_bytes_end_in_an_error_or_are_read(tmp_path, write, state) -> None:
    """One to three bytes of the description are others: no crash, no other kind of error."""
    whole = write(tmp_path / "whole.pt", {"net": state, **FOREIGN}).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        (tmp_path / "x.pt").write_bytes(data)
        try:
            found = read_torch_checkpoint(tmp_path / "x.pt")
        except ValueError as error:
            assert "x.pt: " in str(error)  # noqa: PT017
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())


def test_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        read_torch_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (4, 4), "strides": (4, 1)},  # reaches outside
        {"offset": 11, "shape": (2,)},
        {"shape": (10**9, 10**9), "strides": (0, 0)},  # would be 4 exabytes
        {"shape": (10**30,), "strides": (1,)},
        {"shape": (2,), "strides": (1, 1)},
        {"offset": -1, "shape": (2,)},
        {"shape": (2,), "strides": (-1,)},
        {"shape": ("2",), "strides": (1,)},
    ],
)
def test_tensor_outside_its_storage(tmp_path, write, tensor, arguments) -> None:
    storage = np.arange(12, dtype="float32")
    path = write(tmp_path / "x.pt", {"a": tensor(storage, **arguments)})
    with pytest.raises(ValueError, match=r"x\.pt: a tensor"):
        read_torch_checkpoint(path)


def test_announced_length_is_checked_before_memory_is_taken(tmp_path, write_legacy, tensor):
    path = write_legacy(tmp_path / "x.pt", {"a": tensor.of(np.arange(6.0))})
    data = path.read_bytes()
    # the storage's length stands in the pickle (a byte, K 6) and before its raw numbers
    huge = struct.pack("<q", 2**40)
    altered = data.replace(b"K\x06t", b"\x8a\x08" + huge + b"t", 1)
    assert altered != data
    path.write_bytes(altered[:-56] + huge + altered[-48:])
    with pytest.raises(ValueError, match="truncated or has the wrong length"):
        read_torch_checkpoint(path)


def test_unknown_storage(tmp_path, write, tensor) -> None:
    value = {"a": tensor(np.zeros(3, "float32"), kind="FancyStorage")}
    with pytest.raises(ValueError, match=r"unknown kind of storage: torch\.FancyStorage"):
        read_torch_checkpoint(write(tmp_path / "x.pt", value))


def test_zip_without_a_checkpoint(tmp_path, write_zip, state) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(
        ValueError, match=r"not a PyTorch checkpoint but a zip archive with no data\.pkl"
    ):
        read_torch_checkpoint(tmp_path / "x.zip")
    script = write_zip(tmp_path / "script.pt", state, extra=[("archive/constants.pkl", b"")])
    with pytest.raises(ValueError, match="TorchScript"):
        read_torch_checkpoint(script)


def test_real_checkpoint(real_data) -> None:
    folder = real_data / "mobilefacenet"
    found = read_torch_checkpoint(folder / "mobilefacenet_casia_068.ckpt")
    listed = [line.split("\t") for line in (folder / "tensors.txt").read_text().splitlines()]
    assert {name: str(array.shape) for name, array in found.items()} == dict(listed)
