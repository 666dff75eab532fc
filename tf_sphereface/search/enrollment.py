"""Listing of people's folders, and what became of their pictures."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tf_sphereface.alignment.listing import is_of_a_system, people_in
from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.alignment.same_pictures import under_two_names
from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.search.cluster_folder import APART
from tf_sphereface.search.kept_embeddings import KeptEmbeddings
from tf_sphereface.search.photo_faces import EmbeddedFaces, embed_people
from tf_sphereface.utils.messages import ProgressCallback, and_more, counted, printable


@dataclass
class PeopleListing:
    """The images of a folder of people: (name, path) each, and what was passed over.

    `empty` are folders without an image; `merged` are names of several folders.
    """

    files: list[tuple[str, Path]]
    passed_over: PassedOver
    empty: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)


@dataclass
class Enrollment:
    """What became of the pictures of `Gallery.enroll`.

    Attributes:
        added: pictures that were enrolled.
        known: pictures that were in the gallery already.
        strangers: pictures of strangers that could be used.
        problems: path -> why it could not be used.
        several: paths of photographs with several faces, of which the one nearest the center was
            taken.
        passed_over: what the listing of each folder left out.
        kept: pictures that an earlier call had embedded, which was stopped.
        absent: names of folders of which no picture can be used: they are nobody.
        merged: names that several folders have, if spelled alike (Unicode's NFC): one person.

    Example:

    >>> Enrollment(added=3, problems={"Ann/4.jpg": "no face"}).told()
    'Ann/4.jpg: no face'
    """

    added: int = 0
    known: int = 0
    strangers: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    several: list[str] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    kept: int = 0
    absent: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)

    def note(self, faces: EmbeddedFaces, stranger: bool, strict: bool) -> None:
        """Take in what became of a folder's pictures; raise ValueError where none can be used."""
        self.problems |= faces.problems
        self.several += faces.several
        self.kept += faces.kept
        if stranger:
            self.strangers += len(faces.names)
        if faces.problems and (strict or not faces.names):
            kind = "a strict enrollment leaves none out" if strict else "that is all there are"
            raise ValueError(
                f"{counted(len(faces.problems), 'picture')} cannot be used, and {kind}:\n  "
                f"{self.told()}"
            )

    def told(self, shown: int = 10) -> str:
        """Return a line for each picture that could not be used, at most `shown`."""
        lines = [f"{printable(path)}: {why}" for path, why in self.problems.items()]
        return and_more(lines, shown, separator="\n  ")


def listed_people(folder: str | os.PathLike[str], strict: bool = False) -> PeopleListing:
    """List the images of a folder that holds a folder for each person.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no such folder; with `strict`, images are passed over.
    """
    passed_over = PassedOver()
    people = list(people_in(folder, passed_over))
    files = [(name, Path(entry.path)) for name, entries in people for entry in entries]
    if strict:
        passed_over.refuse(folder)
    named = {name for name, _ in people}
    empty = sorted(
        x.name
        for x in os.scandir(folder)
        if x.is_dir()
        and x.name not in named | {APART}
        and not (x.name.startswith(".") or is_of_a_system(x.name))
    )
    spelled = Counter(unicodedata.normalize("NFC", name) for name in named)
    merged = sorted(name for name, count in spelled.items() if count > 1)
    return PeopleListing(files, passed_over, empty, merged)


def embed_folders(
    embedder: Embedder,
    folders: Sequence[str | os.PathLike[str]],
    strict: bool = False,
    progress: ProgressCallback | None = None,
    *,
    detector: str | os.PathLike[str] | None = None,
    keep_in: str | os.PathLike[str] | None = None,
) -> tuple[Enrollment, list[EmbeddedFaces]]:
    """Embed the people's pictures of one folder or two; the second holds strangers.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no picture of a folder can be used; with `strict`, one cannot.
    """
    listings = [listed_people(folder, strict) for folder in folders]
    twice = [under_two_names(listing.files) for listing in listings]
    total = sum(map(len, (listing.files for listing in listings))) - sum(map(len, twice))
    result = Enrollment(passed_over=[listing.passed_over for listing in listings])
    embedded: list[EmbeddedFaces] = []
    kept = None if keep_in is None else KeptEmbeddings(keep_in, embedder, detector)
    before = 0
    for listing, unclear in zip(listings, twice, strict=True):

        def show(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        files = [(name, path) for name, path in listing.files if str(path) not in unclear]
        faces = embed_people(embedder, files, len(files), show, detector=detector, kept=kept)
        faces.problems |= unclear
        used, listed = set(faces.names), dict.fromkeys(name for name, _ in listing.files)
        if not embedded:
            result.absent = [*listing.empty, *(name for name in listed if name not in used)]
            result.merged = listing.merged
        result.note(faces, bool(embedded), strict)
        embedded.append(faces)
        before += len(files)
    return result, embedded
