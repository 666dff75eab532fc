"""A packed folder: TFRecord shards, and an index that finds any image in them by its position.

    manifest.json                      what is here: counts, checksums, the format's version
    classes.tsv                        a line per identity, in the order of labels: images, name
    files.txt                          a line per image: its path inside the packed folder
    index.npy                          an `INDEX` row per image, in the order of files.txt
    faces-00000-of-00016.tfrecord ...  `tf.train.Example` with image, label, name, file

Images are numbered as the sorted folder lists them, whatever the order in the shards: a packed
folder gives the batches that the folder itself would.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FORMAT, VERSION = "tf_sphereface-pack", 1
MANIFEST, CLASSES, FILES, INDEX_FILE = "manifest.json", "classes.tsv", "files.txt", "index.npy"
PARTIAL = "partial"  # the folder of what is needed only while packing

# 14 bytes per image. The offset is that of the encoded image inside the record, the checksum its
# zlib.crc32: TFRecord's own covers the record's frame too, and needs the whole record.
INDEX = np.dtype([("shard", "<u2"), ("offset", "<u4"), ("length", "<u4"), ("crc", "<u4")])

_KEYS = ("images", "classes", "image_size", "plan", "skipped", "files", "shards")


def is_pack(path: Any) -> bool:
    """Tell whether a path is a packed folder, finished or not, rather than a folder of faces.

    Example:

    >>> is_pack("no/such/folder")
    False
    """
    if not isinstance(path, (str, os.PathLike)):
        return False
    manifest = Path(path, MANIFEST)
    if not manifest.is_file():
        return Path(path, PARTIAL, "plan.json").is_file()
    with manifest.open("rb") as handle:  # some other program's, unless it begins with our name
        return FORMAT.encode() in handle.read(200)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of a packed folder that is complete and of this version."""
    root = Path(path)
    file = root / MANIFEST
    if not file.is_file():
        if (root / PARTIAL).is_dir():
            raise FileNotFoundError(
                f"{root} is not packed to the end: run the same tf_sphereface-data pack again"
            )
        raise FileNotFoundError(f"path must be a packed folder, with {MANIFEST}. Received: {root}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{file} does not describe a packed folder")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{file}: format version {VERSION} is expected. Received: {manifest.get('version')!r}. "
            "Pack the folder again with this version of tf_sphereface"
        )
    lacking = [key for key in _KEYS if key not in manifest]
    if lacking:
        raise ValueError(f"{file} is damaged: {', '.join(lacking)} missing")
    return manifest
