"""Pack a folder of faces into TFRecord shards: the same bytes for the same folder and seed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_sphereface.alignment.passed_over import PassedOver
from tf_sphereface.data.batches import permutation
from tf_sphereface.data.decoding import read_bytes
from tf_sphereface.data.options import Size
from tf_sphereface.data.pack.format import FORMAT, MANIFEST, PARTIAL, VERSION, read_manifest
from tf_sphereface.data.pack.listing import Listing, write_listing
from tf_sphereface.data.pack.shard_writer import (
    Encoder,
    Encoding,
    ShardFiles,
    kept_shard,
    write_index,
    write_shard,
)
from tf_sphereface.data.recordio.listing import list_records
from tf_sphereface.data.recordio.reading import RecordFile, is_rec, open_rec
from tf_sphereface.utils import checks
from tf_sphereface.utils.files import sha256_file, write_json
from tf_sphereface.utils.messages import ProgressCallback, and_more

_PACK = 3  # the random stream of the order on disk


@dataclasses.dataclass(frozen=True)
class PackResult:
    """What `pack_folder` did.

    Attributes:
        path: the packed folder.
        images: images in it.
        classes: identities.
        shards: shards.
        kept_shards: how many of them were there already, and whole.
        bytes: size of all shards.
        skipped: path -> why, of the files that could not be decoded.
        passed_over: what was taken for no image of a person.
    """

    path: Path
    images: int
    classes: int
    shards: int
    kept_shards: int
    bytes: int
    skipped: dict[str, str]
    passed_over: PassedOver


def pack_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    shards: int | None = None,
    shard_size: float = 256.0,
    resize: Size | None = None,
    encoding: Encoding = "jpg",
    seed: int = 0,
    strict: bool = False,
    progress: ProgressCallback | None = None,
    workers: int | None = None,
) -> PackResult:
    """Pack a folder of identity folders, or an MXNet RecordIO file, into TFRecord shards.

    Images go in as the bytes of their files, in one random order over the whole folder. Every file
    is decoded once, so that a pack holds none that cannot be. The result depends on the folder's
    names and contents and on the arguments alone, to the byte. Stopped at any moment, the same call
    goes on: finished shards are checked and kept. On a finished pack it repairs damaged shards.

    Args:
        source: the folder; its file names and sizes must not change until the pack is complete.
            Or a RecordIO file (.rec), or a folder with `train.rec`; its images are packed by
            person, under the names `LABEL/RECORD`.
        target: an empty or missing folder, or one that the same call has begun.
        shards: number of files; by default as many as `shard_size` asks for.
        shard_size: bytes of images in a shard, in units of 10^6, from one byte to 4,000.
        resize: (height, width); images of another size are resized and encoded again.
        encoding: of those: `"jpg"` (quality 95, colours at full resolution) or `"png"` (exact, and
            three times the size).
        seed: of the order in the shards. It has no influence on the batches.
        strict: raise at the first file that cannot be decoded, rather than leave it out, where
            images are passed over (of a format that nothing here reads, or not in a person's
            folder), and at records of a RecordIO file that are cut off or lost.
        progress: called with (done, total) files.
        workers: decoding threads; the machine's cores by default.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an argument is wrong; `target` holds something else, or a pack of another folder
            or with other arguments; a file is damaged (with `strict`), or all are.
        OSError: `target` cannot be written, or the disk is full. The same call goes on later.

    Example:

    >>> import tempfile
    >>> from tf_sphereface.data import synthetic
    >>> faces, packed = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> _ = synthetic.write_folder(faces, 3, 4)
    >>> result = pack_folder(faces, packed, shards=2)
    >>> result.images, result.classes, result.shards
    (12, 3, 2)
    """
    root, out = Path(source), Path(target)
    checks.check_choice("encoding", encoding, get_args(Encoding))
    seed = checks.check_integer("seed", seed, 0)
    if not 1e-6 <= shard_size <= 4000.0:
        raise checks.error("shard_size", "be from 0.000001, which is a byte, to 4,000", shard_size)
    size = None if resize is None else checks.check_image_size("resize", resize)
    records = _open_records(root, strict, progress)
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"target must lie outside of source, {root}. Received: {out}")
    manifest = _begin(out)
    passed_over = PassedOver()
    listing, read = _list(root, records, out / PARTIAL / "listing.txt", passed_over)
    if strict:
        passed_over.refuse(root)
    files = ShardFiles.all(out, _shard_count(shards, shard_size, listing))
    plan = {
        "source": listing.fingerprint,
        "files": len(listing),
        "shards": len(files),
        "seed": seed,
        "resize": size and list(size),
        "encoding": encoding if size else None,
    }
    _check_plan(out, plan, manifest)
    if manifest and not _index_is_whole(out, manifest):  # where the records lie is lost: write all
        write_json(out / PARTIAL / "plan.json", plan)
        (out / MANIFEST).unlink()
        manifest = None
    order = permutation(len(listing), seed, tf.constant(0), _PACK).numpy().astype(np.uint32)
    encoder = Encoder(root, read, size, encoding, strict)
    facts, kept = _write_shards(
        files, listing, order, encoder, manifest=manifest, progress=progress, workers=workers
    )
    if manifest is None:
        manifest = _finish(out, listing, plan, files, facts)
    shutil.rmtree(out / PARTIAL)
    return PackResult(
        path=out,
        images=manifest["images"],
        classes=manifest["classes"],
        shards=len(files),
        kept_shards=kept,
        bytes=sum(shard["bytes"] for shard in manifest["shards"]),
        skipped={entry["file"]: entry["reason"] for entry in manifest["skipped"]},
        passed_over=passed_over,
    )


def _open_records(root: Path, strict: bool, progress: ProgressCallback | None) -> RecordFile | None:
    """Open a RecordIO file; None for a folder. Raises where there is neither."""
    if is_rec(root):
        return open_rec(root, errors="raise" if strict else "report", progress=progress)
    if not root.is_dir():
        raise FileNotFoundError(f"source must be a folder of identity folders. Received: {root}")
    return None


def _list(
    root: Path, records: RecordFile | None, place: Path, passed_over: PassedOver
) -> tuple[Listing, Callable[[str], bytes]]:
    """List a folder or a RecordIO file; return the list, and what reads an image that is in it."""
    if records is not None:
        return list_records(records, place), records.read_named
    return write_listing(root, place, passed_over), lambda file: read_bytes(root / file)


def _begin(out: Path) -> dict[str, Any] | None:
    """Make `out` ready to be written, and return its manifest when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    for folder in (out, out / PARTIAL):  # what a killed process was writing
        for left in folder.glob(".*.*") if folder.is_dir() else ():
            if left.is_dir() and left.name.startswith((".faces-", ".shard-", *_TEMPORARY)):
                shutil.rmtree(left, ignore_errors=True)
    names = {entry.name for entry in out.iterdir()}
    if MANIFEST in names:
        return read_manifest(out)
    if names and PARTIAL not in names:
        raise ValueError(
            f"target must be empty, or a pack that was begun. Received: {out}, which holds "
            f"{and_more(sorted(names), 5)}"
        )
    (out / PARTIAL).mkdir(exist_ok=True)
    return None


