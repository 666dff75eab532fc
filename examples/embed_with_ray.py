"""Embed a folder of pictures on many machines by Ray Data; one row per face, as Parquet.

    pip install "tf_sphereface[ray,align,search]"
    python examples/embed_with_ray.py embedder.keras photos/ faces.parquet --workers 8

Each worker makes one `sf.search.FaceVectors` and is called per batch. The vectors are those of
`tf_sphereface-search embed`; a picture without a face has a row with the reason as `problem`.
On a cluster the model's path, the pictures and the target must be reachable from every machine.
"""

from __future__ import annotations

import argparse

import ray

from tf_sphereface.search import FaceVectors


def main() -> None:
    """Embed the pictures and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .keras, .tflite or .onnx file")
    parser.add_argument("photos", help="a folder, here or in a bucket")
    parser.add_argument("out", help="a folder for the Parquet files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="pictures per call")
    args = parser.parse_args()

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


if __name__ == "__main__":
    main()
