"""The differences between two pictures of a synthetic person: pose, light, and so on."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_sphereface.data.synthetic.traits import distributions, drawn

_STREAM = 0x5A  # streams of single images
_VIDEO_STREAM = 0x7D  # streams of videos

STILLS = 40  # uniform numbers that are drawn once a picture, or once a video


@dataclasses.dataclass(eq=False, kw_only=True)
class Nuisance:
    """Pose, light, expression, occlusion and background of one picture.

    Angles are in degrees, lengths in pixels of the 112 x 96 frame; these numbers move within a
    video.

    Attributes:
        still: `STILLS` numbers in [0, 1): background, clothes, occluders, hair style.
        noise: two integers that choose the sensor noise of this frame.
    """

    yaw: float = drawn(0.0, 15.0)
    pitch: float = drawn(0.0, 9.0)
    roll: float = drawn(0.0, 4.5)
    shift_x: float = drawn(0.0, 2.2)
    shift_y: float = drawn(0.0, 2.2)
    scale: float = drawn(1.0, 0.045)
    light_x: float = drawn(0.0, 0.75)
    light_y: float = drawn(-0.35, 0.5)
    light: float = drawn(0.75, 0.28)
    ambient: float = drawn(0.68, 0.13)
    gain: float = drawn(1.0, 0.13)
    warmth: float = drawn(0.0, 0.10)
    tint: float = drawn(0.0, 0.05)
    contrast: float = drawn(1.0, 0.14)
    smile: float = drawn(0.0, 1.6)
    jaw: float = drawn(-0.4, 1.3)
    pucker: float = drawn(0.0, 0.09)
    brow_raise: float = drawn(0.0, 1.3)
    frown: float = drawn(0.0, 0.9)
    lids: float = drawn(0.0, 0.22)
    gaze_x: float = drawn(0.0, 1.5)
    gaze_y: float = drawn(0.0, 0.7)
    blur: float = drawn(0.45, 0.45)
    occluder_x: float = drawn(0.0, 16.0)
    occluder_y: float = drawn(12.0, 26.0)
    still: np.ndarray
    noise: tuple[int, int]


MOVING = distributions(Nuisance)


def _moving(draws: np.ndarray) -> dict[str, float]:
    draws = 2.2 * np.tanh(draws / 2.2)
    return {
        name: mean + sd * z
        for (name, (mean, sd)), z in zip(MOVING.items(), draws.tolist(), strict=True)
    }


def draw_nuisance(seed: int, identity: int, sample: int) -> Nuisance:
    """Draw the nuisance of one picture of a person, a pure function of three integers >= 0."""
    rng = np.random.default_rng([seed, _STREAM, identity, sample])
    draws = rng.standard_normal(len(MOVING))
    still = rng.random(STILLS)
    row, column = rng.integers(0, 128, 2).tolist()
    return Nuisance(**_moving(draws), still=still, noise=(row, column))


def draw_path(seed: int, identity: int, clip: int, frames: int) -> list[Nuisance]:
    """Draw the nuisance of a video: each moving value wanders on a sine of its own period.

    `z(t) = a cos(w t) + b sin(w t)` with standard normal a and b keeps the distribution of single
    pictures at every t. Periods lie between 40 and 160 frames; a shorter video is the beginning of
    a longer one.
    """
    rng = np.random.default_rng([seed, _VIDEO_STREAM, identity, clip])
    a, b = rng.standard_normal((2, len(MOVING)))
    period = rng.uniform(40.0, 160.0, len(MOVING))
    still = rng.random(STILLS)
    offsets = rng.integers(0, 128, 2)
    path = []
    for frame in range(frames):
        phase = 2.0 * np.pi * frame / period
        row, column = (offsets + frame * np.array([37, 61])) % 128
        values = _moving(a * np.cos(phase) + b * np.sin(phase))
        path.append(Nuisance(**values, still=still, noise=(int(row), int(column))))
    return path
