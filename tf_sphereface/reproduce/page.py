"""The page, written from the results that a folder holds and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.reproduce import figures, page_text
from tf_sphereface.reproduce.arm_runner import Results, Say
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
from tf_sphereface.reproduce.statistics import ArmGroups
from tf_sphereface.utils.files import atomic_path, write_json

IMAGES = "images/paper"
COMMAND = "tf_sphereface-reproduce --out paper --data FACES --lfw LFW"
QUICK_COMMAND = "tf_sphereface-reproduce --out paper --quick"
SECTIONS = (  # a line `figure: NAME` that they return stands for a figure
    margin_section,
    lambda_section,
    depth_section,
    loss_section,
    cost_section,
    recipe_section,
    size_section,
)


def write_page(out: Path, page: Path, *, quick: bool, say: Say) -> Path:
    """Draw the figures and write the page.

    Args:
        out: the folder of results.
        page: the Markdown file; its figures go into `images/paper` beside it.
        quick: whether the results are those of `--quick`, where no arm tells.
        say: called with lines of text.

    Returns:
        The page's path.
    """
    images = page.parent / IMAGES
    drawn: list[str] = []
    results = Results(out)
    real = results.real()
    quick = quick if real is None else not real
    groups = ArmGroups(results)
    lines = [page_text.INTRODUCTION.format(command=QUICK_COMMAND if quick else _commands(groups))]
    if quick:
        lines.append("This page is of `--quick`: a few minutes, synthetic faces, one seed.\n")
    lines += claims(groups)
    lines += embeddings_section(out, images, drawn)
    lines += bounds_section(out, images, drawn)
    lines += [page_text.BOUNDARIES, picture(figures.draw_boundaries(images), drawn)]
    for section in SECTIONS:
        lines += section(groups)
    lines = _with_figures(lines, groups, images, drawn)
    lines += time_section(out)
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    write_json(out / "figures.json", [f"{IMAGES}/{name}" for name in drawn])
    say(f"wrote {page} and {len(drawn)} figures")
    return page


def _commands(groups: ArmGroups) -> str:
    """Return what made the results, the parts that run on request too where they are there."""
    titles = {
        "margin-seeds": ("m = 4", len(SEEDS)),
        "loss-seeds": (OTHER_LOSSES[0][0], 1),
        "cost-seeds": ("sampled head", 1),
    }
    on_request = [
        part
        for part, (title, default) in {**titles, "full-size": ("m = 4, 112x96", 0)}.items()
        if (found := groups.average(title)) and len(found.runs) > default
    ]
    more = [f"{COMMAND} --parts {' '.join(on_request)}"] if on_request else []
    return "\n".join([COMMAND, *more])


def picture(name: str, drawn: list[str]) -> str:
    """Return the line that shows a figure, and note that it was drawn."""
    drawn.append(name)
    return f"![{ALT[name]}]({IMAGES}/{name}.svg)\n"


ALT = {
    "boundaries": "Decision regions of softmax, modified softmax and A-Softmax in the plane",
    "bounds": "Widest region and narrowest gap over m, with their crossing",
    "margins": "Accuracy and mean angles over m",
    "angles": "Angles of genuine and impostor pairs with the first seed, one panel a loss",
    "training": "Training loss over updates and against lambda",
    "losses": "Accuracy of every loss",
    **{
        f"embeddings-{dataset}-{n}d": f"{label} embedded in {n} dimensions, softmax and m = 1 to 4"
        for dataset, label in (("digits", "Handwritten digits"), ("faces", "Synthetic faces"))
        for n in (2, 3)
    },
}


def _with_figures(lines: list[str], groups: ArmGroups, images: Path, drawn: list[str]) -> list[str]:
    """Replace each line `figure: NAME` of the sections by the figure, which is drawn here."""
    margins = {title: found for title in groups.of_margin if (found := groups.average(title))}
    first_seeds = {title: groups.names[title][0] for title in margins}
    most = groups.loss_seeds()

    def draw(name: str) -> str:
        if name == "margins":
            return figures.draw_margins(margins, images)
        if name == "angles":
            return figures.draw_angles(groups.results, first_seeds, images)
        if name == "training":
            return figures.draw_training(groups.results, first_seeds, images)
        every = ((title, groups.average(title, most=most)) for title in groups.loss_titles())
        return figures.draw_ranking([(t, found) for t, found in every if found], "softmax", images)

    return [
        picture(draw(line.removeprefix("figure: ")), drawn) if line.startswith("figure: ") else line
        for line in lines
    ]


def embeddings_section(out: Path, images: Path, drawn: list[str]) -> list[str]:
    """Show the small networks."""
    path = out / "embeddings.json"
    if not path.is_file():
        return ["## 1. What the margin does to features\n", "Not run (`--parts embeddings`).\n"]
    kept = json.loads(path.read_text(encoding="utf-8"))
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
    with np.load(out / "embeddings.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["name"].split()[0], row["dimensions"]), []).append(row)
    for (dataset, dimensions), members in groups.items():
        losses = [row["name"].split()[2] for row in members]
        name = figures.draw_embeddings(arrays, dataset, dimensions, losses, images)
        lines.append(picture(name, drawn))
    for part, title in (("seen", "Pictures it was trained on"), ("held_out", "Held-out pictures")):
        lines += [f"**{title}**\n", *_angle_table(rows, part)]
    return [*lines, _narrower(list(groups.values()))]


def _narrower(groups: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Say in how many of the cases the classes get narrower with the margin."""
    scores = {
        part: [
            [row[part]["angular_fisher_score"] for row in rows if row["margin"]] for rows in groups
        ]
        for part in ("seen", "held_out")
    }
    falls = {part: sum(case[-1] < case[0] for case in cases) for part, cases in scores.items()}
    seen, held_out = (f"{falls[part]} of {len(groups)}" for part in ("seen", "held_out"))
    return (
        f"From m = 1 to the largest m the Fisher score falls in {seen} cases on the pictures that "
        f"were trained on, and in {held_out} on those held out: the margin shapes what it is "
        "trained on, and pictures that the network has not seen follow as far as it generalises.\n"
    )


