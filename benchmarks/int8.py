r"""int8 by several algorithms, beside float32: angle to it, accuracy, size, time.

    python benchmarks/int8.py mobilefacenet.keras --calibrate faces/ \
        --images lfw/ --pairs pairs.txt --landmarks landmarks.tsv
    python benchmarks/int8.py iresnet18 --calibrate faces/ --pad --limit 64 \
        --algorithms min-max batches
    python benchmarks/int8.py --tiny

The faces of the pairs must be none of the calibration's people. Without pairs the angles are taken
on calibration faces that were set aside. `iresnet18` has random weights, and batch statistics of
the faces. Angles are degrees between the float32 and the int8 embedding of a face. p is McNemar's,
of the pairs that float32 and int8 decide differently. Time is processor time on one thread, one
call of each file in turn, the least of all rounds. 16-bit activations are slow: they get 40 faces.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert.tools import flatbuffer_utils
from litert_quantizer import qtyping, quantizer, recipe
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.stats import binomtest

from tf_sphereface.alignment.face_reader import FaceReader
from tf_sphereface.backbones import IResNet, MobileFaceNet
from tf_sphereface.data import synthetic
from tf_sphereface.embedder import EmbedderMetadata, load_embedder, read_metadata
from tf_sphereface.embedder.embedder import Embedder
from tf_sphereface.embedder.metadata import add_onnx_metadata, add_tflite_metadata
from tf_sphereface.embedder.runtimes import to_network
from tf_sphereface.eval.pairs import read_pairs
from tf_sphereface.eval.verification import evaluate
from tf_sphereface.export import export_onnx, export_tflite, onnx, tflite
from tf_sphereface.export.calibration_faces import calibration_faces
from tf_sphereface.export.equalization import equalized
from tf_sphereface.export.job import Inputs, Job
from tf_sphereface.export.options import FileOptions

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
RANGES = {"range of 1": 1, "range of 16": 16, "range of all": 1024}  # faces per batch; not 4
FEW = 40


@dataclasses.dataclass
class Data:
    """uint8 faces to calibrate with and to judge by, and pairs of the latter."""

    calibration: np.ndarray
    faces: np.ndarray
    pairs: tuple[np.ndarray, ...] | None = None


def quantized_tflite(source: Path, path: Path, faces: np.ndarray, algorithm: str) -> None:
    metadata, content = read_metadata(source), source.read_bytes()
    job = Job("int8", Inputs(faces, metadata), FileOptions(), path.parent, None)
    work = quantizer.Quantizer(content)
    if algorithm == "8x16":
        work.load_quantization_recipe(recipe.static_wi8_ai16())
        for name in ("INPUT", "OUTPUT"):
            operation = qtyping.TFLOperationName(name)
            work.update_quantization_recipe(".*", operation, algorithm_key="no_quantize")
    else:
        tflite.set_recipe(work, content, job)
        for name in WEIGHTED if algorithm not in ("min-max", *RANGES) else ():
            operation = qtyping.TFLOperationName(name)
            work.add_static_config(".*", operation, 8, 8, algorithm_key=algorithm)
    batch = RANGES.get(algorithm, tflite.FACES_PER_SAMPLE)
    ranges = tflite.activation_ranges(content, work.get_quantization_recipe(), job, batch)
    made = work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    whole = flatbuffer_utils.read_model_from_bytearray(bytearray(made.quantized_model))
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(whole))
    path.write_bytes(add_tflite_metadata(content, metadata.to_json()))


def quantized_onnx(source: Path, path: Path, faces: np.ndarray, algorithm: str) -> None:
    metadata = read_metadata(source)
    if algorithm in ("Entropy", "Percentile"):
        faces = faces[:: -(-len(faces) // 64)]  # histograms keep every activation in memory
    job = Job("int8", Inputs(faces, metadata), FileOptions(), path.parent, None)
    prepared = path.with_suffix(".prepared")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    kinds, methods = quantization.QuantType, quantization.CalibrationMethod
    quantization.quantize_static(
        str(prepared),
        str(path),
        onnx.BatchReader(job),
        calibrate_method=getattr(methods, algorithm, methods.MinMax),
        activation_type=kinds.QInt8 if algorithm == "S8S8" else kinds.QUInt8,
        weight_type=kinds.QInt8,
        per_channel=True,
        reduce_range=algorithm != "S8S8",
        extra_options={"CalibMovingAverage": algorithm in ("batches", "S8S8")},
        nodes_to_exclude=onnx.float_nodes(onnx.require("onnx", extra="export").load(prepared), job),
    )
    path.write_bytes(add_onnx_metadata(path.read_bytes(), metadata.to_json()))


def files(net: Embedder, data: Data, folder: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Write every row's file; a converter that fails is named and left out."""
    found: dict[str, Path] = {}
    even = equalized(net.backbone, to_network(data.calibration, net.metadata))
    # After equalization only the algorithms that had a chance without it.
    writers: dict[str, tuple[Callable, Callable, tuple[str, ...], tuple[str, ...]]] = {
        "tflite": (
            export_tflite,
            quantized_tflite,
            ("min-max", "OCTAV", "MSE", "8x16", *RANGES),
            ("min-max", "OCTAV", "8x16"),
        ),
        "onnx": (
            export_onnx,
            quantized_onnx,
            ("batches", "MinMax", "Entropy", "Percentile", "S8S8"),
            ("batches", "MinMax", "S8S8"),
        ),
    }
    for kind in args.formats:
        write, quantize, plain, scaled = writers[kind]
        for label, model, algorithms in (
            ("", net.backbone, plain),
            ("equalized, ", even, scaled),
        ):
            source = folder / f"float{len(found)}.{kind}"
            write(model, source, metadata=net.metadata)
            if not label:
                found[f"{kind} float32"] = source
            for algorithm in algorithms:
                if args.algorithms and algorithm not in args.algorithms:
                    continue
                row = f"{kind} {label}{algorithm}"
                path = folder / f"{len(found)}.{kind}"
                try:
                    quantize(source, path, data.calibration, algorithm)
                except Exception as error:  # one row of many
                    print(f"{row}: {type(error).__name__}: {error}", flush=True)
                    continue
                found[row] = path
    return found


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def decisions(embeddings: np.ndarray, pairs: tuple[np.ndarray, ...]) -> np.ndarray:
    left, right, same, folds = pairs
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return evaluate((unit[left] * unit[right]).sum(1), same, folds).correct


