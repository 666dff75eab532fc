"""The options of `tf_sphereface-train`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from tf_sphereface.commands.console import (
    add_json_option,
    existing_dir,
    existing_file,
    image_size,
    positive_int,
)
from tf_sphereface.commands.input_options import add_strict_option
from tf_sphereface.commands.train import distillation
from tf_sphereface.data.options import Augment
from tf_sphereface.training import presets, recipes

DEFAULTS: dict[str, Any] = {"identities": 300, "images": 40, "cache": "memory", "verify_people": 0}
"""Of options of which it matters whether they were given."""
JIT: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    add = parser.add_argument
    add("--data", required=True, metavar="DIR|FILE.rec|synthetic", help="training faces")
    add("--out", required=True, type=Path, metavar="RUN", help="the run folder")
    add(
        "--preset",
        choices=sorted(presets.PRESETS),
        help="the recipe; default: small, with --from fine-tune, with --teacher alone distill",
    )
    add("--resume", action="store_true", help="go on where this run stopped")
    add("--dry-run", action="store_true", help="show schedule and memory, train nothing")
    add("--no-doctor", action="store_true", help="no TrainingDoctor")
    add("--license", metavar="TEXT", help="of the trained weights, for the model card")
    add_json_option(parser)
    _add_network(parser.add_argument_group("changes to the preset: network and loss"))
    _add_solver(parser.add_argument_group("changes to the preset: optimizer and schedule"))
    _add_regularization(parser.add_argument_group("changes to the preset: the rest"))
    _add_fine_tuning(parser.add_argument_group("fine-tuning"))
    distillation.add_distillation(parser)
    _add_faces(parser.add_argument_group("data"))
    _add_devices(parser.add_argument_group("devices"))
    _add_verification(parser.add_argument_group("checkpoints and verification"))
    _add_hooks(parser.add_argument_group("hooks"))


def _add_devices(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--strategy",
        choices=("none", "mirrored", "multiworker"),
        default="none",
        help="mirrored: all GPUs of this machine; multiworker: those of all in TF_CONFIG",
    )
    add(
        "--centers",
        metavar="device|host|DIR",
        help="where all class centres and their optimizer state are: on the device (default), in "
        "the host's memory, or in files of a folder; these with --sample-rate, on one device",
    )
    add("--jit", choices=tuple(JIT), default="auto", help="XLA; auto: on for GPUs")
    add(
        "--compile-cache",
        metavar="DIR|none",
        help="where compiled steps are kept for the next run; default: in the user's cache, with "
        "a GPU or --jit on",
    )


def _add_verification(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--checkpoint-every",
        type=positive_int,
        metavar="N",
        help="steps between checkpoints; default: 500 or two minutes, and at each epoch's end",
    )
    add("--keep", type=positive_int, default=3, metavar="K", help="newest checkpoints")
    add("--verify-images", type=existing_dir, metavar="DIR", help="verify after each epoch")
    add("--verify-pairs", type=existing_file, metavar="FILE", help="as LFW's; else random pairs")
    add("--verify-landmarks", type=existing_file, metavar="FILE", help="to align them by")
    add("--verify-people", type=int, metavar="N", help="so many of the data's, not trained on")
    add(
        "--verify-bins",
        nargs="+",
        type=Path,
        metavar="DIR|FILE",
        help="verify on all .bin sets of a folder, or on such files; their mean chooses the best",
    )
    add(
        "--verify-max-pairs",
        type=positive_int,
        metavar="N",
        help="pairs of each .bin set, evenly spaced; default: all",
    )
    add(
        "--verify-every",
        type=positive_int,
        metavar="N",
        help="epochs between verifications (and after the first and the last one); default: 1",
    )


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--backbone", choices=recipes.BACKBONES)
    add("--embedding-dim", type=int, metavar="N")
    add("--input-size", type=image_size, metavar="HxW", help="such as 112x96")
    add("--loss", choices=recipes.LOSSES)
    add("--margin", type=float, metavar="M", help="a-softmax: 1, 2, 3 or 4; not magface")
    add(
        "--margin-warm-up",
        type=float,
        metavar="EPOCHS",
        help="over which the margin grows from 0; for cosface and arcface",
    )
    add("--scale", type=float, metavar="S", help="of the cosines; not a-softmax")
    add("--gradient", choices=("exact", "caffe"), help="caffe: the released layer's, for a-softmax")
    add("--sample-rate", type=float, metavar="R", help="share of the class centres a step sees")
    add(
        "--centers-per-class",
        type=int,
        metavar="K",
        help="of each person; above 1, tf_sphereface-data audit --labels RUN finds wrong labels",
    )
    add(
        "--conflict-cosine",
        type=float,
        metavar="T",
        help="leave out of an image's loss the other people nearer than this, such as 0.4, as "
        "they may be the same person; with noisy labels",
    )
    add("--annealing", choices=recipes.ANNEALINGS, help="fit: lambda's fall scaled to the run")
    add(
        "--annealing-reach",
        type=float,
        metavar="S",
        help="share of the run after which lambda is at its minimum; with --annealing fit",
    )
    add(
        "--annealing-power",
        type=float,
        metavar="P",
        help="exponent of lambda's curve; with --annealing fit. Above 1 it falls later",
    )
    add("--lambda-minimum", type=float, metavar="L", help="where lambda stops")


def _add_solver(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--epochs", type=int, metavar="N", help="with --resume: go on to the end of epoch N")
    add("--batch-size", type=int, metavar="N", help="over all replicas")
    add(
        "--optimizer",
        choices=recipes.OPTIMIZERS,
        help="muon: matrices by Muon, the rest by AdamW; --dry-run says which weight gets what",
    )
    rate = recipes.DECOUPLED["learning_rate"]
    add("--learning-rate", type=float, metavar="R", help=f"{rate:g} where adamw or muon is new")
    add(
        "--schedule",
        choices=recipes.SCHEDULES,
        help="how the rate falls: by 10 at the preset's places, as a cosine, or straight, to 0",
    )
    add("--warm-up", type=float, metavar="EPOCHS", help="over which the rate rises first")
    add(
        "--scale-learning-rate",
        choices=("none", "linear"),
        default="none",
        help="linear: by batch size over the preset's",
    )
    decay = recipes.DECOUPLED["weight_decay"]
    add(
        "--weight-decay",
        type=float,
        metavar="W",
        help=f"coupled with sgd, else decoupled; {decay:g} where adamw or muon is new",
    )
    add("--clip-norm", type=float, metavar="G", help="of gradients; 0: none")
    add(
        "--ema",
        type=float,
        nargs="?",
        const=0.999,
        metavar="M",
        help="keep a moving average of the network's weights, with a momentum of 0.999 or M; it is "
        "verified and written, and the last weights beside it",
    )


def _add_regularization(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--label-smoothing", type=float, metavar="E", help="in [0, 1); not for softmax")
    add(
        "--class-weights",
        choices=("balanced",),
        help="balanced: each person weighs alike, however many faces there are",
    )
    add("--dropout", type=float, metavar="P", help="share of the embedding layer's inputs dropped")
    add("--augment", choices=get_args(Augment))
    add(
        "--precision",
        choices=recipes.PRECISIONS,
        help="auto: mixed_bfloat16 where this machine multiplies in it, else float32",
    )
    add("--seed", type=int, metavar="N")


def _add_fine_tuning(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--from",
        dest="start",
        type=existing_file,
        metavar="MODEL",
        help="fine-tune this .keras or .onnx file: a new head on its network",
    )
    add("--freeze-epochs", type=int, metavar="N", help="train the new head alone in the first N")
    add(
        "--freeze-norm",
        action=argparse.BooleanOptionalAction,
        help="leave batch normalisation as it is; with --from",
    )
    add("--body-rate", type=float, metavar="R", help="learning rate of the body over the head's")


def _add_hooks(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--tensorboard", action="store_true", help="write the epochs' figures for TensorBoard")
    add(
        "--callback",
        action="append",
        metavar="MODULE:FUNCTION",
        help="a function of yours that returns Keras callbacks; may be given again",
    )


def _add_faces(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    people, each, cache = (DEFAULTS[name] for name in ("identities", "images", "cache"))
    add_strict_option(group, ", and at a damaged one")
    add("--resize", action="store_true", help="resize faces of another size")
    add(
        "--cache",
        action=distillation.CacheAction,
        metavar="memory|none|DIR",
        help=f"none: decode every epoch (default: {cache}); DIR: keep a teacher's embeddings there",
    )
    group.set_defaults(teacher_cache=None)
    add(
        "--exclude",
        type=existing_file,
        metavar="FILE",
        help="identities and images to leave out, as tf_sphereface-data audit lists them",
    )
    add("--channel-order", choices=("rgb", "bgr"), help="default: rgb, with --from the model's")
    add("--identities", type=int, metavar="N", help=f"of synthetic data (default: {people})")
    add("--images", type=int, metavar="N", help=f"each, of synthetic data (default: {each})")
