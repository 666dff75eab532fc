"""The figures of the page: the geometry of small networks, bounds, and the results of arms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.angular import psi_of_angle
from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.eval.report.figures import angle_histogram
from tf_sphereface.reproduce.arm_runner import Results
from tf_sphereface.reproduce.small_networks import pair_angles
from tf_sphereface.reproduce.statistics import Average
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.optional import require

Arrays = Mapping[str, NDArray[Any]]
BINS = np.arange(0.0, 181.0, 4.0)  # degrees
POINTS = 40  # of a class that are drawn: more make heavy files
TITLES = {"softmax": "softmax", **{f"m{m}": f"A-Softmax m = {m}" for m in (1, 2, 3, 4)}}


def draw_embeddings(
    arrays: Arrays, dataset: str, dimensions: int, losses: Sequence[str], folder: Path
) -> None:
    """Draw one row each: the plane, the circle (or the sphere alone), the angles of pairs."""
    labels = arrays[f"{dataset} labels"]
    rows = 3 if dimensions == 2 else 2
    heights = [1.0] * (rows - 1) + [0.62]
    with drawing(
        folder, f"embeddings-{dataset}-{dimensions}d", 2.05 * len(losses), 2.0 * sum(heights)
    ) as figure:
        grid = figure.add_gridspec(rows, len(losses), height_ratios=heights)
        first: Any = None
        for column, loss in enumerate(losses):
            name = f"{dataset} {dimensions} {loss}"
            vectors, centers = arrays[name], arrays[f"{name} centres"]
            top = figure.add_subplot(grid[0, column])
            top.set_title(TITLES[loss])
            if dimensions == 2:
                _plane(top, vectors, centers, labels)
                _circle(figure.add_subplot(grid[1, column]), vectors, centers, labels)
            else:
                _sphere(top, vectors, centers, labels)
            panel = figure.add_subplot(grid[rows - 1, column], sharex=first, sharey=first)
            first = first or panel
            genuine, impostor = pair_angles(vectors, labels)
            angle_histogram(panel, BINS, genuine, "genuine")
            angle_histogram(panel, BINS, impostor, "impostor")
            panel.set(xlim=(0, 180), xticks=(0, 90, 180), yticks=())
            panel.set_xlabel("angle of a pair, degrees")
            if column == 0:
                panel.set_ylabel("share of pairs")
                panel.legend(frameon=False, fontsize=7.5, loc="upper right")


def _few(labels: NDArray[Any], which: int) -> NDArray[np.int64]:
    return np.flatnonzero(labels == which)[:POINTS]


def _units(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _plane(panel: Any, vectors: NDArray[Any], centers: NDArray[Any], labels: NDArray[Any]) -> None:
    bare(panel)
    reach = float(np.quantile(np.linalg.norm(vectors, axis=1), 0.99)) * 1.1
    for i, center in enumerate(_units(centers)):
        color = COLORS[i % len(COLORS)]
        panel.plot([0, center[0] * reach], [0, center[1] * reach], color=color, linewidth=0.8)
        rows = _few(labels, i)
        panel.scatter(*vectors[rows].T, s=4, color=color, linewidths=0, rasterized=True)
    panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _circle(panel: Any, vectors: NDArray[Any], centers: NDArray[Any], labels: NDArray[Any]) -> None:
    bare(panel)
    turn = np.linspace(0, 2 * np.pi, 181)
    panel.plot(np.cos(turn), np.sin(turn), color=INK, linewidth=0.5, alpha=0.6)
    units = _units(vectors)
    for i, center in enumerate(_units(centers)):
        color = COLORS[i % len(COLORS)]
        rows = _few(labels, i)
        panel.scatter(*units[rows].T, s=7, color=color, linewidths=0, alpha=0.7, rasterized=True)
        panel.plot(*(center[:, None] * np.array([1.06, 1.24])), color=color, linewidth=2.2)
    panel.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")


def _sphere(panel: Any, vectors: NDArray[Any], centers: NDArray[Any], labels: NDArray[Any]) -> None:
    """Draw a sphere seen from the front; what is behind is pale."""
    bare(panel)
    turn = np.linspace(0, 2 * np.pi, 181)
    panel.plot(np.cos(turn), np.sin(turn), color=INK, linewidth=0.7)
    units, ends = _units(vectors), _units(centers)
    towards = ends.sum(axis=0) + np.array([0.3, -0.6, 0.5])
    view = _view(towards / np.linalg.norm(towards))
    for tilt in (-0.5, 0.0, 0.5):  # circles of latitude
        ring = np.stack([np.cos(turn), np.sin(turn), np.full_like(turn, tilt)], axis=1)
        ring[:, :2] *= np.sqrt(1 - tilt**2)
        seen = ring @ view.T
        seen[seen[:, 2] < 0] = np.nan
        panel.plot(seen[:, 0], seen[:, 1], color=INK, linewidth=0.35, alpha=0.7)
    for i, end in enumerate(ends @ view.T):
        color = COLORS[i % len(COLORS)]
        seen = units[_few(labels, i)] @ view.T
        for front, alpha in ((False, 0.22), (True, 0.9)):
            part = seen[(seen[:, 2] >= 0) == front]
            panel.scatter(*part[:, :2].T, s=5, c=color, linewidths=0, alpha=alpha, rasterized=True)
        alpha = 1.0 if end[2] >= 0 else 0.3
        panel.plot([0, end[0]], [0, end[1]], color=color, linewidth=0.8, alpha=alpha)
    panel.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")


def _view(towards: NDArray[Any]) -> NDArray[Any]:
    """Return a rotation whose third row looks from `towards`."""
    across = np.cross([0.0, 0.0, 1.0], towards)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(towards, across), towards])


def draw_bounds(found: Mapping[str, Any], folder: Path) -> None:
    """Draw the widest region and the narrowest gap over m, for three arrangements."""
    wanted = {
        "two, 90° apart, on the circle": "two classes, 90° apart",
        "6, evenly on the circle": "six, evenly on a circle",
        "6, corners of an octahedron, on the sphere": "six, evenly on a sphere",
    }
    rows = [row for row in found["rows"] if row["arrangement"] in wanted]
    with drawing(folder, "bounds", 9.6, 2.9) as figure:
        panels = figure.subplots(1, len(rows))
        for panel, row in zip(panels, rows, strict=True):
            panel.plot(found["margins"], row["widest"], color=COLORS[0], label="widest region")
            panel.plot(found["margins"], row["nearest"], color=COLORS[1], label="narrowest gap")
            panel.axvline(row["crossing"], color=INK, linewidth=0.9, linestyle="--")
            words = f"crossing {row['crossing']:.3f}"
            words += f"\nbound {row['bound']:.3f}" if row["bound"] else "\nno bound derived"
            top = max(row["widest"][0], row["nearest"][-1])
            panel.text(row["crossing"] + 0.08, 0.98 * top, words, va="top", fontsize=8)
            panel.set(title=wanted[row["arrangement"]], xlabel="m", ylim=(0, top))
        panels[0].set_ylabel("angle, degrees")
        panels[1].legend(frameon=False, fontsize=8, loc="lower right")


def draw_boundaries(folder: Path) -> None:
    """Draw who decides what, in the plane, for softmax, modified softmax and A-Softmax."""
    margin, apart = 4, 70.0
    half = np.radians(apart / 2)
    centers = np.array([[np.cos(half), np.sin(half)], [np.cos(half), -np.sin(half)]])
    x, y = np.meshgrid(np.linspace(-0.35, 1.45, 181), np.linspace(-1.05, 1.05, 211))
    lengths, biases = (1.25, 0.75), (-0.12, 0.12)
    length = np.hypot(x, y)
    cosines = [(x * c[0] + y * c[1]) / np.maximum(length, 1e-9) for c in centers]
    plain = [length * c * w + b for c, w, b in zip(cosines, lengths, biases, strict=True)]
    angles = [np.arccos(np.clip(c, -1, 1)) for c in cosines]
    target = [psi_of_angle(a, float(margin)) for a in angles]
    cases = (
        ("softmax\n$(W_1 - W_2)x + b_1 - b_2 = 0$", plain[0] - plain[1], plain[1] - plain[0]),
        (
            "modified softmax\n$\\|x\\|(\\cos\\theta_1 - \\cos\\theta_2) = 0$",
            cosines[0] - cosines[1],
            cosines[1] - cosines[0],
        ),
        (
            f"A-Softmax, m = {margin}\n"
            "$\\|x\\|(\\cos m\\theta_1 - \\cos\\theta_2) = 0$, and 1 for 2",
            target[0] - cosines[1],
            target[1] - cosines[0],
        ),
    )
    with drawing(folder, "boundaries", 9.0, 3.3) as figure:
        panels = figure.subplots(1, 3)
        for number, (panel, (title, one, two)) in enumerate(zip(panels, cases, strict=True)):
            for values, color in ((one, COLORS[0]), (two, COLORS[1])):
                panel.contourf(x, y, values, levels=[0, 1e9], colors=[color], alpha=0.28)
                panel.contour(x, y, values, levels=[0], colors=[color], linewidths=1.4)
            for i, (center, color) in enumerate(zip(centers, COLORS, strict=False)):
                end = center * (lengths[i] if number == 0 else 1.0)
                panel.annotate(
                    "", xy=end, xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": color}
                )
                panel.text(*(end * 1.07), f"$W_{i + 1}$", color=color, va="center")
            turn = np.linspace(0, 2 * np.pi, 181)
            panel.plot(np.cos(turn), np.sin(turn), color=INK, linewidth=0.6, linestyle=":")
            bare(panel)
            panel.set(xlim=(-0.35, 1.45), ylim=(-1.05, 1.05), aspect="equal", title=title)
        gap = (margin - 1) / (margin + 1) * apart
        panels[2].text(0.62, 0.0, f"margin\n{gap:.0f}°", ha="center", va="center", fontsize=8)


def draw_margins(averages: Mapping[str, Average], folder: Path) -> None:
    """Draw accuracy (each seed, the mean, its standard error) and the gap of angles over m."""
    with drawing(folder, "margins", 8.2, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        places = np.arange(len(averages))
        point = {"color": COLORS[0], "marker": "o", "capsize": 3, "linewidth": 1.2}
        for place, found in zip(places, averages.values(), strict=True):
            left.errorbar(place, 100 * found.accuracy, 100 * found.std_error, markersize=6, **point)
            runs = 100 * np.array(found.runs)
            left.scatter(np.full(len(runs), place + 0.16), runs, s=12, color=COLORS[1], zorder=3)
        accuracies = [100 * found.accuracy for found in averages.values()]
        left.plot(places, accuracies, color=COLORS[0], linewidth=1)
        left.set_ylabel("accuracy ± se over folds, %")
        for name, color in (("impostor", COLORS[1]), ("genuine", COLORS[0])):
            values = [getattr(k, f"{name}_angle") for k in averages.values()]
            right.plot(places, values, color=color, marker="o", label=f"{name} pairs")
        for place, found in zip(places, averages.values(), strict=True):
            middle = (found.genuine_angle + found.impostor_angle) / 2
            right.text(place, middle, f"{found.gap:.1f}°", ha="center", va="center", fontsize=8)
        right.set_ylabel("mean angle, degrees")
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        right.set_xlim(-0.45, len(averages) - 0.55)  # the gaps are written beside the points
        right.legend(frameon=False, fontsize=8, ncols=2, **above)
        for panel in (left, right):
            panel.set_xticks(places, list(averages))


def draw_angles(results: Results, arms: Mapping[str, str], folder: Path) -> None:
    """Draw the angles of genuine and impostor pairs, one panel an arm (title -> name)."""
    with np.load(results.folder / "pairs.npz") as stored:
        same = stored["is_same"]
    with drawing(folder, "angles", 2.05 * len(arms), 2.1) as figure:
        panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
        for panel, (title, name) in zip(panels, arms.items(), strict=True):
            angles = degrees(results.arrays(name)["scores flip-plain"])
            angle_histogram(panel, BINS, angles[same], "genuine")
            angle_histogram(panel, BINS, angles[~same], "impostor")
            gap = angles[~same].mean() - angles[same].mean()
            panel.set(title=f"{title}\ngap {gap:.1f}°", xlim=(0, 125), xticks=(0, 45, 90))
            panel.set_xlabel("angle of a pair, degrees")
        panels[0].set_ylabel("share of pairs")
        panels[0].set_ylim(top=1.3 * panels[0].get_ylim()[1])  # room for the legend
        panels[0].legend(frameon=False, fontsize=7.5, loc="upper left")


def draw_training(results: Results, arms: Mapping[str, str], folder: Path) -> None:
    """Draw the training loss over updates, and against lambda where there is one."""
    with drawing(folder, "training", 8.2, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        for number, (title, name) in enumerate(arms.items()):
            kept = results.load(name)
            if kept is None:
                continue
            points = np.array(kept["training"]["curve"], np.float64)  # None becomes nan
            color = COLORS[number % len(COLORS)]
            left.plot(points[:, 0], points[:, 1], color=color, linewidth=1.1, label=title)
            if np.isfinite(points[:, 2]).all():
                right.plot(points[:, 2], points[:, 1], color=color, linewidth=1.1)
        left.set(xlabel="update", ylabel="training loss")
        right.set(xscale="log", xlabel="lambda (falls to the right)", ylabel="training loss")
        right.invert_xaxis()
        left.legend(frameon=False, fontsize=8)


def draw_ranking(rows: Sequence[tuple[str, Average]], baseline: str, folder: Path) -> None:
    """Draw each loss's accuracy with its standard error, the best on top."""
    ranked = sorted(rows, key=lambda row: row[1].accuracy)
    with drawing(folder, "losses", 6.4, 0.6 + 0.27 * len(ranked)) as figure:
        panel = figure.subplots()
        for place, (name, found) in enumerate(ranked):
            accuracy, error = 100 * found.accuracy, 100 * found.std_error
            color = COLORS[1] if name == baseline else COLORS[0]
            panel.errorbar(accuracy, place, xerr=error, color=color, marker="o", capsize=3)
            if name == baseline:
                panel.axvline(accuracy, color=INK, linewidth=0.7, linestyle=":")
        panel.set_yticks(range(len(ranked)), [name for name, _ in ranked])
        panel.set_xlabel("accuracy ± se over folds, %")


INK = "#7c7f86"  # axes and words: 4 to 1 against white, and against near-black
COLORS = ("#0f8f86", "#d0602f", "#3f7fe0", "#a259d9", "#b88a0c", "#d4478f")
STYLE: dict[str, Any] = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "tf_sphereface",  # else each run has other identifiers
}


@contextlib.contextmanager
def drawing(folder: Path, name: str, width: float, height: float) -> Iterator[Any]:
    """Yield a figure of so many inches in the page's style; write it as SVG and PNG at the end."""
    matplotlib = require("matplotlib", extra="eval")
    new_figure = require("matplotlib.figure", extra="eval").Figure
    with matplotlib.rc_context(STYLE):
        figure = new_figure(figsize=(width, height), layout="constrained")
        yield figure
        for suffix, options in (
            (".svg", {"metadata": {"Date": None}, "dpi": 130}),  # dpi: of what is rasterised
            (".png", {"dpi": 110}),
        ):
            with atomic_path(folder / f"{name}{suffix}") as temporary:
                figure.savefig(temporary, transparent=True, **options)


def bare(panel: Any) -> None:
    """Take ticks and frame off a panel."""
    panel.set(xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set_visible(False)
