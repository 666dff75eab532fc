"""Writes checkpoints as PyTorch does, without PyTorch."""

from __future__ import annotations

import importlib.util
import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from tests.importers.pickles import ARRAYS

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
            "int64": "LongStorage", "uint8": "ByteStorage", "bool": "BoolStorage"}  # fmt: skip


class Tensor:
    """Pickles as torch.Tensor does: a call of `_rebuild_tensor_v2` on a persistent storage."""

    def __init__(self, storage, kind=None, offset=0, shape=None, strides=None):
        self.storage = storage  # a flat array
        self.kind = kind or STORAGES[storage.dtype.name]
        self.arguments = (offset, shape or storage.shape, strides or (1,))

    @classmethod
    def of(cls, array):
        array = np.array(array, order="C")
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return cls(array.ravel(), shape=array.shape, strides=strides)

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (StorageReference(self), *self.arguments, False, OrderedDict())


class StorageReference:
    def __init__(self, tensor):
        self.tensor = tensor


class Pickler(pickle.Pickler):
    def __init__(self, stream):
        super().__init__(stream, protocol=2)
        self.storages = {}

    def persistent_id(self, value):
        if not isinstance(value, StorageReference):
            return None
        tensor = value.tensor
        key = str(id(tensor.storage))
        self.storages[key] = tensor.storage
        kind = getattr(sys.modules["torch"], tensor.kind)
        return ("storage", kind, key, "cpu", len(tensor.storage))


@pytest.fixture
def fake_torch(monkeypatch):
    """Modules named as PyTorch's, with what a pickle refers to, while a test writes one."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def define(module, name):
        thing = type(name, (), {"__module__": module.__name__, "__qualname__": name})
        setattr(module, name, thing)

    for kind in {*STORAGES.values(), "BFloat16Storage", "FancyStorage"}:
        define(torch, kind)
    define(utils, "_rebuild_tensor_v2")
    torch._utils = utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


@pytest.fixture
def write_legacy(fake_torch):
    """Write what `torch.save(value, path, _use_new_zipfile_serialization=False)` writes."""

    def write(path: Path, value, *, keep=None, byteorder="<") -> Path:
        stream = io.BytesIO()
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": byteorder == "<"}):
            pickle.dump(header, stream, protocol=2)
        pickler = Pickler(stream)
        pickler.dump(value)
        pickle.dump(sorted(pickler.storages), stream, protocol=2)
        for key in sorted(pickler.storages):
            array = pickler.storages[key]
            stream.write(struct.pack(byteorder + "q", len(array)))
            stream.write(array.astype(array.dtype.newbyteorder(byteorder)).tobytes())
        data = stream.getvalue()
        path.write_bytes(data if keep is None else data[:keep])
        return path

    return write


@pytest.fixture
def write_zip(fake_torch):
    """Write what `torch.save(value, path)` writes."""

    def write(path: Path, value, extra=()) -> Path:
        stream = io.BytesIO()
        pickler = Pickler(stream)
        pickler.dump(value)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", stream.getvalue())
            archive.writestr("archive/byteorder", "little")
            for key, array in pickler.storages.items():
                archive.writestr(f"archive/data/{key}", array.tobytes())
            for name, data in extra:
                archive.writestr(name, data)
        return path

    return write


@pytest.fixture
def tensor():
    """The class of tensors that the writers take."""
    return Tensor


@pytest.fixture(scope="session")
def released():
    """The module `released.py`: the released networks in NumPy, and files as Caffe writes them."""
    path = Path(__file__).with_name("released.py")
    spec = importlib.util.spec_from_file_location("released", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["legacy", "zip"])
def write(request):
    return request.getfixturevalue(f"write_{request.param}")


@pytest.fixture
def state(tensor):
    return OrderedDict((name, tensor.of(array)) for name, array in ARRAYS.items())
