"""Ways to sort faces into people, on a table of faces whose folders are their people.

tf_sphereface-search embed embedder.keras faces/ --out faces.npz
python benchmarks/clustering.py faces.npz --people 150

Average linkage as the command cuts it, at other cuts, complete linkage, and HDBSCAN. All distances
are in memory: 8 bytes for each pair of faces.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import HDBSCAN, AgglomerativeClustering

from tf_sphereface import search
from tf_sphereface.eval.measures.clusters import score_clusters

Labels = NDArray[np.integer]


def linkage(kind: str, cut: float) -> Callable[[NDArray[np.float64]], Labels]:
    """Return what clusters distances by a linkage that is cut at a cosine."""
    options = {"n_clusters": None, "metric": "precomputed", "distance_threshold": 1 - cut}
    return lambda distances: AgglomerativeClustering(linkage=kind, **options).fit_predict(distances)


def density(least: int, selection: str) -> Callable[[NDArray[np.float64]], Labels]:
    """Return what clusters distances by HDBSCAN."""
    options = {"min_cluster_size": least, "min_samples": 1, "metric": "precomputed", "copy": True}
    options["cluster_selection_method"] = selection
    return lambda distances: HDBSCAN(**options).fit_predict(distances)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path, help="of tf_sphereface-search embed")
    parser.add_argument("--people", type=int, metavar="N", help="the first N people alone")
    args = parser.parse_args(argv)
    faces = search.load_faces(args.table)
    names = np.array([path.split("/")[0] for path in faces.paths])
    rows = np.flatnonzero(np.isin(names, np.unique(names)[: args.people]))
    table = search.FaceTable(
        [faces.paths[row] for row in rows],
        faces.embeddings[rows],
        sharpness=faces.sharpness[rows],
        blankness=faces.blankness[rows],
    )
    units = table.unit()
    distances = np.maximum(1.0 - (units @ units.T).astype(np.float64), 0.0)
    np.fill_diagonal(distances, 0.0)
    ways: dict[str, Callable[[NDArray[np.float64]], Labels]] = {
        "the command": lambda _: search.cluster_faces(table).labels,
        **{f"average {cut}": linkage("average", cut) for cut in (0.3, 0.4, 0.5)},
        "complete 0.1": linkage("complete", 0.1),
        **{f"HDBSCAN, from {n} on": density(n, "eom") for n in (2, 3)},
        "HDBSCAN, leaves": density(2, "leaf"),
    }
    print(f"{len(table)} faces of {len(np.unique(names[rows]))} people")
    for name, way in ways.items():
        begin = time.process_time()
        score = score_clusters(way(distances), names[rows])
        seconds = time.process_time() - begin
        pairs, means = (" ".join(f"{v:.3f}" for v in r) for r in (score.pairwise, score.bcubed))
        print(
            f"{name:18s} pairs {pairs}  BCubed {means}  {score.clusters} clusters, {score.mixed} "
            f"mixed, {score.split} people split, {seconds:.1f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
