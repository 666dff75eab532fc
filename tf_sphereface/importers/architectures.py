"""Import of a checkpoint: which network it is of, its weights, and what was left out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from tf_sphereface.backbones.remembered_metadata import remember, remember_input
from tf_sphereface.embedder.input_facts import given_facts, with_given
from tf_sphereface.embedder.metadata import METADATA_NAME, EmbedderMetadata
from tf_sphereface.importers.architecture_table import ARCHITECTURES, ONNX, Architecture
from tf_sphereface.importers.caffemodel import read_caffemodel
from tf_sphereface.importers.file_formats import (
    ONNX_MODEL,
    is_onnx,
    is_torch_or_safetensors,
    refuse_other_formats,
)
from tf_sphereface.importers.onnx_facts import onnx_facts
from tf_sphereface.importers.onnx_graph import load_onnx
from tf_sphereface.importers.source_parity import (
    NOT_POSSIBLE,
    OF_WEIGHTS,
    SourceParity,
    compare_with_onnx,
    require_embeddings,
)
from tf_sphereface.importers.sphereface import load_sphereface_caffe
from tf_sphereface.importers.state_dictionaries import (
    Fit,
    Layout,
    TensorFile,
    best_fits,
    load_only_fit,
    open_tensors,
)
from tf_sphereface.utils.checks import check_choice
from tf_sphereface.utils.messages import and_more

AUTO = "auto"
"""The architecture that `import_checkpoint` finds by itself."""


@dataclasses.dataclass(frozen=True, eq=False)
class Imported:
    """A network from elsewhere, up to its embedding, and what it was read as."""

    model: keras.Model
    architecture: Architecture
    left_out: list[str]  # what of the file is not in the model, in words
    read_as: str = ""  # which tensors of the file were taken, in words, where there was a choice
    metadata: EmbedderMetadata | None = None  # what `save_weights` has put into the file
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # fields of the metadata
    parity: SourceParity | str = OF_WEIGHTS  # with the source; in words why there is none


def import_checkpoint(
    path: str | os.PathLike[str],
    arch: str = AUTO,
    *,
    key: str | None = None,
    input_size: Sequence[int] | None = None,
    channel_order: Literal["rgb", "bgr"] | None = None,
    pixel_mean: float | Sequence[float] | None = None,
    pixel_scale: float | Sequence[float] | None = None,
) -> Imported:
    """Read a checkpoint of a known kind.

    The weights may lie anywhere in the file and their names may have any prefix; what is beside
    them, such as a head, is left out and listed.

    Args:
        path: the file.
        arch: one of `ARCHITECTURES`, or `"auto"`: the one whose tensors the file has, by name and
            shape. `"onnx"` is the graph in an ONNX file.
        key: the entry or the prefix of the weights in a PyTorch checkpoint, only needed where two
            networks in it fit; of several outputs of an ONNX file the embedding.
        input_size: (height, width), where the weights do not tell it.
        channel_order: what the network was trained on; by default as the architecture says, for an
            ONNX file as its metadata say, or a guess.
        pixel_mean: subtracted from the pixels of 0 to 255, likewise. Of an ONNX file that begins
            with a normalisation of its own, what comes before that.
        pixel_scale: what the difference is divided by, likewise.

    Raises:
        ValueError: an unknown `arch`, the file is of another format (the message says which), or
            it does not hold such a network: the message lists the tensors that do not fit, and
            names the `arch` that would. An ONNX file has operators that are not imported, or the
            model does not compute what ONNX Runtime computes.
        OSError: the file cannot be read.

    Example:

    >>> from tf_sphereface import backbones, embedder
    >>> network = backbones.SphereFaceNet(20, (28, 24, 3), 8)
    >>> arch = embedder.save_weights(network, "network.safetensors")
    >>> import_checkpoint("network.safetensors", input_size=(28, 24)).model.output_shape
    (None, 8)
    """
    path = Path(path)
    check_choice("arch", arch, (AUTO, *ARCHITECTURES, ONNX.name))
    given = given_facts(channel_order=channel_order, pixel_mean=pixel_mean, pixel_scale=pixel_scale)
    if arch == ONNX.name or (arch == AUTO and is_onnx(path)):
        return _imported_onnx(path, key, input_size, given)
    if arch == AUTO:
        refuse_other_formats(path, "file of weights that can be imported")
        arch = recognise(path, key)
    architecture = ARCHITECTURES[arch]
    try:
        imported = _imported(path, architecture, key, input_size)
    except ValueError as error:
        better = _nearest(path)
        if better in (None, arch):
            raise
        raise ValueError(f"{error}. The file looks like --arch {better}") from error
    require_embeddings(imported.model, path)
    if imported.metadata is not None:
        stored = with_given(imported.metadata, given, str(path))
        remember(imported.model, stored.to_json())
        return dataclasses.replace(imported, metadata=stored)
    facts = {
        "channel_order": architecture.channel_order,
        "pixel_scale": architecture.pixel_scale,
        "flip": architecture.flip,
        "architecture": architecture.network,
        **given,
    }
    remember_input(imported.model, **facts)
    return dataclasses.replace(imported, facts=facts)


def recognise(path: str | os.PathLike[str], key: str | None = None) -> str:
    """Return the `arch` whose tensors a file has: every one of them, and no unknown one.

    Raises:
        ValueError: none fits (the message says what is nearest), or several do.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not is_torch_or_safetensors(path):
        try:
            depth = _caffe_depth(path)
        except ValueError as error:
            raise ValueError(f"{error}. Nor is it a PyTorch checkpoint or safetensors") from error
        if depth is None:
            layers = and_more(list(read_caffemodel(path)), 10)
            raise ValueError(f"{path}: a .caffemodel of another network; its layers: {layers}")
        return f"sphereface{depth}-caffe"
    file = open_tensors(path)
    fits: dict[str, list[Fit]] = {}
    for arch, layout in _layouts().items():
        try:
            fits[arch] = best_fits(file, layout, key)
        except ValueError as error:  # nothing of this layout under `key`
            nothing = error
    if not fits:
        raise nothing
    whole = [arch for arch, found in fits.items() if found[0].whole]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise ValueError(f"{path}: it holds several networks; choose one: --arch {whole}")
    raise ValueError(f"{path}: {_nothing_fits(file, fits)}")


