"""Outlines of a synthetic face in three dimensions, and their projection to pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from tf_sphereface.data.synthetic.identity import Identity
from tf_sphereface.data.synthetic.nuisance import Nuisance

HEIGHT, WIDTH = 112, 96
_CENTRE_X, _CENTRE_Y = 48.0, 60.0
_HALF_WIDTH, _HALF_HEIGHT, _DEPTH = 42.0, 62.0, 30.0  # the ellipsoid that features lie on
_SIDES = (("left", -1.0), ("right", 1.0))  # as seen in the image
_BOW = np.linspace(-1.0, 1.0, 13)  # along an eye, a brow, a lip
_ARCH = 1.0 - _BOW**2
_ARCH_06, _ARCH_07 = _ARCH**0.6, _ARCH**0.7
_BROW = (_BOW - 0.25) ** 2 - 1.0 + 0.5 * _BOW  # ends level, highest past the middle
_CUPID = np.exp(-((_BOW / 0.18) ** 2))
_LOOP = np.concatenate([_BOW, _BOW[::-1]])
_TURN = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
_COS, _SIN = np.cos(_TURN), np.sin(_TURN)
_IRIS_X, _IRIS_Y = (np.concatenate([ring, 0.45 * ring]) for ring in (_COS, _SIN))  # iris, pupil


@functools.cache
def _spline(controls: int, steps: int) -> np.ndarray:
    """Matrix (controls * steps, controls) of a closed Catmull-Rom curve through its controls."""
    matrix = np.zeros((controls * steps, controls))
    for row in range(controls * steps):
        start, t = row // steps, (row % steps) / steps
        weights = (
            -0.5 * t + t**2 - 0.5 * t**3,
            1.0 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2.0 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        )
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            matrix[row, (start + offset) % controls] += weight
    return matrix


@functools.cache
def _layout(
    names: tuple[str, ...], lengths: tuple[int, ...], lifts: tuple[float, ...]
) -> tuple[dict[str, slice], np.ndarray]:
    """Return where each outline lies in the flat arrays, and the lift of every point."""
    ends = np.cumsum(lengths).tolist()
    slices = {
        name: slice(end - length, end)
        for name, length, end in zip(names, lengths, ends, strict=True)
    }
    return slices, np.repeat(np.array(lifts), lengths)


Line = Sequence[float] | np.ndarray


class _Sketch:
    """Collects outlines, in pixels from the head's centre.

    A lift below zero is the depth itself (silhouettes); else it is added to the ellipsoid's.
    """

    def __init__(self) -> None:
        self.outlines: list[tuple[str, Line, Line, float]] = []

    def add(self, name: str, x: Line, y: Line, lift: float = 0.0) -> None:
        self.outlines.append((name, x, y, lift))

    def pair(self, name: str, x: Line, y: Line, lift: float = 0.0) -> None:
        """Add an outline of the image's right side, and its mirror image."""
        x = np.asarray(x)
        self.add(f"left_{name}", -x, y, lift)
        self.add(f"right_{name}", x, y, lift)

    def curve(
        self, name: str, x: Sequence[float], y: Sequence[float], steps: int, lift: float
    ) -> None:
        """Add a closed smooth curve through control points."""
        matrix = _spline(len(x), steps)
        self.add(name, matrix @ np.array(x), matrix @ np.array(y), lift)

    def mirrored(
        self, name: str, x: Sequence[float], y: Sequence[float], steps: int, lift: float
    ) -> None:
        """Add a closed smooth curve from its right half, from the top's middle to the bottom's."""
        back = slice(-2, 0, -1)
        self.curve(name, [*x, *(-value for value in x[back])], [*y, *y[back]], steps, lift)


