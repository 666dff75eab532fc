"""Device and XLA choose the stand-ins of a training step."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tf_sphereface.backbones import MobileFaceNet
from tf_sphereface.classifier import fast_layers


@pytest.mark.parametrize(("gpus", "xla"), [(0, False), (0, True), (1, False), (1, True)])
def test_device_and_xla_choose_the_layers_and_the_log_names_them(gpus, xla, monkeypatch, caplog):
    """On a GPU no 1x1 convolution is a product, and with XLA no PReLU is a function of its own."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [None] * gpus)
    backbone = MobileFaceNet(input_shape=(32, 32, 3), embedding_dim=16)
    with caplog.at_level("INFO", "tf_sphereface"):
        used = fast_layers.training_call(backbone, xla=xla).__self__
    kinds = {type(layer) for layer in used.layers}
    assert (fast_layers.PointwiseConvolution in kinds) == (not gpus and not xla)
    (prelu, *_) = (layer for layer in used.layers if isinstance(layer, fast_layers.PReLU))
    assert prelu.target == ("GPU" if gpus else "CPU", xla)
    assert "33 PReLU" in caplog.text
    kind = "SmallNormalization" if gpus and not xla else "BatchNormalization"
    assert f"50 {kind}" in caplog.text
