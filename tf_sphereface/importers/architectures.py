"""The networks that can be imported: by name, the reader, and how each wants its faces."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras

from tf_sphereface.importers.assign_weights import remember_input
from tf_sphereface.importers.caffemodel import read_caffemodel
from tf_sphereface.importers.mobilefacenet import load_mobilefacenet
from tf_sphereface.importers.sphereface import Loaded, load_sphere20a, load_sphereface_caffe
from tf_sphereface.importers.torch_pickle import read_torch_checkpoint
from tf_sphereface.utils.checks import check_choice

Load = Callable[..., Loaded]

_TORCH, _CAFFE = "a PyTorch checkpoint", "a .caffemodel"

MATLAB_NOTE = (
    "The authors cut their faces in MATLAB, which counts pixels from 1. The same template numbers "
    "are used here with pixels counted from 0, as in the Python ports, so that a face lies one "
    "pixel further right and down than in the authors' crops."
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of checkpoint, and how its network wants its faces."""

    name: str  # what `--arch` takes
    network: str  # its name in the metadata
    source: str  # the kind of file
    load: Load  # (path, key=, input_size=) to the model and what was left out
    channel_order: str
    flip: str  # what its authors' own evaluation did with the mirror image
    summary: str  # a line for the help
    notes: tuple[str, ...] = ()  # what a user of such weights should know


def _mobilefacenet(path: Path, *, key: str | None, input_size: Sequence[int] | None) -> Loaded:
    if input_size is not None:
        raise ValueError("input_size is for SphereFace networks; these weights tell their own size")
    return Loaded(load_mobilefacenet(path, key=key), [])


def _caffe(depth: int) -> Load:
    def load(path: Path, *, key: str | None, input_size: Sequence[int] | None) -> Loaded:
        if key is not None:
            raise ValueError("key is for PyTorch checkpoints; a .caffemodel has one set of weights")
        return load_sphereface_caffe(path, depth, input_size=input_size)

    return load


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "mobilefacenet",
            "MobileFaceNet",
            _TORCH,
            _mobilefacenet,
            channel_order="rgb",
            flip="none",
            summary="the public PyTorch MobileFaceNet; RGB",
        ),
        Architecture(
            "sphere20a",
            "SphereFaceNet-20",
            _TORCH,
            load_sphere20a,
            channel_order="bgr",
            flip="none",
            summary="the public PyTorch sphere20a (zip or legacy); BGR",
            notes=(
                "Channels are BGR: the implementation that these weights come from reads images "
                "with OpenCV and does not reorder them. Weights of this layout that were trained "
                "on RGB need --channel-order rgb.",
            ),
        ),
        Architecture(
            "sphereface20-caffe",
            "SphereFaceNet-20",
            _CAFFE,
            _caffe(20),
            channel_order="bgr",
            flip="concat",
            summary="the authors' 20-layer .caffemodel; BGR",
            notes=("Channels are BGR, as Caffe has them.", MATLAB_NOTE),
        ),
        Architecture(
            "sphereface64-caffe",
            "SphereFaceNet-64",
            _CAFFE,
            _caffe(64),
            channel_order="bgr",
            flip="concat",
            summary="the authors' 64-layer .caffemodel; BGR",
            notes=("Channels are BGR, as Caffe has them.", MATLAB_NOTE),
        ),
    )
}


@dataclasses.dataclass(frozen=True, eq=False)
class Imported:
    """A network from elsewhere, up to its embedding, and what it was read as."""

    model: keras.Model
    architecture: Architecture
    left_out: list[str]  # what of the file is not in the model, in words


def import_checkpoint(
    path: str | os.PathLike[str],
    arch: str,
    *,
    key: str | None = None,
    input_size: Sequence[int] | None = None,
) -> Imported:
    """Read a checkpoint of a known kind.

    Args:
        path: the file.
        arch: one of `ARCHITECTURES`.
        key: the entry of a PyTorch checkpoint that holds the weights; by default the only one.
        input_size: (height, width), where the weights do not tell it.

    Raises:
        ValueError: an unknown `arch`, or the file does not hold such a network; the message lists
            every tensor that does not fit, and names the `arch` that would.
        OSError: the file cannot be read.

    Example:

    >>> imported = import_checkpoint("sphere20a.pth", "sphere20a")    # doctest: +SKIP
    >>> imported.model.output_shape                                   # doctest: +SKIP
    (None, 512)
    """
    architecture = ARCHITECTURES[check_choice("arch", arch, tuple(ARCHITECTURES))]
    try:
        model, left_out = architecture.load(Path(path), key=key, input_size=input_size)
    except ValueError as error:
        better = guess_architecture(path)
        if better in (None, arch):
            raise
        raise ValueError(f"{error}. The file looks like --arch {better}") from error
    remember_input(model, architecture.channel_order, flip=architecture.flip)
    return Imported(model, architecture, left_out)


def guess_architecture(path: str | os.PathLike[str]) -> str | None:
    """Return the `arch` that a file looks like, by the names in it; None where it is unclear."""
    for read, signatures in _SIGNATURES:
        try:
            names = set(read(path))
        except (OSError, ValueError):
            continue
        return next((arch for arch, signature in signatures.items() if signature <= names), None)
    return None


_SIGNATURES: tuple[tuple[Callable[..., Iterable[str]], dict[str, set[str]]], ...] = (
    (
        read_caffemodel,
        {"sphereface64-caffe": {"conv3_33"}, "sphereface20-caffe": {"conv3_9"}},
    ),
    (
        read_torch_checkpoint,
        {
            "mobilefacenet": {"linear7.conv.weight"},
            "sphere20a": {"conv3_9.weight", "conv4_3.weight"},
        },
    ),
)
"""Names that only one architecture has, by reader; the first that fits counts."""
