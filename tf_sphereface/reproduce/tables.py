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


def verdict(found: Difference | None) -> str:
    """Say whether the first is better, by more than two standard errors and for every seed.

    Example:

    >>> verdict(Difference(0.02, 0.005, 0.01, [0.02]))
    'holds'
    """
    if found is None or math.isnan(found.std_error):
        return "not run"
    if found.within_noise:
        return "not told apart from noise"
    if len({value > 0 for value in found.seeds}) > 1:
        return "the seeds disagree"
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
