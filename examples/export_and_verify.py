"""Export a network to TensorFlow Lite and ONNX, and run every file on the same pairs of faces.

    python examples/export_and_verify.py --model runs/folder/embedder.keras --out exported

Without `--model` a small network is trained first, on synthetic faces. A file is called written
only after it has been run and compared with Keras; what that found is in the table, beside the
accuracy on pairs of people who were not trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras

import tf_sphereface as sf
from tf_sphereface.eval.scoring.score_pairs import embed_verification

SIZE = (56, 48)


def train_small(people: int, epochs: int) -> keras.Model:
    """Train a small network on synthetic faces."""
    faces = sf.data.synthetic.training_set(people, 16, size=SIZE)
    dataset = sf.data.face_dataset(faces, image_size=SIZE, batch_size=32)
    keras.utils.set_random_seed(0)
    backbone = sf.backbones.SphereFaceNet(depth=4, input_shape=(*SIZE, 3), embedding_dim=128)
    model = sf.FaceClassifier(backbone, num_classes=people, head="softmax")
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), metrics=["accuracy"])
    model.fit(dataset, epochs=epochs, verbose=2)
    return backbone


def main() -> None:
    """Export, and verify each file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a .keras embedder; default: train a small one")
    parser.add_argument("--out", type=Path, default=Path("exported"))
    parser.add_argument("--quick", action="store_true", help="less training, fewer pairs")
    arguments = parser.parse_args()
    if arguments.model is None:
        model = train_small(*((8, 1) if arguments.quick else (60, 5)))
        metadata = sf.embedder.EmbedderMetadata(input_size=SIZE, flip="concat", loss="softmax")
        arguments.model = arguments.out / "embedder.keras"
        arguments.out.mkdir(parents=True, exist_ok=True)
        sf.embedder.save_embedder(model, arguments.model, metadata)
    model = keras.models.load_model(arguments.model, compile=False)
    metadata = sf.embedder.read_metadata(arguments.model)
    size = sf.load_embedder(arguments.model).input_size

    # int8 needs faces to find its ranges on: of people who are not verified on.
    calibration, _ = sf.data.synthetic.training_set(8, 8, size=size)
    reports = {}
    for kind in ("none", "int8"):
        path = arguments.out / f"embedder.{kind}.tflite"
        reports[path] = sf.export.export_tflite(
            model, path, quantize=kind, calibration=calibration, metadata=metadata
        )
    path = arguments.out / "embedder.onnx"
    reports[path] = sf.export.export_onnx(model, path, metadata=metadata)

    pairs = 4 if arguments.quick else 20
    held = sf.data.synthetic.verification_set(20, pairs_per_fold=pairs, folds=10, size=size)
    print(f"{'file':24} {'MB':>7} {'lowest cosine to Keras':>24} {'accuracy':>16}")
    for path in (arguments.model, *reports):
        result = embed_verification(
            path, held.images, held.left, held.right, held.is_same, held.folds
        ).headline
        cosine = f"{reports[path].cosine_min:.5f}" if path in reports else ""
        accuracy = f"{100 * result.accuracy:.1f} ± {100 * result.std_error:.1f} %"
        print(f"{path.name:24} {path.stat().st_size / 1e6:7.2f} {cosine:>24} {accuracy:>16}")


if __name__ == "__main__":
    main()
