"""The page, written from the results that a folder holds and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.reproduce import figures, page_text
from tf_sphereface.reproduce.arm_runner import Results, Say, read_json
from tf_sphereface.reproduce.arms import OTHER_LOSSES, SEEDS
from tf_sphereface.reproduce.page_practice import (
    cost_section,
    recipe_section,
    size_section,
    time_section,
)
from tf_sphereface.reproduce.page_sections import (
    claims,
    depth_section,
    lambda_section,
    loss_section,
    margin_section,
    table,
)
from tf_sphereface.reproduce.small_networks import MEASURED_ON
from tf_sphereface.reproduce.statistics import ArmGroups
from tf_sphereface.utils.files import atomic_path, write_json

IMAGES = "images/paper"
AGREES = 1e-3  # of the m at which widest region and narrowest gap are equal
COMMAND = "tf_sphereface-reproduce --out paper --data FACES --lfw LFW"
QUICK_COMMAND = "tf_sphereface-reproduce --out paper --quick"
SECTIONS = (  # a line `figure: NAME` of a section stands for a figure
    margin_section,
    lambda_section,
    depth_section,
    loss_section,
    cost_section,
    recipe_section,
    size_section,
)


def write_page(out: Path, page: Path, *, quick: bool, say: Say) -> Path:
    """Draw the figures and write the page of the results in `out`; return its path.

    The figures go into `images/paper` beside the page. `quick` counts where no arm tells whether
    the results are those of `--quick`.
    """
    results = Results(out)
    real = results.real()
    quick = quick if real is None else not real
    groups = ArmGroups(results)
    lines = [page_text.INTRODUCTION.format(command=QUICK_COMMAND if quick else _commands(groups))]
    if quick:
        lines.append("This page is of `--quick`: a few minutes, synthetic faces, one seed.\n")
    lines += claims(groups)
    lines += embeddings_section(out)
    lines += bounds_section(out)
    lines += [page_text.BOUNDARIES, "figure: boundaries"]
    for section in SECTIONS:
        lines += section(groups)
    lines += time_section(out)
    drawn: list[str] = []
    for position, line in enumerate(lines):
        if line.startswith("figure: "):
            name = line.removeprefix("figure: ")
            _draw(name, out, groups, page.parent / IMAGES)
            lines[position] = f"![{ALT[name]}]({IMAGES}/{name}.svg)\n"
            drawn.append(f"{IMAGES}/{name}")
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    write_json(out / "figures.json", drawn)
    say(f"wrote {page} and {len(drawn)} figures")
    return page


def _commands(groups: ArmGroups) -> str:
    """Return what made the results, the parts that run on request too where they are there."""
    on_request = [
        part
        for part, title, default in (
            ("margin-seeds", "m = 4", len(SEEDS)),
            ("loss-seeds", OTHER_LOSSES[0][0], 1),
            ("cost-seeds", "sampled head", 1),
            ("full-size", "m = 4, 112x96", 0),
        )
        if (found := groups.average(title)) and len(found.runs) > default
    ]
    return f"{COMMAND}\n{COMMAND} --parts {' '.join(on_request)}" if on_request else COMMAND


ALT = {
    "boundaries": "Decision regions of softmax, modified softmax and A-Softmax in the plane",
    "bounds": "Widest region and narrowest gap over m, with their crossing",
    "margins": "Accuracy and mean angles over m",
    "angles": "Angles of genuine and impostor pairs with one seed, one panel a loss",
    "training": "Training loss over updates and against lambda",
    "losses": "Accuracy of every loss",
    **{
        f"embeddings-{dataset}-{n}d": f"{label} embedded in {n} dimensions, softmax and m = 1 to 4"
        for dataset, label in (("digits", "Handwritten digits"), ("faces", "Synthetic faces"))
        for n in (2, 3)
    },
}


def _draw(name: str, out: Path, groups: ArmGroups, images: Path) -> None:
    """Draw the figure that a line `figure: NAME` stands for."""
    margins = {title: found for title in groups.of_margin if (found := groups.average(title))}
    first_seeds = {title: groups.first_that_ended(title) for title in margins}
    if name == "boundaries":
        figures.draw_boundaries(images)
    elif name == "bounds":
        figures.draw_bounds(read_json(out / "bounds.json"), images)
    elif name == "margins":
        figures.draw_margins(margins, images)
    elif name == "angles":
        figures.draw_angles(groups.results, first_seeds, images)
    elif name == "training":
        figures.draw_training(groups.results, first_seeds, images)
    elif name == "losses":
        most = groups.loss_seeds()
        every = ((title, groups.average(title, most=most)) for title in groups.loss_titles())
        figures.draw_ranking([(t, found) for t, found in every if found], "softmax", images)
    else:
        dataset, dimensions = name.split("-")[1], int(name[-2])
        rows = [row["name"].split() for row in read_json(out / "embeddings.json")["rows"]]
        losses = [loss for of, size, loss in rows if (of, size) == (dataset, str(dimensions))]
        with np.load(out / "embeddings.npz") as arrays:
            figures.draw_embeddings(arrays, dataset, dimensions, losses, images)


def embeddings_section(out: Path) -> list[str]:
    """Show the small networks."""
    kept = read_json(out / "embeddings.json")
    if kept is None:
        return ["## 1. What the margin does to features\n", "Not run (`--parts embeddings`).\n"]
    rows, settings = kept["rows"], kept["settings"]
    lines = [
        page_text.EMBEDDINGS.format(
            steps=" or ".join(sorted({str(row["steps"]) for row in rows})),
            classes=settings["classes"],
            data=" and ".join(dict.fromkeys(row["data"] for row in rows)),
            base=settings["lambda_base"],
            minimum=settings["lambda_minimum"],
        )
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        figure = f"embeddings-{row['name'].split()[0]}-{row['dimensions']}d"
        groups.setdefault(figure, []).append(row)
    lines += [f"figure: {name}" for name in groups]
    lines += _fisher_table(groups)
    return [*lines, _narrower(list(groups.values()))]


def _narrower(groups: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Say in how many of the cases the classes get narrower with the margin."""
    falls = {"seen": 0, "held_out": 0}
    for rows in groups:
        for part in falls:
            scores = [row[part]["angular_fisher_score"] for row in rows if row["margin"]]
            falls[part] += scores[-1] < scores[0]
    return (
        f"From m = 1 to the largest m the score falls in {falls['seen']} of {len(groups)} cases on "
        f"the pictures that were trained on, and in {falls['held_out']} on those held out.\n"
    )