def _there_and_back(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    return np.concatenate((there, back[::-1]))


def _eyes(sketch: _Sketch, p: Identity, n: Nuisance) -> None:
    """Add eyes and brows; along them runs -1 at the nose to 1 at the temple."""
    width = p.eye_width
    opening = max(p.eye_open * (1.0 + n.lids) * (1.0 - 0.10 * max(n.smile, 0.0)), 0.5)
    middle = p.eye_y + p.eye_tilt * _BOW
    upper = middle - opening * _ARCH ** (0.8 / max(p.eye_round, 0.4))
    lower = middle + 0.62 * opening * _ARCH
    across = p.eye_x + width * _BOW
    sketch.pair("white", p.eye_x + width * _LOOP, _there_and_back(upper, lower))
    ring_y = p.eye_y + n.gaze_y + 0.08 * opening - 0.15 + p.iris_size * _IRIS_Y
    for name, side in _SIDES:
        ring_x = p.eye_x + side * n.gaze_x + p.iris_size * _IRIS_X
        top, bottom = np.interp(ring_x, across, upper), np.interp(ring_x, across, lower)
        clipped = np.minimum(np.maximum(ring_y, top), bottom)  # the lids cover the iris
        sketch.add(f"{name}_iris", side * ring_x[:16], clipped[:16], 0.5)
        sketch.add(f"{name}_pupil", side * ring_x[16:], clipped[16:], 0.5)
    thickness = p.lid * (0.4 + 0.6 * _ARCH)
    lash_x = p.eye_x + 1.06 * width * _LOOP
    sketch.pair("lash", lash_x, _there_and_back(upper - thickness, upper), 0.2)
    sketch.pair("fold", across, upper - 2.2 - p.lid)
    sketch.pair("bag", p.eye_x + 0.9 * width * _BOW, lower + 2.3 + 0.8 * _ARCH)
    socket_y = p.eye_y - 1.5 + (1.7 * p.eye_open + 2.5) * _SIN
    sketch.pair("socket", p.eye_x + 1.35 * width * _COS, socket_y)
    brow_y = p.eye_y + p.brow_y - 0.5 * n.brow_raise + (p.brow_tilt - 0.5 * n.frown) * _BOW
    brow_y += p.brow_arch * _BROW + 0.25 * n.frown
    half = 0.5 * max(p.brow_thick, 0.6) * np.minimum(1.6, 1.25 - 0.75 * _BOW)
    brow_x = p.eye_x + 0.7 * p.brow_gap + p.brow_length * _LOOP
    sketch.pair("brow", brow_x, _there_and_back(brow_y - half, brow_y + half), 1.5)


def _nose(sketch: _Sketch, p: Identity) -> None:
    top, tip, width, bridge = p.eye_y + 1.0, p.nose_tip, p.nose_width, p.nose_bridge
    halfway = 0.5 * (top + tip)
    x = [0.8 * bridge, bridge + 2.6, bridge + 1.8, width, width - 1.2]
    x += [0.8 * p.nose_ball, 0.8 * bridge]
    y = (top - 4.0, top - 2.0, halfway, tip - 1.5, tip + 1.5, tip - 2.0, halfway)
    sketch.pair("bridge", x, y, 5.0)
    sketch.pair(
        "nostril", 0.52 * width + p.nostril * _COS, tip + 2.0 + 0.62 * p.nostril * _SIN, 6.0
    )
    x = [width - 1.0, width, width - 0.6, width - 2.4]
    sketch.pair("wing", x, (tip - 3.2, tip - 1.0, tip + 1.4, tip + 2.2), 4.0)
    sketch.add("nose_under", 0.9 * width * _BOW, tip + 3.0 + 1.2 * _ARCH, 5.0)
    sketch.add("nose_light", 0.55 * p.nose_ball * _COS, tip - 2.2 + 0.5 * p.nose_ball * _SIN, 9.0)


def _mouth(sketch: _Sketch, p: Identity, n: Nuisance) -> None:
    width = p.mouth_width * (1.0 + 0.045 * n.smile - max(n.pucker, 0.0))
    gap = max(1.5 * n.jaw, 0.0)
    x, loop = width * _BOW, width * _LOOP
    line = p.mouth_y - 0.9 * (p.mouth_curve + n.smile) * (_BOW**2 - 0.4)
    inner_top, inner_bottom = line - 0.35 * gap * _ARCH, line + 0.9 * gap * _ARCH
    outer_top = inner_top - max(p.lip_upper, 0.7) * _ARCH_06 + p.lip_bow * _CUPID
    outer_bottom = inner_bottom + max(p.lip_lower, 0.8) * _ARCH_07
    sketch.add("lip_upper", loop, _there_and_back(outer_top, inner_top), 2.0)
    sketch.add("lip_lower", loop, _there_and_back(inner_bottom, outer_bottom), 2.0)
    sketch.add("mouth_inside", loop, _there_and_back(inner_top, inner_bottom), 1.0)
    teeth = np.minimum(inner_top + 0.55 * gap, inner_bottom)
    sketch.add("teeth", 0.8 * loop, _there_and_back(inner_top, teeth), 1.0)
    sketch.add("lip_line", x, 0.5 * (inner_top + inner_bottom), 2.0)
    sketch.add("under_lip", 0.6 * x, outer_bottom + 2.2 + 0.6 * _ARCH, 1.0)
    x_crease = (p.nose_width + 1.0, p.nose_width + 4.2, width + 3.0 + 0.3 * n.smile)
    y_crease = (p.nose_tip, 0.5 * (p.nose_tip + p.mouth_y), p.mouth_y + 0.8 * gap)
    sketch.pair("crease", x_crease, y_crease, 1.0)
    under_nose = np.full(13, p.nose_tip + 4.2)
    sketch.add(
        "moustache", np.concatenate((1.05 * x, 0.75 * x[::-1])),
        _there_and_back(outer_top + 0.4, under_nose), 1.5,
    )  # fmt: skip


def _head(sketch: _Sketch, p: Identity, n: Nuisance) -> None:
    """Add face outline, beard, ears, cheeks, neck and clothes."""
    drop = max(1.2 * n.jaw, 0.0)
    chin, jaw, cheek = p.chin + drop, p.jaw_width, p.cheek_width
    x = [0.0, 0.72 * p.temple_width, p.temple_width, cheek, jaw, p.chin_width, 0.0]
    y = [p.skull, p.skull + 8.0, -24.0, 2.0, 27.0 + 0.5 * drop, chin - 3.0, chin]
    sketch.mirrored("face", x, y, 5, -1.0)
    lip = 0.8 * p.mouth_width + 3.0
    x = [0.0, lip, jaw - 7.0, cheek - 1.5, jaw + 0.5, p.chin_width, 0.0]
    y = [p.mouth_y + 7.0 + drop, 25.0, 22.0, 10.0, 28.0, chin - 1.5, chin + 0.5]
    sketch.mirrored("beard", x, y, 4, -1.0)
    sketch.pair("ear", cheek + 0.5 + 0.55 * p.ear_size * _COS, p.ear_y + p.ear_size * _SIN, -1.0)
    sketch.pair("cheek", 21.0 + 8.0 * _COS, 13.0 + 6.0 * _SIN)
    sketch.pair("hollow", (cheek - 2.0, 20.0, jaw - 8.0, jaw - 1.0), (6.0, 18.0, 30.0, 26.0), -1.0)
    size = max(p.mole_size, 0.01)
    sketch.add("mole", p.mole_x + size * _COS, p.mole_y + size * _SIN)
    neck = 0.62 * jaw
    sketch.add("neck", (-neck, neck, neck + 3.0, -neck - 3.0), (30.0, 30.0, 75.0, 75.0), -2.0)
    sketch.add(
        "neck_shadow", (-neck, neck, neck, -neck), (36.0, 36.0, chin + 5.0, chin + 5.0), -2.0
    )
    x = [-70.0, -58.0, -neck - 6.0, 0.0, neck + 6.0, 58.0, 70.0]
    sketch.add("shirt", x, (90.0, 60.0, 52.0, 60.0, 52.0, 60.0, 90.0), -2.0)


def _hair(sketch: _Sketch, p: Identity, n: Nuisance) -> None:
    """Add the hair; its style wanders from picture to picture, as people comb it differently."""
    style = (n.still[:6] - 0.5).tolist()
    volume = max(p.hair_volume + 3.0 * style[0], 0.3)
    line = min(p.hairline + 4.0 * style[1], -24.0)
    side = min(max(p.hair_side + 14.0 * style[2], -26.0), 30.0)
    parting = min(max(p.parting + 12.0 * style[3], -22.0), 22.0)
    fringe = line + p.fringe + 5.0 * style[4]
    wide, top, inner = p.temple_width + volume, p.skull - volume, p.temple_width - 2.5
    shoulder, burn = p.skull + 6.0 - 0.8 * volume, 0.5 * max(side - 6.0, -24.0) - 10.0
    x = [1.0 - wide, -wide - 0.5, -0.75 * wide, 0.0, 0.75 * wide, wide + 0.5, wide - 1.0]
    y = [side, -20.0, shoulder, top, shoulder, -20.0, side]
    x += [inner, 0.72 * inner, 0.36 * inner + 0.5 * parting, parting]
    y += [burn, line + 4.0, fringe, line - 2.0 + p.peak]
    x += [-0.36 * inner + 0.5 * parting, -0.72 * inner, -inner]
    y += [fringe, line + 4.0, burn]
    sketch.curve("hair", x, y, 4, -1.0)
    gloss = top + 0.35 * (fringe - top) + 6.0 * _BOW**2
    sketch.add("gloss", 0.2 * parting + 0.5 * wide * _BOW, gloss, -1.0)
    bottom = min(max(p.hair_back + 22.0 * style[5], -10.0), 62.0)
    x = [0.0, 0.8 * wide, wide + 1.0, wide + 2.0 + 0.06 * max(bottom, 0.0), 0.92 * wide, 0.0]
    y = [top, p.skull + 5.0, -15.0, 0.5 * bottom, bottom, bottom - 4.0]
    sketch.mirrored("hair_back", x, y, 4, -6.0)


def project(p: Identity, n: Nuisance) -> tuple[np.ndarray, dict[str, slice]]:
    """Build a face and project it orthographically.

    The face is rotated about its centre, then moved so that the middle of eyes and mouth keeps
    its place, as it would after alignment; what is left of the shift is alignment error. Returns
    the points of all outlines, int32 (n, 2) as x, y in 1/16 pixel of the 112 x 96 frame, and the
    rows of each outline.
    """
    sketch = _Sketch()
    _head(sketch, p, n)
    _hair(sketch, p, n)
    _nose(sketch, p)
    _mouth(sketch, p, n)
    _eyes(sketch, p, n)
    sketch.add("anchors", (-p.eye_x, p.eye_x, 0.0), (p.eye_y, p.eye_y, p.mouth_y))
    names, xs, ys, lifts = zip(*sketch.outlines, strict=True)
    slices, lift = _layout(names, tuple(map(len, xs)), lifts)
    x, y = np.concatenate(xs), np.concatenate(ys)
    inside = np.maximum(1.0 - (x / _HALF_WIDTH) ** 2 - (y / _HALF_HEIGHT) ** 2, 0.0)
    z = np.where(lift < 0.0, lift, _DEPTH * np.sqrt(inside) + lift)
    yaw, pitch, roll = (math.radians(angle) for angle in (n.yaw, n.pitch, n.roll))
    x, z = math.cos(yaw) * x + math.sin(yaw) * z, math.cos(yaw) * z - math.sin(yaw) * x
    y = math.cos(pitch) * y + math.sin(pitch) * z
    x, y = math.cos(roll) * x - math.sin(roll) * y, math.sin(roll) * x + math.cos(roll) * y
    anchor_x, anchor_y = x[-3:].mean(), y[-3:].mean() - (2.0 * p.eye_y + p.mouth_y) / 3.0
    points = np.empty((len(x), 2))
    points[:, 0] = _CENTRE_X + n.shift_x + n.scale * (x - anchor_x)
    points[:, 1] = _CENTRE_Y + n.shift_y + n.scale * (y - anchor_y)
    return np.rint(points * 16.0).astype(np.int32), slices
