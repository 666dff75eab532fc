"""`tf_sphereface-align`."""

from __future__ import annotations
