"""Facts about public weights: they agree with the importer, and with the page that lists them."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

import tf_sphereface as sf
from tf_sphereface.backbones import KnownWeights, from_preset, known_weights
from tf_sphereface.embedder import Embedder, EmbedderMetadata
from tf_sphereface.eval.published_check import find_weights
from tf_sphereface.importers import ARCHITECTURES

PAGE = Path(__file__).parents[2] / "docs" / "results" / "weights.md"
HEAD = (
    "| file | network | trained on | fed | LFW | CFP-FP | AgeDB-30 | CALFW | CPLFW | IJB-C 1e-4 |"
)
BENCHMARKS = ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw", "ijbc_1e-4")


def row(each: KnownWeights) -> str:
    """Return the page's line about a file."""
    fed = f"{each.channel_order.upper()}, / {each.pixel_scale:g}"
    if each.input_size != (112, 112):
        fed += ", {}x{}".format(*each.input_size)
    figures = [
        f"{each.published[name]:.2f}" if name in each.published else "" for name in BENCHMARKS
    ]
    arch = f"`{each.arch}`" if each.arch else f"{each.network} (ONNX)"
    cells = [f"[{each.file}]({each.source})", arch, each.training_data, fed, *figures]
    return "| " + " | ".join(cells) + " |"


def test_the_page_lists_them_all():
    lines = PAGE.read_text().splitlines()
    begin = lines.index(HEAD) + 2
    end = next(i for i in range(begin, len(lines)) if not lines[i].startswith("|"))
    assert lines[begin:end] == [row(each) for each in known_weights()]
    text = PAGE.read_text()
    assert "*published*" in text
    assert "*not opened here*" in text
    for licence in {each.license for each in known_weights()}:
        assert licence in text


def test_the_facts_are_those_of_the_importer():
    for each in known_weights():
        assert set(each.published) <= set(BENCHMARKS)
        assert all(80 < percent < 100 for percent in each.published.values())
        if each.arch is None:
            assert "--pixel-scale 127.5" in each.how
            continue
        kind = ARCHITECTURES[each.arch]
        assert (kind.channel_order, kind.pixel_scale) == (each.channel_order, each.pixel_scale)
        assert f"--arch {each.arch} " in each.how


def test_a_name_of_such_a_file_is_no_preset_but_known():
    with pytest.raises(ValueError, match=r"known_weights.*github\.com/mk-minchul.*--arch adaface"):
        from_preset("adaface_ir18_casia.ckpt")
    assert sf.backbones.known_weights is known_weights


def test_the_mobilefacenet_of_the_figures_is_told_from_the_other():
    found = {each.file: each for each in known_weights() if each.network == "MobileFaceNet"}
    assert set(found) == {"068.ckpt", "model_mobilefacenet.pth"}
    assert (found["068.ckpt"].published, found["068.ckpt"].input_size) == ({"lfw": 99.3}, (112, 96))
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model = Embedder.in_memory(network, EmbedderMetadata(architecture="MobileFaceNet"))
    for name in ("068", "mobilefacenet"):  # a part of the file's name, the importer's name
        assert find_weights(model, name).file == "068.ckpt"
    assert find_weights(model, "mobilefacenet-treb1en").file == "model_mobilefacenet.pth"
    with pytest.raises(ValueError, match=r"068\.ckpt: MobileFaceNet, CASIA-WebFace"):
        find_weights(model)  # a network of one's own may have that name
