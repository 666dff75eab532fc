from __future__ import annotations

import dataclasses
import json
import zipfile

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_sphereface as sf
from tf_sphereface.commands.eval.main import main
from tf_sphereface.commands.verify import main as verify
from tf_sphereface.embedder import (
    EmbedderMetadata,
    load_embedder,
    metadata_rewriting,
    read_metadata,
    save_embedder,
)
from tf_sphereface.embedder.metadata_rewriting import replace_metadata
from tf_sphereface.embedder.model_hashes import external_data_files
from tf_sphereface.eval.calibration import (
    _bootstrap,
    _choose,
    _interval,
    _threshold,
    calibrate,
    store,
)

PEOPLE = 24


@pytest.fixture(scope="module")
def faces(tmp_path_factory, make_face, write_image):
    root = tmp_path_factory.mktemp("faces")
    for person in range(PEOPLE):
        for number in range(4):
            write_image(root / f"P{person:02d}" / f"{number}.png", make_face(person, number))
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory, network):
    """The same network as each kind of file, with metadata of its own."""
    root = tmp_path_factory.mktemp("models")
    metadata = EmbedderMetadata(loss="none", flip="concat")
    save_embedder(network, root / "pixels.keras", metadata)
    sf.export.export_tflite(network, root / "pixels.tflite", metadata=metadata)
    sf.export.export_onnx(network, root / "pixels.onnx", metadata=metadata)
    return root


def copied(models, tmp_path, suffix):
    path = tmp_path / f"pixels{suffix}"
    path.write_bytes((models / path.name).read_bytes())
    return path


