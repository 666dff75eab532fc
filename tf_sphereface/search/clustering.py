"""Faces into people: average linkage, cut at a threshold that fits the number of faces."""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.search.face_table import FaceTable
from tf_sphereface.utils.checks import check_number, error
from tf_sphereface.utils.optional import require

STRANGERS = 0.03  # of a face among all others that may lie above the cut
BLURRED = 15.0  # sharpness; LFW's faces have 17.9 and more, faces blurred by 3 pixels below 10.8
BLANK = 0.5  # cosine to a picture without a face; of 16,643 real faces one in a thousand has 0.32
_MOST = 30_000  # faces in one component: their distances are 7 GB
_BLOCK = 1024
_SAMPLE = 1500  # faces that the folder's own cosines are read from
_FORBIDDEN = 1e9  # as a distance: no mean that holds it passes a cut
_SEPARATION = 2.5  # standard deviations between two kinds of cosines
_STRANGERS_MEAN = 0.35  # of strangers' cosines, at most, where only one kind is to be seen
_BINS = 400

Vectors = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Cut:
    """The mean cosine from which two clusters are one person, and where it comes from.

    Attributes:
        cosine: it, in [-1, 1].
        reason: in words.
        origin: `"given"`, `"model"` or `"folder"`.
    """

    cosine: float
    reason: str
    origin: str


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """The people among some faces.

    Attributes:
        labels: int64 (n,), the cluster of each face, the largest is 0; -1: it is alone.
        count: number of clusters, of two faces at least.
        unclear: row -> `"blurred"` or `"no face"`, of faces that may not found or join clusters
            on their own; a blurred one may belong to a cluster of clear ones.
        cut: where the tree was cut.
        notes: what was left undone, in words.
    """

    labels: NDArray[np.int64]
    count: int
    unclear: dict[int, str]
    cut: Cut
    notes: list[str]


def cluster_faces(table: FaceTable, *, threshold: float | None = None) -> Clusters:
    """Sort faces into people.

    The mean cosine between two clusters decides (average linkage). Faces of one picture are never
    one person. Blurred faces and pictures without a face lie close to each other whoever they show:
    they found no cluster, and a blurred one joins at most a cluster of clear faces.

    Args:
        table: the faces, with one `paths` entry per face.
        threshold: the mean cosine from which two clusters are one person; None: the model's
            calibrated threshold, raised for the number of faces, or one that is read from these
            faces' own cosines.

    Raises:
        ValueError: an embedding is zero or not finite, `threshold` is no cosine, there is no
            threshold and the faces do not show one, or more than 30,000 faces hang together.
        ImportError: scikit-learn is not installed (the extra `eval`).

    Example:

    >>> vectors = np.repeat(np.eye(3, 8), [3, 2, 1], axis=0)
    >>> table = FaceTable([f"{i}.jpg" for i in range(6)], vectors)
    >>> cluster_faces(table, threshold=0.4).labels.tolist()
    [0, 0, 0, 1, 1, -1]
    """
    units = table.unit()
    bad = np.flatnonzero(~np.isfinite(units).all(axis=1) | (np.abs(units).max(axis=1) == 0))
    if len(bad):
        raise ValueError(
            "Argument `table` must hold embeddings that are finite and not zero. "
            f"Received: that of {table.paths[bad[0]]}, and {len(bad) - 1:,} more"
        )
    notes: list[str] = []
    unclear = find_unclear(table, notes)
    clear = np.array([row for row in range(len(table)) if row not in unclear], np.int64)
    photos = np.unique(np.asarray(table.paths, np.str_), return_inverse=True)[1]
    cut = choose_cut(table, units[clear], threshold)
    labels = np.arange(len(table))
    if len(clear):
        labels[clear] = clear[_link(units[clear], photos[clear], cut.cosine)]
    blank = table.blankness > BLANK
    near = [row for row, why in unclear.items() if why == "blurred" and not blank[row]]
    _attach(labels, units, photos, (clear, near), cut)
    roots, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    place = np.empty(len(roots), np.int64)
    place[order] = np.arange(len(roots))
    count = int(np.sum(sizes > 1))
    numbers = place[inverse]
    return Clusters(np.where(numbers < count, numbers, -1), count, unclear, cut, notes)


