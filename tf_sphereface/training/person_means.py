"""Class centres that start at each person's mean embedding."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.classifier.face_classifier import FaceClassifier
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.training.pretrained import Pretrained
from tf_sphereface.utils.messages import ProgressCallback


def person_means(
    network: keras.Model,
    source: FaceSource,
    centers_per_class: int = 1,
    *,
    progress: ProgressCallback | None = None,
) -> NDArray[np.float32]:
    """Return unit mean embeddings of each person: one pass over the faces, without augmentation.

    Each embedding is brought to length 1 before. With several centres, a person's faces are dealt
    to them in turn; a centre without a face starts beside the mean of all.

    Args:
        network: from what `source` gives to embeddings (n, d).
        source: the faces, loaded.
        centers_per_class: of each person.
        progress: called with (faces done, all).

    Returns:
        float32, (num_classes * centers_per_class, d); those of one person together. Zeros for a
        person without a face, or whose embeddings cancel out.

    Raises:
        ValueError: an embedding is not finite.
    """
    dim, count = int(network.output_shape[-1]), centers_per_class
    sums = np.zeros((source.num_classes, count, dim), np.float64)
    seen = np.zeros(source.num_classes, np.int64)
    embed = tf.function(lambda images: network(images, training=False), reduce_retracing=True)
    done, total = 0, len(source)
    for images, labels, *_ in source.in_order():
        vectors = np.asarray(embed(images), np.float64)
        if not np.all(np.isfinite(vectors)):
            raise ValueError(
                f"the network's embeddings of faces {done} to {done + len(vectors) - 1} are not "
                "finite: it cannot be trained further"
            )
        for label, vector in zip(np.asarray(labels), _unit(vectors), strict=True):
            sums[label, seen[label] % count] += vector
            seen[label] += 1
        done += len(vectors)
        if progress is not None:
            progress(done, total)
    means = _unit(sums)
    if count > 1:
        rng = np.random.default_rng(source.seed)
        whole = _unit(sums.sum(axis=1, keepdims=True))
        beside = _unit(whole + rng.normal(0, 0.1 / np.sqrt(dim), means.shape))
        empty = np.linalg.norm(means, axis=-1, keepdims=True) == 0
        means = np.where(empty & (seen > 0)[:, None, None], beside, means)
    return means.reshape(-1, dim).astype(np.float32)


def start_at_means(
    model: FaceClassifier,
    source: FaceSource,
    pretrained: Pretrained,
    *,
    progress: ProgressCallback | None = None,
) -> None:
    """Let a classifier's centres start at each person's mean, computed in float32."""
    network = pretrained.with_scaling(pretrained.network)
    means = person_means(network, source, model.centers_per_class, progress=progress)
    start_centers(model.head_layer, means)


def start_centers(head: Any, means: NDArray[np.float32]) -> None:
    """Write means into a head; a centre of zeros keeps the random one that it has."""
    current = np.array(head.kernel).T
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    new = np.where(lengths > 0, means, current)
    if hasattr(head, "assign_centres"):  # of a sampled head
        head.assign_centres(new)
    else:
        head.kernel.assign(new.T)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0))
