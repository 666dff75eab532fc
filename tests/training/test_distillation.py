"""Runs that learn from a teacher's embeddings."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tests.embedder.small import FED, make_network, write_onnx
from tests.training.stopping import StopAfter
from tf_sphereface import data, losses, training
from tf_sphereface.classifier.student import StudentClassifier
from tf_sphereface.data import FaceSource, SyntheticFaces, sources
from tf_sphereface.data.batches import make_dataset
from tf_sphereface.data.options import BatchOptions

pytestmark = pytest.mark.usefixtures("small_backbone")

SIZE = (28, 24)
RECIPE = dataclasses.replace(
    training.preset("distill"),
    epochs=2,
    batch_size=8,
    input_size=SIZE,
    embedding_dim=6,
    precision="float32",
    distill_weight=0.5,
)


REST = {name: value for name, value in FED.items() if name != "channel_order"}


def teacher() -> sf.embedder.Embedder:
    return sf.load_embedder(make_network(size=SIZE), **FED)


def source(**options) -> FaceSource:
    return FaceSource(SyntheticFaces(4, 6), image_size=SIZE, **options)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def marks(count: int) -> np.ndarray:
    """Targets that tell which image they are of, and which side."""
    return np.stack([np.arange(count), 1000 + np.arange(count)])[..., None].astype(np.float16)


@pytest.mark.parametrize("form", ["arrays", "memory", "streamed", "pack", "rec"])
@pytest.mark.parametrize(
    ("augment", "dtype"), [("none", "uint8"), ("mirror", "uint8"), ("strong", "float32")]
)
def test_a_target_goes_with_its_image_and_with_the_mirror_image(tmp_path, form, augment, dtype):
    faces = data.synthetic.training_set(3, 4, size=SIZE)
    if form != "arrays":
        people = data.synthetic.write_folder(tmp_path / "faces", 3, 4, size=SIZE)
        given = people
        if form == "pack":
            data.pack_folder(people, given := tmp_path / "pack")
        elif form == "rec":
            data.write_rec(people, given := tmp_path / "train.rec")
        cache = "none" if form == "streamed" else "memory"
        faces = FaceSource(given, image_size=SIZE, cache=cache)
    else:
        faces = FaceSource(faces, image_size=SIZE)
    faces = faces.with_batches(batch_size=5, augment=augment, seed=3, dtype=dtype)
    originals = np.concatenate([np.asarray(x) for x, _ in faces.in_order("uint8")]).astype(int)
    sides = set()
    stream = faces.with_targets(marks(12)).stream(step=1)
    for images, (labels, targets) in stream.take(4):
        assert targets.dtype == tf.float32
        for image, label, target in zip(
            np.asarray(images),
            np.asarray(labels),
            np.asarray(targets)[:, 0].astype(int),
            strict=True,
        ):
            side, number = divmod(int(target), 1000)
            assert label == faces.labels[number]
            sides.add(side)
            if augment != "strong":
                right = originals[number][:, ::-1] if side else originals[number]
                np.testing.assert_array_equal(image, right)
            else:  # moved, relit and erased: the right side still is the nearer one
                both = (originals[number], originals[number][:, ::-1])
                near = [np.corrcoef(image.ravel(), each.ravel())[0, 1] for each in both]
                sides.add(("strong", near[side] > near[1 - side]))
    assert sides >= ({0} if augment == "none" else {0, 1})
    assert augment != "none" or sides == {0}


def test_workers_get_the_targets_of_their_own_images():
    images, labels = data.synthetic.training_set(4, 6, size=SIZE)
    opened = dataclasses.replace(
        sources.open_source((images, labels), SIZE, "none"),
        targets=sources.fetch_targets(marks(24)),
    )
    parts = []
    for index, count in ((0, 1), (0, 2), (1, 2)):
        options = BatchOptions(
            image_size=SIZE, batch_size=8, shard_index=index, num_shards=count, start_step=1
        )
        parts.append(np.asarray(next(iter(make_dataset(opened, options)))[1][1]))
    np.testing.assert_array_equal(parts[0], np.concatenate(parts[1:]))
    assert len(np.unique(parts[0] // 1000)) == 2


def same(one, other) -> None:
    for a, b in zip(one.model.variables, other.model.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            **{"sample_rate": 0.5, "batch_size": 2, "epochs": 1},
            **{"precision": "mixed_float16", "class_weights": "balanced"},
        },
    ],
)
def test_a_run_that_was_cut_off_ends_to_the_bit_as_one_that_was_not(tmp_path, options):
    recipe = dataclasses.replace(RECIPE, **options)
    drawn = SyntheticFaces(4, 2) if options else SyntheticFaces(8, 3)  # 4 updates, or 2 x 3
    faces = dataclasses.replace(source(), source=drawn)
    whole = training.distill(teacher(), faces, tmp_path / "whole", recipe)
    assert [row["epoch"] for row in whole.log.rows] == list(range(1, recipe.epochs + 1))
    broken = tmp_path / "broken"
    with pytest.raises(InterruptedError):
        training.distill(
            teacher(), faces, broken, recipe, callbacks=[StopAfter(2)], checkpoint_every=1
        )
    resumed = training.distill(None, faces, broken, recipe, resume=True)
    assert resumed.step == 1
    same(whole, resumed)
    for a, b in zip(whole.log.rows, resumed.log.rows, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    name = "sampled_accuracy" if "sample_rate" in options else "accuracy"
    assert np.isfinite(whole.log.rows[-1][name])
    stored = json.loads((broken / "config.json").read_text())["recipe"]
    assert (stored["distill_weight"], stored["teacher"]) == (0.5, resumed.teacher.sha256)
    assert whole.network().output_shape == (None, 6)  # without the projection
    another = sf.load_embedder(make_network(size=SIZE, name="image"), channel_order="bgr", **REST)
    with pytest.raises(ValueError, match="teacher was"):
        training.distill(another, faces, broken, recipe, resume=True)


def test_a_resumed_run_from_a_model_takes_the_recipe_that_it_began_with(tmp_path):
    network = sf.load_embedder(make_network(size=SIZE), **FED)
    faces = dataclasses.replace(source(), source=SyntheticFaces(4, 16))  # a batch of the preset's
    options = {"callbacks": [StopAfter(2)], "checkpoint_every": 1}
    with pytest.raises(InterruptedError):
        training.distill(teacher(), faces, tmp_path / "run", model=network, **options)
    resumed = training.distill(None, faces, tmp_path / "run", resume=True)
    assert (resumed.recipe.distill_weight, resumed.step) == (0.5, 1)
    assert resumed.log.rows[-1]["epoch"] == training.preset("fine-tune").epochs


def test_the_teacher_alone_learns_the_same_from_any_labels_and_from_none(tmp_path):
    recipe = dataclasses.replace(RECIPE, distill_weight=1.0, epochs=1)
    images, labels = data.synthetic.training_set(4, 6, size=SIZE)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(flat / f"{number:02d}.png"), image[..., ::-1])
    right = training.distill(teacher(), source(), tmp_path / "right", recipe)
    mixed = FaceSource((images, labels[::-1].copy()), image_size=SIZE)
    wrong = training.distill(teacher(), mixed, tmp_path / "wrong", recipe)
    bare = FaceSource(tmp_path / "flat", image_size=SIZE, unlabelled=True)
    none = training.distill(teacher(), bare, tmp_path / "none", recipe)
    for other in (wrong, none):
        for a, b in zip(right.model.backbone.weights, other.model.backbone.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isnan(none.log.rows[0]["accuracy"])
    assert np.isnan(right.log.rows[0]["accuracy"])  # a projection: nothing trains the head
    with pytest.raises(ValueError, match="one folder per identity"):
        training.distill(
            teacher(), FaceSource(tmp_path / "flat", image_size=SIZE), tmp_path / "x", RECIPE
        )
    same_dim = dataclasses.replace(recipe, embedding_dim=10)
    run = training.distill(teacher(), source(), tmp_path / "same", same_dim)
    assert run.model.projection is None
    assert np.isfinite(run.log.rows[0]["accuracy"])  # by the teacher's means as centres


def test_a_teacher_is_fed_as_its_file_says_at_its_own_size(tmp_path):
    metadata = sf.embedder.EmbedderMetadata(channel_order="bgr", pixel_mean=0.0, pixel_scale=255.0)
    path, size = tmp_path / "teacher.keras", (56, 48)
    sf.embedder.save_embedder(make_network(size=size, name="image"), path, metadata)
    opened = training.open_teacher(path)
    people = data.synthetic.write_folder(tmp_path / "faces", 2, 2, size=(112, 96))
    faces = FaceSource(people, image_size=SIZE, resize=True, batch_size=3, channel_order="bgr")
    kept = training.teacher_embeddings(opened, faces, tmp_path / "kept")
    images, _, _ = data.load_folder(people, image_size=size, resize=True)
    for side, pictures in enumerate((images, np.ascontiguousarray(images[:, :, ::-1]))):
        right = unit(opened.embedder(pictures))
        np.testing.assert_allclose(kept.table[side].astype("float32"), right, atol=1e-3)
    assert kept.table.dtype == np.float16


def test_an_onnx_file_of_another_shape_is_refused_with_both_sizes(tmp_path):
    write_onnx(tmp_path / "teacher.onnx")  # 16x12
    opened = training.open_teacher(sf.load_embedder(tmp_path / "teacher.onnx", **FED))
    with pytest.raises(ValueError, match="takes faces of 16x12, and the data are faces of 28x24"):
        training.teacher_embeddings(opened, source(), tmp_path / "kept")
    square = FaceSource(SyntheticFaces(2, 2), image_size=(32, 24), batch_size=2)
    kept = training.teacher_embeddings(opened, square, tmp_path / "kept")
    images, _ = data.synthetic.training_set(2, 2, size=(16, 12))
    np.testing.assert_allclose(kept.table[0], unit(opened.embedder(images)), atol=1e-3)


class Counting:
    """A progress callback that counts, and stops the work once."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls, self.stop_at = [], stop_at

    def __call__(self, done: int, total: int) -> None:
        self.calls.append(done)
        if done == self.stop_at:
            raise InterruptedError


