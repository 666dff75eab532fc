"""Formats of files that people take for weights: what a file is, and what to do with it."""

from __future__ import annotations

import os
import re
import string
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tf_sphereface.utils.messages import and_more

_READ = 4096  # bytes from the beginning that tell a format
_NOT_FROM_HERE = "ask its author for the PyTorch, safetensors or Caffe file"
_AGAIN = "download it again"
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".caffemodel", ".tar")
_STATE_DICT = 'torch.save(model.state_dict(), "weights.pth")'


ONNX_MODEL = "an ONNX model"


class FormatError(ValueError):
    """The file is of a format that cannot be imported; the message says which, and what to do."""


def refuse_other_formats(path: Path, expected: str) -> None:
    """Raise a `FormatError` if a file is known to be anything but weights that can be imported.

    Args:
        path: the file.
        expected: what it should be, such as `"PyTorch checkpoint"`, or `ONNX_MODEL`.
    """
    found = describe_format(path)
    if found is not None and not (found == _ONNX and expected == ONNX_MODEL):
        article = "" if expected == ONNX_MODEL else "a "
        raise FormatError(f"{path}: not {article}{expected} but {found}")


def describe_format(path: Path) -> str | None:
    """Say what a file is and what to do with it; None for one that may be weights, or is unknown.

    Raises:
        OSError: the file cannot be read.
    """
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as stream:
        head = stream.read(_READ)
    if not head:
        return f"an empty file: {_AGAIN}"
    if _TORCH_LEGACY in head[:20] or is_safetensors(path):
        return None
    if zipfile.is_zipfile(path):
        return _zip(path)
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    return _by_magic(head) or _tar(path, head) or by_suffix or _onnx(head) or _text(head)


def is_safetensors(path: Path) -> bool:
    """Tell whether a file begins as safetensors do: the length of a header of JSON, then it."""
    with path.open("rb") as stream:
        head = stream.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and 2 <= length <= 100_000_000


def is_torch_or_safetensors(path: Path) -> bool:
    """Tell whether a file is of a format of tensors by name: all else may be a .caffemodel."""
    with path.open("rb") as stream:
        head = stream.read(20)
    return head[:1] == b"\x80" or is_safetensors(path) or zipfile.is_zipfile(path)


_TORCH_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of its magic number
_CAFFE_TEXT = (
    "a description of a Caffe network: the weights are in the .caffemodel file that belongs to it"
)
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", f"a zip archive without its end, such as half a download: {_AGAIN}"),
    (0, b"\x1f\x8b", "compressed by gzip: unpack it (tar xzf, or gunzip) and import what is in it"),
    (0, b"BZh", "compressed by bzip2: unpack it (tar xjf, or bunzip2) and import what is in it"),
    (0, b"\xfd7zXZ\0", "compressed by xz: unpack it (tar xJf, or unxz) and import what is in it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it (unzstd) and import what is in it"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4: unpack it (unlz4) and import what is in it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it (7z x) and import the file of weights"),
    (0, b"Rar!", "a rar archive: unpack it (unrar x) and import the file of weights in it"),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, such as weights of Keras: load it in Keras and save the model as .keras, "
        "which every command here takes",
    ),
    (0, b"\x93NUMPY", f"a NumPy array: {_NOT_FROM_HERE}"),
    (4, b"TFL3", "a TensorFlow Lite model: the commands take it as it is, as does load_embedder"),
    (0, b"\x12\x01\0\0\0\0\0\0", f"a parameter file of MXNet, which is not read: {_NOT_FROM_HERE}"),
    (0, b"\x0a\x23\xd7\xce", "an MXNet RecordIO file: images for training, not weights"),
    (0, b"GGUF", f"a GGUF file, which is of language models: {_NOT_FROM_HERE}"),
    (0, b"\x89PNG", "a picture (PNG)"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"7767517", f"a network of ncnn: {_NOT_FROM_HERE}"),
)

_PADDLE = f"weights of PaddlePaddle, which are not read: {_NOT_FROM_HERE}"
_SUFFIXES = {
    ".pdparams": _PADDLE,
    ".pdopt": _PADDLE,
    ".pdiparams": _PADDLE,
    ".pdmodel": _PADDLE,
    ".prototxt": _CAFFE_TEXT,
    ".solverstate": "a solver's state of Caffe: the weights are in the .caffemodel file beside it",
    ".pb": f"a graph of TensorFlow, which is not read: {_NOT_FROM_HERE}",
    ".index": f"an index of a TensorFlow checkpoint, which is not read: {_NOT_FROM_HERE}",
    ".meta": f"a graph of a TensorFlow checkpoint, which is not read: {_NOT_FROM_HERE}",
    ".t7": f"a file of Lua's Torch, which is not read: {_NOT_FROM_HERE}",
    ".mlmodel": f"a Core ML model, which is not read: {_NOT_FROM_HERE}",
    ".params": f"a parameter file of MXNet, which is not read: {_NOT_FROM_HERE}",
    ".engine": f"an engine of TensorRT, built for one GPU: {_NOT_FROM_HERE}",
    ".trt": f"an engine of TensorRT, built for one GPU: {_NOT_FROM_HERE}",
    ".crdownload": "a download that has not ended: wait for it, or start it again",
    ".part": "a download that has not ended: wait for it, or start it again",
}


