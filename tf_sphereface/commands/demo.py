"""`tf_sphereface-demo`: training, verification and export on built-in faces, in minutes."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.table import Table

from tf_sphereface import data, embedder, training
from tf_sphereface.commands.console import (
    CheckFailed,
    command,
    console,
    error_console,
    make_parser,
    progress_bar,
)
from tf_sphereface.reproduce.arms import Arm
from tf_sphereface.training import presets, recipes
from tf_sphereface.utils.files import write_json
from tf_sphereface.utils.optional import require

DESCRIPTION = """\
Train, verify, export and check, on synthetic faces that are built in.

Three networks see the same faces, steps and seed: plain softmax (with the best of three learning
rates, chosen on other people), A-Softmax with m = 1 (unit class centres, no margin) and A-Softmax
with m = 4. They are verified on people whom none of them has seen. The last one is exported to
TensorFlow Lite (float32 and int8) and ONNX, and each file is run on the same pairs. The command
fails if m = 4 falls behind softmax by more than the paired standard error, or if its gap between
genuine and impostor angles is not the larger one."""

EXAMPLES = """\
  tf_sphereface-demo --out demo            # about 7 minutes on 2 cores
  tf_sphereface-demo --out demo --quick    # about 2 minutes: fewer faces, one rate for softmax"""

# The softmax arm gets the best of these, chosen on people that are neither trained on nor tested
# on; the quick demo takes the one that the full demo chose. docs/results/demo.md has the figures.
RATES = (0.02, 0.05, 0.1)
SOFTMAX_RATE = 0.05
A_SOFTMAX_RATE = 0.05

