"""Verification while training: in stock `fit`, and what it keeps."""

from __future__ import annotations

import csv

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface as sf
from tests.embedder.small import KNOWN
from tf_sphereface.eval.bins import write_bin
from tf_sphereface.eval.scoring.score_pairs import embed_verification

SIZE = (28, 24)


@pytest.fixture(scope="module")
def pairs() -> sf.data.synthetic.VerificationSet:
    return sf.data.synthetic.verification_set(
        12, pairs_per_fold=12, folds=3, images_per_identity=4, first_identity=50, size=SIZE
    )


def stock(rate: float = 0.01) -> keras.Model:
    image = keras.Input((*SIZE, 3), name=KNOWN)
    embedding = keras.layers.Dense(8, name="embedding")(keras.layers.Flatten()(image))
    model = keras.Model(image, sf.layers.AngularDense(4)(embedding))
    optimizer = keras.optimizers.SGD(rate)
    model.compile(optimizer, sf.losses.ASoftmaxLoss(4, step=optimizer))
    return model


def callback(pairs, **options) -> sf.callbacks.Verification:
    return sf.callbacks.Verification(
        pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds, **options
    )


def dataset():
    faces = sf.data.synthetic.training_set(4, 8, size=SIZE)
    return sf.data.face_dataset(faces, image_size=SIZE, batch_size=16)


def test_a_network_is_traced_once_and_measured_anew_in_each_epoch(pairs, monkeypatch):
    made, found = [], []
    wrap = sf.callbacks.Verification._embedder_of
    monkeypatch.setattr(
        sf.callbacks.Verification,
        "_embedder_of",
        lambda self, network: made.append(wrap(self, network)) or made[-1],
    )
    image = keras.Input((*SIZE, 3), name=KNOWN)
    net = keras.Model(image, keras.layers.Dense(8)(keras.layers.Flatten()(image)))

    def measure(epoch, logs):
        table = embed_verification(
            net, pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds
        )
        found.append((table.headline.accuracy, table.headline.std_error))

    model = sf.FaceClassifier(net, 4)
    model.compile(keras.optimizers.SGD(0.01), sf.losses.CosFaceLoss())
    callbacks = [callback(pairs), keras.callbacks.LambdaCallback(on_epoch_end=measure)]
    history = model.fit(dataset(), epochs=3, callbacks=callbacks, verbose=0).history
    names = ("verification_accuracy", "verification_std_error")
    assert list(zip(*(history[name] for name in names), strict=True)) == found
    assert len(set(found)) > 1  # the weights moved
    assert len(made) == 1


def test_the_best_of_a_stock_run_is_kept_and_measures_what_was_logged(pairs, tmp_path):
    best = tmp_path / "best.keras"
    metadata = sf.embedder.EmbedderMetadata(channel_order="bgr")
    verification = callback(pairs, best=best, metadata=metadata)
    model = stock()
    history = model.fit(dataset(), epochs=3, callbacks=[verification], verbose=0).history
    figures = history["verification_accuracy"]
    assert verification.best_so_far == max(figures)
    assert len(history["verification_std_error"]) == 3
    again = embed_verification(
        sf.load_embedder(best), pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds
    )
    assert again.headline.accuracy == max(figures)
    assert keras.models.load_model(best, compile=False).output_shape == (None, 8)


