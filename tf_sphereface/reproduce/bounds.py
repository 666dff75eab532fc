"""The lower bounds of the margin: the m from which every class is narrower than the gap beside it.

A class's decision region is where its margin logit beats the others' plain ones,
`psi_m(theta_1) > cos(theta_j)`; that is `m theta_1 < theta_j`, because psi falls like a cosine that
is not folded back. The paper asks that the largest angle within a region stays below the smallest
angle between two regions, and derives m >= 2 + sqrt(3) for two classes and m >= 3 for many, evenly
spread ones. Here the regions are built, by psi itself and for real-valued m, and measured. Two
centres further apart than `(m - 1) / m pi` meet behind as well; both regions are then
`2 pi / (m + 1)` wide, and the bound is `1 + 2 pi / theta_12`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.angular import psi_of_angle
from tf_sphereface.utils.checks import error

Centers = NDArray[np.float64]
TWO_CLASSES, MANY_CLASSES = 2 + math.sqrt(3), 3.0
RAYS = 120  # from a centre on the sphere, every 3 degrees
BISECTIONS = 40  # of an interval of pi: to 3e-12


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """Where the class centres stand: unit vectors, (classes, 2 or 3)."""

    name: str
    centers: Centers
    bound: float | None  # as docs/results/paper.md derives it, None where that does not reach


def on_circle(degrees: Any) -> Centers:
    """Return unit vectors of the plane at given angles, in degrees."""
    angles = np.radians(np.asarray(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def evenly_on_circle(classes: int) -> Centers:
    """Return unit vectors at equal angles."""
    return on_circle(np.arange(classes) * 360.0 / classes)


def regular_solid(vertices: int) -> Centers:
    """Return the corners of a tetrahedron, octahedron, cube or icosahedron as unit vectors."""
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    golden = (1 + math.sqrt(5)) / 2
    solids: dict[int, Any] = {
        4: signs[signs.prod(axis=1) > 0],
        6: np.concatenate([np.eye(3), -np.eye(3)]),
        8: signs,
        12: [
            np.roll([0.0, a, b * golden], shift)
            for shift in range(3)
            for a in (-1.0, 1.0)
            for b in (-1.0, 1.0)
        ],
    }
    if vertices not in solids:
        raise error("vertices", "be 4, 6, 8 or 12", vertices)
    corners = np.asarray(solids[vertices], np.float64)
    return np.asarray(corners / np.linalg.norm(corners, axis=1, keepdims=True))


ARRANGEMENTS = (
    *(
        Arrangement(
            f"two, {angle}° apart, on the circle",
            on_circle([0, angle]),
            min(TWO_CLASSES, 1 + 360 / angle),
        )
        for angle in (30, 60, 90, 120, 150, 180)
    ),
    Arrangement("two, 90° apart, on the sphere", np.eye(3)[:2], TWO_CLASSES),
    *(
        Arrangement(f"{count}, evenly on the circle", evenly_on_circle(count), MANY_CLASSES)
        for count in (3, 4, 6, 10)
    ),
    *(
        Arrangement(f"{count}, corners of {name}, on the sphere", regular_solid(count), None)
        for count, name in (
            (4, "a tetrahedron"),
            (6, "an octahedron"),
            (8, "a cube"),
            (12, "an icosahedron"),
        )
    ),
)


def region_edges(centers: Centers, margins: Any, rays: int = RAYS) -> Centers:
    """Return the ends of the decision regions on rays from their centres, (k, classes, rays, d).

    There are k margins, real numbers above 1, and two rays in the plane. Along a ray `theta_1`
    grows faster than any `theta_j / m`, so that the region ends once, at the only root; it is
    bisected. The test is psi's: `psi_m(theta_1) > max_j cos(theta_j)`.
    """
    directions = np.stack([_directions(centers, i, rays) for i in range(len(centers))])
    margin = np.asarray(margins, np.float64)[:, None, None]
    low = np.zeros((len(margin), *directions.shape[:2]))
    high = np.full_like(low, np.pi)
    own = np.eye(len(centers), dtype=bool)[None, :, None, :]
    for _ in range(BISECTIONS):
        angle = (low + high) / 2
        points = _along(centers, directions, angle)
        others = np.where(own, -np.inf, points @ centers.T).max(axis=-1)
        inside = psi_of_angle(angle, margin) > others
        low, high = np.where(inside, angle, low), np.where(inside, high, angle)
    return _along(centers, directions, low)


def _along(centers: Centers, directions: Centers, angle: Centers) -> Centers:
    """Return the points at some angle from each centre, on each ray."""
    along, across = np.cos(angle)[..., None], np.sin(angle)[..., None]
    return np.asarray(along * centers[None, :, None, :] + across * directions[None])


def _directions(centers: Centers, which: int, rays: int) -> Centers:
    """Return unit vectors at right angles to a centre; on the sphere, the first to a neighbour.

    A solid's neighbours and the corners between them are then at whole degrees from the first ray.
    """
    center = centers[which]
    if len(center) == 2:
        across = np.array([-center[1], center[0]])
        return np.stack([across, -across])
    cosines = centers @ center
    cosines[which] = -np.inf
    neighbour = centers[np.argmax(cosines)]
    first = neighbour - (neighbour @ center) * center
    first /= np.linalg.norm(first)
    second = np.cross(center, first)
    turn = np.arange(rays) * 2 * np.pi / rays
    return np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second


def widest_and_nearest(centers: Centers, margin: float, rays: int = RAYS) -> tuple[float, float]:
    """Return the largest angle within a region and the smallest between two, in degrees.

    All `ARRANGEMENTS` look alike from each centre: the first region stands for all. On the sphere a
    multiple of 120 rays meets the corners, and more find no wider region.
    """
    return _measure(region_edges(centers, [margin], rays)[0])


def _measure(edges: Centers) -> tuple[float, float]:
    """Compare the first region with itself and the others."""
    widest = _angles(edges[0], edges[0], farthest=True).max()
    nearest = min(_angles(edges[0], edge, farthest=False).min() for edge in edges[1:])
    return float(np.degrees(widest)), float(np.degrees(nearest))


def _angles(a: Centers, b: Centers, *, farthest: bool) -> NDArray[np.float64]:
    """Return the angles of the farthest or the nearest pairs of two sets of unit vectors.

    The cosine chooses the pairs, up to its rounding; the chord is exact for small angles too.
    """
    cosines = -(a @ b.T) if farthest else a @ b.T
    first, second = np.nonzero(cosines >= cosines.max() - 1e-12)
    chord = np.linalg.norm(a[first] - b[second], axis=1)
    return 2 * np.arcsin(np.clip(chord / 2, 0.0, 1.0))


def crossing(centers: Centers, rays: int = RAYS, low: float = 1.5, high: float = 8.0) -> float:
    """Return the m at which the widest region is as wide as the narrowest gap, to 1e-7."""

    def excess(margin: float) -> float:
        widest, nearest = widest_and_nearest(centers, margin, rays)
        return widest - nearest

    if not excess(low) > 0 > excess(high):
        raise ValueError(f"the two angles must cross. Received: no crossing in {low} to {high}")
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def measure(rays: int, points: int) -> dict[str, Any]:
    """Return each arrangement's crossing, bound and curves at `points` margins, as JSON values."""
    margins = np.linspace(1.5, 6.0, points)
    rows = []
    for case in ARRANGEMENTS:
        curve = [_measure(edges) for edges in region_edges(case.centers, margins, rays)]
        rows.append(
            {
                "arrangement": case.name,
                "bound": case.bound,
                "crossing": crossing(case.centers, rays),
                "widest": [round(a, 4) for a, _ in curve],
                "nearest": [round(b, 4) for _, b in curve],
            }
        )
    return {"margins": [round(m, 4) for m in margins.tolist()], "rays": rays, "rows": rows}
