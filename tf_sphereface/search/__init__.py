"""Who is it: galleries of enrolled people, exact search, and the answer "unknown"."""

from __future__ import annotations

from tf_sphereface.search.cluster_folder import describe_clusters, write_clusters
from tf_sphereface.search.clustering import Clusters, cluster_faces
from tf_sphereface.search.embedding_job import EmbeddingResult, embed_faces
from tf_sphereface.search.face_table import FaceTable, join_faces, load_faces
from tf_sphereface.search.face_vectors import FaceVectors

__all__ = [
    "Clusters",
    "EmbeddingResult",
    "FaceTable",
    "FaceVectors",
    "cluster_faces",
    "describe_clusters",
    "embed_faces",
    "join_faces",
    "load_faces",
    "write_clusters",
]
