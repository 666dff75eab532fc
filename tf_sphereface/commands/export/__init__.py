"""`tf_sphereface-export`."""

from __future__ import annotations
