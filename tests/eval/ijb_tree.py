"""A made-up set in the layout of IJB-C: pictures with a face in each, and the lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tf_sphereface.alignment.template import TEMPLATES

GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
NOISE = 150  # of the faces: people are mistaken for each other


@dataclasses.dataclass
class Line:
    """An image in a template."""

    image: str
    template: int
    media: int
    subject: int
    score: float
    face: np.ndarray


@dataclasses.dataclass
class Tree:
    root: Path
    subset: str
    lines: list[Line]
    pairs: list[tuple[int, int, bool]]
    galleries: dict[str, dict[int, int]]  # name -> template -> subject
    probes: dict[int, int]

    def meta(self, name: str) -> Path:
        return self.root / "meta" / f"{self.subset}_{name}"


def make_tree(
    root: Path, face: Callable[..., np.ndarray], subset: str = "ijbc", people: int = 10
) -> Tree:
    """Write a set: three templates per person, the first in a gallery, the others probes."""
    rng = np.random.default_rng(7)
    lines: list[Line] = []
    subject_of: dict[int, int] = {}
    media = 500
    for person in range(people):
        for number in range(3):
            template = 1000 - 7 * (3 * person + number)  # not in the order of the lists
            subject_of[template] = person + 40
            for sizes in ([1], [3, 1], [2])[(person + number) % 3]:
                media += 1
                for _ in range(sizes):
                    name = f"{len(lines) + 1}.jpg"
                    picture = face(person, len(lines), NOISE)
                    score = round(float(rng.uniform(0.2, 1)), 6)
                    lines.append(Line(name, template, media, person + 40, score, picture))
    templates = sorted(subject_of)
    pairs = [
        (a, b, subject_of[a] == subject_of[b])
        for k, a in enumerate(templates)
        for b in templates[k + 1 :]
    ]
    rng.shuffle(pairs)
    first = {1000 - 21 * person: person + 40 for person in range(people)}
    names = GALLERIES[subset]
    galleries = {
        name: {t: s for t, s in first.items() if s % 2 == half} for half, name in enumerate(names)
    }
    probes = {t: s for t, s in subject_of.items() if t not in first}
    tree = Tree(root, subset, lines, [(a, b, bool(c)) for a, b, c in pairs], galleries, probes)
    write_tree(tree, rng)
    return tree


def write_tree(tree: Tree, rng: np.random.Generator) -> None:
    """Write the pictures, each with its face somewhere in noise, and the lists."""
    (tree.root / "loose_crop").mkdir(parents=True)
    (tree.root / "meta").mkdir()
    points_lines = []
    for line in tree.lines:
        height, width = line.face.shape[:2]
        x, y = (int(n) for n in rng.integers(3, 20, 2))
        picture = rng.integers(0, 256, (height + 30, width + 30, 3), np.uint8)
        picture[y : y + height, x : x + width] = line.face
        encoded = cv2.imencode(".png", picture[..., ::-1])[1]  # content decides, not the suffix
        (tree.root / "loose_crop" / line.image).write_bytes(encoded.tobytes())
        points = TEMPLATES[height, width] + np.array([x, y])
        numbers = " ".join(f"{n:.6f}" for n in points.ravel())
        points_lines.append(f"{line.image} {numbers} {line.score}")
    text = {
        "face_tid_mid.txt": [f"{one.image} {one.template} {one.media}" for one in tree.lines],
        "template_pair_label.txt": [f"{a} {b} {int(same)}" for a, b, same in tree.pairs],
        "name_5pts_score.txt": points_lines,
    }
    for name, owners in {
        **{f"1N_gallery_{k}.csv": v for k, v in tree.galleries.items()},
        "1N_probe_mixed.csv": tree.probes,
    }.items():
        text[name] = ["TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID"]
        for template, subject in owners.items():
            images = [one.image for one in tree.lines if one.template == template]
            text[name] += [f"{template},{subject},img/{image},1" for image in images]
    for name, rows in text.items():
        tree.meta(name).write_text("\n".join(rows) + "\n")


def append(path, text):
    path.write_text(path.read_text() + text)
