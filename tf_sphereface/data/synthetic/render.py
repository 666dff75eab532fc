"""Paint a synthetic face: flat colours, soft shading, light, occlusion, blur and noise."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data.options import Size
from tf_sphereface.data.synthetic.geometry import HEIGHT, WIDTH, project
from tf_sphereface.data.synthetic.identity import Identity
from tf_sphereface.data.synthetic.nuisance import Nuisance

_NEUTRAL = 128.0  # the soft map multiplies by value / 128
_SIDES = ("left", "right")
_DARK = np.array([1.0, 0.97, 0.95])  # shadows on skin are a little warm

UNSEEN = 1_000_000  # where people to verify on begin: nobody trains on as many

Images = NDArray[np.uint8]
Colour = Sequence[float] | np.ndarray


@functools.cache
def _noise_bank() -> np.ndarray:
    """Gaussian noise (240, 224, 3) from which every picture takes a window."""
    return np.random.default_rng(20170708).standard_normal((240, 224, 3)).astype(np.float32)


@functools.cache
def _normals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface normals of the head's ellipsoid on a 28 x 24 grid, flattened past its rim."""
    y, x = np.mgrid[0:28, 0:24].astype(np.float32)
    nx, ny = (x * 4.0 + 2.0 - 48.0) / 44.0, (y * 4.0 + 2.0 - 58.0) / 62.0
    shrink = np.minimum(1.0, 0.92 / np.maximum(np.sqrt(nx**2 + ny**2), 1e-6))
    nx, ny = nx * shrink, ny * shrink
    return nx, ny, np.sqrt(1.0 - nx**2 - ny**2)


@dataclasses.dataclass(eq=False)
class _Canvas:
    """An image, and the outlines to draw on it."""

    image: np.ndarray
    points: np.ndarray
    slices: dict[str, slice]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.points[self.slices[name]]

    def fill(self, name: str, colour: Colour) -> None:
        _fill(self.image, self[name], colour)

    def stroke(self, name: str, colour: Colour) -> None:
        _stroke(self.image, self[name], colour)


