"""One callable from aligned faces to embeddings, whatever format the network is stored in."""

from tf_sphereface.embedder.embedder import Embedder, load_embedder, save_embedder
from tf_sphereface.embedder.hub_upload import Uploaded, upload_embedder
from tf_sphereface.embedder.metadata import EmbedderMetadata, library_versions, read_metadata
from tf_sphereface.embedder.metadata_rewriting import describe_file
from tf_sphereface.embedder.model_card import card_of, write_card
from tf_sphereface.embedder.weight_files import save_weights

__all__ = [
    "Embedder",
    "EmbedderMetadata",
    "Uploaded",
    "card_of",
    "describe_file",
    "library_versions",
    "load_embedder",
    "read_metadata",
    "save_embedder",
    "save_weights",
    "upload_embedder",
    "write_card",
]
