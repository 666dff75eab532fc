"""Checkpoints: both formats, what may be in them, and files that are broken or hostile."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from tf_sphereface.importers import read_torch_checkpoint

HEADER = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.normal(size=(4, 3, 2)).astype("float32"),
    "b.weight": RNG.normal(size=5),
    "c.half": RNG.normal(size=(2, 2)).astype("float16"),
    "d.count": np.array(7),
    "e.mask": np.array([True, False]),
    "f.empty": np.zeros((0, 3), "float32"),
}


@pytest.fixture(params=["legacy", "zip"])
def write(request):
    return request.getfixturevalue(f"write_{request.param}")


@pytest.fixture
def state(tensor):
    return OrderedDict((name, tensor.of(array)) for name, array in ARRAYS.items())


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


class RunsACommand:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("nested", [False, True])
def test_hostile_pickle_runs_nothing(tmp_path, write, state, nested) -> None:
    target = tmp_path / "was_here"
    value = {"net": state, "note": RunsACommand(target)} if nested else RunsACommand(target)
    path = write(tmp_path / "hostile.pt", value)
    with pytest.raises(ValueError, match=r"hostile\.pt: refused: it names posix\.system"):
        read_torch_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"cbuiltins\neval\n(V1\ntR.", "builtins.eval"),
        (b"(S'ls'\nios\nsystem\n.", "os.system"),  # the INST instruction
        (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),  # STACK_GLOBAL
        (
            b"ctorch._utils\n_rebuild_tensor_v2.__class__\n.",
            "torch._utils._rebuild_tensor_v2.__class__",
        ),
        (b"ccollections\nabc.sys\n.", "collections.abc.sys"),
        (b"ctorch\nload\n.", "torch.load"),
    ],
)
@pytest.mark.parametrize("place", ["magic", "content"])
def test_other_instructions_that_import_are_refused(tmp_path, program, named, place) -> None:
    path = tmp_path / "hostile.pt"
    path.write_bytes((HEADER if place == "content" else b"") + program)
    with pytest.raises(ValueError, match="hostile.pt: refused: it names " + named):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    "target",
    ["torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage", "collections\nOrderedDict"],
)
@pytest.mark.parametrize("attribute", [b"}S'x'\nK\x01s", b"N}S'x'\nK\x01s\x86"])
def test_a_pickle_cannot_change_what_it_is_given(tmp_path, target, attribute) -> None:
    """The BUILD instruction sets attributes, by `__dict__` or by `setattr`."""
    path = tmp_path / "hostile.pt"
    path.write_bytes(HEADER + b"\x80\x02c" + target.encode() + b"\n" + attribute + b"b.")
    with pytest.raises(ValueError, match="damaged one"):
        read_torch_checkpoint(path)
    assert not hasattr(OrderedDict, "x")


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


def test_a_few_bytes_cannot_take_much_memory(tmp_path) -> None:
    """The C unpickler makes room for as many values as the highest number: here 34 GB."""
    path = tmp_path / "bomb.pt"
    path.write_bytes(HEADER + b"\x80\x02Nr\xff\xff\xff\x7f.")
    with pytest.raises(ValueError, match=r"bomb\.pt: .*keeps its value number 2147483647"):
        read_torch_checkpoint(path)


def test_a_dictionary_whose_methods_a_pickle_replaced(tmp_path) -> None:
    program = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb."
    path = tmp_path / "odd.pt"
    path.write_bytes(HEADER + program + pickle.dumps([], 2))
    with pytest.raises(ValueError, match=r"odd\.pt: "):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PyTorch checkpoint"),
        (b"<html>404</html>", "not a PyTorch checkpoint"),
        (pickle.dumps({"a": 1}), "magic number is missing"),
        (HEADER[:20], "not a PyTorch checkpoint"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(9), "unknown format version 9"),
        (HEADER + b"\x80\x02]." + b"\x80\x02].", "expected a dictionary of tensors"),
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
        with pytest.raises(ValueError, match=r"part\.pt: "):
            read_torch_checkpoint(path)


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
    value = {"a": tensor(np.zeros(3, "float32"), kind="ComplexFloatStorage")}
    with pytest.raises(ValueError, match=r"refused: it names torch\.ComplexFloatStorage"):
        read_torch_checkpoint(write(tmp_path / "x.pt", value))


def test_zip_without_a_checkpoint(tmp_path, write_zip, state) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"not a PyTorch checkpoint: no data\.pkl"):
        read_torch_checkpoint(tmp_path / "x.zip")
    script = write_zip(tmp_path / "script.pt", state, extra=[("archive/constants.pkl", b"")])
    with pytest.raises(ValueError, match="TorchScript"):
        read_torch_checkpoint(script)


def test_real_checkpoint(real_data) -> None:
    folder = real_data / "mobilefacenet"
    found = read_torch_checkpoint(folder / "mobilefacenet_casia_068.ckpt")
    listed = [line.split("\t") for line in (folder / "tensors.txt").read_text().splitlines()]
    assert {name: str(array.shape) for name, array in found.items()} == dict(listed)
