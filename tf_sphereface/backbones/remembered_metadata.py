"""The metadata of a network's file, remembered as long as the network is in memory.

They are kept beside the network's input, so that whatever is made of it on the same input has them
too: a classifier around it, a part of it, the network without its head.
"""

from __future__ import annotations

import json
import os
import weakref
import zipfile
import zlib
from typing import Any

import keras
import numpy as np

from tf_sphereface.utils.keras_private import maker_of

KERAS_MEMBER = "tf_sphereface.json"  # of a .keras file: the metadata, as JSON text

# input layer -> (JSON text of the metadata, checksum of the network that it was written for)
_REMEMBERED = weakref.WeakKeyDictionary[Any, tuple[str, int]]()


def metadata_text(path: str | os.PathLike[str]) -> str | None:
    """Return the metadata's JSON text in a `.keras` file, which is a zip archive; None without."""
    with zipfile.ZipFile(path) as archive:
        if KERAS_MEMBER not in archive.namelist():
            return None
        return archive.read(KERAS_MEMBER).decode("utf-8")


def remember(model: keras.Model, text: str) -> None:
    """Keep the metadata of a network with one input, for the network as it is now."""
    _REMEMBERED[maker_of(model.inputs[0])] = (text, _checksum(model))


def remember_input(model: keras.Model, channel_order: str, **facts: Any) -> None:
    """Keep with a network how it is fed: pixels as `(x - 127.5) / 128`, or as `facts` say."""
    known = {"channel_order": channel_order, "architecture": model.name, "assumed": ["template"]}
    remember(model, json.dumps({**known, "template": None, **facts}))


def recall(model: keras.Model, part: keras.Model | None = None) -> tuple[str, bool] | None:
    """Return a network's metadata, and whether it is still the network they were written for.

    Those of a network inside it are asked for by `part`. None where none are known.
    """
    known = _REMEMBERED.get(maker_of((part or model).inputs[0]))
    return None if known is None else (known[0], known[1] == _checksum(model))


def carry(source: keras.Model, target: keras.Model) -> None:
    """Give a copy of a network, on an input of its own, the metadata of the network."""
    known = recall(source)
    if known is not None:
        text, same = known
        _REMEMBERED[maker_of(target.inputs[0])] = (text, _checksum(target) if same else -1)


def _checksum(model: keras.Model) -> int:
    value = len(model.layers)
    for weight in model.weights:
        value = zlib.crc32(np.asarray(weight.numpy()).tobytes(), value)
    return value
