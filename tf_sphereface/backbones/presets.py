"""Networks by name, with the papers' settings, or from a file or a run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import keras

from tf_sphereface.backbones.known_weights import known_weights
from tf_sphereface.backbones.mobilefacenet import MobileFaceNet
from tf_sphereface.backbones.sphereface import UNITS, SphereFaceNet
from tf_sphereface.utils.checks import error

SIZES = ((112, 96), (112, 112))

PRESETS: dict[str, Callable[[], keras.Model]] = {
    **{
        f"sphereface{depth}_{height}x{width}": functools.partial(
            SphereFaceNet, depth, (height, width, 3), embedding_dim=512
        )
        for height, width in SIZES
        for depth in UNITS
    },
    **{
        f"mobilefacenet_{height}x{width}": functools.partial(
            MobileFaceNet, (height, width, 3), embedding_dim=128
        )
        for height, width in SIZES
    },
}
"""By name: a network with new weights, of the papers' embedding length (512 and 128)."""


def from_preset(preset: str | os.PathLike[str]) -> keras.Model:
    """Build a network by name, or load one with its weights.

    Args:
        preset: one of `PRESETS`, such as `"sphereface20_112x96"` or `"mobilefacenet_112x112"`: a
            network with new weights. Or a path: a `.keras` file that `tf_sphereface-train` or
            `tf_sphereface-import` wrote (a classifier's head is left out), or a run folder, whose
            `embedder.keras` is taken. A name wins over a file of that name; write `./name` for it.

    Returns:
        The network from an aligned face, float32 (batch, height, width, 3) in `[-1, 1]`, to an
        embedding, not normalised. A loaded one wants the channel order that
        `sf.embedder.read_metadata(path).channel_order` tells.

    Raises:
        ValueError: neither a name (the message lists them) nor a path that exists, or the file is
            no network of this kind. For a public file of weights (`known_weights`) the message says
            where it is from and how it is imported; nothing is downloaded.
        FileNotFoundError: a run folder whose training has not ended.

    Example:

    >>> from_preset("sphereface4_112x96").output_shape
    (None, 512)
    """
    if isinstance(preset, str) and preset in PRESETS:
        return PRESETS[preset]()
    path = Path(preset)
    if path.is_dir():
        path = _of_run(path)
    if not path.is_file():
        for each in known_weights():
            if each.file == os.fspath(preset):
                text = f"be a file that is here; known_weights(): from {each.source}; {each.how}"
                raise error("preset", text, os.fspath(preset))
        names = ", ".join(PRESETS)
        text = f"be one of {names}, or the path of a .keras file or of a run folder"
        raise error("preset", text, os.fspath(preset))
    from tf_sphereface.backbones.extraction import as_backbone, load_model

    if path.suffix != ".keras":
        raise error("preset", "be a .keras file", os.fspath(path))
    return as_backbone(load_model(path))


def _of_run(folder: Path) -> Path:
    """Return the embedder of a run folder."""
    path = folder / "embedder.keras"
    if path.is_file():
        return path
    if (folder / "config.json").is_file():
        best = " (best.keras there is the best so far)" if (folder / "best.keras").is_file() else ""
        raise FileNotFoundError(
            f"{folder} is a run that has not ended: it has no embedder.keras yet{best}; go on with "
            "tf_sphereface-train --resume"
        )
    raise FileNotFoundError(f"{folder} is no run folder: it has no embedder.keras")
