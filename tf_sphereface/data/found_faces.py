"""The faces of a source once they are found: read or listed, named, and told from others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.data import synthetic
from tf_sphereface.data.arrays import check_arrays
from tf_sphereface.data.datasets import check_folder, load_folder
from tf_sphereface.data.decoding import resize
from tf_sphereface.data.exclusions import image_names, leave_out
from tf_sphereface.data.folder_index import FolderIndex, scan_folder, scan_unlabelled
from tf_sphereface.data.options import Size
from tf_sphereface.data.pack.format import is_pack
from tf_sphereface.data.pack.reading import Pack, open_pack
from tf_sphereface.data.people import check_path, doubts, too_few
from tf_sphereface.data.recordio.reading import RecordFile, is_rec, open_rec
from tf_sphereface.data.sources import file_facts
from tf_sphereface.utils.checks import check_image_size
from tf_sphereface.utils.messages import ProgressCallback

if TYPE_CHECKING:
    from tf_sphereface.data.face_source import FaceSource


@dataclasses.dataclass(frozen=True)
class SyntheticFaces:
    """Rendered faces of `synthetic.training_set`: `images` of each person, drawn by `seed`."""

    identities: int = 300
    images: int = 40
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """The faces of a source, read; `pixels` is what `face_dataset` takes, None if only listed."""

    pixels: Any
    labels: NDArray[np.int32]
    num_classes: int
    index: FolderIndex | Pack | RecordFile | None = None

    def counts(self) -> NDArray[np.int64]:
        """Return how many faces each person has, (num_classes,)."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def doubts(self, where: str) -> list[str]:
        """Return a sentence for each thing that looks wrong about the people."""
        return doubts(self.counts(), None if self.index is None else self.index.names, where)

    def checked(self, where: str, unlabelled: bool) -> Faces:
        """Return this, or raise ValueError where nothing can be learnt from these people."""
        text = too_few(self.counts(), None if self.index is None else self.index.names, where)
        if text is not None and not unlabelled:
            raise ValueError(text)
        return self

    def names_of(self, positions: NDArray[np.int64], rendered: bool) -> list[str]:
        """Name faces: their files, or their records."""
        index = self.index
        if isinstance(index, RecordFile):
            return index.describe(positions)
        if isinstance(index, Pack):
            rows = positions if index.rows is None else index.rows[positions]
            named = dict(zip(np.sort(rows).tolist(), index.describe(np.sort(rows)), strict=True))
            return [f"{file}, {record}" for file, record in (named[int(row)] for row in rows)]
        if index is not None:
            return [str(index.paths[position]) for position in positions]
        person = "synthetic person" if rendered else "person"
        return [f"{person} {self.labels[i]}, image {i}" for i in positions]

    def pixels_at(self, source: Any, size: Size) -> Any:
        """Return what `open_source` takes for the same faces at another size, (height, width)."""
        if isinstance(self.index, FolderIndex):  # each is known to decode, at whatever size
            return dataclasses.replace(self.index, checked=True, image_size=size)
        if self.index is not None:
            return self.index
        if isinstance(source, SyntheticFaces):
            images, labels = synthetic.training_set(
                source.identities, source.images, seed=source.seed
            )
            return np.stack([resize(image, size) for image in images]), labels
        return np.stack([resize(image, size) for image in self.pixels[0]]), self.labels

    def order(self) -> str:
        """Return a hash of the people and of which faces of theirs are where; not of pixels."""
        index, digest = self.index, hashlib.sha256(np.ascontiguousarray(self.labels).data)
        files = image_names(index) if isinstance(index, FolderIndex) else []
        people = [] if index is None else list(index.names)
        digest.update(json.dumps([people, files]).encode())
        return digest.hexdigest()[:16]

    def fingerprint(self, source: Any) -> str:
        """Return a hash that changes when a face, or their order, does."""
        index, digest = self.index, hashlib.sha256()
        facts: Any
        if isinstance(index, FolderIndex):
            facts = [
                [n, *f[1:]] for n, f in zip(image_names(index), file_facts(index), strict=True)
            ]
        elif isinstance(index, Pack):
            facts = index.manifest
            digest.update(b"." if index.rows is None else index.rows.tobytes())
        elif isinstance(index, RecordFile):
            facts = index.fingerprint
            for chosen in (index.rows, index.kept):
                digest.update(b"." if chosen is None else chosen.tobytes())
        elif isinstance(source, SyntheticFaces):
            facts = dataclasses.asdict(source)
        else:
            facts = self.pixels[0].shape
            digest.update(np.ascontiguousarray(self.pixels[0]).data)
        digest.update(json.dumps([type(index).__name__, facts], sort_keys=True).encode())
        return digest.hexdigest()


