"""Models on the Hugging Face Hub: their names, and what is fetched of a repository."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tf_sphereface.backbones.remembered_metadata import KERAS_MEMBER
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.messages import and_more
from tf_sphereface.utils.optional import require

PREFIX = "hf://"
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?")
KERAS_FILES = ("config.json", "metadata.json", "model.weights.h5")  # what Keras' own upload has
SUFFIXES = (".keras", ".tflite", ".onnx")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy")
_TOKEN = re.compile(r"hf_\w{4,}|(?<=Bearer )\S+|(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


@dataclasses.dataclass(frozen=True)
class HubName:
    """A place on the Hub: `hf://owner/name`, `hf://owner/name@revision`, and `/FILE` behind it."""

    repository: str
    revision: str | None = None
    file: str | None = None


def is_hub_name(model: object) -> bool:
    """Tell whether a model is named by its place on the Hub."""
    return isinstance(model, str) and model.startswith(PREFIX)


def parse_name(name: str) -> HubName:
    """Take a name of the Hub apart.

    Raises:
        ValueError: it is none.

    Example:

    >>> parse_name("hf://anna/faces@v2/small.tflite")
    HubName(repository='anna/faces', revision='v2', file='small.tflite')
    """
    found = _NAME.fullmatch(name)
    if found is None or any(set(part) <= {"."} for part in found[0][len(PREFIX) :].split("/")):
        expected = "be hf://owner/name, with @revision or /FILE behind it if need be"
        raise error("name", expected, without_tokens(name))
    return HubName(found[1], found[2], found[3])


@contextmanager
def fetched(name: str) -> Iterator[tuple[Path, bool]]:
    """Fetch a model, and nothing else of its repository; yield its path and whether it stays there.

    Weights in the layout of Keras' own `hf://` come first, as a `.keras` file that is removed at
    the end; without them there must be one `.keras`, `.tflite` or `.onnx` file, or the name says
    which. What was fetched stays in the library's cache.

    Raises:
        OSError: the repository, or the network, cannot be reached.
        ValueError: the repository holds no model, or several, or pickles alone.
        ImportError: the `hub` extra is not installed.
    """
    place = parse_name(name)
    library = require("huggingface_hub", extra="hub")
    api = library.HfApi()
    info = call_hub(name, api.model_info, place.repository, revision=place.revision)
    chosen = _choose(place, [entry.rfilename for entry in info.siblings or ()])
    paths = [
        Path(call_hub(name, api.hf_hub_download, place.repository, file, revision=info.sha))
        for file in chosen
    ]
    if chosen[0] != KERAS_FILES[0]:
        yield paths[0], True
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{place.repository.split('/')[1]}.keras"
        with zipfile.ZipFile(path, "w") as archive:
            for file, source in zip(chosen, paths, strict=True):
                archive.write(source, file)
        yield path, False


def without_tokens(text: str) -> str:
    """Return a text with every access token left out.

    Example:

    >>> without_tokens("Bearer abc of anna, hf_AbCdEf123")
    'Bearer *** of anna, ***'
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        token = os.environ.get(name, "").strip()
        if token:
            text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


def call_hub(name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of the library; its error becomes one that names the repository.

    Raises:
        OSError: the function failed. The error holds no token, and has no other error behind it.
    """
    try:
        return function(*args, **options)
    except Exception as caught:  # the library raises many kinds
        reason = without_tokens(f"{type(caught).__name__}: {caught}").strip()
    # Outside the handler: the error as it came, with its token, is not even its context.
    raise OSError(f"{without_tokens(name)} cannot be used: {reason}")


def _choose(place: HubName, files: list[str]) -> list[str]:
    """Return the files to fetch, the model's own first; refuse what is not one model."""
    name = f"{PREFIX}{place.repository}"
    if place.file is not None:
        _check_file(place.file, files, name)
        return _with_data(place.file, files)
    if {"config.json", "model.weights.h5"} <= set(files):
        return [file for file in (*KERAS_FILES, KERAS_MEMBER) if file in files]
    models = sorted(file for file in files if file.lower().endswith(SUFFIXES))
    if len(models) == 1:
        return _with_data(models[0], files)
    if models:
        raise ValueError(
            f"{name} holds several models: {and_more(models, 8)}. Name one: {name}/{models[0]}"
        )
    pickles = [file for file in files if file.lower().endswith(_PICKLES)]
    if pickles:
        raise ValueError(
            f"{name} holds no model that can be opened safely: {and_more(pickles, 4)} may be "
            "pickles, which run code when they are read, and are not fetched. Weights that you "
            "trust can be fetched by hand and read without that: tf_sphereface-import FILE"
        )
    raise ValueError(
        f"{name} holds no .keras, .tflite or .onnx file, and no weights as Keras saves them. "
        f"Received: {and_more(files, 8) or 'an empty repository'}"
    )


def _check_file(file: str, files: list[str], name: str) -> None:
    """Refuse a file that is not there, or is no model."""
    if file.lower().endswith(_PICKLES):
        raise ValueError(
            f"{name}/{file} may be a pickle, which runs code when it is read: it is not fetched. "
            "Weights that you trust can be fetched by hand: tf_sphereface-import FILE"
        )
    if not file.lower().endswith(SUFFIXES) or file not in files:
        models = sorted(f for f in files if f.lower().endswith(SUFFIXES))
        raise ValueError(
            f"{name} has no model named {file}. It has: {and_more(models, 8) or 'none'}"
        )


def _with_data(file: str, files: list[str]) -> list[str]:
    """Return an ONNX file with its weights, where they lie beside it."""
    if not file.lower().endswith(".onnx"):
        return [file]
    beside = (f"{file}.data", f"{file}_data")
    return [file, *(other for other in beside if other in files)]
