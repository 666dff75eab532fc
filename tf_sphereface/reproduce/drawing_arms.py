"""The figures of the trained arms: accuracy and angles over m, losses, and lambda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tf_sphereface.eval.plots import angle_histogram
from tf_sphereface.reproduce.canvas import COLOURS, INK, Canvas
from tf_sphereface.reproduce.runner import Results
from tf_sphereface.reproduce.summary import Average


def draw_margins(kinds: Mapping[str, Average], folder: Path) -> str:
    """Draw accuracy (each seed, the mean, its standard error) and the gap of angles over m."""
    with Canvas(8.2, 3.0) as canvas:
        left, right = canvas.figure.subplots(1, 2)
        places = np.arange(len(kinds))
        for place, found in zip(places, kinds.values(), strict=True):
            left.errorbar(
                place,
                100 * found.accuracy,
                100 * found.std_error,
                color=COLOURS[0],
                marker="o",
                markersize=6,
                capsize=3,
                linewidth=1.2,
            )
            runs = 100 * np.array(found.runs)
            left.scatter(np.full(len(runs), place + 0.16), runs, s=12, color=COLOURS[1], zorder=3)
        left.plot(places, [100 * k.accuracy for k in kinds.values()], color=COLOURS[0], linewidth=1)
        left.set_ylabel("accuracy ± se over folds, %")
        for name, colour in (("impostor", COLOURS[1]), ("genuine", COLOURS[0])):
            values = [getattr(k, f"{name}_angle") for k in kinds.values()]
            right.plot(places, values, color=colour, marker="o", label=f"{name} pairs")
        for place, found in zip(places, kinds.values(), strict=True):
            middle = (found.genuine_angle + found.impostor_angle) / 2
            right.text(place, middle, f"{found.gap:.1f}°", ha="center", va="center", fontsize=8)
        right.set_ylabel("mean angle, degrees")
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        right.set_xlim(-0.45, len(kinds) - 0.55)  # the gaps are written beside the points
        right.legend(frameon=False, fontsize=8, ncols=2, **above)
        for panel in (left, right):
            panel.set_xticks(places, list(kinds))
        return canvas.save(folder, "margins")


def draw_angles(results: Results, arms: Mapping[str, str], folder: Path) -> str:
    """Draw the angles of genuine and impostor pairs, one panel an arm (title -> name)."""
    with np.load(results.folder / "pairs.npz") as stored:
        same = stored["is_same"]
    with Canvas(2.05 * len(arms), 2.1) as canvas:
        panels = canvas.figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
        bins = np.arange(0.0, 181.0, 4.0)
        for panel, (title, name) in zip(panels, arms.items(), strict=True):
            scores = results.arrays(name)["scores flip-plain"].astype("float64")
            angles = np.degrees(np.arccos(np.clip(scores, -1.0, 1.0)))
            angle_histogram(panel, bins, angles[same], "genuine")
            angle_histogram(panel, bins, angles[~same], "impostor")
            gap = angles[~same].mean() - angles[same].mean()
            panel.set(title=f"{title}\ngap {gap:.1f}°", xlim=(0, 125), xticks=(0, 45, 90))
            panel.set_xlabel("angle of a pair, degrees")
        panels[0].set_ylabel("share of pairs")
        panels[0].set_ylim(top=1.3 * panels[0].get_ylim()[1])  # room for the legend
        panels[0].legend(frameon=False, fontsize=7.5, loc="upper left")
        return canvas.save(folder, "angles")


def draw_training(results: Results, arms: Mapping[str, str], folder: Path) -> str:
    """Draw the training loss over updates, and against lambda where there is one."""
    with Canvas(8.2, 3.0) as canvas:
        left, right = canvas.figure.subplots(1, 2)
        for number, (title, name) in enumerate(arms.items()):
            kept = results.load(name)
            if kept is None:
                continue
            points = np.array(kept["training"]["curve"], np.float64)  # None becomes nan
            colour = COLOURS[number % len(COLOURS)]
            left.plot(points[:, 0], points[:, 1], color=colour, linewidth=1.1, label=title)
            if np.isfinite(points[:, 2]).all():
                right.plot(points[:, 2], points[:, 1], color=colour, linewidth=1.1)
        left.set(xlabel="update", ylabel="training loss")
        right.set(xscale="log", xlabel="lambda (falls to the right)", ylabel="training loss")
        right.invert_xaxis()
        left.legend(frameon=False, fontsize=8)
        return canvas.save(folder, "training")


def draw_ranking(rows: Sequence[tuple[str, Average]], baseline: str, folder: Path) -> str:
    """Draw each loss's accuracy with its standard error, the best on top."""
    ranked = sorted(rows, key=lambda row: row[1].accuracy)
    with Canvas(6.4, 0.6 + 0.27 * len(ranked)) as canvas:
        panel = canvas.figure.subplots()
        for place, (name, found) in enumerate(ranked):
            colour = COLOURS[1] if name == baseline else COLOURS[0]
            panel.errorbar(
                100 * found.accuracy,
                place,
                xerr=100 * found.std_error,
                color=colour,
                marker="o",
                capsize=3,
            )
            if name == baseline:
                panel.axvline(100 * found.accuracy, color=INK, linewidth=0.7, linestyle=":")
        panel.set_yticks(range(len(ranked)), [name for name, _ in ranked])
        panel.set_xlabel("accuracy ± se over folds, %")
        return canvas.save(folder, "losses")
