"""The time and memory of evaluating pairs, of IJB-C, and of a search among a million strangers.

python benchmarks/evaluation.py pairs                     6,000 and 1,000,000 scored pairs
python benchmarks/evaluation.py identify --gallery 1000000 --probes 500
python benchmarks/evaluation.py ijb                       IJB-C's size, with random embeddings
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tf_sphereface.eval import identification, ijb, verification
from tf_sphereface.eval.ijb_files import PUBLISHED
from tf_sphereface.eval.scoring import StoredEmbeddings


def pairs(count: int) -> None:
    """Evaluate scores of so many pairs, ten folds, five times."""
    rng = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], count // 20), 10)
    scores = np.clip(rng.normal(0, 0.12, count) + 0.5 * same, -1, 1)
    folds = np.repeat(np.arange(1, 11), count // 10)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        verification.evaluate(scores, same, folds)
        times.append(time.perf_counter() - start)
    print(
        f"{count:>9,} pairs: {1000 * min(times):,.0f} ms at best, {1000 * max(times):,.0f} at worst"
    )


def identify(gallery: int, probes: int, dim: int) -> None:
    """Search probes, five images a person, among so many random strangers in a file."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npy"
        strangers = np.lib.format.open_memmap(path, "w+", np.float32, (gallery, dim))
        for start in range(0, gallery, 10_000):
            part = strangers[start : start + 10_000]
            part[:] = rng.standard_normal(part.shape, np.float32)
        del strangers, part  # both map the file
        centres = np.repeat(rng.standard_normal((probes // 5, dim)), 5, axis=0)
        people = (centres + 2 * rng.standard_normal(centres.shape)).astype(np.float32)
        labels = np.repeat(np.arange(probes // 5), 5)
        before = peak_memory()
        start, cpu = time.perf_counter(), time.process_time()
        found = identification.with_distractors(people, labels, np.load(path, mmap_mode="r"))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_memory()
    print(f"{probes:,} probes among {gallery:,} x {dim}: {wall:.0f} s, {cpu:.0f} s of CPU time")
    if math.isfinite(peak):
        print(f"  resident memory: {before:.2f} GB before, {peak:.2f} GB at most")
    print(f"  {found.num_searches:,} searches; rank 1: {found.rates[gallery][1]:.4f}")
    print(f"  TAR at FAR: {found.verification.rates}")


def ijbc(dim: int) -> None:
    """Evaluate a set of IJB-C's size from its lists, with random embeddings of its images."""
    rng = np.random.default_rng(0)
    counts = PUBLISHED["ijbc"]
    with tempfile.TemporaryDirectory() as folder:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # its memory is not ours
            template, subject = pool.apply(write_ijbc, [Path(folder)])
        people = rng.standard_normal((subject.max() + 1, dim), np.float32)
        embeddings = np.empty((counts["images"], dim), np.float32)
        for start in range(0, len(embeddings), 10_000):
            part = embeddings[start : start + 10_000]
            part[:] = 4 * rng.standard_normal(part.shape, np.float32)
            part += people[subject[template[start : start + 10_000]]]
        names = [f"{k}.jpg" for k in range(1, len(embeddings) + 1)]
        stored = StoredEmbeddings(None, names, embeddings, embeddings[:, ::-1])
        before = peak_memory()
        start, cpu = time.perf_counter(), time.process_time()
        result = ijb.evaluate(stored, folder, "ijbc")
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(result.protocol)
    print(f"{len(result.variants)} variants and searches: {wall:.0f} s, {cpu:.0f} s of CPU time")
    print(f"  resident memory: {before:.2f} GB before, {peak_memory():.2f} GB at most")
    print(f"  TAR at FAR: {result.headline.verification.rates}")


def write_ijbc(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write lists of IJB-C's size; return each image's template and each template's person."""
    rng = np.random.default_rng(1)
    counts = PUBLISHED["ijbc"]
    galleries, people = (1_772, 1_759), 3_531
    subject = np.concatenate(
        [np.arange(people), rng.integers(0, people, counts["templates"] - people)]
    )
    template = np.sort(rng.integers(0, len(subject), counts["images"] - len(subject)))
    template = np.sort(np.concatenate([template, np.arange(len(subject))]))
    media = np.cumsum(rng.random(len(template)) < 0.4)
    points = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"
    scores = rng.uniform(0.5, 1, len(template))
    lines = {
        "face_tid_mid.txt": (
            f"{k}.jpg {t} {m}" for k, (t, m) in enumerate(zip(template, media, strict=True), 1)
        ),
        "name_5pts_score.txt": (f"{k}.jpg {points} {s:.6f}" for k, s in enumerate(scores, 1)),
    }
    probes = np.arange(people, len(subject))
    genuine = np.stack([subject[probes], probes], axis=1)[: counts["genuine"]]
    drawn = rng.integers(0, people * len(probes), 18_500_000)
    drawn = np.unique(drawn)  # sorted by gallery template, as published
    others = np.stack([drawn // len(probes), people + drawn % len(probes)], axis=1)
    others = others[subject[others[:, 0]] != subject[others[:, 1]]]
    others = others[np.sort(rng.permutation(len(others))[: counts["pairs"] - counts["genuine"]])]
    pairs = np.concatenate([genuine, others])
    same = np.arange(len(pairs)) < len(genuine)
    lines["template_pair_label.txt"] = (
        f"{a} {b} {c:d}" for (a, b), c in zip(pairs.tolist(), same.tolist(), strict=True)
    )
    owned = {
        "1N_gallery_G1.csv": np.arange(galleries[0]),
        "1N_gallery_G2.csv": np.arange(galleries[0], people),
        "1N_probe_mixed.csv": probes,
    }
    for name, chosen in owned.items():
        rows = (f"{t},{subject[t]},img/{t}.jpg" for t in chosen.tolist())
        lines[name] = itertools.chain(["TEMPLATE_ID,SUBJECT_ID,FILENAME"], rows)
    (root / "meta").mkdir()
    for name, rows in lines.items():
        with (root / "meta" / f"ijbc_{name}").open("w") as file:
            file.writelines(f"{row}\n" for row in rows)
    return template, subject


def peak_memory() -> float:
    """Return the most memory this process has held, in GB; NaN on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pairs", "identify", "ijb"))
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--dim", type=int, default=512)
    args = parser.parse_args()
    if args.what == "pairs":
        for count in (6_000, 1_000_000):
            pairs(count)
    elif args.what == "ijb":
        ijbc(args.dim)
    else:
        identify(args.gallery, args.probes, args.dim)


if __name__ == "__main__":
    main()