def test_it_changes_nothing_of_the_training(pairs):
    weights = []
    for callbacks in ([], [callback(pairs)]):
        keras.utils.set_random_seed(7)
        model = stock()
        model.fit(dataset(), epochs=2, callbacks=callbacks, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_resumed_run_has_to_beat_its_best(pairs, tmp_path):
    best = tmp_path / "best.keras"
    verification = callback(pairs, best=best, best_so_far=1.0)
    stock().fit(dataset(), callbacks=[verification], verbose=0)
    assert verification.best_so_far == 1.0
    assert not best.exists()


def test_pairs_of_files(tmp_path):
    sf.data.synthetic.write_folder(tmp_path / "faces", 20, 3, size=SIZE)
    verification = sf.callbacks.Verification.from_files(tmp_path / "faces", input_size=SIZE)
    assert verification.images.shape[1:] == (*SIZE, 3)
    sf.data.synthetic.write_folder(tmp_path / "few", 6, 2, size=SIZE)
    few = sf.callbacks.Verification.from_files(tmp_path / "few", input_size=SIZE)
    assert set(few.pairs[-1].tolist()) == {1, 2, 3}  # folds of two people each
    with pytest.raises(FileNotFoundError, match="images must be a folder"):
        sf.callbacks.Verification.from_files(tmp_path / "nowhere")


def test_the_first_every_third_and_the_last_epoch_reach_the_csv_file(pairs, tmp_path):
    figures = ("accuracy", "auc", "eer", "genuine_angle", "tar_at_far_0.1", "tar_at_far_1e-06")
    rng = np.random.default_rng(0)  # 100 impostor pairs state a rate of 0.1
    left, right = rng.integers(0, len(pairs.images), (2, 200))
    alternating = np.arange(200) % 2
    verification = sf.callbacks.Verification(
        *(pairs.images, left, right, alternating, np.repeat([1, 2], 100)),
        every=3,
        figures=figures,
        best=tmp_path / "best.keras",
    )
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    model = stock()
    history = model.fit(dataset(), epochs=5, callbacks=[verification, log], verbose=0).history
    assert np.isnan(history["verification_accuracy"]).tolist() == [False, True, False, True, False]
    with open(tmp_path / "log.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for name in figures:
        logged = [float(row[f"verification_{name}"]) for row in rows]
        np.testing.assert_allclose(logged, history[f"verification_{name}"], rtol=1e-6)
    assert np.isnan(history["verification_tar_at_far_1e-06"]).all()
    assert 0 <= history["verification_tar_at_far_0.1"][-1] <= 1
    assert 0 < history["verification_genuine_angle"][2] < 90
    assert verification.best_so_far == np.nanmax(history["verification_accuracy"])


class StopAfter(keras.callbacks.Callback):
    """End the run after an epoch, as `EarlyStopping` does."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


def test_a_fit_that_goes_on_verifies_its_first_epoch_too(pairs):
    """Else Keras takes NaN for the best, which nothing beats."""
    options = {"epochs": 12, "initial_epoch": 8, "verbose": 0}
    model = stock()
    history = model.fit(dataset(), callbacks=[callback(pairs, every=3)], **options).history
    told = np.isfinite(history["verification_accuracy"]).tolist()
    assert told == [True, False, False, True]
    resumed = callback(pairs, every=3, best_so_far=0.99)  # a run that has a best
    history = model.fit(dataset(), callbacks=[resumed], **options).history
    assert np.isfinite(history["verification_accuracy"]).tolist() == [True, False, False, True]


@pytest.mark.parametrize("first", [True, False])
def test_the_last_epoch_of_a_run_that_is_ended_early_is_verified(pairs, tmp_path, first):
    best, log = tmp_path / "best.keras", keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    verification = callback(pairs, every=3, best=best)
    order = [StopAfter(2), verification] if first else [verification, StopAfter(2)]
    history = stock().fit(dataset(), epochs=9, callbacks=[*order, log], verbose=0).history
    figures = history["verification_accuracy"]
    assert np.isfinite(figures).all()
    assert verification.best_so_far == max(figures)
    again = embed_verification(
        sf.load_embedder(best), pairs.images, pairs.left, pairs.right, pairs.is_same, pairs.folds
    )
    assert again.headline.accuracy == max(figures)
    with open(tmp_path / "log.csv", newline="") as handle:
        rows = [float(row["verification_accuracy"]) for row in csv.DictReader(handle)]
    assert np.isnan(rows).tolist() == [False, not first]  # the row was written before it was known


def test_an_epoch_that_is_not_verified_is_never_the_best(pairs, tmp_path):
    """Keras takes the first value for the best, whatever it is, and nothing beats NaN."""
    name, kept = "verification_accuracy", str(tmp_path / "best.weights.h5")
    options = {"monitor": name, "mode": "max"}
    saving = keras.callbacks.ModelCheckpoint(
        kept, save_best_only=True, save_weights_only=True, **options
    )
    stopping = keras.callbacks.EarlyStopping(**options, patience=5)
    order = [callback(pairs, every=2), saving, stopping]
    history = stock().fit(dataset(), epochs=4, callbacks=order, verbose=0).history
    assert np.isnan(history[name]).tolist() == [False, False, True, False]
    assert saving.best == stopping.best == np.nanmax(history[name])


def test_tensorboard_gets_the_figures(pairs, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    verification = callback(pairs)
    history = stock().fit(dataset(), epochs=2, callbacks=[verification, board], verbose=0).history
    (folder,) = {path.parent for path in tmp_path.rglob("events.*")}
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    name = "epoch_verification_accuracy"
    assert name in events.Tags()["tensors"]
    found = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(name)]
    assert found == pytest.approx(history["verification_accuracy"])


def test_a_protocol_on_files_runs_inside_fit(tmp_path):
    sf.data.synthetic.write_folder(tmp_path / "faces", 12, 3, size=SIZE)

    def protocol(embedder):
        return sf.eval.folder.evaluate(embedder, tmp_path / "faces", folds=3)

    best = tmp_path / "best.keras"
    verification = sf.callbacks.Verification.from_protocol(protocol, best=best)
    history = stock().fit(dataset(), callbacks=[verification], verbose=0).history
    assert protocol(best).headline.accuracy == history["verification_accuracy"][0]


def test_wrong_arguments(pairs):
    with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
        callback(pairs, every=0)
    for name in ("f1", "tar_at_far_0.5", "tar_at_far_"):
        with pytest.raises(ValueError, match="`figures` must be of accuracy"):
            callback(pairs, figures=(name,))
    with pytest.raises(ValueError, match="`flip` must be set in the protocol"):
        sf.callbacks.Verification.from_protocol(lambda embedder: embedder, flip=False)


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("classifier", "verify, swap"),
        ("classifier", "swap, verify"),
        ("classifier", "verify"),
        ("stock", "verify, swap"),
        ("mixed_float16", "swap, verify"),
        ("overwritten", "swap, verify"),
        ("overwritten", "verify"),
    ],
)
def test_the_averages_are_verified_and_kept(pairs, tmp_path, order, kind):
    """Whichever way the callbacks stand: what `fit` leaves in the model is what was verified."""

    def train(*names):
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy("mixed_float16" if kind == "mixed_float16" else "float32")
        callbacks = [
            verify if name == "verify" else keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
            for name in names
        ]
        model = stock()
        often = 3 if kind == "overwritten" else None
        optimizer = keras.optimizers.SGD(
            0.3, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=often
        )
        if kind == "classifier":
            network = keras.Model(model.input, model.get_layer("embedding").output)
            model = sf.FaceClassifier(network, 4)
        # Overwriting is a branch of the graph; else a few eager steps cost less than to trace one.
        eager = kind != "overwritten"
        model.compile(optimizer, sf.losses.CosFaceLoss(8.0), run_eagerly=eager)
        return model, model.fit(dataset(), epochs=2, callbacks=callbacks, verbose=0).history

    verify = callback(pairs, best=tmp_path / "best.keras", figures=("accuracy", "genuine_angle"))
    # Each epoch is better than the one before: the last one's weights are kept.
    verify._verify_weights = _always_better(verify)
    model, history = train(*order.split(", "))
    plain, expected = train(*(["swap"] if "swap" in order else []))
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)  # nothing is disturbed
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    kept = keras.models.load_model(tmp_path / "best.keras", compile=False)
    final = model.backbone if kind == "classifier" else model
    for a, b in zip(kept.get_weights(), final.get_weights(), strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def _always_better(verify):
    verify_weights = verify._verify_weights

    def better(epoch, logs):
        verify.best_so_far = None
        verify_weights(epoch, logs)

    return better


# Sets in insightface's form ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(pairs, tmp_path_factory):
    """Two .bin sets of the pairs: the first 24, and all of them."""
    root = tmp_path_factory.mktemp("sets")
    order = np.stack([pairs.left, pairs.right], axis=1).ravel()
    images = [cv2.imencode(".png", pairs.images[i][..., ::-1])[1].tobytes() for i in order]
    write_bin(root / "lfw.bin", images[:48], pairs.is_same[:24])
    write_bin(root / "agedb_30.bin", images, pairs.is_same)
    return root


def test_bin_sets_are_columns_and_their_mean_chooses_the_best(sets, tmp_path):
    best = tmp_path / "best.keras"
    metadata = sf.embedder.EmbedderMetadata()
    verification = sf.callbacks.Verification(bins=sets, best=best, metadata=metadata, every=2)
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = stock().fit(dataset(), epochs=3, callbacks=[verification, log], verbose=0).history
    names = ("verification_lfw_accuracy", "verification_agedb_30_accuracy")
    means = np.mean([history[name] for name in names], axis=0)
    assert np.isnan(means).tolist() == [False, False, False]
    assert history["verification_accuracy"] == pytest.approx(means)
    errors = [history[n.replace("accuracy", "std_error")][1] for n in names]
    assert history["verification_std_error"][1] == pytest.approx(np.hypot(*errors) / 2)
    assert verification.best_so_far == np.nanmax(history["verification_accuracy"])
    again = sf.eval.bin_sets.evaluate_sets(best, sets)
    assert again.accuracy == pytest.approx(verification.best_so_far)
    card = sf.load_embedder(best).metadata.extra
    assert "accuracy on agedb_30" in str(card)
    with open(tmp_path / "log.csv", newline="") as handle:
        assert set(names) < set(next(csv.DictReader(handle)))


def test_a_subset_of_each_set(sets, tmp_path):
    verification = sf.callbacks.Verification(
        bins=[sets / "agedb_30.bin"], max_pairs=12, flip=False, figures=("accuracy", "auc")
    )
    history = stock().fit(dataset(), callbacks=[verification], verbose=0).history
    assert len(verification.bins["agedb_30"].is_same) == 12
    assert history["verification_auc"] == history["verification_agedb_30_auc"]


def test_sets_that_cannot_be_used_are_named_before_training(sets, tmp_path):
    (tmp_path / "cut.bin").write_bytes((sets / "lfw.bin").read_bytes()[:500])
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)^2 of 2 \.bin sets .*cut: .*empty: "):
        sf.callbacks.Verification(bins=tmp_path)
    whole = sf.eval.bins.read_bin(sets / "lfw.bin")
    whole.images[5] = b"nothing"
    verification = sf.callbacks.Verification(bins={"own": whole})
    model = stock()
    with pytest.raises(ValueError, match=r"(?s)1 of 1 .bin sets .* 5: cannot be decoded"):
        model.fit(dataset(), callbacks=[verification], verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_pairs_or_sets_and_not_both(pairs, sets):
    with pytest.raises(ValueError, match="or bins"):
        sf.callbacks.Verification()
    with pytest.raises(ValueError, match="`bins` must stand alone"):
        callback(pairs, bins=sets)
    with pytest.raises(ValueError, match="`max_pairs` must be of bins"):
        callback(pairs, max_pairs=3)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        sf.callbacks.Verification(bins="nowhere")
