"""RecordIO files that are written, and extracted into folders."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.data.rec_files import (
    picture,
)
from tf_sphereface import data

# ----- writing and extracting


def test_written_in_insightfaces_form(folder: Path, tmp_path: Path) -> None:
    """Read back by `struct` as insightface's loader does it: by .idx and record 0."""
    result = data.write_rec(folder, tmp_path / "out")
    raw = result.path.read_bytes()
    lines = result.path.with_suffix(".idx").read_text().splitlines()
    index = {int(k): int(p) for k, p in (line.split("\t") for line in lines)}

    def record(key: int) -> tuple[tuple[float, ...], bytes]:
        magic, length = struct.unpack_from("<II", raw, index[key])
        assert magic == 0xCED7230A
        payload = raw[index[key] + 8 : index[key] + 8 + length]
        flag, label = struct.unpack_from("<If", payload)
        labels = struct.unpack_from(f"<{flag}f", payload, 24) if flag else (label,)
        return labels, payload[24 + 4 * flag :]

    (end, last), _ = record(0)
    assert (end, last) == (40.0, 45.0)
    files = [line.split("\t") for line in result.path.with_suffix(".lst").read_text().splitlines()]
    assert len(files) == 39
    for key, label, name in files:
        labels, image = record(int(key))
        assert labels == (float(label),)
        assert image == (folder / name).read_bytes()
    of_people = [record(key)[0] for key in range(40, 45)]
    assert of_people[0] == (1.0, 9.0)
    assert of_people[1] == (9.0, 16.0)
    assert result.path.with_name("property").read_text().strip() == "5,56,48"
    with pytest.raises(ValueError, match="there already"):
        data.write_rec(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="a folder of its own"):
        data.write_rec(folder, tmp_path / "out" / "other.rec")
    (tmp_path / "mine.lst").write_text("somebody's list")
    with pytest.raises(ValueError, match=r"mine\.lst is there already"):
        data.write_rec(folder, tmp_path / "mine.rec")
    with pytest.raises(ValueError, match="cannot be decoded: truncated or not an image"):
        data.write_rec(folder, tmp_path / "strict", strict=True)
    assert not list((tmp_path / "strict").iterdir())  # nothing is left half-written


def test_a_pack_becomes_a_rec(folder: Path, tmp_path: Path) -> None:
    packed = data.pack_folder(folder, tmp_path / "packed").path
    one, two = data.write_rec(packed, tmp_path / "one"), data.write_rec(folder, tmp_path / "two")
    assert one.path.read_bytes() == two.path.read_bytes()


def test_what_is_lost_of_a_source_is_told(rec: Path, folder: Path, tmp_path: Path) -> None:
    """Records that nobody can read are in no list of the copy: it would look whole."""
    packed = data.pack_folder(folder, tmp_path / "packed", shards=2).path
    for path in (rec, sorted(packed.glob("*.tfrecord"))[0]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for number, source in enumerate((rec, packed)):
        result = data.write_rec(source, tmp_path / f"out{number}")
        found = data.read_face_set(source)
        assert 0 < result.images == len(found.files) < 39
        assert result.skipped.keys() == found.unread.keys() != set()
        with pytest.raises(ValueError, match=r"cut off|damaged|bytes"):
            data.read_face_set(source, strict=True)
        with pytest.raises(ValueError, match=r"cut off|damaged|bytes"):
            data.write_rec(source, tmp_path / "strict", strict=True)


def test_extracting_goes_on_and_refuses_other_folders(rec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop = RuntimeError("stopped")

    def fail(done: int, total: int) -> None:
        if total == 8 and (out / "2").is_dir() and list(out.glob("2/*.png")):
            raise stop

    with pytest.raises(RuntimeError):
        data.extract_rec(rec, out, progress=fail)
    next(out.glob("0/*.png")).unlink()
    result = data.extract_rec(rec, out)
    assert (result.images, result.kept) == (8, 7)
    assert sorted(path.name for path in out.iterdir()) == ["0", "1", "2"]
    assert (out / "1" / "00000004.png").read_bytes() == picture(4)
    with pytest.raises(ValueError, match="target must be empty"):
        data.extract_rec(rec, out)
