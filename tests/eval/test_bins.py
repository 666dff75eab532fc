"""insightface's .bin sets: what is read, what is refused, and the figures."""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_sphereface.commands.eval.main import main
from tf_sphereface.embedder import load_embedder
from tf_sphereface.eval import bins, lfw
from tf_sphereface.eval.bins import BinSet, insightface_figures, read_bin, write_bin
from tf_sphereface.eval.scoring.precomputed import StoredEmbeddings
from tf_sphereface.utils import safe_pickle

IMAGES = [f"image {k}".encode() for k in range(40)]
SAME = [True, False] * 10


def ways_to_write() -> dict[str, object]:
    """The kinds of content that are in circulation."""
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    return {
        "lists": (IMAGES, SAME),
        "a list of both": [IMAGES, SAME],
        "arrays of bytes": (arrays, SAME),
        "columns of bytes": ([array[:, None] for array in arrays], np.array(SAME)[:, None]),
        "rows of bytes": ([array[None] for array in arrays], SAME),
        "one array of strings": (np.array(IMAGES), SAME),
        "NumPy's bytes": ([np.bytes_(image) for image in IMAGES], np.array(SAME, np.uint8)),
        "bytearrays": ([bytearray(image) for image in IMAGES], SAME),
        "text of Python 2, read as latin1": ([image.decode("latin1") for image in IMAGES], SAME),
        "an array of labels": (IMAGES, np.array(SAME)),
        "labels of NumPy": (IMAGES, [np.bool_(label) for label in SAME]),
        "labels as numbers": (IMAGES, np.array(SAME, np.int64)),
        "tuples": (tuple(IMAGES), tuple(SAME)),
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("way", ways_to_write())
def test_reads_what_is_in_circulation(tmp_path, way, protocol):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(ways_to_write()[way], protocol))
    found = read_bin(path)
    assert found.images == IMAGES
    assert found.is_same.tolist() == SAME


def test_reads_a_pickle_of_python_2(tmp_path):
    # cPickle's protocol 2: text is bytes, NumPy's module has its old name, labels are an array.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x14\x85cnumpy\ndtype\nU\x02b1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x14" + bytes(SAME) + b"tb"
    )
    strings = b"".join(b"U" + bytes([len(i)]) + i for i in IMAGES)
    path = tmp_path / "old.bin"
    path.write_bytes(b"\x80\x02](" + strings + b"e" + array + b"\x86.")
    found = read_bin(path)
    assert found.images == IMAGES
    assert found.is_same.tolist() == SAME


def test_reads_text_of_python_2_that_is_no_ascii(tmp_path):
    # Its protocol 0 writes a string as its repr: \xff is four characters, and a byte when read.
    images = [bytes([0xFF, 0xD8, number, 0x0A, 0x27]) for number in range(40)]
    strings = "".join(f"S{repr(image)[1:]}\na" for image in images)
    labels = "".join(f"I0{int(label)}\na" for label in SAME)
    path = tmp_path / "old.bin"
    path.write_bytes(f"((l{strings}(l{labels}t.".encode())
    found = read_bin(path)
    assert (found.images, found.is_same.tolist()) == (images, SAME)


def test_what_is_written_is_read_and_by_plain_pickle_too(tmp_path):
    path = tmp_path / "a.bin"
    write_bin(path, IMAGES, np.array(SAME))
    found = read_bin(path)
    assert (found.images, found.is_same.tolist()) == (IMAGES, SAME)
    with path.open("rb") as file:
        assert pickle.load(file, encoding="bytes") == (IMAGES, SAME)
    with pytest.raises(ValueError, match="two per pair"):
        write_bin(path, IMAGES[:-1], SAME)


