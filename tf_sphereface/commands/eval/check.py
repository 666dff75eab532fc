"""`tf_sphereface-eval check`: does a public network reach what its page says?"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from tf_sphereface.commands.console import (
    EXIT_CHECK_FAILED,
    EXIT_OK,
    CommandError,
    console,
    progress,
    progress_bar,
    write_json_option,
)
from tf_sphereface.commands.eval.shared import Subparsers, add_protocol, embedding_options
from tf_sphereface.embedder import Embedder
from tf_sphereface.eval import bin_sets, feeding_mistakes, published_check
from tf_sphereface.eval.feeding_mistakes import Trial, Way
from tf_sphereface.eval.measures.checks import require_libraries
from tf_sphereface.eval.published_check import PublishedCheck, SetComparison
from tf_sphereface.eval.report.tables import SCHEMA, describe_model
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings
from tf_sphereface.eval.scoring.sources import open_embedder
from tf_sphereface.utils.messages import ProgressCallback

_SHOWN = 6  # trials in the table; --json has all


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    summary = "compare with the published accuracy of the same weights; find how they are misfed"
    parser = add_protocol(protocols, "check", summary, run, alignable=False, verifies=False)
    parser.add_argument(
        "--bins",
        nargs="+",
        type=Path,
        required=True,
        metavar="DIR|FILE",
        help="folders of .bin files, or such files; exit code 0 where the accuracies agree with "
        "the published ones, 1 where they differ, or where the pairs are told apart clearly better "
        "if the model is fed otherwise",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME",
        help="which published weights the model is: a file of docs/results/weights.md, or a part "
        "of its name (default: by the file that it was imported from)",
    )


def run(args: argparse.Namespace) -> int:
    """Compare, and where the model is below the published figures try the usual mistakes."""
    require_libraries()
    embedding = embedding_options(args)
    model = open_embedder(args.model, embedding)
    if isinstance(model, StoredEmbeddings):
        raise CommandError(f"MODEL must be a network: nothing can be fed to {args.model}")
    weights = published_check.find_weights(model, args.weights)
    with progress() as bars:

        def begin(name: str) -> ProgressCallback:
            task = bars.add_task(f"embedding {name}", total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        result = published_check.check(
            model, args.bins, weights, embedding.flip, begin, cache=embedding.cache
        )
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "protocol": "check",
        "model": describe_model(model),
        **published_check.check_to_dict(result),
    }
    console.print(f"{args.model}: {_fed(model)}", soft_wrap=True)
    console.print(f"{weights.file}: {_published_fed(result)} ({weights.source})", soft_wrap=True)
    console.print(_table(result.sets, "measured here and published, %"))
    for note in published_check.notes(result):
        console.print(f"note: {note}", soft_wrap=True)
    if result.verdict == "below":
        values |= _search(args, model, result, embedding.flip)
    elif result.verdict == "agrees":
        values |= _search_agreeing(args, model, result)
    elif result.verdict == "above":
        console.print("Above the published figures: other weights than these, or other pairs.")
    _say_verdict(result)
    write_json_option(args.json, values)
    fine = result.verdict == "agrees" and values["fits"] is None
    return EXIT_OK if fine else EXIT_CHECK_FAILED


def _search(
    args: argparse.Namespace, model: Embedder, result: PublishedCheck, flip: bool
) -> dict[str, Any]:
    """Try the usual mistakes, then the best of them on all pairs; print, and return values."""
    found = bin_sets.find_bins(args.bins)
    lower = {name: found[name] for name, entry in result.sets.items() if entry.difference < 0}
    sets = bin_sets.read_sets(lower)
    with progress_bar("trying the usual mistakes") as show:
        trials = feeding_mistakes.try_ways(model, sets, flip, progress=show, weights=result.weights)
    best = trials[0]
    console.print(_trials_table(trials, sets))
    values: dict[str, Any] = {"tried": [_trial_to_dict(trial) for trial in trials], "fits": None}
    if best.gain <= 0:
        console.print(
            "None of the usual mistakes does better: other weights than these, or other pairs."
        )
        return values
    sets = bin_sets.read_sets({name: found[name] for name in result.sets})
    with progress_bar(best.way.name) as show:
        results = feeding_mistakes.evaluate_way(model, sets, best.way, flip, show)
    before = {name: entry.headline for name, entry in result.results.sets.items()}
    whole = feeding_mistakes.make_trial(best.way, results, before)
    mended = published_check.compare_sets(result, results)
    mend = _mend(best.way, args.model)
    console.print(_table(mended.sets, f"with {best.way.name}, %"))
    for line in _conclusion(whole, mended, mend):
        console.print(line, soft_wrap=True)
    checked = published_check.check_to_dict(mended)
    kept = ("sets", "difference", "std_error", "standard_errors", "verdict")
    values["fits"] = {
        **_trial_to_dict(whole),
        "facts": dict(best.way.facts),
        **{name: checked[name] for name in kept},
        "mend": mend,
    }
    return values


def _search_agreeing(
    args: argparse.Namespace, model: Embedder, result: PublishedCheck
) -> dict[str, Any]:
    """Try other ways where the accuracy agrees, which a wrong way may reach on few or easy pairs.

    Prints what is sure to do better, and how the way of the weights' page does where it is another.
    """
    found = bin_sets.find_bins(args.bins)
    sets = bin_sets.read_sets({name: found[name] for name in result.sets})
    ways = feeding_mistakes.single_changes(model, result.weights)
    with progress_bar("trying other ways of feeding it") as show:
        trials = feeding_mistakes.try_ways(
            model, sets, False, progress=show, weights=result.weights, ways=ways
        )
    sure = [trial for trial in trials if trial.is_sure]
    best = next((trial for trial in sure if not trial.way.moves_faces), None)
    told = [trial for trial in trials if feeding_mistakes.is_of(trial.way, result.weights)]
    told += [trial for trial in sure if trial.way.moves_faces][:1]
    values: dict[str, Any] = {"tried": [_trial_to_dict(trial) for trial in trials], "fits": None}
    if best is not None or told:
        console.print(_trials_table(trials, sets))
    for trial in told if best is None else ():
        whose = " (as its page feeds it)" if trial.way.facts else ""
        text = f"note: {trial.way.name}{whose}: {_gain(trial)}; {_mend(trial.way, args.model)}"
        console.print(text, soft_wrap=True)
    if best is not None:
        mend = _mend(best.way, args.model)
        values["fits"] = {**_trial_to_dict(best), "facts": dict(best.way.facts), "mend": mend}
        console.print(
            f"With {best.way.name} the pairs are told apart better ({_gain(best)}): it is likely "
            f"fed wrongly, though the accuracy does not show it.\nTo mend it: {mend}",
            soft_wrap=True,
        )
    return values


def _gain(trial: Trial) -> str:
    return f"d' {trial.gain:+.3f} ± {trial.std_error:.3f}"


def _conclusion(whole: Trial, mended: PublishedCheck, mend: str) -> list[str]:
    """Say what the best way on all pairs means, and how to get it."""
    name = whole.way.name
    text = _gain(whole)
    if not whole.is_clear:
        return [f"No usual mistake stands out: {name} fits best, and hardly better ({text})."]
    first = "Better, but still below" if mended.verdict == "below" else "This fits"
    return [f"{first}: {name} ({text}).", f"To mend it: {mend}"]


def _fed(model: Embedder) -> str:
    facts = model.metadata
    how = feeding_mistakes.describe_facts(facts.channel_order, facts.pixel_mean, facts.pixel_scale)
    return f"fed {how}"


def _published_fed(result: PublishedCheck) -> str:
    row = result.weights
    how = feeding_mistakes.describe_facts(row.channel_order, 127.5, row.pixel_scale)
    return f"its page feeds {how}"


def _table(sets: Mapping[str, SetComparison], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("set", overflow="fold")
    for name in ("measured", "published", "points", "standard errors", "pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for name, entry in sets.items():
        table.add_row(
            name,
            f"{100 * entry.accuracy:.2f} ± {100 * entry.std_error:.2f}",
            f"{100 * entry.published:.2f}",
            f"{100 * entry.difference:+.2f}",
            f"{entry.standard_errors:+.1f}",
            f"{entry.pairs:,}",
            entry.verdict,
        )
    return table


def _trials_table(trials: list[Trial], sets: Mapping[str, Any]) -> Table:
    table = Table(
        title="other ways of feeding it, on some of the pairs: accuracy, % (now -> so), and d'",
        title_justify="left",
    )
    table.add_column("fed")
    for name in sets:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("gain in d'", justify="right")
    for trial in trials[:_SHOWN]:
        shares = [
            f"{100 * trial.present[name]:.2f} -> {100 * trial.accuracy[name]:.2f}" for name in sets
        ]
        table.add_row(trial.way.name, *shares, f"{trial.gain:+.3f} ± {trial.std_error:.3f}")
    return table


def _trial_to_dict(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.way.name,
        "accuracy": trial.accuracy,
        "present": trial.present,
        "gain": trial.gain,
        "gain_std_error": trial.std_error,
        "separation": trial.separation,
        "clear": trial.is_clear,
    }


def _mend(way: Way, model: Path) -> str:
    """Return the command or the option that mends a mistake."""
    if way.facts:
        facts = [
            f"--{name.replace('_', '-')} {_option(value)}" for name, value in way.facts.items()
        ]
        where = shlex.quote(str(model))
        return f"tf_sphereface-export --describe {where} {' '.join(facts)}"
    if way.channels_first:
        return "import the weights again from their own file, by tf_sphereface-import"
    if way.flip is not None:
        options = {"none": "--no-flip", "sum": "leave --no-flip out"}
        return options.get(way.flip, "concatenate both embeddings where you compare faces")
    size = "--size 112x96" if way.resized else "the landmarks moved so"
    return (
        "the sets' faces are cut otherwise than the network's: tf_sphereface-eval make-bin "
        f"cuts them anew, with {size}"
    )


def _option(value: Any) -> str:
    numbers = value if isinstance(value, tuple) else (value,)
    texts = [number if isinstance(number, str) else f"{number:g}" for number in numbers]
    return ",".join(texts)


def _say_verdict(result: PublishedCheck) -> None:
    words = {"agrees": "agrees with", "below": "is below", "above": "is above"}
    console.print(
        f"{words[result.verdict].capitalize()} the published accuracy: on the mean over "
        f"{len(result.sets)} set{'s' if len(result.sets) > 1 else ''} "
        f"{100 * result.difference:+.2f} points, {result.standard_errors:+.1f} standard errors.",
        style="bold",
        soft_wrap=True,
    )
