"""Public files of weights: facts about them, from their authors' pages. Nothing is downloaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

_BENCHMARKS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw", "ijbc_1e-4")

_ADAFACE = "https://github.com/mk-minchul/AdaFace"
_INSIGHTFACE = "https://github.com/deepinsight/insightface/tree/master/"
_YAKHYO = "https://github.com/yakhyo/face-recognition/releases/tag/v0.0.1"
_TREB1EN = "https://github.com/TreB1eN/InsightFace_Pytorch"

_RESEARCH = "non-commercial research only"
_CODE_MIT = "code MIT; of the weights nothing is said"
_REPOSITORY_MIT = "MIT (the repository)"
_XIAOCCER = "https://github.com/Xiaoccer/MobileFaceNet_Pytorch"
_UNSAID = "not said (its page recommends emore)"


@dataclasses.dataclass(frozen=True)
class KnownWeights:
    """A public file of weights: *published* facts; but for `068.ckpt`, *not opened here*.

    Attributes:
        file: its name, or what its page calls it.
        source: the page that links it.
        arch: what `tf_sphereface-import --arch` calls its network; None for an ONNX file.
        network: the network in words.
        training_data: what it was trained on.
        channel_order: `"rgb"` or `"bgr"`, the order in which the network takes the channels.
        pixel_scale: what the pixel less 127.5 is divided by.
        input_size: height and width of the aligned face, in pixels.
        license: of the weights, as its page says.
        published: benchmark -> its page's figure in percent: `lfw`, `cfp_fp`, `agedb_30`, `calfw`,
            `cplfw`, and `ijbc_1e-4`, the true accept rate of IJB-C at a false accept rate of 1e-4.
    """

    file: str
    source: str
    arch: str | None
    network: str
    training_data: str
    channel_order: str
    license: str
    published: Mapping[str, float]
    pixel_scale: float = 127.5
    input_size: tuple[int, int] = (112, 112)

    @property
    def how(self) -> str:
        """The command that makes an embedder of the file, once it is here."""
        if self.arch is None:
            return (
                "tf_sphereface-import FILE.onnx --out model.keras "
                f"--channel-order {self.channel_order} "
                f"--pixel-mean 127.5 --pixel-scale {self.pixel_scale:g}"
            )
        return f"tf_sphereface-import FILE --arch {self.arch} --out model.keras"


def known_weights() -> list[KnownWeights]:
    """Return what is known of public files of weights, in the order of `docs/results/weights.md`.

    All of it is *published* by others. `068.ckpt` alone was opened here: most figures of the
    documents are its. Where the licence is not clear, the page has to be asked. The importer reads
    the files; nothing is downloaded.

    Example:

    >>> found = [each for each in known_weights() if each.arch == "adaface-ir101"]
    >>> max(each.published["ijbc_1e-4"] for each in found)
    97.66
    """
    return [*_insightface(), *_adaface(), *_others(), *_sphereface()]


def _figures(*percents: float | None) -> dict[str, float]:
    """Name figures that stand in the order of the benchmarks."""
    return {
        name: percent
        for name, percent in zip(_BENCHMARKS, percents, strict=False)
        if percent is not None
    }


def _insightface() -> Iterator[KnownWeights]:
    packages = (
        ("w600k_r50.onnx", "buffalo_l", "IResNet-50", (99.83, 99.33, 98.23, None, None, 97.25)),
        ("w600k_mbf.onnx", "buffalo_s", "mbf", (99.70, 98.00, 96.58, None, None, 95.02)),
        ("glintr100.onnx", "antelopev2", "IResNet-100", ()),
    )
    for file, package, network, percents in packages:
        yield KnownWeights(
            f"{file} ({package})",
            f"{_INSIGHTFACE}python-package",
            None,
            network,
            "Glint360K" if package == "antelopev2" else "WebFace600K",
            "rgb",
            _RESEARCH,
            _figures(*percents),
        )
    zoo = (
        ("CASIA", (99.45, 95.214, 94.90, None, None, 87.22)),
        ("MS1MV2", (99.833, 98.083, 98.083, None, None, 96.14)),
        ("MS1MV3", (99.80, 98.529, 98.267, None, None, 96.58)),
        ("Glint360K", (99.817, 99.143, 98.45, None, None, 97.13)),
        ("WebFace12M", (99.80, 99.20, 98.10, None, None, 97.12)),
    )
    for data, percents in zoo:
        yield KnownWeights(
            f"R50, {data} (.onnx)",
            f"{_INSIGHTFACE}model_zoo",
            None,
            "IResNet-50",
            data,
            "rgb",
            _RESEARCH,
            _figures(*percents),
        )
    torch = (
        ("mbf", "mbf", "MS1MV3", 94.23),
        ("r50", "iresnet50", "MS1MV3", 96.37),
        ("r100", "iresnet100", "MS1MV3", 96.85),
        ("mbf", "mbf", "Glint360K", 95.04),
        ("r50", "iresnet50", "Glint360K", 97.16),
        ("r100", "iresnet100", "Glint360K", 97.55),
        ("r100", "iresnet100", "WebFace42M, PFC 0.2", 97.70),
    )
    for name, arch, data, rate in torch:
        yield KnownWeights(
            f"{name}, {data} (backbone.pth)",
            f"{_INSIGHTFACE}recognition/arcface_torch",
            arch,
            arch.replace("iresnet", "IResNet-"),
            data,
            "rgb",
            _RESEARCH,
            {"ijbc_1e-4": rate},
        )


def _adaface() -> Iterator[KnownWeights]:
    files = (
        ("ir18_casia", "CASIA-WebFace", (99.13, 92.59, 92.72, 92.65, 87.00)),
        ("ir18_vgg2", "VGGFace2", (99.47, 97.13, 94.07, 93.90, 91.72, 92.95)),
        ("ir18_webface4m", "WebFace4M", (99.53, 97.26, 96.47, 95.52, 92.28, 94.99)),
        ("ir50_casia", "CASIA-WebFace", (99.42, 96.41, 94.38, 93.23, 89.97)),
        ("ir50_webface4m", "WebFace4M", (99.78, 98.97, 97.78, 95.98, 94.17, 96.98)),
        ("ir50_ms1mv2", "MS1MV2", (99.82, 97.86, 97.85, 96.07, 92.83, 96.27)),
        ("ir101_ms1mv2", "MS1MV2", (99.82, 98.49, 98.05, 96.08, 93.53, 96.89)),
        ("ir101_ms1mv3", "MS1MV3", (99.78, 98.91, 98.17, 96.02, 93.93, 97.09)),
        ("ir101_webface4m", "WebFace4M", (99.80, 99.17, 97.90, 96.05, 94.63, 97.39)),
        ("ir101_webface12m", "WebFace12M", (99.82, 99.26, 98.00, 96.12, 94.57, 97.66)),
    )
    for name, data, percents in files:
        depth = name.split("_")[0].removeprefix("ir")
        yield KnownWeights(
            f"adaface_{name}.ckpt",
            _ADAFACE,
            f"adaface-ir{depth}",
            f"IR-{depth}",
            data,
            "bgr",
            _CODE_MIT,
            _figures(*percents),
        )


def _others() -> Iterator[KnownWeights]:
    treb1en = (
        ("model_ir_se50.pth", "irse50", "IR-SE-50", (99.52, 95.04, 96.22, 95.57, 91.07)),
        (
            "model_mobilefacenet.pth",
            "mobilefacenet-treb1en",
            "MobileFaceNet",
            (99.18, 89.86, 93.47, 94.02, 86.6),
        ),
    )
    for file, arch, network, percents in treb1en:
        figures = _figures(*percents)
        yield KnownWeights(
            file,
            _TREB1EN,
            arch,
            network,
            _UNSAID,
            "bgr",
            _REPOSITORY_MIT,
            figures,
        )
    yield KnownWeights(
        "068.ckpt",
        _XIAOCCER,
        "mobilefacenet",
        "MobileFaceNet",
        "CASIA-WebFace",
        "rgb",
        "no licence is named",
        {"lfw": 99.30},
        pixel_scale=128.0,
        input_size=(112, 96),
    )
    yakhyo = ((20, (99.67, None, 96.58, 95.61, 88.75)), (36, (99.72, None, 96.83, 95.64, 89.92)))
    for depth, shares in yakhyo:
        yield KnownWeights(
            f"sphere{depth}_mcp.pth",
            _YAKHYO,
            f"spherenet{depth}",
            f"SphereFaceNet-{depth}",
            "MS1MV2",
            "rgb",
            _REPOSITORY_MIT,
            _figures(*shares),
        )


def _sphereface() -> Iterator[KnownWeights]:
    released = (
        (
            "sphereface_model.caffemodel",
            "https://github.com/wy1iu/sphereface",
            "sphereface20-caffe",
            _REPOSITORY_MIT,
            99.30,
        ),
        (
            "sphere20a_20171020.pth",
            "https://github.com/clcarwin/sphereface_pytorch",
            "sphere20a",
            "see its page",
            99.22,
        ),
    )
    for file, source, arch, license_, lfw in released:
        yield KnownWeights(
            file,
            source,
            arch,
            "SphereFaceNet-20",
            "CASIA-WebFace",
            "bgr",
            license_,
            {"lfw": lfw},
            pixel_scale=128.0,
            input_size=(112, 96),
        )
