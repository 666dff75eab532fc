"""A result as one HTML page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.eval.report import figures
from tf_sphereface.eval.report.figures import GENUINE, IMPOSTOR
from tf_sphereface.eval.report.groups import COLUMNS, group_notes, group_rows, threshold_text
from tf_sphereface.eval.report.provenance import FULL_SIZE
from tf_sphereface.eval.report.quality import quality_section
from tf_sphereface.eval.report.tables import FLIPS, MEANS, bootstrap_rows
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.optional import require

TITLES = {
    "lfw": "Labeled Faces in the Wild, View 2",
    "lfw-view1": "Labeled Faces in the Wild, View 1",
    "ytf": "YouTube Faces",
    "folder": "Pairs of a folder of faces",
    "bin": "A .bin set",
    "scores": "Given scores",
}
SHORT = {"lfw": "LFW's View 2", "ytf": "YouTube Faces"}
Picture = Callable[[str], np.ndarray]


def write_page(
    contents: dict[str, Any], path: str | os.PathLike[str], picture: Picture | None = None
) -> None:
    r"""Write the page of a result.

    Args:
        contents: what `contents.contents` returned, or the JSON file that `--json` wrote.
        path: the file, written atomically.
        picture: from a name in the list of pairs to the face, uint8 RGB (height, width, 3), as the
            network sees it; None leaves the pictures of the worst errors out. A ValueError of it
            leaves out that picture.

    Raises:
        OSError: the file cannot be written.
        ImportError: the `eval` extra is not installed.

    Example:

    >>> from tf_sphereface.eval import report, scores
    >>> from tf_sphereface.eval.report.contents import contents
    >>> _ = Path("scores.txt").write_text("0.9 1 1\n0.1 0 1\n0.8 1 2\n0.2 0 2\n")
    >>> write_page(contents(scores.evaluate("scores.txt")), "page.html")
    >>> "100.00" in Path("page.html").read_text(encoding="utf-8")
    True
    """
    jinja2 = require("jinja2", extra="eval")
    page = template("page.html").render(
        {
            **contents,
            "title": _title(contents),
            "hints": contents.get("hints", []),
            "breakable": lambda name: _breakable(name, jinja2),
            "bootstrap": _bootstrap(contents["headline"]),
            "percent": lambda share: f"{100 * share:.2f}",
            "number": lambda value: "none" if value is None else f"{value:.4f}",
            "model_name": model_name(contents["model"]),
            "cards": _cards(contents),
            "rows": _rows(contents),
            "best_on_test": contents["headline"].get("best_on_test"),
            "figures": _figures(contents, jinja2),
            "errors": [_errors(contents, kind, picture) for kind in _KINDS if contents["errors"]],
            "provenance": _provenance(contents),
            "groups": groups_section(contents.get("groups")),
            "quality": quality_section(contents.get("quality")),
        }
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def template(name: str) -> Any:
    """Return a page of this folder as a Jinja template that knows the two colors."""
    jinja2 = require("jinja2", extra="eval")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(genuine_color=GENUINE, impostor_color=IMPOSTOR)
    return environment.get_template(name)


def groups_section(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what the page shows of `GroupReport.to_dict`; None where no groups were given."""
    if values is None:
        return None
    markup = require("jinja2", extra="eval").utils.markupsafe.Markup
    return {
        "threshold": threshold_text(values),
        "columns": COLUMNS,
        "rows": group_rows(values),
        "notes": group_notes(values),
        "svg": markup(figures.group_errors(values)),
    }


def _title(contents: dict[str, Any]) -> str:
    """Return the protocol's name; a list of another length than the published one has none."""
    protocol, pairs = contents["protocol"], contents["data"]["pairs"]
    full = FULL_SIZE.get(protocol)
    if full not in (None, pairs):
        return f"{pairs:,} pairs by the protocol of {SHORT[protocol]} (which has {full:,})"
    return TITLES.get(protocol, f"{protocol}, pairs in LFW's layout")


def _breakable(name: str, jinja2: Any) -> Any:
    """Return a path as markup that breaks after its slashes and underscores."""
    markup = jinja2.utils.markupsafe
    text = str(markup.escape(name)).replace("/", "/<wbr>").replace("_", "_<wbr>")
    return markup.Markup(text)


def _bootstrap(headline: dict[str, Any]) -> dict[str, Any] | None:
    """Return the rows of the bootstrap's table, None where it was not asked for."""
    intervals = headline.get("bootstrap")
    if intervals is None:
        return None
    share = f"{100 * intervals['confidence']:g} %"
    return {"rows": bootstrap_rows(intervals), "share": share, "repeats": intervals["repeats"]}


def _cards(contents: dict[str, Any]) -> list[tuple[str, str]]:
    headline = contents["headline"]
    cards = [
        (f"{100 * headline['eer']:.2f} %", "equal error rate"),
        (f"{headline['auc']:.5f}", "area under the ROC curve"),
    ]
    genuine, impostor = headline["genuine_angle_degrees"], headline["impostor_angle_degrees"]
    if genuine is not None and impostor is not None:
        cards += [
            (f"{genuine:.1f}°", "mean genuine angle"),
            (f"{impostor:.1f}°", "mean impostor angle"),
            (f"{impostor - genuine:.1f}°", "gap between them"),
        ]
    if headline.get("angular_fisher_score") is not None:
        cards.append((f"{headline['angular_fisher_score']:.3f}", "angular Fisher score"))
    return cards


