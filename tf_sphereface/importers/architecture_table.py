"""The networks that can be imported: by name, their tensors, and how each wants its faces."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from tf_sphereface.importers.iresnet import LAYOUTS as IRESNETS
from tf_sphereface.importers.mobilefacenet import LAYOUT as MOBILEFACENET
from tf_sphereface.importers.named_networks import LAYOUTS as NAMED
from tf_sphereface.importers.sphereface import SPHERE20A
from tf_sphereface.importers.state_dictionaries import Layout

_TORCH, _CAFFE = "a PyTorch checkpoint or safetensors", "a .caffemodel"

MATLAB_NOTE = (
    "The authors cut their faces in MATLAB, which counts pixels from 1. The same template numbers "
    "are used here with pixels counted from 0, as in the Python ports, so that a face lies one "
    "pixel further right and down than in the authors' crops."
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of checkpoint, and how its network wants its faces."""

    name: str  # what `--arch` takes
    network: str  # its name in the metadata
    source: str  # the kind of file
    layout: Layout | int  # the tensors' names, or the depth of a Caffe network
    channel_order: str
    flip: str  # what its authors' own evaluation did with the mirror image
    summary: str  # a line for the help
    pixel_scale: float = 128.0  # what the pixel less 127.5 is divided by
    notes: tuple[str, ...] = ()  # what a user of such weights should know


class _Family(NamedTuple):
    """What the networks of one source have in common."""

    network: str  # with a place for the depth
    channel_order: str
    flip: str
    summary: str
    note: str


_OTHER_ORDER = "Weights of this layout from elsewhere may want {}: --channel-order {}."
_TREB1EN = (
    "Channels are BGR: TreB1eN's code writes its training faces with red and blue exchanged, and "
    "feeds it so. Weights of this layout from elsewhere may want RGB: --channel-order rgb."
)
_FAMILIES: dict[str, _Family] = {
    "adaface-ir": _Family(
        "IR-{}",
        "bgr",
        "sum",
        "AdaFace's IR, its Lightning .ckpt; BGR, / 127.5",
        "Channels are BGR, as AdaFace says of its weights; CVLface trains the same layout on RGB: "
        "--channel-order rgb. The norms that AdaFace returns beside unit vectors are the lengths "
        "of this output.",
    ),
    "adaface-irse": _Family("IR-SE-{}", "bgr", "sum", "AdaFace's IR-SE; BGR, / 127.5", ""),
    "ir": _Family(
        "IR-{} (InsightFace_Pytorch)",
        "bgr",
        "none",
        "TreB1eN's IR (InsightFace_Pytorch); BGR, / 127.5",
        _TREB1EN,
    ),
    "irse": _Family(
        "IR-SE-{} (InsightFace_Pytorch)",
        "bgr",
        "none",
        "TreB1eN's IR-SE (InsightFace_Pytorch, model_ir_se50.pth); BGR, / 127.5",
        _TREB1EN,
    ),
    "mobilefacenet-treb1en": _Family(
        "MobileFaceNet (InsightFace_Pytorch)",
        "bgr",
        "none",
        "TreB1eN's MobileFaceNet (InsightFace_Pytorch); BGR, / 127.5",
        _TREB1EN,
    ),
    "spherenet": _Family(
        "SphereFaceNet-{}",
        "rgb",
        "concat",
        "yakhyo's SphereNet; RGB, / 127.5",
        "Pixels are (x - 127.5) / 127.5, as yakhyo's evaluation and inference have them; his "
        "training script takes ImageNet's mean and deviation.",
    ),
    "sfnet": _Family("SFNet-{}", "rgb", "none", "opensphere's SFNet; RGB, / 127.5", ""),
    "sfnet-bn": _Family(
        "SFNet-{} (batch normalization)",
        "rgb",
        "none",
        "opensphere's SFNet with batch normalization; RGB, / 127.5",
        "",
    ),
    "sfnet-older": _Family(
        "SFNet-{} (older)",
        "rgb",
        "none",
        "opensphere's older SFNet (sfnet20_deprecated); RGB, / 127.5",
        "",
    ),
    "mbf": _Family(
        "MobileFaceNet-mbf",
        "rgb",
        "sum",
        "insightface's mbf (arcface_torch); RGB, / 127.5",
        "",
    ),
    "mbf-large": _Family(
        "MobileFaceNet-mbf-large",
        "rgb",
        "sum",
        "insightface's mbf_large (arcface_torch); RGB, / 127.5",
        "",
    ),
}


def _named(arch: str, layout: Layout) -> Architecture:
    """Describe a network of a family by its name and depth."""
    depth = "".join(filter(str.isdigit, arch.removesuffix("-treb1en")))
    name = arch.replace(depth, "") if depth else arch
    family = _FAMILIES[name]
    other = "bgr" if family.channel_order == "rgb" else "rgb"
    note = family.note or (
        f"Channels are {family.channel_order.upper()} and pixels (x - 127.5) / 127.5, as the "
        "authors' code has them. " + _OTHER_ORDER.format(other.upper(), other)
    )
    return Architecture(
        arch,
        family.network.format(depth),
        _TORCH,
        layout,
        channel_order=family.channel_order,
        flip=family.flip,
        summary=family.summary,
        pixel_scale=127.5,
        notes=(note,),
    )


ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "mobilefacenet",
            "MobileFaceNet",
            _TORCH,
            MOBILEFACENET,
            channel_order="rgb",
            flip="none",
            summary="Xiaoccer's MobileFaceNet (MobileFaceNet_Pytorch); RGB, / 128",
        ),
        Architecture(
            "sphere20a",
            "SphereFaceNet-20",
            _TORCH,
            SPHERE20A,
            channel_order="bgr",
            flip="none",
            summary="the public PyTorch sphere20a (zip or legacy); BGR",
            notes=(
                "Channels are BGR: the implementation that these weights come from reads images "
                "with OpenCV and does not reorder them. Weights of this layout that were trained "
                "on RGB need --channel-order rgb.",
            ),
        ),
        *(
            Architecture(
                f"sphereface{depth}-caffe",
                f"SphereFaceNet-{depth}",
                _CAFFE,
                depth,
                channel_order="bgr",
                flip="concat",
                summary=f"the authors' {depth}-layer .caffemodel; BGR",
                notes=("Channels are BGR, as Caffe has them.", MATLAB_NOTE),
            )
            for depth in (20, 64)
        ),
        *(
            Architecture(
                f"iresnet{depth}",
                f"IResNet-{depth}",
                _TORCH,
                layout,
                channel_order="rgb",
                flip="sum",
                summary="insightface's IResNet (arcface_torch), and opensphere's; RGB, / 127.5",
                pixel_scale=127.5,
                notes=(
                    "Channels are RGB and pixels (x - 127.5) / 127.5, as arcface_torch trains. "
                    "Weights of this layout from elsewhere may want BGR: --channel-order bgr.",
                ),
            )
            for depth, layout in IRESNETS.items()
        ),
        *(_named(arch, layout) for arch, layout in NAMED.items()),
    )
}
"""The architectures by the name that `import_checkpoint` takes."""


ONNX = Architecture(
    "onnx",
    "ONNX graph",
    "an ONNX model",
    0,
    channel_order="rgb",
    flip="none",
    summary="any embedder in an .onnx file, operator by operator",
)
"""A file that holds the network itself: it has no layout of tensors here."""
