"""Scores of pairs, from images or from embeddings that were computed elsewhere."""

from __future__ import annotations

from tf_sphereface.eval.scoring.precomputed import (
    StoredEmbeddings,
    StoredScores,
    read_embeddings,
    write_embeddings,
)
from tf_sphereface.eval.scoring.score_pairs import (
    VerificationTable,
    embed_verification,
    verification_vectors,
    verify_embeddings,
)
from tf_sphereface.eval.scoring.sources import EmbeddingOptions

__all__ = [
    "EmbeddingOptions",
    "StoredEmbeddings",
    "StoredScores",
    "VerificationTable",
    "embed_verification",
    "read_embeddings",
    "verification_vectors",
    "verify_embeddings",
    "write_embeddings",
]