_TEMPORARY = (".manifest.", ".index.", ".files.", ".classes.", ".listing.", ".plan.")


def _shard_count(shards: int | None, shard_size: float, listing: Listing) -> int:
    """Return the number of shards, or raise `ValueError` when it makes no sense."""
    most = min(len(listing), 65535)
    if shards is None:
        shards = max(1, min(-(-listing.size // max(1, int(shard_size * 1e6))), most))
    if shards != int(shards) or not 1 <= shards <= most:
        expected = f"be an integer from 1 to the number of images, {len(listing):,}, at most 65,535"
        raise checks.error("shards", expected, shards)
    return int(shards)


def _check_plan(out: Path, plan: dict[str, Any], manifest: dict[str, Any] | None) -> None:
    """Note what this pack is to become, or refuse to go on with another one."""
    path = out / PARTIAL / "plan.json"
    before = manifest["plan"] if manifest else None
    if before is None and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
    if before is None:
        write_json(path, plan)
    elif before != plan:
        if manifest:
            shutil.rmtree(out / PARTIAL)
        changed = [
            "the file names or sizes in the source are not the same"
            if key == "source"
            else f"{key} was {before.get(key)}, now {value}"
            for key, value in plan.items()
            if before.get(key) != value
        ]
        raise ValueError(
            f"{out} holds a pack of another folder or with other options: {'; '.join(changed)}. "
            "Choose another target, or remove it first"
        )


def _index_is_whole(out: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether the files beside the shards hold what they should."""
    return all(
        (out / name).is_file() and sha256_file(out / name) == facts["sha256"]
        for name, facts in manifest["files"].items()
    )


def _refuse_loss(image: Path, why: str, written: Path) -> None:
    raise ValueError(f"{image} cannot be decoded: {why}. {written} was written without it")


def _write_shards(
    files: list[ShardFiles],
    listing: Listing,
    order: NDArray[np.uint32],
    encoder: Encoder,
    *,
    manifest: dict[str, Any] | None,
    progress: ProgressCallback | None,
    workers: int | None,
) -> tuple[list[dict[str, Any]], int]:
    """Write the shards that are not there; return the facts of all, and how many were there."""
    if encoder.strict and manifest and manifest["skipped"]:
        entry = manifest["skipped"][0]
        shutil.rmtree(files[0].path.parent / PARTIAL)
        _refuse_loss(listing.root / entry["file"], entry["reason"], files[0].path.parent)
    all_facts: list[dict[str, Any]] = []
    kept = done = 0

    def tell(step: int) -> None:
        nonlocal done
        done += step
        if progress is not None:
            progress(done, len(listing))

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for number, shard in enumerate(files):
            begin, end = (len(order) * (number + i) // len(files) for i in (0, 1))
            promised = manifest["shards"][number] if manifest else None
            facts = kept_shard(shard, promised)
            if facts is None:
                facts = write_shard(shard, listing, order[begin:end], encoder, pool, tell)
                if promised and facts["sha256"] != promised["sha256"]:
                    raise ValueError(
                        f"{shard.path} was damaged and has been written again, but to other bytes: "
                        f"files in {listing.root} have changed. Remove {shard.path.parent} and "
                        "pack again"
                    )
            else:
                if encoder.strict and facts.get("skipped"):  # a whole pack has them in one list
                    place, why = facts["skipped"][0]
                    (name,) = listing.files(np.array([place]))
                    _refuse_loss(listing.root / name, why, shard.path)
                kept += 1
                tell(end - begin)
            all_facts.append(facts)
    return all_facts, kept


def _finish(
    out: Path,
    listing: Listing,
    plan: dict[str, Any],
    files: list[ShardFiles],
    facts: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write the index, then the manifest that makes the pack complete."""
    skipped = sorted((int(place), why) for shard in facts for place, why in shard["skipped"])
    if len(skipped) == len(listing):
        raise ValueError(
            f"none of the {len(listing):,} files in {listing.root} can be decoded. "
            f"The first: {skipped[0][1]}"
        )
    places = np.array([place for place, _ in skipped], np.int64)
    names = write_index(out, listing, files, places)
    sizes = {tuple(size) for shard in facts for size in shard["sizes"]}
    fields = ("file", "records", "bytes", "sha256")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "images": len(listing) - len(skipped),
        "classes": len(listing.names),
        "image_size": list(sizes.pop()) if len(sizes) == 1 else None,
        "plan": plan,
        "skipped": [
            {"file": file, "reason": why}
            for file, (_, why) in zip(listing.files(places), skipped, strict=True)
        ],
        "files": {name: {"sha256": sha256_file(out / name)} for name in names},
        "shards": [{key: shard[key] for key in fields} for shard in facts],
    }
    write_json(out / MANIFEST, manifest)
    return manifest
