"""Clusters as a folder per person: faces, copies or links; the pictures stay where they are."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.align import cut_out
from tf_sphereface.alignment.images import write_face
from tf_sphereface.alignment.template import TEMPLATES
from tf_sphereface.eval.report.clusters import faces_of_sheet, write_clusters_page
from tf_sphereface.search.clustering import Clusters, largest_angle
from tf_sphereface.search.face_images import FaceImages
from tf_sphereface.search.face_table import FaceTable
from tf_sphereface.utils.files import atomic_folder, atomic_path, short_name
from tf_sphereface.utils.messages import ProgressCallback

Content = Literal["faces", "copies", "links"]
APART = "apart"  # not a person's folder: its pictures lie a level deeper
_UNCLEAR = f"{APART}/unclear"
SHEET, SHEETS = 24, 4000  # faces shown of a cluster, and on the page
_THUMBNAIL = 80  # pixels high


def describe_clusters(table: FaceTable, clusters: Clusters) -> dict[str, Any]:
    """Return clusters as JSON takes them.

    Returns:
        `"cut"`; `"clusters"`, each with `"name"`, `"faces"` (nearest to the cluster's mean first),
        `"files"`, `"largest_angle"` in degrees and `"largest_distance"`, 1 - cosine, of two of its
        faces; `"singletons"` and `"unclear"`, lists of faces; `"without_face"`, pictures that gave
        none, and why; `"notes"`.

    Example:

    >>> import tf_sphereface.search as search
    >>> table = search.FaceTable(["a.jpg", "b.jpg", "c.jpg"], np.eye(3, 8)[[0, 0, 1]])
    >>> described = describe_clusters(table, search.cluster_faces(table, threshold=0.4))
    >>> described["clusters"][0]["files"], described["singletons"][0]["file"]
    (['a.jpg', 'b.jpg'], 'c.jpg')
    """
    units = table.unit()
    width = max(4, len(str(clusters.count)))
    names = [f"person_{number + 1:0{width}d}" for number in range(clusters.count)]
    described = []
    for number, name in enumerate(names):
        rows = np.flatnonzero(clusters.labels == number)
        near = units[rows] @ units[rows].mean(axis=0)
        rows = rows[np.argsort(-near, kind="stable")]
        angle = largest_angle(units[rows])
        described.append(
            {
                "name": name,
                "faces": [_face(table, row) for row in rows.tolist()],
                "files": list(dict.fromkeys(table.paths[row] for row in rows.tolist())),
                "largest_angle": round(angle, 3),
                "largest_distance": round(1 - float(np.cos(np.radians(angle))), 4),
            }
        )
    unclear = [
        {
            **_face(table, row),
            "reason": why,
            "cluster": names[clusters.labels[row]] if clusters.labels[row] >= 0 else None,
        }
        for row, why in sorted(clusters.unclear.items())
    ]
    alone = [r for r in np.flatnonzero(clusters.labels < 0).tolist() if r not in clusters.unclear]
    cut = clusters.cut
    return {
        "faces": len(table),
        "people": clusters.count,
        "cut": {"cosine": cut.cosine, "reason": cut.reason, "origin": cut.origin},
        "clusters": described,
        "singletons": [_face(table, row) for row in alone],
        "unclear": unclear,
        "without_face": [{"file": name, "reason": why} for name, why in table.failed.items()],
        "notes": clusters.notes,
    }


def _face(table: FaceTable, row: int) -> dict[str, Any]:
    return {"row": row, "file": table.paths[row], "face": int(table.faces[row])}


def write_clusters(
    table: FaceTable,
    described: Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    content: Content = "faces",
    progress: ProgressCallback | None = None,
) -> bool:
    """Write a folder per cluster, lists and a page of contact sheets, whole or not at all.

    `out` gets `person_0001/`, ..., from the largest cluster on, which may be renamed and, of faces,
    enrolled as they are; `apart/singletons/` and `apart/unclear/`; `clusters.tsv`; and
    `index.html`.

    Args:
        table: the faces.
        described: what `describe_clusters` returned.
        out: a folder that is not there, or is empty.
        content: `"faces"`: the aligned faces; `"copies"` or `"links"`: the pictures.
        progress: called with (done, in all) pictures.

    Returns:
        Whether the pictures could be read; else there are the lists only.

    Raises:
        ValueError: `out` holds something; copies or links of a pack or a RecordIO file.
        OSError: it cannot be written.
        ImportError: jinja2 is not installed (the extra `eval`).

    Example:

    >>> from tf_sphereface.search import cluster_faces
    >>> table = FaceTable(["a.jpg", "b.jpg", "c.jpg"], np.eye(3, 8)[[0, 0, 1]])
    >>> described = describe_clusters(table, cluster_faces(table, threshold=0.4))
    >>> write_clusters(table, described, "people")  # these pictures are not there
    False
    >>> sorted(os.listdir("people"))
    ['clusters.tsv', 'index.html']
    """
    check_target(out)
    images = _images_of(table)
    if images is not None and content != "faces" and images.path(0) is None:
        raise ValueError(f"{images.source}: only faces can be written of a packed source")
    with atomic_folder(out) as folder:
        folder.mkdir()
        places = _places(described)
        thumbnails: dict[int, NDArray[np.uint8]] = {}
        if images is not None:
            shown = _shown(described)
            _write_pictures(table, images, folder, places, (content, shown, thumbnails), progress)
            if content != "faces":
                _write_lost(described, images, folder / _UNCLEAR, content)
        _write_list(folder / "clusters.tsv", table, places, described)
        write_clusters_page(
            described, folder / "index.html", thumbnails.get, sheet=SHEET, source=_source(table)
        )
    return images is not None


def check_target(out: str | os.PathLike[str]) -> None:
    """Raise ValueError where a folder holds something: names that people gave would be lost."""
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"out must be a folder that is new or empty. Received: {out}")


def _source(table: FaceTable) -> str:
    return str(table.facts.get("source") or "")


def _images_of(table: FaceTable) -> FaceImages | None:
    """Open the pictures that a table was made of; None where they are gone."""
    source = _source(table)
    if not source:  # of another origin: paths that lead to files from here
        there = list(dict.fromkeys(path for path in table.paths if Path(path).is_file()))
        return FaceImages(".", there) if there else None
    if not Path(source).exists():
        return None
    images = FaceImages(source)
    return images if set(table.paths) & set(images.names) else None


def _places(described: Mapping[str, Any]) -> dict[int, str]:
    """Return the folder of each row."""
    places = {
        face["row"]: cluster["name"]
        for cluster in described["clusters"]
        for face in cluster["faces"]
    }
    places |= {face["row"]: f"{APART}/singletons" for face in described["singletons"]}
    for face in described["unclear"]:
        places.setdefault(face["row"], _UNCLEAR)
    return places


def _shown(described: Mapping[str, Any]) -> set[int]:
    """Return the rows that the page has pictures of."""
    groups = [faces_of_sheet(cluster["faces"], SHEET) for cluster in described["clusters"]]
    groups += [described[name][: 4 * SHEET] for name in ("singletons", "unclear")]
    return {face["row"] for group in groups for face in group}


def _write_pictures(
    table: FaceTable,
    images: FaceImages,
    folder: Path,
    places: Mapping[int, str],
    wanted: tuple[Content, set[int], dict[int, NDArray[np.uint8]]],
    progress: ProgressCallback | None,
) -> None:
    """Write the faces of each picture into their folders, and keep some as thumbnails."""
    content, shown, thumbnails = wanted
    positions = {name: place for place, name in enumerate(images.names)}
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table.paths):
        rows.setdefault(name, []).append(row)
    taken = set[str]()
    for done, (name, faces) in enumerate(rows.items(), start=1):
        try:
            image = images.read(positions[name])
        except (KeyError, OSError, ValueError):
            continue  # it has gone since it was embedded
        for row in faces:
            crop = _crop(table, row, image)
            if row in shown and len(thumbnails) < SHEETS:
                thumbnails[row] = _small(crop)
            original = images.path(positions[name])
            target = _target(folder / places[row], name, taken, len(faces) > 1, row, table)
            if content == "faces" and (original is None or np.isfinite(table.points[row]).all()):
                write_face(target.with_suffix(".png"), crop)
            elif original is not None:
                _write_original(original, target, content)
        if progress is not None:
            progress(done, len(rows))


def _write_lost(
    described: Mapping[str, Any], images: FaceImages, folder: Path, content: Content
) -> None:
    """Write the pictures that gave no face, and are still there."""
    positions = {name: place for place, name in enumerate(images.names)}
    for name in (picture["file"] for picture in described["without_face"]):
        original = images.path(positions[name]) if name in positions else None
        if original is not None and original.exists():
            stem, suffix = os.path.splitext(_flat(name))
            target = folder / short_name(stem, suffix)
            while target.exists():
                stem += "~"
                target = folder / short_name(stem, suffix)
            _write_original(original, target, content)


def _write_original(original: Path, target: Path, content: Content) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if content == "links":
        target.symlink_to(original.resolve())
    else:
        shutil.copy2(original, target)


def _crop(table: FaceTable, row: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the aligned face of a row."""
    if not np.isfinite(table.points[row]).all():
        return image
    size = tuple(table.facts.get("input_size") or (112, 96))
    height, width = (size[0], size[1]) if size in TEMPLATES else (112, 96)
    return cut_out(image, table.points[row], (height, width))


def _target(
    folder: Path, name: str, taken: set[str], several: bool, row: int, table: FaceTable
) -> Path:
    """Return where a face goes: under its picture's path, folders joined by underscores."""
    stem, suffix = os.path.splitext(_flat(name))
    number = f"_{int(table.faces[row]) + 1}" if several else ""
    target = folder / short_name(stem, f"{number}{suffix}")
    while str(target.with_suffix("")) in taken:
        stem += "~"
        target = folder / short_name(stem, f"{number}{suffix}")
    taken.add(str(target.with_suffix("")))
    return target


def _flat(name: str) -> str:
    """Return a picture's path as one file name."""
    return re.sub(r"[\\/]+", "_", name)


def _small(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = crop.shape[:2]
    size = (max(1, round(width * _THUMBNAIL / height)), _THUMBNAIL)
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)


def _write_list(
    path: Path, table: FaceTable, places: Mapping[int, str], described: Mapping[str, Any]
) -> None:
    """Write a line per face, and per picture without: picture, face, folder, what is wrong."""
    reasons = {face["row"]: face["reason"] for face in described["unclear"]}
    lines = ["picture\tface\tfolder\tunclear"]
    rows = [
        (name, str(int(table.faces[row])), places[row], reasons.get(row, ""))
        for row, name in enumerate(table.paths)
    ]
    rows += [(lost["file"], "", _UNCLEAR, lost["reason"]) for lost in described["without_face"]]
    lines += ["\t".join(" ".join(re.split(r"[\t\r\n]+", field)) for field in row) for row in rows]
    with atomic_path(path) as temporary:
        text = "\n".join(lines) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
