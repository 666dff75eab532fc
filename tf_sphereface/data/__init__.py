"""Faces to train and test on: folders, packed or not, arrays, and synthetic ones."""

from __future__ import annotations

from tf_sphereface.data import synthetic
from tf_sphereface.data.alignment import TEMPLATES, align, read_image, read_landmarks
from tf_sphereface.data.exclusions import (
    Exclusions,
    leave_out,
    read_exclusions,
    write_exclusions,
)
from tf_sphereface.data.folder import (
    FolderIndex,
    SkipReport,
    batch_at,
    batch_positions,
    check_folder,
    face_dataset,
    load_folder,
    normalize,
    scan_folder,
    steps_per_epoch,
)
from tf_sphereface.data.packing import PackResult, pack_folder
from tf_sphereface.data.shards import (
    Pack,
    PackCheck,
    check_pack,
    is_pack,
    open_pack,
    shard_dataset,
)

__all__ = [
    "TEMPLATES",
    "Exclusions",
    "FolderIndex",
    "Pack",
    "PackCheck",
    "PackResult",
    "SkipReport",
    "align",
    "batch_at",
    "batch_positions",
    "check_folder",
    "check_pack",
    "face_dataset",
    "is_pack",
    "leave_out",
    "load_folder",
    "normalize",
    "open_pack",
    "pack_folder",
    "read_exclusions",
    "read_image",
    "read_landmarks",
    "scan_folder",
    "shard_dataset",
    "steps_per_epoch",
    "synthetic",
    "write_exclusions",
]
