"""The page's sections on training: the margin, lambda, depth, and every loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tf_sphereface import angular
from tf_sphereface.reproduce import page_text
from tf_sphereface.reproduce.arms import OTHER_LOSSES
from tf_sphereface.reproduce.statistics import TWO, ArmGroups, Average, Difference

CENTRED = "flip-mean_subtracted"
TRAINING = "accuracy in training"  # heading of `training_cell`
MISSING = (
    "Not run: this part needs faces to train on and LFW to verify on (`--data`, `--lfw`), and its "
    "name among `--parts` where those are given.\n"
)


def margin_section(groups: ArmGroups) -> list[str]:
    """The ablation on m."""
    first = next((f for t in groups.of_margin if (f := groups.first(t)) is not None), None)
    if first is None:
        return ["## 4. The ablation on m\n", MISSING]
    head = ["", "LFW, *published*", "*measured*: margin felt", "accuracy", "spread"]
    head += ["mean subtracted", "genuine", "impostor", "gap", "Fisher score", TRAINING]
    cells = []
    for title in groups.of_margin:
        found = groups.average(title)
        cells.append(
            [
                title,
                page_text.BY_MARGIN[title],
                _margin_felt(groups.first(title)),
                percent(found),
                spread(found),
                percent(groups.average(title, CENTRED)),
                f"{found.genuine_angle:.1f}°" if found else "—",
                f"{found.impostor_angle:.1f}°" if found else "—",
                gap(found),
                fisher(found),
                training_cell(groups, title),
            ]
        )
    pairs = [(f"m = {m}", "softmax") for m in (1, 2, 3, 4)]
    pairs += [(f"m = {m}", f"m = {m - 1}") for m in (2, 3, 4)] + [("m = 4", "m = 1")]
    paired = []
    for a, b in pairs:
        plain = groups.paired(a, b)
        if plain is not None:
            differences = [points(plain, p=True), over_seeds(plain), seeds(plain)]
            paired.append([f"{a} − {b}", *differences])
    softmax = groups.average("softmax")
    return [
        page_text.MARGIN.format(
            train=_capital(first["faces"]["train"]),
            test=first["faces"]["test"],
            recipe=describe_recipe(first["recipe"]),
            seeds=_count(len(softmax.runs) if softmax else 1),
        ),
        *table(head, cells),
        f"*Published*: SphereFace-64 on CASIA-WebFace; {page_text.legend('*', '†')}\n",
        page_text.MARGIN_FELT,
        "figure: margins",
        "figure: angles",
        page_text.PAIRED,
        *table(["", "difference", "over seeds", "seed by seed"], paired),
        "figure: training",
    ]


def _count(number: int) -> str:
    return {1: "one", 2: "two", 3: "three", 6: "six"}.get(number, str(number))


def _margin_felt(kept: Mapping[str, Any] | None) -> str:
    """Return the effective margin at the end of a run."""
    if kept is None or kept["recipe"]["margin"] is None:
        return "—"
    recipe = kept["recipe"]
    return f"{float(angular.effective_margin(recipe['margin'], recipe['lambda_minimum'])):.2f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def training_cell(groups: ArmGroups, title: str) -> str:
    """Return the last epoch's accuracy, of the first seed."""
    kept = groups.first(title)
    if kept is None:
        return "—"
    epochs = kept["training"]["epochs"]
    accuracy = epochs.get("accuracy") or epochs["sampled_accuracy"]
    return f"{100 * accuracy[-1]:.0f} %"


def one_seed(groups: ArmGroups, title: str) -> list[str]:
    """Return the first seed's accuracy, gap of angles, and accuracy in training."""
    kept, found = groups.first(title), groups.average(title, most=1)
    accuracy = "diverged" if kept and kept["diverged"] else percent(found)
    return [accuracy, gap(found), training_cell(groups, title)]


def describe_recipe(recipe: Mapping[str, Any]) -> str:
    """Say how the arms were trained, in a sentence."""
    height, width = recipe["input_size"]
    return (
        f"SphereFaceNet-{recipe['backbone'].removeprefix('sphereface')} at {height}x{width}, "
        f"{recipe['epochs']} epochs in batches of {recipe['batch_size']}, rate "
        f"{recipe['learning_rate']:g} divided by 10 at "
        + " and ".join(f"{share:.0%}" for share in recipe["drops"])
        + f" of the run, weight decay {recipe['weight_decay']:g}, augmentation "
        f"`{recipe['augment']}`, {recipe['precision']}; lambda reaches its minimum of "
        f"{recipe['lambda_minimum']:g} at {recipe['annealing_reach']:.0%} "
        f"(power {recipe['annealing_power']:g})."
    )