def _by_magic(head: bytes) -> str | None:
    for begin, magic, text in _MAGIC:
        if head[begin : begin + len(magic)] == magic:
            return text
    if not any(head):
        return f"zeros, such as a download that has not ended: {_AGAIN}"
    if b"StructuredToParameterName@@" in head:
        return _PADDLE
    return None


def _zip(path: Path) -> str | None:
    """Say what a zip archive is; None for one that `torch.save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return f"a zip archive, damaged: {_AGAIN}"
    parts = [name.split("/") for name in names]
    pickles = [name for name, part in zip(names, parts, strict=True) if part[-1] == "data.pkl"]
    ends = {part[-1] for part in parts}
    if pickles and ends & {"constants.pkl", "bytecode.pkl"}:
        return (
            "a TorchScript program; save its state_dict() instead: in PyTorch, "
            f'model = torch.jit.load("{path.name}"), then {_STATE_DICT}'
        )
    if len(pickles) == 1:
        return None
    if {"config.json", "model.weights.h5"} <= ends:
        return "a Keras model: the commands take it as it is, if it is named .keras"
    if names and all(name.endswith(".npy") for name in names):
        return f"arrays of NumPy (.npz): {_NOT_FROM_HERE}"
    if "archive_format" in ends or "serialized_exported_program.json" in ends:
        return f"a program of torch.export; in PyTorch load it, then {_STATE_DICT}"
    why = "several data.pkl" if pickles else "no data.pkl"
    return f"a zip archive with {why}, of {_listed(names)}: unpack it, import the file of weights"


def _tar(path: Path, head: bytes) -> str | None:
    if head[257:262] != b"ustar" and path.suffix != ".tar":
        return None
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member in archive if not member.isdir()]
    except (tarfile.TarError, EOFError, ValueError):
        if head[257:262] != b"ustar":
            return None  # such as model_best.pth.tar, by torch.save
        return f"a tar archive, damaged or cut off: {_AGAIN}"
    if {"storages", "tensors", "pickle"} <= set(names):
        return (
            "a checkpoint of PyTorch before 0.1.10, a tar archive; in today's PyTorch, "
            f'model = torch.load("{path.name}"), then torch.save(model, "weights.pth")'
        )
    return f"a tar archive of {_listed(names)}: unpack it (tar xf) and import the file of weights"


def _folder(path: Path) -> str:
    """Say what a folder is, and which files in it may be weights."""
    names = sorted(entry.name for entry in os.scandir(path))
    weights = [name for name in names if Path(name).suffix.lower() in _WEIGHTS]
    if "saved_model.pb" in names:
        return f"a folder, a SavedModel of TensorFlow, which is not read: {_NOT_FROM_HERE}"
    if "data.pkl" in names:
        return "a folder, an unpacked PyTorch checkpoint: give the file that it came from"
    if weights:
        return f"a folder: name the file in it, such as {_listed(weights)}"
    return "a folder: name the file of weights"


def is_onnx(path: Path) -> bool:
    """Tell whether a file is an ONNX model, or is named as one and is nothing else.

    Raises:
        OSError: the file cannot be read.
    """
    found = describe_format(path)
    if found is None and path.suffix.lower() == ".onnx":
        return not is_torch_or_safetensors(path)
    return found == _ONNX


def _onnx(head: bytes) -> str | None:
    """Recognise an ONNX model: its field 1 is a small number, and text fields follow."""
    if (
        len(head) > 3
        and head[0] == 0x08
        and 0 < head[1] < 32
        and head[2] in b"\x12\x1a\x22\x3a\x42"
    ):
        return _ONNX
    return None


_ONNX = (
    "an ONNX model: tf_sphereface-import makes a Keras model of it (--arch onnx), and the other "
    "commands take it as it is"
)


def _text(head: bytes) -> str | None:
    """Say what a file of text is; None for other files, and for a pickle of protocol 0."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode("latin1").lstrip()
    start = text[:600].lower()
    if re.match(r"<(!doctype html|html|head|body|script|title|!--)", start) or (
        start.startswith("<") and "<html" in start
    ):
        return (
            "a web page (HTML), such as a page to sign in or to confirm: open its address in a "
            "browser, download the file itself"
        )
    if text.startswith(("version https://git-lfs", "version https://hawser")):
        return (
            "a pointer of Git LFS in place of the file: run `git lfs pull` in its repository, or "
            "download the file by its page's button"
        )
    if text.startswith("/annex/objects/"):
        return "a pointer of git-annex in place of the file: run `git annex get` in its repository"
    if any(chr(byte) not in string.printable for byte in head if byte < 128) or _binary(head):
        return None
    if re.match(r"L\d+L?\n\.", text):
        return None
    if start.startswith("<"):
        return f"XML, such as a server's error message: look into it, then {_AGAIN}"
    if re.match(r'(#.*\s+)*(name\s*:\s*"|layers?\s*\{|input\s*:\s*")', text):
        return _CAFFE_TEXT
    if text.startswith("{") and '"weight_map"' in text:
        return "an index of several safetensors files: import one of those"
    first = " ".join(text.split())[:60]
    if len(first) < 8 and len(head) < _READ:
        return f"a few bytes of text, {first!r}: {_AGAIN}"
    return f"text, which begins {first!r}: look into it, then {_AGAIN}"


def _binary(head: bytes) -> bool:
    """Tell whether bytes are no UTF-8 text; a character may be cut at their end."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) < _READ or error.start < _READ - 3
    return False


def _listed(names: Sequence[str]) -> str:
    return and_more([name[:80] for name in names], 3) or "nothing"
