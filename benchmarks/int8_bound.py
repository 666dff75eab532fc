"""The cost of activations in an int8 TensorFlow Lite file: the same network without them.

    python benchmarks/int8_bound.py --network mobilefacenet
    python benchmarks/int8_bound.py --network sphereface20
    python benchmarks/int8_bound.py --network embedder.keras

The named networks have random weights and 112x96 faces. Each file is timed on one thread, one call
of each in turn, and the least time counts: the rest is other programs'. A file without activations
is useless; it says what convolutions alone take, which no faster PReLU can go below.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from tf_sphereface.backbones import MobileFaceNet, SphereFaceNet
from tf_sphereface.backbones.extraction import as_backbone, load_model
from tf_sphereface.data import synthetic
from tf_sphereface.embedder import load_embedder
from tf_sphereface.export import ExportError, export_tflite

SIZE = (112, 96)


def network(name: str, activations: bool) -> keras.Model:
    keras.utils.set_random_seed(1)
    shape = (*SIZE, 3)
    if name.endswith(".keras"):
        net = as_backbone(load_model(name))
    elif name == "mobilefacenet":
        net = MobileFaceNet(shape)
    else:
        net = SphereFaceNet(int(name.removeprefix("sphereface")), shape)
    if activations:
        return net

    def call(layer: keras.layers.Layer, *args: object, **kwargs: object) -> object:
        return args[0] if isinstance(layer, keras.layers.PReLU) else layer(*args, **kwargs)

    copy = keras.models.clone_model(net, call_function=call)
    kept = {weight.path: weight for weight in net.weights}
    for weight in copy.weights:
        weight.assign(kept[weight.path])
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--network", default="mobilefacenet", help="or sphereface4, 10, 20, ..., or a .keras file"
    )
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    faces = synthetic.faces(np.arange(16), 0, seed=3, size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        embedders = {}
        for activations in (True, False):
            net = network(args.network, activations)
            for kind in ("none", "int8"):
                path = Path(folder) / f"{activations}.{kind}.tflite"
                try:
                    report = export_tflite(net, path, kind, calibration=faces)
                except ExportError as error:
                    print(f"{path.name}: {error}")
                    continue
                label = f"{kind}{'' if activations else ', no PReLU'}"
                embedders[label] = (load_embedder(path, threads=1), report.partitions)
        times: dict[str, list[float]] = {label: [] for label in embedders}
        for _ in range(args.rounds):
            for label, (embedder, _) in embedders.items():
                begin = time.perf_counter()
                embedder(faces[:1])
                times[label].append(time.perf_counter() - begin)
    for label, found in times.items():
        parts = embedders[label][1]
        print(f"{label:16} {1e3 * min(found):7.2f} ms, XNNPACK partitions: {parts}")


if __name__ == "__main__":
    main()