@pytest.mark.parametrize("suffix", [".keras", ".tflite", ".onnx"])
def test_the_command_writes_what_verify_uses(models, faces, tmp_path, capsys, suffix):
    path, out = copied(models, tmp_path, suffix), tmp_path / "out.json"
    path.chmod(0o640)
    sidecar = tmp_path / f"{path.name}.json"
    sidecar.write_text("{}")
    probe = np.random.default_rng(1).integers(0, 256, (3, 112, 96, 3)).astype(np.uint8)
    before = load_embedder(path)
    expected = before(probe)
    assert main(["calibrate", str(path), str(faces), "--far", "0.01", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "threshold 0." in printed
    assert f"% of {PEOPLE * 6} genuine pairs" in " ".join(printed.split())
    after = load_embedder(path)
    np.testing.assert_array_equal(after(probe), expected)
    found = json.loads(out.read_text())
    assert after.metadata.extra["calibration"] == found
    assert (after.metadata.threshold, after.metadata.threshold_far) == (found["threshold"], 0.01)
    assert after.metadata.flip == found["flip"] == "concat"
    unchanged = ("loss", "input_size", "versions", "source_hash", "pixel_mean")
    for name in unchanged:
        assert getattr(after.metadata, name) == getattr(before.metadata, name)
    assert EmbedderMetadata.from_json(sidecar.read_text()) == read_metadata(path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert {p.name for p in tmp_path.iterdir()} == {path.name, sidecar.name, "out.json"}

    # The rate holds on the very pairs, by the very command that uses the threshold.
    assert found["impostor_pairs"] == PEOPLE * (PEOPLE - 1) // 2 * 16
    assert found["genuine_pairs"] == PEOPLE * 6
    assert 0 < found["measured_far"] <= 0.01
    low, high = found["threshold_interval"]
    assert low < found["threshold"] < high
    for second, code in (("P00/1.png", 0), ("P01/0.png", 1)):
        assert verify.main([str(path), str(faces / "P00/0.png"), str(faces / second)]) == code
        printed = " ".join(capsys.readouterr().out.split())
        assert f"cosine {found['threshold']:.4f} (from the model)" in printed
        assert "calibrated for a false accept rate of 0.01 on 4,416 impostor pairs" in printed
        assert "Note" not in printed


def test_the_rest_of_a_keras_file_is_the_same_to_the_byte(models, faces, tmp_path):
    path = copied(models, tmp_path, ".keras")
    store(calibrate(path, faces, 0.05), path)
    with zipfile.ZipFile(models / path.name) as old, zipfile.ZipFile(path) as new:
        assert new.testzip() is None
        assert sorted(old.namelist()) == sorted(new.namelist())
        for name in set(old.namelist()) - {"tf_sphereface.json"}:
            assert old.read(name) == new.read(name)


def test_an_export_says_that_its_threshold_is_of_the_keras_model(
    models, faces, tmp_path, capsys, network
):
    path = copied(models, tmp_path, ".keras")
    store(calibrate(path, faces, 0.05), path)
    metadata = read_metadata(path)
    exported = tmp_path / "made.onnx"
    sf.export.export_onnx(network, exported, metadata=metadata)
    face = str(faces / "P00/0.png")
    verify.main([str(exported), face, face])
    assert "measured on the .keras model" in " ".join(capsys.readouterr().out.split())
    replace_metadata(exported, dataclasses.replace(metadata, threshold=0.123))
    verify.main([str(exported), face, face])
    printed = capsys.readouterr().out
    assert "0.1230 (from the model)" in printed
    assert "calibrated" not in printed


@pytest.mark.parametrize("suffix", [".keras", ".tflite", ".onnx"])
@pytest.mark.parametrize("failure", ["disk", "another network", "lost"])
def test_a_failure_leaves_the_model_as_it_was(models, tmp_path, monkeypatch, suffix, failure):
    path = copied(models, tmp_path, suffix)
    content = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    if failure == "disk":
        monkeypatch.setattr(metadata_rewriting.shutil, "copymode", full)
    elif failure == "lost":
        monkeypatch.setattr(metadata_rewriting, "read_metadata", lambda path: None)
    else:
        real = metadata_rewriting.load_embedder

        def spoiled(file, **facts):
            embed = real(file, **facts)
            return embed if file == path else _Shifted(embed)

        monkeypatch.setattr(metadata_rewriting, "load_embedder", spoiled)
    with pytest.raises(OSError, match=r"No space|left as it was"):
        replace_metadata(path, EmbedderMetadata(threshold=0.5))
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_loses_no_threshold(models, faces, tmp_path, capsys, monkeypatch):
    path = copied(models, tmp_path, ".keras")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metadata_rewriting.shutil, "copymode", full)
    assert main(["calibrate", str(path), str(faces), "--far", "0.05"]) == 2
    printed = capsys.readouterr()
    assert "threshold 0." in printed.out
    assert "left as it was, without this threshold" in " ".join(printed.err.split())


class _Shifted:
    def __init__(self, embed):
        self.embed, self.input_size = embed, embed.input_size

    def __call__(self, images):
        return self.embed(images) + 0.1


def test_a_file_that_changed_meanwhile_is_left_alone(models, faces, tmp_path, network):
    path = copied(models, tmp_path, ".keras")
    found = calibrate(path, faces, 0.05)
    save_embedder(network, path, EmbedderMetadata(loss="another"))
    with pytest.raises(ValueError, match="has changed meanwhile"):
        store(found, path)
    assert read_metadata(path).loss == "another"
    assert read_metadata(path).threshold is None


def test_a_link_is_followed_and_dry_run_writes_nothing(models, faces, tmp_path):
    path = copied(models, tmp_path, ".keras")
    link = tmp_path / "link.keras"
    link.symlink_to(path)
    content = path.read_bytes()
    assert main(["calibrate", str(link), str(faces), "--dry-run"]) == 0
    assert path.read_bytes() == content
    assert main(["calibrate", str(link), str(faces), "--flip", "none"]) == 0
    assert link.is_symlink()
    assert read_metadata(path).flip == "none"


def test_pairs_of_a_file(models, faces, tmp_path):
    count = PEOPLE // 2
    lines = [f"1\t{count}", *(f"P{k:02d}\t0\t1" for k in range(count))]
    lines += [f"P{k:02d}\t0\tP{k + count:02d}\t1" for k in range(count)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"0.5: needs 20 impostor pairs, there are 12"):
        calibrate(models / "pixels.keras", faces, 0.5, pairs=tmp_path / "pairs.txt")
    # the list says P00_0000.jpg and so on, and the files of a folder are PNGs
    root = tmp_path / "faces"
    for person in range(PEOPLE):
        for number in (0, 1):
            source = faces / f"P{person:02d}" / f"{number}.png"
            target = root / f"P{person:02d}" / f"P{person:02d}_{number:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    found = calibrate(models / "pixels.keras", root, 0.9, pairs=tmp_path / "pairs.txt")
    assert found.impostor_pairs == PEOPLE // 2
    with pytest.raises(ValueError, match=r"missing"):
        calibrate(models / "pixels.keras", faces, 0.9, pairs=tmp_path / "pairs.txt")


def test_a_model_whose_weights_are_in_another_file_is_refused_before_the_work(
    models, faces, tmp_path, capsys
):
    model = onnx.load(models / "pixels.onnx")
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    if not external_data_files(path):
        pytest.fail("the model has no weights to keep elsewhere")
    assert main(["calibrate", str(path), str(faces), "--far", "0.5"]) == 2
    assert "whose weights are in another file, m.data" in " ".join(capsys.readouterr().err.split())


def test_hidden_files_and_folders_are_nobody(tmp_path):
    for name in ("P1/a.jpg", "P1/._a.jpg", "P2/b.jpg", ".ipynb_checkpoints/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names, left, right, same = _choose(tmp_path, None, 10, np.random.default_rng(0), False)
    assert names == ["P1/a.jpg", "P2/b.jpg"]
    assert (left.tolist(), right.tolist(), same.tolist()) == ([0], [1], [False])


def test_the_same_seed_gives_the_same(models, faces):
    def run(seed):
        found = calibrate(models / "pixels.keras", faces, 0.02, max_pairs=600, seed=seed)
        return dataclasses.replace(found, date="")

    assert run(3) == run(3)
    assert run(3).impostor_pairs == 600
    assert run(3).genuine_pairs == PEOPLE * 6
    assert run(3).threshold != run(4).threshold


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"far": 1e-4}, "0.0001: needs 100,000 impostor pairs, there are 4,416"),
        ({"far": 0.01, "max_pairs": 500}, "there are 500; max_pairs is 500"),
        ({"far": 1.0}, r"`far` must be a number in \(0, 1\). Received: far=1.0"),
        ({"flip": "both"}, "`flip` must be one of 'none', 'concat', 'sum'. Received: flip='both'"),
    ],
)
def test_what_cannot_be_calibrated(models, faces, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(models / "pixels.keras", faces, **options)


def test_thresholds_of_smaller_rates_are_those_of_a_calibration_of_their_own(models, faces):
    """As far down as the 4,416 impostor pairs go."""
    found = calibrate(models / "pixels.keras", faces, far=0.05)
    assert list(found.lower_rates) == ["0.02", "0.01", "0.005"]
    for far, (threshold, low, high) in found.lower_rates.items():
        alone = calibrate(models / "pixels.keras", faces, far=float(far))
        assert threshold == alone.threshold
        assert (low, high) == pytest.approx(alone.threshold_interval)
    assert found.to_dict()["lower_rates"]["0.01"][0] > found.threshold


def test_a_file_that_mirrors_itself_is_calibrated_on_its_whole_output(models, faces):
    model = load_embedder(models / "pixels.keras")
    model.metadata.flip_built_in = True
    with pytest.raises(ValueError, match='flip must be "concat" for a file that embeds the mirror'):
        calibrate(model, faces, 0.02, flip="none")


def test_too_few_people(models, tmp_path, make_face, write_image):
    for person in range(5):
        for number in range(4):
            write_image(tmp_path / f"P{person}" / f"{number}.png", make_face(person, number))
    with pytest.raises(ValueError, match=r"20 people at least, one folder each. Received: 5"):
        calibrate(models / "pixels.keras", tmp_path, 0.1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=10, max_size=60), st.floats(0.02, 0.98))