def _fisher_table(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the small networks' Fisher scores, a row per data and dimensions."""
    losses = dict.fromkeys(_loss(row) for rows in groups.values() for row in rows)
    cells = []
    for rows in groups.values():
        scores = {
            _loss(row): " / ".join(f"{row[p]['angular_fisher_score']:.4f}" for p in MEASURED_ON)
            for row in rows
        }
        data, dimensions = rows[0]["name"].split()[0], rows[0]["dimensions"]
        cells.append([data, str(dimensions), *(scores.get(loss, "—") for loss in losses)])
    return table(["data", "dimensions", *losses], cells)


def _loss(row: Mapping[str, Any]) -> str:
    return "softmax" if row["margin"] is None else f"m = {row['margin']}"


def bounds_section(out: Path) -> list[str]:
    """Show the bounds beside the crossings."""
    found = read_json(out / "bounds.json")
    if found is None:
        return ["## 2. The lower bounds of m\n", "Not run (`--parts bounds`).\n"]
    derived = [row for row in found["rows"] if row["bound"]]
    equal = [row for row in derived if abs(row["crossing"] - row["bound"]) < AGREES]
    others = [row for row in found["rows"] if row not in equal]
    cells = [
        [
            row["arrangement"],
            f"{row['bound']:.4f}" if row["bound"] else "not derived",
            f"{row['crossing']:.4f}",
        ]
        for row in others
    ]
    solids = [row["crossing"] for row in found["rows"] if not row["bound"]]
    return [
        page_text.BOUNDS,
        page_text.BOUNDS_EQUAL.format(equal=len(equal), derived=len(derived), within=AGREES)
        if equal
        else "",
        *table(["class centres", "bound, derived", "crossing, measured"], cells),
        "figure: bounds",
        page_text.BOUNDS_AFTER.format(low=min(solids), high=max(solids)),
    ]
