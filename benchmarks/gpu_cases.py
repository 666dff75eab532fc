"""The work that gpu.py measures: cases of three parts, with their least work and their memory."""

from __future__ import annotations

import dataclasses
from typing import Any

from cards import Work
from cases import MACS, Case, Variant, image_size

PARTS = ("nets", "heads", "input")
PRECISIONS = ("bfloat16", "float32", "float16")  # in the order in which time may run out
NETWORKS = ("SphereFaceNet-20", "MobileFaceNet", "IResNet-50", "SphereFaceNet-64")
MAP_VALUES = {
    "SphereFaceNet-4": 323_072,
    "SphereFaceNet-20": 1_398_272,
    "SphereFaceNet-64": 4_236_800,
    "MobileFaceNet": 2_747_776,
    "IResNet-50": 5_871_104,
}
"""Values per image that convolutions and dense layers write, at the sizes of `MACS`."""
HEAD_CLASSES = (10_575, 85_742, 1_000_000)
WIDTH = 512  # of a head's embeddings
KERAS, TORCH = "keras_gpu", "torch_gpu"


@dataclasses.dataclass(frozen=True)
class GpuCase(Case):
    """A case on a GPU.

    Attributes:
        work: the least that a step must do, for each variant's name; "" for all others.
        held: 1e9 bytes of the card's memory that one process may take, about.
        cached: names of the variants that are started once more to see the first step again.
    """

    work: dict[str, Work] = dataclasses.field(default_factory=dict)
    held: float = 8.0
    cached: tuple[str, ...] = ()

    def work_of(self, name: str) -> Work | None:
        """Return the least work of a variant."""
        return self.work.get(name, self.work.get(""))


@dataclasses.dataclass(frozen=True)
class Setting:
    """How large everything is.

    Attributes:
        networks: names in `MACS`.
        precisions: of `PRECISIONS`.
        classes: of the networks.
        batch: images of a step.
        head_classes: sizes of the heads.
        head_batch: embeddings of a head's step.
        tf32: whether the heads' products may take it, in turn.
        without_xla: whether this library's nets are measured without XLA too.
        grouped: whether MobileFaceNet is also measured with grouped 3x3 convolutions.
        count: steps that are timed as one.
        people: of the faces on the disk.
        each: images of one of them.
        sources: of `fit`.
        workers: processes of PyTorch's DataLoader.
    """

    networks: tuple[str, ...] = NETWORKS
    precisions: tuple[str, ...] = PRECISIONS
    classes: int = 10_575
    batch: int = 256
    head_classes: tuple[int, ...] = HEAD_CLASSES
    head_batch: int = 512
    tf32: tuple[bool, ...] = (True, False)
    without_xla: bool = True
    grouped: bool = False
    count: int = 20
    people: int = 128
    each: int = 20
    sources: tuple[str, ...] = ("memory, float32", "memory, uint8", "folder", "pack")
    workers: int = 14


TINY = Setting(
    networks=("SphereFaceNet-4",),
    precisions=("float32",),
    classes=10,
    batch=2,
    head_classes=(1000,),
    head_batch=8,
    tf32=(True,),
    without_xla=False,
    count=2,
    people=4,
    each=4,
    sources=("memory, uint8", "pack"),
    workers=1,
)


def network_work(network: str, precision: str, batch: int) -> Work:
    """Return the least work of a training step.

    Three products a layer. Of memory the maps alone: each that a convolution writes is written once
    and read twice, its gradient written and read once; what normalisation reads is not counted.
    """
    size = 4 if precision == "float32" else 2
    return Work(6 * MACS[network] * batch, 5 * size * MAP_VALUES[network] * batch, precision)


def head_work(centres: int, batch: int, tf32: bool) -> Work:
    """Return the least work of a head's step over some centres.

    Three products. Of memory the centres alone, six times their bytes: read for the loss and for
    the gradients, read and written by the update with the optimizer's state. Logits are not
    counted.
    """
    operations = 6.0 * batch * WIDTH * centres
    return Work(operations, 6 * 4.0 * WIDTH * centres, "float32", tf32)


