"""Synthetic videos on disk, in the layout of the YouTube Faces archive."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tf_sphereface.data.options import Size
from tf_sphereface.data.synthetic.geometry import HEIGHT, WIDTH
from tf_sphereface.data.synthetic.identity import draw_identity
from tf_sphereface.data.synthetic.nuisance import draw_path
from tf_sphereface.data.synthetic.pairs import draw_pairs
from tf_sphereface.data.synthetic.render import UNSEEN, render, resized, write_jpeg
from tf_sphereface.utils.checks import check_integer, error
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.messages import ProgressCallback


def write_videos(
    root: str | os.PathLike[str],
    num_identities: int,
    clips: int = 2,
    frames: tuple[int, int] = (10, 30),
    *,
    step: int = 8,
    pairs_per_fold: int = 20,
    folds: int = 10,
    seed: int = 0,
    first_identity: int | None = None,
    size: Size | None = None,
    quality: int = 95,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write videos as `root/frames/person/video/video.frame.jpg`, and `root/splits.txt`.

    The layout is that of the YouTube Faces archive, the file that of its published protocol:
    `fold, number, person/video, person/video, 1 if the person is the same`. The folder, its names,
    `first_identity`, `size` (None is 112 x 96) and `quality` are as for `write_folder`; `seed`
    draws the lengths and the pairs too. `progress` is called with (videos written, videos in all).

    Each person has `clips` videos, and a video from `frames[0]` to `frames[1]` frames. Only every
    `step`-th frame of the motion is written, so that few frames show much of it (pose and light
    come round after 40 to 160). Each of the `folds` has its own people and `pairs_per_fold`
    pairs of videos, even: half of them genuine. Returns the root.

    Raises:
        ValueError: an argument is out of range, or there are too few videos for the pairs.

    Example:

    >>> import tempfile
    >>> root = write_videos(
    ...     tempfile.mkdtemp(), 4, frames=(2, 3), pairs_per_fold=2, folds=2, size=(28, 24)
    ... )
    >>> len(list((root / "frames").glob("*/*")))
    8
    >>> (root / "splits.txt").read_text().splitlines()[0]
    '1, 1, Person_.../..., Person_.../..., 1'
    """
    low, high = frames
    check_integer("step", step, 1)
    if not 1 <= low <= high:
        raise error("frames", "be (fewest, most), from 1", frames)
    first = UNSEEN if first_identity is None else int(first_identity)
    shape = (HEIGHT, WIDTH) if size is None else size
    left, right, is_same, fold = draw_pairs(num_identities, pairs_per_fold, folds, clips, seed)
    names = [f"Person_{first + i:06d}/{c}" for i in range(num_identities) for c in range(clips)]
    lengths = np.random.default_rng([seed, 0xF1]).integers(low, high + 1, len(names))
    root = Path(root)
    for at, (name, length) in enumerate(zip(names, lengths.tolist(), strict=True)):
        folder = root / "frames" / name
        folder.mkdir(parents=True, exist_ok=True)
        identity, clip = first + at // clips, at % clips
        person = draw_identity(seed, identity)
        path = draw_path(seed, identity, clip, length * step)[::step]
        for number, nuisance in enumerate(path):
            picture = resized(render(person, nuisance), shape)
            write_jpeg(folder / f"{clip}.{number * step + 1}.jpg", picture, quality)
        if progress is not None:
            progress(at + 1, len(names))
    lines = [
        f"{k}, {number}, {names[a]}, {names[b]}, {int(same)}"
        for number, (a, b, same, k) in enumerate(
            zip(left.tolist(), right.tolist(), is_same.tolist(), fold.tolist(), strict=True), 1
        )
    ]
    with atomic_path(root / "splits.txt") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
