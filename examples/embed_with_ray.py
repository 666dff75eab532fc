"""Embed a folder of pictures on many machines by Ray Data: a row for each face, as Parquet.

    pip install "tf_sphereface[ray,align,search]"
    python examples/embed_with_ray.py --model embedder.keras --photos photos/ --workers 8

Each worker makes one `FaceVectors` and is called per batch. The vectors are those of
`tf_sphereface-search embed`; a picture without a face has a row with the reason as `problem`. On a
cluster, model, pictures and target must be reachable from every machine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import keras
import ray

from tf_sphereface.data import synthetic
from tf_sphereface.search import FaceVectors


def small_inputs(folder: Path) -> tuple[str, str]:
    """Write a network that averages pixels, and twelve drawn faces; return their paths."""
    image = keras.Input((112, 96, 3), name="image_rgb_mean_127p5_scale_128")
    pixels = keras.layers.Flatten()(keras.layers.AveragePooling2D(16)(image))
    keras.Model(image, pixels).save(folder / "small.keras")
    synthetic.write_folder(folder / "photos", 4, 3)
    return str(folder / "small.keras"), str(folder / "photos")


def main() -> None:
    """Embed the pictures, write the rows, and say how many there are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a .keras, .tflite or .onnx file")
    parser.add_argument("--photos", help="a folder, here or in a bucket")
    parser.add_argument("--out", default="faces", help="a folder for the Parquet files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="pictures per call")
    parser.add_argument("--quick", action="store_true", help="drawn faces and a tiny network")
    args = parser.parse_args()
    if args.quick:
        args.model, args.photos = small_inputs(Path(tempfile.mkdtemp()))
    elif not (args.model and args.photos):
        parser.error("--model and --photos are needed, or --quick")

    ray.init(ignore_reinit_error=True)
    pictures = ray.data.read_binary_files(args.photos, include_paths=True)
    rows = pictures.map_batches(
        FaceVectors,
        fn_constructor_args=[args.model],
        batch_size=args.batch_size,
        concurrency=args.workers,
        num_cpus=0.5,  # of a small machine's, so that the tasks that read get their turn
    )
    rows.write_parquet(args.out)
    written = ray.data.read_parquet(args.out)
    faces = written.filter(lambda row: not row["problem"]).count()
    print(f"{faces} faces; {written.count() - faces} pictures without one or unread")


if __name__ == "__main__":
    main()
