"""An imported network beside its source: the same images through both."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_sphereface.embedder import Embedder, EmbedderMetadata
from tf_sphereface.embedder.input_facts import guess
from tf_sphereface.embedder.runtimes import OnnxRunner

MOST, MOST_OF_HALF = 1e-4, 2e-2  # relative error; the second where the source computes in 16 bits
NOT_POSSIBLE = "no parity check was possible: "
OF_WEIGHTS = NOT_POSSIBLE + "the file holds weights, and not the program that runs them"
_SEED, _IMAGES = 20170712, 6


@dataclasses.dataclass(frozen=True)
class SourceParity:
    """How near an imported network comes to its source.

    Attributes:
        cosine: the smallest cosine of an image's two embeddings.
        relative_error: the largest length of their difference, as a fraction of the source's.
        images: how many images were compared.
    """

    cosine: float
    relative_error: float
    images: int

    def __str__(self) -> str:
        return (
            f"parity with the source: cosine {self.cosine:.7f}, largest relative error "
            f"{self.relative_error:.1e} over {self.images} images (ONNX Runtime)"
        )


def seeded_images(height: int, width: int) -> np.ndarray:
    """Return uint8 images, (n, height, width, 3): coarse patterns with noise on them."""
    rng = np.random.default_rng(_SEED)
    coarse = rng.integers(20, 236, (_IMAGES, 7, 7, 3))
    rows, columns = (np.arange(side) * 7 // side for side in (height, width))
    fine = rng.integers(-20, 21, (_IMAGES, height, width, 3))
    return (coarse[:, rows][:, :, columns] + fine).astype(np.uint8)


def require_embeddings(model: keras.Model, path: Path) -> None:
    """Raise ValueError where a network answers images by no numbers, by zeros, or by one number.

    So do damaged weights, such as those of a normalisation with negative variances. The images are
    given normalised, and as pixels: which of them the network takes is not known here.
    """
    pixels = seeded_images(*model.input_shape[1:3]).astype(np.float32)
    lengths = []
    for images in ((pixels - 127.5) / 128.0, pixels):
        answers = keras.ops.convert_to_numpy(model(images, training=False))
        if answers.shape[-1] == 1:
            raise ValueError(
                f"{path}: the network answers an image by one number, such as the norm of its "
                "embedding: choose another output (key, --key)"
            )
        flat = answers.astype(np.float64).reshape(len(images), -1)
        lengths.append(np.linalg.norm(flat, axis=1))
        if np.isfinite(lengths[-1]).all() and lengths[-1].all():
            return
    what = "zeros" if np.isfinite(lengths[0]).all() else "numbers that are not finite"
    raise ValueError(
        f"{path}: the network answers images by {what}: its weights are damaged, or of another "
        "network. It is not imported"
    )


def compare_with_onnx(
    model: keras.Model,
    path: Path,
    *,
    source: dict[str, Any],
    imported: dict[str, Any],
    half: bool = False,
) -> SourceParity | str:
    """Run an ONNX file and the model that was made of it on the same images.

    Args:
        model: the Keras model.
        path: the file; it has one input and one output.
        source: how the file is fed: `pixel_mean` and `pixel_scale`, empty where it takes pixels.
        imported: how the model is fed.
        half: whether the file computes with 16 bits.

    Returns:
        The figures, or in words why there are none.

    Raises:
        ValueError: the model computes something else.
    """
    images = seeded_images(*model.input_shape[1:3])
    fed = dataclasses.replace(guess(), channel_order="rgb", input_size=images.shape[1:3], **source)
    try:
        expected = OnnxRunner(path, fed, None)(images)
    except ImportError as error:
        return f"{NOT_POSSIBLE}{error}"
    except Exception as error:  # ONNX Runtime raises its own kinds
        reason = " ".join(str(error).split())[:300]
        return f"{NOT_POSSIBLE}ONNX Runtime does not run the file ({reason})"
    metadata = EmbedderMetadata(channel_order="rgb", **imported)
    actual = Embedder.in_memory(model, metadata, float32=True)(images)
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    norms = np.maximum(np.linalg.norm(a, axis=1), 1e-30)
    relative = float((np.linalg.norm(a - b, axis=1) / norms).max())
    cosine = float(((a * b).sum(axis=1) / norms / np.linalg.norm(b, axis=1)).min())
    most = MOST_OF_HALF if half else MOST
    if not relative <= most:  # NaN too
        raise ValueError(
            f"{path}: the Keras model does not compute what the file computes: a relative error of "
            f"{relative:.1e} and a cosine of {cosine:.6f} over {len(images)} images, where at most "
            f"{most:g} is allowed. It is not imported; as it is the file can be used"
        )
    return SourceParity(cosine, relative, len(images))