def _fill(image: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    cv2.fillPoly(image, [points], list(colour), lineType=cv2.LINE_AA, shift=4)


def _stroke(
    image: np.ndarray, points: np.ndarray, colour: Colour, closed: bool = False, thickness: int = 1
) -> None:
    cv2.polylines(image, [points], closed, list(colour), thickness, cv2.LINE_AA, 4)


def _background(n: Nuisance) -> np.ndarray:
    """Paint a smooth coloured field, most often with something hard-edged in it."""
    u = n.still[6:24]
    grid = u[:12].reshape(2, 2, 3)
    grey = grid.mean(axis=2, keepdims=True)
    grid = 35.0 + 190.0 * (grey + 0.6 * (grid - grey))
    image = cv2.resize(grid.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    image = image.astype(np.uint8)
    colour = (30.0 + 200.0 * (0.6 * u[12:15] + 0.4 * u[12:15].mean())).tolist()
    x, y = int(u[15] * WIDTH), int(u[16] * HEIGHT)
    if u[17] < 0.3:
        cv2.rectangle(image, (x, -1), (x + 25, HEIGHT), colour, -1)
    elif u[17] < 0.6:
        cv2.rectangle(image, (-1, y), (WIDTH, y + 30), colour, -1)
    elif u[17] < 0.8:
        cv2.circle(image, (x, y), 22, colour, -1, cv2.LINE_AA)
    return image


def _shade_skin(canvas: _Canvas, p: Identity) -> None:
    """Multiply the soft shades of the skin into the image; they are painted at half size."""
    soft = np.full((HEIGHT // 2, WIDTH // 2, 3), int(_NEUTRAL), np.uint8)
    half = _Canvas(soft, canvas.points // 2, canvas.slices)
    hair = np.minimum(p.hair / np.maximum(p.skin, 1.0), 1.2) - 1.0
    if p.beard > 0.0:
        half.fill("beard", _NEUTRAL * (1.0 + min(2.2 * p.beard, 0.92) * hair))
    if p.blush > 0.0:
        rosy = _NEUTRAL * np.array([1.04, 1.0 - 2.0 * p.blush, 1.0 - 2.0 * p.blush])
        for side in _SIDES:
            half.fill(f"{side}_cheek", rosy)
    for draw, name, amount in (
        (half.fill, "hollow", p.cheek_hollow),
        (half.fill, "socket", p.socket),
        (half.fill, "bridge", p.nose_shade),
        (half.stroke, "bag", p.eye_bag),
        (half.stroke, "crease", 1.8 * p.fold),
    ):
        for side in _SIDES:
            draw(f"{side}_{name}", _NEUTRAL * (1.0 - max(amount, 0.0)) * _DARK)
    for name, amount in (("nose_under", 0.24), ("under_lip", 0.2), ("neck_shadow", 0.3)):
        half.fill(name, _NEUTRAL * (1.0 - amount) * _DARK)
    if p.moustache > 0.0:
        half.fill("moustache", _NEUTRAL * (1.0 + min(2.4 * p.moustache, 0.92) * hair))
    blurred = cv2.GaussianBlur(soft, (5, 5), 1.0)
    full = cv2.resize(blurred, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(canvas.image, full, canvas.image, scale=1.0 / _NEUTRAL)


def _features(canvas: _Canvas, p: Identity) -> None:
    """Draw nose, mouth, eyes and brows."""
    for side in _SIDES:
        canvas.fill(f"{side}_nostril", p.skin * 0.38)
        canvas.stroke(f"{side}_wing", p.skin * 0.72)
    canvas.fill("nose_light", np.minimum(p.skin * 1.07, 255.0))
    if p.mole_size > 0.5:
        canvas.fill("mole", p.skin * 0.4)
    red = np.array([1.0, 1.0 - 1.4 * p.lip_red, 1.0 - 1.2 * p.lip_red])
    lips = np.minimum(np.maximum(p.skin * red * p.lip_dark, 0.0), 255.0)
    canvas.fill("mouth_inside", (60.0, 22.0, 26.0))
    canvas.fill("teeth", (232.0, 228.0, 218.0))
    canvas.fill("lip_upper", lips * 0.9)
    canvas.fill("lip_lower", lips)
    if np.ptp(canvas["mouth_inside"][:, 1]) < 64:  # a closed mouth: less than 4 pixels
        canvas.stroke("lip_line", lips * 0.5)
    brow = 0.85 * np.minimum(p.brow_dark * p.hair + (1.0 - p.brow_dark) * p.skin, 255.0)
    for side in _SIDES:
        canvas.fill(f"{side}_white", (236.0, 233.0, 228.0))
        canvas.fill(f"{side}_iris", p.iris)
        canvas.fill(f"{side}_pupil", (16.0, 13.0, 13.0))
        x, y = canvas[f"{side}_pupil"][0].tolist()
        cv2.circle(canvas.image, (x - 8, y - 16), 12, (250, 250, 250), -1, cv2.LINE_AA, 4)
        canvas.fill(f"{side}_lash", p.hair * 0.35 + p.skin * 0.1)
        canvas.stroke(f"{side}_fold", p.skin * 0.62)
        canvas.fill(f"{side}_brow", np.maximum(brow, 0.0))


def _light(image: np.ndarray, n: Nuisance) -> np.ndarray:
    """Shade by a distant lamp over the head's ellipsoid; apply gain and colour."""
    nx, ny, nz = _normals()
    length = (n.light_x**2 + n.light_y**2 + 1.0) ** 0.5
    cosine = (nx * n.light_x + ny * n.light_y + nz) / length
    shade = n.ambient + 0.6 * max(n.light, 0.05) * np.maximum(cosine, 0.0)
    shade *= max(n.gain, 0.3) * _contrast(n)
    colour = np.array([1.0 + n.warmth, 1.0 + n.tint, 1.0 - n.warmth])
    coarse = (shade[..., None] * colour).astype(np.float32)
    full = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, full, dtype=cv2.CV_32F)


def _contrast(n: Nuisance) -> float:
    return max(n.contrast, 0.4)


def _sense(lit: np.ndarray, n: Nuisance) -> np.ndarray:
    """Blur, set the contrast about a middle grey, add the sensor's noise, round to bytes."""
    if n.blur > 0.3:
        size = 5 if n.blur < 0.9 else 9
        lit = cv2.GaussianBlur(lit, (size, size), n.blur)
    row, column = n.noise
    noise = _noise_bank()[row : row + HEIGHT, column : column + WIDTH]
    offset, strength = 110.0 * (1.0 - _contrast(n)), 2.0 + 7.0 * float(n.still[39])
    return cv2.addWeighted(lit, 1.0, noise, strength, offset, dtype=cv2.CV_8U)


def _glasses(canvas: _Canvas, n: Nuisance) -> None:
    u = n.still[24:30].tolist()
    if u[0] > 0.22:
        return
    colour = (30.0 + 120.0 * u[1], 28.0 + 84.0 * u[1], 30.0 + 48.0 * u[1])
    half_width, half_height = 16.0 * (10.5 + 2.5 * u[2]), 16.0 * (6.5 + 3.5 * u[3])
    turn = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
    power = 0.45 + 0.55 * u[4]  # from a rounded rectangle to an ellipse
    cos, sin = np.cos(turn), np.sin(turn)
    ring = np.empty((20, 2))
    ring[:, 0] = np.sign(cos) * np.abs(cos) ** power * half_width
    ring[:, 1] = np.sign(sin) * np.abs(sin) ** power * half_height + 16.0
    rims = [
        np.rint(ring + canvas[f"{side}_white"].mean(axis=0)).astype(np.int32) for side in _SIDES
    ]
    for rim in rims:
        if u[5] < 0.25:  # sunglasses
            _fill(canvas.image, rim, (34.0, 32.0, 36.0))
        _stroke(canvas.image, rim, colour, closed=True, thickness=2)
    _stroke(canvas.image, np.stack([rims[0][0], rims[1][10]]), colour, thickness=2)


def _occlude(image: np.ndarray, n: Nuisance) -> None:
    """Put a bar in front of some of the faces."""
    u = n.still[30:38].tolist()
    if u[0] > 0.25:
        return
    cos, sin = np.cos(np.pi * u[4]), np.sin(np.pi * u[4])
    length, width = 18.0 + 60.0 * u[5], 5.0 + 7.0 * u[6]
    x, y = 48.0 + n.occluder_x, 60.0 + n.occluder_y
    corners = [
        (x + a * length * cos - b * width * sin, y + a * length * sin + b * width * cos)
        for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    colour = [60.0 + 150.0 * value for value in u[1:4]]
    _fill(image, np.rint(16.0 * np.array(corners)).astype(np.int32), colour)


def render(p: Identity, n: Nuisance) -> np.ndarray:
    """Render one picture, uint8 RGB (112, 96, 3)."""
    canvas = _Canvas(_background(n), *project(p, n))
    canvas.fill("hair_back", p.hair * 0.8)
    canvas.fill("neck", p.skin * 0.86)
    canvas.fill("shirt", 30.0 + 200.0 * n.still[21:24])
    for side in _SIDES:
        canvas.fill(f"{side}_ear", p.skin * 0.9)
    canvas.fill("face", p.skin)
    _shade_skin(canvas, p)
    _features(canvas, p)
    canvas.fill("hair", p.hair)
    canvas.stroke("gloss", np.minimum(1.18 * p.hair + 8.0, 255.0))
    _glasses(canvas, n)
    _occlude(canvas.image, n)
    return _sense(_light(canvas.image, n), n)


def write_jpeg(path: Path, picture: Images, quality: int) -> None:
    """Write a picture as JPEG, under a temporary name first."""
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    )
    if not done:
        raise OSError(f"OpenCV could not encode {path}")
    temporary = path.with_name(f".{path.name}.part")  # renamed, but not synced one by one
    temporary.write_bytes(data.tobytes())
    os.replace(temporary, path)


def resized(picture: Images, size: Size) -> Images:
    """Return a picture at another size, averaged down or interpolated."""
    if picture.shape[:2] == size:
        return picture
    shrinks = size[0] <= HEIGHT and size[1] <= WIDTH
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=method), np.uint8)
