"""Embedding of every face of a source: in threads, in shares, and going on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tf_sphereface.alignment.photo_aligner import single_threaded_operations
from tf_sphereface.alignment.photo_reader import Alignment
from tf_sphereface.embedder.model_hashes import model_sha256
from tf_sphereface.search.face_images import FaceImages
from tf_sphereface.search.face_table import (
    FaceTable,
    are_text,
    check_suffix,
    load_faces,
    write_tables,
)
from tf_sphereface.search.face_vectors import NO_FACE, FaceVectors
from tf_sphereface.utils.checks import check_integer
from tf_sphereface.utils.files import short_name
from tf_sphereface.utils.messages import ProgressCallback

_VERSION = 1  # of a part's content
_FEWEST, _MOST = 16, 1024  # pictures in a part


@dataclasses.dataclass(frozen=True)
class EmbeddingResult:
    """What `embed_faces` did.

    Attributes:
        faces: how many faces the table holds.
        pictures: how many pictures were looked at, those of this share.
        reused: how many of them were done before.
        failed: picture -> why it gave no face.
        images: the source, with what its listing has passed over.
    """

    faces: int
    pictures: int
    reused: int
    failed: dict[str, str]
    images: FaceImages

    @property
    def unread(self) -> dict[str, str]:
        """The pictures that could not be used for another reason than that they show no face."""
        return {name: why for name, why in self.failed.items() if why != NO_FACE}


def embed_faces(
    model: Any,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    alignment: Alignment = "auto",
    detector: str | os.PathLike[str] | None = None,
    min_face: float = 28.0,
    batch_size: int = 64,
    jobs: int | None = None,
    share: tuple[int, int] = (1, 1),
    facts: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
) -> EmbeddingResult:
    """Embed every face of a source, and write them as one table.

    The pictures are done in parts of 16 to 1,024, which lie in the folder `out`.parts until all are
    done: a stopped job goes on with the part it was at, and repeats only parts of which a picture,
    the model or a setting has changed. The order of the rows is that of the source; threads, shares
    and batches change the vectors by rounding only (their cosine is above 1 - 1e-6).

    Args:
        model: what `load_embedder` takes.
        source: a folder of pictures of any depth, one picture, a packed folder or a RecordIO file.
        out: the table, .npz or .parquet.
        alignment: as of `FaceVectors`.
        detector: as of `FaceVectors`.
        min_face: as of `FaceVectors`.
        batch_size: as of `FaceVectors`.
        facts: as of `FaceVectors`.
        jobs: threads; the machine's cores by default.
        share: (number, count): this job does that share of the pictures, from 1 on; `join_faces`
            joins the tables.
        progress: called with (done, in all) pictures.

    Raises:
        FileNotFoundError: there is no such source or model.
        ValueError: an argument is out of range, or the source holds no pictures.
        ImportError: a package of the extras `align`, `export` or `search` is needed and missing.
        OSError: the table cannot be written.

    Example:

    >>> import keras, tempfile
    >>> from tf_sphereface.data import synthetic
    >>> photos, folder = synthetic.write_folder(tempfile.mkdtemp(), 2, 2), Path(tempfile.mkdtemp())
    >>> layers = [keras.Input((112, 96, 3)), keras.layers.AveragePooling2D(16)]
    >>> network = keras.Sequential([*layers, keras.layers.Flatten()])
    >>> fed = {"channel_order": "rgb", "pixel_mean": 127.5, "pixel_scale": 128.0}
    >>> result = embed_faces(network, photos, folder / "faces.npz", facts=fed)
    >>> result.faces, load_faces(folder / "faces.npz").embeddings.shape
    (4, (4, 126))
    """
    out = check_suffix(out)
    number, count = share
    check_integer("share", count, 1)
    check_integer("share", number, 1, count)
    threads = (os.cpu_count() or 1) if jobs is None else check_integer("jobs", jobs, 1)
    images = FaceImages(source)
    parts = _parts_of(len(images), number, count)
    folder = out.with_name(short_name(out.name, ".parts"))
    with single_threaded_operations():
        embed = FaceVectors(
            model,
            alignment,
            detector=detector,
            min_face=min_face,
            batch_size=batch_size,
            facts=facts,
        )
        about = _facts(embed, images, share)
        keys = [_key(about, embed.settings, images, part) for part in parts]
        files = [folder / f"{part.start:010d}.npz" for part in parts]
        waiting = [i for i, file in enumerate(files) if not _is_done(file, keys[i])]
        folder.mkdir(parents=True, exist_ok=True)

        def work(i: int) -> int:
            names = [images.names[position] for position in parts[i]]
            table = embed.read_table(names, lambda place: images.read(parts[i][place]))
            table.facts = {"key": keys[i]}
            table.save(files[i])
            return len(parts[i])

        total = sum(map(len, parts))
        done = reused = total - sum(len(parts[i]) for i in waiting)
        if progress is not None:
            progress(done, total)
        for finished in _in_threads(work, waiting, threads):
            done += finished
            if progress is not None:
                progress(done, total)
    failed: dict[str, str] = {}
    faces = write_tables(out, _finished(files, failed), about, are_text(images.names))
    shutil.rmtree(folder, ignore_errors=True)
    return EmbeddingResult(faces, total, reused, failed, images)


def _finished(files: Sequence[Path], failed: dict[str, str]) -> Iterator[FaceTable]:
    """Yield the tables of the parts, and note in `failed` which pictures gave no face."""
    for file in files:
        table = load_faces(file)
        failed.update(table.failed)
        yield table


def _parts_of(pictures: int, number: int, count: int) -> list[range]:
    """Cut a share of the pictures into parts; the shares lie one behind the other."""
    begin, end = pictures * (number - 1) // count, pictures * number // count
    size = min(max(_FEWEST, (end - begin) // 64), _MOST)
    return [range(i, min(i + size, end)) for i in range(begin, end, size)] or [range(begin, end)]


def _facts(embed: FaceVectors, images: FaceImages, share: tuple[int, int]) -> dict[str, Any]:
    """Return what a table says of its origin."""
    model, metadata = embed.embedder, embed.embedder.metadata
    return {
        "source": str(images.source.resolve()),
        "model": None if model.path is None else str(model.path.resolve()),
        "model_sha256": None if model.path is None else model_sha256(model.path),
        "flip": embed.flip,
        "threshold": metadata.threshold,
        "threshold_far": metadata.threshold_far,
        "input_size": list(model.input_size),
        "given": {name: value for name, value in model.given.items() if value is not None},
        **embed.settings,
        "share": None if share == (1, 1) else list(share),
    }


def _key(
    about: dict[str, Any], settings: dict[str, Any], images: FaceImages, part: range
) -> str | None:
    """Return what a part depends on, 64 hexadecimal digits; None of a model in memory."""
    if about["model_sha256"] is None:
        return None
    names = ("model_sha256", "flip", "given")
    facts = [_VERSION, settings, {n: about[n] for n in names}, images.fingerprint(part)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()


def _is_done(file: Path, key: str | None) -> bool:
    """Tell whether a part lies there, whole and from these pictures."""
    if key is None or not file.is_file():
        return False
    with contextlib.suppress(ValueError, OSError):
        return bool(load_faces(file).facts.get("key") == key)
    return False


def _in_threads(work: Callable[[int], int], places: Sequence[int], threads: int) -> Iterator[int]:
    """Yield `work(place)` of each place as it is done, without working far ahead."""
    running: set[Future[int]] = set()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for place in places:
                running.add(pool.submit(work, place))
                if len(running) > threads:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            for future in running:
                yield future.result()
        except BaseException:  # an interrupt too: do not finish the queue first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
