"""Model cards: Markdown beside a model file that tells what it is, its figures, use and limits.

Everything in a card comes from the metadata inside the file, so a card can always be made again:
`write_card("embedder.keras")`. What a program knows beyond the metadata's own fields it keeps in
`extra`, under the keys below.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras

from tf_sphereface.backbones.common import count_macs, count_parameters
from tf_sphereface.embedder.input_facts import guess
from tf_sphereface.embedder.metadata import EmbedderMetadata, artifact_format, read_metadata
from tf_sphereface.utils.files import atomic_path, sha256_file, short_name

UNKNOWN = "unknown"

# Keys of `EmbedderMetadata.extra`.
LICENSE, SOURCE, NOTES, LEFT_OUT = "licence", "source", "notes", "left_out"
NETWORK, MEASURED = "network", "measured"
EARLIER_SOURCE = "earlier_source"  # what the source was made from: {"file", "sha256"}
ORIGINS = {"fine_tuned_from": "started from", "distilled_from": "teacher"}
"""Networks that a training began with: {"model", "sha256", "training_data"}, and a card's words."""


def card_path(path: str | os.PathLike[str]) -> Path:
    """Return where the card of a model lies, such as `embedder.keras.card.md`."""
    path = Path(path)
    return path.with_name(short_name(path.name, ".card.md"))


