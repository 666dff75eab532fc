"""`tf_sphereface-eval ijb`: IJB-B and IJB-C, verification and search of templates."""

from __future__ import annotations

import argparse
from typing import Any

from rich.table import Table

from tf_sphereface.commands.console import (
    console,
    existing_dir,
    note,
    progress,
    warn,
    write_json_option,
)
from tf_sphereface.commands.eval.report_options import add_report_option
from tf_sphereface.commands.eval.shared import Subparsers, add_protocol, embedding_options
from tf_sphereface.embedder.metadata import library_versions
from tf_sphereface.eval import ijb
from tf_sphereface.eval.ijb_files import NAMES, PUBLISHED
from tf_sphereface.eval.measures.curve import CONFIDENCE
from tf_sphereface.eval.report.quality import NAMES as NAMES_OF_QUALITIES
from tf_sphereface.eval.report.quality import quality_tables
from tf_sphereface.eval.report.tables import describe_model
from tf_sphereface.eval.report.template_page import write_template_page
from tf_sphereface.eval.scoring.sources import open_embedder
from tf_sphereface.eval.template_search import COMPUTATIONS, FPIRS, RANKS, TemplateSearch
from tf_sphereface.utils.messages import ProgressCallback


def add(protocols: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = add_protocol(
        protocols,
        "ijb",
        "IJB-B or IJB-C: templates of many images, verified and searched for",
        run,
        alignable=False,
        verifies=False,
    )
    parser.add_argument(
        "--root",
        type=existing_dir,
        required=True,
        metavar="DIR",
        help="holds loose_crop/ and meta/; with a .npz of embeddings, meta/ is enough",
    )
    parser.add_argument(
        "--subset", choices=tuple(NAMES), required=True, help="which of the two sets it is"
    )
    add_report_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    embedding = embedding_options(args)
    model = open_embedder(args.model, embedding)
    with progress() as bars:

        def stage(name: str) -> ProgressCallback:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        result = ijb.evaluate(
            model,
            args.root,
            args.subset,
            flip=embedding.flip,
            cache=embedding.cache,
            progress=stage("embedding images"),
            stages=stage,
        )
    for hint in result.hints:
        warn(hint)
    values = to_dict(result)
    try:
        write_json_option(args.json, values)
        if args.report is not None:
            write_template_page(values, args.report)
            note(f"wrote {args.report}")
    finally:
        _print(result)
        for part in quality_tables(
            {NAMES_OF_QUALITIES[e["quality"]]: e for e in values["qualities"]}
        ):
            console.print(part)
    return 0


def to_dict(result: ijb.IJBResult) -> dict[str, Any]:
    """Return an `IJBResult` as plain values.

    `headline` and each of `variants` hold `mode` ("N1D1F1"), `flip`, `norm`, `detector_score`,
    `auc`, `tar_at_far` (a list of `far`, `tar`, `interval`, `threshold_best_on_test` and `reason`,
    why `tar` is None) and `identification`, None without csv files: `probes`, and `joined` and
    `apart` with `computation` in words, `rank_1`, `rank_5`, `rank_10`, `tpir_at_fpir`. In `data`,
    `published` has the set's own counts, and `complete` says whether they are met. Rates are
    fractions.
    """
    counts = dict(result.counts)
    return {
        "schema": 1,
        "protocol": result.name,
        "description": result.protocol,
        "model": describe_model(result.embedder),
        "data": {
            **counts,
            "impostor": counts["pairs"] - counts["genuine"],
            "published": PUBLISHED[result.name],
            "complete": result.complete,
        },
        "headline": _variant_to_dict(result.headline),
        "variants": [_variant_to_dict(one) for one in result.variants],
        "curve": {"confidence": CONFIDENCE, "points": result.curve},
        "versions": library_versions(),
        "hints": result.hints,
        "qualities": [entry.to_dict() for entry in result.qualities],
    }


def _variant_to_dict(one: ijb.VariantResult) -> dict[str, Any]:
    variant, rates = one.variant, one.verification
    return {
        "mode": variant.mode,
        "flip": "sum" if variant.flip else "none",
        "norm": "kept" if variant.norm else "unit",
        "detector_score": variant.detector_score,
        "auc": one.auc,
        "tar_at_far": [
            {
                "far": far,
                "tar": tar,
                "interval": rates.intervals[far],
                "threshold_best_on_test": rates.thresholds[far],
                "reason": rates.reasons.get(far),
            }
            for far, tar in rates.rates.items()
        ],
        "identification": None if one.search is None else _search_to_dict(one.search),
    }


def _search_to_dict(search: TemplateSearch) -> dict[str, Any]:
    joined = search.joined
    galleries = []
    for name, single in search.apart.items():
        rates = single.dir_at_far[1]
        galleries.append(
            {
                "gallery": name,
                "templates": single.num_gallery,
                "genuine_probes": single.num_genuine,
                "impostor_probes": single.num_impostor,
                **_ranks(single.rates),
                "tpir_at_fpir": _tpirs(rates.rates, rates.reasons, rates.intervals),
            }
        )
    reasons = {
        fpir: f"not in every gallery: {reason}"
        for single in search.apart.values()
        for fpir, reason in single.dir_at_far[1].reasons.items()
    }
    return {
        "probes": search.num_probes,
        "joined": {
            "computation": COMPUTATIONS["joined"],
            "templates": joined.num_gallery,
            "probes": joined.num_probes,
            **_ranks(joined.rates),
            "tpir_at_fpir": _tpirs(joined.tpir_at_fpir, joined.reasons),
        },
        "apart": {
            "computation": COMPUTATIONS["apart"],
            **_ranks(search.mean_rates),
            "tpir_at_fpir": _tpirs(search.mean_tpir_at_fpir, reasons),
            "galleries": galleries,
        },
    }


def _ranks(rates: dict[int, float]) -> dict[str, float]:
    return {f"rank_{rank}": rates[rank] for rank in RANKS}


def _tpirs(
    rates: dict[float, float | None],
    reasons: dict[float, str],
    intervals: dict[float, tuple[float, float] | None] | None = None,
) -> list[dict[str, Any]]:
    return [
        {
            "fpir": fpir,
            "tpir": rates[fpir],
            **({} if intervals is None else {"interval": intervals[fpir]}),
            "reason": reasons.get(fpir),
        }
        for fpir in FPIRS
    ]


def _print(result: ijb.IJBResult) -> None:
    console.print(result.protocol)
    console.print(_headline_table(result.headline))
    console.print(_variants_table(result))
    search = result.headline.search
    if search is None:
        console.print("No 1:N search: its csv files are not in meta/.")
        return
    console.print(_search_table(search))
    for name, computation in COMPUTATIONS.items():
        console.print(f"{name}: {computation}.")


def _headline_table(headline: ijb.VariantResult) -> Table:
    title = f"headline, {headline.variant.mode}: TAR with 95 % interval, %"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rates = headline.verification
    for far, tar in rates.rates.items():
        interval = rates.intervals[far]
        text = rates.reasons.get(far, "")
        if tar is not None and interval is not None:
            text = f"{_percent(tar)}  [{_percent(interval[0])}, {_percent(interval[1])}]"
        table.add_row(f"TAR at FAR {far:g}", text)
    table.add_row("AUC", f"{headline.auc:.5f}")
    return table


def _variants_table(result: ijb.IJBResult) -> Table:
    table = Table(title="all variants: TAR at FAR, %", title_justify="left")
    for name in ("", "lengths", "detector score", "mirror"):
        table.add_column(name)
    fars = sorted(result.headline.verification.rates)
    for far in fars:
        table.add_column(f"{far:g}", justify="right")
    for one in result.variants:
        variant = one.variant
        rates = one.verification.rates
        table.add_row(
            variant.mode,
            "kept" if variant.norm else "unit",
            "yes" if variant.detector_score else "no",
            "yes" if variant.flip else "no",
            *(_percent(rates[far]) for far in fars),
        )
    return table


def _search_table(search: TemplateSearch) -> Table:
    title = f"1:N search of {search.num_probes:,} mixed probes, headline's variant, %"
    table = Table(title=title, title_justify="left")
    table.add_column("galleries")
    for name in (
        *(f"rank {rank}" for rank in RANKS),
        *(f"TPIR at FPIR {fpir:g}" for fpir in FPIRS),
    ):
        table.add_column(name, justify="right")
    lines = [("joined", search.joined.rates, search.joined.tpir_at_fpir)]
    lines.append(("apart, mean", search.mean_rates, search.mean_tpir_at_fpir))
    for name, single in search.apart.items():
        lines.append((f"apart, {name}", single.rates, single.dir_at_far[1].rates))
    for label, ranks, tpirs in lines:
        cells = [*(ranks[rank] for rank in RANKS), *(tpirs[fpir] for fpir in FPIRS)]
        table.add_row(label, *map(_percent, cells))
    return table


def _percent(share: float | None) -> str:
    return "too few" if share is None else f"{100 * share:.2f}"