def lambda_section(groups: ArmGroups) -> list[str]:
    """Lambda's minimum and the released gradient."""
    if all(groups.average(t) is None for t in ("lambda 0", "lambda 2", "lambda 10", "caffe")):
        return ["## 5. Lambda's minimum, and the released layer's gradient\n", MISSING]
    cells = []
    rows = [("0", "lambda 0"), ("2", "lambda 2"), ("5", "m = 4"), ("10", "lambda 10")]
    for minimum, title in [*rows, ("5, the released layer's gradient", "caffe")]:
        kept = groups.first(title)
        if kept is None:
            continue
        value = kept["training"]["curve"][-1][2]
        felt = "—" if value is None else f"{float(angular.effective_margin(4, value)):.2f}"
        cells.append(
            [
                minimum,
                felt,
                *one_seed(groups, title),
                "" if title == "m = 4" else points(groups.paired(title, "m = 4")),
            ]
        )
    head = ["minimum", "margin felt", "accuracy", "gap", TRAINING, "paired with 5"]
    return [page_text.LAMBDA, *table(head, cells), *seed_noise(groups)]


def seed_noise(groups: ArmGroups) -> list[str]:
    """Say how far apart two runs are that differ in nothing but their seed."""
    found, spread_ = groups.average("m = 4"), groups.seed_spread()
    if found is None or found.spread is None or spread_ is None:
        return []
    runs = ", ".join(f"{100 * run:.2f}" for run in found.runs)
    apart = 100 * math.sqrt(2) * spread_
    return [
        f"One seed is one seed: m = 4 reached {runs} with its {len(found.runs)} seeds. Two runs "
        f"that differ in nothing else are {apart:.1f} points apart (one standard deviation), "
        "here and in the sections below; a difference below twice as much says little.\n"
    ]


def depth_section(groups: ArmGroups) -> list[str]:
    """Four and ten layers."""
    title = "## 6. Depth\n"
    if groups.average("m = 4, 10 layers") is None:
        return [title, MISSING]
    cells = []
    for loss, _ in TWO:
        for layers, name in ((4, loss), (10, f"{loss}, 10 layers")):
            cells.append(
                [
                    loss,
                    str(layers),
                    page_text.BY_DEPTH.get((loss, layers), "—"),
                    *one_seed(groups, name),
                    "" if layers == 4 else points(groups.paired(name, loss)),
                ]
            )
    head = ["", "layers", "LFW, *published*", "*measured*", "gap", TRAINING, "paired with 4 layers"]
    deep = ", ".join(f"{loss} {page_text.BY_DEPTH[loss, 64]}" for loss, _ in TWO)
    margin = groups.paired("m = 4, 10 layers", "softmax, 10 layers")
    return [
        title,
        "One seed, the same recipe for both depths.\n",
        *table(head, cells),
        f"With ten layers, m = 4 − softmax: {points(margin)}. With 64 layers, *published*: {deep}; "
        f"{page_text.legend('‡')}\n",
    ]


def loss_section(groups: ArmGroups) -> list[str]:
    """Every loss."""
    if all(groups.first(loss) is None for loss, _ in OTHER_LOSSES):
        return ["## 7. Every loss of the library\n", MISSING]
    number = groups.loss_seeds()
    seeds_ = "One seed" if number == 1 else f"The mean over {_count(number)} seeds"
    return [
        page_text.LOSSES.format(seeds=seeds_),
        *loss_table(groups),
        "figure: losses",
    ]


def loss_table(groups: ArmGroups) -> list[str]:
    """Return the table of all losses."""
    cells, most = [], groups.loss_seeds()
    for title in groups.loss_titles():
        kept = groups.first(title) or {}
        found, recipe = groups.average(title, most=most), kept["recipe"]
        paired = None if title == "softmax" else groups.paired(title, "softmax", most=most)
        margin = recipe["margin"]
        cells.append(
            [
                title if title == "softmax" or not title.startswith("m =") else "a-softmax",
                "—" if margin is None else f"{margin:g}",
                percent(found) if found else "diverged",
                percent(groups.average(title, CENTRED, most)),
                training_cell(groups, title),
                _length(kept),
                points(paired) if paired else "",
                *([seeds(paired) if paired else ""] if most > 1 else []),
            ]
        )
    head = ["loss", "m", "accuracy", "mean subtracted", TRAINING, "length of x"]
    head += ["paired with softmax"] + (["seed by seed"] if most > 1 else [])
    return table(head, cells)


