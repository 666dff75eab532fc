"""RecordIO files written by `struct` alone, independent of the package's own writer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.data.comparing import SIZE
from tf_sphereface import data

MAGIC = 0xCED7230A
MARK = struct.pack("<I", MAGIC)


def frame(payload: bytes, part: int = 0, *, padded: bool = True) -> bytes:
    """Return one frame."""
    padding = b"\0" * (-len(payload) % 4) if padded else b""
    return struct.pack("<II", MAGIC, (part << 29) | len(payload)) + payload + padding


def content(label: float | Sequence[float], image: bytes, key: int = 0) -> bytes:
    """Return the payload of a record: MXNet's image header, labels and image."""
    if isinstance(label, (int, float)):
        return struct.pack("<IfQQ", 0, label, key, 0) + image
    labels = struct.pack(f"<{len(label)}f", *label)
    return struct.pack("<IfQQ", len(label), 0.0, key, 0) + labels + image


def split(payload: bytes, parts: int) -> bytes:
    """Return a payload with `parts - 1` magics at multiples of 4 as the frames of its parts."""
    pieces, rest = [], payload
    for _ in range(parts - 1):
        cut = rest.index(MARK)
        assert cut % 4 == 0
        pieces.append(rest[:cut])
        rest = rest[cut + 4 :]
    pieces.append(rest)
    flags = [1, *[2] * (parts - 2), 3]
    return b"".join(frame(piece, flag) for piece, flag in zip(pieces, flags, strict=True))


def write(path: Path, records: Sequence[bytes]) -> list[int]:
    """Write framed records and return where each begins."""
    places, place = [], 0
    for record in records:
        places.append(place)
        place += len(record)
    path.write_bytes(b"".join(records))
    return places


def write_idx(path: Path, places: Sequence[int], keys: Sequence[object] | None = None) -> None:
    """Write an .idx."""
    names = range(len(places)) if keys is None else keys
    path.write_text("".join(f"{k}\t{p}\n" for k, p in zip(names, places, strict=True)))


def picture(seed: int, size: tuple[int, int] = (56, 48), suffix: str = ".png") -> bytes:
    """Return an encoded image that tells its seed: PNG is exact."""
    return encode(pixels(seed, size), suffix)


def pixels(seed: int, size: tuple[int, int] = (56, 48)) -> np.ndarray:
    """Return the RGB image that `picture` encodes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 6, 3), np.uint8)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    """Return an RGB image, encoded."""
    return cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def insightface(people: Sequence[int], suffix: str = ".png") -> list[bytes]:
    """Return the records of a set in insightface's form: `people[i]` images of person i."""
    count = sum(people)
    records = [frame(content((count + 1.0, count + 1.0 + len(people)), b""))]
    ranges, key = [], 1
    for label, images in enumerate(people):
        begin = key
        for _ in range(images):
            records.append(frame(content((float(label), 0.0), picture(key, suffix=suffix), key)))
            key += 1
        ranges.append(frame(content((float(begin), float(key)), b"")))
    return records + ranges


def decoded(records: data.RecordFile) -> list[np.ndarray]:
    encoded = records.read(np.arange(len(records)))
    return [records.face(data, place, SIZE, False) for place, data in enumerate(encoded)]


def reasons(path: Path) -> tuple[data.RecordFile, dict[str, str]]:
    """Open a file, leaving out what is damaged; return it and what was said."""
    report = data.SkipReport()
    records = data.open_rec(path, errors="skip", report=report)
    return records, {name.name: why for name, why in report.reasons.items()}
