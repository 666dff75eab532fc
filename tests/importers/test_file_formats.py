"""Files that people take for weights: each is called what it is, and what to do is said."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from tf_sphereface.importers import import_checkpoint, read_caffemodel, read_torch_checkpoint


def archive_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


def tar_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return stream.getvalue()


def array_file() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    return stream.getvalue()


FILES = {
    "empty.pth": (b"", "an empty file: download it again"),
    "page.pth": (b"\n<!DOCTYPE html>\n<title>Sign in", "a web page (HTML)"),
    "page2.pth": (b'<?xml version="1.0"?><html xmlns="x">', "a web page (HTML)"),
    "error.pth": (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "XML"),
    "error.json.pth": (b'{"message": "Not Found"}', 'text, which begins \'{"message"'),
    "note.pth": ("Zugriff verweigert: bitte anmelden, Jürgen".encode(), "text, which begins"),
    "short.pth": (b"404", "a few bytes of text, '404'"),
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs"),
    "annex.pth": (b"/annex/objects/SHA256E-s1--4d.pth\n", "git annex get"),
    "zeros.pth": (bytes(5000), "zeros, such as a download that has not ended"),
    "packed.pth": (tar_of("a/model.pth", "a/readme"), "a tar archive of a/model.pth, a/readme"),
    "old.pth": (tar_of("sys_info", "pickle", "storages", "tensors"), "PyTorch before 0.1.10"),
    "cut.pth": (tar_of("model.pth")[:700], "tar archive"),
    "packed.zip": (archive_of("a/model.pth"), "a zip archive with no data.pkl, of a/model.pth"),
    "two.zip": (archive_of("a/data.pkl", "b/data.pkl"), "with several data.pkl"),
    "half.pth": (archive_of("archive/data.pkl")[:60], "a zip archive without its end"),
    "script.pt": (archive_of("n/data.pkl", "n/constants.pkl"), "a TorchScript program"),
    "lite.ptl": (archive_of("n/data.pkl", "n/bytecode.pkl"), "a TorchScript program"),
    "export.pt2": (archive_of("n/archive_format", "n/models/m.json"), "torch.export"),
    "keras.pth": (archive_of("config.json", "model.weights.h5"), "a Keras model"),
    "arrays.npz": (array_file(), "arrays of NumPy"),
    "array.npy": (b"\x93NUMPY\x01\x00" + bytes(40), "a NumPy array"),
    "model.tar.gz": (b"\x1f\x8b\x08" + bytes(40), "compressed by gzip: unpack it"),
    "model.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(40), "a 7z archive: unpack it"),
    "model.xz": (b"\xfd7zXZ\0" + bytes(40), "compressed by xz"),
    "model.zst": (b"\x28\xb5\x2f\xfd" + bytes(40), "compressed by zstd"),
    "model.rar": (b"Rar!\x1a\x07" + bytes(40), "a rar archive"),
    "model.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x051.9.0:\x01\x00", "an ONNX model"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "a TensorFlow Lite model"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
    "m-0000.params": (b"\x12\x01" + bytes(20), "a parameter file of MXNet"),
    "train.rec": (b"\x0a\x23\xd7\xce" + bytes(20), "an MXNet RecordIO file"),
    "model.pdparams": (pickle.dumps({"w": np.ones(3)}, 4), "weights of PaddlePaddle"),
    "renamed.pth": (
        pickle.dumps({"w": np.ones(3), "StructuredToParameterName@@": {}}, 4),
        "PaddlePaddle",
    ),
    "plain.pth": (pickle.dumps({"w": np.ones(3)}), "a pickle of Python alone"),
    "deploy.prototxt": (b'name: "SpherefaceNet-20"\ninput: "data"\n', "a Caffe network"),
    "layers.pth": (b"# the net\nlayer {\n name: 'x'\n}", "a description of a Caffe network"),
    "x.solverstate": (b"\x08\x05\x12\x04name", "a solver's state of Caffe"),
    "graph.pb": (b"\x0a\x10\x01\x02" + bytes(20), "a graph of TensorFlow"),
    "index.json": (b'{"weight_map": {"a": "b"}}', "an index of several safetensors files"),
    "x.crdownload": (b"\x01\x02\x03\x04", "a download that has not ended"),
    "photo.jpg": (b"\xff\xd8\xff\xe0" + bytes(20), "a picture"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_called_what_it_is(tmp_path, name):
    content, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_torch_checkpoint, import_checkpoint):
        with pytest.raises(ValueError, match="not a") as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["empty.pth", "page.pth", "packed.pth", "model.onnx", "half.pth"])
def test_in_place_of_a_caffemodel_too(tmp_path, name):
    content, expected = FILES[name]
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a \.caffemodel but ") as caught:
        read_caffemodel(path)
    assert expected in str(caught.value)


def test_a_folder(tmp_path):
    for read in (read_torch_checkpoint, import_checkpoint, read_caffemodel):
        with pytest.raises(ValueError, match="but a folder: name the file of weights"):
            read(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"name the file in it, such as model\.safetensors"):
        import_checkpoint(tmp_path)
    (tmp_path / "data.pkl").touch()
    with pytest.raises(ValueError, match="an unpacked PyTorch checkpoint"):
        import_checkpoint(tmp_path)


def test_bytes_of_no_known_format(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ValueError, match="or a damaged one"):
        read_torch_checkpoint(path)
    with pytest.raises(ValueError, match="Nor is it a PyTorch checkpoint or safetensors"):
        import_checkpoint(path)


@pytest.mark.parametrize("name", ["model.params", "x.part", "model.pth.tar", "model.zip"])
def test_the_name_does_not_hide_a_checkpoint(tmp_path, write_legacy, write_zip, tensor, name):
    for write in (write_legacy, write_zip):
        path = write(tmp_path / name, {"a": tensor.of(np.ones(3, "float32"))})
        assert list(read_torch_checkpoint(path)) == ["a"]


def test_a_caffemodel_of_another_network(tmp_path, released):
    path = tmp_path / "x.caffemodel"
    blob = released.blob(np.ones((2, 2), np.float32))
    path.write_bytes(released.layer("conv1", "Convolution", blob))
    with pytest.raises(ValueError, match=r"a \.caffemodel of another network; its layers: conv1"):
        import_checkpoint(path)
