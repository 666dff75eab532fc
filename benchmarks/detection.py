"""Images per second of the detector beside mtcnn's own per-image call, on the same cores.

Both find faces from 20 pixels on in the same images, in turns, so that a busy machine hits both;
images are in memory. The package calls its networks a level of the pyramid at a time, with all
cores in each operation; here each network is called once per image, and images run side by side.

python benchmarks/detection.py                      rendered photographs, 250x250
python benchmarks/detection.py --images FOLDER      the first images of a folder
python benchmarks/detection.py --images FOLDER --tight      faces found in them, cut to the box
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tf_sphereface.alignment.detector import FaceDetector, choose
from tf_sphereface.alignment.images import read_photo
from tf_sphereface.alignment.listing import find_images
from tf_sphereface.data import synthetic
from tf_sphereface.utils.files import write_json

Images = Sequence[NDArray[np.uint8]]


def rendered(count: int) -> list[NDArray[np.uint8]]:
    """Return photographs of 250x250 pixels with one rendered face each."""
    faces = synthetic.faces(identities=list(range(count)), samples=[0] * count)
    photos = []
    for face in faces:
        photo = np.full((250, 250, 3), 120, np.uint8)
        photo[69:181, 77:173] = face
        photos.append(photo)
    return photos


def measure(images: Images, rounds: int, jobs: int) -> dict[str, Any]:
    """Let both find the faces in all images, in turns.

    Returns:
        Rates in images per second, the ratio of each round, its median, seconds of CPU time per
        image (all threads together), and the faces found.
    """
    from mtcnn import MTCNN

    ours, theirs = FaceDetector(min_face=20), MTCNN()

    def here() -> int:
        with ThreadPoolExecutor(jobs) as pool:
            return sum(map(len, pool.map(ours, images)))

    def there() -> int:
        return sum(len(theirs.detect_faces(image)) for image in images)

    sides: dict[str, Callable[[], int]] = {"mtcnn": there, "tf_sphereface": here}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, int] = {}
    for call in (ours, theirs.detect_faces):
        call(images[0])  # traces and first allocations
    for _ in range(rounds):
        for name, side in sides.items():
            begin, used = time.perf_counter(), time.process_time()
            found[name] = side()
            cpu[name].append((time.process_time() - used) / len(images))
            rates[name].append(len(images) / (time.perf_counter() - begin))
    ratios = [b / a for a, b in zip(rates["mtcnn"], rates["tf_sphereface"], strict=True)]
    return {
        "images": len(images),
        "jobs": jobs,
        "rates": rates,
        "cpu_seconds": cpu,
        "found": found,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }


def measure_tight(images: Images, jobs: int) -> dict[str, dict[str, float]]:
    """Cut each image to its central face's box, and look for the face there.

    Returns:
        Cut (share of the box that is taken off at each side) -> how many faces were looked for, the
        shares found without and with the second look, which has a margin, and the median error of
        the points that the margin found, in pixels.
    """
    detector = FaceDetector(min_face=20)
    shares = (0.0, 0.05, 0.1, 0.15)

    def look(image: NDArray[np.uint8]) -> list[tuple[bool, bool, float]]:
        faces = choose(detector(image), (image.shape[0], image.shape[1]))
        results = []
        for share in shares if faces else ():
            x1, y1, x2, y2 = faces[0].box
            off = share * np.array([x2 - x1, y2 - y1])
            left, top = np.maximum(np.rint(faces[0].box[:2] + off), 0).astype(int)
            right, bottom = np.rint(faces[0].box[2:] - off).astype(int)
            crop = np.ascontiguousarray(image[top:bottom, left:right])
            size = (crop.shape[0], crop.shape[1])
            at_once, found = detector._look(crop), choose(detector(crop), size)
            error = float("nan")
            if found and not at_once:
                moved = found[0].points + np.array([left, top]) - faces[0].points
                error = float(np.hypot(*moved.T).mean())
            results.append((bool(at_once), bool(found), error))
        return results

    with ThreadPoolExecutor(jobs) as pool:
        looks = np.array([rows for rows in pool.map(look, images) if rows], float)
    return {
        f"{share:.0%}": {
            "faces": len(looks),
            "without": float(np.mean(looks[:, i, 0])),
            "with": float(np.mean(looks[:, i, 1])),
            "error": float(np.nanmedian(looks[:, i, 2])),
        }
        for i, share in enumerate(shares)
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="photographs to look at")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="how many of them")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--tight", action="store_true", help="faces found in tight crops")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    if args.images is None:
        images = rendered(args.count)
    else:
        names = find_images(args.images)[: args.count]
        images = [read_photo(args.images / name) for name in names]
    cv2.setNumThreads(1)
    if args.tight:
        for cut, rates in measure_tight(images, args.jobs).items():
            print(
                f"box less {cut} at each side: {rates['faces']} faces, found without a margin "
                f"{rates['without']:.2%}, with {rates['with']:.2%}; error of the others' points "
                f"{rates['error']:.2f} pixels"
            )
        return 0
    result = measure(images, args.rounds, args.jobs)
    for name, rates in result["rates"].items():
        used = statistics.median(result["cpu_seconds"][name])
        print(
            f"{name:14s} {statistics.median(rates):7.1f} images/s, {1000 * used:.0f} ms of CPU "
            f"time per image, {result['found'][name]} faces"
        )
    low, high = min(result["ratios"]), max(result["ratios"])
    print(f"ratio {result['ratio']:.1f} ({low:.1f}-{high:.1f}), {args.jobs} threads")
    if args.json is not None:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