def _angle_table(rows: Sequence[Mapping[str, Any]], part: str) -> list[str]:
    """Return the small networks' angles on a part of the pictures."""
    head = ["data", "dimensions", "loss", "mean angle, genuine", "impostor"]
    head += ["95 % of genuine below", "95 % of impostor above", "Fisher score", "training accuracy"]
    cells = [
        [
            row["name"].split()[0],
            str(row["dimensions"]),
            "softmax" if row["margin"] is None else f"m = {row['margin']}",
            f"{row[part]['genuine_angle']:.1f}°",
            f"{row[part]['impostor_angle']:.1f}°",
            f"{row[part]['genuine_angle_95']:.1f}°",
            f"{row[part]['impostor_angle_5']:.1f}°",
            f"{row[part]['angular_fisher_score']:.4f}",
            f"{100 * row['training_accuracy']:.1f} %",
        ]
        for row in rows
    ]
    return table(head, cells)


def bounds_section(out: Path, images: Path, drawn: list[str]) -> list[str]:
    """Show the bounds beside the crossings."""
    path = out / "bounds.json"
    if not path.is_file():
        return ["## 2. The lower bounds of m\n", "Not run (`--parts bounds`).\n"]
    found = json.loads(path.read_text(encoding="utf-8"))
    cells = [
        [
            row["arrangement"],
            f"{row['bound']:.4f}" if row["bound"] else "not derived",
            f"{row['crossing']:.4f}",
        ]
        for row in found["rows"]
    ]
    solids = [row["crossing"] for row in found["rows"] if not row["bound"]]
    return [
        page_text.BOUNDS,
        *table(["class centres", "bound, derived", "crossing, measured"], cells),
        picture(figures.draw_bounds(found, images), drawn),
        page_text.BOUNDS_AFTER.format(low=min(solids), high=max(solids)),
    ]
