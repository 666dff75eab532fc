"""RecordIO files: every image at its label, whatever is wrong with the rest."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.comparing import SIZE, assert_equal, batches
from tests.data.rec_files import (
    MARK,
    content,
    decoded,
    encode,
    frame,
    insightface,
    picture,
    pixels,
    reasons,
    split,
    write,
)
from tf_sphereface import data
from tf_sphereface.data.recordio import scan_cache

# ----- forms


def test_insightface_form(rec: Path) -> None:
    records, said = reasons(rec)
    assert said == {}
    assert (len(records), records.num_classes) == (8, 3)
    assert records.labels.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert records.labels.dtype == np.int32
    assert records.image_size == SIZE
    for key, image in enumerate(decoded(records), start=1):
        np.testing.assert_array_equal(image, pixels(key))
    assert records.image_names(np.array([0, 7])) == ["0/00000001", "2/00000008"]
    assert data.check_rec(rec).ok


def test_what_is_passed_over_beside_a_file_is_said(rec: Path) -> None:
    rec.with_name("val.rec").write_bytes(rec.read_bytes())
    with pytest.warns(UserWarning, match=r"taking train\.rec, not val\.rec beside it"):
        assert len(data.open_rec(rec.parent)) == 8
    rec.with_name("property").write_text("3 people")
    (note,) = data.check_rec(rec).notes  # named, so without a warning
    assert "must say classes,height,width" in note


@pytest.mark.parametrize("idx", [True, False])
def test_the_idx_is_not_needed(rec: Path, idx: bool) -> None:
    """Offsets come from the file, so that the batches are the same with and without."""
    settings = {"image_size": SIZE, "batch_size": 3, "seed": 5}
    expected = batches(data.face_dataset(rec, **settings))
    if not idx:
        rec.with_suffix(".idx").unlink()
    assert_equal(batches(data.face_dataset(rec.parent, **settings)), expected)


def test_im2rec_form_without_record_0(tmp_path: Path) -> None:
    """A single float label, flag 1 with one, flag 3 with three: the first is the person."""
    labels: list[object] = [1.0, (0.0,), (1.0, 7.0, 9.0)]
    path = tmp_path / "any.rec"
    write(path, [frame(content(label, picture(i))) for i, label in enumerate(labels)])
    records, said = reasons(tmp_path)  # the folder's only .rec
    assert said == {}
    assert records.labels.tolist() == [1, 0, 1]
    for i, image in enumerate(decoded(records)):
        np.testing.assert_array_equal(image, pixels(i))


@pytest.mark.parametrize("parts", [2, 4])
def test_split_records(tmp_path: Path, parts: int) -> None:
    """A PNG with the magic in a text chunk, at multiples of 4 bytes."""
    png = picture(1)
    text = bytearray(b"tEXtcomment\0")
    while (24 + 33 + 8 + len(text) - 4) % 4:
        text += b"."
    text += (MARK + b"between-") * (parts - 1)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", _crc(bytes(text)))
    image = png[:33] + chunk + png[33:]
    payload = content(3.0, image)
    assert payload.count(MARK) == parts - 1
    path = tmp_path / "a.rec"
    first = frame(content(0.0, picture(0)))
    write(path, [first, split(payload, parts), frame(content(1.0, picture(2)))])
    records, said = reasons(path)
    assert said == {}
    assert records.read(np.array([1]))[0] == image
    np.testing.assert_array_equal(decoded(records)[1], pixels(1))
    written = data.write_rec(records, tmp_path / "out")  # and our writer splits it again
    assert written.images == 3
    assert sorted(data.open_rec(written.path).read(np.arange(3)), key=len)[-1] == image


def _crc(chunk: bytes) -> int:
    import zlib

    return zlib.crc32(chunk)


def test_a_label_that_is_the_magic_is_split_too(tmp_path: Path) -> None:
    """The first part is then shorter than an image's header."""
    number = struct.unpack("<Q", MARK + b"\0\0\0\0")[0]
    payload = content(4.0, picture(1), key=number)
    path = tmp_path / "a.rec"
    write(path, [split(payload, 2), frame(content(4.0, picture(2)))])
    records, said = reasons(path)
    assert said == {}
    assert records.labels.tolist() == [0, 0]
    np.testing.assert_array_equal(decoded(records)[0], pixels(1))


def test_records_without_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    images = [picture(i) for i in range(4)]
    write(path, [frame(content(float(i), image), padded=False) for i, image in enumerate(images)])
    records, said = reasons(path)
    assert said == {}
    assert records.read(np.arange(4)).tolist() == images


# ----- labels


def test_gaps_in_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    labels = [5_000_000, 7, 7, 1_000_000, 5_000_000]
    write(path, [frame(content(float(label), picture(i))) for i, label in enumerate(labels)])
    records = data.open_rec(path)
    assert records.labels.tolist() == [2, 0, 0, 1, 2]
    assert records.names == ["0000007", "1000000", "5000000"]
    assert "the labels have gaps, from 7 to 5000000 for 3 people" in data.check_rec(path).notes[0]


