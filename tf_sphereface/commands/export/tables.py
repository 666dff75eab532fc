"""The tables that `tf_sphereface-export` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tf_sphereface.commands.console import console
from tf_sphereface.export import ExportReport, ParityRow

_MOST_LAYERS = 12


def print_reports(reports: Sequence[ExportReport]) -> None:
    """Print what was measured on the files; their names without the model's."""
    stem, names = _without_stem([report.path.name for report in reports])
    gates = [report.gate for report in reports if report.gate is not None]
    figures = ["MB", "cosine min", "mean", "max abs", "ms"]
    if gates:
        figures += ["accuracy, %", "drop"]
    table = _table(stem, "file", figures)
    for name, report in zip(names, reports, strict=True):
        parity, gate = report.parity, report.gate
        cells = [
            name,
            f"{parity.size_bytes / 1e6:.2f}",
            f"{parity.cosine_min:.5f}",
            f"{parity.cosine_mean:.5f}",
            f"{parity.max_abs:.2g}",
            f"{parity.latency_ms:.2f}",
        ]
        if gate is not None:
            cells.append(f"{100 * gate.accuracy:.2f} ± {100 * gate.std_error:.2f}")
            cells.append(f"{100 * gate.drop:+.2f} ± {100 * gate.drop_std_error:.2f}")
        table.add_row(*cells)
    console.print(table)
    first = reports[0]
    console.print(
        f"cosine with Keras over {first.parity.faces} {first.faces_from} faces; "
        "ms per face on one thread",
        highlight=False,
    )
    if gates:
        console.print(
            f"accuracy on {gates[0].pairs:,} pairs; Keras: {100 * gates[0].keras_accuracy:.2f} ± "
            f"{100 * gates[0].keras_std_error:.2f} %",
            highlight=False,
        )
    parts = [f"{r.path.name} {r.partitions}" for r in reports if r.partitions is not None]
    if parts:
        console.print(f"delegate partitions (1 is best): {', '.join(parts)}", highlight=False)
    for report in reports:
        if report.float_layers:
            console.print(
                f"{report.path.name}: left in float to pass: {', '.join(report.float_layers)}",
                highlight=False,
                markup=False,
            )
        if report.gate is not None:
            console.print(f"{report.path.name}: {report.gate.drift}", highlight=False)
    if not gates:
        console.print(f"{first.note}: give --gate-images and --gate-pairs for that")
    console.print(f"written to {first.path.parent}", highlight=False, soft_wrap=True)


def print_layers(report: ExportReport) -> None:
    """Print the layers of an int8 file that add most to its error."""
    title = f"{report.path.name}: error of each layer against float"
    table = _table(title, "layer", [])
    table.add_column("operator")
    for name in ("adds, %", "error, %"):
        table.add_column(name, justify="right")
    table.add_column("runs in")
    layers = report.layers or ()
    for layer in layers[:_MOST_LAYERS]:
        table.add_row(
            layer.name,
            layer.operator,
            f"{100 * layer.added:.2f}",
            f"{100 * layer.error:.2f}",
            "float" if layer.in_float else "int8",
        )
    console.print(table)
    hidden = len(layers) - _MOST_LAYERS
    more = f"; {hidden} more that add less are in --json" if hidden > 0 else ""
    console.print(
        "error: of the layer's output with all before it, as a share of the float activation; "
        f"adds: what the layer itself adds to its input's{more}",
        highlight=False,
    )


def print_parity(rows: Sequence[ParityRow], faces: int, faces_from: str) -> None:
    """Print Keras and every file in one table."""
    gated = any(row.accuracy is not None for row in rows)
    stem, names = _without_stem([row.name for row in rows[1:]])
    title = f"{stem}: Keras and every file, in one run" if stem else "Keras and every file"
    figures = ["MB", "max abs", "cosine min", "mean"]
    if gated:
        figures += ["accuracy, %", "differ"]
    table = _table(title, "file", [*figures, "1 thread, ms", "2, ms"])
    for name, row in zip([rows[0].name, *names], rows, strict=True):
        cells = [
            name,
            _number(row.size_bytes, 1e-6),
            f"{row.max_abs:.2g}",
            f"{row.cosine_min:.5f}",
            f"{row.cosine_mean:.5f}",
        ]
        if row.accuracy is not None:
            accuracy = f"{_number(row.accuracy, 100)} ± {_number(row.std_error, 100)}"
            cells += [accuracy, f"{row.decided_differently}/{row.pairs}"]
        elif gated:
            cells += ["", ""]
        latency = _number(row.latency_keras_ms or row.latency_2_threads_ms)
        table.add_row(*cells, _number(row.latency_ms), latency)
    console.print(table)
    console.print(
        f"cosine over {faces} {faces_from} faces; ms per face, the least of calls in turns; "
        "Keras runs on TensorFlow's threads",
        highlight=False,
    )
    if gated:
        console.print("differ: pairs that Keras and the file decide differently", highlight=False)


def _table(title: str, first: str, figures: Sequence[str]) -> Table:
    """Return an empty table: a column that may fold, and the figures."""
    table = Table(title=title or None, title_justify="left")
    table.add_column(first, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _without_stem(names: Sequence[str]) -> tuple[str, list[str]]:
    """Split what all names begin with, up to a dot, from the rest.

    Example:

    >>> _without_stem(["net.tflite", "net.int8.tflite"])
    ('net', ['.tflite', '.int8.tflite'])
    """
    stem = names[0].split(".")[0] if names else ""
    if len(names) < 2 or not all(name.startswith(f"{stem}.") for name in names):
        return "", list(names)
    return stem, [name[len(stem) :] for name in names]


def _number(value: float | None, factor: float = 1.0) -> str:
    return "" if value is None else f"{factor * value:.2f}"
