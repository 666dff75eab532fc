"""Cells and tables of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tf_sphereface.reproduce.summary import Average, Difference


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table.

    Example:

    >>> table(["a", "b"], [["1", "2"]])
    ['| a | b |', '|---|---|', '| 1 | 2 |', '']
    """
    lines = [head, *rows]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return [text[0], "|" + "---|" * len(head), *text[1:], ""]


def percent(found: Average | None) -> str:
    """Return accuracy ± standard error, in percent; a dash for nothing."""
    if found is None:
        return "—"
    return f"{100 * found.accuracy:.2f} ± {100 * found.std_error:.2f}"


def spread(found: Average | None) -> str:
    """Return the standard deviation over seeds, in points."""
    return "—" if found is None or found.spread is None else f"{100 * found.spread:.2f}"


def points(found: Difference | None) -> str:
    """Return a difference ± standard error, in points, and its p."""
    if found is None:
        return "—"
    p = f"{found.p_value:.1g}" if found.p_value < 0.001 else f"{found.p_value:.3f}"
    return f"{100 * found.accuracy:+.2f} ± {100 * found.std_error:.2f} (p = {p})"


def seeds(found: Difference | None) -> str:
    """Return the difference of each seed, in points."""
    return "—" if found is None else ", ".join(f"{100 * value:+.2f}" for value in found.seeds)


def over_seeds(found: Difference | None) -> str:
    """Return the standard error over the seeds, in points, and how many they are."""
    if found is None or len(found.seeds) < 2:
        return "one seed"
    return f"± {100 * found.seed_error:.2f} ({len(found.seeds)} seeds)"


def verdict(found: Difference | None, seed_spread: float | None = None) -> str:
    """Say whether the first is better, by the folds and by the seeds.

    Args:
        found: the difference.
        seed_spread: standard deviation over seeds of such runs, by which a difference of one seed
            is judged; None where it is not known.

    Example:

    >>> verdict(Difference(0.02, 0.005, 0.01, [0.02]))
    'holds'
    >>> verdict(Difference(0.02, 0.005, 0.01, [0.02]), seed_spread=0.01)
    "not told apart from the seeds' noise"
    """
    if found is None or math.isnan(found.std_error):
        return "not run"
    if found.within_noise:
        return "not told apart from noise"
    between_two = 2 * math.sqrt(2) * (seed_spread or 0.0)
    one = len(found.seeds) == 1
    if found.within_seeds or (one and abs(found.accuracy) <= between_two):
        return "not told apart from the seeds' noise"
    return "holds" if found.accuracy > 0 else "the opposite"


def angles(found: Average | None) -> list[str]:
    """Return the cells of genuine and impostor angle, their gap, and the Fisher score."""
    if found is None:
        return ["—"] * 4
    fisher = found.angular_fisher_score
    return [
        f"{found.genuine_angle:.1f}°",
        f"{found.impostor_angle:.1f}°",
        f"{found.gap:.1f}°",
        "—" if fisher is None else f"{fisher:.4f}",
    ]
