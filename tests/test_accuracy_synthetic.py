"""Accuracy of a small net that is trained here, on synthetic faces: a fall in it is a failure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import pytest

import tf_sphereface as sf
from tf_sphereface import training
from tf_sphereface.data import synthetic
from tf_sphereface.eval import ytf
from tf_sphereface.eval.scoring.score_pairs import embed_verification
from tf_sphereface.eval.verification import VerificationResult, compare
from tf_sphereface.training import presets

SIZE = (56, 48)


@pytest.fixture(scope="module")
def pairs() -> synthetic.VerificationSet:
    return synthetic.verification_set(80, pairs_per_fold=100, first_identity=50_000, size=SIZE)


def train(loss: str) -> keras.Model:
    """Train 80 people x 25 faces for 3 epochs of 62 steps."""
    recipe = dataclasses.replace(
        presets.preset("quick"),
        loss=loss,
        epochs=3,
        batch_size=32,
        precision="float32",
        embedding_dim=128,
    )
    faces = synthetic.training_set(80, 25, size=SIZE)
    steps = sf.data.steps_per_epoch(len(faces[0]), recipe.batch_size)
    model = training.build_classifier(recipe, 80, steps)

    def dataset_from(step: int) -> Any:
        return sf.data.face_dataset(
            faces, image_size=SIZE, batch_size=recipe.batch_size, repeat=True, start_step=step
        )

    training.train(model, dataset_from, epochs=recipe.epochs, steps_per_epoch=steps)
    return training.embedder_of(model, recipe)


def verify(model: Any, pairs: synthetic.VerificationSet) -> VerificationResult:
    table = embed_verification(
        model, pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds
    )
    return table.headline


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return train("a-softmax")


@pytest.mark.slow
def test_accuracy_of_a_trained_net_is_pinned(network, pairs):
    """Pinned by measurement on this code: see ACCURACY. Chance is 50 %, raw pixels below 75 %."""
    result = verify(network, pairs)
    assert result.accuracy == pytest.approx(ACCURACY, abs=TOLERANCE)
    assert result.impostor_angle - result.genuine_angle > 15.0


@pytest.mark.slow
def test_exported_files_keep_its_accuracy(network, pairs, tmp_path: Path):
    """Float files within one pair of Keras; int8 within 1 % of the pairs."""
    from tf_sphereface import export

    reference = verify(network, pairs)
    calibration = synthetic.training_set(20, 8, size=SIZE)[0]
    for convert, kind, allowed in (
        (export.export_tflite, "none", 1),
        (export.export_onnx, "none", 1),
        (export.export_tflite, "int8", len(pairs.is_same) // 100),
    ):
        path = tmp_path / f"{kind}.{convert.__name__.removeprefix('export_')}"
        convert(network, path, quantize=kind, calibration=calibration)
        paired = compare(reference, verify(path, pairs))
        assert abs(paired.only_first - paired.only_second) <= allowed, path.name


VIDEOS: dict[str, dict[str, Any]] = {
    "single frame": {"max_frames": 1},
    "mean": {},
    "mean_normalized": {"pooling": "mean_normalized"},
    "best_frame": {"pooling": "best_frame"},
    "frame_pairs": {"pooling": "frame_pairs", "frame_pairs": 20},
}


@pytest.mark.slow
def test_pooling_the_frames_of_a_video_beats_a_single_frame(network, tmp_path: Path):
    """The YouTube Faces protocol end to end: its layout, its splits.txt, a trained net.

    Measured here: 78.3 for a single frame, 89.7, 89.0, 85.7 and 84.0 for the others (standard
    errors 1.1 to 2.5); paired, the mean gains 11.3 with a standard error of 1.0.
    """
    root = synthetic.write_videos(
        tmp_path, 60, 3, (8, 16), pairs_per_fold=60, folds=5, first_identity=60_000, size=SIZE
    )
    model = tmp_path / "embedder.keras"
    sf.embedder.save_embedder(network, model)
    cache = tmp_path / "cache"  # the frames are the same each time
    found = {
        name: ytf.evaluate(model, root / "frames", root / "splits.txt", cache=cache, **options)
        for name, options in VIDEOS.items()
    }
    single = found.pop("single frame").headline
    for name, result in found.items():
        assert result.headline.auc > single.auc + 0.01, name
    for name in ("mean", "mean_normalized"):
        paired = compare(found[name].headline, single)
        assert paired.difference > 3 * paired.std_error, name
        assert paired.p_value < 0.01, name


# Measured; other processors sum in another order, which moves a 186-step run by about a point.
ACCURACY = 0.809
TOLERANCE = 0.03
