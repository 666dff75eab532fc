"""Embedders put on the Hugging Face Hub, in the layout that Keras reads there."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras

from tf_sphereface.embedder import model_card
from tf_sphereface.embedder.embedder import save_embedder
from tf_sphereface.embedder.hub_download import (
    SUFFIXES,
    HubName,
    call_hub,
    parse_name,
    without_tokens,
)
from tf_sphereface.embedder.metadata import EmbedderMetadata, sidecar_path
from tf_sphereface.embedder.model_hashes import external_data_files
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.optional import require

_CARD = "---\nlibrary_name: keras\ntags:\n- face-recognition\n---\n\n"


@dataclasses.dataclass(frozen=True)
class Uploaded:
    """What `upload_embedder` wrote.

    Attributes:
        address: of the repository.
        files: what was written, in one commit.
        others: models that were there before and still are: of other weights perhaps.
    """

    address: str
    files: list[str]
    others: list[str]


def upload_embedder(
    model: keras.Model,
    name: str,
    files: Sequence[str | os.PathLike[str]] = (),
    metadata: EmbedderMetadata | None = None,
) -> Uploaded:
    """Put a network on the Hub, with its facts, its threshold, a card and exported files.

    `keras.saving.load_model("hf://owner/name")` opens it too: the layout is that of Keras' own
    upload, with `tf_sphereface.json` beside it. A repository that is new is made private. All is
    one commit: it appears whole or not at all.

    Args:
        model: as for `save_embedder`.
        name: `hf://owner/name`.
        files: `.tflite` and `.onnx` files of the same network; a JSON file beside one goes too.
        metadata: as for `save_embedder`.

    Raises:
        OSError: the Hub refuses, or cannot be reached; a file does not exist.
        ValueError: `name` is of another form, or a file of another format.
        ImportError: the `hub` extra is not installed.

    Example:

    ```python
    metadata = EmbedderMetadata(channel_order="rgb", pixel_mean=127.5, pixel_scale=128)
    uploaded = upload_embedder(network, "hf://my-name/my-faces", ["faces.tflite"], metadata)
    ```
    """
    place = check_target(name)
    library = require("huggingface_hub", extra="hub")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        folder.mkdir()
        network = Path(scratch) / f"{place.repository.split('/')[1]}.keras"
        save_embedder(model, network, metadata)
        with zipfile.ZipFile(network) as archive:
            archive.extractall(folder)
        card = model_card.card_of(network)
        card["file"] |= {"name": place.repository, "sha256": None}  # the repository has its parts
        text = _CARD + model_card.to_markdown(card)
        (folder / "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")
        for path in map(Path, files):
            if path.suffix.lower() not in SUFFIXES[1:]:
                raise error("files", "be .tflite and .onnx files", str(path))
            for source in (path, *external_data_files(path), sidecar_path(path)):
                if source != sidecar_path(path) or source.exists():
                    target = folder / source.relative_to(path.parent)  # as the model names it
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
        written = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        api = library.HfApi()
        address = call_hub(name, api.create_repo, place.repository, private=True, exist_ok=True)
        info = call_hub(name, api.model_info, place.repository)
        call_hub(
            name,
            api.upload_folder,
            repo_id=place.repository,
            folder_path=folder,
            commit_message="Save a face embedder by tf_sphereface",
        )
    there = [entry.rfilename for entry in info.siblings or ()]
    others = [file for file in there if file.endswith(SUFFIXES) and file not in written]
    return Uploaded(without_tokens(str(address)), written, others)


def check_target(name: str) -> HubName:
    """Return where to write: a repository alone, with the library for it installed.

    Raises:
        ValueError: `name` is no `hf://owner/name`.
        ImportError: the `hub` extra is not installed.
    """
    place = parse_name(name)
    if place.revision or place.file:
        raise error("name", "be hf://owner/name alone", without_tokens(name))
    require("huggingface_hub", extra="hub")
    return place
