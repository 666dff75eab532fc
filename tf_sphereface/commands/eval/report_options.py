"""The options `--report FILE` and `--json FILE`, and the writing of both."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.commands.console import note, output_file, write_json_option
from tf_sphereface.eval import bins
from tf_sphereface.eval.folder import image_names
from tf_sphereface.eval.report.contents import contents
from tf_sphereface.eval.report.page import Picture, write_page
from tf_sphereface.utils.optional import require


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """Add `--report FILE`."""
    parser.add_argument(
        "--report", type=_page_file, metavar="FILE", help="also write a page (.html) to look at"
    )


def _page_file(text: str) -> Path:
    """An argparse type: a page to write; what it is made with is asked for before the work."""
    try:
        for library in ("jinja2", "matplotlib"):
            require(library, extra="eval")
    except ImportError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return output_file(text)


def write_report_options(args: argparse.Namespace, result: Any, values: dict[str, Any]) -> None:
    """Write what `--json` and `--report` asked for; both read the images again, to hash them.

    `values` is what `report.to_dict` gave for the result, perhaps with more.
    """
    if args.json is None and args.report is None:
        return
    root, picture = _images(args, result)
    values = contents(result, root, values)
    write_json_option(args.json, values)
    if args.report is not None:
        write_page(values, args.report, picture)
        note(f"wrote {args.report}")


def _images(args: argparse.Namespace, result: Any) -> tuple[Path | None, Picture | None]:
    """Return the folder of a subcommand's images, and what shows one of them."""
    size = result.embedder.input_size
    if result.name == "bin" and size:
        reader = bins.BinReader(size, bins.read_bin(args.set))
        return None, lambda name: reader(args.set, name)
    given = (getattr(args, option, None) for option in ("images", "root", "frames"))
    root = next((folder for folder in given if folder is not None), None)
    if root is None or not size:
        return root, None
    aligned = FaceReader(size, args.landmarks)

    def picture(name: str) -> np.ndarray:
        if (root / name).is_dir():  # a video: its middle frame
            frames = image_names(root / name)
            name = f"{name}/{frames[len(frames) // 2]}"
        return aligned(root / name, name)

    return root, picture
