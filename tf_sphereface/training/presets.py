"""Presets: each is a function that returns a recipe; its docstring says what to expect of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tf_sphereface.training.recipes import Recipe
from tf_sphereface.utils.checks import check_choice


def paper() -> Recipe:
    """Return the paper's run: SphereFaceNet-20, m = 4, batch 256, 28,000 steps on CASIA-WebFace.

    `tf_sphereface-train --data CASIA-112x96 --preset paper --out runs/paper`. 494,414 aligned faces
    make 1,931 steps per epoch, so 15 epochs are 28,965 steps; the rate falls at 16k and 24k of 28k.
    Needs a GPU. *Published*: 99.24 % on LFW with the authors' code; not run here.
    """
    return Recipe(epochs=15, batch_size=256, drops=(4 / 7, 6 / 7))


def small() -> Recipe:
    """Return the recipe for some ten thousand faces on two CPU cores.

    `tf_sphereface-train --data FACES --preset small --out runs/small`. On 14,453 faces of 738
    people it takes nine minutes at 56x48 and about four times that at 112x96; what it
    reaches on LFW pairs, *measured here*, is in `docs/results/real-faces.md`.
    """
    return Recipe(backbone="sphereface4", learning_rate=0.05, augment="strong", precision="auto")


def long() -> Recipe:
    """Return the best recipe known for a small set of real faces, where there is an hour.

    `tf_sphereface-train --data FACES --preset long --out runs/long`. Against `small`: CosFace,
    which needs no lambda; Muon with a strong decay; a long run with a cosine, and faces that are
    warped anew in each of its epochs. 14,453 faces of 738 people take 79 CPU minutes. What
    it reaches on LFW pairs, *measured here*, is in `docs/results/real-faces.md`.
    """
    return Recipe(
        backbone="sphereface4",
        embedding_dim=512,
        loss="cosface",
        margin=0.35,
        epochs=36,
        batch_size=256,
        optimizer="muon",
        learning_rate=0.01,
        weight_decay=2.0,
        schedule="cosine",
        warm_up=3.0,
        augment="warp",
        precision="auto",
    )


def quick() -> Recipe:
    """Return a run of a minute or two on two cores, for half-size faces; the demo's.

    `tf_sphereface-train --data synthetic --preset quick --out runs/quick`. lambda takes the whole
    of the short run to fall: at 40 % of it, the loss stays at `ln(num_classes)`. What it reaches on
    unseen synthetic people, *measured here*, is in `docs/results/demo.md`.
    """
    return Recipe(
        backbone="sphereface4",
        input_size=(56, 48),
        annealing="fit",
        annealing_reach=1.0,
        epochs=4,
        batch_size=64,
        learning_rate=0.05,
        precision="auto",
    )


def short() -> Recipe:
    """Return the best recipe known for two minutes on a small set of real faces, at half size.

    `tf_sphereface-train --data FACES --preset short --resize --out runs/short`. It is what
    `tf_sphereface-reproduce` trains its arms with. Against `small`: half the batch, so that twice
    as many updates fit; a mirror alone, as there is no time to learn by heart; and a lambda that
    stays high until there are features (power 4), then falls to its minimum at 90 % of the run.
    With a power of 1 the loss stays at `ln(num_classes)`. What it reaches on LFW pairs, *measured
    here* over three seeds, is in `docs/results/paper.md`; `small` reaches more, in ten times the
    time.
    """
    return dataclasses.replace(quick(), annealing_reach=0.9, annealing_power=4.0)


def fine_tune() -> Recipe:
    """Return the recipe for a trained network on some thousand faces of one's own people.

    `tf_sphereface-train --from MODEL --data FACES --out runs/mine`; it is the default with
    `--from`. The class centres start where the network has each person, one epoch fits them, then
    the body learns at a tenth of their rate; batch normalisation stays as it is, as the statistics
    of a few people are not those of all. CosFace has no lambda: its margin holds from the first
    update. What it gains and costs, *measured here*, is in `docs/results/practice.md`.
    """
    return Recipe(
        loss="cosface",
        epochs=6,
        batch_size=64,
        learning_rate=0.05,
        freeze_epochs=1,
        freeze_norm=True,
        body_rate=0.1,
    )


def iresnet50_ms1mv3() -> Recipe:
    """Return the ArcFace authors' run of IResNet-50 on MS1MV3: 5.18 million faces, 93,431 people.

    `tf_sphereface-train --data ms1m-retinaface-t1/ --preset iresnet50-ms1mv3 --out runs/r50`. The
    numbers are *published*, those of `arcface_torch` (configs/ms1mv3_r50_onegpu): SGD of rate 0.02
    for a batch of 128, a straight line to 0 over 20 epochs, momentum 0.9, decay 5e-4, ArcFace with
    margin 0.5 and scale 64, gradients clipped at 5. There the clipping is of the network alone,
    and norms and biases learn and decay as kernels do. A GPU's work of days; not run here. Several
    GPUs: `--strategy mirrored --batch-size 1024 --scale-learning-rate linear`.
    """
    return Recipe(
        backbone="iresnet50",
        input_size=(112, 112),
        loss="arcface",
        margin=0.5,
        scale=64.0,
        clip_norm=5.0,
        epochs=20,
        batch_size=128,
        learning_rate=0.02,
        schedule="polynomial",
        precision="auto",
    )


def iresnet50_casia() -> Recipe:
    """Return the ArcFace authors' run of IResNet-50 on CASIA-WebFace: 10,572 people.

    `tf_sphereface-train --data faces_webface_112x112/ --preset iresnet50-casia --out runs/casia`.
    The numbers are *published*, those of the first `arcface_torch` (its data set `webface`): rate
    0.1 for a batch of 512, divided by 10 after 20, 28 and 32 of 34 epochs; the rest is as in
    `iresnet50_ms1mv3`. Needs a GPU; not run here.
    """
    return dataclasses.replace(
        iresnet50_ms1mv3(),
        epochs=34,
        batch_size=512,
        learning_rate=0.1,
        schedule="step",
        drops=(20 / 34, 28 / 34, 32 / 34),
    )


def distill() -> Recipe:
    """Return the recipe for a small network that learns from a teacher, on some thousand faces.

    `tf_sphereface-train --teacher MODEL --data FACES --resize --out runs/student`; it is the
    default with `--teacher` and without `--from`. The teacher alone is learnt from, so the faces
    need no labels. On 16 views of each face (`tf_sphereface-data views`) three epochs with a mirror
    alone are enough; what it reaches, *measured here*, is in `docs/results/practice.md`.
    """
    return Recipe(
        backbone="sphereface4",
        embedding_dim=128,
        input_size=(56, 48),
        loss="cosface",
        epochs=40,
        batch_size=256,
        optimizer="muon",
        learning_rate=0.015,
        weight_decay=0.05,
        schedule="cosine",
        warm_up=0.1,
        augment="strong",
        precision="auto",
        distill_weight=1.0,
    )


PRESETS: dict[str, Callable[[], Recipe]] = {
    "paper": paper,
    "small": small,
    "long": long,
    "short": short,
    "quick": quick,
    "fine-tune": fine_tune,
    "iresnet50-casia": iresnet50_casia,
    "iresnet50-ms1mv3": iresnet50_ms1mv3,
    "distill": distill,
}
"""By name: a function that returns the recipe; its docstring says what to expect."""


def preset(name: str) -> Recipe:
    """Return a preset by name, or raise ValueError with a list of all.

    Example:

    >>> preset("small").backbone
    'sphereface4'
    """
    return PRESETS[check_choice("preset", name, tuple(PRESETS))]()
