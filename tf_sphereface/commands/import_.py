"""`tf_sphereface-import`: a public checkpoint becomes an embedder."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tf_sphereface.alignment.align import TEMPLATES
from tf_sphereface.commands.console import (
    EXIT_OK,
    CommandError,
    add_json_option,
    command,
    console,
    image_size,
    make_parser,
    write_json_option,
)
from tf_sphereface.commands.input_options import add_input_options
from tf_sphereface.embedder import EmbedderMetadata, model_card, save_embedder
from tf_sphereface.embedder.model_hashes import model_sha256
from tf_sphereface.importers import ARCHITECTURES, AUTO, ONNX, Imported, import_checkpoint
from tf_sphereface.importers.source_parity import SourceParity


def _listed() -> str:
    """Return the architectures by what they are, those of one kind and several depths together."""
    names: dict[str, list[str]] = {}
    for kind in (*ARCHITECTURES.values(), ONNX):
        names.setdefault(kind.summary, []).append(kind.name)
    return "\n".join(f"  {summary}:\n    {', '.join(names[summary])}" for summary in names)


DESCRIPTION = f"""\
Read the weights of a checkpoint made elsewhere and write an embedder (.keras) that every other
command takes, and a model card beside it. The framework that made the checkpoint is not needed, and
nothing in the file is run. The architecture is recognised by the names and shapes of the tensors.
They may lie anywhere in the file, with any prefix.

Architectures:
{_listed()}

Of an ONNX file the graph itself becomes a network of Keras' own layers, which can be trained; both
are run on the same images and must agree. An operator that cannot be imported is named.

Where nothing else is said they take (x - 127.5) / 128. Faces are aligned to the 112x96 or 112x112
template: the weights tell which. Channel order and scale go into the file, so that every command
here takes RGB images. The head (the class centres of the training set) is left out.

The licence of the weights stays that of their author; the file records it as unknown unless you
state it.