class Runs:
    """What a hostile pickle holds: unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def hostile(target: str) -> dict[str, bytes]:
    """Pickles that would make the folder `target`, or break the process, if they were run."""
    mkdir = f"(V{target}\nl"
    return {
        "os": pickle.dumps((IMAGES, [Runs(os.mkdir, target)])),
        "os, protocol 0": pickle.dumps((IMAGES, [Runs(os.mkdir, target)]), 0),
        "eval": pickle.dumps((IMAGES, Runs(eval, f"__import__('os').mkdir({target!r})"))),
        "getattr": b"cbuiltins\ngetattr\n.",
        "INST": f"(V{target}\nios\nmkdir\n.".encode(),
        "OBJ": f"(cos\nmkdir\nV{target}\no.".encode(),
        "NEWOBJ": f"cos\nmkdir\n(V{target}\nt\x81.".encode(),
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.dump\x93.",
        "numpy's own functions": b"cnumpy\nload\n(Vx\ntR.",
        "numpy.testing": b"cnumpy.testing._private.utils\nrunstring\n(Vx\n}tR.",
        "a persistent id": b"Psomething\n.",
        "an extension": b"\x82\x01.",
        "a dictionary": pickle.dumps({"images": IMAGES}),
        "a set": pickle.dumps({1, 2}, 4),
        "BUILD on a stand-in": b"cnumpy\nndarray\n}(V__call__\nI1\nsb.",
        "a memo of 32 GB": b"](Nr\xf0\xff\xff\xffe.",
        "objects in an array": pickle.dumps((IMAGES, np.array([Runs(os.mkdir, target)], object))),
        "an array that is too short": pickle.dumps(np.zeros(3, np.uint8), 2).replace(
            b"K\x03\x85", b"K\x7f\x85"
        ),
        "text of strings": mkdir.encode() + b".",
        "bytes of 2**60": b"\x8e" + struct.pack("<Q", 2**60) + b".",
        "a bytearray of 2**60": b"\x96" + struct.pack("<Q", 2**60) + b".",
        "a list in itself": b"]q\x00(h\x00h\x00e.",
        "nothing": b"",
        "half of a set": pickle.dumps((IMAGES, SAME))[:200],
    }


@pytest.mark.parametrize("kind", hostile("x"))
def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(tmp_path, kind):
    target = tmp_path / "harm"
    path = tmp_path / "a.bin"
    path.write_bytes(hostile(str(target))[kind])
    with pytest.raises(ValueError, match=r"a\.bin is no \.bin set: "):
        read_bin(path)
    assert not target.exists()


def test_the_hostile_pickles_are_hostile(tmp_path):
    target = tmp_path / "harm"
    for kind in ("os", "eval", "INST", "OBJ"):
        pickle.loads(hostile(str(target))[kind])
        assert target.is_dir(), kind
        target.rmdir()


INSTRUCTIONS = st.lists(st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(INSTRUCTIONS.map(b"".join), st.binary(max_size=9)), max_size=6))
def test_any_bytes_give_plain_values_or_a_value_error(parts):
    try:
        found = safe_pickle.loads(b"".join(parts) + b".")
    except ValueError:
        return
    assert isinstance(
        found, list | tuple | bytes | bytearray | str | bool | int | None | np.ndarray
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_set_is_read_as_bytes_or_refused(data):
    whole = bytearray(pickle.dumps((IMAGES[:4], np.array(SAME[:2])), 4))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = safe_pickle.loads(bytes(whole))
    except ValueError:
        return
    assert not callable(found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES, SAME[:-1]), "must hold two images per label"),
        (([], []), "a label at least"),
        (IMAGES, "not a list of images and a list of labels"),
        ((SAME, IMAGES), "image 0 must be bytes"),
        ((IMAGES[:1] + [None] * 39, SAME), "image 1 must be bytes.* Received: NoneType"),
        ((IMAGES, [0, 2] * 10), "labels must be True or False"),
        (([np.zeros((2, 2), np.uint8)] * 40, SAME), "image 0 must be bytes"),
    ],
)
def test_sets_that_do_not_fit_are_refused(tmp_path, content, message):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_bin(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "a web page, not the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"", "empty: the download failed"),
        (b"PK\x03\x04rest", "a zip archive"),
    ],
)
def test_what_downloads_leave_is_named(tmp_path, content, what):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.bin is no \.bin set: it is {what}"):
        read_bin(path)


def test_fewer_pairs_than_folds_are_a_fold_each():
    pairs = BinSet([b""] * 8, np.array([True, False] * 2)).pairs()
    assert pairs.folds.tolist() == [1, 2, 3, 4]


def test_a_subset_keeps_order_classes_and_their_shares():
    same = np.array([True] * 30 + [False] * 60)
    images = [str(k).encode() for k in range(180)]
    some = BinSet(images, same, "a.bin").subset(30)
    assert some.is_same.tolist() == [True] * 10 + [False] * 20
    chosen = [int(image) for image in some.images]
    assert chosen == sorted(chosen)
    assert all(left + 1 == right for left, right in zip(chosen[::2], chosen[1::2], strict=True))
    assert chosen[0] == 0
    assert chosen[20] == 60
    assert some.name == "a.bin"
    assert BinSet(images, same).subset(90).images is images
    assert BinSet(images[:40], np.arange(20) == 7).subset(2).is_same.tolist().count(True) == 1


def test_folds_are_ten_parts_in_the_file_s_order():
    pairs = BinSet([b""] * 46, np.array([True, False] * 11 + [True])).pairs()
    assert np.bincount(pairs.folds)[1:].tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert pairs.folds.tolist() == sorted(pairs.folds.tolist())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.booleans()), min_size=20, max_size=45))
def test_insightface_s_search_equals_the_naive_one(naive, pairs):
    # Cosines k / 64 + 1 / 1024: squared distances that are no multiples of 0.01.
    scores, same = [k / 64 + 1 / 1024 for k, _ in pairs], [y for _, y in pairs]
    folds = BinSet([b""] * 2 * len(same), np.array(same)).pairs().folds
    found = insightface_figures(np.array(scores), np.array(same), folds)
    assert found == pytest.approx(naive.insightface(scores, same), abs=1e-12)


@pytest.fixture(scope="module")
def faces(make_face):
    """20 pairs: two images of one person, then one of the next and one of another."""
    rows = [(k, 0) if i == 0 else (k + k % 2, 1) for k in range(20) for i in (0, 1)]
    return np.stack([make_face(*row) for row in rows])


def encode(face: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(face[..., ::-1]))[1].tobytes()


def test_the_protocol_adds_the_mirror_image_and_scales(naive, embedder, faces):
    same = np.array([k % 2 == 0 for k in range(20)])
    result = bins.evaluate(embedder, BinSet([encode(face) for face in faces], same))
    vectors = embedder(faces).astype(float) + embedder(faces[:, :, ::-1])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sum(vectors[::2] * vectors[1::2], axis=1)
    assert result.headline_key == ("sum", "plain")
    assert result.headline.scores == pytest.approx(scores, abs=1e-6)
    expected = naive.insightface(result.headline.scores.tolist(), same.tolist())
    assert (result.insightface_accuracy, result.insightface_std) == pytest.approx(expected)
    assert "image and mirror image, summed" in result.protocol
    alone = bins.evaluate(embedder, BinSet([encode(face) for face in faces], same), flip=False)
    assert alone.headline_key == ("none", "plain")


def test_112x112_faces_are_cut_to_the_other_template(embedder, half_embedder, faces):
    same = np.array([k % 2 == 0 for k in range(20)])
    wide = [encode(np.pad(face, ((0, 0), (8, 8), (0, 0)), mode="edge")) for face in faces]
    narrow = bins.evaluate(embedder, BinSet([encode(face) for face in faces], same))
    cut = bins.evaluate(embedder, BinSet(wide, same))
    assert cut.headline.scores.tolist() == narrow.headline.scores.tolist()
    half = bins.evaluate(half_embedder, BinSet(wide, same))
    # Both average the same colours over the same areas, with one rounding between.
    assert half.headline.scores == pytest.approx(narrow.headline.scores, abs=5e-3)


def test_images_that_cannot_be_used_are_all_listed(embedder, faces):
    images = [encode(face) for face in faces]
    images[3], images[7] = b"nothing", encode(faces[7][:50])
    with pytest.raises(ValueError, match=r"^2 of 40 images in a \.bin set") as error:
        bins.evaluate(embedder, BinSet(images, np.array(SAME)))
    assert "3: cannot be decoded" in str(error.value)
    assert "7: 50x96 pixels, not 112x96" in str(error.value)


def test_stored_embeddings_of_a_set(faces, embedder):
    data = BinSet([encode(face) for face in faces], np.array(SAME))
    expected = bins.evaluate(embedder, data).headline.scores
    mirrored = np.ascontiguousarray(faces[:, :, ::-1])
    names = [str(k) for k in range(40)]
    stored = StoredEmbeddings(None, names, embedder(faces), embedder(mirrored))
    assert bins.evaluate(stored, data).headline.scores == pytest.approx(expected, abs=1e-6)


def test_a_list_of_pairs_becomes_a_set(lfw_folder, save_pixels, capsys, tmp_path):
    model = save_pixels(tmp_path / "pixels.keras")
    out, report = tmp_path / "lfw.bin", tmp_path / "report.json"
    images, pairs = str(lfw_folder / "images"), str(lfw_folder / "pairs.txt")
    listed = ["--images", images, "--pairs", pairs]
    assert main(["make-bin", str(out), *listed, "--size", "112x96"]) == 0
    assert "24 pairs of 30 images" in " ".join(capsys.readouterr().out.split())
    jpeg = (lfw_folder / "images" / "P00" / "P00_0001.jpg").read_bytes()
    assert read_bin(out).images[0] == jpeg  # as it is: it has the size already
    assert main(["bin", str(model), str(out), "--json", str(report), "--cache", str(tmp_path)]) == 0
    assert "By insightface's search" in " ".join(capsys.readouterr().out.split())
    assert json.loads(report.read_text())["headline"]["flip"] == "sum"
    whole = lfw.evaluate(model, images, pairs)
    alone = bins.evaluate(model, out).table["none", "plain"]
    assert alone.scores == pytest.approx(whole.table["none", "plain"].scores, abs=1e-6)
    again = bins.evaluate(load_embedder(model), out, cache=tmp_path)
    assert again.table["none", "plain"].scores.tolist() == pytest.approx(alone.scores.tolist())


def test_images_may_have_another_suffix_than_the_list(lfw_folder, tmp_path):
    from tf_sphereface.eval.pairs import read_pairs

    pairs = read_pairs(lfw_folder / "pairs.txt")
    names = pairs.images()[0]
    for name in names:
        image = cv2.imread(str(lfw_folder / "images" / name))
        target = (tmp_path / "png" / name).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), image)
    count = bins.write_bin_of_pairs(
        tmp_path / "a.bin", tmp_path / "png", pairs, size=image.shape[:2]
    )
    assert count == len(names)
    assert read_bin(tmp_path / "a.bin").images[0].startswith(b"\x89PNG")


def test_pictures_that_need_aligning_go_in_without_loss(lfw_folder, tmp_path):
    from tf_sphereface.alignment.align import TEMPLATES, align
    from tf_sphereface.alignment.images import decode_image, read_image
    from tf_sphereface.eval.pairs import read_pairs

    pairs = read_pairs(lfw_folder / "pairs.txt")
    points = dict.fromkeys(pairs.images()[0], TEMPLATES[112, 96] + 3)
    out = tmp_path / "a.bin"
    bins.write_bin_of_pairs(out, lfw_folder / "images", pairs, points)
    found = decode_image(read_bin(out).images[1], "1")
    name = pairs.right[0]
    expected = align(read_image(lfw_folder / "images" / name), points[name], (112, 112))
    assert np.array_equal(found, expected)
    with pytest.raises(ValueError, match=r"(?s)^30 of 30 images .* 112x96 pixels, not 112x112"):
        bins.write_bin_of_pairs(out, lfw_folder / "images", pairs)