TRAIN_FROM, TUNE_FROM, TEST_FROM = 0, 100_000, 200_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the demo is."""

    identities: int
    images: int
    epochs: int
    test_identities: int
    pairs_per_fold: int


FULL = Plan(identities=200, images=40, epochs=4, test_identities=200, pairs_per_fold=300)
QUICK = Plan(identities=100, images=40, epochs=5, test_identities=100, pairs_per_fold=100)


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = make_parser("demo", DESCRIPTION, EXAMPLES)
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a smaller demo, for CI")
    parser.add_argument("--seed", type=int, default=0, help="of faces, networks and pairs")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = build_parser().parse_args(argv)
    require("sklearn.metrics", extra="eval,export")
    for module in ("ai_edge_litert", "tf2onnx", "onnxruntime"):
        require(module, extra="eval,export")
    from tf_sphereface.eval.report.figures import angle_panels

    begun = time.monotonic()
    plan = QUICK if arguments.quick else FULL
    recipe = dataclasses.replace(presets.preset("quick"), epochs=plan.epochs, seed=arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    faces: dict[str, Any] = {
        "train": render_people(plan, recipe),
        "test": render_pairs(plan, recipe, TEST_FROM),
    }
    softmax = _arm("softmax", recipe, "softmax", None, SOFTMAX_RATE)
    rates: dict[float, Any] | None = None
    networks: dict[float, keras.Model] = {}
    if not arguments.quick:
        others = render_pairs(plan, recipe, TUNE_FROM)
        rates, networks = tune(recipe, faces["train"], others)
        best = max(rates, key=lambda rate: rates[rate]["accuracy"])
        softmax = _arm("softmax", recipe, "softmax", None, best)
    arms = (
        softmax,
        *(_arm(f"A-Softmax m = {m}", recipe, "a-softmax", m, A_SOFTMAX_RATE) for m in (1, 4)),
    )
    results = {}
    for arm in arms:
        network = networks.get(arm.recipe.learning_rate) if arm is softmax else None
        network = network or train_arm(arm, faces["train"])
        results[arm.name] = verify(network, faces["test"])
    save_network(network, arms[-1].recipe, plan, arguments.out / "embedder.keras")
    files = export_and_check(arguments.out, faces, results[arms[-1].name])
    checks = compare_arms(results, arms)
    picture = arguments.out / "angles.png"
    angle_panels({name: (r.scores, r.is_same) for name, r in results.items()}, picture)
    show_results(results, files, checks)
    seconds = time.monotonic() - begun
    write_json(
        arguments.out / "results.json",
        {
            "plan": dataclasses.asdict(plan),
            "arms": {arm.name: {**_settings(arm), **figures(results[arm.name])} for arm in arms},
            "files": files,
            "checks": checks,
            "softmax_rates": rates,
            "seconds": round(seconds, 1),
            "versions": embedder.library_versions(),
        },
    )
    console.print(f"picture: {picture}; {seconds / 60:.1f} minutes", highlight=False)
    failed = [check["what"] for check in checks if not check["holds"]]
    if failed:
        raise CheckFailed("; ".join(failed))
    return 0


def render_people(plan: Plan, recipe: recipes.Recipe) -> tuple[Any, Any]:
    """Render the faces to train on, and their labels."""
    with progress_bar("rendering faces to train on") as show:
        return data.synthetic.training_set(
            plan.identities,
            plan.images,
            seed=recipe.seed,
            first_identity=TRAIN_FROM,
            size=recipe.input_size,
            progress=show,
        )


def render_pairs(
    plan: Plan, recipe: recipes.Recipe, first_identity: int
) -> data.synthetic.VerificationSet:
    """Render pairs of faces of other people."""
    with progress_bar("rendering faces of other people") as show:
        return data.synthetic.verification_set(
            plan.test_identities,
            pairs_per_fold=plan.pairs_per_fold,
            seed=recipe.seed,
            first_identity=first_identity,
            size=recipe.input_size,
            progress=show,
        )


def _arm(
    name: str, recipe: recipes.Recipe, loss: str, margin: int | None, learning_rate: float
) -> Arm:
    changed = dataclasses.replace(recipe, loss=loss, margin=margin, learning_rate=learning_rate)
    return Arm(name, changed)


def _settings(arm: Arm) -> dict[str, Any]:
    """Return what tells the arms of the demo apart."""
    names = ("loss", "margin", "learning_rate")
    return {"name": arm.name, **{name: getattr(arm.recipe, name) for name in names}}


def train_arm(arm: Arm, faces: tuple[Any, Any]) -> keras.Model:
    """Train one arm and return its network, in float32."""
    done, total = itertools.count(1), arm.updates(len(faces[0]))
    with progress_bar(f"training {arm.name}") as show:
        advance = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: show(next(done), total)
        )
        network, history = training.train_recipe(arm.recipe, faces, [advance])
    if not np.isfinite(history["loss"][-1]):
        raise CheckFailed(f"{arm.name} diverged: its loss is {history['loss'][-1]}")
    error_console.print(
        f"{arm.name}: loss {history['loss'][-1]:.3f}, training accuracy "
        f"{100 * history['accuracy'][-1]:.1f} %",
        highlight=False,
    )
    return network


def verify(network: Any, test: data.synthetic.VerificationSet) -> Any:
    """Verify a network, or a file, on the pairs of unseen people."""
    from tf_sphereface.eval.scoring.score_pairs import embed_verification

    table = embed_verification(
        network, test.images, test.left, test.right, test.is_same, test.folds, flip=True
    )
    return table.headline


def tune(
    recipe: recipes.Recipe, train: tuple[Any, Any], test: data.synthetic.VerificationSet
) -> tuple[dict[float, dict[str, Any]], dict[float, keras.Model]]:
    """Return what each learning rate gives the softmax arm, on people of their own."""
    table = Table(title="softmax's learning rate, on other people")
    table.add_column("rate")
    table.add_column("accuracy ± se")
    reached, networks = {}, {}
    for rate in RATES:
        arm = _arm(f"softmax at {rate}", recipe, "softmax", None, rate)
        try:
            networks[rate] = train_arm(arm, train)
        except CheckFailed:  # a rate that diverges is out of the race
            table.add_row(str(rate), "diverged")
            continue
        reached[rate] = figures(verify(networks[rate], test))
        table.add_row(str(rate), _percent(reached[rate]))
    console.print(table)
    if not reached:
        raise CheckFailed(f"softmax diverged at each of the rates {RATES}")
    return reached, networks


def save_network(network: keras.Model, recipe: recipes.Recipe, plan: Plan, path: Path) -> None:
    """Write the network with its metadata."""
    metadata = embedder.EmbedderMetadata(
        input_size=recipe.input_size,
        embedding_dim=recipe.embedding_dim,
        flip="concat",
        architecture="SphereFaceNet-4",
        loss=recipe.loss,
        margin=recipe.margin,
        training_data=f"{plan.identities} synthetic people, {plan.images} faces of each",
    )
    embedder.save_embedder(network, path, metadata)


def export_and_check(out: Path, faces: dict[str, Any], reference: Any) -> list[dict[str, Any]]:
    """Export the saved network and run each file on the pairs of unseen people."""
    from tf_sphereface import export
    from tf_sphereface.eval.verification import compare
    from tf_sphereface.export.parity import measure_latency

    network = keras.models.load_model(out / "embedder.keras", compile=False)
    metadata = embedder.read_metadata(out / "embedder.keras")
    calibration = faces["train"][0][:: max(1, len(faces["train"][0]) // 200)]
    jobs: tuple[tuple[Any, str, str], ...] = (
        (export.export_tflite, "embedder.tflite", "none"),
        (export.export_tflite, "embedder.int8.tflite", "int8"),
        (export.export_onnx, "embedder.onnx", "none"),
    )
    saved = embedder.load_embedder(out / "embedder.keras", batch_size=1)
    rows = [
        {
            "file": "embedder.keras",
            "bytes": (out / "embedder.keras").stat().st_size,
            "latency_ms": measure_latency(saved, faces["train"][0]),
        }
        | figures(reference)
    ]
    with progress_bar("exporting") as show:
        for number, (convert, name, quantize) in enumerate(jobs, start=1):
            report = convert(
                network, out / name, quantize=quantize, calibration=calibration, metadata=metadata
            )
            result = verify(out / name, faces["test"])
            paired = compare(reference, result)
            rows.append(
                {
                    "file": name,
                    "bytes": report.size_bytes,
                    "latency_ms": report.latency_ms,
                    "cosine_min": report.cosine_min,
                    "pairs_changed": paired.only_first + paired.only_second,
                }
                | figures(result)
            )
            show(number, len(jobs))
    return rows


def figures(result: Any) -> dict[str, Any]:
    """Return the figures of one verification, fractions and degrees."""
    return {
        "accuracy": result.accuracy,
        "std_error": result.std_error,
        "genuine_angle": result.genuine_angle,
        "impostor_angle": result.impostor_angle,
        "gap": result.impostor_angle - result.genuine_angle,
    }


def compare_arms(results: dict[str, Any], arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Check what the method promises: m = 4 against softmax on the same pairs."""
    from tf_sphereface.eval.verification import compare

    baseline, margin = results[arms[0].name], results[arms[-1].name]
    paired = compare(margin, baseline)
    gaps = figures(margin)["gap"], figures(baseline)["gap"]
    return [
        {
            "what": "A-Softmax m = 4 is not behind softmax by more than the paired standard error: "
            f"{100 * paired.difference:+.2f} ± {100 * paired.std_error:.2f} points",
            "holds": bool(paired.difference >= -paired.std_error),
        },
        {
            "what": "its gap between genuine and impostor angles is the larger one: "
            f"{gaps[0]:.1f} against {gaps[1]:.1f} degrees",
            "holds": bool(gaps[0] > gaps[1]),
        },
    ]