exit code: 0 written, 2 bad input
"""
EXAMPLES = """\
  tf_sphereface-import mobilefacenet.ckpt --out model.keras
  tf_sphereface-import backbone.pth --out iresnet50.keras
  tf_sphereface-import sphere20a.pth --arch sphere20a --out sphere20a.keras
  tf_sphereface-import sphereface.caffemodel --arch sphereface20-caffe --out sphereface20.keras
  tf_sphereface-import w600k_r50.onnx --pixel-scale 127.5 --channel-order rgb --out model.keras
  tf_sphereface-eval lfw model.keras --images lfw/ --pairs pairs.txt --landmarks landmarks.tsv"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = make_parser("import", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a .pt, .pth, .ckpt, .safetensors, .caffemodel or .onnx file",
    )
    parser.add_argument(
        "--arch",
        default=AUTO,
        choices=[AUTO, *ARCHITECTURES, ONNX.name],
        metavar="NAME",
        help="what the file is of, as listed above; auto recognises it",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="where to write, ending in .keras"
    )
    parser.add_argument(
        "--key",
        help="the entry or prefix of the weights, or the output of an ONNX file; only needed where "
        "several fit",
    )
    parser.add_argument(
        "--input-size",
        type=image_size,
        metavar="HxW",
        help="of the faces, where it is neither 112x96 nor 112x112",
    )
    parser.add_argument(
        "--license", metavar="TEXT", help="of the weights, if you know it, such as MIT"
    )
    add_input_options(parser, layout=False)
    add_json_option(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if args.out.suffix != ".keras":
        raise CommandError(f"--out must end in .keras. Received: {args.out}")
    checkpoint = args.checkpoint
    if not checkpoint.exists():
        raise CommandError(f"no such file: {checkpoint}")
    imported = import_checkpoint(
        checkpoint,
        args.arch,
        key=args.key,
        input_size=args.input_size,
        channel_order=args.channel_order,
        pixel_mean=args.pixel_mean,
        pixel_scale=args.pixel_scale,
    )
    metadata, parity = describe(args, imported), imported.parity
    save_embedder(imported.model, args.out, metadata)
    card = model_card.write_card(args.out)
    height, width = metadata.input_size
    network = metadata.extra[model_card.NETWORK]
    guessed = " (a guess)" if "channel_order" in metadata.assumed else ""
    lines = [
        f"{args.out}: {metadata.architecture}, {height}x{width} {metadata.channel_order.upper()}"
        f"{guessed} to {metadata.embedding_dim} numbers, {model_card.network_size(network)}"
    ]
    if args.arch == AUTO:
        lines.append(f"recognised: {imported.architecture.name}, {imported.architecture.source}")
    if imported.read_as:
        lines.append(f"read: {imported.read_as}")
    lines += [f"left out: {text}" for text in imported.left_out]
    lines += [f"note: {text}" for text in metadata.extra.get(model_card.NOTES, ())]
    lines.append(str(parity))
    lines.append(f"card: {card}; licence of the weights: {metadata.extra[model_card.LICENSE]}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    write_json_option(
        args.json,
        {
            "checkpoint": str(checkpoint),
            "out": str(args.out),
            "card": str(card),
            "architecture": metadata.architecture,
            "input_size": [height, width],
            "channel_order": metadata.channel_order,
            "pixel_mean": metadata.pixel_mean,
            "pixel_scale": metadata.pixel_scale,
            "assumed": list(metadata.assumed),
            "embedding_dim": metadata.embedding_dim,
            **network,
            "arch": imported.architecture.name,
            "read_as": imported.read_as,
            "left_out": imported.left_out,
            "source_hash": metadata.source_hash,
            "parity": dataclasses.asdict(parity) if isinstance(parity, SourceParity) else None,
        },
    )
    return EXIT_OK


def describe(args: argparse.Namespace, imported: Imported) -> EmbedderMetadata:
    """Return what the written file says of itself: what `save_weights` stored, or what is known."""
    height, width, _ = imported.model.input_shape[1:]
    kind = imported.architecture
    stored = imported.metadata
    facts = dict(imported.facts)
    template = facts.pop("template", None)
    extra = dict(stored.extra) if stored else dict(facts.pop("extra", {}))
    extra |= {
        model_card.LICENSE: args.license or extra.get(model_card.LICENSE, model_card.UNKNOWN),
        model_card.SOURCE: args.checkpoint.name,
        model_card.NETWORK: model_card.network_facts(imported.model),
    }
    if imported.left_out:
        extra[model_card.LEFT_OUT] = imported.left_out
    source_hash = model_sha256(args.checkpoint)
    if stored is not None:
        return dataclasses.replace(
            stored,
            input_size=(height, width),
            embedding_dim=imported.model.output_shape[1],
            extra=extra,
            source_hash=source_hash,
            architecture=stored.architecture or kind.network,
        )
    notes = list(kind.notes)
    pixels = {"pixel_mean": (None, 127.5), "pixel_scale": (None, kind.pixel_scale)}
    scaled = any(getattr(args, name) not in usual for name, usual in pixels.items())
    if args.channel_order not in (None, kind.channel_order):
        notes = [note for note in notes if not note.startswith("Channels")]
        order = facts["channel_order"].upper()
        notes.append(f"Channels are {order}, as was said when the file was imported.")
    if scaled:
        notes = [note for note in notes if not note.startswith("Pixels")]
        notes.append("Pixels are scaled as was said when the file was imported.")
    if notes:
        extra[model_card.NOTES] = notes
    return EmbedderMetadata(
        input_size=(height, width),
        embedding_dim=imported.model.output_shape[1],
        template=template or (f"{height}x{width}" if (height, width) in TEMPLATES else None),
        source_hash=source_hash,
        extra=extra,
        **facts,
    )


if __name__ == "__main__":
    raise SystemExit(main(None))
