"""Who is it: galleries of enrolled people, exact search, and the answer "unknown"."""

from __future__ import annotations

from tf_sphereface.search.approximate_search import ApproximateSearch
from tf_sphereface.search.cluster_folder import describe_clusters, write_clusters
from tf_sphereface.search.clustering import Clusters, cluster_faces
from tf_sphereface.search.embedding_job import EmbeddingResult, embed_faces
from tf_sphereface.search.enrollment import Enrollment
from tf_sphereface.search.exact_search import ExactSearch
from tf_sphereface.search.face_table import FaceTable, join_faces, load_faces
from tf_sphereface.search.face_vectors import FaceVectors
from tf_sphereface.search.gallery import Gallery
from tf_sphereface.search.identification_threshold import IdentificationThreshold

__all__ = [
    "ApproximateSearch",
    "Clusters",
    "EmbeddingResult",
    "Enrollment",
    "ExactSearch",
    "FaceTable",
    "FaceVectors",
    "Gallery",
    "IdentificationThreshold",
    "cluster_faces",
    "describe_clusters",
    "embed_faces",
    "join_faces",
    "load_faces",
    "write_clusters",
]