def _rows(contents: dict[str, Any]) -> list[dict[str, Any]]:
    headline = contents["headline"]
    return [
        {
            **entry,
            "flip": FLIPS.get(entry["flip"], entry["flip"]),
            "mean": MEANS.get(entry["mean"], entry["mean"]),
            "headline": (entry["flip"], entry["mean"]) == (headline["flip"], headline["mean"]),
        }
        for entry in contents["table"]
    ]


def _figures(contents: dict[str, Any], jinja2: Any) -> list[dict[str, Any]]:
    headline, data = contents["headline"], contents["data"]
    points = contents["curve"]["points"]
    drawings = []
    if headline["genuine_angles"] is not None and headline["impostor_angles"] is not None:
        drawings.append(
            (
                "Histogram of the angles of genuine and impostor pairs",
                figures.angle_histograms(headline["genuine_angles"], headline["impostor_angles"]),
                "Angles of all pairs in bins of 2°; dashed: the means.",
            )
        )
    drawings += [
        (
            "ROC curve",
            figures.roc(points, data["impostor"]),
            f"ROC with the {contents['curve']['confidence']:.0%} interval of the true accept "
            "rate (Clopper and Pearson). Left of the dotted line there are fewer than 10 false "
            "accepts: no rate is stated there.",
        ),
        (
            "DET curve",
            figures.det(points, data["genuine"], data["impostor"]),
            "Detection error tradeoff on normal deviate axes; the equal error rate is on the "
            "dotted line.",
        ),
    ]
    return [
        {"label": label, "svg": jinja2.utils.markupsafe.Markup(svg), "caption": caption}
        for label, svg, caption in drawings
    ]


_KINDS = {
    "false_accepts": ("False accepts", "impostor", "taken for one person"),
    "false_rejects": ("False rejects", "genuine", "taken for two people"),
}


def _errors(contents: dict[str, Any], kind: str, picture: Picture | None) -> dict[str, Any]:
    heading, name, verdict = _KINDS[kind]
    group = contents["errors"][kind]
    total = contents["data"][name]
    note = f"{group['count']:,} of {total:,} {name} pairs were {verdict}, by their fold's threshold"
    if len(group["worst"]) < group["count"]:
        note += f"; the {len(group['worst'])} worst"
    worst = []
    for error in group["worst"]:
        angle, threshold = error["angle_degrees"], error["threshold"]
        if threshold is None:
            limit = "none"
        else:
            limit = f"{threshold:.4f}" if angle is None else f"{degrees(threshold):.1f}°"
        worst.append(
            {
                **error,
                "angle": "" if angle is None else f"{angle:.1f}°",
                "score_text": f"{'score' if angle is None else 'cosine'} {error['score']:.3f}",
                "limit": limit,
                "pictures": _pictures(error, picture),
            }
        )
    return {"heading": heading, "note": f"{note}.", "worst": worst}


def _pictures(error: dict[str, Any], picture: Picture | None) -> list[dict[str, Any]]:
    pictures = []
    for name in (error["left"], error["right"]):
        try:
            face = None if picture is None else picture(name)
        except (OSError, ValueError):
            face = None
        if face is None:
            return []
        content = cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        text = base64.b64encode(content.tobytes()).decode()
        height, width = face.shape[:2]
        source = f"data:image/jpeg;base64,{text}"
        pictures.append({"name": name, "source": source, "height": height, "width": width})
    return pictures


def model_name(model: dict[str, Any]) -> str:
    """Return what to call a model: architecture and file."""
    metadata = model["metadata"] or {}
    file = Path(model["path"]).name if model["path"] else None
    return ", ".join(part for part in (metadata.get("architecture"), file) if part) or "this model"


def _pixels(metadata: dict[str, Any]) -> str | None:
    """Say how the network is fed, and whether that is a guess."""
    if not metadata:
        return None
    order, mean, scale = (metadata[k] for k in ("channel_order", "pixel_mean", "pixel_scale"))
    guessed = {"channel_order", "pixel_mean", "pixel_scale"} & set(metadata.get("assumed") or ())
    note = " (assumed: the model says nothing of it)" if guessed else ""
    return f"{order.upper()}, (x - {_number(mean)}) / {_number(scale)}{note}"


def _number(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(f"{number:g}" for number in value) + ")"
    return f"{value:g}"


def _provenance(contents: dict[str, Any]) -> list[tuple[str, str]]:
    data = contents["data"]
    lines = [
        *about_model(contents["model"]),
        (
            "pairs",
            f"{data['pairs']:,} in {data['folds'] or 'no'} folds, "
            f"{data['items']:,} images or videos",
        ),
        ("SHA-256 of pairs", data["pairs_sha256"]),
        ("SHA-256 of images", data["images_sha256"]),
        ("versions", versions_in_words(contents)),
    ]
    return [(name, str(value)) for name, value in lines if value is not None]


def about_model(model: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return what is known of a model, line by line; None for what is not."""
    metadata = model["metadata"] or {}
    return [
        ("model", model_name(model)),
        ("SHA-256", model["sha256"]),
        ("format", model["format"]),
        ("embedding", f"{model['embedding_dim']} numbers" if model["embedding_dim"] else None),
        ("fed with", _pixels(metadata)),
        ("loss", metadata.get("loss")),
        ("trained on", metadata.get("training_data")),
    ]


def versions_in_words(contents: dict[str, Any]) -> str:
    """Return the libraries and their versions."""
    return ", ".join(f"{name} {version}" for name, version in contents["versions"].items())
