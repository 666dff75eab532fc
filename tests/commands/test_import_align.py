"""`tf_sphereface-align` and `tf_sphereface-import` as a user runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from tf_sphereface.alignment.align import TEMPLATES
from tf_sphereface.alignment.align import align as align_image
from tf_sphereface.alignment.images import read_image
from tf_sphereface.commands import import_
from tf_sphereface.commands.align import main
from tf_sphereface.embedder import card_of, load_embedder, read_metadata

POINTS = TEMPLATES[112, 96] * 1.5 + 20
TEN = "\t".join(map(str, POINTS.ravel()))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs of two people, and their landmarks."""
    rng = np.random.default_rng(0)
    lines = []
    for name in ("A/A_0001.jpg", "A/A_0002.png", "B/B_0001.bmp"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (6, 5, 3), np.uint8), (200, 240)))
        lines.append("\t".join([name, *map(str, (POINTS + rng.normal(size=(5, 2))).ravel())]))
    (tmp_path / "landmarks.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(root: Path, *options: str) -> int:
    arguments = [str(root / "photos"), str(root / "faces"), "--jobs", "2"]
    if "--landmarks" not in options:
        arguments += ["--landmarks", str(root / "landmarks.tsv")]
    return main.main([*arguments, *options])


def faces(root: Path) -> list[str]:
    folder = root / "faces"
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".align.jsonl"]
    return sorted(str(path.relative_to(folder)) for path in paths)


def test_align_writes_what_align_gives(photos, capsys) -> None:
    assert run(photos) == 0
    assert "3 faces of 112x96 written, 0 were there, 0 failed" in capsys.readouterr().out
    assert faces(photos) == ["A/A_0001.jpg", "A/A_0002.png", "B/B_0001.png"]
    name, *numbers = (photos / "landmarks.tsv").read_text().splitlines()[1].split("\t")
    expected = align_image(
        read_image(photos / "photos" / name), np.array(numbers, float).reshape(5, 2)
    )
    np.testing.assert_array_equal(read_image(photos / "faces" / name), expected)


def test_align_resumes(photos, capsys) -> None:
    run(photos)
    kept, removed = photos / "faces/A/A_0001.jpg", photos / "faces/A/A_0002.png"
    removed.unlink()
    before = kept.stat().st_mtime_ns
    assert run(photos) == 0
    assert "1 faces of 112x96 written, 2 were there" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before
    assert run(photos, "--overwrite") == 0
    assert kept.stat().st_mtime_ns > before


def change_points(root: Path) -> None:
    path = root / "landmarks.tsv"
    first, *others = path.read_text().splitlines()
    name, x, *numbers = first.split("\t")
    path.write_text("\n".join(["\t".join([name, str(float(x) + 9), *numbers]), *others]) + "\n")


def change_image(root: Path) -> None:
    path = root / "photos/A/A_0001.jpg"
    cv2.imwrite(str(path), cv2.imread(str(path))[::-1])


@pytest.mark.parametrize("change", [change_points, change_image])
def test_align_does_again_what_has_changed(photos, capsys, change) -> None:
    run(photos)
    names = ("A/A_0001.jpg", "A/A_0002.png")
    first, second = (photos / "faces" / name for name in names)
    before = first.read_bytes(), second.stat().st_mtime_ns
    change(photos)
    capsys.readouterr()
    assert run(photos) == 0
    assert "1 faces of 112x96 written, 2 were there" in capsys.readouterr().out
    assert first.read_bytes() != before[0]
    assert second.stat().st_mtime_ns == before[1]
    assert run(photos) == 0
    assert "0 faces of 112x96 written, 3 were there" in capsys.readouterr().out


def test_align_does_not_mix_settings(photos, capsys) -> None:
    run(photos)
    assert run(photos, "--size", "112x112") == 0
    assert "3 faces of 112x112 written, 0 were there" in capsys.readouterr().out
    assert {read_image(photos / "faces" / name).shape for name in faces(photos)} == {(112, 112, 3)}
    assert run(photos, "--quality", "50") == 0
    assert "3 faces of 112x96 written, 0 were there" in capsys.readouterr().out
    assert run(photos, "--format", "jpg") == 0
    assert faces(photos) == ["A/A_0001.jpg", "A/A_0002.jpg", "B/B_0001.jpg"]


