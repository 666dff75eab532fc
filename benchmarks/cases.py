"""The work that `compare.py` measures: cases, their variants on both sides, and targets."""

from __future__ import annotations

import dataclasses
from typing import Any

HEAD_CLASSES = (10_575, 85_742, 500_000)  # CASIA-WebFace, MS1MV2, half a million
MACS = {
    "SphereFaceNet-4": 164_290_560,
    "SphereFaceNet-20": 1_749_737_472,
    "SphereFaceNet-64": 6_109_716_480,
    "MobileFaceNet": 189_408_256,
    "IResNet-18": 2_609_954_816,
    "IResNet-50": 6_309_330_944,
}
"""Multiplications per image, at `image_size`."""
PARTS = ("machine", "head", "train", "pipeline")


def image_size(network: str) -> tuple[int, int]:
    """Return height and width of a network's images."""
    return (112, 112) if network.startswith("IResNet") else (112, 96)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to do a case's work, in a process of its own.

    Attributes:
        name: as in the table.
        side: `"keras"` or `"torch"`: the module `with_keras` or `with_torch` of this folder.
        task: the function there that prepares it.
        options: its arguments.
        target: how many times as fast as the best variant of the other side it should be.
    """

    name: str
    side: str
    task: str
    options: dict[str, Any]
    target: float | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """Variants that do the same work.

    Attributes:
        part: one of `PARTS`.
        name: as in the table.
        variants: take turns, in this order.
        per_step: how many `unit`s one step is.
        unit: what the rates count, such as `"images"`; None: milliseconds per step are shown.
        together: whether the processes live side by side; otherwise each turn is a new process,
            because all of them would not fit into memory.
        drain: steps before each turn that do not count, and a turn is then timed as a whole: for
            work that is done ahead, in the background.
        gigaflop: floating-point operations of one step in 1e9, where they are known.
    """

    part: str
    name: str
    variants: tuple[Variant, ...]
    per_step: int = 1
    unit: str | None = None
    together: bool = True
    drain: int = 0
    gigaflop: float | None = None


def machine_cases(size: int = 2048) -> list[Case]:
    """Return products of square matrices: what the machine can do at most."""
    return [
        Case(
            "machine",
            f"matrix product {size}x{size}, {dtype}",
            tuple(
                Variant(name, side, "product", {"size": size, "dtype": dtype})
                for name, side in (("TensorFlow", "keras"), ("PyTorch", "torch"))
            ),
            gigaflop=2e-9 * size**3,
        )
        for dtype in ("float32", "bfloat16")
    ]


def head_cases(
    classes: tuple[int, ...] = HEAD_CLASSES, batch: int = 256, width: int = 512
) -> list[Case]:
    """Return forward and backward passes of head and loss, to the embeddings and the centres."""
    cases = []
    for count in classes:
        size = {"num_classes": count, "batch": batch, "width": width}
        full = {10_575: 1.0, 85_742: 1.8}.get(count)
        sampled = {85_742: 15.0}.get(count)
        variants = (
            Variant("full", "keras", "head", {**size, "xla": False}, full),
            Variant("full, XLA", "keras", "head", {**size, "xla": True}, full),
            Variant("10 % of the centres", "keras", "sampled_head", {**size, "rate": 0.1}, sampled),
            *(
                Variant(f"10 %, centres {name}", "keras", "sampled_head", {**size, **options})
                for name, place in (("in host memory", "host"), ("in files", "files"))
                for options in [{"rate": 0.1, "centers": place}]
            ),
            Variant("pytorch-metric-learning", "torch", "head", size),
        )
        cases.append(Case("head", f"{count:,} classes", variants, together=count < 200_000))
    return cases


def train_cases(batches: tuple[int, ...] = (32,), classes: int = 1000) -> list[Case]:
    """Return training steps: forward, backward, update; A-Softmax with margin 4 on both sides."""
    return [
        Case(
            "train",
            f"{network}, {dtype}, batch {batch}",
            tuple(
                Variant(name, side, "train", {**extra, **common}, target)
                for common in [
                    {"network": network, "dtype": dtype, "batch": batch, "num_classes": classes}
                ]
                for name, side, extra, target in (
                    ("FaceClassifier", "keras", {}, 1.0),
                    ("PyTorch", "torch", {"channels_last": False}, None),
                    ("PyTorch, channels last", "torch", {"channels_last": True}, None),
                )
            ),
            per_step=batch,
            unit="images",
            gigaflop=6e-9 * MACS[network] * batch,
        )
        for network in ("SphereFaceNet-20", "MobileFaceNet", "IResNet-18")
        for dtype in ("float32", "bfloat16")
        for batch in batches
    ]


def pipeline_cases(folder: str, workers: int, batch: int = 128) -> list[Case]:
    """Return reading, decoding, mirroring and batching JPEG faces of 112x96."""
    common = {"folder": folder, "batch": batch}
    variants = (
        Variant("face_dataset", "keras", "pipeline", {**common, "packed": False}),
        Variant("face_dataset, packed", "keras", "pipeline", {**common, "packed": True}),
        Variant(
            f"DataLoader, {workers} workers", "torch", "pipeline", {**common, "workers": workers}
        ),
    )
    return [Case("pipeline", "JPEG faces 112x96", variants, batch, "images", drain=10)]


def only(case: Case, side: str) -> Case:
    """Return the case with the variants of one side."""
    chosen = tuple(variant for variant in case.variants if variant.side == side)
    return dataclasses.replace(case, variants=chosen)