def _length(kept: Mapping[str, Any]) -> str:
    """Return the median length of the test images' embeddings."""
    row = kept["verification"].get("flip-plain", {})
    return f"{row['embedding_length']:.3g}" if "embedding_length" in row else "—"


def claims(groups: ArmGroups) -> list[str]:
    """Say which of the paper's claims the networks trained here bear out."""
    if groups.average("m = 4") is None:
        return []
    deep, deep_softmax = "m = 4, 10 layers", "softmax, 10 layers"
    rows: list[tuple[str, str, str]] = [
        ("the margin beats softmax", "m = 4", "softmax"),
        ("unit centres without a margin beat softmax", "m = 1", "softmax"),
        ("the margin beats unit centres alone", "m = 4", "m = 1"),
        ("m = 2 beats m = 1", "m = 2", "m = 1"),
        ("m = 3 beats m = 2", "m = 3", "m = 2"),
        ("m = 4 beats m = 3", "m = 4", "m = 3"),
        ("lambda's minimum of 5 beats 10", "m = 4", "lambda 10"),
        ("with ten layers too the margin beats softmax", deep, deep_softmax),
        ("ten layers beat four, m = 4", deep, "m = 4"),
        ("ten layers beat four, softmax", deep_softmax, "softmax"),
    ]
    claims_by_verdict: dict[str, list[str]] = {}
    for claim, first, second in rows:
        found = groups.paired(first, second)
        if found is not None:
            judged = verdict(found, groups.seed_spread())
            claims_by_verdict.setdefault(judged, []).append(claim)
    for claim, better in (
        ("the gap between genuine and impostor angles grows with m", lambda a: a.gap),
        ("the angular Fisher score falls with m", lambda a: -(a.angular_fisher_score or 0.0)),
    ):
        steps = [groups.average(f"m = {m}") for m in (1, 2, 3, 4)]
        values = [better(a) for a in steps if a is not None]
        if len(values) == 4:
            rises = all(b > a for a, b in itertools.pairwise(values))
            ends = "holds from m = 1 to 4, not in each step" if values[-1] > values[0] else "fails"
            claims_by_verdict.setdefault("holds" if rises else ends, []).append(claim)
    return [
        "**What survives on a small set** (by more than two paired standard errors over the folds, "
        "and outside the 95 % interval of Student's t over the seeds, or, with one seed, by more "
        "than two standard deviations between seeds):\n",
        *(f"- **{judged}**: {'; '.join(found)}" for judged, found in claims_by_verdict.items()),
        "",
    ]


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


def points(found: Difference | None, p: bool = False) -> str:
    """Return a difference ± standard error, in points, and with `p` its p."""
    if found is None:
        return "—"
    text = f"{100 * found.accuracy:+.2f} ± {100 * found.std_error:.2f}"
    digits = ".1g" if found.p_value < 0.001 else ".3f"
    return f"{text} (p = {found.p_value:{digits}})" if p else text


def seeds(found: Difference | None) -> str:
    """Return the difference of each seed, in points."""
    return "—" if found is None else ", ".join(f"{100 * value:+.2f}" for value in found.seeds)


def over_seeds(found: Difference | None) -> str:
    """Return the standard error over the seeds, in points."""
    if found is None or len(found.seeds) < 2:
        return "one seed"
    return f"± {100 * found.seed_error:.2f}"


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
    "within the seeds' noise"
    """
    if found is None or math.isnan(found.std_error):
        return "not run"
    if found.within_noise:
        return "within noise"
    between_two = 2 * math.sqrt(2) * (seed_spread or 0.0)
    one = len(found.seeds) == 1
    if found.within_seeds or (one and abs(found.accuracy) <= between_two):
        return "within the seeds' noise"
    return "holds" if found.accuracy > 0 else "the opposite"


def gap(found: Average | None) -> str:
    """Return the gap between the mean angles of impostor and genuine pairs."""
    return "—" if found is None else f"{found.gap:.1f}°"


def fisher(found: Average | None) -> str:
    """Return the angular Fisher score."""
    score = None if found is None else found.angular_fisher_score
    return "—" if score is None else f"{score:.4f}"