def network_cases(setting: Setting, cache: str) -> list[GpuCase]:
    """Return training steps on a batch that lies on the device."""
    cases = []
    for precision in setting.precisions:
        for name in setting.networks:
            common: dict[str, Any] = {
                "name": name,
                "precision": precision,
                "batch": setting.batch,
                "num_classes": setting.classes,
                "size": image_size(name),
                "count": setting.count,
            }
            xla = {**common, "xla": True, "cache": cache}
            plain = {**common, "xla": False}
            ours = [Variant("ours, XLA", KERAS, "network", xla)]
            if setting.without_xla:
                ours.append(Variant("ours, no XLA", KERAS, "network", plain))
            if setting.grouped and name == "MobileFaceNet":
                form = {"depthwise": "grouped"}
                ours += [
                    Variant(f"{v.name}, grouped", KERAS, "network", {**v.options, **form})
                    for v in ours
                ]
            variants = (
                *ours,
                Variant("PyTorch", TORCH, "network", {**common, "compiled": False}),
                Variant("PyTorch, compiled", TORCH, "network", {**common, "compiled": True}),
            )
            work = network_work(name, precision, setting.batch)
            cases.append(
                GpuCase(
                    "nets",
                    f"{name}, {precision}",
                    variants,
                    per_step=setting.batch,
                    unit="images",
                    work={"": work},
                    held=1 + 1e-9 * work.bytes,  # some five values are kept of each
                    cached=("ours, XLA",) if precision == setting.precisions[0] else (),
                )
            )
    return cases


def head_cases(setting: Setting, cache: str) -> list[GpuCase]:
    """Return steps of a head alone, over all centres and over a tenth of them."""
    cases = []
    for classes in setting.head_classes:
        for tf32 in setting.tf32:
            common = {
                "num_classes": classes,
                "batch": setting.head_batch,
                "width": WIDTH,
                "tf32": tf32,
                "count": setting.count,
            }
            ours = {**common, "cache": cache}
            off = {**ours, "rate": 0.1}
            variants = (
                Variant("ours, full", KERAS, "head", {**ours, "rate": 1.0}),
                Variant("ours, a tenth", KERAS, "head", {**ours, "rate": 0.1}),
                Variant("ours, host, a tenth", KERAS, "head", {**off, "centers": "host"}),
                Variant("ours, files, a tenth", KERAS, "head", {**off, "centers": "files"}),
                Variant("PyTorch, full", TORCH, "head", {**common, "rate": 1.0}),
                Variant("PyTorch, a tenth", TORCH, "head", {**common, "rate": 0.1}),
            )
            full = head_work(classes, setting.head_batch, tf32)
            tenth = head_work(classes // 10, setting.head_batch, tf32)
            work = {v.name: tenth if v.name.endswith("tenth") else full for v in variants}
            name = f"{classes:,} classes, TF32 {'on' if tf32 else 'off'}"
            logits = 4e-9 * setting.head_batch * classes
            held = 1 + 4 * 4e-9 * WIDTH * classes + 6 * logits
            cases.append(GpuCase("heads", name, variants, work=work, held=held))
    return cases


def input_cases(setting: Setting, cache: str, folder: str) -> list[GpuCase]:
    """Return `fit` from several sources, beside the same step on a batch on the device."""
    name, precision = setting.networks[0], setting.precisions[0]
    common = {
        "name": name,
        "precision": precision,
        "batch": setting.batch,
        "count": 2 * setting.count,
    }
    ours = {**common, "size": image_size(name), "cache": cache}
    device = {**ours, "num_classes": setting.people, "xla": True}
    places = {"folder": folder, "people": setting.people}
    variants = (
        Variant("a batch on the device", KERAS, "network", device),
        *(
            Variant(f"fit, {source}", KERAS, "fit", {"source": source, **places, **ours})
            for source in setting.sources
        ),
        Variant(
            f"PyTorch, compiled, DataLoader of {setting.workers}, folder",
            TORCH,
            "fit",
            {**places, **common, "workers": setting.workers},
        ),
    )
    return [
        GpuCase(
            "input",
            f"{name}, {precision}",
            variants,
            per_step=setting.batch,
            unit="images",
            work={"": network_work(name, precision, setting.batch)},
            held=6.0,
        )
    ]
