"""`tf_sphereface-eval`."""

from __future__ import annotations