def _imported(
    path: Path, architecture: Architecture, key: str | None, input_size: Sequence[int] | None
) -> Imported:
    """Load a file as one architecture."""
    if isinstance(architecture.layout, int):
        if key is not None:
            raise ValueError("key is for PyTorch checkpoints; a .caffemodel has one set of weights")
        loaded = load_sphereface_caffe(path, architecture.layout, input_size=input_size)
        return Imported(loaded.model, architecture, loaded.left_out)
    file = open_tensors(path)
    stored = _stored_metadata(file)
    if stored is not None and input_size is None:
        input_size = stored.input_size
    fits = best_fits(file, architecture.layout, key)
    loaded, fit = load_only_fit(file, architecture.layout, fits, input_size)
    return Imported(loaded.model, architecture, loaded.left_out, fit.read_as(), stored)


def _stored_metadata(file: TensorFile) -> EmbedderMetadata | None:
    """Return what `save_weights` has written into a file of safetensors."""
    text = file.metadata.get(METADATA_NAME)
    if not isinstance(text, str):
        return None
    try:
        return EmbedderMetadata.from_json(text)
    except (TypeError, ValueError) as caught:
        raise file.error(f"its metadata cannot be read. {caught}") from caught


def _imported_onnx(
    path: Path, key: str | None, input_size: Sequence[int] | None, given: dict[str, Any]
) -> Imported:
    """Build the graph of an ONNX file, and run both."""
    refuse_other_formats(path, ONNX_MODEL)
    network = load_onnx(path, output=key, input_size=input_size)
    require_embeddings(network.model, path)
    facts = onnx_facts(path, network, given)
    pixels = {name: facts.model[name] for name in ("pixel_mean", "pixel_scale")}
    parity: SourceParity | str = NOT_POSSIBLE + "the file has several outputs"
    if not network.left_out:
        parity = compare_with_onnx(
            network.model, path, source=facts.source, imported=pixels, half=network.half
        )
    remember_input(network.model, **facts.model)
    return Imported(
        network.model, ONNX, network.left_out, network.contents, facts=facts.model, parity=parity
    )


def _layouts() -> dict[str, Layout]:
    """Return the layouts of tensors by `arch`."""
    return {
        name: architecture.layout
        for name, architecture in ARCHITECTURES.items()
        if isinstance(architecture.layout, Layout)
    }


def _nearest(path: Path) -> str | None:
    """Return the `arch` that a file looks like, by the names in it; None where it is unclear."""
    try:
        if not is_torch_or_safetensors(path):
            depth = _caffe_depth(path)
            return None if depth is None else f"sphereface{depth}-caffe"
        file = open_tensors(path)
        return _nearest_fit({arch: best_fits(file, each) for arch, each in _layouts().items()})
    except (OSError, ValueError):
        return None


def _nearest_fit(fits: dict[str, list[Fit]]) -> str | None:
    """Return the `arch` of which a file has the tensors that no other has, and the most."""
    marked = {
        arch: len(found[0].missing) + len(found[0].unknown)
        for arch, found in fits.items()
        if not _layouts()[arch].marks.intersection(found[0].missing)
    }
    return min(marked, key=lambda arch: marked[arch]) if marked else None


def _nothing_fits(file: TensorFile, fits: dict[str, list[Fit]]) -> str:
    """Say what a file holds that fits no network, and which is nearest."""
    names = [name for tensors in file.entries.values() for name in tensors]
    nearest = _nearest_fit(fits)
    if nearest is None:
        return (
            f"the tensors of this {file.kind} fit no network that is known here. There are "
            f"{len(names)}: {and_more([name[:80] for name in names], 10)}"
        )
    fit = fits[nearest][0]
    lists = {"missing": fit.missing, "unknown": fit.unknown}
    text = "; ".join(f"{kind}: {and_more(names, 10)}" for kind, names in lists.items() if names)
    return f"it fits no network that is known here. The nearest is {nearest}, but {text}"


def _caffe_depth(path: Path) -> int | None:
    """Return the depth of the authors' network whose layers a .caffemodel has."""
    layers = read_caffemodel(path)
    return next((depth for depth, layer in _CAFFE_MARKS.items() if layer in layers), None)


_CAFFE_MARKS = {64: "conv3_33", 20: "conv3_9"}
"""A layer by which each is known; the first that is there counts."""