def test_embeddings_are_computed_once_go_on_after_a_cut_and_know_other_faces(tmp_path):
    people = data.synthetic.write_folder(tmp_path / "faces", 4, 10, size=SIZE)
    opened, folder = training.open_teacher(make_teacher(tmp_path)), tmp_path / "kept"

    def compute(progress, size=SIZE, warn=pytest.fail):
        faces = FaceSource(people, image_size=size, batch_size=2, resize=True)
        return training.teacher_embeddings(opened, faces, folder, progress=progress, warn=warn)

    with pytest.raises(InterruptedError):
        compute(Counting(stop_at=22))
    rest, again = Counting(), Counting()
    first = compute(rest)
    assert rest.calls[0] == 18  # a block is 16 faces
    np.testing.assert_array_equal(compute(again).table, first.table)
    compute(again, size=(14, 12))  # the teacher sees the same pixels, whatever the student does
    assert not again.calls
    whole = training.teacher_embeddings(
        opened, FaceSource(people, image_size=SIZE, batch_size=2), tmp_path / "whole"
    )
    np.testing.assert_array_equal(whole.table, first.table)
    victim = next(people.rglob("*.*g"))
    cv2.imwrite(str(victim), cv2.imread(str(victim))[::-1])
    os.utime(victim, (1, 1))
    said = []
    changed = compute(Counting(), warn=said.append)
    assert "of other faces" in said[0]
    assert not np.array_equal(changed.table, first.table)
    with changed.path.open("r+b") as handle:
        handle.seek(-2, 2)
        handle.write(b"xx")
    with pytest.raises(ValueError, match="damaged: its checksum differs"):
        compute(Counting())


