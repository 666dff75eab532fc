"""The identity of a synthetic face: some sixty numbers, drawn once per person."""

from __future__ import annotations

import colorsys
import dataclasses
import functools

import numpy as np

from tf_sphereface.data.synthetic.traits import distributions, drawn

_STREAM = 0x1D  # keeps the identity's random stream apart from those of its samples
_LIMIT = 2.0  # draws beyond two standard deviations are drawn in, or features would collide
# How far people differ, as a factor of `TRAITS`: what decides how hard the set is. Colours give a
# network its first hold, within tens of steps; shapes are what is left to learn.
_SPREAD_OF_SHAPES, _SPREAD_OF_COLOURS = 0.7, 1.1
_COLOURS = ("skin_", "hair_tone", "hair_hue", "hair_grey", "iris_hue", "iris_light")


@dataclasses.dataclass(eq=False, kw_only=True)
class Identity:
    """The traits of one synthetic person: numbers `drawn(mean, standard deviation)`, and colours.

    Lengths are pixels of the 112 x 96 frame, origin at the head's centre, y downwards; everything
    else is a fraction or a factor of one. Skin, hair and iris are RGB, float (3,), 0 to 255.
    """

    temple_width: float = drawn(34.0, 2.4)
    cheek_width: float = drawn(36.0, 2.3)
    jaw_width: float = drawn(28.0, 2.8)
    chin_width: float = drawn(12.0, 2.4)
    chin: float = drawn(47.0, 2.6)
    skull: float = drawn(-53.0, 2.2)
    ear_size: float = drawn(8.5, 1.7)
    ear_y: float = drawn(-1.0, 2.2)
    eye_x: float = drawn(16.5, 1.3)
    eye_y: float = drawn(-8.0, 1.4)
    eye_width: float = drawn(7.6, 0.9)
    eye_open: float = drawn(3.6, 0.8)
    eye_tilt: float = drawn(-0.6, 1.2)
    eye_round: float = drawn(1.0, 0.22)
    iris_size: float = drawn(3.3, 0.35)
    iris_hue: float = drawn(0.0, 1.0)
    iris_light: float = drawn(0.38, 0.14)
    eye_bag: float = drawn(0.10, 0.07)
    socket: float = drawn(0.13, 0.08)
    lid: float = drawn(1.2, 0.45)
    brow_y: float = drawn(-8.0, 1.5)
    brow_length: float = drawn(10.0, 1.3)
    brow_thick: float = drawn(1.9, 0.65)
    brow_arch: float = drawn(2.4, 1.2)
    brow_tilt: float = drawn(0.3, 1.1)
    brow_gap: float = drawn(0.0, 1.1)
    brow_dark: float = drawn(0.75, 0.18)
    nose_tip: float = drawn(11.5, 2.0)
    nose_width: float = drawn(7.2, 1.25)
    nose_bridge: float = drawn(3.6, 0.8)
    nose_ball: float = drawn(3.7, 0.8)
    nostril: float = drawn(1.6, 0.4)
    nose_shade: float = drawn(0.16, 0.07)
    mouth_y: float = drawn(29.0, 1.8)
    mouth_width: float = drawn(12.5, 1.7)
    lip_upper: float = drawn(2.5, 0.75)
    lip_lower: float = drawn(3.3, 0.85)
    lip_bow: float = drawn(1.0, 0.5)
    mouth_curve: float = drawn(1.2, 1.1)
    lip_red: float = drawn(0.25, 0.13)
    lip_dark: float = drawn(0.82, 0.08)
    fold: float = drawn(0.10, 0.07)
    cheek_hollow: float = drawn(0.08, 0.07)
    blush: float = drawn(0.05, 0.04)
    beard: float = drawn(-0.15, 0.32)
    moustache: float = drawn(-0.15, 0.30)
    mole_x: float = drawn(0.0, 18.0)
    mole_y: float = drawn(14.0, 14.0)
    mole_size: float = drawn(0.0, 1.1)
    skin_tone: float = drawn(0.0, 1.0)
    skin_hue: float = drawn(0.0, 1.0)
    skin_saturation: float = drawn(0.0, 1.0)
    hair_tone: float = drawn(0.0, 1.0)
    hair_hue: float = drawn(0.0, 1.0)
    hair_grey: float = drawn(0.0, 1.0)
    hairline: float = drawn(-35.0, 4.0)
    parting: float = drawn(0.0, 10.0)
    fringe: float = drawn(2.0, 4.5)
    peak: float = drawn(0.0, 2.5)
    hair_volume: float = drawn(4.0, 2.4)
    hair_side: float = drawn(-4.0, 12.0)
    hair_back: float = drawn(8.0, 26.0)
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray


TRAITS = distributions(Identity)
_SPREAD = np.array(
    [_SPREAD_OF_COLOURS if name.startswith(_COLOURS) else _SPREAD_OF_SHAPES for name in TRAITS]
)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    saturation, value = float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1))
    return 255.0 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


@functools.lru_cache(maxsize=4096)
def draw_identity(seed: int, identity: int) -> Identity:
    """Draw the traits of a person, a pure function of two integers >= 0."""
    rng = np.random.default_rng([seed, _STREAM, identity])
    draws = rng.standard_normal(len(TRAITS))
    draws = _SPREAD * _LIMIT * np.tanh(draws / _LIMIT)
    z = dict(zip(TRAITS, draws, strict=True))
    traits = {name: mean + sd * float(z[name]) for name, (mean, sd) in TRAITS.items()}
    skin = _rgb(
        0.062 + 0.010 * z["skin_hue"],
        0.43 + 0.08 * z["skin_saturation"] - 0.05 * z["skin_tone"],
        0.78 + 0.11 * z["skin_tone"],
    )
    hair = _rgb(
        0.07 + 0.022 * z["hair_hue"], 0.48 - 0.18 * z["hair_grey"], 0.32 + 0.15 * z["hair_tone"]
    )
    # from brown through green to blue
    iris = _rgb(0.25 + 0.19 * z["iris_hue"], 0.45, traits["iris_light"])
    return Identity(**traits, skin=skin, hair=hair, iris=iris)