def table(net: Embedder, found: dict[str, Path], data: Data, rounds: int) -> None:
    embedders = {row: load_embedder(path, threads=1) for row, path in found.items()}
    times: dict[str, list[float]] = {row: [] for row in found}
    for _ in range(rounds):
        for row, embedder in embedders.items():
            begin = time.process_time()
            embedder(data.faces[:1])
            times[row].append(1e3 * (time.process_time() - begin))
    expected = net(data.faces)
    right = None if data.pairs is None else decisions(expected, data.pairs)
    print(
        "| file | MB | angle mean / max | accuracy, % | lost, gained, p | ms |\n" + 6 * "|---" + "|"
    )
    for row, embedder in embedders.items():
        faces = data.faces[:FEW] if "8x16" in row else data.faces
        actual = embedder(faces)
        angle = degrees(actual, expected[: len(faces)])
        accuracy = compared = ""
        if right is not None and len(actual) == len(expected):
            correct = decisions(actual, data.pairs)
            lost, gained = int((right & ~correct).sum()), int((~right & correct).sum())
            p = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
            accuracy, compared = f"{100 * correct.mean():.2f}", f"{lost}, {gained}, {p:.2f}"
        size = found[row].stat().st_size / 1e6
        angles = f"{angle.mean():.2f} / {angle.max():.2f}"
        print(
            f"| {row} | {size:.2f} | {angles} | {accuracy} | {compared} | {min(times[row]):.2f} |"
        )


def network(name: str, faces: np.ndarray | None) -> Embedder:
    if name.endswith(".keras"):
        return load_embedder(name)
    keras.utils.set_random_seed(1)
    if name == "tiny":
        net = MobileFaceNet((32, 32, 3), 32, blocks=(1, 1, 1, 1))
    else:
        net = IResNet(int(name.removeprefix("iresnet")), (112, 112, 3))
    if faces is not None:
        images = (faces[:64].astype(np.float32) - 127.5) / 128
        for _ in range(20):  # the moving averages forget their start
            net(images[np.random.default_rng(0).permutation(len(images))[:32]], training=True)
    height, width = net.input_shape[1:3]
    return Embedder.in_memory(net, EmbedderMetadata(input_size=(height, width)))


def read(args: argparse.Namespace, size: tuple[int, int]) -> Data:
    if args.tiny:
        faces = synthetic.faces(np.arange(40), 0, seed=3, size=size)
        return Data(faces[:16], faces[16:])
    narrow = args.pad and size[0] == size[1]
    width = size[1] - 16 if narrow else size[1]
    faces = calibration_faces(args.calibrate, (size[0], width), limit=args.limit)
    if narrow:  # the template of 112x96 is that of 112x112 without 8 columns on each side
        faces = np.pad(faces, ((0, 0), (0, 0), (8, 8), (0, 0)), mode="edge")
    if args.pairs is None:
        return Data(faces[::2], faces[1::2])
    pairs = read_pairs(args.pairs)
    names, left, right = pairs.images()
    reader = FaceReader(size, args.landmarks)
    images = np.stack([reader(Path(args.images) / name, name) for name in names])
    return Data(faces[::2], images, (left, right, pairs.is_same, pairs.folds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", nargs="?", default="tiny", help="a .keras file, or iresnet18")
    parser.add_argument("--calibrate", help="a folder of aligned faces")
    parser.add_argument("--pad", action="store_true", help="those are 112x96: add 8 columns a side")
    parser.add_argument("--images")
    parser.add_argument("--pairs")
    parser.add_argument("--landmarks")
    parser.add_argument("--formats", nargs="+", default=["tflite", "onnx"])
    parser.add_argument("--algorithms", nargs="+", help="those of the rows to keep; default: all")
    parser.add_argument("--limit", type=int, default=512, help="faces to read; half calibrate")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on synthetic faces")
    args = parser.parse_args()
    if args.tiny:
        args.network, args.rounds = "tiny", 3
    elif args.calibrate is None:
        parser.error("--calibrate is needed, or --tiny")
    shape = (32, 32) if args.tiny else (112, 112)
    if args.network.endswith(".keras"):
        net = network(args.network, None)
        data = read(args, net.input_size)
    else:
        data = read(args, shape)
        net = network(args.network, data.calibration)
    with tempfile.TemporaryDirectory() as folder:
        table(net, files(net, data, Path(folder), args), data, args.rounds)


if __name__ == "__main__":
    main()
