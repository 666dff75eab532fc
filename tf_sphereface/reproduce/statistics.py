"""Comparisons of arms on the same pairs: means over seeds, their spread, and paired tests."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.measures.significance import mcnemar_p, standard_error
from tf_sphereface.reproduce.arm_runner import PAIRS, Results
from tf_sphereface.reproduce.arms import MORE_SEEDS, OTHER_LOSSES, SEEDS
from tf_sphereface.utils.optional import require

FLIPS = 20_000  # drawn by the sign-flip test
HEADLINE = "flip-plain"


@dataclasses.dataclass(frozen=True)
class Average:
    """What runs that differ in their seed alone reach on the same pairs, as means over the runs."""

    accuracy: float
    std_error: float  # over the folds, of the folds' means over the runs
    spread: float | None  # standard deviation of the runs' accuracies, None for one run
    runs: list[float]  # each run's accuracy
    genuine_angle: float  # degrees
    impostor_angle: float
    angular_fisher_score: float | None  # lower is better

    @property
    def gap(self) -> float:
        """How far the impostors' mean angle is from the genuine pairs', in degrees."""
        return self.impostor_angle - self.genuine_angle


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two arms on the same pairs, seed by seed, first minus second."""

    accuracy: float  # mean difference, a fraction
    std_error: float  # of that mean, over the folds
    p_value: float  # of these networks on other pairs; how other seeds come out is in `seeds`
    seeds: list[float]  # the difference of each seed

    @property
    def within_noise(self) -> bool:
        """Whether the difference is no larger than twice its standard error."""
        return abs(self.accuracy) <= 2 * self.std_error

    @property
    def seed_error(self) -> float:
        """Standard error of the mean difference over the seeds; NaN for one seed."""
        return standard_error(np.array(self.seeds))

    @property
    def within_seeds(self) -> bool:
        """Whether 0 is in the 95 % interval over the seeds, by Student's t; False for one seed."""
        if len(self.seeds) < 2:
            return False
        student = require("scipy.stats", extra="eval").t
        width = float(student.ppf(0.975, len(self.seeds) - 1)) * self.seed_error
        return abs(float(np.mean(self.seeds))) <= width


def compare_decisions(
    first: NDArray[np.float64], second: NDArray[np.float64], folds: NDArray[np.int64]
) -> Difference:
    """Compare decisions on the same pairs, (seeds, pairs) with 1 where one is right.

    p is two-sided: McNemar's exact test for one seed, else a sign-flip test of the mean over seeds.
    """
    gains = first - second
    each = gains.mean(axis=0)
    of_folds = np.array([each[folds == fold].mean() for fold in np.unique(folds)])
    return Difference(
        accuracy=float(of_folds.mean()),
        std_error=standard_error(of_folds),
        p_value=sign_flip_p(each)
        if len(gains) > 1
        else mcnemar_p(int(np.sum(each > 0)), int(np.sum(each < 0))),
        seeds=[float(np.mean(row)) for row in gains],
    )


def sign_flip_p(gains: NDArray[np.float64], flips: int = FLIPS, seed: int = 0) -> float:
    """Test whether paired gains (pairs,) have a mean of 0, by flipping their signs at random.

    Returns the share of flips whose mean is as far from 0, with the observed one counted.
    """
    moved = gains[gains != 0]
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, (flips, len(moved)), dtype=np.int8) * 2.0 - 1.0
    drawn = np.abs(signs @ moved)
    return float((1 + np.sum(drawn >= abs(moved.sum()) - 1e-12)) / (flips + 1))


TWO = (("softmax", "softmax"), ("m = 4", "m4"))  # title and arm of what depth and size compare
RECIPES = {
    "early-lambda": "lambda falls by power 1, not 4",
    "strong": "strong augmentation",
    "no-decay": "no weight decay",
    "slower": "rate divided by 2.5",
}


class ArmGroups:
    """The results by what was trained: each title of the page names an arm and its other seeds."""

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

    def average(self, title: str, key: str = HEADLINE, most: int | None = None) -> Average | None:
        """Average over the runs of a title that are there and did not diverge, None without any.

        `key` is the way of scoring, `most` how many seeds are taken at most, from the first on.
        """
        loaded = (self.results.load(name) for name in self.names[title][:most])
        arms = [arm["verification"] for arm in loaded if arm and not arm["diverged"]]
        if not arms:
            return None
        rows = [arm[key] for arm in arms]
        angles = [arm[key.replace("mean_subtracted", "plain")] for arm in arms]
        folds = np.array([row["fold_accuracies"] for row in rows]).mean(axis=0)
        runs = [row["accuracy"] for row in rows]
        fisher = [row["angular_fisher_score"] for row in angles]
        return Average(
            accuracy=float(np.mean(runs)),
            std_error=standard_error(folds),
            spread=float(np.std(runs, ddof=1)) if len(runs) > 1 else None,
            runs=runs,
            genuine_angle=float(np.mean([row["genuine_angle"] for row in angles])),
            impostor_angle=float(np.mean([row["impostor_angle"] for row in angles])),
            angular_fisher_score=None if None in fisher else float(np.mean(fisher)),
        )

    def seed_spread(self) -> float | None:
        """Return the standard deviation over seeds, pooled over softmax and every m."""
        found = [self.average(title) for title in self.of_margin]
        spreads = [(len(a.runs) - 1, a.spread) for a in found if a and a.spread is not None]
        if not spreads:
            return None
        return math.sqrt(sum(n * s**2 for n, s in spreads) / sum(n for n, _ in spreads))

    def paired(
        self, first: str, second: str, key: str = HEADLINE, most: int | None = None
    ) -> Difference | None:
        """Compare two titles over the seeds for which both are there; None without any."""
        decisions = []
        for pair in zip(self.names[first][:most], self.names[second][:most], strict=False):
            arms = [self.results.load(name) for name in pair]
            if all(arm is not None and not arm["diverged"] for arm in arms):
                decisions.append([self.results.arrays(name)[f"correct {key}"] for name in pair])
        if not decisions:
            return None
        with np.load(self.results.folder / PAIRS) as stored:
            folds = stored["folds"]
        table = np.array(decisions, np.float64)  # (seeds, 2, pairs)
        return compare_decisions(table[:, 0], table[:, 1], folds)

    def first(self, title: str) -> dict[str, Any] | None:
        """Return what is kept of the first seed."""
        return self.results.load(self.names[title][0])

    def first_that_ended(self, title: str) -> str:
        """Return the name of the first seed that did not diverge; one of them has not."""
        kept = {name: self.results.load(name) for name in self.names[title]}
        return next(name for name, found in kept.items() if found and not found["diverged"])

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
