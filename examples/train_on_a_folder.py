"""Train on a folder of faces, verify on other people after each epoch, save an embedder.

    python examples/train_on_a_folder.py --data FACES --out runs/folder

FACES holds one folder per person, of aligned faces; a tenth of the people, four at least, are held
out to verify on. Without it synthetic faces are written first, and others verified on.
`tf_sphereface-train` does all this and more (resuming, checks, logs); the script shows what it is
made of.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np

import tf_sphereface as sf

SIZE = (56, 48)  # half of the template's 112x96: a quarter of the time


def people_to_hold_out(data: Path) -> list[str]:
    """Choose the last tenth of the people with two images or more, but four at least.

    Returns none where fewer people would be left to train on.
    """
    index = sf.data.scan_folder(data)
    images = np.bincount(index.labels, minlength=index.num_classes)
    several = [name for name, count in zip(index.names, images, strict=True) if count > 1]
    held_out = several[-max(4, index.num_classes // 10) :]
    return held_out if 4 <= len(held_out) <= index.num_classes // 2 else []


def random_pairs(labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return left, right, is_same and folds: as many pairs of one person as of two in each fold.

    Each person is in one fold, so that a threshold is tested on people whom it was not chosen on.
    """
    rng = np.random.default_rng(0)
    fold_of = labels % min(10, len(np.unique(labels)) // 2)
    parts = []
    for fold in np.unique(fold_of):
        # In random order: each image and the next one; for pairs of one person, sorted by person.
        inside = rng.permutation(np.flatnonzero(fold_of == fold))
        by_person = inside[np.argsort(labels[inside], kind="stable")]
        genuine, impostor = (np.stack([a[:-1], a[1:]]) for a in (by_person, inside))
        genuine = genuine[:, labels[genuine[0]] == labels[genuine[1]]]
        impostor = impostor[:, labels[impostor[0]] != labels[impostor[1]]]
        count = min(genuine.shape[1], impostor.shape[1])
        for pairs, same in ((genuine, True), (impostor, False)):
            chosen = rng.permutation(pairs, axis=1)[:, :count]
            parts.append([*chosen, np.full(count, same), np.full(count, fold)])
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def load(
    data: Path, people: set[str], report: sf.data.SkipReport
) -> tuple[np.ndarray, np.ndarray, sf.data.FolderIndex]:
    """Decode the files of some people, once; damaged ones are left out, and noted."""
    others = set(sf.data.scan_folder(data).names) - people
    index = sf.data.scan_folder(data, exclude=others)
    return sf.data.load_folder(index, image_size=SIZE, resize=True, report=report)


def main() -> None:
    """Train, and say how well it went."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="one folder per person; default: synthetic faces")
    parser.add_argument("--out", type=Path, default=Path("runs/folder"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few faces and one epoch")
    arguments = parser.parse_args()
    people, epochs = (16, 1) if arguments.quick else (100, arguments.epochs)
    data, report = arguments.data, sf.data.SkipReport()

    # The people who are verified on are never trained on.
    held_out: list[str] = []
    pairs = None  # images, then left, right, is_same and folds
    if data is None:
        data = sf.data.synthetic.write_folder(arguments.out / "faces", people, 16, size=SIZE)
        made = sf.data.synthetic.verification_set(10, pairs_per_fold=20, folds=5, size=SIZE)
        pairs = (made.images, made.left, made.right, made.is_same, made.folds)
    elif held_out := people_to_hold_out(data):
        held_images, held_labels, _ = load(data, set(held_out), report)
        pairs = (held_images, *random_pairs(held_labels))
        print(f"verified on {len(pairs[1])} pairs of {len(held_out)} people who are held out")

    names = set(sf.data.scan_folder(data).names) - set(held_out)
    images, labels, index = load(data, names, report)
    if report.count:
        print(report.summary())
    batch = 64
    steps = sf.data.steps_per_epoch(len(images), batch)
    print(f"{len(images)} faces of {len(index.names)} people, {steps} updates an epoch")
    dataset = sf.data.face_dataset(
        (images, labels), image_size=SIZE, batch_size=batch, augment="mirror", repeat=True
    )

    metadata = sf.embedder.EmbedderMetadata(
        input_size=SIZE, flip="concat", architecture="SphereFaceNet-4", loss="a-softmax", margin=4
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "embedder.keras"
    callbacks = []
    if pairs is not None:
        callbacks.append(sf.callbacks.Verification(*pairs, best=path, metadata=metadata))

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
    model.fit(dataset, epochs=epochs, steps_per_epoch=steps, callbacks=callbacks, verbose=2)
    if pairs is None:
        print("too few people to hold some out: the last epoch's network is kept, unverified")
        sf.embedder.save_embedder(backbone, path, metadata)

    embedder = sf.load_embedder(path)
    embeddings = embedder(images[:2])  # uint8 RGB faces in, float32 embeddings out
    print(f"wrote {path}: {embedder}, embeddings {embeddings.shape}")


if __name__ == "__main__":
    main()
