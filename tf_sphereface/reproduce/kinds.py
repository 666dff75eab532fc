"""The results by what was trained, and which of the paper's claims they bear out."""

from __future__ import annotations

import itertools
import math
from typing import Any

from tf_sphereface.reproduce.arms import MORE_SEEDS, OTHER_LOSSES, SEEDS
from tf_sphereface.reproduce.runner import Results
from tf_sphereface.reproduce.summary import Average, Difference, average, difference
from tf_sphereface.reproduce.tables import over_seeds, points, table, verdict

TWO = (("softmax", "softmax"), ("m = 4", "m4"))  # title and arm of what depth and size compare
RECIPES = {
    "early-lambda": "lambda falls by power 1, not 4",
    "strong": "strong augmentation",
    "no-decay": "no weight decay",
    "slower": "rate divided by 2.5",
}


class Kinds:
    """The results by what was trained: titles of the page to names of arms.

    Args:
        results: the results.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        every = (*SEEDS, *MORE_SEEDS)
        self.of_margin = {
            "softmax": [f"softmax-seed{seed}" for seed in every],
            **{f"m = {m}": [f"m{m}-seed{seed}" for seed in every] for m in (1, 2, 3, 4)},
        }
        self.names: dict[str, list[str]] = {
            **self.of_margin,
            **{loss: _seeds(loss) for loss, _ in OTHER_LOSSES},
            **{f"lambda {value}": [f"m4-lambda{value}"] for value in (0, 2, 10)},
            "caffe": ["m4-caffe"],
            "float32": _seeds("m4-float32"),
            "sampled head": _seeds("m4-sampled-head"),
            **{name: [f"m4-{name}"] for name in RECIPES},
            **{f"{loss}, 10 layers": [f"{arm}-10-layers"] for loss, arm in TWO},
            **{f"{loss}, 112x96": [f"{arm}-full-size"] for loss, arm in (*TWO, ("m = 1", "m1"))},
        }

    def average(
        self, title: str, key: str = "flip-plain", most: int | None = None
    ) -> Average | None:
        """Return the mean over the seeds that are there, or over the first `most` of them."""
        return average(self.results, self.names[title][:most], key)

    def seed_spread(self) -> float | None:
        """Return the standard deviation over seeds, pooled over softmax and every m."""
        found = [self.average(title) for title in self.of_margin]
        spreads = [(len(a.runs) - 1, a.spread) for a in found if a and a.spread is not None]
        if not spreads:
            return None
        return math.sqrt(sum(n * s**2 for n, s in spreads) / sum(n for n, _ in spreads))

    def one_seed(self, title: str, key: str = "flip-plain") -> Average | None:
        """Return what the first seed alone reached."""
        return average(self.results, self.names[title][:1], key)

    def present(self, title: str) -> Average:
        """Return the average of what is known to be there."""
        found = self.average(title)
        if found is None:
            raise ValueError(f"{title} must have been run. Received: no result")
        return found

    def paired(self, first: str, second: str, key: str = "flip-plain") -> Difference | None:
        """Return the paired difference, over as many seeds as both have."""
        a, b = self.names[first], self.names[second]
        shared = min(len(a), len(b))
        return difference(self.results, a[:shared], b[:shared], key)

    def first(self, title: str) -> dict[str, Any] | None:
        """Return what is kept of the first seed."""
        return self.results.load(self.names[title][0])

    def loss_titles(self) -> list[str]:
        """Return the titles of the losses of which the first seed is there."""
        titles = [*self.of_margin, *(loss for loss, _ in OTHER_LOSSES)]
        return [title for title in titles if self.first(title) is not None]

    def loss_seeds(self) -> int:
        """Return how many seeds losses are compared over: those that all of them have."""
        names = [self.names[title][: len(SEEDS)] for title in self.loss_titles()]
        there = [
            all(self.results.load(name) is not None for name in of_seed)
            for of_seed in zip(*names, strict=True)
        ]
        return sum(itertools.takewhile(bool, there))


def _seeds(name: str) -> list[str]:
    """Return the names of an arm and of its other seeds."""
    return [name, *(f"{name}-seed{seed}" for seed in SEEDS[1:])]


def claims(kinds: Kinds) -> list[str]:
    """Say which of the paper's claims the networks trained here bear out."""
    if kinds.average("m = 4") is None:
        return []
    rows: list[tuple[str, str, str]] = [
        ("the margin beats softmax", "m = 4", "softmax"),
        ("unit centres without a margin beat softmax", "m = 1", "softmax"),
        ("the margin beats unit centres alone", "m = 4", "m = 1"),
        ("m = 2 beats m = 1", "m = 2", "m = 1"),
        ("m = 3 beats m = 2", "m = 3", "m = 2"),
        ("m = 4 beats m = 3", "m = 4", "m = 3"),
        ("with ten layers too the margin beats softmax", "m = 4, 10 layers", "softmax, 10 layers"),
        ("ten layers beat four, m = 4", "m = 4, 10 layers", "m = 4"),
        ("ten layers beat four, softmax", "softmax, 10 layers", "softmax"),
        ("lambda's minimum of 5 beats 10", "m = 4", "lambda 10"),
    ]
    cells, spread = [], kinds.seed_spread()
    for claim, first, second in rows:
        found = kinds.paired(first, second)
        if found is not None:
            judged = verdict(found, spread)
            cells.append([claim, points(found), over_seeds(found), judged])
    for claim, better in (
        ("the gap between genuine and impostor angles grows with m", lambda a: a.gap),
        ("the angular Fisher score falls with m", lambda a: -(a.angular_fisher_score or 0.0)),
    ):
        steps = [kinds.average(f"m = {m}") for m in (1, 2, 3, 4)]
        values = [better(a) for a in steps if a is not None]
        if len(values) == 4:
            rises = all(b > a for a, b in itertools.pairwise(values))
            ends = "holds from m = 1 to 4, not in each step" if values[-1] > values[0] else "fails"
            cells.append([claim, "section 4", "", "holds" if rises else ends])
    return [
        "**What survives on a small set** (*holds*, *the opposite*: by more than two paired "
        "standard errors over the folds, and outside the 95 % interval of Student's t over the "
        "seeds, or, with one seed, by more than two standard deviations of a difference between "
        "two seeds):\n",
        *table(["claim", "difference, points", "over seeds", "here"], cells),
    ]