def write_card(path: str | os.PathLike[str]) -> Path:
    """Write the card of a model beside it, in place of an older one, and return its path.

    Args:
        path: a `.keras`, `.tflite` or `.onnx` file. Where it carries no metadata, the card says
            that nothing is known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of the format that its suffix promises.
        OSError: the card could not be written.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> sf.embedder.save_embedder(network, "network.keras")
    >>> print(write_card("network.keras").read_text(encoding="utf-8").splitlines()[0])
    # Model card: network.keras
    """
    text = to_markdown(card_of(path))
    with atomic_path(card_path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return card_path(path)


def card_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the card of a model as JSON values; the argument and the errors are `write_card`'s.

    Its sections are `file`, `architecture`, `input`, `output`, `training`, `measured`,
    `intended_use`, `limits`, `licence`, `source`, `notes`, `versions`. What is not known is None,
    the licence of the weights `"unknown"`.

    Example:

    >>> import keras, tf_sphereface as sf
    >>> network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> sf.embedder.save_embedder(network, "network.keras")
    >>> card = card_of("network.keras")
    >>> card["licence"], card["output"]["embedding_dim"]
    ('unknown', 192)
    """
    path = Path(path)
    suffix = artifact_format(path)
    metadata = read_metadata(path) or guess()
    extra = metadata.extra
    network = extra.get(NETWORK) or {}
    height, width = metadata.input_size
    return {
        "file": {
            "name": path.name,
            "format": suffix[1:],
            "quantize": (extra.get("export") or {}).get("quantize"),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        },
        "architecture": {
            "name": metadata.architecture,
            "parameters": network.get("parameters"),
            "macs": network.get("macs"),
        },
        "input": {
            "height": height,
            "width": width,
            "channel_order": metadata.channel_order,
            "pixel_mean": metadata.pixel_mean,
            "pixel_scale": metadata.pixel_scale,
            "template": metadata.template,
            "assumed": metadata.assumed,
            "dtype": metadata.input_dtype,
            "built_in": (extra.get("export") or {}).get("built_in"),
            "layout": metadata.layout,
            "batch": metadata.batch,
        },
        "output": {
            "embedding_dim": metadata.embedding_dim,
            "normalized": metadata.normalized,
            "flip": metadata.flip,
            "flip_built_in": metadata.flip_built_in,
        },
        "training": {
            "data": metadata.training_data,
            "loss": metadata.loss,
            "margin": metadata.margin,
            **{key: extra.get(key) for key in ORIGINS},
            "recipe": extra.get("recipe"),
        },
        "measured": _measured(metadata),
        "intended_use": list(INTENDED_USE),
        "limits": limits_of(metadata),
        "licence": str(extra.get(LICENSE) or UNKNOWN),
        "source": {
            "file": extra.get(SOURCE),
            "sha256": metadata.source_hash,
            "earlier": extra.get(EARLIER_SOURCE),
            "left_out": list(extra.get(LEFT_OUT) or ()),
        },
        "notes": list(extra.get(NOTES) or ()),
        "versions": metadata.versions,
    }


def network_facts(model: keras.Model) -> dict[str, int]:
    """Return what a card says of a network's size, for `extra["network"]`."""
    return {"parameters": count_parameters(model), "macs": count_macs(model)}


def network_size(facts: dict[str, Any]) -> str:
    """Return a network's size in words: `2.00 M parameters, 0.300 GMAC per image`."""
    return f"{facts['parameters'] / 1e6:.2f} M parameters, {facts['macs'] / 1e9:.3f} GMAC per image"


def with_measured(metadata: EmbedderMetadata, figures: dict[str, Any]) -> EmbedderMetadata:
    """Return the metadata with more figures (name to value) that were measured on the network."""
    known = {**(metadata.extra.get(MEASURED) or {}), **figures}
    return dataclasses.replace(metadata, extra={**metadata.extra, MEASURED: known})


_NO_FIGURES = ("format", "quantize", "built_in")


def _measured(metadata: EmbedderMetadata) -> dict[str, Any]:
    """Return every figure that is in the metadata."""
    figures = dict(metadata.extra.get(MEASURED) or {})
    if figures and metadata.extra.get("export"):
        figures = {"before the export": figures}
    if metadata.threshold is not None:
        figures["threshold"] = metadata.threshold
        figures["threshold_far"] = metadata.threshold_far
    for key in ("calibration", "export"):
        values = metadata.extra.get(key)
        if values:
            figures[key] = {k: v for k, v in values.items() if k not in _NO_FIGURES}
    return {name: value for name, value in figures.items() if value not in (None, {})}


INTENDED_USE = (
    "Comparing two aligned faces (verification) and searching a gallery of faces of people who "
    "have agreed to it; research on face recognition.",
)
_LIMITS = (
    "Not for decisions about people without a person who checks them, and not for finding people "
    "who have not agreed to be found. An embedding of a face is biometric data; what may be done "
    "with it is a matter of law.",
    "It does not detect photographs of photographs, masks or made-up videos.",
    "Accuracy differs between groups of people, ages, cameras, light and poses. No figure here was "
    "measured by group.",
)


def limits_of(metadata: EmbedderMetadata) -> list[str]:
    """Return the limits of use that follow from what is known, and those of all such models."""
    limits = list(_LIMITS)
    if metadata.template is not None:
        limits.append(
            f"Faces must be aligned to the template {metadata.template} by their eyes, nose and "
            "mouth (tf_sphereface-align); other crops give embeddings that mean little."
        )
    if metadata.threshold is None:
        limits.append(
            "No threshold was calibrated: a cosine is no verdict yet "
            "(tf_sphereface-eval calibrate finds one)."
        )
    if metadata.training_data is None:
        limits.append(
            "What it was trained on is not known here. People of the training set, if they are in "
            "a test set too, make its figures too good."
        )
    elif any(metadata.extra.get(key) for key in ORIGINS):
        limits.append(
            "It owes much to the network that it started from or that taught it. People of that "
            "one's training set, if they are in a test set too, make its figures too good."
        )
    elif metadata.training_data.startswith("synthetic"):
        limits.append("It was trained on drawn faces, and tells nothing about faces of people.")
    return limits


def to_markdown(card: dict[str, Any]) -> str:
    """Return a card as Markdown."""
    file, net, given = card["file"], card["architecture"], card["input"]
    out, training, source = card["output"], card["training"], card["source"]
    kind = f", {file['quantize']}" if file["quantize"] not in (None, "none") else ""
    size = f", {network_size(net)}" if net["parameters"] else ""
    margin = "" if training["margin"] is None else f", margin {_cell(training['margin'])}"
    unit = "of unit length" if out["normalized"] else "not of unit length"
    lines = [
        f"# Model card: {file['name']}",
        "",
        "| | |",
        "|---|---|",
        *(
            (
                f"| file | {file['format']}{kind}, {file['bytes'] / 1e6:.2f} MB |",
                f"| SHA-256 | `{file['sha256']}` |",
            )
            if file["sha256"]
            else ()
        ),
        f"| architecture | {_cell(net['name'])}{size} |",
        f"| input | {_input(given)} |",
        f"| alignment | template {_cell(given['template'])} |",
        f"| output | {_cell(out['embedding_dim'])} numbers, {unit}; compared by their cosine |",
        f"| mirror image | {_mirror(out)} |",
        f"| licence of the weights | {_cell(card['licence'])} |",
        "",
        "## Training",
        "",
        f"- data: {_cell(training['data'])}",
        f"- loss: {_cell(training['loss'])}{margin}",
    ]
    lines += [f"- {said}: {_network(training[k])}" for k, said in ORIGINS.items() if training[k]]
    if source["file"] or source["sha256"]:
        lines.append(f"- made from: {_origin(source)}")
        if source["earlier"]:
            lines.append(f"- which was made from: {_origin(source['earlier'])}")
    lines += [f"- left out: {text}" for text in source["left_out"]]
    lines += ["", "## Measured", ""]
    figures = _flat(card["measured"])
    if figures:
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in figures]
    else:
        lines.append(
            "Nothing was measured on this file. `tf_sphereface-eval lfw` and `calibrate` do it."
        )
    for title, key in (("Intended use", "intended_use"), ("Limits", "limits"), ("Notes", "notes")):
        if card[key]:
            lines += ["", f"## {title}", ""] + [f"- {text}" for text in card[key]]
    if card["versions"]:
        lines += ["", "## Written by", ""]
        lines.append(", ".join(f"{name} {version}" for name, version in card["versions"].items()))
    return "\n".join(lines) + "\n"