def make_teacher(folder):
    path = folder / "teacher.keras"
    sf.embedder.save_embedder(make_network(size=SIZE), path)
    return path


def test_one_teacher_keeps_a_network_from_forgetting(tmp_path):
    path = make_teacher(tmp_path)
    recipe = dataclasses.replace(
        training.preset("fine-tune"), epochs=1, batch_size=8, freeze_epochs=0, distill_weight=1.0
    )
    run = training.distill(path, source(), tmp_path / "run", recipe, model=path)
    assert run.model.projection is None
    assert run.log.rows[0]["teacher_cosine"] > 0.99  # it starts as its own teacher
    assert np.isfinite(run.log.rows[0]["accuracy"])
    with pytest.raises(ValueError, match="lies in the run folder"):
        training.open_teacher(tmp_path / "run" / "base.keras", tmp_path / "run")


def test_a_teacher_whose_embeddings_are_not_finite_is_refused_by_face(tmp_path):
    network = make_network(size=SIZE)
    network.layers[-1].kernel.assign(np.full(network.layers[-1].kernel.shape, np.nan))
    bad = sf.load_embedder(network, **FED)
    with pytest.raises(ValueError, match=r"not finite, or zero, for 24 faces \(synthetic person 0"):
        training.distill(bad, source(), tmp_path / "run", RECIPE)
    with pytest.raises(ValueError, match="distill_weight above 0"):
        training.distill(
            teacher(), source(), tmp_path / "x", dataclasses.replace(RECIPE, distill_weight=0.0)
        )
    with pytest.raises(ValueError, match="`distill_weight` must be a number from 0"):
        dataclasses.replace(RECIPE, distill_weight=1.01)


