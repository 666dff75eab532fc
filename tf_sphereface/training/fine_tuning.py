"""Training that starts from a trained network."""

from __future__ import annotations

import os
from typing import Any

import keras

from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.embedder import Embedder
from tf_sphereface.training.presets import preset
from tf_sphereface.training.pretrained import Pretrained, open_pretrained
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.training.resumable import Run, run
from tf_sphereface.training.run_folder import RunFolder


def fine_tune(
    model: str | os.PathLike[str] | keras.Model | Embedder | Pretrained | None,
    source: FaceSource,
    out: str | os.PathLike[str],
    recipe: Recipe | None = None,
    **options: Any,
) -> Run:
    """Train a network further, on the faces of `source`, in a run folder.

    The head is a new one, whose centres start at each person's mean embedding. Size, channel order
    and scale of the pixels are the network's own, as is its architecture, whatever the recipe says.
    `model` is left as it is. See `docs/guides/fine-tune.md`.

    Args:
        model: what `open_pretrained` takes: a `.keras` file, a Keras model, an
            `Embedder`. None, with `resume=True`: the one that the run folder keeps.
        source: faces aligned as the network takes them, of its size and channel order. Its pixels
            are brought to the network's scale.
        out: the run folder.
        recipe: how to train; its `freeze_epochs`, `freeze_norm` and `body_rate` are for this.
            Default: `preset("fine-tune")`.
        **options: `resume`, `callbacks`, `strategy`, `checkpoint_every`, `keep`, as of `run`;
            `progress`, called with (done, all) faces while the means are computed.

    Returns:
        The finished run: its `network()` is the embedder, which knows how it is fed. A threshold of
        `model` is not carried over: it was measured with other weights.

    Raises:
        ValueError: as `open_pretrained` and `run`; the faces do not fit the network; the run in
            `out` started from another network.

    Example:

    >>> import dataclasses
    >>> import tf_sphereface as sf
    >>> network = sf.backbones.SphereFaceNet(4, (28, 24, 3), 8)
    >>> embedder = sf.load_embedder(
    ...     network, channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    >>> source = sf.data.FaceSource(sf.data.SyntheticFaces(2, 4), image_size=(28, 24))
    >>> recipe = dataclasses.replace(preset("fine-tune"), epochs=1, batch_size=4)
    >>> finished = fine_tune(embedder, source, "runs/mine", recipe)
    >>> finished.network().output_shape
    (None, 8)
    """
    if model is None:
        model = RunFolder(out).base
        if not options.get("resume") or not model.exists():
            raise ValueError(
                f"Argument `model` must be given but to resume a run, and {out} holds none that "
                "started from a network"
            )
    pretrained = open_pretrained(model)
    recipe = pretrained.recipe(recipe or preset("fine-tune"))
    return run(recipe, source, out, pretrained=pretrained, **options)
