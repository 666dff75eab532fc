"""The words of a model card."""

from __future__ import annotations

from typing import Any

from tf_sphereface._artifact import EmbedderMetadata

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
    elif metadata.training_data.startswith("synthetic"):
        limits.append("It was trained on drawn faces, and tells nothing about faces of people.")
    return limits


def to_markdown(card: dict[str, Any]) -> str:
    """Return a card as Markdown."""
    file, net, given = card["file"], card["architecture"], card["input"]
    out, training, source = card["output"], card["training"], card["source"]
    kind = f", {file['quantize']}" if file["quantize"] not in (None, "none") else ""
    size = ""
    if net["parameters"]:
        size = (
            f", {net['parameters'] / 1e6:.2f} M parameters, {net['macs'] / 1e9:.3f} GMAC an image"
        )
    unit = "of unit length" if out["normalized"] else "not of unit length"
    lines = [
        f"# Model card: {file['name']}",
        "",
        "| | |",
        "|---|---|",
        f"| file | {file['format']}{kind}, {file['bytes'] / 1e6:.2f} MB |",
        f"| SHA-256 | `{file['sha256']}` |",
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
        f"- loss: {_cell(training['loss'])}, margin {_cell(training['margin'])}",
    ]
    if source["file"] or source["sha256"]:
        lines.append(f"- made from: {_origin(source)}")
        if source["earlier"]:
            lines.append(f"- which was made from: {_origin(source['earlier'])}")
    lines += [f"- left out: {text}" for text in source["left_out"]]
    lines += ["", "## Measured", ""]
    figures = _rows(card["measured"])
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


def _origin(source: dict[str, Any]) -> str:
    """Name a file, with its hash where that is known."""
    made = f" (SHA-256 `{source['sha256']}`)" if source["sha256"] else ""
    return f"{_cell(source['file'] or 'another file')}{made}"


def _input(given: dict[str, Any]) -> str:
    """Say what the file takes."""
    size = f"{given['height']}x{given['width']} (height x width)"
    inside = given["built_in"] or given
    order = inside["channel_order"].upper()
    scaled = f"(x - {_number(inside['pixel_mean'])}) / {_number(inside['pixel_scale'])}"
    if given["dtype"] == "uint8":
        pixels = f"uint8 RGB pixels; {order} and {scaled} are built in"
    else:
        turned = " (load_embedder takes RGB and reorders)" if order == "BGR" else ""
        pixels = f"{order}{turned}, {scaled}"
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


def _rows(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the figures as rows; those of figures inside are named after both."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _rows(value, f"{prefix}{name}: ")
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


def _number(value: Any) -> str:
    return _cell(list(value) if isinstance(value, (list, tuple)) else value)
