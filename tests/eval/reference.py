"""A second, naive evaluator: loops, Python floats, no sorting tricks, no library."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction


def decide(score: float, threshold: float, same: bool) -> bool:
    """A score at the threshold is wrong for either class."""
    return score > threshold if same else score < threshold


def best_threshold(scores: list[float], same: list[bool]) -> float:
    distinct = sorted(set(scores))
    middles = [(low + high) / 2 for low, high in itertools.pairwise(distinct)]

    def correct(threshold: float) -> int:
        return sum(decide(s, threshold, y) for s, y in zip(scores, same, strict=True))

    best = max((correct(t) for t in middles), default=-1)
    all_same, none_same = correct(-math.inf), correct(math.inf)
    if max(all_same, none_same) > best:
        return -math.inf if all_same >= none_same else math.inf
    tied = [t for t in middles if correct(t) == best]
    return sum(tied) / len(tied)


def evaluate(scores: list[float], same: list[bool], folds: list[int]) -> dict[str, object]:
    accuracies, thresholds = [], []
    for fold in sorted(set(folds)):
        train = [i for i, f in enumerate(folds) if f != fold]
        test = [i for i, f in enumerate(folds) if f == fold]
        threshold = best_threshold([scores[i] for i in train], [same[i] for i in train])
        right = sum(decide(scores[i], threshold, same[i]) for i in test)
        accuracies.append(right / len(test))
        thresholds.append(threshold)
    mean = sum(accuracies) / len(accuracies)
    spread = sum((a - mean) ** 2 for a in accuracies) / (len(accuracies) - 1)
    return {
        "accuracy": mean,
        "std_error": math.sqrt(spread / len(accuracies)),
        "fold_accuracies": accuracies,
        "thresholds": thresholds,
        "auc": auc(scores, same),
    }


def auc(scores: list[float], same: list[bool]) -> float:
    """The chance that a genuine pair scores above an impostor pair, half for a tie."""
    genuine = [s for s, y in zip(scores, same, strict=True) if y]
    impostor = [s for s, y in zip(scores, same, strict=True) if not y]
    wins = sum(Fraction(2 * (g > i) + (g == i), 2) for g in genuine for i in impostor)
    return float(wins / (len(genuine) * len(impostor)))


def tar_at_far(scores: list[float], same: list[bool], far: Fraction) -> float:
    """Accept from each score on; keep the best that stays within the false accept rate."""
    genuine = [s for s, y in zip(scores, same, strict=True) if y]
    impostor = [s for s, y in zip(scores, same, strict=True) if not y]
    best = 0.0
    for cut in set(scores):
        if Fraction(sum(s >= cut for s in impostor), len(impostor)) <= far:
            best = max(best, sum(s >= cut for s in genuine) / len(genuine))
    return best


def mean_subtracted_cosines(
    vectors: list[list[float]], pairs: list[tuple[int, int]], folds: list[int], fold: int
) -> list[float]:
    """All pairs' cosines about the mean of both images of each pair outside `fold`."""
    used = [i for pair, f in zip(pairs, folds, strict=True) if f != fold for i in pair]
    size = len(vectors[0])
    mean = [sum(vectors[i][k] for i in used) / len(used) for k in range(size)]
    moved = [[v - m for v, m in zip(vector, mean, strict=True)] for vector in vectors]

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    return [cosine(moved[a], moved[b]) for a, b in pairs]


def angular_fisher_score(vectors: list[list[float]], labels: list[str]) -> float:
    """Spread within the classes over spread between them, by the definition."""

    def mean(rows: list[list[float]]) -> list[float]:
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def apart(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    whole = mean(vectors)
    within = between = 0.0
    for label in set(labels):
        members = [v for v, name in zip(vectors, labels, strict=True) if name == label]
        centre = mean(members)
        within += sum(apart(v, centre) for v in members)
        between += len(members) * apart(centre, whole)
    return within / between


def binomial_tail(successes: int, trials: int, p: float) -> float:
    """The chance of so many successes or more."""
    return sum(
        math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes, trials + 1)
    )


def insightface(scores: list[float], same: list[bool], parts: int = 10) -> tuple[float, float]:
    """Thresholds on squared distances 0, 0.01, ... 3.99, the first best, on contiguous parts."""
    n = len(scores)
    sizes = [n // parts + (k < n % parts) for k in range(parts)]
    distances = [2 - 2 * s for s in scores]
    accuracies = []
    begin = 0
    for size in sizes:
        test = range(begin, begin + size)
        begin += size
        train = [i for i in range(n) if i not in test]
        best, best_right = 0.0, -1
        for step in range(400):
            right = sum((distances[i] < step * 0.01) == same[i] for i in train)
            if right > best_right:
                best, best_right = step * 0.01, right
        accuracies.append(sum((distances[i] < best) == same[i] for i in test) / size)
    mean = sum(accuracies) / parts
    return mean, math.sqrt(sum((a - mean) ** 2 for a in accuracies) / parts)


Vectors = list[list[float]]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


TIE = 1e-12


def rank_among(
    probes: Vectors, labels: list[int], distractors: Vectors, rank: int
) -> tuple[float, int]:
    """Every ordered pair of one person's images: is the second within the rank of the first?"""
    found, searches = 0, 0
    for i, j in itertools.permutations(range(len(probes)), 2):
        if labels[i] == labels[j]:
            mate = cosine(probes[i], probes[j])
            better = sum(cosine(probes[i], d) >= mate - TIE for d in distractors)
            found += better < rank
            searches += 1
    return found / searches, searches


def rate_at_far(genuine: list[float], impostor: list[float], far: Fraction) -> float:
    """Lower the threshold through all scores; keep the best rate that stays within FAR."""
    best = 0.0
    for cut in [-2.0, *impostor]:
        if Fraction(sum(s > cut for s in impostor), len(impostor)) <= far:
            best = max(best, sum(s > cut + TIE for s in genuine) / len(genuine))
    return best


def open_set(
    gallery: Vectors,
    gallery_labels: list[int],
    probes: Vectors,
    probe_labels: list[int],
    rank: int,
    far: Fraction,
) -> tuple[float, float]:
    """Closed-set rate and detection and identification rate, probe by probe."""
    alarms, found = [], []
    for probe, label in zip(probes, probe_labels, strict=True):
        scores = [
            (cosine(probe, g), owner) for g, owner in zip(gallery, gallery_labels, strict=True)
        ]
        if label not in gallery_labels:
            alarms.append(max(s for s, _ in scores))
            continue
        mate = max(s for s, owner in scores if owner == label)
        better = sum(s >= mate - TIE for s, owner in scores if owner != label)
        found.append(mate if better < rank else -math.inf)
    closed = sum(s > -math.inf for s in found) / len(found)
    return closed, rate_at_far(found, alarms, far)


def template(vectors: Vectors, media: list[int]) -> list[float]:
    """The mean over each medium, their sum, at unit length."""
    total = [0.0] * len(vectors[0])
    for medium in sorted(set(media)):
        members = [v for v, m in zip(vectors, media, strict=True) if m == medium]
        for k in range(len(total)):
            total[k] += sum(v[k] for v in members) / len(members)
    norm = math.sqrt(sum(x * x for x in total))
    return [x / norm for x in total]