def test_align_keeps_files_from_elsewhere_and_says_so(photos, capsys) -> None:
    """A face of the right size is not taken for done, because nobody knows by which points."""
    path = photos / "faces/A/A_0002.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((112, 96, 3), np.uint8))
    for _ in range(2):
        assert run(photos) == 1
        message = " ".join(capsys.readouterr().err.split())
        assert "A_0002.png is there already, from elsewhere; --overwrite replaces it" in message
        assert not read_image(path).any()
    assert len(faces(photos)) == 3
    assert run(photos, "--overwrite") == 0
    assert read_image(path).any()


def test_align_of_another_folder(photos, capsys) -> None:
    run(photos)
    before = {name: (photos / "faces" / name).read_bytes() for name in faces(photos)}
    (photos / "photos").rename(photos / "old")
    (photos / "photos").mkdir()
    (photos / "old/A").rename(photos / "photos/A")
    (photos / "old/B").rename(photos / "photos/B")
    assert run(photos) == 0  # the same path
    other = [str(photos / "copy"), str(photos / "faces")]
    (photos / "photos").rename(photos / "copy")
    capsys.readouterr()
    assert main.main([*other, "--landmarks", str(photos / "landmarks.tsv")]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert f"from {photos}/photos/A/A_0001.jpg; --overwrite replaces it" in message
    assert {name: (photos / "faces" / name).read_bytes() for name in faces(photos)} == before


def test_align_resumes_at_every_line(photos, capsys) -> None:
    run(photos, "--jobs", "1")
    journal = photos / "faces/.align.jsonl"
    lines = journal.read_text().splitlines()
    for count, line in enumerate(lines):
        journal.write_text("".join(f"{whole}\n" for whole in lines[:count]) + line[:20])
        done = [value for value in map(json.loads, lines[:count]) if "written" in value]
        claimed = [file for whole in lines[:count] for file in json.loads(whole)["files"]]
        for name in set(faces(photos)).difference(claimed):
            (photos / "faces" / name).unlink()
        capsys.readouterr()
        assert run(photos) == 0
        expected = f"{3 - len(done)} faces of 112x96 written, {len(done)} were there"
        assert expected in capsys.readouterr().out


def test_align_reports_failures_and_writes_the_rest(photos, capsys) -> None:
    (photos / "photos/A/A_0001.jpg").write_bytes(b"broken")
    (photos / "photos/B/B_0001.bmp").unlink()
    assert run(photos, "--json", str(photos / "report.json")) == 1
    message = capsys.readouterr().err
    assert "2 images could not be aligned" in message
    report = json.loads((photos / "report.json").read_text())
    assert list(report["failed"]) == ["A/A_0001.jpg", "B/B_0001.bmp"]
    assert "truncated or not an image" in report["failed"]["A/A_0001.jpg"]
    assert report["failed"]["B/B_0001.bmp"] == "missing"
    assert (report["written"], report["already_there"]) == (1, 0)
    assert faces(photos) == ["A/A_0002.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("../secret.jpg" + "\t1" * 10, "outside SRC"),
        ("/etc/passwd" + "\t1" * 10, "outside SRC"),
        ("# nothing", "names no image"),
        ("a.jpg\t1", "expected a path and 10 numbers"),
        (f"a.bmp\t{TEN}\na.tif\t{TEN}\na_tif.png\t{TEN}", "would both be written to a_tif.png"),
        ("a.jpg" + "\t1" * 10, "all in one place"),
    ],
)
def test_align_refuses_a_landmark_file(photos, capsys, text, message) -> None:
    (photos / "bad.tsv").write_text(text + "\n")
    assert run(photos, "--landmarks", str(photos / "bad.tsv")) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (photos / "faces").exists()


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_align_takes_names_of_any_bytes_and_of_255(photos, capsys) -> None:
    source = photos / "photos/A/A_0002.png"
    odd = [b"caf\xe9.png", b"x" * 251 + b".png", b"y" * 246 + b".webp", b"z" * 255]
    lines = []
    for name in odd:
        path = photos / "photos" / os.fsdecode(name)
        path.write_bytes(source.read_bytes())
        lines.append(name + b"\t" + TEN.encode())
    (photos / "odd.tsv").write_bytes(b"\n".join(lines))
    options = ["--landmarks", str(photos / "odd.tsv"), "--json", str(photos / "x.json")]
    assert run(photos, *options) == 0
    assert "4 faces of 112x96 written" in capsys.readouterr().out
    made = [os.fsencode(name) for name in faces(photos)]
    assert odd[0] in made
    assert odd[1] in made
    assert sorted(map(len, made)) == [8, 250, 255, 255]
    assert all(name.endswith(b".png") for name in made)
    assert run(photos, *options) == 0
    assert "0 faces of 112x96 written, 4 were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"), [(["--quality", "0"], "--quality"), (["--jobs", "0"], "--jobs")]
)
def test_align_refuses_options(photos, capsys, options, message) -> None:
    assert run(photos, *options) == 2
    assert message in capsys.readouterr().err


