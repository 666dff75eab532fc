"""Options that several commands share: how a model is fed, and what stops a listing of images."""

from __future__ import annotations

import argparse
import math
from typing import Any

from tf_sphereface.commands.console import existing_file

FACTS = ("channel_order", "pixel_mean", "pixel_scale", "layout")


def add_input_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, layout: bool = True, of: str = ""
) -> None:
    """Add `--channel-order`, `--pixel-mean`, `--pixel-scale`, and `--layout` with `layout`.

    `of` stands before the names, as `"teacher"` does in `--teacher-channel-order`, of a second
    model.
    """
    group: Any = parser
    if not of:
        what = "how the model is fed, where its file does not say so, or is wrong"
        group = parser.add_argument_group("input", what)
    start = f"--{of}-" if of else "--"
    group.add_argument(
        f"{start}channel-order",
        choices=("rgb", "bgr"),
        type=str.lower,
        help=f"in which the {of or 'network'} takes the channels",
    )
    group.add_argument(
        f"{start}pixel-mean",
        type=_pixel_mean,
        metavar="M[,M,M]",
        help=f"subtracted from the pixels of 0 to 255; three numbers in the {of or 'network'}'s "
        "order",
    )
    group.add_argument(
        f"{start}pixel-scale", type=_pixel_scale, metavar="S[,S,S]", help="what that is divided by"
    )
    if layout:
        group.add_argument(
            f"{start}layout",
            choices=("nhwc", "nchw"),
            type=str.lower,
            help="order of the input's axes, where the shape in the file leaves it open",
        )


def add_strict_option(parser: argparse._ActionsContainer, stops: str = "") -> None:
    """Add `--strict`, for commands that list images; `stops` says what else it stops at."""
    parser.add_argument(
        "--strict", action="store_true", help=f"stop where images are passed over{stops}"
    )


def add_detector_option(parser: argparse._ActionsContainer) -> None:
    """Add `--detector`."""
    parser.add_argument(
        "--detector",
        type=existing_file,
        metavar="FILE",
        help="an ONNX file of OpenCV's YuNet, to find faces with in place of MTCNN",
    )


def input_facts(args: argparse.Namespace, of: str = "") -> dict[str, Any]:
    """Return what the options say, `of` as there, as keyword arguments of `load_embedder`."""
    start = f"{of}_" if of else ""
    return {name: getattr(args, start + name, None) for name in FACTS}


def _pixel_mean(text: str) -> float | tuple[float, ...]:
    """An argparse type: one number, or three with commas between."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"expected one number, or three as 104,117,123: {text}")
    return numbers[0] if len(numbers) == 1 else numbers


def _pixel_scale(text: str) -> float | tuple[float, ...]:
    """An argparse type: one positive number, or three with commas between."""
    value = _pixel_mean(text)
    if min(value if isinstance(value, tuple) else (value,)) <= 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, or three: {text}")
    return value
