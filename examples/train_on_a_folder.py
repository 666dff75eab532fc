"""Train on a folder of faces, verify on other people after each epoch, save an embedder.

    python examples/train_on_a_folder.py --data FACES --out runs/folder

FACES holds one folder a person, of aligned faces; without it a folder of synthetic faces is written
first. `tf_sphereface-train` does all this and more (resuming, checks, logs); the script shows what
it is made of.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras

import tf_sphereface as sf

SIZE = (56, 48)  # half of the template's 112x96: a quarter of the time


def main() -> None:
    """Train, and say how well it went."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="one folder a person; default: synthetic faces")
    parser.add_argument("--out", type=Path, default=Path("runs/folder"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few faces and one epoch")
    arguments = parser.parse_args()
    people, epochs = (16, 1) if arguments.quick else (100, arguments.epochs)
    data = arguments.data
    if data is None:
        data = sf.data.synthetic.write_folder(arguments.out / "faces", people, 16, size=SIZE)

    # Every file is decoded once; damaged ones are left out, and reported.
    report = sf.data.SkipReport()
    images, labels, index = sf.data.load_folder(data, image_size=SIZE, resize=True, report=report)
    if report.count:
        print(report.summary())
    batch = 64
    steps = sf.data.steps_per_epoch(len(images), batch)
    print(f"{len(images)} faces of {len(index.names)} people, {steps} updates an epoch")
    dataset = sf.data.face_dataset(
        (images, labels), image_size=SIZE, batch_size=batch, augment="mirror", repeat=True
    )

    # The people who are verified on are never trained on.
    held = sf.data.synthetic.verification_set(10, pairs_per_fold=20, folds=5, size=SIZE)
    metadata = sf.embedder.EmbedderMetadata(
        input_size=SIZE, flip="concat", architecture="SphereFaceNet-4", loss="a-softmax", margin=4
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    verification = sf.callbacks.Verification(
        held.images,
        held.left,
        held.right,
        held.is_same,
        held.folds,
        best=arguments.out / "embedder.keras",
        metadata=metadata,
    )

    keras.utils.set_random_seed(0)
    backbone = sf.backbones.SphereFaceNet(depth=4, input_shape=(*SIZE, 3))
    model = sf.FaceClassifier(backbone, num_classes=len(index.names))
    # In a short run lambda has to stay high until there are features: power 4 falls late.
    annealing = sf.schedules.LambdaAnnealing.for_steps(epochs * steps, reach=0.9, power=4)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss=sf.losses.ASoftmaxLoss(margin=4, annealing=annealing),
        metrics=["accuracy"],
    )
    model.fit(dataset, epochs=epochs, steps_per_epoch=steps, callbacks=[verification], verbose=2)

    embedder = sf.load_embedder(arguments.out / "embedder.keras")
    embeddings = embedder(held.images[:2])  # uint8 RGB faces in, float32 embeddings out
    print(f"wrote {arguments.out / 'embedder.keras'}: {embedder}, embeddings {embeddings.shape}")


if __name__ == "__main__":
    main()
