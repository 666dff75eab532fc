"""Faces to train and test on: folders, packed or not, arrays, and synthetic ones."""

from __future__ import annotations

from tf_sphereface.alignment.align import TEMPLATES, align, read_landmarks
from tf_sphereface.alignment.images import read_image
from tf_sphereface.data import synthetic
from tf_sphereface.data.audit import FaceSet, Match, Overlap, find_overlap, read_face_set
from tf_sphereface.data.augmentation import normalize
from tf_sphereface.data.batches import batch_at, batch_positions
from tf_sphereface.data.datasets import check_folder, face_dataset, load_folder
from tf_sphereface.data.doubtful_labels import DoubtfulLabel, doubtful_labels
from tf_sphereface.data.exclusions import Exclusions, leave_out, read_exclusions, write_exclusions
from tf_sphereface.data.face_source import FaceSource
from tf_sphereface.data.folder_index import FolderIndex, SkipReport, scan_folder
from tf_sphereface.data.found_faces import SyntheticFaces
from tf_sphereface.data.held_out import hold_out
from tf_sphereface.data.options import steps_per_epoch
from tf_sphereface.data.pack.format import is_pack
from tf_sphereface.data.pack.packing import PackResult, pack_folder
from tf_sphereface.data.pack.reading import Pack, PackCheck, check_pack, open_pack
from tf_sphereface.data.recordio.checking import RecCheck, check_rec
from tf_sphereface.data.recordio.extracting import ExtractResult, extract_rec
from tf_sphereface.data.recordio.reading import RecordFile, is_rec, open_rec
from tf_sphereface.data.recordio.writing import RecResult, write_rec
from tf_sphereface.data.views import draw_view, write_views

__all__ = [
    "TEMPLATES",
    "DoubtfulLabel",
    "Exclusions",
    "ExtractResult",
    "FaceSet",
    "FaceSource",
    "FolderIndex",
    "Match",
    "Overlap",
    "Pack",
    "PackCheck",
    "PackResult",
    "RecCheck",
    "RecResult",
    "RecordFile",
    "SkipReport",
    "SyntheticFaces",
    "align",
    "batch_at",
    "batch_positions",
    "check_folder",
    "check_pack",
    "check_rec",
    "doubtful_labels",
    "draw_view",
    "extract_rec",
    "face_dataset",
    "find_overlap",
    "hold_out",
    "is_pack",
    "is_rec",
    "leave_out",
    "load_folder",
    "normalize",
    "open_pack",
    "open_rec",
    "pack_folder",
    "read_exclusions",
    "read_face_set",
    "read_image",
    "read_landmarks",
    "scan_folder",
    "steps_per_epoch",
    "synthetic",
    "write_exclusions",
    "write_rec",
    "write_views",
]