@pytest.mark.parametrize("label", [float("nan"), -1.0, 2.5, float("inf"), 3e9])
def test_a_label_that_is_no_person(tmp_path: Path, label: float) -> None:
    path = tmp_path / "a.rec"
    write(path, [frame(content(value, picture(0))) for value in (0.0, label, 1.0)])
    records, said = reasons(path)
    assert records.labels.tolist() == [0, 1]
    ((name, why),) = said.items()
    assert name == f"a.rec, record 1 at offset {len(frame(content(0.0, picture(0))))}"
    assert "no person's number" in why


def test_labels_beyond_float32_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    write(path, [frame(content(float(label), picture(0))) for label in (0, 1 << 24)])
    assert "two people may have become one" in " ".join(data.check_rec(path).notes)


# ----- record 0 and ranges


def test_record_0_or_ranges_are_missing(tmp_path: Path) -> None:
    whole = insightface([2, 3])
    for name, kept in (("no0", whole[1:]), ("noranges", whole[:6]), ("neither", whole[1:6])):
        path = tmp_path / f"{name}.rec"
        write(path, kept)
        records, said = reasons(path)
        assert (len(records), said) == (5, {}), name
        assert records.labels.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("off", [-1, 1])
def test_counts_that_are_off_by_one(tmp_path: Path, off: int) -> None:
    """As float32 rounds from 16,777,216 on, and as some writers count."""
    records = insightface([2, 3])
    records[0] = frame(content((6.0 + off, 8.0 + off), b""))
    path = tmp_path / "a.rec"
    write(path, records)
    assert data.check_rec(path).ok
    assert len(data.open_rec(path)) == 5


@pytest.mark.parametrize("count", [float("inf"), float("nan"), -5.0])
def test_a_count_that_is_none_is_not_held_against_the_file(tmp_path: Path, count: float) -> None:
    records = insightface([2, 3])
    records[0] = frame(content((count, 8.0), b""))
    write(tmp_path / "a.rec", records)
    assert len(data.open_rec(tmp_path / "a.rec")) == 5


def test_a_download_that_ends_between_two_records(rec: Path) -> None:
    records = insightface([3, 1, 4])
    places = write(rec, records[:5])
    opened, said = reasons(rec)
    assert len(opened) == 4
    assert said[f"train.rec, record 5 at offset {rec.stat().st_size}"] == (
        "record 0 counts 8 images, 4 are there: the file is cut off"
    )
    assert f"lie behind the end of train.rec, {rec.stat().st_size:,}" in said["train.idx"]
    assert len(places) == 5
    with pytest.raises(ValueError, match="record 0 counts 8 images, 4 are there"):
        data.open_rec(rec)


# ----- pictures