def find_faces(
    of: FaceSource,
    *,
    read: bool = True,
    progress: ProgressCallback | None = None,
    say: Callable[[str], None] | None = None,
) -> Faces:
    """Render or read the faces of a source, or list them alone."""
    source, title = of.source, of.to_dict()["data"]
    if isinstance(source, SyntheticFaces):
        people, each = source.identities, source.images
        labels = np.repeat(np.arange(people, dtype=np.int32), each)
        listed = Faces(None, labels, people).checked(title, of.unlabelled)
        if not read:
            return listed
        faces = synthetic.training_set(people, each, seed=source.seed, size=of.image_size)
        return Faces(faces, faces[1], people)
    if isinstance(source, tuple):
        images, labels = check_arrays(source, check_image_size("image_size", of.image_size))
        people = int(labels.max(initial=-1)) + 1
        return Faces((images, labels), labels, people).checked("the data", of.unlabelled)
    if is_rec(source):
        records = _without_excluded(of, _records(of, read, progress), say)
        found = Faces(records, records.labels, records.num_classes, records)
        return found.checked(title, of.unlabelled)
    check_path(source)
    options: dict[str, Any] = {"report": of.report, "progress": progress}
    if is_pack(source):
        skip = read and not of.strict
        pack = open_pack(source, errors="skip" if skip else "raise", **options)
        pack = _without_excluded(of, pack, say)
        return Faces(pack, pack.labels, len(pack.names), pack).checked(title, of.unlabelled)
    index = _without_excluded(of, _listed(of), say)
    of.report.passed_over = index.passed_over
    if of.strict:
        index.passed_over.refuse(index.root)
    Faces(None, index.labels, len(index.names), index).checked(title, of.unlabelled)
    pixels: Any = None
    options |= {"image_size": of.image_size, "strict": of.strict, "resize": of.resize}
    if read and of.cache == "memory":
        images, labels, index = load_folder(index, **options)
        pixels = (images, labels)
    elif read:
        index = pixels = check_folder(index, **options)
    return Faces(pixels, index.labels, len(index.names), index).checked(title, of.unlabelled)


def _listed(of: FaceSource) -> FolderIndex:
    """List a folder: its people, or, where labels are not needed and there are none, its images."""
    source: Any = of.source
    if not of.unlabelled:
        return scan_folder(source)
    try:
        return scan_folder(source)
    except ValueError:  # no folder of a person
        return scan_unlabelled(source)


def _records(of: FaceSource, read: bool, progress: ProgressCallback | None) -> RecordFile:
    """Open a RecordIO file; without `read` no image is decoded and damage is no error."""
    source: Any = of.source
    errors: Literal["raise", "report", "skip"] = "raise" if of.strict else "skip"
    return open_rec(
        source,
        errors=errors if read else "report",
        image_size=None if of.resize else of.image_size,
        report=of.report,
        progress=progress,
    )


def _without_excluded(of: FaceSource, index: Any, say: Callable[[str], None] | None) -> Any:
    if of.exclude is None:
        return index
    rest = leave_out(index, of.exclude)
    if say is not None:
        say(
            f"{of.exclude}, {len(index) - len(rest):,} faces in all of {len(index):,}; "
            f"{index.num_classes - rest.num_classes:,} of {index.num_classes:,} people are gone"
        )
    return rest
