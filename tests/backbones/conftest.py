"""The small network of the embedder's tests, faces for it, and their embeddings."""

from __future__ import annotations

from tests.embedder.conftest import expected, faces, network

__all__ = ["expected", "faces", "network"]