def test_the_threshold_keeps_to_the_rate_and_no_lower_one_does(values, far):
    falling = -np.sort(-np.array(values) / 5.0)
    accepts = {t: float(np.mean(falling >= t)) for t in np.unique(falling)}
    allowed = [t for t, rate in accepts.items() if rate <= far * (1 + 1e-12)]
    if not allowed:
        with pytest.raises(ValueError, match="no threshold keeps to"):
            _threshold(falling, far)
        return
    threshold, measured = _threshold(falling, far)
    below = falling[falling < min(allowed)].max()
    assert below < threshold <= min(allowed)
    assert measured == np.mean(falling >= threshold) == accepts[min(allowed)]


def test_the_interval_covers_the_populations_threshold():
    """40 draws of 60 people each, from a population whose threshold is known."""
    rng, far, dim = np.random.default_rng(0), 0.02, 6

    def draw(people):
        """A few people's scores: a person's images share a direction, and so do some people."""
        centres = rng.normal(size=(people, dim)) + rng.choice([-1, 1], (people, 1)) * 0.7
        vectors = np.repeat(centres, 3, axis=0) + 0.5 * rng.normal(size=(3 * people, dim))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        left, right = np.triu_indices(len(unit), 1)
        other = left // 3 != right // 3
        scores = np.einsum("ij,ij->i", unit[left[other]], unit[right[other]])
        order = np.argsort(-scores)
        return scores[order], (left[other][order] // 3, right[other][order] // 3)

    truth = np.mean([_threshold(draw(300)[0], far)[0] for _ in range(10)])
    covered = 0
    for _ in range(40):
        falling, owners = draw(60)
        threshold, _ = _threshold(falling, far)
        none = np.zeros(0, bool), np.zeros(0, int)
        found = _bootstrap(falling, owners, *none, ((far,), threshold, 60), rng)
        low, high = _interval(found[0])
        covered += low <= truth <= high
    assert 34 <= covered <= 40  # 95 % is 38; a binomial with p = 0.95 is below 34 once in 70