def test_align_never_replaces_the_images(photos, capsys) -> None:
    folder = str(photos / "photos")
    assert main.main([folder, folder, "--landmarks", str(photos / "landmarks.tsv")]) == 2
    assert "another folder than SRC" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", [main, import_])
def test_help_teaches(command, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "exit code:" in text


def test_import_writes_an_embedder(real_data, tmp_path, capsys) -> None:
    folder = real_data / "mobilefacenet"
    checkpoint, out = folder / "mobilefacenet_casia_068.ckpt", tmp_path / "model.keras"
    options = ["--out", str(out), "--json", str(tmp_path / "x.json")]
    assert import_.main([str(checkpoint), *options]) == 0
    said = capsys.readouterr().out
    assert "112x96 RGB to 128 numbers, 1.00 M parameters" in said
    assert "recognised: mobilefacenet, a PyTorch checkpoint" in said
    assert "read: the tensors under " in said
    metadata = read_metadata(out)
    assert metadata is not None
    assert (metadata.input_size, metadata.embedding_dim) == ((112, 96), 128)
    assert (metadata.channel_order, metadata.template) == ("rgb", "112x96")
    assert metadata.architecture == "MobileFaceNet"
    assert metadata.normalized is False
    assert metadata.extra["licence"] == "unknown"
    assert metadata.source_hash == json.loads((tmp_path / "x.json").read_text())["source_hash"]
    parity = np.load(folder / "parity.npz")
    embeddings = load_embedder(out)(parity["images"][:4])
    # float32 sums in another order
    np.testing.assert_allclose(embeddings, parity["embeddings"][:4], atol=2e-4)
    assert isinstance(keras.models.load_model(out), keras.Model)
    card = card_of(out)
    assert card["licence"] == "unknown"
    assert card["architecture"] == {
        "name": "MobileFaceNet",
        "parameters": 999552,
        "macs": 189408256,
    }
    assert "| licence of the weights | unknown |" in (tmp_path / "model.keras.card.md").read_text()


def test_import_of_something_else(tmp_path, capsys) -> None:
    (tmp_path / "page.ckpt").write_text("<html>not found</html>")
    options = ["--arch", "mobilefacenet", "--out", str(tmp_path / "model.keras")]
    assert import_.main([str(tmp_path / "page.ckpt"), *options]) == 2
    assert "page.ckpt: not a PyTorch checkpoint but a web page" in capsys.readouterr().err
    for wrong, message in ((tmp_path, "but a folder: "), (tmp_path / "no.pth", "no such file: ")):
        assert import_.main([str(wrong), *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "model.keras").exists()
    assert import_.main([str(tmp_path / "page.ckpt"), *options[:-1], "model.h5"]) == 2
    assert "--out must end in .keras" in capsys.readouterr().err
