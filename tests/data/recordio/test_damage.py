"""RecordIO files that are cut off, damaged, or beside an index that does not fit."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.data.comparing import SIZE
from tests.data.rec_files import (
    MARK,
    content,
    decoded,
    frame,
    insightface,
    picture,
    pixels,
    reasons,
    write,
)
from tf_sphereface import data

# ----- damage


def test_a_download_that_ends_within_a_record(rec: Path) -> None:
    places = write(rec, insightface([3, 1, 4]))
    rec.write_bytes(rec.read_bytes()[: places[6] + 100])
    records, said = reasons(rec)
    assert len(records) == 5
    why = said[f"train.rec, record 6 at offset {places[6]}"]
    assert why.startswith("the file ends after 100 of its ")
    with pytest.raises(ValueError, match=f"record 6 at offset {places[6]}: the file ends after"):
        data.open_rec(rec)
    assert not data.check_rec(rec).ok


@pytest.mark.parametrize("first", [0, 60, 3000])
def test_overwritten_bytes_cost_the_records_they_lie_in(tmp_path: Path, first: int) -> None:
    """Frames are found again behind them; the others keep image and label."""
    count = 12
    path = tmp_path / "a.rec"
    places = write(path, [frame(content(float(i), picture(i))) for i in range(count)])
    spoilt = bytearray(path.read_bytes())
    spoilt[first : first + 700] = np.random.default_rng(first).bytes(700)
    path.write_bytes(spoilt)
    ends = [*places[1:], len(spoilt)]
    hurt = {i for i in range(count) if places[i] < first + 700 and ends[i] > first}
    records, said = reasons(path)
    labels = [int(records.names[label]) for label in records.labels]
    kept = dict(zip(labels, decoded(records), strict=True))
    assert set(kept) >= set(range(count)) - hurt
    for label in set(kept) - hurt:  # a PNG whose body changed may still be decoded
        np.testing.assert_array_equal(kept[label], pixels(label))
    frames = {i for i in hurt if first <= places[i] < first + 700}
    assert not frames & set(kept)
    assert said


@pytest.mark.parametrize("change", [-64, 64, 1 << 20, -1])
def test_a_wrong_length_costs_one_record(tmp_path: Path, change: int) -> None:
    path = tmp_path / "a.rec"
    places = write(path, [frame(content(float(i), picture(i))) for i in range(5)])
    spoilt = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<I", spoilt, places[2] + 4)
    struct.pack_into("<I", spoilt, places[2] + 4, length + change)
    path.write_bytes(spoilt)
    records, said = reasons(path)
    assert [name for name in records.names if name != "2"] == ["0", "1", "3", "4"]
    assert said


def test_missing_and_inserted_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    places = write(path, [frame(content(float(i), picture(i))) for i in range(5)])
    whole = path.read_bytes()
    path.write_bytes(whole[: places[1] + 50] + whole[places[1] + 81 :])
    records, said = reasons(path)
    assert records.names == ["0", "2", "3", "4"]
    assert "it lacks" in said[f"a.rec, record 1 at offset {places[1]}"]
    path.write_bytes(whole[: places[3]] + b"some rubbish in between" + whole[places[3] :])
    records, said = reasons(path)
    assert records.names == ["0", "1", "2", "3", "4"]
    assert "no record begins here" in said[f"a.rec, record 3 at offset {places[3]}"]


def test_images_that_cannot_be_decoded(rec: Path) -> None:
    records = insightface([3, 1, 4])
    jpeg = picture(9, suffix=".jpg")
    broken = {
        2: jpeg[: len(jpeg) // 2],
        4: b"no image",
        5: b"\xff\xd8" + bytes(400) + b"\xff\xd9",
    }
    for number, image in broken.items():
        records[number] = frame(content(1.0 if number == 4 else 0.0, image))
    places = write(rec, records)
    report = data.SkipReport()
    dataset = data.face_dataset(rec, image_size=SIZE, batch_size=5, shuffle=False, report=report)
    assert len(list(dataset)) == 1
    names = {path.name: why for path, why in report.reasons.items() if "record" in path.name}
    assert set(names) == {f"train.rec, record {n} at offset {places[n]}" for n in broken}
    assert names[f"train.rec, record 2 at offset {places[2]}"] == "truncated or corrupt JPEG"
    opened = data.open_rec(rec, errors="skip")
    assert (len(opened), opened.num_classes) == (5, 3)  # labels never move
    assert opened.labels.tolist() == [0, 0, 2, 2, 2]


def test_strict_names_the_record_that_cannot_be_decoded(rec: Path) -> None:
    records = insightface([3, 1, 4])
    records[2] = frame(content(0.0, b"\xff\xd8 no picture"))
    places = write(rec, records)
    strict = data.face_dataset(rec, image_size=SIZE, batch_size=8, strict=True)
    with pytest.raises(Exception, match=f"record 2 at offset {places[2]} is damaged: truncated"):
        list(strict)
    assert not data.check_rec(rec).ok
    with pytest.raises(ValueError, match=f"record 2 at offset {places[2]}: truncated"):
        data.open_rec(rec)  # known by now


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        (b"", "is empty: the download failed"),
        (b"\n<!DOCTYPE html><html>quota</html>", "a web page, not the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"nothing of the kind" * 100, "no RecordIO file of faces"),
        (MARK, "no RecordIO file of faces"),
        (bytes(5000), "no RecordIO file of faces"),
    ],
)
def test_something_else_in_its_place(tmp_path: Path, beginning: bytes, message: str) -> None:
    path = tmp_path / "train.rec"
    path.write_bytes(beginning)
    with pytest.raises(ValueError, match=message) as raised:
        data.face_dataset(tmp_path)
    assert str(path) in str(raised.value)
    with pytest.raises(FileNotFoundError):
        data.open_rec(tmp_path / "missing.rec")


# ----- the .idx


def test_idx_files_that_fit(rec: Path) -> None:
    places = write(rec, insightface([3, 1, 4]))
    idx, order = rec.with_suffix(".idx"), np.random.default_rng(0).permutation(len(places))
    forms = {
        "unsorted": "".join(f"{k}\t{places[k]}\n" for k in order),
        "CRLF": "".join(f"{k}\t{p}\r\n" for k, p in enumerate(places)),
        "float keys": "".join(f"{k}.0\t{p}\n" for k, p in enumerate(places)),
        "gaps in keys": "".join(f"{3 * k}\t{p}\n" for k, p in enumerate(places)),
        "blanks, no last line break": "\n".join(f"{k} {p}" for k, p in enumerate(places)),
    }
    for name, text in forms.items():
        idx.write_bytes(text.encode())
        records, said = reasons(rec)
        assert (len(records), said) == (8, {}), name


def test_idx_files_that_do_not_fit_are_said_and_not_used(rec: Path) -> None:
    places = write(rec, insightface([3, 1, 4]))
    idx = rec.with_suffix(".idx")
    forms = {
        "it lists 6 of the 12 records; all are used": [(k, p) for k, p in enumerate(places[:6])],
        "it belongs to another file": [(k, 4 + 1000 * k) for k in range(9)],
        "1 of its 12 offsets are no record's (the first is line 3, offset": [
            (k, p + (k == 2) * 4) for k, p in enumerate(places)
        ],
        "2 of its 12 lines are no `key TAB offset`": [
            (k, "x" if k > 9 else p) for k, p in enumerate(places)
        ],
    }
    for expected, lines in forms.items():
        idx.write_text("".join(f"{k}\t{p}\n" for k, p in lines))
        records, said = reasons(rec)
        assert len(records) == 8
        assert expected in said["train.idx"]
        assert expected in data.check_rec(rec).files["train.idx"]
    idx.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS pointer" in reasons(rec)[1]["train.idx"]
    idx.write_bytes(b"")
    assert "empty" in reasons(rec)[1]["train.idx"]