@pytest.mark.parametrize("jit", [False, True])
def test_replicas_and_xla_take_the_steps_of_one_device(tmp_path, two_replicas, jit):
    table = np.random.default_rng(1).normal(size=(2, 24, 5)).astype("float16")
    faces = source().with_batches(batch_size=8, augment="mirror", seed=0, dtype="uint8")
    faces = faces.with_targets(table)

    def trained(strategy, jit):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = StudentClassifier(make_network(size=SIZE), 4, teacher_dim=5, distill_weight=0.4)
            model.compile(
                keras.optimizers.SGD(0.1),
                loss=losses.CosFaceLoss(30.0, 0.2),
                metrics=["accuracy"],
                jit_compile=jit,
            )
        for layer in model.backbone.layers:
            if isinstance(layer, keras.layers.PReLU):  # no kink for rounding to cross
                layer.alpha.assign(np.ones(layer.alpha.shape))
                layer.trainable = False
        history = training.train(model, faces, epochs=1, steps_per_epoch=3)
        return model, history

    one, expected = trained(tf.distribute.get_strategy(), False)
    two, history = trained(two_replicas, jit)
    for name in ("loss", "teacher_cosine", "accuracy"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4)
    for a, b in zip(one.trainable_variables, two.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_labels_of_a_distilled_run_are_audited(tmp_path):
    people = data.synthetic.write_folder(tmp_path / "faces", 3, 6, size=SIZE)
    faces = FaceSource(people, image_size=SIZE)
    for weight in (0.5, 1.0):
        recipe = dataclasses.replace(RECIPE, distill_weight=weight, epochs=1)
        training.distill(teacher(), faces, tmp_path / f"run{weight}", recipe)
    assert training.audit_labels(tmp_path / "run0.5").source.num_classes == 3
    with pytest.raises(ValueError, match="learnt from a teacher alone"):
        training.audit_labels(tmp_path / "run1.0")


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_tflite_file_teaches_what_its_network_does(tmp_path, quantize):
    network, path = make_network(size=SIZE), tmp_path / "teacher.tflite"
    options = {} if quantize is None else {"quantize": quantize}
    if quantize is not None:
        options["calibration"] = data.synthetic.training_set(4, 4, size=SIZE)[0]
    sf.export.export_tflite(network, path, **options)
    faces, kept = source().load(), tmp_path / "kept"
    tables = [
        training.teacher_embeddings(training.open_teacher(each), faces, kept).table.astype(float)
        for each in (teacher(), path)
    ]
    cosines = (tables[0] * tables[1]).sum(axis=-1)
    assert cosines.mean() > (0.999 if quantize is None else 0.99)
    assert len(list(kept.glob("*.npy"))) == 2
    recipe = dataclasses.replace(RECIPE, epochs=1)
    finished = training.distill(path, source(), tmp_path / "run", recipe)
    assert -1 <= finished.log.rows[-1]["teacher_cosine"] <= 1


def test_of_several_workers_one_computes_and_the_others_wait(tmp_path, monkeypatch):
    module = importlib.import_module("tf_sphereface.training.teacher_embeddings")
    faces, opened = source().load(), training.open_teacher(teacher())
    pauses = []

    def chief_works(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            training.teacher_embeddings(opened, faces, tmp_path)

    monkeypatch.setattr(module.time, "sleep", chief_works)
    found = training.teacher_embeddings(opened, faces, tmp_path, chief=False)
    assert len(pauses) == 3
    assert found.table.shape == (2, len(faces), 10)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with pytest.raises(TimeoutError, match=r"no disk that all workers share \(--cache DIR\)"):
        training.teacher_embeddings(opened, faces, tmp_path / "other", chief=False)
    path = next(tmp_path.glob("*.json"))  # killed between the file's rename and its checksum
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": None}))
    again = training.teacher_embeddings(opened, faces, tmp_path)
    np.testing.assert_array_equal(again.table, found.table)