def find_unclear(table: FaceTable, notes: list[str]) -> dict[int, str]:
    """Return the rows of blurred faces and of pictures without a face.

    Where most rows would be, the measure does not fit these pictures or this model, and is left out
    with a note.
    """
    unclear: dict[int, str] = {}
    measures = ((table.blankness > BLANK, "no face"), (table.sharpness < BLURRED, "blurred"))
    for values, what in measures:
        if np.mean(values) > 0.5:
            notes.append(f"more than half of the faces count as {what}: that is not used here")
            continue
        unclear = dict.fromkeys(np.flatnonzero(values).tolist(), what) | unclear
    if len(table) and np.isnan(table.sharpness).all():
        notes.append("the table does not tell blurred faces from others")
    return unclear


def choose_cut(table: FaceTable, units: Vectors, threshold: float | None) -> Cut:
    """Return the cut: the given one, the model's raised for the number of faces, or the folder's.

    Cosines of strangers are taken as normally distributed. The cut is where a face has `STRANGERS`
    of all others above it by chance; of the model's threshold and its rate, that gives their
    spread, else the faces themselves show it.
    """
    if threshold is not None:
        value = check_number("threshold", threshold, -1.0, 1.0)
        return Cut(value, "given", "given")
    model, far = table.facts.get("threshold"), table.facts.get("threshold_far")
    share = min(STRANGERS / max(len(units) - 1, 1), 0.01)
    z = statistics.NormalDist().inv_cdf(1 - share)
    seen = strangers_cosines(units)
    if model is not None:
        if not far or seen is None or far >= 0.5 or model <= seen[0]:
            return Cut(float(model), "the model's threshold", "model")
        spread = (model - seen[0]) / statistics.NormalDist().inv_cdf(1 - far)
        raised = max(float(model), min(seen[0] + z * spread, 0.99))
        return Cut(
            raised,
            f"the model's threshold {model:.4f} (false accept rate {far:g}), raised for "
            f"{len(units):,} faces to a rate of {share:.2g}",
            "model",
        )
    if seen is None:
        raise error(
            "threshold",
            "be given: the model has none, and the cosines of these faces are of one kind only, so "
            "they do not show where a person ends",
            None,
        )
    return Cut(
        min(seen[0] + z * seen[1], 0.99),
        f"the model has no threshold: read from these faces' own cosines (strangers' mean "
        f"{seen[0]:.3f}, standard deviation {seen[1]:.3f}), for a rate of {share:.2g}",
        "folder",
    )


def strangers_cosines(units: Vectors) -> tuple[float, float] | None:
    """Return mean and standard deviation of strangers' cosines among faces; None if unclear.

    Two normal distributions are fitted to the cosines of all pairs (expectation maximization over a
    histogram). Where they lie apart the lower one is the strangers'. Where they do not, all pairs
    are taken as strangers if their mean is near zero, as in a folder of many people.
    """
    if len(units) < 3:
        return None
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(units))[:_SAMPLE])
    cosines = (units[rows] @ units[rows].T)[np.triu_indices(len(rows), 1)]
    counts, edges = np.histogram(np.clip(cosines, -1, 1), _BINS, (-1.0, 1.0))
    x, weights = (edges[1:] + edges[:-1]) / 2, counts / counts.sum()
    low, high = np.quantile(cosines, [0.05, 0.95])
    means, spreads = np.array([low, high]), np.full(2, max(float(np.std(cosines)) / 2, 0.01))
    shares = np.full(2, 0.5)
    for _ in range(200):
        density = shares * np.exp(-0.5 * ((x[:, None] - means) / spreads) ** 2) / spreads
        part = density / np.maximum(density.sum(axis=1, keepdims=True), 1e-300)
        mass = part * weights[:, None]
        shares = np.maximum(mass.sum(axis=0), 1e-9)
        means = (mass * x[:, None]).sum(axis=0) / shares
        variance = (mass * (x[:, None] - means) ** 2).sum(axis=0) / shares
        spreads = np.sqrt(np.maximum(variance, 1e-4))
    order = np.argsort(means)
    means, spreads, shares = means[order], spreads[order], shares[order]
    apart = (means[1] - means[0]) / np.sqrt(np.mean(spreads**2))
    if apart >= _SEPARATION and shares.min() > 1e-4:
        return float(means[0]), float(spreads[0])
    middle = float(np.median(cosines))
    if middle > _STRANGERS_MEAN:
        return None
    return middle, float(middle - np.quantile(cosines, 0.1587))


