"""The page's sections on practice: cost, the recipe, full size, and the time it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_sphereface.reproduce import page_text
from tf_sphereface.reproduce.arm_runner import read_json
from tf_sphereface.reproduce.arms import ON_REQUEST, SAMPLE_RATE, SEEDS, real_base
from tf_sphereface.reproduce.page_sections import (
    MISSING,
    TRAINING,
    one_seed,
    percent,
    points,
    seeds,
    table,
)
from tf_sphereface.reproduce.statistics import RECIPES, ArmGroups


def cost_section(groups: ArmGroups) -> list[str]:
    """Precision and the sampled head."""
    base = groups.first("m = 4")
    if base is None or all(groups.first(t) is None for t in ("float32", "sampled head")):
        return ["## 8. What saves time\n", MISSING]
    cells = []
    for label, title in (
        (f"{base['recipe']['precision']}, full head", "m = 4"),
        ("float32, full head", "float32"),
        (f"{base['recipe']['precision']}, sample_rate {SAMPLE_RATE:g}", "sampled head"),
    ):
        kept = groups.first(title)
        if kept is None:
            continue
        found = None if title == "m = 4" else groups.paired(title, "m = 4")
        cells.append(
            [
                label,
                percent(groups.average(title, most=len(SEEDS))),
                "" if found is None else points(found),
                "" if found is None else seeds(found),
                f"{1000 * kept['seconds']['step']:.0f} ms",
                f"{base['seconds']['step'] / kept['seconds']['step']:.2f}",
            ]
        )
    head = [
        "",
        "accuracy",
        "paired with the first row",
        "seed by seed",
    ]
    head += ["an update, median", "faster"]
    return [page_text.COST.format(rate=SAMPLE_RATE), *table(head, cells)]


def recipe_section(groups: ArmGroups) -> list[str]:
    """One change of the recipe at a time."""
    title = "## 9. The recipe\n"
    if all(groups.first(name) is None for name in RECIPES):
        return [title, MISSING]
    cells = []
    for label, name in (("as above", "m = 4"), *((v, k) for k, v in RECIPES.items())):
        if groups.first(name) is None:
            continue
        paired = "" if name == "m = 4" else points(groups.paired(name, "m = 4"))
        cells.append([label, *one_seed(groups, name), paired])
    return [
        title,
        "The m = 4 run with one thing changed (one seed), paired with the run as it is.\n",
        *table(["", "accuracy", "gap", TRAINING, "paired"], cells),
        page_text.RECIPE_AFTER,
    ]


def size_section(groups: ArmGroups) -> list[str]:
    """Full-size faces."""
    titles = [(loss, f"{loss}, 112x96") for loss in ("softmax", "m = 1", "m = 4")]
    title = "## 10. Full size\n"
    if all(groups.first(name) is None for _, name in titles):
        return [
            title,
            "Not run: `--parts full-size` trains softmax, m = 1 and m = 4 on faces of 112x96; it "
            "takes about a third as long as all the rest.\n",
        ]
    cells: list[Sequence[str]] = []
    for loss, name in titles:
        pair = (groups.average(what, most=1) for what in (loss, name))
        cells.append([loss, *map(percent, pair), points(groups.paired(name, loss))])
    pairs = [
        f"{a} − {b}: {points(groups.paired(f'{a}, 112x96', f'{b}, 112x96'))}"
        for a, b in (("m = 4", "softmax"), ("m = 4", "m = 1"))
    ]
    return [
        title,
        "One seed, the same recipe and updates.\n",
        *table(["", "56x48", "112x96", "paired"], cells),
        f"At 112x96: {'; '.join(pairs)}.\n",
    ]


def time_section(out: Path) -> list[str]:
    """How long it took: in processor time, which other work on the machine does not change much."""
    kept = [read_json(path) for path in sorted(out.glob("arms/*.json"))]
    pieces = []
    base = dataclasses.replace(real_base(), precision="mixed_bfloat16")  # has all arms
    extra = {arm.name for make in ON_REQUEST.values() for arm in make(base)}
    for on_request, what in ((False, "arms"), (True, "arms on request")):
        spent = [a["seconds"]["processor"] / 60 for a in kept if (a["name"] in extra) == on_request]
        if spent:
            pieces.append((f"{len(spent)} {what}", sum(spent)))
    if small := read_json(out / "embeddings.json"):
        seconds = [row["processor_seconds"] for row in small["rows"]]
        pieces.append((f"{len(seconds)} small networks", sum(seconds) / 60))
    if not pieces:
        return []
    label = ", ".join(f"{name} {minutes:.1f} minutes" for name, minutes in pieces)
    lines = [
        "## Time\n",
        f"Processor time: {label}.\n",
    ]
    if runs := read_json(out / "runs.json"):
        lines.append(_by_the_clock(runs))
    return lines


def _by_the_clock(runs: Sequence[Mapping[str, Any]]) -> str:
    """Say how long each set of parts took, its pieces added up where it was resumed."""
    spent: dict[str, float] = {}
    for run in runs:
        asked = set(run["parts"]) & set(ON_REQUEST)
        what = f"`--parts {' '.join(run['parts'])}`" if asked else "the default parts"
        spent[what] = spent.get(what, 0.0) + run["seconds"] / 60
    times = ", ".join(f"{what} {minutes:.1f} minutes" for what, minutes in spent.items())
    return f"By the clock, on {runs[-1]['cores']} cores: {times}.\n"
