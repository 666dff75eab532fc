"""Pictures to embed: a folder of any depth, one file, a pack or a RecordIO file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.images import decode_image, read_photo
from tf_sphereface.alignment.listing import find_images
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.data.exclusions import image_names
from tf_sphereface.data.pack.format import is_pack
from tf_sphereface.data.pack.reading import Pack, open_pack
from tf_sphereface.data.recordio.reading import RecordFile, is_rec, open_rec


class FaceImages:
    """The pictures of a source, by their place in its list; several threads may read at a time.

    Attributes:
        source: the folder or file.
        names: the pictures: paths relative to a folder, or `IDENTITY/FILE` and `IDENTITY/RECORD`.
        passed_over: files of a folder that are no pictures.

    Args:
        source: the folder or file.
        names: files of the folder that are known already; it is not listed then.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it holds no pictures.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> images = FaceImages(synthetic.write_folder(tempfile.mkdtemp(), 1, 2))
    >>> images.names[0], images.read(0).shape
    ('Person_000000/Person_000000_0001.jpg', (112, 96, 3))
    """

    def __init__(self, source: str | os.PathLike[str], names: Sequence[str] | None = None) -> None:
        self.source = Path(source)
        self.passed_over = PassedOver()
        self._records: Pack | RecordFile | None = None
        self._root = self.source
        if not self.source.exists():
            raise FileNotFoundError(f"source must exist. Received: {source}")
        if names is not None:
            self.names = list(names)
            return
        if is_rec(source):
            self._records = open_rec(source, errors="report")
        elif is_pack(source):
            self._records = open_pack(source)
        if self._records is not None:
            self.names = image_names(self._records)
        elif self.source.is_file():
            self._root, self.names = self.source.parent, [self.source.name]
        else:
            self.names = find_images(self.source, passed_over=self.passed_over)
        if not self.names:
            told = self.passed_over.summary()
            raise ValueError(f"{source} holds no pictures" + (f"; {told}" if told else ""))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, position: int) -> Path | None:
        """Return a picture's file; None in a pack or RecordIO file."""
        return None if self._records is not None else self._root / self.names[position]

    def read(self, position: int) -> NDArray[np.uint8]:
        """Return a picture, uint8 RGB (height, width, 3); ValueError or OSError: it is damaged."""
        if self._records is None:
            return read_photo(self._root / self.names[position])
        content = self._records.read(np.array([position]))[0]
        return decode_image(content, self.names[position])

    def fingerprint(self, positions: range) -> str:
        """Return 64 hexadecimal digits that change when one of these pictures does."""
        facts: list[object] = [str(self.source.resolve())]
        if isinstance(self._records, RecordFile):
            facts.append(self._records.fingerprint)
        elif self._records is not None:
            facts.append(self._records.manifest)
        for position in positions:
            path = self.path(position)
            facts.append(self.names[position])
            if path is not None:
                try:
                    stat = path.stat()
                    facts.append([stat.st_size, stat.st_mtime_ns])
                except OSError:
                    facts.append(None)
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