def _link(units: Vectors, photos: NDArray[np.int64], cut: float) -> NDArray[np.int64]:
    """Return a row of its cluster for each face.

    Clusters whose mean cosine reaches the cut hold a pair that does: linkage within the connected
    components of such pairs gives the clusters of all, in less memory.
    """
    labels = np.arange(len(units))
    for rows in _components(units, cut):
        if len(rows) == 1:
            continue
        if len(rows) > _MOST:
            raise ValueError(
                f"Argument `threshold` must be higher: {len(rows):,} faces hang together at a "
                f"cosine of {cut:.3f}, and their distances do not fit into memory. At most "
                f"{_MOST:,} may"
            )
        distances = 1.0 - (units[rows] @ units[rows].T).astype(np.float64)
        distances = np.maximum((distances + distances.T) / 2, 0.0)
        distances[photos[rows][:, None] == photos[rows]] = _FORBIDDEN
        np.fill_diagonal(distances, 0.0)
        if len(rows) == 2:
            numbers = np.zeros(2, int) if distances[0, 1] <= 1 - cut else np.arange(2)
        else:
            numbers = (
                require("sklearn.cluster", extra="eval")
                .AgglomerativeClustering(
                    n_clusters=None,
                    metric="precomputed",
                    linkage="average",
                    distance_threshold=1 - cut,
                )
                .fit_predict(distances)
            )
        first = np.unique(numbers, return_index=True)[1]
        labels[rows] = rows[first[numbers]]
    return labels


def _components(units: Vectors, cut: float) -> list[NDArray[np.int64]]:
    """Return the connected components of the pairs whose cosine reaches the cut."""
    graph = require("scipy.sparse.csgraph", extra="eval")
    sparse = require("scipy.sparse", extra="eval")
    count = len(units)
    labels = np.arange(count)
    for begin in range(0, count, _BLOCK):
        left, right = np.nonzero(units[begin : begin + _BLOCK] @ units.T >= cut)
        left = np.concatenate([left + begin, np.arange(count)])
        right = np.concatenate([right, labels])
        edges = sparse.coo_matrix((np.ones(len(left), bool), (left, right)), (count, count))
        numbers = graph.connected_components(edges, directed=False)[1]
        labels = np.unique(numbers, return_index=True)[1][numbers]
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _attach(
    labels: NDArray[np.int64],
    units: Vectors,
    photos: NDArray[np.int64],
    rows: tuple[NDArray[np.int64], list[int]],
    cut: Cut,
) -> None:
    """Give blurred faces to the clusters of clear ones that are near enough, in place.

    `rows` are those of the clear and of the blurred faces.
    """
    clear, blurred = rows
    roots, inverse = np.unique(labels[clear], return_inverse=True)
    if not len(roots) or not blurred:
        return
    sums = np.zeros((len(roots), units.shape[1]))
    np.add.at(sums, inverse, units[clear])
    means = sums / np.bincount(inverse)[:, None]
    held = [set(photos[clear][inverse == k].tolist()) for k in range(len(roots))]
    similar = units[blurred] @ means.T
    for row, cosines in zip(blurred, similar, strict=True):
        for k in np.argsort(-cosines)[: 1 + int(np.sum(cosines >= cut.cosine))]:
            if cosines[k] >= cut.cosine and photos[row] not in held[k]:
                labels[row] = roots[k]
                held[k].add(int(photos[row]))
                break


def largest_angle(units: Vectors) -> float:
    """Return the largest angle between two of some faces, (n, d) of unit length, in degrees."""
    smallest = 1.0
    for begin in range(0, len(units), _BLOCK):
        smallest = min(smallest, float((units[begin : begin + _BLOCK] @ units.T).min()))
    return float(np.degrees(np.arccos(np.clip(smallest, -1.0, 1.0))))
