"""Oracles, written differently from the library: arccos and loops, in float64."""

from __future__ import annotations

import math

import numpy as np


def psi(theta: float, margin: int) -> float:
    """The paper's definition, by intervals."""
    k = min(int(theta * margin / math.pi), margin - 1)
    return (-1) ** k * math.cos(margin * theta) - 2 * k


def a_softmax(
    embedding: np.ndarray, kernel: np.ndarray, labels: np.ndarray, margin: int, lambda_: float
) -> np.ndarray:
    """A-Softmax of each example, from the embedding and raw class centres."""
    losses = []
    for x, label in zip(embedding.astype(float), labels, strict=True):
        norm = math.sqrt(float(x @ x))
        logits = []
        for j, centre in enumerate(kernel.T.astype(float)):
            cosine = float(x @ centre) / (norm * math.sqrt(float(centre @ centre)))
            if j == label:
                theta = math.acos(max(-1.0, min(1.0, cosine)))
                cosine = (lambda_ * cosine + psi(theta, margin)) / (1 + lambda_)
            logits.append(norm * cosine)
        top = max(logits)
        total = sum(math.exp(z - top) for z in logits)
        losses.append(top + math.log(total) - logits[label])
    return np.array(losses)


def psi_gradient(x: np.ndarray, w: np.ndarray, margin: int) -> np.ndarray:
    """The gradient of ||x|| psi with respect to x, by the closed forms (w of unit length)."""
    norm = math.sqrt(float(x @ x))
    c = float(w @ x) / norm
    s0 = np.sign(c)
    if margin == 2:
        cw, cx = 4 * s0 * c, -(2 * s0 * c**2 + 1)
    elif margin == 3:
        s1 = np.sign(abs(c) - 0.5)
        s2 = s0 * (1 + s1) - 2
        cw, cx = s1 * (12 * c**2 - 3), -(8 * s1 * c**3 - s2)
    else:
        s3 = s0 * np.sign(2 * c**2 - 1)
        s4 = 2 * s0 + s3 - 3
        cw, cx = s3 * (32 * c**3 - 16 * c), -(s3 * (24 * c**4 - 8 * c**2 - 1) - s4)
    return cw * w + cx * x / norm


def real_psi(theta: float, margin: float) -> float:
    """The paper's definition for any margin; the last interval may be a part of one."""
    k = math.floor(margin * theta / math.pi)
    return (-1) ** k * math.cos(margin * theta) - 2 * k


