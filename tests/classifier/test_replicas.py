"""What a classifier under a strategy refuses."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from tf_sphereface import FaceClassifier
from tf_sphereface.losses import CosFaceLoss


def network() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def test_a_network_made_outside_of_the_scope_is_refused():
    outside = network()
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        with pytest.raises(ValueError, match=r"made outside of strategy\.scope"):
            FaceClassifier(outside, 4)
        FaceClassifier(network(), 4).compile("sgd", CosFaceLoss(reduction="sum"))


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_a_loss_that_is_no_mean_is_refused_over_several_replicas(monkeypatch, reduction):
    monkeypatch.setattr("tf_sphereface.classifier.replicas.replica_count", lambda: 2)
    model = FaceClassifier(network(), 4)
    with pytest.raises(ValueError, match=f"Received: reduction='{reduction}'"):
        model.compile("sgd", CosFaceLoss(reduction=reduction))
    model.compile("sgd", CosFaceLoss(reduction="mean"))