def test_pictures_of_every_kind_are_read_as_files_are(tmp_path: Path) -> None:
    rgb = pixels(3)
    gray = cv2.imencode(".png", rgb[..., 0])[1].tobytes()
    alpha = cv2.imencode(".png", np.dstack([rgb[..., ::-1], np.full(SIZE, 9, np.uint8)]))[1]
    jpeg = encode(rgb, ".jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    images = [gray, alpha.tobytes(), jpeg, turned, encode(rgb, ".webp"), encode(rgb, ".bmp")]
    path = tmp_path / "a.rec"
    write(path, [frame(content(0.0, image)) for image in images])
    faces = decoded(data.open_rec(path, errors="skip"))
    for place, image in enumerate(images):
        file = tmp_path / f"{place}.img"
        file.write_bytes(image)
        np.testing.assert_array_equal(faces[place], data.read_image(file))
    np.testing.assert_array_equal(faces[3], faces[2][::-1, ::-1])
    np.testing.assert_array_equal(faces[0], np.repeat(rgb[..., :1], 3, axis=2))
    np.testing.assert_array_equal(faces[1], rgb)


def test_pictures_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    write(path, [frame(content(float(i), picture(i, (112, 112)))) for i in range(4)])
    for strict in (False, True):
        with pytest.raises(ValueError, match=r"112x112 pixels, expected 112x96.*--input-size"):
            data.face_dataset(path, batch_size=2, strict=strict)
    shapes = data.face_dataset(path, batch_size=2, image_size=(112, 112)).element_spec[0].shape
    assert shapes == (2, 112, 112, 3)
    resized = next(iter(data.face_dataset(path, batch_size=2, image_size=(28, 24), resize=True)))
    assert resized[0].shape == (2, 28, 24, 3)
    write(path, [frame(content(0.0, picture(i, (56 + i, 48)))) for i in range(2)])
    with pytest.raises(ValueError, match="holds images of 56x48, 57x48 pixels"):
        data.face_dataset(path, batch_size=2, image_size=SIZE)


def test_batches_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    result = data.write_rec(folder, tmp_path / "out" / "ours.rec")
    assert (result.images, result.people, len(result.skipped)) == (39, 5, 1)
    settings = {
        "image_size": SIZE, "batch_size": 12, "augment": "strong", "seed": 7, "repeat": True,
    }  # fmt: skip
    expected = batches(data.face_dataset(folder, **settings).take(7))
    records = data.open_rec(result.path)
    assert_equal(batches(data.face_dataset(records, **settings).take(7)), expected)
    later = data.face_dataset(records, start_step=4, **settings).take(3)
    assert_equal(batches(later), expected[4:])
    images, labels = data.batch_at(
        records, 5, image_size=SIZE, batch_size=12, augment="strong", seed=7
    )
    assert_equal([(images, labels)], expected[5:6])
    parts = [
        batches(data.face_dataset(records, shard_index=i, num_shards=3, **settings).take(7))
        for i in range(3)
    ]
    joined = [
        tuple(np.concatenate(pair) for pair in zip(*step, strict=True))
        for step in zip(*parts, strict=True)
    ]
    assert_equal(joined, expected)
    packed = data.pack_folder(result.path, tmp_path / "packed", shards=2)
    assert packed.images == 39
    assert_equal(batches(data.face_dataset(packed.path, **settings).take(7)), expected)
    extracted = data.extract_rec(result.path, tmp_path / "extracted")
    assert (extracted.images, extracted.people, extracted.kept) == (39, 5, 0)
    assert_equal(batches(data.face_dataset(extracted.path, **settings).take(7)), expected)


def test_face_source(rec: Path) -> None:
    source = data.FaceSource(str(rec), image_size=SIZE, batch_size=4)
    assert source.count() == (8, 3)
    assert source.describe() == "train.rec: 8 faces of 3 people"
    assert source.names == ["0", "1", "2"]
    assert source.counts().tolist() == [3, 1, 4]
    places = write(rec, insightface([3, 1, 4]))
    assert source.names_of(np.array([7, 0])) == [
        f"2/00000008, record 8 at offset {places[8]}",
        f"0/00000001, record 1 at offset {places[1]}",
    ]
    left_out = data.Exclusions(frozenset({"0"}), frozenset({"2/00000006"}))
    fewer = data.FaceSource(str(rec), image_size=SIZE, batch_size=2, exclude=left_out)
    assert (len(fewer), fewer.names) == (4, ["1", "2"])
    _, labels = fewer.batch_at(0)
    assert set(labels.tolist()) <= {0, 1}
    assert fewer.names_of(np.array([1]))[0].startswith("2/00000005, record 5 ")
    with pytest.raises(ValueError, match="the exclusions must be in"):
        data.leave_out(data.open_rec(rec), data.Exclusions(frozenset({"9"}), frozenset()))


def test_audit_reads_a_rec(rec: Path) -> None:
    faces = data.read_face_set(rec)
    assert faces.files[0] == "0/00000001"
    assert len(faces.files) == 8


# ----- what is kept


def test_the_scan_is_kept_until_the_file_changes(
    rec: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    data.open_rec(rec, errors="skip", progress=lambda *done: calls.append(done))
    assert calls[0][1] == rec.stat().st_size
    assert calls[-1] == (8, 8)
    calls.clear()
    again = data.open_rec(rec, errors="skip", progress=lambda *done: calls.append(done))
    assert calls == []
    assert again.image_size == SIZE
    kept = rec.with_name("train.rec.scan.npz")
    kept.write_bytes(kept.read_bytes()[:-200])  # damaged: it is made again
    assert len(data.open_rec(rec)) == 8
    write(rec, insightface([2, 2]))
    assert len(data.open_rec(rec)) == 4
    stat = rec.stat()
    records = insightface([2, 2])
    records[1] = frame(content((1.0, 0.0), picture(1)))
    write(rec, records)  # same size and time, another first record
    os.utime(rec, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data.open_rec(rec).labels.tolist() == [1, 0, 1, 1]
    assert not list(cache.rglob("*.npz"))


def test_where_the_folder_may_not_be_written(rec: Path, cache: Path) -> None:
    rec.with_name("train.rec.scan.npz").mkdir()  # also for root, who may write everywhere
    data.open_rec(rec)
    assert len(list(cache.rglob("*.npz"))) == 1
    assert scan_cache.load_scan(rec) is not None
    calls: list[object] = []
    data.open_rec(rec, progress=lambda *done: calls.append(done))
    assert calls == []


def test_memory_per_image(tmp_path: Path) -> None:
    """What stays in memory: 16 bytes for each image, and 4 where some are left out."""
    path = tmp_path / "a.rec"
    write(path, [frame(content(float(i % 7), b"x" * 9)) for i in range(20_000)])
    records = data.open_rec(path)
    arrays = [records.scan.images, records.scan.people, records.scan.others]
    assert sum(one.nbytes for one in arrays) < 16 * 20_000 + 1000
    assert records.labels.base is not None  # a view, no copy
    fewer = records.without(records.labels == 3)
    assert fewer.rows is not None
    assert fewer.rows.nbytes == 4 * len(fewer)