def angles(embedding: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The angle between each embedding and each class centre, in radians."""
    x = embedding.astype(float) / np.linalg.norm(embedding.astype(float), axis=1, keepdims=True)
    w = kernel.astype(float) / np.linalg.norm(kernel.astype(float), axis=0)
    return np.arccos(np.clip(x @ w, -1.0, 1.0))


def margin_softmax(
    name: str, theta: np.ndarray, labels: np.ndarray, scale: float, margin: float
) -> np.ndarray:
    """NormFace, CosFace, ArcFace and SphereFace-R of each example, from the angles alone."""
    losses = []
    for row, label in zip(theta, labels, strict=True):
        own, others = row[label], np.cos(np.delete(row, label))
        if name == "normface":
            target = math.cos(own)
        elif name == "cosface":
            target = math.cos(own) - margin
        elif name == "arcface":
            total = own + margin
            target = math.cos(total) if total <= math.pi else -2 - math.cos(total)
        elif name == "v0":
            target = real_psi(own, margin)
        elif name == "v1":
            target = math.cos(min(margin * own, math.pi))
        else:
            target, others = math.cos(own), np.cos(np.delete(row, label) / margin)
        terms = scale * (others - target)
        top = max(0.0, terms.max(initial=0.0))
        losses.append(top + math.log(math.exp(-top) + np.exp(terms - top).sum()))
    return np.array(losses)


def by_length(
    name: str, theta: np.ndarray, norms: np.ndarray, labels: np.ndarray, scale: float, margin: float
) -> np.ndarray:
    """AdaFace with its first statistics, MagFace and CurricularFace with t = 0, by their papers."""
    losses = []
    for row, norm, label in zip(theta, norms, labels, strict=True):
        own, others, more = row[label], np.cos(np.delete(row, label)), 0.0
        if name == "adaface":
            z = max(-1.0, min(1.0, 0.333 * (min(max(norm, 0.001), 100) - 20) / 100.001))
            kept = min(max(own - margin * z, 1e-3), math.pi - 1e-3)
            target = math.cos(kept) - (margin + margin * z)
        else:
            length = min(max(norm, 10), 110)
            m = 0.45 + 0.35 * (length - 10) / 100 if name == "magface" else margin
            over = own + m >= math.pi
            target = math.cos(own) - math.sin(math.pi - m) * m if over else math.cos(own + m)
            more = 35 * (length / 110**2 + 1 / length) if name == "magface" else 0.0
        if name == "curricularface":
            others = np.where(others > math.cos(own + m), others * others, others)
        losses.append(more + np.logaddexp(0, np.logaddexp.reduce(scale * others) - scale * target))
    return np.array(losses)


def sphereface2(
    theta: np.ndarray,
    labels: np.ndarray,
    bias: float,
    scale: float = 40.0,
    margin: float = 0.4,
    alpha: float = 0.7,
    power: float = 3.0,
    weight: float = 50.0,
) -> np.ndarray:
    """SphereFace2 of each example: a loop over its binary decisions."""
    losses = []
    for row, label in zip(theta, labels, strict=True):
        loss = 0.0
        for j, angle in enumerate(row):
            g = 2 * ((math.cos(angle) + 1) / 2) ** power - 1
            if j == label:
                loss += alpha * np.logaddexp(0, -scale * (g - margin) - bias)
            else:
                loss += (1 - alpha) * np.logaddexp(0, scale * (g + margin) + bias)
        losses.append(weight / scale * loss)
    return np.array(losses)


def caffe_backward(
    x: np.ndarray, w: np.ndarray, labels: np.ndarray, margin: int, lambda_: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The released layer, forward and backward, under a mean softmax loss; `w` has unit columns.

    A transcription of its loops: the margin's coefficients by sign variables, divided by their
    length; the centres' gradient without the margin. Returns margin logits, x- and w-gradient.
    """
    x, w = x.astype(float), w.astype(float)
    norms = np.linalg.norm(x, axis=1)
    logits = x @ w
    for i, y in enumerate(labels):
        c = logits[i, y] / norms[i]
        theta = math.acos(max(-1.0, min(1.0, c)))
        logits[i, y] = (lambda_ * logits[i, y] + norms[i] * psi(theta, margin)) / (1 + lambda_)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    top_diff = shifted / shifted.sum(axis=1, keepdims=True)
    top_diff[np.arange(len(x)), labels] -= 1
    top_diff /= len(x)
    x_diff = np.zeros_like(x)
    for i, y in enumerate(labels):
        for j in range(w.shape[1]):
            if j != y:
                x_diff[i] += top_diff[i, j] * w[:, j]
        c = float(x[i] @ w[:, y]) / norms[i]
        s0 = np.sign(c)
        if margin == 2:
            cw, cx = 4 * s0 * c, -(2 * s0 * c**2 + 1) / norms[i]
        elif margin == 3:
            s1 = np.sign(abs(c) - 0.5)
            s2 = s0 * (1 + s1) - 2
            cw, cx = s1 * (12 * c**2 - 3), -(8 * s1 * c**3 - s2) / norms[i]
        else:
            s3 = s0 * np.sign(2 * c**2 - 1)
            s4 = 2 * s0 + s3 - 3
            cw = s3 * (32 * c**3 - 16 * c)
            cx = -(s3 * (24 * c**4 - 8 * c**2 - 1) - s4) / norms[i]
        length = math.sqrt(cw**2 + cx**2)
        part = (cw * w[:, y] + cx * x[i]) / length
        x_diff[i] += top_diff[i, y] / (1 + lambda_) * (part + lambda_ * w[:, y])
    return logits, x_diff, x.T @ top_diff
