"""The report of `compare.py` as Markdown."""

from __future__ import annotations

from typing import Any

TITLES = {
    "machine": "The machine",
    "head": "Head, forward and backward",
    "train": "Training",
    "pipeline": "Input pipeline",
}


def tables(report: dict[str, Any]) -> str:
    """Return one table a part, and for the pipeline what the networks need of it."""
    machine = report["machine"]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, Python {machine['python']}, "
        f"{', '.join(_versions(report))}; load before it began: {machine['load_before']:.2f}"
    ]
    results = report["results"]
    for part, title in TITLES.items():
        found = [result for result in results if result["part"] == part]
        if found:
            lines += ["", f"### {title}", "", *_table(found)]
    return "\n".join([*lines, *_appetite(results)])


def _versions(report: dict[str, Any]) -> list[str]:
    known: dict[str, str] = {}
    for result in report["results"]:
        for variant in result["variants"]:
            known |= variant.get("versions", {})
    return [f"{name} {version}" for name, version in known.items()]


def _table(results: list[dict[str, Any]]) -> list[str]:
    rows = [variant for result in results for variant in result["variants"]]
    images = any("images_per_second" in row for row in rows)
    flops = any("gigaflops" in row for row in rows)
    heading = ["", "", "images/s" if images else "ms", "CPU ms per step"]
    heading += ["GFLOP/s"] * flops + ["peak MB", "ratio", "range", "target"]
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for result in results:
        for row in result["variants"]:
            cells = [result["case"], row["name"]]
            if row["error"]:
                cells += [f"failed: {row['error']}"]
            elif "milliseconds" in row:
                speed = row["images_per_second"] if images else row["milliseconds"]
                cells += [_number(speed), _number(row["cpu_milliseconds"])]
                cells += [_number(row["gigaflops"])] if flops else []
                cells += [_number(row["peak_megabytes"]), *_ratio(row)]
            cells += [""] * (len(heading) - len(cells))
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _ratio(row: dict[str, Any]) -> list[str]:
    if "ratio" not in row:
        return []
    spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
    if row["target"] is None:
        return [f"{row['ratio']:.2f}", spread]
    met = "met" if row["ratio"] >= row["target"] else f"{row['ratio'] / row['target'] - 1:+.0%}"
    return [f"{row['ratio']:.2f}", spread, f"{row['target']:g}: {met}"]


def _appetite(results: list[dict[str, Any]]) -> list[str]:
    """Say how many times what the hungriest network trains the pipelines deliver."""
    needs = {
        result["case"]: row["images_per_second"]
        for result in results
        for row in result["variants"]
        if result["part"] == "train" and row["side"] == "keras" and "images_per_second" in row
    }
    if not needs:
        return []
    hungriest = max(needs, key=needs.__getitem__)
    return [""] * any(result["part"] == "pipeline" for result in results) + [
        f"{row['name']} delivers {row['images_per_second'] / needs[hungriest]:.1f} times what "
        f"{hungriest} consumes ({needs[hungriest]:.1f} images/s; target 10)."
        for result in results
        for row in result["variants"]
        if result["part"] == "pipeline" and "images_per_second" in row
    ]


def _number(value: float) -> str:
    """Return three significant digits, with thousands marked."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
