"""The page of contact sheets of clusters: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from tf_sphereface.embedder.metadata import library_versions
from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.eval.report.page import template, versions_in_words
from tf_sphereface.utils.files import atomic_path

Picture = Callable[[int], np.ndarray | None]


def write_clusters_page(
    described: Mapping[str, Any],
    path: str | os.PathLike[str],
    picture: Picture,
    *,
    sheet: int = 24,
    source: str = "",
) -> None:
    """Write a contact sheet of each cluster, of the single faces, and of the unclear ones.

    Args:
        described: what `search.describe_clusters` returned.
        path: the file, written whole or not at all.
        picture: from a face's row to its thumbnail, uint8 RGB; None: it is not shown.
        sheet: the most faces of a cluster that are shown.
        source: the folder or file of the pictures.

    Raises:
        OSError: the file cannot be written.
        ImportError: the `eval` extra is not installed.
    """
    versions = library_versions()
    cut = described["cut"]
    page = template("clusters.html").render(
        versions=versions,
        people=described["people"],
        faces=described["faces"],
        cut=f"{degrees(cut['cosine']):.1f}° (cosine {cut['cosine']:.4f}): {cut['reason']}",
        notes=described["notes"],
        clusters=[
            {
                "name": cluster["name"],
                "about": f"{len(cluster['faces']):,} faces of {len(cluster['files']):,} pictures; "
                f"largest angle {cluster['largest_angle']:.1f}°",
                "faces": _thumbnails(faces_of_sheet(cluster["faces"], sheet), picture),
                "hidden": max(0, len(cluster["faces"]) - sheet),
            }
            for cluster in described["clusters"]
        ],
        apart=[
            {
                "name": name,
                "about": f"{len(described[key]):,} faces",
                "faces": _thumbnails(described[key][: 4 * sheet], picture),
                "hidden": max(0, len(described[key]) - 4 * sheet),
            }
            for key, name in (("singletons", "By themselves"), ("unclear", "Unclear"))
            if described[key]
        ],
        provenance=[
            *([("pictures", source)] if source else []),
            ("versions", versions_in_words({"versions": versions})),
        ],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def faces_of_sheet(faces: Sequence[Any], sheet: int) -> list[Any]:
    """Return the nearest faces to the cluster's mean, and the four farthest."""
    return list(faces) if len(faces) <= sheet else [*faces[: sheet - 4], *faces[-4:]]


def _thumbnails(faces: Sequence[Mapping[str, Any]], picture: Picture) -> list[dict[str, Any]]:
    shown = []
    for face in faces:
        image = picture(face["row"])
        entry: dict[str, Any] = {"title": f"{face['file']}, face {face['face'] + 1}"}
        if "reason" in face:
            entry["title"] += f": {face['reason']}"
        if image is not None:
            content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
            text = base64.b64encode(content.tobytes()).decode()
            entry |= {"source": f"data:image/jpeg;base64,{text}"}
            entry |= {"height": image.shape[0], "width": image.shape[1]}
        shown.append(entry)
    return shown
