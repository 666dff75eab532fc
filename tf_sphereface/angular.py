"""The mathematics of the angular margin, as pure functions.

Every function takes cosines (not angles), works on scalars, NumPy arrays and Keras tensors of any
shape, is differentiable by autodiff with the exact gradient, and is finite wherever its arguments
are. The integer margins are polynomials and need no `arccos`. The real-valued ones take it, but
bring their own derivative, in which the sine that would be divided by is at least `SINE_FLOOR`: no
infinite derivative at 0 and pi.

Source: Liu, Wen, Yu, Li, Raj, Song, "SphereFace: Deep Hypersphere Embedding for Face Recognition",
CVPR 2017, arXiv:1704.08063; the real-valued margins: Liu, Wen, Raj, Singh, Weller, "SphereFace
Revived: Unifying Hyperspherical Face Recognition", TPAMI 2022, arXiv:2109.05565.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from keras import ops

__all__ = ["MARGINS", "a_softmax_logit", "angle_of", "cos_clipped_shift", "cos_multiple_angle",
           "cos_scaled_angle", "cos_shifted_angle", "cos_shifted_angle_released",
           "effective_margin", "psi", "psi_of_angle", "psi_real", "psi_slope"]  # fmt: skip

MARGINS = (1, 2, 3, 4)
"""The integer margins: those whose angle is a polynomial of the cosine."""
SINE_FLOOR = 1e-3  # float32 cosines cannot tell angles below 3e-4 from 0


def check_margin(margin: int) -> int:
    """Return `margin` as an int, or raise: the polynomials are those of 1, 2, 3 and 4."""
    if isinstance(margin, bool) or margin not in MARGINS:
        raise ValueError(
            f"Argument `margin` must be one of {MARGINS} (the multiple of the target angle). "
            f"Received: margin={margin!r}"
        )
    return int(margin)


def check_real_margin(margin: float) -> float:
    """Return `margin` as a float, or raise: a multiple of the angle below 1 is no margin."""
    number = isinstance(margin, int | float | np.number) and not isinstance(margin, bool)
    if not number or not 1 <= margin < math.inf:
        raise ValueError(
            "Argument `margin` must be a number of at least 1 (the multiple of the target angle). "
            f"Received: margin={margin!r}"
        )
    return float(margin)


def cos_multiple_angle(cos_theta: Any, margin: int) -> Any:
    """Compute `cos(margin * theta)` from `cos(theta)`: the Chebyshev polynomial `T_margin`.

    Args:
        cos_theta: cosines in [-1, 1], any shape. Rounding past 1 is harmless: a polynomial has no
            edge there, and its gradient stays what it is.
        margin: 1, 2, 3 or 4.

    Returns:
        A tensor of the same shape and dtype, in [-1, 1].

    Raises:
        ValueError: `margin` is not 1, 2, 3 or 4.

    Example:

    >>> float(cos_multiple_angle(0.5, 3))     # 3 * 60 degrees = 180 degrees
    -1.0
    """
    margin = check_margin(margin)
    c = _as_float_tensor(cos_theta)
    if margin == 1:
        return c
    square = ops.square(c)
    if margin == 2:
        return 2.0 * square - 1.0
    if margin == 3:
        return c * (4.0 * square - 3.0)
    return 8.0 * square * (square - 1.0) + 1.0


def psi(cos_theta: Any, margin: int) -> Any:
    """Compute the paper's monotone extension of `cos(margin * theta)`.

    `psi(theta) = (-1)^k cos(margin * theta) - 2k` for `theta` between `k pi / margin` and
    `(k + 1) pi / margin` (CVPR 2017, below eq. 6). It falls from 1 at 0 to `1 - 2 * margin` at pi,
    and its derivative is continuous. The interval `k` is found from the signs of polynomials, so
    no `arccos` is needed; at the joints, where a sign is 0, value and gradient (0) are exact too.

    Args:
        cos_theta: cosines in [-1, 1], any shape.
        margin: 1, 2, 3 or 4.

    Returns:
        A tensor of the same shape and dtype, in `[1 - 2 * margin, 1]`.

    Raises:
        ValueError: `margin` is not 1, 2, 3 or 4.

    Example:

    >>> [float(psi(c, 4)) for c in (1.0, 0.0, -1.0)]
    [1.0, -3.0, -7.0]
    """
    margin = check_margin(margin)
    c = _as_float_tensor(cos_theta)
    multiple = cos_multiple_angle(c, margin)
    if margin == 1:
        return multiple
    s0 = ops.sign(c)
    if margin == 2:
        return s0 * (multiple + 1.0) - 1.0
    if margin == 3:
        s1 = ops.sign(ops.abs(c) - 0.5)
        return s1 * multiple + s0 * (1.0 + s1) - 2.0
    s3 = s0 * ops.sign(2.0 * ops.square(c) - 1.0)
    return s3 * multiple + 2.0 * s0 + s3 - 3.0


def psi_slope(cos_theta: Any, margin: int) -> Any:
    """Compute the derivative of psi with respect to the cosine, as a formula.

    Arguments and errors are those of `psi`. Returns a tensor of the cosines' shape and dtype, in
    `[0, margin ** 2]`; 0 at the joints.

    Example:

    >>> [float(psi_slope(c, 4)) for c in (1.0, 0.0, -1.0)]
    [16.0, 0.0, 16.0]
    """
    margin = check_margin(margin)
    c = _as_float_tensor(cos_theta)
    s0 = ops.sign(c)
    if margin == 1:
        return ops.ones_like(c)
    if margin == 2:
        return 4.0 * s0 * c
    if margin == 3:
        return ops.sign(ops.abs(c) - 0.5) * (12.0 * ops.square(c) - 3.0)
    s3 = s0 * ops.sign(2.0 * ops.square(c) - 1.0)
    return s3 * c * (32.0 * ops.square(c) - 16.0)


def psi_real(cos_theta: Any, margin: float) -> Any:
    """Compute psi for a real-valued margin.

    The formula is that of `psi`, with intervals of `pi / margin`; the last one ends early, at pi,
    where the value is `psi(pi)` of the formula. The derivative with respect to the cosine,
    `(-1)^k margin sin(margin theta) / sin(theta)`, is `margin^2` at angle 0 and would be infinite
    at pi for a margin that is no integer: there the sine is held at `SINE_FLOOR`.

    Args:
        cos_theta: cosines in [-1, 1], any shape; what rounding put past 1 counts as 1.
        margin: a real number, at least 1.

    Returns:
        A tensor of the same shape and dtype, falling in theta, at most 1.

    Raises:
        ValueError: `margin` is no number of at least 1.

    Source: TPAMI 2022, SphereFace-R v0.

    Example:

    >>> [round(float(psi_real(c, 1.5)), 4) for c in (1.0, 0.0, -1.0)]
    [1.0, -0.7071, -2.0]
    """
    margin = check_real_margin(margin)
    theta = angle_of(cos_theta)
    k = ops.floor(theta * (margin / np.pi))
    sign = 1.0 - 2.0 * (k - 2.0 * ops.floor(k / 2.0))  # (-1)^k
    value = sign * ops.cos(margin * theta) - 2.0 * k
    return _with_slope(value, sign * margin * _sine_ratio(theta, margin), cos_theta)


def cos_scaled_angle(cos_theta: Any, factor: float) -> Any:
    """Compute `cos(min(factor * theta, pi))` for a real factor.

    Above 1 the factor is a margin on the target, below 1 one on the other classes.

    Args:
        cos_theta: cosines in [-1, 1], any shape.
        factor: a real number above 0.

    Returns:
        A tensor of the same shape and dtype in [-1, 1], falling in theta and flat where
        `factor * theta` is above pi.

    Source: TPAMI 2022, SphereFace-R v1 (`factor = margin`) and v2 (`1 / margin`).

    Example:

    >>> round(float(cos_scaled_angle(0.0, 0.5)), 4)     # half of 90 degrees
    0.7071
    """
    theta = angle_of(cos_theta)
    scaled = ops.minimum(factor * theta, np.pi)
    slope = factor * _sine_ratio(theta, factor)
    slope = ops.where(factor * theta < np.pi, slope, ops.zeros_like(slope))
    return _with_slope(ops.cos(scaled), slope, cos_theta)


def cos_shifted_angle(cos_theta: Any, shift: Any) -> Any:
    """Compute `cos(theta + shift)`, and go on falling where `theta + shift` is above pi.

    Below pi it is `cos(theta) cos(shift) - sin(theta) sin(shift)`, without an arccos; the sine is
    a straight line where it is below `SINE_FLOOR`, so that its derivative is finite. Past pi the
    cosine would rise again and reward a larger angle; the value goes on as psi does, with
    `-2 - cos(theta + shift)`, which joins with a continuous derivative and ends at
    `cos(shift) - 2`.

    Args:
        cos_theta: cosines in [-1, 1], any shape.
        shift: radians, in [0, pi); a number or a scalar tensor.

    Returns:
        A tensor of the same shape and dtype, in `[cos(shift) - 2, cos(shift)]`.

    Source: Deng, Guo, Xue, Zafeiriou, "ArcFace", CVPR 2019, arXiv:1801.07698, eq. 3; the
    continuation past pi is ours.

    Example:

    >>> [round(float(cos_shifted_angle(c, 0.5)), 4) for c in (1.0, 0.0, -1.0)]
    [0.8776, -0.4794, -1.1224]
    """
    c = _as_float_tensor(cos_theta)
    shifted = cos_sum(c, shift)
    return ops.where(c >= -ops.cos(ops.cast(shift, c.dtype)), shifted, -2.0 - shifted)


def cos_shifted_angle_released(cos_theta: Any, shift: Any) -> Any:
    """Compute `cos(theta + shift)`; past pi, `cos(theta) - shift sin(shift)`.

    `shift`, radians in [0, pi), is broadcast against `cos_theta`, and has a gradient too.

    Source: Meng, Zhao, Huang, Zhou, "MagFace", CVPR 2021, arXiv:2103.06627, released code.

    Example:

    >>> [round(float(cos_shifted_angle_released(c, 0.5)), 4) for c in (1.0, 0.0, -1.0)]
    [0.8776, -0.4794, -1.2397]
    """
    c = _as_float_tensor(cos_theta)
    shift = ops.convert_to_tensor(shift, dtype=c.dtype)
    return ops.where(c > -ops.cos(shift), cos_sum(c, shift), c - shift * ops.sin(shift))


def cos_clipped_shift(cos_theta: Any, shift: Any, edge: float = 1e-3) -> Any:
    """Compute `cos(theta + shift)` of a sum that is clipped to [edge, pi - edge].

    `shift`, radians of either sign, is broadcast against `cos_theta` and has no gradient.

    Source: Kim, Jain, Liu, "AdaFace", CVPR 2022, arXiv:2204.00964, released code.

    Example:

    >>> [round(float(cos_clipped_shift(0.0, shift)), 4) for shift in (0.5, -0.5, 3.0)]
    [-0.4794, 0.4794, -1.0]
    """
    theta = angle_of(cos_theta)
    total = theta + ops.convert_to_tensor(shift, dtype=theta.dtype)
    kept = ops.clip(total, edge, math.pi - edge)
    slope = ops.where(kept == total, ops.sin(total), 0.0) / ops.maximum(ops.sin(theta), SINE_FLOOR)
    return _with_slope(ops.cos(kept), slope, cos_theta)


def a_softmax_logit(cos_theta: Any, norm: Any, margin: int, lambda_: Any) -> Any:
    """Compute the annealed target logit of A-Softmax.

    `norm * (lambda * cos + psi) / (1 + lambda)`, evaluated as `norm * (cos + (psi - cos) / (1 +
    lambda))`, which cannot overflow for a large lambda. With lambda = 0 it is the paper's eq. 7;
    with lambda -> infinity the plain logit.

    Args:
        cos_theta: cosine between embedding and the target's class centre, any shape.
        norm: length of the embedding, >= 0, broadcast against `cos_theta`.
        margin: 1, 2, 3 or 4.
        lambda_: weight of the plain cosine, >= 0; a number or a scalar tensor.

    Returns:
        The target logit, in `[norm * (lambda + 1 - 2 * margin) / (1 + lambda) - eps, norm]`.

    Raises:
        ValueError: `margin` is not 1, 2, 3 or 4.

    Example:

    >>> float(a_softmax_logit(-1.0, 10.0, margin=4, lambda_=5.0))
    -20.0
    """
    c = _as_float_tensor(cos_theta)
    blend = 1.0 / (1.0 + ops.convert_to_tensor(lambda_, dtype=c.dtype))
    return ops.convert_to_tensor(norm, dtype=c.dtype) * (c + (psi(c, margin) - c) * blend)


def effective_margin(margin: int, lambda_: Any) -> Any:
    """Compute the margin that is really felt at a given lambda.

    The blend with the plain cosine weakens the margin. The effective one is the real number `m`
    whose `psi` (with `m` in place of the integer) fits the blended target best, by least squares
    over `[0, pi / 2]`: 1.37 for `margin=4, lambda_=5`, 2.28 for lambda 1, 4 for lambda 0.

    Args:
        margin: 1, 2, 3 or 4.
        lambda_: >= 0; a number or a tensor.

    Returns:
        A float32 tensor of lambda's shape, in `[1, margin]`, accurate to 0.005 (interpolated in a
        table, so that it can be logged from inside a compiled training step).

    Raises:
        ValueError: `margin` is not 1, 2, 3 or 4.

    Example:

    >>> round(float(effective_margin(4, 5.0)), 2)
    1.37
    """
    table = _effective_margin_table(check_margin(margin))
    blend = 1.0 / (1.0 + ops.convert_to_tensor(lambda_, dtype="float32"))
    position = blend * (len(table) - 1)
    left = ops.clip(ops.cast(ops.floor(position), "int32"), 0, len(table) - 2)
    fraction = position - ops.cast(left, "float32")
    values = ops.convert_to_tensor(table)
    low = ops.take(values, left)
    return low + fraction * (ops.take(values, left + 1) - low)


@functools.lru_cache
def _effective_margin_table(margin: int, size: int = 513) -> np.ndarray:
    """Tabulate the effective margin over `1 / (1 + lambda)` in [0, 1]."""
    theta = np.linspace(0.0, np.pi / 2, 501)
    candidates = np.linspace(1.0, 4.0, 3001)
    curves = psi_of_angle(theta[None, :], candidates[:, None])
    energy = np.sum(curves**2, axis=1)
    plain, full = np.cos(theta), psi_of_angle(theta, float(margin))
    blends = np.linspace(0.0, 1.0, size)
    targets = plain + blends[:, None] * (full - plain)
    errors = energy[None, :] - 2.0 * targets @ curves.T
    return candidates[np.argmin(errors, axis=1)].astype("float32")


def psi_of_angle(theta: Any, margin: Any) -> Any:
    """Compute psi for a real-valued margin, from angles: NumPy, for tables and experiments.

    It is `psi_real` of `cos(theta)`; `theta` is in radians, from 0 to pi, of any shape, and
    `margin`, real numbers of at least 1, is broadcast against it.

    Example:

    >>> round(float(psi_of_angle(np.pi, 1.5)), 4)
    -2.0
    """
    k = np.floor(margin * theta / np.pi)
    return (-1.0) ** k * np.cos(margin * theta) - 2.0 * k


def angle_of(cos_theta: Any) -> Any:
    """Return the angle of a cosine in radians, without a gradient.

    Example:

    >>> round(float(angle_of(-1.0)), 4)
    3.1416
    """
    c = ops.stop_gradient(_as_float_tensor(cos_theta))
    return ops.arccos(ops.clip(c, -1.0, 1.0))


def cos_sum(c: Any, shift: Any) -> Any:
    """Return `cos(theta + shift)` of cosines `c`, any shape; shift in radians, no arccos."""
    square = ops.maximum((1.0 - c) * (1.0 + c), 0.0)
    floor = SINE_FLOOR**2
    sine = ops.where(square > floor, ops.sqrt(ops.maximum(square, floor)), square / SINE_FLOOR)
    shift = ops.convert_to_tensor(shift, dtype=c.dtype)
    return c * ops.cos(shift) - sine * ops.sin(shift)


def _sine_ratio(theta: Any, factor: float) -> Any:
    """Return `sin(factor theta) / sin(theta)`; `factor` at 0, and bounded at pi."""
    ratio = ops.sin(factor * theta) / ops.maximum(ops.sin(theta), SINE_FLOOR)
    return ops.where(theta < SINE_FLOOR, ops.full_like(ratio, factor), ratio)


def _with_slope(value: Any, slope: Any, cos_theta: Any) -> Any:
    """Return `value` with the derivative `slope` with respect to the cosine (first order)."""
    c = _as_float_tensor(cos_theta)
    return ops.stop_gradient(value) + ops.stop_gradient(slope) * (c - ops.stop_gradient(c))


def _as_float_tensor(value: Any) -> Any:
    """Return a floating-point tensor; Python numbers and integers become float32."""
    tensor = ops.convert_to_tensor(value)
    return tensor if "float" in str(tensor.dtype) else ops.cast(tensor, "float32")
