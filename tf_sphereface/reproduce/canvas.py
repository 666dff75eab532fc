"""Figures that read on white paper and on a dark page, written as SVG and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tf_sphereface._extras import require
from tf_sphereface._files import atomic_path

INK = "#7c7f86"  # axes and words: 4 to 1 against white, and against near-black
COLOURS = ("#0f8f86", "#d0602f", "#3f7fe0", "#a259d9", "#b88a0c", "#d4478f")
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


class Canvas:
    """One figure under the project's style.

    Args:
        width: in inches.
        height: in inches.

    Example:

    >>> with Canvas(3, 2) as canvas:
    ...     axes = canvas.figure.subplots()
    """

    def __init__(self, width: float, height: float) -> None:
        matplotlib = require("matplotlib", extra="eval")
        self._style = matplotlib.rc_context(STYLE)
        self._size = (width, height)

    def __enter__(self) -> Canvas:
        """Put the style in force."""
        self._style.__enter__()
        figure = require("matplotlib.figure", extra="eval")
        self.figure: Any = figure.Figure(figsize=self._size, layout="constrained")
        return self

    def __exit__(self, *error: object) -> None:
        """Put the old style back."""
        self._style.__exit__(*error)

    def save(self, folder: Path, name: str) -> str:
        """Write `name.svg` and `name.png`; return the name."""
        kinds: tuple[tuple[str, dict[str, Any]], ...] = (
            (".svg", {"metadata": {"Date": None}, "dpi": 130}),  # dpi: of what is rasterised
            (".png", {"dpi": 110}),
        )
        for suffix, options in kinds:
            with atomic_path(folder / f"{name}{suffix}") as temporary:
                self.figure.savefig(temporary, transparent=True, **options)
        return name


def bare(panel: Any) -> None:
    """Take ticks and frame off a panel."""
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)