def show_results(
    results: dict[str, Any], files: list[dict[str, Any]], checks: list[dict[str, Any]]
) -> None:
    """Print the tables and the verdicts."""
    accuracies = Table(title="people whom the networks have not seen")
    for column in ("arm", "accuracy ± se, %", "genuine, deg", "impostor, deg", "gap, deg"):
        accuracies.add_column(column, justify="left" if column == "arm" else "right")
    for name, result in results.items():
        f = figures(result)
        accuracies.add_row(
            name,
            _percent(f),
            f"{f['genuine_angle']:.1f}",
            f"{f['impostor_angle']:.1f}",
            f"{f['gap']:.1f}",
        )
    console.print(accuracies)
    exported = Table(
        title="the m = 4 network, exported, on the same pairs",
        caption="ms per face: one at a time, on one thread (.keras: on all)",
    )
    for column in ("file", "MB", "ms per face", "accuracy ± se, %", "verdicts changed"):
        exported.add_column(column, justify="left" if column == "file" else "right")
    for row in files:
        latency, changed = row.get("latency_ms"), row.get("pairs_changed")
        exported.add_row(
            row["file"],
            f"{row['bytes'] / 1e6:.2f}",
            "" if latency is None else f"{latency:.2f}",
            _percent(row),
            "" if changed is None else str(changed),
        )
    console.print(exported)
    for check in checks:
        console.print(("yes  " if check["holds"] else "NO   ") + check["what"], highlight=False)


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['accuracy']:.2f} ± {100 * row['std_error']:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
