"""`tf_sphereface-import`: a public checkpoint becomes an embedder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tf_sphereface.cli.common import (
    EXIT_OK,
    CommandError,
    add_json_option,
    command,
    console,
    existing_file,
    make_parser,
    write_json_option,
)

DESCRIPTION = """\
Read the weights of a checkpoint made elsewhere and write an embedder (.keras) that every other
command takes. The framework that made the checkpoint is not needed, and nothing in the file is
run: a checkpoint that holds more than tensors and plain values is refused.

Architectures:
  mobilefacenet   PyTorch checkpoints of the public MobileFaceNet, RGB, (x - 127.5) / 128, aligned
                  to the 112x96 or 112x112 template (the weights tell which)

The licence of the weights stays that of their author; the file records it as unknown.

exit code: 0 written, 2 bad input
"""
EXAMPLES = """\
  tf_sphereface-import mobilefacenet.ckpt --arch mobilefacenet --out model.keras
  tf_sphereface-eval lfw model.keras --images lfw/ --pairs pairs.txt --landmarks landmarks.tsv"""
ARCHITECTURES = ("mobilefacenet",)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("import", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "checkpoint", type=existing_file, metavar="CHECKPOINT", help="a .pt, .pth or .ckpt file"
    )
    parser.add_argument(
        "--arch", required=True, choices=ARCHITECTURES, help="the network that the weights are of"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="where to write, ending in .keras"
    )
    parser.add_argument(
        "--key", help="the checkpoint's entry that holds the weights; only needed among several"
    )
    add_json_option(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if args.out.suffix != ".keras":
        raise CommandError(f"--out must end in .keras. Received: {args.out}")

    from tf_sphereface._files import sha256_file
    from tf_sphereface.backbones import count_macs, count_parameters
    from tf_sphereface.data.alignment import TEMPLATES
    from tf_sphereface.embedder import EmbedderMetadata, save_embedder
    from tf_sphereface.importers import load_mobilefacenet

    model = load_mobilefacenet(args.checkpoint, key=args.key)
    height, width, _ = model.input_shape[1:]
    embedding_dim = model.output_shape[1]
    metadata = EmbedderMetadata(
        input_size=(height, width),
        embedding_dim=embedding_dim,
        channel_order="rgb",
        pixel_mean=127.5,
        pixel_scale=128.0,
        template=f"{height}x{width}" if (height, width) in TEMPLATES else None,
        normalized=False,
        architecture="MobileFaceNet",
        source_hash=sha256_file(args.checkpoint),
        extra={"licence": "unknown", "source": args.checkpoint.name},
    )
    save_embedder(model, args.out, metadata)
    parameters, macs = count_parameters(model), count_macs(model)
    console.print(
        f"{args.out}: MobileFaceNet, {height}x{width} RGB to {embedding_dim} numbers, "
        f"{parameters / 1e6:.2f} M parameters, {macs / 1e9:.3f} GMAC an image",
        highlight=False,
        soft_wrap=True,
    )
    write_json_option(
        args.json,
        {
            "checkpoint": str(args.checkpoint),
            "out": str(args.out),
            "architecture": metadata.architecture,
            "input_size": [height, width],
            "embedding_dim": embedding_dim,
            "parameters": parameters,
            "macs": macs,
            "source_hash": metadata.source_hash,
        },
    )
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main(None))
