"""Figures of a report as SVG text in the page's color and font, and histograms of angles."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.optional import require

GENUINE, IMPOSTOR = "#1b7f79", "#c8553d"  # their lightness differs too
_INK = "#0b0c0d"  # stands for the page's text color, which is dark or light
_SIZE = (4.2, 3.3)  # inches: on a phone the text then has the size of the page's
_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)


def roc(points: list[dict[str, Any]], impostors: int) -> str:
    """Return the ROC curve with its interval, FAR logarithmic, of `curve["points"]`."""
    figure, axes = _axes("false accept rate", "true accept rate")
    shown = [p for p in points if p["far"] > 0] or points
    far = np.array([p["far"] for p in shown])
    low, high = np.array([p["tar_interval"] for p in shown]).T
    axes.fill_between(far, low, high, step="post", color=GENUINE, alpha=0.25, linewidth=0)
    axes.step(far, [p["tar"] for p in shown], where="post", color=GENUINE, linewidth=1.6)
    limit = 10 / impostors
    if limit < 1:
        axes.axvline(limit, color=_INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            "10 impostors", (limit, 0.02), (2, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8, color=_INK,
        )  # fmt: skip
    axes.set(xscale="log", xlim=(min(1 / impostors, 0.5), 1), ylim=(None, 1.002))
    axes.xaxis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
    axes.yaxis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
    return _svg(figure)


def det(points: list[dict[str, Any]], genuine: int, impostors: int) -> str:
    """Return the DET curve, both errors on normal deviate axes, of `curve["points"]`."""
    deviate = require("scipy.stats", extra="eval").norm.ppf
    figure, axes = _axes("false accept rate", "false reject rate")
    rates = np.array([(p["far"], 1 - p["tar"]) for p in points])
    floor = np.array([0.5 / impostors, 0.5 / genuine])
    x, y = deviate(np.clip(rates, floor, 1 - floor)).T
    axes.plot(x, y, color=IMPOSTOR, linewidth=1.6)
    ends = deviate([floor, np.maximum(1 - floor, 0.6)])
    diagonal = [max(ends[0]), min(ends[1])]
    axes.plot(diagonal, diagonal, color=_INK, linewidth=0.8, linestyle=":")
    for axis, (start, stop) in zip((axes.xaxis, axes.yaxis), ends.T, strict=True):
        stop = min(stop, deviate(0.6))
        ticks = [t for t in _TICKS if start <= deviate(t) <= stop]
        axis.set_ticks(deviate(ticks), [f"{100 * t:g} %" for t in ticks])
        (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(start, stop)
    axes.tick_params(axis="x", labelrotation=45)
    return _svg(figure)


def angle_histograms(genuine: dict[str, Any], impostor: dict[str, Any]) -> str:
    """Return the histograms of `genuine_angles` and `impostor_angles` of the contents."""
    figure, axes = _axes("angle between embeddings, degrees", "share of pairs, % per degree")
    edges = np.arange(181)
    for angles, color, label in ((genuine, GENUINE, "genuine"), (impostor, IMPOSTOR, "impostor")):
        counts = np.array(angles["counts"], float).reshape(-1, 2).sum(axis=1)
        share = 50 * counts / max(counts.sum(), 1)
        axes.stairs(share, edges[::2], fill=True, color=color, alpha=0.6, label=label)
        axes.axvline(angles["mean"], color=color, linewidth=1.2, linestyle="--")
    used = np.flatnonzero(np.array(genuine["counts"]) + np.array(impostor["counts"]))
    axes.set_xlim(max(0, used[0] // 10 * 10), min(180, used[-1] // 10 * 10 + 10))
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    return _svg(figure)


def group_errors(values: dict[str, Any]) -> str:
    """Return both errors of each group with their intervals, of `GroupReport.to_dict`."""
    figure, axes = _axes("error, % of pairs", "")
    groups = values["groups"]
    figure.set_size_inches(_SIZE[0], max(1.8, 0.9 + 0.42 * len(groups)))
    for rate, color, label, shift in (
        ("far", IMPOSTOR, "false accepts", -0.14),
        ("frr", GENUINE, "false rejects", 0.14),
    ):
        at = [(k, g) for k, g in enumerate(groups) if g[rate] is not None]
        if at:
            shares = np.array([g[rate] for _, g in at])
            limits = np.array([g[f"{rate}_interval"] for _, g in at])
            spread = np.abs(limits - shares[:, None]).T
            places = [k + shift for k, _ in at]
            axes.errorbar(
                100 * shares, places, xerr=100 * spread, fmt="o", color=color, label=label
            )
        if values["overall"][rate] is not None:
            axes.axvline(100 * values["overall"][rate], color=color, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(groups)), [group["name"] for group in groups])
    axes.set(ylim=(len(groups) - 0.5, -0.5), xlim=(0, None))
    axes.legend(
        frameon=False, fontsize=9, labelcolor=_INK, ncols=2, loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
    return _svg(figure)


_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)  # of pairs, on the upper axis


def discard(curves: Mapping[str, dict[str, Any]]) -> str:
    """Return error over the share left out, of the curves `fnmr` and `verification`.

    The axis on top says which share of the images is of lower quality than the pairs that are left.
    """
    figure, axes = _axes("pairs left out, lowest quality first", "error of the pairs left")
    looks = {"fnmr": (GENUINE, "FNMR"), "verification": (IMPOSTOR, "verification error")}
    for kind, curve in curves.items():
        color, label = looks[kind]
        share, error = np.array([(p["share"], p["error"]) for p in curve["points"]]).T
        start = curve["wrong"] / curve["pairs"]
        axes.step(share, error, where="post", color=color, linewidth=1.6, label=label)
        axes.axhline(start, color=color, linewidth=0.8, linestyle=":")
        best = np.clip(start - share, 0, None) / (1 - share)
        axes.plot(share, best, color=color, linewidth=0.8, linestyle="--")
    axes.set(xlim=(0, 0.95), ylim=(0, None))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
    points = list(curves.values())[-1]["points"]
    pairs, images = np.array([(point["share"], point["images"]) for point in points]).T
    top = axes.twiny()
    top.set_xlim(0, 0.95)
    top.set_xticks(_SHARES, [f"{100 * np.interp(tick, pairs, images):.0f} %" for tick in _SHARES])
    top.tick_params(colors=_INK, labelsize=9)
    top.set_xlabel("images left out", color=_INK, fontsize=10)
    top.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    return _svg(figure)


def _axes(x: str, y: str) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", extra="eval").Figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.set_xlabel(x, color=_INK, fontsize=10)
    axes.set_ylabel(y, color=_INK, fontsize=10)
    axes.tick_params(which="both", colors=_INK, labelsize=9)
    axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    return figure, axes


def _svg(figure: Any) -> str:
    """Return the figure's `<svg>` element alone, with ids that no other figure has."""
    matplotlib = require("matplotlib", extra="eval")
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tf_sphereface"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    svg = svg.replace("'DejaVu Sans'", "inherit").replace("font-family: inherit", "")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    prefix = f"f{sum(svg.encode()) % 1_000_000:06d}-"
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)