def _network(origin: dict[str, Any]) -> str:
    """Name a network that another one learnt from, and what it was trained on."""
    named = _origin({"file": origin.get("model"), "sha256": origin.get("sha256")})
    return f"{named}, trained on: {_cell(origin.get('training_data'))}"


def _origin(source: dict[str, Any]) -> str:
    """Name a file, with its hash where that is known."""
    made = f" (SHA-256 `{source['sha256']}`)" if source["sha256"] else ""
    return f"{_cell(source['file'] or 'another file')}{made}"


def _input(given: dict[str, Any]) -> str:
    """Say what the file takes."""
    size = f"{given['height']}x{given['width']} (height x width)"
    inside = given["built_in"] or given
    order = inside["channel_order"].upper()
    scaled = f"(x - {_cell(inside['pixel_mean'])}) / {_cell(inside['pixel_scale'])}"
    if given["dtype"] == "uint8":
        pixels = f"uint8 RGB pixels; {order} and {scaled} are built in"
    else:
        turned = " (load_embedder takes RGB and reorders)" if order == "BGR" else ""
        pixels = f"{order}{turned}, {scaled}"
    if {"channel_order", "pixel_mean", "pixel_scale"} & set(given["assumed"]):
        pixels += " (assumed)"
    channels = ", channels first" if given["layout"] == "nchw" else ""
    batch = f", {given['batch']} at once" if given["batch"] else ""
    return f"{size}{channels}{batch}, {pixels}"


def _mirror(out: dict[str, Any]) -> str:
    """Say what is done with the mirror image, and by whom."""
    if out["flip_built_in"]:
        return "built in: its embedding is appended"
    return {
        "none": "not used",
        "concat": "its embedding is appended, outside the file",
        "sum": "its embedding is added, outside the file",
    }[out["flip"]]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the figures as rows; those of figures inside are named after both."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}: ")
        elif value is not None:
            rows.append((prefix + name, value))
    return rows


def _cell(value: Any) -> str:
    """Return a value as it stands in a table's cell."""
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return " ".join(str(value).replace("|", "\\|").split())
