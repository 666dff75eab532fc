"""The parts of the reproduction: their order, and the files that each of them keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from tf_sphereface.reproduce import arms as arms_of
from tf_sphereface.reproduce import bounds, faces, small_networks
from tf_sphereface.reproduce.arm_runner import Results, Say, read_json, run_arms
from tf_sphereface.reproduce.arms import Arm
from tf_sphereface.reproduce.faces import Faces, Size
from tf_sphereface.reproduce.page import write_page
from tf_sphereface.reproduce.workers import default_jobs
from tf_sphereface.training.recipes import Recipe
from tf_sphereface.utils.files import atomic_path, write_json

GEOMETRY = ("embeddings", "bounds", "boundaries")
TRAINED: dict[str, Callable[[Recipe], list[Arm]]] = {
    "margin": arms_of.margin_arms,
    "lambda": arms_of.lambda_arms,
    "losses": arms_of.loss_arms,
    "cost": arms_of.cost_arms,
    "depth": arms_of.depth_arms,
    "recipe": arms_of.recipe_arms,
    **arms_of.ON_REQUEST,
}
NAMES = (*GEOMETRY, *TRAINED)
ON_REQUEST = tuple(arms_of.ON_REQUEST)
BY_DEFAULT = tuple(name for name in NAMES if name not in ON_REQUEST)


def reproduce(
    out: Path,
    *,
    parts: Sequence[str] | None = None,
    data: Path | None = None,
    lfw: Path | None = None,
    quick: bool = False,
    jobs: int | None = None,
    page: Path | None = None,
    say: Say = lambda text: None,
    progress: Callable[[], Progress] | None = None,
) -> Path:
    """Run parts and write the page from all that is in the folder; return its path.

    `parts` are of `NAMES`, or `("none",)` for the page alone; None is all but `ON_REQUEST`. What
    `out` holds already is kept. `data` and `lfw` are those of `faces.find_real`; `quick` is a small
    run on synthetic faces instead. `page` is another place for the page, its figures go into
    `images/paper` beside it. `progress` makes the bar that is shown while arms are trained.

    Raises:
        ValueError: a part that trains was asked for by name, and no data is named, or quick has
            none of it; or `out` holds results of the other kind, quick or real.
    """
    wanted = [part for part in (parts or BY_DEFAULT) if part != "none"]
    trained = [part for part in wanted if part in TRAINED]
    real = faces.find_real(data, lfw) if trained and not quick else None
    if trained:
        _refuse_a_mixture(out, quick, parts)
    if trained and real is None and not quick:
        if parts is not None:
            raise ValueError(
                f"the parts {', '.join(trained)} need real faces: give --data and --lfw, or name "
                f"their folder in {faces.ENVIRONMENT_VARIABLE}. Received: neither"
            )
        say(f"no real faces are named (--data, --lfw): without {', '.join(trained)}")
        trained = []
    began = time.monotonic()
    if "embeddings" in wanted:
        _embeddings(out, quick, say)
    if "bounds" in wanted:
        _bounds(out, quick, say)
    if trained:
        chosen = _chosen_arms(trained, quick, Results(out).precision())
        with progress() if progress else contextlib.nullcontext() as bar:
            source = _face_source(real, bar)
            run_arms(chosen, out, source, say=say, bar=bar, jobs=jobs or default_jobs())
    if wanted:
        _note_time(out, wanted, time.monotonic() - began)
    return write_page(out, page or out / "paper.md", quick=quick, say=say)


def _refuse_a_mixture(out: Path, quick: bool, parts: Sequence[str] | None) -> None:
    """Refuse `--quick` beside real results, and parts that it does not have."""
    before = Results(out).real()
    if before is not None and before == quick:
        other = "real faces" if before else "--quick"
        raise ValueError(f"out must be another folder: {out} holds results of {other}")
    lacking = sorted(set(parts or ()) & set(TRAINED) - {"margin", "losses"})
    if quick and lacking:
        raise ValueError(f"quick has no part {', '.join(lacking)}: give faces to train on")


def _chosen_arms(parts: Sequence[str], quick: bool, precision: str | None) -> list[Arm]:
    """Return each arm of the parts once, in the precision of those that are there already."""
    if quick:
        base = quick_base()
        every = []
        if "margin" in parts:
            arms = arms_of.margin_arms(base, seeds=(0,))
            every += [arm for arm in arms if "m2" not in arm.name and "m3" not in arm.name]
        if "losses" in parts:
            every += [arm for arm in arms_of.loss_arms(base) if arm.name == "cosface"]
    else:
        base = arms_of.real_base()
        base = dataclasses.replace(base, precision=precision or base.precision)
        every = [arm for part in parts for arm in TRAINED[part](base)]
    return list({arm.name: arm for arm in every}.values())


def quick_base() -> Recipe:
    """Return the recipe of `--quick`: a minute for four arms, on synthetic faces of 28x24."""
    return dataclasses.replace(
        arms_of.real_base(),
        input_size=(28, 24),
        embedding_dim=128,
        epochs=8,
        batch_size=64,
        augment="mirror",
        precision="float32",
    )


def _face_source(real: tuple[Path, Path] | None, bar: Progress | None) -> Callable[[Size], Faces]:
    """Return what renders faces, or reads the real ones under a task of the bar, at one size."""

    def read(size: Size) -> Faces:
        if real is None:
            return faces.synthetic_faces(40, 24, size, pairs_per_fold=40)
        if bar is None:
            return faces.real_faces(*real, size)
        task = bar.add_task("reading faces", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        result = faces.real_faces(*real, size, show)
        bar.remove_task(task)
        return result

    return read


def _embeddings(out: Path, quick: bool, say: Say) -> None:
    """Train the small networks, or keep those that are there."""
    settings: dict[str, Any] = (
        {"dimensions": [2], "margins": [None, 1, 4], "epochs": 30, "faces": 0}
        if quick
        else {"dimensions": [2, 3], "margins": [None, 1, 2, 3, 4], "epochs": 60, "faces": 150}
    )
    settings |= {
        "classes": small_networks.CLASSES,
        "lambda_base": small_networks.LAMBDA_BASE,
        "lambda_minimum": small_networks.LAMBDA_MINIMUM,
        "measured_on": list(small_networks.MEASURED_ON),
    }
    kept = read_json(out / "embeddings.json")
    if kept and kept["settings"] == settings:
        return
    say("small networks: digits" + ("" if quick else " and synthetic faces"))
    sources = [small_networks.digits()]
    if settings["faces"]:
        sources.append(small_networks.synthetic_people(images=settings["faces"]))
    rows, arrays = small_networks.measure(
        sources, settings["dimensions"], settings["margins"], settings["epochs"], say
    )
    with atomic_path(out / "embeddings.npz") as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    write_json(out / "embeddings.json", {"settings": settings, "rows": rows})


def _bounds(out: Path, quick: bool, say: Say) -> None:
    rays, points = bounds.RAYS, 19 if quick else 46
    kept = read_json(out / "bounds.json")
    if kept and (kept["rays"], len(kept["margins"])) == (rays, points):
        return
    found = bounds.measure(rays, points)
    write_json(out / "bounds.json", found)
    for row in found["rows"]:
        bound = f"bound {row['bound']:.4f}" if row["bound"] else "no bound derived"
        say(f"{row['arrangement']}: crossing at m = {row['crossing']:.4f}; {bound}")


def _note_time(out: Path, parts: Sequence[str], seconds: float) -> None:
    """Add this run's time to those of the folder: a resumed run is the sum of its pieces."""
    path = out / "runs.json"
    runs = read_json(path) or []
    runs.append({"parts": list(parts), "seconds": round(seconds, 1), "cores": os.cpu_count()})
    write_json(path, runs)
