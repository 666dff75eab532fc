"""Heads of the classifier: class centres on the unit sphere."""

from __future__ import annotations

from tf_sphereface.layers.angular_dense import AngularDense
from tf_sphereface.layers.sampled_angular_dense import SampledAngularDense

__all__ = ["AngularDense", "SampledAngularDense"]
