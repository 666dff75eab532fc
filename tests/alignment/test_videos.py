"""Frames of a video that OpenCV has written."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from tf_sphereface.alignment.videos import count_frames, is_cut_off, read_frames


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Twelve frames; the gray value of frame k is 20 k, and red grows to the right."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(12):
        frame = np.full((48, 64, 3), 20 * number, np.uint8)
        frame[:, 32:] = (0, 0, 255)  # red, in OpenCV's order
        writer.write(frame)
    writer.release()
    return path


def test_every_fifth_frame(video):
    frames = list(read_frames(video, every=5))
    assert [number for number, _ in frames] == [0, 5, 10]
    assert count_frames(video, 5) == 3
    for number, frame in frames:
        assert frame.shape == (48, 64, 3)
        # Motion JPEG keeps flat colours to a few gray values
        np.testing.assert_allclose(frame[:, :24].mean(), 20 * number, atol=4)
        np.testing.assert_allclose(frame[:, 40:].mean(axis=(0, 1)), (255, 0, 0), atol=6)


def test_frames_that_are_not_wanted(video):
    assert [n for n, _ in read_frames(video, 3, wanted=lambda number: number != 6)] == [0, 3, 9]


def test_what_is_no_video(tmp_path, video):
    (tmp_path / "page.mp4").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.mp4: not a video"):
        list(read_frames(tmp_path / "page.mp4"))
    assert count_frames(tmp_path / "page.mp4") == 0
    with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
        list(read_frames(video, 0))


def test_a_video_that_is_cut_off_gives_its_frames_and_an_error(tmp_path, video):
    data = video.read_bytes()
    assert not is_cut_off(video)
    path = tmp_path / "half.avi"
    path.write_bytes(data[: (data.find(b"movi") + data.find(b"idx1")) // 2])
    assert is_cut_off(path)
    frames = read_frames(path)
    assert [next(frames)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"half\.avi: the video is cut off"):
        list(frames)


@pytest.mark.parametrize(
    ("suffix", "code"), [(".mp4", "mp4v"), (".mkv", "MJPG"), (".flv", "FLV1"), (".wmv", "WMV2")]
)
def test_containers_know_their_length(tmp_path, suffix, code):
    path = tmp_path / f"whole{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (64, 48))
    for number in range(12):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    if not path.is_file() or not path.stat().st_size:
        pytest.skip(f"this OpenCV writes no {suffix}")
    assert not is_cut_off(path)
    (tmp_path / f"cut{suffix}").write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert is_cut_off(tmp_path / f"cut{suffix}")


@pytest.mark.parametrize(("suffix", "code"), [(".mp4", "mp4v"), (".avi", "MJPG")])
def test_a_video_that_is_damaged_in_the_middle_gives_what_can_be_read_and_an_error(
    tmp_path, suffix, code
):
    path = tmp_path / f"hole{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(60):
        writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    assert len(list(read_frames(path))) == 60
    data, size = path.read_bytes(), path.stat().st_size
    path.write_bytes(data[: size // 3] + bytes(size // 3) + data[size // 3 * 2 :])
    assert not is_cut_off(path)
    frames = []
    with pytest.raises(ValueError, match=r"of its 60 frames could be read, and were taken: the"):
        frames.extend(read_frames(path))
    assert 5 <= len(frames) < 54


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_utf8(tmp_path, video):
    path = tmp_path / os.fsdecode(b"caf\xe9.avi")
    path.write_bytes(video.read_bytes())
    assert len(list(read_frames(path))) == count_frames(path) == 12


def test_a_length_that_was_never_filled_in_ends_the_search(tmp_path):
    path = tmp_path / "stopped.mp4"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\1mdat" + bytes(40))
    assert is_cut_off(path)