def angle_panels(
    results: Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]],
    path: str | os.PathLike[str],
) -> None:
    """Draw the angles of genuine and impostor pairs as histograms, one panel per result.

    `results` maps a name to its cosines and is_same, (pairs,) each; the suffix of `path` is the
    format of the picture, such as `.png` or `.svg`.
    """
    figure = require("matplotlib.figure", extra="eval").Figure(
        figsize=(3.4 * len(results), 3.0), layout="constrained", facecolor="white"
    )
    panels = figure.subplots(1, len(results), sharex=True, sharey=True, squeeze=False)[0]
    bins = np.arange(0.0, 181.0, 3.0)
    widest = max(float(degrees(scores.min())) for scores, _ in results.values())
    panels[0].set(xlim=(0.0, min(180.0, 10.0 * np.ceil(widest / 10.0))))
    for panel, (name, (scores, same)) in zip(panels, results.items(), strict=True):
        angles = degrees(scores)
        angle_histogram(panel, bins, angles[same], "genuine")
        angle_histogram(panel, bins, angles[~same], "impostor")
        gap = angles[~same].mean() - angles[same].mean()
        panel.set_title(f"{name}\ngap {gap:.1f}°", fontsize=10)
        panel.set_xlabel("angle between embeddings, degrees", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of pairs", fontsize=9)
    panels[0].legend(frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)


def angle_histogram(panel: Any, bins: NDArray[np.float64], angles: Any, kind: str) -> None:
    """Draw the histogram of angles (n,) and their mean, in the color of their kind."""
    color = {"genuine": GENUINE, "impostor": IMPOSTOR}[kind]
    weights = np.full(len(angles), 1.0 / max(len(angles), 1))
    panel.hist(
        angles, bins, weights=weights, color=color, alpha=0.65, label=kind, histtype="stepfilled"
    )
    if len(angles):
        panel.axvline(float(angles.mean()), color=color, linewidth=1.2, linestyle="--")
